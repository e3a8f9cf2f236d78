//! The image as released, in pods of deploy/, on a real node: what kubelet, containerd and the kernel do with it and to
//! it (behaviour 1, 2, 4, 7, 9). Started by `tests/node.sh`, which makes the images and the namespaces.

mod cluster;
mod game_pod;
mod manifests;
mod place;

use std::process::{ExitCode, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, condition};
use game_pod::{GamePod, try_create};
use libtest_mimic::{Arguments, Trial};
use manifests::{GAME, SIDECAR, Shape, TOKEN};
use measure::pods;
use place::Place;
use serde_json::{Value, json};
use stand_ins::control_plane::manifest;

/// What deploy/ gives the sidecar, and the least that the documents name.
const SHIPPED_LIMIT: u64 = 16 << 20;
const LOWEST_LIMIT: u64 = 6 << 20;

const MEMORY_LIMIT: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
const MEMORY_PEAK: [&str; 2] = ["memory.max_usage_in_bytes", "memory.peak"];

/// A condition of somebody else's.
const FOREIGN: &str = "example.com/foreign";

/// kubelet renews a token when four fifths of its time are over; the shortest that it takes is ten minutes.
const ROTATION: Duration = Duration::from_secs(660);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cluster = match Place::find() {
        // Names need no node.
        _ if arguments.list => None,
        Ok(place) => Some(Arc::new(start(place))),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    // Nearly all of a case is waiting.
    arguments.test_threads.get_or_insert(32);
    let trial = |name: &str, run: fn(&Cluster)| {
        let cluster = cluster.clone();
        Trial::test(name, move || {
            run(cluster.as_deref().ok_or("a list of names runs nothing")?);
            Ok(())
        })
    };
    macro_rules! beside {
        ($case:ident) => {
            trial(stringify!($case), |cluster| {
                let _kubelet = cluster.needs_kubelet();
                $case(cluster);
            })
        };
    }
    macro_rules! alone {
        ($case:ident) => {
            trial(stringify!($case), $case)
        };
    }
    let trials = vec![
        beside!(the_example_runs_under_pod_security_restricted),
        beside!(the_lowest_memory_limit_is_enough),
        beside!(check_and_probe_run_by_exec),
        beside!(a_changed_config_map_reaches_the_running_process),
        beside!(an_invalid_config_is_told_by_describe),
        beside!(the_game_has_no_token),
        beside!(a_game_in_the_same_process_namespace_reads_no_token),
        beside!(a_pod_that_runs_to_its_end_completes_beside_a_native_sidecar),
        beside!(a_native_sidecar_hears_what_the_game_says_while_it_shuts_down),
        beside!(the_end_of_the_pod_ends_the_sidecar_at_once_with_code_0),
        beside!(a_restart_by_kubelet_overwrites_no_matchmaker),
        beside!(conditions_survive_what_kubelet_writes),
        // Eleven minutes are too long for each change.
        beside!(the_token_that_kubelet_rotates_in_time_is_used_past_the_end_of_the_first).with_ignored_flag(true),
        alone!(the_token_that_a_restarted_kubelet_renews_is_used_by_the_running_process),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The programs end with the last owner.
    drop(cluster);
    conclusion.exit_code()
}

/// A cluster in which the admission policies of deploy/ are on.
fn start(place: Place) -> Cluster {
    let began = Instant::now();
    let cluster = Cluster::start(place);
    for policy in ["admission-policy", "kruise-podprobe/admission-policy"] {
        cluster.apply(&manifest::deploy(&format!("{policy}/validating-admission-policy.yaml")));
    }
    println!("node: {}; ready after {:.1} s", cluster.versions(), began.elapsed().as_secs_f32());
    cluster
}

// ---- start

fn the_example_runs_under_pod_security_restricted(cluster: &Cluster) {
    let namespace = "restricted";
    let pod = GamePod::start(cluster, namespace, Shape::Container, |_, _| {});
    pod.eventually("the first line", || pod.log(SIDECAR).starts_with("INFO  okg-sidecar "));
    let first_line = pod.age();
    for state in ["Allocated", "WaitToBeDeleted", "None"] {
        pod.says(state);
        pod.await_ops_state(state);
    }
    assert_eq!(pod.restarts(SIDECAR), 0);

    let process = pod.process(SIDECAR);
    assert_eq!(process.memory(MEMORY_LIMIT), SHIPPED_LIMIT);
    let ids = "\t61729\t61729\t61729\t61729";
    let wanted = [
        ("Uid", ids),
        ("Gid", ids),
        ("CapEff", "\t0000000000000000"),
        ("NoNewPrivs", "\t1"),
        ("Seccomp", "\t2"),
        ("Threads", "\t1"),
    ];
    for (key, value) in wanted {
        assert_eq!(process.status(key), value, "{key}");
    }
    println!(
        "node: {:.2} s from the pod's creation to the first line; VmHWM{}, {} KiB at most in its cgroup",
        first_line.as_secs_f32(),
        process.status("VmHWM").replace('\t', " "),
        process.memory(MEMORY_PEAK) >> 10
    );

    // The namespace does refuse what is less strict.
    let mut lax = pod.object();
    lax["metadata"] = json!({"name": "lax"});
    pods::container(&mut lax, SIDECAR)["securityContext"]["runAsNonRoot"] = false.into();
    let refused = try_create(cluster, namespace, &lax);
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("violates PodSecurity"), "{}", refused.text);
}

fn the_lowest_memory_limit_is_enough(cluster: &Cluster) {
    let mut pods = Vec::new();
    let mut object = Value::Null;
    pods.push(GamePod::start(cluster, "lowest-limit", Shape::Container, |_, pod| {
        pods::container(pod, SIDECAR)["resources"]["limits"]["memory"] = LOWEST_LIMIT.to_string().into();
        object = pod.clone();
    }));
    for name in ["tank-war-1", "tank-war-2"] {
        object["metadata"]["name"] = name.into();
        pods.push(GamePod::create(cluster, "lowest-limit", &object));
    }
    for pod in &pods {
        pod.says("Allocated");
        pod.await_ops_state("Allocated");
        assert_eq!(pod.process(SIDECAR).memory(MEMORY_LIMIT), LOWEST_LIMIT);
        assert_eq!(pod.restarts(SIDECAR), 0, "{}", pod.status(SIDECAR));
    }
}

fn an_invalid_config_is_told_by_describe(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "invalid-config", Shape::Container, |config, _| {
        *config = config.replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 0");
    });
    let why = "plugins[0].config.probeIntervalSeconds: must be 1 to 86400, got 0";
    let mut ended = Value::Null;
    pod.eventually("kubelet tells how it ended", || {
        let status = pod.status(SIDECAR);
        ended = [&status["state"], &status["lastState"]]
            .into_iter()
            .map(|state| state["terminated"].clone())
            .find(|ended| !ended.is_null())
            .unwrap_or_default();
        !ended.is_null()
    });
    assert_eq!(ended["exitCode"], 1, "{ended}");
    assert!(ended["message"].as_str().is_some_and(|message| message.contains(why)), "{ended}");
    let described = text(&pod.kubectl(&["describe", "pod"]));
    assert!(described.contains(why), "{described}");
}

// ---- a look inside

fn check_and_probe_run_by_exec(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "exec", Shape::Container, |_, _| {});
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let began = Instant::now();
    let checked = pod.exec(SIDECAR, &["/okg-sidecar", "check"]);
    let took = began.elapsed();
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("http://localhost:8080"), "{}", text(&checked));
    let probed = pod.exec(SIDECAR, &["/okg-sidecar", "probe"]);
    assert!(probed.status.success(), "{}", text(&probed));
    assert!(text(&probed).contains("\"opsState\":\"Allocated\""), "{}", text(&probed));
    println!("node: exec of check took {} ms, kubectl included", took.as_millis());

    pod.says_nothing();
    let probed = pod.exec(SIDECAR, &["/okg-sidecar", "probe"]);
    assert_eq!(probed.status.code(), Some(1), "{}", text(&probed));
    assert!(text(&probed).contains("404"), "{}", text(&probed));
    assert_eq!(pod.restarts(SIDECAR), 0);
}

fn the_game_has_no_token(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "no-token", Shape::Container, |_, _| {});
    // The sidecar has one.
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let served = pod.exec(GAME, &["cat", "/www/index.html"]);
    assert_eq!(text(&served), "Allocated");
    let found = pod.exec(GAME, &["find", "/", "-xdev", "-name", "kubernetes.io"]);
    assert!(found.status.success(), "{}", text(&found));
    assert_eq!(text(&found), "");
    let mounts = text(&pod.exec(GAME, &["cat", "/proc/mounts"]));
    assert!(mounts.contains(" /www "), "{mounts}");
    assert!(!mounts.contains("secrets"), "{mounts}");
}

/// As docs/security.md has it: as the sidecar's own user, and as root that becomes this user.
fn a_game_in_the_same_process_namespace_reads_no_token(cluster: &Cluster) {
    let namespace = "shared-processes";
    let mut pod = Value::Null;
    let same_user = GamePod::start(cluster, namespace, Shape::Container, |_, shipped| {
        shipped["spec"]["shareProcessNamespace"] = true.into();
        for user in ["runAsUser", "runAsGroup"] {
            pods::container(shipped, GAME)["securityContext"][user] = 61729.into();
        }
        pod.clone_from(shipped);
    });
    // Pod Security "restricted" has no root.
    let privileged = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    cluster.admin().merge_patch(&format!("/api/v1/namespaces/{namespace}"), "node", &privileged).ok();
    pod["metadata"]["name"] = "tank-war-1".into();
    pod["spec"]["securityContext"] = json!({});
    pods::container(&mut pod, GAME)["securityContext"] = json!({"runAsUser": 0});
    let root = GamePod::create(cluster, namespace, &pod);
    let script = "
        read_of() {
            for file in root/var/run/secrets/kubernetes.io/serviceaccount/token root/opt/sidecar/config.yaml environ maps; do
                head -c 1 /proc/$1/$file >/dev/null 2>&1 && echo $2 $file
            done
        }
        sidecar=$(grep -lx okg-sidecar /proc/[0-9]*/comm | cut -d/ -f3)
        read_of $sidecar its
        read_of self own
        kill -0 $sidecar && echo signals";
    let become_it = "echo game:x:61729:61729::/:/bin/sh >/etc/passwd
        exec start-stop-daemon -S -p /none -c game -x /bin/sh -- -c \"$0\"";
    for (game, shell) in [(same_user, &["sh", "-c"][..]), (root, &["sh", "-c", become_it][..])] {
        game.says("Allocated");
        game.await_ops_state("Allocated");
        let seen = text(&game.exec(GAME, &[shell, &[script]].concat()));
        assert_eq!(seen.trim(), "own environ\nown maps\nsignals", "{shell:?}");
    }
}

// ---- what changes while it runs

fn a_changed_config_map_reaches_the_running_process(cluster: &Cluster) {
    let mut shipped = String::new();
    let pod = GamePod::start(cluster, "config-map", Shape::Container, |config, _| shipped.clone_from(config));
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let changed = shipped.replace("gameServerOpsState: Allocated", "gameServerOpsState: Maintaining");
    let path = "/api/v1/namespaces/config-map/configmaps/okg-sidecar-config";
    let began = Instant::now();
    cluster.admin().merge_patch(path, "node", &json!({"data": {"config.yaml": changed}})).ok();
    pod.await_ops_state("Maintaining");
    println!("node: a ConfigMap's change took {:.1} s (kubelet's syncFrequency: 5 s)", began.elapsed().as_secs_f32());
    assert_eq!(pod.restarts(SIDECAR), 0);
}

fn the_token_that_a_restarted_kubelet_renews_is_used_by_the_running_process(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "renewed-token", Shape::Container, |_, _| {});
    set_condition(cluster, &pod);
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let (first, first_used, process) = (pod.token(), token_used(cluster, "renewed-token"), pod.process(SIDECAR));
    cluster.restart_kubelet();
    pod.eventually("another token", || pod.token() != first);
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
    assert_ne!(token_used(cluster, "renewed-token"), first_used);
    assert_eq!(pod.process(SIDECAR), process);
    assert_eq!(condition(&pod.object(), FOREIGN).map(|it| &it["message"]), Some(&json!("kept")));
}

fn the_token_that_kubelet_rotates_in_time_is_used_past_the_end_of_the_first(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "rotated-token", Shape::Container, |_, pod| {
        pods::volume(pod, TOKEN)["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] = 600.into();
    });
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let (first, process, began) = (pod.token(), pod.process(SIDECAR), Instant::now());
    pod.eventually_within(ROTATION, "another token", || pod.token() != first);
    println!("node: kubelet has rotated a token of 600 s after {} s", began.elapsed().as_secs());
    let first = cluster.client(&first);
    let path = pod.path();
    pod.eventually_within(ROTATION, "the end of the first", || first.send("GET", &path, &[], None).status == 401);
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
    assert_eq!(pod.process(SIDECAR), process);
}

// ---- the end

fn a_pod_that_runs_to_its_end_completes_beside_a_native_sidecar(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "job", Shape::NativeSidecar, |_, pod| {
        pod["spec"]["restartPolicy"] = "Never".into();
        let script = "echo Allocated >/www/index.html; httpd -p 8080 -h /www; until [ -e /www/over ]; do sleep 1; done";
        pods::container(pod, GAME)["command"] = json!(["sh", "-c", script]);
    });
    pod.await_ops_state("Allocated");
    let touched = pod.exec(GAME, &["touch", "/www/over"]);
    assert!(touched.status.success(), "{}", text(&touched));
    pod.eventually("the pod has succeeded", || pod.object()["status"]["phase"] == "Succeeded");
    for container in [GAME, SIDECAR] {
        assert_eq!(pod.status(container)["state"]["terminated"]["exitCode"], 0, "{}", pod.status(container));
    }
}

fn a_native_sidecar_hears_what_the_game_says_while_it_shuts_down(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "last-word", Shape::NativeSidecar, |_, pod| {
        pod["spec"]["terminationGracePeriodSeconds"] = 60.into();
        let script = "trap 'echo WaitToBeDeleted >/www/index.html; sleep 50; exit' TERM
            echo Allocated >/www/index.html; httpd -f -p 8080 -h /www & wait";
        pods::container(pod, GAME)["command"] = json!(["sh", "-c", script]);
    });
    pod.await_ops_state("Allocated");
    pod.delete();
    pod.await_ops_state("WaitToBeDeleted");
}

fn the_end_of_the_pod_ends_the_sidecar_at_once_with_code_0(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "deletion", Shape::Container, |_, pod| {
        // The object stays, so that kubelet's last word can be read.
        pod["metadata"]["finalizers"] = json!(["example.com/kept"]);
        // The game does not listen to SIGTERM, and lives as long.
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
    });
    pod.says("Allocated");
    pod.await_ops_state("Allocated");
    let (sidecar, game) = (pod.process(SIDECAR), pod.process(GAME));
    let began = Instant::now();
    pod.delete();
    pod.eventually("the sidecar's end", || !sidecar.is_running());
    println!("node: {} ms from the pod's deletion to the sidecar's end", began.elapsed().as_millis());
    assert!(game.is_running(), "it had to be killed with the game");
    let ended = |container: &str| pods::container_status(&pod.object(), container)["state"]["terminated"].clone();
    pod.eventually("kubelet tells how both ended", || !ended(SIDECAR).is_null() && !ended(GAME).is_null());
    assert_eq!(ended(SIDECAR)["exitCode"], 0, "{}", ended(SIDECAR));
    assert_eq!(ended(GAME)["exitCode"], 137, "{}", ended(GAME));
}

// ---- restarts

fn a_restart_by_kubelet_overwrites_no_matchmaker(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "matchmaker", Shape::Container, |_, pod| {
        pods::container(pod, SIDECAR)["env"] = json!([{"name": "RUST_LOG", "value": "debug"}]);
    });
    pod.eventually("the first decision", || pod.record()["opsState"] == "None");
    pod.set_ops_state("Allocated");
    let before = pod.record();
    pod.crash(SIDECAR);
    // The first decision of a process is always written down.
    pod.eventually("the first decision of the next process", || pod.record()["at"] != before["at"]);
    pod.await_probes();
    assert_eq!(pod.ops_state(), "Allocated");
    assert_eq!(pod.record()["opsState"], "None");
    pod.says("WaitToBeDeleted");
    pod.await_ops_state("WaitToBeDeleted");
}

fn conditions_survive_what_kubelet_writes(cluster: &Cluster) {
    let pod = GamePod::start(cluster, "conditions", Shape::KruisePodprobe, |_, pod| {
        let probe = json!({
            "httpGet": {"path": "/", "port": 8080, "scheme": "HTTP"},
            "initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        });
        let probes = json!([
            {"name": "room", "containerName": GAME, "podConditionType": "game.kruise.io/room", "probe": probe},
        ]);
        pod["metadata"]["annotations"]["kruise.io/podprobe"] = probes.to_string().into();
        let mut bystander = pods::container(pod, GAME).clone();
        bystander["name"] = "bystander".into();
        bystander["command"] = json!(["sleep", "infinity"]);
        bystander["ports"] = json!([]);
        pod["spec"]["containers"].as_array_mut().expect("a list").push(bystander);
    });
    pod.says("Allocated");
    let room =
        |pod: &Value| condition(pod, "game.kruise.io/room").map(|it| (it["status"].clone(), it["message"].clone()));
    let allocated = Some((json!("True"), json!("Allocated")));
    pod.eventually("the condition", || room(&pod.object()) == allocated);
    set_condition(cluster, &pod);
    // The sidecar would write a lost condition no second time: it writes what changes.
    for container in ["bystander", SIDECAR] {
        pod.crash(container);
        pod.eventually("kubelet says that the pod is ready", || {
            condition(&pod.object(), "Ready").is_some_and(|ready| ready["status"] == "True")
        });
        let object = pod.object();
        assert_eq!(room(&object), allocated, "{container}: {}", object["status"]);
        let foreign = condition(&object, FOREIGN);
        assert_eq!(foreign.map(|it| &it["message"]), Some(&json!("kept")), "{container}: {}", object["status"]);
    }
    pod.says("WaitToBeDeleted");
    let waits = Some((json!("True"), json!("WaitToBeDeleted")));
    pod.eventually("another message", || room(&pod.object()) == waits);
}

// ---- helpers

/// Sets a condition as another controller does.
fn set_condition(cluster: &Cluster, pod: &GamePod) {
    let patch = json!({"status": {"conditions": [{"type": FOREIGN, "status": "True", "message": "kept"}]}});
    let headers = [("Content-Type", "application/strategic-merge-patch+json")];
    cluster.admin().send("PATCH", &format!("{}/status", pod.path()), &headers, Some(&patch)).ok();
}

/// Which token the last write came with.
fn token_used(cluster: &Cluster, namespace: &str) -> Value {
    let writes = cluster.writes(namespace);
    let last = writes.last().expect("there was a write");
    let id = last["user"]["extra"]["authentication.kubernetes.io/credential-id"].clone();
    assert!(id.is_array(), "{last}");
    id
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
