//! The main job from outside: the real binary between a game and a TLS API server (behaviour 1 to 5).

mod support;

use std::time::Duration;

use serde_json::json;
use support::scene::{self, config, config_of, endpoint};
use support::{
    Behaviour, Game, Loopback, POD_UID, RECORD, Request, SOON, Scene, ServerCertificate, SidecarProcess, Signal, TOKEN,
};

#[test]
fn the_seeds_own_text_tells_the_tank_war_story_with_one_write_a_state() {
    let scene = Scene::new();
    // The game's port and the times are the only things that differ.
    let text = config_of("tests/fixtures/seed-configmap.yaml")
        .unwrap()
        .replace("http://localhost:8080", &scene.game.url(""))
        .replace("startDelaySeconds: 10", "startDelaySeconds: 1")
        .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();

    for (index, state) in ["None", "Allocated", "WaitToBeDeleted"].into_iter().enumerate() {
        scene.game.set(200, state);
        let probes = scene.game.requests().len();
        sidecar.eventually(SOON, "three probes of one state", || scene.game.requests().len() >= probes + 3);
        assert_eq!(scene.ops_state(), state);
        assert_eq!(scene.patched().len(), index + 1, "{:?}", scene.patched());
    }
    let lines = [
        "opsState unknown -> None (endpoints[0] http://",
        "opsState None -> Allocated (endpoints[0] http://",
        "opsState Allocated -> WaitToBeDeleted (endpoints[0] http://",
    ];
    for line in lines {
        assert_eq!(sidecar.count_lines(line), 1, "{}", sidecar.stderr());
    }
    // The start, and the warning that the seed's timeout is longer than the interval, come before them.
    assert_eq!(sidecar.stderr().lines().count(), 2 + lines.len(), "{}", sidecar.stderr());
    sidecar.eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
    assert_eq!(scene.api.connections_accepted(), 3);
}

#[test]
fn the_patch_is_what_the_spec_says_to_the_byte() {
    let scene = Scene::new();
    let read_version = scene.api.text(&scene.path(), "/metadata/resourceVersion").unwrap();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let requests = scene.api.requests();
    let [read, patch] = requests.as_slice() else { panic!("{requests:?}") };
    for request in [read, patch] {
        assert_eq!(
            request.line(),
            "PATCH /apis/game.kruise.io/v1alpha1/namespaces/games/gameservers/gs-0\
             ?fieldManager=okg-sidecar&fieldValidation=Strict&timeout=10s"
        );
        assert_eq!(request.header("content-type"), Some("application/merge-patch+json"));
        assert_eq!(request.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
        let accept = request.header("accept").unwrap();
        assert!(accept.starts_with("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), "{accept}");
    }
    assert_eq!(read.body, "{}");
    let mut sent = patch.json();
    let record = sent["metadata"]["annotations"][RECORD].take();
    assert_eq!(
        sent,
        json!({"metadata": {"resourceVersion": read_version, "annotations": {RECORD: null}}, "spec": {"opsState": "None"}})
    );
    let record = record.as_str().unwrap();
    let (before, at) = record.split_once(r#""at":""#).unwrap();
    assert_eq!(before, format!(r#"{{"opsState":"None","pod":"{POD_UID}","#));
    // RFC 3339 with milliseconds, in UTC.
    let shape: String = at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z\"}");
    assert_eq!(scene.api.requests_per_connection(), [2]);
    support::eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
}

#[test]
fn a_probe_is_a_fresh_connection_with_the_headers_of_the_spec() {
    let scene = Scene::new();
    scene.pod.update_config(&config(&[endpoint(
        &scene.game.url("/state?room=1"),
        "method: post, headers: {Host: tank.war, X-Key: 007}",
        "markerPolices: [{state: None, gameServerOpsState: None}]",
    )]));
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "two probes", || scene.game.requests().len() >= 2);
    let requests = scene.game.requests();
    assert_eq!(scene.game.connections(), requests.len());
    let probe = &requests[0];
    assert_eq!(probe.line(), "POST /state?room=1");
    let version = concat!("okg-sidecar/", env!("CARGO_PKG_VERSION"));
    let mut headers: Vec<(&str, &str)> =
        probe.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", "*/*"),
            ("connection", "close"),
            ("content-length", "0"),
            ("host", "tank.war"),
            ("user-agent", version),
            ("x-key", "007")
        ]
    );
}

#[test]
fn rounds_keep_their_rate_from_the_first_after_the_delay() {
    let scene = Scene::new();
    let text =
        scene.rooms("").replace("probeIntervalSeconds: 1", "startDelaySeconds: 2\n      probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    scene.game.behave(Behaviour::After(Duration::from_millis(300), Box::new(Behaviour::answer(200, "None"))));
    let started = std::time::Instant::now();
    let sidecar = scene.sidecar().start();
    // Four pauses of the interval and four answers would take 5.2 s. A busy machine is late now and then, or drops a
    // round; what does not keep the rate is late each time.
    let four_rounds_in_time = |probes: &[Request]| probes[4].at - probes[0].at < Duration::from_millis(4600);
    sidecar.eventually(SOON, "five probes at the rate", || scene.game.requests().windows(5).any(four_rounds_in_time));
    for (index, probe) in scene.game.requests().iter().enumerate() {
        let at = probe.at - started;
        assert!(at >= Duration::from_secs(2 + index as u64), "probe {index} after {at:?}");
    }
}

#[test]
fn results_are_trimmed_and_unknown_ones_change_nothing_and_are_told_once() {
    let scene = Scene::new();
    scene.game.set(200, " \r\n\tAllocated\n\n");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    for unknown in ["allocated", "", "Allocated x", "\u{a0}None"] {
        scene.game.set(200, unknown);
        let probes = scene.game.requests().len();
        sidecar.eventually(SOON, "a probe", || scene.game.requests().len() >= probes + 2);
    }
    assert_eq!(scene.patched(), ["Allocated"]);
    assert_eq!(sidecar.count_lines("no policy knows the result"), 1, "{}", sidecar.stderr());
    scene.game.set(200, "None");
    sidecar.wait_for_line("opsState Allocated -> None", SOON);
    scene.game.set(200, "x\u{1b}[31m\nINFO forged");
    sidecar.wait_for_line("no policy knows the result `x\\u{1b}[31m\\nINFO forged`", SOON);
    assert_eq!(sidecar.count_lines("no policy knows the result"), 2);
}

#[test]
fn failures_write_nothing_and_are_told_when_they_start_and_end() {
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    for (behaviour, told) in [
        (Behaviour::answer(500, "Allocated"), "probe failed: status 500, expected 200"),
        (Behaviour::answer_with(302, &[("Location", "/")], "Allocated"), "status 302, expected 200"),
        (Behaviour::answer(200, b"\xff\xfeAllocated"), "the body is not UTF-8"),
        (Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "no response: "),
        (Behaviour::HoldWithoutAnswer, "timeout"),
    ] {
        scene.game.behave(behaviour);
        sidecar.wait_for_line(told, SOON);
        scene.game.set(200, "None");
        let ended = sidecar.count_lines("answers again after");
        sidecar.eventually(SOON, "an end of the failure", || sidecar.count_lines("answers again after") > ended);
    }
    assert_eq!(scene.patched(), ["None"]);
}

#[test]
fn a_game_that_comes_up_late_is_found() {
    let scene = Scene::new();
    scene.game.stop();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Connection refused", SOON);
    assert!(scene.patched().is_empty());
    scene.game.start_again();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

#[test]
fn localhost_is_found_on_either_address_or_both() {
    for loopback in [Loopback::V4, Loopback::V6, Loopback::Both] {
        let scene = Scene::with_game(Game::builder().on(loopback).start());
        let url = format!("http://localhost:{}", scene.game.address().port());
        let policies = "markerPolices: [{state: None, gameServerOpsState: None}]";
        scene.pod.update_config(&config(&[endpoint(&url, "timeout: 3", policies)]));
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
    }
}

#[test]
fn an_https_game_is_probed_without_verifying_its_certificate() {
    let scene = Scene::with_game(Game::builder().tls(&ServerCertificate::self_signed(&["elsewhere"])).start());
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

#[test]
fn a_game_with_one_thread_is_never_held() {
    let scene = Scene::with_game(Game::builder().one_at_a_time().start());
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "three probes", || scene.game.requests().len() >= 3);
    scene_is_quiet(&scene);
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
}

fn scene_is_quiet(scene: &Scene) {
    support::eventually(SOON, "no connection left open", || scene.game.open_connections() == 0);
}

#[test]
fn a_failing_health_endpoint_overrules_the_room_and_gives_way() {
    let scene = Scene::new();
    let health = Game::start();
    health.set(200, "ok");
    let healthy = endpoint(
        &health.url("/healthz"),
        "timeout: 1, failureThreshold: 2",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
    );
    let room = scene.endpoint("timeout: 1", "markerPolices: [{state: Allocated, gameServerOpsState: Allocated}]");
    scene.pod.update_config(&config(&[healthy, room]));
    scene.game.set(200, "Allocated");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated (endpoints[1]", SOON);
    health.set(503, "");
    sidecar.wait_for_line("opsState Allocated -> Maintaining (endpoints[0]", SOON);
    health.set(200, "ok");
    sidecar.wait_for_line("opsState Maintaining -> Allocated (endpoints[1]", SOON);
    assert_eq!(scene.patched(), ["Allocated", "Maintaining", "Allocated"]);
}

#[test]
fn thresholds_count_in_rounds() {
    let scene = Scene::new();
    scene.pod.update_config(&scene.rooms("successThreshold: 3"));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(scene.probes_before_the_latest_request(), 3);
}

#[test]
fn what_another_has_set_survives_until_the_game_says_something_new() {
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.api.edit(&scene.path(), "matchmaker", |game_server| game_server["spec"]["opsState"] = json!("Allocated"));
    let probes = scene.game.requests().len();
    sidecar.eventually(SOON, "three probes", || scene.game.requests().len() >= probes + 3);
    assert_eq!(scene.ops_state(), "Allocated");
    scene.game.set(200, "WaitToBeDeleted");
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
}

#[test]
fn with_resync_the_game_has_the_last_word_and_looking_alone_writes_nothing() {
    let scene = Scene::new();
    let text = scene.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.somebody_sets("operator", "Allocated");
    sidecar.eventually(SOON, "it is None again", || scene.ops_state() == "None");
    let reads = scene.reads();
    sidecar.eventually(SOON, "three more looks", || scene.reads() >= reads + 3);
    assert_eq!(scene.patched(), ["None", "None"]);
    assert_eq!(scene.writes().len(), 2);
}

#[test]
fn missing_surroundings_are_named_with_the_yaml_that_gives_them() {
    let scene = Scene::new();
    for (variable, told) in [
        ("POD_NAME", "env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"),
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
fn signals_end_it_at_once_wherever_it_is() {
    for (case, signal) in [
        ("in the delay", Signal::TERM),
        ("asleep", Signal::INT),
        ("in a probe", Signal::TERM),
        ("in a patch", Signal::TERM),
    ] {
        // A busy machine is slow now and then; what waits for something is slow each time.
        assert!((0..10).any(|_| end_by(case, signal) < Duration::from_millis(300)), "{case}");
    }
}

/// Brings a sidecar there, ends it, and gives how long that took.
#[track_caller]
fn end_by(case: &str, signal: Signal) -> Duration {
    let scene = Scene::new();
    match case {
        "in the delay" => scene.pod.update_config(
            &scene.rooms("").replace("probeIntervalSeconds: 1", "startDelaySeconds: 60\n      probeIntervalSeconds: 1"),
        ),
        "in a probe" => scene.game.behave(Behaviour::HoldWithoutAnswer),
        "in a patch" => scene.api.always(Some(support::Fault::HangAfterRequest)),
        _ => {}
    }
    let sidecar = scene.sidecar().start();
    match case {
        "in the delay" => drop(sidecar.wait_for_line("first probe in 60 s", SOON)),
        "asleep" => drop(sidecar.wait_for_line("opsState unknown -> None", SOON)),
        "in a probe" => sidecar.eventually(SOON, "a probe", || !scene.game.requests().is_empty()),
        _ => sidecar.eventually(SOON, "a patch", || !scene.api.requests().is_empty()),
    }
    sidecar.signal(signal);
    let exit = sidecar.wait_exit(SOON);
    assert_eq!(exit.code(), Some(0), "{case}");
    exit.elapsed
}

#[test]
fn check_prints_the_rules_and_probe_what_would_be_written() {
    let scene = Scene::new();
    let run = |command: &str| {
        let sidecar =
            SidecarProcess::builder(scene::binary()).args([command, "--config"]).arg(scene.pod.config_path()).start();
        let code = sidecar.wait_exit(SOON).code();
        (code, sidecar.stdout())
    };
    let (code, told) = run("check");
    assert_eq!(code, Some(0));
    for line in ["then            every 1 s", "  timeout       1 s", "  200 and body `Allocated` -> opsState Allocated"]
    {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }

    scene.game.set(200, "Allocated\n");
    let (code, told) = run("probe");
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "  answer        200 `Allocated\\n`",
        "  result        `Allocated`",
        "  policy        `Allocated`",
        "would send  PATCH /apis/game.kruise.io/v1alpha1/namespaces/POD_NAMESPACE/gameservers/POD_NAME",
        "            {\"spec\":{\"opsState\":\"Allocated\"}}",
    ] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    scene.game.set(404, "");
    let (code, told) = run("probe");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("status 404, expected 200") && told.contains("would send  nothing"), "{told}");
    assert!(scene.api.requests().is_empty());
}

#[test]
fn the_version_and_the_start_line_say_which_commit_it_is() {
    let scene = Scene::new();
    let asked = SidecarProcess::builder(scene::binary()).args(["--version"]).start();
    assert_eq!((asked.wait_exit(SOON).code(), asked.stderr()), (Some(0), String::new()));
    let told = asked.stdout();
    let commit = told
        .strip_prefix(concat!("okg-sidecar ", env!("CARGO_PKG_VERSION"), " ("))
        .and_then(|told| told.strip_suffix(")\n"))
        .map(|commit| commit.strip_suffix("-dirty").unwrap_or(commit))
        .unwrap_or_else(|| panic!("{told:?}"));
    // Where git is not there, and no tarball tells it either, it is `unknown`.
    assert!(commit.len() == 7 && (commit == "unknown" || commit.bytes().all(|c| c.is_ascii_hexdigit())), "{told:?}");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line(&format!("{} writes /apis/", told.trim_end()), SOON);
}

#[test]
fn the_command_line_is_understood_or_refused() {
    let run = |words: &[&str]| {
        let sidecar = SidecarProcess::builder(scene::binary()).args(words).start();
        (sidecar.wait_exit(SOON).code(), sidecar.stdout(), sidecar.stderr())
    };
    let (code, help, _) = run(&["check", "--help"]);
    assert_eq!(code, Some(0));
    assert!(
        help.contains("Usage: okg-sidecar [run|check|probe] [--config PATH] [--service-account-dir PATH]"),
        "{help}"
    );
    for (words, told) in [
        (&["--confg", "x"][..], "unexpected argument `--confg`"),
        (&["check", "run"], "unexpected argument `run`"),
        (&["--config"], "--config needs a path"),
        (&["--config="], "--config needs a path"),
        (&["--help=x"], "unexpected argument `--help=x`"),
        (&["serve"], "unexpected argument `serve`"),
    ] {
        let (code, _, stderr) = run(words);
        assert_eq!(code, Some(2), "{words:?}");
        assert!(stderr.contains(told), "{words:?}: {stderr}");
    }
    let (code, _, stderr) = run(&["check", "--config=/nowhere/config.yaml"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nowhere/config.yaml: must be readable"), "{stderr}");
}

#[test]
fn it_is_one_process_with_one_thread_that_keeps_no_descriptor() {
    let scene = Scene::new();
    let text =
        scene.rooms("").replace("probeIntervalSeconds: 1", "startDelaySeconds: 4\n      probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("first probe in 4 s", SOON);
    // Those that the test itself was given are inherited.
    let inherited = sidecar.open_fds();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(sidecar.threads(), 1);
    sidecar.eventually(SOON, "no more descriptors than before", || sidecar.open_fds() == inherited);
}
