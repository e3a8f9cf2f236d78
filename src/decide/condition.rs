//! Owns what an endpoint's opinion says of its condition of the pod (behaviour 9.4), as kruise-daemon has it: thresholds count
//! successes or failures in a row, and the text is the newest of those that counted.

use std::time::Duration;

use serde_json::{Value, json};

use super::exclusive::MAY_ARRIVE_FOR;
use super::opinion::Opinion;
use super::policy::ProbeResult;
use crate::excerpt::prefix;
use crate::json::escaped_key;

/// The most of a condition's message.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The condition of this type; none while no threshold was reached.
pub fn of_opinion(name: &str, opinion: &Opinion) -> Option<Value> {
    match (&opinion.failure, &opinion.result) {
        (Some(message), _) => Some(condition(name, "False", message)),
        (None, Some(ProbeResult::Text(text) | ProbeResult::TooLong(text))) => Some(condition(name, "True", text)),
        (None, Some(ProbeResult::Unread)) => Some(condition(name, "True", "")),
        (None, None) => None,
    }
}

/// After the first condition that a process wrote, it looks whether the node keeps conditions.
const STANDS_AFTER: Duration = Duration::from_secs(10);

/// When a process reads the conditions of the pod: once to see whether the node keeps them (behaviour 9.6), and once when
/// nothing of the process before can arrive any more (behaviour 9.5). Times are since the start of the process.
#[derive(Debug, Default)]
pub struct ConditionReads {
    has_written: bool,
    after_the_first_write: Option<Duration>,
    after_the_last_arrival: Option<Duration>,
}

impl ConditionReads {
    /// When the next read is due, past or to come.
    pub fn next(&self) -> Option<Duration> {
        self.after_the_first_write.into_iter().chain(self.after_the_last_arrival).min()
    }

    /// A condition was confirmed.
    pub fn written(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.has_written, true) {
            self.after_the_first_write = Some(now + STANDS_AFTER);
            self.after_the_last_arrival = (now < MAY_ARRIVE_FOR).then_some(MAY_ARRIVE_FOR);
        }
    }

    /// Whether a read at `now` shows if the node keeps conditions. It is the only one.
    pub fn after_the_first_write(&mut self, now: Duration) -> bool {
        self.after_the_first_write.take_if(|at| *at <= now).is_some()
    }

    /// Whether a read at `now` shows what an earlier process sent last. It is the only one.
    pub fn after_the_last_arrival(&mut self, now: Duration) -> bool {
        self.after_the_last_arrival.take_if(|at| *at <= now).is_some()
    }
}

/// Where a condition of this type stands in the Pod: conditions are a list whose key is the type.
pub fn condition_pointer(name: &str) -> String {
    format!("/status/conditions/{}", escaped_key(name))
}

/// A condition as it is written: without times, each of which would cost OpenKruiseGame a write (behaviour 9.5).
pub fn condition(name: &str, status: &str, message: &str) -> Value {
    json!({"type": name, "status": status, "message": prefix(message.trim_ascii(), MAX_MESSAGE_BYTES)})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::opinion::tests::endpoint;
    use super::super::policy::Outcome;
    use super::*;

    /// The status and message after each outcome; `!` and a text stand for a failure.
    fn told(successes: u32, failures: u32, outcomes: &[&str]) -> Vec<String> {
        let endpoint = endpoint(&[], successes, failures);
        let mut opinion = Opinion::default();
        let mut after = |text: &&str| {
            let outcome = match text.strip_prefix('!') {
                Some(message) => Outcome::Failure(message.into()),
                None => Outcome::Success(ProbeResult::Text((*text).into())),
            };
            opinion.observe(&endpoint, outcome, Duration::ZERO);
            let condition = of_opinion("x/y", &opinion);
            condition.map_or_else(|| "-".into(), |it| format!("{} {}", it["status"].as_str().unwrap(), it["message"]))
        };
        outcomes.iter().map(&mut after).collect()
    }

    #[test]
    fn thresholds_count_successes_and_failures_whatever_their_texts() {
        for (successes, failures, outcomes, expected) in [
            (
                1,
                1,
                &["a", "b", "!x", "!y", ""][..],
                &["True \"a\"", "True \"b\"", "False \"x\"", "False \"y\"", "True \"\""][..],
            ),
            (3, 1, &["a", "b", "c", "d"], &["-", "-", "True \"c\"", "True \"d\""]),
            (1, 2, &["!x", "!y", "a", "!z", "b"], &["-", "False \"y\"", "True \"a\"", "True \"a\"", "True \"b\""]),
            (2, 2, &["a", "!x", "b", "!y", "!z", "c"], &["-", "-", "-", "-", "False \"z\"", "False \"z\""]),
        ] {
            assert_eq!(told(successes, failures, outcomes), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_conditions_are_read_once_after_the_first_write_and_once_when_nothing_can_arrive_any_more() {
        let s = Duration::from_secs;
        let mut reads = ConditionReads::default();
        assert_eq!(reads.next(), None);
        reads.written(s(5));
        assert_eq!(reads.next(), Some(s(15)));
        // Only the first write counts.
        reads.written(s(7));
        assert_eq!(reads.next(), Some(s(15)));
        assert!(!reads.after_the_first_write(s(14)) && !reads.after_the_last_arrival(s(59)));
        assert!(reads.after_the_first_write(s(15)) && !reads.after_the_first_write(s(16)));
        assert_eq!(reads.next(), Some(s(60)));
        assert!(reads.after_the_last_arrival(s(60)) && !reads.after_the_last_arrival(s(61)));
        assert_eq!(reads.next(), None);
        // A process that writes first when nothing can arrive any more needs no second read.
        for (first, last) in [(59, Some(s(60))), (60, None)] {
            let mut reads = ConditionReads::default();
            reads.written(s(first));
            assert_eq!(
                (reads.next(), reads.after_the_first_write(s(70))),
                (Some(s(first + 10).min(last.unwrap_or(s(99)))), true)
            );
            assert_eq!(reads.next(), last);
        }
    }

    #[test]
    fn a_condition_stands_in_the_pod_under_its_type() {
        assert_eq!(condition_pointer("game.kruise.io/idle"), "/status/conditions/game.kruise.io~1idle");
    }

    #[test]
    fn a_message_is_cut_on_a_character_and_its_white_space_before() {
        let long = format!("  {}", "空".repeat(2000));
        let message = condition("x/y", "True", &long)["message"].as_str().unwrap().to_owned();
        assert_eq!((message.len(), message.chars().count()), (1023, 341));
        assert_eq!(condition("x/y", "True", " \n a b\t ")["message"], "a b");
        let of = |result| {
            let mut opinion = Opinion::default();
            opinion.observe(&endpoint(&[], 1, 1), Outcome::Success(result), Duration::ZERO);
            of_opinion("x/y", &opinion).unwrap()["message"].as_str().unwrap().len()
        };
        assert_eq!(of(ProbeResult::TooLong("x".repeat(5000))), 1024);
        assert_eq!(of(ProbeResult::Unread), 0);
    }
}
