//! Steps and configs that the modules of this folder share. What stands around a sidecar belongs to the package stand_ins.

use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::scene::{config, endpoint};
use stand_ins::sidecar::Builder;
use stand_ins::{Game, Request, SOON, Scene, SidecarProcess, TOKEN};

/// What waits for a minute, and a little for the machine.
pub(crate) const A_MINUTE: Duration = Duration::from_secs(75);

/// A room whose result is its state.
pub(crate) const ROOM: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                    {state: Allocated, gameServerOpsState: Allocated}, \
                    {state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";

/// A health check that overrules the room while it fails.
pub(crate) const HEALTH: &str = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";

/// A room whose second state differs from the first in one priority alone.
pub(crate) const RANKED_ROOM: &str = "markerPolices: [\
                           {state: low, gameServerOpsState: Allocated, gameServerDeletionPriority: 1}, \
                           {state: high, gameServerOpsState: Allocated, gameServerDeletionPriority: 2}]";

/// A scene of one endpoint with this inside its `inKube`.
pub(crate) fn scene_of(in_kube: &str) -> Scene {
    let scene = Scene::new();
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 1", in_kube)]));
    scene
}

/// A scene whose room stands behind a health check with these keys.
pub(crate) fn scene_with_health(keys: &str) -> (Scene, Game) {
    let (scene, health) = (Scene::new(), Game::start());
    let health_endpoint = endpoint(&health.url("/"), &format!("timeout: 1, {keys}"), HEALTH);
    scene.pod.update_config(&config(&[health_endpoint, scene.endpoint("timeout: 1", ROOM)]));
    (scene, health)
}

/// Starts the sidecar, and waits until it has written and the GameServer has this opsState.
#[track_caller]
pub(crate) fn settled(scene: &Scene, state: &str) -> SidecarProcess {
    let sidecar = scene.sidecar().start();
    let written = || scene.writes().iter().any(|write| write.answered == Some(200));
    sidecar.eventually(SOON, "a first write", written);
    becomes(scene, &sidecar, state);
    sidecar
}

/// Waits until the GameServer has this opsState.
#[track_caller]
pub(crate) fn becomes(scene: &Scene, sidecar: &SidecarProcess, state: &str) {
    sidecar.eventually(SOON, &format!("opsState {state}"), || scene.ops_state() == state);
}

/// Lets the game answer this, and waits until the sidecar has acted on the answer.
#[track_caller]
pub(crate) fn say(scene: &Scene, sidecar: &SidecarProcess, result: &str) {
    scene.game.set(200, result);
    scene.await_probes(sidecar, 3);
}

/// A config with another interval in seconds.
pub(crate) fn every(seconds: u32, config: &str) -> String {
    config.replace("probeIntervalSeconds: 1", &format!("probeIntervalSeconds: {seconds}"))
}

/// A config that reads the GameServer every second.
pub(crate) fn with_resync(config: &str) -> String {
    config.replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1")
}

/// A record of the pod of this uid.
pub(crate) fn record(ops_state: &str, pod_uid: &str) -> Value {
    json!({"opsState": ops_state, "pod": pod_uid, "at": "2020-02-02T08:00:00.000Z"})
}

/// The spec in a write; `Null` if it has the record alone.
pub(crate) fn spec(write: &Request) -> Value {
    write.json()["spec"].take()
}

/// The sidecar as a user whom permissions stop, as they do not stop root.
pub(crate) fn unprivileged(builder: Builder) -> Builder {
    if !rustix::process::geteuid().is_root() {
        return builder;
    }
    // Still root, who owns the files and may read the binary wherever it is.
    builder.wrapped_in(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
}

/// A config of one room whose `None` means this opsState.
pub(crate) fn none_means(scene: &Scene, ops_state: &str) -> String {
    config(&[scene.endpoint(
        "timeout: 1",
        &format!("markerPolices: [{{state: None, gameServerOpsState: {ops_state}}}, {{state: Allocated, gameServerOpsState: Allocated}}]"),
    )])
}

/// Starts the sidecar, and waits until it has written `None`.
#[track_caller]
pub(crate) fn settle(builder: Builder) -> SidecarProcess {
    let sidecar = builder.start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    sidecar
}

/// Asserts that a fault was logged once when it began and once when it ended, and that the token was logged nowhere.
#[track_caller]
pub(crate) fn one_fault_was_told(sidecar: &SidecarProcess, case: &str) {
    let told = (sidecar.count_lines("retrying"), sidecar.count_lines("works again after"));
    assert_eq!(told, (1, 1), "{case}: {}", sidecar.stderr());
    assert_eq!(sidecar.count_lines(TOKEN), 0, "{case}");
}
