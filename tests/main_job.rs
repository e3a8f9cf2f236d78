//! The job as README.md describes it, from the seed's own ConfigMap to the matchmaker whose opsState survives. Read this first.

use serde_json::json;
use stand_ins::scene::config_of;
use stand_ins::{SOON, Scene};

#[test]
fn the_seeds_own_text_tells_the_tank_war_story_with_one_write_a_state() {
    let scene = Scene::new();
    // The game's port and the times are the only things that differ.
    let text = config_of("tests/fixtures/seed-configmap.yaml")
        .unwrap()
        .replace("http://localhost:8080", &scene.game.url(""))
        .replace("startDelaySeconds: 10", "startDelaySeconds: 1")
        .replace("probeIntervalSeconds: 5", "probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();

    for (index, state) in ["None", "Allocated", "WaitToBeDeleted"].into_iter().enumerate() {
        scene.game.set(200, state);
        let probes = scene.game.requests().len();
        sidecar.eventually(SOON, "three probes of one state", || scene.game.requests().len() >= probes + 3);
        assert_eq!(scene.ops_state(), state);
        assert_eq!(scene.patched().len(), index + 1, "{:?}", scene.patched());
    }
    let lines = [
        "opsState unknown -> None (endpoints[0] http://",
        "opsState None -> Allocated (endpoints[0] http://",
        "opsState Allocated -> WaitToBeDeleted (endpoints[0] http://",
    ];
    for line in lines {
        assert_eq!(sidecar.count_lines(line), 1, "{}", sidecar.stderr());
    }
    // The start, and the warning that the seed's timeout is longer than the interval, come before them.
    assert_eq!(sidecar.stderr().lines().count(), 2 + lines.len(), "{}", sidecar.stderr());
    sidecar.eventually(SOON, "no connection left open", || scene.api.open_connections() == 0);
    assert_eq!(scene.api.connections_accepted(), 3);
}

#[test]
fn what_another_has_set_survives_until_the_game_says_something_new() {
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.api.edit(&scene.path(), "matchmaker", |game_server| game_server["spec"]["opsState"] = json!("Allocated"));
    let probes = scene.game.requests().len();
    sidecar.eventually(SOON, "three probes", || scene.game.requests().len() >= probes + 3);
    assert_eq!(scene.ops_state(), "Allocated");
    scene.game.set(200, "WaitToBeDeleted");
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
}

#[test]
fn with_resync_the_game_has_the_last_word_and_looking_alone_writes_nothing() {
    let scene = Scene::new();
    let text = scene.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.somebody_sets("operator", "Allocated");
    sidecar.eventually(SOON, "it is None again", || scene.ops_state() == "None");
    let reads = scene.reads();
    sidecar.eventually(SOON, "three more looks", || scene.reads() >= reads + 3);
    assert_eq!(scene.patched(), ["None", "None"]);
    assert_eq!(scene.writes().len(), 2);
}
