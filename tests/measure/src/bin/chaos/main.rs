//! The chaos run: `tests/chaos.sh --minutes N --seed S`. Random faults on all sides at once (the game, its
//! health, the API server, the mounted files, the objects and who else writes them, the process itself) against the real
//! binary, which probes every second and is killed and started again over the same objects. The seed fixes which faults
//! come in which order; when they come depends on the machine as well. First each kind comes once, then any. At the end
//! the faults stop, and then everything must be right again: what the game says is in, what no new decision touched
//! survives, and a later pod's objects are left alone. What must hold of each request and each change is demanded of all.

mod end;
mod faults;
mod history;
mod log;
mod verdict;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use faults::{API, FILES, GAME, OBJECTS, PROCESS, Side, misbehave};
use log::Life;
use serde_json::{Value, json};
use stand_ins::scene::{self, config, endpoint};
use stand_ins::{
    Authority, BlackHole, Change, Fault, Game, Objects, POD_UID, SOON, Scene, ServerCertificate, SidecarProcess,
    Signal, TOKEN, Which, game_server,
};

/// How often the process is looked at.
const TICK: Duration = Duration::from_millis(50);

/// The name under which OpenKruiseGame writes.
const CONTROLLER: &str = "manager";

/// How late OpenKruiseGame's cache and its writes are at most.
const CACHE_IS_LATE_BY: Duration = Duration::from_secs(10);

/// What the room can say, beside the faults.
const STATES: [&str; 3] = ["None", "Allocated", "WaitToBeDeleted"];

fn main() -> ExitCode {
    let Some((minutes, seed, puts_back)) = parse() else {
        eprintln!("usage: chaos [--minutes N] [--seed S] [--put-backs]");
        return ExitCode::from(2);
    };
    println!("chaos: {minutes} minutes, seed {seed}, {}", scene::binary().display());
    // What the support module finds wrong it tells by a panic.
    let run = panic::catch_unwind(AssertUnwindSafe(|| run(minutes, seed, puts_back)));
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

fn parse() -> Option<(f64, u64, bool)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let (mut minutes, mut seed, mut puts_back) = (2.0, u64::from(now.subsec_nanos()), false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => minutes = words.next()?.parse().ok().filter(|minutes| *minutes > 0.0)?,
            "--seed" => seed = words.next()?.parse().ok()?,
            "--put-backs" => puts_back = true,
            _ => return None,
        }
    }
    Some((minutes, seed, puts_back))
}

fn run(minutes: f64, seed: u64, puts_back: bool) -> Vec<String> {
    let mut chaos = Chaos::new(minutes, seed, puts_back);
    chaos.rage();
    chaos.calm();
    let recovery = chaos.recover();
    let quiet = match &recovery {
        Ok(_) => chaos.rest().and_then(|()| chaos.survive()).and_then(|()| chaos.hand_over()),
        Err(what) => Err(what.clone()),
    };
    chaos.judge(recovery.ok(), quiet)
}

/// What the process was seen to take.
#[derive(Default)]
struct Samples {
    count: usize,
    most_threads: u64,
    least_descriptors: usize,
    most_descriptors: usize,
    /// Of any process.
    most_vm_hwm: u64,
    latest: Memory,
    compared: Option<Compared>,
}

#[derive(Default, Clone, Copy)]
struct Memory {
    vm_hwm_kib: u64,
    rss_anon_kib: u64,
}

/// The process that lives through the second half: when half of that is over, and at its end.
struct Compared {
    started: Instant,
    first: Memory,
    last: Memory,
}

struct Chaos {
    began: Instant,
    ends: Instant,
    lasts: Duration,
    scene: Scene,
    health: Game,
    black_hole: BlackHole,
    /// Killed from within the API server, too.
    sidecar: Arc<SidecarProcess>,
    started: Instant,
    /// How many changes of the mounted files there had been then.
    file_changes_before: usize,
    /// Those before this one.
    ended: Vec<Life>,
    /// How often it ended right away, over files that it cannot start with.
    refused_starts: usize,
    /// Whether whoever else writes still does.
    raging: Arc<AtomicBool>,
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
    /// Whether the cache is written back after each write, how often it was, how many changes were looked at, and when the next ones
    /// are.
    puts_back: bool,
    put_backs: usize,
    put_back: usize,
    next_put_back: Instant,
}

const ROOM: usize = 0;
const HEALTH: usize = 1;
const API_SERVER: usize = 2;
const MOUNTED: usize = 3;
const STORED: usize = 4;
const CHILD: usize = 5;

impl Chaos {
    fn new(minutes: f64, seed: u64, puts_back: bool) -> Self {
        let scene = Scene::new();
        let health = Game::start();
        health.set(200, "ok");
        let black_hole = BlackHole::new();
        let first = configs(&scene, &health, &black_hole).swap_remove(FIRST);
        scene.pod.update_config(&first);
        let started = Instant::now();
        let sidecar = start(&scene);
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
            started,
            file_changes_before: 0,
            ended: Vec::new(),
            refused_starts: 0,
            raging: Arc::new(AtomicBool::new(true)),
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
            puts_back,
            put_backs: 0,
            put_back: 0,
            next_put_back: began,
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
            self.act_on_cache();
            self.act_on_process();
            self.sample();
            let elapsed = self.began.elapsed().as_secs() / 60;
            if elapsed > minute {
                minute = elapsed;
                let faults: usize = self.sides.iter().flat_map(|side| side.seen.values()).sum();
                println!(
                    "minute {minute}: {faults} faults, {} processes, VmHWM {} KiB, RssAnon {} KiB, {} connections to the \
                     API server",
                    self.ended.len() + 1,
                    self.samples.latest.vm_hwm_kib,
                    self.samples.latest.rss_anon_kib,
                    self.scene.api.connections_accepted(),
                );
            }
            thread::sleep(TICK);
        }
    }

    fn sample(&mut self) {
        if self.sides[CHILD].current.is_some() || !Life::has_begun(&self.sidecar.lines()) {
            return;
        }
        if !self.sidecar.is_running() {
            self.sidecar.fail("it has ended");
        }
        let samples = &mut self.samples;
        samples.count += 1;
        samples.most_threads = samples.most_threads.max(self.sidecar.threads());
        let descriptors = self.sidecar.open_fds();
        samples.least_descriptors = samples.least_descriptors.min(descriptors);
        samples.most_descriptors = samples.most_descriptors.max(descriptors);
        let memory =
            Memory { vm_hwm_kib: self.sidecar.vm_hwm_kib(), rss_anon_kib: self.sidecar.proc_status("RssAnon") };
        samples.latest = memory;
        samples.most_vm_hwm = samples.most_vm_hwm.max(memory.vm_hwm_kib);
        match &mut samples.compared {
            None if self.began.elapsed() > self.lasts.mul_f64(0.75) => {
                samples.compared = Some(Compared { started: self.started, first: memory, last: memory });
            }
            Some(compared) if compared.started == self.started => compared.last = memory,
            _ => {}
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
            "applied, then 504" => Some(status(504).applied()),
            "answers too long" => Some(Fault::LongAnswer(3 << 20)),
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
            "late writes" => {
                // The API server bounds a request by 34 s.
                let late = self.sides[API_SERVER].dice.millis(50, 30_000);
                self.scene.api.always_of(&Which::writes(), Some(Fault::Late(late)));
                None
            }
            "reads broken off" | "writes broken off" | "writes refused" => {
                let which = if kind.starts_with("reads") { Which::reads() } else { Which::writes() };
                let fault = if kind == "writes refused" { status(422) } else { Fault::BreakOff };
                self.scene.api.always_of(&which, Some(fault));
                None
            }
            "a field refused" => {
                self.scene.api.refuse("/spec/deletionPriority", None, 422);
                most = Duration::from_secs(10);
                self.wanted_attempts = 0;
                None
            }
            "status 403" => {
                self.scene.api.allow_only(&[]);
                None
            }
            "Pods forbidden" => {
                self.scene.api.allow_only(&[("patch", "gameservers")]);
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
            Some("late writes") => self.go_back(),
            Some("status 403" | "Pods forbidden") => self.scene.api.allow_everything(),
            Some("another's certificate") => {
                let since = self.serves_anothers_certificate.take();
                self.anothers_certificate.extend(since.map(|since| (since, Instant::now())));
                self.scene.api.serve_certificate(&self.certificate);
            }
            _ => {}
        }
        self.scene.api.always(None);
        self.scene.api.always_of(&Which::reads(), None);
        self.scene.api.always_of(&Which::writes(), None);
        self.scene.api.refuse_nothing();
        self.fault_ends = Instant::now();
    }

    /// The game goes back to what it said before the writes that are on their way.
    fn go_back(&mut self) {
        let before = self.scene.ops_state();
        if STATES.contains(&before.as_str()) && self.sides[ROOM].current != Some("game gone") {
            self.scene.game.set(200, before);
            self.sides[ROOM].wait(2000, 4000);
        }
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
                self.config = self.another_config();
                self.config_changes += 1;
                self.scene.pod.update_config(&self.config);
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

    fn another_config(&mut self) -> String {
        let mut configs = configs(&self.scene, &self.health, &self.black_hole);
        configs.swap_remove(self.sides[MOUNTED].dice.below(configs.len()))
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
        if side.current.is_some() {
            side.wait(2000, 6000);
            self.end_objects_fault();
            return;
        }
        let (api, path) = (&self.scene.api, self.scene.path());
        let pod = &self.scene.pod;
        let roll = side.dice.roll();
        let state = side.dice.one_of(&STATES);
        let matchmaker = move |object: &mut Value| object["spec"]["opsState"] = json!(state);
        let controller = move |object: &mut Value| object["status"]["seen"] = json!(roll);
        let own_game_server = game_server(&pod.namespace, &pod.name, POD_UID);
        match side.begin() {
            "matchmaker's edit" => api.edit(&path, "matchmaker", matchmaker),
            "matchmaker between read and patch" => self.before_next_write(move |objects, path| {
                objects.edit(path, "matchmaker", matchmaker);
            }),
            "operator's Maintaining" => self.scene.somebody_sets("operator", "Maintaining"),
            "controller's edit" => api.edit(&path, "manager", controller),
            "controller between reads and patches" => {
                for count in 0..1 + roll % 5 {
                    self.before_next_write(move |objects, path| {
                        objects.edit(path, "manager", |object| object["status"]["seen"] = json!(roll ^ count));
                    });
                }
            }
            "pod edited" => {
                let edit = |object: &mut Value| object["metadata"]["labels"]["theirs"] = json!(roll.to_string());
                api.edit(&self.scene.pod_path(), "kubelet", edit);
            }
            "GameServer recreated" => api.remove(&path),
            "recreated between read and patch" => self.before_next_write(move |objects, path| {
                objects.put(path, own_game_server);
            }),
            "previous pod's GameServer" => self.scene.recreate("00000000-0000-0000-0000-000000000000"),
            "cache written back" => self.write_cache_back(roll),
            "record gone" => self.scene.remove_record(),
            kind => {
                assert_eq!(kind, "record broken");
                self.scene.set_record(&json!("no record"));
            }
        }
        // Long enough for an attempt to meet it.
        self.sides[STORED].wait(500, 4000);
    }

    /// OpenKruiseGame writes what it had cached some seconds ago: the newest release the whole spec, later ones the annotations
    /// alone.
    fn write_cache_back(&self, roll: u64) {
        let (api, path) = (&self.scene.api, self.scene.path());
        let is_late =
            |change: &&Change| change.at.elapsed() < CACHE_IS_LATE_BY && change.before["metadata"].is_object();
        let changes = api.changes(&path);
        let is_there = changes.last().is_some_and(|change| !change.after.is_null());
        if let Some(Change { before: cached, .. }) = changes.iter().find(is_late).filter(|_| is_there) {
            api.edit(&path, CONTROLLER, |object| {
                if object["metadata"]["uid"] != cached["metadata"]["uid"] {
                    return;
                }
                for (key, text) in cached["metadata"]["annotations"].as_object().into_iter().flatten() {
                    object["metadata"]["annotations"][key] = text.clone();
                }
                if roll.is_multiple_of(2) {
                    object["spec"] = cached["spec"].clone();
                }
            });
        }
    }

    /// With `--put-backs`, the cache is written back some seconds after each write of the sidecar.
    fn act_on_cache(&mut self) {
        if !self.puts_back || Instant::now() < self.next_put_back {
            return;
        }
        let dice = &mut self.sides[STORED].dice;
        let (wait, roll) = (dice.millis(500, 4000), dice.roll());
        self.next_put_back = Instant::now() + wait;
        let changes = self.scene.api.changes(&self.scene.path());
        if changes[self.put_back..].iter().any(|change| change.manager == history::SIDECAR) {
            self.write_cache_back(roll);
            self.put_backs += 1;
        }
        self.put_back = changes.len();
    }

    fn end_objects_fault(&mut self) {
        match self.sides[STORED].current.take() {
            Some("GameServer recreated" | "previous pod's GameServer") => self.scene.recreate(POD_UID),
            Some("operator's Maintaining") => self.scene.somebody_sets("operator", "None"),
            _ => {}
        }
    }

    /// Somebody else writes between the next read of the GameServer and its patch.
    fn before_next_write(&self, write: impl FnOnce(&mut Objects, &str) + Send + 'static) {
        let (path, raging) = (self.scene.path(), Arc::clone(&self.raging));
        self.scene.api.before_next(&Which::writes().to(&self.scene.path()), move |objects| {
            if raging.load(Ordering::SeqCst) && objects.get(&path).is_some() {
                write(objects, &path);
            }
        });
    }

    fn act_on_process(&mut self) {
        let due = self.sides[CHILD].is_due();
        let ended = !self.sidecar.is_running();
        match self.sides[CHILD].current {
            Some("stopped and continued") if due => self.end_process_fault(),
            Some("killed in a read" | "killed in a write") if due || ended => {
                self.bury(Signal::KILL);
                self.sides[CHILD].current = Some("killed");
                self.sides[CHILD].wait(0, 2000);
            }
            Some("killed" | "terminated") if due => self.end_process_fault(),
            None if ended && self.could_not_start() => {
                self.refused_starts += 1;
                self.bury(Signal::KILL);
                self.sides[CHILD].current = Some("killed");
                // As kubelet does.
                self.sides[CHILD].wait(200, 600);
            }
            None if due => self.begin_process_fault(),
            _ => {}
        }
    }

    /// Whether it ended as it must where files are missing or broken.
    fn could_not_start(&self) -> bool {
        let files_are_right = self.sides[MOUNTED].current.is_none() && self.file_changes == self.file_changes_before;
        let code = self.sidecar.status().and_then(|status| status.code());
        code == Some(1) && !Life::has_begun(&self.sidecar.lines()) && !files_are_right
    }

    fn begin_process_fault(&mut self) {
        let side = &mut self.sides[CHILD];
        let mut kind = side.begin();
        // One process lives through the second half, so that its memory can be compared.
        if self.began.elapsed() > self.lasts / 2 && kind != "stopped and continued" {
            side.seen.entry(kind).and_modify(|count| *count -= 1);
            kind = "stopped and continued";
            *side.seen.entry(kind).or_default() += 1;
            side.current = Some(kind);
        }
        match kind {
            "stopped and continued" => {
                self.sidecar.signal(Signal::STOP);
                self.sides[CHILD].wait(100, 4000);
            }
            "killed" | "terminated" => {
                self.bury(if kind == "killed" { Signal::KILL } else { Signal::TERM });
                self.sides[CHILD].wait(0, 2000);
            }
            _ => {
                let which = if kind == "killed in a read" { Which::reads() } else { Which::writes() };
                let sidecar = Arc::downgrade(&self.sidecar);
                self.scene.api.before_next(&which, move |_| {
                    if let Some(sidecar) = sidecar.upgrade() {
                        sidecar.signal_unless_ended(Signal::KILL);
                    }
                });
                self.sides[CHILD].wait(4000, 8000);
            }
        }
    }

    fn end_process_fault(&mut self) {
        match self.sides[CHILD].current.take() {
            Some("stopped and continued") => self.sidecar.signal(Signal::CONT),
            Some(_) => {
                self.bury(Signal::KILL);
                // A ConfigMap often changes together with the image.
                if self.raging.load(Ordering::SeqCst) && self.sides[MOUNTED].current.is_none() {
                    self.config = self.another_config();
                    self.scene.pod.update_config(&self.config);
                }
                self.started = Instant::now();
                self.file_changes_before =
                    if self.sides[MOUNTED].current.is_some() { usize::MAX } else { self.file_changes };
                self.sidecar = start(&self.scene);
            }
            None => {}
        }
        self.sides[CHILD].wait(3000, 10_000);
    }

    /// Ends the process, if it has not ended, and keeps what it has said.
    fn bury(&mut self, signal: Signal) {
        if self.ended.last().is_some_and(|life| life.started == self.started) {
            return;
        }
        let asked = self.sidecar.signal_unless_ended(signal);
        let exit = self.sidecar.wait_exit(SOON);
        if asked && signal == Signal::TERM && exit.code() != Some(0) {
            self.sidecar.fail("it did not end well");
        }
        self.ended.push(Life { started: self.started, lines: self.sidecar.lines() });
    }
}

/// Everything that it could ever say; how much of it would be said at `info` is counted.
fn start(scene: &Scene) -> Arc<SidecarProcess> {
    Arc::new(scene.sidecar().log("trace").start())
}

/// A config without anything that its successors do not have.
const PLAIN: usize = 0;
/// The config that a run begins with: the API server's faults are met at once.
const FIRST: usize = 1;
/// The config that a run ends with: every field that the others set.
const LAST: usize = 2;
/// The one with `protectedOpsStates`.
const PROTECTING: usize = 3;

/// A path that the log of a config with `resyncSeconds` shows, and no other.
const RESYNCING: &str = "/resyncing";
/// The same of one with `protectedOpsStates`.
const PROTECTED: &str = "/protected";

fn configs(scene: &Scene, health: &Game, black_hole: &BlackHole) -> Vec<String> {
    let policies = |more: &str| {
        let policy = |(rank, state): (usize, &str)| {
            format!("{{state: {state}, gameServerOpsState: {state}{more}}}").replace("RANK", &rank.to_string())
        };
        let policies: Vec<String> = (0..).zip(STATES).map(policy).collect();
        format!("markerPolices: [{}]", policies.join(", "))
    };
    let room = |path: &str, keys: &str, in_kube: &str| endpoint(&scene.game.url(path), keys, in_kube);
    let failed = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
    let healthy = endpoint(&health.url("/healthz"), "timeout: 1, failureThreshold: 2", failed);
    let plain_room = room("/", "timeout: 1", &policies(""));
    let nowhere = endpoint(&format!("http://{}/", black_hole.address()), "timeout: 1, failureThreshold: 1000", failed);
    let keys = "annotationKey: example.com/room, labelKey: room";
    let with_metadata = format!("{}, {keys}", policies(", labels: {busy: 'is-{{.Result}}'}"));
    let with_all =
        format!("{}, {keys}", policies(", gameServerDeletionPriority: RANK, labels: {busy: 'is-{{.Result}}'}"));
    let now_and_then = "markerPolices: [{state: None, gameServerOpsState: None}, \
                        {state: Allocated, gameServerOpsState: Allocated, labels: {busy: 'yes'}}, \
                        {state: WaitToBeDeleted, gameServerOpsState: WaitToBeDeleted}]";
    let guarded = format!("{}, protectedOpsStates: [Maintaining]", policies(", gameServerDeletionPriority: RANK"));
    let patient = "timeout: 1, successThreshold: 2, headers: {Host: game}";
    vec![
        config(&[healthy.clone(), plain_room.clone()]),
        config(&[healthy.clone(), room(RESYNCING, "timeout: 1", &policies(", gameServerDeletionPriority: RANK"))])
            .replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 1\n      resyncSeconds: 1"),
        config(&[healthy.clone(), room("/", "timeout: 1", &with_all)]),
        config(&[room(PROTECTED, "timeout: 1", &guarded)]),
        config(&[room("/", "timeout: 1", &with_metadata)]),
        config(&[nowhere, plain_room]),
        config(&[room("/", "timeout: 1", now_and_then)]),
        config(&[healthy, room("/", patient, &policies(""))])
            .replace("probeIntervalSeconds: 1", "probeIntervalSeconds: 2"),
    ]
}
