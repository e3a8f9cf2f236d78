//! How soon after an outage of the API server the newest state is in (behaviour 4.5), of many sidecars at once, and how many
//! requests they make; started by `tests/retries.sh`. The outage refuses connections, then it drops packets, then it answers
//! 503; the game goes on meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use stand_ins::scene::{config, endpoint};
use stand_ins::{
    ApiServer, Authority, Fault, Game, Loopback, POD_UID, Pod, SOON, SidecarProcess, TOKEN, game_server,
    game_server_path, holds_within,
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
    document: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("usage: retries --binary PATH [--sidecars N] [--seconds N] [--check] [--document]");
        return ExitCode::from(2);
    };
    let machine = measure::machine();
    let fleet = Fleet::start(&options);
    let how = format!("{} sidecars, {} s of outage ({machine}).", options.sidecars, options.outage.as_secs());
    println!("{how}\n\n{HEAD}");
    let overloaded = |api: &ApiServer| api.always(Some(Fault::status(503, "overloaded")));
    let outages = [
        fleet.measure("connections refused", &options, Duration::ZERO, ApiServer::stop),
        fleet.measure("packets dropped", &options, ATTEMPT, ApiServer::drop_packets),
        fleet.measure("answered 503", &options, Duration::ZERO, overloaded),
    ];
    if options.document {
        let lines = outages.iter().map(|outage| outage.line.as_str());
        measure::write("retries", &format!("{how}\n\n{HEAD}\n{}", lines.collect::<Vec<_>>().join("\n")));
    }
    let met = outages.iter().all(|outage| outage.met);
    if options.check && !met { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse() -> Option<Options> {
    let mut options = Options {
        binary: PathBuf::new(),
        sidecars: 30,
        outage: Duration::from_secs(45),
        check: false,
        document: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => options.binary = fs::canonicalize(words.next()?).ok()?,
            "--sidecars" => options.sidecars = words.next()?.parse().ok().filter(|count| *count > 0)?,
            "--seconds" => options.outage = Duration::from_secs(words.next()?.parse().ok().filter(|s| *s > 0)?),
            "--check" => options.check = true,
            "--document" => options.document = true,
            _ => return None,
        }
    }
    options.binary.is_file().then_some(options)
}

const HEAD: &str = "\
| outage | in after: median | goal | in after: last | goal | requests a second and 1000 pods, meanwhile | the same in the busiest second after it |
|---|--:|--:|--:|--:|--:|--:|";

/// A line of the table.
struct Outage {
    line: String,
    /// The goals are.
    met: bool,
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

    /// Prints a line of the table. The goals are later by `allowance`.
    fn measure(&self, name: &str, options: &Options, allowance: Duration, begin: impl FnOnce(&ApiServer)) -> Outage {
        begin(&self.api);
        // Neither is what was decided before, so that there is something to write all the time, and only the newest counts.
        for state in ["Allocated", "WaitToBeDeleted"] {
            self.game.set(200, state);
            thread::sleep(options.outage / 2);
        }
        let ended = Instant::now();
        self.api.always(None);
        self.api.start_again();
        let mut times: Vec<Duration> = self.paths.iter().map(|path| self.newest_in(path) - ended).collect();
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let (median_goal, worst_goal) = (MEDIAN + allowance, WORST + allowance);
        let met = median <= median_goal && worst <= worst_goal;
        // Once all waits are as long as they become.
        let meanwhile =
            self.requests_between(ended - options.outage / 2, ended) as f64 / (options.outage / 2).as_secs_f64();
        let seconds = (0..=worst.as_secs()).map(|second| ended + Duration::from_secs(second));
        let busiest = seconds.map(|from| self.requests_between(from, from + Duration::from_secs(1))).max();
        let shown = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let of_1000 = |requests: f64| format!("{:.0}", requests * 1000.0 / options.sidecars as f64);
        let line = format!(
            "| {name}{} | {} | {} | {} | {} | {} | {} |",
            if met { "" } else { " (MISSED)" },
            shown(median),
            shown(median_goal),
            shown(worst),
            shown(worst_goal),
            of_1000(meanwhile),
            of_1000(busiest.unwrap_or_default() as f64),
        );
        println!("{line}");
        self.game.set(200, "None");
        for path in &self.paths {
            let back = || self.api.text(path, "/spec/opsState").is_some_and(|state| state == "None");
            assert!(holds_within(SOON, back), "None is not in at {path}");
        }
        Outage { line, met }
    }

    fn requests_between(&self, from: Instant, to: Instant) -> usize {
        self.api.requests().iter().filter(|request| (from..to).contains(&request.at)).count()
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
