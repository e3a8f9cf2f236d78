//! Every fault of the mounted files, against the real binary (behaviour 2.8, 2.9, 4.4): the config that is swapped under it, the
//! volume of the service account that goes away, and what it does without them at the start.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use stand_ins::scene::{config, endpoint};
use stand_ins::sidecar::Builder;
use stand_ins::{Authority, Behaviour, Fault, Game, SOON, Scene, SidecarProcess, TOKEN, Which, side_by_side};

/// Long enough for a retry after several failures.
const AFTER_BACKOFF: Duration = Duration::from_secs(60);

/// What a config that was refused is told with.
const REFUSED: &str = "the running configuration stays: ";

/// A sidecar that has written `None`.
fn settled(scene: &Scene) -> SidecarProcess {
    settle(scene.sidecar())
}

fn settle(builder: Builder) -> SidecarProcess {
    let sidecar = builder.start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    sidecar
}

/// The sidecar as a user whom permissions stop, as they do not stop root.
fn unprivileged(builder: Builder) -> Builder {
    if !rustix::process::geteuid().is_root() {
        return builder;
    }
    // Still root, who owns the files and may read the binary wherever it is.
    builder.wrapped_in(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
}

/// A config of one room whose `None` means this opsState.
fn none_means(scene: &Scene, ops_state: &str) -> String {
    config(&[scene.endpoint(
        "timeout: 1",
        &format!("markerPolices: [{{state: None, gameServerOpsState: {ops_state}}}, {{state: Allocated, gameServerOpsState: Allocated}}]"),
    )])
}

// ---- another config

#[test]
fn another_config_takes_over_in_its_round_without_a_restart_and_without_the_start_delay() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let text = none_means(&scene, "Maintaining")
        .replace("probeIntervalSeconds: 1", "startDelaySeconds: 60\n      probeIntervalSeconds: 3");
    scene.pod.update_config(&text);
    let swapped = Instant::now();
    let line = sidecar.wait_for_line("opsState None -> Maintaining", SOON);
    // The very next round, with its probe and its write, or the one after that where one was under way.
    let between = scene.game.requests().into_iter().filter(|probe| probe.at > swapped && probe.at < line.at);
    assert!(between.count() <= 2, "{}", sidecar.stderr());
    assert_eq!(sidecar.count_lines("configuration read anew; probes every 3 s"), 1, "{}", sidecar.stderr());
    // A busy machine is late now and then.
    let probes_are_apart = |least: u64, most: u64| {
        let before = scene.game.requests().len();
        sidecar.eventually(SOON, "two probes at the new rate", || {
            let probes = scene.game.requests().split_off(before);
            let mut pauses = probes.windows(2).map(|two| two[1].at - two[0].at);
            pauses.any(|pause| (least..most).contains(&(pause.as_millis() as u64)))
        });
    };
    probes_are_apart(2800, 3800);

    // And back to the shorter one, when the longer one's round is due.
    scene.pod.update_config(&scene.rooms(""));
    probes_are_apart(500, 2000);
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.patched(), ["None", "Maintaining", "None"]);
    assert_eq!(sidecar.count_lines("configuration read anew"), 2, "{}", sidecar.stderr());
}

#[test]
fn what_was_last_written_is_remembered_over_another_config() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    scene.api.edit(&scene.path(), "matchmaker", |object| object["spec"]["opsState"] = json!("Allocated"));
    for (count, keys) in ["failureThreshold: 5", "method: POST", "successThreshold: 2"].iter().enumerate() {
        scene.pod.update_config(&scene.rooms(keys));
        sidecar.eventually(SOON, "it is read", || sidecar.count_lines("configuration read anew") == count + 1);
        scene.await_probes(&sidecar, 2);
    }
    assert_eq!(scene.ops_state(), "Allocated", "{:?}", scene.patched());
    assert_eq!(scene.patched(), ["None"]);
    scene.game.set(200, "WaitToBeDeleted");
    sidecar.wait_for_line("opsState None -> WaitToBeDeleted", SOON);
}

#[test]
fn a_config_that_is_swapped_for_the_same_is_not_worth_a_line() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    for text in [scene.rooms(""), format!("# a comment\n{}", scene.rooms("method: get"))] {
        scene.pod.update_config(&text);
        scene.await_probes(&sidecar, 2);
    }
    assert_eq!(sidecar.stderr().lines().count(), 2, "{}", sidecar.stderr());
    assert_eq!(scene.patched(), ["None"]);
}

#[test]
fn another_config_does_not_hand_the_decision_of_a_failing_health_endpoint_to_the_room() {
    let scene = Scene::new();
    let health = Game::start();
    let healthy = endpoint(
        &health.url("/"),
        "timeout: 1, failureThreshold: 3",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
    );
    let room = scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None}]");
    scene.pod.update_config(&config(&[healthy.clone(), room.clone()]));
    let sidecar = settled(&scene);
    health.set(500, "");
    sidecar.wait_for_line("opsState None -> Maintaining", SOON);
    // One more that fails and can have no opinion, and one that was there before.
    let first =
        endpoint(&health.url("/other"), "timeout: 1", "markerPolices: [{state: Never, gameServerOpsState: Allocated}]");
    scene.pod.update_config(&config(&[first, healthy, room]));
    sidecar.wait_for_line("configuration read anew", SOON);
    scene.await_probes(&sidecar, 5);
    assert_eq!(scene.patched(), ["None", "Maintaining"]);
    health.set(200, "");
    sidecar.wait_for_line("opsState Maintaining -> None", SOON);
}

#[test]
fn an_endpoint_that_another_config_does_not_have_has_no_say_any_more() {
    let scene = Scene::new();
    let health = Game::start();
    health.set(500, "");
    let healthy = endpoint(
        &health.url("/"),
        "timeout: 1, failureThreshold: 1",
        "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
    );
    let room = scene.endpoint("timeout: 1", "markerPolices: [{state: None, gameServerOpsState: None}]");
    scene.pod.update_config(&config(&[healthy, room.clone()]));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> Maintaining", SOON);
    scene.pod.update_config(&config(&[room]));
    sidecar.wait_for_line("opsState Maintaining -> None", SOON);
    let probes = health.requests().len();
    scene.await_probes(&sidecar, 2);
    assert_eq!(health.requests().len(), probes);
}

#[test]
fn another_config_decides_anew_what_is_still_to_be_written() {
    let scene = Scene::new();
    scene.api.next_of(&Which::writes(), [Fault::status_with(429, &[("Retry-After", "3")], "slow down")]);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("status 429", SOON);
    scene.pod.update_config(&none_means(&scene, "Maintaining"));
    sidecar.wait_for_line("opsState unknown -> Maintaining", SOON);
    assert_eq!(scene.patched(), ["None", "Maintaining"]);
}

#[test]
fn resync_starts_and_stops_with_the_config() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let resync = scene.rooms("").replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1");
    scene.pod.update_config(&resync);
    sidecar.eventually(SOON, "two looks", || scene.reads() >= 4);
    scene.pod.update_config(&scene.rooms(""));
    sidecar.eventually(SOON, "the second config", || sidecar.count_lines("read anew") == 2);
    scene.await_probes(&sidecar, 2);
    let reads = scene.reads();
    scene.await_probes(&sidecar, 3);
    assert_eq!(scene.reads(), reads);
    assert_eq!(scene.patched(), ["None"]);
}

// ---- a bad config

/// What becomes of the config file.
enum Config {
    Text(Vec<u8>),
    Missing,
    Folder,
    Unreadable,
    Emptied,
}

impl Config {
    fn put(&self, scene: &Scene) {
        let path = scene.pod.config_path();
        match self {
            Self::Text(text) => scene.pod.config.update("config.yaml", text),
            Self::Missing => scene.pod.config.remove("config.yaml"),
            Self::Folder => {
                scene.pod.config.remove("config.yaml");
                fs::create_dir(path).expect("the name is free");
            }
            Self::Unreadable => {
                scene.pod.update_config(&scene.rooms("method: PUT"));
                scene.pod.config.set_mode("config.yaml", 0);
            }
            Self::Emptied => scene.pod.config.clear(),
        }
    }

    fn take_away(&self, scene: &Scene) {
        match self {
            Self::Folder => fs::remove_dir(scene.pod.config_path()).expect("it was made here"),
            Self::Unreadable => scene.pod.config.set_mode("config.yaml", 0o644),
            _ => {}
        }
    }
}

#[test]
fn a_config_of_no_use_is_told_once_and_the_running_one_stays() {
    let good = Scene::new().rooms("");
    let text = |text: &str| Config::Text(text.as_bytes().to_vec());
    let oversized = format!("{good}#{}", "x".repeat(32 * 1024 - good.len()));
    let cases = [
        ("not YAML", text("plugins: [{"), "must be YAML: "),
        ("truncated", text(&good[..good.len() / 2]), "must be YAML: "),
        ("empty", text(""), "must "),
        (
            "unknown key",
            text(&good.replace("timeout: 1", "timeOut: 1")),
            "plugins[0].config.endpoints[0].timeOut: must ",
        ),
        ("two faults", text(&good.replace("timeout: 1", "timeout: 0, method: TRACE")), "; "),
        ("a byte too long", text(&oversized), "must have at most 32768 bytes"),
        // A quarter of what is read, since the time is quadratic and the debug binary ten times as slow.
        ("nested", text(&"[".repeat(8 * 1024)), "must be YAML: "),
        ("not UTF-8", Config::Text(b"plugins: \xff\xfe".to_vec()), "must be UTF-8"),
        ("missing", Config::Missing, "must be readable"),
        ("the volume emptied", Config::Emptied, "must be readable"),
        ("a directory", Config::Folder, "must be "),
        ("unreadable", Config::Unreadable, "must be readable"),
    ];
    side_by_side(&cases, |(case, bad, told)| {
        let scene = Scene::new();
        let sidecar = settle(unprivileged(scene.sidecar()));
        // The second time it is the same text in another file.
        for _ in 0..2 {
            bad.put(&scene);
            sidecar.wait_for_line(REFUSED, SOON);
            scene.await_probes(&sidecar, 2);
            assert_eq!(sidecar.count_lines(REFUSED), 1, "{case}: {}", sidecar.stderr());
            if matches!(bad, Config::Folder) {
                break;
            }
        }
        let line = sidecar.wait_for_line(REFUSED, SOON).text;
        assert!(line.contains("config.yaml: ") && line.contains(told), "{case}: {line}");
        scene.game.set(200, "Allocated");
        sidecar.wait_for_line("opsState None -> Allocated", SOON);
        bad.take_away(&scene);
        scene.game.set(200, "None");
        scene.pod.update_config(&none_means(&scene, "Maintaining"));
        sidecar.wait_for_line("-> Maintaining", SOON);
        assert_eq!(sidecar.count_lines("WARN"), 1, "{case}: {}", sidecar.stderr());
        // A fault that comes back after a good config is a new one.
        bad.put(&scene);
        sidecar.eventually(SOON, "a second line", || sidecar.count_lines(REFUSED) == 2);
        bad.take_away(&scene);
    });
}

#[test]
fn a_file_of_32_kib_is_read() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let text = none_means(&scene, "Maintaining");
    scene.pod.update_config(&format!("{text}#{}", "x".repeat(32 * 1024 - text.len() - 1)));
    sidecar.wait_for_line("opsState None -> Maintaining", SOON);
}

#[test]
fn a_config_that_could_not_be_opened_for_lack_of_descriptors_is_read_when_there_are_some_again() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    let pid = Pid::from_raw(sidecar.pid());
    // Those that are open stay; not 0, since poll(2) refuses more descriptors than the limit.
    let limit = |most: Option<u64>| prlimit(pid, Resource::Nofile, Rlimit { current: most, maximum: Some(1024) });
    scene.await_probes(&sidecar, 1);
    limit(Some(1)).expect("one's own child may be limited");
    scene.pod.update_config(&none_means(&scene, "Maintaining"));
    sidecar.wait_for_line(REFUSED, SOON);
    limit(Some(1024)).expect("and given more again");
    sidecar.wait_for_line("opsState None -> Maintaining", SOON);
    assert_eq!(sidecar.count_lines(REFUSED), 1, "{}", sidecar.stderr());
}

// ---- the account's volume later on

#[test]
fn a_token_of_no_use_is_told_once_and_the_last_good_one_goes_on() {
    let cases = ["missing", "emptied", "white space", "two lines", "not ASCII", "unreadable", "a directory"];
    side_by_side(&cases, |case| {
        let scene = Scene::new();
        let sidecar = settle(unprivileged(scene.sidecar()));
        let path = scene.pod.account_path().join("token");
        match *case {
            "missing" => scene.pod.account.remove("token"),
            "emptied" => scene.pod.rotate_token(""),
            "white space" => scene.pod.rotate_token(" \n\n"),
            "two lines" => scene.pod.rotate_token("one\ntwo"),
            "not ASCII" => scene.pod.account.update("token", b"\xff\xfe\x00"),
            "unreadable" => {
                scene.pod.rotate_token("second");
                scene.pod.account.set_mode("token", 0);
            }
            _ => {
                scene.pod.account.remove("token");
                fs::create_dir(&path).expect("the name is free");
            }
        }
        for state in ["Allocated", "WaitToBeDeleted"] {
            scene.game.set(200, state);
            sidecar.wait_for_line(&format!("-> {state} ("), SOON);
        }
        assert_eq!(sidecar.count_lines("token: must "), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("WARN"), 1, "{case}: {}", sidecar.stderr());
        match *case {
            "unreadable" => scene.pod.account.set_mode("token", 0o644),
            "a directory" => fs::remove_dir(&path).expect("it was made here"),
            _ => {}
        }
        scene.pod.rotate_token("third");
        scene.api.accept_token("third");
        scene.api.refuse_token(TOKEN);
        scene.game.set(200, "None");
        sidecar.wait_for_line("WaitToBeDeleted -> None", SOON);
        assert_eq!(sidecar.count_lines("token: can be used again"), 1, "{case}: {}", sidecar.stderr());
        assert_eq!(sidecar.count_lines("third") + sidecar.count_lines(TOKEN), 0, "{case}");
    });
}

#[test]
fn an_account_volume_that_goes_away_and_comes_back_stops_nothing() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    scene.pod.account.clear();
    for state in ["Allocated", "WaitToBeDeleted"] {
        scene.game.set(200, state);
        sidecar.wait_for_line(&format!("-> {state} ("), SOON);
    }
    for file in ["token", "ca.crt"] {
        let told =
            format!("/{file}: must be readable: No such file or directory (os error 2); using the last good one");
        assert_eq!(sidecar.count_lines(&told), 1, "{file}: {}", sidecar.stderr());
    }
    let next = Authority::new("next");
    scene.pod.set_ca(&next.pem());
    scene.pod.rotate_token("second");
    scene.api.accept_token("second");
    scene.api.refuse_token(TOKEN);
    scene.api.serve_certificate(&next.loopback_certificate());
    scene.game.set(200, "None");
    sidecar.wait_for_line("WaitToBeDeleted -> None", SOON);
    assert_eq!(sidecar.count_lines("can be used again"), 2, "{}", sidecar.stderr());
    assert_eq!(sidecar.stderr().lines().count(), 1 + 4 + 2 + 2, "{}", sidecar.stderr());
}

#[test]
fn the_volume_can_go_away_in_the_middle_of_an_outage() {
    let scene = Scene::new();
    scene.api.stop();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("goes on trying", SOON);
    scene.pod.account.clear();
    sidecar.eventually(AFTER_BACKOFF, "it is told", || sidecar.count_lines("using the last good one") == 2);
    scene.api.start_again();
    sidecar.wait_for_line("opsState unknown -> None", AFTER_BACKOFF);
    assert_eq!(sidecar.count_lines("using the last good one"), 2, "{}", sidecar.stderr());
}

// ---- at the start

#[test]
fn a_start_without_an_account_that_can_be_used_ends_with_its_name() {
    let truncated = Authority::new("cluster").pem()[..300].to_owned();
    let cases = [
        ("token", None, "must be readable: No such file"),
        ("token", Some(""), "must hold a token"),
        ("token", Some("\n \n"), "must hold a token"),
        ("token", Some("one two"), "must hold a token"),
        ("token", Some("unreadable"), "must be readable: Permission denied"),
        ("ca.crt", None, "must be readable: No such file"),
        ("ca.crt", Some(""), "must hold a certificate"),
        ("ca.crt", Some("garbage"), "must hold a certificate"),
        ("ca.crt", Some(truncated.as_str()), "must hold certificates in PEM"),
        ("ca.crt", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "must hold a certificate"),
        ("ca.crt", Some("unreadable"), "must be readable: Permission denied"),
    ];
    side_by_side(&cases, |(file, text, told)| {
        let scene = Scene::new();
        match text {
            None => scene.pod.account.remove(file),
            Some("unreadable") => scene.pod.account.set_mode(file, 0),
            Some(text) => scene.pod.account.update(file, text),
        }
        let sidecar = unprivileged(scene.sidecar()).start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{file} {text:?}");
        let stderr = sidecar.stderr();
        let path = scene.pod.account_path().join(file);
        assert!(stderr.contains(&format!("{}: {told}", path.display())), "{file} {text:?}: {stderr}");
        assert!(stderr.contains("serviceAccountName: ") && stderr.contains("fsGroup"), "{file} {text:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(scene.game.requests().is_empty());
    });
}

#[test]
fn a_start_tells_everything_that_is_missing_at_once() {
    let scene = Scene::new();
    scene.pod.account.clear();
    scene.pod.update_config(&scene.rooms("timeOut: 1, failureThreshold: 0"));
    let sidecar = scene.sidecar().without_env("POD_NAME").without_env("KUBERNETES_SERVICE_HOST").start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
    let stderr = sidecar.stderr();
    for named in [
        "/token: must ",
        "/ca.crt: must ",
        "POD_NAME must",
        "KUBERNETES_SERVICE_HOST",
        ".timeOut: must ",
        ".failureThreshold: must ",
    ] {
        assert!(stderr.contains(named), "{named}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 6, "{stderr}");
}

#[test]
fn a_start_with_a_config_that_cannot_be_read_ends_with_its_name() {
    for (case, bad, told) in [
        ("missing", Config::Missing, "must be readable: No such file"),
        ("a directory", Config::Folder, "must be "),
        ("unreadable", Config::Unreadable, "must be readable: Permission denied"),
        ("too long", Config::Text(vec![b'#'; 32 * 1024 + 1]), "must have at most 32768 bytes, got more"),
    ] {
        let scene = Scene::new();
        bad.put(&scene);
        let sidecar = unprivileged(scene.sidecar()).start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{case}");
        let path = scene.pod.config_path();
        assert!(sidecar.stderr().contains(&format!("{}: {told}", path.display())), "{case}: {}", sidecar.stderr());
    }
}

#[test]
fn a_slow_game_does_not_keep_another_config_waiting_for_more_than_a_round() {
    let scene = Scene::new();
    let sidecar = settled(&scene);
    scene.game.behave(Behaviour::HoldWithoutAnswer);
    sidecar.wait_for_line("timeout", SOON);
    let elsewhere = Game::start();
    elsewhere.set(200, "None");
    let room = "markerPolices: [{state: None, gameServerOpsState: Allocated}]";
    scene.pod.update_config(&config(&[endpoint(&elsewhere.url("/"), "timeout: 1", room)]));
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
}
