//! Owns what is still to be written to one object: what it should be against what the API server has confirmed, and
//! when to try next (SPEC 4.3, 4.5). Only the newest decision is ever sent, and none is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::patch::{Changes, Fields};

/// The first wait after a failure is at most this long.
const FASTEST: Duration = Duration::from_secs(1);
/// The longest wait of our own.
const SLOWEST: Duration = Duration::from_secs(60);
/// The longest that a server's Retry-After is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// What came of one write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The API server has it.
    Written,
    /// It failed.
    Failed {
        /// Whether it may have taken effect all the same: no answer, or one that does not say.
        perhaps_written: bool,
        /// The pause that the server asked for.
        retry_after: Option<Duration>,
    },
    /// It did not take effect and would not if it was sent again as it is.
    Rejected,
}

/// One object's pending write. Times are since the start of the process; `chance` is uniform in 0..1.
#[derive(Debug)]
pub struct Pending {
    desired: Fields,
    known: BTreeMap<String, Known>,
    removes: bool,
    resync: Option<Duration>,
    resync_at: Option<Duration>,
    failures: u32,
    not_before: Duration,
    /// When something else may be sent in place of what was rejected.
    not_before_if_changed: Option<Duration>,
}

/// What is known of one field.
#[derive(Debug, Default)]
struct Known {
    /// What the API server confirmed last.
    confirmed: Option<Value>,
    /// What was sent since and may have taken effect; the inner `None` is a removal.
    in_doubt: Option<Option<Value>>,
}

impl Pending {
    /// Nothing wanted, nothing known. With `removes`, fields that are not wanted any more are removed.
    pub fn new(removes: bool, resync: Option<Duration>) -> Self {
        Self {
            desired: Fields::new(),
            known: BTreeMap::new(),
            removes,
            resync,
            resync_at: None,
            failures: 0,
            not_before: Duration::ZERO,
            not_before_if_changed: None,
        }
    }

    /// Takes over the newest decision.
    pub fn want(&mut self, fields: &Fields) {
        if self.desired == *fields {
            return;
        }
        self.desired.clone_from(fields);
        if let Some(earlier) = self.not_before_if_changed.take() {
            self.not_before = earlier;
        }
    }

    /// Takes over another resync interval.
    pub fn set_resync(&mut self, resync: Option<Duration>, now: Duration, chance: f64) {
        if self.resync != resync {
            self.resync = resync;
            self.plan_resync(now, chance);
        }
    }

    /// Whether there is nothing to write, nothing written that would ever have to be removed or written again, and no
    /// wait to be kept.
    pub fn is_idle(&self) -> bool {
        self.desired.is_empty() && self.known.is_empty() && self.failures == 0
    }

    /// When the next write is due: past or to come, or never as things stand.
    pub fn due(&self) -> Option<Duration> {
        if self.changes(Duration::ZERO).is_empty() {
            let resync_at = self.resync_at.filter(|_| !self.desired.is_empty());
            return resync_at.map(|at| at.max(self.not_before));
        }
        Some(self.not_before)
    }

    /// What a write at `now` says: nothing more than what changes, or everything at a resync.
    pub fn changes(&self, now: Duration) -> Changes {
        let resync = self.resync_at.is_some_and(|at| now >= at);
        let mut changes: Changes = self
            .desired
            .iter()
            .filter(|(pointer, value)| {
                let known = self.known.get(*pointer);
                resync
                    || !known.is_some_and(|known| known.in_doubt.is_none() && known.confirmed.as_ref() == Some(value))
            })
            .map(|(pointer, value)| (pointer.clone(), Some(value.clone())))
            .collect();
        if self.removes {
            let gone = self.known.keys().filter(|pointer| !self.desired.contains_key(*pointer));
            changes.extend(gone.map(|pointer| (pointer.clone(), None)));
        }
        changes
    }

    /// What the API server confirmed last for a field.
    pub fn acknowledged(&self, pointer: &str) -> Option<&Value> {
        self.known.get(pointer)?.confirmed.as_ref()
    }

    /// The values that a field may have by our own writing.
    pub fn perhaps_ours(&self, pointer: &str) -> Vec<Value> {
        let Some(Known { confirmed, in_doubt }) = self.known.get(pointer) else { return Vec::new() };
        confirmed.iter().chain(in_doubt.iter().flatten()).cloned().collect()
    }

    /// Takes in what came of sending `changes`.
    pub fn settle(&mut self, changes: Changes, verdict: Verdict, now: Duration, chance: f64) {
        let backoff = self.backoff(chance);
        self.failures = self.failures.saturating_add(1);
        self.not_before_if_changed = None;
        let wait = match verdict {
            Verdict::Written => return self.confirm(changes, now, chance),
            Verdict::Failed { perhaps_written, retry_after } => {
                if perhaps_written {
                    for (pointer, value) in changes {
                        self.known.entry(pointer).or_default().in_doubt = Some(value);
                    }
                }
                // Not all at the same moment: up to a tenth later than asked for.
                let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER).mul_f64(1.0 + chance / 10.0);
                asked.min(LONGEST_RETRY_AFTER).max(backoff)
            }
            Verdict::Rejected => {
                self.not_before_if_changed = Some(now + backoff);
                SLOWEST.mul_f64(0.5 + chance / 2.0)
            }
        };
        self.not_before = now + wait;
    }

    fn confirm(&mut self, changes: Changes, now: Duration, chance: f64) {
        for (pointer, value) in changes {
            match value {
                Some(value) => self.known.insert(pointer, Known { confirmed: Some(value), in_doubt: None }),
                None => self.known.remove(&pointer),
            };
        }
        self.failures = 0;
        self.not_before = now;
        self.not_before_if_changed = None;
        self.plan_resync(now, chance);
    }

    /// Exponential with full jitter:
    /// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
    fn backoff(&self, chance: f64) -> Duration {
        FASTEST.saturating_mul(1 << self.failures.min(6)).min(SLOWEST).mul_f64(chance)
    }

    fn plan_resync(&mut self, now: Duration, chance: f64) {
        self.resync_at = self.resync.map(|every| now + every.mul_f64(0.9 + chance / 5.0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UNKNOWN: Verdict = Verdict::Failed { perhaps_written: true, retry_after: None };
    const REFUSED: Verdict = Verdict::Failed { perhaps_written: false, retry_after: None };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fields(fields: &[(&str, &str)]) -> Fields {
        fields.iter().map(|(pointer, value)| ((*pointer).to_owned(), json!(value))).collect()
    }

    fn changes(changes: &[(&str, Option<&str>)]) -> Changes {
        changes.iter().map(|(pointer, value)| ((*pointer).to_owned(), value.map(|value| json!(value)))).collect()
    }

    fn wanting(state: &str) -> Pending {
        let mut pending = Pending::new(false, None);
        pending.want(&fields(&[("/s", state)]));
        pending
    }

    fn settle(pending: &mut Pending, verdict: Verdict, now: u64, chance: f64) {
        let changes = pending.changes(s(now));
        pending.settle(changes, verdict, s(now), chance);
    }

    #[test]
    fn the_first_decision_is_written_and_then_only_a_changed_one() {
        let mut pending = Pending::new(false, None);
        assert_eq!(pending.due(), None);
        pending.want(&fields(&[("/s", "None")]));
        assert_eq!(pending.due(), Some(s(0)));
        assert_eq!(pending.changes(s(0)), changes(&[("/s", Some("None"))]));
        settle(&mut pending, Verdict::Written, 1, 0.5);
        assert_eq!((pending.due(), pending.acknowledged("/s")), (None, Some(&json!("None"))));
        pending.want(&fields(&[("/s", "None")]));
        assert_eq!(pending.due(), None);
        pending.want(&fields(&[("/s", "Allocated")]));
        assert_eq!(pending.changes(s(2)), changes(&[("/s", Some("Allocated"))]));
    }

    #[test]
    fn only_the_newest_decision_is_sent_after_failures() {
        let mut pending = wanting("None");
        settle(&mut pending, UNKNOWN, 0, 1.0);
        pending.want(&fields(&[("/s", "Allocated")]));
        assert_eq!(pending.due(), Some(s(1)));
        assert_eq!(pending.changes(s(1)), changes(&[("/s", Some("Allocated"))]));
    }

    #[test]
    fn what_may_have_been_written_is_written_over() {
        let mut pending = wanting("None");
        settle(&mut pending, Verdict::Written, 0, 0.0);
        pending.want(&fields(&[("/s", "Allocated")]));
        settle(&mut pending, UNKNOWN, 1, 0.0);
        pending.want(&fields(&[("/s", "None")]));
        assert_eq!(pending.changes(s(2)), changes(&[("/s", Some("None"))]));
        assert_eq!(pending.acknowledged("/s"), Some(&json!("None")));
        assert_eq!(pending.perhaps_ours("/s"), [json!("None"), json!("Allocated")]);

        let mut refused = wanting("None");
        settle(&mut refused, Verdict::Written, 0, 0.0);
        refused.want(&fields(&[("/s", "Allocated")]));
        settle(&mut refused, REFUSED, 1, 0.0);
        refused.want(&fields(&[("/s", "None")]));
        assert_eq!(refused.due(), None);
        assert_eq!(refused.perhaps_ours("/s"), [json!("None")]);
    }

    #[test]
    fn waits_double_from_one_second_to_sixty_with_full_jitter() {
        let mut pending = wanting("None");
        for wait in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            settle(&mut pending, UNKNOWN, 1000, 1.0);
            assert_eq!(pending.due(), Some(s(1000 + wait)));
        }
        settle(&mut pending, UNKNOWN, 1000, 0.25);
        assert_eq!(pending.due(), Some(s(1015)));
        settle(&mut pending, Verdict::Written, 2000, 0.0);
        pending.want(&fields(&[("/s", "Allocated")]));
        settle(&mut pending, UNKNOWN, 3000, 1.0);
        assert_eq!(pending.due(), Some(s(3001)));
    }

    #[test]
    fn retry_after_is_a_least_wait_and_honoured_up_to_two_minutes() {
        for (asked, chance, wait) in [
            (Some(7), 0.0, s(7)),
            (Some(7), 1.0, Duration::from_millis(7_700)),
            (Some(0), 1.0, s(1)),
            (Some(1_000_000_000), 1.0, s(120)),
            (Some(u64::MAX), 0.0, s(120)),
            (None, 1.0, s(1)),
        ] {
            let mut pending = wanting("None");
            let verdict = Verdict::Failed { perhaps_written: false, retry_after: asked.map(s) };
            settle(&mut pending, verdict, 100, chance);
            assert_eq!(pending.due(), Some(s(100) + wait), "{asked:?}");
        }
    }

    #[test]
    fn what_was_rejected_waits_long_and_something_else_does_not() {
        let mut pending = wanting("None");
        settle(&mut pending, Verdict::Rejected, 0, 1.0);
        assert_eq!(pending.due(), Some(s(60)));
        pending.want(&fields(&[("/s", "None")]));
        assert_eq!(pending.due(), Some(s(60)));
        pending.want(&fields(&[("/s", "Allocated")]));
        assert_eq!(pending.due(), Some(s(1)));
        settle(&mut pending, Verdict::Rejected, 1, 0.0);
        assert_eq!(pending.due(), Some(s(31)));
    }

    #[test]
    fn resync_writes_everything_again_with_a_tenth_of_jitter() {
        let mut pending = Pending::new(false, Some(s(100)));
        pending.want(&fields(&[("/a", "1"), ("/b", "2")]));
        settle(&mut pending, Verdict::Written, 0, 0.0);
        assert_eq!(pending.due(), Some(s(90)));
        pending.want(&fields(&[("/a", "1"), ("/b", "3")]));
        assert_eq!(pending.changes(s(10)), changes(&[("/b", Some("3"))]));
        settle(&mut pending, Verdict::Written, 10, 1.0);
        assert_eq!(pending.due(), Some(s(120)));
        assert_eq!(pending.changes(s(120)), changes(&[("/a", Some("1")), ("/b", Some("3"))]));
        settle(&mut pending, UNKNOWN, 120, 1.0);
        assert_eq!(pending.due(), Some(s(121)));
        pending.set_resync(None, s(121), 0.5);
        settle(&mut pending, Verdict::Written, 121, 0.5);
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn where_nothing_is_wanted_a_resync_writes_nothing() {
        let mut pending = Pending::new(true, None);
        pending.set_resync(Some(s(100)), s(0), 0.5);
        assert_eq!(pending.due(), None);
        assert!(pending.is_idle());
        pending.want(&fields(&[("/a", "1")]));
        settle(&mut pending, Verdict::Written, 1, 0.0);
        pending.want(&fields(&[]));
        settle(&mut pending, Verdict::Written, 2, 0.0);
        assert_eq!(pending.due(), None);
        assert!(pending.is_idle());
    }

    #[test]
    fn fields_that_are_not_wanted_any_more_are_removed_once() {
        let mut pending = Pending::new(true, None);
        pending.want(&fields(&[("/a", "1"), ("/b", "2")]));
        settle(&mut pending, Verdict::Written, 0, 0.0);
        pending.want(&fields(&[("/b", "2")]));
        assert_eq!(pending.changes(s(1)), changes(&[("/a", None)]));
        settle(&mut pending, UNKNOWN, 1, 0.0);
        assert_eq!(pending.changes(s(2)), changes(&[("/a", None)]));
        settle(&mut pending, Verdict::Written, 2, 0.0);
        assert_eq!(pending.due(), None);

        let mut kept = Pending::new(false, None);
        kept.want(&fields(&[("/a", "1")]));
        settle(&mut kept, Verdict::Written, 0, 0.0);
        kept.want(&fields(&[]));
        assert_eq!(kept.due(), None);
    }
}
