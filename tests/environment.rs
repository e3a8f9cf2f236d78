//! What a start needs of its pod, and the messages for what is missing: variables, the claims of the token, mounted files
//! (behaviour 1.4, 4.1). What happens to the files later belongs to configuration.rs and service_account.rs.

use stand_ins::{Authority, OTHER_POD_UID, POD_UID, SOON, Scene, bound_token, side_by_side};

use crate::steps::unprivileged;

#[test]
fn missing_surroundings_are_named_with_the_yaml_that_gives_them() {
    let scene = Scene::new();
    for (variable, told) in [
        (
            "POD_NAME",
            "env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: POD_NAMESPACE, ",
        ),
        ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set"),
        ("KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set"),
    ] {
        let sidecar = scene.sidecar().without_env(variable).start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
        assert!(sidecar.stderr().contains(told), "{variable}: {}", sidecar.stderr());
    }
    for (file, told) in [("token", "token: must be readable"), ("ca.crt", "ca.crt: must be readable")] {
        let scene = Scene::new();
        scene.pod.account.remove(file);
        let sidecar = scene.sidecar().start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
        assert!(sidecar.stderr().contains(told), "{}", sidecar.stderr());
        assert!(sidecar.stderr().contains("name: okg-sidecar-token, projected:"), "{}", sidecar.stderr());
    }
}

#[test]
fn a_process_without_the_uid_of_its_pod_says_so_once() {
    for (has_uid, warnings) in [(true, 0), (false, 1)] {
        let scene = Scene::new();
        let sidecar = if has_uid { scene.sidecar() } else { scene.sidecar().without_env("POD_UID") }.start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        assert_eq!(sidecar.count_lines("WARN  the pod's uid is not known"), warnings, "{}", sidecar.stderr());
    }
}

#[test]
fn the_namespace_falls_back_to_the_volumes_file() {
    let scene = Scene::new();
    let sidecar = scene.sidecar().without_env("POD_NAMESPACE").start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    drop(sidecar);
    scene.pod.account.remove("namespace");
    let sidecar = scene.sidecar().without_env("POD_NAMESPACE").start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
    assert!(sidecar.stderr().contains("POD_NAMESPACE must be set"), "{}", sidecar.stderr());
}

#[test]
fn the_mounted_token_says_whose_game_server_it_is() {
    let token = bound_token("games", "gs-0", POD_UID);
    // Nothing at all, and the seed's manifest, which has no uid.
    for without in [&["POD_UID", "POD_NAME", "POD_NAMESPACE"][..], &["POD_UID"]] {
        let scene = Scene::new();
        scene.pod.rotate_token(&token);
        scene.pod.account.remove("namespace");
        scene.api.accept_token(&token);
        let start = || without.iter().fold(scene.sidecar(), |sidecar, name| sidecar.without_env(name)).start();
        scene.give_to_pod(OTHER_POD_UID);
        let sidecar = start();
        sidecar.eventually(SOON, "a look", || scene.reads() > 0);
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.writes().len(), 0, "{without:?}: {}", sidecar.stderr());
        scene.recreate(POD_UID);
        sidecar.eventually(SOON, "a record", || scene.record()["pod"] == POD_UID);
        assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
        assert_eq!(sidecar.count_lines(&token), 0);
    }
}

#[test]
fn a_variable_that_contradicts_the_token_is_warned_of() {
    let token = bound_token("games", "gs-0", POD_UID);
    for (name, value) in [("POD_NAME", "gs-1"), ("POD_NAMESPACE", "elsewhere"), ("POD_UID", OTHER_POD_UID)] {
        let scene = Scene::new();
        scene.pod.rotate_token(&token);
        scene.api.accept_token(&token);
        let sidecar = scene.sidecar().env(name, value).start();
        sidecar.eventually(SOON, "a probe", || !scene.game.requests().is_empty());
        // The line was written before the probe, and may be read after it.
        let told =
            || sidecar.lines().iter().filter(|line| line.text.contains("WARN") && line.text.contains(name)).count();
        sidecar.eventually(SOON, "the warning", || told() > 0);
        assert_eq!(told(), 1, "{name}: {}", sidecar.stderr());
    }
}

#[test]
fn a_start_without_an_account_that_can_be_used_ends_with_its_name() {
    let truncated = Authority::new("cluster").pem()[..300].to_owned();
    let cases = [
        ("token", None, "must be readable: No such file"),
        ("token", Some(""), "must hold a token"),
        ("token", Some("\n \n"), "must hold a token"),
        ("token", Some("one two"), "must hold a token"),
        ("token", Some("unreadable"), "must be readable: Permission denied"),
        ("ca.crt", None, "must be readable: No such file"),
        ("ca.crt", Some(""), "must hold a certificate"),
        ("ca.crt", Some("garbage"), "must hold a certificate"),
        ("ca.crt", Some(truncated.as_str()), "must hold certificates in PEM"),
        ("ca.crt", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "must hold a certificate"),
        ("ca.crt", Some("unreadable"), "must be readable: Permission denied"),
    ];
    side_by_side(&cases, |(file, text, told)| {
        let scene = Scene::new();
        match text {
            None => scene.pod.account.remove(file),
            Some("unreadable") => scene.pod.account.set_mode(file, 0),
            Some(text) => scene.pod.account.update(file, text),
        }
        let sidecar = unprivileged(scene.sidecar()).start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{file} {text:?}");
        let stderr = sidecar.stderr();
        let path = scene.pod.account_path().join(file);
        assert!(stderr.contains(&format!("{}: {told}", path.display())), "{file} {text:?}: {stderr}");
        for named in ["serviceAccountName: okg-sidecar", "{name: okg-sidecar-token, projected: ", "fsGroup"] {
            assert!(stderr.contains(named), "{file} {text:?}: {stderr}");
        }
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(scene.game.requests().is_empty());
    });
}

#[test]
fn a_start_tells_everything_that_is_missing_at_once() {
    let scene = Scene::new();
    scene.pod.account.clear();
    scene.pod.update_config(&scene.rooms("timeOut: 1, failureThreshold: 0"));
    let sidecar = scene.sidecar().without_env("POD_NAME").without_env("KUBERNETES_SERVICE_HOST").start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
    let stderr = sidecar.stderr();
    for named in [
        "/token: must ",
        "/ca.crt: must ",
        "POD_NAME must",
        "KUBERNETES_SERVICE_HOST",
        ".timeOut: unknown key timeOut; did you mean timeout?",
        ".failureThreshold: must ",
    ] {
        assert!(stderr.contains(named), "{named}: {stderr}");
    }
    // Token and CA have one remedy.
    assert_eq!(stderr.lines().count(), 5, "{stderr}");
}
