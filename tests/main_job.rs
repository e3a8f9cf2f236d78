//! The job as README.md describes it, with the ConfigMap of the seed. Read this first.

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
    // A read and a patch for each state, on a connection of their own; a look at what was written is a read alone.
    let of_writes = scene.api.requests_per_connection().into_iter().filter(|requests| *requests == 2).count();
    assert_eq!((of_writes, scene.writes().len()), (3, 3));
}
