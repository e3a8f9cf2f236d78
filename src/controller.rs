//! Owns how the decisions of [`decide`](crate::decide) work together: which probe is due, what its outcome changes, what is
//! written next, and what came of it. Knows the API server and the clock as [`Api`] alone, so that the tests' model drives
//! exactly this code through made-up time.

use std::time::Duration;

use serde_json::Value;

use crate::config::{Config, Endpoint};
use crate::decide::condition::{ConditionReads, condition_pointer};
use crate::decide::decision::{CannotHold, Decision, Fields, OPS_STATE};
use crate::decide::exclusive::Exclusive;
use crate::decide::failure::WriteError;
use crate::decide::guarded::{Guarded, Hold, OWNER_REFERENCES, Seen};
use crate::decide::merge_patch::patch_of;
use crate::decide::object::{ByObject, Identity, Kind, Object};
use crate::decide::opinion::Opinion;
use crate::decide::policy::Outcome;
use crate::decide::record::Record;
use crate::decide::schedule::Schedule;
use crate::decide::write::{Change, Patch, Write};

/// How often a conflict is tried again at once.
const MAX_CONFLICTS: u32 = 3;

/// The API server as one attempt sees it, and the clock.
pub trait Api {
    /// Since the start of the process.
    fn now(&self) -> Duration;

    /// Since the Unix epoch.
    fn wall_clock(&self) -> Duration;

    /// Reads a GameServer, whole or its metadata alone. `pointers` are the fields whose values and managers are kept.
    ///
    /// # Errors
    /// [`WriteError`].
    fn read(&mut self, object: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError>;

    /// Sends a merge-patch, to the pod's status a strategic one.
    ///
    /// # Errors
    /// Why it did not, or may not have, taken effect.
    fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError>;
}

/// What came of an attempt to write an object.
#[derive(Debug)]
pub enum Attempted {
    /// The object held what it must; nothing was sent.
    Unchanged,
    /// The fields were accepted, and this changed by it.
    Written(Fields, Vec<Change>),
    /// These conditions of the pod were written, and are not there any more.
    Dropped(Vec<String>),
    /// It failed: something in these fields was refused, so that others go on; without any, the write as a whole.
    Failed(WriteError, Fields),
}

/// From outcomes to requests. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    schedule: Schedule,
    opinions: Vec<Opinion>,
    /// Whether any opinion is another one than when a round was last decided; at first none is.
    has_news: bool,
    identity: Identity,
    decision: Decision,
    game_server: Guarded,
    others: ByObject<Exclusive>,
    condition_reads: ConditionReads,
    /// Whether a later pod of this name has taken over: nothing is written any more.
    is_superseded: bool,
}

impl Controller {
    /// Starts with a round after the start delay, every endpoint undecided; one that sets a condition has rounds of its own.
    pub fn new(config: Config, identity: Identity, jitter: f64) -> Self {
        let first_round = config.start_delay;
        let mut controller = Self {
            schedule: Schedule::new([]),
            opinions: Vec::new(),
            has_news: false,
            decision: Decision::new(&config.endpoints, &identity),
            game_server: Guarded::new(identity.game_server(), identity.uid.clone(), identity.token_issued_at),
            others: ByObject::default(),
            condition_reads: ConditionReads::default(),
            is_superseded: false,
            identity,
            config,
        };
        controller.decision.set_unknown(&controller.identity, &controller.config.unknown);
        controller.start(first_round, jitter);
        controller.game_server.look_later(0, Duration::ZERO, jitter);
        controller
    }

    /// A reload is a restart without the start delay (behaviour 8.5). What the objects remember stays, and so does what
    /// this process knows of them.
    pub fn reload(&mut self, config: Config, now: Duration, jitter: f64) {
        let others = self.others.iter();
        let sent_again = others.flat_map(|(object, write)| write.sent_again().map(move |field| (object, field)));
        self.decision.reload(&config.endpoints, &self.identity, sent_again);
        self.others.retain(|object, write| self.decision.concerns(object) || write.has_lost());
        self.config = config;
        self.start(now, jitter);
    }

    fn start(&mut self, first_round: Duration, jitter: f64) {
        let Config { interval, resync, endpoints, .. } = &self.config;
        let own = endpoints.iter().filter_map(Endpoint::condition);
        let own: Vec<_> = own.map(|condition| (1, condition.delay, condition.period)).collect();
        let together = (endpoints.len() - own.len(), first_round, *interval);
        self.schedule = Schedule::new([together].into_iter().filter(|(count, ..)| *count > 0).chain(own));
        self.opinions = endpoints.iter().map(|_| Opinion::default()).collect();
        self.game_server.set_resync(*resync, first_round, jitter);
    }

    /// The config that it follows.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is decided by now.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// When the next probe or write is due: past or to come.
    pub fn next_event(&self) -> Duration {
        self.due_writes().map(|(_, due)| due).fold(self.schedule.next(), Duration::min)
    }

    /// The objects to write and when, the GameServer before all others.
    fn due_writes(&self) -> impl Iterator<Item = (&Object, Duration)> {
        let game_server = &self.game_server.object;
        let guarded = self.game_server.due(&self.decision).map(|due| (game_server, due));
        let others = self.decision.objects().filter(|(object, _)| object.kind != Kind::GameServer);
        let exclusive = others.filter_map(|(object, decided)| {
            let read = self.condition_reads.next().filter(|_| object.kind == Kind::PodStatus);
            let due = self.others.get(object).map_or(Some(Duration::ZERO), |write| write.due(decided, read));
            due.map(|due| (object, due))
        });
        guarded.into_iter().chain(exclusive).filter(|_| !self.is_superseded)
    }

    /// The index of the endpoint whose probe is due, if any is.
    pub fn due_probe(&self, now: Duration) -> Option<usize> {
        self.schedule.due(now)
    }

    /// Whether a round starts at `now`.
    pub fn round_starts(&self, now: Duration) -> bool {
        self.due_probe(now).is_some_and(|probe| self.schedule.starts_with(probe))
    }

    /// Turns what came of a probe that ended at `now` into opinions and decisions; `None` says nothing about the game.
    /// Gives the fields that cannot hold what an opinion sets, where that is new.
    pub fn observe(&mut self, index: usize, outcome: Option<Outcome>, now: Duration) -> Vec<CannotHold> {
        self.schedule.advance(index, now);
        let endpoints = &self.config.endpoints;
        if let Some(outcome) = outcome {
            self.has_news |= self.opinions[index].observe(&endpoints[index], outcome, now);
        }
        // The same opinions decide the same.
        if !self.has_news {
            return Vec::new();
        }
        // A round of its own is over with its one probe.
        let probed = if endpoints[index].condition().is_some() { endpoints.len() } else { index + 1 };
        self.has_news = probed < endpoints.len();
        let cannot_hold = self.decision.update(endpoints, &self.opinions, probed);
        if let Some(record) = self.game_server.certain_record() {
            self.decision.settle(&self.game_server.object, Some(record));
        }
        cannot_hold
    }

    /// The object to write now, if any is due.
    pub fn due_write(&self, now: Duration) -> Option<Object> {
        self.due_writes().find(|(_, due)| *due <= now).map(|(object, _)| object.clone())
    }

    /// Whether anything is left to write to an object, now or later.
    pub fn is_due(&self, object: &Object) -> bool {
        self.due_writes().any(|(due, _)| due == object)
    }

    /// Makes one attempt to write an object.
    pub fn write(&mut self, object: &Object, api: &mut impl Api, jitter: f64) -> Attempted {
        if object.kind == Kind::PodStatus && self.condition_reads.next().is_some_and(|at| at <= api.now()) {
            return self.compare_conditions(object, api, jitter);
        }
        let mut tries = 0..MAX_CONFLICTS;
        let (patch, sent) = loop {
            match self.exchange(object, api) {
                (_, Err(error)) if error.is_conflict() && tries.next().is_some() => {}
                exchanged => break exchanged,
            }
        };
        let now = api.now();
        let write: &mut dyn Write = match object.kind {
            Kind::GameServer => &mut self.game_server,
            Kind::PodStatus | Kind::Pod | Kind::Target => self.others.entry(object),
        };
        match (sent, patch) {
            (Ok(()), patch) => {
                let changes = patch.as_ref().map(|patch| write.confirmed(patch, self.decision.fields(object)));
                let fields = patch.map(|patch| patch.fields).unwrap_or_default();
                write.pace().succeeded(&fields);
                if object.kind == Kind::GameServer {
                    self.game_server.set_resync(self.config.resync, now, jitter);
                    match changes {
                        Some(_) => self.game_server.look_later(0, now, jitter),
                        None => self.game_server.looked(now, jitter),
                    }
                    self.decision.settle(object, self.game_server.record());
                }
                if object.kind == Kind::PodStatus {
                    self.condition_reads.written(now);
                }
                changes.map_or(Attempted::Unchanged, |changes| Attempted::Written(fields, changes))
            }
            // Without a field in it, it is the write as a whole that was refused.
            (Err(error), Some(patch)) if error.is_about_the_fields() && !patch.fields.is_empty() => {
                write.pace().refused(&patch.fields, now, jitter);
                Attempted::Failed(error, patch.fields)
            }
            (Err(error), patch) => {
                if let Some(patch) = patch.filter(|_| error.is_unanswered()) {
                    write.unanswered(&patch, now);
                }
                if error.is_missing() {
                    write.missing();
                }
                self.is_superseded |= error.is_superseded();
                write.pace().failed(error.retry(), error.retry_after(), now, jitter);
                if matches!(error, WriteError::Hold(Hold::Protected(_))) {
                    // What was written was looked at all the same.
                    self.game_server.looked(now, jitter);
                }
                Attempted::Failed(error, Fields::new())
            }
        }
    }

    /// Reads the conditions of the pod, and compares them with what was written (behaviour 9.5, 9.6).
    fn compare_conditions(&mut self, object: &Object, api: &mut impl Api, jitter: f64) -> Attempted {
        let pointers: Vec<String> = self.decision.fields(object).keys().map(|name| condition_pointer(name)).collect();
        let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
        let read = api.read(object, &pointers, true);
        let write = self.others.entry(object);
        match read {
            Ok(seen) => {
                write.pace().succeeded(&Fields::new());
                let held = |name: &String| Some((name.clone(), seen.values.get(&condition_pointer(name))?.clone()));
                // Not collected, which would bring a sort of its own into the binary.
                let mut conditions = Fields::new();
                conditions.extend(self.decision.fields(object).keys().filter_map(held));
                if self.condition_reads.after_the_last_arrival(api.now()) {
                    write.send_again_what_differs(&conditions);
                }
                let dropped = match self.condition_reads.after_the_first_write(api.now()) {
                    true => write.missing_in(&conditions),
                    false => Vec::new(),
                };
                if dropped.is_empty() { Attempted::Unchanged } else { Attempted::Dropped(dropped) }
            }
            Err(error) => {
                write.pace().failed(error.retry(), error.retry_after(), api.now(), jitter);
                self.is_superseded |= error.is_superseded();
                Attempted::Failed(error, Fields::new())
            }
        }
    }

    /// One patch, where there is anything to send, and what came of it.
    fn exchange(&mut self, object: &Object, api: &mut impl Api) -> (Option<Patch>, Result<(), WriteError>) {
        let patch = match object.kind {
            Kind::GameServer => self.guarded_patch(api),
            Kind::PodStatus | Kind::Pod | Kind::Target => Ok(self.exclusive_patch(object, api.now())),
        };
        match patch {
            Ok(patch) => {
                let sent = patch.as_ref().map_or(Ok(()), |patch| api.patch(object, &patch.body));
                (patch, sent)
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// Reads the GameServer and compares (behaviour 4.6).
    fn guarded_patch(&mut self, api: &mut impl Api) -> Result<Option<Patch>, WriteError> {
        let object = &self.game_server.object;
        // A protected opsState protects every field, also where opsState itself is not decided (behaviour 6.6).
        let mut pointers: Vec<&str> = Vec::new();
        // What a config before this one has set, a cache may take back, too.
        let written = self.game_server.record().into_iter().flat_map(Record::pointers);
        for pointer in self.decision.pointers(object).chain([OPS_STATE, OWNER_REFERENCES]).chain(written) {
            if !pointers.contains(&pointer) {
                pointers.push(pointer);
            }
        }
        let protected = self.config.endpoints.iter().flat_map(|endpoint| endpoint.rules().protected_ops_states.clone());
        let (protected, now): (Vec<String>, _) = (protected.collect(), api.now());
        let mut seen = api.read(object, &pointers, self.game_server.reads_whole(&protected, now))?;
        if !seen.is_whole && self.game_server.is_in_doubt(&seen, api.wall_clock()) {
            seen = api.read(object, &pointers, true)?;
        }
        self.game_server.observe(&seen).map_err(WriteError::Hold)?;
        self.decision.settle(&self.game_server.object, self.game_server.record());
        let compared = self.game_server.compare(&seen, &self.decision, &protected, now, api.wall_clock());
        compared.map_err(WriteError::Hold)
    }

    /// The newest values of an object that nobody else writes, where any are to be sent (behaviour 4.8).
    fn exclusive_patch(&mut self, object: &Object, now: Duration) -> Option<Patch> {
        let fields = self.others.entry(object).changes(object.kind, self.decision.fields(object), now);
        let mut body = patch_of(object.kind, &fields);
        if let (Kind::Pod | Kind::PodStatus, Some(uid)) = (object.kind, &self.identity.uid) {
            body["metadata"]["uid"] = Value::from(uid.as_str());
        }
        (!fields.is_empty()).then(|| Patch { body, fields, record: Record::default(), at: now })
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::StatusCode;

    use super::*;
    use crate::decide::decision::tests::identity;
    use crate::decide::failure::Refusal;
    use crate::decide::opinion::tests::{endpoint, outcome};
    use crate::decide::record::{self, Annotations};
    use crate::json::escaped_key;

    /// An API server that answers every patch with this status, and its GameServer.
    struct Server {
        now: Duration,
        status: u16,
        records: Annotations,
        /// The fields that the last read has asked for.
        asked: Vec<String>,
    }

    impl Api for Server {
        fn now(&self) -> Duration {
            self.now
        }

        fn wall_clock(&self) -> Duration {
            self.now
        }

        fn read(&mut self, _: &Object, pointers: &[&str], is_whole: bool) -> Result<Seen, WriteError> {
            self.asked = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
            let records = self.records.clone();
            Ok(Seen { resource_version: "1".into(), records, is_whole, ..Seen::default() })
        }

        fn patch(&mut self, _: &Object, patch: &Value) -> Result<(), WriteError> {
            if self.status == 200 {
                let annotations = patch["metadata"]["annotations"].as_object().expect("a record is written");
                for (key, value) in annotations {
                    let pointer = format!("/metadata/annotations/{}", escaped_key(key));
                    match value {
                        Value::Null => self.records.remove(&pointer),
                        text => self.records.insert(pointer, text.clone()),
                    };
                }
                return Ok(());
            }
            Err(WriteError::Refused(Refusal {
                status: StatusCode::from_u16(self.status).unwrap(),
                message: String::new(),
                retry_after: None,
                advice: String::new(),
                perhaps_written: false,
                by_admission: false,
            }))
        }
    }

    /// A process whose game says `A`, or `B`.
    struct Process {
        controller: Controller,
        server: Server,
    }

    impl Process {
        fn new(record: Option<&str>) -> Self {
            let interval = Duration::from_secs(1_000_000);
            let config = Config { endpoints: vec![endpoint(&["A", "B"], 1, 1)], interval, ..Config::default() };
            let records = record.map(|record| (record::POINTER.to_owned(), record.into()));
            let records = records.into_iter().collect();
            let server = Server { now: Duration::ZERO, status: 200, records, asked: Vec::new() };
            Self { controller: Controller::new(config, identity(), 0.5), server }
        }

        fn says(&mut self, state: &str) {
            self.controller.observe(0, Some(outcome(state)), self.server.now);
        }

        /// Makes the attempt that is due. Gives what came of it, and when the next one is due.
        fn write(&mut self, status: u16) -> (Attempted, u64) {
            self.server.status = status;
            let object = self.controller.due_write(self.server.now).expect("it is due");
            let attempted = self.controller.write(&object, &mut self.server, 1.0);
            (attempted, (self.controller.next_event() - self.server.now).as_secs())
        }
    }

    #[test]
    fn a_refusal_of_the_record_alone_is_one_of_the_whole_write_and_waits() {
        let mut process = Process::new(Some(r#"{"opsState":"A"}"#));
        process.says("A");
        for wait in [1, 2, 4] {
            let (attempted, next) = process.write(422);
            assert!(matches!(&attempted, Attempted::Failed(_, fields) if fields.is_empty()), "{attempted:?}");
            assert_eq!(next, wait);
            process.server.now += Duration::from_secs(wait);
        }
    }

    #[test]
    fn a_read_asks_for_what_a_config_before_has_set() {
        let mut process = Process::new(Some(r#"{"opsState":"B","updatePriority":7,"/spec/x":"y","pod":"u-1"}"#));
        process.says("A");
        process.write(200);
        assert_eq!(process.server.asked, [OPS_STATE, OWNER_REFERENCES]);
        process.says("B");
        process.write(200);
        assert_eq!(process.server.asked, [OPS_STATE, OWNER_REFERENCES, "/spec/x", "/spec/updatePriority"]);
    }

    #[test]
    fn a_process_that_has_decided_nothing_looks_once_and_again_if_one_before_it_has_written() {
        for (record, looks) in [(None, 1), (Some(r#"{"opsState":"A","pod":"u-1"}"#), 2)] {
            let mut process = Process::new(record);
            assert!(process.controller.due_write(Duration::from_secs(10)).is_none());
            for look in 0..looks {
                process.server.now += Duration::from_secs(50);
                let object = process.controller.due_write(process.server.now).expect("a look is due");
                let attempted = process.controller.write(&object, &mut process.server, 0.5);
                assert!(matches!(attempted, Attempted::Unchanged), "{record:?}, look {look}: {attempted:?}");
            }
            assert!(process.controller.due_write(Duration::from_secs(1000)).is_none(), "{record:?}");
        }
    }

    #[test]
    fn waits_begin_anew_after_a_success() {
        let mut process = Process::new(None);
        process.says("A");
        for (status, wait) in [(500, 1), (500, 2), (500, 4)] {
            assert_eq!(process.write(status).1, wait);
            process.server.now += Duration::from_secs(wait);
        }
        assert!(matches!(process.write(200).0, Attempted::Written(..)));
        process.says("B");
        assert_eq!(process.write(500).1, 1);
    }
}
