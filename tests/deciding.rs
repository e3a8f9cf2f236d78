//! From results to decisions: which policy a result selects, how often it must come, and which endpoint decides a field
//! (behaviour 5).

use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{config, endpoint};
use stand_ins::{Behaviour, Game, SOON, Scene};

use crate::steps::{HEALTH, becomes, say, scene_of, scene_with_health, settled, spec};

// ---- policies and thresholds (5.1, 5.2)

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
    assert_eq!(sidecar.count_lines("no policy matches the result"), 1, "{}", sidecar.stderr());
    scene.game.set(200, "None");
    sidecar.wait_for_line("opsState Allocated -> None", SOON);
    scene.game.set(200, "x\u{1b}[31m\nINFO forged");
    sidecar.wait_for_line("no policy matches the result `x\\u{1b}[31m\\nINFO forged`", SOON);
    assert_eq!(sidecar.count_lines("no policy matches the result"), 2);
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
fn what_lasts_is_written_when_its_time_has_come_and_a_restart_neither_takes_it_back_nor_gives_it_early() {
    let scene = Scene::new();
    let policies = "markerPolices: [{state: idle, gameServerOpsState: None}, {state: busy, gameServerOpsState: Allocated}, \
                    {state: idle, forSeconds: 3, gameServerOpsState: WaitToBeDeleted}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", policies)]));
    scene.game.set(200, "busy");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    let busy = scene.game.requests().len();
    scene.game.set(200, "idle");
    sidecar.wait_for_line("opsState Allocated -> None", SOON);
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
    let waited = scene.writes()[2].at - scene.game.requests()[busy].at;
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    drop(sidecar);

    let sidecar = scene.sidecar().start();
    scene.await_probes(&sidecar, 6);
    assert_eq!(scene.patched(), ["Allocated", "None", "WaitToBeDeleted"]);
    // A matchmaker's word, and nobody knows how long the game has been idle: first the time, then the decision.
    drop(sidecar);
    scene.game.set(200, "busy");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState WaitToBeDeleted -> Allocated", SOON);
    drop(sidecar);
    scene.game.set(200, "idle");
    let probes = scene.game.requests().len();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState Allocated -> WaitToBeDeleted", SOON);
    assert!(scene.game.requests().len() - probes > 3);
    assert_eq!(scene.patched(), ["Allocated", "None", "WaitToBeDeleted", "Allocated", "WaitToBeDeleted"]);
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

// ---- who decides (5.2 to 5.4)

#[test]
fn a_restart_while_a_health_check_fails_does_not_hand_the_decision_to_the_room() {
    let (scene, health) = scene_with_health("failureThreshold: 3");
    health.set(500, "");
    drop(settled(&scene, "Maintaining"));
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "five rounds", || health.requests().len() >= 8);
    scene.await_probes(&sidecar, 2);
    assert_eq!((scene.patched(), scene.ops_state().as_str()), (vec!["Maintaining".to_owned()], "Maintaining"));
}

#[test]
fn an_endpoint_that_reaches_no_threshold_is_waited_for_as_often_as_the_larger_one_says() {
    let (scene, health) = scene_with_health("failureThreshold: 3, successThreshold: 2");
    let steps = [500, 200].repeat(20).into_iter().map(|status| Behaviour::answer(status, ""));
    health.behave(Behaviour::Script(steps.collect()));
    let sidecar = settled(&scene, "None");
    let third_probe = health.requests()[2].at;
    assert!(scene.writes()[0].at > third_probe, "{}", sidecar.stderr());
    assert_eq!(scene.writes().len(), 1);
}

#[test]
fn while_an_endpoint_is_undecided_others_decide_what_it_cannot_set() {
    let (scene, health) = (Scene::new(), Game::start());
    health.set(500, "");
    let room = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 5}]";
    scene.pod.update_config(&config(&[
        endpoint(&health.url("/"), "timeout: 1, failureThreshold: 3", HEALTH),
        scene.endpoint("timeout: 1", room),
    ]));
    let sidecar = settled(&scene, "Maintaining");
    let specs: Vec<Value> = scene.writes().iter().map(spec).collect();
    assert_eq!(specs, [json!({"deletionPriority": 5}), json!({"opsState": "Maintaining"})], "{}", sidecar.stderr());
}

#[test]
fn each_field_is_decided_by_the_first_endpoint_that_sets_it_to_what_it_can_hold() {
    let (scene, first, second) = (Scene::new(), Game::start(), Game::start());
    second.set(200, "b");
    first.set(200, "no priority");
    scene.pod.update_config(&config(&[
        endpoint(&first.url("/"), "timeout: 1", "jsonPath: /spec/deletionPriority"),
        endpoint(&second.url("/"), "timeout: 1", "markerPolices: [{state: b, gameServerUpdatePriority: 4}]"),
        scene.endpoint(
            "timeout: 1",
            "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 5, \
             gameServerUpdatePriority: 6}]",
        ),
    ]));
    let sidecar = settled(&scene, "None");
    let priorities = [scene.field("/spec/updatePriority"), scene.field("/spec/deletionPriority")];
    assert_eq!(priorities, [json!(4), json!(5)], "{}", sidecar.stderr());
    // The log names the endpoints in the order of their fields.
    let line = sidecar
        .wait_for_line("/spec/deletionPriority 5, opsState unknown -> None, /spec/updatePriority 4 (", SOON)
        .text;
    assert!(line.contains("(endpoints[2] http://") && line.contains(", endpoints[1] http://"), "{line}");
    first.set(200, "7");
    sidecar.eventually(SOON, "the first endpoint's", || scene.field("/spec/deletionPriority") == 7);
}

#[test]
fn the_words_for_success_and_failure_are_no_results() {
    for (policies, body, state) in [
        ("{state: Failed, gameServerOpsState: Maintaining}, {state: None, gameServerOpsState: None}", "Failed", ""),
        (
            "{state: Failed, gameServerOpsState: Maintaining}, {state: Succeeded, gameServerOpsState: Allocated}",
            "Failed",
            "Allocated",
        ),
        ("{min: 1, gameServerOpsState: Allocated}, {state: Succeeded, gameServerOpsState: None}", "Succeeded", "None"),
    ] {
        let scene = scene_of(&format!("markerPolices: [{policies}]"));
        scene.game.set(200, body);
        let sidecar = scene.sidecar().start();
        scene.await_probes(&sidecar, 3);
        let expected: &[&str] = if state.is_empty() { &[] } else { &[state] };
        assert_eq!(scene.patched(), expected, "{policies}");
    }
}

#[test]
fn what_was_decided_and_is_not_in_yet_is_written_though_no_opinion_says_it_any_more() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.api.stop();
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("retrying", SOON);
    say(&scene, &sidecar, "something that no policy matches");
    scene.api.start_again();
    becomes(&scene, &sidecar, "Allocated");
}
