//! "Your script, unchanged": the loop of docs/migration.md runs a script in busybox's shell, and the sidecar reads what it printed.
//! The endpoints are those of the document. The scripts do what the examples' own do, each from a file that stands for the game.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use stand_ins::scene::{config, endpoint};
use stand_ins::{SOON, Scene, eventually, repository, side_by_side};

/// One of OpenKruiseGame's examples.
struct Recipe {
    /// Of its part of the document.
    heading: &'static str,
    /// That the loop writes.
    file: &'static str,
    /// What the loop runs, in a folder with the file `game`.
    script: &'static str,
    /// What `game` holds, `-` if it is not there, and what that leads to.
    steps: &'static [(&'static str, &'static [(&'static str, &'static str)])],
}

const OPS_STATE: &str = "spec/opsState";
const LABEL: &str = "pod labels/";
const ANNOTATION: &str = "pod annotations/";

/// Counts the players as `cat /tmp/player_count` does.
const COUNT: &str = "cat game";

const RECIPES: [Recipe; 13] = [
    Recipe {
        heading: "idle",
        file: "idle",
        script: "[ \"$(cat game)\" = 0 ]",
        steps: &[("0", &[(OPS_STATE, "WaitToBeDeleted")]), ("2", &[(OPS_STATE, "None")])],
    },
    Recipe {
        heading: "healthy",
        file: "healthy",
        script: "grep -q well game",
        steps: &[("well", &[(OPS_STATE, "None")]), ("-", &[(OPS_STATE, "Maintaining")])],
    },
    Recipe {
        heading: "gate and data",
        file: "processes",
        script: "for p in gate data; do grep -q $p game || { echo $p; exit 0; }; done; exit 1",
        steps: &[
            ("gate data", &[(OPS_STATE, "None")]),
            ("data", &[(OPS_STATE, "GateMaintaining")]),
            ("gate", &[(OPS_STATE, "DataMaintaining")]),
            ("gate data", &[(OPS_STATE, "None")]),
        ],
    },
    Recipe {
        heading: "labels and annotations",
        file: "player_count",
        script: COUNT,
        steps: &[(
            "7",
            &[
                ("pod labels/current-players", "7"),
                ("pod annotations/player-count", "7"),
                ("pod annotations/info", "players-7"),
            ],
        )],
    },
    Recipe {
        heading: "player status",
        file: "player_count",
        script: COUNT,
        steps: &[
            ("0", &[(OPS_STATE, "WaitToBeDeleted"), ("pod labels/status", "empty")]),
            ("5", &[(OPS_STATE, "None"), ("pod labels/status", "active"), ("pod annotations/player-count", "5")]),
        ],
    },
    Recipe {
        heading: "server load",
        file: "load",
        script: COUNT,
        steps: &[
            ("12", &[(OPS_STATE, "None"), ("pod labels/load-level", "low"), ("pod annotations/load-status", "normal")]),
            ("51", &[("pod labels/load-level", "medium"), ("pod annotations/load-status", "normal")]),
            ("80", &[("pod labels/load-level", "medium"), ("pod annotations/load-status", "warning")]),
            ("90", &[(OPS_STATE, "None"), ("pod labels/load-level", "high")]),
            ("91", &[(OPS_STATE, "Maintaining"), ("pod annotations/load-status", "critical")]),
        ],
    },
    Recipe {
        heading: "health check",
        file: "health",
        script: COUNT,
        steps: &[
            ("healthy", &[(OPS_STATE, "None"), ("pod labels/health", "healthy")]),
            (
                "degraded",
                &[
                    (OPS_STATE, "Maintaining"),
                    ("pod labels/health", "degraded"),
                    ("pod annotations/degraded-info", "performance-issue"),
                ],
            ),
            ("-", &[(OPS_STATE, "WaitToBeDeleted"), ("pod labels/health", "unhealthy")]),
        ],
    },
    Recipe {
        heading: "resource monitor",
        file: "usage",
        script: COUNT,
        steps: &[
            ("59", &[("pod annotations/status", "ok"), ("pod labels/load", "normal")]),
            ("75", &[("pod annotations/status", "notice"), ("pod labels/load", "normal")]),
            ("79", &[("pod annotations/status", "notice"), ("pod labels/load", "high")]),
            ("80", &[("pod annotations/status", "warning")]),
            ("95", &[("pod annotations/status", "critical"), ("pod annotations/usage-percent", "95")]),
        ],
    },
    Recipe {
        heading: "update priority",
        file: "player_count",
        script: COUNT,
        steps: &[("9", &[("spec/updatePriority", "9"), ("pod annotations/player-count", "9")])],
    },
    Recipe {
        heading: "deletion priority",
        file: "player_count",
        script: COUNT,
        steps: &[
            ("0", &[("spec/deletionPriority", "1"), ("pod annotations/deletion-reason", "empty-server")]),
            ("3", &[("spec/deletionPriority", "100"), ("pod annotations/deletion-reason", "active-server")]),
        ],
    },
    Recipe {
        heading: "GS_STATE",
        file: "state",
        script: "for s in WaitToBeDeleted None; do [ \"$(cat game)\" != $s ] || { echo $s; exit 0; }; done; exit 1",
        steps: &[
            ("WaitToBeDeleted", &[(OPS_STATE, "WaitToBeDeleted")]),
            ("None", &[(OPS_STATE, "None")]),
            // Ten minutes in the document, here two seconds.
            ("None", &[(OPS_STATE, "WaitToBeDeleted")]),
        ],
    },
    Recipe {
        heading: "delete-block",
        file: "state",
        script: "out=$(case $(cat game) in flushed) echo done; exit 1;; 0) echo WaitToBeDeleted; exit 1;; esac); echo \"$? $out\"",
        steps: &[
            ("4", &[(OPS_STATE, "None"), ("pod labels/game.example.com~1delete-block", "true")]),
            ("0", &[(OPS_STATE, "WaitToBeDeleted"), ("pod labels/game.example.com~1delete-block", "true")]),
            ("flushed", &[(OPS_STATE, "WaitToBeDeleted"), ("pod labels/game.example.com~1delete-block", "false")]),
        ],
    },
    Recipe {
        heading: "mc-health",
        file: "idle",
        script: "mc() { echo \"localhost:25565 : version=1.21 online=$(cat game) max=20\"; }; mc | grep -q online=0",
        steps: &[("0", &[(OPS_STATE, "WaitToBeDeleted")]), ("1", &[(OPS_STATE, "None")])],
    },
];

/// What the first fenced block of a language holds under a heading.
fn block<'d>(document: &'d str, heading: &str, language: &str) -> &'d str {
    let start = format!("\n{heading}\n");
    let part = document.find(&start).unwrap_or_else(|| panic!("no heading {heading}"));
    let part = &document[part..];
    let fence = format!("\n```{language}\n");
    let block = &part[part.find(&fence).unwrap_or_else(|| panic!("no {language} under {heading}")) + fence.len()..];
    &block[..block.find("```").expect("a fenced block ends")]
}

/// A loop that runs until it is dropped.
struct Loop(Child);

impl Loop {
    fn start(folder: &Path, every: &str, file: &str, command: &[&str]) -> Self {
        fs::write(folder.join("every.sh"), every).expect("a folder of ours");
        let log = File::create(folder.join("log")).expect("a folder of ours");
        // As in the document, with a shorter round.
        let child = Command::new("busybox")
            .args(["sh", "every.sh", "0.2", file])
            .args(command)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn();
        Self(child.expect("busybox is installed"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // With what the script has started.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

pub(crate) fn run() {
    let document = fs::read_to_string(repository().join("docs/migration.md")).expect("the document");
    let every = block(&document, "## Your script, unchanged", "sh");
    let parts = document.lines().filter(|line| line.starts_with("#### "));
    assert!(
        parts.eq(RECIPES.iter().map(|recipe| format!("#### {}", recipe.heading))),
        "each example is run, in this order"
    );
    side_by_side(&RECIPES, |recipe| {
        try_it(recipe, every, block(&document, &format!("#### {}", recipe.heading), "yaml"))
    });
    a_script_that_hangs_is_ended(every);
    a_script_that_hangs_without_timeout_is_noticed(every);
    a_reader_finds_the_whole_text_or_none(every);
    println!("{} recipes", RECIPES.len());
}

/// By `timeout`, and then the loop goes on.
fn a_script_that_hangs_is_ended(every: &str) {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path();
    let script = "[ ! -e hangs ] || exec sleep 600; echo goes";
    let _loop = Loop::start(path, every, "told", &["timeout", "-s", "KILL", "1", "sh", "-c", script]);
    let told = || fs::read_to_string(path.join("told")).unwrap_or_default();
    eventually(SOON, "the script runs", || told() == "goes\n");
    File::create(path.join("hangs")).expect("a folder of ours");
    eventually(SOON, "the file of a script that hangs is gone", || told().is_empty());
    fs::remove_file(path.join("hangs")).expect("it was there");
    eventually(SOON, "the loop goes on", || told() == "goes\n");
}

/// By its age alone.
fn a_script_that_hangs_without_timeout_is_noticed(every: &str) {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path();
    let _loop = Loop::start(path, every, "told", &["sh", "-c", "[ ! -e hangs ] || exec sleep 60; echo goes"]);
    let scene = Scene::new();
    let policies =
        "markerPolices: [{state: goes, gameServerOpsState: None}, {state: Failed, gameServerOpsState: Maintaining}]";
    let url = format!("file://{}/told", path.display());
    scene.pod.update_config(&config(&[endpoint(&url, "maxAgeSeconds: 3, failureThreshold: 1", policies)]));
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "it runs", || scene.ops_state() == "None");
    File::create(path.join("hangs")).expect("a folder of ours");
    sidecar.eventually(SOON, "it hangs", || scene.ops_state() == "Maintaining");
    assert!(path.join("told").exists(), "the old text is there still");
}

/// However often it looks while the loop writes.
fn a_reader_finds_the_whole_text_or_none(every: &str) {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let told = folder.path().join("told");
    let _loop = Loop::start(folder.path(), &every.replace("sleep \"$seconds\"", ":"), "told", &["seq", "2000"]);
    eventually(SOON, "the script runs", || told.exists());
    let whole = fs::read(&told).expect("it is there").len();
    let written = || fs::metadata(&told).and_then(|file| file.modified()).ok();
    let mut times = vec![written()];
    eventually(SOON, "the loop writes 20 times", || {
        if let Ok(text) = fs::read(&told) {
            assert_eq!(text.len(), whole, "a part of the text");
        }
        let time = written();
        if times.last() != Some(&time) {
            times.push(time);
        }
        times.len() > 20
    });
}

fn try_it(recipe: &Recipe, every: &str, endpoints: &str) {
    let heading = recipe.heading;
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let path = folder.path();
    assert!(endpoints.contains(&format!("file:///probe/{}\n", recipe.file)), "{heading}: {endpoints}");
    let endpoints =
        endpoints.replace("/probe/", &format!("{}/", path.display())).replace("forSeconds: 600", "forSeconds: 2");
    let endpoints: String = endpoints.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "plugins:\n  - name: http_probe\n    config:\n      probeIntervalSeconds: 1\n      endpoints:\n{endpoints}"
    );
    let scene = Scene::new();
    scene.pod.update_config(&text);
    set_game(path, recipe.steps[0].0);
    let _loop = Loop::start(path, every, recipe.file, &["sh", "-c", recipe.script]);
    let sidecar = scene.sidecar().start();
    for (game, leads_to) in recipe.steps {
        set_game(path, game);
        let holds = || leads_to.iter().all(|(field, value)| has(&scene, field, value));
        sidecar.eventually(SOON, &format!("{heading}: {game:?} leads to {leads_to:?}"), holds);
    }
}

/// The script may read it at any time.
fn set_game(folder: &Path, text: &str) {
    let (new, game) = (folder.join("game.new"), folder.join("game"));
    if text == "-" {
        fs::remove_file(game).expect("it was there");
    } else {
        fs::write(&new, text).expect("a folder of ours");
        fs::rename(new, game).expect("a folder of ours");
    }
}

/// Whether a field of the GameServer, or a label or annotation of the Pod, has this value.
fn has(scene: &Scene, field: &str, value: &str) -> bool {
    let found = match field
        .strip_prefix(LABEL)
        .map(|key| ("labels", key))
        .or(field.strip_prefix(ANNOTATION).map(|key| ("annotations", key)))
    {
        Some((kind, key)) => scene.field_of(&scene.pod_path(), &format!("/metadata/{kind}/{key}")),
        None => scene.field(&format!("/{field}")),
    };
    found == json!(value) || value.parse::<u64>().is_ok_and(|number| found == number)
}
