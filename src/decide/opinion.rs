//! Owns one endpoint's opinion: how many outcomes in a row it takes to change it, and whether it has been probed often
//! enough to have one (behaviour 5.1, 5.4).

use super::policy::{self, Outcome, ProbeResult};
use crate::config::{Endpoint, FAILED};

/// What an endpoint currently stands for, outcome by outcome.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opinion {
    /// The index of the policy that it stands for.
    pub policy: Option<usize>,
    /// The result of the last success that counted.
    pub result: Option<ProbeResult>,
    /// What is said of the last failure that counted, where no success has counted since.
    pub failure: Option<String>,
    /// Whether there is an opinion by success, none included, or by `Failed`.
    pub is_formed: bool,
    /// Whether it is by success, none included.
    pub is_by_success: bool,
    /// Whether it has reached a threshold or has been probed as often as the larger of the two (behaviour 5.4).
    pub is_decided: bool,
    /// Whether its last probe failed.
    pub is_failing: bool,
    /// The policy that its last outcome selected, and how many in a row have selected the same.
    selected: Option<usize>,
    run: u32,
    probes: u32,
}

impl Opinion {
    /// Takes in the next outcome of `endpoint`. Gives whether anything that decides a field is new.
    pub fn observe(&mut self, endpoint: &Endpoint, outcome: Outcome) -> bool {
        let before = (self.policy, self.is_formed, self.is_decided, self.is_failing);
        let mut says_the_same = true;
        let (selected, is_failing) = match &outcome {
            Outcome::Success(result) => (policy::select(&endpoint.rules().policies, result), false),
            Outcome::Failure(_) => (policy::named(&endpoint.rules().policies, FAILED), true),
        };
        let goes_on = (self.selected, self.is_failing) == (selected, is_failing);
        self.run = if goes_on { self.run.saturating_add(1) } else { 1 };
        (self.selected, self.is_failing) = (selected, is_failing);
        match outcome {
            Outcome::Success(result) if self.run >= endpoint.success_threshold => {
                says_the_same = self.failure.is_none() && self.result.as_ref() == Some(&result);
                (self.policy, self.result, self.failure) = (selected, Some(result), None);
                (self.is_formed, self.is_by_success, self.is_decided) = (true, true, true);
            }
            Outcome::Failure(message) if self.run >= endpoint.failure_threshold => {
                says_the_same = self.failure.as_ref() == Some(&message);
                self.failure = Some(message);
                self.policy = selected.or(self.policy);
                self.is_formed |= selected.is_some();
                self.is_by_success &= selected.is_none();
                self.is_decided = true;
            }
            _ => {}
        }
        self.probes = self.probes.saturating_add(1);
        self.is_decided |= self.probes >= endpoint.success_threshold.max(endpoint.failure_threshold);
        !says_the_same || before != (self.policy, self.is_formed, self.is_decided, self.is_failing)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::policy::tests::states;
    use super::*;
    use crate::config::{Extract, HttpProbe, Meaning, Probe, Rules, SUCCEEDED};

    pub(crate) fn endpoint(known: &[&str], successes: u32, failures: u32) -> Endpoint {
        Endpoint {
            probe: Probe::Http(HttpProbe {
                url: "http://localhost:8080".parse().unwrap(),
                shown: "http://localhost:8080/".into(),
                method: Default::default(),
                headers: Default::default(),
                body: String::new(),
                expected_status: 200..=200,
            }),
            timeout: Default::default(),
            failure_threshold: failures,
            success_threshold: successes,
            extract: Extract::Whole,
            meaning: Meaning::Rules(Rules { policies: states(known), ..Rules::default() }),
        }
    }

    /// The opinions after each outcome; `!` stands for a failure, anything else for a result.
    fn opinions(endpoint: &Endpoint, outcomes: &str) -> Vec<Option<usize>> {
        let mut opinion = Opinion::default();
        let mut after = |outcome| {
            opinion.observe(endpoint, outcome);
            opinion.policy
        };
        outcomes.split(' ').map(|text| after(outcome(text))).collect()
    }

    pub(crate) fn outcome(text: &str) -> Outcome {
        if text == "!" { Outcome::Failure(String::new()) } else { Outcome::Success(ProbeResult::Text(text.into())) }
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
    fn the_result_is_the_last_one_that_counted() {
        let endpoint = endpoint(&["A", SUCCEEDED], 2, 1);
        let mut opinion = Opinion::default();
        for (text, expected) in [("5", None), ("6", Some("6")), ("!", Some("6")), ("7", Some("6")), ("8", Some("8"))] {
            opinion.observe(&endpoint, outcome(text));
            assert_eq!(opinion.result.as_ref().and_then(ProbeResult::text), expected, "after {text}");
        }
    }

    #[test]
    fn an_endpoint_is_undecided_until_a_threshold_or_as_many_probes_as_the_larger() {
        for (known, successes, failures, outcomes, undecided_for) in [
            (vec!["A"], 1, 3, "A", 0),
            (vec![FAILED], 1, 3, "! ! !", 2),
            (vec!["A"], 1, 3, "! ! !", 2),
            (vec!["A"], 3, 1, "x A !", 2),
            (vec!["A"], 3, 4, "x A ! x", 3),
        ] {
            let endpoint = endpoint(&known, successes, failures);
            let mut opinion = Opinion::default();
            assert!(!opinion.is_decided);
            for (index, text) in outcomes.split(' ').enumerate() {
                opinion.observe(&endpoint, outcome(text));
                assert_eq!(!opinion.is_decided, index < undecided_for, "{outcomes} at {index}");
            }
        }
    }

    #[test]
    fn an_opinion_is_formed_by_success_or_by_failed_and_not_by_failures_alone() {
        for (known, outcomes, formed) in
            [(vec!["A"], "x", true), (vec!["A"], "! !", false), (vec![FAILED], "! !", true), (vec![FAILED], "!", false)]
        {
            let endpoint = endpoint(&known, 1, 2);
            let mut opinion = Opinion::default();
            for text in outcomes.split(' ') {
                opinion.observe(&endpoint, outcome(text));
            }
            assert_eq!(opinion.is_formed, formed, "{known:?} {outcomes}");
        }
    }

    #[test]
    fn an_outcome_is_news_where_it_changes_anything_that_decides_a_field() {
        let said =
            |text: &str| text.strip_prefix('!').map_or_else(|| outcome(text), |why| Outcome::Failure(why.into()));
        for (successes, failures, outcomes) in [
            // Another result is news whatever it selects, and so is a first failure, which nobody waits for any more.
            (1, 3, &[("A", true), ("A", false), ("5", true), ("6", true), ("6", false), ("!", true), ("!", false)][..]),
            (1, 1, &[("!x", true), ("!x", false), ("!y", true), ("A", true), ("!y", true)]),
            // The failure is over with the second success.
            (2, 1, &[("A", false), ("A", true), ("!x", true), ("A", true), ("A", true), ("A", false)]),
        ] {
            let endpoint = endpoint(&["A", SUCCEEDED], successes, failures);
            let mut opinion = Opinion::default();
            for (text, is_news) in outcomes {
                assert_eq!(opinion.observe(&endpoint, said(text)), *is_news, "{text} {outcomes:?} {opinion:?}");
            }
        }
    }
}
