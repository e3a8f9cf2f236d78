//! Owns which policy a successful probe selects (behaviour 5.1, 6.4).

use std::fmt;
use std::time::Duration;

use crate::config::{FAILED, Policy, SUCCEEDED, When};
use crate::excerpt::excerpt;

/// What came of one probe.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The expected response.
    Success(ProbeResult),
    /// Anything else, and what a pod's condition says of it.
    Failure(String),
}

/// What a successful probe returned.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeResult {
    /// No rule needs it, so it was not read.
    Unread,
    /// The result, without white space around it.
    Text(String),
    /// It is longer than [`config::MAX_VALUE_BYTES`](crate::config::MAX_VALUE_BYTES): it equals nothing and is written
    /// nowhere. This is how it begins.
    TooLong(String),
}

impl ProbeResult {
    /// The result, where there is one that can be compared and written.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Unread | Self::TooLong(_) => None,
        }
    }

    /// The result, where there is one that a field can hold: terminals show annotations raw, so that none with a control
    /// character but line feeds is written (behaviour 6.7).
    pub fn writable(&self) -> Option<&str> {
        self.text().filter(|text| text.chars().all(|c| c == '\n' || !c.is_control()))
    }
}

impl fmt::Display for ProbeResult {
    /// As a message shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&excerpt(text)),
            Self::TooLong(text) => write!(f, "{}, a result of more than 4 KiB", excerpt(text)),
            Self::Unread => f.write_str("of the status alone"),
        }
    }
}

/// The index of the first policy with the condition that a success fulfils: the state that it equals, else the range that it
/// lies in, else `Succeeded`. The keywords `Succeeded` and `Failed` equal no result.
pub fn select(policies: &[Policy], result: &ProbeResult) -> Option<usize> {
    let text = result.text().filter(|text| ![SUCCEEDED, FAILED].contains(text));
    // Rust would read `inf` and `nan` as numbers, too.
    let number = text.and_then(|text| text.parse().ok()).filter(|number: &f64| number.is_finite());
    let in_range = |number| {
        let holds = |policy: &Policy| matches!(policy.when, When::Range(min, max) if min <= number && number <= max);
        policies.iter().position(holds)
    };
    text.and_then(|text| named(policies, text)).or_else(|| in_range(number?)).or_else(|| named(policies, SUCCEEDED))
}

/// Of the policies with the condition of the one at this index, the one with the longest time that is reached, when the
/// condition has held for `elapsed`.
pub fn reached(policies: &[Policy], condition: usize, elapsed: Duration) -> Option<usize> {
    with_condition(policies, condition)
        .filter(|(_, policy)| policy.lasting <= elapsed)
        .max_by_key(|(_, policy)| policy.lasting)
        .map(|(index, _)| index)
}

/// The policies with the condition of the one at this index.
pub fn with_condition(policies: &[Policy], condition: usize) -> impl Iterator<Item = (usize, &Policy)> {
    policies.iter().enumerate().filter(move |(_, policy)| policy.when == policies[condition].when)
}

/// The index of the policy with this state.
pub fn named(policies: &[Policy], name: &str) -> Option<usize> {
    policies.iter().position(|policy| matches!(&policy.when, When::State(state) if state == name))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Field, OPS_STATE, Template};

    /// A policy that sets opsState to the name of its state or range.
    pub(crate) fn policy(when: When) -> Policy {
        let ops_state = match &when {
            When::State(state) => state.clone(),
            When::Range(min, max) => format!("{min}..{max}"),
        };
        Policy {
            when,
            lasting: Duration::ZERO,
            sets: vec![(Field::of_game_server(OPS_STATE), Template::of(ops_state))],
        }
    }

    pub(crate) fn states(states: &[&str]) -> Vec<Policy> {
        states.iter().map(|state| policy(When::State((*state).into()))).collect()
    }

    #[test]
    fn a_state_wins_over_a_range_and_a_range_over_succeeded() {
        let mut policies = states(&["None", "5", SUCCEEDED, FAILED]);
        policies.push(policy(When::Range(0.0, 10.0)));
        policies.push(policy(When::Range(10.5, f64::INFINITY)));
        for (result, selected) in [
            (ProbeResult::Text("None".into()), Some(0)),
            (ProbeResult::Text("none".into()), Some(2)),
            (ProbeResult::Text("5".into()), Some(1)),
            (ProbeResult::Text("5.0".into()), Some(4)),
            (ProbeResult::Text("0".into()), Some(4)),
            (ProbeResult::Text("10".into()), Some(4)),
            (ProbeResult::Text("-0".into()), Some(4)),
            (ProbeResult::Text("10.2".into()), Some(2)),
            (ProbeResult::Text("1e3".into()), Some(5)),
            (ProbeResult::Text("inf".into()), Some(2)),
            (ProbeResult::Text("1e999".into()), Some(2)),
            (ProbeResult::Text("nan".into()), Some(2)),
            (ProbeResult::Text("".into()), Some(2)),
            (ProbeResult::Text("Failed".into()), Some(2)),
            (ProbeResult::TooLong("None".into()), Some(2)),
            (ProbeResult::Unread, Some(2)),
        ] {
            assert_eq!(select(&policies, &result), selected, "{result:?}");
        }
        assert_eq!(named(&policies, FAILED), Some(3));
    }

    #[test]
    fn without_succeeded_an_unknown_result_selects_nothing() {
        let policies = states(&["None"]);
        for result in [ProbeResult::Text("Nothing".into()), ProbeResult::TooLong("None".into()), ProbeResult::Unread] {
            assert_eq!(select(&policies, &result), None, "{result:?}");
        }
        assert_eq!(named(&policies, FAILED), None);
    }
}
