//! Histories that end with the right value, against the real binary (behaviour 8, and the clauses that it stands on): restarts,
//! reloads, replaced pods, foreign writers, and answers that are refused, lost, late or broken.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{binary, config, endpoint};
use stand_ins::{
    Behaviour, Fault, Game, OTHER_POD_UID, POD_UID, RECORD, Request, SOON, Scene, SidecarProcess, Which, bound_token,
    game_server, pod_object, side_by_side,
};

/// What waits for a minute, and a little for the machine.
const A_MINUTE: Duration = Duration::from_secs(75);

/// A room whose result is its state.
const ROOM: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                    {state: Allocated, gameServerOpsState: Allocated}, \
                    {state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";

/// A health check that overrules the room while it fails.
const HEALTH: &str = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";

/// A room whose second state differs from the first in one priority alone.
const RANKED_ROOM: &str = "markerPolices: [\
                           {state: low, gameServerOpsState: Allocated, gameServerDeletionPriority: 1}, \
                           {state: high, gameServerOpsState: Allocated, gameServerDeletionPriority: 2}]";

/// A scene of one endpoint with this inside its `inKube`.
fn scene_of(in_kube: &str) -> Scene {
    let scene = Scene::new();
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", in_kube)]));
    scene
}

/// A scene whose room stands behind a health check with these keys.
fn scene_with_health(keys: &str) -> (Scene, Game) {
    let (scene, health) = (Scene::new(), Game::start());
    let health_endpoint = endpoint(&health.url("/"), &format!("timeout: 1, {keys}"), HEALTH);
    scene.pod.update_config(&config(&[health_endpoint, scene.endpoint("timeout: 1", ROOM)]));
    (scene, health)
}

/// Starts the sidecar, and waits until it has written and the GameServer has this opsState.
#[track_caller]
fn settled(scene: &Scene, state: &str) -> SidecarProcess {
    let sidecar = scene.sidecar().start();
    let written = || scene.writes().iter().any(|write| write.answered == Some(200));
    sidecar.eventually(SOON, "a first write", written);
    becomes(scene, &sidecar, state);
    sidecar
}

/// Waits until the GameServer has this opsState.
#[track_caller]
fn becomes(scene: &Scene, sidecar: &SidecarProcess, state: &str) {
    sidecar.eventually(SOON, &format!("opsState {state}"), || scene.ops_state() == state);
}

/// The game says this, and what it says has been acted on.
#[track_caller]
fn say(scene: &Scene, sidecar: &SidecarProcess, result: &str) {
    scene.game.set(200, result);
    scene.await_probes(sidecar, 3);
}

/// A config with another interval in seconds.
fn every(seconds: u32, config: &str) -> String {
    config.replace("probeIntervalSeconds: 1", &format!("probeIntervalSeconds: {seconds}"))
}

/// A config that reads the GameServer every second.
fn with_resync(config: &str) -> String {
    config.replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1")
}

/// A record of the pod of this uid.
fn record(ops_state: &str, pod_uid: &str) -> Value {
    json!({"opsState": ops_state, "pod": pod_uid, "at": "2020-02-02T08:00:00.000Z"})
}

/// What a write says of spec; `Null` when it is the record alone.
fn spec(write: &Request) -> Value {
    write.json()["spec"].take()
}

// ---- what it costs

#[test]
fn a_start_and_a_change_cost_two_requests_on_one_connection_and_rest_costs_none() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.api.requests_per_connection(), [2]);
    say(&scene, &sidecar, "Allocated");
    assert_eq!((scene.api.requests_per_connection(), scene.api.open_connections()), (vec![2, 2], 0));
    drop(sidecar);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "a record", || scene.writes().len() == 3);
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.api.requests_per_connection(), [2, 2, 2]);
    assert_eq!(spec(&scene.writes()[2]), Value::Null);
}

// ---- whose value survives (4.3, 8.4)

#[test]
fn an_update_of_the_sidecar_in_place_overwrites_nobody() {
    let scene = Scene::new();
    drop(settled(&scene, "None"));
    scene.somebody_sets("matchmaker", "Allocated");
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "a record", || scene.writes().len() == 2);
    scene.await_probes(&sidecar, 3);
    assert_eq!((scene.patched(), scene.ops_state().as_str()), (vec!["None".to_owned()], "Allocated"));
    say(&scene, &sidecar, "WaitToBeDeleted");
    assert_eq!(scene.ops_state(), "WaitToBeDeleted");
    assert_eq!(sidecar.count_lines("opsState None -> WaitToBeDeleted"), 1, "{}", sidecar.stderr());
}

#[test]
fn what_was_decided_last_counts_however_long_nothing_was_decided_in_between() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.somebody_sets("matchmaker", "Allocated");
    scene.game.set(500, "");
    scene.await_probes(&sidecar, 5);
    say(&scene, &sidecar, "something that no policy knows");
    say(&scene, &sidecar, "None");
    assert_eq!((scene.writes().len(), scene.ops_state().as_str()), (1, "Allocated"));
}

#[test]
fn neither_a_reload_nor_a_lost_answer_nor_a_retry_is_a_new_decision() {
    side_by_side(&["a reload", "a lost answer", "a broken answer", "a restart between read and patch"], |case| {
        let scene = Scene::new();
        let mut sidecar = settled(&scene, "None");
        let path = scene.path();
        let matchmaker = move |objects: &mut stand_ins::Objects| {
            objects.edit(&path, "matchmaker", |object| object["spec"]["opsState"] = json!("WaitToBeDeleted"));
        };
        match *case {
            "a reload" => {
                scene.somebody_sets("matchmaker", "WaitToBeDeleted");
                scene.pod.update_config(&scene.rooms("failureThreshold: 5"));
                sidecar.wait_for_line("configuration read anew", SOON);
            }
            "a restart between read and patch" => {
                drop(sidecar);
                scene.api.before_next(&Which::writes(), matchmaker);
                sidecar = scene.sidecar().start();
                sidecar.eventually(SOON, "a conflict and a record", || scene.writes().len() == 3);
                assert_eq!(scene.writes()[1].answered, Some(409));
            }
            _ => {
                let fault = if *case == "a lost answer" { Fault::ApplyThenDrop } else { Fault::BreakOff };
                scene.api.next_of(&Which::writes(), [fault]);
                // Not before the attempt, but before the next one looks.
                scene.api.before_next(&Which::reads(), |_| {});
                scene.api.before_next(&Which::reads(), matchmaker);
                scene.game.set(200, "Allocated");
                sidecar.wait_for_line("works again after", SOON);
            }
        }
        scene.await_probes(&sidecar, 4);
        assert_eq!(scene.ops_state(), "WaitToBeDeleted", "{case}: {:?}", scene.patched());
    });
}

#[test]
fn a_record_counts_where_it_is_of_this_pod_or_of_no_pod_or_no_uid_is_known() {
    let no_pod = json!({"opsState": "None", "at": "2020-02-02T08:00:00.000Z"});
    let cases = [
        ("this pod's", record("None", POD_UID), true, true),
        ("no pod's", no_pod, true, true),
        ("another pod's where no uid is known", record("None", OTHER_POD_UID), false, true),
        ("another pod's", record("None", OTHER_POD_UID), true, false),
        ("no JSON object", json!("None"), true, false),
    ];
    side_by_side(&cases, |(case, record, uid_given, counts)| {
        let scene = Scene::new();
        // As with reclaimPolicy Delete, where the object outlives its pod.
        scene.give_to_set();
        scene.set_record(record);
        scene.somebody_sets("matchmaker", "Allocated");
        let sidecar = scene.sidecar();
        let sidecar = if *uid_given { sidecar } else { sidecar.without_env("POD_UID") }.start();
        sidecar.eventually(SOON, "a first write", || scene.writes().len() == 1);
        scene.await_probes(&sidecar, 2);
        let expected = if *counts { "Allocated" } else { "None" };
        assert_eq!(scene.ops_state(), expected, "{case}: {:?}", scene.writes());
    });
}

#[test]
fn the_record_tells_every_field_that_was_ever_decided() {
    let scene = Scene::new();
    let priorities = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 5}, \
                      {state: Allocated, gameServerOpsState: Allocated}]";
    let switch = Game::start();
    switch.set(200, r#"{"cut": true}"#);
    let network = endpoint(
        &switch.url("/"),
        "timeout: 1, jsonPathConfig: {jsonPath: cut, fieldType: boolean}",
        "jsonPath: /spec/networkDisabled",
    );
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", priorities), network]));
    // By a version of the sidecar, or a config, that decided more.
    let mut before = record("None", POD_UID);
    before["updatePriority"] = json!(7);
    scene.set_record(&before);
    let sidecar = settled(&scene, "None");
    let fields = |record: &Value| {
        ["opsState", "deletionPriority", "updatePriority", "/spec/networkDisabled", "pod"]
            .map(|key| record[key].clone())
    };
    let first = [json!("None"), json!(5), json!(7), json!(true), json!(POD_UID)];
    sidecar.eventually(SOON, "the whole record", || fields(&scene.record()) == first);
    assert_eq!(scene.field("/spec/networkDisabled"), json!(true));
    assert_eq!(scene.field("/spec/updatePriority"), json!(0), "decided by nobody here");
    say(&scene, &sidecar, "Allocated");
    let second = [json!("Allocated"), json!(5), json!(7), json!(true), json!(POD_UID)];
    assert_eq!(fields(&scene.record()), second);
    assert!(scene.record()["at"].as_str() > before["at"].as_str(), "{}", scene.record());
}

#[test]
fn an_older_record_out_of_a_cache_hides_no_change_of_a_running_process() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    let older = scene.record();
    say(&scene, &sidecar, "Allocated");
    scene.set_record(&older);
    // Nothing new was decided.
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.writes().len(), 2);
    say(&scene, &sidecar, "None");
    assert_eq!(scene.ops_state(), "None", "{:?}", scene.patched());
}

#[test]
fn what_another_has_set_to_a_protected_state_survives_until_it_takes_it_back() {
    let scene = scene_of(&format!("{ROOM}, protectedOpsStates: [Maintaining]"));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let record = scene.record();
    scene.somebody_sets("kubectl-edit", "Maintaining");
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("which is protected", SOON);
    scene.await_probes(&sidecar, 5);
    // Not the record either, and the next look is half a minute away.
    assert_eq!((scene.writes().len(), scene.ops_state().as_str(), scene.record()), (1, "Maintaining", record));
    assert_eq!(scene.reads(), 2);
    assert_eq!(sidecar.count_lines("protected"), 1, "{}", sidecar.stderr());
    scene.somebody_sets("kubectl-edit", "None");
    sidecar.wait_for_line("opsState None -> Allocated", A_MINUTE);
    assert_eq!(scene.patched(), ["None", "Allocated"]);
    assert_eq!(sidecar.count_lines("works again after"), 1, "{}", sidecar.stderr());
}

// ---- whose object it is (4.6, 8.6)

#[test]
fn a_process_writes_nothing_to_the_game_server_of_another_pod() {
    side_by_side(&["owned by another pod", "replaced between read and patch", "recorded by a successor"], |case| {
        let scene = Scene::new();
        let sidecar = match *case {
            "owned by another pod" => {
                scene.give_to_pod(OTHER_POD_UID);
                scene.sidecar().start()
            }
            "recorded by a successor" => {
                // With reclaimPolicy Delete no owner tells the two pods apart.
                scene.give_to_set();
                let sidecar = settled(&scene, "None");
                scene.set_record(&record("None", OTHER_POD_UID));
                sidecar
            }
            _ => {
                let sidecar = settled(&scene, "None");
                let path = scene.path();
                scene.api.before_next(&Which::writes(), move |objects| {
                    objects.put(&path, game_server("games", "gs-0", OTHER_POD_UID));
                });
                sidecar
            }
        };
        let asked = || scene.requests_for(&scene.path()).len();
        let before = asked();
        scene.game.set(200, "Allocated");
        sidecar.eventually(SOON, "an attempt", || asked() > before);
        scene.await_probes(&sidecar, 5);
        assert_eq!(scene.ops_state(), "None", "{case}: {:?}", scene.writes());
        let landed = scene.writes().into_iter().filter(|write| write.answered == Some(200));
        let allocated = landed.filter(|write| write.body.contains("Allocated")).count();
        assert_eq!(allocated, 0, "{case}: {:?}", scene.writes());
    });
}

#[test]
fn an_object_that_cannot_be_read_whole_is_nobodys_to_write() {
    side_by_side(&[Fault::BreakOff, Fault::LongAnswer(300 << 10), Fault::LongAnswer(3 << 20)], |fault| {
        let scene = Scene::new();
        scene.give_to_pod(OTHER_POD_UID);
        scene.api.always_of(&Which::reads(), Some(fault.clone()));
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "an attempt", || !scene.requests_for(&scene.path()).is_empty());
        scene.await_probes(&sidecar, 4);
        assert_eq!(scene.writes().len(), 0, "{fault:?}");
    });
}

#[test]
fn an_earlier_pods_record_that_comes_back_out_of_a_cache_stops_nothing() {
    let scene = Scene::new();
    scene.give_to_set();
    let earlier = record("WaitToBeDeleted", OTHER_POD_UID);
    scene.set_record(&earlier);
    let sidecar = settled(&scene, "None");
    assert_eq!(scene.record()["pod"], POD_UID);
    scene.set_record(&earlier);
    scene.game.set(200, "Allocated");
    becomes(&scene, &sidecar, "Allocated");
    assert_eq!(scene.record()["pod"], POD_UID);
}

#[test]
fn a_pod_of_another_uid_is_not_labelled() {
    let scene = scene_of("markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}]");
    scene.api.put(&scene.pod_path(), pod_object("games", "gs-0", OTHER_POD_UID));
    let sidecar = settled(&scene, "None");
    sidecar.eventually(SOON, "an attempt", || !scene.writes_to(&scene.pod_path()).is_empty());
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.field_of(&scene.pod_path(), "/metadata/labels/room"), Value::Null);
    let attempts = scene.writes_to(&scene.pod_path());
    assert!(attempts.iter().all(|attempt| attempt.json()["metadata"]["uid"] == POD_UID), "{attempts:?}");
    assert_eq!(
        scene.reads(),
        scene.api.requests().iter().filter(|request| request.is_read()).count(),
        "a Pod is never read"
    );
}

// ---- who it is (4.1)

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
        let told = sidecar.lines().iter().filter(|line| line.text.contains("WARN") && line.text.contains(name)).count();
        assert_eq!(told, 1, "{name}: {}", sidecar.stderr());
    }
}

// ---- attempts that are lost or late (4.6, 8.3)

#[test]
fn a_lost_attempt_that_arrives_after_a_newer_decision_is_refused() {
    // The second takes the lost decision back: no field differs, and the object moves on all the same.
    side_by_side(&["WaitToBeDeleted", "None"], |&next| {
        let scene = Scene::new();
        let sidecar = settled(&scene, "None");
        scene.api.next_of(&Which::writes(), [Fault::Lost]);
        scene.game.set(200, "Allocated");
        sidecar.eventually(SOON, "the lost attempt", || scene.writes().len() == 2);
        scene.api.always(Some(Fault::status(503, "not now")));
        say(&scene, &sidecar, next);
        scene.api.always(None);
        sidecar.wait_for_line("works again after", SOON * 2);
        becomes(&scene, &sidecar, next);
        scene.api.deliver_lost();
        assert_eq!((scene.api.late_answers(), scene.ops_state().as_str()), (vec![409], next));
        scene.await_probes(&sidecar, 2);
        assert_eq!(scene.ops_state(), next);
    });
}

#[test]
fn a_lost_attempt_that_arrives_before_the_next_is_corrected() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.api.next_of(&Which::writes(), [Fault::Lost]);
    scene.game.set(200, "Allocated");
    sidecar.eventually(SOON, "the lost attempt", || scene.writes().len() == 2);
    scene.api.always(Some(Fault::status(503, "not now")));
    say(&scene, &sidecar, "None");
    scene.api.deliver_lost();
    assert_eq!((scene.api.late_answers(), scene.ops_state().as_str()), (vec![200], "Allocated"));
    scene.api.always(None);
    sidecar.wait_for_line("works again after", SOON * 2);
    becomes(&scene, &sidecar, "None");
}

#[test]
fn a_lost_attempt_on_what_is_never_read_is_made_up_for_after_a_minute() {
    let target = "/api/v1/namespaces/games/configmaps/rooms";
    let policies = "markerPolices: [{state: one, labels: {room: full}}, {state: two, annotations: {kept: 'yes'}}], \
                    annotationKey: state";
    let to_target = "target: {version: v1, resource: configmaps, name: rooms}, jsonPath: /data/state";
    side_by_side(&["the Pod", "the Pod over a reload", "a target"], |case| {
        let is_pod = *case != "a target";
        let in_kube = if is_pod { policies } else { to_target };
        let scene = scene_of(in_kube);
        scene.api.put(target, json!({"metadata": {}}));
        let path = if is_pod { scene.pod_path() } else { target.to_owned() };
        let pointer = if is_pod { "/metadata/annotations/state" } else { "/data/state" };
        scene.game.set(200, "one");
        scene.api.next_of(&Which::writes().to(&path), [Fault::Lost]);
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "the lost attempt", || !scene.writes_to(&path).is_empty());
        scene.game.set(200, "two");
        let holds = |value: &str| {
            let room = scene.field_of(&path, "/metadata/labels/room");
            scene.field_of(&path, pointer) == value && room.is_null() == (value == "two" || !is_pod)
        };
        sidecar.eventually(SOON, "the second result", || holds("two"));
        if *case == "the Pod over a reload" {
            scene.pod.update_config(&config(&[scene.endpoint("timeout: 1, failureThreshold: 5", in_kube)]));
            sidecar.wait_for_line("configuration read anew", SOON);
            scene.await_probes(&sidecar, 3);
        }
        let confirmed = scene.writes_to(&path).len();
        scene.api.deliver_lost();
        assert!(holds("one"), "{case}: {:?}", scene.api.object(&path));
        sidecar.eventually(A_MINUTE, "the second result again", || holds("two"));
        let writes = scene.writes_to(&path);
        assert_eq!(writes.len(), confirmed + 1, "{case}");
        let waited = writes[confirmed].at - writes[0].at;
        assert!(waited > Duration::from_secs(59) && waited < Duration::from_secs(70), "{case}: {waited:?}");
        scene.await_probes(&sidecar, 3);
        assert_eq!(scene.writes_to(&path).len(), confirmed + 1, "{case}");
    });
}

// ---- objects that are created anew (8.7)

#[test]
fn a_game_server_that_forgot_gets_every_field_at_the_next_write_start_or_resync() {
    let forgets = ["created anew", "its record is gone"];
    let occasions = ["the next write", "a start", "a resync"];
    let cases: Vec<(&str, &str)> =
        forgets.iter().flat_map(|forget| occasions.iter().map(|occasion| (*forget, *occasion))).collect();
    side_by_side(&cases, |(forget, occasion)| {
        let scene = scene_of(RANKED_ROOM);
        if *occasion == "a resync" {
            scene.pod.update_config(&with_resync(&config(&[scene.endpoint("timeout: 1", RANKED_ROOM)])));
        }
        scene.game.set(200, "low");
        let mut sidecar = settled(&scene, "Allocated");
        if *forget == "created anew" {
            scene.recreate(POD_UID);
        } else {
            scene.remove_record();
            scene.somebody_sets("manager", "None");
        }
        if *occasion != "a resync" {
            scene.await_probes(&sidecar, 2);
            assert_eq!((scene.writes().len(), scene.ops_state().as_str()), (1, "None"), "nothing new was decided");
        }
        let mut priority = 1;
        match *occasion {
            "the next write" => {
                scene.game.set(200, "high");
                priority = 2;
            }
            "a start" => {
                drop(sidecar);
                sidecar = scene.sidecar().start();
            }
            _ => {}
        }
        becomes(&scene, &sidecar, "Allocated");
        assert_eq!(scene.field("/spec/deletionPriority"), json!(priority), "{forget}, {occasion}");
    });
}

#[test]
fn a_game_server_that_was_away_for_a_write_gets_every_field_when_it_is_back() {
    let scene = scene_of(RANKED_ROOM);
    scene.game.set(200, "low");
    let sidecar = settled(&scene, "Allocated");
    scene.api.remove(&scene.path());
    say(&scene, &sidecar, "high");
    scene.recreate(POD_UID);
    becomes(&scene, &sidecar, "Allocated");
    assert_eq!(scene.field("/spec/deletionPriority"), json!(2));
}

// ---- fields that are refused (8.2)

#[test]
fn a_field_that_is_refused_holds_back_no_other() {
    let not_a_boolean = "markerPolices: [{state: None, gameServerOpsState: None}, \
                         {state: Allocated, gameServerOpsState: Allocated}], jsonPath: /spec/networkDisabled";
    let ranked = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 1}, \
                  {state: Allocated, gameServerOpsState: Allocated, gameServerDeletionPriority: 2}]";
    side_by_side(&[(400, ranked), (422, ranked), (422, not_a_boolean)], |&(status, in_kube)| {
        let scene = scene_of(in_kube);
        if in_kube == ranked {
            scene.api.refuse("/spec/deletionPriority", None, status);
        }
        let sidecar = settled(&scene, "None");
        // The one after the whole.
        assert_eq!(spec(&scene.writes()[1]), json!({"opsState": "None"}), "{status}");
        scene.game.set(200, "Allocated");
        becomes(&scene, &sidecar, "Allocated");
        assert_eq!(scene.field("/spec/deletionPriority"), json!(0));
        assert_eq!(scene.field("/spec/networkDisabled"), json!(false));
        let line = sidecar.wait_for_line("goes on trying", SOON).text;
        assert!(line.contains(&format!("status {status}")), "{line}");
    });
}

#[test]
fn a_refused_ops_state_holds_back_no_priority() {
    let scene = scene_of("markerPolices: [{state: None, gameServerOpsState: Kill, gameServerDeletionPriority: 3}]");
    scene.api.refuse("/spec/opsState", Some(json!("Kill")), 422);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "the priority", || scene.field("/spec/deletionPriority") == 3);
    assert_eq!(scene.ops_state(), "None");
}

#[test]
fn a_refused_key_of_the_pod_holds_back_no_other() {
    let scene = scene_of(
        "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}, \
          annotations: {controller.kubernetes.io/pod-deletion-cost: high, note: x}}, \
         {state: Allocated, gameServerOpsState: Allocated, labels: {room: busy}, \
          annotations: {controller.kubernetes.io/pod-deletion-cost: '5', note: y}}]",
    );
    let cost = "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost";
    scene.api.refuse(cost, Some(json!("high")), 422);
    let pod = scene.pod_path();
    let holds = |room: &str, note: &str| {
        scene.field_of(&pod, "/metadata/labels/room") == room
            && scene.field_of(&pod, "/metadata/annotations/note") == note
    };
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "the others", || holds("idle", "x"));
    assert_eq!(scene.field_of(&pod, cost), Value::Null);
    scene.game.set(200, "Allocated");
    sidecar.eventually(SOON, "all of them", || holds("busy", "y") && scene.field_of(&pod, cost) == "5");
}

#[test]
fn a_refused_field_is_tried_again_within_a_minute_and_decides_all_the_while() {
    let scene = Scene::new();
    let priorities = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 1}]";
    let next = "markerPolices: [{state: None, gameServerDeletionPriority: 9}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", priorities), scene.endpoint("timeout: 1", next)]));
    scene.api.refuse("/spec/deletionPriority", Some(json!(1)), 422);
    let sidecar = settled(&scene, "None");
    scene.await_probes(&sidecar, 6);
    let refused = |writes: &[Request]| -> Vec<_> {
        writes.iter().filter(|write| !spec(write)["deletionPriority"].is_null()).map(|write| write.at).collect()
    };
    let tried = refused(&scene.writes()).len();
    assert!(tried <= 2, "{:?}", scene.writes());
    // Nobody takes over what the API server refuses.
    assert_eq!(scene.field("/spec/deletionPriority"), json!(0));
    scene.api.refuse_nothing();
    sidecar.eventually(A_MINUTE, "the priority", || scene.field("/spec/deletionPriority") == 1);
    let tries = refused(&scene.writes());
    let waited = tries[tried] - tries[tried - 1];
    assert!(waited > Duration::from_secs(29) && waited < Duration::from_secs(63), "{waited:?}");
}

// ---- who decides (5)

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
    first.set(200, "no opsState");
    scene.pod.update_config(&config(&[
        endpoint(&first.url("/"), "timeout: 1", "jsonPath: /spec/opsState"),
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
    first.set(200, "Allocated");
    becomes(&scene, &sidecar, "Allocated");
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
    sidecar.wait_for_line("goes on trying", SOON);
    say(&scene, &sidecar, "something that no policy knows");
    scene.api.start_again();
    becomes(&scene, &sidecar, "Allocated");
}

// ---- another config (8.5)

#[test]
fn a_reload_drops_what_was_decided_and_is_not_in_yet() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.api.stop();
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("goes on trying", SOON);
    let other = "markerPolices: [{state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", other)]));
    sidecar.wait_for_line("configuration read anew", SOON);
    scene.api.start_again();
    // Longer than a wait after the few failures that there were.
    scene.await_probes(&sidecar, 9);
    assert_eq!((scene.patched(), scene.ops_state().as_str()), (vec!["None".to_owned()], "None"));
    scene.game.set(200, "WaitToBeDeleted");
    becomes(&scene, &sidecar, "WaitToBeDeleted");
}

#[test]
fn a_reload_while_the_game_is_down_removes_no_label() {
    let (scene, other) = (Scene::new(), Game::start());
    let text = |more: &str| {
        let labelled =
            format!("markerPolices: [{{state: None, gameServerOpsState: None, labels: {{room: idle}}}}{more}]");
        let healthy = "markerPolices: [{state: '', labels: {health: good}}]";
        config(&[endpoint(&other.url("/"), "timeout: 1", healthy), scene.endpoint("timeout: 1", &labelled)])
    };
    scene.pod.update_config(&text(""));
    let pod = scene.pod_path();
    let room = || scene.field_of(&pod, "/metadata/labels/room");
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "the label", || room() == "idle");
    scene.game.set(500, "");
    scene.await_probes(&sidecar, 2);
    scene.pod.update_config(&text(", {state: Allocated, gameServerOpsState: Allocated}"));
    sidecar.wait_for_line("configuration read anew", SOON);
    scene.await_probes(&sidecar, 5);
    assert_eq!(room(), "idle");
}

#[test]
fn an_endpoint_with_other_headers_is_another_endpoint() {
    let said = |state: &str| format!("{{\"state\": \"{state}\"}}");
    let room = |scene: &Scene, header: &str| {
        scene.endpoint(
            &format!("timeout: 1, headers: {{X-Room: '{header}'}}, jsonPathConfig: {{jsonPath: state}}"),
            ROOM,
        )
    };
    side_by_side(&["changed", "put before the first"], |case| {
        let scene = Scene::new();
        // What is no JSON is a failure, and a failure keeps an opinion.
        scene.game.behave(Behaviour::Echo("X-Room".to_owned()));
        let first = room(&scene, &said("Allocated"));
        let fails = room(&scene, "no JSON");
        let last = room(&scene, &said("None"));
        let before = if *case == "changed" { vec![first, last.clone()] } else { vec![first] };
        scene.pod.update_config(&config(&before));
        let sidecar = settled(&scene, "Allocated");
        scene.pod.update_config(&config(&[fails, last]));
        becomes(&scene, &sidecar, "None");
        assert_eq!(scene.patched(), ["Allocated", "None"], "{case}");
    });
}

#[test]
fn a_resync_writes_what_a_present_opinion_sets_and_nothing_else() {
    let ranked = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 5}]";
    let plain = "markerPolices: [{state: None, gameServerOpsState: None}]";
    let silent = "markerPolices: [{state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";
    side_by_side(&[(plain, "None"), (silent, "Allocated")], |(in_kube, last_word)| {
        let scene = Scene::new();
        let text = |in_kube: &str| with_resync(&config(&[scene.endpoint("timeout: 1", in_kube)]));
        scene.pod.update_config(&text(ranked));
        let sidecar = settled(&scene, "None");
        scene.pod.update_config(&text(in_kube));
        sidecar.wait_for_line("configuration read anew", SOON);
        scene.await_probes(&sidecar, 2);
        scene.api.edit(&scene.path(), "operator", |object| object["spec"]["deletionPriority"] = json!(9));
        scene.somebody_sets("operator", "Allocated");
        becomes(&scene, &sidecar, last_word);
        scene.await_probes(&sidecar, 5);
        assert_eq!((scene.ops_state().as_str(), scene.field("/spec/deletionPriority")), (*last_word, json!(9)));
    });
}

#[test]
fn a_field_inside_or_around_one_that_a_policy_sets_is_an_error() {
    for pointer in ["/spec/opsState/x", "/spec/opsState", "/spec"] {
        let scene = scene_of(&format!("{ROOM}, jsonPath: {pointer}"));
        let check = SidecarProcess::builder(binary()).args(["check", "--config"]).arg(scene.pod.config_path()).start();
        assert_eq!(check.wait_exit(SOON).code(), Some(1), "{pointer}: {}", check.stdout());
    }
}

#[test]
fn a_day_long_interval_can_be_corrected_within_a_minute() {
    let scene = Scene::new();
    scene.pod.update_config(&every(86_400, &scene.rooms("")));
    let sidecar = settled(&scene, "None");
    scene.game.set(200, "Allocated");
    scene.pod.update_config(&scene.rooms(""));
    let line = sidecar.wait_for_line("configuration read anew", A_MINUTE);
    // A round at once, from which the rate counts.
    becomes(&scene, &sidecar, "Allocated");
    let probes = scene.game.requests();
    assert!(probes[1].at.saturating_duration_since(line.at) < Duration::from_millis(900));
    scene.await_probes(&sidecar, 2);
}

#[test]
fn a_fifo_in_place_of_the_config_hangs_nothing() {
    let scene = Scene::new();
    let path = scene.pod.config_path();
    let make_fifo = || {
        scene.pod.config.remove("config.yaml");
        assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()));
    };
    let sidecar = settled(&scene, "None");
    make_fifo();
    sidecar.wait_for_line("the running configuration stays: ", SOON);
    scene.game.set(200, "Allocated");
    becomes(&scene, &sidecar, "Allocated");
    assert_eq!(sidecar.count_lines("the running configuration stays: "), 1, "{}", sidecar.stderr());
    fs::remove_file(&path).expect("it was made here");
    scene.pod.update_config(&scene.rooms("failureThreshold: 5"));
    sidecar.wait_for_line("configuration read anew", SOON);
    make_fifo();
    let second = scene.sidecar().start();
    assert_eq!(second.wait_exit(SOON).code(), Some(1), "{}", second.stderr());
}

// ---- labels and annotations (5.2, 6.1)

#[test]
fn a_label_that_the_first_endpoint_cannot_set_is_the_next_ones_in_an_outage_too() {
    side_by_side(&[false, true], |&outage| {
        let (scene, first) = (Scene::new(), Game::start());
        scene.pod.update_config(&config(&[
            endpoint(&first.url("/"), "timeout: 1", "labelKey: room"),
            scene.endpoint("timeout: 1", "labelKey: room"),
        ]));
        first.set(200, "two words");
        scene.game.set(200, "b1");
        let room = || scene.field_of(&scene.pod_path(), "/metadata/labels/room");
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "the second endpoint's", || room() == "b1");
        if outage {
            scene.api.stop();
        }
        say(&scene, &sidecar, "b2");
        if outage {
            scene.api.start_again();
        }
        sidecar.eventually(SOON, "the second endpoint's change", || room() == "b2");
        first.set(200, "a1");
        sidecar.eventually(SOON, "the first endpoint's", || room() == "a1");
        first.set(200, "two words again");
        sidecar.eventually(SOON, "the second endpoint's once more", || room() == "b2");
    });
}

#[test]
fn a_label_that_an_earlier_process_left_is_removed_once_everyone_who_could_set_it_has_spoken() {
    let (scene, other) = (Scene::new(), Game::start());
    other.stop();
    let pod = scene.pod_path();
    scene.api.edit(&pod, "okg-sidecar", |object| object["metadata"]["labels"]["room"] = json!("idle"));
    let room = || scene.field_of(&pod, "/metadata/labels/room");
    scene.pod.update_config(&config(&[
        endpoint(
            &other.url("/"),
            "timeout: 1",
            "markerPolices: [{state: ok, labels: {other: x}}, {state: no, labels: {room: y}}]",
        ),
        scene.endpoint(
            "timeout: 1",
            "markerPolices: [{state: None, gameServerOpsState: None}, {state: Allocated, labels: {room: busy}}]",
        ),
    ]));
    let sidecar = settled(&scene, "None");
    // The other has failed often enough for an opinion, and has none: failures alone remove nothing.
    scene.await_probes(&sidecar, 4);
    assert_eq!((room(), scene.writes_to(&pod).len()), (json!("idle"), 0));
    other.set(200, "ok");
    other.start_again();
    sidecar.eventually(SOON, "it is gone", || room().is_null());
    assert_eq!(scene.field_of(&pod, "/metadata/labels/other"), "x");
    assert_eq!(scene.field_of(&pod, "/metadata/labels/game.kruise.io~1owner-gss"), "tank-war");
}

#[test]
fn an_opinion_by_failure_removes_the_labels_that_it_does_not_set() {
    let scene = scene_of(
        "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}, \
         {state: Failed, gameServerOpsState: Maintaining}], annotationKey: last",
    );
    let pod = scene.pod_path();
    let sidecar = settled(&scene, "None");
    sidecar.eventually(SOON, "the label", || scene.field_of(&pod, "/metadata/labels/room") == "idle");
    scene.game.set(500, "");
    becomes(&scene, &sidecar, "Maintaining");
    sidecar.eventually(SOON, "it is gone", || scene.field_of(&pod, "/metadata/labels/room").is_null());
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.field_of(&pod, "/metadata/annotations/last"), "None", "only a success takes a result back");
}

// ---- when (3, 4.5)

#[test]
fn a_hung_endpoint_delays_no_ops_state_of_one_before_it() {
    let (scene, hung) = (Scene::new(), Game::start());
    hung.behave(Behaviour::HoldWithoutAnswer);
    let room = scene.endpoint("timeout: 1", ROOM);
    // It can set opsState, too, but not over the room, which has an opinion.
    let last = endpoint(&hung.url("/"), "timeout: 8", ROOM);
    scene.pod.update_config(&every(10, &config(&[room, last])));
    let sidecar = settled(&scene, "None");
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    sidecar.eventually(SOON, "the hung probe", || !hung.requests().is_empty());
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

#[test]
fn an_endpoint_that_could_still_change_the_decision_is_waited_for() {
    let (scene, second) = (Scene::new(), Game::start());
    second.behave(Behaviour::After(Duration::from_millis(800), Box::new(Behaviour::answer(200, "x"))));
    let priority =
        endpoint(&second.url("/"), "timeout: 2", "markerPolices: [{state: x, gameServerDeletionPriority: 3}]");
    scene.pod.update_config(&every(4, &config(&[scene.endpoint("timeout: 1", ROOM), priority])));
    let sidecar = settled(&scene, "None");
    assert_eq!(scene.field("/spec/deletionPriority"), json!(3), "{}", sidecar.stderr());
    assert_eq!(scene.writes().len(), 1);
}

#[test]
fn a_timeout_equal_to_the_interval_costs_no_round() {
    let scene = Scene::new();
    scene.game.behave(Behaviour::HoldWithoutAnswer);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "eight probes", || scene.game.requests().len() >= 8);
    let probes = scene.game.requests();
    let took = probes[7].at - probes[0].at;
    assert!(took > Duration::from_millis(6500) && took < Duration::from_millis(7800), "{took:?}");
}

#[test]
fn what_never_ends_ends_by_its_size_long_before_the_timeout() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        Behaviour::Endless1xx,
        Behaviour::Endless([chunked, &b"4"[..]].concat(), b";extension=of-the-chunk".to_vec()),
        Behaviour::Endless([chunked, &b"4\r\nNone\r\n0\r\n"[..]].concat(), b"X-Trailer: and another one\r\n".to_vec()),
    ];
    side_by_side(&cases, |behaviour| {
        let scene = Scene::new();
        scene.pod.update_config(&every(30, &config(&[scene.endpoint("timeout: 20", ROOM)])));
        scene.game.behave(behaviour.clone());
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("probe failed", Duration::from_secs(10));
        assert!(scene.patched().is_empty(), "{behaviour:?}");
    });
}

#[test]
fn a_result_of_more_than_4_kib_equals_no_state_and_is_never_written() {
    let longest = "x".repeat(4096);
    let policies = format!(
        "markerPolices: [{{state: Succeeded, gameServerOpsState: Allocated}}, \
         {{state: {longest}, gameServerOpsState: None}}], annotationKey: last"
    );
    let scene = scene_of(&policies);
    let pod = scene.pod_path();
    scene.game.set(200, longest.clone());
    let sidecar = settled(&scene, "None");
    sidecar.eventually(SOON, "the longest", || scene.field_of(&pod, "/metadata/annotations/last") == longest.as_str());
    scene.game.set(200, format!("{longest}x"));
    becomes(&scene, &sidecar, "Allocated");
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.field_of(&pod, "/metadata/annotations/last"), longest.as_str());
}

#[test]
fn after_an_outage_the_newest_state_is_in_within_the_longest_wait() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
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
    });
}

// ---- what cannot be meant (2.10)

#[test]
fn what_is_valid_but_cannot_be_meant_is_warned_of_by_check_and_at_the_start() {
    let scene = Scene::new();
    let healthy = |in_kube: &str| scene.endpoint("timeout: 1", in_kube);
    let both = "markerPolices: [{state: Succeeded, gameServerOpsState: None}, {state: Failed, gameServerOpsState: Maintaining}]";
    let cases = [
        ("an endpoint that can never decide", every(5, &config(&[healthy(both), healthy(ROOM)])), "endpoints[1]"),
        (
            "typographic quotes",
            config(&[healthy("markerPolices: [{state: ‘None’, gameServerOpsState: None}]")]),
            "endpoints[0]",
        ),
        ("timeouts of more than the interval", config(&[healthy(ROOM), healthy(ROOM)]), "imeout"),
        ("a lone failure", config(&[healthy(HEALTH)]), "endpoints[0]"),
    ];
    for (case, text, told) in cases {
        let scene = Scene::new();
        scene.pod.update_config(&text);
        let check = SidecarProcess::builder(binary()).args(["check", "--config"]).arg(scene.pod.config_path()).start();
        assert_eq!(check.wait_exit(SOON).code(), Some(0), "{case}");
        let warned = |sidecar: &SidecarProcess| {
            let lines = sidecar.lines();
            lines.iter().any(|line| line.text.to_lowercase().contains("warn") && line.text.contains(told))
        };
        assert!(warned(&check), "{case}: {}{}", check.stdout(), check.stderr());
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, case, || warned(&sidecar));
    }
}

// ---- in the end (8.1)

#[test]
fn whatever_went_wrong_the_game_server_holds_what_the_game_says_in_the_end() {
    let scene = Scene::new();
    let mut sidecar = settled(&scene, "None");
    let writes = Which::writes();
    let path = scene.path();
    let mut states = ["Allocated", "WaitToBeDeleted", "None"].into_iter().cycle();
    for round in 0..6 {
        let state = states.next().expect("a cycle has no end");
        match round {
            0 => scene.api.next_of(&writes, [Fault::Lost, Fault::BreakOff]),
            1 => scene.api.next_of(&writes, [Fault::status(409, "modified"), Fault::ApplyThenDrop]),
            2 => scene.api.next([Fault::DropAfterTls, Fault::status(500, "etcd is gone")]),
            3 => scene.pod.update_config(&scene.rooms("failureThreshold: 5")),
            4 => scene.recreate(POD_UID),
            _ => {
                let edited = path.clone();
                scene.api.before_next(&writes, move |objects| {
                    objects.edit(&edited, "matchmaker", |object| object["spec"]["opsState"] = json!("Kill"));
                });
                sidecar = scene.sidecar().start();
            }
        }
        scene.game.set(200, state);
        // Failures that follow one another make the waits longer.
        sidecar.eventually(A_MINUTE, &format!("opsState {state}"), || scene.ops_state() == state);
        scene.api.deliver_lost();
    }
    scene.await_probes(&sidecar, 3);
    assert_eq!((scene.ops_state().as_str(), &scene.record()["opsState"]), ("None", &json!("None")));
    assert!(scene.field(&format!("/metadata/annotations/{}", RECORD.replace('/', "~1"))).is_string());
}
