//! What the commands `run`, `check` and `probe` read, print and exit with (behaviour 1). What a start needs of its pod belongs
//! to environment.rs.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{binary, config, config_of, endpoint};
use stand_ins::sidecar::Builder;
use stand_ins::{Behaviour, Game, POD_UID, SOON, Scene, SidecarProcess, bound_token};

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
    // A token that is not bound to a pod, beside the file `namespace`.
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

    let tls = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", tls.local_addr().expect("it is bound"));
    // As OpenSSL answers to what is no TLS: an alert.
    let game = thread::spawn(move || tls.accept()?.0.write_all(&[21, 3, 1, 0, 2, 2, 70]));
    let got = refused(&url);
    assert!(got.contains("  failed        no response, since the port speaks TLS; use https: "), "{got}");
    game.join().expect("no panic").expect("the answer was sent");

    // Go's server and nginx answer in plain words, which are shown.
    scene.game.set(400, "Client sent an HTTP request to an HTTPS server.");
    let got = refused(&scene.game.url("/"));
    let answer = "  answer        400 `Client sent an HTTP request to an HTTPS server.`";
    assert_lines(&got, &[answer, "  failed        status 400, expected 200"]);
    let reset = Game::start();
    reset.behave(Behaviour::RawThenReset(Vec::new()));
    let got = refused(&format!("http://{}/", reset.address()));
    assert!(!got.contains("TLS") && !got.contains("answer "), "{got}");
}

#[test]
fn check_prints_the_rules_and_probe_what_would_be_written() {
    let scene = Scene::new();
    let run = |command: &str| {
        let sidecar =
            SidecarProcess::builder(binary()).args([command, "--config"]).arg(scene.pod.config_path()).start();
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
    let asked = SidecarProcess::builder(binary()).args(["--version"]).start();
    assert_eq!((asked.wait_exit(SOON).code(), asked.stderr()), (Some(0), String::new()));
    let told = asked.stdout();
    let commit = told
        .strip_prefix(concat!("okg-sidecar ", env!("CARGO_PKG_VERSION"), " ("))
        .and_then(|told| told.strip_suffix(")\n"))
        .map(|commit| commit.strip_suffix("-dirty").unwrap_or(commit))
        .unwrap_or_else(|| panic!("{told:?}"));
    // If there is no git, and no tarball of `git archive`, it is `unknown`.
    assert!(commit.len() == 7 && (commit == "unknown" || commit.bytes().all(|c| c.is_ascii_hexdigit())), "{told:?}");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line(&format!("{} writes /apis/", told.trim_end()), SOON);
}

#[test]
fn the_command_line_is_understood_or_refused() {
    let run = |words: &[&str]| {
        let sidecar = SidecarProcess::builder(binary()).args(words).start();
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
fn check_prints_the_rules_of_rbac_that_a_config_needs() {
    for (file, rules) in [
        ("deploy/config/configmap.yaml", &["game.kruise.io/gameservers"][..]),
        ("deploy/examples/pod-deletion-cost.yaml", &["game.kruise.io/gameservers", "/pods"]),
        ("deploy/examples/target.yaml", &["/configmaps"]),
    ] {
        let scene = Scene::new();
        scene.pod.update_config(&config_of(file).expect("it holds a config"));
        let sidecar = scene.sidecar().arg("check").start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(0), "{file}: {}", sidecar.stderr());
        let told = sidecar.stdout();
        let yaml = told.split("\n# the Role in the namespace games\n").nth(1).expect("the rules").split("\n\n").next();
        let found: Value = serde_yaml::from_str(yaml.unwrap_or_default()).expect("YAML");
        let shown: Vec<String> = found["rules"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|rule| {
                assert_eq!(rule["verbs"], json!(["patch"]));
                let text = |key: &str| rule[key][0].as_str().expect("a text").to_owned();
                format!("{}/{}", text("apiGroups"), text("resources"))
            })
            .collect();
        assert_eq!(shown, rules, "{file}: {told}");
    }
}

#[test]
fn check_reads_standard_input() {
    let check = |text: &str| {
        let mut command = Command::new(binary());
        command.args(["check", "--config", "-"]).env_clear();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        // A slow writer is waited for.
        std::thread::sleep(Duration::from_millis(200));
        let mut stdin = child.stdin.take().expect("a pipe");
        // One that has read enough leaves.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), told)
    };
    let good = config_of("deploy/config/configmap.yaml").expect("it holds a config");
    let (code, told) = check(&good);
    assert!(code == Some(0) && told.contains("opsState Allocated") && told.contains("gameservers"), "{told}");
    for (text, problem) in [
        ("", "-: must be a map of plugins, got a file that is empty or has only comments"),
        ("a: b", "-: a: unknown key a"),
        (&" ".repeat(40_000), "-: must have at most 32768 bytes, got more"),
    ] {
        let (code, told) = check(text);
        assert!(code == Some(1) && told.contains(problem), "{told}");
    }
}

#[test]
fn a_request_is_sent_as_go_sends_it_and_what_came_from_a_variable_is_shown_nowhere() {
    let scene = Scene::new();
    let keys = "timeout: 3, method: PUT, body: '{\"key\":\"${SELF:KEY}\"}', basicAuth: {username: admin, password: '${SELF:KEY}'}, \
                headers: {x-api-key: '${SELF:KEY}', CONTENT-TYPE: application/json}";
    let url = scene.game.url("/rooms/${SELF:KEY}?key=${SELF:KEY}");
    let policies = "markerPolices: [{state: None, gameServerOpsState: None}]";
    scene.pod.update_config(&config(&[endpoint(&url, keys, policies)]));
    let sidecar = || scene.sidecar().env("KEY", "hidden").env("RUST_LOG", "trace");
    let mut shown = told(sidecar(), "check", 0) + &told(sidecar(), "probe", 0);
    let request = scene.game.requests().pop().expect("it was asked");
    assert_eq!(request.target, "/rooms/hidden?key=hidden");
    assert_eq!(request.body, r#"{"key":"hidden"}"#);
    let headers: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut expected = vec![format!("Host: {}", scene.game.address()), "User-Agent: ".into(), "Accept: */*".into()];
    expected.extend(["Content-Length: 16", "Connection: close", "X-Api-Key: hidden"].map(str::to_owned));
    expected.extend(["Content-Type: application/json", "Authorization: Basic YWRtaW46aGlkZGVu"].map(str::to_owned));
    assert_eq!(headers.len(), expected.len(), "{headers:?}");
    assert!(headers.iter().zip(&expected).all(|(sent, expected)| sent.starts_with(expected.as_str())), "{headers:?}");

    let running = sidecar().start();
    running.wait_for_line("opsState unknown -> None", SOON);
    scene.game.set(500, "");
    running.wait_for_line("probe failed", SOON);
    shown += &running.stderr();
    assert!(shown.contains("/rooms/${SELF:KEY}"), "{shown}");
    assert!(!shown.contains("hidden") && !shown.contains("aGlkZGVu"), "{shown}");
}

#[test]
fn check_reads_the_configs_of_manifests_and_run_refuses_them() {
    let scene = Scene::new();
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let good = config(&[scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None}]")]);
    let stream = |second: &str| {
        let head = "apiVersion: v1\nkind: Namespace\nmetadata: {name: games}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: ";
        format!(
            "{head}{{name: rooms, namespace: games}}\ndata:\n  a.yaml: |\n{}  b.yaml: |\n{}",
            indented(&good),
            indented(second)
        )
    };
    scene.pod.update_config(&stream(&good));
    let told_of_both = told(scene.sidecar(), "check", 0);
    for key in ["a.yaml", "b.yaml"] {
        let name = format!("ConfigMap games/rooms, {key}: ");
        assert_lines(&told_of_both, &[&format!("{name}  any other result -> nothing, opsState stays")]);
    }
    assert!(
        told_of_both.lines().all(|line| line.is_empty() || line.starts_with("ConfigMap games/rooms, ")),
        "{told_of_both}"
    );

    scene.pod.update_config(&stream(&good.replace("timeout: 1", "timeout: 0")));
    let refused = scene.sidecar().arg("check").start();
    assert_eq!(refused.wait_exit(SOON).code(), Some(1));
    let problem =
        "ERROR ConfigMap games/rooms, b.yaml: plugins[0].config.endpoints[0].timeout: must be 1 to 3600, got 0";
    assert!(refused.stderr().lines().any(|line| line == problem), "{}", refused.stderr());
    assert!(refused.stdout().contains("ConfigMap games/rooms, a.yaml: "), "{}", refused.stdout());

    scene.pod.update_config("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: empty}\n");
    let none = scene.sidecar().arg("check").start();
    assert_eq!(none.wait_exit(SOON).code(), Some(1));
    assert!(none.stderr().contains("got ConfigMap empty"), "{}", none.stderr());
    scene.pod.update_config(&stream(&good));
    let run = scene.sidecar().start();
    assert_eq!(run.wait_exit(SOON).code(), Some(1));
    assert!(run.stderr().contains("got a whole manifest"), "{}", run.stderr());
}

#[test]
fn warnings_stand_beside_errors_and_end_a_strict_check() {
    let scene = Scene::new();
    let kill = "markerPolices: [{state: None, gameServerOpsState: Kill}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", kill)]));
    assert!(told(scene.sidecar(), "check", 0).contains("\nwarning: plugins[0]"));
    let strict = told(scene.sidecar().arg("--strict"), "check", 1);
    assert!(strict.contains("\nwarning: plugins[0]"), "{strict}");
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1, other: 1", kill)]));
    let refused = told(scene.sidecar(), "check", 1);
    assert!(refused.contains("warning: plugins[0]"), "{refused}");
    let run = scene.sidecar().arg("--strict").start();
    assert_eq!(run.wait_exit(SOON).code(), Some(2), "{}", run.stderr());
}
