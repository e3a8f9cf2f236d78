//! Owns how the decisions of [`decide`](crate::decide) work together: which probe is due, what its outcome changes, what is
//! written next, and what came of it. Knows the API server and the clock as [`Api`] alone, so that the tests' model drives
//! exactly this code through made-up time.

use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::decide::decision::{CannotHold, Decision, Fields, OPS_STATE};
use crate::decide::exclusive::Exclusive;
use crate::decide::guarded::{Change, Guarded, Next, Patch, Seen};
use crate::decide::merge_patch::patch_of;
use crate::decide::object::{ByObject, Identity, Kind, Object};
use crate::decide::opinion::Opinion;
use crate::decide::policy::Outcome;
use crate::decide::schedule::Schedule;
use crate::kube::client::WriteError;

/// How often a conflict is tried again at once.
const MAX_CONFLICTS: u32 = 3;

/// The API server as one attempt sees it, and the clock.
pub trait Api {
    /// Since the start of the process.
    fn now(&self) -> Duration;

    /// Since the Unix epoch.
    fn wall_clock(&self) -> Duration;

    /// Reads a GameServer; the whole object where the values at `pointers` are asked for.
    ///
    /// # Errors
    /// [`WriteError`].
    fn read(&mut self, object: &Object, pointers: Option<&[&str]>) -> Result<Seen, WriteError>;

    /// Sends a merge-patch, to the pod's status a strategic one.
    ///
    /// # Errors
    /// Why it did not, or may not have, taken effect.
    fn patch(&mut self, object: &Object, patch: &Value) -> Result<(), WriteError>;
}

/// What came of an attempt to write an object.
#[derive(Debug)]
pub enum Attempted<Changes> {
    /// The object held what it must; nothing was sent.
    Unchanged,
    /// The fields were accepted, and this changed by it.
    Written(Vec<(String, Option<Value>)>, Changes),
    /// Something in the fields was refused, so that other fields go on.
    FieldsRefused(WriteError, Vec<(String, Option<Value>)>),
    /// Neither.
    Failed(WriteError),
}

/// From outcomes to requests. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    protected: Vec<String>,
    schedule: Schedule,
    opinions: Vec<Opinion>,
    /// Whether any opinion is another one than when a round was last decided.
    has_news: bool,
    identity: Identity,
    decision: Decision,
    game_server: Guarded,
    others: ByObject<Exclusive>,
}

impl Controller {
    /// Starts with a round after the start delay, every endpoint undecided; one that sets a condition has rounds of its own.
    pub fn new(config: Config, identity: Identity, jitter: f64) -> Self {
        let first_round = config.start_delay;
        let mut controller = Self {
            protected: Vec::new(),
            schedule: Schedule::new([]),
            opinions: Vec::new(),
            has_news: true,
            decision: Decision::new(&config.endpoints, &identity),
            game_server: Guarded::new(identity.game_server(), identity.uid.clone()),
            others: ByObject::default(),
            identity,
            config,
        };
        controller.decision.set_unknown(&controller.identity, &controller.config.unknown);
        controller.start(first_round, jitter);
        controller
    }

    /// A reload is a restart without the start delay (behaviour 8.5). What the objects remember stays, and so does what
    /// this process knows of them.
    pub fn reload(&mut self, config: Config, now: Duration, jitter: f64) {
        let sent_again = self
            .others
            .iter()
            .flat_map(|(object, write)| write.sent_again().map(move |(pointer, value)| (object, pointer, value)));
        self.decision.reload(&config.endpoints, &self.identity, sent_again);
        self.others.retain(|object, write| self.decision.concerns(object) || write.has_lost());
        self.config = config;
        self.start(now, jitter);
    }

    fn start(&mut self, first_round: Duration, jitter: f64) {
        let Config { interval, resync, endpoints, .. } = &self.config;
        let own = endpoints.iter().filter_map(|endpoint| endpoint.condition.as_ref());
        let own: Vec<_> = own.map(|condition| (1, condition.delay, condition.period)).collect();
        let together = (endpoints.len() - own.len(), first_round, *interval);
        self.schedule = Schedule::new([together].into_iter().filter(|(count, ..)| *count > 0).chain(own));
        self.opinions = vec![Opinion::default(); endpoints.len()];
        self.has_news = true;
        self.protected = endpoints.iter().flat_map(|endpoint| endpoint.protected_ops_states.clone()).collect();
        self.game_server.set_resync(*resync, first_round, jitter);
        self.open_others();
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
        let game_server = self.game_server.due(self.decision.fields(self.game_server.object()));
        let others = self.others.iter().filter_map(|(object, write)| write.due(self.decision.fields(object)));
        others.chain(game_server).fold(self.schedule.next(), Duration::min)
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
            self.has_news |= self.opinions[index].observe(&endpoints[index], outcome);
        }
        // The same opinions decide the same.
        if !self.has_news {
            return Vec::new();
        }
        // A round of its own is over with its one probe.
        let probed = if endpoints[index].condition.is_some() { endpoints.len() } else { index + 1 };
        self.has_news = probed < endpoints.len();
        let cannot_hold = self.decision.update(endpoints, &self.opinions, probed);
        self.open_others();
        cannot_hold
    }

    /// Begins the write of each object that something was decided for.
    fn open_others(&mut self) {
        for (object, _) in self.decision.objects().filter(|(object, _)| object.kind != Kind::GameServer) {
            self.others.entry(object);
        }
    }

    /// The object to write now, if any is due: the GameServer before all others.
    pub fn due_write(&self, now: Duration) -> Option<Object> {
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now);
        if is_due(self.game_server.due(self.decision.fields(self.game_server.object()))) {
            return Some(self.game_server.object().clone());
        }
        let due = self.others.iter().find(|(object, write)| is_due(write.due(self.decision.fields(object))));
        due.map(|(object, _)| object.clone())
    }

    /// Reads the GameServer, compares, and patches what was read (behaviour 4.6).
    pub fn write_game_server(&mut self, api: &mut impl Api, jitter: f64) -> Attempted<Vec<Change>> {
        let mut tries = 0..MAX_CONFLICTS;
        let (patch, sent) = loop {
            match self.exchange(api) {
                (_, Err(error)) if error.is_conflict() && tries.next().is_some() => {}
                exchanged => break exchanged,
            }
        };
        let now = api.now();
        match (sent, patch) {
            (Ok(()), None) => {
                self.game_server.unchanged(now, jitter);
                Attempted::Unchanged
            }
            (Ok(()), Some(patch)) => {
                let fields = patch.fields.clone();
                let decided = self.decision.fields(self.game_server.object());
                let changes = self.game_server.confirmed(patch, decided, now, jitter);
                Attempted::Written(fields, changes)
            }
            (Err(error), patch) => {
                let refused = patch.as_ref().filter(|_| error.is_about_the_fields());
                if let Some(patch) = refused.filter(|patch| self.game_server.refused(patch, now, jitter)) {
                    return Attempted::FieldsRefused(error, patch.fields.clone());
                }
                if let Some(patch) = patch.filter(|_| error.is_unanswered()) {
                    self.game_server.unanswered(patch);
                }
                if error.is_missing() {
                    self.game_server.missing();
                }
                self.game_server.failed(error.retry(), error.retry_after(), now, jitter);
                Attempted::Failed(error)
            }
        }
    }

    /// One read, one comparison, and the patch that follows, if any, with what came of it.
    fn exchange(&mut self, api: &mut impl Api) -> (Option<Patch>, Result<(), WriteError>) {
        let object = self.game_server.object().clone();
        // A protected opsState protects every field, also where opsState itself is not decided (behaviour 6.6).
        let decided = self.decision.fields(&object).keys().map(String::as_str);
        let pointers: Vec<&str> = decided.chain([OPS_STATE]).collect();
        let now = api.now();
        let whole = self.game_server.reads_whole(&self.protected, now).then_some(&pointers[..]);
        let seen = match api.read(&object, whole) {
            Ok(seen) => seen,
            Err(error) => return (None, Err(error)),
        };
        match self.game_server.compare(&seen, &self.decision, &self.protected, now, api.wall_clock()) {
            Next::Nothing => (None, Ok(())),
            Next::Hold(hold) => (None, Err(WriteError::Hold(hold))),
            Next::Send(patch) => {
                let sent = api.patch(&object, &patch.body);
                (Some(patch), sent)
            }
        }
    }

    /// Sends the newest values of an object that nobody else writes, if there are any to send (behaviour 4.8).
    pub fn write_other(&mut self, object: &Object, api: &mut impl Api, jitter: f64) -> Option<Attempted<Fields>> {
        let write = self.others.entry(object);
        let now = api.now();
        let fields = write.changes(self.decision.fields(object), now);
        if fields.is_empty() {
            return None;
        }
        // OpenKruiseGame would act again on a condition that somebody dropped (behaviour 9.6).
        if object.kind != Kind::PodStatus {
            write.may_be_overtaken(&fields, now);
        }
        let mut patch = patch_of(object.kind, &fields);
        if let (Kind::Pod | Kind::PodStatus, Some(uid)) = (object.kind, &self.identity.uid) {
            patch["metadata"]["uid"] = Value::from(uid.as_str());
        }
        let mut tries = 0..MAX_CONFLICTS;
        let sent = loop {
            match api.patch(object, &patch) {
                Err(error) if error.is_conflict() && tries.next().is_some() => {}
                sent => break sent,
            }
        };
        let now = api.now();
        Some(match sent {
            Ok(()) => {
                let changes = write.confirmed(fields.clone());
                Attempted::Written(fields, changes)
            }
            Err(error) if error.is_about_the_fields() => {
                write.refused(&fields, now, jitter);
                Attempted::FieldsRefused(error, fields)
            }
            Err(error) => {
                if error.is_unanswered() {
                    write.unanswered(&fields, now);
                }
                if error.is_missing() {
                    write.missing();
                }
                write.failed(error.retry(), error.retry_after(), now, jitter);
                Attempted::Failed(error)
            }
        })
    }
}
