//! `cargo run -p demo`: why a game server needs a sidecar, in ten seconds and without a cluster. Each sidecar is a process of
//! its own; the games and the API server are the stand-ins of the tests. If the story does not come true, the demo
//! prints one line and exits with 1.

mod fleet;
mod scale_down;
mod screen;
mod story;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, io};

use okg_sidecar::config::Config;
use okg_sidecar::kube::environment::PodEnvironment;
use okg_sidecar::process;
use okg_sidecar::sidecar::Sidecar;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::fleet::Fleet;

/// The first argument of this program if it is a sidecar; the second is the folder with the files that are mounted
/// into its container.
const SIDECAR: &str = "sidecar";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [] => play(),
        [word, folder] if word == SIDECAR => run_sidecar(Path::new(folder)),
        _ => Err("there are no arguments".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("demo: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> Result<(), Box<dyn Error>> {
    let mut fleet = Fleet::new()?;
    match story::tell(&mut fleet) {
        Ok(()) => fleet.remove(),
        Err(problem) => Err(format!("{problem}; the sidecars' logs are in {}", fleet.logs().display()).into()),
    }
}

/// What `okg-sidecar run` does.
fn run_sidecar(folder: &Path) -> Result<(), Box<dyn Error>> {
    process::exit_on_panic();
    process::exit_on_signals()?;
    // It ends with the demo, however that ends.
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)?;
    process::start_log();
    let variable = |name: &str| env::var(name).ok();
    let (file, config) = Config::open(folder.join("config.yaml"), &variable)?;
    let environment = PodEnvironment::read(&variable, folder, config.is_of_kruise())?;
    Sidecar::new(file, config, environment).run()
}
