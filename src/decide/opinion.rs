//! Owns one endpoint's opinion: how many outcomes in a row it takes to change it, and whether it has been probed often
//! enough to have one (behaviour 5.1, 5.4).

use std::time::Duration;

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
    /// The policies that the present condition could select later, while nobody knows for how long it had lasted when this
    /// process started (behaviour 5.5). The fields that they set are undecided.
    pub pending: Vec<usize>,
    /// The policy that the last outcome selects, whatever its time, and how many in a row have selected the same.
    selected: Option<usize>,
    run: u32,
    probes: u32,
    /// Since when every success has had the same condition; failures in between do not count, unless they are established.
    since: Option<Duration>,
    /// The condition of the last success.
    condition: Option<usize>,
    /// Whether another condition or an established failure has begun the time anew since the start.
    is_known: bool,
}

impl Opinion {
    /// Takes in the next outcome of `endpoint`, which came at `now`. Gives whether anything that decides a field is new.
    pub fn observe(&mut self, endpoint: &Endpoint, outcome: Outcome, now: Duration) -> bool {
        let policies = &endpoint.rules().policies;
        let before = (self.policy, self.is_formed, self.is_decided, self.is_failing, self.pending.clone());
        let mut says_the_same = true;
        let (selected, is_failing) = match &outcome {
            Outcome::Success(result) => (policy::select(policies, result), false),
            Outcome::Failure(_) => (policy::named(policies, FAILED), true),
        };
        let goes_on = (self.selected, self.is_failing) == (selected, is_failing);
        self.run = if goes_on { self.run.saturating_add(1) } else { 1 };
        (self.selected, self.is_failing) = (selected, is_failing);
        match outcome {
            Outcome::Success(result) => {
                let elapsed = self.lasts(selected, now);
                let is_established = self.run >= endpoint.success_threshold;
                if is_established {
                    says_the_same = self.failure.is_none() && self.result.as_ref() == Some(&result);
                    let policy = selected.and_then(|condition| policy::reached(policies, condition, elapsed));
                    (self.policy, self.result, self.failure) = (policy, Some(result), None);
                    (self.is_formed, self.is_by_success, self.is_decided) = (true, true, true);
                }
                // A condition that is over still has its opinion until another one is established.
                if is_established || !self.is_known {
                    self.pending.clear();
                    let later = |condition| policy::with_condition(policies, condition);
                    let later = selected.filter(|_| !self.is_known).into_iter().flat_map(later);
                    self.pending.extend(later.filter(|(_, policy)| policy.lasting > elapsed).map(|(index, _)| index));
                }
            }
            Outcome::Failure(message) if self.run >= endpoint.failure_threshold => {
                says_the_same = self.failure.as_ref() == Some(&message);
                self.failure = Some(message);
                self.policy = selected.or(self.policy);
                self.is_formed |= selected.is_some();
                self.is_by_success &= selected.is_none();
                self.is_decided = true;
                (self.since, self.is_known) = (None, true);
                self.pending.clear();
            }
            Outcome::Failure(_) => {}
        }
        self.probes = self.probes.saturating_add(1);
        self.is_decided |= self.probes >= endpoint.success_threshold.max(endpoint.failure_threshold);
        let after = (self.policy, self.is_formed, self.is_decided, self.is_failing, &self.pending);
        !says_the_same || (before.0, before.1, before.2, before.3, &before.4) != after
    }

    /// For how long every success has had the condition of the one at `now`.
    fn lasts(&mut self, condition: Option<usize>, now: Duration) -> Duration {
        match self.since {
            Some(since) if self.condition == condition => now.saturating_sub(since),
            before => {
                self.is_known |= before.is_some();
                (self.since, self.condition) = (Some(now), condition);
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::policy::tests::states;
    use super::*;
    use crate::config::{Extract, HttpProbe, Meaning, Policy, Probe, Rules, SUCCEEDED, When};

    pub(crate) fn endpoint(known: &[&str], successes: u32, failures: u32) -> Endpoint {
        Endpoint {
            probe: Probe::Http(HttpProbe {
                url: "http://localhost:8080".parse().unwrap(),
                shown: "http://localhost:8080/".into(),
                ..HttpProbe::default()
            }),
            failure_threshold: failures,
            success_threshold: successes,
            extract: Extract::Whole,
            meaning: Meaning::Rules(Rules { policies: states(known), ..Rules::default() }),
            ..Endpoint::default()
        }
    }

    /// The opinions after each outcome; `!` stands for a failure, anything else for a result.
    fn opinions(endpoint: &Endpoint, outcomes: &str) -> Vec<Option<usize>> {
        let mut opinion = Opinion::default();
        let mut after = |outcome| {
            opinion.observe(endpoint, outcome, Duration::ZERO);
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
            opinion.observe(&endpoint, outcome(text), Duration::ZERO);
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
                opinion.observe(&endpoint, outcome(text), Duration::ZERO);
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
                opinion.observe(&endpoint, outcome(text), Duration::ZERO);
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
                assert_eq!(
                    opinion.observe(&endpoint, said(text), Duration::ZERO),
                    *is_news,
                    "{text} {outcomes:?} {opinion:?}"
                );
            }
        }
    }

    /// The policies `A`, `A` for 10 s, `A` for 20 s, `B`, `C` for 10 s, `Failed`, in another order than that of their times.
    pub(crate) fn lasting(successes: u32, failures: u32) -> Endpoint {
        let mut endpoint = endpoint(&["A", "A", "A", "B", "C", FAILED], successes, failures);
        for (policy, seconds) in endpoint.rules_mut().policies.iter_mut().zip([20, 0, 10, 0, 10, 0]) {
            policy.lasting = Duration::from_secs(seconds);
        }
        endpoint
    }

    #[test]
    fn a_policy_with_a_time_is_selected_when_its_condition_has_lasted() {
        // What stands for the policies, and for none.
        const NAMES: [&str; 6] = ["A20", "A", "A10", "B", "C10", "Failed"];
        for (successes, failures, outcomes, expected) in [
            // The longest time that is reached, to the second.
            (1, 3, "0:B 5:A 14:A 15:A 24:A 25:A 900:A 901:B", "B A A A10 A10 A20 A20 B"),
            // Without a policy for less time there is none at first.
            (1, 3, "0:C 9:C 10:C 11:B", "- - C10 B"),
            // Another result begins the time anew, also one without a policy.
            (1, 3, "0:A 9:B 10:A 19:A 20:A", "A B A A A10"),
            (1, 3, "0:A 9:x 10:A 19:A 20:A", "A - A A A10"),
            // Failures below the threshold neither count nor break it.
            (1, 3, "0:A 5:! 9:! 10:A 15:! 21:A", "A A A A10 A10 A20"),
            (1, 3, "0:! 5:! 6:A 15:A 16:A", "- - A A A10"),
            // An established failure begins it anew.
            (1, 2, "0:A 5:! 9:! 10:A 19:A 20:A", "A A Failed A A A10"),
            // A success that is not established breaks the time all the same.
            (2, 3, "0:A 1:A 10:A 11:B 12:A 13:A 21:A 22:A", "- A A10 A10 A10 A A A10"),
        ] {
            let endpoint = lasting(successes, failures);
            let mut opinion = Opinion::default();
            let mut after = |step: &str| {
                let (at, text) = step.split_once(':').unwrap();
                opinion.observe(&endpoint, outcome(text), Duration::from_secs(at.parse().unwrap()));
                opinion.policy.map_or("-", |policy| NAMES[policy])
            };
            let selected: Vec<&str> = outcomes.split(' ').map(&mut after).collect();
            assert_eq!(selected.join(" "), expected, "{successes} {failures} {outcomes}");
        }
    }

    #[test]
    fn at_a_start_what_the_condition_could_select_later_is_pending() {
        for (successes, failures, outcomes, expected) in [
            // Until each time is reached.
            (1, 3, "0:A 9:A 10:A 19:A 20:A 30:B 31:A", "20,10 20,10 20 20 - - -"),
            // Until the condition changes.
            (1, 3, "0:A 5:B 6:A 7:A", "20,10 - - -"),
            (1, 3, "0:x 5:A 6:C", "- - -"),
            (1, 3, "0:C 9:! 10:C", "10 10 -"),
            // A failure that is not established changes nothing, one that is begins the time anew for everybody.
            (1, 2, "0:! 1:A 2:! 3:! 4:A", "- 20,10 20,10 - -"),
            (1, 2, "0:! 1:! 2:A", "- - -"),
            // The opinion before another condition is established would take the value back.
            (2, 3, "0:A 1:A 2:B 3:A 4:B 5:B", "20,10 20,10 20,10 20,10 20,10 -"),
        ] {
            let endpoint = lasting(successes, failures);
            let mut opinion = Opinion::default();
            let mut after = |step: &str| {
                let (at, text) = step.split_once(':').unwrap();
                let before = opinion.pending.clone();
                let is_new = opinion.observe(&endpoint, outcome(text), Duration::from_secs(at.parse().unwrap()));
                assert!(is_new || before == opinion.pending, "{outcomes} at {step}");
                let times = opinion
                    .pending
                    .iter()
                    .map(|policy| endpoint.rules().policies[*policy].lasting.as_secs().to_string());
                let times: Vec<String> = times.collect();
                if times.is_empty() { "-".to_owned() } else { times.join(",") }
            };
            let pending: Vec<String> = outcomes.split(' ').map(&mut after).collect();
            assert_eq!(pending.join(" "), expected, "{successes} {failures} {outcomes}");
        }
    }

    /// behaviour 5.5 read on the whole history, newest outcome first: the policy, and whether anything is pending. One failure is
    /// none, two in a row are established.
    fn read(endpoint: &Endpoint, history: &[(u64, &str)]) -> (Option<usize>, bool) {
        let policies = &endpoint.rules().policies;
        let condition = |text: &str| policies.iter().position(|policy| policy.when == When::State(text.into()));
        let newest = history.iter().rev().position(|(_, text)| *text != "!");
        let is_established =
            |from: usize| history[..=from].iter().rev().take_while(|(_, text)| *text == "!").count() >= 2;
        if (0..history.len()).rev().take_while(|at| history[*at].1 == "!").any(is_established) {
            return (condition(FAILED), false);
        }
        let Some(newest) = newest.map(|back| history.len() - 1 - back) else { return (None, false) };
        let (at, text) = history[newest];
        let (mut since, mut is_first) = (at, true);
        for index in (0..newest).rev() {
            match history[index].1 {
                "!" if is_established(index) => is_first = false,
                "!" => continue,
                other if other == text => {
                    since = history[index].0;
                    continue;
                }
                _ => is_first = false,
            }
            break;
        }
        let lasts = |policy: &Policy| policy.lasting.as_secs() <= at - since;
        let with_condition =
            || policies.iter().enumerate().filter(|(_, policy)| policy.when == When::State(text.into()));
        let selected = with_condition().filter(|(_, policy)| lasts(policy)).max_by_key(|(_, policy)| policy.lasting);
        (selected.map(|(index, _)| index), is_first && with_condition().any(|(_, policy)| !lasts(policy)))
    }

    #[test]
    fn every_short_history_selects_what_the_whole_of_it_says() {
        let endpoint = lasting(1, 2);
        const OUTCOMES: [&str; 4] = ["A", "C", "x", "!"];
        for number in 0..4_usize.pow(8) {
            let mut opinion = Opinion::default();
            let mut history = Vec::new();
            for step in 0..8 {
                let text = OUTCOMES[number / 4_usize.pow(step) % 4];
                history.push((u64::from(step) * 5, text));
                opinion.observe(&endpoint, outcome(text), Duration::from_secs(u64::from(step) * 5));
                let found = (opinion.policy, !opinion.pending.is_empty());
                assert_eq!(found, read(&endpoint, &history), "{history:?}");
            }
        }
    }
}
