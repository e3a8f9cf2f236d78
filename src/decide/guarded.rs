//! Owns the guarded write of the GameServer, which others write, too (behaviour 4.3, 4.6, 6.6): what was read is compared
//! with what was decided, and the patch takes effect on exactly that state of the object or not at all. The memory is in
//! the object: what is remembered here is the record as it was last read or written.

use std::time::Duration;

use serde_json::Value;

use super::decision::{DELETION_PRIORITY, Decision, Fields, OPS_STATE, UPDATE_PRIORITY};
use super::merge_patch::merge_patch;
use super::object::Object;
use super::pace::Pace;
use super::record::{Annotations, Record};
use super::write::{Change, Patch, Write};

/// The name of the sidecar in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "okg-sidecar";

/// Whose manager is the controller that makes the GameServer.
pub const OWNER_REFERENCES: &str = "/metadata/ownerReferences";

/// After a write the sidecar looks whether it still stands, and after a start whether the write of the process before does:
/// OpenKruiseGame writes what it has cached some seconds later. The least wait before each look, and by how much more it may be, so
/// that a fleet does not look in step.
const LOOKS: [(Duration, Duration); 2] =
    [(Duration::from_secs(10), Duration::from_secs(5)), (Duration::from_secs(30), Duration::from_secs(10))];

/// The write of the pod's own GameServer. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug, Default)]
pub struct Guarded {
    /// The GameServer.
    pub object: Object,
    /// The pod's uid, if it is known.
    uid: Option<String>,
    /// When the pod's token was issued, if that is known.
    token_issued_at: Option<u64>,
    /// This pod's record, as it was last read or written.
    record: Option<Record>,
    /// What the log has reported of the fields.
    reported: Option<Record>,
    /// Whether this process has written nothing yet: its first decision is sent even if no field differs.
    is_first: bool,
    /// Whether an attempt got no answer: the next one is sent even if no field differs, so that the object moves on and a late
    /// arrival is refused.
    has_lost: bool,
    /// The pod that the record named when this process first read it; the inner `None` is no record, or one without a pod.
    first_pod: Option<Option<String>>,
    pace: Pace,
    /// When the next look is due, and its index in [`LOOKS`].
    look: Option<(Duration, usize)>,
    resync_at: Option<Duration>,
}

/// What was read of a GameServer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Of exactly this state of the object.
    pub resource_version: String,
    /// The uid of the first Pod among the owners. OpenKruiseGame makes the Pod the owner of its GameServer, unless the
    /// set's reclaimPolicy is Delete.
    pub owner: Option<String>,
    /// The annotations whose key begins as the record's does: 16 at most, those with the highest numbers.
    pub records: Annotations,
    /// Who manages a record or a field that was asked for: 16 at most, the last ones, in the API server's order.
    pub managers: Vec<Manager>,
    /// Whether it is the whole object, and not its metadata alone.
    pub is_whole: bool,
    /// The values that were asked for and are there, if they are no object, no list and no text of more than 8 KiB.
    pub values: Fields,
}

/// An entry of `metadata.managedFields`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manager {
    /// Such as `okg-sidecar` or `kubectl-edit`.
    pub name: String,
    /// The fields that it set last: RFC 6901 pointers of records, and of what was asked for.
    pub fields: Vec<String>,
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Hold {
    /// The object belongs to another pod of this name, and is about to be collected.
    OtherPod,
    /// A later pod of this name has taken over.
    Superseded,
    /// Somebody else has set this opsState, which is protected.
    Protected(String),
}

impl Guarded {
    /// Nothing read yet, of the GameServer of the pod with this uid, whose token was issued at this time.
    pub fn new(object: Object, uid: Option<String>, token_issued_at: Option<u64>) -> Self {
        Self { object, uid, token_issued_at, is_first: true, ..Self::default() }
    }

    /// When the next attempt is due: past or to come, or never as things stand.
    pub fn due(&self, decision: &Decision) -> Option<Duration> {
        let decided = decision.fields(&self.object);
        let differing = decided.iter().filter(|(pointer, value)| self.differs(pointer, value));
        let at_once = self.must_write(decision).then_some(Duration::ZERO);
        // A config that sets nothing here needs no right to read it.
        let look = self.look.filter(|_| decision.pointers(&self.object).next().is_some()).map(|(at, _)| at);
        let resync = self.resync_at.filter(|_| !decided.is_empty());
        let at = at_once.into_iter().chain(look).chain(resync);
        self.pace.due(differing.map(|field| (field, Duration::ZERO)), at)
    }

    /// Whether the value is another one than was last decided.
    fn differs(&self, pointer: &str, value: &Value) -> bool {
        !self.record.as_ref().is_some_and(|record| record.says(pointer, value))
    }

    /// Whether there is something to write beside fields that differ.
    fn must_write(&self, decision: &Decision) -> bool {
        self.has_lost
            || (self.is_first && !decision.fields(&self.object).is_empty())
            || decision.to_forget(&self.object).next().is_some()
    }

    /// Whether an attempt at `now` has to read the whole object, and not its metadata alone.
    pub fn reads_whole(&self, protected: &[String], now: Duration) -> bool {
        !protected.is_empty() || self.resync_at.is_some_and(|at| at <= now)
    }

    /// Whether the metadata leave open if a controller has put values back from its cache, so that the values have to be read,
    /// too: an older record is back, or a cache may be older than all records.
    pub fn is_in_doubt(&self, seen: &Seen, wall_clock: Duration) -> bool {
        let Some(newest) = Record::newest(&seen.records) else { return false };
        let may_be_put_back = |pointer: &str| {
            newest.has_replaced(pointer) && setters(seen, pointer).any(|setter| manages(setter, OWNER_REFERENCES))
        };
        newest.put_back(&seen.records).next().is_some()
            || (self.is_news_to_caches(&newest, wall_clock) && newest.pointers().any(may_be_put_back))
    }

    /// Whether a cache may be older than every record. An outage delays a look, and not what it is about.
    fn is_news_to_caches(&self, newest: &Record, wall_clock: Duration) -> bool {
        newest.is_news_to_caches(wall_clock) || (self.look.is_some() && newest.has_first())
    }

    /// Takes in what was read: whose the object is, and what was decided last.
    ///
    /// # Errors
    /// The object is another pod's, now or for ever.
    pub fn observe(&mut self, seen: &Seen) -> Result<(), Hold> {
        let found = Record::newest(&seen.records);
        let pod = found.as_ref().and_then(|record| record.pod.clone());
        let first_pod = self.first_pod.get_or_insert_with(|| pod.clone());
        if self.uid.is_some() && seen.owner.is_some() && seen.owner != self.uid {
            return Err(Hold::OtherPod);
        }
        let is_foreign = self.uid.is_some() && pod.is_some() && pod != self.uid;
        let is_later = match (found.as_ref().and_then(|record| record.token_issued_at), self.token_issued_at) {
            // One name has one pod at a time, so that each earlier pod's token is older by the API server's clock.
            (Some(theirs), Some(ours)) if theirs != ours => theirs > ours,
            _ => pod != *first_pod,
        };
        if is_foreign && is_later {
            return Err(Hold::Superseded);
        }
        self.record = found.filter(|_| !is_foreign);
        if self.record.is_none() || self.reported.is_none() {
            self.reported.clone_from(&self.record);
        }
        Ok(())
    }

    /// This pod's record, as it was last read or written.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The record that is in the object, unless an attempt that got no answer may have replaced it.
    pub fn certain_record(&self) -> Option<&Record> {
        self.record().filter(|_| !self.has_lost)
    }

    /// Compares what was read with what was decided. `wall_clock` is since the Unix epoch. Gives the patch to send, or
    /// nothing if the object holds what it must.
    ///
    /// # Errors
    /// Somebody else's protected opsState.
    pub fn compare(
        &mut self,
        seen: &Seen,
        decision: &Decision,
        protected: &[String],
        now: Duration,
        wall_clock: Duration,
    ) -> Result<Option<Patch>, Hold> {
        let found = Record::newest(&seen.records);
        let actual = |pointer: &str| seen.values.get(pointer);
        let taken_back = found.as_ref().map(|newest| self.taken_back(seen, newest, wall_clock)).unwrap_or_default();
        if let Some(Value::String(state)) = actual(OPS_STATE)
            && protected.contains(state)
            && found.as_ref().and_then(Record::ops_state).is_none_or(|decided| decided != state)
            && !taken_back.contains(&OPS_STATE)
        {
            return Err(Hold::Protected(state.clone()));
        }
        let decided = decision.fields(&self.object);
        let is_set = |pointer: &str| decision.set_by(&self.object, pointer).is_some();
        let forgotten: Vec<&str> = decision.to_forget(&self.object).collect();
        let resyncs = seen.is_whole && self.resync_at.is_some_and(|at| at <= now);
        let differs = |(pointer, value): &(&String, &Value)| {
            let held = actual(pointer).is_some_and(|held| is_same(held, value));
            let is_taken_back = taken_back.contains(&pointer.as_str());
            !forgotten.contains(&pointer.as_str())
                && (self.differs(pointer, value) || is_taken_back || (resyncs && is_set(pointer) && !held))
        };
        let differing: Vec<_> = decided.iter().filter(differs).collect();
        let is_put_back = found.as_ref().is_some_and(|record| record.put_back(&seen.records).next().is_some());
        let must_send = self.must_write(decision) || is_put_back || !taken_back.is_empty();
        let fields = self.pace.select(differing.into_iter(), now);
        if fields.is_empty() && !must_send {
            return Ok(None);
        }
        self.pace.begins(now);
        // An earlier pod's record says nothing about this one.
        let earlier = || found.as_ref().map(Record::of_next_pod);
        let mut record = self.record.clone().or_else(earlier).unwrap_or_default();
        record.renew(&seen.records, wall_clock);
        forgotten.iter().for_each(|pointer| record.forget(pointer));
        // What is not given again by this patch is news when its turn comes.
        let later = taken_back.iter().filter(|pointer| !fields.contains_key(**pointer));
        later.for_each(|pointer| record.was_taken_back(pointer, actual(pointer)));
        fields
            .iter()
            .for_each(|(pointer, value)| record.set(pointer, value, before(pointer, seen, found.as_ref()).as_ref()));
        record.pod.clone_from(&self.uid);
        record.token_issued_at = self.token_issued_at;
        let resource_version = ("/metadata/resourceVersion".to_owned(), Value::from(seen.resource_version.as_str()));
        let own = record.changes(&seen.records).into_iter().chain([resource_version]);
        let changes: Vec<_> =
            fields.iter().map(|(pointer, value)| (pointer.clone(), value.clone())).chain(own).collect();
        let body = merge_patch(changes.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())));
        // The log reports it again.
        for pointer in taken_back {
            if let (Some(reported), Some(value)) = (&mut self.reported, actual(pointer)) {
                reported.set(pointer, value, None);
            }
        }
        Ok(Some(Patch { body, fields, record, at: now }))
    }

    /// The fields of the newest record that have again what they had before, since a controller has put that back from its
    /// cache.
    fn taken_back<'r>(&self, seen: &Seen, newest: &'r Record, wall_clock: Duration) -> Vec<&'r str> {
        let is_news = self.is_news_to_caches(newest, wall_clock);
        let is_taken_back = |pointer: &&str| {
            let value = seen.values.get(*pointer).filter(|value| self.differs(pointer, value));
            value.is_some_and(|value| is_from_a_cache(pointer, value, newest, seen, is_news))
        };
        newest.pointers().filter(is_taken_back).collect()
    }

    /// A read has found that nothing is to be written. What was written is looked at again later, or no more.
    pub fn looked(&mut self, now: Duration, jitter: f64) {
        if let Some((_, index)) = self.look.filter(|(at, _)| *at <= now) {
            self.look_later(index + 1, now, jitter);
        }
        if self.record.is_none() {
            self.look = None;
        }
    }

    /// Plans to look whether what was written still stands.
    pub fn look_later(&mut self, index: usize, now: Duration, jitter: f64) {
        self.look = LOOKS.get(index).map(|(least, more)| (now + *least + more.mul_f64(jitter), index));
    }

    /// Reads the object every so often from now on, give or take 10 %; never with `None`.
    pub fn set_resync(&mut self, every: Option<Duration>, now: Duration, jitter: f64) {
        self.resync_at = every.map(|every| now + every.mul_f64(0.9 + jitter / 5.0));
    }
}

/// What OpenKruiseGame creates a GameServer with.
fn as_created(pointer: &str) -> Option<Value> {
    match pointer {
        OPS_STATE => Some("None".into()),
        DELETION_PRIORITY | UPDATE_PRIORITY => Some(0.into()),
        _ => None,
    }
}

/// What a field has as far as it is known; null is any value.
fn before(pointer: &str, seen: &Seen, newest: Option<&Record>) -> Option<Value> {
    let by_controller = |setter: &Manager| manages(setter, OWNER_REFERENCES);
    if setters(seen, pointer).any(|setter| !by_controller(setter)) {
        // A cache may have a value that somebody had set before this one.
        return Some(Value::Null);
    }
    if seen.is_whole {
        return seen.values.get(pointer).cloned();
    }
    let named = newest.and_then(|record| record.last(pointer));
    // The record does not name what a sidecar set and let go of.
    let by_sidecar = seen.managers.iter().any(|manager| manager.name == FIELD_MANAGER && manages(manager, pointer));
    named.cloned().or_else(|| if by_sidecar { Some(Value::Null) } else { as_created(pointer) })
}

/// The others who have set a field last.
fn setters<'s>(seen: &'s Seen, pointer: &'s str) -> impl Iterator<Item = &'s Manager> {
    seen.managers.iter().filter(move |manager| manager.name != FIELD_MANAGER && manages(manager, pointer))
}

fn manages(manager: &Manager, pointer: &str) -> bool {
    manager.fields.iter().any(|field| field == pointer)
}

/// Whether a controller has put this value of a field back from its cache: the field had it before, and the one who set it
/// has put an older record back as well. A cache that is older than the first record has none to put back; then the controller that
/// made the object is the one.
fn is_from_a_cache(pointer: &str, value: &Value, newest: &Record, seen: &Seen, is_news: bool) -> bool {
    if !newest.replaces(pointer, value, &seen.records) {
        return false;
    }
    let setters: Vec<&Manager> = setters(seen, pointer).collect();
    let put_back: Vec<&str> = newest.put_back(&seen.records).collect();
    match (put_back.is_empty(), setters.is_empty()) {
        // Nobody shows who has set it.
        (false, true) => seen.managers.is_empty(),
        (false, false) => setters.iter().any(|setter| put_back.iter().any(|record| manages(setter, record))),
        (true, _) => is_news && setters.iter().any(|setter| manages(setter, OWNER_REFERENCES)),
    }
}

impl Write for Guarded {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// What attempts before it had changed that got no answer is a part of it.
    fn confirmed(&mut self, patch: &Patch, decided: &Fields) -> Vec<Change> {
        (self.is_first, self.has_lost) = (false, false);
        self.record = Some(patch.record.clone());
        let before = self.reported.replace(patch.record.clone()).unwrap_or_default();
        let changed =
            |(pointer, value): &(&String, &Value)| patch.record.says(pointer, value) && !before.says(pointer, value);
        let changes = decided.iter().filter(changed);
        changes.map(|(pointer, value)| (pointer.clone(), before.last(pointer).cloned(), value.clone())).collect()
    }

    fn unanswered(&mut self, _: &Patch, _: Duration) {
        self.has_lost = true;
    }

    fn missing(&mut self) {
        self.is_first = true;
        (self.record, self.reported, self.look) = (None, None, None);
    }
}

/// Whether two values are the same: the API server may write `1.0` as `1`.
fn is_same(one: &Value, other: &Value) -> bool {
    // A number may read back as another one in its last digit.
    let is_near = |(one, other): (f64, f64)| (one - other).abs() <= one.abs() * f64::EPSILON;
    one == other || one.as_f64().zip(other.as_f64()).is_some_and(is_near)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decision::tests::{Core, identity, set};
    use super::super::decision::{DELETION_PRIORITY, UPDATE_PRIORITY};
    use super::super::opinion::tests::endpoint;
    use super::super::record;
    use super::*;
    use crate::config::Field;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A process whose game says opsStates, and the GameServer as it is.
    struct Process {
        core: Core,
        guarded: Guarded,
        seen: Seen,
        /// Every state of the annotations so far.
        history: Vec<Annotations>,
        protected: Vec<String>,
        now: u64,
    }

    /// opsState alone, unless the state is `AB`, which sets both priorities, too.
    const STATES: [&str; 4] = ["A", "B", "C", "AB"];

    impl Process {
        /// Beside a record of version 0.2; an empty one is none.
        fn new(record: &str) -> Self {
            let mut room = endpoint(&STATES, 1, 1);
            set(&mut room.rules_mut().policies[3], Field::of_game_server(DELETION_PRIORITY), "5");
            set(&mut room.rules_mut().policies[3], Field::of_game_server(UPDATE_PRIORITY), "6");
            let plain = (!record.is_empty()).then(|| (record::POINTER.to_owned(), record.into()));
            let seen = Seen { resource_version: "1".into(), is_whole: true, ..Seen::default() };
            Self {
                core: Core::new(vec![room]),
                guarded: Guarded::new(identity().game_server(), identity().uid, Some(100)),
                seen: Seen { records: plain.into_iter().collect(), ..seen },
                history: Vec::new(),
                protected: Vec::new(),
                now: 0,
            }
        }

        /// Another process of the same pod, which reads the same GameServer.
        fn restarted(self) -> Self {
            Self { seen: self.seen, history: self.history, now: self.now, ..Self::new("") }
        }

        fn says(mut self, state: &str) -> Self {
            self.core.round(&[state]);
            if let Some(record) = self.guarded.certain_record() {
                self.core.decision.settle(&self.guarded.object, Some(record));
            }
            self
        }

        fn compare(&mut self) -> Result<Option<Patch>, Hold> {
            self.now += 1;
            let (now, wall_clock) = (s(self.now), s(1_000_000 + self.now));
            self.guarded.observe(&self.seen)?;
            self.core.decision.settle(&self.guarded.object, self.guarded.record());
            self.guarded.compare(&self.seen, &self.core.decision, &self.protected, now, wall_clock)
        }

        fn patch(&mut self) -> Patch {
            self.compare().unwrap().expect("there is something to send")
        }

        /// The patch takes effect.
        fn land(&mut self, patch: &Patch) {
            assert_eq!(patch.body["metadata"]["resourceVersion"], self.seen.resource_version);
            self.seen.resource_version += "1";
            self.history.push(self.seen.records.clone());
            for (pointer, value) in patch.record.changes(&self.seen.records) {
                assert_eq!(patch.body.pointer(&pointer), Some(&value));
                match value {
                    Value::Null => self.seen.records.remove(&pointer),
                    text => self.seen.records.insert(pointer.clone(), text),
                };
                self.owns(FIELD_MANAGER, &pointer);
            }
            for (pointer, value) in &patch.fields {
                self.holds(FIELD_MANAGER, pointer, value.clone());
            }
        }

        /// Somebody sets a field.
        fn holds(&mut self, manager: &str, pointer: &str, value: Value) {
            if self.seen.values.insert(pointer.to_owned(), value.clone()) != Some(value) {
                self.owns(manager, pointer);
            }
        }

        fn owns(&mut self, manager: &str, pointer: &str) {
            let managers = &mut self.seen.managers;
            managers.iter_mut().for_each(|manager| manager.fields.retain(|field| field != pointer));
            match managers.iter_mut().find(|known| known.name == manager) {
                Some(known) => known.fields.push(pointer.to_owned()),
                None => managers.push(Manager { name: manager.into(), fields: vec![pointer.to_owned()] }),
            }
        }

        /// OpenKruiseGame writes the annotations that it has cached so many changes ago, and of the spec this opsState.
        fn cache(&mut self, back: usize, ops_state: Option<&str>) {
            for (pointer, text) in self.history[self.history.len() - back].clone() {
                if self.seen.records.insert(pointer.clone(), text.clone()) != Some(text) {
                    self.owns("manager", &pointer);
                }
            }
            if let Some(state) = ops_state {
                self.holds("manager", OPS_STATE, json!(state));
            }
        }

        /// One attempt that works. Gives the fields that it sent.
        fn write(&mut self) -> Vec<(String, Value)> {
            let patch = self.patch();
            self.land(&patch);
            let fields = fields_of(&patch);
            let decided = self.core.decision.fields(&self.guarded.object);
            self.guarded.pace.succeeded(&patch.fields);
            self.guarded.confirmed(&patch, decided);
            self.core.decision.settle(&self.guarded.object, self.guarded.record());
            fields
        }

        fn in_doubt(&self) -> bool {
            self.guarded.is_in_doubt(&self.seen, s(1_000_000 + self.now))
        }

        fn due(&self) -> Option<Duration> {
            self.guarded.due(&self.core.decision)
        }

        fn record(&self) -> Record {
            Record::newest(&self.seen.records).expect("there is a record")
        }
    }

    /// Records of version 0.2.
    fn records(text: &str) -> Annotations {
        [(record::POINTER.to_owned(), text.into())].into()
    }

    fn fields_of(patch: &Patch) -> Vec<(String, Value)> {
        patch.fields.iter().map(|(pointer, value)| (pointer.clone(), value.clone())).collect()
    }

    fn ops_state(state: &str) -> Vec<(String, Value)> {
        vec![(OPS_STATE.into(), json!(state))]
    }

    #[test]
    fn the_first_decision_of_a_process_is_sent_with_what_differs_from_the_record() {
        for (record, sent) in [
            ("", ops_state("A")),
            (r#"{"opsState":"B","pod":"u-1"}"#, ops_state("A")),
            (r#"{"opsState":"A","pod":"u-1"}"#, vec![]),
            // One that names no pod counts, too; another pod's does not (4.3).
            (r#"{"opsState":"A"}"#, vec![]),
            (r#"{"opsState":"A","pod":"u-0"}"#, ops_state("A")),
            ("no record", ops_state("A")),
        ] {
            let mut process = Process::new(record).says("A");
            assert_eq!(process.due(), Some(s(0)), "{record}");
            assert_eq!(process.write(), sent, "{record}");
            assert!(process.due().is_none() && matches!(process.compare(), Ok(None)), "{record}");
            let found = process.record();
            assert_eq!((found.get(OPS_STATE), found.pod.as_deref()), (Some(&json!("A")), Some("u-1")), "{record}");
            assert_eq!(found.token_issued_at, Some(100));
        }
        assert_eq!(Process::new("").due(), None, "nothing is decided yet");
    }

    #[test]
    fn the_record_keeps_what_this_process_has_not_decided() {
        let mut process = Process::new(r#"{"opsState":"B","updatePriority":9,"/spec/x":"y","pod":"u-1"}"#).says("A");
        process.write();
        let found = process.record();
        assert_eq!(
            (found.get(UPDATE_PRIORITY), found.get("/spec/x")),
            (None, Some(&json!("y"))),
            "it could set the first"
        );
    }

    #[test]
    fn a_decision_that_went_back_before_it_was_in_is_not_written_again() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        assert_eq!(process.due(), Some(s(0)));
        process = process.says("A");
        assert_eq!(process.due(), None);
    }

    #[test]
    fn after_an_attempt_without_an_answer_the_next_one_is_sent_even_if_nothing_differs() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        let lost = process.patch();
        process.guarded.unanswered(&lost, s(0));
        process = process.says("A");
        assert_eq!(process.due(), Some(s(0)));
        assert_eq!(process.write(), [], "the record alone");
        assert_eq!(process.due(), None);
    }

    #[test]
    fn an_attempt_without_an_answer_that_landed_is_known_by_its_record() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        let landed = process.patch();
        process.land(&landed);
        process.guarded.unanswered(&landed, s(0));
        // Somebody may have set another value since; B is in, and is not written over it.
        assert_eq!(process.write(), []);
        process = process.says("C");
        let landed = process.patch();
        process.land(&landed);
        process.guarded.unanswered(&landed, s(0));
        assert_eq!(process.says("B").write(), ops_state("B"), "it went back after C was in");
    }

    #[test]
    fn what_is_set_anew_is_news_although_an_attempt_without_an_answer_has_landed() {
        let mut process = Process::new("").says("A");
        process.write();
        // Fields that the record of A does not name.
        process = process.says("AB").says("unknown");
        let landed = process.patch();
        process.land(&landed);
        process.guarded.unanswered(&landed, s(0));
        process = process.says("AB");
        assert_eq!((process.write().len(), process.write().len()), (0, 3));
    }

    #[test]
    fn an_older_record_that_was_put_back_hides_nothing() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        let lost = process.patch();
        process.land(&lost);
        process.guarded.unanswered(&lost, s(0));
        process.cache(1, None);
        // By the older record it would be in.
        process = process.says("A");
        assert_eq!(process.write(), ops_state("A"));
        assert_eq!(process.seen.records.len(), 2, "the older one is gone: {:?}", process.seen.records);
    }

    #[test]
    fn what_a_cache_took_back_is_given_again() {
        let mut process = Process::new("").says("A");
        process.holds("manager", OPS_STATE, json!("None"));
        process.owns("manager", OWNER_REFERENCES);
        process.write();
        // A cache from before the first record has none to put back.
        process.cache(1, Some("None"));
        assert!(process.in_doubt());
        assert_eq!(process.write(), ops_state("A"));
        process = process.says("B");
        process.write();
        process.cache(1, Some("A"));
        assert_eq!(process.write(), ops_state("B"));
        // What somebody had set in the meantime comes back as well.
        process.holds("matchmaker", OPS_STATE, json!("Allocated"));
        process = process.says("C");
        process.write();
        process.cache(1, Some("Allocated"));
        assert_eq!(process.write(), ops_state("C"));
        // So does a value that nobody of this pod has ever read.
        process.holds("matchmaker", OPS_STATE, json!("Playing"));
        process.holds("matchmaker", OPS_STATE, json!("Allocated"));
        process = process.says("B");
        process.write();
        process.cache(1, Some("Playing"));
        assert_eq!(process.write(), ops_state("B"));
        process = process.says("C");
        process.write();
        // So does a process that starts then: the records remember it.
        process.cache(2, Some("Allocated"));
        assert_eq!(process.restarted().says("C").write(), ops_state("C"));
    }

    #[test]
    fn a_look_that_an_outage_delays_finds_what_it_would_have_found_in_time() {
        for (is_planned, sent) in [(true, Some(ops_state("A"))), (false, None)] {
            let mut process = Process::new("").says("A");
            process.holds("manager", OPS_STATE, json!("None"));
            process.owns("manager", OWNER_REFERENCES);
            process.write();
            process.cache(1, Some("None"));
            if is_planned {
                process.guarded.look_later(0, s(process.now), 0.5);
            }
            process.now += 100;
            let patch = process.compare().unwrap();
            assert_eq!(patch.as_ref().map(fields_of), sent);
        }
    }

    #[test]
    fn what_somebody_set_is_not_taken_for_a_caches() {
        let written_after_a = || {
            let mut process = Process::new("").says("A");
            process.owns("manager", OWNER_REFERENCES);
            process.write();
            process = process.says("B");
            process.write();
            process
        };
        // By another manager than the one who put the record back, even to the value of before.
        let mut process = written_after_a();
        process.cache(1, None);
        process.holds("matchmaker", OPS_STATE, json!("A"));
        assert_eq!(process.write(), [], "the record is repaired");
        // By a manager of that name, to another value than that of before.
        let mut process = written_after_a();
        process.cache(1, None);
        process.holds("manager", OPS_STATE, json!("Allocated"));
        assert_eq!(process.write(), []);
        // By the controller itself, without any sign of an old cache.
        let mut process = written_after_a();
        process.now += 100;
        process.holds("manager", OPS_STATE, json!("A"));
        assert!(matches!(process.compare(), Ok(None)));
    }

    #[test]
    fn without_managed_fields_a_record_that_was_put_back_and_the_value_of_before_are_a_caches() {
        for (state, sent) in [("A", ops_state("B")), ("Allocated", vec![])] {
            let mut process = Process::new("").says("A");
            process.write();
            process = process.says("B");
            process.write();
            process.cache(1, Some(state));
            process.seen.managers.clear();
            assert_eq!(process.write(), sent, "{state}");
        }
    }

    #[test]
    fn what_a_cache_took_back_of_a_field_that_is_not_decided_now_is_news_when_it_is() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        process.write();
        process.cache(1, Some("A"));
        let mut process = process.restarted();
        // Another field is decided before opsState.
        let mut other = endpoint(&["A"], 1, 1);
        other.rules_mut().policies[0].sets.clear();
        set(&mut other.rules_mut().policies[0], Field::of_game_server(UPDATE_PRIORITY), "9");
        process.core = Core::new(vec![endpoint(&STATES, 3, 3), other]);
        process.core.round(&["B", "A"]);
        assert_eq!(process.write(), [(UPDATE_PRIORITY.to_owned(), json!(9))]);
        // The A that is there now is nobody else's.
        assert_eq!((process.record().get(OPS_STATE), process.record().ops_state()), (None, Some(&json!("A"))));
    }

    #[test]
    fn what_a_cache_took_back_and_the_next_patch_does_not_give_again_is_given_again_later() {
        let mut process = Process::new("").says("A");
        process.holds("manager", DELETION_PRIORITY, json!(0));
        process.write();
        process = process.says("AB");
        process.write();
        process.cache(1, Some("A"));
        process.holds("manager", DELETION_PRIORITY, json!(0));
        let refused = Fields::from([(DELETION_PRIORITY.to_owned(), json!(5))]);
        process.guarded.pace.refused(&refused, s(process.now), 0.0);
        assert_eq!(process.write(), ops_state("AB"), "the other field waits, since it was refused");
        process.now += 60;
        assert_eq!(process.write(), [(DELETION_PRIORITY.to_owned(), json!(5))]);
    }

    #[test]
    fn a_cache_that_is_older_than_all_records_may_have_what_somebody_had_set() {
        let mut process = Process::new("");
        process.core = Core::new(vec![endpoint(&["None"], 1, 1)]);
        process.seen.is_whole = false;
        process.owns("manager", OWNER_REFERENCES);
        process.holds("matchmaker", OPS_STATE, json!("Allocated"));
        process = process.says("None");
        process.write();
        assert!(!process.in_doubt());
        process.cache(1, Some("Allocated"));
        assert!(process.in_doubt());
        process.seen.is_whole = true;
        assert_eq!(process.write(), ops_state("None"));
    }

    #[test]
    fn what_a_cache_took_back_of_a_field_that_the_config_has_no_more_is_news_when_it_has_it_again() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("B");
        process.write();
        process.cache(1, Some("A"));
        let mut other = endpoint(&["B"], 1, 1);
        other.rules_mut().policies[0].sets.clear();
        set(&mut other.rules_mut().policies[0], Field::of_game_server(UPDATE_PRIORITY), "9");
        process.core = Core::new(vec![other]);
        process = process.says("B");
        assert_eq!(process.write(), [(UPDATE_PRIORITY.to_owned(), json!(9))]);
        process.core = Core::new(vec![endpoint(&STATES, 1, 1)]);
        assert_eq!(process.says("B").write(), ops_state("B"));
    }

    #[test]
    fn looks_follow_a_write_and_then_nothing() {
        let mut process = Process::new("").says("A");
        process.write();
        process.guarded.look_later(0, s(10), 1.0);
        assert_eq!(process.due(), Some(s(25)));
        process.guarded.looked(s(24), 0.0);
        assert_eq!(process.due(), Some(s(25)), "a read before the look is none");
        process.guarded.looked(s(25), 0.5);
        assert_eq!(process.due(), Some(s(60)));
        process.guarded.looked(s(61), 0.5);
        assert_eq!(process.due(), None);
    }

    #[test]
    fn the_values_are_read_only_if_a_controller_may_have_put_them_back() {
        let mut process = Process::new("").says("A");
        process.seen.is_whole = false;
        process.holds("manager", OPS_STATE, json!("None"));
        process.owns("manager", OWNER_REFERENCES);
        assert!(!process.in_doubt());
        process.write();
        assert!(!process.in_doubt());
        assert!(process.record().replaces(OPS_STATE, &json!("None"), &Annotations::new()), "as it was created");
        // A cache that is older than all records.
        process.holds("manager", OPS_STATE, json!("None"));
        assert!(process.in_doubt());
        process.holds("matchmaker", OPS_STATE, json!("Allocated"));
        assert!(!process.in_doubt());
        process = process.says("B");
        process.write();
        assert!(process.record().replaces(OPS_STATE, &json!("A"), &Annotations::new()));
        assert!(process.record().replaces(OPS_STATE, &json!("Allocated"), &Annotations::new()), "nobody has read it");
        process.now += 100;
        process.holds("manager", OPS_STATE, json!("None"));
        assert!(!process.in_doubt(), "no cache is so late");
        process.cache(1, None);
        assert!(process.in_doubt());
    }

    #[test]
    fn a_field_that_was_let_go_of_is_news_again() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("unknown");
        assert_eq!(process.due(), Some(s(0)));
        assert_eq!(process.write(), [], "the record alone");
        assert_eq!((process.record().get(OPS_STATE), process.record().ops_state()), (None, Some(&json!("A"))));
        assert_eq!(process.due(), None);
        process = process.says("unknown").says("A");
        assert_eq!(process.write(), ops_state("A"));
    }

    #[test]
    fn letting_go_survives_a_restart_and_what_was_not_written_yet_is_written_first() {
        // The process that decided it is gone.
        let mut process = Process::new("").says("A");
        process.write();
        let mut process = process.restarted().says("unknown");
        assert_eq!(process.write(), []);
        assert_eq!(process.restarted().says("A").write(), ops_state("A"));
        // The value waits for its write.
        let mut process = Process::new("").says("A").says("unknown");
        assert_eq!(process.write(), ops_state("A"));
        assert_eq!(process.write(), []);
        assert_eq!(process.record().get(OPS_STATE), None);
        assert_eq!(process.due(), None);
        // It is decided anew before the record has forgotten it.
        let mut process = process.says("A");
        process.write();
        process = process.says("unknown").says("A");
        assert_eq!((process.write(), process.write()), (vec![], ops_state("A")));
        // A process that finds nothing to let go of reads and sends nothing.
        let mut process = Process::new("").says("unknown");
        assert_eq!(process.due(), Some(s(0)));
        assert!(matches!(process.compare(), Ok(None)));
        assert_eq!(process.due(), None);
    }

    #[test]
    fn what_a_cache_took_back_of_a_field_that_was_let_go_of_before_is_given_again() {
        let mut process = Process::new("").says("AB");
        process.seen.is_whole = false;
        process.write();
        process = process.says("unknown");
        process.write();
        process.now += 100;
        let mut room = endpoint(&["A"], 1, 1);
        set(&mut room.rules_mut().policies[0], Field::of_game_server(DELETION_PRIORITY), "9");
        let mut process = process.restarted();
        process.core = Core::new(vec![room]);
        process = process.says("A");
        assert_eq!(process.write().len(), 2);
        process.cache(1, None);
        process.holds("manager", DELETION_PRIORITY, json!(5));
        process.seen.is_whole = true;
        assert_eq!(process.write(), [(DELETION_PRIORITY.to_owned(), json!(9))]);
    }

    #[test]
    fn a_value_that_is_refused_before_its_field_was_let_go_of_waits_without_a_request() {
        let mut process = Process::new("").says("A");
        let refused = process.patch();
        process.guarded.pace.refused(&refused.fields, s(1), 0.0);
        assert_eq!(process.write(), [], "the record alone");
        process = process.says("unknown");
        assert_eq!(process.due(), Some(s(31)));
    }

    #[test]
    fn what_was_set_anew_and_then_fails_stays_decided() {
        let mut process = Process::new("");
        let mut room = endpoint(&["A", "Failed"], 1, 1);
        room.rules_mut().policies[1].sets.clear();
        set(&mut room.rules_mut().policies[1], Field::label("failed"), "1");
        process.core = Core::new(vec![room]);
        process = process.says("unknown").says("A").says("!");
        assert_eq!(process.write(), ops_state("A"));
        assert!(process.due().is_none() && process.record().get(OPS_STATE).is_some());
    }

    #[test]
    fn failures_let_go_of_nothing() {
        let mut process = Process::new("").says("A");
        process.write();
        process = process.says("!").says("!").says("!");
        assert_eq!(process.due(), None);
        // After a restart neither.
        let process = process.restarted().says("!").says("!").says("!");
        assert_eq!(process.due(), None);
    }

    #[test]
    fn a_gone_record_or_a_missing_object_gets_all_that_is_decided() {
        for missing in [false, true] {
            let mut process = Process::new("").says("AB");
            process.write();
            process.seen.records.clear();
            if missing {
                process.guarded.missing();
                assert_eq!(process.due(), Some(s(0)));
                assert_eq!(process.write().len(), 3);
            } else {
                assert_eq!(process.restarted().says("AB").write().len(), 3);
            }
        }
    }

    #[test]
    fn a_record_that_is_seen_gone_while_the_write_is_held_is_forgotten() {
        let mut process = Process::new("").says("A");
        process.write();
        process.protected = vec!["Maintaining".into()];
        process.holds("kubectl-edit", OPS_STATE, json!("Maintaining"));
        process.seen.records.clear();
        process = process.says("B");
        assert!(matches!(process.compare(), Err(Hold::Protected(_))));
        process = process.says("A");
        assert_eq!(process.due(), Some(s(0)));
    }

    #[test]
    fn another_pods_object_is_not_written() {
        let owned_by = |process: &mut Process, owner: &str| process.seen.owner = Some(owner.into());
        let mut process = Process::new("").says("A");
        owned_by(&mut process, "u-0");
        assert!(matches!(process.compare(), Err(Hold::OtherPod)));
        owned_by(&mut process, "u-1");
        assert_eq!(process.write(), ops_state("A"));
        let mut without_uid = Process::new("").says("A");
        without_uid.guarded = Guarded::new(identity().game_server(), None, None);
        owned_by(&mut without_uid, "u-0");
        assert_eq!(without_uid.write(), ops_state("A"));
    }

    #[test]
    fn a_process_whose_record_a_later_pod_has_replaced_writes_nothing_more() {
        let mut process = Process::new(r#"{"opsState":"B","pod":"u-0"}"#).says("A");
        let before = process.seen.records.clone();
        process.write();
        // The earlier pod's record, put back from a cache, is no record.
        process.seen.records = before;
        process = process.says("B");
        assert_eq!(process.write(), ops_state("B"));
        process.seen.records = records(r#"{"opsState":"None","pod":"u-2"}"#);
        process = process.says("C");
        assert!(matches!(process.compare(), Err(Hold::Superseded)));
    }

    #[test]
    fn the_issue_time_of_a_token_tells_a_later_pod_from_an_earlier_one() {
        let record = |pod: &str, issued: u64| format!(r#"{{"opsState":"B","pod":"{pod}","tokenIssuedAt":{issued}}}"#);
        // The first record that a process reads may be its successor's.
        let mut process = Process::new(&record("u-2", 101)).says("A");
        assert!(matches!(process.compare(), Err(Hold::Superseded)));
        // A predecessor's may come late.
        let mut process = Process::new("").says("A");
        process.write();
        process.seen.records = records(&record("u-0", 99));
        assert_eq!(process.write(), ops_state("A"));
        // By equal times, the one that was not there at first is the later pod's.
        process.seen.records = records(&record("u-0", 100));
        assert!(matches!(process.compare(), Err(Hold::Superseded)));
    }

    #[test]
    fn a_protected_state_of_somebody_else_is_not_overwritten_nor_is_the_record() {
        for (state, record, held) in [
            ("Maintaining", "", true),
            ("Maintaining", r#"{"opsState":"B"}"#, true),
            ("Maintaining", r#"{"opsState":"Maintaining","pod":"u-0"}"#, false),
            ("Allocated", r#"{"opsState":"B"}"#, false),
        ] {
            let mut process = Process::new(record).says("A");
            process.protected = vec!["Maintaining".into()];
            assert!(process.guarded.reads_whole(&process.protected, s(0)));
            process.holds("kubectl-edit", OPS_STATE, json!(state));
            let next = process.compare();
            assert_eq!(matches!(next, Err(Hold::Protected(_))), held, "{state} {record}: {next:?}");
        }
    }

    #[test]
    fn a_protected_state_that_a_cache_put_back_is_nobody_elses() {
        let mut process = Process::new("").says("A");
        process.protected = vec!["A".into()];
        process.write();
        process = process.says("B");
        process.write();
        process.cache(1, Some("A"));
        assert_eq!(process.write(), ops_state("B"));
    }

    #[test]
    fn refused_fields_go_by_themselves_ops_state_first() {
        let mut process = Process::new("").says("AB");
        let all = process.patch();
        assert_eq!(all.fields.len(), 3);
        process.guarded.pace.refused(&all.fields, s(1), 0.0);
        assert_eq!(process.write(), ops_state("AB"));
        let refused = process.patch();
        assert_eq!(fields_of(&refused), [(DELETION_PRIORITY.into(), json!(5))]);
        process.guarded.pace.refused(&refused.fields, s(2), 0.0);
        assert_eq!(process.write(), [(UPDATE_PRIORITY.into(), json!(6))]);
        assert_eq!(process.due(), Some(s(32)), "tried again half a minute later");
    }

    #[test]
    fn at_a_resync_what_a_present_opinion_sets_and_the_object_does_not_hold_is_written() {
        let mut process = Process::new("").says("A");
        process.guarded.set_resync(Some(s(100)), s(0), 0.5);
        process.write();
        assert_eq!(process.due(), Some(s(100)));
        process.now = 100;
        for (state, sent) in [("A", None), ("Allocated", Some(ops_state("A")))] {
            process.holds("matchmaker", OPS_STATE, json!(state));
            match (process.compare(), sent) {
                (Ok(None), None) => {}
                (Ok(Some(patch)), Some(sent)) => assert_eq!(fields_of(&patch), sent),
                (next, _) => panic!("{state}: {next:?}"),
            }
        }
        // What no opinion sets any more keeps what somebody else set.
        process = process.says("unknown");
        assert_eq!(process.write(), []);
        assert!(matches!(process.compare(), Ok(None)));
        process.guarded.set_resync(Some(s(100)), s(200), 0.0);
        assert_eq!(process.due(), None, "nothing is decided");
    }

    #[test]
    fn a_number_that_reads_back_in_another_form_is_the_same() {
        for (one, other, same) in [
            (json!(1.0), json!(1), true),
            (json!(0.3), json!(0.1 + 0.2), true),
            (json!(1.5), json!(1.6), false),
            (json!(-2), json!(2), false),
            (json!(0), json!(1), false),
            (json!("1"), json!(1), false),
            (json!("a"), json!("a"), true),
        ] {
            assert_eq!(is_same(&one, &other), same, "{one} {other}");
        }
    }

    #[test]
    fn what_changed_is_logged_with_what_attempts_before_it_had_changed() {
        let mut process = Process::new(r#"{"opsState":"B","pod":"u-1"}"#).says("A");
        let lost = process.patch();
        process.land(&lost);
        process.guarded.unanswered(&lost, s(0));
        let patch = process.patch();
        assert_eq!(fields_of(&patch), []);
        let decided = process.core.decision.fields(&process.guarded.object);
        let changes = process.guarded.confirmed(&patch, decided);
        assert_eq!(changes, [(OPS_STATE.into(), Some(json!("B")), json!("A"))]);
    }
}
