//! Owns the loop: the only reader of the clock and the only sleeper. Follow one result from the socket to the patch:
//! [`Sidecar::run`], `probe_next`, `observe`, `decide`, `write_next`.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use serde_json::Value;

use crate::config::{Config, ConfigFile};
use crate::decide::decision::{CannotHold, Decision, place};
use crate::decide::exclusive::Exclusive;
use crate::decide::guarded::{Guarded, Next, Patch};
use crate::decide::merge_patch::merge_patch;
use crate::decide::object::{Identity, Kind, Object};
use crate::decide::opinion::Opinion;
use crate::decide::policy::{Outcome, ProbeResult};
use crate::decide::schedule::Schedule;
use crate::excerpt::chain;
use crate::jitter::Jitter;
use crate::kube::client::{Attempt, Client, WriteError};
use crate::kube::environment::PodEnvironment;
use crate::probe::{self, ProbeError};
use crate::report::{EndpointLog, WriteLog, places};

/// The longest that a change of the config file goes unnoticed, however long the interval is.
const CONFIG_CHECK: Duration = Duration::from_secs(60);

/// How often a conflict is tried again at once.
const MAX_CONFLICTS: u32 = 3;

/// The running sidecar. Times are since the start of the process.
#[derive(Debug)]
pub struct Sidecar {
    started: Instant,
    jitter: Jitter,
    file: ConfigFile,
    file_checked: Duration,
    config: Config,
    protected: Vec<String>,
    schedule: Schedule,
    opinions: Vec<Opinion>,
    endpoint_logs: Vec<EndpointLog>,
    identity: Identity,
    decision: Decision,
    cannot_hold_logged: BTreeSet<String>,
    game_server: Guarded,
    others: BTreeMap<Object, Exclusive>,
    write_logs: BTreeMap<Object, WriteLog>,
    client: Client,
}

impl Sidecar {
    /// Logs what it is going to do. `config` is what `file` holds.
    pub fn new(file: ConfigFile, config: Config, environment: PodEnvironment) -> Self {
        let PodEnvironment { server, identity, service_account } = environment;
        info!(
            "okg-sidecar {} writes {} at {server}; first probe in {} s, then every {} s: {}",
            env!("CARGO_PKG_VERSION"),
            identity.game_server().path,
            config.start_delay.as_secs(),
            config.interval.as_secs(),
            places(&config),
        );
        let mut sidecar = Self {
            started: Instant::now(),
            jitter: Jitter::default(),
            file,
            file_checked: Duration::ZERO,
            protected: Vec::new(),
            schedule: Schedule::new([]),
            opinions: Vec::new(),
            endpoint_logs: Vec::new(),
            decision: Decision::new(&config.endpoints, &identity),
            cannot_hold_logged: BTreeSet::new(),
            game_server: Guarded::new(identity.game_server(), identity.uid.clone()),
            others: BTreeMap::new(),
            write_logs: BTreeMap::new(),
            client: Client::new(server, service_account),
            identity,
            config,
        };
        sidecar.start(sidecar.config.start_delay);
        sidecar
    }

    /// Probes and writes until the process ends.
    ///
    /// One probe, then one write, and so on: a write that falls due during a probe starts when that one probe ends, and an
    /// API server that hangs delays a probe by one attempt at most.
    pub fn run(mut self) -> ! {
        loop {
            self.check_config();
            let probed = self.probe_next();
            let wrote = self.write_next();
            if !probed && !wrote {
                thread::sleep(self.next_event().saturating_sub(self.now()));
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_event(&self) -> Duration {
        let game_server = self.game_server.due(self.decision.fields(self.game_server.object()));
        let others = self.others.iter().filter_map(|(object, write)| write.due(self.decision.fields(object)));
        let first = self.schedule.next().min(self.file_checked + CONFIG_CHECK);
        others.chain(game_server).fold(first, Duration::min)
    }

    /// Reads the config file again where it has changed: before each round, and at least once a minute (behaviour 2.9).
    fn check_config(&mut self) {
        let now = self.now();
        let round_starts = self.schedule.due(now).is_some_and(|probe| self.schedule.starts_with(probe));
        if !round_starts && now < self.file_checked + CONFIG_CHECK {
            return;
        }
        self.file_checked = now;
        match self.file.changed() {
            Ok(Some(config)) if config != self.config => self.reload(config),
            Ok(_) => {}
            Err(error) => warn!("the running configuration stays: {}", error.to_string().replace('\n', "; ")),
        }
    }

    /// A reload is a restart without the start delay (behaviour 8.5). What the objects remember stays, and so does what
    /// this process knows of them.
    fn reload(&mut self, config: Config) {
        info!("configuration read anew; probes every {} s: {}", config.interval.as_secs(), places(&config));
        let others = &self.others;
        self.decision.reload(&config.endpoints, &self.identity, |object, pointer, value| {
            others.get(object).is_some_and(|write| write.is_sent_again(pointer, value))
        });
        self.others.retain(|object, _| self.decision.concerns(object));
        self.write_logs.retain(|object, _| self.decision.concerns(object));
        self.config = config;
        self.start(self.now());
    }

    /// Starts with the first round of `config`, every endpoint undecided.
    fn start(&mut self, first_round: Duration) {
        let Config { interval, resync, endpoints, warnings, .. } = &self.config;
        for warning in warnings {
            warn!("{warning}");
        }
        self.schedule = Schedule::new([(endpoints.len(), first_round, *interval)]);
        self.opinions = endpoints.iter().map(|_| Opinion::default()).collect();
        self.endpoint_logs = endpoints.iter().map(|_| EndpointLog::default()).collect();
        self.protected = endpoints.iter().flat_map(|endpoint| endpoint.protected_ops_states.clone()).collect();
        self.cannot_hold_logged.clear();
        self.game_server.set_resync(*resync, first_round, self.jitter.draw());
    }

    /// Probes the endpoint that is due, if any.
    fn probe_next(&mut self) -> bool {
        let began = self.now();
        let Some(index) = self.schedule.due(began) else { return false };
        let endpoint = &self.config.endpoints[index];
        let result = probe::attempt(&endpoint.probe, endpoint.timeout, |_| {});
        let now = self.now();
        debug!(
            "{}: {} in {} ms",
            place(index, endpoint),
            result.as_ref().map_or_else(|error| chain(error), ProbeResult::to_string),
            (now - began).as_millis()
        );
        self.observe(index, result);
        self.schedule.advance(index, now);
        self.decide(index + 1);
        true
    }

    /// Turns what came of a probe into the endpoint's opinion.
    fn observe(&mut self, index: usize, result: Result<ProbeResult, ProbeError>) {
        let now = self.now();
        let endpoint = &self.config.endpoints[index];
        self.endpoint_logs[index].observe(now, index, endpoint, &result);
        let outcome = match result {
            Ok(result) => Outcome::Success(result),
            // It says nothing about the game.
            Err(error) if error.is_our_own_fault() => return,
            Err(_) => Outcome::Failure,
        };
        self.opinions[index].observe(endpoint, outcome);
    }

    /// Turns opinions into what every object must hold, when the first `probed` endpoints of the round were probed.
    fn decide(&mut self, probed: usize) {
        for CannotHold { pointer, result } in self.decision.update(&self.config.endpoints, &self.opinions, probed) {
            if self.cannot_hold_logged.insert(pointer.clone()) {
                warn!("{pointer}: stays as it is, it cannot hold what {result} makes of it; logged once");
            }
        }
        for (object, _) in self.decision.objects().filter(|(object, _)| object.kind != Kind::GameServer) {
            if !self.others.contains_key(object) {
                self.others.insert(object.clone(), Exclusive::default());
            }
        }
    }

    /// Makes one attempt to write what is due, if anything is: the GameServer before all others.
    fn write_next(&mut self) -> bool {
        let now = self.now();
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now);
        if is_due(self.game_server.due(self.decision.fields(self.game_server.object()))) {
            self.write_game_server();
            return true;
        }
        let due = self.others.iter().find(|(object, write)| is_due(write.due(self.decision.fields(object))));
        let Some(object) = due.map(|(object, _)| object.clone()) else { return false };
        self.write_other(&object);
        true
    }

    /// Reads the GameServer, compares, and patches what was read (behaviour 4.6).
    fn write_game_server(&mut self) {
        let began = self.now();
        let object = self.game_server.object().clone();
        let mut attempt = self.client.attempt();
        let mut tries = 0..MAX_CONFLICTS;
        let exchanged = loop {
            let guarded = &mut self.game_server;
            let exchanged = exchange(&mut attempt, guarded, &self.decision, &self.protected, self.started.elapsed());
            match exchanged {
                Err((error, _)) if error.is_conflict() && tries.next().is_some() => {}
                exchanged => break exchanged,
            }
        };
        let (now, jitter) = (self.now(), self.jitter.draw());
        let log = self.write_logs.entry(object.clone()).or_default();
        match exchanged {
            Ok(None) => {
                self.game_server.unchanged(now, jitter);
                log.works(now, &object, &[]);
            }
            Ok(Some(patch)) => {
                log.works(now, &object, &patch.fields);
                let changes = self.game_server.confirmed(patch, self.decision.fields(&object), now, jitter);
                let decided_by = changes.first().and_then(|(pointer, ..)| self.decision.decided_by(pointer));
                let place = decided_by.map(|index| place(index, &self.config.endpoints[index]));
                log.game_server_written(&object, &changes, place, now - began);
            }
            Err((error, patch)) => {
                let refused = error.is_about_the_fields().then_some(patch.as_ref()).flatten();
                if let Some(patch) = refused.filter(|patch| self.game_server.refused(patch, now, jitter)) {
                    return log.refused(now, &object, &error, &patch.fields);
                }
                if let Some(patch) = patch.filter(|_| error.is_unanswered()) {
                    self.game_server.unanswered(patch);
                }
                if error.is_missing() {
                    self.game_server.missing();
                }
                self.game_server.failed(error.retry(), error.retry_after(), now, jitter);
                log.failed(now, &object, &error);
            }
        }
    }

    /// Sends the newest values of an object that nobody else writes (behaviour 4.8).
    fn write_other(&mut self, object: &Object) {
        let began = self.now();
        let Some(write) = self.others.get_mut(object) else { return };
        let changes = write.changes(self.decision.fields(object), began);
        if changes.is_empty() {
            return;
        }
        let uid = self.identity.uid.as_deref().filter(|_| object.kind == Kind::Pod);
        let uid = uid.map(|uid| ("/metadata/uid", Some(Value::from(uid))));
        let patch = merge_patch(changes.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).chain(uid));
        let mut attempt = self.client.attempt();
        let mut tries = 0..MAX_CONFLICTS;
        let sent = loop {
            match attempt.patch(object, &patch) {
                Err(error) if error.is_conflict() && tries.next().is_some() => {}
                sent => break sent,
            }
        };
        let (now, jitter) = (self.started.elapsed(), self.jitter.draw());
        let log = self.write_logs.entry(object.clone()).or_default();
        match sent {
            Ok(()) => {
                log.works(now, object, &changes);
                log.other_written(object, &write.confirmed(changes), now - began);
            }
            Err(error) if error.is_about_the_fields() => {
                write.refused(&changes, now, jitter);
                log.refused(now, object, &error, &changes);
            }
            Err(error) => {
                if error.is_unanswered() {
                    write.unanswered(&changes, now);
                }
                if error.is_missing() {
                    write.missing();
                }
                write.failed(error.retry(), error.retry_after(), now, jitter);
                log.failed(now, object, &error);
            }
        }
    }
}

/// One read, one comparison, and the patch that follows, if any. An error comes with the patch that it is about.
fn exchange(
    attempt: &mut Attempt,
    guarded: &mut Guarded,
    decision: &Decision,
    protected: &[String],
    now: Duration,
) -> Result<Option<Patch>, (WriteError, Option<Patch>)> {
    let object = guarded.object().clone();
    let pointers: Vec<&str> = decision.fields(&object).keys().map(String::as_str).collect();
    let whole = guarded.reads_whole(protected, now).then_some(&pointers[..]);
    let seen = attempt.read(&object, whole).map_err(|error| (error, None))?;
    let wall_clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    match guarded.compare(&seen, decision, protected, now, wall_clock) {
        Next::Nothing => Ok(None),
        Next::Hold(hold) => Err((WriteError::Hold(hold), None)),
        Next::Send(patch) => match attempt.patch(&object, &patch.body) {
            Ok(()) => Ok(Some(patch)),
            Err(error) => Err((error, Some(patch))),
        },
    }
}
