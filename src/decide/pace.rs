//! Owns when an object is written again. After a failure there are exponential waits with full jitter, and longer ones where
//! the server asks for them (behaviour 4.5). After the API server has refused some fields, each goes by itself, so that a
//! refused one holds back no other (behaviour 8.2). However many there are, and however often a game changes its mind, the
//! writes of one object are bounded (behaviour 4.9).

use std::time::Duration;

use serde_json::Value;

use super::decision::{Fields, OPS_STATE};

/// The first wait is at most this long, and each following one at most twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long an object that is about to appear is asked for often.
const APPEARS_WITHIN: Duration = Duration::from_secs(120);
/// The longest that a server's Retry-After is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);
/// The longest wait where nothing says that trying again soon helps.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// So many writes may follow each other at once, and one more for each of these times that has passed.
const WRITES_AT_ONCE: u32 = 12;
const ONE_WRITE_IN: Duration = Duration::from_secs(5);
/// How often a refused field is tried before it is tried less often.
const TRIES_OF_A_REFUSED_FIELD: u32 = 10;

/// How soon a failure may be over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Retry {
    /// A fault of the network or the server: 15 s between attempts at most.
    Transient,
    /// The object is about to appear: 5 s at most in its first two minutes.
    Appearing,
    /// Somebody has to act: 60 s at most.
    Persistent,
    /// A protected state: 30 to 60 s.
    Protected,
}

/// The attempts to write one object. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug, Default)]
pub struct Pace {
    failures: u32,
    appearing_since: Option<Duration>,
    not_before: Duration,
    /// When the write was made whose end is awaited.
    under_way: Option<Duration>,
    /// When the writes before will have been made up for, one after the other.
    made_up_for: Duration,
    /// Whether the last write removed fields, and did nothing else.
    only_removes: bool,
    /// When a removal may be sent again, after one that was refused for good.
    removals_not_before: Duration,
    /// Some of several fields were refused together: from now on one a request.
    one_by_one: bool,
    refused: Vec<Refused>,
}

/// A field that was refused by itself.
#[derive(Debug)]
struct Refused {
    pointer: String,
    value: Value,
    until: Duration,
    /// How often by now, with whatever value.
    tries: u32,
}

impl Pace {
    /// When the next attempt may start: as soon as one of `at` has come, or a field is due that is to be sent by then.
    pub fn due<'f>(
        &self,
        fields: impl Iterator<Item = ((&'f String, &'f Value), Duration)>,
        at: impl IntoIterator<Item = Duration>,
    ) -> Option<Duration> {
        let fields = fields.map(|((pointer, value), due)| due.max(self.waits_until(pointer, value)));
        let bounded = self.made_up_for.saturating_sub(ONE_WRITE_IN * (WRITES_AT_ONCE - 1));
        fields.chain(at).min().map(|due| due.max(self.not_before).max(bounded))
    }

    /// When a refused field may be sent again with the same value.
    fn waits_until(&self, pointer: &str, value: &Value) -> Duration {
        let refused = self.refused.iter().find(|refused| refused.pointer == pointer && refused.value == *value);
        let removal = if value.is_null() { self.removals_not_before } else { Duration::ZERO };
        refused.map_or(Duration::ZERO, |refused| refused.until).max(removal)
    }

    /// Of the fields that differ, those that go into the write at `now`. A field that was refused goes alone.
    pub fn select<'f>(&mut self, differing: impl Iterator<Item = (&'f String, &'f Value)>, now: Duration) -> Fields {
        let due = differing.filter(|(pointer, value)| self.waits_until(pointer, value) <= now);
        let (refused, others): (Vec<_>, Vec<_>) =
            due.partition(|(pointer, _)| self.refused.iter().any(|refused| refused.pointer == **pointer));
        self.one_by_one &= !others.is_empty();
        let goes_alone = self.one_by_one || others.is_empty();
        let mut selected = if others.is_empty() { refused } else { others };
        if goes_alone {
            selected = Vec::from_iter(selected.into_iter().min_by_key(|(pointer, _)| *pointer != OPS_STATE));
        }
        // Not collected, which would bring a sort of its own into the binary.
        let mut fields = Fields::new();
        fields.extend(selected.into_iter().map(|(pointer, value)| (pointer.clone(), value.clone())));
        if !fields.is_empty() {
            self.begins(now);
            self.only_removes = fields.values().all(Value::is_null);
        }
        fields
    }

    /// A write is made at `now`, with fields or with the record alone.
    pub fn begins(&mut self, now: Duration) {
        self.under_way = Some(now);
    }

    /// Counts the write that has ended as one, however often it was tried again at once after a conflict.
    fn ended(&mut self) {
        if let Some(now) = self.under_way.take() {
            self.made_up_for = self.made_up_for.max(now) + ONE_WRITE_IN;
        }
    }

    /// An attempt with these fields succeeded.
    pub fn succeeded(&mut self, fields: &Fields) {
        self.ended();
        (self.failures, self.appearing_since) = (0, None);
        (self.not_before, self.removals_not_before) = (Duration::ZERO, Duration::ZERO);
        self.refused.retain(|refused| !fields.contains_key(&refused.pointer));
    }

    /// The API server refused these fields, sent in one request.
    pub fn refused(&mut self, fields: &Fields, now: Duration, jitter: f64) {
        self.ended();
        self.one_by_one |= fields.len() > 1;
        if let (1, Some((pointer, value))) = (fields.len(), fields.first_key_value()) {
            let before = self.refused.iter().position(|refused| refused.pointer == *pointer);
            let tries = before.map_or(0, |at| self.refused.remove(at).tries) + 1;
            let until = now + if tries < TRIES_OF_A_REFUSED_FIELD { rarely(jitter) } else { seldom(jitter) };
            self.refused.push(Refused { pointer: pointer.clone(), value: value.clone(), until, tries });
        }
    }

    /// An attempt failed at `now`; the server asked for a pause of `retry_after`.
    pub fn failed(&mut self, retry: Retry, retry_after: Option<Duration>, now: Duration, jitter: f64) {
        self.ended();
        let since = (retry == Retry::Appearing).then(|| *self.appearing_since.get_or_insert(now));
        self.appearing_since = since;
        let longest = match (retry, since) {
            (Retry::Transient, _) => Duration::from_secs(15),
            (Retry::Appearing, Some(since)) if now - since < APPEARS_WITHIN => Duration::from_secs(5),
            (Retry::Appearing | Retry::Persistent | Retry::Protected, _) => LONGEST_WAIT,
        };
        // Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        let wait = match retry {
            Retry::Protected => rarely(jitter),
            _ => FIRST_WAIT.saturating_mul(1 << self.failures.min(6)).min(longest).mul_f64(jitter),
        };
        if retry == Retry::Persistent && self.only_removes {
            // Who took a key out of the config may have taken the rule out of the Role with it.
            self.removals_not_before = now + seldom(jitter);
        }
        // Not all at the same moment: up to a tenth later than asked for.
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER).mul_f64(1.0 + jitter / 10.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait.max(asked.min(LONGEST_RETRY_AFTER));
    }
}

/// 30 to 60 s: for what will be refused again unless somebody acts.
fn rarely(jitter: f64) -> Duration {
    LONGEST_WAIT.mul_f64(0.5 + jitter / 2.0)
}

/// 5 to 10 minutes: for what nobody waits for.
fn seldom(jitter: f64) -> Duration {
    10 * rarely(jitter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The longest waits after failures of one kind, a second apart each.
    fn longest_waits(retry: Retry, count: u64) -> Vec<u64> {
        let mut pace = Pace::default();
        let mut wait = |now| {
            pace.failed(retry, None, s(now), 1.0);
            (pace.not_before - s(now)).as_secs()
        };
        (0..count).map(&mut wait).collect()
    }

    #[test]
    fn waits_grow_to_the_longest_of_their_kind() {
        assert_eq!(longest_waits(Retry::Transient, 7), [1, 2, 4, 8, 15, 15, 15]);
        assert_eq!(longest_waits(Retry::Appearing, 5), [1, 2, 4, 5, 5]);
        assert_eq!(longest_waits(Retry::Persistent, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(longest_waits(Retry::Protected, 2), [60, 60]);
    }

    #[test]
    fn what_does_not_appear_within_two_minutes_is_asked_for_less_often() {
        let waits = longest_waits(Retry::Appearing, 122);
        assert_eq!((waits[119], waits[120]), (5, 60));
        let mut pace = Pace::default();
        pace.failed(Retry::Appearing, None, s(0), 1.0);
        pace.failed(Retry::Transient, None, s(110), 1.0);
        pace.failed(Retry::Appearing, None, s(130), 1.0);
        assert_eq!(pace.not_before, s(134), "the two minutes count from the latest beginning");
    }

    #[test]
    fn jitter_is_full_and_a_success_starts_anew() {
        let mut pace = Pace::default();
        pace.failed(Retry::Transient, None, s(10), 0.0);
        assert_eq!(pace.not_before, s(10));
        pace.failed(Retry::Transient, None, s(10), 0.5);
        assert_eq!(pace.not_before, s(11));
        pace.succeeded(&Fields::new());
        assert_eq!(pace.not_before, s(0));
        pace.failed(Retry::Protected, None, s(0), 0.0);
        assert_eq!(pace.not_before, s(30));
    }

    #[test]
    fn retry_after_is_the_least_wait_up_to_two_minutes() {
        let not_before = |asked, jitter| {
            let mut pace = Pace::default();
            pace.failed(Retry::Transient, Some(s(asked)), s(0), jitter);
            pace.not_before
        };
        assert_eq!(not_before(0, 0.5), Duration::from_millis(500));
        assert_eq!(not_before(30, 0.0), s(30));
        assert_eq!(not_before(30, 1.0), s(33));
        assert_eq!(not_before(1_000_000_000, 1.0), s(120));
    }

    #[test]
    fn after_a_refusal_of_several_fields_each_goes_by_itself_and_a_refused_one_holds_back_no_other() {
        let mut fields: Fields = ["/a", "/b", OPS_STATE].map(|pointer| (pointer.into(), json!(1))).into();
        let one = |pointer: &str| Fields::from([(pointer.into(), json!(1))]);
        let mut pace = Pace::default();
        let all = pace.select(fields.iter(), s(0));
        assert_eq!(all.len(), 3);
        pace.refused(&all, s(0), 0.0);
        let first = pace.select(fields.iter(), s(0));
        assert_eq!(first, one(OPS_STATE));
        pace.refused(&first, s(0), 0.0);
        for pointer in ["/a", "/b"] {
            let next = pace.select(fields.iter(), s(0));
            assert_eq!(next, one(pointer));
            pace.succeeded(&next);
            fields.remove(pointer);
        }
        assert_eq!(pace.select(fields.iter(), s(29)), Fields::new());
        // What is new goes together again, and without the refused one.
        for pointer in ["/d", "/e"] {
            fields.insert(pointer.into(), Value::Null);
        }
        let new: Vec<String> = pace.select(fields.iter(), s(30)).into_keys().collect();
        assert_eq!(new, ["/d", "/e"]);
        // Those that were refused go one by one for ever.
        pace.refused(&one("/a"), s(30), 0.0);
        let both = Fields::from([(OPS_STATE.into(), json!(1)), ("/a".into(), json!(1))]);
        assert_eq!(pace.select(both.iter(), s(60)), one(OPS_STATE));
    }

    /// When an object is written whose field changes each second, within so many seconds.
    fn written(pace: &mut Pace, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut written = Vec::new();
        for now in seconds {
            let fields = Fields::from([("/a".into(), json!(now))]);
            if pace.due(fields.iter().map(|field| (field, s(0))), []).is_some_and(|due| due <= s(now)) {
                let sent = pace.select(fields.iter(), s(now));
                pace.succeeded(&sent);
                written.push(now);
            }
        }
        written
    }

    #[test]
    fn twelve_writes_follow_each_other_at_once_then_one_every_five_seconds_until_there_was_a_quiet_minute() {
        let mut pace = Pace::default();
        let fields = Fields::from([("/a".into(), json!(1))]);
        let due = |pace: &Pace| pace.due(fields.iter().map(|field| (field, s(0))), []).unwrap();
        let write = |pace: &mut Pace, now| {
            // Tried again at once after a conflict.
            let _ = pace.select(fields.iter(), s(now));
            let sent = pace.select(fields.iter(), s(now));
            pace.succeeded(&sent);
        };
        for _ in 0..WRITES_AT_ONCE {
            assert!(due(&pace) <= s(100));
            write(&mut pace, 100);
        }
        assert_eq!(due(&pace), s(105));
        write(&mut pace, 105);
        assert_eq!(due(&pace), s(110));
        pace.succeeded(&Fields::new());
        assert_eq!(due(&pace), s(110), "nothing is no write");
        // Another one is awaited no longer after a minute, and the next ones neither.
        for _ in 0..WRITES_AT_ONCE {
            assert!(due(&pace) <= s(170));
            write(&mut pace, 170);
        }
        assert_eq!(due(&pace), s(175));
        // With a change each second the second ones make up for a part meanwhile.
        let mut pace = Pace::default();
        let first = Vec::from_iter(0..14);
        assert_eq!(written(&mut pace, 0..31), [first, vec![15, 20, 25, 30]].concat());
        assert_eq!(written(&mut pace, 90..94), [90, 91, 92, 93]);
    }

    #[test]
    fn sixty_refused_fields_are_no_load() {
        let fields: Fields = (0..60).map(|index| (format!("/{index:02}"), json!(1))).collect();
        let mut pace = Pace::default();
        let (mut now, mut requests) = (0, Vec::new());
        while now < 4 * 3600 {
            let due = pace.due(fields.iter().map(|field| (field, s(0))), []).unwrap();
            now = now.max(due.as_secs_f64().ceil() as u64);
            let sent = pace.select(fields.iter(), s(now));
            pace.refused(&sent, s(now), 0.5);
            requests.push(now);
        }
        let until = |seconds| requests.iter().filter(|at| **at < seconds).count();
        assert_eq!((until(1), until(60), until(3600)), (12, 23, 731));
        let later = until(4 * 3600) - until(2 * 3600);
        assert!(later <= 60 * 2 * 3600 / 450, "each of them once in 450 s: {later}");
    }

    #[test]
    fn what_only_removes_is_tried_seldom_if_a_rule_is_missing_and_delays_no_value() {
        for (value, retry, wait) in [
            (Value::Null, Retry::Persistent, 600),
            (Value::Null, Retry::Transient, 1),
            (json!(1), Retry::Persistent, 1),
        ] {
            let mut pace = Pace::default();
            let fields = Fields::from([("/a".into(), value)]);
            pace.select(fields.iter(), s(0));
            pace.failed(retry, None, s(0), 1.0);
            let due = |pace: &Pace, fields: &Fields| pace.due(fields.iter().map(|field| (field, s(0))), []);
            assert_eq!(due(&pace, &fields), Some(s(wait)), "{retry:?}");
            assert_eq!(due(&pace, &Fields::from([("/a".into(), json!("x"))])), Some(s(1)), "{retry:?}");
            pace.succeeded(&Fields::new());
            assert_eq!(due(&pace, &fields), Some(s(0)), "{retry:?}");
        }
    }

    #[test]
    fn a_refused_value_waits_and_another_one_does_not() {
        let mut pace = Pace::default();
        let refused = Fields::from([("/a".into(), json!(1))]);
        pace.refused(&refused, s(10), 1.0);
        assert_eq!(pace.waits_until("/a", &json!(1)), s(70));
        assert_eq!(pace.waits_until("/a", &json!(2)), s(0));
        assert_eq!(pace.waits_until("/a", &Value::Null), s(0));
        for tries in 2..=12 {
            pace.refused(&refused, s(100), 1.0);
            let wait = if tries < TRIES_OF_A_REFUSED_FIELD { 60 } else { 600 };
            assert_eq!(pace.waits_until("/a", &json!(1)), s(100 + wait), "{tries}");
        }
        pace.succeeded(&refused);
        assert_eq!(pace.waits_until("/a", &json!(1)), s(0));
        pace.refused(&refused, s(100), 1.0);
        assert_eq!(pace.waits_until("/a", &json!(1)), s(160), "after a success it begins anew");
    }
}
