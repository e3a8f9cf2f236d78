//! Owns the guarded write of the GameServer, which others write, too (behaviour 4.3, 4.6, 6.6): what was read is compared
//! with what was decided, and the patch takes effect on exactly that state of the object or not at all. The memory is in
//! the object; what is remembered here is only what the API server has confirmed, and what it has not.

use std::time::Duration;

use serde_json::Value;

use super::decision::{Decision, Fields, OPS_STATE};
use super::merge_patch::merge_patch;
use super::object::Object;
use super::pace::Pace;
use super::record::{self, Record};
use super::write::{Change, Patch, Write};

/// The most records of attempts without an answer that are remembered.
const MAX_UNANSWERED: usize = 16;

/// The write of the pod's own GameServer. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug, Default)]
pub struct Guarded {
    /// The GameServer.
    pub object: Object,
    /// The pod's uid, where it is known.
    uid: Option<String>,
    /// The last record that this process had confirmed.
    confirmed: Option<Record>,
    /// What the log has said of the fields.
    reported: Option<Record>,
    /// The records of attempts that got no answer since then.
    unanswered: Vec<Value>,
    /// Whether the next attempt is sent even where no field differs: the first of a process, and one after an attempt that
    /// got no answer, so that the object moves on and a late arrival is refused.
    must_send: bool,
    /// The pod that the record named when this process first read it; the inner `None` is no record, or one without a pod.
    first_pod: Option<Option<String>>,
    superseded: bool,
    pace: Pace,
    resync_at: Option<Duration>,
}

/// What was read of a GameServer.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of exactly this state of the object.
    pub resource_version: String,
    /// The uid of the Pod that owns it.
    pub owner: Option<String>,
    /// The record's text.
    pub record: Option<String>,
    /// The fields that were decided, where the whole object was asked for.
    pub fields: Option<Fields>,
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Hold {
    /// The object belongs to another pod of this name, and is about to be collected.
    OtherPod,
    /// The record names a later pod of this name.
    Superseded,
    /// Somebody else has set this opsState, which is protected.
    Protected(String),
}

impl Guarded {
    /// Nothing read yet, of the GameServer of the pod with this uid.
    pub fn new(object: Object, uid: Option<String>) -> Self {
        Self { object, uid, must_send: true, ..Self::default() }
    }

    /// When the next attempt is due: past or to come, or never as things stand.
    pub fn due(&self, decided: &Fields) -> Option<Duration> {
        if self.superseded || decided.is_empty() {
            return None;
        }
        let confirmed = self.confirmed.as_ref();
        let is_in = |(pointer, value): (&String, &Value)| confirmed.is_some_and(|record| record.says(pointer, value));
        let differing = decided.iter().filter(|field| !is_in(*field));
        let at_once = self.must_send.then_some(Duration::ZERO);
        self.pace.due(differing.map(|field| (field, Duration::ZERO)), at_once.into_iter().chain(self.resync_at))
    }

    /// Whether an attempt at `now` has to read the whole object, and not its metadata alone.
    pub fn reads_whole(&self, protected: &[String], now: Duration) -> bool {
        !protected.is_empty() || self.resync_at.is_some_and(|at| at <= now)
    }

    /// Compares what was read with what was decided. `wall_clock` is since the Unix epoch. Gives the patch to send, or
    /// nothing where the object holds what it must.
    ///
    /// # Errors
    /// Why nothing may be written now, or ever again.
    pub fn compare(
        &mut self,
        seen: &Seen,
        decision: &Decision,
        protected: &[String],
        now: Duration,
        wall_clock: Duration,
    ) -> Result<Option<Patch>, Hold> {
        let found = seen.record.as_deref().and_then(Record::parse);
        if seen.record.as_ref().is_some_and(|record| self.unanswered.iter().any(|text| text == record)) {
            // An attempt that got no answer has landed.
            self.confirmed.clone_from(&found);
        }
        let named = found.as_ref().and_then(|record| record.pod.clone());
        let first_pod = self.first_pod.get_or_insert_with(|| named.clone());
        let foreign = |pod: &Option<String>| pod.is_some() && self.uid.is_some() && *pod != self.uid;
        if foreign(&seen.owner) {
            return Err(Hold::OtherPod);
        }
        if foreign(&named) && named != *first_pod {
            self.superseded = true;
            return Err(Hold::Superseded);
        }
        let actual = |pointer: &str| seen.fields.as_ref().and_then(|fields| fields.get(pointer));
        // By the record, or by a newer one that was confirmed where an older one was put back. Where it is gone, the object
        // may be another one.
        let by_a_sidecar = |state: &str| {
            let records = found.iter().chain(self.confirmed.iter().filter(|_| found.is_some()));
            records.filter_map(Record::ops_state).any(|decided| decided == state)
        };
        if let Some(Value::String(state)) = actual(OPS_STATE)
            && protected.contains(state)
            && !by_a_sidecar(state)
        {
            return Err(Hold::Protected(state.clone()));
        }
        // An earlier pod's record says nothing about this one.
        let (record, earlier) = if foreign(&named) { (None, found) } else { (found, None) };
        let resyncs = seen.fields.is_some() && self.resync_at.is_some_and(|at| at <= now);
        let differs = |(pointer, value): &(&String, &Value)| {
            !record.as_ref().is_some_and(|record| record.says(pointer, value))
                || self.confirmed.as_ref().is_some_and(|record| !record.says(pointer, value))
                || (resyncs
                    && decision.set_by(&self.object, pointer).is_some()
                    && !actual(pointer).is_some_and(|held| is_same(held, value)))
        };
        let fields = self.pace.select(decision.fields(&self.object).iter().filter(differs), now);
        if fields.is_empty() && !self.must_send {
            return Ok(None);
        }
        if record.is_none() || self.reported.is_none() {
            self.reported.clone_from(&record);
        }
        // OpenKruiseGame may have put an older record back, which says less than what was confirmed.
        let known = record.map(|record| self.confirmed.iter().fold(record, Record::with));
        let mut record = known.or_else(|| earlier.map(|record| record.of_next_pod())).unwrap_or_default();
        fields.iter().for_each(|(pointer, value)| record.set(pointer, value));
        record.pod.clone_from(&self.uid);
        let own = [
            ("/metadata/resourceVersion", Value::from(seen.resource_version.as_str())),
            (record::POINTER, Value::from(record.text(wall_clock))),
        ];
        let body = merge_patch(fields.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).chain(own));
        Ok(Some(Patch { body, fields, record, at: now }))
    }

    /// Reads the object every so often from now on, give or take 10 %; never with `None`.
    pub fn set_resync(&mut self, every: Option<Duration>, now: Duration, jitter: f64) {
        self.resync_at = every.map(|every| now + every.mul_f64(0.9 + jitter / 5.0));
    }
}

impl Write for Guarded {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// What attempts before it had changed that got no answer is a part of it.
    fn confirmed(&mut self, patch: &Patch, decided: &Fields) -> Vec<Change> {
        self.must_send = false;
        self.unanswered.clear();
        self.confirmed = Some(patch.record.clone());
        let before = self.reported.replace(patch.record.clone()).unwrap_or_default();
        let changed =
            |(pointer, value): &(&String, &Value)| patch.record.says(pointer, value) && !before.says(pointer, value);
        let changes = decided.iter().filter(changed);
        changes.map(|(pointer, value)| (pointer.clone(), before.get(pointer).cloned(), value.clone())).collect()
    }

    fn unanswered(&mut self, patch: &Patch, _: Duration) {
        self.must_send = true;
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.remove(0);
        }
        self.unanswered.extend(patch.body.pointer(record::POINTER).cloned());
    }

    fn missing(&mut self) {
        self.must_send = true;
        (self.confirmed, self.reported) = (None, None);
    }
}

/// Whether two values are the same: the API server may write `1.0` as `1`.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decision::tests::{Core, identity, set};
    use super::super::decision::{DELETION_PRIORITY, UPDATE_PRIORITY};
    use super::super::opinion::tests::endpoint;
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
        protected: Vec<String>,
        now: u64,
    }

    /// opsState alone, unless the state is `AB`, which sets both priorities, too.
    const STATES: [&str; 4] = ["A", "B", "C", "AB"];

    impl Process {
        fn new(record: &str) -> Self {
            let mut room = endpoint(&STATES, 1, 1);
            set(&mut room.rules_mut().policies[3], Field::of_game_server(DELETION_PRIORITY), "5");
            set(&mut room.rules_mut().policies[3], Field::of_game_server(UPDATE_PRIORITY), "6");
            Self {
                core: Core::new(vec![room]),
                guarded: Guarded::new(identity().game_server(), identity().uid),
                seen: seen("1", record),
                protected: Vec::new(),
                now: 0,
            }
        }

        fn says(mut self, state: &str) -> Self {
            self.core.round(&[state]);
            self
        }

        fn compare(&mut self) -> Result<Option<Patch>, Hold> {
            // Every record has a time of its own.
            self.now += 1;
            let (now, wall_clock) = (s(self.now), s(self.now));
            self.guarded.compare(&self.seen, &self.core.decision, &self.protected, now, wall_clock)
        }

        fn patch(&mut self) -> Patch {
            self.compare().unwrap().expect("there is something to send")
        }

        /// The patch takes effect.
        fn land(&mut self, patch: &Patch) {
            assert_eq!(patch.body["metadata"]["resourceVersion"], self.seen.resource_version);
            self.seen.resource_version += "1";
            self.seen.record = patch.body.pointer(record::POINTER).and_then(Value::as_str).map(str::to_owned);
        }

        /// One attempt that works. Gives the fields that it sent.
        fn write(&mut self) -> Vec<(String, Value)> {
            let patch = self.patch();
            self.land(&patch);
            let fields = fields_of(&patch);
            let decided = self.core.decision.fields(&self.guarded.object);
            self.guarded.pace.succeeded(&patch.fields);
            self.guarded.confirmed(&patch, decided);
            fields
        }

        fn due(&self) -> Option<Duration> {
            self.guarded.due(self.core.decision.fields(&self.guarded.object))
        }
    }

    /// An empty record is none.
    fn seen(resource_version: &str, record: &str) -> Seen {
        let record = (!record.is_empty()).then(|| record.to_owned());
        Seen { resource_version: resource_version.into(), record, ..Seen::default() }
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
            let record_read = Record::parse(process.seen.record.as_deref().unwrap()).unwrap();
            assert_eq!(
                (record_read.get(OPS_STATE), record_read.pod.as_deref()),
                (Some(&json!("A")), Some("u-1")),
                "{record}"
            );
        }
        assert_eq!(Process::new("").due(), None, "nothing is decided yet");
    }

    #[test]
    fn the_record_keeps_what_this_process_has_not_decided() {
        let mut process = Process::new(r#"{"opsState":"B","updatePriority":9,"/spec/x":"y","pod":"u-1"}"#).says("A");
        process.write();
        let record_read = Record::parse(process.seen.record.as_deref().unwrap()).unwrap();
        assert_eq!(
            (record_read.get(UPDATE_PRIORITY), record_read.get("/spec/x")),
            (Some(&json!(9)), Some(&json!("y")))
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
    fn after_an_attempt_without_an_answer_the_next_one_is_sent_even_where_nothing_differs() {
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
    fn an_older_record_that_was_put_back_hides_nothing() {
        let mut process = Process::new("").says("A");
        process.write();
        let old = process.seen.record.clone();
        process = process.says("B");
        process.write();
        process.seen.record = old;
        // By the record alone it would be in.
        process = process.says("A");
        assert_eq!(process.due(), Some(s(0)));
        assert_eq!(process.write(), ops_state("A"));
    }

    #[test]
    fn a_gone_record_or_a_missing_object_gets_all_that_is_decided() {
        for missing in [false, true] {
            let mut process = Process::new("").says("AB");
            process.write();
            process.seen.record = None;
            if missing {
                process.guarded.missing();
                assert_eq!(process.due(), Some(s(0)));
                assert_eq!(process.write().len(), 3);
            } else {
                assert_eq!(process.says("A").write().len(), 3);
            }
        }
    }

    #[test]
    fn another_pods_object_is_not_written() {
        let owned_by = |owner: &str| Seen { owner: Some(owner.into()), ..seen("1", "") };
        let mut process = Process::new("").says("A");
        process.seen = owned_by("u-0");
        assert!(matches!(process.compare(), Err(Hold::OtherPod)));
        process.seen = owned_by("u-1");
        assert_eq!(process.write(), ops_state("A"));
        let mut without_uid = Process::new("").says("A");
        without_uid.guarded = Guarded::new(identity().game_server(), None);
        without_uid.seen = owned_by("u-0");
        assert_eq!(without_uid.write(), ops_state("A"));
    }

    #[test]
    fn a_process_whose_record_a_later_pod_has_replaced_writes_nothing_more() {
        let mut process = Process::new(r#"{"opsState":"B","pod":"u-0"}"#).says("A");
        let before = process.seen.record.clone();
        process.write();
        // The earlier pod's record, put back from a cache, is no record.
        process.seen.record = before;
        process = process.says("B");
        assert_eq!(process.write(), ops_state("B"));
        process.seen.record = Some(r#"{"opsState":"None","pod":"u-2"}"#.into());
        process = process.says("C");
        assert!(matches!(process.compare(), Err(Hold::Superseded)));
        assert_eq!(process.due(), None);
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
            process.seen.fields = Some([(OPS_STATE.to_owned(), json!(state))].into());
            let next = process.compare();
            assert_eq!(matches!(next, Err(Hold::Protected(_))), held, "{state} {record}: {next:?}");
        }
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
            process.seen.fields = Some([(OPS_STATE.to_owned(), json!(state))].into());
            match (process.compare(), sent) {
                (Ok(None), None) => {}
                (Ok(Some(patch)), Some(sent)) => assert_eq!(fields_of(&patch), sent),
                (next, _) => panic!("{state}: {next:?}"),
            }
        }
        // What no opinion sets any more keeps what somebody else set.
        process = process.says("unknown");
        assert!(matches!(process.compare(), Ok(None)));
        process.guarded.set_resync(Some(s(100)), s(200), 0.0);
        assert_eq!(process.due(), Some(s(290)));
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
