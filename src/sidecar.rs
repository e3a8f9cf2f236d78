//! Owns the loop: the only reader of the clock and the only sleeper. Follows one result from the socket to the patch:
//! `run`, `round`, `observe`, `decide`, `write`, all in [`Sidecar`].

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use serde_json::Value;

use crate::chance::Chance;
use crate::config::{Config, ConfigFile, Endpoint, FAILED, When};
use crate::decide::episode::Episode;
use crate::decide::patch::{Changes, Desired, Fields, Identity, Kind, OPS_STATE, Object, place};
use crate::decide::pending::{Pending, Verdict};
use crate::decide::policy::{self, Answer, Reading};
use crate::decide::schedule::Schedule;
use crate::decide::tracker::Tracker;
use crate::excerpt::{chain, excerpt};
use crate::kube::account::Surroundings;
use crate::kube::client::{Client, Guard, WriteError};
use crate::probe::{self, ProbeError};

/// The running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    started: Instant,
    chance: Chance,
    file: ConfigFile,
    config: Config,
    schedule: Schedule,
    states: Vec<EndpointState>,
    identity: Identity,
    desired: Desired,
    writes: BTreeMap<Object, Write>,
    /// The fields of which it was told that they cannot hold a result.
    told_illegal: BTreeSet<String>,
    client: Client,
}

/// What is remembered of one endpoint.
#[derive(Debug, Default)]
struct EndpointState {
    tracker: Tracker,
    fault: Episode,
    unknown: Episode,
}

/// What is remembered of one object.
#[derive(Debug)]
struct Write {
    pending: Pending,
    fault: Episode,
}

impl Sidecar {
    /// Says what it is going to do. `config` is what `file` holds.
    pub fn new(file: ConfigFile, config: Config, surroundings: Surroundings) -> Self {
        let Surroundings { server, identity, pod_uid, account } = surroundings;
        info!(
            "okg-sidecar {} writes {} at {server}; first probe in {} s, then every {} s: {}",
            env!("CARGO_PKG_VERSION"),
            identity.game_server().path,
            config.start_delay.as_secs(),
            config.interval.as_secs(),
            places(&config),
        );
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Self {
            started: Instant::now(),
            chance: Chance::default(),
            schedule: Schedule::new(config.start_delay, config.interval),
            states: config.endpoints.iter().map(|_| EndpointState::default()).collect(),
            file,
            config,
            identity,
            desired: Desired::default(),
            writes: BTreeMap::new(),
            told_illegal: BTreeSet::new(),
            client: Client::new(server, pod_uid, account),
        }
    }

    /// Probes and writes until the process ends.
    pub fn run(mut self) -> ! {
        loop {
            let now = self.now();
            if self.schedule.is_due(now) {
                self.round();
                self.schedule.advance(self.now());
            } else if let Some(object) = self.due_write(now) {
                // One, then the schedule again: an API server that hangs delays a probe by one attempt at most.
                self.write(&object);
            } else {
                thread::sleep(self.next_event().saturating_sub(now));
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_event(&self) -> Duration {
        let writes = self.writes.values().filter_map(|write| write.pending.due());
        writes.fold(self.schedule.next(), Duration::min)
    }

    fn due_write(&self, now: Duration) -> Option<Object> {
        let due = |write: &Write| write.pending.due().is_some_and(|due| due <= now);
        self.writes.iter().find(|(_, write)| due(write)).map(|(object, _)| object.clone())
    }

    /// One round: the configuration, every endpoint, one decision.
    fn round(&mut self) {
        match self.file.changed() {
            Ok(None) => {}
            Ok(Some(config)) => self.take_over(config),
            Err(error) => warn!("the running configuration stays: {}", error.to_string().replace('\n', "; ")),
        }
        for index in 0..self.config.endpoints.len() {
            let endpoint = &self.config.endpoints[index];
            let asked = self.now();
            let answer = probe::ask(endpoint).and_then(|reply| probe::answer(endpoint, &reply));
            debug!(
                "{}: {} in {} ms",
                place(index, endpoint),
                answer.as_ref().map_or_else(|error| chain(error), outcome),
                (self.now() - asked).as_millis()
            );
            self.observe(index, answer);
        }
        self.decide();
    }

    /// Takes in what one endpoint answered.
    fn observe(&mut self, index: usize, answer: Result<Answer, ProbeError>) {
        let now = self.now();
        let endpoint = &self.config.endpoints[index];
        let place = place(index, endpoint);
        let state = &mut self.states[index];
        let reading = match answer {
            Ok(answer) => {
                if let Some((count, lasted)) = state.fault.recovered(now) {
                    info!("{place}: answers again after {} in {} s", failures(count), lasted.as_secs());
                }
                state.tell_unknown(now, &place, endpoint, &answer);
                Reading::Success(answer)
            }
            Err(error) => {
                if let Some(count) = state.fault.failed(now, &error.kind(), Duration::ZERO) {
                    warn!("{place}: probe failed{}: {}", times(count), chain(&error));
                }
                if error.is_our_own_fault() {
                    return;
                }
                Reading::Failure
            }
        };
        state.tracker.observe(endpoint, &reading);
    }

    /// Turns opinions into what every object should look like.
    fn decide(&mut self) {
        let trackers = self.states.iter().map(|state| &state.tracker);
        let desired = Desired::decide(self.config.endpoints.iter().zip(trackers), &self.identity, &self.desired);
        for (field, result) in &desired.illegal {
            if self.told_illegal.insert(field.clone()) {
                warn!("{field}: stays as it is, it cannot hold what {result} makes of it; told once");
            }
        }
        for (object, _) in desired.fields.iter().filter(|(_, fields)| !fields.is_empty()) {
            self.writes.entry(object.clone()).or_insert_with(|| Write {
                pending: Pending::new(object.kind == Kind::Pod, self.config.resync),
                fault: Episode::default(),
            });
        }
        let nothing = Fields::new();
        self.writes.retain(|object, write| {
            write.pending.want(desired.fields.get(object).unwrap_or(&nothing));
            !write.pending.is_idle()
        });
        self.desired = desired;
    }

    /// Makes one attempt to write what is pending for one object.
    fn write(&mut self, object: &Object) {
        // One reading of the clock's start, since `self` is borrowed from here on.
        let started = self.started;
        let began = started.elapsed();
        let Some(write) = self.writes.get_mut(object) else { return };
        let changes = write.pending.changes(began);
        let protected: Vec<String> =
            self.config.endpoints.iter().flat_map(|endpoint| endpoint.protected_ops_states.clone()).collect();
        let guard = Guard { protected: &protected, ours: &write.pending.perhaps_ours(OPS_STATE) };
        let written = self.client.write(object, &changes, &guard);
        let now = started.elapsed();
        let chance = self.chance.draw();
        match written {
            Ok(()) => {
                let news = news(object, &changes, &write.pending);
                write.pending.settle(changes, Verdict::Written, now, chance);
                if let Some((count, lasted)) = write.fault.recovered(now) {
                    info!("writing {} works again after {} in {} s", object.path, failures(count), lasted.as_secs());
                }
                let took = (now - began).as_millis();
                match news {
                    Some(news) if object.kind == Kind::GameServer && !self.desired.decided_by.is_empty() => {
                        info!("{news} ({}, written in {took} ms)", self.desired.decided_by);
                    }
                    Some(news) => info!("{news} (written in {took} ms)"),
                    None => debug!("{} written again in {took} ms", object.path),
                }
            }
            Err(error) => {
                write.pending.settle(changes, error.verdict(), now, chance);
                let next = write.pending.due().unwrap_or(now).saturating_sub(now);
                tell_write_fault(object, &error, &mut write.fault, now, next);
            }
        }
    }

    /// Goes on with another configuration, from this round on (2.9). What is known of endpoints that mean the same as
    /// before is kept, and so is what was written.
    fn take_over(&mut self, config: Config) {
        if config == self.config {
            return;
        }
        info!("configuration read anew; probes every {} s: {}", config.interval.as_secs(), places(&config));
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let mut before: Vec<(Endpoint, EndpointState)> =
            self.config.endpoints.drain(..).zip(self.states.drain(..)).collect();
        self.states = config
            .endpoints
            .iter()
            .map(|endpoint| match before.iter().position(|(known, _)| known.means_the_same(endpoint)) {
                Some(at) => before.swap_remove(at).1,
                None => EndpointState::default(),
            })
            .collect();
        let now = self.now();
        for write in self.writes.values_mut() {
            write.pending.set_resync(config.resync, now, self.chance.draw());
        }
        self.schedule = Schedule::new(now, config.interval);
        self.told_illegal.clear();
        self.config = config;
    }
}

impl EndpointState {
    /// Tells a result that no policy knows, once until a known one comes (7.4).
    fn tell_unknown(&mut self, now: Duration, place: &str, endpoint: &Endpoint, answer: &Answer) {
        let names_results = endpoint.policies.iter().any(|policy| policy.when != When::State(FAILED.into()));
        if !names_results || policy::select(&endpoint.policies, answer).is_some() {
            self.unknown.recovered(now);
        } else if self.unknown.begins(now) {
            warn!("{place}: no policy knows the result {}", outcome(answer));
        }
    }
}

/// What a write changed, as the log tells it; nothing when it only wrote the same again.
fn news(object: &Object, changes: &Changes, pending: &Pending) -> Option<String> {
    let changed: Vec<String> = changes
        .iter()
        .filter(|(pointer, value)| value.is_none() || pending.acknowledged(pointer) != value.as_ref())
        .map(|(pointer, value)| match (object.kind, pointer.as_str(), value) {
            (Kind::GameServer, OPS_STATE, Some(state)) => {
                format!("opsState {} -> {}", shown(pending.acknowledged(OPS_STATE)), shown(Some(state)))
            }
            (_, _, Some(value)) => format!("{pointer} {}", shown(Some(value))),
            (_, _, None) => format!("{pointer} removed"),
        })
        .collect();
    if changed.is_empty() {
        return None;
    }
    let object = match object.kind {
        Kind::GameServer => "",
        Kind::Pod => "Pod: ",
        Kind::Target => &format!("{}: ", object.path),
    };
    Some(format!("{object}{}", changed.join(", ")))
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "unknown".into(),
        // Legal opsStates are short words, anything else is a result that came from outside.
        Some(Value::String(text)) if crate::config::is_ops_state(text) => text.clone(),
        Some(Value::String(text)) => excerpt(text),
        Some(value) => value.to_string(),
    }
}

fn tell_write_fault(object: &Object, error: &WriteError, fault: &mut Episode, now: Duration, next: Duration) {
    let Some(count) = fault.failed(now, &error.kind(), error.patience()) else {
        return debug!("writing {} failed, next try in {} ms: {}", object.path, next.as_millis(), chain(error));
    };
    warn!("writing {} failed{}, goes on trying: {error}{}", object.path, times(count), causes(error));
}

/// The causes of an error, which itself is told whole: it names the RBAC rule.
fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |cause| format!(": {}", chain(cause)))
}

fn times(count: u32) -> String {
    if count == 1 { String::new() } else { format!(" {count} times by now") }
}

fn failures(count: u32) -> String {
    if count == 1 { "1 failure".into() } else { format!("{count} failures") }
}

fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Text(text) => excerpt(text),
        Answer::Cut(text) => format!("{}, a body of more than 64 KiB", excerpt(text)),
        Answer::Unread => "of the status alone".into(),
    }
}

fn places(config: &Config) -> String {
    let places: Vec<String> = config.endpoints.iter().map(Endpoint::place).collect();
    places.join(", ")
}
