//! Owns the guarded write of the GameServer, which others write, too (behaviour 4.3, 4.6, 6.6): what was read is compared
//! with what was decided, and the patch takes effect on exactly that state of the object or not at all. The memory is in
//! the object; what is remembered here is only what the API server has confirmed, and what it has not.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::decision::{Decision, Fields, OPS_STATE};
use super::merge_patch::merge_patch;
use super::object::Object;
use super::pace::{Pace, Retry};
use super::record::{self, Record};
use super::refusals::Refusals;

/// The most records of attempts without an answer that are remembered.
const MAX_UNANSWERED: usize = 16;

/// The write of the pod's own GameServer. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug)]
pub struct Guarded {
    object: Object,
    /// The pod's uid, where it is known.
    uid: Option<String>,
    /// The last record that this process had confirmed.
    confirmed: Option<Record>,
    /// What the log has said of the fields.
    reported: Option<Record>,
    /// The records of attempts that got no answer since then.
    unanswered: Vec<String>,
    /// Whether the next attempt is sent even where no field differs: the first of a process, and one after an attempt that
    /// got no answer, so that the object moves on and a late arrival is refused.
    must_send: bool,
    /// The pod that the record named when this process first read it; the inner `None` is no record, or one without a pod.
    first_pod: Option<Option<String>>,
    superseded: bool,
    refusals: Refusals,
    pace: Pace,
    resync: Option<Resync>,
}

#[derive(Debug)]
struct Resync {
    every: Duration,
    at: Duration,
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
    pub fields: Option<BTreeMap<String, Value>>,
}

/// What follows from what was read.
#[derive(Debug)]
pub enum Next {
    /// This patch is sent.
    Send(Patch),
    /// The object holds what it must.
    Nothing,
    /// Nothing may be written now, or ever again.
    Hold(Hold),
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

/// A patch of the GameServer.
#[derive(Debug)]
pub struct Patch {
    /// The merge-patch.
    pub body: Value,
    /// The fields in it, without the record and the precondition.
    pub fields: Vec<(String, Option<Value>)>,
    record: Record,
    text: String,
}

/// What a patch changed: the field, what the record said before, and the value now.
pub type Change = (String, Option<Value>, Value);

impl Guarded {
    /// Nothing read yet, of the GameServer of the pod with this uid.
    pub fn new(object: Object, uid: Option<String>) -> Self {
        Self {
            object,
            uid,
            confirmed: None,
            reported: None,
            unanswered: Vec::new(),
            must_send: true,
            first_pod: None,
            superseded: false,
            refusals: Refusals::default(),
            pace: Pace::default(),
            resync: None,
        }
    }

    /// The GameServer.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// When the next attempt is due: past or to come, or never as things stand.
    pub fn due(&self, fields: &Fields) -> Option<Duration> {
        if self.superseded || fields.is_empty() {
            return None;
        }
        let differs = |(pointer, value): &(&String, &Option<Value>)| {
            value
                .as_ref()
                .is_some_and(|value| !self.confirmed.as_ref().is_some_and(|record| record.says(pointer, value)))
        };
        let differing = fields.iter().filter(differs);
        let next = differing.map(|(pointer, value)| self.refusals.not_before(pointer, value)).min();
        let next = if self.must_send { Some(Duration::ZERO) } else { next };
        let resync = self.resync.as_ref().map(|resync| resync.at);
        next.into_iter().chain(resync).min().map(|due| due.max(self.pace.not_before()))
    }

    /// Whether an attempt at `now` has to read the whole object, and not its metadata alone.
    pub fn reads_whole(&self, protected: &[String], now: Duration) -> bool {
        !protected.is_empty() || self.resync_is_due(now)
    }

    fn resync_is_due(&self, now: Duration) -> bool {
        self.resync.as_ref().is_some_and(|resync| resync.at <= now)
    }

    /// Compares what was read with what was decided. `wall_clock` is since the Unix epoch.
    pub fn compare(
        &mut self,
        seen: &Seen,
        decision: &Decision,
        protected: &[String],
        now: Duration,
        wall_clock: Duration,
    ) -> Next {
        let found = seen.record.as_deref().and_then(Record::parse);
        if seen.record.as_ref().is_some_and(|text| self.unanswered.contains(text)) {
            // An attempt that got no answer has landed.
            self.confirmed.clone_from(&found);
        }
        let named = found.as_ref().and_then(|record| record.pod.clone());
        let first_pod = self.first_pod.get_or_insert_with(|| named.clone()).clone();
        let foreign = |pod: &Option<String>| pod.is_some() && self.uid.is_some() && *pod != self.uid;
        if foreign(&seen.owner) {
            return Next::Hold(Hold::OtherPod);
        }
        if foreign(&named) && named != first_pod {
            self.superseded = true;
            return Next::Hold(Hold::Superseded);
        }
        let actual = |pointer: &str| seen.fields.as_ref().and_then(|fields| fields.get(pointer));
        if let Some(Value::String(state)) = actual(OPS_STATE)
            && protected.contains(state)
            && found.as_ref().and_then(|record| record.get(OPS_STATE)).is_none_or(|decided| decided != state)
        {
            return Next::Hold(Hold::Protected(state.clone()));
        }
        // An earlier pod's record says nothing about this one.
        let record = found.filter(|_| !foreign(&named));
        let resyncs = seen.fields.is_some() && self.resync_is_due(now);
        let fields = decision.fields(&self.object);
        let differs = |pointer: &str, value: &Value| {
            !record.as_ref().is_some_and(|record| record.says(pointer, value))
                || self.confirmed.as_ref().is_some_and(|record| !record.says(pointer, value))
                || (resyncs && decision.is_present(pointer) && actual(pointer) != Some(value))
        };
        let ops_state_first = fields.get_key_value(OPS_STATE).into_iter();
        let differing = ops_state_first
            .chain(fields.iter().filter(|(pointer, _)| *pointer != OPS_STATE))
            .filter(|(pointer, value)| value.as_ref().is_some_and(|value| differs(pointer, value)));
        let selected = self.refusals.select(differing, now);
        if selected.is_empty() && !self.must_send {
            return Next::Nothing;
        }
        if record.is_none() || self.reported.is_none() {
            self.reported.clone_from(&record);
        }
        // OpenKruiseGame may have put an older record back, which says less than what was confirmed.
        let known = record.map(|record| self.confirmed.iter().fold(record, |record, confirmed| record.with(confirmed)));
        let mut next = known.unwrap_or_default();
        let selected: Vec<(String, Option<Value>)> =
            selected.into_iter().map(|(pointer, value)| (pointer.clone(), value.clone())).collect();
        for (pointer, value) in &selected {
            next.set(pointer, value.as_ref().unwrap_or(&Value::Null));
        }
        next.pod.clone_from(&self.uid);
        let text = next.text(wall_clock);
        let own = [
            ("/metadata/resourceVersion", Some(Value::from(seen.resource_version.as_str()))),
            (record::POINTER, Some(Value::from(text.as_str()))),
        ];
        let body = merge_patch(selected.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).chain(own));
        Next::Send(Patch { body, fields: selected, record: next, text })
    }

    /// The API server confirmed the patch. Gives what changed by it, and by attempts before it that got no answer.
    pub fn confirmed(&mut self, patch: Patch, fields: &Fields, now: Duration, jitter: f64) -> Vec<Change> {
        self.refusals.accepted(patch.fields.iter().map(|(pointer, _)| pointer));
        self.must_send = false;
        self.unanswered.clear();
        self.unchanged(now, jitter);
        let before = self.reported.replace(patch.record.clone()).unwrap_or_default();
        let changes = fields.iter().filter_map(|(pointer, value)| {
            let value =
                value.as_ref().filter(|value| patch.record.says(pointer, value) && !before.says(pointer, value))?;
            Some((pointer.clone(), before.get(pointer).cloned(), value.clone()))
        });
        let changes = changes.collect();
        self.confirmed = Some(patch.record);
        changes
    }

    /// The object held what it must, so that nothing was sent.
    pub fn unchanged(&mut self, now: Duration, jitter: f64) {
        self.pace.succeeded();
        self.set_resync(self.resync.as_ref().map(|resync| resync.every), now, jitter);
    }

    /// The patch got no answer: it may have taken effect, and may still.
    pub fn unanswered(&mut self, patch: Patch) {
        self.must_send = true;
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.remove(0);
        }
        self.unanswered.push(patch.text);
    }

    /// The object was not there, or was another pod's: what was confirmed of it says nothing about the next one.
    pub fn missing(&mut self) {
        self.must_send = true;
        (self.confirmed, self.reported) = (None, None);
    }

    /// The API server refused the fields of the patch. False where it holds none, so that it is the write as a whole
    /// that was refused.
    pub fn refused(&mut self, patch: &Patch, now: Duration, jitter: f64) -> bool {
        if !patch.fields.is_empty() {
            self.refusals.refused(&patch.fields, now, jitter);
        }
        !patch.fields.is_empty()
    }

    /// The attempt failed.
    pub fn failed(&mut self, retry: Retry, retry_after: Option<Duration>, now: Duration, jitter: f64) {
        self.pace.failed(retry, retry_after, now, jitter);
    }

    /// Reads the object every so often from now on, give or take 10 %; never with `None`.
    pub fn set_resync(&mut self, every: Option<Duration>, now: Duration, jitter: f64) {
        self.resync = every.map(|every| Resync { every, at: now + every.mul_f64(0.9 + jitter / 5.0) });
    }
}
