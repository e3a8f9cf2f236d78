//! Owns which policy a successful probe selects (SPEC 5.1, 6.4).

use crate::config::{FAILED, Policy, SUCCEEDED, When};

/// What one probe of an endpoint gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// The expected status.
    Success(Answer),
    /// Anything else.
    Failure,
}

/// The result of a successful probe.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// No rule needs the body, so it was not read.
    Unread,
    /// The result, without white space around it.
    Text(String),
    /// The body was longer than what is read of one: it equals nothing. This is how it begins.
    Cut(String),
}

impl Answer {
    /// The result, where there is a whole one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Unread | Self::Cut(_) => None,
        }
    }

    /// The result or its beginning.
    pub fn beginning(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Cut(text) => Some(text),
            Self::Unread => None,
        }
    }
}

/// The index of the policy that a success selects: the one whose state it equals, else the one whose range holds it,
/// else `Succeeded`.
pub fn select(policies: &[Policy], answer: &Answer) -> Option<usize> {
    let named = |name: &str| policies.iter().position(|policy| matches!(&policy.when, When::State(s) if s == name));
    let in_range = |text: &str| {
        let number = number(text)?;
        policies
            .iter()
            .position(|policy| matches!(policy.when, When::Range(min, max) if min <= number && number <= max))
    };
    answer.text().and_then(|text| named(text).or_else(|| in_range(text))).or_else(|| named(SUCCEEDED))
}

/// The index of the policy for failures.
pub fn failed(policies: &[Policy]) -> Option<usize> {
    policies.iter().position(|policy| matches!(&policy.when, When::State(state) if state == FAILED))
}

/// A finite decimal number; not `inf` and `nan`, which Rust would read as numbers.
fn number(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    text.parse().ok().filter(|number: &f64| decimal && number.is_finite())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A policy that sets opsState to the name of its state or range.
    pub(crate) fn policy(when: When) -> Policy {
        let ops_state = match &when {
            When::State(state) => state.clone(),
            When::Range(min, max) => format!("{min}..{max}"),
        };
        Policy {
            when,
            ops_state: Some(ops_state),
            deletion_priority: None,
            update_priority: None,
            labels: Vec::new(),
            annotations: Vec::new(),
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
        for (answer, selected) in [
            (Answer::Text("None".into()), Some(0)),
            (Answer::Text("none".into()), Some(2)),
            (Answer::Text("5".into()), Some(1)),
            (Answer::Text("5.0".into()), Some(4)),
            (Answer::Text("0".into()), Some(4)),
            (Answer::Text("10".into()), Some(4)),
            (Answer::Text("-0".into()), Some(4)),
            (Answer::Text("10.2".into()), Some(2)),
            (Answer::Text("1e3".into()), Some(5)),
            (Answer::Text("inf".into()), Some(2)),
            (Answer::Text("1e999".into()), Some(2)),
            (Answer::Text("nan".into()), Some(2)),
            (Answer::Text("".into()), Some(2)),
            (Answer::Text("Failed".into()), Some(3)),
            (Answer::Cut("None".into()), Some(2)),
            (Answer::Unread, Some(2)),
        ] {
            assert_eq!(select(&policies, &answer), selected, "{answer:?}");
        }
        assert_eq!(failed(&policies), Some(3));
    }

    #[test]
    fn without_succeeded_an_unknown_result_selects_nothing() {
        let policies = states(&["None"]);
        for answer in [Answer::Text("Nothing".into()), Answer::Cut("None".into()), Answer::Unread] {
            assert_eq!(select(&policies, &answer), None, "{answer:?}");
        }
        assert_eq!(failed(&policies), None);
    }
}
