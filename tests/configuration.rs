//! The config file: which files are refused or warned of, and how a running process takes a change (behaviour 2). The exact
//! message of each file of tests/configs is asserted in src/config/mod.rs; what a reload means for values that are written
//! belongs to never_wrong.rs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use stand_ins::scene::{binary, config, endpoint};
use stand_ins::{Behaviour, Game, SOON, Scene, SidecarProcess, side_by_side};

use crate::steps;
use crate::steps::{A_MINUTE, HEALTH, ROOM, every, none_means, settle, unprivileged};

/// What a config that was refused is told with.
const REFUSED: &str = "new config rejected, keeping the old one: ";

/// A sidecar that has written `None`.
fn settled(scene: &Scene) -> SidecarProcess {
    settle(scene.sidecar())
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
    // The very next round, with its probe and its write, or the one after that if one was under way.
    let between = scene.game.requests().into_iter().filter(|probe| probe.at > swapped && probe.at < line.at);
    assert!(between.count() <= 2, "{}", sidecar.stderr());
    assert_eq!(sidecar.count_lines("config reloaded; probes every 3 s"), 1, "{}", sidecar.stderr());
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
    assert_eq!(sidecar.count_lines("config reloaded"), 2, "{}", sidecar.stderr());
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
            "plugins[0].config.endpoints[0].timeOut: unknown key timeOut",
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

// ---- at the start

#[test]
fn a_start_with_a_config_that_cannot_be_read_ends_with_its_name() {
    for (case, bad, told) in [
        ("missing", Config::Missing, "must be readable: No such file"),
        ("a directory", Config::Folder, "must be "),
        ("unreadable", Config::Unreadable, "must be readable: Permission denied"),
        (
            "Latin-1",
            Config::Text(b"# caf\xe9 ".to_vec()),
            "must be UTF-8: invalid utf-8 sequence of 1 bytes from index 5",
        ),
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

// ---- what cannot be meant (2.10)

#[test]
fn what_is_valid_but_cannot_be_meant_is_warned_of_by_check_and_at_the_start() {
    let scene = Scene::new();
    let healthy = |in_kube: &str| scene.endpoint("timeout: 1", in_kube);
    let both = "markerPolices: [{state: Succeeded, gameServerOpsState: None}, {state: Failed, gameServerOpsState: Maintaining}]";
    let cases = [
        ("an endpoint that can never decide", every(5, &config(&[healthy(both), healthy(ROOM)])), "endpoints[1]"),
        (
            "typographic quotes",
            config(&[healthy("markerPolices: [{state: ‘None’, gameServerOpsState: None}]")]),
            "endpoints[0]",
        ),
        ("timeouts of more than the interval", config(&[healthy(ROOM), healthy(ROOM)]), "imeout"),
        ("a lone failure", config(&[healthy(HEALTH)]), "endpoints[0]"),
    ];
    for (case, text, told) in cases {
        let scene = Scene::new();
        scene.pod.update_config(&text);
        let check = SidecarProcess::builder(binary()).args(["check", "--config"]).arg(scene.pod.config_path()).start();
        assert_eq!(check.wait_exit(SOON).code(), Some(0), "{case}");
        let warned = |sidecar: &SidecarProcess| {
            let lines = sidecar.lines();
            lines.iter().any(|line| line.text.to_lowercase().contains("warn") && line.text.contains(told))
        };
        assert!(warned(&check), "{case}: {}{}", check.stdout(), check.stderr());
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, case, || warned(&sidecar));
    }
}

// ---- when a change is noticed (2.8, 2.9)

#[test]
fn a_day_long_interval_can_be_corrected_within_a_minute() {
    let scene = Scene::new();
    scene.pod.update_config(&every(86_400, &scene.rooms("")));
    let sidecar = steps::settled(&scene, "None");
    scene.game.set(200, "Allocated");
    scene.pod.update_config(&scene.rooms(""));
    let line = sidecar.wait_for_line("config reloaded", A_MINUTE);
    // A round at once, from which the rate counts.
    steps::becomes(&scene, &sidecar, "Allocated");
    let probes = scene.game.requests();
    assert!(probes[1].at.saturating_duration_since(line.at) < Duration::from_millis(900));
    scene.await_probes(&sidecar, 2);
}

#[test]
fn a_fifo_in_place_of_the_config_hangs_nothing() {
    let scene = Scene::new();
    let path = scene.pod.config_path();
    // At once, so that nobody sees the folder without a config.
    let make_fifo = || {
        let fifo = path.with_extension("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()));
        fs::rename(&fifo, &path).expect("it was made here");
    };
    let sidecar = steps::settled(&scene, "None");
    make_fifo();
    sidecar.wait_for_line("new config rejected, keeping the old one: ", SOON);
    scene.game.set(200, "Allocated");
    steps::becomes(&scene, &sidecar, "Allocated");
    assert_eq!(sidecar.count_lines("new config rejected, keeping the old one: "), 1, "{}", sidecar.stderr());
    fs::remove_file(&path).expect("it was made here");
    scene.pod.update_config(&scene.rooms("failureThreshold: 5"));
    sidecar.wait_for_line("config reloaded", SOON);
    make_fifo();
    let second = scene.sidecar().start();
    assert_eq!(second.wait_exit(SOON).code(), Some(1), "{}", second.stderr());
}

// ---- files that are refused (2.7, 2.8)

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs")
}

#[test]
fn the_binary_names_the_file_with_every_problem_and_exits_with_1() {
    let path = folder().join("invalid-several.yaml");
    for command in ["check", "probe", "run"] {
        let output = Command::new(binary()).args([command, "--config"]).arg(&path).env_clear().output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        let named = stderr.lines().filter(|line| line.starts_with(&format!("ERROR {}: plugins[0].", path.display())));
        assert_eq!(named.count(), 4, "{command}: {stderr}");
    }
}

/// 7,040 fields in 3 KB: by comparing each with every other it took 5 s.
#[test]
fn a_file_whose_aliases_make_thousands_of_fields_is_checked_at_once() {
    let keys: String = (0..160).map(|key| format!("k{key}: x, ")).collect();
    let again: String = (1..44).map(|state| format!(", {{state: s{state}, annotations: *a}}")).collect();
    let policies = format!("[{{state: s0, annotations: &a {{{keys}}}}}{again}]");
    let storage = format!("{{type: InKube, inKube: {{markerPolices: {policies}}}}}");
    let text = format!(
        "plugins: [{{name: http_probe, config: {{endpoints: [{{url: 'http://h', storageConfig: {storage}}}]}}}}]"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    fs::write(&path, &text).unwrap();
    let took = (0..3).map(|_| {
        let began = Instant::now();
        let config = okg_sidecar::config::Config::load(&path, &|_| None).unwrap();
        assert_eq!(config.endpoints[0].rules().policies.iter().map(|policy| policy.sets.len()).sum::<usize>(), 7040);
        began.elapsed()
    });
    let best = took.min().unwrap();
    assert!(best < Duration::from_secs(2), "{best:?}");
}
