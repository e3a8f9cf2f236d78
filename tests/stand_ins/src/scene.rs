//! Owns the scene of most tests: a game, an API server with the pod's GameServer, the pod's mounted files, and a config
//! that leads from one to the other.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::sidecar::Builder;
use super::{
    ApiServer, Authority, Game, Loopback, Pod, Request, SidecarProcess, game_server, game_server_path, owned_by_pod,
    owned_by_set, pod_object, pod_path, repository,
};

/// The uid of the pod of the scene.
pub const POD_UID: &str = "11111111-1111-1111-1111-111111111111";

/// The uid of a pod that had the name before, or will have it.
pub const OTHER_POD_UID: &str = "22222222-2222-2222-2222-222222222222";

/// The annotation in which the sidecar keeps what it decided last.
pub const RECORD: &str = "okg-sidecar/decided";

/// The token that the API server of the scene accepts.
pub const TOKEN: &str = "token-that-nobody-may-see";

/// Long enough for whatever is going to happen, on a machine that is ten times as slow too.
pub const SOON: Duration = Duration::from_secs(45);

/// All that a sidecar needs around it.
pub struct Scene {
    /// Vouches for `api`.
    pub authority: Authority,
    /// The API server, which has the pod's GameServer and the Pod.
    pub api: ApiServer,
    /// Answers 200 and `None`.
    pub game: Game,
    /// The mounted files: a config of [`Scene::rooms`], which probes every second, and a token.
    pub pod: Pod,
}

impl Scene {
    /// A scene with a game on 127.0.0.1.
    pub fn new() -> Self {
        Self::with_game(Game::start())
    }

    /// A scene with this game.
    pub fn with_game(game: Game) -> Self {
        let authority = Authority::new("cluster");
        let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
        game.set(200, "None");
        let pod = Pod::new("", &authority.pem(), TOKEN);
        api.put(&game_server_path(&pod.namespace, &pod.name), game_server(&pod.namespace, &pod.name, POD_UID));
        api.put(&pod_path(&pod.namespace, &pod.name), pod_object(&pod.namespace, &pod.name, POD_UID));
        let scene = Self { authority, api, game, pod };
        scene.pod.update_config(&scene.rooms(""));
        scene
    }

    /// A config with a policy each for None, Allocated and WaitToBeDeleted, and `more` keys of the endpoint as a flow map's inside.
    pub fn rooms(&self, more: &str) -> String {
        let policies = ["None", "Allocated", "WaitToBeDeleted"]
            .map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}"))
            .join(", ");
        let keys = if more.is_empty() { "timeout: 1".to_owned() } else { format!("timeout: 1, {more}") };
        config(&[self.endpoint(&keys, &format!("markerPolices: [{policies}]"))])
    }

    /// An endpoint of the game, as a flow map.
    pub fn endpoint(&self, keys: &str, in_kube: &str) -> String {
        endpoint(&self.game.url("/"), keys, in_kube)
    }

    /// The sidecar of this pod, ready to start.
    pub fn sidecar(&self) -> Builder {
        SidecarProcess::builder(binary()).pod(&self.pod).api_server(&self.api).env("POD_UID", POD_UID)
    }

    /// The path of the pod's GameServer.
    pub fn path(&self) -> String {
        game_server_path(&self.pod.namespace, &self.pod.name)
    }

    /// The opsState that the GameServer has.
    pub fn ops_state(&self) -> String {
        self.api.text(&self.path(), "/spec/opsState").unwrap_or_default()
    }

    /// Waits until the game was probed `count` more times. What all but the last of these probes gave has been acted on
    /// then.
    #[track_caller]
    pub fn await_probes(&self, sidecar: &SidecarProcess, count: usize) {
        let wanted = self.game.requests().len() + count;
        sidecar.eventually(SOON, &format!("{count} more probes"), || self.game.requests().len() >= wanted);
    }

    /// The path of the Pod.
    pub fn pod_path(&self) -> String {
        pod_path(&self.pod.namespace, &self.pod.name)
    }

    /// A field of the GameServer, `Null` if it has none.
    pub fn field(&self, pointer: &str) -> Value {
        self.field_of(&self.path(), pointer)
    }

    /// A field of an object, `Null` if it has none.
    pub fn field_of(&self, path: &str, pointer: &str) -> Value {
        self.api.object(path).and_then(|object| object.pointer(pointer).cloned()).unwrap_or_default()
    }

    /// Somebody else, of this name, sets the GameServer's opsState.
    pub fn somebody_sets(&self, manager: &str, state: &str) {
        self.api.edit(&self.path(), manager, |object| object["spec"]["opsState"] = json!(state));
    }

    /// The newest record of the GameServer; `Null` where there is none or it is no JSON.
    pub fn record(&self) -> Value {
        let text = self.records().pop_last().map(|(_, text)| text);
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The annotations of the record by N; the one for people has 0.
    pub fn records(&self) -> BTreeMap<u64, String> {
        records_of(&self.api.object(&self.path()).unwrap_or_default())
    }

    /// The records after each change of the GameServer.
    pub fn history_of_records(&self) -> Vec<BTreeMap<u64, String>> {
        self.api.changes(&self.path()).iter().map(|change| records_of(&change.after)).collect()
    }

    /// Another sidecar, such as one of another pod, writes this record.
    pub fn set_record(&self, record: &Value) {
        let last = self.records().pop_last().map_or(0, |(number, _)| number);
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_millis();
        let own = format!("{RECORD}-{}", u64::try_from(now).expect("it is before the year 500 million").max(last + 1));
        self.remove_records("another-sidecar");
        self.api.edit(&self.path(), "another-sidecar", |object| {
            for key in [RECORD, &own] {
                object["metadata"]["annotations"][key] = json!(record.to_string());
            }
        });
    }

    /// OpenKruiseGame writes these annotations of the record from its cache.
    pub fn put_back(&self, records: &BTreeMap<u64, String>) {
        self.api.edit(&self.path(), "manager", |object| {
            for (number, text) in records {
                let key = if *number == 0 { RECORD.to_owned() } else { format!("{RECORD}-{number}") };
                object["metadata"]["annotations"][key] = json!(text);
            }
        });
    }

    /// Takes the record away.
    pub fn remove_record(&self) {
        self.remove_records("kubectl-edit");
    }

    fn remove_records(&self, manager: &str) {
        self.api.edit(&self.path(), manager, |object| {
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.retain(|key, _| !key.starts_with(RECORD));
            }
        });
    }

    /// Makes the GameServer the one of the pod of this uid, as with reclaimPolicy Cascade.
    pub fn give_to_pod(&self, uid: &str) {
        self.set_owners(&owned_by_pod(&self.pod.name, uid));
    }

    /// Makes the GameServer one that survives its pod, as with reclaimPolicy Delete.
    pub fn give_to_set(&self) {
        self.set_owners(&owned_by_set());
    }

    /// Sets `metadata.ownerReferences` of the GameServer.
    pub fn set_owners(&self, owners: &Value) {
        let owners = owners.clone();
        self.api.edit(&self.path(), "manager", |object| object["metadata"]["ownerReferences"] = owners);
    }

    /// Deletes the GameServer and creates it anew, as OpenKruiseGame does for the pod of this uid.
    pub fn recreate(&self, pod_uid: &str) {
        self.api.put(&self.path(), game_server(&self.pod.namespace, &self.pod.name, pod_uid));
    }

    /// How often the game was probed before the API server got its latest request.
    pub fn probes_before_the_latest_request(&self) -> usize {
        let latest = self.api.requests().last().map(|request| request.at);
        self.game.requests().iter().filter(|probe| Some(probe.at) < latest).count()
    }

    /// The requests for one object, in order.
    pub fn requests_for(&self, path: &str) -> Vec<Request> {
        self.api.requests().into_iter().filter(|request| request.path() == path).collect()
    }

    /// The patches of the GameServer that change something, in order, those that were refused included.
    pub fn writes(&self) -> Vec<Request> {
        self.writes_to(&self.path())
    }

    /// The patches of an object that change something, in order, those that were refused included.
    pub fn writes_to(&self, path: &str) -> Vec<Request> {
        self.requests_for(path).into_iter().filter(|request| !request.is_read()).collect()
    }

    /// How often the GameServer was read.
    pub fn reads(&self) -> usize {
        self.requests_for(&self.path()).iter().filter(|request| request.is_read()).count()
    }

    /// The opsStates that were patched, in order, those without effect included.
    pub fn patched(&self) -> Vec<String> {
        let states = self.writes().into_iter().map(|patch| patch.json()["spec"]["opsState"].take());
        states.filter_map(|state| state.as_str().map(str::to_owned)).collect()
    }
}

/// The config in a ConfigMap, the first object of a manifest, as kubelet would mount it; the path is from the root of the package.
pub fn config_of(manifest: &str) -> Result<String, Box<dyn Error>> {
    let manifest = fs::read_to_string(repository().join(manifest))?;
    let first = serde_yaml::Deserializer::from_str(&manifest).next().ok_or("the manifest is empty")?;
    let manifest = serde_yaml::Value::deserialize(first)?;
    Ok(manifest["data"]["config.yaml"].as_str().ok_or("the ConfigMap has no config.yaml")?.to_owned())
}

/// A config of these endpoints that probes every second from the start.
pub fn config(endpoints: &[String]) -> String {
    let endpoints = endpoints.join(",\n        ");
    format!(
        "plugins:\n  - name: http_probe\n    config:\n      probeIntervalSeconds: 1\n      endpoints: [\n        {endpoints}]\n"
    )
}

/// An endpoint as a flow map.
pub fn endpoint(url: &str, keys: &str, in_kube: &str) -> String {
    format!("{{url: '{url}', {keys}, storageConfig: {{type: InKube, inKube: {{{in_kube}}}}}}}")
}

/// The binary under test: OKG_SIDECAR if it is set, so that the same tests judge a release binary, else the one that cargo
/// has built for the tests that it runs.
pub fn binary() -> &'static Path {
    static BINARY: std::sync::LazyLock<std::path::PathBuf> = std::sync::LazyLock::new(|| {
        std::env::var_os("OKG_SIDECAR")
            .or_else(|| std::env::var_os("CARGO_BIN_EXE_okg-sidecar"))
            .map_or_else(|| panic!("set OKG_SIDECAR to the binary to run"), Into::into)
    });
    &BINARY
}

fn records_of(game_server: &Value) -> BTreeMap<u64, String> {
    let annotations = game_server["metadata"]["annotations"].as_object().into_iter().flatten();
    let number = |key: &str| match key.strip_prefix(RECORD)? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    };
    annotations.filter_map(|(key, text)| Some((number(key)?, text.as_str()?.to_owned()))).collect()
}
