//! What many sidecars cost the one machine that they run on, how evenly they probe, and that every change of a sample of
//! them arrives; started by `tests/fleet.sh`.

mod cgroup;
mod figures;
mod game;
mod plot;
mod proc;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cgroup::Cgroup;
use figures::{Row, bunched, off_the_interval, quantile};
use game::Game;
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    ApiServer, Authority, Loopback, POD_UID, Pod, SOON, TOKEN, game_server, game_server_path, holds_within,
};

/// As in the seed's ConfigMap.
const INTERVAL: Duration = Duration::from_secs(5);

/// So many have not written their first decision yet while more are started: a machine that is slow starts fewer a second.
const STARTING: usize = 32;

/// Every so-and-so-many is in the sample whose game changes.
const SAMPLE: usize = 100;

/// The longest that a change takes which is not lost: a round, and a write under load.
const ARRIVES: Duration = Duration::from_secs(60);

/// What a sidecar takes at most, with the kernel's part and the log of the tests' API server.
const MEMORY_OF_ONE_KIB: u64 = 400;

/// How the script was started.
struct Options {
    binary: PathBuf,
    seconds: u64,
    document: bool,
    sizes: Vec<usize>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(game::ARGUMENT) {
        game::run().expect("the game serves");
        return ExitCode::SUCCESS;
    }
    let Some(options) = parse() else {
        eprintln!("usage: fleet --binary PATH [--seconds N] [--document] N...");
        return ExitCode::from(2);
    };
    if let Err(why) = room_for(options.sizes.iter().copied().max().unwrap_or_default()) {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    let machine = measure::machine();
    let mut fleet = Fleet::new(options.binary.clone());
    println!("{}", Row::HEAD);
    let mut rows = Vec::new();
    let mut start = None;
    for size in &options.sizes {
        let began = Instant::now();
        fleet.grow_to(*size);
        // Of later ones the rounds of those before would count, too.
        let each = *start.get_or_insert_with(|| fleet.cpu_time().div_f64(*size as f64));
        eprintln!(
            "{size} run after {:.0} s; a start took {:.1} ms of CPU",
            began.elapsed().as_secs_f64(),
            millis(each)
        );
        let row = fleet.measure(Duration::from_secs(options.seconds));
        println!("{}", row.line());
        rows.push(row);
    }
    drop(fleet);
    if options.document {
        let lines: Vec<String> = rows.iter().map(Row::line).collect();
        let how = format!(
            "Measured for {} s at each size ({machine}). A start, to the first decision, took {:.1} ms of the sidecar's CPU time.",
            options.seconds,
            millis(start.unwrap_or_default())
        );
        measure::write("fleet", &format!("{how}\n\n{}\n{}", Row::HEAD, lines.join("\n")));
        let caption = format!("a probe every {} s each; {machine}", INTERVAL.as_secs());
        measure::write_file("fleet.svg", &plot::svg(&rows, &caption));
    }
    ExitCode::SUCCESS
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn parse() -> Option<Options> {
    let mut options = Options { binary: PathBuf::new(), seconds: 60, document: false, sizes: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => options.binary = fs::canonicalize(words.next()?).ok()?,
            // Less than two rounds have no period.
            "--seconds" => options.seconds = words.next()?.parse().ok().filter(|s| *s >= 2 * INTERVAL.as_secs())?,
            "--document" => options.document = true,
            size => options.sizes.push(size.parse().ok().filter(|size| *size > 0)?),
        }
    }
    (options.binary.is_file() && !options.sizes.is_empty() && options.sizes.is_sorted()).then_some(options)
}

/// Whether so many processes fit on this machine.
///
/// # Errors
/// What there is too little of, and what to do.
fn room_for(sidecars: usize) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    // Beside the threads of the tests' API server.
    let wanted = sidecars as u64 + 1000;
    let running = read("/proc/loadavg").split_whitespace().nth(3).and_then(|both| number(both.split_once('/')?.1));
    let ids = number(&read("/proc/sys/kernel/pid_max")).unwrap_or(u64::MAX) - running.unwrap_or_default();
    if ids < wanted {
        return Err(format!(
            "{wanted} process ids are needed and {ids} are free: sysctl kernel.pid_max={}",
            2 * wanted
        ));
    }
    let limits = read("/proc/self/limits");
    let processes = limits.lines().find_map(|line| number(line.strip_prefix("Max processes")?)).unwrap_or(u64::MAX);
    if processes < wanted {
        return Err(format!("{wanted} processes are needed and {processes} allowed: ulimit -u {wanted}"));
    }
    let available = read("/proc/meminfo");
    let available = available.lines().find_map(|line| number(line.strip_prefix("MemAvailable:")?)).unwrap_or(u64::MAX);
    let memory = sidecars as u64 * MEMORY_OF_ONE_KIB;
    if available < memory {
        return Err(format!("{} MiB of memory are needed and {} available", memory / 1024, available / 1024));
    }
    Ok(())
}

/// Sidecars on this machine, each with a GameServer of its own, until it is dropped.
struct Fleet {
    binary: PathBuf,
    sidecars: Vec<Child>,
    cgroup: Option<Cgroup>,
    game: Game,
    api: ApiServer,
    /// The mounted files, of which all share those of the service account; the configs and the log are beside them.
    pod: Pod,
    log: Log,
}

impl Fleet {
    fn new(binary: PathBuf) -> Self {
        let authority = Authority::new("cluster");
        let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
        let pod = Pod::new("", &authority.pem(), TOKEN);
        let log = Log::new(&pod.folder().join("log"));
        Self { binary, sidecars: Vec::new(), cgroup: Cgroup::new(), game: Game::start(), api, pod, log }
    }

    /// Starts as many more, as fast as the machine takes them, and waits for the first decision of each.
    fn grow_to(&mut self, size: usize) {
        for number in self.sidecars.len()..size {
            self.log.await_first_decisions((number + 1).saturating_sub(STARTING));
            let sidecar = self.start(number);
            self.sidecars.push(sidecar);
        }
        self.log.await_first_decisions(size);
    }

    fn start(&self, number: usize) -> Child {
        let (namespace, name) = (&self.pod.namespace, name(number));
        self.api.put(&game_server_path(namespace, &name), game_server(namespace, &name, POD_UID));
        let config = self.pod.folder().join(format!("{name}.yaml"));
        fs::write(&config, config_of(&self.game.url(number, number.is_multiple_of(SAMPLE))))
            .expect("the folder is writable");
        let mut command = match &self.cgroup {
            Some(cgroup) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(cgroup.members()).arg(&self.binary);
                shell
            }
            None => Command::new(&self.binary),
        };
        let api_server = self.api.address();
        command
            .arg("--config")
            .arg(config)
            .arg("--service-account-dir")
            .arg(self.pod.account_path())
            .env_clear()
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", namespace)
            .env("POD_UID", POD_UID)
            .env("KUBERNETES_SERVICE_HOST", api_server.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", api_server.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log.writer())
            .spawn()
            .expect("a sidecar starts")
    }

    /// In peace, and then through three changes of the sample.
    fn measure(&mut self, time: Duration) -> Row {
        // Until the last one has its rhythm.
        thread::sleep(INTERVAL);
        let connections = self.api.connections_accepted();
        self.game.forget();
        let began = Instant::now();
        let (cpu, game_cpu) = (self.cpu_time(), proc::cpu_time_of_all_threads(self.game.pid()));
        thread::sleep(time);
        // Reading them all takes as long as before, so that each one's time is this.
        let took = began.elapsed();
        let cpu = self.cpu_time() - cpu;
        let game_cpu = proc::cpu_time_of_all_threads(self.game.pid()) - game_cpu;
        let probes = self.game.probes_within(took);
        self.all_run();
        let (pss, cgroup) = (self.pss_kib(), self.cgroup.as_ref().map(|cgroup| cgroup.memory_bytes() as f64 / 1024.0));
        assert_eq!(self.api.connections_accepted(), connections, "a connection to the API server, and nothing changed");

        let size = self.sidecars.len();
        let mut off = off_the_interval(&probes, INTERVAL);
        assert_eq!(probes.len() - off.len(), size, "not every sidecar has probed");
        let mut arrived = self.change_the_sample();
        Row {
            sidecars: size,
            cpu: cpu.as_secs_f64() / took.as_secs_f64(),
            cpu_of_probe: cpu.div_f64(probes.len() as f64),
            pss: pss as f64 / size as f64,
            cgroup: cgroup.map(|cgroup| cgroup / size as f64),
            period_off: [0.5, 0.99, 1.0].map(|share| quantile(&mut off, share)),
            bunched: bunched(&probes, took),
            arrived: [0.5, 1.0].map(|share| quantile(&mut arrived, share)),
            changes: arrived.len(),
            game_cpu: game_cpu.as_secs_f64() / took.as_secs_f64(),
        }
    }

    /// Gives the time that each change took from the game to the GameServer.
    fn change_the_sample(&mut self) -> Vec<Duration> {
        let sample: Vec<String> = (0..self.sidecars.len())
            .step_by(SAMPLE)
            .map(|number| game_server_path(&self.pod.namespace, &name(number)))
            .collect();
        let before: Vec<usize> = sample.iter().map(|path| self.api.changes(path).len()).collect();
        let mut arrived = Vec::new();
        for (count, state) in (1..).zip(["Allocated", "WaitToBeDeleted", "None"]) {
            self.game.tell_sample(state);
            let told = Instant::now();
            for path in &sample {
                let is_in = || {
                    thread::sleep(Duration::from_millis(20));
                    self.api.text(path, "/spec/opsState").is_some_and(|now| now == state)
                };
                assert!(holds_within(ARRIVES, is_in), "{state} is not in at {path}");
            }
            for (path, before) in sample.iter().zip(&before) {
                let changes = self.api.changes(path);
                assert_eq!(changes.len(), before + count, "a change is one change of {path}");
                arrived.push(changes[changes.len() - 1].at - told);
            }
        }
        arrived
    }

    fn all_run(&mut self) {
        for (number, sidecar) in self.sidecars.iter_mut().enumerate() {
            let status = sidecar.try_wait().expect("a child can be waited for");
            assert!(status.is_none(), "{} has ended: {status:?}", name(number));
        }
        self.log.read();
    }

    fn cpu_time(&self) -> Duration {
        self.sidecars.iter().map(|sidecar| proc::cpu_time_of_first_thread(sidecar.id())).sum()
    }

    fn pss_kib(&self) -> u64 {
        self.sidecars.iter().map(|sidecar| proc::pss_kib(sidecar.id())).sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for sidecar in &mut self.sidecars {
            let _ = sidecar.kill();
        }
        for sidecar in &mut self.sidecars {
            let _ = sidecar.wait();
        }
    }
}

/// Of the Pod and its GameServer.
fn name(number: usize) -> String {
    format!("gs-{number}")
}

/// The three states and the times of the seed.
fn config_of(url: &str) -> String {
    let policies = ["None", "Allocated", "WaitToBeDeleted"]
        .map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}"))
        .join(", ");
    config(&[endpoint(url, "timeout: 5", &format!("markerPolices: [{policies}]"))])
        .replace("probeIntervalSeconds: 1", &format!("probeIntervalSeconds: {}", INTERVAL.as_secs()))
}

/// What all sidecars write to stderr, in one file.
struct Log {
    writer: File,
    reader: File,
    /// What was read of a line that is not complete.
    rest: Vec<u8>,
    first_decisions: usize,
}

impl Log {
    fn new(path: &Path) -> Self {
        let writer = File::options().create(true).append(true).open(path).expect("the folder is writable");
        let reader = File::open(path).expect("it was just made");
        Self { writer, reader, rest: Vec::new(), first_decisions: 0 }
    }

    fn writer(&self) -> File {
        self.writer.try_clone().expect("a descriptor is left")
    }

    fn await_first_decisions(&mut self, count: usize) {
        let all = holds_within(SOON, || {
            self.read();
            self.first_decisions >= count
        });
        assert!(all, "{} of {count} sidecars have written their first decision", self.first_decisions);
    }

    /// Reads what is new, and panics with the first warning.
    fn read(&mut self) {
        self.reader.read_to_end(&mut self.rest).expect("a file can be read");
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..complete).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            assert!(line.starts_with("INFO"), "{line}");
            self.first_decisions += usize::from(line.contains("opsState unknown -> None"));
        }
    }
}
