//! What somebody can do who has stolen a sidecar's token: each row of the table in docs/security.md, with RBAC alone and with the
//! admission policies of deploy/ (behaviour 8.8).

use serde_json::{Value, json};

use stand_ins::control_plane::{Answer, Client, ControlPlane, Stage, manifest};
use stand_ins::{SOON, holds_within, owned_by_pod};

use super::{apply_conditions_policy, apply_policy, kubelet_says, one_more_podprobe, podprobe_stage};

/// The policies, each with the manifest that has it.
const OWN_OBJECT: &str = "admission-policy/validating-admission-policy.yaml";
const OWN_CONDITIONS: &str = "kruise-podprobe/admission-policy/validating-admission-policy.yaml";
const OWN_TARGET: &str = "examples/target.yaml";

const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The messages of the policy, from which one knows the expression that refused.
const NOT_OWN: &str = "a game pod may change its own objects only";
const METADATA: &str = "may change the metadata of its own objects in their labels and annotations only";
const KEYS: &str = "does not list this label or annotation";
const SPEC: &str = "does not list this field of the spec";
const OPS_STATE: &str = "may set opsState to a label value of 1 to 63 characters only";
const PRIORITY: &str = "may set a priority to 63 characters at most";
const RECORD: &str = "the annotations okg-sidecar/decided may have 8 KiB in all";

/// A patch of the own GameServer, or of the own Pod, and the message of the expression that refuses it.
struct Attack {
    what: &'static str,
    path: String,
    patch: Value,
    message: &'static str,
}

impl Attack {
    /// What the token gets for it. Nothing stays of it.
    fn send(&self, client: &Client) -> Answer {
        dry(client, &self.path, &self.patch)
    }
}

/// A patch that changes nothing in the end. Lists of a Pod are merged by the names of their elements.
fn dry(client: &Client, path: &str, patch: &Value) -> Answer {
    let kind = if path.contains("/pods/") { STRATEGIC } else { MERGE_PATCH };
    client.send("PATCH", &format!("{path}?dryRun=All"), &[("Content-Type", kind)], Some(patch))
}

#[track_caller]
fn refused(what: &str, answer: &Answer, message: &str) {
    // An expression that cannot be evaluated refuses, too, and with another message.
    assert!(answer.status == 403 && answer.text.contains(message), "{what}: {} {}", answer.status, answer.text);
}

/// What changes more of its own objects than a sidecar does.
fn attacks(stage: &Stage) -> Vec<Attack> {
    let (game_server, pod) = (stage.path(), stage.pod_path());
    let image = json!([{"name": "game", "image": "evil.example/x:1"}]);
    let record = |key: &str, bytes: usize| json!({"metadata": {"annotations": {key: "x".repeat(bytes)}}});
    let game_server = [
        ("an image for every container", json!({"spec": {"containers": image}}), SPEC),
        (
            "resources",
            json!({"spec": {"containers": [{"name": "game", "resources": {"limits": {"cpu": "64"}}}]}}),
            SPEC,
        ),
        ("the network", json!({"spec": {"networkDisabled": true}}), SPEC),
        ("no network field", json!({"spec": {"networkDisabled": null}}), SPEC),
        (
            "an image in an object without an owner",
            json!({"metadata": {"ownerReferences": []}, "spec": {"containers": image}}),
            METADATA,
        ),
        ("no owner", json!({"metadata": {"ownerReferences": null}}), METADATA),
        (
            "another owner",
            json!({"metadata": {"ownerReferences": owned_by_pod("gs-1", "22222222-2222-2222-2222-222222222222")}}),
            METADATA,
        ),
        ("a finalizer", json!({"metadata": {"finalizers": ["evil.example/stays"]}}), METADATA),
        ("a label", json!({"metadata": {"labels": {"game.kruise.io/owner-gss": "lobby"}}}), KEYS),
        ("an annotation", json!({"metadata": {"annotations": {"gs-sync/evil": "on the Pod, too"}}}), KEYS),
        ("no annotation of somebody else", json!({"metadata": {"annotations": {"theirs": null}}}), KEYS),
        ("an annotation like a record", record("okg-sidecar/decided-x", 1), KEYS),
        ("a record beyond all numbers", record("okg-sidecar/decided-1234567890123456789", 1), KEYS),
        ("an opsState of 64 characters", json!({"spec": {"opsState": "x".repeat(64)}}), OPS_STATE),
        ("an opsState of 1 MB", json!({"spec": {"opsState": "x".repeat(1_000_000)}}), OPS_STATE),
        ("an opsState that is no label", json!({"spec": {"opsState": "no label!"}}), OPS_STATE),
        ("no opsState", json!({"spec": {"opsState": null}}), OPS_STATE),
        ("a priority of 64 characters", json!({"spec": {"deletionPriority": "7".repeat(64)}}), PRIORITY),
        ("another priority of 64 characters", json!({"spec": {"updatePriority": "7".repeat(64)}}), PRIORITY),
        ("a record of more than 8 KiB", record("okg-sidecar/decided", 8192), RECORD),
        ("a numbered record of more than 8 KiB", record("okg-sidecar/decided-7", 8192), RECORD),
        (
            "records of more than 8 KiB together",
            json!({"metadata": {"annotations": {
                "okg-sidecar/decided": "x".repeat(4096), "okg-sidecar/decided-7": "x".repeat(4096),
            }}}),
            RECORD,
        ),
    ]
    .map(|(what, patch, message)| Attack { what, path: game_server.clone(), patch, message });
    let pod_container = json!([{"name": "tank-war", "image": "evil.example/x:1"}]);
    let pod = [
        ("a label, and so traffic of another Service", json!({"metadata": {"labels": {"app": "payment"}}}), KEYS),
        (
            "a label, and so another set's server less",
            json!({"metadata": {"labels": {"game.kruise.io/owner-gss": "lobby"}}}),
            KEYS,
        ),
        ("no label of somebody else", json!({"metadata": {"labels": {"app.kubernetes.io/name": null}}}), KEYS),
        (
            "a deletion cost",
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "1"}}}),
            KEYS,
        ),
        ("a record", record("okg-sidecar/decided", 1), KEYS),
        ("an image", json!({"spec": {"containers": pod_container}}), SPEC),
        ("a deadline", json!({"spec": {"activeDeadlineSeconds": 1}}), SPEC),
        ("a finalizer of the Pod", json!({"metadata": {"finalizers": ["evil.example/stays"]}}), METADATA),
        (
            "an owner of the Pod",
            json!({"metadata": {"ownerReferences": owned_by_pod("gs-1", "22222222-2222-2222-2222-222222222222")}}),
            METADATA,
        ),
    ]
    .map(|(what, patch, message)| Attack { what, path: pod.clone(), patch, message });
    game_server.into_iter().chain(pod).collect()
}

/// The Role with the right to patch all that the policy is about.
fn role(namespace: &str) -> Value {
    let mut role = manifest::in_namespace("rbac/rbac.yaml", namespace).swap_remove(1);
    assert_eq!(role["kind"], "Role");
    role["rules"] = json!([
        {"apiGroups": ["game.kruise.io"], "resources": ["gameservers", "gameservers/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["pods", "pods/status", "pods/ephemeralcontainers"], "verbs": ["patch"]},
    ]);
    role
}

/// What a sidecar writes of its own.
fn honest(stage: &Stage) -> Vec<(String, Value)> {
    let (game_server, pod) = (stage.path(), stage.pod_path());
    let record =
        json!({"okg-sidecar/decided": "x".repeat(2000), "okg-sidecar/decided-8": "x", "okg-sidecar/decided-7": null});
    let writes = [
        json!({}),
        json!({"spec": {"opsState": "Allocated", "updatePriority": 3, "deletionPriority": "7"}, "metadata": {"annotations": record}}),
        json!({"spec": {"opsState": "x".repeat(63), "deletionPriority": "7".repeat(63)}}),
    ];
    writes.map(|patch| (game_server.clone(), patch)).into_iter().chain([(pod, json!({}))]).collect()
}

/// A stage whose token RBAC lets patch everything that the policy is about.
fn stage<'a>(plane: &'a ControlPlane, namespace: &str) -> Stage<'a> {
    let stage = Stage::new(plane, namespace);
    plane.apply_all(&[role(namespace)]);
    let annotations = json!({"metadata": {"annotations": {"theirs": "x", "okg-sidecar/decided-7": "x"}}});
    plane.admin().merge_patch(&stage.path(), "operator", &annotations).ok();
    stage
}

/// A policy of a manifest for one namespace, without one of its expressions.
fn policy_without(file: &str, namespace: &str, index: usize) -> Vec<Value> {
    let mut objects = policy_of(file, namespace);
    objects[0]["spec"]["validations"].as_array_mut().expect("a policy has validations").remove(index);
    objects
}

/// A policy of a manifest with its binding, for one namespace.
fn policy_of(file: &str, namespace: &str) -> Vec<Value> {
    let mut objects = manifest::objects(&manifest::deploy(file));
    objects.retain(manifest::is_of_a_policy);
    manifest::limited_to(objects, namespace)
}

/// Without each of its expressions a policy lets an attack pass that it refuses with that expression's message.
#[track_caller]
fn each_expression_matters(plane: &ControlPlane, file: &str, namespace: &str, client: &Client, attacks: &[Attack]) {
    let policy = policy_of(file, namespace);
    let validations = policy[0]["spec"]["validations"].as_array().expect("a policy has validations");
    for (index, validation) in validations.iter().enumerate() {
        let message = validation["message"].as_str().expect("an expression has a message").to_owned();
        plane.apply_all(&policy_without(file, namespace, index));
        let mut allowed = 0;
        for attack in attacks.iter().filter(|attack| message.contains(attack.message)) {
            let mut answer = attack.send(client);
            let passes = || {
                answer = attack.send(client);
                !answer.text.contains(&message)
            };
            assert!(holds_within(SOON, passes), "{} is refused without it: {}", attack.what, answer.text);
            allowed += usize::from(answer.status == 200);
        }
        assert!(allowed > 0, "no attack succeeds without it: {message}");
    }
}

pub fn a_stolen_token_changes_nothing_of_its_own_objects_but_what_its_sidecar_changes(plane: &ControlPlane) {
    let stage = stage(plane, "stolen");
    let client = stage.client();
    let attacks = attacks(&stage);
    for attack in &attacks {
        let allowed = || attack.send(&client).status == 200;
        assert!(holds_within(SOON, allowed), "RBAC alone: {}: {}", attack.what, attack.send(&client).text);
    }
    apply_policy(&stage);
    for attack in &attacks {
        refused(attack.what, &attack.send(&client), attack.message);
    }
    for (path, patch) in honest(&stage) {
        dry(&client, &path, &patch).ok();
    }
    for path in [
        format!("{}/status", stage.path()),
        format!("{}/status", stage.pod_path()),
        format!("{}/ephemeralcontainers", stage.pod_path()),
    ] {
        refused("a subresource", &dry(&client, &path, &json!({})), NOT_OWN);
    }
    // What somebody else wrote that no sidecar could is no obstacle.
    let odd = json!({"spec": {"opsState": "no label!"}, "metadata": {"annotations": {"okg-sidecar/decided-6": "x".repeat(10_000)}}});
    plane.admin().merge_patch(&stage.path(), "operator", &odd).ok();
    for patch in [
        json!({}),
        json!({"spec": {"deletionPriority": 3}, "metadata": {"annotations": {"okg-sidecar/decided-6": "x"}}}),
    ] {
        dry(&client, &stage.path(), &patch).ok();
    }
    refused(
        "a longer record",
        &dry(&client, &stage.path(), &json!({"metadata": {"annotations": {"okg-sidecar/decided-7": "xx"}}})),
        RECORD,
    );
}

pub fn each_expression_of_the_policy_refuses_something_that_no_other_does(plane: &ControlPlane) {
    let namespace = "expressions";
    let stage = stage(plane, namespace);
    let neighbour = Stage::one_more(plane, namespace, "gs-1");
    neighbour.create_game_server();
    apply_policy(&stage);
    let mut attacks = attacks(&stage);
    attacks.push(Attack { what: "a neighbour", path: neighbour.path(), patch: json!({}), message: NOT_OWN });
    each_expression_matters(plane, OWN_OBJECT, namespace, &stage.client(), &attacks);
}

pub fn what_the_namespace_lists_may_be_written_and_nothing_beside_it(plane: &ControlPlane) {
    let stage = stage(plane, "listed");
    let client = stage.client();
    apply_policy(&stage);
    let (game_server, pod) = (stage.path(), stage.pod_path());
    let allowed = [
        (&pod, json!({"metadata": {"labels": {"game.example.com/room": "idle"}}})),
        (&pod, json!({"metadata": {"annotations": {"note": "x"}}})),
        (&game_server, json!({"spec": {"networkDisabled": true}})),
        (&game_server, json!({"metadata": {"labels": {"map": "x"}}})),
        (&game_server, json!({"metadata": {"annotations": {"gs-sync/map": "x"}}})),
    ];
    for (path, patch) in &allowed {
        let answer = dry(&client, path, patch);
        assert_eq!(answer.status, 403, "{}", answer.text);
    }
    let list = "pods/labels/game.example.com/room pods/annotations/note gameservers/spec/networkDisabled \
                gameservers/labels/map gameservers/annotations/gs-sync/map pods/spec/activeDeadlineSeconds";
    let namespace = json!({"metadata": {"annotations": {"okg-sidecar/may-write": list}}});
    plane.admin().merge_patch("/api/v1/namespaces/listed", "e2e", &namespace).ok();
    for (path, patch) in &allowed {
        assert!(holds_within(SOON, || dry(&client, path, patch).status == 200), "{}", dry(&client, path, patch).text);
    }
    for (path, patch) in [
        (&pod, json!({"metadata": {"annotations": {"game.example.com/room": "idle"}}})),
        (&pod, json!({"metadata": {"labels": {"note": "x"}}})),
        (&pod, json!({"metadata": {"labels": {"map": "x"}}})),
        (&game_server, json!({"metadata": {"labels": {"game.example.com/room": "idle"}}})),
        (&game_server, json!({"metadata": {"annotations": {"map": "x"}}})),
    ] {
        refused("another place", &dry(&client, path, &patch), KEYS);
    }
    refused("another field", &dry(&client, &game_server, &json!({"spec": {"containers": []}})), SPEC);
    refused(
        "a Pod's spec, which no list opens",
        &dry(&client, &pod, &json!({"spec": {"activeDeadlineSeconds": 1}})),
        SPEC,
    );
}

pub fn each_expression_of_the_conditions_policy_refuses_something_that_no_other_does(plane: &ControlPlane) {
    let namespace = "conditions";
    let stage = podprobe_stage(plane, namespace);
    let neighbour = one_more_podprobe(plane, namespace, "gs-1");
    for stage in [&stage, &neighbour] {
        kubelet_says(stage);
    }
    let client = stage.client();
    let path = format!("{}/status", stage.pod_path());
    let condition = |kind: &str| json!({"type": kind, "status": "True", "message": "m"});
    let conditions = |count: usize| (0..count).map(|n| condition(&format!("game.kruise.io/{n}"))).collect::<Vec<_>>();
    let one = |key: &str, value: Value| {
        let mut one = condition("game.kruise.io/x");
        one[key] = value;
        json!({"status": {"conditions": [one]}})
    };
    let of_it = "may change the conditions of its own pod only";
    let not_kruises = "may change the conditions game.kruise.io/... of its own pod only";
    let shape = "may set type, status and message of a condition only";
    let attacks = [
        ("another phase", json!({"status": {"phase": "Failed"}}), of_it),
        ("a label", json!({"metadata": {"labels": {"app": "payment"}}}), of_it),
        ("Ready", one("type", json!("Ready")), not_kruises),
        ("a message of more than 1 KiB", one("message", json!("x".repeat(1025))), shape),
        ("a reason", one("reason", json!("x".repeat(100_000))), shape),
        ("another status", one("status", json!("x".repeat(100_000))), shape),
        ("a time", one("lastTransitionTime", json!("2026-11-24T08:00:00Z")), shape),
        ("65 conditions", json!({"status": {"conditions": conditions(65)}}), "64 conditions"),
    ];
    let mut attacks: Vec<Attack> =
        attacks.into_iter().map(|(what, patch, message)| Attack { what, path: path.clone(), patch, message }).collect();
    let another = format!("{}/status", neighbour.pod_path());
    attacks.push(Attack {
        what: "a neighbour",
        path: another,
        patch: one("status", json!("False")),
        message: "the status of its own pod only",
    });
    for attack in &attacks {
        let allowed = || attack.send(&client).status == 200;
        assert!(holds_within(SOON, allowed), "RBAC alone: {}: {}", attack.what, attack.send(&client).text);
    }
    apply_conditions_policy(&stage);
    for attack in &attacks {
        refused(attack.what, &attack.send(&client), attack.message);
    }
    for patch in [json!({}), one("message", json!("x".repeat(1024))), json!({"status": {"conditions": conditions(64)}})]
    {
        dry(&client, &path, &patch).ok();
    }
    each_expression_matters(plane, OWN_CONDITIONS, namespace, &client, &attacks);
}

pub fn a_target_is_the_own_one_alone(plane: &ControlPlane) {
    let namespace = "targets";
    let stage = Stage::new(plane, namespace);
    let mut objects = manifest::in_namespace(OWN_TARGET, namespace);
    objects.retain(|object| !manifest::is_of_a_policy(object));
    plane.apply_all(&objects);
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    for name in ["players-gs-0", "players-gs-1", "kube-root-ca.crt"] {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": "x"}});
        plane.admin().create(&maps, "e2e", &object);
    }
    let client = stage.client();
    let (own, another) = ("may change its own target only", "may change one field of its own target only");
    let data = |key: &str, bytes: usize| json!({"data": {key: "x".repeat(bytes)}});
    let attacks = [
        ("the config of every sidecar", "okg-sidecar-config", data("config.yaml", 9), own),
        ("the CA of every sidecar", "kube-root-ca.crt", data("ca.crt", 9), own),
        ("another pod's target", "players-gs-1", data("count", 1), own),
        ("another key", "players-gs-0", data("other", 1), another),
        ("a removed key", "players-gs-0", json!({"data": {"ca.crt": null}}), another),
        ("a long value", "players-gs-0", data("count", 4097), another),
        ("a label", "players-gs-0", json!({"metadata": {"labels": {"a": "b"}}}), another),
        ("binary data", "players-gs-0", json!({"binaryData": {"x": "eA=="}}), another),
        ("immutable", "players-gs-0", json!({"immutable": true}), another),
    ];
    let attacks: Vec<Attack> = attacks
        .into_iter()
        .map(|(what, name, patch, message)| Attack { what, path: format!("{maps}/{name}"), patch, message })
        .collect();
    for attack in &attacks {
        let allowed = || attack.send(&client).status == 200;
        assert!(holds_within(SOON, allowed), "RBAC alone: {}: {}", attack.what, attack.send(&client).text);
    }
    plane.apply_all(&policy_of(OWN_TARGET, namespace));
    let first = &attacks[0];
    let takes_effect = || first.send(&client).status == 403;
    assert!(holds_within(SOON, takes_effect), "{}", first.send(&client).text);
    for attack in &attacks {
        refused(attack.what, &attack.send(&client), attack.message);
    }
    for patch in [json!({}), data("count", 4096)] {
        dry(&client, &format!("{maps}/players-gs-0"), &patch).ok();
    }
    let unbound = plane.client(&plane.token(namespace, None), 0);
    refused("a token that names no pod", &dry(&unbound, &format!("{maps}/players-gs-0"), &json!({})), own);
    // Even if somebody granted the account all of its namespace, and of another one.
    plane.create_namespace("targets-elsewhere");
    let elsewhere = "/api/v1/namespaces/targets-elsewhere/configmaps";
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "players-gs-0"}});
    plane.admin().create(elsewhere, "e2e", &object);
    for granted in [namespace, "targets-elsewhere"] {
        plane.apply(&format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
              metadata: {{name: too-much, namespace: {granted}}},
              roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}},
              subjects: [{{kind: ServiceAccount, name: okg-sidecar, namespace: {namespace}}}]}}"
        ));
    }
    let by_policy = |answer: Answer| answer.status == 403 && answer.text.contains(own);
    let elsewhere = format!("{elsewhere}/players-gs-0");
    assert!(holds_within(SOON, || by_policy(dry(&client, &elsewhere, &json!({})))), "another namespace");
    let delete = || client.send("DELETE", &format!("{maps}/players-gs-0?dryRun=All"), &[], None);
    assert!(holds_within(SOON, || by_policy(delete())), "a deletion: {}", delete().text);
    let create = || {
        let path = format!("{maps}?dryRun=All");
        client.send("POST", &path, &[("Content-Type", "application/json")], Some(&object))
    };
    plane.admin().delete(&format!("{maps}/players-gs-0"));
    assert!(holds_within(SOON, || by_policy(create())), "a creation: {}", create().text);
    plane.admin().create(&maps, "e2e", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "players-gs-0"}, "data": {"ca.crt": "x"}}));
    each_expression_matters(plane, OWN_TARGET, namespace, &client, &attacks);
}

pub fn the_line_for_a_403_names_the_account_and_what_it_lacks(plane: &ControlPlane) {
    let stage = Stage::new(plane, "lacks");
    plane.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: lobby, namespace: lacks}}");
    // As kube-controller-manager makes it.
    plane.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: lacks}}");
    let rule =
        "needs the rule {\"apiGroups\":[\"game.kruise.io\"],\"resources\":[\"gameservers\"],\"verbs\":[\"patch\"]}";
    for (account, advice) in [
        ("lobby", format!("; the Role of the account lobby {rule}")),
        (
            "default",
            format!(
                "; does the pod template lack serviceAccountName: okg-sidecar? Else the Role of the account default {rule}"
            ),
        ),
    ] {
        stage.pod.rotate_token(&plane.token_of("lacks", account, None));
        let sidecar = stage.sidecar().env("POD_NAME", "gs-0").start();
        let line = sidecar.wait_for_line("status 403", SOON).text;
        assert!(
            line.contains(&format!("status 403, `User \"system:serviceaccount:lacks:{account}\" cannot patch")),
            "{line}"
        );
        assert!(line.ends_with(&advice), "{line}");
    }
    // Under the policy, a key that nobody has listed.
    plane.apply_all(&[role("lacks")]);
    apply_policy(&stage);
    stage.pod.rotate_token(&plane.token("lacks", Some(("gs-0", &stage.uid))));
    stage.pod.update_config(&stage.config("labelKey: room"));
    let sidecar = stage.sidecar().start();
    let line = sidecar.wait_for_line("/pods/gs-0 failed", SOON).text;
    let told = "status 403, `okg-sidecar/may-write of the namespace does not list this label or annotation`; `okg-sidecar check` \
                prints what it has to list";
    assert!(line.ends_with(told), "{line}");
}
