//! Labels and annotations of the Pod, priorities, fields of other objects, ranges, JSON and protected opsStates (behaviour 6).

use std::fmt::Debug;
use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    Fault, Game, OTHER_POD_UID, POD_UID, RECORD, SOON, Scene, SidecarProcess, Which, eventually, holds_within,
    pod_path, side_by_side,
};

use crate::steps;
use crate::steps::{A_MINUTE, ROOM, scene_of};

/// Long enough for a retry after several failures.
const AFTER_BACKOFF: Duration = Duration::from_secs(100);

/// A policy of a room whose state is the result.
const ROOMS: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                     {state: Allocated, gameServerOpsState: Allocated}, \
                     {state: Maintaining, gameServerOpsState: Maintaining}]";

/// A scene whose one endpoint has this inside its `inKube`.
fn scene(in_kube: &str) -> Scene {
    scene_with("timeout: 1", in_kube)
}

fn scene_with(keys: &str, in_kube: &str) -> Scene {
    let scene = Scene::new();
    scene.pod.update_config(&config(&[scene.endpoint(keys, in_kube)]));
    scene
}

/// The path of the scene's Pod.
fn pod(scene: &Scene) -> String {
    pod_path(&scene.pod.namespace, &scene.pod.name)
}

/// What was written to one object, in order, without what every write to it carries: the uid of a Pod, the version and
/// the record of a GameServer.
fn bodies(scene: &Scene, path: &str) -> Vec<Value> {
    let written = scene.writes_to(path).into_iter().map(|patch| {
        let mut body = patch.json();
        if path == pod(scene) {
            assert_eq!(body["metadata"]["uid"].take(), POD_UID, "{}", patch.body);
            body["metadata"].as_object_mut().expect("it has a uid").remove("uid");
        } else if path == scene.path() {
            assert!(body["metadata"]["resourceVersion"].is_string(), "{}", patch.body);
            assert!(body["metadata"]["annotations"][RECORD].is_string(), "{}", patch.body);
            body.as_object_mut().expect("it has metadata").remove("metadata");
        }
        body
    });
    written.collect()
}

fn field(scene: &Scene, path: &str, pointer: &str) -> Value {
    scene.field_of(path, pointer)
}

/// Lets the game answer this, and waits until it was probed.
#[track_caller]
fn say(scene: &Scene, sidecar: &SidecarProcess, result: &str) {
    scene.game.set(200, result);
    scene.await_probes(sidecar, 2);
}

/// Waits until something is as expected, and fails with what it is instead.
#[track_caller]
fn becomes<T: PartialEq + Debug>(sidecar: &SidecarProcess, actual: impl Fn() -> T, expected: T) {
    if !holds_within(SOON, || actual() == expected) {
        sidecar.fail(&format!("{:?}\nis not {expected:?}", actual()));
    }
}

/// The rule of RBAC that a log line ends with.
#[track_caller]
fn rule(line: &str) -> Value {
    let rule = line.rfind('{').and_then(|start| serde_json::from_str(&line[start..]).ok());
    rule.expect("the line ends with a rule")
}

// ---- the Pod (6.1)

#[test]
fn a_policys_labels_and_annotations_come_in_one_patch_and_go_with_it() {
    let scene = scene(
        "markerPolices: [
            {state: None, gameServerOpsState: None, labels: {room: idle, both: a}, annotations: {note.x/y: 'is {{.Result}}'}},
            {state: Allocated, gameServerOpsState: Allocated, labels: {both: b}},
            {state: Empty, labels: {both: ''}, annotations: {note.x/y: ''}}]",
    );
    let path = pod(&scene);
    let sidecar = scene.sidecar().start();
    let first = json!({"metadata": {"labels": {"room": "idle", "both": "a"}, "annotations": {"note.x/y": "is None"}}});
    let second = json!({"metadata": {"labels": {"room": null, "both": "b"}, "annotations": {"note.x/y": null}}});
    let third = json!({"metadata": {"labels": {"both": ""}, "annotations": {"note.x/y": ""}}});
    becomes(&sidecar, || bodies(&scene, &path), vec![first.clone()]);
    scene.game.set(200, "Allocated");
    becomes(&sidecar, || bodies(&scene, &path), vec![first.clone(), second.clone()]);
    scene.game.set(200, "Empty");
    becomes(&sidecar, || bodies(&scene, &path), vec![first.clone(), second.clone(), third.clone()]);
    // Failures alone change nothing.
    scene.game.set(500, "");
    scene.await_probes(&sidecar, 4);
    assert_eq!(bodies(&scene, &path), [first, second, third]);
    // What others have set stays.
    let labels = json!({"game.kruise.io/owner-gss": "tank-war", "both": ""});
    assert_eq!(field(&scene, &path, "/metadata/labels"), labels);
    let patch = &scene.requests_for(&path)[0];
    assert_eq!((patch.method.as_str(), patch.query("fieldManager")), ("PATCH", Some("okg-sidecar")));
    assert_eq!(patch.header("Content-Type"), Some("application/merge-patch+json"));
    // A policy without an opsState leaves the GameServer as the one before wanted it.
    assert_eq!(scene.patched(), ["None", "Allocated"]);
    assert_eq!(sidecar.count_lines("Pod: /metadata/"), 3, "{}", sidecar.stderr());
}

#[test]
fn labels_of_a_health_endpoint_stand_beside_those_of_the_room() {
    let scene = Scene::new();
    let health = Game::start();
    let healthy = endpoint(
        &health.url("/"),
        "timeout: 1, failureThreshold: 1",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining, labels: {sick: 'yes', room: none}}]",
    );
    let room =
        scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle}}]");
    scene.pod.update_config(&config(&[healthy, room]));
    let path = pod(&scene);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Pod: ", SOON);
    health.set(500, "");
    sidecar.eventually(SOON, "the second patch", || bodies(&scene, &path).len() == 2);
    health.set(200, "");
    sidecar.eventually(SOON, "the third patch", || bodies(&scene, &path).len() == 3);
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    // The first one removes what a process before may have left.
    let well = json!({"room": "idle", "sick": null});
    let expected = [well.clone(), json!({"room": "none", "sick": "yes"}), well];
    assert_eq!(bodies(&scene, &path), expected.map(labels));
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.patched(), ["None", "Maintaining", "None"]);
}

#[test]
fn labels_that_another_config_does_not_set_are_removed() {
    let scene = scene(
        "markerPolices: [{state: None, gameServerOpsState: None, labels: {room: idle, kept: x}}], annotationKey: state",
    );
    let path = pod(&scene);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Pod: ", SOON);
    let without = "markerPolices: [{state: None, gameServerOpsState: None, labels: {kept: x}}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", without)]));
    becomes(&sidecar, || field(&scene, &path, "/metadata/labels/room"), Value::Null);
    becomes(&sidecar, || field(&scene, &path, "/metadata/annotations/state"), Value::Null);
    scene.await_probes(&sidecar, 2);
    assert_eq!(field(&scene, &path, "/metadata/labels/kept"), "x");
    assert_eq!(scene.patched(), ["None"]);
}

#[test]
fn the_result_goes_to_the_annotation_and_the_label_that_are_named() {
    let scene = scene("annotationKey: game/players, labelKey: players");
    let path = pod(&scene);
    scene.game.set(200, " 5\n");
    let sidecar = scene.sidecar().start();
    let patch = |text: &str| json!({"metadata": {"annotations": {"game/players": text}, "labels": {"players": text}}});
    becomes(&sidecar, || bodies(&scene, &path), vec![patch("5")]);
    scene.game.set(200, "6");
    becomes(&sidecar, || bodies(&scene, &path), vec![patch("5"), patch("6")]);
    scene.game.set(200, "");
    becomes(&sidecar, || bodies(&scene, &path), vec![patch("5"), patch("6"), patch("")]);
    scene.await_probes(&sidecar, 2);
    assert_eq!(bodies(&scene, &path).len(), 3);
    assert!(scene.patched().is_empty(), "{:?}", scene.patched());
}

#[test]
fn a_result_that_no_label_can_hold_is_not_written_to_one_and_told_once() {
    let scene = scene("annotationKey: state, labelKey: state");
    let path = pod(&scene);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Pod: ", SOON);
    let long = "x".repeat(64);
    let illegal = ["two words", "-5", &long, "空\nINFO forged"];
    for result in illegal {
        scene.game.set(200, result);
        becomes(&sidecar, || field(&scene, &path, "/metadata/annotations/state"), json!(result));
        assert_eq!(field(&scene, &path, "/metadata/labels/state"), "None", "{result}");
    }
    assert_eq!(sidecar.count_lines("not changed: "), 1, "{}", sidecar.stderr());
    sidecar.wait_for_line(
        "Pod: /metadata/labels/state: not changed: `two words` is not a valid label value (logged once)",
        SOON,
    );
    assert_eq!(sidecar.stderr().lines().filter(|line| line.starts_with("INFO forged")).count(), 0);
    scene.game.set(200, &long[1..]);
    becomes(&sidecar, || field(&scene, &path, "/metadata/labels/state"), json!(long[1..]));
}

// ---- priorities (6.2)

#[test]
fn priorities_go_in_the_same_patch_as_ops_state() {
    let scene = scene(
        "markerPolices: [
            {state: None, gameServerOpsState: None, gameServerDeletionPriority: 100, gameServerUpdatePriority: 0},
            {state: Allocated, gameServerOpsState: Allocated, gameServerDeletionPriority: 1},
            {state: Succeeded, gameServerDeletionPriority: '{{.Result}}', gameServerUpdatePriority: 'p-{{.Result}}'}]",
    );
    let sidecar = scene.sidecar().start();
    let mut sent = Vec::new();
    for (result, spec) in [
        ("None", json!({"opsState": "None", "deletionPriority": 100, "updatePriority": 0})),
        ("Allocated", json!({"opsState": "Allocated", "deletionPriority": 1})),
        ("7", json!({"deletionPriority": 7, "updatePriority": "p-7"})),
        ("-7", json!({"updatePriority": "p--7"})),
    ] {
        scene.game.set(200, result);
        sent.push(json!({ "spec": spec }));
        becomes(&sidecar, || bodies(&scene, &scene.path()), sent.clone());
    }
    sidecar.wait_for_line(
        "GameServer: /spec/deletionPriority: not changed: `-7` is not a valid label value (logged once)",
        SOON,
    );
    assert_eq!(sidecar.count_lines("not changed: "), 1, "{}", sidecar.stderr());
}

// ---- other objects and fields (6.3)

#[test]
fn the_result_goes_into_a_field_of_a_target() {
    let cases = [
        (
            "{version: v1, resource: configmaps, name: 'rooms-${SELF:ZONE}'}, jsonPath: /data/room~1a~0b",
            "/api/v1/namespaces/games/configmaps/rooms-eu",
            json!({"data": {"room/a~b": "None"}}),
        ),
        (
            "{group: apps, version: v1, resource: deployments, namespace: '${SELF:ZONE}', name: front}, jsonPath: /metadata/annotations/x",
            "/apis/apps/v1/namespaces/eu/deployments/front",
            json!({"metadata": {"annotations": {"x": "None"}}}),
        ),
        (
            "{group: game.kruise.io, version: v1alpha1, resource: gameservers, name: '${SELF:POD_NAME}'}, jsonPath: /spec/deletionPriority",
            "/apis/game.kruise.io/v1alpha1/namespaces/games/gameservers/gs-0",
            json!({"spec": {"deletionPriority": "None"}}),
        ),
    ];
    side_by_side(&cases, |(target, path, patch)| {
        let scene = scene(&format!("target: {target}"));
        if scene.api.object(path).is_none() {
            scene.api.put(path, json!({"metadata": {}}));
        }
        let sidecar = scene.sidecar().env("ZONE", "eu").start();
        let pointer = target.rsplit(' ').next().unwrap();
        becomes(&sidecar, || field(&scene, path, pointer), json!("None"));
        scene.await_probes(&sidecar, 2);
        assert_eq!(bodies(&scene, path), std::slice::from_ref(patch), "{target}");
        let request = &scene.writes_to(path)[0];
        assert_eq!((request.method.as_str(), request.query("fieldManager")), ("PATCH", Some("okg-sidecar")));
        scene.game.set(200, "Allocated");
        becomes(&sidecar, || field(&scene, path, pointer), json!("Allocated"));
        // Another object than the GameServer is never read.
        let reads = if *path == scene.path() { 2 } else { 0 };
        assert_eq!(scene.api.requests().len(), 2 + reads, "{target}");
    });
}

#[test]
fn a_json_path_without_a_target_means_the_game_server() {
    let scene = scene("jsonPath: /spec/deletionPriority");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("/spec/deletionPriority None (endpoints[0] http://", SOON);
    scene.game.set(200, "7");
    sidecar.wait_for_line("/spec/deletionPriority 7 (endpoints[0] http://", SOON);
    // OpenKruiseGame makes it a label.
    say(&scene, &sidecar, "not a priority");
    say(&scene, &sidecar, "");
    let written: Vec<Value> =
        scene.writes().iter().map(|write| write.json()["spec"]["deletionPriority"].take()).collect();
    assert_eq!(written, [json!("None"), json!(7)]);
    assert_eq!(sidecar.count_lines("not changed: "), 1, "{}", sidecar.stderr());
}

#[test]
fn a_json_path_takes_the_type_that_the_field_type_says() {
    let cases = [
        ("fieldType: integer", "7", json!(7)),
        ("fieldType: number", "7.5", json!(7.5)),
        ("fieldType: boolean", "true", json!(true)),
        ("fieldType: string", "\"7\"", json!("7")),
        ("", "7", json!("7")),
    ];
    side_by_side(&cases, |(field_type, value, written)| {
        let keys = format!("timeout: 1, jsonPathConfig: {{jsonPath: n, {field_type}}}");
        let path = "/apis/example.com/v1/namespaces/games/rooms/x";
        let target = "target: {group: example.com, version: v1, resource: rooms, name: x}";
        let scene = scene_with(&keys, &format!("{target}, jsonPath: /spec/players"));
        scene.api.put(path, json!({"metadata": {}}));
        scene.game.set(200, format!("{{\"n\": {value}}}"));
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "it is written", || field(&scene, path, "/spec/players") == *written);
    });
}

// ---- ranges and JSON (6.4, 6.5)

#[test]
fn a_range_holds_numbers_with_its_ends() {
    let cases = [
        ("0", "None"),
        ("-0.0", "None"),
        ("1", "Allocated"),
        ("1.0", "Allocated"),
        ("10.5", "Allocated"),
        ("5", "Five"),
        ("5.0", "Allocated"),
        ("-3e2", "BelowZero"),
        ("1e9", "Full"),
        ("idle", "WaitToBeDeleted"),
        ("0.5", ""),
        ("10.50001", ""),
        ("five", ""),
        ("NaN", ""),
        ("inf", ""),
        ("0x10", ""),
        ("1 2", ""),
        ("", ""),
    ];
    side_by_side(&cases, |(result, state)| {
        let scene = scene(
            "markerPolices: [
                {max: -0.5, gameServerOpsState: BelowZero},
                {min: 0, max: 0, gameServerOpsState: None},
                {state: '5', gameServerOpsState: Five},
                {min: 1, max: 10.5, gameServerOpsState: Allocated},
                {min: 11, gameServerOpsState: Full},
                {state: idle, gameServerOpsState: WaitToBeDeleted}]",
        );
        scene.game.set(200, *result);
        let sidecar = scene.sidecar().start();
        if !state.is_empty() {
            sidecar.wait_for_line(&format!("opsState unknown -> {state} ("), SOON);
        }
        scene.await_probes(&sidecar, 2);
        let expected: &[&str] = if state.is_empty() { &[] } else { &[state] };
        assert_eq!(scene.patched(), expected, "{result}: {}", sidecar.stderr());
    });
}

#[test]
fn the_result_is_a_value_of_the_json_body_and_what_has_none_is_a_failure() {
    let long = format!("{{\"x\":\"{}\",\"a\":\"{}\"}}", "y".repeat(64 * 1024), "Allocated");
    let cases = [
        ("a.b.0.c", "string", r#"{"a":{"b":[{"c":"Allocated"}]}}"#, true),
        ("$.a", "", r#" {"z":[{}],"a":"Allocated"} "#, true),
        ("/a~1b", "", r#"{"a/b":"Allocated"}"#, true),
        ("a", "integer", r#"{"a":17}"#, true),
        ("a", "", r#"{"a":17}"#, true),
        ("a", "number", r#"{"a":17}"#, true),
        ("a", "boolean", r#"{"a":true}"#, true),
        ("a", "string", r#"{"a":17}"#, false),
        ("a", "integer", r#"{"a":"17"}"#, false),
        ("a", "integer", r#"{"a":17.5}"#, false),
        ("a", "boolean", r#"{"a":"true"}"#, false),
        ("a", "", r#"{"b":1}"#, false),
        ("a", "", r#"{"a":null}"#, false),
        ("a", "", r#"{"a":["Allocated"]}"#, false),
        ("a", "", r#"{"a":{"b":"Allocated"}}"#, false),
        ("a", "", "Allocated", false),
        ("a", "", "", false),
        ("a", "", r#"{"a":"Allocated""#, false),
        ("a", "", &long, false),
    ];
    side_by_side(&cases, |(path, field_type, body, success)| {
        let field_type = if field_type.is_empty() { String::new() } else { format!(", fieldType: {field_type}") };
        let scene = scene_with(
            &format!("timeout: 3, failureThreshold: 2, jsonPathConfig: {{jsonPath: '{path}'{field_type}}}"),
            "markerPolices: [{state: Allocated, gameServerOpsState: Allocated},
                {state: 'true', gameServerOpsState: Allocated}, {min: 17, max: 17, gameServerOpsState: Allocated},
                {state: Succeeded, gameServerOpsState: None}, {state: Failed, gameServerOpsState: Maintaining}]",
        );
        scene.game.set(200, *body);
        let sidecar = scene.sidecar().start();
        let state = if *success { "Allocated" } else { "Maintaining" };
        sidecar.wait_for_line(&format!("opsState unknown -> {state}"), SOON);
        assert_eq!(scene.patched(), [state], "{path} {body}");
        assert_eq!(sidecar.count_lines("probe failed: "), usize::from(!success), "{path}: {}", sidecar.stderr());
        assert!(sidecar.lines().iter().all(|line| line.text.len() < 400), "{path}");
    });
}

// ---- each object by itself

#[test]
fn a_forbidden_pod_patch_never_delays_ops_state() {
    let scene = scene(
        "markerPolices: [
        {state: None, gameServerOpsState: None, labels: {room: idle}},
        {state: Allocated, gameServerOpsState: Allocated, labels: {room: busy}},
        {state: Maintaining, gameServerOpsState: Maintaining, labels: {room: closed}}]",
    );
    let path = pod(&scene);
    scene.api.allow_only(&[("patch", "gameservers")]);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    for state in ["Allocated", "Maintaining"] {
        scene.game.set(200, state);
        becomes(&sidecar, || scene.ops_state(), state.to_owned());
    }
    // In the round of the probe, right after it.
    for patch in scene.requests_for(&scene.path()) {
        let probes = scene.game.requests();
        let probe = probes.iter().rev().find(|probe| probe.at <= patch.at).unwrap();
        assert!(patch.at - probe.at < Duration::from_secs(2), "{:?}", patch.at - probe.at);
    }
    // It does not delay the probes either.
    let probes = scene.game.requests();
    let pause = probes.windows(2).map(|two| two[1].at - two[0].at).max().unwrap();
    assert!(pause < Duration::from_millis(2500), "{pause:?}");
    let line = sidecar.wait_for_line(&format!("writing {path} failed, retrying: status 403"), SOON).text;
    assert_eq!(rule(&line), json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}));
    assert_eq!(sidecar.count_lines("retrying"), 1, "{}", sidecar.stderr());
    // With full jitter, a ninth attempt within some five seconds has a chance of 5^8 / (8! * 2^27).
    assert!(scene.requests_for(&path).len() <= 8, "{}", sidecar.stderr());
    scene.api.allow_everything();
    sidecar.wait_for_line(&format!("writing {path} works again after "), AFTER_BACKOFF);
    assert_eq!(field(&scene, &path, "/metadata/labels/room"), "closed");
    assert_eq!(scene.patched(), ["None", "Allocated", "Maintaining"]);
}

#[test]
fn a_forbidden_target_names_its_own_rule_and_delays_nothing() {
    let cases = [
        ("version: v1, resource: configmaps", "", "configmaps"),
        ("group: apps, version: v1, resource: statefulsets", "apps", "statefulsets"),
    ];
    side_by_side(&cases, |(target, group, resource)| {
        let scene = scene(&format!("{ROOMS}, target: {{{target}, name: x}}, jsonPath: /data/state"));
        scene.api.allow_only(&[("patch", "gameservers")]);
        let sidecar = scene.sidecar().start();
        let line = sidecar.wait_for_line("status 403", SOON).text;
        assert_eq!(rule(&line), json!({"apiGroups": [group], "resources": [resource], "verbs": ["patch"]}));
        scene.game.set(200, "Allocated");
        becomes(&sidecar, || scene.ops_state(), "Allocated".to_owned());
    });
}

#[test]
fn a_game_server_that_cannot_be_written_keeps_the_pod_waiting_for_nothing() {
    let scene = scene(&format!("{ROOMS}, labelKey: room"));
    scene.api.remove(&scene.path());
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Pod: ", SOON);
    scene.game.set(200, "Allocated");
    becomes(&sidecar, || field(&scene, &pod(&scene), "/metadata/labels/room"), json!("Allocated"));
}

#[test]
fn a_round_makes_one_write_an_object_at_most() {
    let scene = Scene::new();
    let map = "/api/v1/namespaces/games/configmaps/rooms";
    scene.api.put(map, json!({"metadata": {}}));
    let rooms = "markerPolices: [
        {state: None, gameServerOpsState: None, labels: {room: idle}, gameServerDeletionPriority: 5},
        {state: Allocated, gameServerOpsState: Allocated, labels: {room: busy}, gameServerDeletionPriority: 1}]";
    let target = |resource: &str, name: &str, pointer: &str| {
        format!("target: {{version: v1, resource: {resource}, name: {name}}}, jsonPath: {pointer}")
    };
    scene.pod.update_config(&config(&[
        scene.endpoint("timeout: 1", &format!("{rooms}, annotationKey: a")),
        scene.endpoint("timeout: 1", "labelKey: b, jsonPath: /spec/updatePriority"),
        scene.endpoint("timeout: 1", &target("pods", "gs-0", "/metadata/annotations/c")),
        scene.endpoint("timeout: 1", &target("configmaps", "rooms", "/data/d")),
        scene.endpoint("timeout: 1", &target("configmaps", "rooms", "/data/e")),
    ]));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.await_probes(&sidecar, 5);
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    scene.await_probes(&sidecar, 11);
    let paths = [scene.path(), pod(&scene), map.to_owned()];
    for path in &paths {
        let patches = bodies(&scene, path);
        // The change may come between two probes of a round, which makes two rounds of it.
        assert!((2..=3).contains(&patches.len()), "{path}: {patches:?}");
    }
    let first = [
        json!({"spec": {"opsState": "None", "deletionPriority": 5, "updatePriority": "None"}}),
        json!({"metadata": {"labels": {"room": "idle", "b": "None"}, "annotations": {"a": "None", "c": "None"}}}),
        json!({"data": {"d": "None", "e": "None"}}),
    ];
    for (path, first) in paths.iter().zip(first) {
        assert_eq!(bodies(&scene, path)[0], first, "{path}");
    }
    let labels = field(&scene, &paths[1], "/metadata/labels");
    assert_eq!((&labels["room"], &labels["b"]), (&json!("busy"), &json!("Allocated")));
    assert_eq!(field(&scene, map, "/data"), json!({"d": "Allocated", "e": "Allocated"}));
    assert_eq!(field(&scene, &paths[0], "/spec/deletionPriority"), 1);
}

// ---- protected opsStates (6.6)

/// A room that does not overwrite another's Maintaining.
fn protected_scene() -> Scene {
    scene(&format!("{ROOMS}, protectedOpsStates: [Maintaining]"))
}

#[test]
fn a_protected_write_reads_the_whole_object_and_needs_no_verb_but_patch() {
    let scene = protected_scene();
    scene.api.allow_only(&[("patch", "gameservers")]);
    let version = scene.api.text(&scene.path(), "/metadata/resourceVersion").unwrap();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let requests = scene.api.requests();
    let [read, patch] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((read.body.as_str(), read.header("Accept")), ("{}", Some("application/json")));
    assert_eq!(patch.json()["metadata"]["resourceVersion"], json!(version));
    assert_eq!(patch.json()["spec"], json!({"opsState": "None"}));
    assert_eq!(scene.api.requests_per_connection(), [2]);
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.api.requests().len(), 2);
}

#[test]
fn what_another_has_set_to_a_protected_state_survives_until_it_takes_it_back() {
    let scene = scene_of(&format!("{ROOM}, protectedOpsStates: [Maintaining]"));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let record = scene.record();
    scene.somebody_sets("kubectl-edit", "Maintaining");
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("was set by someone else and is protected; not writing", SOON);
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

#[test]
fn its_own_protected_state_is_overwritten_also_after_a_restart() {
    for restarted in [false, true] {
        let scene = protected_scene();
        scene.game.set(200, "Maintaining");
        let mut sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> Maintaining", SOON);
        scene.game.set(200, "None");
        if restarted {
            sidecar = scene.sidecar().start();
        }
        sidecar.wait_for_line("opsState Maintaining -> None (", SOON);
        assert_eq!(scene.ops_state(), "None", "restarted {restarted}");
        assert_eq!(sidecar.count_lines("protected"), 0, "{}", sidecar.stderr());
    }
}

#[test]
fn a_protected_state_holds_back_fields_beside_ops_state_too() {
    let scene =
        scene("markerPolices: [{state: None, gameServerDeletionPriority: 5}], protectedOpsStates: [Maintaining]");
    scene.somebody_sets("operator", "Maintaining");
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("was set by someone else and is protected; not writing", SOON);
    assert_eq!(scene.field("/spec/deletionPriority"), 0, "{}", sidecar.stderr());
    assert_eq!(scene.record(), Value::Null);
}

#[test]
fn an_edit_between_reading_and_writing_wins_and_is_read_again() {
    for (edit, survives) in [("Maintaining", true), ("WaitToBeDeleted", false)] {
        let scene = protected_scene();
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        let path = scene.path();
        scene.api.before_next(&Which::writes(), move |objects| {
            objects.edit(&path, "kubectl-edit", |object| object["spec"]["opsState"] = json!(edit));
        });
        scene.game.set(200, "Allocated");
        if survives {
            sidecar.wait_for_line("was set by someone else and is protected; not writing", SOON);
            assert_eq!(scene.ops_state(), edit);
            assert_eq!((scene.reads(), scene.writes().len()), (3, 2));
        } else {
            // The game answers something new, which nobody's edit before it takes back.
            sidecar.wait_for_line("opsState None -> Allocated", SOON);
            assert_eq!((scene.reads(), scene.writes().len()), (3, 3));
            assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
        }
        assert_eq!(scene.writes()[1].answered, Some(409), "{edit}");
    }
}

#[test]
fn the_previous_pods_game_server_is_not_written_where_the_whole_object_is_read() {
    let scene = protected_scene();
    scene.recreate(OTHER_POD_UID);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "two looks", || scene.reads() >= 2);
    assert_eq!(scene.writes().len(), 0);
    scene.recreate(POD_UID);
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

#[test]
fn a_game_server_that_cannot_be_understood_is_left_alone() {
    let scene = protected_scene();
    scene.api.next_of(
        &Which::reads(),
        [
            Fault::ok("<html>"),
            Fault::ok("{\"metadata\":{\"resourceVersion\":7},\"spec\":{\"opsState\":\"Maintaining\"}}"),
            Fault::ok("{\"spec\":{\"opsState\":\"None\"}}"),
            Fault::LongAnswer(3 << 20),
        ],
    );
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("retrying", SOON);
    sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
    assert_eq!((scene.reads(), scene.writes().len()), (5, 1));
    eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
}

// ---- keys of the Pod that come and go (6.1)

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
        steps::say(&scene, &sidecar, "b2");
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
    let sidecar = steps::settled(&scene, "None");
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
    let sidecar = steps::settled(&scene, "None");
    sidecar.eventually(SOON, "the label", || scene.field_of(&pod, "/metadata/labels/room") == "idle");
    scene.game.set(500, "");
    steps::becomes(&scene, &sidecar, "Maintaining");
    sidecar.eventually(SOON, "it is gone", || scene.field_of(&pod, "/metadata/labels/room").is_null());
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.field_of(&pod, "/metadata/annotations/last"), "None", "only a success takes a result back");
}
