//! The probes that Kruise describes, and the pod conditions that they set (behaviour 9).

use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::sidecar::Builder;
use stand_ins::{
    Behaviour, BlackHole, ClosedPort, Fault, Game, OTHER_POD_UID, POD_UID, Request, SOON, Scene, SidecarProcess,
    Signal, eventually, holds_within, pod_object, side_by_side,
};

const IDLE: &str = "game.kruise.io/idle";

/// What a lost attempt may take to arrive, and a busy machine on top.
const AFTER_THE_LOST: Duration = Duration::from_secs(120);

/// A scene without a config file.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.pod.config.remove("config.yaml");
    scene
}

/// A probe as Kruise writes it, with these keys more.
fn probe(condition: &str, handler: Value, more: &Value) -> Value {
    let mut probe = json!({"name": "p", "containerName": "main", "podConditionType": condition, "probe": handler});
    let keys = more.as_object().expect("keys").clone();
    probe["probe"].as_object_mut().expect("it is a map").extend(keys);
    probe
}

/// An httpGet of the scene's game.
fn http(scene: &Scene, path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": scene.game.address().port(), "scheme": "HTTP"}})
}

fn tcp(port: u16) -> Value {
    json!({"tcpSocket": {"port": port}})
}

/// The one probe of most tests.
fn idle(scene: &Scene, more: &Value) -> Value {
    json!([probe(IDLE, http(scene, "/idle"), more)])
}

fn builder(scene: &Scene, annotation: &Value) -> Builder {
    scene.sidecar().env("KRUISE_PODPROBE", annotation.to_string())
}

fn start(scene: &Scene, annotation: &Value) -> SidecarProcess {
    builder(scene, annotation).start()
}

fn status_path(scene: &Scene) -> String {
    format!("{}/status", scene.pod_path())
}

/// The patches of the pod's status, in order.
fn patches(scene: &Scene) -> Vec<Request> {
    scene.writes_to(&status_path(scene))
}

/// The conditions that were patched, in order: type, status, message.
fn written(scene: &Scene) -> Vec<(String, String, String)> {
    let of_patch = |patch: Request| patch.json()["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |condition: &Value, key: &str| condition[key].as_str().expect("a text").to_owned();
    patches(scene)
        .into_iter()
        .flat_map(of_patch)
        .map(|condition| (text(&condition, "type"), text(&condition, "status"), text(&condition, "message")))
        .collect()
}

/// Status and message of a condition that the pod has.
fn condition(scene: &Scene, name: &str) -> Option<(String, String)> {
    let pod = scene.api.object(&scene.pod_path())?;
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == name)?;
    let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

#[track_caller]
fn becomes(scene: &Scene, sidecar: &SidecarProcess, name: &str, status: &str, message: &str) {
    let expected = Some((status.to_owned(), message.to_owned()));
    if !holds_within(SOON, || condition(scene, name) == expected) {
        sidecar.fail(&format!("{name} is {:?} and not {expected:?}", condition(scene, name)));
    }
}

/// Its standard error, once it has ended with code 1.
#[track_caller]
fn refused(builder: Builder) -> String {
    let sidecar = builder.start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{}", sidecar.stderr());
    sidecar.stderr()
}

// ---- what is written (9.5)

#[test]
fn a_change_is_one_strategic_patch_of_that_condition_alone_and_nothing_else_is_asked_for() {
    let scene = scene();
    scene.api.allow_only(&[("patch", "pods/status")]);
    scene.game.set(200, " Allocated\n");
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    becomes(&scene, &sidecar, IDLE, "True", "Allocated");
    scene.await_probes(&sidecar, 3);
    assert_eq!(patches(&scene).len(), 1, "steady state is silent");
    scene.game.set(503, "");
    becomes(&scene, &sidecar, IDLE, "False", "HTTP probe failed with statuscode: 503");
    scene.await_probes(&sidecar, 3);
    let patches = patches(&scene);
    let body = |status: &str, message: &str| {
        json!({
            "metadata": {"uid": POD_UID},
            "status": {"conditions": [{"type": IDLE, "status": status, "message": message}]},
        })
    };
    let bodies: Vec<Value> = patches.iter().map(Request::json).collect();
    assert_eq!(bodies, [body("True", "Allocated"), body("False", "HTTP probe failed with statuscode: 503")]);
    assert_eq!(patches[0].header("Content-Type"), Some("application/strategic-merge-patch+json"));
    assert_eq!(patches[0].query("fieldManager"), Some("okg-sidecar"));
    assert_eq!(scene.api.requests().len(), 2, "nothing is read and no other object is asked for");
    let ready = Some(("True".to_owned(), String::new()));
    assert_eq!(condition(&scene, "Ready"), ready, "another's condition stays");
    eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
    for line in [
        format!("writes {}", status_path(&scene)),
        format!("Pod condition: {IDLE} True `Allocated` (written in "),
        format!(
            "{IDLE} http://localhost:{}/idle: probe failed: status 503, expected 200 to 399",
            scene.game.address().port()
        ),
        format!("Pod condition: {IDLE} False `HTTP probe failed with statuscode: 503` (written in "),
    ] {
        assert_eq!(sidecar.count_lines(&line), 1, "{line}: {}", sidecar.stderr());
    }
    assert_eq!(sidecar.stderr().lines().count(), 4, "{}", sidecar.stderr());
}

#[test]
fn a_restart_writes_what_the_pod_has_once_more_which_changes_nothing() {
    let scene = scene();
    let annotation = idle(&scene, &json!({}));
    let first = start(&scene, &annotation);
    becomes(&scene, &first, IDLE, "True", "None");
    drop(first);
    let version = scene.field_of(&scene.pod_path(), "/metadata/resourceVersion");
    let second = start(&scene, &annotation);
    second.wait_for_line("Pod condition: ", SOON);
    scene.await_probes(&second, 3);
    assert_eq!(patches(&scene).len(), 2);
    assert_eq!(scene.field_of(&scene.pod_path(), "/metadata/resourceVersion"), version);
}

#[test]
fn after_a_lost_attempt_the_newest_condition_is_sent_once_more_when_nothing_can_arrive_any_more() {
    let scene = scene();
    scene.game.set(200, "old");
    scene.api.next([Fault::Lost]);
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    sidecar.eventually(SOON, "the first attempt", || !patches(&scene).is_empty());
    scene.game.set(200, "new");
    becomes(&scene, &sidecar, IDLE, "True", "new");
    scene.api.deliver_lost();
    assert_eq!(scene.api.late_answers(), [200]);
    assert_eq!(condition(&scene, IDLE), Some(("True".into(), "old".into())), "the lost attempt has arrived late");
    if !holds_within(AFTER_THE_LOST, || condition(&scene, IDLE) == Some(("True".into(), "new".into()))) {
        sidecar.fail("it was not sent once more");
    }
    let patches = patches(&scene);
    let (first, last) = (patches[0].at, patches[patches.len() - 1].at);
    assert!(last.duration_since(first) >= Duration::from_secs(60), "{:?}", last.duration_since(first));
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.writes_to(&status_path(&scene)).len(), patches.len(), "and no more");
}

#[test]
fn a_node_that_drops_conditions_is_warned_of_once_and_one_that_keeps_them_never() {
    for drops in [true, false] {
        let scene = scene();
        scene.game.set(200, "Allocated");
        let sidecar = start(&scene, &idle(&scene, &json!({})));
        becomes(&scene, &sidecar, IDLE, "True", "Allocated");
        if drops {
            scene.api.edit(&scene.pod_path(), "virtual-kubelet", |pod| {
                let conditions = pod["status"]["conditions"].as_array_mut().expect("a pod has conditions");
                conditions.retain(|condition| condition["type"] != IDLE);
            });
        }
        let reads = || scene.requests_for(&status_path(&scene)).iter().filter(|request| request.is_read()).count();
        sidecar.eventually(Duration::from_secs(30), "the read of its conditions", || reads() == 1);
        scene.await_probes(&sidecar, 3);
        let warning = format!("WARN  conditions of the pod were dropped: {IDLE}; this node does not keep conditions");
        assert_eq!(sidecar.count_lines(&warning), usize::from(drops), "{}", sidecar.stderr());
        // OpenKruiseGame would act on it again.
        assert_eq!(patches(&scene).len(), 1);
    }
}

#[test]
fn while_the_api_server_is_away_only_the_newest_condition_waits() {
    let scene = scene();
    scene.api.stop();
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    sidecar.wait_for_line("failed, retrying: no response", SOON);
    for text in ["one", "two", "three"] {
        scene.game.set(200, text);
        scene.await_probes(&sidecar, 2);
    }
    scene.api.start_again();
    becomes(&scene, &sidecar, IDLE, "True", "three");
    assert_eq!(written(&scene), [(IDLE.into(), "True".into(), "three".into())]);
    sidecar.wait_for_line("works again after", SOON);
}

#[test]
fn a_status_that_may_not_be_written_is_told_with_the_rule_that_is_missing() {
    let scene = scene();
    scene.api.allow_only(&[("patch", "pods")]);
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    let line = sidecar.wait_for_line("status 403", SOON).text;
    let rule = line.rfind('{').map(|start| serde_json::from_str::<Value>(&line[start..]).expect("a rule"));
    assert_eq!(rule, Some(json!({"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]})), "{line}");
}

#[test]
fn no_condition_reaches_another_pod_of_this_name() {
    let scene = scene();
    scene.api.put(&scene.pod_path(), pod_object(&scene.pod.namespace, &scene.pod.name, OTHER_POD_UID));
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    sidecar.wait_for_line("a later pod of this name has taken over", SOON);
    scene.game.set(200, "Allocated");
    scene.await_probes(&sidecar, 3);
    assert_eq!((patches(&scene).len(), condition(&scene, IDLE)), (1, None));
}

#[test]
fn a_condition_that_is_refused_holds_back_no_other() {
    let scene = scene();
    let both = json!([
        probe("game.kruise.io/bad", http(&scene, "/bad"), &json!({})),
        probe(IDLE, http(&scene, "/idle"), &json!({})),
    ]);
    scene.api.refuse("/status/conditions/0/type", Some(json!("game.kruise.io/bad")), 422);
    let sidecar = start(&scene, &both);
    becomes(&scene, &sidecar, IDLE, "True", "None");
    assert_eq!(condition(&scene, "game.kruise.io/bad"), None);
}

// ---- when it is written (9.4)

/// What is written when the game answers like this, one a probe.
fn story(thresholds: &Value, answers: &[(u16, &str)], expected: &[(&str, &str)]) {
    let scene = scene();
    let steps = answers.iter().map(|(status, body)| Behaviour::answer(*status, *body));
    scene.game.behave(Behaviour::Script(steps.collect()));
    let sidecar = start(&scene, &idle(&scene, thresholds));
    scene.await_probes(&sidecar, answers.len() + 1);
    let wanted: Vec<_> = expected
        .iter()
        .map(|(status, message)| (IDLE.to_owned(), (*status).to_owned(), (*message).to_owned()))
        .collect();
    if !holds_within(SOON, || written(&scene).len() >= wanted.len()) || written(&scene) != wanted {
        sidecar.fail(&format!("{answers:?} wrote {:?}\nand not {wanted:?}", written(&scene)));
    }
}

#[test]
fn thresholds_count_successes_and_failures_and_a_new_text_of_what_is_established_is_told_at_once() {
    const SAID_500: (&str, &str) = ("False", "HTTP probe failed with statuscode: 500");
    const SAID_404: (&str, &str) = ("False", "HTTP probe failed with statuscode: 404");
    type Story<'a> = (Value, &'a [(u16, &'a str)], &'a [(&'a str, &'a str)]);
    let stories: [Story<'_>; 5] = [
        // Missing and zero are 1.
        (json!({}), &[(200, "a"), (500, ""), (200, "a")], &[("True", "a"), SAID_500, ("True", "a")]),
        (json!({"successThreshold": 0, "failureThreshold": 0}), &[(500, ""), (200, "")], &[SAID_500, ("True", "")]),
        // Successes with other texts are successes in a row.
        (
            json!({"successThreshold": 3, "failureThreshold": 1}),
            &[(200, "a"), (200, "b"), (200, "c"), (200, "c"), (200, "d")],
            &[("True", "c"), ("True", "d")],
        ),
        (
            json!({"successThreshold": 2, "failureThreshold": 2}),
            &[
                (200, "a"),
                (500, ""),
                (200, "b"),
                (200, "c"),
                (500, ""),
                (200, "c"),
                (500, ""),
                (404, ""),
                (200, "x"),
                (200, "y"),
            ],
            &[("True", "c"), SAID_404, ("True", "y")],
        ),
        (
            json!({"successThreshold": 1, "failureThreshold": 2}),
            &[(500, ""), (200, "a"), (500, ""), (500, ""), (404, ""), (500, "")],
            &[("True", "a"), SAID_500, SAID_404, SAID_500],
        ),
    ];
    side_by_side(&stories, |(thresholds, answers, expected)| story(thresholds, answers, expected));
}

#[test]
fn from_200_to_399_is_a_success_and_a_redirect_is_not_followed() {
    let cases = [(200, true), (204, true), (304, true), (399, true), (400, false), (404, false), (503, false)];
    side_by_side(&cases, |(status, succeeds)| {
        let scene = scene();
        scene.game.set(*status, if *succeeds && *status != 204 && *status != 304 { "text" } else { "" });
        let sidecar = start(&scene, &idle(&scene, &json!({})));
        sidecar.eventually(SOON, "a condition", || condition(&scene, IDLE).is_some());
        let (told, _) = condition(&scene, IDLE).expect("it is there");
        assert_eq!(told, if *succeeds { "True" } else { "False" }, "{status}");
    });
    let scene = scene();
    let location = scene.game.url("/elsewhere");
    scene.game.behave(Behaviour::answer_with(302, &[("Location", &location)], "moved"));
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    becomes(&scene, &sidecar, IDLE, "True", "moved");
    scene.await_probes(&sidecar, 2);
    assert!(scene.game.requests().iter().all(|request| request.target == "/idle"));
}

#[test]
fn a_message_is_the_body_without_white_space_cut_at_1024_bytes_on_a_character() {
    let cases: [(Vec<u8>, String); 6] = [
        (" \t a b \r\n".into(), "a b".into()),
        ("x".repeat(1024).into(), "x".repeat(1024)),
        (format!("\n{}", "x".repeat(1025)).into(), "x".repeat(1024)),
        ("空".repeat(400).into(), "空".repeat(341)),
        ("空".repeat(100_000).into(), "空".repeat(341)),
        (b"a\xff\xfeb".to_vec(), "a\u{fffd}\u{fffd}b".into()),
    ];
    side_by_side(&cases, |(body, message)| {
        let scene = scene();
        scene.game.set(200, body.clone());
        let sidecar = start(&scene, &idle(&scene, &json!({"timeoutSeconds": 20})));
        becomes(&scene, &sidecar, IDLE, "True", message);
    });
}

#[test]
fn a_failure_of_another_kind_has_a_short_text_that_stays() {
    let scene = scene();
    scene.game.behave(Behaviour::CloseAtOnce);
    let sidecar = builder(&scene, &idle(&scene, &json!({}))).log("debug").start();
    becomes(&scene, &sidecar, IDLE, "False", "probe failed: no response");
    let connections = scene.game.connections();
    scene.game.behave(Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    sidecar.eventually(SOON, "two more probes", || scene.game.connections() >= connections + 2);
    scene.game.stop();
    sidecar.wait_for_line("Connection refused", SOON);
    scene.game.behave(Behaviour::HoldWithoutAnswer);
    scene.game.start_again();
    let connections = scene.game.connections();
    sidecar.eventually(SOON, "two more probes", || scene.game.connections() >= connections + 2);
    assert_eq!(written(&scene).len(), 1, "{:?}", written(&scene));
}

#[test]
fn tcp_open_is_a_success_and_closed_and_filtered_are_failures() {
    let scene = scene();
    let (open, closed, filtered) = (Game::start(), ClosedPort::new(), BlackHole::on(stand_ins::Loopback::Both));
    let ipv6 = Game::builder().on(stand_ins::Loopback::V6).start();
    let annotation = json!([
        probe("game.kruise.io/filtered", tcp(filtered.address().port()), &json!({"periodSeconds": 3})),
        probe("game.kruise.io/open", tcp(open.address().port()), &json!({})),
        probe("game.kruise.io/closed", tcp(closed.address().port()), &json!({})),
        probe("game.kruise.io/ipv6", tcp(ipv6.address().port()), &json!({})),
        probe("game.kruise.io/digits", json!({"tcpSocket": {"port": open.address().port().to_string()}}), &json!({})),
        probe("game.kruise.io/host", json!({"tcpSocket": {"port": ipv6.address().port(), "host": "::1"}}), &json!({})),
    ]);
    let sidecar = start(&scene, &annotation);
    for name in ["open", "ipv6", "digits", "host"] {
        becomes(&scene, &sidecar, &format!("game.kruise.io/{name}"), "True", "");
    }
    for name in ["closed", "filtered"] {
        becomes(&scene, &sidecar, &format!("game.kruise.io/{name}"), "False", "probe failed: no connection");
    }
    assert_eq!(sidecar.threads(), 1);
    sidecar.eventually(SOON, "every connection is closed", || open.open_connections() == 0);
    open.stop();
    becomes(&scene, &sidecar, "game.kruise.io/open", "False", "probe failed: no connection");
    open.start_again();
    becomes(&scene, &sidecar, "game.kruise.io/open", "True", "");
    assert_eq!(open.requests().len(), 0, "nothing is sent");
}

#[test]
fn a_filtered_port_takes_its_timeout_and_a_signal_ends_it_at_once() {
    let scene = scene();
    let filtered = BlackHole::new();
    let slow = json!([probe(IDLE, tcp(filtered.address().port()), &json!({"timeoutSeconds": 3000}))]);
    let sidecar = start(&scene, &slow);
    // It is connecting after a second.
    std::thread::sleep(Duration::from_millis(1500));
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(0));
    drop(sidecar);

    let sidecar = start(&scene, &json!([probe(IDLE, tcp(filtered.address().port()), &json!({"timeoutSeconds": 2}))]));
    let started = sidecar.wait_for_line("okg-sidecar", SOON).at;
    let failed = sidecar.wait_for_line("no connection", SOON).at;
    // The delay of one second, and one of the two for 127.0.0.1; ::1 refuses at once.
    assert!(failed.duration_since(started) >= Duration::from_millis(1900), "{:?}", failed.duration_since(started));
}

#[test]
fn each_probe_has_its_own_delay_and_period() {
    let scene = scene();
    let annotation = json!([
        probe("game.kruise.io/slow", http(&scene, "/slow"), &json!({"initialDelaySeconds": 3, "periodSeconds": 3})),
        probe("game.kruise.io/fast", http(&scene, "/fast"), &json!({"initialDelaySeconds": 0})),
        // Nobody waits for it.
        probe("game.kruise.io/never", http(&scene, "/never"), &json!({"initialDelaySeconds": 3000})),
    ]);
    let sidecar = start(&scene, &annotation);
    let started = sidecar.wait_for_line("okg-sidecar", SOON).at;
    let times = |path: &str| -> Vec<_> {
        scene.game.requests().iter().filter(|request| request.target == path).map(|request| request.at).collect()
    };
    sidecar.eventually(SOON, "three slow probes", || times("/slow").len() >= 3);
    let (slow, fast) = (times("/slow"), times("/fast"));
    let since = |index: usize| slow[index].duration_since(started).as_millis();
    assert!(fast[0].duration_since(started) >= Duration::from_millis(900), "a missing delay is a second");
    assert!(since(0) >= 2900 && since(2) >= 2900 + 2 * 3000 - 1500, "{} {}", since(0), since(2));
    assert!(fast[0] < slow[0] && fast.len() > slow.len() + 2, "{} fast, {} slow", fast.len(), slow.len());
    // A probe that hangs delays the other by its timeout, and not for good.
    scene.game.behave(Behaviour::After(Duration::from_secs(5), Box::new(Behaviour::answer(200, ""))));
    sidecar.wait_for_line("probe failed", SOON);
    scene.game.set(200, "well");
    for name in ["game.kruise.io/slow", "game.kruise.io/fast"] {
        becomes(&scene, &sidecar, name, "True", "well");
    }
}

#[test]
fn the_request_is_the_one_that_kruise_daemon_sends() {
    let scene = scene();
    let port = scene.game.address().port();
    let headers = json!([
        {"name": "Host", "value": "game.example.com"},
        {"name": "X-Key", "value": "first-hidden"},
        {"name": "X-Key", "value": "second-hidden"},
        {"name": "Content-Length", "value": "7"},
    ]);
    let get = json!({"path": "/空 x?a=b#c", "port": port, "httpHeaders": headers});
    let sidecar = start(&scene, &json!([probe(IDLE, json!({"httpGet": get}), &json!({}))]));
    becomes(&scene, &sidecar, IDLE, "True", "None");
    let request = &scene.game.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/%E7%A9%BA%20x?a=b"));
    let values = |name: &str| -> Vec<&str> {
        let of_name = request.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(values("Host"), ["game.example.com"]);
    assert_eq!(values("X-Key"), ["first-hidden", "second-hidden"]);
    assert_eq!(values("Content-Length"), [""; 0]);
    assert_eq!(values("Connection"), ["close"]);
    assert_eq!(sidecar.count_lines("hidden") + sidecar.count_lines("a=b"), 0, "neither is in the log");
}

#[test]
fn the_host_is_the_probes_own_else_the_pods_address_else_localhost() {
    let cases = [
        (None, None, "localhost"),
        (Some("127.0.0.1"), None, "127.0.0.1"),
        (Some("192.0.2.1"), Some("localhost"), "localhost"),
    ];
    side_by_side(&cases, |(pod_ip, own, expected)| {
        let scene = scene();
        let mut get = http(&scene, "/idle");
        if let Some(host) = own {
            get["httpGet"]["host"] = json!(host);
        }
        let mut builder = builder(&scene, &json!([probe(IDLE, get, &json!({}))]));
        if let Some(address) = pod_ip {
            builder = builder.env("POD_IP", address);
        }
        let sidecar = builder.start();
        becomes(&scene, &sidecar, IDLE, "True", "None");
        let host = format!("{expected}:{}", scene.game.address().port());
        assert_eq!(scene.game.requests()[0].header("Host"), Some(host.as_str()));
    });
}

#[test]
fn several_hosts_an_empty_one_and_a_long_name_of_a_header_leave_a_request_that_can_be_sent() {
    let long = format!("x-{}", "y".repeat(1000));
    for headers in [
        json!([{"name": "Host", "value": "first"}, {"name": "host", "value": "second"}]),
        json!([{"name": "Host", "value": ""}, {"name": "Host", "value": "second"}]),
        json!([{"name": long, "value": "z"}]),
    ] {
        let scene = scene();
        let mut handler = http(&scene, "/idle");
        handler["httpGet"]["httpHeaders"] = headers.clone();
        let sidecar = start(&scene, &json!([probe(IDLE, handler, &json!({}))]));
        becomes(&scene, &sidecar, IDLE, "True", "None");
        let request = &scene.game.requests()[0];
        let own = scene.game.address().to_string().replace("127.0.0.1", "localhost");
        let host = if headers[0]["value"] == "first" { "first" } else { own.as_str() };
        assert_eq!(request.header("Host"), Some(host), "{headers}");
        assert_eq!(request.header(&long).is_some(), headers[0]["value"] == "z", "{headers}");
    }
}

#[test]
fn a_redirect_is_a_success_that_is_warned_of_once() {
    let scene = scene();
    scene.game.set(302, "");
    let sidecar = start(&scene, &idle(&scene, &json!({})));
    becomes(&scene, &sidecar, IDLE, "True", "");
    scene.await_probes(&sidecar, 2);
    let warned = "status 302 counts as a success, but the redirect is not followed";
    assert_eq!(sidecar.count_lines(&format!("WARN  {IDLE} http://")), 1, "{}", sidecar.stderr());
    assert_eq!(sidecar.count_lines(warned), 1, "{}", sidecar.stderr());
}

// ---- what cannot be done (9.1 to 9.3)

#[test]
fn what_a_sidecar_cannot_do_is_unknown_from_the_start_and_the_others_run() {
    let scene = scene();
    let annotation = json!([
        probe("game.kruise.io/exec", json!({"exec": {"command": ["sh", "-c", "true"]}}), &json!({})),
        probe("game.kruise.io/grpc", json!({"grpc": {"port": 8080}}), &json!({})),
        probe("game.kruise.io/named", json!({"httpGet": {"path": "/", "port": "game", "scheme": "HTTP"}}), &json!({})),
        probe("game.kruise.io/none", json!({}), &json!({})),
        probe("game.kruise.io/newer", json!({"httpGet": {"path": "/", "port": 1, "protocol": "HTTP2"}}), &json!({})),
        probe(IDLE, http(&scene, "/idle"), &json!({})),
        probe(IDLE, http(&scene, "/again"), &json!({})),
        probe("Ready", http(&scene, "/ready"), &json!({})),
        probe("", http(&scene, "/nameless"), &json!({})),
    ]);
    let sidecar = start(&scene, &annotation);
    becomes(&scene, &sidecar, IDLE, "True", "None");
    for (name, why) in [
        ("exec", "exec runs in the game's container, where a sidecar cannot; use httpGet or tcpSocket"),
        ("grpc", "grpc is no probe of a sidecar; use httpGet or tcpSocket"),
        (
            "named",
            "port must be a number of 1 to 65535, since the annotation does not tell the number of a named port, got \
             `\"game\"`",
        ),
        ("none", "an empty one is no probe of a sidecar; use httpGet or tcpSocket"),
        ("newer", "httpGet.protocol is not known here, and may change what is asked"),
    ] {
        becomes(&scene, &sidecar, &format!("game.kruise.io/{name}"), "Unknown", why);
        assert_eq!(
            sidecar.count_lines(&format!("{why}: game.kruise.io/{name} stays Unknown")),
            1,
            "{}",
            sidecar.stderr()
        );
    }
    sidecar.wait_for_line("KRUISE_PODPROBE[6]: podConditionType must be another than those before", SOON);
    sidecar.wait_for_line("KRUISE_PODPROBE[7]: podConditionType must be a name", SOON);
    sidecar.wait_for_line("KRUISE_PODPROBE[8]: podConditionType must be a name", SOON);
    scene.await_probes(&sidecar, 2);
    assert!(scene.game.requests().iter().all(|request| request.target == "/idle"));
    let first = patches(&scene)[0].json()["status"]["conditions"].as_array().expect("a list").len();
    assert_eq!((first, written(&scene).len()), (5, 6), "Unknown comes first, in one patch");
}

#[test]
fn probes_that_are_all_unknown_are_written_and_it_stays() {
    let scene = scene();
    let exec = json!([probe(IDLE, json!({"exec": {"command": ["true"]}}), &json!({}))]);
    let sidecar = start(&scene, &exec);
    sidecar
        .eventually(SOON, "the condition", || condition(&scene, IDLE).is_some_and(|(status, _)| status == "Unknown"));
    // It wakes once a minute, and has no file to look at then.
    std::thread::sleep(Duration::from_secs(61));
    let before = sidecar.cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    assert!(sidecar.is_running() && sidecar.cpu_time() - before < Duration::from_millis(200), "it is busy");
    assert_eq!(patches(&scene).len(), 1);
}

#[test]
fn a_config_file_beside_it_ends_the_start_and_it_says_which_to_remove() {
    let scene = Scene::new();
    let told = refused(builder(&scene, &idle(&scene, &json!({}))));
    for part in [
        "KRUISE_PODPROBE and the config file",
        "are both there",
        "remove the variable",
        "remove the ConfigMap's volume",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(scene.api.requests().len() + scene.game.requests().len(), 0);
    // An empty one is none: the file's rules run.
    let sidecar = scene.sidecar().env("KRUISE_PODPROBE", " ").start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

#[test]
fn where_neither_is_there_it_names_both_ways_and_what_an_empty_variable_means() {
    let scene = scene();
    for builder in
        [scene.sidecar(), scene.sidecar().env("KRUISE_PODPROBE", ""), scene.sidecar().env("KRUISE_PODPROBE", "\n")]
    {
        let told = refused(builder);
        for part in [
            "config.yaml: must be readable: No such file",
            "KRUISE_PODPROBE: must hold the annotation kruise.io/podprobe",
            "metadata.annotations['kruise.io/podprobe']",
            "EnablePodProbeMarkerOnServerless",
            "containerName",
            "serviceQualities",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(told.lines().count(), 2, "{told}");
    }
}

#[test]
fn an_annotation_that_cannot_be_read_ends_the_start() {
    let scene = scene();
    let many = |count: usize| {
        let probes = (0..count).map(|index| probe(&format!("game.kruise.io/p{index}"), http(&scene, "/"), &json!({})));
        json!(probes.collect::<Vec<_>>()).to_string()
    };
    for (text, problem) in [
        ("{".to_owned(), "KRUISE_PODPROBE: must be JSON: EOF"),
        ("not json".to_owned(), "KRUISE_PODPROBE: must be JSON: expected"),
        ("{}".to_owned(), "KRUISE_PODPROBE: must be a list of 1 to 64 probes"),
        ("[]".to_owned(), "KRUISE_PODPROBE: must be a list of 1 to 64 probes"),
        (many(65), "KRUISE_PODPROBE: must be a list of 1 to 64 probes"),
        (format!("[{}]", " ".repeat(64 * 1024)), "KRUISE_PODPROBE: must have at most 65536 bytes, got 65538"),
        ("[7]".to_owned(), "KRUISE_PODPROBE: must hold a probe: KRUISE_PODPROBE[0]: podConditionType must be a name"),
    ] {
        let told = refused(scene.sidecar().env("KRUISE_PODPROBE", &text));
        assert!(told.contains(problem), "{text:.40}: {told}");
    }
    // 64 are fine.
    let sidecar = scene.sidecar().env("KRUISE_PODPROBE", many(64)).start();
    becomes(&scene, &sidecar, "game.kruise.io/p63", "True", "None");
}

#[test]
fn the_uid_is_needed_and_it_says_how_to_give_it() {
    let scene = scene();
    let told = refused(builder(&scene, &idle(&scene, &json!({}))).without_env("POD_UID"));
    assert!(told.contains("POD_UID must be set, because the mounted token does not name the pod"), "{told}");
    assert!(told.contains("fieldPath: metadata.uid"), "{told}");
    // A token that is bound to a pod contains it.
    let token = stand_ins::bound_token(&scene.pod.namespace, &scene.pod.name, POD_UID);
    scene.pod.rotate_token(&token);
    scene.api.accept_token(&token);
    let sidecar = builder(&scene, &idle(&scene, &json!({}))).without_env("POD_UID").start();
    becomes(&scene, &sidecar, IDLE, "True", "None");
}

// ---- check and probe

#[test]
fn check_prints_the_probes_and_the_rule_that_they_need() {
    let scene = scene();
    let port = scene.game.address().port();
    let annotation = json!([
        probe(
            IDLE,
            http(&scene, "/idle?key=hidden"),
            &json!({"initialDelaySeconds": 10, "periodSeconds": 3, "timeoutSeconds": 5})
        ),
        probe("game.kruise.io/up", tcp(7777), &json!({"failureThreshold": 3})),
        probe("game.kruise.io/exec", json!({"exec": {"command": ["true"]}}), &json!({})),
    ]);
    let sidecar = builder(&scene, &annotation).arg("check").start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(0), "{}", sidecar.stderr());
    let expected = format!(
        "Kruise's probes, each of which sets a condition of the pod

{IDLE}    GET http://localhost:{port}/idle
  timeout       5 s
  expects       status 200 to 399
  thresholds    successes 1, failures 1
  result        the body, without white space around it
  probed        10 s after the start, then every 3 s

game.kruise.io/up    TCP localhost:7777
  timeout       1 s
  expects       a connection
  thresholds    successes 1, failures 3
  probed        1 s after the start, then every 1 s

game.kruise.io/exec    stays Unknown: exec runs in the game's container, where a sidecar cannot; use httpGet or tcpSocket

# the Role in the namespace games
rules:
- {{apiGroups: [\"\"], resources: [\"pods/status\"], verbs: [patch]}}

warning: KRUISE_PODPROBE[2]: exec runs in the game's container, where a sidecar cannot; use httpGet or tcpSocket: \
         game.kruise.io/exec stays Unknown
"
    );
    assert_eq!(sidecar.stdout(), expected);
    assert_eq!(scene.api.requests().len() + scene.game.requests().len(), 0);
}

#[test]
fn probe_prints_the_conditions_that_would_be_written() {
    let scene = scene();
    scene.game.set(200, "Allocated");
    let closed = ClosedPort::new();
    let annotation = json!([
        probe(IDLE, http(&scene, "/idle"), &json!({"successThreshold": 7, "initialDelaySeconds": 3000})),
        probe("game.kruise.io/up", tcp(closed.address().port()), &json!({"failureThreshold": 3})),
    ]);
    let sidecar = builder(&scene, &annotation).arg("probe").start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "one has failed: {}", sidecar.stdout());
    let told = sidecar.stdout();
    let patch = json!({"status": {"conditions": [
        {"type": IDLE, "status": "True", "message": "Allocated"},
        {"type": "game.kruise.io/up", "status": "False", "message": "probe failed: no connection"},
    ]}});
    for part in [
        format!("{IDLE}    GET http://localhost:{}/idle", scene.game.address().port()),
        "result        `Allocated`".into(),
        "failed        no connection: Connection refused".into(),
        format!("would send  PATCH {}\n            {patch}\n", status_path(&scene)),
    ] {
        assert!(told.contains(&part), "{part}\nis not in\n{told}");
    }
    assert!(sidecar.stderr().contains("1 of 2 probes failed"), "{}", sidecar.stderr());
    assert_eq!(scene.api.requests().len(), 0);
}
