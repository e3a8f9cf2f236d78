//! The real binary against a real API server: what we promise of merge-patch, RBAC, tokens and admission is what a
//! cluster does (SPEC 4, 6). Without the programs of a control plane it says in one line how to get them; where CI is set
//! that is a failure.

#![allow(clippy::panic, reason = "a panic is how a test fails")]

mod control_plane;
mod support;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use control_plane::client::SMALL_ANSWER;
use control_plane::manifest;
use control_plane::stage::{self, CONTROLLER, NAMESPACE};
use control_plane::{Answer, Assets, Client, ControlPlane, Gate, Options, Stage};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use support::{Game, SOON, SidecarProcess, game_server_path, holds_within, pod_path, side_by_side};

/// Long enough for a retry after several failures, whose waits double up to a minute.
const AFTER_BACKOFF: Duration = Duration::from_secs(150);

/// Long enough for the API server to forget that it knew a token: it remembers for ten seconds.
const AFTER_CACHE: Duration = Duration::from_secs(60);

const AUDITED: Options = Options { audit: true };

/// A case on the control plane that all of these share.
type Case = fn(&ControlPlane);

/// A case on a control plane that it may kill.
type OwnCase = fn(&Assets);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let assets = match Assets::find() {
        Ok(assets) => Some(assets),
        // Names need no programs.
        Err(_) if arguments.list => None,
        Err(why) => {
            let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
            eprintln!("e2e {}: {why}", if ci { "FAILED" } else { "SKIPPED" });
            return if ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    // Most of a case is waiting.
    arguments.test_threads.get_or_insert(8);
    let shared: Arc<OnceLock<ControlPlane>> = Arc::default();
    let mut trials = Vec::new();
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let plane = Arc::clone(&shared);
            trials.push(trial(stringify!($case), &assets, move |assets| {
                ($case as Case)(plane.get_or_init(|| ControlPlane::start(assets, AUDITED)));
            }));
        )*};
    }
    macro_rules! own_cases {
        ($($case:ident),* $(,)?) => {$(
            trials.push(trial(stringify!($case), &assets, |assets| ($case as OwnCase)(assets)));
        )*};
    }
    own_cases!(an_api_server_that_was_killed_and_comes_back_gets_the_newest_state_under_a_new_authority_too);
    cases!(
        a_token_that_ended_with_its_pod_is_told_and_the_next_one_is_taken,
        the_manifests_as_they_are_tell_the_tank_war_story_with_one_write_a_state,
        a_game_server_that_comes_after_the_sidecar_is_written_without_alarm,
        each_shipped_role_is_enough_and_grants_nothing_else,
        an_unchanged_patch_leaves_the_resource_version_alone,
        managed_fields_show_the_sidecar_and_only_what_it_owns,
        the_small_answer_is_given_for_the_game_server_and_the_pod,
        labels_and_annotations_come_and_go_on_the_pod,
        a_protected_state_set_in_between_wins_by_a_real_conflict,
        a_conflict_over_another_field_is_written_again_at_once,
        the_previous_pods_game_server_does_not_count_as_written,
        a_bad_label_value_is_refused_by_the_api_server_so_the_sidecar_checks_it,
        what_the_schema_refuses_is_told_and_another_field_follows,
        any_ops_state_is_legal_to_the_api_server_so_the_sidecar_checks_it,
        without_the_admission_policy_a_pod_may_patch_its_neighbours_and_with_it_its_own_alone,
    );
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The programs end with the last owner.
    drop(shared);
    conclusion.exit_code()
}

fn trial(name: &str, assets: &Option<Assets>, run: impl FnOnce(&Assets) + Send + 'static) -> Trial {
    let assets = assets.clone();
    Trial::test(name, move || {
        run(&assets.ok_or("a list of names runs nothing")?);
        Ok(())
    })
}

// ---- the main job

fn the_manifests_as_they_are_tell_the_tank_war_story_with_one_write_a_state(plane: &ControlPlane) {
    plane.create_namespace(NAMESPACE);
    let kustomization = &manifest::objects(&manifest::deploy("kustomization.yaml"))[0];
    for file in kustomization["resources"].as_array().expect("it has resources") {
        plane.apply(&manifest::deploy(file.as_str().expect("a file's name")));
    }
    // A pod of the other manifest is as legal.
    plane.apply(&manifest::deploy("gameserverset-native-sidecar.yaml"));
    stage::create_pod(plane, NAMESPACE, "hot-update-gs-1", "gameserverset-native-sidecar.yaml");

    let stage = Stage::one_more(plane, NAMESPACE, "hot-update-gs-0");
    stage.create_game_server();
    let config_map = plane.admin().get(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps/sidecar-config"));
    let text = config_map["data"]["config.yaml"].as_str().expect("it holds a config");
    // The game's port and the times are the only things that differ.
    let text = text
        .replace("http://localhost:8080", &stage.game.url(""))
        .replace("startDelaySeconds: 10", "startDelaySeconds: 1")
        .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
    stage.pod.update_config(&text);
    let sidecar = stage.sidecar().start();
    for (writes, state) in [(1, "None"), (2, "Allocated"), (3, "WaitToBeDeleted")] {
        stage.game.set(200, state);
        sidecar.wait_for_line(&format!("-> {state} (endpoints[0]"), SOON);
        assert_eq!(stage.ops_state(), state);
        let version = stage.game_server()["metadata"]["resourceVersion"].clone();
        await_probes(&stage, &sidecar, 3);
        assert_eq!(stage.game_server()["metadata"]["resourceVersion"], version, "a write in peace");
        assert_eq!(stage.outcomes(), vec!["patch 200"; writes]);
    }
    assert_eq!(sidecar.stderr().lines().count(), 4, "{}", sidecar.stderr());
    for request in stage.requests() {
        assert_eq!(request["requestURI"], format!("{}?fieldManager=okg-sidecar", stage.path()));
        assert_eq!(request["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["hot-update-gs-0"]));
    }
}

fn a_game_server_that_comes_after_the_sidecar_is_written_without_alarm(plane: &ControlPlane) {
    let stage = Stage::without_game_server(plane, "late");
    stage.game.set(200, "Allocated");
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "two attempts", || stage.outcomes().len() >= 2);
    stage.create_game_server();
    sidecar.wait_for_line("opsState unknown -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    let mut outcomes = stage.outcomes();
    assert_eq!(outcomes.pop().as_deref(), Some("patch 200"));
    assert!(outcomes.iter().all(|outcome| outcome == "patch 404"), "{outcomes:?}");
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

// ---- RBAC

/// What a shipped manifest grants beyond `patch gameservers`, and a story in which it is enough.
struct Shipped {
    file: &'static str,
    grants: &'static [(&'static str, &'static str, &'static str)],
    story: fn(&Stage, &Game),
}

const SHIPPED: &[Shipped] = &[
    Shipped {
        file: "configmap.yaml",
        grants: &[],
        story: |stage, _| {
            for state in ["Allocated", "None"] {
                stage.game.set(200, state);
                await_state(stage, state);
            }
        },
    },
    Shipped {
        file: "examples/health-and-room.yaml",
        grants: &[],
        story: |stage, health| {
            stage.game.set(200, "playing");
            await_state(stage, "Allocated");
            health.set(500, "");
            await_state(stage, "Maintaining");
            health.set(200, "");
            await_state(stage, "Allocated");
        },
    },
    Shipped {
        file: "examples/player-count.yaml",
        grants: &[],
        story: |stage, _| {
            for (count, state, priority) in [(3, "Allocated", 0), (0, "None", 100)] {
                stage.game.set(200, json!({"players": {"count": count}}).to_string());
                await_state(stage, state);
                assert_eq!(stage.game_server()["spec"]["deletionPriority"], priority);
            }
        },
    },
    Shipped {
        file: "examples/pod-deletion-cost.yaml",
        grants: &[("patch", "", "pods")],
        story: |stage, _| {
            for (room, cost) in [("playing", "10"), ("idle", "-10")] {
                stage.game.set(200, room);
                await_it("the pod's label and annotation", || {
                    let pod = stage.pod_object();
                    pod["metadata"]["labels"]["game.example.com/room"] == room
                        && pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] == cost
                });
            }
        },
    },
    Shipped {
        file: "examples/protected-maintaining.yaml",
        grants: &[("get", "game.kruise.io", "gameservers")],
        story: |stage, _| {
            stage.game.set(200, "playing");
            await_state(stage, "Allocated");
            stage.set_ops_state("Maintaining");
            stage.game.set(200, "idle");
            await_it("the sidecar looks", || stage.outcomes().last().is_some_and(|outcome| outcome == "get 200"));
            assert_eq!(stage.ops_state(), "Maintaining");
            stage.set_ops_state("Allocated");
            await_state(stage, "None");
        },
    },
    Shipped {
        file: "examples/target.yaml",
        grants: &[("patch", "", "configmaps")],
        story: |stage, _| {
            let name = format!("players-{}", stage.pod.name);
            let collection = format!("/api/v1/namespaces/{}/configmaps", stage.pod.namespace);
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            stage.plane.admin().create(&collection, "e2e", &object);
            stage.game.set(200, "17");
            let path = format!("{collection}/{name}");
            await_it("the count is in the ConfigMap", || stage.plane.admin().get(&path)["data"]["count"] == "17");
        },
    },
];

fn each_shipped_role_is_enough_and_grants_nothing_else(plane: &ControlPlane) {
    plane.create_namespace("elsewhere");
    let elsewhere = support::game_server("elsewhere", "gs-0", "some-uid");
    plane.admin().create("/apis/game.kruise.io/v1alpha1/namespaces/elsewhere/gameservers", CONTROLLER, &elsewhere);
    plane.create_namespace("no-role");
    let account = manifest::objects(&manifest::deploy("rbac.yaml")).swap_remove(0).to_string();
    plane.apply(&account.replace("\"namespace\":\"sidecar\"", "\"namespace\":\"no-role\""));
    let of_any_account = rights(&plane.client(&plane.token("no-role", None), 0), "no-role");
    side_by_side(SHIPPED, |shipped| {
        let (_, name) = shipped.file.rsplit_once('/').unwrap_or(("", shipped.file));
        let namespace = format!("role-{}", name.trim_end_matches(".yaml"));
        let stage = Stage::new(plane, &namespace);
        plane.apply(&stage::for_namespace(&manifest::deploy(shipped.file), &namespace));
        let health = Game::start();
        let config_map = plane.admin().get(&format!("/api/v1/namespaces/{namespace}/configmaps/sidecar-config"));
        let text = config_map["data"]["config.yaml"].as_str().expect("it holds a config");
        let text = text
            .replace("http://localhost:8080/healthz", &health.url("/"))
            .replace("http://localhost:8080", &stage.game.url(""))
            .replace("startDelaySeconds: 10", "startDelaySeconds: 0")
            .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
        stage.pod.update_config(&text);
        let sidecar = stage.sidecar().start();
        (shipped.story)(&stage, &health);
        drop(sidecar);
        let refused: Vec<_> = stage.outcomes().into_iter().filter(|outcome| outcome.ends_with("403")).collect();
        assert!(refused.is_empty(), "{}: {refused:?}", shipped.file);
        grants_nothing_else(&stage, shipped, &of_any_account);
    });
}

/// By what the API server says of the token's rights, less those that any account has, and by trying.
fn grants_nothing_else(stage: &Stage, shipped: &Shipped, of_any_account: &BTreeSet<Right>) {
    let client = stage.client();
    let granted: BTreeSet<Right> = [("patch", "game.kruise.io", "gameservers")]
        .iter()
        .chain(shipped.grants)
        .map(|(verb, group, resource)| ((*verb).to_owned(), (*group).to_owned(), (*resource).to_owned()))
        .collect();
    let told: BTreeSet<Right> = &rights(&client, &stage.pod.namespace) - of_any_account;
    assert_eq!(told, granted, "{}", shipped.file);
    let game = "game.kruise.io";
    let own = stage.path();
    let (servers, _) = own.rsplit_once('/').expect("a path has slashes");
    let core = format!("/api/v1/namespaces/{}", stage.pod.namespace);
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", stage.pod.namespace);
    let sets = servers.replace("gameservers", "gameserversets");
    let tries = [
        ("patch", game, "gameservers", own.clone()),
        ("get", game, "gameservers", own.clone()),
        ("update", game, "gameservers", own.clone()),
        ("delete", game, "gameservers", own.clone()),
        ("list", game, "gameservers", servers.to_owned()),
        ("watch", game, "gameservers", format!("{servers}?watch=1")),
        ("create", game, "gameservers", servers.to_owned()),
        ("deletecollection", game, "gameservers", servers.to_owned()),
        ("patch", game, "gameservers/status", format!("{own}/status")),
        ("patch", game, "gameserversets", format!("{sets}/hot-update-gs")),
        ("list", game, "gameserversets", sets),
        ("patch", "", "pods", stage.pod_path()),
        ("get", "", "pods", stage.pod_path()),
        ("list", "", "pods", format!("{core}/pods")),
        ("delete", "", "pods", stage.pod_path()),
        ("create", "", "pods/eviction", format!("{}/eviction", stage.pod_path())),
        ("patch", "", "pods/status", format!("{}/status", stage.pod_path())),
        ("patch", "", "configmaps", format!("{core}/configmaps/sidecar-config")),
        ("get", "", "configmaps", format!("{core}/configmaps/sidecar-config")),
        ("delete", "", "configmaps", format!("{core}/configmaps/sidecar-config")),
        ("list", "", "secrets", format!("{core}/secrets")),
        ("create", "", "serviceaccounts/token", format!("{core}/serviceaccounts/okg-sidecar/token")),
        ("patch", "rbac", "roles", format!("{rbac}/roles/okg-sidecar")),
        ("patch", "rbac", "rolebindings", format!("{rbac}/rolebindings/okg-sidecar")),
        ("patch", game, "gameservers elsewhere", game_server_path("elsewhere", "gs-0")),
        ("get", game, "gameservers elsewhere", game_server_path("elsewhere", "gs-0")),
        ("patch", "", "pods elsewhere", pod_path("elsewhere", "gs-0")),
        ("list", game, "gameservers everywhere", "/apis/game.kruise.io/v1alpha1/gameservers".into()),
        ("list", "", "namespaces", "/api/v1/namespaces".into()),
        ("list", "", "nodes", "/api/v1/nodes".into()),
    ];
    for (verb, group, resource, path) in tries {
        let method = match verb {
            "get" | "list" | "watch" => "GET",
            "update" => "PUT",
            "create" => "POST",
            "delete" | "deletecollection" => "DELETE",
            _ => "PATCH",
        };
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = json!({});
        let body = matches!(method, "PATCH" | "PUT" | "POST").then_some(&body);
        let Answer { status, text, .. } = client.send(method, &path, &[("Content-Type", kind)], body);
        let right = (verb.to_owned(), group.to_owned(), resource.to_owned());
        let expected = if granted.contains(&right) { 200 } else { 403 };
        assert_eq!(status, expected, "{}: {verb} {resource} {path}: {text}", shipped.file);
    }
}

/// A verb, an API group and a resource.
type Right = (String, String, String);

/// All that the token may do in its namespace.
fn rights(client: &Client, namespace: &str) -> BTreeSet<Right> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = client.send("POST", path, &[("Content-Type", "application/json")], Some(&review)).ok();
    assert_eq!(answer["status"]["incomplete"], false, "{answer}");
    let texts = |value: &Value| -> Vec<String> {
        let values = value.as_array().into_iter().flatten();
        values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in answer["status"]["resourceRules"].as_array().expect("a list of rules") {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.insert((verb, group.clone(), resource.clone()));
                }
            }
        }
    }
    rights
}

// ---- what a write is to the API server

fn an_unchanged_patch_leaves_the_resource_version_alone(plane: &ControlPlane) {
    let stage = Stage::new(plane, "unchanged");
    stage.game.set(200, "Allocated");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    drop(sidecar);
    let before = stage.game_server();
    // The first decision after a start is always written, and a resync writes it again.
    let text = stage.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    stage.pod.update_config(&text);
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "three more writes", || stage.outcomes().len() >= 4);
    assert_eq!(stage.game_server(), before);
    assert!(stage.outcomes().iter().all(|outcome| outcome == "patch 200"), "{:?}", stage.outcomes());
}

fn managed_fields_show_the_sidecar_and_only_what_it_owns(plane: &ControlPlane) {
    let stage = Stage::new(plane, "owned");
    stage.game.set(200, "Allocated");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    let game_server = stage.game_server();
    let of = |manager: &str| {
        let entries = game_server["metadata"]["managedFields"].as_array().expect("a list of managers");
        let mut entries = entries.iter().filter(|entry| entry["manager"] == manager);
        let entry = entries.next().unwrap_or_else(|| panic!("{manager} manages nothing: {game_server}"));
        assert!(entries.next().is_none(), "{game_server}");
        entry.clone()
    };
    let ours = of("okg-sidecar");
    assert_eq!(ours["operation"], "Update");
    assert_eq!(ours["fieldsV1"], json!({"f:spec": {"f:opsState": {}}}));
    assert_eq!(ours.get("subresource"), None);
    // Who made the GameServer keeps all but what the sidecar took over.
    let theirs = &of(CONTROLLER)["fieldsV1"]["f:spec"];
    assert_eq!(theirs.get("f:opsState"), None);
    assert!(theirs.get("f:deletionPriority").is_some(), "{theirs}");
}

fn the_small_answer_is_given_for_the_game_server_and_the_pod(plane: &ControlPlane) {
    let stage = Stage::new(plane, "small");
    plane.apply(&stage::for_namespace(&pod_role(), "small"));
    stage.pod.update_config(&stage.rooms("labelKey: room"));
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "both are written", || stage.outcomes().len() >= 2);
    for request in stage.requests() {
        let answer = &request["responseObject"];
        assert_eq!(answer["kind"], "PartialObjectMetadata", "{request}");
        assert_eq!(answer["metadata"]["name"], "gs-0");
        assert_eq!((answer.get("spec"), answer.get("status")), (None, None), "{request}");
    }
    // What the audit log says of it is what is on the wire.
    for path in [stage.path(), stage.pod_path()] {
        let headers = [("Content-Type", "application/merge-patch+json"), ("Accept", SMALL_ANSWER)];
        let answer = stage.client().send("PATCH", &path, &headers, Some(&json!({}))).ok();
        assert_eq!(answer["kind"], "PartialObjectMetadata");
        assert!(answer["metadata"]["resourceVersion"].is_string(), "{answer}");
    }
}

fn labels_and_annotations_come_and_go_on_the_pod(plane: &ControlPlane) {
    let stage = Stage::new(plane, "metadata");
    plane.apply(&stage::for_namespace(&pod_role(), "metadata"));
    stage.pod.update_config(&stage.config(
        "labelKey: room, annotationKey: game.example.com/result, markerPolices: [
          {state: A, gameServerOpsState: Allocated, labels: {phase: 'in-{{.Result}}'}, annotations: {note: 'is {{.Result}}'}},
          {state: B, gameServerOpsState: None, annotations: {other: yes}}]",
    ));
    let sidecar = stage.sidecar().start();
    let others = json!({"app": "hot-update-gs", "game.kruise.io/owner-gss": "hot-update-gs"});
    let with = |labels: Value| {
        let mut all = others.clone();
        all.as_object_mut().expect("a map").extend(labels.as_object().expect("a map").clone());
        all
    };
    for (result, labels, annotations) in [
        ("A", json!({"room": "A", "phase": "in-A"}), json!({"game.example.com/result": "A", "note": "is A"})),
        ("B", json!({"room": "B"}), json!({"game.example.com/result": "B", "other": "yes"})),
        // Nobody knows it, so that what the policy of B set stands; it can be no label, so that the label stays as it is.
        ("no label", json!({"room": "B"}), json!({"game.example.com/result": "no label", "other": "yes"})),
        ("A", json!({"room": "A", "phase": "in-A"}), json!({"game.example.com/result": "A", "note": "is A"})),
    ] {
        stage.game.set(200, result);
        let mut seen = Value::Null;
        let held = holds_within(SOON, || {
            seen = stage.pod_object()["metadata"].take();
            seen["labels"] == with(labels.clone()) && seen["annotations"] == annotations
        });
        assert!(held, "{result}: {seen}\n{}", sidecar.stderr());
    }
    let outcomes = stage.outcomes();
    assert!(outcomes.iter().all(|outcome| outcome == "patch 200"), "{outcomes:?}");
}

// ---- others who write

fn a_protected_state_set_in_between_wins_by_a_real_conflict(plane: &ControlPlane) {
    let stage = Stage::new(plane, "protected");
    plane.apply(&stage::for_namespace(&get_role(), "protected"));
    stage.pod.update_config(&stage.rooms("protectedOpsStates: [Maintaining]"));
    let gate = Gate::to(plane.port());
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(stage.outcomes(), ["get 200", "patch 200"]);

    // The read passes, the write waits, and somebody comes in between.
    gate.stop_after(1);
    let arrived = gate.arrived();
    stage.game.set(200, "Allocated");
    sidecar.eventually(SOON, "the write is on its way", || gate.arrived() == arrived + 2);
    stage.set_ops_state("Maintaining");
    gate.open();
    sidecar.wait_for_line("another has set opsState to Maintaining, which is protected", SOON);
    assert_eq!(stage.outcomes()[2..5], ["get 200", "patch 409", "get 200"]);
    assert_eq!(stage.ops_state(), "Maintaining");

    stage.set_ops_state("None");
    sidecar.wait_for_line("opsState None -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    let patches: Vec<_> = stage.outcomes().into_iter().filter(|outcome| outcome.starts_with("patch")).collect();
    assert_eq!(patches, ["patch 200", "patch 409", "patch 200"]);
}

fn a_conflict_over_another_field_is_written_again_at_once(plane: &ControlPlane) {
    let stage = Stage::new(plane, "conflict");
    plane.apply(&stage::for_namespace(&get_role(), "conflict"));
    stage.pod.update_config(&stage.rooms("protectedOpsStates: [Maintaining]"));
    let gate = Gate::to(plane.port());
    gate.stop_after(1);
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.eventually(SOON, "the write is on its way", || gate.arrived() == 2);
    plane.admin().merge_patch(&stage.path(), CONTROLLER, &json!({"spec": {"updatePriority": 3}})).ok();
    gate.open();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(stage.outcomes(), ["get 200", "patch 409", "get 200", "patch 200"]);
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

fn the_previous_pods_game_server_does_not_count_as_written(plane: &ControlPlane) {
    let stage = Stage::without_game_server(plane, "previous");
    stage.create_game_server_of("22222222-2222-2222-2222-222222222222");
    stage.game.set(200, "Allocated");
    let sidecar = stage.sidecar().log("okg_sidecar=debug").start();
    sidecar.wait_for_line("still belongs to the previous pod", SOON);
    assert_eq!(sidecar.count_lines("opsState unknown -> Allocated"), 0, "{}", sidecar.stderr());
    // The garbage collector takes it, and OpenKruiseGame makes the one of this pod.
    plane.admin().delete(&stage.path());
    stage.create_game_server();
    sidecar.wait_for_line("opsState unknown -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

// ---- tokens and the API server's life

fn a_token_that_ended_with_its_pod_is_told_and_the_next_one_is_taken(plane: &ControlPlane) {
    let stage = Stage::new(plane, "token");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let client = stage.client();
    let path = format!("{}?dryRun=All", stage.path());
    let patch = |client: &Client| {
        client.send("PATCH", &path, &[("Content-Type", "application/merge-patch+json")], Some(&json!({}))).status
    };
    assert_eq!(patch(&client), 200);
    plane.admin().delete(&stage.pod_path());
    sidecar.eventually(AFTER_CACHE, "the token is void", || patch(&client) == 401);
    stage.game.set(200, "Allocated");
    sidecar.wait_for_line("status 401, `Unauthorized`; the API server does not accept the token", SOON);
    assert_eq!(stage.ops_state(), "None");

    let uid = stage::create_pod(plane, "token", "gs-0", "gameserverset.yaml");
    stage.pod.rotate_token(&plane.token("token", Some(("gs-0", &uid))));
    sidecar.wait_for_line("opsState None -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    assert_eq!(stage.outcomes(), ["patch 200", "patch 200"]);
    assert_eq!(told(&sidecar), (1, 1), "{}", sidecar.stderr());
}

fn an_api_server_that_was_killed_and_comes_back_gets_the_newest_state_under_a_new_authority_too(assets: &Assets) {
    let mut plane = ControlPlane::start(assets, AUDITED);
    let (game, pod, sidecar, path, uid) = {
        let stage = Stage::new(&plane, "restart");
        let sidecar = stage.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        let path = stage.path();
        let uid = stage.game_server()["metadata"]["uid"].clone();
        let Stage { game, pod, .. } = stage;
        (game, pod, sidecar, path, uid)
    };
    let state = |plane: &ControlPlane| {
        let game_server = plane.admin().get(&path);
        assert_eq!(game_server["metadata"]["uid"], uid, "not the same data");
        game_server["spec"]["opsState"].as_str().map(str::to_owned).unwrap_or_default()
    };

    plane.kill_api_server();
    game.set(200, "Allocated");
    sidecar.wait_for_line("goes on trying: no response", SOON);
    // Nobody has to hear of the state in between.
    game.set(200, "WaitToBeDeleted");
    let probes = game.requests().len();
    sidecar.eventually(SOON, "it was probed and decided on", || game.requests().len() >= probes + 2);
    plane.restart_api_server();
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", AFTER_BACKOFF);
    assert_eq!(state(&plane), "WaitToBeDeleted");
    assert_eq!(sidecar.count_lines("works again after"), 1, "{}", sidecar.stderr());

    plane.kill_api_server();
    plane.change_authority();
    plane.restart_api_server();
    game.set(200, "None");
    sidecar.wait_for_line("invalid peer certificate", SOON);
    assert_eq!(state(&plane), "WaitToBeDeleted");
    pod.set_ca(&plane.authority_pem());
    sidecar.wait_for_line("opsState WaitToBeDeleted -> None", AFTER_BACKOFF);
    assert_eq!(state(&plane), "None");
    // One that is starting may answer this and that, and each kind of fault is told.
    assert_eq!(sidecar.count_lines("works again after"), 2, "{}", sidecar.stderr());
}

// ---- what it refuses

fn a_bad_label_value_is_refused_by_the_api_server_so_the_sidecar_checks_it(plane: &ControlPlane) {
    let stage = Stage::new(plane, "label");
    plane.apply(&stage::for_namespace(&pod_role(), "label"));
    let patch = json!({"metadata": {"labels": {"room": "no label!"}}});
    let answer = stage.client().merge_patch(&stage.pod_path(), "okg-sidecar", &patch);
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert!(answer.text.contains("metadata.labels: Invalid value"), "{}", answer.text);
    stage
        .pod
        .update_config(&stage.config(
            "jsonPath: /metadata/labels/room, target: {version: v1, resource: pods, name: '${SELF:POD_NAME}'}",
        ));
    stage.game.set(200, "no label!");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("/metadata/labels/room: stays as it is, it cannot hold what `no label!`", SOON);
    stage.game.set(200, "a-label");
    sidecar.wait_for_line("Pod: /metadata/labels/room a-label", SOON);
    assert_eq!(stage.pod_object()["metadata"]["labels"]["room"], "a-label");
    assert_eq!(stage.outcomes().last().map(String::as_str), Some("patch 200"));
}

fn what_the_schema_refuses_is_told_and_another_field_follows(plane: &ControlPlane) {
    let stage = Stage::new(plane, "schema");
    stage.pod.update_config(&stage.config("jsonPath: /spec/networkDisabled"));
    stage.game.set(200, "Fine");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("status 422", SOON);
    await_probes(&stage, &sidecar, 3);
    assert_eq!(stage.outcomes(), ["patch 422"]);
    stage.pod.update_config(&stage.config("jsonPath: /spec/opsState"));
    await_state(&stage, "Fine");
    assert_eq!(stage.outcomes(), ["patch 422", "patch 200"]);
}

fn any_ops_state_is_legal_to_the_api_server_so_the_sidecar_checks_it(plane: &ControlPlane) {
    let stage = Stage::new(plane, "free-text");
    // OpenKruiseGame would copy it into a label of the pod, and stall.
    stage.set_ops_state("no label!");
    assert_eq!(stage.ops_state(), "no label!");
    stage.set_ops_state("None");
    stage.pod.update_config(&stage.config("jsonPath: /spec/opsState"));
    stage.game.set(200, "no label!");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("/spec/opsState: stays as it is, it cannot hold what `no label!` makes of it", SOON);
    stage.game.set(200, "Fine");
    await_state(&stage, "Fine");
    assert_eq!(stage.outcomes(), ["patch 200"]);
}

fn without_the_admission_policy_a_pod_may_patch_its_neighbours_and_with_it_its_own_alone(plane: &ControlPlane) {
    let namespace = "policy";
    let stage = Stage::new(plane, namespace);
    plane.apply(&stage::for_namespace(&pod_role(), namespace));
    let neighbour = Stage::one_more(plane, namespace, "gs-1");
    neighbour.create_game_server();
    let patch = |client: &Client, stage: &Stage, object: &str| {
        let path = if object == "pod" { stage.pod_path() } else { stage.path() };
        client.merge_patch(&path, "okg-sidecar", &json!({"metadata": {"labels": {"by": "a-pod"}}}))
    };
    let bound = stage.client();
    let unbound = plane.client(&plane.token(namespace, None), 0);
    // Even where somebody granted the account all of another namespace, with a pod of the same name.
    let namesake = Stage::new(plane, "policy-elsewhere");
    plane.apply(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
          metadata: {name: too-much, namespace: policy-elsewhere},
          roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
          subjects: [{kind: ServiceAccount, name: okg-sidecar, namespace: policy}]}",
    );
    for object in ["game server", "pod"] {
        for client in [&bound, &unbound] {
            for stage in [&neighbour, &namesake] {
                // RBAC is told of a new rule by a watch.
                let allowed = || patch(client, stage, object).status == 200;
                assert!(holds_within(SOON, allowed), "RBAC alone does not allow it: {object}");
            }
        }
    }

    plane.apply(&stage::for_namespace(&manifest::deploy("validating-admission-policy.yaml"), namespace));
    let held = || patch(&bound, &neighbour, "game server").status == 403;
    assert!(holds_within(Duration::from_secs(60), held), "the policy does not take effect");
    for object in ["game server", "pod"] {
        assert_eq!(patch(&bound, &stage, object).status, 200, "its own {object}");
        for stage in [&neighbour, &namesake] {
            let refused = patch(&bound, stage, object);
            assert_eq!(refused.status, 403, "another's {object}: {}", refused.text);
            assert!(refused.text.contains("a game pod may change its own objects only"), "{}", refused.text);
        }
        for stage in [&stage, &neighbour] {
            let refused = patch(&unbound, stage, object);
            assert_eq!(refused.status, 403, "a token that names no pod: {}", refused.text);
        }
        assert_eq!(patch(plane.admin(), &neighbour, object).status, 200, "it concerns nobody else");
    }
    // Somebody without any `extra`, as an administrator who acts in the account's name is.
    let headers = [
        ("Content-Type", "application/merge-patch+json"),
        ("Impersonate-User", "system:serviceaccount:policy:okg-sidecar"),
    ];
    let refused = plane.admin().send("PATCH", &stage.path(), &headers, Some(&json!({})));
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("a game pod may change its own objects only"), "{}", refused.text);

    // The sidecar does its job under it, and a 403 of the policy is not taken for a missing rule.
    stage.game.set(200, "Allocated");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    drop(sidecar);
    stage.pod.rotate_token(&plane.token(namespace, None));
    let sidecar = stage.sidecar().start();
    let line = sidecar.wait_for_line("status 403", SOON).text;
    assert!(!line.contains("needs the rule"), "{line}");
}

// ---- helpers

/// Waits until the game was probed `count` more times.
#[track_caller]
fn await_probes(stage: &Stage, sidecar: &SidecarProcess, count: usize) {
    let wanted = stage.game.requests().len() + count;
    sidecar.eventually(SOON, &format!("{count} more probes"), || stage.game.requests().len() >= wanted);
}

#[track_caller]
fn await_state(stage: &Stage, state: &str) {
    await_it(&format!("opsState {state}"), || stage.ops_state() == state);
}

#[track_caller]
fn await_it(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(AFTER_BACKOFF, condition), "not within {AFTER_BACKOFF:?}: {what}");
}

/// How often a fault of writing was told when it began, and when it ended.
fn told(sidecar: &SidecarProcess) -> (usize, usize) {
    (sidecar.count_lines("goes on trying"), sidecar.count_lines("works again after"))
}

/// The Role and the RoleBinding to patch the pod.
fn pod_role() -> String {
    role_of("examples/pod-deletion-cost.yaml")
}

/// The Role and the RoleBinding to read the GameServer.
fn get_role() -> String {
    role_of("examples/protected-maintaining.yaml")
}

/// The objects of a manifest, without the ConfigMap.
fn role_of(file: &str) -> String {
    let text = manifest::deploy(file);
    let documents = text.split("---\n").filter(|document| !document.contains("kind: ConfigMap\n"));
    documents.collect::<Vec<_>>().join("---\n")
}
