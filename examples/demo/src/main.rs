//! `cargo run -p demo`: why a game server needs a sidecar, in ten seconds and without a cluster. Three sidecars run, each a
//! process of its own; the games and the API server are the stand-ins of the tests. The demo fails, in one line and with
//! exit code 1, where the story does not come true.

mod fleet;
mod scale_down;
mod screen;
mod support;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use okg_sidecar::config::Config;
use okg_sidecar::kube::environment::PodEnvironment;
use okg_sidecar::process;
use okg_sidecar::sidecar::Sidecar;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::fleet::Fleet;
use crate::screen::Screen;

/// The first argument of this program where it is a sidecar; the folder with its mounted files is the second.
const SIDECAR: &str = "sidecar";

/// How long a step of the story may take. It takes about 2 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between a row and what happens next, for the reader.
const PAUSE: Duration = Duration::from_millis(600);

const INTRODUCTION: &str = "\
Three game servers. The sidecar of each asks its game every second how it is doing, and sets opsState of
its GameServer. OpenKruiseGame scales down WaitToBeDeleted first, then None, Allocated, Maintaining; among
equals the highest index. The sidecars are real, a process each; games and API server are stand-ins.
";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [] => play(),
        [word, folder] if word == SIDECAR => run_sidecar(Path::new(folder)),
        _ => Err("it takes no arguments".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("demo: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What `okg-sidecar run` does.
fn run_sidecar(folder: &Path) -> Result<(), Box<dyn Error>> {
    process::exit_on_panic();
    process::exit_on_signals()?;
    // It goes with the demo, also where that is killed.
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)?;
    process::start_log();
    let variable = |name: &str| env::var(name).ok();
    let (file, config) = Config::open(folder.join("config.yaml"), &variable)?;
    let environment = PodEnvironment::read(&variable, folder, config.sets_conditions())?;
    Sidecar::new(file, config, environment).run()
}

fn play() -> Result<(), Box<dyn Error>> {
    let mut fleet = Fleet::new()?;
    match tell(&mut fleet) {
        Ok(()) => fleet.remove(),
        Err(problem) => Err(format!("{problem}; the sidecars' logs are in {}", fleet.logs().display()).into()),
    }
}

/// The story. Each step says what it must come to.
fn tell(fleet: &mut Fleet) -> Result<(), Box<dyn Error>> {
    println!("{INTRODUCTION}");
    let screen = Screen::new();
    screen.header([0, 1, 2].map(|index| fleet.name(index)));

    screen.news("three servers start, nobody plays");
    for index in 0..3 {
        fleet.start_sidecar(index)?;
    }
    let all_idle = Expected { states: ["None", "None", "None"], writes: 3, next: 2, why: "all idle, the highest index" };
    all_idle.comes_true(fleet, &screen)?;

    screen.news("players join tank-war-2");
    fleet.game_answers(2, 200, "Allocated");
    let playing = Expected { states: ["None", "None", "Allocated"], writes: 4, next: 1, why: "2 has players now" };
    playing.comes_true(fleet, &screen)?;

    screen.news("the game of tank-war-1 hangs up: it answers 500, twice in a row");
    fleet.game_answers(1, 500, "out of memory");
    let failed =
        Expected { states: ["None", "Maintaining", "Allocated"], writes: 5, next: 0, why: "1 is kept, to be looked at" };
    failed.comes_true(fleet, &screen)?;

    screen.news("the match on tank-war-2 is over");
    fleet.game_answers(2, 200, "WaitToBeDeleted");
    let over =
        Expected { states: ["None", "Maintaining", "WaitToBeDeleted"], writes: 6, next: 2, why: "its match is over" };
    over.comes_true(fleet, &screen)?;

    screen.news("a matchmaker sets tank-war-0 to Allocated; its sidecar is killed and starts anew, the game says None");
    fleet.somebody_sets(0, "matchmaker", "Allocated");
    fleet.kill_sidecar(0);
    let probes = fleet.probes_of(0);
    fleet.start_sidecar(0)?;
    let restarted = Expected {
        states: ["Allocated", "Maintaining", "WaitToBeDeleted"],
        writes: 7,
        next: 2,
        why: "0 stays Allocated",
    };
    // The result of the second probe has been acted on when the third one comes.
    wait(fleet, "the new sidecar has probed three times", |fleet| fleet.probes_of(0) >= probes + 3)?;
    restarted.comes_true(fleet, &screen)?;

    screen.news("the game of tank-war-1 answers again");
    fleet.game_answers(1, 200, "None");
    let recovered =
        Expected { states: ["Allocated", "None", "WaitToBeDeleted"], writes: 8, next: 2, why: "then 1, and 0 last" };
    recovered.comes_true(fleet, &screen)?;
    println!("{} probes, {} writes, {} requests", fleet.probes(), fleet.writes(), fleet.requests());
    Ok(())
}

/// What a step comes to.
struct Expected {
    states: [&'static str; 3],
    /// Since the beginning.
    writes: usize,
    /// Whom OpenKruiseGame would delete.
    next: usize,
    why: &'static str,
}

impl Expected {
    fn comes_true(&self, fleet: &mut Fleet, screen: &Screen) -> Result<(), Box<dyn Error>> {
        let what = format!("{} after {} writes", self.states.join(", "), self.writes);
        wait(fleet, &what, |fleet| states(fleet) == self.states && fleet.writes() == self.writes)?;
        let next = scale_down::order(&fleet.game_servers())[0];
        if next != self.next {
            return Err(format!("next would be {}, not {}", fleet.name(next), fleet.name(self.next)).into());
        }
        screen.row(&states(fleet), fleet.writes(), fleet.name(next), self.why);
        thread::sleep(PAUSE);
        Ok(())
    }
}

fn states(fleet: &Fleet) -> Vec<String> {
    let state = |object: &serde_json::Value| object["spec"]["opsState"].as_str().unwrap_or_default().to_owned();
    fleet.game_servers().iter().map(state).collect()
}

fn wait(fleet: &mut Fleet, what: &str, condition: impl Fn(&Fleet) -> bool) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    while !condition(fleet) {
        fleet.all_run()?;
        if Instant::now() > deadline {
            let (states, writes) = (states(fleet).join(", "), fleet.writes());
            return Err(format!("not within {PATIENCE:?}: {what}; it is {states} after {writes} writes").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
