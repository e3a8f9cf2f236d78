//! Histories that end with the right value, clause by clause: restarts, reloads, replaced pods, other writers, and answers that
//! are refused, lost, late or broken (behaviour 8).

use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    Behaviour, Fault, Game, OTHER_POD_UID, POD_UID, RECORD, Request, SOON, Scene, Which, game_server, pod_object,
    side_by_side,
};

use crate::steps::{A_MINUTE, RANKED_ROOM, ROOM, becomes, record, say, scene_of, settle, settled, spec, with_resync};

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
    say(&scene, &sidecar, "None");
    assert_eq!((scene.writes().len(), scene.ops_state().as_str()), (1, "Allocated"));
}

#[test]
fn a_word_that_no_policy_knows_lets_go_and_the_next_decision_is_news() {
    side_by_side(&[false, true], |restarted| {
        let scene = Scene::new();
        let mut sidecar = settled(&scene, "None");
        say(&scene, &sidecar, "Playing");
        sidecar.eventually(SOON, "the record names opsState no more", || scene.record()["opsState"].is_null());
        assert_eq!(scene.record()["earlierOpsState"], "None");
        scene.somebody_sets("matchmaker", "Allocated");
        scene.await_probes(&sidecar, 2);
        if *restarted {
            drop(sidecar);
            sidecar = scene.sidecar().start();
            scene.await_probes(&sidecar, 2);
        }
        assert_eq!((scene.patched(), scene.ops_state().as_str()), (vec!["None".to_owned()], "Allocated"));
        scene.game.set(200, "None");
        sidecar.eventually(SOON, "None again", || scene.ops_state() == "None");
    });
}

#[test]
fn what_a_cache_takes_back_is_given_again_and_what_somebody_else_sets_is_not() {
    side_by_side(&["the whole spec", "the annotations alone", "the whole spec, older than the first record"], |case| {
        let scene = Scene::new();
        let created = scene.records();
        let sidecar = if *case == "the whole spec, older than the first record" {
            scene.game.set(200, "Allocated");
            settled(&scene, "Allocated")
        } else {
            let sidecar = settled(&scene, "None");
            say(&scene, &sidecar, "Allocated");
            sidecar
        };
        let older = match *case {
            "the whole spec, older than the first record" => created,
            _ => scene.history_of_records().into_iter().rev().nth(1).expect("the one of None"),
        };
        let writes = scene.writes().len();
        scene.put_back(&older);
        if *case == "the annotations alone" {
            scene.somebody_sets("matchmaker", "WaitToBeDeleted");
        } else {
            scene.somebody_sets("manager", "None");
        }
        if !older.is_empty() {
            sidecar.eventually(SOON, "the older records are gone", || scene.records().len() == 2);
        }
        let expected = if *case == "the annotations alone" { "WaitToBeDeleted" } else { "Allocated" };
        sidecar.eventually(SOON, "what must stand", || {
            scene.ops_state() == expected && scene.writes().len() == writes + 1
        });
        scene.await_probes(&sidecar, 2);
        assert_eq!((scene.writes().len(), scene.ops_state().as_str()), (writes + 1, expected), "{case}");
    });
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
                for (count, keys) in ["failureThreshold: 5", "method: POST", "successThreshold: 2"].iter().enumerate() {
                    scene.pod.update_config(&scene.rooms(keys));
                    sidecar.eventually(SOON, "it is read", || sidecar.count_lines("config reloaded") == count + 1);
                    scene.await_probes(&sidecar, 2);
                }
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
    // No opinion sets deletionPriority any more: the field is let go of, and keeps its value (5.3).
    let second = [json!("Allocated"), Value::Null, json!(7), json!(true), json!(POD_UID)];
    assert_eq!(fields(&scene.record()), second);
    assert_eq!(scene.field("/spec/deletionPriority"), json!(5));
    assert!(scene.record()["at"].as_str() > before["at"].as_str(), "{}", scene.record());
}

#[test]
fn an_older_record_out_of_a_cache_hides_no_change_of_a_running_process() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    let older = scene.records();
    say(&scene, &sidecar, "Allocated");
    scene.put_back(&older);
    // Nothing new was decided.
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.writes().len(), 2);
    say(&scene, &sidecar, "None");
    assert_eq!(scene.ops_state(), "None", "{:?}", scene.patched());
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
                // With reclaimPolicy Delete, both pods have the same owner.
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
    let earlier = scene.records();
    let sidecar = settled(&scene, "None");
    assert_eq!(scene.record()["pod"], POD_UID);
    scene.put_back(&earlier);
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
            sidecar.wait_for_line("config reloaded", SOON);
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
    side_by_side(&[(400, ranked), (422, ranked), (403, ranked), (422, not_a_boolean)], |&(status, in_kube)| {
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
        let line = sidecar.wait_for_line("retrying", SOON).text;
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

// ---- another config (8.5)

#[test]
fn a_reload_drops_what_was_decided_and_is_not_in_yet() {
    let scene = Scene::new();
    let sidecar = settled(&scene, "None");
    scene.api.stop();
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("retrying", SOON);
    let other = "markerPolices: [{state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", other)]));
    sidecar.wait_for_line("config reloaded", SOON);
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
    sidecar.wait_for_line("config reloaded", SOON);
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
        sidecar.wait_for_line("config reloaded", SOON);
        scene.await_probes(&sidecar, 2);
        scene.api.edit(&scene.path(), "operator", |object| object["spec"]["deletionPriority"] = json!(9));
        scene.somebody_sets("operator", "Allocated");
        becomes(&scene, &sidecar, last_word);
        scene.await_probes(&sidecar, 5);
        assert_eq!((scene.ops_state().as_str(), scene.field("/spec/deletionPriority")), (*last_word, json!(9)));
    });
}

#[test]
fn another_config_does_not_hand_the_decision_of_a_failing_health_endpoint_to_the_room() {
    let scene = Scene::new();
    let health = Game::start();
    let healthy = endpoint(
        &health.url("/"),
        "timeout: 1, failureThreshold: 3",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
    );
    let room = scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None}]");
    scene.pod.update_config(&config(&[healthy.clone(), room.clone()]));
    let sidecar = settle(scene.sidecar());
    health.set(500, "");
    sidecar.wait_for_line("opsState None -> Maintaining", SOON);
    // One more that fails and can have no opinion, and one that was there before.
    let first =
        endpoint(&health.url("/other"), "timeout: 1", "markerPolices: [{state: Never, gameServerOpsState: Allocated}]");
    scene.pod.update_config(&config(&[first, healthy, room]));
    sidecar.wait_for_line("config reloaded", SOON);
    scene.await_probes(&sidecar, 5);
    assert_eq!(scene.patched(), ["None", "Maintaining"]);
    health.set(200, "");
    sidecar.wait_for_line("opsState Maintaining -> None", SOON);
}

#[test]
fn an_endpoint_that_another_config_does_not_have_has_no_say_any_more() {
    let scene = Scene::new();
    let health = Game::start();
    health.set(500, "");
    let healthy = endpoint(
        &health.url("/"),
        "timeout: 1, failureThreshold: 1",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
    );
    let room = scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None}]");
    scene.pod.update_config(&config(&[healthy, room.clone()]));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Maintaining", SOON);
    scene.pod.update_config(&config(&[room]));
    sidecar.wait_for_line("opsState Maintaining -> None", SOON);
    let probes = health.requests().len();
    scene.await_probes(&sidecar, 2);
    assert_eq!(health.requests().len(), probes);
}

#[test]
fn resync_starts_and_stops_with_the_config() {
    let scene = Scene::new();
    let sidecar = settle(scene.sidecar());
    let resync = scene.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    scene.pod.update_config(&resync);
    sidecar.eventually(SOON, "two looks", || scene.reads() >= 4);
    scene.pod.update_config(&scene.rooms(""));
    sidecar.eventually(SOON, "the second config", || sidecar.count_lines("config reloaded") == 2);
    scene.await_probes(&sidecar, 2);
    let reads = scene.reads();
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.reads(), reads);
    // The looks have changed nothing.
    assert_eq!(scene.writes().len(), 1);
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
