//! What `probe` and `check` tell somebody who tries a config: which endpoint decides what, why no policy holds, what is
//! wrong with the URL, and whose pod it would be (behaviour 1.2, 1.3).

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use serde_json::json;
use stand_ins::scene::{config, endpoint};
use stand_ins::sidecar::Builder;
use stand_ins::{Authority, Behaviour, Game, POD_UID, SOON, Scene, bound_token};

/// What a command prints when it ends with this code.
#[track_caller]
fn told(sidecar: Builder, command: &str, code: i32) -> String {
    let sidecar = sidecar.arg(command).start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(code), "{}{}", sidecar.stdout(), sidecar.stderr());
    sidecar.stdout()
}

#[track_caller]
fn assert_lines(told: &str, lines: &[&str]) {
    for line in lines {
        assert!(told.lines().any(|told| told == *line), "{line}\nis not in\n{told}");
    }
}

#[test]
fn probe_names_the_endpoint_that_decides_each_field() {
    let scene = Scene::new();
    let health = Game::start();
    health.set(500, "");
    let failed = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
    let room = "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}]";
    scene.pod.update_config(&config(&[
        endpoint(&health.url("/"), "timeout: 1", failed),
        scene.endpoint("timeout: 1", room),
    ]));
    let told = told(scene.sidecar(), "probe", 1);
    assert_lines(
        &told,
        &[
            "  policy        Failed, after 3 in a row",
            "  policy        `None`",
            &format!("would send  PATCH {}", scene.path()),
            "            /spec/opsState: decided by endpoints[0]",
            &format!("would send  PATCH {}", scene.pod_path()),
            "            /metadata/labels/room: decided by endpoints[1]",
        ],
    );
}

#[test]
fn probe_names_the_states_that_there_are_where_none_of_them_holds() {
    let scene = Scene::new();
    let policies = "markerPolices: [{state: None, gameServerOpsState: None}, {min: 3, max: 5, gameServerOpsState: None}, \
                    {min: 7, gameServerOpsState: Allocated}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", policies)]));
    scene.game.set(200, "Idle");
    let expected = "  policy        none of `None`, 3 to 5, 7 or more";
    assert_lines(&told(scene.sidecar(), "probe", 0), &["  result        `Idle`", expected, "would send  nothing"]);
    scene.game.set(500, "");
    assert_lines(&told(scene.sidecar(), "probe", 1), &[expected, "would send  nothing"]);
}

#[test]
fn probe_prints_the_answer_of_a_tcp_probe() {
    let scene = Scene::new();
    scene.pod.config.remove("config.yaml");
    let port = scene.game.address().port();
    let annotation =
        json!([{"podConditionType": "game.kruise.io/up", "probe": {"tcpSocket": {"host": "127.0.0.1", "port": port}}}]);
    let told = told(scene.sidecar().env("KRUISE_PODPROBE", annotation.to_string()), "probe", 0);
    let head = format!("game.kruise.io/up    TCP 127.0.0.1:{port}\n  answer        a connection\n\nwould send  PATCH ");
    assert!(told.starts_with(&head), "{told}");
}

#[test]
fn probe_and_check_speak_of_the_pod_that_run_would_write() {
    let scene = Scene::new();
    let outside = || scene.sidecar().without_env("POD_NAME").without_env("POD_NAMESPACE").without_env("POD_UID");
    let shown = |namespace: &str, name: &str| {
        let path = format!("/apis/game.kruise.io/v1alpha1/namespaces/{namespace}/gameservers/{name}");
        assert_lines(&told(outside(), "probe", 0), &[&format!("would send  PATCH {path}")]);
        assert_lines(&told(outside(), "check", 0), &[&format!("# the Role in the namespace {namespace}")]);
    };
    // A token that tells nothing, beside the file `namespace`.
    shown("games", "POD_NAME");
    scene.pod.rotate_token(&bound_token("rooms", "tank-7", POD_UID));
    shown("rooms", "tank-7");
    scene.pod.account.clear();
    shown("POD_NAMESPACE", "POD_NAME");
}

#[test]
fn probe_says_which_scheme_the_port_speaks() {
    let scene = Scene::new();
    let refused = |url: &str| {
        scene.pod.update_config(&config(&[endpoint(url, "timeout: 5", "annotationKey: room")]));
        told(scene.sidecar(), "probe", 1)
    };
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}/", plain.local_addr().expect("it is bound"));
    let game = thread::spawn(move || plain.accept()?.0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let got = refused(&url);
    assert!(got.contains("  failed        no response, since the port does not speak TLS; use http: "), "{got}");
    game.join().expect("no panic").expect("the answer was sent");

    let tls = Game::builder().tls(&Authority::new("game").loopback_certificate()).start();
    // As Go's server and nginx answer to a plain request on a port that expects TLS.
    scene.game.set(400, "");
    let reset = Game::start();
    reset.behave(Behaviour::RawThenReset(Vec::new()));
    for game in [&tls, &scene.game, &reset] {
        let got = refused(&format!("http://{}/", game.address()));
        assert_lines(&got, &["                the port may expect TLS; try https"]);
    }
    scene.game.set(500, "");
    assert!(!refused(&scene.game.url("/")).contains("TLS"));
}
