//! Owns one game's pod on the node: its objects, the game's answer, its processes, and the report of a failed case.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::manifests::{self, SIDECAR, STATE, Shape, TOKEN};
use measure::pods;
use measure::wait::wait_for;
use stand_ins::control_plane::Answer;
use stand_ins::{RECORD, Signal, game_server, game_server_path, pod_path};

/// Long enough for kubelet on a busy machine, a restart after a failure included.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod with its GameServer.
pub(crate) struct GamePod<'a> {
    cluster: &'a Cluster,
    namespace: String,
    name: String,
    uid: String,
    created: Instant,
}

impl<'a> GamePod<'a> {
    /// Applies what deploy/ has for this shape in a namespace of its own, and makes a pod of it with its GameServer as
    /// OpenKruiseGame does. `edit` is given the config, which Kruise's probes have none of, and the Pod to change.
    pub(crate) fn start(
        cluster: &'a Cluster,
        namespace: &str,
        shape: Shape,
        edit: impl FnOnce(&mut String, &mut Value),
    ) -> Self {
        let mut objects = shape.objects(cluster, namespace);
        let mut pod = manifests::pod(manifests::of_kind(&mut objects, "GameServerSet"));
        let mut map = objects.iter_mut().find(|object| object["kind"] == "ConfigMap");
        let shipped = map.as_ref().and_then(|map| map["data"]["config.yaml"].as_str());
        let mut config = shipped.map_or_else(String::new, pods::quick);
        edit(&mut config, &mut pod);
        if let Some(map) = &mut map {
            map["data"]["config.yaml"] = config.into();
        }
        let root_ca = cluster.root_ca(namespace);
        for object in objects.iter().chain([&root_ca]) {
            cluster.apply(&object.to_string());
        }
        Self::create(cluster, namespace, &pod)
    }

    /// Makes one more pod in a namespace that has all else.
    pub(crate) fn create(cluster: &'a Cluster, namespace: &str, pod: &Value) -> Self {
        let created = Instant::now();
        let object = try_create(cluster, namespace, pod).ok();
        let text = |key: &str| object["metadata"][key].as_str().expect("every object has it").to_owned();
        let this = Self { cluster, namespace: namespace.to_owned(), name: text("name"), uid: text("uid"), created };
        let path = this.game_server_path();
        let (collection, _) = path.rsplit_once('/').expect("a path has slashes");
        let object = game_server(namespace, &this.name, &this.uid);
        cluster.admin().create(collection, "kruise-game-manager", &object);
        this
    }

    /// How long ago the Pod was made.
    pub(crate) fn age(&self) -> Duration {
        self.created.elapsed()
    }

    /// Lets the game answer this word from now on.
    #[track_caller]
    pub(crate) fn says(&self, word: &str) {
        let file = self.said();
        // The game begins by saying something.
        self.eventually("the game says something", || file.exists());
        // A probe sees the one word or the other.
        let next = file.with_file_name("next");
        fs::write(&next, word).expect("kubelet has made the volume");
        fs::rename(&next, &file).expect("both are in one folder");
    }

    /// Has the game answer 404 from now on.
    pub(crate) fn says_nothing(&self) {
        fs::remove_file(self.said()).expect("it said something");
    }

    /// The file that the game serves.
    fn said(&self) -> PathBuf {
        self.cluster.volumes(&self.uid).join("kubernetes.io~empty-dir").join(STATE).join("index.html")
    }

    /// The token that the sidecar reads.
    pub(crate) fn token(&self) -> String {
        let file = self.cluster.volumes(&self.uid).join("kubernetes.io~projected").join(TOKEN).join("token");
        fs::read_to_string(file).expect("kubelet has made the volume")
    }

    /// Deletes the Pod as a person does.
    pub(crate) fn delete(&self) {
        self.cluster.admin().send("DELETE", &self.path(), &[], None).ok();
    }

    /// The Pod as it is.
    pub(crate) fn object(&self) -> Value {
        self.cluster.admin().get(&self.path())
    }

    /// The path of the Pod.
    pub(crate) fn path(&self) -> String {
        pod_path(&self.namespace, &self.name)
    }

    fn game_server_path(&self) -> String {
        game_server_path(&self.namespace, &self.name)
    }

    /// The GameServer's opsState.
    pub(crate) fn ops_state(&self) -> String {
        let object = self.cluster.admin().get(&self.game_server_path());
        object["spec"]["opsState"].as_str().unwrap_or_default().to_owned()
    }

    /// Sets it as a matchmaker does.
    pub(crate) fn set_ops_state(&self, state: &str) {
        let path = self.game_server_path();
        self.cluster.admin().merge_patch(&path, "matchmaker", &json!({"spec": {"opsState": state}})).ok();
    }

    /// The record in the GameServer's annotation.
    pub(crate) fn record(&self) -> Value {
        let object = self.cluster.admin().get(&self.game_server_path());
        let text = object["metadata"]["annotations"][RECORD].as_str().unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Waits for an opsState.
    #[track_caller]
    pub(crate) fn await_ops_state(&self, state: &str) {
        self.eventually(&format!("opsState {state}"), || self.ops_state() == state);
    }

    /// Waits until `condition` is true, and describes the pod if it does not become true.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, condition: impl FnMut() -> bool) {
        self.eventually_within(PATIENCE, what, condition);
    }

    /// Waits longer in the same way.
    #[track_caller]
    pub(crate) fn eventually_within(&self, timeout: Duration, what: &str, condition: impl FnMut() -> bool) {
        if let Err(why) = wait_for(what, timeout, condition) {
            let described = self.kubectl(&["describe", "pod", &self.name]);
            panic!("{why}\n{}\n{}", String::from_utf8_lossy(&described.stdout), self.log(SIDECAR));
        }
    }

    /// The status that kubelet writes of a container.
    pub(crate) fn status(&self, container: &str) -> Value {
        pods::container_status(&self.object(), container)
    }

    /// How often kubelet has restarted a container.
    pub(crate) fn restarts(&self, container: &str) -> u64 {
        self.status(container)["restartCount"].as_u64().unwrap_or_default()
    }

    /// What a container wrote.
    pub(crate) fn log(&self, container: &str) -> String {
        let path = format!("{}/log?container={container}", self.path());
        self.cluster.admin().send("GET", &path, &[], None).text
    }

    /// Waits for three more probes of a sidecar that logs each.
    #[track_caller]
    pub(crate) fn await_probes(&self) {
        let probes = || self.log(SIDECAR).matches("DEBUG endpoints[0]").count();
        let wanted = probes() + 3;
        self.eventually("three more probes", || probes() >= wanted);
    }

    /// Runs a program in a container.
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> Output {
        self.kubectl(&[&["exec", &self.name, "--container", container, "--"], command].concat())
    }

    /// Runs kubectl in the pod's namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        self.cluster.kubectl(&self.namespace, args)
    }

    /// The first process of a running container, waited for.
    #[track_caller]
    pub(crate) fn process(&self, container: &str) -> Process {
        let mut found = None;
        self.eventually(&format!("{container} has a process"), || {
            let status = self.status(container);
            found = status["containerID"].as_str().and_then(|id| Process::of(id.rsplit('/').next()?));
            found.is_some() && !status["state"]["running"].is_null()
        });
        found.expect("it was waited for")
    }

    /// Kills a container's process, as the kernel does when memory is short, and waits until kubelet has restarted it.
    #[track_caller]
    pub(crate) fn crash(&self, container: &str) {
        let restarts = self.restarts(container);
        self.process(container).kill();
        self.eventually(&format!("{container} is restarted"), || {
            let status = self.status(container);
            status["restartCount"].as_u64() > Some(restarts) && !status["state"]["running"].is_null()
        });
    }
}

/// Asks for a pod that may be refused.
pub(crate) fn try_create(cluster: &Cluster, namespace: &str, pod: &Value) -> Answer {
    let path = format!("/api/v1/namespaces/{namespace}/pods?fieldValidation=Strict&fieldManager=kruise");
    cluster.admin().send("POST", &path, &[("Content-Type", "application/json")], Some(pod))
}

/// A container's first process, as the node sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
}

impl Process {
    /// The one with this container's id.
    fn of(container_id: &str) -> Option<Self> {
        let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.map(|pid| Self { pid }).find(|process| {
            // One that `exec` has started is in the same cgroup, and not the first of its PID namespace.
            process.file("cgroup").contains(container_id) && process.status("NSpid").ends_with("\t1")
        })
    }

    /// A line of /proc/PID/status, as in proc(5).
    pub(crate) fn status(&self, key: &str) -> String {
        let text = self.file("status");
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.unwrap_or_default().to_owned()
    }

    /// The figure of a file in its memory cgroup, which has one name in each version of cgroups.
    pub(crate) fn memory(&self, names: [&str; 2]) -> u64 {
        let cgroups = self.file("cgroup");
        let path = |controllers: &str| {
            cgroups.lines().find_map(|line| line.split_once(controllers)?.1.split_once(':')?.1.strip_prefix('/'))
        };
        let file = match path(":memory") {
            Some(path) => format!("/sys/fs/cgroup/memory/{path}/{}", names[0]),
            None => format!("/sys/fs/cgroup/{}/{}", path("0:").unwrap_or_default(), names[1]),
        };
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.trim().parse().unwrap_or_else(|error| panic!("{file}: {text}: {error}"))
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        !["", "\tZ (zombie)"].contains(&self.status("State").as_str())
    }

    fn kill(&self) {
        let pid = Pid::from_raw(self.pid).expect("no process has the number 0");
        kill_process(pid, Signal::KILL).expect("it is running");
    }

    /// Empty when it is gone.
    fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }
}
