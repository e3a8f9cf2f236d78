//! Owns the exclusive write of an object whose fields nobody else writes (behaviour 4.8, 6.1, 6.3): nothing is read, only
//! the newest values are sent, and after an attempt that got no answer once more when nothing lost can arrive any more.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::decision::Fields;
use super::pace::{Pace, Retry};
use super::refusals::Refusals;

/// How long an attempt without an answer may still arrive: longer than the 34 s that the API server gives a request.
const MAY_ARRIVE_FOR: Duration = Duration::from_secs(60);

/// The write of one such object. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug, Default)]
pub struct Exclusive {
    /// What the API server confirmed last; `None` is a removal.
    confirmed: Fields,
    /// Fields that are sent even where they are confirmed.
    doubtful: BTreeSet<String>,
    /// Fields of attempts that got no answer, and when these cannot arrive any more.
    lost: BTreeSet<String>,
    lost_until: Duration,
    refusals: Refusals,
    pace: Pace,
}

impl Exclusive {
    /// When the next attempt is due: past or to come, or never as things stand.
    pub fn due(&self, fields: &Fields) -> Option<Duration> {
        let differing = fields.iter().filter(|(pointer, value)| self.differs(pointer, value));
        let next = differing.map(|(pointer, value)| self.refusals.not_before(pointer, value)).min();
        let again = self.lost.iter().any(|pointer| fields.contains_key(pointer)).then_some(self.lost_until);
        next.into_iter().chain(again).min().map(|due| due.max(self.pace.not_before()))
    }

    fn differs(&self, pointer: &str, value: &Option<Value>) -> bool {
        self.doubtful.contains(pointer) || self.confirmed.get(pointer) != Some(value)
    }

    /// The fields of a request at `now`.
    pub fn changes(&mut self, fields: &Fields, now: Duration) -> Vec<(String, Option<Value>)> {
        if now >= self.lost_until {
            self.doubtful.append(&mut self.lost);
        }
        let differing: Vec<_> = fields.iter().filter(|(pointer, value)| self.differs(pointer, value)).collect();
        let selected = self.refusals.select(differing.into_iter(), now);
        selected.into_iter().map(|(pointer, value)| (pointer.clone(), value.clone())).collect()
    }

    /// The API server confirmed them. Gives those that changed anything that was confirmed before.
    pub fn confirmed(&mut self, changes: Vec<(String, Option<Value>)>) -> Fields {
        self.pace.succeeded();
        self.refusals.accepted(changes.iter().map(|(pointer, _)| pointer));
        let mut changed = Fields::new();
        for (pointer, value) in changes {
            self.doubtful.remove(&pointer);
            let before = self.confirmed.insert(pointer.clone(), value.clone()).flatten();
            if before != value {
                changed.insert(pointer, value);
            }
        }
        changed
    }

    /// They got no answer by `now`: they may have taken effect, and may still.
    pub fn unanswered(&mut self, changes: &[(String, Option<Value>)], now: Duration) {
        for (pointer, _) in changes {
            self.doubtful.insert(pointer.clone());
            self.lost.insert(pointer.clone());
        }
        self.lost_until = now + MAY_ARRIVE_FOR;
    }

    /// The object was not there: what was confirmed of it says nothing about the next one.
    pub fn missing(&mut self) {
        self.confirmed.clear();
    }

    /// The API server refused them.
    pub fn refused(&mut self, changes: &[(String, Option<Value>)], now: Duration, jitter: f64) {
        self.refusals.refused(changes, now, jitter);
    }

    /// The attempt failed.
    pub fn failed(&mut self, retry: Retry, retry_after: Option<Duration>, now: Duration, jitter: f64) {
        self.pace.failed(retry, retry_after, now, jitter);
    }

    /// Whether the field is in and will be sent once more, since an attempt that got no answer may still arrive.
    pub fn is_sent_again(&self, pointer: &str, value: &Option<Value>) -> bool {
        self.lost.contains(pointer) && !self.differs(pointer, value)
    }
}
