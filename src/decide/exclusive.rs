//! Owns the exclusive write of an object whose fields nobody else writes (behaviour 4.8, 6.1, 6.3): nothing is read, only
//! the newest values are sent, and after an attempt that got no answer once more when nothing lost can arrive any more.

use std::time::Duration;

use serde_json::Value;

use super::decision::Fields;
use super::object::Kind;
use super::pace::Pace;
use super::write::{Change, Patch, Write};

/// How long an attempt without an answer may still arrive: longer than the 34 s that the API server gives a request.
pub const MAY_ARRIVE_FOR: Duration = Duration::from_secs(60);

/// The write of one such object. Times are since the start of the process.
#[derive(Debug, Default)]
pub struct Exclusive {
    /// What the API server confirmed last, unless an attempt after that got no answer.
    confirmed: Fields,
    /// What the log has said of the fields.
    reported: Fields,
    /// Fields of attempts that may still arrive, and when these cannot any more.
    lost: Vec<String>,
    lost_until: Duration,
    pace: Pace,
}

impl Exclusive {
    /// When the next attempt is due, to write or to read: past or to come, or never as things stand.
    pub fn due(&self, decided: &Fields, read: Option<Duration>) -> Option<Duration> {
        let due = decided.iter().filter_map(|field| match self.confirmed.get_key_value(field.0) {
            Some(confirmed) if confirmed == field => self.lost.contains(field.0).then_some((field, self.lost_until)),
            _ => Some((field, Duration::ZERO)),
        });
        self.pace.due(due, read)
    }

    /// The fields of a request to an object of this kind at `now`.
    pub fn changes(&mut self, kind: Kind, decided: &Fields, now: Duration) -> Fields {
        let is_sent = |(pointer, value): &(&String, &Value)| {
            self.confirmed.get(*pointer) != Some(value) || (now >= self.lost_until && self.lost.contains(pointer))
        };
        let changes = self.pace.select(decided.iter().filter(is_sent), now);
        // In the first minute of a process something of an earlier one may still arrive after them (behaviour 8.3). But
        // OpenKruiseGame would act again on a condition that somebody dropped (behaviour 9.6).
        if now < MAY_ARRIVE_FOR && kind != Kind::PodStatus {
            self.may_be_overtaken(&changes, MAY_ARRIVE_FOR);
        }
        changes
    }

    fn may_be_overtaken(&mut self, fields: &Fields, until: Duration) {
        self.lost.retain(|pointer| !fields.contains_key(pointer));
        self.lost.extend(fields.keys().cloned());
        self.lost_until = self.lost_until.max(until);
    }

    /// Sends again what was confirmed and is another value in the object: an attempt of the process before has arrived late.
    /// What this process has lost is sent once more all the same.
    pub fn send_again_what_differs(&mut self, held: &Fields) {
        let stands = |pointer: &String, value: &Value| held.get(pointer).is_none_or(|held| held == value);
        self.confirmed.retain(|pointer, value| stands(pointer, value) || self.lost.contains(pointer));
    }

    /// What was confirmed and is not in the object any more.
    pub fn missing_in(&self, held: &Fields) -> Vec<String> {
        self.confirmed.keys().filter(|pointer| !held.contains_key(*pointer)).cloned().collect()
    }

    /// Whether an attempt that got no answer may still arrive, or has not been made up for.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// What is in and will be sent once more, since an attempt that got no answer may still arrive.
    pub fn sent_again(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.confirmed.iter().filter(|(pointer, _)| self.lost.contains(pointer))
    }
}

impl Write for Exclusive {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn confirmed(&mut self, patch: &Patch, _: &Fields) -> Vec<Change> {
        if patch.at >= self.lost_until {
            self.lost.retain(|pointer| !patch.fields.contains_key(pointer));
        }
        let mut changes = Vec::new();
        for (pointer, value) in &patch.fields {
            self.confirmed.insert(pointer.clone(), value.clone());
            let before = self.reported.insert(pointer.clone(), value.clone());
            if before.as_ref().unwrap_or(&Value::Null) != value {
                changes.push((pointer.clone(), before, value.clone()));
            }
        }
        changes
    }

    fn unanswered(&mut self, patch: &Patch, now: Duration) {
        patch.fields.keys().for_each(|pointer| drop(self.confirmed.remove(pointer)));
        self.may_be_overtaken(&patch.fields, now + MAY_ARRIVE_FOR);
    }

    fn missing(&mut self) {
        (self.confirmed, self.reported) = (Fields::new(), Fields::new());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::pace::Retry;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `-` stands for a removal.
    fn fields(fields: &[(&str, &str)]) -> Fields {
        let value = |text: &str| if text == "-" { Value::Null } else { json!(text) };
        fields.iter().map(|(pointer, text)| ((*pointer).to_owned(), value(text))).collect()
    }

    /// What is sent at `now`, long after the start.
    fn sent(write: &mut Exclusive, wanted: &Fields, now: u64) -> Fields {
        write.changes(Kind::Pod, wanted, s(now))
    }

    fn patch(fields: Fields, at: u64) -> Patch {
        Patch { body: Value::Null, fields, record: Default::default(), at: s(at) }
    }

    /// One attempt that works. Gives what changed by it.
    fn confirm(write: &mut Exclusive, wanted: &Fields, now: u64) -> Fields {
        let changes = sent(write, wanted, now);
        write.pace.succeeded(&changes);
        let changed = write.confirmed(&patch(changes, now), wanted);
        changed.into_iter().map(|(pointer, _, value)| (pointer, value)).collect()
    }

    #[test]
    fn what_changed_is_sent_once_removals_included() {
        let mut write = Exclusive::default();
        assert_eq!(write.due(&Fields::new(), None), None);
        for (wanted, changed) in [
            // Whether a previous process has left /b, nobody knows.
            (fields(&[("/a", "1"), ("/b", "-")]), fields(&[("/a", "1")])),
            (fields(&[("/a", "2"), ("/b", "-")]), fields(&[("/a", "2")])),
            (fields(&[("/a", "-"), ("/b", "3")]), fields(&[("/a", "-"), ("/b", "3")])),
        ] {
            assert!(write.due(&wanted, None).is_some_and(|due| due <= s(100)), "{wanted:?}");
            assert_eq!(confirm(&mut write, &wanted, 100), changed, "{wanted:?}");
            assert_eq!(write.due(&wanted, None), None, "{wanted:?}");
        }
    }

    #[test]
    fn after_an_attempt_without_an_answer_the_newest_values_are_sent_once_more_a_minute_later() {
        let mut write = Exclusive::default();
        let (old, new) = (fields(&[("/a", "1"), ("/b", "1")]), fields(&[("/a", "-"), ("/b", "1")]));
        confirm(&mut write, &old, 100);
        let lost = sent(&mut write, &new, 105);
        assert_eq!(lost, fields(&[("/a", "-")]));
        write.unanswered(&patch(lost, 105), s(110));
        write.pace.failed(Retry::Transient, None, s(110), 1.0);
        assert_eq!(write.due(&new, None), Some(s(111)));
        assert_eq!(write.sent_again().count(), 0, "nobody knows what is in");
        // It went back meanwhile, and is sent although it was confirmed before.
        let one = fields(&[("/a", "1")]);
        assert_eq!(sent(&mut write, &old, 111), one);
        assert_eq!(confirm(&mut write, &old, 111), Fields::new(), "for the log it is what it was");
        assert_eq!(write.sent_again().collect::<Vec<_>>(), Vec::from_iter(&one));
        assert_eq!(write.due(&old, None), Some(s(170)));
        assert_eq!(sent(&mut write, &old, 169), Fields::new());
        assert_eq!(sent(&mut write, &old, 170), one);
        write.pace.failed(Retry::Transient, None, s(170), 1.0);
        assert_eq!(write.sent_again().count(), 1, "it is not in once more");
        assert_eq!(confirm(&mut write, &old, 171), Fields::new(), "nothing changed by it");
        assert_eq!(write.due(&old, None), None);
    }

    #[test]
    fn the_minute_counts_from_the_latest_attempt_without_an_answer() {
        let mut write = Exclusive::default();
        for now in [100, 130] {
            let lost = sent(&mut write, &fields(&[("/a", &now.to_string())]), now);
            write.unanswered(&patch(lost, now), s(now));
        }
        let wanted = fields(&[("/a", "130")]);
        confirm(&mut write, &wanted, 131);
        assert_eq!(write.due(&wanted, None), Some(s(190)));
    }

    #[test]
    fn a_missing_object_gets_everything_when_it_is_there() {
        let mut write = Exclusive::default();
        let wanted = fields(&[("/a", "1"), ("/b", "2")]);
        confirm(&mut write, &wanted, 100);
        write.missing();
        assert_eq!(sent(&mut write, &wanted, 101).len(), 2);
    }

    #[test]
    fn a_refused_field_holds_back_no_other() {
        let mut write = Exclusive::default();
        let wanted = fields(&[("/a", "1"), ("/b", "2")]);
        let both = sent(&mut write, &wanted, 100);
        write.pace.refused(&both, s(100), 0.0);
        let first = sent(&mut write, &wanted, 100);
        assert_eq!(first, fields(&[("/a", "1")]));
        write.pace.refused(&first, s(100), 0.0);
        assert_eq!(confirm(&mut write, &wanted, 100), fields(&[("/b", "2")]));
        assert_eq!(write.due(&wanted, None), Some(s(130)));
        let another = write.due(&fields(&[("/a", "3"), ("/b", "2")]), None);
        assert!(another.is_some_and(|due| due <= s(100)), "another value is tried at once: {another:?}");
    }

    #[test]
    fn what_is_sent_in_the_first_minute_is_sent_once_more_after_it_but_no_condition() {
        for kind in [Kind::Pod, Kind::Target, Kind::PodStatus] {
            let mut write = Exclusive::default();
            let wanted = fields(&[("/a", "1")]);
            for (now, sent) in
                [(2, true), (3, false), (59, false), (60, kind != Kind::PodStatus), (61, false), (200, false)]
            {
                let changes = write.changes(kind, &wanted, s(now));
                assert_eq!(!changes.is_empty(), sent, "{kind:?} at {now} s");
                write.confirmed(&patch(changes, now), &wanted);
            }
            assert_eq!(write.due(&wanted, None), None);
        }
    }

    #[test]
    fn what_may_still_arrive_outlives_a_config_without_the_object() {
        let mut write = Exclusive::default();
        let changes = sent(&mut write, &fields(&[("/a", "1")]), 100);
        assert!(!write.has_lost());
        write.unanswered(&patch(changes, 100), s(110));
        assert!(write.has_lost());
    }

    #[test]
    fn what_the_object_has_otherwise_is_sent_again_and_what_it_has_not_is_missing() {
        let wanted = fields(&[("/a", "1"), ("/b", "2"), ("/c", "3")]);
        let held = fields(&[("/a", "1"), ("/b", "9")]);
        let mut write = Exclusive::default();
        confirm(&mut write, &wanted, 100);
        assert_eq!(write.missing_in(&wanted), [] as [String; 0]);
        assert_eq!(write.missing_in(&held), ["/c"]);
        // One that was dropped is not sent again (behaviour 9.6).
        write.send_again_what_differs(&held);
        assert_eq!(sent(&mut write, &wanted, 101), fields(&[("/b", "2")]));
        // What may still arrive is sent again in its own time.
        let mut lost = Exclusive::default();
        lost.unanswered(&patch(wanted.clone(), 100), s(100));
        confirm(&mut lost, &wanted, 101);
        lost.send_again_what_differs(&held);
        assert_eq!(sent(&mut lost, &wanted, 102), Fields::new());
        assert_eq!(sent(&mut lost, &wanted, 160), wanted);
    }
}
