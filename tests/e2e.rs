//! The sidecar and the manifests of deploy/ against a real kube-apiserver: what the project promises of merge-patch, RBAC, tokens
//! and admission is what a cluster does (behaviour 4, 6, 8, 9). If there is no kube-apiserver, one line names the way to get one,
//! and the cases pass; if CI is `true`, they fail.

mod attacks;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use attacks::{
    a_stolen_token_changes_nothing_of_its_own_objects_but_what_its_sidecar_changes, a_target_is_the_own_one_alone,
    each_expression_of_the_conditions_policy_refuses_something_that_no_other_does,
    each_expression_of_the_policy_refuses_something_that_no_other_does,
    the_line_for_a_403_names_the_account_and_what_it_lacks,
    what_the_namespace_lists_may_be_written_and_nothing_beside_it,
};
use serde_json::{Value, json};
use stand_ins::control_plane::client::SMALL_ANSWER;
use stand_ins::control_plane::stage::{self, CONTROLLER, TANK_WAR};
use stand_ins::control_plane::{Answer, Assets, Client, ControlPlane, Options, Stage, kustomize, manifest};
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    Game, SOON, SidecarProcess, game_server_path, holds_within, in_ci, owned_by_pod, owned_by_set, pod_path,
    side_by_side,
};

/// Long enough for a retry after several failures, whose waits double up to a minute.
const AFTER_BACKOFF: Duration = Duration::from_secs(150);

/// Long enough for the API server to forget that it knew a token: it remembers for ten seconds.
const AFTER_CACHE: Duration = Duration::from_secs(60);

/// Long enough for an attempt that gets no answer.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);

const AUDITED: Options = Options { audit: true };

/// The control plane that most cases share, if its programs are there. It ends with this process.
fn shared() -> Option<&'static ControlPlane> {
    static SHARED: LazyLock<Option<ControlPlane>> =
        LazyLock::new(|| assets().map(|assets| ControlPlane::start(assets, AUDITED)));
    SHARED.as_ref()
}

/// The programs of a control plane. Without them a case fails if CI is `true`, and passes else; one line is for all of them.
fn assets() -> Option<&'static Assets> {
    static FOUND: LazyLock<Result<Assets, String>> = LazyLock::new(|| {
        Assets::find().inspect_err(|why| {
            let _ = writeln!(io::stderr(), "e2e {}: {why}", if in_ci() { "FAILED" } else { "SKIPPED" });
        })
    });
    let found = FOUND.as_ref();
    assert!(found.is_ok() || !in_ci(), "there is no control plane, and CI is true");
    found.ok()
}

#[test]
fn an_api_server_that_was_killed_and_comes_back_gets_the_newest_state_under_a_new_authority_too() {
    if let Some(assets) = assets() {
        killed_and_back(assets);
    }
}

/// Makes a test of each case, on the control plane that they share.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod cases {$(
            #[test]
            fn $case() {
                if let Some(plane) = super::shared() {
                    super::$case(plane);
                }
            }
        )*}
    };
}

cases!(
    a_lost_attempt_that_arrives_late_is_answered_409_and_changes_nothing,
    a_token_that_ended_with_its_pod_is_logged_and_the_next_one_is_taken,
    an_old_pods_process_writes_nothing_to_the_new_pods_game_server,
    an_old_pods_process_writes_nothing_more_to_a_game_server_that_outlives_its_pods,
    the_manifests_as_they_are_tell_the_tank_war_story_with_one_write_a_state,
    a_pod_without_any_variable_of_its_own_knows_itself_by_its_token,
    a_game_server_that_comes_after_the_sidecar_is_written_without_alarm,
    each_shipped_role_is_enough_and_grants_nothing_else,
    kubectl_applies_every_manifest_in_a_dry_run,
    under_pod_security_restricted_the_sidecar_alone_has_a_token,
    a_read_changes_nothing,
    managed_fields_show_the_sidecar_and_only_what_it_owns,
    the_small_answer_is_given_for_the_game_server_and_the_pod,
    labels_and_annotations_come_and_go_on_the_pod,
    a_protected_state_set_in_between_wins_by_a_real_conflict,
    a_conflict_over_another_field_is_written_again_at_once,
    a_busy_second_writer_costs_conflicts_and_no_decision,
    what_somebody_sets_before_or_during_an_update_of_the_sidecar_survives_it,
    a_game_server_that_is_deleted_and_created_anew_gets_all_decided_fields,
    the_previous_pods_game_server_does_not_count_as_written,
    a_bad_label_value_is_refused_by_the_api_server_so_the_sidecar_checks_it,
    a_field_that_the_schema_refuses_holds_back_no_other,
    any_ops_state_and_priority_is_legal_to_the_api_server_so_the_sidecar_checks_it,
    without_the_admission_policy_a_pod_may_change_its_neighbours_and_with_it_its_own_alone,
    the_manifests_of_kruises_probes_set_conditions_and_leave_everything_else,
    conditions_never_reach_another_pod_of_the_name,
    the_role_and_the_policy_of_kruises_probes_are_enough_and_grant_nothing_else,
    a_stolen_token_changes_nothing_of_its_own_objects_but_what_its_sidecar_changes,
    each_expression_of_the_policy_refuses_something_that_no_other_does,
    what_the_namespace_lists_may_be_written_and_nothing_beside_it,
    each_expression_of_the_conditions_policy_refuses_something_that_no_other_does,
    a_target_is_the_own_one_alone,
    the_line_for_a_403_names_the_account_and_what_it_lacks,
);

// ---- the main job

fn the_manifests_as_they_are_tell_the_tank_war_story_with_one_write_a_state(plane: &ControlPlane) {
    let namespace = "tank-war";
    plane.apply_all(&manifest::built_alone(TANK_WAR, namespace));
    let stage = Stage::one_more(plane, namespace, "tank-war-0");
    stage.create_game_server();
    let config_map = plane.admin().get(&format!("/api/v1/namespaces/{namespace}/configmaps/okg-sidecar-config"));
    let text = config_map["data"]["config.yaml"].as_str().expect("it holds a config");
    // The game's port and the times are the only things that differ.
    let text = text
        .replace("http://localhost:8080", &stage.game.url(""))
        .replace("timeout: 3 ", "timeout: 1 ")
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
        assert_eq!(stage.outcomes(), ["read 200", "patch 200"].repeat(writes));
    }
    assert_eq!(sidecar.stderr().lines().count(), 4, "{}", sidecar.stderr());
    for request in stage.requests() {
        let query = "fieldManager=okg-sidecar&fieldValidation=Strict&timeout=10s";
        assert_eq!(request["requestURI"], format!("{}?{query}", stage.path()));
        assert_eq!(request["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["tank-war-0"]));
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
    assert_eq!(outcomes.pop().as_deref(), Some("read 200"));
    assert!(outcomes.iter().all(|outcome| outcome == "read 404"), "{outcomes:?}");
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

fn a_pod_without_any_variable_of_its_own_knows_itself_by_its_token(plane: &ControlPlane) {
    let stage = Stage::new(plane, "token-alone");
    let neighbour = Stage::one_more(plane, "token-alone", "gs-1");
    neighbour.create_game_server();
    stage.game.set(200, "Allocated");
    stage.pod.account.remove("namespace");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    assert_eq!(stage.record()["pod"], json!(stage.uid));
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
    drop(sidecar);

    // Even if a variable names another pod by mistake, the uid in the token is its own pod's.
    let untouched = neighbour.game_server();
    let sidecar = stage.sidecar().env("POD_NAME", "gs-1").log("okg_sidecar=debug").start();
    sidecar.wait_for_line("POD_NAME is `gs-1`, but the mounted token says `gs-0`", SOON);
    sidecar.wait_for_line("still belongs to the previous pod", SOON);
    assert_eq!(neighbour.game_server(), untouched);
}

// ---- the manifests

fn kubectl_applies_every_manifest_in_a_dry_run(plane: &ControlPlane) {
    // Nothing can be tried in a namespace that is not there.
    for namespace in kustomize::files().iter().filter(|path| path.ends_with("namespace.yaml")) {
        plane.apply(&std::fs::read_to_string(namespace).expect("the file is readable"));
    }
    let mut files = vec!["apply".to_owned(), "--dry-run=server".to_owned()];
    for path in kustomize::files() {
        let text = std::fs::read_to_string(&path).expect("the file is readable");
        let text_of = |path: &Path| path.to_str().expect("the path is UTF-8").to_owned();
        if text.contains("\nkind: Kustomization\n") {
            let folder = text_of(path.parent().expect("a file has a folder"));
            plane.kubectl(&["apply", "--dry-run=server", "-k", &folder]);
        } else if !is_part_of_a_kustomization(&path, &text) {
            files.push(format!("--filename={}", text_of(&path)));
        }
    }
    plane.kubectl(&files.iter().map(String::as_str).collect::<Vec<_>>());

    // What is cluster-wide gets a namespace by kustomize, too, and nobody minds.
    plane.create_namespace("games");
    let kustomization = "
        namespace: games
        namePrefix: dev-
        resources: [okg-sidecar/deploy, okg-sidecar/deploy/sidecarset]
        components: [okg-sidecar/deploy/components/sidecar]";
    let objects = kustomize::build_of_user(&[("kustomization.yaml", kustomization)]).expect("it can be built");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut file = tempfile::NamedTempFile::new().expect("the temporary folder is writable");
    file.write_all(list.to_string().as_bytes()).expect("the temporary folder is writable");
    let told = plane.kubectl(&["apply", "--dry-run=server", "-f", file.path().to_str().expect("the path is UTF-8")]);
    assert_eq!(told.matches("created (server dry run)").count(), 7, "{told}");
}

/// Whether nothing but kustomize reads it. What components add is tried in pods.
fn is_part_of_a_kustomization(path: &Path, text: &str) -> bool {
    path.ends_with("references.yaml")
        || text.contains("\nkind: Component\n")
        || text.contains("config.kubernetes.io/local-config: \"true\"")
}

fn under_pod_security_restricted_the_sidecar_alone_has_a_token(plane: &ControlPlane) {
    let namespace = "token-volume";
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
    plane.admin().create("/api/v1/namespaces", "e2e", &object);
    for file in ["rbac/rbac.yaml", "kruise-podprobe/rbac.yaml"] {
        plane.apply_all(&manifest::in_namespace(file, namespace));
    }
    let collection = format!("/api/v1/namespaces/{namespace}/pods");
    let headers = [("Content-Type", "application/json")];
    let game = manifest::objects(&manifest::deploy(&format!("{TANK_WAR}/gameserverset.yaml"))).swap_remove(0);
    let with = |component: &str| {
        let text = format!("resources: [gameserverset.yaml]\ncomponents: [okg-sidecar/deploy/{component}]\n");
        let files = [("kustomization.yaml", text.as_str()), ("gameserverset.yaml", &game.to_string())];
        let objects = kustomize::build_of_user(&files).expect("it can be built");
        stage::pod_of(manifest::of_kind(&objects, "GameServerSet"), namespace, "gs-0")
    };
    // Kruise's webhook does the same. The ServiceAccount alone keeps the token from the game.
    let mut injected = stage::pod_of(&game, namespace, "gs-0");
    injected["spec"]["serviceAccountName"] = "okg-sidecar".into();
    let set = manifest::objects(&manifest::deploy("sidecarset/sidecarset.yaml")).swap_remove(0);
    for list in ["containers", "volumes"] {
        for item in set["spec"][list].as_array().expect("a list") {
            let mut item = item.clone();
            for key in ["podInjectPolicy", "shareVolumePolicy"] {
                item.as_object_mut().expect("a map").remove(key);
            }
            injected["spec"][list].as_array_mut().expect("a list").push(item);
        }
    }
    for (variant, pod) in [
        ("sidecar", with("components/sidecar")),
        ("native sidecar", with("components/native-sidecar")),
        ("kruise-podprobe", with("kruise-podprobe/component")),
        ("SidecarSet", injected),
    ] {
        let created = plane.admin().create(&collection, CONTROLLER, &pod);
        assert_eq!(token_mounts(&created), [("okg-sidecar".to_owned(), "okg-sidecar-token".to_owned())], "{variant}");
        let volumes = created["spec"]["volumes"].as_array().expect("a list");
        let with_token = volumes.iter().filter(|volume| volume.to_string().contains("serviceAccountToken"));
        assert_eq!(with_token.count(), 1, "{variant}: {volumes:?}");
        plane.admin().delete(&pod_path(namespace, "gs-0"));
    }

    // With another account the API server mounts a token into the game, too, which the pod's own field prevents.
    let mut careless = with("components/sidecar");
    careless["spec"]["serviceAccountName"] = "careless".into();
    plane.apply(&format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: careless, namespace: {namespace}}}}}"
    ));
    assert_eq!(token_mounts(&plane.admin().create(&collection, CONTROLLER, &careless)).len(), 1);
    plane.admin().delete(&pod_path(namespace, "gs-0"));
    careless["spec"]["automountServiceAccountToken"] = Value::Null;
    let created = plane.admin().create(&collection, CONTROLLER, &careless);
    assert!(token_mounts(&created).iter().any(|(container, _)| container == "tank-war"), "{created}");
    // And Pod Security does look.
    for (container, what) in [(0, "the game"), (1, "the sidecar")] {
        let mut pod = with("components/sidecar");
        pod["spec"]["containers"][container]["securityContext"] = Value::Null;
        let answer = plane.admin().send("POST", &collection, &headers, Some(&pod));
        assert!(answer.status == 403 && answer.text.contains("violates PodSecurity"), "{what}: {}", answer.text);
    }
}

/// The volume that each container of a Pod mounts at the path of tokens.
fn token_mounts(pod: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers =
        ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array()).flatten();
    containers
        .flat_map(|container| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts
                .filter(|mount| text(&mount["mountPath"]).starts_with("/var/run/secrets/kubernetes.io"))
                .map(|mount| (text(&container["name"]), text(&mount["name"])))
                .collect::<Vec<_>>()
        })
        .collect()
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
        file: "config/configmap.yaml",
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
        grants: &[],
        story: |stage, _| {
            stage.game.set(200, "playing");
            await_state(stage, "Allocated");
            stage.set_ops_state("Maintaining");
            stage.game.set(200, "idle");
            let reads = stage.outcomes().len();
            await_it("the sidecar reads", || stage.outcomes().get(reads).is_some_and(|outcome| outcome == "read 200"));
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
    let elsewhere = stand_ins::game_server("elsewhere", "gs-0", "some-uid");
    plane.admin().create("/apis/game.kruise.io/v1alpha1/namespaces/elsewhere/gameservers", CONTROLLER, &elsewhere);
    plane.create_namespace("no-role");
    plane.apply_all(&manifest::in_namespace("rbac/rbac.yaml", "no-role")[..1]);
    let of_any_account = rights(&plane.client(&plane.token("no-role", None), 0), "no-role");
    side_by_side(SHIPPED, |shipped| {
        let (_, name) = shipped.file.rsplit_once('/').unwrap_or(("", shipped.file));
        let namespace = format!("role-{}", name.trim_end_matches(".yaml"));
        let stage = Stage::new(plane, &namespace);
        // Honest writes pass under the policies.
        apply_policy(&stage);
        let (policies, objects): (Vec<_>, Vec<_>) =
            manifest::in_namespace(shipped.file, &namespace).into_iter().partition(manifest::is_of_a_policy);
        plane.apply_all(&objects);
        plane.apply_all(&manifest::limited_to(policies, &namespace));
        let health = Game::start();
        let config_map = plane.admin().get(&format!("/api/v1/namespaces/{namespace}/configmaps/okg-sidecar-config"));
        let text = config_map["data"]["config.yaml"].as_str().expect("it holds a config");
        let text = text
            .replace("http://localhost:8080/healthz", &health.url("/"))
            .replace("http://localhost:8080", &stage.game.url(""))
            .replace("startDelaySeconds: 10", "startDelaySeconds: 0")
            .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
        stage.pod.update_config(&text);
        // The target's name contains it.
        let sidecar = stage.sidecar().env("POD_NAME", &stage.pod.name).start();
        (shipped.story)(&stage, &health);
        drop(sidecar);
        let refused: Vec<_> = stage.outcomes().into_iter().filter(|outcome| outcome.ends_with("403")).collect();
        assert!(refused.is_empty(), "{}: {refused:?}", shipped.file);
        grants_nothing_else(&stage, shipped, &of_any_account);
    });
}

/// Compares the rights that the API server lists for the token, less those that any account has, and tries each.
fn grants_nothing_else(stage: &Stage, shipped: &Shipped, of_any_account: &BTreeSet<Right>) {
    let client = stage.client();
    let granted: BTreeSet<Right> = [("patch", "game.kruise.io", "gameservers")]
        .iter()
        .chain(shipped.grants)
        .map(|(verb, group, resource)| ((*verb).to_owned(), (*group).to_owned(), (*resource).to_owned()))
        .collect();
    let listed: BTreeSet<Right> = &rights(&client, &stage.pod.namespace) - of_any_account;
    assert_eq!(listed, granted, "{}", shipped.file);
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
        ("patch", game, "gameserversets", format!("{sets}/tank-war")),
        ("list", game, "gameserversets", sets),
        ("patch", "", "pods", stage.pod_path()),
        ("get", "", "pods", stage.pod_path()),
        ("list", "", "pods", format!("{core}/pods")),
        ("delete", "", "pods", stage.pod_path()),
        ("create", "", "pods/eviction", format!("{}/eviction", stage.pod_path())),
        ("patch", "", "pods/status", format!("{}/status", stage.pod_path())),
        ("patch", "", "configmaps", format!("{core}/configmaps/okg-sidecar-config")),
        ("get", "", "configmaps", format!("{core}/configmaps/okg-sidecar-config")),
        ("delete", "", "configmaps", format!("{core}/configmaps/okg-sidecar-config")),
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
        // RBAC grants the ConfigMap of every sidecar, and the policy beside it refuses it.
        let expected = if granted.contains(&right) && resource != "configmaps" { 200 } else { 403 };
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

fn a_read_changes_nothing(plane: &ControlPlane) {
    let stage = Stage::new(plane, "unchanged");
    let text = stage.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    stage.pod.update_config(&text);
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let before = stage.game_server();
    sidecar.eventually(SOON, "three more reads", || stage.outcomes().len() >= 5);
    assert_eq!(stage.game_server(), before, "managedFields included");
    let outcomes = stage.outcomes();
    assert_eq!(outcomes[..2], ["read 200", "patch 200"]);
    assert!(outcomes[2..].iter().all(|outcome| outcome == "read 200"), "{outcomes:?}");
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
    let mut fields = ours["fieldsV1"].clone();
    let annotations = fields["f:metadata"]["f:annotations"].take();
    assert_eq!(fields, json!({"f:metadata": {"f:annotations": null}, "f:spec": {"f:opsState": {}}}));
    let keys: Vec<&str> = annotations.as_object().expect("a map").keys().map(String::as_str).collect();
    assert!(
        matches!(keys[..], [".", "f:okg-sidecar/decided", own] if own.starts_with("f:okg-sidecar/decided-")),
        "{keys:?}"
    );
    assert_eq!(ours.get("subresource"), None);
    // The manager that made the GameServer keeps all but the fields that the sidecar took over.
    let theirs = &of(CONTROLLER)["fieldsV1"]["f:spec"];
    assert_eq!(theirs.get("f:opsState"), None);
    assert!(theirs.get("f:deletionPriority").is_some(), "{theirs}");
}

fn the_small_answer_is_given_for_the_game_server_and_the_pod(plane: &ControlPlane) {
    let stage = Stage::new(plane, "small");
    plane.apply_all(&pod_role("small"));
    stage.pod.update_config(&stage.rooms("labelKey: room"));
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "both are written", || stage.outcomes().len() >= 3);
    for request in stage.requests() {
        let answer = &request["responseObject"];
        assert_eq!(answer["kind"], "PartialObjectMetadata", "{request}");
        assert_eq!(answer["metadata"]["name"], "gs-0");
        assert_eq!((answer.get("spec"), answer.get("status")), (None, None), "{request}");
    }
    // The audit log contains the answer as it was sent.
    for path in [stage.path(), stage.pod_path()] {
        let headers = [("Content-Type", "application/merge-patch+json"), ("Accept", SMALL_ANSWER)];
        let answer = stage.client().send("PATCH", &path, &headers, Some(&json!({}))).ok();
        assert_eq!(answer["kind"], "PartialObjectMetadata");
        assert!(answer["metadata"]["resourceVersion"].is_string(), "{answer}");
    }
}

fn labels_and_annotations_come_and_go_on_the_pod(plane: &ControlPlane) {
    let stage = Stage::new(plane, "metadata");
    plane.apply_all(&pod_role("metadata"));
    stage.pod.update_config(&stage.config(
        "labelKey: room, annotationKey: game.example.com/result, markerPolices: [
          {state: A, gameServerOpsState: Allocated, labels: {phase: 'in-{{.Result}}'}, annotations: {note: 'is {{.Result}}'}},
          {state: B, gameServerOpsState: None, annotations: {other: yes}}]",
    ));
    let sidecar = stage.sidecar().start();
    let others = json!({
        "app.kubernetes.io/name": "tank-war", "app.kubernetes.io/component": "game", "game.kruise.io/owner-gss": "tank-war",
    });
    let with = |labels: Value| {
        let mut all = others.clone();
        all.as_object_mut().expect("a map").extend(labels.as_object().expect("a map").clone());
        all
    };
    for (result, labels, annotations) in [
        ("A", json!({"room": "A", "phase": "in-A"}), json!({"game.example.com/result": "A", "note": "is A"})),
        ("B", json!({"room": "B"}), json!({"game.example.com/result": "B", "other": "yes"})),
        // No policy selects it, so that what the policy of B set goes. It cannot be a label, so that the label stays as it is.
        ("no label", json!({"room": "B"}), json!({"game.example.com/result": "no label"})),
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
    assert!(outcomes.iter().all(|outcome| outcome.ends_with(" 200")), "{outcomes:?}");
}

// ---- others who write

fn a_protected_state_set_in_between_wins_by_a_real_conflict(plane: &ControlPlane) {
    let stage = Stage::new(plane, "protected");
    stage.pod.update_config(&stage.rooms("protectedOpsStates: [Maintaining]"));
    let gate = plane.gate();
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(stage.outcomes(), ["read 200", "patch 200"]);

    // The read passes, the patch waits, and somebody comes in between.
    gate.stop_next_write();
    stage.game.set(200, "Allocated");
    sidecar.eventually(SOON, "the patch is on its way", || gate.stopped() == 1);
    stage.set_ops_state("Maintaining");
    gate.open();
    sidecar.wait_for_line("opsState `Maintaining` was set by someone else and is protected; not writing", SOON);
    assert_eq!(stage.outcomes()[2..5], ["read 200", "patch 409", "read 200"]);
    assert_eq!(stage.ops_state(), "Maintaining");

    stage.set_ops_state("None");
    sidecar.wait_for_line("opsState None -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    assert_eq!(writes(&stage), ["patch 200", "patch 409", "patch 200"]);
}

fn a_conflict_over_another_field_is_written_again_at_once(plane: &ControlPlane) {
    let stage = Stage::new(plane, "conflict");
    let gate = plane.gate();
    gate.stop_next_write();
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.eventually(SOON, "the patch is on its way", || gate.stopped() == 1);
    plane.admin().merge_patch(&stage.path(), CONTROLLER, &json!({"spec": {"updatePriority": 3}})).ok();
    gate.open();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(stage.outcomes(), ["read 200", "patch 409", "read 200", "patch 200"]);
    assert_eq!(stage.game_server()["spec"]["updatePriority"], 3);
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

fn a_busy_second_writer_costs_conflicts_and_no_decision(plane: &ControlPlane) {
    let stage = Stage::new(plane, "busy");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let decisions = ["Allocated", "None", "WaitToBeDeleted", "Allocated", "None"];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..3 {
            let (stage, done) = (&stage, &done);
            scope.spawn(move || {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    count += 1;
                    let annotation = json!({format!("writer-{writer}"): count.to_string()});
                    let patch = json!({"metadata": {"annotations": annotation}});
                    plane.admin().merge_patch(&stage.path(), CONTROLLER, &patch).ok();
                }
                // Nothing that they wrote is lost, and whoever writes last is seen.
                let seen = stage.game_server()["metadata"]["annotations"][format!("writer-{writer}")].take();
                assert_eq!(seen, count.to_string());
            });
        }
        let played = catch_unwind(AssertUnwindSafe(|| {
            for (count, state) in (2..).zip(decisions) {
                stage.game.set(200, state);
                let written = || writes(&stage).iter().filter(|outcome| *outcome == "patch 200").count() == count;
                sidecar.eventually(AFTER_BACKOFF, &format!("{state} is written"), written);
                assert_eq!(stage.ops_state(), state);
            }
        }));
        done.store(true, Ordering::Relaxed);
        played.unwrap_or_else(|panic| resume_unwind(panic));
    });
    assert_eq!(stage.record()["opsState"], "None");
    let writes = writes(&stage);
    assert!(writes.iter().any(|outcome| outcome == "patch 409"), "no conflict: {writes:?}");
    assert_eq!(writes.iter().filter(|outcome| *outcome == "patch 200").count(), 1 + decisions.len());
}

fn what_somebody_sets_before_or_during_an_update_of_the_sidecar_survives_it(plane: &ControlPlane) {
    let stage = Stage::new(plane, "update");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    drop(sidecar);

    // The game goes on saying None.
    stage.set_ops_state("Allocated");
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "the first write", || writes(&stage).len() == 2);
    await_probes(&stage, &sidecar, 3);
    assert_eq!(stage.ops_state(), "Allocated", "set before the update");
    drop(sidecar);

    let gate = plane.gate();
    gate.stop_next_write();
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.eventually(SOON, "the patch is on its way", || gate.stopped() == 1);
    stage.set_ops_state("Maintaining");
    gate.open();
    sidecar.eventually(SOON, "the first write", || writes(&stage).len() == 4);
    await_probes(&stage, &sidecar, 3);
    assert_eq!(writes(&stage)[2..], ["patch 409", "patch 200"]);
    assert_eq!(stage.ops_state(), "Maintaining", "set between read and patch");
    assert_eq!(sidecar.count_lines("opsState"), 0, "{}", sidecar.stderr());

    // The next decision is a new one.
    stage.game.set(200, "WaitToBeDeleted");
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
    assert_eq!(stage.ops_state(), "WaitToBeDeleted");
    assert_eq!(sidecar.count_lines("WARN"), 0, "{}", sidecar.stderr());
}

fn a_game_server_that_is_deleted_and_created_anew_gets_all_decided_fields(plane: &ControlPlane) {
    let stage = Stage::new(plane, "anew");
    let priorities = "{state: None, gameServerOpsState: None, gameServerDeletionPriority: 7},
                      {state: Allocated, gameServerOpsState: Allocated}";
    let text = stage.config(&format!("markerPolices: [{priorities}]"));
    stage.pod.update_config(&text);
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let anew = || {
        plane.admin().delete(&stage.path());
        stage.create_game_server();
    };
    let holds = |state: &str| {
        let game_server = stage.game_server();
        game_server["spec"]["opsState"] == state && game_server["spec"]["deletionPriority"] == 7
    };
    assert!(holds("None"));

    // By the next decision, of which deletionPriority is no part.
    anew();
    stage.game.set(200, "Allocated");
    await_it("both fields", || holds("Allocated"));
    drop(sidecar);

    // By a start.
    stage.game.set(200, "None");
    anew();
    let sidecar = stage.sidecar().start();
    await_it("both fields", || holds("None"));
    drop(sidecar);

    // By a resync.
    stage
        .pod
        .update_config(&text.replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1"));
    let sidecar = stage.sidecar().start();
    sidecar.eventually(SOON, "a resync", || stage.outcomes().len() >= 9);
    anew();
    await_it("both fields", || holds("None"));
    assert_eq!(failures_logged(&sidecar), (0, 0), "{}", sidecar.stderr());
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

// ---- pods that were replaced

/// A node is cut off, and its pod is deleted by force: its process runs on, with a token that the API server remembers for
/// ten seconds.
struct Replaced<'a> {
    old: Stage<'a>,
    process: SidecarProcess,
    new: Stage<'a>,
}

impl<'a> Replaced<'a> {
    /// The process of a pod has written None. Then there is another pod of its name.
    #[track_caller]
    fn new(old: Stage<'a>, process: SidecarProcess) -> Self {
        process.wait_for_line("opsState unknown -> None", SOON);
        old.plane.admin().delete(&old.pod_path());
        let new = Stage::one_more(old.plane, &old.pod.namespace, &old.pod.name);
        Self { old, process, new }
    }

    /// The garbage collector takes the GameServer with its owner, and OpenKruiseGame makes the one of the new pod.
    #[track_caller]
    fn replace_game_server(&self) -> Value {
        self.old.plane.admin().delete(&self.old.path());
        self.new.create_game_server();
        self.new.game_server()
    }
}

fn an_old_pods_process_writes_nothing_to_the_new_pods_game_server(plane: &ControlPlane) {
    side_by_side(&["replaced", "replaced-policy", "replaced-between"], |namespace| {
        let stage = Stage::new(plane, namespace);
        if *namespace == "replaced-policy" {
            plane.apply_all(&pod_role(namespace));
            apply_policy(&stage);
        }
        let gate = plane.gate();
        let process = stage.sidecar_at(gate.port()).log("okg_sidecar=debug").start();
        let replaced = Replaced::new(stage, process);
        let Replaced { old, process, new } = &replaced;
        let before = old.outcomes().len();
        let untouched = if *namespace == "replaced-between" {
            // The pod is replaced after the old process has read, and before it patches.
            gate.stop_next_write();
            old.game.set(200, "Allocated");
            process.eventually(SOON, "the patch is on its way", || gate.stopped() == 1);
            let untouched = replaced.replace_game_server();
            gate.open();
            untouched
        } else {
            let untouched = replaced.replace_game_server();
            old.game.set(200, "Allocated");
            untouched
        };
        process.eventually(SOON, "its token is still accepted", || old.outcomes().len() > before);
        let (expected, line) = match *namespace {
            "replaced" => (&["read 200"][..], "still belongs to the previous pod"),
            "replaced-policy" => (&["read 403"][..], "still belongs to the previous pod"),
            _ => (&["read 200", "patch 409", "read 200"][..], "still belongs to the previous pod"),
        };
        process.wait_for_line(line, SOON);
        // Both pods have one name, so that a policy by name would let the old one change the new one's labels.
        if *namespace == "replaced-policy" {
            let refused = old.client().merge_patch(&new.pod_path(), "okg-sidecar", &json!({}));
            assert_eq!(refused.status, 403, "{}", refused.text);
            assert!(refused.text.contains("a game pod may change its own objects only"), "{}", refused.text);
        }
        assert_eq!(old.outcomes()[before..before + expected.len()], *expected, "{namespace}");
        process.wait_for_line("status 401", AFTER_CACHE);
        assert_eq!(new.game_server(), untouched, "{namespace}");

        let sidecar = new.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        assert_eq!(new.record()["pod"], json!(new.uid), "{namespace}");
    });
}

fn an_old_pods_process_writes_nothing_more_to_a_game_server_that_outlives_its_pods(plane: &ControlPlane) {
    side_by_side(&["outlived", "outlived-policy"], |namespace| {
        let stage = Stage::without_game_server(plane, namespace);
        stage.create_game_server_owned_by(&owned_by_set());
        if *namespace == "outlived-policy" {
            apply_policy(&stage);
        }
        let process = stage.sidecar().log("okg_sidecar=debug").start();
        let Replaced { old, process, new } = Replaced::new(stage, process);
        // An earlier pod's record means nothing to the new pod.
        let sidecar = new.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        assert_eq!(new.record()["pod"], json!(new.uid), "{namespace}");

        let untouched = new.game_server();
        old.game.set(200, "Allocated");
        process.wait_for_line("a later pod of this name has taken over", SOON);
        await_probes(&old, &process, 3);
        assert_eq!(new.game_server(), untouched, "{namespace}");
        let read = old.outcomes().pop();
        assert_eq!(read.as_deref(), Some("read 200"), "{namespace}: its token was still accepted");

        new.game.set(200, "WaitToBeDeleted");
        sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
        assert_eq!(new.ops_state(), "WaitToBeDeleted", "{namespace}");
    });
}

// ---- tokens and the API server's life

fn a_lost_attempt_that_arrives_late_is_answered_409_and_changes_nothing(plane: &ControlPlane) {
    let stage = Stage::new(plane, "late-arrival");
    let gate = plane.gate();
    let sidecar = stage.sidecar_at(gate.port()).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    gate.stop_next_write();
    stage.game.set(200, "Allocated");
    sidecar.eventually(SOON, "the patch is on its way", || gate.stopped() == 1);
    sidecar.wait_for_line("no response", SOON + LONGEST_ATTEMPT);
    sidecar.wait_for_line("opsState None -> Allocated", AFTER_BACKOFF);
    stage.set_ops_state("Maintaining");
    let before = stage.game_server();
    assert_eq!(stage.outcomes(), ["read 200", "patch 200", "read 200", "read 200", "patch 200"]);
    gate.open();
    sidecar.eventually(SOON, "the lost attempt arrives", || stage.outcomes().len() == 6);
    assert_eq!(stage.outcomes()[5], "patch 409");
    assert_eq!(stage.game_server(), before);
}

fn a_token_that_ended_with_its_pod_is_logged_and_the_next_one_is_taken(plane: &ControlPlane) {
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

    let uid = stage::create_pod(plane, "token", "gs-0", TANK_WAR);
    stage.pod.rotate_token(&plane.token("token", Some(("gs-0", &uid))));
    sidecar.wait_for_line("opsState None -> Allocated", AFTER_BACKOFF);
    assert_eq!(stage.ops_state(), "Allocated");
    assert_eq!(
        stage.outcomes(),
        ["read 200", "patch 200"].repeat(2),
        "the API server cannot say whose a void token is"
    );
    assert_eq!(failures_logged(&sidecar), (1, 1), "{}", sidecar.stderr());
}

fn killed_and_back(assets: &Assets) {
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
    sidecar.wait_for_line("retrying: no response", SOON);
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
    // A server that is starting may answer this and that, and each kind of fault is logged.
    assert_eq!(sidecar.count_lines("works again after"), 2, "{}", sidecar.stderr());
}

// ---- what it refuses

fn a_bad_label_value_is_refused_by_the_api_server_so_the_sidecar_checks_it(plane: &ControlPlane) {
    let stage = Stage::new(plane, "label");
    plane.apply_all(&pod_role("label"));
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
    let sidecar = stage.sidecar().env("POD_NAME", "gs-0").start();
    sidecar.wait_for_line("/metadata/labels/room: not changed: `no label!` is not a valid label value", SOON);
    stage.game.set(200, "a-label");
    sidecar.wait_for_line("Pod: /metadata/labels/room a-label", SOON);
    assert_eq!(stage.pod_object()["metadata"]["labels"]["room"], "a-label");
    assert_eq!(stage.outcomes().last().map(String::as_str), Some("patch 200"));
}

fn a_field_that_the_schema_refuses_holds_back_no_other(plane: &ControlPlane) {
    let stage = Stage::without_game_server(plane, "schema");
    let rooms = "markerPolices: [{state: None, gameServerOpsState: None, gameServerDeletionPriority: 7}]";
    let to = |pointer: &str| endpoint(&stage.game.url("/"), "timeout: 1", &format!("jsonPath: {pointer}"));
    // A boolean that is no text, and a field that is none: without fieldValidation=Strict the second would be dropped.
    let endpoints = [
        to("/spec/networkDisabled"),
        to("/spec/opsStat"),
        endpoint(&stage.game.url("/"), "timeout: 1", rooms),
        to("/spec/updatePriority"),
    ];
    stage.pod.update_config(&config(&endpoints));
    let sidecar = stage.sidecar().start();
    // Everything is decided by then, and goes into one patch at first.
    await_probes(&stage, &sidecar, endpoints.len() + 1);
    stage.create_game_server();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    for pointer in ["/spec/networkDisabled", "/spec/opsStat"] {
        sidecar.wait_for_line(&format!("retrying: {pointer}: status 422"), SOON);
    }
    await_it("the others are in", || stage.game_server()["spec"]["updatePriority"] == "None");
    await_probes(&stage, &sidecar, 3);
    let spec = json!({"opsState": "None", "deletionPriority": 7, "updatePriority": "None", "networkDisabled": false});
    assert_eq!(stage.game_server()["spec"], spec);
    let record = stage.record();
    for refused in ["/spec/networkDisabled", "/spec/opsStat"] {
        assert_eq!(record.get(refused), None, "{record}");
    }
    assert_eq!(writes(&stage).iter().filter(|outcome| *outcome == "patch 422").count(), 3, "all, then each by itself");

    // A new decision about another field waits for none of them.
    let text =
        config(&endpoints).replace("{state: None,", "{state: Full, gameServerOpsState: Allocated}, {state: None,");
    stage.pod.update_config(&text);
    stage.game.set(200, "Full");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    assert_eq!(sidecar.count_lines("status 422"), 2, "{}", sidecar.stderr());
}

fn any_ops_state_and_priority_is_legal_to_the_api_server_so_the_sidecar_checks_it(plane: &ControlPlane) {
    let stage = Stage::new(plane, "free-text");
    // OpenKruiseGame would copy it into a label of the pod, and stall.
    stage.set_ops_state("no label!");
    assert_eq!(stage.ops_state(), "no label!");
    stage.set_ops_state("None");
    stage.pod.update_config(&stage.config("jsonPath: /spec/deletionPriority"));
    stage.game.set(200, "no label!");
    let sidecar = stage.sidecar().start();
    sidecar.wait_for_line("/spec/deletionPriority: not changed: `no label!` is not a valid label value", SOON);
    stage.game.set(200, "Fine");
    sidecar.wait_for_line("/spec/deletionPriority Fine (", SOON);
    assert_eq!(stage.game_server()["spec"]["deletionPriority"], json!("Fine"));
    assert_eq!(writes(&stage), ["patch 200"]);
}

fn without_the_admission_policy_a_pod_may_change_its_neighbours_and_with_it_its_own_alone(plane: &ControlPlane) {
    let namespace = "policy";
    let own = Stage::new(plane, namespace);
    let others = |name: &str, owners: &Value| {
        let stage = Stage::one_more(plane, namespace, name);
        stage.create_game_server_owned_by(owners);
        stage
    };
    let neighbour = Stage::one_more(plane, namespace, "gs-1");
    neighbour.create_game_server();
    let outlives = others("gs-2", &owned_by_set());
    let unowned = others("gs-3", &json!([]));
    let previous = others("gs-4", &owned_by_pod("gs-4", "22222222-2222-2222-2222-222222222222"));
    // Even if somebody granted the account all of its own namespace, and of another one with a pod of the same name.
    let namesake = Stage::new(plane, "policy-elsewhere");
    namesake.plane.admin().delete(&namesake.path());
    namesake.create_game_server_owned_by(&owned_by_set());
    for granted in [namespace, "policy-elsewhere"] {
        plane.apply(&format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
              metadata: {{name: too-much, namespace: {granted}}},
              roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}},
              subjects: [{{kind: ServiceAccount, name: okg-sidecar, namespace: {namespace}}}]}}"
        ));
    }
    let bound = own.client();
    let unbound = plane.client(&plane.token(namespace, None), 0);
    let patch = |client: &Client, path: &str| {
        // A Pod has no field that every sidecar may change.
        let patch = if path.contains("/pods/") { json!({}) } else { json!({"spec": {"opsState": "Allocated"}}) };
        client.merge_patch(path, "okg-sidecar", &patch)
    };
    let all = [&own, &neighbour, &outlives, &unowned, &previous, &namesake];
    for path in all.iter().flat_map(|stage| [stage.path(), stage.pod_path()]) {
        for client in [&bound, &unbound] {
            // RBAC learns of a new rule by a watch.
            assert!(holds_within(SOON, || patch(client, &path).status == 200), "RBAC alone does not allow it: {path}");
        }
    }

    apply_policy(&own);
    #[track_caller]
    fn refused(what: &str, answer: &Answer) {
        assert_eq!(answer.status, 403, "{what}: {}", answer.text);
        // An expression that cannot be evaluated refuses, too, and with another message.
        assert!(answer.text.contains("a game pod may change its own objects only"), "{what}: {}", answer.text);
    }
    for (stage, game_server) in [(&own, 200), (&outlives, 200), (&unowned, 200), (&previous, 403)] {
        let client = stage.client();
        let name = &stage.pod.name;
        assert_eq!(patch(&client, &stage.path()).status, game_server, "{name}: its own GameServer");
        assert_eq!(
            client.merge_patch(&stage.path(), "okg-sidecar", &json!({})).status,
            game_server,
            "{name}: its read"
        );
        refused("its status", &patch(&client, &format!("{}/status", stage.path())));
        assert_eq!(patch(&client, &stage.pod_path()).status, 200, "{name}: its own Pod");
        for other in all.iter().filter(|other| other.uid != stage.uid) {
            refused("another's GameServer", &patch(&client, &other.path()));
            refused("another's Pod", &patch(&client, &other.pod_path()));
        }
        refused("a token that names no pod", &patch(&unbound, &stage.path()));
        refused("a token that names no pod", &patch(&unbound, &stage.pod_path()));
        assert_eq!(patch(plane.admin(), &stage.path()).status, 200, "it concerns nobody else");
    }
    refused("the previous pod's GameServer", &patch(&previous.client(), &previous.path()));

    // What the Role does not grant, and somebody may have.
    let own_path = own.path();
    let (collection, _) = own_path.rsplit_once('/').expect("a path has slashes");
    let delete = |path: &str| bound.send("DELETE", &format!("{path}?dryRun=All"), &[], None);
    refused("its own deletion", &delete(&own.path()));
    refused("another's deletion", &delete(&neighbour.path()));
    refused("a deletion of all", &delete(collection));
    refused(
        "a deletion of one as a collection",
        &bound.send("DELETE", &format!("{collection}?fieldSelector=metadata.name%3Dgs-0"), &[], None),
    );
    refused("a deletion of all pods", &delete(&format!("/api/v1/namespaces/{namespace}/pods")));
    for metadata in [json!({"name": "gs-0"}), json!({"generateName": "gs-"})] {
        let object = json!({"apiVersion": "game.kruise.io/v1alpha1", "kind": "GameServer", "metadata": metadata});
        refused("a creation", &bound.send("POST", collection, &[("Content-Type", "application/json")], Some(&object)));
    }
    assert_eq!(own.ops_state(), "Allocated", "it is still there");
    // Somebody without any `extra`, as an administrator who acts in the account's name is.
    let headers = [
        ("Content-Type", "application/merge-patch+json"),
        ("Impersonate-User", "system:serviceaccount:policy:okg-sidecar"),
    ];
    refused("an impersonated account", &plane.admin().send("PATCH", &own.path(), &headers, Some(&json!({}))));

    // An account with a namePrefix or nameSuffix of kustomize counts as the sidecar's, and one of another name does not.
    for (account, status) in
        [("dev-okg-sidecar", 403), ("okg-sidecar-eu", 403), ("dev-okg-sidecar-eu", 403), ("game", 200)]
    {
        plane.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {namespace}}}}}
---
{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
  metadata: {{name: {account}, namespace: {namespace}}},
  roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}},
  subjects: [{{kind: ServiceAccount, name: {account}, namespace: {namespace}}}]}}"
        ));
        let client = plane.client(&plane.token_of(namespace, account, None), 0);
        let judged = || {
            let answer = patch(&client, &neighbour.path());
            // Until the grant is known, RBAC refuses.
            answer.status == status && (status == 200 || answer.text.contains("its own objects only"))
        };
        assert!(holds_within(SOON, judged), "{account}: {}", patch(&client, &neighbour.path()).text);
    }

    // The sidecar does its job under it, and a 403 of the policy is not taken for a missing rule.
    own.game.set(200, "WaitToBeDeleted");
    let sidecar = own.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> WaitToBeDeleted", SOON);
    drop(sidecar);
    own.pod.rotate_token(&plane.token(namespace, None));
    let sidecar = own.sidecar().env("POD_NAME", "gs-0").start();
    let line = sidecar.wait_for_line("status 403, `a game pod may change its own objects only", SOON).text;
    assert!(line.contains("is the token bound to this pod?") && !line.contains("needs the rule"), "{line}");
}

// ---- Kruise's probes (behaviour 9)

const PODPROBE: &str = "okg-sidecar-podprobe";
const PODPROBE_SET: &str = "examples/kruise-podprobe";

/// A pod of the manifests of deploy/kruise-podprobe, the first of its namespace, without a config file.
fn podprobe_stage<'a>(plane: &'a ControlPlane, namespace: &str) -> Stage<'a> {
    plane.create_namespace(namespace);
    plane.apply_all(&manifest::in_namespace("kruise-podprobe/rbac.yaml", namespace));
    one_more_podprobe(plane, namespace, "gs-0")
}

fn one_more_podprobe<'a>(plane: &'a ControlPlane, namespace: &str, name: &str) -> Stage<'a> {
    let stage = Stage::of_set(plane, namespace, name, PODPROBE_SET, PODPROBE);
    stage.pod.config.remove("config.yaml");
    stage
}

/// The annotation as Kruise makes it of the manifest's serviceQualities, with the defaults of OpenKruiseGame, but for the ports
/// and for times of a second.
fn annotation(http_port: u16, tcp_port: u16) -> String {
    let objects = manifest::built(PODPROBE_SET);
    let set = manifest::of_kind(&objects, "GameServerSet");
    let probe = |quality: &Value| {
        let mut probe = quality.clone();
        for key in ["name", "containerName", "permanent", "serviceQualityAction"] {
            probe.as_object_mut().expect("a map").remove(key);
        }
        for (action, port) in [("httpGet", http_port), ("tcpSocket", tcp_port)] {
            if probe[action].is_object() {
                probe[action]["port"] = json!(port);
            }
        }
        for (key, number) in
            [("initialDelaySeconds", 1), ("periodSeconds", 1), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            probe[key] = json!(number);
        }
        let name = quality["name"].as_str().expect("it has a name");
        json!({
            "name": name, "containerName": quality["containerName"],
            "podConditionType": format!("game.kruise.io/{name}"), "probe": probe,
        })
    };
    let qualities = set["spec"]["serviceQualities"].as_array().expect("a list");
    json!(qualities.iter().map(probe).collect::<Vec<_>>()).to_string()
}

/// Status and message of a condition, and every condition of other types as it is.
fn conditions(stage: &Stage, name: &str) -> (Option<(String, String)>, Vec<Value>) {
    let pod = stage.pod_object();
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (own, others): (Vec<Value>, Vec<Value>) = conditions
        .into_iter()
        .partition(|one| one["type"].as_str().is_some_and(|kind| kind.starts_with("game.kruise.io/")));
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let found = own.iter().find(|condition| condition["type"] == format!("game.kruise.io/{name}"));
    (found.map(|condition| (text(condition, "status"), text(condition, "message"))), others)
}

#[track_caller]
fn await_condition(stage: &Stage, name: &str, status: &str, message: &str) {
    let expected = Some((status.to_owned(), message.to_owned()));
    await_it(&format!("{name} {status} {message}"), || conditions(stage, name).0 == expected);
}

/// A strategic merge-patch of the pod's status.
fn patch_status(client: &Client, stage: &Stage, patch: &Value) -> Answer {
    let kind = [("Content-Type", "application/strategic-merge-patch+json")];
    client.send("PATCH", &format!("{}/status?fieldManager=okg-sidecar", stage.pod_path()), &kind, Some(patch))
}

/// The status that kubelet writes of a running pod.
fn kubelet_says(stage: &Stage) {
    let times = "2026-11-24T08:00:00Z";
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": times, "lastProbeTime": null}));
    let status = json!({"status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": conditions}});
    patch_status(stage.plane.admin(), stage, &status).ok();
}

fn the_manifests_of_kruises_probes_set_conditions_and_leave_everything_else(plane: &ControlPlane) {
    let namespace = "tank-war-podprobe";
    plane.apply_all(&manifest::built_alone(PODPROBE_SET, namespace));
    let stage = one_more_podprobe(plane, namespace, "tank-war-0");
    kubelet_says(&stage);
    apply_conditions_policy(&stage);
    let (_, untouched) = conditions(&stage, "room");
    let open = Game::start();
    let annotation = annotation(stage.game.address().port(), open.address().port());
    let sidecar = stage.sidecar().env("KRUISE_PODPROBE", &annotation).start();
    await_condition(&stage, "open", "True", "");
    for state in ["None", "Allocated", "WaitToBeDeleted"] {
        stage.game.set(200, state);
        await_condition(&stage, "room", "True", state);
        let version = stage.pod_object()["metadata"]["resourceVersion"].clone();
        await_probes(&stage, &sidecar, 3);
        assert_eq!(stage.pod_object()["metadata"]["resourceVersion"], version, "a write in peace");
    }
    open.stop();
    await_condition(&stage, "open", "False", "probe failed: no connection");
    stage.game.set(503, "");
    await_condition(&stage, "room", "False", "HTTP probe failed with statuscode: 503");
    let pod = stage.pod_object();
    assert_eq!(conditions(&stage, "room").1, untouched, "kubelet's own stay");
    assert_eq!((&pod["status"]["phase"], &pod["status"]["podIP"]), (&json!("Running"), &json!("10.1.2.3")));
    let outcomes = stage.outcomes();
    assert_eq!(outcomes, ["patch 200"].repeat(6), "one patch a change");
    for request in stage.requests() {
        assert_eq!(
            request["requestURI"],
            format!("{}/status?fieldManager=okg-sidecar&fieldValidation=Strict&timeout=10s", stage.pod_path())
        );
    }
    drop(sidecar);
    // A new process writes the same, which is no change to anybody.
    let version = stage.pod_object()["metadata"]["resourceVersion"].clone();
    let sidecar = stage.sidecar().env("KRUISE_PODPROBE", &annotation).start();
    sidecar.eventually(SOON, "both conditions are written", || stage.outcomes().len() >= outcomes.len() + 2);
    assert_eq!(stage.pod_object()["metadata"]["resourceVersion"], version);
    assert_eq!(sidecar.count_lines("retrying"), 0, "{}", sidecar.stderr());
}

fn conditions_never_reach_another_pod_of_the_name(plane: &ControlPlane) {
    let stage = podprobe_stage(plane, "podprobe-uid");
    stage.game.set(200, "Allocated");
    let annotation = annotation(stage.game.address().port(), stage.game.address().port());
    let sidecar = stage.sidecar().env("KRUISE_PODPROBE", &annotation).start();
    await_condition(&stage, "room", "True", "Allocated");
    // The pod is deleted and made anew, while the old one's container still runs.
    plane.admin().delete(&stage.pod_path());
    stage::create_pod(plane, "podprobe-uid", "gs-0", PODPROBE_SET);
    let renewed = plane.token_of("podprobe-uid", PODPROBE, None);
    stage.pod.rotate_token(&renewed);
    stage.game.set(200, "None");
    let attempts = stage.outcomes().len();
    sidecar.eventually(SOON, "two more attempts", || stage.outcomes().len() >= attempts + 2);
    assert_eq!(conditions(&stage, "room").0, None);
    let refused = &stage.outcomes()[attempts..];
    assert!(refused.iter().all(|outcome| outcome == "patch 422" || outcome == "patch 409"), "{refused:?}");
    // That the pod is not there yet is told after a minute.
    assert_eq!(sidecar.count_lines("retrying"), 0, "{}", sidecar.stderr());
}

fn the_role_and_the_policy_of_kruises_probes_are_enough_and_grant_nothing_else(plane: &ControlPlane) {
    let namespace = "podprobe-policy";
    let own = podprobe_stage(plane, namespace);
    let neighbour = one_more_podprobe(plane, namespace, "gs-1");
    for stage in [&own, &neighbour] {
        kubelet_says(stage);
    }
    plane.create_namespace("podprobe-no-role");
    plane.apply_all(&manifest::in_namespace("kruise-podprobe/rbac.yaml", "podprobe-no-role")[..1]);
    let nobody = plane.client(&plane.token_of("podprobe-no-role", PODPROBE, None), 0);
    let client = own.client();
    let told = &rights(&client, namespace) - &rights(&nobody, "podprobe-no-role");
    assert_eq!(told, [("patch".to_owned(), String::new(), "pods/status".to_owned())].into());

    let condition = |kind: &str| json!({"type": kind, "status": "False", "message": "m"});
    let with_condition = |kind: &str| json!({"status": {"conditions": [condition(kind)]}});
    let too_much = [
        ("another phase", json!({"status": {"phase": "Failed"}})),
        (
            "another address",
            json!({"status": {"podIP": "10.9.9.9", "podIPs": [{"$patch": "replace"}, {"ip": "10.9.9.9"}]}}),
        ),
        ("a reason", json!({"status": {"reason": "Evicted"}})),
        (
            "a container's status",
            json!({"status": {"containerStatuses": [
            {"name": "tank-war", "ready": false, "restartCount": 7, "image": "i", "imageID": "i"}]}}),
        ),
        (
            "a label",
            json!({"metadata": {"labels": {"by": "a-pod"}}, "status": {"conditions": [condition("game.kruise.io/x")]}}),
        ),
        ("an annotation", json!({"metadata": {"annotations": {"by": "a-pod"}}})),
        ("Ready", with_condition("Ready")),
        ("Initialized", with_condition("Initialized")),
        ("ContainersReady", with_condition("ContainersReady")),
        ("PodScheduled", with_condition("PodScheduled")),
        ("DisruptionTarget", with_condition("DisruptionTarget")),
        ("another controller's gate", with_condition("target-health.elbv2.k8s.aws/x")),
        ("no conditions", json!({"status": {"conditions": [{"$patch": "replace"}, condition("game.kruise.io/x")]}})),
        ("one condition less", json!({"status": {"conditions": [{"$patch": "delete", "type": "Ready"}]}})),
    ];
    let dry = |client: &Client, stage: &Stage, patch: &Value| {
        let path = format!("{}/status?dryRun=All", stage.pod_path());
        client.send("PATCH", &path, &[("Content-Type", "application/strategic-merge-patch+json")], Some(patch))
    };
    // RBAC alone allows all of it, of any pod.
    for (what, patch) in &too_much {
        for stage in [&own, &neighbour] {
            let allowed = || dry(&client, stage, patch).status == 200;
            assert!(holds_within(SOON, allowed), "{what}: {}", dry(&client, stage, patch).text);
        }
    }
    apply_conditions_policy(&own);
    #[track_caller]
    fn refused(what: &str, answer: &Answer, message: &str) {
        assert_eq!(answer.status, 403, "{what}: {}", answer.text);
        // An expression that cannot be evaluated refuses, too, and with another message.
        assert!(answer.text.contains(message), "{what}: {}", answer.text);
    }
    for (what, patch) in &too_much {
        refused(what, &dry(&client, &own, patch), "may change the conditions ");
    }
    let allowed = with_condition("game.kruise.io/room");
    assert_eq!(dry(&client, &own, &allowed).status, 200);
    let not_own = "may change the status of its own pod only";
    refused("another pod", &dry(&client, &neighbour, &allowed), not_own);
    let unbound = plane.client(&plane.token_of(namespace, PODPROBE, None), 0);
    refused("a token that names no pod", &dry(&unbound, &own, &allowed), not_own);
    for (name, status) in [("gs-0", 200), ("gs-1", 403)] {
        let removed = json!({"status": {"conditions": [{"$patch": "delete", "type": "game.kruise.io/room"}]}});
        let stage = if name == "gs-0" { &own } else { &neighbour };
        assert_eq!(dry(&client, stage, &removed).status, status, "{name}");
    }
    assert_eq!(dry(plane.admin(), &neighbour, &with_condition("Ready")).status, 200, "it concerns nobody else");
    // What the Role does not grant, and somebody may have.
    plane.apply(&format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
          metadata: {{name: too-much, namespace: {namespace}}},
          roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}},
          subjects: [{{kind: ServiceAccount, name: {PODPROBE}, namespace: {namespace}}}]}}"
    ));
    let label = json!({"metadata": {"labels": {"by": "a-pod"}}});
    let patched = || client.merge_patch(&own.pod_path(), "e2e", &label);
    assert!(holds_within(SOON, || patched().text.contains(not_own)), "{:?}", patched());
    let deleted = client.send("DELETE", &format!("{}?dryRun=All", own.pod_path()), &[], None);
    refused("its own deletion", &deleted, not_own);

    // The sidecar does its job under it, and a 403 of the policy is not taken for a missing rule.
    own.game.set(200, "Allocated");
    let annotation = annotation(own.game.address().port(), own.game.address().port());
    let sidecar = own.sidecar().env("KRUISE_PODPROBE", &annotation).start();
    await_condition(&own, "room", "True", "Allocated");
    assert_eq!(sidecar.count_lines("retrying"), 0, "{}", sidecar.stderr());
    drop(sidecar);
    own.pod.rotate_token(&plane.token_of(namespace, PODPROBE, None));
    let sidecar =
        own.sidecar().env("KRUISE_PODPROBE", &annotation).env("POD_NAME", "gs-0").env("POD_UID", &own.uid).start();
    let line = sidecar.wait_for_line("status 403", SOON).text;
    assert!(!line.contains("needs the rule"), "{line}");
}

/// Applies the admission policy of Kruise's probes for the namespace of the stage, and waits until it takes effect.
#[track_caller]
fn apply_conditions_policy(stage: &Stage) {
    let (plane, namespace) = (stage.plane, &stage.pod.namespace);
    let file = "kruise-podprobe/admission-policy/validating-admission-policy.yaml";
    plane.apply_all(&manifest::policy_in(file, namespace));
    let unbound = plane.client(&plane.token_of(namespace, PODPROBE, None), 0);
    let refused = || patch_status(&unbound, stage, &json!({})).status == 403;
    assert!(holds_within(SOON, refused), "the policy does not take effect");
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

/// The numbers of log lines that writing began to fail, and that it works again.
fn failures_logged(sidecar: &SidecarProcess) -> (usize, usize) {
    (sidecar.count_lines("retrying"), sidecar.count_lines("works again after"))
}

/// The statuses of what the sidecar wrote or tried to, in order.
fn writes(stage: &Stage) -> Vec<String> {
    stage.outcomes().into_iter().filter(|outcome| outcome.starts_with("patch")).collect()
}

/// Applies the admission policy for the namespace of the stage, and waits until it takes effect.
#[track_caller]
fn apply_policy(stage: &Stage) {
    let (plane, namespace) = (stage.plane, &stage.pod.namespace);
    plane.apply_all(&manifest::policy_in("admission-policy/validating-admission-policy.yaml", namespace));
    let unbound = plane.client(&plane.token(namespace, None), 0);
    let refused = || unbound.merge_patch(&stage.path(), "e2e", &json!({})).status == 403;
    assert!(holds_within(SOON, refused), "the policy does not take effect");
}

/// The Role and the RoleBinding to patch the pod.
fn pod_role(namespace: &str) -> Vec<Value> {
    let mut objects = manifest::in_namespace("examples/pod-deletion-cost.yaml", namespace);
    objects.retain(|object| object["kind"] == "Role" || object["kind"] == "RoleBinding");
    objects
}
