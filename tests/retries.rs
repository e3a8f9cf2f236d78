//! How soon after an outage of the API server the newest state is in (behaviour 4.5), of many sidecars at once; started by
//! `tests/retries.sh`. The outage refuses connections, and then it drops packets; the game goes on meanwhile.

#![allow(clippy::panic, reason = "a panic is how a script fails")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use support::scene::{config, endpoint};
use support::{
    ApiServer, Authority, Game, Loopback, POD_UID, Pod, SOON, SidecarProcess, TOKEN, game_server, game_server_path,
    holds_within,
};

/// Half of them are in by then.
const MEDIAN: Duration = Duration::from_secs(8);
/// All of them are.
const WORST: Duration = Duration::from_secs(15);
/// One that began to connect before the end of the outage may have lost its first packets.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Longer than anything that is still to come.
const GIVEN_UP: Duration = Duration::from_secs(120);

/// How the script was started.
struct Options {
    binary: PathBuf,
    sidecars: usize,
    outage: Duration,
    check: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("usage: retries --binary PATH [--sidecars N] [--seconds N] [--check]");
        return ExitCode::from(2);
    };
    let fleet = Fleet::start(&options);
    println!("{} sidecars, {} s of outage", options.sidecars, options.outage.as_secs());
    println!("{:<24} {:>10} {:>10} {:>10} {:>10}", "", "median", "goal", "worst", "goal");
    let refused = fleet.measure("connections refused", &options, Duration::ZERO, ApiServer::stop);
    let dropped = fleet.measure("packets dropped", &options, ATTEMPT, ApiServer::drop_packets);
    if options.check && !(refused && dropped) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse() -> Option<Options> {
    let mut options = Options { binary: PathBuf::new(), sidecars: 30, outage: Duration::from_secs(45), check: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => options.binary = fs::canonicalize(words.next()?).ok()?,
            "--sidecars" => options.sidecars = words.next()?.parse().ok().filter(|count| *count > 0)?,
            "--seconds" => options.outage = Duration::from_secs(words.next()?.parse().ok().filter(|s| *s > 0)?),
            "--check" => options.check = true,
            _ => return None,
        }
    }
    options.binary.is_file().then_some(options)
}

/// Sidecars of one game and one API server, each with a GameServer of its own.
struct Fleet {
    game: Game,
    api: ApiServer,
    paths: Vec<String>,
    sidecars: Vec<SidecarProcess>,
    /// Their mounted files.
    _pods: Vec<Pod>,
}

impl Fleet {
    fn start(options: &Options) -> Self {
        let game = Game::start();
        game.set(200, "None");
        let authority = Authority::new("cluster");
        let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
        let policies = ["None", "Allocated", "WaitToBeDeleted"]
            .map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}"))
            .join(", ");
        let config = config(&[endpoint(&game.url("/"), "timeout: 1", &format!("markerPolices: [{policies}]"))]);
        let (mut pods, mut paths) = (Vec::new(), Vec::new());
        for index in 0..options.sidecars {
            let mut pod = Pod::new(&config, &authority.pem(), TOKEN);
            pod.name = format!("gs-{index}");
            let path = game_server_path(&pod.namespace, &pod.name);
            api.put(&path, game_server(&pod.namespace, &pod.name, POD_UID));
            pods.push(pod);
            paths.push(path);
        }
        let start = |pod: &Pod| {
            SidecarProcess::builder(&options.binary).pod(pod).api_server(&api).env("POD_UID", POD_UID).start()
        };
        let sidecars = pods.iter().map(start).collect();
        let fleet = Self { game, api, paths, sidecars, _pods: pods };
        fleet.await_lines("opsState unknown -> None", 1);
        fleet
    }

    fn await_lines(&self, text: &str, count: usize) {
        for sidecar in &self.sidecars {
            sidecar.eventually(SOON, text, || sidecar.count_lines(text) == count);
        }
    }

    /// Prints a line of the table, and says whether the goals are met, which are later by `allowance`.
    fn measure(&self, name: &str, options: &Options, allowance: Duration, begin: impl FnOnce(&ApiServer)) -> bool {
        begin(&self.api);
        // Neither is what was decided before, so that there is something to write all the time, and only the newest counts.
        for state in ["Allocated", "WaitToBeDeleted"] {
            self.game.set(200, state);
            thread::sleep(options.outage / 2);
        }
        let ended = Instant::now();
        self.api.start_again();
        let mut times: Vec<Duration> = self.paths.iter().map(|path| self.newest_in(path) - ended).collect();
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let shown = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let (median_goal, worst_goal) = (MEDIAN + allowance, WORST + allowance);
        let met = median <= median_goal && worst <= worst_goal;
        let verdict = if met { "" } else { "   MISSED" };
        println!(
            "{name:<24} {:>10} {:>10} {:>10} {:>10}{verdict}",
            shown(median),
            shown(median_goal),
            shown(worst),
            shown(worst_goal)
        );
        self.game.set(200, "None");
        self.await_lines("opsState WaitToBeDeleted -> None", 1);
        met
    }

    /// When the newest state came to be in the GameServer.
    fn newest_in(&self, path: &str) -> Instant {
        let newest = || {
            let changes = self.api.changes(path);
            let last = changes.last()?;
            (last.after["spec"]["opsState"] == "WaitToBeDeleted").then_some(last.at)
        };
        assert!(holds_within(GIVEN_UP, || newest().is_some()), "the newest state is not in at {path}");
        newest().expect("nothing else is decided meanwhile")
    }
}
