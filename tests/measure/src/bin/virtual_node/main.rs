//! The release binary in pods of deploy/ on nodes of the virtual-kubelet library (behaviour 4.1, 4.4, 8, 9): what the library
//! does itself, and what a provider may do or not. docs/platforms.md names these cases. Started by `tests/virtual-node.sh`.

mod cluster;
mod game_pod;
mod manifests;
mod token;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, KEEP, LISTER, NOTIFY, OWN, POLLED, Provider, condition};
use game_pod::GamePod;
use libtest_mimic::{Arguments, Trial};
use manifests::{GAME, SIDECAR, Shape, TOKEN, from_field};
use measure::pods::{container, volume};
use measure::wait::wait_for;
use serde_json::{Value, json};
use stand_ins::control_plane::{manifest, stage};
use stand_ins::{each, game_server, owned_by_set};

/// The condition of the probe in [`kruise_probe`].
const ROOM: &str = "game.kruise.io/room";

/// The line of the sidecar on a node that drops conditions.
const DROPPED: &str = "conditions of the pod were dropped";

/// When it logs that at the latest, on a machine that does something else, too; it is 10 s after the first condition.
const NOTICED: Duration = Duration::from_secs(60);

/// How long after its start a process has looked at the status for the last time: a minute, and what a busy machine needs.
const LAST_LOOK: Duration = Duration::from_secs(80);

/// How often a provider that reports all the time does so.
const REPORTS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cluster = match Cluster::start() {
        // Names need no nodes.
        _ if arguments.list => None,
        Ok(cluster) => Some(Arc::new(cluster)),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    // Nearly all of a case is waiting.
    arguments.test_threads.get_or_insert(32);
    let mut trials = Vec::new();
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let shared = cluster.clone();
            trials.push(Trial::test(stringify!($case), move || {
                $case(shared.as_deref().ok_or("a list of names runs nothing")?);
                Ok(())
            }));
        )*};
    }
    cases!(
        every_manifest_starts,
        variables_come_from_fields_of_the_pod,
        a_variable_of_the_pods_address_keeps_the_pod_from_starting,
        check_and_probe_run_by_exec,
        a_token_is_renewed_by_a_provider_that_does_so,
        a_token_that_nobody_renews_is_warned_of_once_when_it_has_expired,
        a_token_of_3607_seconds_lasts_for_a_year,
        a_token_without_a_pod_needs_the_uid,
        a_config_map_is_refreshed_or_needs_another_name,
        conditions_survive_a_provider_that_reports_changes,
        conditions_survive_a_provider_that_keeps_them,
        a_provider_that_is_polled_drops_conditions,
        a_provider_that_reports_the_librarys_pod_drops_conditions,
        a_provider_that_reports_its_own_pod_drops_conditions,
        labels_survive_providers_that_report_changes,
        labels_are_taken_back_by_providers_that_report_all_the_time,
        an_update_in_place_restarts_the_sidecar_alone,
        an_update_in_place_never_ends_without_update_pod,
        a_provider_without_native_sidecars_never_starts_the_game,
        the_end_of_the_pod_ends_the_sidecar_at_once_with_code_0,
        a_lost_nodes_process_writes_nothing_to_the_next_pods_game_server,
        a_lost_nodes_process_writes_nothing_to_a_game_server_that_survives_its_pod,
    );
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The programs end with the last owner.
    drop(cluster);
    conclusion.exit_code()
}

// ---- what the library does itself

fn every_manifest_starts(cluster: &Cluster) {
    let shapes = [
        ("container", Shape::Container),
        ("native-sidecar", Shape::NativeSidecar),
        ("sidecar-set", Shape::SidecarSet),
        ("podprobe", Shape::KruisePodprobe),
    ];
    each(shapes.map(|(name, shape)| (name, (name, shape))), |(name, shape)| {
        let pod = GamePod::start(cluster, NOTIFY, &format!("starts-{name}"), shape, |_, pod| {
            if let Shape::KruisePodprobe = shape {
                kruise_probe(pod, 0);
            }
        });
        pod.says("Allocated");
        match shape {
            Shape::KruisePodprobe => await_room(&pod, "Allocated"),
            _ => pod.await_ops_state("Allocated"),
        }
        pod.await_first_run(SIDECAR);
        pod.await_first_run(GAME);
    });
    let examples = ["health-and-room", "player-count", "pod-deletion-cost", "protected-maintaining", "target"];
    each(examples.map(|name| (name, name)), |name| {
        let namespace = format!("starts-{name}");
        let pod = GamePod::start(cluster, NOTIFY, &namespace, Shape::Container, |config, pod| {
            if name == "target" {
                container(pod, SIDECAR)["env"] = json!([from_field("POD_NAME", "metadata.name")]);
            }
            let objects = manifest::in_namespace(&format!("examples/{name}.yaml"), &namespace);
            let example = manifest::of_kind(&objects, "ConfigMap")["data"]["config.yaml"].as_str();
            example.expect("an example has a config").clone_into(config);
        });
        pod.eventually("the first line", || pod.log(SIDECAR).contains("INFO  okg-sidecar "));
        pod.await_first_run(SIDECAR);
    });
}

fn variables_come_from_fields_of_the_pod(cluster: &Cluster) {
    let fields = [
        ("NAME", "metadata.name"),
        ("NAMESPACE", "metadata.namespace"),
        ("UID_OF_POD", "metadata.uid"),
        ("LABEL", "metadata.labels['app.kubernetes.io/name']"),
        ("ANNOTATION", "metadata.annotations['example.com/note']"),
        ("NODE", "spec.nodeName"),
    ];
    let pod = GamePod::start(cluster, NOTIFY, "variables", Shape::Container, |_, pod| {
        pod["metadata"]["annotations"]["example.com/note"] = "kept".into();
        let game = container(pod, GAME);
        game["env"] = fields.map(|(name, field)| from_field(name, field)).to_vec().into();
        game["command"] = json!(["sh", "-c", "env; exec sleep 3600"]);
    });
    let wanted = [
        "NAME=tank-war-0",
        "NAMESPACE=variables",
        &format!("UID_OF_POD={}", pod.uid),
        "LABEL=tank-war",
        "ANNOTATION=kept",
        "NODE=notify",
        "KUBERNETES_SERVICE_HOST=10.0.0.1",
        "KUBERNETES_SERVICE_PORT=443",
    ];
    pod.eventually("all variables", || {
        let log = pod.log(GAME);
        wanted.iter().all(|wanted| log.lines().any(|line| line == *wanted))
    });
}

fn a_variable_of_the_pods_address_keeps_the_pod_from_starting(cluster: &Cluster) {
    let pod = GamePod::start(cluster, NOTIFY, "address", Shape::Container, |_, pod| {
        container(pod, SIDECAR)["env"] = json!([from_field("POD_IP", "status.podIP")]);
    });
    // The node has seen both when the second one runs.
    let next = GamePod::start(cluster, NOTIFY, "no-address", Shape::Container, |_, _| {});
    next.await_ops_state("None");
    next.eventually("the next pod runs", || next.object()["status"]["phase"] == "Running");
    let object = pod.object();
    assert_eq!(object["status"]["phase"], "Pending", "{}", object["status"]);
    assert_eq!(object["status"]["containerStatuses"], Value::Null, "{}", object["status"]);
    let events = |namespace: &str| {
        let events = cluster.plane().admin().get(&format!("/api/v1/namespaces/{namespace}/events"));
        events["items"].as_array().map_or(0, Vec::len)
    };
    next.eventually("an event of the pod that runs", || events("no-address") > 0);
    assert_eq!(events("address"), 0);
}

fn check_and_probe_run_by_exec(cluster: &Cluster) {
    let pod = GamePod::start(cluster, KEEP, "exec", Shape::Container, |_, _| {});
    pod.eventually("the first decision", || pod.log(SIDECAR).contains("-> None"));
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let exec = |command: &str| pod.kubectl(&["exec", "tank-war-0", "-c", SIDECAR, "--", "/okg-sidecar", command]);
    let checked = exec("check");
    assert!(checked.contains("http://localhost:8080"), "{checked}");
    let probed = exec("probe");
    assert!(probed.contains("\"opsState\":\"Allocated\""), "{probed}");
    let logged = pod.kubectl(&["logs", "tank-war-0", "-c", SIDECAR]);
    assert!(logged.contains("opsState None -> Allocated"), "{logged}");
}

// ---- tokens and ConfigMaps

fn a_token_is_renewed_by_a_provider_that_does_so(cluster: &Cluster) {
    let pod = GamePod::start(cluster, NOTIFY, "renewed", Shape::Container, |_, _| {});
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let (first, used) = (pod.token(), token_used(&pod));
    pod.eventually("another token", || pod.token() != first);
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
    assert_ne!(token_used(&pod), used);
    assert_eq!(pod.warnings("expired"), 0, "{}", pod.log(SIDECAR));
}

fn a_token_that_nobody_renews_is_warned_of_once_when_it_has_expired(cluster: &Cluster) {
    let pod = GamePod::start(cluster, POLLED, "expired", Shape::Container, |_, pod| {
        container(pod, SIDECAR)["env"] = json!([{"name": "RUST_LOG", "value": "debug"}]);
    });
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let old = token::aged(&pod.token(), 3720, &cluster.plane().signing_key());
    fs::write(pod.token_file(), &old).expect("the provider has made the volume");
    pod.says("WaitToBeDeleted");
    pod.eventually("the warning", || pod.warnings("the token expired") == 1);
    let failed = || pod.log(SIDECAR).matches("401").count();
    pod.eventually("a refused write", || failed() > 0);
    pod.await_probes();
    assert_eq!(pod.ops_state(), "Allocated");
    assert_eq!(pod.warnings("the token expired"), 1, "{}", pod.log(SIDECAR));
    assert!(pod.log(SIDECAR).contains("expirationSeconds: 3607"), "{}", pod.log(SIDECAR));
    for command in ["check", "probe"] {
        let told = pod.kubectl(&["exec", "tank-war-0", "-c", SIDECAR, "--", "/okg-sidecar", command]);
        assert!(told.contains("the token expired"), "{command}: {told}");
    }
    // A new token is taken at once, whoever brings it.
    let fresh = cluster.plane().token("expired", Some(("tank-war-0", &pod.uid)));
    fs::write(pod.token_file(), fresh).expect("the provider has made the volume");
    pod.await_ops_state("WaitToBeDeleted");
}

fn a_token_of_3607_seconds_lasts_for_a_year(cluster: &Cluster) {
    let pod = GamePod::start(cluster, POLLED, "year", Shape::Container, |_, pod| {
        volume(pod, TOKEN)["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] = 3607.into();
    });
    pod.await_ops_state("None");
    pod.eventually("the token", || !pod.token().is_empty());
    let claims = token::claims(&pod.token());
    let seconds = claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(exp, iat)| exp - iat);
    assert!(seconds > Some(360 * 86_400), "{claims}");
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], pod.uid.as_str(), "{claims}");
}

/// As azure-aci and systemk mount one out of a Secret.
fn a_token_without_a_pod_needs_the_uid(cluster: &Cluster) {
    let variables =
        [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")];
    each([("two", 2), ("three", 3)].map(|(name, count)| (name, (name, count))), |(name, count)| {
        let namespace = format!("secret-{name}");
        let pod = GamePod::start(cluster, NOTIFY, &namespace, Shape::Container, |_, pod| {
            let variables = variables[..count].iter().map(|(name, field)| from_field(name, field));
            container(pod, SIDECAR)["env"] = variables.collect();
            *volume(pod, TOKEN) = json!({"name": TOKEN, "secret": {"secretName": "token"}});
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": namespace},
            "stringData": {
                "token": cluster.plane().token(&namespace, None),
                "ca.crt": cluster.plane().authority_pem(),
                "namespace": namespace,
            },
        });
        cluster.plane().apply_all(&[secret]);
        pod.eventually("the first line", || pod.log(SIDECAR).contains("INFO  okg-sidecar "));
        assert_eq!(pod.warnings("POD_UID"), 3 - count, "{}", pod.log(SIDECAR));
    });
}

fn a_config_map_is_refreshed_or_needs_another_name(cluster: &Cluster) {
    let mut shipped = String::new();
    let refreshed =
        GamePod::start(cluster, NOTIFY, "refreshed", Shape::Container, |config, _| shipped.clone_from(config));
    let mut object = Value::Null;
    let never = GamePod::start(cluster, LISTER, "never-refreshed", Shape::Container, |_, pod| object = pod.clone());
    for pod in [&refreshed, &never] {
        pod.says("Allocated");
        pod.await_ops_state("Allocated");
    }
    let changed = shipped.replace("gameServerOpsState: Allocated", "gameServerOpsState: Maintaining");
    let map = |namespace: &str, name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
            "data": {"config.yaml": changed},
        })
    };
    let maps = [map("refreshed", "okg-sidecar-config"), map("never-refreshed", "okg-sidecar-config")];
    cluster.plane().apply_all(&maps);
    refreshed.await_ops_state("Maintaining");
    assert_eq!(refreshed.status(SIDECAR)["restartCount"], 0);
    assert_eq!(never.ops_state(), "Allocated");

    // With a hash in its name, as kustomize's configMapGenerator gives one, new pods have the new rules.
    cluster.plane().apply_all(&[map("never-refreshed", "okg-sidecar-config-b7f2")]);
    object["metadata"]["name"] = "tank-war-1".into();
    volume(&mut object, "okg-sidecar-config")["configMap"]["name"] = "okg-sidecar-config-b7f2".into();
    let next = GamePod::create(cluster, LISTER, &object);
    create_game_server(cluster, &next, &game_server("never-refreshed", "tank-war-1", &next.uid));
    next.says("Allocated");
    next.await_ops_state("Maintaining");
}

// ---- conditions, labels and updates

fn conditions_survive_a_provider_that_reports_changes(cluster: &Cluster) {
    keeps_conditions(cluster, NOTIFY);
}

fn conditions_survive_a_provider_that_keeps_them(cluster: &Cluster) {
    keeps_conditions(cluster, KEEP);
}

fn a_provider_that_is_polled_drops_conditions(cluster: &Cluster) {
    drops_conditions(cluster, POLLED);
}

fn a_provider_that_reports_the_librarys_pod_drops_conditions(cluster: &Cluster) {
    drops_conditions(cluster, LISTER);
}

fn a_provider_that_reports_its_own_pod_drops_conditions(cluster: &Cluster) {
    drops_conditions(cluster, OWN);
}

fn keeps_conditions(cluster: &Cluster, provider: Provider) {
    let (pod, began) = podprobe(cluster, provider);
    pod.says("Allocated");
    await_room(&pod, "Allocated");
    pod.eventually("a look at the status", || looks(&pod) > 0);
    pod.says("WaitToBeDeleted");
    await_room(&pod, "WaitToBeDeleted");
    pod.eventually("all looks are over", || began.elapsed() > LAST_LOOK);
    assert_eq!(pod.warnings(DROPPED), 0, "{}", pod.log(SIDECAR));
    assert!(looks(&pod) <= 2, "{} looks", looks(&pod));
}

fn drops_conditions(cluster: &Cluster, provider: Provider) {
    let (pod, began) = podprobe(cluster, provider);
    pod.says("Allocated");
    // It may be gone before anybody can look.
    pod.eventually("the condition was written", || conditions_written(&pod) > 0);
    let written = Instant::now();
    if let Err(why) = wait_for("one warning", NOTICED, || pod.warnings(DROPPED) == 1) {
        panic!("{why}: {}", pod.log(SIDECAR));
    }
    println!("virtual-node: {}: warned {} s after the first condition", provider.node, written.elapsed().as_secs());
    assert!(pod.log(SIDECAR).contains("ConfigMap"), "{}", pod.log(SIDECAR));
    pod.eventually("the condition is gone", || condition(&pod.object(), ROOM).is_none());
    let before = conditions_written(&pod);
    pod.says("WaitToBeDeleted");
    pod.eventually("the next condition is written", || conditions_written(&pod) > before);
    pod.eventually("all looks are over", || began.elapsed() > LAST_LOOK);
    assert_eq!(pod.warnings(DROPPED), 1, "{}", pod.log(SIDECAR));
    assert!(looks(&pod) <= 2, "{} looks", looks(&pod));
}

fn labels_survive_providers_that_report_changes(cluster: &Cluster) {
    each([NOTIFY, KEEP].map(|provider| (provider.node, provider)), |provider| {
        let namespace = format!("labels-{}", provider.node);
        let pod = GamePod::start(cluster, provider, &namespace, Shape::Container, |_, _| {});
        // No report is under way any more.
        pod.await_first_run(GAME);
        pod.await_first_run(SIDECAR);
        set_note(&pod, 1);
        // A change that the provider reports, once the node has seen the patch.
        pod.await_update();
        pod.crash(GAME);
        assert_eq!(notes(&pod), [json!("1"), json!("1")], "{}", provider.node);
    });
}

/// The library writes the last report again, labels and annotations included, when somebody changes the pod and the provider
/// had nothing new to report.
fn labels_are_taken_back_by_providers_that_report_all_the_time(cluster: &Cluster) {
    each([POLLED, LISTER, OWN].map(|provider| (provider.node, provider)), |provider| {
        let namespace = format!("labels-{}", provider.node);
        let pod = GamePod::start(cluster, provider, &namespace, Shape::Container, |_, _| {});
        pod.await_first_run(GAME);
        let (mut last, mut set) = (0, Instant::now());
        pod.eventually("a label and an annotation are taken back", || {
            if last == 0 || set.elapsed() > 4 * REPORTS {
                (last, set) = (last + 1, Instant::now());
                set_note(&pod, last);
            }
            !notes(&pod).contains(&json!(last.to_string()))
        });
    });
}

fn an_update_in_place_restarts_the_sidecar_alone(cluster: &Cluster) {
    let pod = GamePod::start(cluster, NOTIFY, "in-place", Shape::Container, |_, _| {});
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    pod.await_first_run(SIDECAR);
    pod.await_first_run(GAME);
    let (sidecar, game) = (pod.status(SIDECAR), pod.status(GAME));
    // A matchmaker's word survives it.
    let patch = json!({"spec": {"opsState": "Maintaining"}});
    cluster.plane().admin().merge_patch(&pod.game_server_path(), "matchmaker", &patch).ok();
    update_image(cluster, &pod);
    pod.eventually("the new image", || pod.status(SIDECAR)["imageID"] == "okg-sidecar:next");
    assert_ne!(pod.status(SIDECAR)["containerID"], sidecar["containerID"]);
    assert_eq!(pod.status(GAME)["containerID"], game["containerID"]);
    let starts = || pod.log(SIDECAR).matches("INFO  okg-sidecar ").count();
    pod.eventually("the next process", || starts() == 2);
    pod.eventually("the next process has decided", || pod.requests().len() >= 4);
    assert_eq!(pod.ops_state(), "Maintaining");
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
}

fn an_update_in_place_never_ends_without_update_pod(cluster: &Cluster) {
    let pod = GamePod::start(cluster, LISTER, "never-updated", Shape::Container, |_, _| {});
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    pod.await_first_run(SIDECAR);
    let image = pod.status(SIDECAR)["imageID"].clone();
    update_image(cluster, &pod);
    pod.await_update();
    pod.crash(GAME);
    assert_eq!(pod.status(SIDECAR)["imageID"], image);
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
}

fn a_provider_without_native_sidecars_never_starts_the_game(cluster: &Cluster) {
    let pod = GamePod::start(cluster, POLLED, "no-native", Shape::NativeSidecar, |_, _| {});
    pod.eventually("the sidecar runs", || pod.log(SIDECAR).contains("INFO  okg-sidecar "));
    pod.eventually("its status", || !pod.status(SIDECAR)["state"]["running"].is_null());
    assert_eq!(pod.status(GAME)["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(pod.object()["status"]["phase"], "Pending");
}

// ---- the end

fn the_end_of_the_pod_ends_the_sidecar_at_once_with_code_0(cluster: &Cluster) {
    let pod = GamePod::start(cluster, NOTIFY, "deletion", Shape::Container, |_, pod| {
        // The object stays, so that the provider's last word can be read.
        pod["metadata"]["finalizers"] = json!(["example.com/kept"]);
        // The game does not listen to SIGTERM, and lives as long.
        pod["spec"]["terminationGracePeriodSeconds"] = 20.into();
    });
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    cluster.plane().admin().send("DELETE", &pod.path(), &[], None).ok();
    let ended = |container: &str| pod.status(container)["state"]["terminated"].clone();
    pod.eventually("the sidecar's end", || !ended(SIDECAR).is_null());
    assert_eq!(ended(SIDECAR)["exitCode"], 0, "{}", ended(SIDECAR));
    assert!(!pod.status(GAME)["state"]["running"].is_null(), "{}", pod.status(GAME));
    pod.patch(&json!({"metadata": {"finalizers": null}}));
    let gone = || cluster.plane().admin().send("GET", &pod.path(), &[], None).status == 404;
    pod.eventually("the object is gone", gone);
}

/// reclaimPolicy Cascade: the Pod owns the GameServer.
fn a_lost_nodes_process_writes_nothing_to_the_next_pods_game_server(cluster: &Cluster) {
    replaced_on_another_node(cluster, "cascade", |old| {
        cluster.plane().admin().delete(&old.game_server_path());
    });
}

/// reclaimPolicy Delete: the GameServerSet owns the GameServer. OpenKruiseGame's cache puts the old record back.
fn a_lost_nodes_process_writes_nothing_to_a_game_server_that_survives_its_pod(cluster: &Cluster) {
    replaced_on_another_node(cluster, "delete", |old| {
        let patch = json!({"metadata": {"ownerReferences": owned_by_set()}});
        cluster.plane().admin().merge_patch(&old.game_server_path(), stage::CONTROLLER, &patch).ok();
    });
}

/// Replaces two pods whose node is lost, while their processes go on: one has a token that is bound to it, which the API server
/// refuses some seconds later, and one has a token out of a Secret, which it never refuses. `orphan` does with the GameServer
/// what its reclaimPolicy demands.
fn replaced_on_another_node(cluster: &Cluster, name: &'static str, orphan: impl Fn(&GamePod<'_>) + Sync) {
    let lost = Provider { node: name, ..NOTIFY };
    let node = cluster.one_more(lost);
    let old = ["bound", "secret"].map(|token| {
        let namespace = format!("{name}-{token}");
        let mut object = Value::Null;
        let pod = GamePod::start(cluster, lost, &namespace, Shape::Container, |_, pod| {
            let variables =
                [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")];
            let mut env: Vec<Value> = variables.map(|(name, field)| from_field(name, field)).into();
            env.push(json!({"name": "RUST_LOG", "value": "debug"}));
            container(pod, SIDECAR)["env"] = env.into();
            if token == "secret" {
                unbound_token(cluster, &namespace, pod);
            }
            object = pod.clone();
        });
        (token, (pod, object))
    });
    for (_, (pod, _)) in &old {
        pod.says("Allocated");
        pod.await_ops_state("Allocated");
    }
    drop(node);
    each(old, |(old, object)| {
        // As OpenKruiseGame has it in its cache.
        let cached = old.game_server();
        orphan(&old);
        old.delete_by_force();
        let new = GamePod::create(cluster, NOTIFY, &object);
        let admin = cluster.plane().admin();
        let path = new.game_server_path();
        let survives = admin.send("GET", &path, &[], None).status == 200;
        if !survives {
            create_game_server(cluster, &new, &game_server(&new.namespace, "tank-war-0", &new.uid));
        }
        new.says("None");
        new.eventually("the next pod's record", || {
            new.game_server()["metadata"]["annotations"].to_string().contains(&new.uid)
        });
        new.await_ops_state("None");
        // What OpenKruiseGame writes when it sets the node's name: all annotations of its cache.
        if survives {
            let annotations = &cached["metadata"]["annotations"];
            let patch = json!({"metadata": {"annotations": annotations, "labels": {"example.com/node": "notify"}}});
            admin.merge_patch(&path, stage::CONTROLLER, &patch).ok();
        }
        old.says("WaitToBeDeleted");
        old.await_probes();
        new.await_probes();
        old.await_probes();
        assert_eq!(new.ops_state(), "None", "{}", old.log(SIDECAR));
        let refused = old.log(SIDECAR).contains("status 401");
        println!(
            "virtual-node: {}: the old process {}",
            old.namespace,
            if refused { "was refused" } else { "wrote nothing" }
        );
    });
}

/// Gives a pod a token that is bound to nothing, as azure-aci and systemk mount one, of an account that no admission policy
/// restricts.
fn unbound_token(cluster: &Cluster, namespace: &str, pod: &mut Value) {
    let account = "unbound";
    let metadata = json!({"name": account, "namespace": namespace});
    cluster.plane().apply_all(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "okg-sidecar"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }),
    ]);
    cluster.plane().apply_all(&[json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
        "stringData": {
            "token": cluster.plane().token_of(namespace, account, None),
            "ca.crt": cluster.plane().authority_pem(),
            "namespace": namespace,
        },
    })]);
    pod["spec"]["serviceAccountName"] = account.into();
    *volume(pod, TOKEN) = json!({"name": TOKEN, "secret": {"secretName": account}});
}

// ---- helpers

/// The annotation that Kruise gives a pod, with one probe of the game's word.
fn kruise_probe(pod: &mut Value, delay: u32) {
    let probe = json!({
        "httpGet": {"path": "/", "port": 8080, "scheme": "HTTP"},
        "initialDelaySeconds": delay, "periodSeconds": 1, "timeoutSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    });
    let probes = json!([{"name": "room", "containerName": GAME, "podConditionType": ROOM, "probe": probe}]);
    pod["metadata"]["annotations"]["kruise.io/podprobe"] = probes.to_string().into();
    let env = container(pod, SIDECAR)["env"].as_array_mut().expect("the component sets one");
    env.push(json!({"name": "RUST_LOG", "value": "debug"}));
}

/// A pod with Kruise's probe, and when its sidecar had started.
fn podprobe(cluster: &Cluster, provider: Provider) -> (GamePod<'_>, Instant) {
    let namespace = format!("conditions-{}", provider.node);
    // By then a provider that reports all the time has nothing new to report.
    let pod = GamePod::start(cluster, provider, &namespace, Shape::KruisePodprobe, |_, pod| kruise_probe(pod, 12));
    pod.eventually("the first line", || pod.log(SIDECAR).contains("INFO  okg-sidecar "));
    (pod, Instant::now())
}

#[track_caller]
fn await_room(pod: &GamePod<'_>, word: &str) {
    pod.eventually(&format!("the condition {word}"), || {
        condition(&pod.object(), ROOM).is_some_and(|room| room["status"] == "True" && room["message"] == word)
    });
}

fn is_of_status(event: &Value) -> bool {
    event["objectRef"]["subresource"] == "status"
}

/// How often the sidecar has read the status.
fn looks(pod: &GamePod<'_>) -> usize {
    pod.requests().iter().filter(|event| is_of_status(event) && !stage::is_write(event)).count()
}

/// How often the sidecar has set conditions.
fn conditions_written(pod: &GamePod<'_>) -> usize {
    pod.requests().iter().filter(|event| is_of_status(event) && stage::is_write(event)).count()
}

/// Sets a label and an annotation of the Pod as somebody else does.
fn set_note(pod: &GamePod<'_>, value: u32) {
    let note = json!({"example.com/note": value.to_string()});
    pod.patch(&json!({"metadata": {"labels": note, "annotations": note}}));
}

/// Both as they are.
fn notes(pod: &GamePod<'_>) -> [Value; 2] {
    let object = pod.object();
    ["labels", "annotations"].map(|kind| object["metadata"][kind]["example.com/note"].clone())
}

/// What OpenKruise's in-place update does.
fn update_image(cluster: &Cluster, pod: &GamePod<'_>) {
    let patch = json!({"spec": {"containers": [{"name": SIDECAR, "image": "okg-sidecar:next"}]}});
    let headers = [("Content-Type", "application/strategic-merge-patch+json")];
    cluster.plane().admin().send("PATCH", &pod.path(), &headers, Some(&patch)).ok();
}

fn create_game_server(cluster: &Cluster, pod: &GamePod<'_>, object: &Value) {
    let path = pod.game_server_path();
    let (collection, _) = path.rsplit_once('/').expect("a path has slashes");
    cluster.plane().admin().create(collection, stage::CONTROLLER, object);
}

/// Which token the last write came with.
fn token_used(pod: &GamePod<'_>) -> Value {
    let writes: Vec<Value> = pod.requests().into_iter().filter(stage::is_write).collect();
    let last = writes.last().expect("there was a write");
    let id = last["user"]["extra"]["authentication.kubernetes.io/credential-id"].clone();
    assert!(id.is_array(), "{last}");
    id
}
