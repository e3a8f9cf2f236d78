//! Owns one game's pod on a virtual node: its objects, what the game says, what the sidecar logs, and what a failed case
//! prints.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use measure::pods;
use measure::wait::wait_for;
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use stand_ins::control_plane::stage::CONTROLLER;
use stand_ins::{Signal, game_server, game_server_path, pod_path};

use crate::cluster::{Cluster, Provider};
use crate::manifests::{SIDECAR, STATE, Shape, TOKEN};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod with its GameServer.
pub(crate) struct GamePod<'a> {
    cluster: &'a Cluster,
    node: &'static str,
    pub(crate) namespace: String,
    name: String,
    pub(crate) uid: String,
}

impl<'a> GamePod<'a> {
    /// Applies what deploy/ has for this shape in a namespace of its own, and makes a pod of it with its GameServer as
    /// OpenKruiseGame does. `edit` is given the config, which is empty for Kruise's probes, and the Pod to change.
    pub(crate) fn start(
        cluster: &'a Cluster,
        provider: Provider,
        namespace: &str,
        shape: Shape,
        edit: impl FnOnce(&mut String, &mut Value),
    ) -> Self {
        let mut objects = shape.objects(namespace);
        let mut pod = shape.pod(&objects, namespace);
        let mut map = objects.iter_mut().find(|object| object["kind"] == "ConfigMap");
        let shipped = map.as_ref().and_then(|map| map["data"]["config.yaml"].as_str());
        let mut config = shipped.map_or_else(String::new, pods::quick);
        edit(&mut config, &mut pod);
        if let Some(map) = &mut map {
            map["data"]["config.yaml"] = config.into();
        }
        cluster.plane().apply_all(&objects);
        cluster.plane().apply_all(&[json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
            "data": {"ca.crt": cluster.plane().authority_pem()},
        })]);
        let this = Self::create(cluster, provider, &pod);
        let object = game_server(namespace, &this.name, &this.uid);
        let path = this.game_server_path();
        let (collection, _) = path.rsplit_once('/').expect("a path has slashes");
        cluster.plane().admin().create(collection, CONTROLLER, &object);
        this
    }

    /// Makes one more pod in a namespace that has all else, with a GameServer or without.
    pub(crate) fn create(cluster: &'a Cluster, provider: Provider, pod: &Value) -> Self {
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = provider.node.into();
        let text = |object: &Value, key: &str| object["metadata"][key].as_str().expect("it has one").to_owned();
        let namespace = text(&pod, "namespace");
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let created = cluster.plane().admin().create(&pods, CONTROLLER, &pod);
        Self { cluster, node: provider.node, namespace, name: text(&created, "name"), uid: text(&created, "uid") }
    }

    /// Has the game say this word from now on.
    #[track_caller]
    pub(crate) fn says(&self, word: &str) {
        let file = self.volume(STATE).join("index.html");
        // The game begins by saying something.
        self.eventually("the game says something", || file.exists());
        // A probe sees the one word or the other.
        let next = file.with_file_name("next");
        fs::write(&next, word).expect("the provider has made the volume");
        // The game begins by writing to it, when it is started again, too.
        fs::set_permissions(&next, Permissions::from_mode(0o666)).expect("it was written here");
        fs::rename(&next, &file).expect("both are in one folder");
    }

    /// The folder of a volume.
    fn volume(&self, name: &str) -> PathBuf {
        self.cluster.pod_folder(self.node, &self.uid).join("volumes").join(name)
    }

    /// The file with the sidecar's token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.volume(TOKEN).join("token")
    }

    /// The token that the sidecar reads.
    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.token_file()).unwrap_or_default()
    }

    /// The Pod as it is.
    pub(crate) fn object(&self) -> Value {
        self.cluster.plane().admin().get(&self.path())
    }

    /// The path of the Pod.
    pub(crate) fn path(&self) -> String {
        pod_path(&self.namespace, &self.name)
    }

    /// The path of its GameServer.
    pub(crate) fn game_server_path(&self) -> String {
        game_server_path(&self.namespace, &self.name)
    }

    /// The GameServer as it is.
    pub(crate) fn game_server(&self) -> Value {
        self.cluster.plane().admin().get(&self.game_server_path())
    }

    /// Its opsState.
    pub(crate) fn ops_state(&self) -> String {
        self.game_server()["spec"]["opsState"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for an opsState.
    #[track_caller]
    pub(crate) fn await_ops_state(&self, state: &str) {
        self.eventually(&format!("opsState {state}"), || self.ops_state() == state);
    }

    /// Changes the Pod as somebody else does.
    pub(crate) fn patch(&self, patch: &Value) {
        self.cluster.plane().admin().merge_patch(&self.path(), "operator", patch).ok();
    }

    /// Waits until `condition` holds, and prints what there is to know about the pod when it does not.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, condition: impl FnMut() -> bool) {
        if let Err(why) = wait_for(what, PATIENCE, condition) {
            let object = self.cluster.plane().admin().send("GET", &self.path(), &[], None).body;
            panic!("{why}\n{}\n{}\n{}", object["status"], self.log(SIDECAR), self.cluster.log(self.node));
        }
    }

    /// The provider's word on a container.
    pub(crate) fn status(&self, container: &str) -> Value {
        pods::container_status(&self.object(), container)
    }

    /// What a container wrote, through all of its restarts.
    pub(crate) fn log(&self, container: &str) -> String {
        let file = self.cluster.pod_folder(self.node, &self.uid).join(format!("{container}.log"));
        fs::read_to_string(file).unwrap_or_default()
    }

    /// How many warnings of the sidecar contain this.
    pub(crate) fn warnings(&self, text: &str) -> usize {
        self.log(SIDECAR).lines().filter(|line| line.starts_with("WARN") && line.contains(text)).count()
    }

    /// Waits until the library has called UpdatePod, as it does when it has seen a new image, label or annotation.
    #[track_caller]
    pub(crate) fn await_update(&self) {
        let events = format!("/api/v1/namespaces/{}/events", self.namespace);
        let updated = || self.cluster.plane().admin().get(&events).to_string().contains("ProviderUpdateSuccess");
        self.eventually("the library has called UpdatePod", updated);
    }

    /// Waits for three more probes, where the sidecar logs each.
    #[track_caller]
    pub(crate) fn await_probes(&self) {
        let probes = || self.log(SIDECAR).matches("DEBUG endpoints[0]").count();
        let wanted = probes() + 3;
        self.eventually("three more probes", || probes() >= wanted);
    }

    /// Waits until the provider has reported that a container runs, and checks that it was started once.
    #[track_caller]
    pub(crate) fn await_first_run(&self, container: &str) {
        let mut status = Value::Null;
        self.eventually(&format!("{container} runs"), || {
            status = self.status(container);
            !status["state"]["running"].is_null()
        });
        assert_eq!(status["restartCount"], 0, "{status}: {}", self.log(container));
    }

    /// Kills a container's first process, and waits until the provider has reported that it is started again.
    #[track_caller]
    pub(crate) fn crash(&self, container: &str) {
        let mut before = Value::Null;
        let mut pid = None;
        self.eventually(&format!("{container} runs"), || {
            before = self.status(container);
            pid = before["containerID"].as_str().and_then(|id| id.strip_prefix("process://")?.parse().ok());
            pid.is_some()
        });
        kill_process(pid.and_then(Pid::from_raw).expect("it was waited for"), Signal::KILL).expect("it runs");
        self.eventually(&format!("{container} is started again"), || {
            let status = self.status(container);
            status["restartCount"].as_u64() > before["restartCount"].as_u64() && !status["state"]["running"].is_null()
        });
    }

    /// Deletes the Pod by force, as the node's operator does when the node is lost.
    pub(crate) fn delete_by_force(&self) {
        self.cluster.plane().admin().delete(&self.path());
    }

    /// Runs kubectl in the pod's namespace.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.plane().kubectl(&[&["--namespace", &self.namespace], args].concat())
    }

    /// The writes of its sidecar, as the audit log has them.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.cluster.plane().requests(&self.namespace)
    }
}
