//! Owns behaviour 5 and 6 read literally: what an endpoint stands for after a whole history of outcomes, and what the
//! opinions say of each field. Shares nothing with `src/decide`, which goes step by step, but the names of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use okg_sidecar::config::{Endpoint, FAILED, Field, FieldType, MAX_VALUE_BYTES, Policy, SUCCEEDED, Template, When};
use okg_sidecar::decide::object::{Identity, Kind, Object};
use okg_sidecar::decide::policy::{Outcome, ProbeResult};
use serde_json::Value;

/// What Kubernetes says of label values, as one reads it there.
pub fn is_legal_label(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ends = alphanumeric(text.chars().next()) && alphanumeric(text.chars().last());
    let inside = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.');
    text.is_empty() || (ends && inside && text.len() < 64)
}

/// What an endpoint stands for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stand {
    /// The index of the policy.
    pub policy: Option<usize>,
    /// Of the last success that counted.
    pub result: Option<ProbeResult>,
    /// Whether the opinion is one by success, none included, or by `Failed`.
    pub formed: bool,
    /// Whether it is one by success.
    pub by_success: bool,
    /// behaviour 5.4.
    pub undecided: bool,
    /// Whether its last probe failed.
    pub failing: bool,
    /// behaviour 5.5: the policies that the first condition could select later, while nobody knows for how long it had lasted.
    pub pending: Vec<usize>,
}

/// An outcome, and when it came.
pub type Probed = (Duration, Outcome);

/// behaviour 5.1, read literally: the policy that one success selects.
fn selected(endpoint: &Endpoint, result: &ProbeResult) -> Option<usize> {
    let at = |holds: &dyn Fn(&When) -> bool| endpoint.rules().policies.iter().position(|policy| holds(&policy.when));
    let text = match result {
        ProbeResult::Text(text) if text != SUCCEEDED && text != FAILED => Some(text.as_str()),
        ProbeResult::Text(_) | ProbeResult::Unread | ProbeResult::TooLong(_) => None,
    };
    let equal = text.and_then(|text| at(&|when| *when == When::State(text.into())));
    let value = text.and_then(|text| text.parse::<f64>().ok());
    let in_range =
        value.and_then(|value| at(&|when| matches!(when, When::Range(min, max) if *min <= value && value <= *max)));
    equal.or(in_range).or_else(|| at(&|when| *when == When::State(SUCCEEDED.into())))
}

/// behaviour 5.1, 5.4 and 5.5, read literally on the whole history: the last stretches that were long enough tell the opinion
/// and the result.
pub fn stand(endpoint: &Endpoint, history: &[Probed]) -> Stand {
    let (successes, failures) = (endpoint.success_threshold as usize, endpoint.failure_threshold as usize);
    let policies = &endpoint.rules().policies;
    let failed = policies.iter().position(|policy| policy.when == When::State(FAILED.into()));
    // The condition of a success, by the first policy that has it.
    let selected_by = |(_, outcome): &Probed| match outcome {
        Outcome::Success(result) => Some(selected(endpoint, result)),
        Outcome::Failure(_) => None,
    };
    let is_failure = |(_, outcome): &Probed| matches!(outcome, Outcome::Failure(_));
    let is_established_failure = |end: usize| end >= failures && history[end - failures..end].iter().all(is_failure);
    // The first success of those with one condition up to this one, failures that are not established aside.
    let begin = |end: usize, condition: Option<usize>| {
        let before = (1..=end).rev().take_while(|at| {
            !is_established_failure(*at) && selected_by(&history[at - 1]).is_none_or(|other| other == condition)
        });
        before.filter(|at| !is_failure(&history[at - 1])).last().expect("it is a success itself")
    };
    let lasting = |end: usize, condition| history[end - 1].0 - history[begin(end, condition) - 1].0;
    let with_condition = |condition: usize| {
        policies.iter().enumerate().filter(move |(_, policy)| policy.when == policies[condition].when)
    };
    let failing = history.last().is_some_and(is_failure);
    let mut stand = Stand { undecided: history.len() < successes.max(failures), failing, ..Stand::default() };
    for end in 1..=history.len() {
        let stretch = |length: usize| end.checked_sub(length).map(|start| &history[start..end]);
        if let Some(stretch) = stretch(successes)
            && let Some(first) = selected_by(&stretch[0])
            && stretch.iter().all(|probed| selected_by(probed) == Some(first))
        {
            let Outcome::Success(result) = &history[end - 1].1 else { unreachable!("they all select") };
            let reached = |condition| {
                let elapsed = lasting(end, first);
                let reached = with_condition(condition).filter(|(_, policy)| policy.lasting <= elapsed);
                reached.max_by_key(|(_, policy)| policy.lasting).map(|(index, _)| index)
            };
            stand = Stand {
                policy: first.and_then(reached),
                result: Some(result.clone()),
                formed: true,
                by_success: true,
                undecided: false,
                failing,
                pending: Vec::new(),
            };
        }
        if stretch(failures).is_some_and(|stretch| stretch.iter().all(is_failure)) {
            stand.undecided = false;
            stand.formed |= failed.is_some();
            stand.by_success &= failed.is_none();
            stand.policy = failed.or(stand.policy);
        }
    }
    let ends = 1..=history.len();
    let first = ends.clone().find(|end| !is_failure(&history[end - 1]) || is_established_failure(*end));
    if let Some(condition) = first.and_then(|end| selected_by(&history[end - 1])) {
        let is_over = |end: &usize| {
            is_established_failure(*end) || selected_by(&history[end - 1]).is_some_and(|other| other != condition)
        };
        let over = ends.clone().find(is_over);
        let is_opinion = |end: &usize| {
            let stretch = end.checked_sub(successes).map(|start| &history[start..*end]);
            let is_of_one = |stretch: &[Probed]| {
                stretch.iter().all(|probed| selected_by(probed) == selected_by(&stretch[0])) && !is_failure(&stretch[0])
            };
            is_established_failure(*end) || stretch.is_some_and(is_of_one)
        };
        let is_known = over.is_some_and(|over| (over..=history.len()).any(|end| is_opinion(&end)));
        let last = ends.take_while(|end| over.is_none_or(|over| *end < over));
        let last = last.filter(|end| !is_failure(&history[end - 1])).last().expect("the first one is one");
        if let (false, Some(first)) = (is_known, condition) {
            let later = with_condition(first).filter(|(_, policy)| policy.lasting > lasting(last, condition));
            stand.pending = later.map(|(index, _)| index).collect();
        }
    }
    stand
}

/// A field of an object.
pub type Place = (Object, String);

/// What the opinions say of one field.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// The endpoint of this index could set it and is undecided or still to be probed, and none before it sets it.
    NotYet(usize),
    /// No opinion sets it.
    Nothing,
    /// The endpoint of this index sets it.
    Set(usize, Value),
    /// It is a key of the Pod that no opinion sets, and that everybody who could set it has done without.
    Removed,
    /// It is another field that no opinion sets, and everybody who could set it has an opinion by success (5.3).
    LetGo,
}

fn place_of(field: &Field, identity: &Identity) -> Place {
    (identity.object_of(&field.object), field.pointer.clone())
}

/// How a policy sets a field.
fn setting<'e>(policy: &'e Policy, identity: &Identity, place: &Place) -> Option<&'e Template> {
    policy.sets.iter().find(|(field, _)| place_of(field, identity) == *place).map(|(_, template)| template)
}

/// Whether the endpoint writes its result there.
fn takes_the_result(endpoint: &Endpoint, identity: &Identity, place: &Place) -> bool {
    endpoint.rules().result_fields.iter().any(|field| place_of(field, identity) == *place)
}

/// behaviour 2.6, 6.1 and 6.2: the value as the field can hold it, where it can.
fn held((object, pointer): &Place, value: Value) -> Option<Value> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let legal = is_legal_label(&text);
    let of_game_server = object.path.contains("/gameservers/");
    match pointer.as_str() {
        "/spec/opsState" if of_game_server => (legal && !text.is_empty()).then(|| text.into()),
        "/spec/deletionPriority" | "/spec/updatePriority" if of_game_server => {
            (legal && !text.is_empty()).then(|| text.parse::<i32>().map_or_else(|_| text.into(), Value::from))
        }
        _ if pointer.starts_with("/metadata/labels/") => legal.then(|| text.into()),
        _ if pointer.starts_with("/metadata/annotations/") => Some(text.into()),
        _ => Some(value),
    }
}

/// behaviour 6.7.
fn written(result: &ProbeResult) -> Option<&str> {
    result.text().filter(|text| !text.contains(|c: char| c.is_control() && c != '\n'))
}

fn rendered(template: &Template, result: Option<&ProbeResult>) -> Option<Value> {
    let template = template.to_string();
    if !template.contains("{{.Result}}") {
        return Some(template.into());
    }
    let text = template.replace("{{.Result}}", written(result?)?);
    (text.len() <= MAX_VALUE_BYTES).then(|| text.into())
}

/// behaviour 6.5: a result with a fieldType is written as that type, exactly.
fn typed(endpoint: &Endpoint, pointer: &str, text: &str) -> Option<Value> {
    match endpoint.extract.field_type() {
        Some(FieldType::Integer) if !pointer.starts_with("/metadata/") => {
            text.parse::<i128>().ok().and_then(|integer| i64::try_from(integer).ok()).map(Value::from)
        }
        Some(FieldType::Number | FieldType::Boolean) if !pointer.starts_with("/metadata/") => {
            serde_json::from_str(text).ok()
        }
        Some(_) | None => Some(text.into()),
    }
}

/// behaviour 5.2 and 5.4: the first endpoint whose opinion sets the field to a value that it can hold, after the first
/// `probed` endpoints of a round.
pub fn says(endpoints: &[Endpoint], stands: &[Stand], probed: usize, identity: &Identity, place: &Place) -> Says {
    let of_pod = place.0.kind == Kind::Pod;
    let (mut done_without, mut by_success) = (of_pod, true);
    for (index, (endpoint, stand)) in endpoints.iter().zip(stands).enumerate() {
        let by_policy = endpoint.rules().policies.iter().any(|policy| setting(policy, identity, place).is_some());
        let by_result = takes_the_result(endpoint, identity, place);
        if !by_policy && !by_result {
            continue;
        }
        let is_pending = |policy: &usize| setting(&endpoint.rules().policies[*policy], identity, place).is_some();
        if index >= probed || stand.undecided || stand.pending.iter().any(is_pending) {
            return Says::NotYet(index);
        }
        if by_policy {
            match stand.policy.and_then(|policy| setting(&endpoint.rules().policies[policy], identity, place)) {
                None => (done_without, by_success) = (done_without && stand.formed, by_success && stand.by_success),
                Some(template) => {
                    match rendered(template, stand.result.as_ref()).and_then(|value| held(place, value)) {
                        Some(value) => return Says::Set(index, value),
                        None => (done_without, by_success) = (false, false),
                    }
                }
            }
        }
        if by_result {
            let text = stand.result.as_ref().and_then(written);
            match text.and_then(|text| held(place, typed(endpoint, &place.1, text)?)) {
                Some(value) => return Says::Set(index, value),
                // A key of annotationKey or labelKey is removed by success alone.
                None => (done_without, by_success) = (false, false),
            }
        }
    }
    match (of_pod, done_without, by_success) {
        (true, true, _) => Says::Removed,
        (false, _, true) => Says::LetGo,
        _ => Says::Nothing,
    }
}

/// Every field that the endpoints can set.
pub fn places(endpoints: &[Endpoint], identity: &Identity) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for endpoint in endpoints {
        let of_policies = endpoint.rules().policies.iter().flat_map(|policy| &policy.sets).map(|(field, _)| field);
        places.extend(of_policies.chain(&endpoint.rules().result_fields).map(|field| place_of(field, identity)));
    }
    places
}

/// behaviour 5.3: what was decided last for each field; `None` is a removal.
pub type Decided = BTreeMap<Place, Option<Value>>;

/// The fields of the GameServer that were let go of and not set since, and those that were set after that and not written
/// since (5.3).
#[derive(Debug, Clone, Default)]
pub struct LetGo {
    pub gone: BTreeSet<String>,
    pub news: BTreeSet<String>,
}

/// Decides anew. Fields of the GameServer alone are decided before a round's end (behaviour 3.3).
pub fn decide(
    decided: &mut Decided,
    let_go: &mut LetGo,
    endpoints: &[Endpoint],
    stands: &[Stand],
    probed: usize,
    identity: &Identity,
) {
    let mut places = places(endpoints, identity);
    places.retain(|(object, _)| object.kind == Kind::GameServer || probed >= endpoints.len());
    // One decision is one patch, but an endpoint that fails delays nobody before it (3.3).
    let waits_for = |place: &Place| match says(endpoints, stands, probed, identity, place) {
        Says::NotYet(index) => index >= probed && !stands[index].failing,
        _ => false,
    };
    if places.iter().any(waits_for) {
        return;
    }
    for place in places {
        match says(endpoints, stands, probed, identity, &place) {
            Says::NotYet(_) | Says::Nothing => {}
            Says::Set(_, value) => {
                if place.0.kind == Kind::GameServer && let_go.gone.remove(&place.1) {
                    let_go.news.insert(place.1.clone());
                }
                decided.insert(place, Some(value));
            }
            Says::Removed => drop(decided.insert(place, None)),
            Says::LetGo if place.0.kind == Kind::GameServer => drop(let_go.gone.insert(place.1)),
            Says::LetGo => {}
        }
    }
}
