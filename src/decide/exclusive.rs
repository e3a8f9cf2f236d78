//! Owns the exclusive write of an object whose fields nobody else writes (behaviour 4.8, 6.1, 6.3): nothing is read, only
//! the newest values are sent, and after an attempt that got no answer once more when nothing lost can arrive any more.

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
    doubtful: Vec<String>,
    /// Fields of attempts that got no answer, and when these cannot arrive any more.
    lost: Vec<String>,
    lost_until: Duration,
    /// Whether the request of now comes after that.
    sends_again: bool,
    refusals: Refusals,
    pace: Pace,
}

impl Exclusive {
    /// When the next attempt is due: past or to come, or never as things stand.
    pub fn due(&self, fields: &Fields) -> Option<Duration> {
        let due = |(pointer, value): (&String, &Option<Value>)| {
            let since = if self.differs(pointer, value) {
                Duration::ZERO
            } else if self.lost.contains(pointer) {
                self.lost_until
            } else {
                return None;
            };
            Some(since.max(self.refusals.not_before(pointer, value)))
        };
        fields.iter().filter_map(due).min().map(|due| due.max(self.pace.not_before()))
    }

    fn differs(&self, pointer: &String, value: &Option<Value>) -> bool {
        self.doubtful.contains(pointer) || self.confirmed.get(pointer) != Some(value)
    }

    /// The fields of a request at `now`.
    pub fn changes(&mut self, fields: &Fields, now: Duration) -> Vec<(String, Option<Value>)> {
        self.sends_again = now >= self.lost_until;
        let is_sent = |(pointer, value): &(&String, &Option<Value>)| {
            self.differs(pointer, value) || (self.sends_again && self.lost.contains(pointer))
        };
        let differing: Vec<_> = fields.iter().filter(is_sent).collect();
        let selected = self.refusals.select(differing.into_iter(), now);
        selected.into_iter().map(|(pointer, value)| (pointer.clone(), value.clone())).collect()
    }

    /// The API server confirmed them. Gives those that changed anything that was confirmed before.
    pub fn confirmed(&mut self, changes: Vec<(String, Option<Value>)>) -> Fields {
        self.pace.succeeded();
        self.refusals.accepted(changes.iter().map(|(pointer, _)| pointer));
        let mut changed = Fields::new();
        for (pointer, value) in changes {
            self.doubtful.retain(|doubtful| *doubtful != pointer);
            self.lost.retain(|lost| !self.sends_again || *lost != pointer);
            let before = self.confirmed.insert(pointer.clone(), value.clone()).flatten();
            if before != value {
                changed.insert(pointer, value);
            }
        }
        changed
    }

    /// They got no answer by `now`: they may have taken effect, and may still.
    pub fn unanswered(&mut self, changes: &[(String, Option<Value>)], now: Duration) {
        note(&mut self.doubtful, changes);
        note(&mut self.lost, changes);
        self.lost_until = now + MAY_ARRIVE_FOR;
    }

    /// They are sent at `now`, and in the first minute of a process something of an earlier one may still arrive after
    /// them (behaviour 8.3).
    pub fn may_be_overtaken(&mut self, changes: &[(String, Option<Value>)], now: Duration) {
        if now < MAY_ARRIVE_FOR {
            note(&mut self.lost, changes);
            self.lost_until = self.lost_until.max(MAY_ARRIVE_FOR);
            self.sends_again = false;
        }
    }

    /// The object was not there: what was confirmed of it says nothing about the next one.
    pub fn missing(&mut self) {
        self.confirmed.clear();
    }

    /// Whether an attempt that got no answer may still arrive, or has not been made up for.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// The API server refused them.
    pub fn refused(&mut self, changes: &[(String, Option<Value>)], now: Duration, jitter: f64) {
        self.refusals.refused(changes, now, jitter);
    }

    /// The attempt failed.
    pub fn failed(&mut self, retry: Retry, retry_after: Option<Duration>, now: Duration, jitter: f64) {
        self.pace.failed(retry, retry_after, now, jitter);
    }

    /// What is in and will be sent once more, since an attempt that got no answer may still arrive.
    pub fn sent_again(&self) -> impl Iterator<Item = (&String, &Option<Value>)> {
        self.confirmed.iter().filter(|(pointer, _)| self.lost.contains(pointer) && !self.doubtful.contains(pointer))
    }
}

fn note(pointers: &mut Vec<String>, changes: &[(String, Option<Value>)]) {
    for (pointer, _) in changes {
        if !pointers.contains(pointer) {
            pointers.push(pointer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `-` stands for a removal.
    fn fields(fields: &[(&str, &str)]) -> Fields {
        let value = |text: &str| (text != "-").then(|| json!(text));
        fields.iter().map(|(pointer, text)| ((*pointer).to_owned(), value(text))).collect()
    }

    /// What is sent at `now`, by pointer.
    fn sent(write: &mut Exclusive, wanted: &Fields, now: u64) -> Vec<(String, Option<Value>)> {
        write.changes(wanted, s(now))
    }

    fn confirm(write: &mut Exclusive, wanted: &Fields, now: u64) -> Fields {
        let changes = sent(write, wanted, now);
        write.confirmed(changes)
    }

    #[test]
    fn what_changed_is_sent_once_removals_included() {
        let mut write = Exclusive::default();
        assert_eq!(write.due(&Fields::new()), None);
        for (wanted, changed) in [
            // Whether a previous process has left /b, nobody knows.
            (fields(&[("/a", "1"), ("/b", "-")]), fields(&[("/a", "1")])),
            (fields(&[("/a", "2"), ("/b", "-")]), fields(&[("/a", "2")])),
            (fields(&[("/a", "-"), ("/b", "3")]), fields(&[("/a", "-"), ("/b", "3")])),
        ] {
            assert_eq!(write.due(&wanted), Some(s(0)), "{wanted:?}");
            assert_eq!(confirm(&mut write, &wanted, 0), changed, "{wanted:?}");
            assert_eq!(write.due(&wanted), None, "{wanted:?}");
        }
    }

    #[test]
    fn after_an_attempt_without_an_answer_the_newest_values_are_sent_once_more_a_minute_later() {
        let mut write = Exclusive::default();
        let (old, new) = (fields(&[("/a", "1"), ("/b", "1")]), fields(&[("/a", "-"), ("/b", "1")]));
        confirm(&mut write, &old, 0);
        let lost = sent(&mut write, &new, 5);
        assert_eq!(lost, [("/a".into(), None)]);
        write.unanswered(&lost, s(10));
        write.failed(Retry::Transient, None, s(10), 1.0);
        assert_eq!(write.due(&new), Some(s(11)));
        // It went back meanwhile, and is sent although it was confirmed before.
        assert_eq!(sent(&mut write, &old, 11), [("/a".into(), Some(json!("1")))]);
        confirm(&mut write, &old, 11);
        assert_eq!(write.sent_again().collect::<Vec<_>>(), [(&"/a".to_owned(), &Some(json!("1")))]);
        assert_eq!(write.due(&old), Some(s(70)));
        assert_eq!(sent(&mut write, &old, 69), []);
        assert_eq!(sent(&mut write, &old, 70), [("/a".into(), Some(json!("1")))]);
        write.failed(Retry::Transient, None, s(70), 1.0);
        assert_eq!(write.sent_again().count(), 1, "it is not in once more");
        assert_eq!(confirm(&mut write, &old, 71), Fields::new(), "nothing changed by it");
        assert_eq!(write.due(&old), None);
    }

    #[test]
    fn the_minute_counts_from_the_latest_attempt_without_an_answer() {
        let mut write = Exclusive::default();
        for now in [0, 30] {
            let lost = sent(&mut write, &fields(&[("/a", &now.to_string())]), now);
            write.unanswered(&lost, s(now));
        }
        let wanted = fields(&[("/a", "30")]);
        confirm(&mut write, &wanted, 31);
        assert_eq!(write.due(&wanted), Some(s(90)));
    }

    #[test]
    fn a_missing_object_gets_everything_when_it_is_there() {
        let mut write = Exclusive::default();
        let wanted = fields(&[("/a", "1"), ("/b", "2")]);
        confirm(&mut write, &wanted, 0);
        write.missing();
        assert_eq!(sent(&mut write, &wanted, 1).len(), 2);
    }

    #[test]
    fn a_refused_field_holds_back_no_other() {
        let mut write = Exclusive::default();
        let wanted = fields(&[("/a", "1"), ("/b", "2")]);
        let both = sent(&mut write, &wanted, 0);
        write.refused(&both, s(0), 0.0);
        let first = sent(&mut write, &wanted, 0);
        assert_eq!(first, [("/a".into(), Some(json!("1")))]);
        write.refused(&first, s(0), 0.0);
        assert_eq!(confirm(&mut write, &wanted, 0), fields(&[("/b", "2")]));
        assert_eq!(write.due(&wanted), Some(s(30)));
        assert_eq!(write.due(&fields(&[("/a", "3"), ("/b", "2")])), Some(s(0)), "another value is tried at once");
    }

    #[test]
    fn what_is_sent_in_the_first_minute_is_sent_once_more_after_it() {
        let mut write = Exclusive::default();
        let wanted = fields(&[("/a", "1")]);
        for (now, sent) in [(2, true), (3, false), (59, false), (60, true), (61, false), (200, false)] {
            let changes = write.changes(&wanted, s(now));
            assert_eq!(!changes.is_empty(), sent, "at {now} s");
            write.may_be_overtaken(&changes, s(now));
            write.confirmed(changes);
        }
        assert_eq!(write.due(&wanted), None);
    }

    #[test]
    fn what_may_still_arrive_outlives_a_config_without_the_object() {
        let mut write = Exclusive::default();
        let changes = write.changes(&fields(&[("/a", "1")]), s(100));
        assert!(!write.has_lost());
        write.unanswered(&changes, s(110));
        assert!(write.has_lost());
    }
}
