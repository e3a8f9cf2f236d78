//! Owns what a pod of a GameServerSet is at a real API server, as OpenKruiseGame and kubelet would make it: the objects,
//! the mounted files with a token bound to the Pod, and the game.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::client::Client;
use super::manifest;
use super::server::ControlPlane;
use crate::scene::{binary, config, endpoint};
use crate::sidecar::Builder;
use crate::{Game, Pod, RECORD, SidecarProcess, game_server, game_server_path, owned_by_pod, pod_path};

/// The kustomization of deploy/ whose GameServerSet the pods are of.
pub const TANK_WAR: &str = "examples/tank-war";

/// What writes GameServers beside the sidecar.
pub const CONTROLLER: &str = "kruise-game-manager";

/// One pod in a namespace of its own.
pub struct Stage<'a> {
    /// The control plane of the pod.
    pub plane: &'a ControlPlane,
    /// Answers 200 and `None`.
    pub game: Game,
    /// The mounted files: a config of [`Stage::rooms`], which probes every second, and a bound token.
    pub pod: Pod,
    /// The uid of the Pod.
    pub uid: String,
}

impl<'a> Stage<'a> {
    /// A namespace with the ServiceAccount, the Role and the RoleBinding of deploy/, and a pod whose GameServer is not
    /// there yet.
    #[track_caller]
    pub fn without_game_server(plane: &'a ControlPlane, namespace: &str) -> Self {
        plane.create_namespace(namespace);
        plane.apply_all(&manifest::in_namespace("rbac/rbac.yaml", namespace));
        Self::one_more(plane, namespace, "gs-0")
    }

    /// The same, and the GameServer.
    #[track_caller]
    pub fn new(plane: &'a ControlPlane, namespace: &str) -> Self {
        let stage = Self::without_game_server(plane, namespace);
        stage.create_game_server();
        stage
    }

    /// One more pod, in a namespace that has the ServiceAccount.
    #[track_caller]
    pub fn one_more(plane: &'a ControlPlane, namespace: &str, name: &str) -> Self {
        Self::of_set(plane, namespace, name, TANK_WAR, "okg-sidecar")
    }

    /// A pod of the GameServerSet of this kustomization of deploy/, whose ServiceAccount is there.
    #[track_caller]
    pub fn of_set(plane: &'a ControlPlane, namespace: &str, name: &str, folder: &str, account: &str) -> Self {
        let uid = create_pod(plane, namespace, name, folder);
        let token = plane.token_of(namespace, account, Some((name, &uid)));
        let mut pod = Pod::new("", &plane.authority_pem(), &token);
        name.clone_into(&mut pod.name);
        namespace.clone_into(&mut pod.namespace);
        pod.account.update("namespace", namespace);
        let game = Game::start();
        game.set(200, "None");
        let stage = Self { plane, game, pod, uid };
        stage.pod.update_config(&stage.rooms(""));
        stage
    }

    /// Makes the GameServer as OpenKruiseGame does for this pod.
    #[track_caller]
    pub fn create_game_server(&self) {
        self.create_game_server_of(&self.uid);
    }

    /// Makes the GameServer of a pod of another uid and the same name.
    #[track_caller]
    pub fn create_game_server_of(&self, uid: &str) {
        self.create_game_server_owned_by(&owned_by_pod(&self.pod.name, uid));
    }

    /// Makes the GameServer with these ownerReferences.
    #[track_caller]
    pub fn create_game_server_owned_by(&self, owners: &Value) {
        let mut object = game_server(&self.pod.namespace, &self.pod.name, &self.uid);
        object["metadata"]["ownerReferences"].clone_from(owners);
        let path = self.path();
        let (collection, _) = path.rsplit_once('/').expect("a path has slashes");
        self.plane.admin().create(collection, CONTROLLER, &object);
    }

    /// A config with a policy each for None, Allocated and WaitToBeDeleted, with `more` keys under inKube.
    pub fn rooms(&self, more: &str) -> String {
        let policies = ["None", "Allocated", "WaitToBeDeleted"]
            .map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}"))
            .join(", ");
        self.config(&format!("markerPolices: [{policies}], {more}"))
    }

    /// A config of one endpoint with these keys under inKube.
    pub fn config(&self, in_kube: &str) -> String {
        config(&[endpoint(&self.game.url("/"), "timeout: 1", in_kube)])
    }

    /// The sidecar of this pod, ready to start. As in the manifests, no variable names the pod.
    pub fn sidecar(&self) -> Builder {
        self.sidecar_at(self.plane.port())
    }

    /// The sidecar of this pod, with the API server on another port.
    pub fn sidecar_at(&self, port: u16) -> Builder {
        SidecarProcess::builder(binary())
            .pod(&self.pod)
            .without_env("POD_NAME")
            .without_env("POD_NAMESPACE")
            .env("KUBERNETES_SERVICE_HOST", Ipv4Addr::LOCALHOST.to_string())
            .env("KUBERNETES_SERVICE_PORT", port.to_string())
    }

    /// The path of the GameServer.
    pub fn path(&self) -> String {
        game_server_path(&self.pod.namespace, &self.pod.name)
    }

    /// The path of the Pod.
    pub fn pod_path(&self) -> String {
        pod_path(&self.pod.namespace, &self.pod.name)
    }

    /// The GameServer as it is.
    #[track_caller]
    pub fn game_server(&self) -> Value {
        self.plane.admin().get(&self.path())
    }

    /// Its opsState.
    #[track_caller]
    pub fn ops_state(&self) -> String {
        self.game_server()["spec"]["opsState"].as_str().unwrap_or_default().to_owned()
    }

    /// Sets its opsState as a person or a matchmaker does.
    #[track_caller]
    pub fn set_ops_state(&self, state: &str) {
        self.plane.admin().merge_patch(&self.path(), "operator", &json!({"spec": {"opsState": state}})).ok();
    }

    /// The Pod as it is.
    #[track_caller]
    pub fn pod_object(&self) -> Value {
        self.plane.admin().get(&self.pod_path())
    }

    /// A client with the pod's token.
    pub fn client(&self) -> Client {
        let token = std::fs::read_to_string(self.pod.account_path().join("token")).expect("the volume has a token");
        self.plane.client(&token, 0)
    }

    /// What the sidecar asked the API server for.
    pub fn requests(&self) -> Vec<Value> {
        self.plane.requests(&self.pod.namespace)
    }

    /// The statuses of what the sidecar asked for, in order, each after its verb; `read` is a patch that changes nothing.
    pub fn outcomes(&self) -> Vec<String> {
        let outcome = |event: &Value| {
            let verb = event["verb"].as_str().unwrap_or_default();
            let verb = if verb == "patch" && !is_write(event) { "read" } else { verb };
            format!("{verb} {}", event["responseStatus"]["code"])
        };
        self.requests().iter().map(outcome).collect()
    }

    /// The record in the GameServer's annotation.
    #[track_caller]
    pub fn record(&self) -> Value {
        let text = self.game_server()["metadata"]["annotations"][RECORD].take();
        serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or_default()
    }
}

/// Whether a request of the audit log changes anything.
pub fn is_write(event: &Value) -> bool {
    event["requestObject"].as_object().is_some_and(|patch| !patch.is_empty())
}

/// Creates the Pod that OpenKruiseGame makes of the GameServerSet of this kustomization of deploy/, and returns its uid.
#[track_caller]
pub fn create_pod(plane: &ControlPlane, namespace: &str, name: &str, folder: &str) -> String {
    let objects = manifest::built(folder);
    let pod = pod_of(manifest::of_kind(&objects, "GameServerSet"), namespace, name);
    let created = plane.admin().create(&format!("/api/v1/namespaces/{namespace}/pods"), CONTROLLER, &pod);
    created["metadata"]["uid"].as_str().expect("every object has a uid").to_owned()
}

/// The Pod that OpenKruiseGame makes of a GameServerSet.
pub fn pod_of(set: &Value, namespace: &str, name: &str) -> Value {
    let template = &set["spec"]["gameServerTemplate"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
    });
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["labels"]["game.kruise.io/owner-gss"] = set["metadata"]["name"].clone();
    pod
}
