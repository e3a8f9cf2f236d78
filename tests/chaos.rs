//! The chaos run: `cargo test --test chaos -- --minutes N --seed S`. Random faults on all sides at once (the game, its
//! health, the API server, the mounted files, the objects, the process itself) against the real binary, which probes
//! every second. The seed fixes which faults come in which order; when they come depends on the machine as well. First
//! each kind comes once, then any. At the end the faults stop, and then everything must be right again.

mod support;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use support::scene::{self, config, endpoint};
use support::sidecar::Line;
use support::{
    Authority, Behaviour, BlackHole, Fault, Game, POD_UID, Reached, SOON, Scene, ServerCertificate, SidecarProcess,
    Signal, TOKEN, game_server, pod_path,
};

/// How often the process is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What the room can say, beside the faults.
const STATES: [&str; 3] = ["None", "Allocated", "WaitToBeDeleted"];

/// After the last fault the longest wait is a Retry-After of 120 s.
const RECOVERY: Duration = Duration::from_secs(150);

/// The longest that nothing may be probed: an API server that hangs takes 10 s, two endpoints 2 s, a stop 4 s, and then
/// the next round is a second away.
const LONGEST_SILENCE: Duration = Duration::from_secs(25);

/// Open sockets and files of one probe or one patch.
const MOST_DESCRIPTORS_IN_USE: usize = 4;

/// What VmHWM may add in the second half, when every kind of fault has been seen: a few pages of a peak that had not been.
/// In the first ten minutes the heap takes some 200 KiB until its holes fit what is asked of it.
const MOST_GROWTH_KIB: u64 = 256;

/// The most of VmHWM, well below the memory limit of SPEC 7.1.
const MOST_VM_HWM_KIB: u64 = 3072;

/// Lines beside those that each change of a state, each config and each unusable file is told in: SPEC 7.4 bounds each of
/// six episodes to ten starts and ten ends in five minutes, and they may all come in one of them.
const MOST_LINES_A_MINUTE: usize = 120;

/// Faults that are told again within five minutes while they last. Seldom the cause changes twice, and only the change
/// back falls into a new five minutes.
const MOST_REPEATED: usize = 3;

/// What a pipe takes in one piece. A longer line was cut, and the next one stands behind it.
const MOST_LINE_BYTES: usize = 4096;

/// Faults of a game.
const GAME: [&str; 22] = [
    "unknown result",
    "status 500",
    "redirect",
    "not UTF-8",
    "SSH banner",
    "status 000",
    "two lengths",
    "half a header",
    "a terabyte announced",
    "no length, held",
    "huge body",
    "dripped headers",
    "dripped body",
    "endless body",
    "endless chunks",
    "endless headers",
    "endless 1xx",
    "closed at once",
    "reset",
    "no answer",
    "late answer",
    "game gone",
];

/// Faults of the API server.
const API: [&str; 28] = [
    "dropped before TLS",
    "dropped after TLS",
    "hangs before TLS",
    "hangs after the request",
    "applied, then dropped",
    "slow",
    "dripped response",
    "endless answer",
    "endless headers",
    "huge answer",
    "no HTTP",
    "status 500",
    "503, Retry-After 1",
    "503, Retry-After -1",
    "503, Retry-After a date",
    "429, Retry-After 3",
    "429, Retry-After 10^9",
    "status 400",
    "status 401",
    "status 403",
    "Pods forbidden",
    "status 404",
    "status 409",
    "status 422",
    "redirect",
    "server gone",
    "another's certificate",
    "long outage",
];

/// Faults of the mounted files.
const FILES: [&str; 13] = [
    "token renewed",
    "token renewed late",
    "token emptied",
    "token gone",
    "CA renewed",
    "CA bundle",
    "CA truncated",
    "CA emptied",
    "account volume empty",
    "another config",
    "broken config",
    "oversized config",
    "config gone",
];

/// What others do to the objects.
const OBJECTS: [&str; 6] = [
    "matchmaker's edit",
    "operator's Maintaining",
    "controller's edit",
    "pod edited",
    "GameServer recreated",
    "previous pod's GameServer",
];

/// What is done to the process.
const PROCESS: [&str; 1] = ["stopped and continued"];

fn main() -> ExitCode {
    let Some((minutes, seed)) = parse() else {
        eprintln!("usage: cargo test --test chaos -- [--minutes N] [--seed S]");
        return ExitCode::from(2);
    };
    println!("chaos: {minutes} minutes, seed {seed}, {}", scene::binary().display());
    // What the support module finds wrong it tells by a panic.
    let run = panic::catch_unwind(AssertUnwindSafe(|| run(minutes, seed)));
    let failures = run.unwrap_or_else(|_| vec!["it panicked, see above".to_owned()]);
    if failures.is_empty() {
        println!("passed with seed {seed}");
        return ExitCode::SUCCESS;
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("failed with seed {seed}");
    ExitCode::FAILURE
}

fn parse() -> Option<(f64, u64)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let (mut minutes, mut seed) = (2.0, u64::from(now.subsec_nanos()));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => minutes = words.next()?.parse().ok().filter(|minutes| *minutes > 0.0)?,
            "--seed" => seed = words.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((minutes, seed))
}

fn run(minutes: f64, seed: u64) -> Vec<String> {
    let mut chaos = Chaos::new(minutes, seed);
    chaos.rage();
    chaos.calm();
    let recovery = chaos.recover();
    chaos.judge(recovery)
}

/// splitmix64, so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.roll() % count as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.roll() % (most - least))
    }
}

/// One side that faults come from, with dice of its own: what it does does not depend on the others' pace.
struct Side {
    name: &'static str,
    kinds: &'static [&'static str],
    dice: Dice,
    /// Kinds that have not come yet.
    unseen: Vec<&'static str>,
    seen: BTreeMap<&'static str, usize>,
    /// The fault that is on; none in between.
    current: Option<&'static str>,
    next: Instant,
}

impl Side {
    fn new(name: &'static str, kinds: &'static [&'static str], seed: u64) -> Self {
        let salt = name.bytes().fold(seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(byte.into()));
        let mut dice = Dice(salt);
        let mut unseen = kinds.to_vec();
        for index in (1..unseen.len()).rev() {
            unseen.swap(index, dice.below(index + 1));
        }
        Self { name, kinds, dice, unseen, seen: BTreeMap::new(), current: None, next: Instant::now() }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    fn begin(&mut self) -> &'static str {
        let kind = self.unseen.pop().unwrap_or_else(|| self.dice.one_of(self.kinds));
        *self.seen.entry(kind).or_default() += 1;
        self.current = Some(kind);
        kind
    }

    fn wait(&mut self, least_ms: u64, most_ms: u64) {
        self.next = Instant::now() + self.dice.millis(least_ms, most_ms);
    }
}

/// What the process was seen to take.
#[derive(Default)]
struct Samples {
    count: usize,
    most_threads: u64,
    least_descriptors: usize,
    most_descriptors: usize,
    /// VmHWM and RssAnon after half of the time, when every kind of fault had come.
    first: Option<(u64, u64)>,
    last_vm_hwm: u64,
    last_rss_anon: u64,
}

struct Chaos {
    began: Instant,
    ends: Instant,
    lasts: Duration,
    scene: Scene,
    health: Game,
    black_hole: BlackHole,
    sidecar: SidecarProcess,
    sides: [Side; 6],
    samples: Samples,
    /// What is true once a fault of it is over.
    tokens: Vec<String>,
    authority: Authority,
    certificate: ServerCertificate,
    config: String,
    serves_anothers_certificate: Option<Instant>,
    /// From and to.
    anothers_certificate: Vec<(Instant, Instant)>,
    /// How many attempts there had been when the API server's fault began.
    attempts_before: usize,
    wanted_attempts: usize,
    fault_ends: Instant,
    config_changes: usize,
    file_changes: usize,
}

const ROOM: usize = 0;
const HEALTH: usize = 1;
const API_SERVER: usize = 2;
const MOUNTED: usize = 3;
const STORED: usize = 4;
const CHILD: usize = 5;

impl Chaos {
    fn new(minutes: f64, seed: u64) -> Self {
        let scene = Scene::new();
        let health = Game::start();
        health.set(200, "ok");
        let black_hole = BlackHole::new();
        let first = configs(&scene, &health, &black_hole).swap_remove(RESYNCING);
        scene.pod.update_config(&first);
        // Everything that it could ever say; how much of it would be said at `info` is counted.
        let sidecar = scene.sidecar().log("trace").start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        let authority = Authority::new("cluster");
        let certificate = authority.loopback_certificate();
        let began = Instant::now();
        let lasts = Duration::from_secs_f64(minutes * 60.0);
        let mut chaos = Self {
            began,
            ends: began + lasts,
            lasts,
            health,
            black_hole,
            sidecar,
            sides: [
                Side::new("room", &GAME, seed),
                Side::new("health", &GAME, seed),
                Side::new("API server", &API, seed),
                Side::new("files", &FILES, seed),
                Side::new("objects", &OBJECTS, seed),
                Side::new("process", &PROCESS, seed),
            ],
            samples: Samples { least_descriptors: usize::MAX, ..Samples::default() },
            tokens: vec![TOKEN.to_owned()],
            authority,
            certificate,
            config: first,
            serves_anothers_certificate: None,
            anothers_certificate: Vec::new(),
            attempts_before: 0,
            wanted_attempts: 0,
            fault_ends: began,
            config_changes: 0,
            file_changes: 0,
            scene,
        };
        chaos.trust_truth();
        // Early, since it alone shows a storm, and a short run does not come to each kind.
        let unseen = &mut chaos.sides[API_SERVER].unseen;
        unseen.retain(|kind| *kind != "long outage");
        unseen.insert(unseen.len() - 2, "long outage");
        chaos
    }

    /// Faults on all sides, until the time is over.
    fn rage(&mut self) {
        let mut minute = 0;
        while Instant::now() < self.ends {
            self.act_on_room();
            self.act_on_health();
            self.act_on_api_server();
            self.act_on_files();
            self.act_on_objects();
            self.act_on_process();
            self.sample();
            let elapsed = self.began.elapsed().as_secs() / 60;
            if elapsed > minute {
                minute = elapsed;
                let faults: usize = self.sides.iter().flat_map(|side| side.seen.values()).sum();
                println!(
                    "minute {minute}: {faults} faults, VmHWM {} KiB, RssAnon {} KiB, {} connections to the API server",
                    self.samples.last_vm_hwm,
                    self.samples.last_rss_anon,
                    self.scene.api.connections_accepted(),
                );
            }
            thread::sleep(TICK);
        }
    }

    fn sample(&mut self) {
        if !self.sidecar.is_running() {
            self.sidecar.fail("it has ended");
        }
        let every_kind_came = self.sides.iter().all(|side| side.unseen.is_empty());
        let elapsed = self.began.elapsed();
        let samples = &mut self.samples;
        samples.count += 1;
        samples.most_threads = samples.most_threads.max(self.sidecar.threads());
        let descriptors = self.sidecar.open_fds();
        samples.least_descriptors = samples.least_descriptors.min(descriptors);
        samples.most_descriptors = samples.most_descriptors.max(descriptors);
        samples.last_vm_hwm = self.sidecar.vm_hwm_kib();
        samples.last_rss_anon = self.sidecar.proc_status("RssAnon");
        let warm = (every_kind_came && elapsed >= self.lasts / 2) || elapsed > self.lasts.mul_f64(0.7);
        if samples.first.is_none() && warm {
            samples.first = Some((samples.last_vm_hwm, samples.last_rss_anon));
        }
    }

    fn act_on_room(&mut self) {
        let side = &mut self.sides[ROOM];
        if !side.is_due() {
            return;
        }
        if side.current.take() == Some("game gone") {
            self.scene.game.start_again();
        }
        // States in between, so that there is always something to lose.
        if side.dice.below(5) < 3 {
            self.scene.game.set(200, side.dice.one_of(&STATES));
        } else {
            misbehave(side.begin(), &self.scene.game);
        }
        side.wait(700, 1800);
    }

    fn act_on_health(&mut self) {
        let side = &mut self.sides[HEALTH];
        if !side.is_due() {
            return;
        }
        match side.current.take() {
            Some(kind) => {
                if kind == "game gone" {
                    self.health.start_again();
                }
                self.health.set(200, "ok");
                side.wait(300, 2500);
            }
            None => {
                misbehave(side.begin(), &self.health);
                side.wait(700, 3000);
            }
        }
    }

    fn act_on_api_server(&mut self) {
        let attempts = self.scene.api.connections_accepted();
        let now = Instant::now();
        if self.sides[API_SERVER].current.is_some() {
            // It stays until it was met, or has been there for long.
            let met = attempts >= self.attempts_before + self.wanted_attempts && self.wanted_attempts > 0;
            if met || now >= self.fault_ends {
                self.end_api_fault();
                self.sides[API_SERVER].wait(100, 1500);
            }
            return;
        }
        let side = &self.sides[API_SERVER];
        // Failures in a row make waits long and faults rare, so that a write may succeed in between.
        let patience = Duration::from_secs(if side.unseen.is_empty() { 20 } else { 4 });
        let recovered = now >= self.fault_ends + patience || self.patched_since(self.fault_ends);
        if side.is_due() && recovered {
            self.begin_api_fault(attempts);
        }
    }

    fn begin_api_fault(&mut self, attempts: usize) {
        let side = &mut self.sides[API_SERVER];
        let mut kind = side.begin();
        // It costs two minutes of silence, and is seldom worth them.
        while kind == "429, Retry-After 10^9" && (self.lasts < Duration::from_secs(600) || side.dice.below(8) > 0) {
            side.seen.entry(kind).and_modify(|count| *count -= 1);
            kind = side.begin();
        }
        self.attempts_before = attempts;
        self.wanted_attempts = 1 + side.dice.below(2);
        let mut most = side.dice.millis(2000, 6000);
        let status = |status| Fault::status(status, "of the chaos run \u{1b}[31m\nINFO forged");
        let retry = |status, after| Fault::status_with(status, &[("Retry-After", after)], "not now");
        let fault = match kind {
            "dropped before TLS" => Some(Fault::DropBeforeTls),
            "dropped after TLS" => Some(Fault::DropAfterTls),
            "hangs before TLS" => Some(Fault::HangBeforeTls),
            "hangs after the request" => Some(Fault::HangAfterRequest),
            "applied, then dropped" => Some(Fault::ApplyThenDrop),
            "slow" => Some(Fault::Slow(Duration::from_millis(1500))),
            "dripped response" => Some(Fault::DripResponse(Duration::from_millis(2))),
            "endless answer" => Some(Fault::EndlessBody),
            "endless headers" => Some(Fault::EndlessHeaders),
            "huge answer" => Some(Fault::HugeBody(4 << 20)),
            "no HTTP" => Some(Fault::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
            "status 500" => Some(status(500)),
            "503, Retry-After 1" => Some(retry(503, "1")),
            "503, Retry-After -1" => Some(retry(503, "-1")),
            "503, Retry-After a date" => Some(retry(503, "Wed, 21 Oct 2065 07:28:00 GMT")),
            "429, Retry-After 3" => Some(retry(429, "3")),
            "429, Retry-After 10^9" => Some(retry(429, "1000000000")),
            "status 400" => Some(status(400)),
            "status 401" => Some(status(401)),
            "status 404" => Some(status(404)),
            "status 409" => Some(status(409)),
            "status 422" => Some(status(422)),
            "redirect" => Some(Fault::Answer {
                status: 302,
                headers: vec![("Location".to_owned(), self.scene.game.url("/stolen"))],
                body: String::new(),
            }),
            "long outage" => {
                most = Duration::from_secs(20);
                self.wanted_attempts = 0;
                Some(status(503))
            }
            "status 403" => {
                self.scene.api.allow_only(&[]);
                None
            }
            "Pods forbidden" => {
                self.scene.api.allow_only(&[("get", "gameservers"), ("patch", "gameservers")]);
                most = Duration::from_secs(10);
                self.wanted_attempts = 0;
                None
            }
            "server gone" => {
                self.scene.api.stop();
                self.wanted_attempts = 0;
                None
            }
            _ => {
                assert_eq!(kind, "another's certificate");
                self.scene.api.serve_certificate(&Authority::new("cluster").loopback_certificate());
                self.serves_anothers_certificate = Some(Instant::now());
                // Longer than the last moment of it, which is not judged.
                most += Duration::from_secs(2);
                self.wanted_attempts = 0;
                None
            }
        };
        self.scene.api.always(fault);
        self.fault_ends = Instant::now() + most;
    }

    fn end_api_fault(&mut self) {
        match self.sides[API_SERVER].current.take() {
            Some("server gone") => self.scene.api.start_again(),
            Some("status 403" | "Pods forbidden") => self.scene.api.allow_everything(),
            Some("another's certificate") => {
                let since = self.serves_anothers_certificate.take();
                self.anothers_certificate.extend(since.map(|since| (since, Instant::now())));
                self.scene.api.serve_certificate(&self.certificate);
            }
            _ => {}
        }
        self.scene.api.always(None);
        self.fault_ends = Instant::now();
    }

    fn act_on_files(&mut self) {
        let side = &mut self.sides[MOUNTED];
        if !side.is_due() {
            return;
        }
        if side.current.take().is_some() {
            side.wait(100, 1500);
            self.restore_files();
            return;
        }
        let kind = side.begin();
        side.wait(500, 2500);
        let pod = &self.scene.pod;
        self.file_changes += 1;
        match kind {
            "token renewed" | "token renewed late" => {
                let token = format!("{TOKEN}-{}", self.tokens.len());
                self.scene.api.accept_token(&token);
                if kind == "token renewed" {
                    pod.rotate_token(&token);
                }
                if let Some(old) = self.tokens.last() {
                    self.scene.api.refuse_token(old);
                }
                self.tokens.push(token);
            }
            "token emptied" => pod.rotate_token("\n"),
            "token gone" => pod.account.remove("token"),
            "CA renewed" => {
                self.authority = Authority::new("cluster");
                self.certificate = self.authority.loopback_certificate();
                self.trust_truth();
            }
            "CA bundle" => pod.set_ca(&format!("{}{}", Authority::new("other").pem(), self.authority.pem())),
            "CA truncated" => pod.set_ca(&self.authority.pem()[..200]),
            "CA emptied" => pod.set_ca(""),
            "account volume empty" => pod.account.clear(),
            "another config" => {
                let mut configs = configs(&self.scene, &self.health, &self.black_hole);
                self.config = configs.swap_remove(self.sides[MOUNTED].dice.below(configs.len()));
                self.config_changes += 1;
                pod.update_config(&self.config);
            }
            "broken config" => {
                self.config_changes += 1;
                let cut = self.config.len() / 2;
                let many_problems = format!(
                    "plugins: [{{name: http_probe, config: {{endpoints: [{}]}}}}]",
                    "{url: 'not a URL', timeout: 0}, ".repeat(60),
                );
                let broken = [
                    many_problems.as_str(),
                    "plugins: [",
                    "plugins: []",
                    "probeIntervalSeconds: 1",
                    &self.config[..cut],
                    "\u{0}",
                    "a: &a [*a]",
                ];
                pod.update_config(self.sides[MOUNTED].dice.one_of(&broken));
            }
            "oversized config" => {
                self.config_changes += 1;
                pod.update_config(&"[".repeat(1 << 20));
            }
            _ => {
                assert_eq!(kind, "config gone");
                self.config_changes += 1;
                pod.config.remove("config.yaml");
            }
        }
    }

    /// The authority changes on both sides.
    fn trust_truth(&mut self) {
        self.scene.pod.set_ca(&self.authority.pem());
        if self.serves_anothers_certificate.is_none() {
            self.scene.api.serve_certificate(&self.certificate);
        }
    }

    fn restore_files(&self) {
        let pod = &self.scene.pod;
        pod.account.update("namespace", &pod.namespace);
        pod.rotate_token(self.tokens.last().map_or("", String::as_str));
        pod.set_ca(&self.authority.pem());
        pod.update_config(&self.config);
    }

    fn act_on_objects(&mut self) {
        let side = &mut self.sides[STORED];
        if !side.is_due() {
            return;
        }
        let (api, path) = (&self.scene.api, self.scene.path());
        let pod = &self.scene.pod;
        match side.current.take() {
            Some("GameServer recreated" | "previous pod's GameServer") => {
                api.put(&path, game_server(&pod.namespace, &pod.name, POD_UID));
                side.wait(2000, 6000);
                return;
            }
            Some("operator's Maintaining") => {
                api.edit(&path, "operator", |object| object["spec"]["opsState"] = json!("None"));
                side.wait(2000, 6000);
                return;
            }
            _ => {}
        }
        let roll = side.dice.roll();
        match side.begin() {
            "matchmaker's edit" => {
                let state = side.dice.one_of(&STATES);
                api.edit(&path, "matchmaker", |object| object["spec"]["opsState"] = json!(state));
            }
            "operator's Maintaining" => {
                api.edit(&path, "operator", |object| object["spec"]["opsState"] = json!("Maintaining"));
            }
            "controller's edit" => {
                api.edit(&path, "manager", |object| object["status"]["seen"] = json!(roll));
            }
            "pod edited" => {
                let edit = |object: &mut Value| object["metadata"]["labels"]["theirs"] = json!(roll.to_string());
                api.edit(&pod_path(&pod.namespace, &pod.name), "kubelet", edit);
            }
            "GameServer recreated" => api.remove(&path),
            _ => api.put(&path, game_server(&pod.namespace, &pod.name, "00000000-0000-0000-0000-000000000000")),
        }
        // Not for long, since writes in vain make the waits long.
        side.wait(300, 1500);
    }

    fn act_on_process(&mut self) {
        let side = &mut self.sides[CHILD];
        if !side.is_due() {
            return;
        }
        if side.current.take().is_some() {
            self.sidecar.signal(Signal::CONT);
            side.wait(4000, 15_000);
        } else {
            side.begin();
            self.sidecar.signal(Signal::STOP);
            side.wait(100, 4000);
        }
    }

    /// No fault from here on.
    fn calm(&mut self) {
        if self.sides[CHILD].current.take().is_some() {
            self.sidecar.signal(Signal::CONT);
        }
        self.end_api_fault();
        for (side, game) in [(ROOM, &self.scene.game), (HEALTH, &self.health)] {
            if self.sides[side].current.take() == Some("game gone") {
                game.start_again();
            }
        }
        self.scene.game.set(200, "None");
        self.health.set(200, "ok");
        self.config = configs(&self.scene, &self.health, &self.black_hole).swap_remove(PLAIN);
        self.restore_files();
        let pod = &self.scene.pod;
        self.scene.api.put(&self.scene.path(), game_server(&pod.namespace, &pod.name, POD_UID));
    }

    /// Whether the GameServer has been patched since then.
    fn patched_since(&self, then: Instant) -> bool {
        let requests = self.scene.api.requests();
        requests.iter().rev().take_while(|request| request.at > then).any(|request| {
            request.method == "PATCH" && request.path() == self.scene.path() && request.answered == Some(200)
        })
    }

    /// Lets the room go through its states until one of them is written, and then demands the next one at once. Gives how
    /// long the first took.
    fn recover(&mut self) -> Result<Duration, String> {
        let calm_since = Instant::now();
        let written = |chaos: &Self| chaos.patched_since(calm_since);
        // What was acknowledged last is not written again (SPEC 4.3), so that one state alone might wait for ever.
        let mut states = STATES.iter().cycle();
        while !written(self) {
            if calm_since.elapsed() > RECOVERY {
                return Err(format!("nothing was written within {RECOVERY:?} after the last fault"));
            }
            self.scene.game.set(200, *states.next().expect("a cycle has no end"));
            let hold = Instant::now() + Duration::from_secs(4);
            while Instant::now() < hold && !written(self) {
                self.sample();
                thread::sleep(TICK);
            }
        }
        let took = calm_since.elapsed();
        for state in STATES.iter().chain(&STATES) {
            self.scene.game.set(200, *state);
            let arrived = || self.scene.ops_state() == *state;
            if !support::holds_within(Duration::from_secs(10), arrived) {
                return Err(format!("the GameServer has {}, the game says {state}", self.scene.ops_state()));
            }
            self.sample();
        }
        Ok(took)
    }

    /// Prints the figures, and gives what is wrong with them.
    fn judge(mut self, recovery: Result<Duration, String>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut demand = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };

        // At rest it costs nothing (SPEC 4.3, 7.4), once it has told the last change.
        thread::sleep(Duration::from_secs(2));
        let (attempts_before, lines_before) =
            (self.scene.api.connections_accepted(), told(&self.sidecar.lines()).len());
        let rest = Instant::now() + Duration::from_secs(4);
        while Instant::now() < rest {
            self.sample();
            thread::sleep(TICK);
        }
        let attempts_at_rest = self.scene.api.connections_accepted() - attempts_before;
        demand(attempts_at_rest == 0, format!("{attempts_at_rest} connections to the API server at rest"));
        let lines = self.sidecar.lines();
        let lines_at_rest = told(&lines).len() - lines_before;
        demand(lines_at_rest == 0, format!("{lines_at_rest} lines at rest"));
        let idle = || self.sidecar.open_fds() == self.samples.least_descriptors;
        demand(support::holds_within(SOON, idle), "descriptors are left open".into());
        self.sidecar.signal(Signal::TERM);
        let exit = self.sidecar.wait_exit(SOON);
        demand(exit.code() == Some(0), format!("ended with {}", exit.status));

        match &recovery {
            Ok(_) => {}
            Err(what) => demand(false, what.clone()),
        }
        let samples = &self.samples;
        demand(samples.most_threads == 1, format!("{} threads", samples.most_threads));
        let in_use = samples.most_descriptors - samples.least_descriptors;
        demand(in_use <= MOST_DESCRIPTORS_IN_USE, format!("{in_use} descriptors in use at once"));
        let (first_vm_hwm, first_rss_anon) = samples.first.unwrap_or_default();
        let growth = samples.last_vm_hwm.saturating_sub(first_vm_hwm);
        demand(growth <= MOST_GROWTH_KIB, format!("VmHWM grew by {growth} KiB, from {first_vm_hwm} KiB"));
        let peak = samples.last_vm_hwm;
        demand(peak <= MOST_VM_HWM_KIB, format!("VmHWM came to {peak} KiB"));

        let leaked = lines.iter().find(|line| line.text.contains(TOKEN));
        demand(leaked.is_none(), format!("the token is in the log: {leaked:?}"));
        let forged = lines.iter().find(|line| line.text.starts_with("INFO forged") || line.text.contains('\u{1b}'));
        demand(forged.is_none(), format!("a forged line is in the log: {forged:?}"));
        let glued = lines.iter().find(|line| line.text.len() > MOST_LINE_BYTES);
        demand(glued.is_none(), format!("a line without an end is in the log: {glued:?}"));
        let silence = longest_silence(&lines);
        demand(silence <= LONGEST_SILENCE, format!("nothing was probed for {silence:?}"));

        let (room, health) = (self.scene.game.requests(), self.health.requests());
        for (name, probes) in [("room", &room), ("health", &health)] {
            let times: Vec<Instant> = probes.iter().map(|probe| probe.at).collect();
            for millis in [500, 3000, 10_000, 60_000] {
                // One for each second of the grid that the window touches; and in one round the other endpoint may have
                // taken its second, in the next not.
                let most = most_within(&times, Duration::from_millis(millis));
                let bound = (millis / 1000) as usize + 2;
                demand(most <= bound, format!("{most} probes of the {name} within {millis} ms"));
            }
            let stolen = probes.iter().find(|probe| probe.method != "GET" || probe.header("Authorization").is_some());
            demand(stolen.is_none(), format!("the {name} was asked {stolen:?}"));
        }

        let requests = self.scene.api.requests();
        let attempts = self.scene.api.attempts();
        let patches: Vec<_> = requests.iter().filter(|request| request.method == "PATCH").collect();
        let foreign = patches.iter().find(|patch| !is_one_of_ours(&patch.json()));
        demand(foreign.is_none(), format!("a patch that nothing asked for: {foreign:?}"));
        for (from, to) in &self.anothers_certificate {
            // An attempt that is accepted at the very end may still meet the true one.
            let window = *from..to.checked_sub(Duration::from_millis(500)).unwrap_or(*from);
            let trusted =
                attempts.iter().filter(|(at, reached)| window.contains(at) && *reached > Reached::Tcp).count();
            demand(trusted == 0, format!("{trusted} connections trusted another's certificate"));
        }
        let pace = busiest(&attempts, &requests);
        demand(pace.is_none(), pace.unwrap_or_default());

        // Each change is told in a line, so is each config and each file that cannot be used and can be again.
        let told = told(&lines);
        let told_changes = |line: &&Line| {
            let text = line.text.as_str();
            let of_files = ["configuration", "config.yaml", "token", "ca.crt"].iter().any(|word| text.contains(word));
            of_files || text.contains("written in")
        };
        let others: Vec<Instant> = told.iter().filter(|line| !told_changes(line)).map(|line| line.at).collect();
        let busiest_minute = most_within(&others, Duration::from_secs(60));
        demand(busiest_minute <= MOST_LINES_A_MINUTE, format!("{busiest_minute} lines about faults in a minute"));
        let repeated = repeated(&told);
        demand(repeated.len() <= MOST_REPEATED, format!("told again and again: {repeated:?}"));
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let all: Vec<Instant> = told.iter().map(|line| line.at).collect();
        let most_lines_in_all =
            patches.len() + 2 * (self.config_changes + self.file_changes) + 24 * minutes as usize + MOST_LINES_A_MINUTE;
        demand(told.len() <= most_lines_in_all, format!("{} lines", told.len()));

        println!();
        for side in &self.sides {
            let counts: Vec<String> = side.seen.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let total: usize = side.seen.values().sum();
            figure(&format!("faults of the {}", side.name), format!("{total}: {}", counts.join(", ")));
            let unseen: Vec<&str> = side.unseen.clone();
            if !unseen.is_empty() {
                figure("  not reached", unseen.join(", "));
            }
        }
        let answered = |status: u16| patches.iter().filter(|patch| patch.answered == Some(status)).count();
        figure("minutes", format!("{minutes:.1}"));
        figure("probes of the room, of the health", format!("{}, {} answered to", room.len(), health.len()));
        figure("longest time without a probe", format!("{:.1} s", silence.as_secs_f64()));
        figure("connections to the API server", format!("{}, of which {} patches", attempts.len(), patches.len()));
        figure(
            "most of them in a minute",
            most_within(&attempts.iter().map(|(at, _)| *at).collect::<Vec<_>>(), Duration::from_secs(60)).to_string(),
        );
        figure("patches answered 200", answered(200).to_string());
        figure(
            "first write after the last fault",
            recovery.map_or_else(|_| "none".into(), |took| format!("{:.1} s", took.as_secs_f64())),
        );
        figure("threads", format!("{} in each of {} samples", samples.most_threads, samples.count));
        figure("VmHWM after half of it, at the end", format!("{first_vm_hwm} KiB, {} KiB", samples.last_vm_hwm));
        figure("RssAnon after half of it, at the end", format!("{first_rss_anon} KiB, {} KiB", samples.last_rss_anon));
        figure("descriptors idle, at most", format!("{}, {}", samples.least_descriptors, samples.most_descriptors));
        figure(
            "log lines at info, most in a minute",
            format!(
                "{}, {} (about faults alone {busiest_minute})",
                told.len(),
                most_within(&all, Duration::from_secs(60))
            ),
        );
        if !wrong.is_empty() {
            let tail: Vec<&str> = told.iter().rev().take(40).rev().map(|line| line.text.as_str()).collect();
            println!("\nthe last lines of the log:\n{}\n", tail.join("\n"));
        }
        wrong
    }
}

fn figure(name: &str, value: String) {
    println!("{name:<44} {value}");
}

/// The config that a run ends with: nothing is written without need.
const PLAIN: usize = 0;
/// The config that a run begins with: the API server's faults are met at once.
const RESYNCING: usize = 2;

fn configs(scene: &Scene, health: &Game, black_hole: &BlackHole) -> Vec<String> {
    let policies = |more: &str| {
        let policies = STATES.map(|state| format!("{{state: {state}, gameServerOpsState: {state}{more}}}"));
        format!("markerPolices: [{}]", policies.join(", "))
    };
    let failed = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
    let healthy = endpoint(&health.url("/healthz"), "timeout: 1, failureThreshold: 2", failed);
    let room = scene.endpoint("timeout: 1", &policies(""));
    let nowhere = endpoint(&format!("http://{}/", black_hole.address()), "timeout: 1, failureThreshold: 1000", failed);
    let with_metadata =
        format!("{}, annotationKey: example.com/room, labelKey: room", policies(", labels: {busy: 'is-{{.Result}}'}"));
    let now_and_then = "markerPolices: [{state: None, gameServerOpsState: None}, \
                        {state: Allocated, gameServerOpsState: Allocated, labels: {busy: 'yes'}}, \
                        {state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";
    let guarded = format!("{}, protectedOpsStates: [Maintaining]", policies(""));
    let both = config(&[healthy.clone(), room.clone()]);
    vec![
        both.clone(),
        config(&[scene.endpoint("timeout: 1", &with_metadata)]),
        both.replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1"),
        config(&[nowhere, room]),
        config(&[scene.endpoint("timeout: 1", &guarded)]),
        config(&[scene.endpoint("timeout: 1", now_and_then)]),
        config(&[healthy, scene.endpoint("timeout: 1, successThreshold: 2, headers: {Host: game}", &policies(""))])
            .replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 2"),
    ]
}

fn misbehave(kind: &str, game: &Game) {
    let raw = |head: &str| Behaviour::Raw(head.as_bytes().to_vec());
    let held = |head: &str| Behaviour::RawThenHold(head.as_bytes().to_vec());
    let fast = Duration::from_millis(5);
    let behaviour = match kind {
        "unknown result" => Behaviour::answer(200, "what \u{1b}[31m\nINFO forged"),
        "status 500" => Behaviour::answer(500, "None"),
        "redirect" => Behaviour::answer_with(302, &[("Location", "/elsewhere")], "Allocated"),
        "not UTF-8" => Behaviour::answer(200, b"\xff\xfeAllocated"),
        "SSH banner" => raw("SSH-2.0-OpenSSH_9.2\r\n"),
        "status 000" => raw("HTTP/1.1 000 None\r\nContent-Length: 4\r\n\r\nNone"),
        "two lengths" => raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 9\r\n\r\nNoneOrMore"),
        "half a header" => held("HTTP/1.1 200 OK\r\nContent-Le"),
        "a terabyte announced" => held("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nNone"),
        "no length, held" => held("HTTP/1.1 200 OK\r\n\r\nNone"),
        "huge body" => Behaviour::answer(200, vec![b'N'; 4 << 20]),
        "dripped headers" => Behaviour::DripHeaders(fast),
        "dripped body" => Behaviour::DripBody(fast),
        "endless body" => Behaviour::EndlessBody,
        "endless chunks" => Behaviour::EndlessChunks,
        "endless headers" => Behaviour::EndlessHeaders,
        "endless 1xx" => Behaviour::Endless1xx,
        "closed at once" => Behaviour::CloseAtOnce,
        "reset" => Behaviour::Reset,
        "no answer" => Behaviour::HoldWithoutAnswer,
        "late answer" => Behaviour::After(Duration::from_millis(700), Box::new(Behaviour::answer(200, "Allocated"))),
        _ => {
            assert_eq!(kind, "game gone");
            game.stop();
            return;
        }
    };
    game.behave(behaviour);
}

/// Whether a patch holds what the configs of this run can ask for, and nothing else.
fn is_one_of_ours(patch: &Value) -> bool {
    let ops_state =
        |state: &Value| state.as_str().is_some_and(|state| STATES.contains(&state) || state == "Maintaining");
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let of_game_server = fields(&patch["spec"]).iter().all(|(key, value)| key == "opsState" && ops_state(value));
    let of_pod = fields(&patch["metadata"]).iter().all(|(key, value)| match key.as_str() {
        "labels" => fields(value).keys().all(|key| key == "room" || key == "busy"),
        "annotations" => fields(value).keys().all(|key| key == "example.com/room"),
        // Of a guarded write (SPEC 6.6).
        key => key == "resourceVersion",
    });
    let top = fields(patch);
    !top.is_empty() && top.keys().all(|key| key == "spec" || key == "metadata") && of_game_server && of_pod
}

/// The lines that are there without RUST_LOG.
fn told(lines: &[Line]) -> Vec<&Line> {
    lines.iter().filter(|line| ["INFO ", "WARN ", "ERROR"].iter().any(|level| line.text.starts_with(level))).collect()
}

/// What was told although it had been told in the five minutes before and was not over since (SPEC 7.4).
fn repeated(told: &[&Line]) -> Vec<String> {
    let mut last: BTreeMap<&str, (&str, Instant)> = BTreeMap::new();
    let mut repeated = Vec::new();
    for line in told {
        let text = line.text.get(6..).unwrap_or_default();
        if text.starts_with("configuration read anew") {
            last.retain(|place, _| !place.starts_with("endpoints["));
        } else if let Some((place, _)) = text.split_once(": answers again").or_else(|| text.split_once(" works again"))
        {
            last.remove(place);
        } else if let Some((place, rest)) = text.split_once(": probe failed").or_else(|| text.split_once(" failed")) {
            // Without the count.
            let cause = rest.split_once(": ").map_or(rest, |(_, cause)| cause);
            let before = last.insert(place, (cause, line.at));
            if before.is_some_and(|(known, at)| known == cause && line.at - at < Duration::from_secs(295)) {
                repeated.push(line.text.clone());
            }
        }
    }
    repeated
}

/// Between two probes, as the sidecar tells them at `debug`.
fn longest_silence(lines: &[Line]) -> Duration {
    let probes: Vec<Instant> =
        lines.iter().filter(|line| line.text.starts_with("DEBUG endpoints[")).map(|line| line.at).collect();
    probes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
}

/// The most that came within any stretch of this length. `times` may be out of order by a little.
fn most_within(times: &[Instant], length: Duration) -> usize {
    let mut times = times.to_vec();
    times.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in times.iter().enumerate() {
        while *at - times[first] > length {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

/// A quarter of a minute with more attempts than SPEC 4.5 has room for, when there is one.
///
/// While nothing succeeds, waits are drawn from up to 1, 2, 4, ... 60 s: of two objects, 22 attempts in 15 s are beyond
/// all chance. A write that succeeds starts the waits anew, with a few short ones. What is retried at once by the SPEC
/// (401, 409) and what is only read does not count.
fn busiest(attempts: &[(Instant, Reached)], requests: &[support::Request]) -> Option<String> {
    let window = Duration::from_secs(15);
    for (start, _) in attempts {
        let within = |at: &Instant| at >= start && *at - *start < window;
        let in_window = requests.iter().filter(|request| within(&request.at));
        let (mut free, mut written) = (0, 0);
        for request in in_window {
            match (request.method.as_str(), request.answered) {
                (_, Some(401 | 409)) | ("GET", Some(200)) => free += 1,
                ("PATCH", Some(200)) => written += 1,
                _ => {}
            }
        }
        let count = attempts.iter().filter(|(at, _)| within(at)).count();
        if count > 22 + free + 4 * written {
            return Some(format!("{count} attempts in {window:?}, with {written} written and {free} that are free"));
        }
    }
    None
}
