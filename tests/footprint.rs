//! What one sidecar costs its node and the API server, measured from outside; started by `tests/footprint.sh`.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use support::{POD_UID, SOON, Scene, SidecarProcess};

/// Behaviour 7.1.
const MAX_BINARY_BYTES: u64 = 2_000_000;
/// Behaviour 7.1.
const MAX_VM_HWM_KIB: u64 = 2_048;

/// How the script was started.
struct Options {
    binary: PathBuf,
    seconds: u64,
    check: bool,
}

/// A figure, and whether it keeps within its budget where it has one.
struct Figure {
    name: &'static str,
    value: String,
    broken_budget: Option<String>,
}

fn main() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("usage: footprint --binary PATH [--seconds N] [--check]");
        return ExitCode::from(2);
    };
    let mut figures = vec![bytes_on_disk(&options)];
    figures.extend(steady_state(&options));
    figures.push(syscalls_per_probe(&options));
    for Figure { name, value, broken_budget } in &figures {
        let verdict =
            broken_budget.as_ref().map_or_else(String::new, |budget| format!("   OVER THE BUDGET of {budget}"));
        println!("{name:<44} {value:>16}{verdict}");
    }
    let broken = figures.iter().any(|figure| figure.broken_budget.is_some());
    if options.check && broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse() -> Option<Options> {
    let mut options = Options { binary: PathBuf::new(), seconds: 60, check: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => options.binary = fs::canonicalize(words.next()?).ok()?,
            "--seconds" => options.seconds = words.next()?.parse().ok()?,
            "--check" => options.check = true,
            _ => return None,
        }
    }
    options.binary.is_file().then_some(options)
}

fn bytes_on_disk(options: &Options) -> Figure {
    let bytes = fs::metadata(&options.binary).map_or(u64::MAX, |file| file.len());
    bounded("binary, bytes on disk", bytes, MAX_BINARY_BYTES)
}

/// A sidecar that probes every second, through three changes and then in peace.
fn steady_state(options: &Options) -> Vec<Figure> {
    let scene = Scene::new();
    let sidecar =
        SidecarProcess::builder(&options.binary).pod(&scene.pod).api_server(&scene.api).env("POD_UID", POD_UID).start();
    for (count, state) in (1..).zip(["None", "Allocated", "WaitToBeDeleted"]) {
        scene.game.set(200, state);
        sidecar.eventually(SOON, state, || sidecar.count_lines("written in") == count);
    }
    // On each connection; the first one is the start's.
    let requests_each = scene.api.requests_per_connection();
    let start = requests_each.first().copied().unwrap_or_default() as u64;
    let changes = requests_each.get(1..).unwrap_or_default();
    let probes = scene.game.requests().len();
    let requests = scene.api.requests().len();
    let switches = sidecar.proc_status("voluntary_ctxt_switches");
    let cpu = sidecar.cpu_time();
    thread::sleep(Duration::from_secs(options.seconds));
    let probes = (scene.game.requests().len() - probes) as u64;
    let requests = (scene.api.requests().len() - requests) as u64;
    let switches = sidecar.proc_status("voluntary_ctxt_switches") - switches;
    let cpu = sidecar.cpu_time() - cpu;
    vec![
        bounded("peak resident memory (VmHWM), KiB", sidecar.vm_hwm_kib(), MAX_VM_HWM_KIB),
        figure("of it not backed by the binary (RssAnon), KiB", sidecar.proc_status("RssAnon")),
        bounded("threads", sidecar.threads(), 1),
        figure("probes in the time measured", probes),
        figure("CPU time a probe, microseconds", cpu.as_micros() as u64 / probes.max(1)),
        Figure {
            name: "voluntary context switches a probe",
            value: format!("{:.1}", switches as f64 / probes.max(1) as f64),
            broken_budget: None,
        },
        bounded("connections for a start and two changes", requests_each.len() as u64, 3),
        bounded("requests to the API server, a start", start, 2),
        bounded("requests to the API server, a change", changes.iter().max().map_or(0, |most| *most as u64), 2),
        bounded("requests to the API server at rest", requests, 0),
        bounded("connections open at the API server", scene.api.open_connections() as u64, 0),
    ]
}

/// The system calls of a longer run less those of a shorter one, so that the start does not count.
fn syscalls_per_probe(options: &Options) -> Figure {
    let name = "system calls a probe (strace -c)";
    let not_measured = |why: &str| Figure { name, value: why.into(), broken_budget: None };
    if Command::new("strace").arg("-V").output().is_err() {
        return not_measured("no strace");
    }
    let count = |wanted: usize| {
        let scene = Scene::new();
        let summary = scene.pod.folder().join("strace");
        let summary_path = summary.display().to_string();
        let sidecar = SidecarProcess::builder(&options.binary)
            .wrapped_in(&["strace", "-D", "-c", "-U", "calls,name", "-o", &summary_path])
            .pod(&scene.pod)
            .api_server(&scene.api)
            .start();
        sidecar.eventually(SOON, "probes under strace", || scene.game.requests().len() >= wanted);
        sidecar.signal(support::Signal::TERM);
        sidecar.wait_exit(SOON);
        let total = || {
            let summary = fs::read_to_string(&summary).unwrap_or_default();
            let line = summary.lines().find(|line| line.ends_with(" total"))?.to_owned();
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // strace writes its summary a moment after its child has ended.
        support::holds_within(SOON, || total().is_some());
        Some((total()?, scene.game.requests().len() as u64))
    };
    match (count(2), count(8)) {
        (Some((few_calls, few)), Some((many_calls, many))) if many > few => {
            figure(name, many_calls.saturating_sub(few_calls) / (many - few))
        }
        _ => not_measured("not measured"),
    }
}

fn figure(name: &'static str, value: u64) -> Figure {
    Figure { name, value: value.to_string(), broken_budget: None }
}

fn bounded(name: &'static str, value: u64, budget: u64) -> Figure {
    Figure { broken_budget: (value > budget).then(|| budget.to_string()), ..figure(name, value) }
}
