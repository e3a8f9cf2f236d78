//! The requests to the API server and their retries, with a server that refuses, hangs, redirects, floods or is away
//! (behaviour 4). Credentials belong to service_account.rs, values that survive belong to never_wrong.rs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    ApiServer, Authority, Fault, Game, Loopback, OTHER_POD_UID, POD_UID, RECORD, SOON, Scene, SidecarProcess, Signal,
    TOKEN, Which, eventually, game_server, side_by_side,
};

use crate::steps;
use crate::steps::{A_MINUTE, one_fault_was_told, scene_of, spec};

/// Long enough for a retry after several failures: their waits double, some up to a minute.
const AFTER_BACKOFF: Duration = Duration::from_secs(100);

/// A sidecar that has written `None`, as all of the API server's log.
fn settled(scene: &Scene) -> SidecarProcess {
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    sidecar
}

/// The longest that the game waited between two probes.
fn longest_pause(scene: &Scene) -> Duration {
    let probes = scene.game.requests();
    probes.windows(2).map(|two| two[1].at - two[0].at).max().unwrap_or_default()
}

// ---- outages

#[test]
fn after_an_outage_over_several_changes_only_the_newest_state_is_sent() {
    let cases = [Some(Fault::DropAfterTls), Some(Fault::DropBeforeTls), None];
    side_by_side(&cases, |fault| {
        let scene = Scene::new();
        match fault {
            Some(_) => scene.api.always(fault.clone()),
            None => scene.api.stop(),
        }
        let sidecar = scene.sidecar().start();
        for state in ["None", "Allocated", "None", "WaitToBeDeleted"] {
            scene.game.set(200, state);
            scene.await_probes(&sidecar, 1);
        }
        scene.await_probes(&sidecar, 1);
        // With full jitter, a ninth attempt within some five seconds has a chance of 5^8 / (8! * 2^27).
        assert!(scene.api.connections_accepted() <= 8, "{fault:?}: {:?}", scene.api.attempts());
        match fault {
            Some(_) => scene.api.always(None),
            None => scene.api.start_again(),
        }
        sidecar.wait_for_line("opsState unknown -> WaitToBeDeleted", AFTER_BACKOFF);
        assert_eq!(scene.patched(), ["WaitToBeDeleted"], "{fault:?}");
        one_fault_was_told(&sidecar, &format!("{fault:?}"));
    });
}

#[test]
fn a_broken_connection_costs_one_retry_and_two_lines() {
    let faults = [
        Fault::DropBeforeTls,
        Fault::DropAfterTls,
        Fault::ApplyThenDrop,
        Fault::Raw(Vec::new()),
        Fault::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Fault::Raw(b"HTTP/1.1 000 Nothing\r\n\r\n".to_vec()),
        Fault::Raw(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        Fault::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec()),
        Fault::EndlessHeaders,
        Fault::BreakOff,
    ];
    let cases: Vec<(Fault, Which)> =
        faults.iter().flat_map(|fault| [Which::reads(), Which::writes()].map(|which| (fault.clone(), which))).collect();
    side_by_side(&cases, |(fault, which)| {
        let scene = Scene::new();
        scene.api.next_of(which, [fault.clone()]);
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("works again after 1 failure", SOON);
        assert_eq!(scene.api.connections_accepted(), 2, "{fault:?} {which:?}");
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.api.connections_accepted(), 2, "{fault:?} {which:?}");
        assert_eq!((scene.ops_state().as_str(), &scene.record()["opsState"]), ("None", &json!("None")));
        one_fault_was_told(&sidecar, &format!("{fault:?} {which:?}"));
    });
}

#[test]
fn a_server_that_accepts_and_never_answers_delays_a_probe_by_ten_seconds_at_most() {
    let cases = [Fault::HangBeforeTls, Fault::HangAfterRequest, Fault::DripResponse(Duration::from_millis(300))];
    side_by_side(&cases, |fault| {
        let scene = Scene::new();
        scene.api.next([fault.clone()]);
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "an attempt", || scene.api.connections_accepted() == 1);
        scene.game.set(200, "Allocated");
        let line = sidecar.wait_for_line("retrying: no response: ", SOON).text;
        assert!(line.contains("timeout"), "{fault:?}: {line}");
        sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
        scene.await_probes(&sidecar, 2);
        let pause = longest_pause(&scene);
        let bounds = Duration::from_secs(9)..Duration::from_millis(11_500);
        assert!(bounds.contains(&pause), "{fault:?}: {pause:?}");
        assert_eq!(scene.ops_state(), "Allocated");
        one_fault_was_told(&sidecar, &format!("{fault:?}"));
    });
}

#[test]
fn a_server_that_takes_its_time_for_each_request_is_written_to() {
    let scene = Scene::new();
    let slow = Fault::Slow(Duration::from_secs(6));
    scene.api.next([slow.clone(), slow]);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!((scene.reads(), scene.writes().len()), (1, 1), "{}", sidecar.stderr());
}

/// In the socket's buffer, what is left of it would be sent for minutes after the network has come back.
#[test]
fn a_request_that_is_given_up_is_reset_and_an_answered_one_ends_in_order() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    sidecar.eventually(SOON, "the end of the connection", || scene.api.open_connections() == 0);
    assert_eq!((scene.api.connections_accepted(), scene.api.resets()), (1, 0));
    let given_up = [Fault::HangBeforeTls, Fault::HangAfterRequest];
    scene.api.next(given_up.clone());
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", 2 * SOON);
    sidecar.eventually(SOON, "the end of the connections", || scene.api.open_connections() == 0);
    assert_eq!((scene.api.connections_accepted(), scene.api.resets()), (4, given_up.len()), "{}", sidecar.stderr());
    // A process that ends gives up, too.
    scene.api.next([Fault::HangAfterRequest]);
    let asked = scene.api.requests().len();
    scene.game.set(200, "None");
    sidecar.eventually(SOON, "a request", || scene.api.requests().len() > asked);
    sidecar.signal(Signal::TERM);
    eventually(SOON, "a reset", || scene.api.resets() == given_up.len() + 1);
}

#[test]
fn a_decision_that_was_taken_back_while_its_write_was_in_doubt_is_taken_back_there_too() {
    let cases = [
        (Fault::ApplyThenDrop, true),
        (Fault::BreakOff, true),
        (Fault::EndlessHeaders, true),
        (Fault::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), false),
        (Fault::status(500, "etcdserver: leader changed"), false),
        (Fault::status(504, "Timeout: request did not complete within the allotted timeout").applied(), true),
        (Fault::status(403, "no"), false),
        (Fault::status(404, "no"), false),
        (Fault::status(422, "no"), false),
        (Fault::status(429, "no"), false),
    ];
    side_by_side(&cases, |(fault, takes_effect)| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        // After the second it is certain that nothing was done, and the game has time to change its mind.
        scene.api.next_of(&Which::writes(), [fault.clone()]);
        scene.game.set(200, "Allocated");
        sidecar.eventually(SOON, "an attempt", || scene.patched().len() == 2);
        scene.api.always(Some(Fault::status_with(429, &[("Retry-After", "2")], "slow down")));
        scene.game.set(200, "None");
        scene.await_probes(&sidecar, 2);
        scene.api.always(None);
        if *takes_effect {
            sidecar.eventually(AFTER_BACKOFF, "None is written", || scene.ops_state() == "None");
            assert_eq!(scene.record()["opsState"], "None", "{fault:?}");
        }
        scene.await_probes(&sidecar, 4);
        assert_eq!(scene.ops_state(), "None", "{fault:?}: {:?}", scene.patched());
    });
}

#[test]
fn what_surely_never_left_the_sidecar_needs_no_write_back() {
    side_by_side(&["a refused connection", "another authority"], |case| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        match *case {
            "a refused connection" => scene.api.stop(),
            _ => scene.api.serve_certificate(&Authority::new("elsewhere").loopback_certificate()),
        }
        scene.game.set(200, "Allocated");
        sidecar.wait_for_line("retrying: no response", SOON);
        scene.game.set(200, "None");
        scene.await_probes(&sidecar, 2);
        // A matchmaker that reached the API server all the while.
        scene.somebody_sets("matchmaker", "Allocated");
        match *case {
            "a refused connection" => scene.api.start_again(),
            _ => scene.api.serve_certificate(&scene.authority.loopback_certificate()),
        }
        // More than the longest wait after two attempts.
        scene.await_probes(&sidecar, 5);
        assert_eq!(scene.ops_state(), "Allocated", "{case}: {:?}", scene.patched());
    });
}

// ---- what the server asks for

#[test]
fn retry_after_is_honoured_where_it_is_whole_seconds() {
    let soon = Duration::ZERO..Duration::from_secs(4);
    let seven = Duration::from_secs(7)..Duration::from_secs(10);
    let never = Duration::from_secs(9)..Duration::MAX;
    let cases = [
        (429, Some("7"), seven.clone()),
        (503, Some("7"), seven),
        (429, Some("1000000000"), never.clone()),
        (503, Some("99999999999999999999999999"), never),
        (429, Some("-1"), soon.clone()),
        (429, Some("0"), soon.clone()),
        (429, Some(""), soon.clone()),
        (429, Some("+60"), soon.clone()),
        (429, Some("60.5"), soon.clone()),
        (503, Some("Wed, 21 Oct 2065 07:28:00 GMT"), soon.clone()),
        (503, None, soon),
    ];
    side_by_side(&cases, |(status, asked, expected)| {
        let scene = Scene::new();
        let header = asked.map(|value| ("Retry-After", value));
        scene.api.next([Fault::status_with(*status, header.as_slice(), "slow down")]);
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line(&format!("status {status}, `slow down`"), SOON);
        // A new decision does not come sooner.
        scene.game.set(200, "Allocated");
        if expected.end == Duration::MAX {
            let start = Instant::now();
            sidecar.eventually(2 * SOON, "nine seconds", || start.elapsed() > expected.start);
            assert_eq!(scene.api.requests().len(), 1, "{asked:?}");
            return;
        }
        sidecar.eventually(SOON, "a retry", || scene.api.requests().len() >= 2);
        let requests = scene.api.requests();
        let waited = requests[1].at - requests[0].at;
        assert!(expected.contains(&waited), "{asked:?}: {waited:?}");
        sidecar.eventually(SOON, "the newest state is there", || scene.ops_state() == "Allocated");
        if *asked == Some("7") {
            assert_eq!(scene.patched(), ["Allocated"]);
        }
    });
}

#[test]
fn a_conflict_is_tried_again_three_times_at_once_and_then_with_backoff() {
    for (conflicts, failures) in [(3, 0), (4, 1)] {
        let scene = Scene::new();
        let conflict = Fault::status(409, "the object has been modified");
        scene.api.next_of(&Which::writes(), vec![conflict; conflicts]);
        let sidecar = settled(&scene);
        // Each conflict is followed by another look, since the object is another now.
        let requests = scene.api.requests();
        assert_eq!((scene.reads(), scene.writes().len()), (conflicts + 1, conflicts + 1));
        // At once: still on the connection of the first look.
        assert!(requests[..8].iter().all(|request| request.connection == requests[0].connection), "{requests:?}");
        assert_eq!(sidecar.count_lines("status 409"), failures, "{}", sidecar.stderr());
    }
}

#[test]
fn what_is_rejected_is_told_with_the_servers_words_and_seldom_repeated_but_a_new_decision_goes_out() {
    side_by_side(&[400, 422], |&status| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        let message = format!("spec.opsState: {}\u{1b}[31m\nINFO forged", "long ".repeat(20));
        scene.api.always_of(&Which::writes(), Some(Fault::status(status, &message)));
        scene.game.set(200, "Allocated");
        let line = sidecar.wait_for_line(&format!("status {status}, `spec.opsState: long"), SOON).text;
        assert!(line.ends_with("…`"), "{line}");
        // By itself it is tried once more at most; after that half a minute passes at least.
        scene.await_probes(&sidecar, 4);
        let tried = scene.patched().len();
        assert!((2..=3).contains(&tried), "{status}: {:?}", scene.patched());
        scene.game.set(200, "WaitToBeDeleted");
        let newest = || scene.patched().last().map(String::as_str) == Some("WaitToBeDeleted");
        sidecar.eventually(SOON, "the new decision", newest);
        // What is there already needs no write.
        scene.game.set(200, "None");
        scene.await_probes(&sidecar, 3);
        assert_ne!(scene.patched().last().map(String::as_str), Some("None"), "{status}");
        scene.api.always_of(&Which::writes(), None);
        scene.game.set(200, "Allocated");
        sidecar.wait_for_line("opsState None -> Allocated", SOON);
        one_fault_was_told(&sidecar, &status.to_string());
    });
}

#[test]
fn a_redirect_is_a_failure_and_where_it_leads_is_never_asked() {
    side_by_side(&[301, 302, 303, 307, 308], |&status| {
        let scene = Scene::new();
        let elsewhere = ApiServer::start(Loopback::V4, &scene.authority.loopback_certificate(), TOKEN);
        elsewhere.put(&scene.path(), game_server("games", "gs-0", POD_UID));
        let location = format!("{}{}", elsewhere.url(), scene.path());
        let redirect = |location: &str| Fault::status_with(status, &[("Location", location)], "there");
        scene.api.next([redirect(&location), redirect(&scene.path())]);
        let sidecar = settled(&scene);
        sidecar.wait_for_line(&format!("status {status}, `there`"), SOON);
        assert_eq!(elsewhere.connections_accepted(), 0, "{status}");
        let requests = scene.api.requests();
        assert!(requests.len() == 4 && requests.iter().all(|request| request.method == "PATCH"), "{requests:?}");
        one_fault_was_told(&sidecar, &status.to_string());
    });
}

#[test]
fn a_forbidden_write_names_the_rule_that_is_missing() {
    let scene = Scene::new();
    scene.api.allow_only(&[("get", "gameservers"), ("patch", "pods")]);
    let sidecar = scene.sidecar().start();
    let line = sidecar.wait_for_line("status 403", SOON).text;
    let rule: Value = serde_json::from_str(&line[line.rfind('{').unwrap()..]).unwrap();
    assert_eq!(rule, json!({"apiGroups": ["game.kruise.io"], "resources": ["gameservers"], "verbs": ["patch"]}));
    scene.await_probes(&sidecar, 1);
    scene.api.allow_only(&[("patch", "gameservers")]);
    sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
    one_fault_was_told(&sidecar, "403");
}

#[test]
fn a_new_kind_of_fault_is_told_and_the_end_of_them_once() {
    let scene = Scene::new();
    scene.api.next([
        Fault::status(403, "no"),
        Fault::status(403, "no, still"),
        Fault::status(500, "etcdserver: request timed out"),
        Fault::DropAfterTls,
    ]);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
    let lines = sidecar.stderr();
    let told: Vec<&str> =
        lines.lines().filter_map(|line| line.split_once("retrying: ").map(|(_, cause)| &cause[..10])).collect();
    assert_eq!(told, ["status 403", "status 500", "no respons"], "{lines}");
    assert_eq!(sidecar.count_lines("works again after 4 failures"), 1, "{lines}");
}

// ---- whose GameServer it is

#[test]
fn the_previous_pods_game_server_is_looked_at_and_never_written() {
    let owner = |kind: &str, uid: &str| json!({"apiVersion": "v1", "kind": kind, "name": "gs-0", "uid": uid});
    let cases = [
        ("the previous pod's", json!([owner("Pod", "previous")]), true, true),
        (
            "the previous pod's, with its set",
            json!([owner("GameServerSet", POD_UID), owner("Pod", "previous")]),
            true,
            true,
        ),
        ("the pod's own, with its set", json!([owner("GameServerSet", "set"), owner("Pod", POD_UID)]), true, false),
        ("a set's", json!([owner("GameServerSet", "set")]), true, false),
        ("nobody's", json!([]), true, false),
        ("nobody's, not even so", Value::Null, true, false),
        ("unchecked where no uid is known", json!([owner("Pod", "previous")]), false, false),
    ];
    side_by_side(&cases, |(case, owners, uid_given, waits)| {
        let scene = Scene::new();
        scene.set_owners(owners);
        let sidecar = scene.sidecar();
        let sidecar = if *uid_given { sidecar } else { sidecar.without_env("POD_UID") }.start();
        if !waits {
            sidecar.wait_for_line("opsState unknown -> None", SOON);
            scene.await_probes(&sidecar, 3);
            assert_eq!((scene.reads(), scene.writes().len()), (1, 1), "{case}");
            return;
        }
        sidecar.eventually(SOON, "two looks", || scene.reads() >= 2);
        scene.game.set(200, "Allocated");
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.writes().len(), 0, "{case}: {}", sidecar.stderr());
        scene.recreate(POD_UID);
        sidecar.wait_for_line("-> Allocated (", SOON);
        assert_eq!(scene.ops_state(), "Allocated");
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.patched(), ["Allocated"], "{case}");
        // Normal for a while, like a GameServer that is not there.
        assert_eq!(sidecar.count_lines("WARN"), 0, "{case}: {}", sidecar.stderr());
    });
}

// ---- the address of the API server (4.1)

#[test]
fn an_api_server_is_reached_by_ipv6_address_and_by_name() {
    for (loopback, host) in
        [(Loopback::V6, "::1"), (Loopback::V6, "[::1]"), (Loopback::V4, "localhost"), (Loopback::V6, "localhost")]
    {
        let mut scene = Scene::new();
        scene.api = ApiServer::start(loopback, &scene.authority.loopback_certificate(), TOKEN);
        scene.api.put(&scene.path(), game_server("games", "gs-0", POD_UID));
        let sidecar = scene.sidecar().env("KUBERNETES_SERVICE_HOST", host).start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        let requests = scene.api.requests();
        let port = scene.api.address().port();
        let bracketed = if host == "::1" { "[::1]" } else { host };
        assert_eq!(requests[0].header("Host"), Some(format!("{bracketed}:{port}").as_str()));
    }
}

// ---- odd answers

#[test]
fn an_answer_that_cannot_be_understood_is_no_answer_and_grows_no_memory() {
    let raw = |text: &str| Fault::Raw(text.as_bytes().to_vec());
    let faults = [
        ("a dripped one", Fault::DripResponse(Duration::from_millis(25))),
        ("one that breaks off", Fault::BreakOff),
        ("one of more than 2 MiB", Fault::LongAnswer(3 << 20)),
        ("nothing", raw("HTTP/1.1 200 OK\r\n\r\n")),
        ("no content", raw("HTTP/1.1 204 No Content\r\n\r\n")),
        ("less than was said", raw("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"metadata\":{").applied()),
        ("a terabyte", raw("HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n{\"metadata\":{")),
        ("HTML", Fault::ok("<html>")),
        ("null", Fault::ok("null").applied()),
        ("deep JSON", raw(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "[".repeat(200_000)))),
    ];
    let cases: Vec<(&str, Fault, Which)> = faults
        .iter()
        .flat_map(|(case, fault)| [Which::reads(), Which::writes()].map(|which| (*case, fault.clone(), which)))
        .collect();
    side_by_side(&cases, |(case, fault, which)| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        let before = sidecar.vm_hwm_kib();
        scene.api.next_of(which, [fault.clone()]);
        scene.game.set(200, "Allocated");
        // On a busy machine the next attempt may fail, too.
        sidecar.wait_for_line("works again after", AFTER_BACKOFF);
        assert_eq!((scene.ops_state().as_str(), &scene.record()["opsState"]), ("Allocated", &json!("Allocated")));
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.api.connections_accepted(), 3, "{case} {which:?}: {:?}", scene.patched());
        one_fault_was_told(&sidecar, case);
        let after = sidecar.vm_hwm_kib();
        assert!(after <= before + 512, "{case} {which:?}: {before} KiB before, {after} KiB after");
        eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
    });
}

#[test]
fn white_space_after_an_answer_grows_no_memory_and_loses_nothing() {
    let cases = [Fault::EndlessBody, Fault::HugeBody(1 << 20), Fault::HugeBody(4 << 20)];
    side_by_side(&cases, |fault| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        let before = sidecar.vm_hwm_kib();
        for which in [Which::reads(), Which::writes()] {
            scene.api.next_of(&which, [fault.clone()]);
        }
        scene.game.set(200, "Allocated");
        sidecar.eventually(AFTER_BACKOFF, "the new state", || scene.ops_state() == "Allocated");
        scene.await_probes(&sidecar, 2);
        let after = sidecar.vm_hwm_kib();
        assert!(after <= before + 512, "{fault:?}: {before} KiB before, {after} KiB after");
        eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
    });
}

#[test]
fn an_answer_of_nearly_two_mebibytes_is_read() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let before = sidecar.vm_hwm_kib();
    scene.api.next_of(&Which::reads(), [Fault::LongAnswer((2 << 20) - 16_384)]);
    scene.api.next_of(&Which::writes(), [Fault::LongAnswer((2 << 20) - 16_384)]);
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    assert_eq!(sidecar.count_lines("retrying"), 0, "{}", sidecar.stderr());
    let after = sidecar.vm_hwm_kib();
    assert!(after <= before + 512, "{before} KiB before, {after} KiB after");
}

#[test]
fn a_refusal_of_any_size_grows_no_memory_and_fills_no_log() {
    let endless = |head: &str| Fault::Raw([head.as_bytes(), &[b'x'; 4 << 20]].concat());
    let cases = [
        ("a huge body", endless("HTTP/1.1 500 Oops\r\n\r\n")),
        ("a huge reason", endless("HTTP/1.1 500 ")),
        ("a huge header", endless("HTTP/1.1 500 Oops\r\nX: ")),
        ("a huge message", Fault::status(403, &"x".repeat(1 << 20))),
        ("headers without end", Fault::EndlessHeaders),
        ("lines without end", Fault::Raw(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(40_000))),
    ];
    side_by_side(&cases, |(case, fault)| {
        let scene = Scene::new();
        let sidecar = settled(&scene);
        let before = sidecar.vm_hwm_kib();
        scene.api.next([fault.clone(), fault.clone()]);
        scene.game.set(200, "Allocated");
        sidecar.wait_for_line("-> Allocated (", AFTER_BACKOFF);
        assert!(scene.api.connections_accepted() >= 4, "{case}");
        let after = sidecar.vm_hwm_kib();
        assert!(after <= before + 512, "{case}: {before} KiB before, {after} KiB after");
        assert!(sidecar.lines().iter().all(|line| line.text.len() < 600), "{case}: {}", sidecar.stderr());
        one_fault_was_told(&sidecar, case);
    });
}

// ---- at rest

#[test]
fn at_rest_the_api_server_hears_nothing_and_the_log_says_nothing() {
    let scene = Scene::new();
    let health = Game::start();
    let healthy =
        endpoint(&health.url("/"), "timeout: 1", "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]");
    let room = scene.endpoint(
        "timeout: 1",
        "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}], annotationKey: room",
    );
    scene.pod.update_config(&config(&[healthy, room]));
    // A server that would keep the connection.
    scene.api.next([Fault::Answer {
        status: 200,
        headers: vec![("Connection".into(), "keep-alive".into()), ("Keep-Alive".into(), "timeout=60".into())],
        body: scene.api.object(&scene.path()).unwrap().to_string(),
    }]);
    let sidecar = settled(&scene);
    sidecar.eventually(SOON, "the pod is written", || sidecar.count_lines("Pod: ") == 1);
    let (connections, lines) = (scene.api.connections_accepted(), sidecar.stderr().lines().count());
    assert_eq!((connections, scene.api.requests_per_connection()), (2, vec![2, 1]), "{}", sidecar.stderr());
    scene.await_probes(&sidecar, 5);
    assert_eq!(scene.api.connections_accepted(), connections);
    assert_eq!(sidecar.stderr().lines().count(), lines, "{}", sidecar.stderr());
    assert_eq!(scene.api.open_connections(), 0);
    assert_eq!(sidecar.threads(), 1);
}

// ---- what a write is (4.2, 4.3)

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
    let annotations = sent["metadata"]["annotations"].take();
    assert_eq!(
        sent,
        json!({"metadata": {"resourceVersion": read_version, "annotations": null}, "spec": {"opsState": "None"}})
    );
    let annotations: Vec<(&str, &str)> =
        annotations.as_object().unwrap().iter().map(|(key, text)| (key.as_str(), text.as_str().unwrap())).collect();
    let [(RECORD, for_people), (own, record)] = annotations[..] else { panic!("{annotations:?}") };
    let (before, at) = for_people.split_once(r#""at":""#).unwrap();
    assert_eq!(before, format!(r#"{{"opsState":"None","pod":"{POD_UID}","#));
    let number = own.strip_prefix(RECORD).and_then(|number| number.strip_prefix('-')).unwrap();
    assert!(number.len() == 13 && number.starts_with('1'), "the clock in milliseconds: {number}");
    assert_eq!(record, format!(r#"{before}"first":{number},"at":"{at}"#));
    // RFC 3339 with milliseconds, in UTC.
    let shape: String = at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z\"}");
    assert_eq!(scene.api.requests_per_connection(), [2]);
    stand_ins::eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
}

#[test]
fn a_start_and_a_change_cost_two_requests_on_one_connection_and_rest_costs_none() {
    let scene = Scene::new();
    let sidecar = steps::settled(&scene, "None");
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.api.requests_per_connection(), [2]);
    steps::say(&scene, &sidecar, "Allocated");
    assert_eq!((scene.api.requests_per_connection(), scene.api.open_connections()), (vec![2, 2], 0));
    drop(sidecar);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "a record", || scene.writes().len() == 3);
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.api.requests_per_connection(), [2, 2, 2]);
    assert_eq!(spec(&scene.writes()[2]), Value::Null);
}

#[test]
fn the_game_server_is_written_before_anything_else() {
    let scene = scene_of(
        "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}], \
         target: {version: v1, resource: configmaps, name: rooms}, jsonPath: /data/state",
    );
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "a write to each", || scene.api.requests().len() >= 4);
    let paths: Vec<String> = scene.api.requests().iter().map(|request| request.path().to_owned()).collect();
    assert_eq!((&paths[0], &paths[1]), (&scene.path(), &scene.path()));
}

// ---- how soon (4.5)

#[test]
fn after_an_outage_the_newest_state_is_in_within_the_longest_wait() {
    let scene = Scene::new();
    let sidecar = steps::settled(&scene, "None");
    scene.api.stop();
    let rounds = scene.game.requests().len();
    scene.game.set(200, "Allocated");
    sidecar.eventually(A_MINUTE, "25 seconds", || scene.game.requests().len() >= rounds + 25);
    scene.game.set(200, "WaitToBeDeleted");
    scene.await_probes(&sidecar, 2);
    scene.api.start_again();
    let arrived = || scene.ops_state() == "WaitToBeDeleted";
    sidecar.eventually(Duration::from_millis(16_500), "the newest state", arrived);
    assert_eq!(scene.patched(), ["None", "WaitToBeDeleted"]);
}

#[test]
fn the_right_game_server_after_a_previous_pods_is_written_within_five_seconds() {
    side_by_side(&["a previous pod's", "none at all"], |case| {
        let scene = Scene::new();
        match *case {
            "a previous pod's" => scene.give_to_pod(OTHER_POD_UID),
            _ => scene.api.remove(&scene.path()),
        }
        scene.game.set(200, "Allocated");
        let sidecar = scene.sidecar().start();
        scene.await_probes(&sidecar, 13);
        assert_eq!(sidecar.count_lines("WARN"), 0, "{case}: {}", sidecar.stderr());
        scene.recreate(POD_UID);
        let arrived = || scene.ops_state() == "Allocated";
        sidecar.eventually(Duration::from_millis(6500), case, arrived);
        sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
        assert_eq!(sidecar.stderr().lines().count(), 2, "{case}: {}", sidecar.stderr());
    });
}
