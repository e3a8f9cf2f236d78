//! What many sidecars cost a real API server, measured at kube-apiserver, against asking it every round; started by
//! `tests/scale.sh`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use stand_ins::control_plane::{Assets, Client, ControlPlane, Options, manifest, stage};
use stand_ins::scene::{config, endpoint};
use stand_ins::{Game, Pod, SidecarProcess, game_server, game_server_path, holds_within};

/// As in the seed's ConfigMap.
const INTERVAL: Duration = Duration::from_secs(5);

const NAMESPACE: &str = "scale";

/// Lines of the table that others are computed from.
const START: &str = "all start at once";
const CHANGE: &str = "one change each, all in a round";

/// The longest mean wait of a write whose attempts fail: half of 15 s, since the jitter is full (behaviour 4.5).
const MEAN_WAIT: Duration = Duration::from_millis(7500);

/// How the script was started.
struct Arguments {
    binary: PathBuf,
    sidecars: usize,
    seconds: u64,
    document: bool,
}

fn main() -> ExitCode {
    let Some(arguments) = parse() else {
        eprintln!("usage: scale --binary PATH [--sidecars N] [--seconds N] [--document]");
        return ExitCode::from(2);
    };
    let assets = match Assets::find() {
        Ok(assets) => assets,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let machine = measure::machine();
    let plane = ControlPlane::start(&assets, Options { audit: false });
    let (rows, idle) = measure(&plane, &arguments);
    let computed = computed(&rows, idle);
    println!("\n{computed}");
    if arguments.document {
        let lines: Vec<String> = rows.iter().map(|row| row.line(arguments.sidecars, idle)).collect();
        let how = format!(
            "{} sidecars with a round every {} s ({machine}); shares are of one core.",
            arguments.sidecars,
            INTERVAL.as_secs()
        );
        measure::write("scale", &format!("{how}\n\n{}\n{}\n\n{computed}", Row::HEAD, lines.join("\n")));
    }
    ExitCode::SUCCESS
}

fn parse() -> Option<Arguments> {
    let mut arguments = Arguments { binary: PathBuf::new(), sidecars: 200, seconds: 60, document: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => arguments.binary = fs::canonicalize(words.next()?).ok()?,
            "--sidecars" => arguments.sidecars = words.next()?.parse().ok().filter(|count| *count > 0)?,
            "--seconds" => arguments.seconds = words.next()?.parse().ok()?,
            "--document" => arguments.document = true,
            _ => return None,
        }
    }
    arguments.binary.is_file().then_some(arguments)
}

/// The lines of the table, and the share of a core that the API server takes when it has nothing to do.
fn measure(plane: &ControlPlane, arguments: &Arguments) -> (Vec<Row>, f64) {
    let time = Duration::from_secs(arguments.seconds);
    let game = Game::start();
    game.set(200, "None");
    let pods = pods(plane, &game, arguments.sidecars);
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{} sidecars, {} s to a round, kube-apiserver on loopback, {cores} cores shared with everything here\n",
        pods.len(),
        INTERVAL.as_secs()
    );
    println!("{}", Row::HEAD);
    let mut meter = Meter { plane, sidecars: pods.len(), idle: 0.0, rows: Vec::new() };

    // Whatever the start has left to do.
    thread::sleep(Duration::from_secs(10));
    meter.row("nobody there", || thread::sleep(time));
    meter.idle = meter.rows[0].share();

    let mut sidecars = Vec::new();
    meter.row(START, || {
        sidecars = pods.iter().map(|pod| sidecar(plane, &arguments.binary, pod)).collect();
        await_lines(&sidecars, "opsState unknown -> None");
    });
    meter.row("steady state", || thread::sleep(time));
    meter.row(CHANGE, || {
        game.set(200, "Allocated");
        await_lines(&sidecars, "opsState None -> Allocated");
    });
    meter.row("storm: a change each in every round", || storm(&game, ["WaitToBeDeleted", "Allocated"], time));
    plane.apply(&manifest::deploy("admission-policy/validating-admission-policy.yaml"));
    // It takes effect within a second or two.
    thread::sleep(Duration::from_secs(5));
    meter.row("the same under the admission policy", || storm(&game, ["None", "WaitToBeDeleted"], time));
    game.set(200, "None");
    let newest = || ops_states(plane).iter().all(|state| state == "None");
    assert!(holds_within(Duration::from_secs(300), newest), "not the newest state everywhere");
    for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
        plane.admin().delete(&format!("/apis/admissionregistration.k8s.io/v1/{kind}/okg-sidecar-own-object"));
    }

    let again = format!("resyncSeconds: {}\n      endpoints:", INTERVAL.as_secs());
    for pod in &pods {
        pod.update_config(&config_of(&game).replace("endpoints:", &again));
    }
    await_lines(&sidecars, "config reloaded");
    meter.row("instead: a resync in every round", || thread::sleep(time));
    let faults: Vec<String> = sidecars
        .iter()
        .flat_map(SidecarProcess::lines)
        .map(|line| line.text)
        .filter(|line| line.starts_with("WARN"))
        .collect();
    let memory: u64 = sidecars.iter().map(SidecarProcess::vm_hwm_kib).max().unwrap_or_default();
    drop(sidecars);

    let clients: Vec<Client> = pods.iter().map(|pod| plane.client(&token(pod), 1)).collect();
    meter.row("instead: a patch, connections kept", || patch_every_round(&clients, &pods, time));
    let api_server = plane.daemons().0.resident_kib() / 1024;
    println!("\nwarnings of all sidecars together: {}", faults.len());
    if let Some(line) = faults.first() {
        println!("such as: {line}");
    }
    println!("most memory of a sidecar: {memory} KiB; memory of kube-apiserver at the end: {api_server} MiB");
    (meter.rows, meter.idle)
}

/// What larger fleets cost, in Markdown: requests by the rules, CPU time by what a request took here.
fn computed(rows: &[Row], idle: f64) -> String {
    let mut table = String::from(
        "\
| pods | a start of all: requests, connections | CPU of kube-apiserver | a change of each: requests, connections | CPU of kube-apiserver | all have a change that fails: requests a second | all are let in again: requests a second at first |
|--:|--:|--:|--:|--:|--:|--:|
",
    );
    let cpu = |name: &str, requests: usize| {
        let row = rows.iter().find(|row| row.name == name).expect("it was measured");
        row.cpu_of_request(idle).map_or("-".to_owned(), |each| format!("{:.0} s", each.as_secs_f64() * requests as f64))
    };
    for pods in [1_000, 10_000, 100_000] {
        let failing = pods as f64 / MEAN_WAIT.as_secs_f64();
        let number = |value: f64| measure::with_commas(&format!("{value:.0}"));
        let both = format!("{}, {}", number(2.0 * pods as f64), number(pods as f64));
        let line = format!(
            "| {} | {both} | {} | {both} | {} | {} | {} |\n",
            number(pods as f64),
            cpu(START, 2 * pods),
            cpu(CHANGE, 2 * pods),
            number(failing),
            number(2.0 * failing),
        );
        table.push_str(&line);
    }
    table
}

/// The GameServers and the mounted files, with tokens bound to Pods.
fn pods(plane: &ControlPlane, game: &Game, count: usize) -> Vec<Pod> {
    let config = config_of(game);
    plane.create_namespace(NAMESPACE);
    plane.apply_all(&manifest::in_namespace("rbac/rbac.yaml", NAMESPACE));
    (0..count)
        .map(|index| {
            let name = format!("gs-{index}");
            let uid = stage::create_pod(plane, NAMESPACE, &name, stage::TANK_WAR);
            let path = game_server_path(NAMESPACE, &name);
            let (collection, _) = path.rsplit_once('/').expect("a path has slashes");
            plane.admin().create(collection, stage::CONTROLLER, &game_server(NAMESPACE, &name, &uid));
            let token = plane.token(NAMESPACE, Some((&name, &uid)));
            let mut pod = Pod::new(&config, &plane.authority_pem(), &token);
            pod.name = name;
            NAMESPACE.clone_into(&mut pod.namespace);
            pod
        })
        .collect()
}

/// The three states and the times of the seed.
fn config_of(game: &Game) -> String {
    let policies = ["None", "Allocated", "WaitToBeDeleted"]
        .map(|state| format!("{{state: {state}, gameServerOpsState: {state}}}"))
        .join(", ");
    config(&[endpoint(&game.url("/"), "timeout: 5", &format!("markerPolices: [{policies}]"))])
        .replace("probeIntervalSeconds: 1", &format!("probeIntervalSeconds: {}", INTERVAL.as_secs()))
}

/// Of every GameServer.
fn ops_states(plane: &ControlPlane) -> Vec<String> {
    let list = plane.admin().get(&format!("/apis/game.kruise.io/v1alpha1/namespaces/{NAMESPACE}/gameservers"));
    let servers = list["items"].as_array().into_iter().flatten();
    servers.map(|server| server["spec"]["opsState"].as_str().unwrap_or_default().to_owned()).collect()
}

fn token(pod: &Pod) -> String {
    fs::read_to_string(pod.account_path().join("token")).expect("the volume has a token")
}

fn sidecar(plane: &ControlPlane, binary: &Path, pod: &Pod) -> SidecarProcess {
    SidecarProcess::builder(binary)
        .pod(pod)
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", plane.port().to_string())
        .start()
}

/// Waits until each has logged `text`. Nobody asks the API server meanwhile.
fn await_lines(sidecars: &[SidecarProcess], text: &str) {
    let mut done = 0;
    let all = holds_within(Duration::from_secs(300), || {
        thread::sleep(Duration::from_millis(50));
        while sidecars.get(done).is_some_and(|sidecar| sidecar.count_lines(text) > 0) {
            done += 1;
        }
        done == sidecars.len()
    });
    assert!(all, "{done} of {} said {text}: {}", sidecars.len(), sidecars[done].stderr());
}

/// Another state at the beat of the rounds, so that each sidecar finds one in each of its rounds.
fn storm(game: &Game, states: [&str; 2], time: Duration) {
    let began = Instant::now();
    for (round, state) in (1..).zip(states.into_iter().cycle()) {
        if began.elapsed() >= time {
            break;
        }
        game.set(200, state);
        thread::sleep((INTERVAL * round).saturating_sub(began.elapsed()));
    }
}

/// What a client with a connection pool and without memory does: a patch in every round, spread evenly over it.
fn patch_every_round(clients: &[Client], pods: &[Pod], time: Duration) {
    const HANDS: usize = 16;
    let pause = INTERVAL.div_f64(clients.len() as f64);
    let patches = (time.as_secs_f64() / pause.as_secs_f64()) as usize;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= patches {
                        break;
                    }
                    let due = pause.mul_f64(number as f64);
                    thread::sleep(due.saturating_sub(began.elapsed()));
                    let at = number % clients.len();
                    let path = game_server_path(NAMESPACE, &pods[at].name);
                    let patch = json!({"spec": {"opsState": "None"}});
                    clients[at].merge_patch(&path, "okg-sidecar", &patch).ok();
                }
            });
        }
    });
}

/// Reads the API server before and after.
struct Meter<'a> {
    plane: &'a ControlPlane,
    sidecars: usize,
    /// The share of a core that the API server takes when it has nothing to do.
    idle: f64,
    /// So far.
    rows: Vec<Row>,
}

/// One line of the table.
struct Row {
    name: String,
    took: Duration,
    requests: u64,
    refused: u64,
    connections: usize,
    api_server: Duration,
    etcd: Duration,
}

impl Meter<'_> {
    /// Adds a line to the table, and prints it.
    fn row(&mut self, name: &str, during: impl FnOnce()) {
        let (api_server, etcd) = self.plane.daemons();
        let (requests, refused) = (self.requests(), self.refused());
        let cpu = (api_server.cpu_time(), etcd.cpu_time());
        let began = Instant::now();
        let over = AtomicBool::new(false);
        let port = self.plane.port();
        let connections = thread::scope(|scope| {
            let most = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(connections_to(port));
                    thread::sleep(Duration::from_millis(100));
                }
                most
            });
            during();
            over.store(true, Ordering::Relaxed);
            most.join().expect("it only reads a file")
        });
        let took = began.elapsed();
        let row = Row {
            name: name.to_owned(),
            took,
            connections,
            api_server: api_server.cpu_time() - cpu.0,
            etcd: etcd.cpu_time() - cpu.1,
            requests: self.requests() - requests,
            refused: self.refused() - refused,
        };
        println!("{}", row.line(self.sidecars, self.idle));
        self.rows.push(row);
    }

    /// How many patches of GameServers it has answered, those that only read included.
    fn requests(&self) -> u64 {
        self.answers(|_| true)
    }

    /// How many of them with something else than a success; 429 if it has too much to do.
    fn refused(&self) -> u64 {
        self.answers(|line| !line.contains("code=\"200\""))
    }

    fn answers(&self, of_kind: impl Fn(&str) -> bool) -> u64 {
        let metrics = self.plane.admin().send("GET", "/metrics", &[], None).text;
        metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"))
            .filter(|line| line.contains("resource=\"gameservers\"") && line.contains("verb=\"PATCH\""))
            .filter(|line| of_kind(line))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>() as u64
    }
}

/// How many connections the port has that are established, seen from its own end. The API server has none to itself here
/// but one or two.
fn connections_to(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let own_end = format!("0100007F:{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .map(|table| {
            let table = fs::read_to_string(table).unwrap_or_default();
            let established = |line: &&str| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields.get(1).is_some_and(|local| local.ends_with(&own_end)) && fields.get(3) == Some(&ESTABLISHED)
            };
            table.lines().filter(established).count()
        })
        .sum()
}

impl Row {
    const HEAD: &'static str = "\
|                                         |     s | requests | a sidecar | refused | a s and 1000 pods | connections, most | kube-apiserver, CPU | CPU a request | etcd, CPU |
|-----------------------------------------|------:|---------:|----------:|--------:|------------------:|------------------:|--------------------:|--------------:|----------:|";

    /// Of a core, by the API server.
    fn share(&self) -> f64 {
        self.api_server.as_secs_f64() / self.took.as_secs_f64()
    }

    /// What a request took of the API server beyond what it takes when it has nothing to do.
    fn cpu_of_request(&self, idle: f64) -> Option<Duration> {
        let idle = self.took.mul_f64(idle);
        (self.requests > 0).then(|| self.api_server.saturating_sub(idle).div_f64(self.requests as f64))
    }

    fn line(&self, sidecars: usize, idle: f64) -> String {
        let Self { name, took, requests, refused, connections, api_server, etcd } = self;
        let seconds = took.as_secs_f64();
        let share = |cpu: &Duration| format!("{:.1} %", 100.0 * cpu.as_secs_f64() / seconds);
        let each = *requests as f64 / sidecars as f64;
        let rate = each / seconds * 1000.0;
        let cost =
            self.cpu_of_request(idle).map_or("-".to_owned(), |each| format!("{:.1} ms", each.as_secs_f64() * 1e3));
        format!(
            "| {name:<39} | {seconds:>5.1} | {requests:>8} | {each:>9.1} | {refused:>7} | {rate:>17.1} | {connections:>17} | {:>19} | {cost:>13} | {:>9} |",
            share(api_server),
            share(etcd),
        )
    }
}
