//! What one sidecar costs its node and the API server, measured from outside, beside a bare loop of sockets that probes the
//! same kind of game at the same time; started by `tests/footprint.sh`.

mod kinds;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use stand_ins::{Authority, Game, POD_UID, SOON, Scene, SidecarProcess, Signal, holds_within};

/// What a release keeps within; behaviour 7.1 names the first three. `--check` fails where a run breaks one.
mod budget {
    pub(super) const BINARY_BYTES: f64 = 1_800_000.0;
    pub(super) const VM_HWM_KIB: f64 = 2_048.0;
    pub(super) const THREADS: f64 = 1.0;
    /// 148 to 172 were seen: 52 are relocated data, 56 the stack of a TLS handshake, 24 to 48 the heap.
    pub(super) const RSS_ANON_KIB: f64 = 192.0;
    pub(super) const SYSTEM_CALLS: f64 = 10.0;
    /// Without those of a round.
    pub(super) const CALLS_OF_A_UDP_PROBE: f64 = 6.0;
    pub(super) const CALLS_OF_A_FILE_PROBE: f64 = 5.0;
    pub(super) const CALLS_OF_A_MINECRAFT_PROBE: f64 = 8.0;
    /// None but where the heap happens to lie so that musl maps a page for one answer and gives it back.
    pub(super) const PAGE_FAULTS: f64 = 2.0;
    pub(super) const MAPPINGS: f64 = 1.0;
    /// The goal is 1.5 in the mean of long runs; a short run on a busy machine is off by a half now and then.
    pub(super) const TIMES_THE_BARE_LOOP: f64 = 2.5;
    /// A bare loop of a file is three calls, so that all that a round takes counts more.
    pub(super) const TIMES_THE_BARE_LOOP_OF_A_KIND: f64 = 4.0;
    pub(super) const CONNECTIONS_OF_A_START_AND_TWO_CHANGES: f64 = 3.0;
    pub(super) const REQUESTS_OF_A_START: f64 = 2.0;
    pub(super) const REQUESTS_OF_A_CHANGE: f64 = 2.0;
    pub(super) const REQUESTS_AT_REST: f64 = 0.0;
    pub(super) const CONNECTIONS_AT_REST: f64 = 0.0;
}

/// Both probe that often, as the config of a [`Scene`] says.
const INTERVAL: Duration = Duration::from_secs(1);

/// The probes of the shorter and of the longer run under strace: the first two or three still make what later ones keep.
const TRACED_PROBES: [usize; 2] = [3, 9];

/// How the script was started.
struct Options {
    binary: PathBuf,
    bare_loop: PathBuf,
    seconds: u64,
    runs: usize,
    check: bool,
    document: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("usage: footprint --binary PATH --bare-loop PATH [--seconds N] [--runs N] [--check] [--document]");
        return ExitCode::from(2);
    };
    let machine = measure::machine();
    let runs: Vec<Run> = (0..options.runs).map(|_| Run::measure(&options)).collect();
    let bytes = fs::metadata(&options.binary).map_or(f64::INFINITY, |file| file.len() as f64);
    let mut broken = Vec::new();
    let mut tables = tables(&runs, bytes, &mut broken);
    let runs_of_kinds: Vec<kinds::Run> = (0..options.runs).map(|_| kinds::Run::measure(&options)).collect();
    tables += &format!("\n{}", kinds::table(&runs_of_kinds, &mut broken));
    println!("{tables}");
    if options.document {
        let probes: usize = runs.iter().map(|run| run.costs[1].probes).sum();
        let times = if runs.len() == 1 { "once".to_owned() } else { format!("{} times", runs.len()) };
        let how = format!(
            "Measured {times}, {} s each, {probes} probes of the sidecar together ({machine}).",
            options.seconds
        );
        measure::write("footprint", &format!("{how}\n\n{tables}"));
    }
    for line in &broken {
        println!("OVER THE BUDGET: {line}");
    }
    if options.check && !broken.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse() -> Option<Options> {
    let mut options = Options {
        binary: PathBuf::new(),
        bare_loop: PathBuf::new(),
        seconds: 60,
        runs: 1,
        check: false,
        document: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => options.binary = fs::canonicalize(words.next()?).ok()?,
            "--bare-loop" => options.bare_loop = fs::canonicalize(words.next()?).ok()?,
            "--seconds" => options.seconds = words.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
            "--runs" => options.runs = words.next()?.parse().ok().filter(|runs| *runs > 0)?,
            "--check" => options.check = true,
            "--document" => options.document = true,
            _ => return None,
        }
    }
    (options.binary.is_file() && options.bare_loop.is_file()).then_some(options)
}

/// What there is certainly time for between the two looks after a write, in seconds.
const BETWEEN_LOOKS: u64 = 20;

/// Which program probes which kind of game.
#[derive(Clone, Copy)]
enum Kind {
    BareLoop,
    Http,
    Https,
}

/// A process that probes once a second, with a game and an API server of its own.
struct Prober {
    process: SidecarProcess,
    scene: Scene,
}

impl Prober {
    fn start(kind: Kind, options: &Options, wrapper: &[&str]) -> Self {
        let scene = Scene::with_game(match kind {
            Kind::BareLoop | Kind::Http => Game::start(),
            Kind::Https => Game::builder().tls(&Authority::new("the game's").loopback_certificate()).start(),
        });
        let process = match kind {
            Kind::BareLoop => SidecarProcess::builder(&options.bare_loop).arg(scene.game.address().to_string()),
            Kind::Http | Kind::Https => SidecarProcess::builder(&options.binary).pod(&scene.pod),
        };
        let process = process.wrapped_in(wrapper).api_server(&scene.api).env("POD_UID", POD_UID).start();
        Self { process, scene }
    }
}

impl Probing for Prober {
    fn process(&self) -> &SidecarProcess {
        &self.process
    }

    fn probes(&self) -> usize {
        self.scene.game.requests().len()
    }
}

/// A process that probes once a second, and what counts its probes.
trait Probing {
    fn process(&self) -> &SidecarProcess;

    fn probes(&self) -> usize;

    fn await_probes(&self, count: usize) {
        self.process().eventually(SOON, "probes", || self.probes() >= count);
    }

    /// Page faults that needed no disk: `minflt` of proc(5).
    fn page_faults(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process().pid())).unwrap_or_default();
        // Behind the name, which may hold spaces, it is the eighth.
        let behind_the_name = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
        let faults = behind_the_name.and_then(|mut fields| fields.nth(7)?.parse().ok());
        faults.unwrap_or_else(|| self.process().fail("/proc/PID/stat has no number of page faults"))
    }

    fn reading(&self) -> Reading {
        Reading {
            probes: self.probes(),
            cpu: self.process().cpu_time(),
            page_faults: self.page_faults(),
            switches: self.process().proc_status("voluntary_ctxt_switches"),
        }
    }
}

/// What one has taken so far.
struct Reading {
    probes: usize,
    cpu: Duration,
    page_faults: u64,
    switches: u64,
}

/// What one probe took, and what the process holds.
struct Cost {
    probes: usize,
    cpu_microseconds: f64,
    page_faults: f64,
    switches: f64,
    rss_anon_kib: f64,
    vm_hwm_kib: f64,
    threads: f64,
    /// None without strace.
    system_calls: Option<BTreeMap<String, f64>>,
}

impl Cost {
    fn between(before: &Reading, prober: &impl Probing, system_calls: Option<BTreeMap<String, f64>>) -> Self {
        let after = prober.reading();
        let probes = after.probes - before.probes;
        let each = |total: f64| total / probes.max(1) as f64;
        Self {
            probes,
            cpu_microseconds: each((after.cpu - before.cpu).as_secs_f64() * 1e6),
            page_faults: each((after.page_faults - before.page_faults) as f64),
            switches: each((after.switches - before.switches) as f64),
            rss_anon_kib: prober.process().proc_status("RssAnon") as f64,
            vm_hwm_kib: prober.process().vm_hwm_kib() as f64,
            threads: prober.process().threads() as f64,
            system_calls,
        }
    }

    fn calls(&self, of_kind: impl Fn(&str) -> bool) -> Option<f64> {
        let calls = self.system_calls.as_ref()?;
        Some(calls.iter().filter(|(name, _)| of_kind(name)).fold(0.0, |sum, (_, count)| sum + count))
    }
}

/// What was measured side by side.
struct Run {
    /// Of the bare loop, the sidecar, and the sidecar of a game that speaks HTTPS.
    costs: [Cost; 3],
    /// Of the sidecar, at the API server.
    requests: Requests,
}

/// What the API server got.
struct Requests {
    connections: usize,
    of_start: usize,
    of_change: usize,
    at_rest: usize,
    connections_at_rest: usize,
}

impl Run {
    /// Three processes that probe at the same time, the sidecars through three changes and then in peace.
    fn measure(options: &Options) -> Self {
        const KINDS: [Kind; 3] = [Kind::BareLoop, Kind::Http, Kind::Https];
        let mut calls = system_calls(&KINDS, |kind, wrapper| Prober::start(*kind, options, wrapper));
        let probers = KINDS.map(|kind| Prober::start(kind, options, &[]));
        let [_, sidecar, sidecar_https] = &probers;
        for (count, state) in (1..).zip(["None", "Allocated", "WaitToBeDeleted"]) {
            probers.iter().for_each(|prober| prober.scene.game.set(200, state));
            for prober in [sidecar, sidecar_https] {
                prober.process.eventually(SOON, state, || prober.process.count_lines("written in") == count);
            }
        }
        // On each connection; the first one is the start's.
        let requests_each = sidecar.scene.api.requests_per_connection();
        let (of_start, of_changes) = requests_each.split_first().expect("a start makes a connection");
        // Two looks follow a write (behaviour 4.6), the second half a minute after the first. What is measured lies between
        // them or after them.
        let looks = if options.seconds <= BETWEEN_LOOKS { 1 } else { 2 };
        for prober in [sidecar, sidecar_https] {
            stand_ins::eventually(2 * SOON, "looks at what was written", || prober.scene.reads() >= 3 + looks);
        }
        probers.iter().for_each(|prober| prober.await_probes(prober.probes() + 3));

        let requests = sidecar.scene.api.requests().len();
        let before = probers.each_ref().map(Prober::reading);
        thread::sleep(Duration::from_secs(options.seconds));
        let costs = [0, 1, 2].map(|of| Cost::between(&before[of], &probers[of], calls[of].take()));
        let requests = Requests {
            connections: requests_each.len(),
            of_start: *of_start,
            of_change: of_changes.iter().copied().max().unwrap_or_default(),
            at_rest: sidecar.scene.api.requests().len() - requests,
            connections_at_rest: sidecar.scene.api.open_connections(),
        };
        Self { costs, requests }
    }
}

/// The system calls of a probe by name: those of a longer run less those of a shorter one, so that the start does not
/// count but for a call more or less that its handshake takes. None where there is no strace.
fn system_calls<P: Sync, Q: Probing>(
    programs: &[P],
    start: impl Fn(&P, &[&str]) -> Q + Sync,
) -> Vec<Option<BTreeMap<String, f64>>> {
    if Command::new("strace").arg("-V").output().is_err() {
        return programs.iter().map(|_| None).collect();
    }
    let start = &start;
    // All at once, since they mostly sleep.
    thread::scope(|scope| {
        let run = |program| {
            TRACED_PROBES.map(|probes| scope.spawn(move || traced(|wrapper| start(program, wrapper), probes)))
        };
        let running: Vec<_> = programs.iter().map(run).collect();
        let of = |runs: [thread::ScopedJoinHandle<'_, (BTreeMap<String, u64>, usize)>; 2]| {
            let [(few_calls, few), (many_calls, many)] = runs.map(|run| run.join().expect("a run under strace"));
            let each = |(name, calls): (String, u64)| {
                let at_start = few_calls.get(&name).copied().unwrap_or_default();
                (name, (calls as f64 - at_start as f64) / (many - few) as f64)
            };
            Some(many_calls.into_iter().map(each).filter(|(_, calls)| *calls != 0.0).collect())
        };
        running.into_iter().map(of).collect()
    })
}

/// All calls of a run of so many probes, and how many it were.
fn traced<Q: Probing>(start: impl Fn(&[&str]) -> Q, probes: usize) -> (BTreeMap<String, u64>, usize) {
    let folder = tempfile::TempDir::new().expect("the temporary folder is writable");
    let summary = folder.path().join("strace");
    let prober = start(&["strace", "-D", "-c", "-U", "calls,name", "-o", &summary.display().to_string()]);
    prober.await_probes(probes);
    // The rest of the last probe counts, too.
    thread::sleep(INTERVAL / 2);
    let probes = prober.probes();
    prober.process().signal(Signal::TERM);
    prober.process().wait_exit(SOON);
    // strace writes its summary a moment after its child has ended.
    let mut calls = None;
    holds_within(SOON, || {
        calls = summary_of(&summary);
        calls.is_some()
    });
    (calls.expect("strace writes a summary"), probes)
}

/// What strace has written: a line of each call, and one of the total in the end.
fn summary_of(path: &Path) -> Option<BTreeMap<String, u64>> {
    let summary = fs::read_to_string(path).ok()?;
    let lines = summary.lines().filter_map(|line| line.trim().split_once(' '));
    let mut calls: BTreeMap<String, u64> =
        lines.filter_map(|(count, name)| Some((name.trim().to_owned(), count.parse().ok()?))).collect();
    calls.remove("total").map(|_| calls)
}

/// A line of a table: a figure of each run in each column.
struct Row<'a> {
    name: &'a str,
    decimals: usize,
    columns: Vec<Vec<Option<f64>>>,
    /// Of the sidecar.
    budget: Option<f64>,
}

impl Row<'_> {
    /// Appends the line, and notes each run of the sidecar that breaks the budget or says nothing of it. `sidecar` is where
    /// its columns are.
    fn write(&self, sidecar: Range<usize>, table: &mut String, broken: &mut Vec<String>) {
        let number = |value: f64| measure::with_commas(&format!("{value:.*}", self.decimals));
        let _ = write!(table, "| {} |", self.name);
        for column in &self.columns {
            let values: Vec<f64> = column.iter().copied().flatten().collect();
            let cell = match (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max)) {
                (Some(least), Some(most)) if number(least) == number(most) => number(least),
                (Some(least), Some(most)) => format!("{} to {}", number(least), number(most)),
                _ => "not measured".to_owned(),
            };
            let _ = write!(table, " {cell} |");
        }
        let _ = writeln!(table, " {} |", self.budget.map(number).unwrap_or_default());
        let Some(budget) = self.budget else { return };
        let scale = 10_f64.powi(self.decimals as i32);
        for value in self.columns[sidecar].iter().flatten() {
            match value {
                None => broken.push(format!("{}: not measured, since there is no strace", self.name)),
                // As it is printed.
                Some(value) if (value * scale).round() > (budget * scale).round() => {
                    broken.push(format!("{}: {}, at most {}", self.name, number(*value), number(budget)));
                }
                Some(_) => {}
            }
        }
    }
}

/// In Markdown.
fn tables(runs: &[Run], binary_bytes: f64, broken: &mut Vec<String>) -> String {
    let mut text = String::from(
        "| | bare loop | okg-sidecar | okg-sidecar, game over HTTPS | budget of okg-sidecar |\n|---|--:|--:|--:|--:|\n",
    );
    let mut row = |name: &str, decimals, of: &dyn Fn(&Cost, &Run) -> Option<f64>, budget| {
        let column = |at: usize| runs.iter().map(|run| of(&run.costs[at], run)).collect();
        Row { name, decimals, columns: (0..3).map(column).collect(), budget }.write(1..2, &mut text, broken);
    };
    let bare = |run: &Run| run.costs[0].cpu_microseconds;
    row("CPU time a probe, µs", 0, &|cost, _| Some(cost.cpu_microseconds), None);
    row(
        "the same, times the bare loop",
        2,
        &|cost, run| Some(cost.cpu_microseconds / bare(run)),
        Some(budget::TIMES_THE_BARE_LOOP),
    );
    row("system calls a probe", 0, &|cost, _| cost.calls(|_| true), Some(budget::SYSTEM_CALLS));
    let mapping = |name: &str| ["mmap", "munmap", "mremap", "brk", "madvise"].contains(&name);
    row("of these mmap, munmap, mremap, brk, madvise", 0, &|cost, _| cost.calls(mapping), Some(budget::MAPPINGS));
    row("page faults a probe", 1, &|cost, _| Some(cost.page_faults), Some(budget::PAGE_FAULTS));
    row("voluntary context switches a probe", 1, &|cost, _| Some(cost.switches), None);
    row("private memory (RssAnon), KiB", 0, &|cost, _| Some(cost.rss_anon_kib), Some(budget::RSS_ANON_KIB));
    row("peak resident memory (VmHWM), KiB", 0, &|cost, _| Some(cost.vm_hwm_kib), Some(budget::VM_HWM_KIB));
    row("threads", 0, &|cost, _| Some(cost.threads), Some(budget::THREADS));

    let _ = writeln!(text, "\n| | okg-sidecar | budget |\n|---|--:|--:|");
    let mut row = |name: &str, of: &dyn Fn(&Requests) -> usize, budget| {
        let column = runs.iter().map(|run| Some(of(&run.requests) as f64)).collect();
        Row { name, decimals: 0, columns: vec![column], budget: Some(budget) }.write(0..1, &mut text, broken);
    };
    row("binary, bytes", &|_| binary_bytes as usize, budget::BINARY_BYTES);
    row(
        "connections to the API server for a start and two changes",
        &|requests| requests.connections,
        budget::CONNECTIONS_OF_A_START_AND_TWO_CHANGES,
    );
    row("requests to the API server: a start", &|requests| requests.of_start, budget::REQUESTS_OF_A_START);
    row("requests to the API server: a change", &|requests| requests.of_change, budget::REQUESTS_OF_A_CHANGE);
    row("requests to the API server while nothing changes", &|requests| requests.at_rest, budget::REQUESTS_AT_REST);
    row(
        "connections open at the API server while nothing changes",
        &|requests| requests.connections_at_rest,
        budget::CONNECTIONS_AT_REST,
    );

    for (name, cost) in
        ["bare loop", "okg-sidecar", "okg-sidecar, game over HTTPS"].iter().zip(&runs[runs.len() - 1].costs)
    {
        let Some(calls) = &cost.system_calls else { continue };
        let calls: Vec<String> = calls.iter().map(|(name, calls)| format!("{name} {}", short(*calls))).collect();
        let _ = writeln!(text, "\nSystem calls of a probe by name, {name}: {}.", calls.join(", "));
    }
    text
}

/// Without decimals where there are none.
fn short(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}
