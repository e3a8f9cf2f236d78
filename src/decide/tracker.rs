//! Owns one endpoint's opinion: how many readings in a row it takes to change it (SPEC 5.1).

use super::policy::{self, Reading};
use crate::config::{Endpoint, MAX_VALUE_BYTES};
use crate::excerpt::prefix;

/// What an endpoint has come to hold, reading by reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tracker {
    run: Option<Run>,
    opinion: Option<usize>,
    result: Option<String>,
}

/// Readings in a row that say the same.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    says: Says,
    length: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Selected(Option<usize>),
    Failed,
}

impl Tracker {
    /// Takes in the next reading of `endpoint`.
    pub fn observe(&mut self, endpoint: &Endpoint, reading: &Reading) {
        let says = match reading {
            Reading::Success(answer) => Says::Selected(policy::select(&endpoint.policies, answer)),
            Reading::Failure => Says::Failed,
        };
        let length = match &self.run {
            Some(run) if run.says == says => run.length.saturating_add(1),
            _ => 1,
        };
        self.run = Some(Run { says, length });
        match (says, reading) {
            (Says::Selected(selected), Reading::Success(answer)) if length >= endpoint.success_threshold => {
                self.opinion = selected;
                // Of one that is too long to be written, no more is kept than shows that.
                self.result = answer.beginning().map(|text| prefix(text, MAX_VALUE_BYTES + 4).to_owned());
            }
            (Says::Failed, _) if length >= endpoint.failure_threshold => {
                self.opinion = policy::failed(&endpoint.policies).or(self.opinion);
            }
            _ => {}
        }
    }

    /// The index of the policy that the endpoint holds to be the case.
    pub fn opinion(&self) -> Option<usize> {
        self.opinion
    }

    /// The result of the last success that counted, cut where it is longer than [`MAX_VALUE_BYTES`] and so never written.
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::policy::Answer;
    use super::super::policy::tests::states;
    use super::*;
    use crate::config::{FAILED, SUCCEEDED};

    pub(crate) fn endpoint(known: &[&str], successes: u32, failures: u32) -> Endpoint {
        Endpoint {
            url: "http://localhost:8080".parse().unwrap(),
            method: Default::default(),
            headers: Default::default(),
            timeout: Default::default(),
            expected_status: 200,
            failure_threshold: failures,
            success_threshold: successes,
            extract: None,
            policies: states(known),
            annotation_key: None,
            label_key: None,
            field: None,
            protected_ops_states: Vec::new(),
        }
    }

    /// The opinions after each reading; `!` stands for a failure, anything else for a result.
    fn opinions(endpoint: &Endpoint, readings: &str) -> Vec<Option<usize>> {
        let mut tracker = Tracker::default();
        readings
            .split(' ')
            .map(|reading| {
                tracker.observe(
                    endpoint,
                    &match reading {
                        "!" => Reading::Failure,
                        text => Reading::Success(Answer::Text(text.into())),
                    },
                );
                tracker.opinion()
            })
            .collect()
    }

    #[test]
    fn opinions_follow_runs() {
        const A: Option<usize> = Some(0);
        const B: Option<usize> = Some(1);
        const F: Option<usize> = Some(2);
        let known = ["A", "B", FAILED];
        for (successes, failures, readings, expected) in [
            // The first success decides at once; an unknown result takes the opinion away.
            (1, 3, "A B x A", vec![A, B, None, A]),
            // A failure that does not last changes nothing.
            (1, 3, "A ! ! A ! ! !", vec![A, A, A, A, A, A, F]),
            (1, 3, "! ! ! !", vec![None, None, F, F]),
            (1, 1, "A ! A", vec![A, F, A]),
            // Successes count while they select the same, whatever their text.
            (3, 3, "A A B B B A", vec![None, None, None, None, B, B]),
            (2, 3, "x y A x y", vec![None, None, None, None, None]),
            (2, 3, "A A x A x x", vec![None, A, A, A, A, None]),
            // A failure breaks a run of successes, and a success one of failures.
            (2, 2, "A ! A ! A A ! A ! !", vec![None, None, None, None, None, A, A, A, A, F]),
        ] {
            let endpoint = endpoint(&known, successes, failures);
            assert_eq!(opinions(&endpoint, readings), expected, "{successes} {failures} {readings}");
        }
    }

    #[test]
    fn without_a_failed_policy_a_failure_keeps_the_opinion() {
        assert_eq!(opinions(&endpoint(&["A"], 1, 1), "A ! ! !"), vec![Some(0); 4]);
    }

    #[test]
    fn a_health_endpoint_has_an_opinion_only_while_it_fails() {
        assert_eq!(opinions(&endpoint(&[FAILED], 1, 2), "x ! ! ! x"), vec![None, None, Some(0), Some(0), None]);
        assert_eq!(opinions(&endpoint(&[SUCCEEDED, FAILED], 1, 1), "x ! y"), vec![Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn the_result_is_the_last_one_that_counted_and_bounded() {
        let endpoint = endpoint(&["A", SUCCEEDED], 2, 1);
        let mut tracker = Tracker::default();
        let mut after = |reading| {
            tracker.observe(&endpoint, &reading);
            tracker.result().map(str::to_owned)
        };
        assert_eq!(after(Reading::Success(Answer::Text("5".into()))), None);
        assert_eq!(after(Reading::Success(Answer::Text("6".into()))), Some("6".into()));
        assert_eq!(after(Reading::Failure), Some("6".into()));
        let long = "空".repeat(MAX_VALUE_BYTES);
        after(Reading::Success(Answer::Text(long.clone())));
        let kept = after(Reading::Success(Answer::Cut(long))).unwrap();
        assert!(kept.len() > MAX_VALUE_BYTES && kept.len() < MAX_VALUE_BYTES + 8, "{}", kept.len());
    }
}
