//! Owns the decision: field by field, what the opinions say every object must hold (behaviour 5.2 to 5.4, 6). Refuses
//! values that OpenKruiseGame or the API server could not hold.

use std::collections::BTreeMap;

use serde_json::Value;

use super::condition::{condition, of_opinion};
use super::object::{ByObject, Identity, Kind, Object};
use super::opinion::Opinion;
use super::policy::ProbeResult;
use super::record::Record;
use crate::config::{self, Endpoint, FieldType, MAX_VALUE_BYTES, Meaning, Rules, Template};
pub use crate::config::{DELETION_PRIORITY, OPS_STATE, UPDATE_PRIORITY};
use crate::excerpt::excerpt;

/// Values for fields of one object, by RFC 6901 pointer; null removes the field. Of the pod's status it is whole
/// conditions, by type.
pub type Fields = BTreeMap<String, Value>;

/// What was last decided for every field of every object.
#[derive(Debug)]
pub struct Decision {
    rules: Vec<Rule>,
    decided: ByObject<Fields>,
    /// The fields of the GameServer that were let go of, until the record names them no more.
    let_go: Vec<LetGo>,
}

/// A field of the GameServer that was let go of (behaviour 5.3).
#[derive(Debug)]
struct LetGo {
    pointer: String,
    /// Whether an opinion has set it since: the value is news, even if the record still names the same.
    is_set_anew: bool,
}

/// Who can decide one field.
#[derive(Debug)]
struct Rule {
    object: Object,
    pointer: String,
    /// By the index of the endpoint, in the order of precedence.
    sources: Vec<(usize, Source)>,
    stand: Stand,
}

/// What the present opinions make of one field.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Stand {
    /// An endpoint that could set it is undecided.
    #[default]
    Undecided,
    /// The opinion of the endpoint of this index sets it.
    Set(usize),
    /// No opinion sets it.
    Unset,
    /// No opinion sets it, and none is a failure's: the field is let go of (behaviour 5.3), a key of the Pod is removed.
    LetGo,
}

/// One way in which an endpoint can set a field.
#[derive(Debug)]
enum Source {
    /// The policy of this index, to this value.
    Policy(usize, Template),
    /// The result itself: annotationKey, labelKey, jsonPath.
    Result,
    /// Success or failure, as a condition.
    Condition,
}

/// A field that cannot hold what an opinion makes of the result.
#[derive(Debug, PartialEq)]
pub struct CannotHold {
    /// The field, with the name of its object.
    pub field: String,
    /// What is wrong with the value.
    pub why: String,
}

impl Decision {
    /// Nothing decided yet.
    pub fn new(endpoints: &[Endpoint], identity: &Identity) -> Self {
        Self { rules: rules(endpoints, identity), decided: ByObject::default(), let_go: Vec::new() }
    }

    /// Decides that these conditions of the pod are Unknown, and why.
    pub fn set_unknown(&mut self, identity: &Identity, unknown: &[(String, String)]) {
        for (name, why) in unknown {
            self.decided.entry(&identity.pod_status()).insert(name.clone(), condition(name, "Unknown", why));
        }
    }

    /// Goes on with other endpoints, undecided as at a start (behaviour 8.5): keys of the Pod that only the old ones could
    /// set are removed, what is `sent_again` stays as it is in, and everything else is decided anew.
    pub fn reload<'f>(
        &mut self,
        endpoints: &[Endpoint],
        identity: &Identity,
        sent_again: impl Iterator<Item = (&'f Object, (&'f String, &'f Value))>,
    ) {
        let old = std::mem::replace(self, Self::new(endpoints, identity));
        let decided = old.objects().flat_map(|(object, fields)| fields.keys().map(move |pointer| (object, pointer)));
        let could_be_set = old.rules.iter().map(|rule| (&rule.object, &rule.pointer));
        for (object, pointer) in decided.chain(could_be_set) {
            if is_key_of_the_pod(object, pointer) && self.rule(object, pointer).is_none() {
                self.decided.entry(object).insert(pointer.clone(), Value::Null);
            }
        }
        for (object, (pointer, value)) in sent_again {
            self.decided.entry(object).entry(pointer.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Decides anew, by the opinions after the first `probed` endpoints of a round were probed: before the last one, only
    /// on the GameServer, and only where no endpoint still to be probed can change the decision (behaviour 3.3). Gives the
    /// fields that cannot hold what an opinion sets.
    pub fn update(&mut self, endpoints: &[Endpoint], opinions: &[Opinion], probed: usize) -> Vec<CannotHold> {
        let mut cannot_hold = Vec::new();
        let round_ends = probed >= endpoints.len();
        let rules = self.rules.iter_mut().filter(|rule| round_ends || rule.object.kind == Kind::GameServer);
        let found: Vec<_> =
            rules.map(|rule| (rule.evaluate(endpoints, opinions, probed, &mut cannot_hold), rule)).collect();
        // One decision is one patch. But an endpoint that fails, and may hang, delays no field of one before it.
        let is_worth_waiting =
            |found: &Found| matches!(found, Found::ToBeProbed(probe) if !opinions[*probe].is_failing);
        if found.iter().any(|(found, _)| is_worth_waiting(found)) {
            return Vec::new();
        }
        for (found, rule) in found {
            // Until an endpoint is probed, the opinions of the last round stand.
            let Found::Stand(stand, decided) = found else { continue };
            let before = std::mem::replace(&mut rule.stand, stand);
            let known = self.let_go.iter().position(|let_go| let_go.pointer == rule.pointer);
            match (stand, known) {
                _ if rule.object.kind != Kind::GameServer => {}
                (Stand::Set(_), Some(at)) => self.let_go[at].is_set_anew = true,
                (Stand::LetGo, Some(at)) if before != Stand::LetGo => self.let_go[at].is_set_anew = false,
                (Stand::LetGo, None) if before != Stand::LetGo => {
                    self.let_go.push(LetGo { pointer: rule.pointer.clone(), is_set_anew: false });
                }
                (Stand::Undecided | Stand::Set(_) | Stand::Unset | Stand::LetGo, _) => {}
            }
            if let Some(decided) = decided {
                self.decided.entry(&rule.object).insert(rule.pointer.clone(), decided);
            }
        }
        cannot_hold
    }

    /// Takes in the record of the GameServer, as it was read or confirmed: a value that was decided before its field was let
    /// go of needs no more than one write, and a field that the record does not name is let go of (behaviour 5.3).
    pub fn settle(&mut self, game_server: &Object, record: Option<&Record>) {
        for let_go in std::mem::take(&mut self.let_go) {
            let LetGo { pointer, is_set_anew } = &let_go;
            let is_written = |value: &Value| record.is_some_and(|record| record.says(pointer, value));
            if !is_set_anew && self.fields(game_server).get(pointer).is_some_and(is_written) {
                self.decided.entry(game_server).remove(pointer);
            }
            let awaits_write = !is_set_anew && self.fields(game_server).contains_key(pointer);
            if awaits_write || record.is_some_and(|record| record.get(pointer).is_some()) {
                self.let_go.push(let_go);
            }
        }
    }

    /// The fields that the record must not name any more: they were let go of, and have no value that is still to be written, or
    /// one that is news.
    pub fn to_forget<'d>(&'d self, game_server: &Object) -> impl Iterator<Item = &'d str> {
        let decided = self.fields(game_server);
        let is_over = |let_go: &&LetGo| let_go.is_set_anew || !decided.contains_key(&let_go.pointer);
        self.let_go.iter().filter(is_over).map(|let_go| let_go.pointer.as_str())
    }

    /// Every object that is written or can be.
    pub fn writable(&self) -> impl Iterator<Item = &Object> {
        self.rules.iter().map(|rule| &rule.object).chain(self.objects().map(|(object, _)| object))
    }

    /// Every object for which something was decided, and what.
    pub fn objects(&self) -> impl Iterator<Item = (&Object, &Fields)> {
        self.decided.iter()
    }

    /// Whether anything is decided for `object`, or can be.
    pub fn concerns(&self, object: &Object) -> bool {
        self.writable().any(|writable| writable == object)
    }

    /// What was decided for `object`.
    pub fn fields(&self, object: &Object) -> &Fields {
        static NOTHING: Fields = Fields::new();
        self.decided.get(object).unwrap_or(&NOTHING)
    }

    /// Every field of `object` that an endpoint can set.
    pub fn pointers<'d>(&'d self, object: &Object) -> impl Iterator<Item = &'d str> {
        self.rules.iter().filter(move |rule| rule.object == *object).map(|rule| rule.pointer.as_str())
    }

    /// The index of the endpoint whose present opinion sets this field.
    pub fn set_by(&self, object: &Object, pointer: &str) -> Option<usize> {
        match self.rule(object, pointer)?.stand {
            Stand::Set(index) => Some(index),
            Stand::Undecided | Stand::Unset | Stand::LetGo => None,
        }
    }

    fn rule(&self, object: &Object, pointer: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.object == *object && rule.pointer == pointer)
    }
}

/// What the opinions say of one field.
enum Found {
    /// The endpoint of this index could set it, and is still to be probed.
    ToBeProbed(usize),
    /// How it stands, and what it becomes if that is decided anew.
    Stand(Stand, Option<Value>),
}

impl Rule {
    /// Whether the endpoint of this index could set the field later without another condition (behaviour 5.5).
    fn is_pending(&self, index: usize, opinion: &Opinion) -> bool {
        self.sources.iter().any(|(source, from)| match from {
            Source::Policy(policy, _) => *source == index && opinion.pending.contains(policy),
            Source::Result | Source::Condition => false,
        })
    }

    /// The first opinion in the list that sets the field to a value that it can hold.
    fn evaluate(
        &self,
        endpoints: &[Endpoint],
        opinions: &[Opinion],
        probed: usize,
        cannot_hold: &mut Vec<CannotHold>,
    ) -> Found {
        // A Pod's keys have no other writer (6.1): `Failed` lets go of those, too, but of none that takes the result.
        let is_key_of_the_pod = is_key_of_the_pod(&self.object, &self.pointer);
        let mut lets_go = true;
        for (index, source) in &self.sources {
            let (endpoint, opinion) = (&endpoints[*index], &opinions[*index]);
            if *index >= probed {
                return Found::ToBeProbed(*index);
            }
            if !opinion.is_decided || self.is_pending(*index, opinion) {
                return Found::Stand(Stand::Undecided, None);
            }
            let value = match source {
                Source::Policy(policy, template) => {
                    (opinion.policy == Some(*policy)).then(|| rendered(template, opinion))
                }
                Source::Result => {
                    opinion.result.as_ref().map(|result| typed(endpoint, &self.pointer, result.writable()?))
                }
                Source::Condition => of_opinion(&self.pointer, opinion).map(Some),
            };
            let Some(value) = value else {
                lets_go &= match is_key_of_the_pod {
                    true => opinion.is_formed && matches!(source, Source::Policy(..)),
                    false => opinion.is_by_success,
                };
                continue;
            };
            let why = why_not(value.as_ref(), source, opinion);
            if let Some(value) = value.and_then(|value| held(&self.object, &self.pointer, value)) {
                return Found::Stand(Stand::Set(*index), Some(value));
            }
            lets_go = false;
            cannot_hold.push(CannotHold { field: format!("{}: {}", self.object.name(), self.pointer), why });
        }
        match lets_go {
            true => Found::Stand(Stand::LetGo, is_key_of_the_pod.then_some(Value::Null)),
            false => Found::Stand(Stand::Unset, None),
        }
    }
}

/// What is wrong with a value that a field cannot hold.
fn why_not(value: Option<&Value>, from: &Source, opinion: &Opinion) -> String {
    let result = opinion.result.as_ref();
    let shown = result.map(ProbeResult::to_string).unwrap_or_default();
    match (value, from) {
        (Some(Value::String(text)), _) => format!("{} is not a valid label value", excerpt(text)),
        (Some(value), _) => format!("{value} is not a valid label value"),
        (None, _) if result.is_some_and(|result| result.text().is_some() && result.writable().is_none()) => {
            format!("{shown} has a control character")
        }
        (None, Source::Result) if result.is_some_and(|result| result.text().is_some()) => {
            format!("{shown} is not a number that the API server keeps as it is")
        }
        (None, _) => format!("with {shown} it has more than {MAX_VALUE_BYTES} bytes"),
    }
}

/// Whether it is a label or an annotation of the Pod, which belong to the sidecar (behaviour 6.1).
fn is_key_of_the_pod(object: &Object, pointer: &str) -> bool {
    object.kind == Kind::Pod && pointer.starts_with("/metadata/")
}

/// The text of a template; nothing where it takes a result that there is not, that is too long, or that no field can hold.
fn rendered(template: &Template, opinion: &Opinion) -> Option<Value> {
    let text = match opinion.result.as_ref().and_then(ProbeResult::writable) {
        None if template.needs_result() => None,
        result => template.render(result.unwrap_or_default()),
    };
    text.map(Value::from)
}

/// A result with a fieldType is written as that type, any other as a string. Nothing where the API server would keep
/// another number: integers have 64 bits there, and 1e400 is none.
fn typed(endpoint: &Endpoint, pointer: &str, result: &str) -> Option<Value> {
    match endpoint.extract.field_type() {
        None | Some(FieldType::String) => Some(result.into()),
        // Labels and annotations are strings.
        Some(_) if pointer.starts_with("/metadata/") => Some(result.into()),
        Some(FieldType::Integer) => result.parse::<i64>().ok().map(Value::from),
        Some(FieldType::Number | FieldType::Boolean) => serde_json::from_str(result).ok(),
    }
}

/// A value as a field can hold it, where it can: labels and annotations are strings, and OpenKruiseGame makes opsStates
/// and priorities label values.
fn held(object: &Object, pointer: &str, value: Value) -> Option<Value> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match pointer {
        OPS_STATE if object.is_game_server() => config::is_ops_state(&text).then(|| text.into()),
        DELETION_PRIORITY | UPDATE_PRIORITY if object.is_game_server() => {
            let integer = text.parse::<i32>().map(Value::from);
            config::is_ops_state(&text).then(|| integer.unwrap_or_else(|_| text.into()))
        }
        _ if pointer.starts_with("/metadata/labels/") => config::is_label_value(&text).then(|| text.into()),
        _ if pointer.starts_with("/metadata/annotations/") => Some(text.into()),
        _ => Some(value),
    }
}

/// Every field that the endpoints can set, each with who can.
fn rules(endpoints: &[Endpoint], identity: &Identity) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut add = |object: Object, pointer: &str, source: Source| match rules
            .iter_mut()
            .find(|rule| rule.object == object && rule.pointer == pointer)
        {
            Some(rule) => rule.sources.push((index, source)),
            None => {
                rules.push(Rule {
                    object,
                    pointer: pointer.to_owned(),
                    sources: vec![(index, source)],
                    stand: Stand::default(),
                });
            }
        };
        match &endpoint.meaning {
            Meaning::Rules(Rules { policies, result_fields, protected_ops_states: _ }) => {
                for (at, policy) in policies.iter().enumerate() {
                    for (field, value) in &policy.sets {
                        add(identity.object_of(&field.object), &field.pointer, Source::Policy(at, value.clone()));
                    }
                }
                for field in result_fields {
                    add(identity.object_of(&field.object), &field.pointer, Source::Result);
                }
            }
            Meaning::Condition(condition) => add(identity.pod_status(), &condition.name, Source::Condition),
        }
    }
    rules
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::merge_patch::merge_patch;
    use super::super::opinion::tests::{endpoint, outcome};
    use super::*;
    use crate::config::{Extract, FAILED, Field, MAX_VALUE_BYTES, ObjectRef, Policy, SUCCEEDED, Target, When};

    pub(crate) fn identity() -> Identity {
        Identity { namespace: "games".into(), name: "gs-0".into(), uid: Some("u-1".into()), token_issued_at: Some(100) }
    }

    /// Endpoints with opinions that are fed one outcome after the other.
    pub(crate) struct Core {
        endpoints: Vec<Endpoint>,
        opinions: Vec<Opinion>,
        pub(crate) decision: Decision,
        cannot_hold: Vec<CannotHold>,
    }

    impl Core {
        pub(crate) fn new(endpoints: Vec<Endpoint>) -> Self {
            let decision = Decision::new(&endpoints, &identity());
            Self { opinions: vec![Opinion::default(); endpoints.len()], endpoints, decision, cannot_hold: Vec::new() }
        }

        /// One probe; `!` stands for a failure.
        pub(crate) fn probe(&mut self, index: usize, text: &str) {
            self.opinions[index].observe(&self.endpoints[index], outcome(text), Duration::ZERO);
            self.cannot_hold = self.decision.update(&self.endpoints, &self.opinions, index + 1);
        }

        pub(crate) fn round(&mut self, texts: &[&str]) {
            texts.iter().enumerate().for_each(|(index, text)| self.probe(index, text));
        }

        fn reload(&mut self, endpoints: Vec<Endpoint>, sent_again: &[(Object, String, Value)]) {
            self.opinions = vec![Opinion::default(); endpoints.len()];
            let sent_again = sent_again.iter().map(|(object, pointer, value)| (object, (pointer, value)));
            self.decision.reload(&endpoints, &identity(), sent_again);
            self.endpoints = endpoints;
        }

        /// The merge-patch of everything that is decided for one kind of object; null where that is nothing.
        fn decided(&self, kind: Kind) -> Value {
            let of_kind = self.decision.objects().filter(|(object, _)| object.kind == kind);
            let changes: Vec<_> = of_kind.flat_map(|(_, fields)| fields).collect();
            match &changes[..] {
                [] => Value::Null,
                _ => merge_patch(changes.into_iter().map(|(pointer, value)| (pointer.as_str(), value.clone()))),
            }
        }

        fn set_by(&self, pointer: &str) -> Option<usize> {
            self.decision.set_by(&identity().game_server(), pointer)
        }

        fn cannot_hold(&self) -> Vec<(&str, &str)> {
            self.cannot_hold.iter().map(|field| (field.field.as_str(), field.why.as_str())).collect()
        }
    }

    fn of_target(resource: &str, name: &str, pointer: &str) -> Field {
        let target = Target {
            group: String::new(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: None,
            name: name.into(),
        };
        Field { object: ObjectRef::Target(target), pointer: pointer.into() }
    }

    /// Has a policy set a field to this.
    pub(crate) fn set(policy: &mut Policy, field: Field, value: &str) {
        policy.sets.push((field, Template::of(value)));
    }

    /// An endpoint whose failures set opsState to Maintaining.
    fn health(failures: u32) -> Endpoint {
        let mut health = endpoint(&[FAILED], 1, failures);
        health.rules_mut().policies[0].sets[0].1 = Template::of("Maintaining");
        health
    }

    fn ops_state(state: &str) -> Value {
        if state.is_empty() { Value::Null } else { json!({"spec": {"opsState": state}}) }
    }

    #[test]
    fn the_first_endpoint_whose_opinion_sets_a_field_decides_it_and_what_was_decided_stays() {
        let mut core = Core::new(vec![health(2), endpoint(&["None", "Allocated"], 1, 3)]);
        for (results, expected) in [
            (["ok", "?"], ""),
            (["ok", "None"], "None"),
            (["!", "Allocated"], "Allocated"),
            (["!", "Allocated"], "Maintaining"),
            (["!", "None"], "Maintaining"),
            (["ok", "None"], "None"),
            // An unknown result takes the opinion away, and what was decided stays (5.3).
            (["ok", "?"], "None"),
        ] {
            core.round(&results);
            assert_eq!(core.decided(Kind::GameServer), ops_state(expected), "{results:?}");
            assert_eq!(core.set_by(OPS_STATE).is_some(), results[1] != "?", "{results:?}");
        }
    }

    #[test]
    fn each_field_is_decided_by_itself() {
        let mut health = health(1);
        health.rules_mut().policies.extend(endpoint(&[SUCCEEDED], 1, 1).rules().policies.clone());
        health.rules_mut().policies[1].sets = vec![(Field::of_game_server(DELETION_PRIORITY), Template::of("1"))];
        let mut room = endpoint(&["A"], 1, 1);
        set(&mut room.rules_mut().policies[0], Field::of_game_server(DELETION_PRIORITY), "2");
        let mut core = Core::new(vec![health, room]);
        core.round(&["ok", "A"]);
        assert_eq!(core.decided(Kind::GameServer), json!({"spec": {"opsState": "A", "deletionPriority": 1}}));
        assert_eq!((core.set_by(OPS_STATE), core.set_by(DELETION_PRIORITY)), (Some(1), Some(0)));
        core.round(&["!", "A"]);
        let decided = json!({"spec": {"opsState": "Maintaining", "deletionPriority": 2}});
        assert_eq!(core.decided(Kind::GameServer), decided);
    }

    #[test]
    fn while_an_earlier_endpoint_is_undecided_no_later_one_decides_what_it_could_set() {
        let mut room = endpoint(&["None"], 1, 1);
        set(&mut room.rules_mut().policies[0], Field::of_game_server(DELETION_PRIORITY), "7");
        let mut core = Core::new(vec![health(3), room]);
        let of_room = json!({"spec": {"deletionPriority": 7}});
        for (results, expected) in [
            (["!", "None"], of_room.clone()),
            (["!", "None"], of_room),
            (["!", "None"], json!({"spec": {"opsState": "Maintaining", "deletionPriority": 7}})),
        ] {
            core.round(&results);
            assert_eq!(core.decided(Kind::GameServer), expected);
        }
        let mut core = Core::new(vec![health(3), endpoint(&["None"], 1, 1)]);
        core.round(&["ok", "None"]);
        assert_eq!(core.decided(Kind::GameServer), ops_state("None"), "a threshold of one success is reached at once");
    }

    #[test]
    fn before_the_end_of_a_round_only_what_no_later_endpoint_can_change_is_decided() {
        let mut first = endpoint(&["None"], 1, 1);
        first.rules_mut().result_fields = vec![Field::label("l")];
        let mut core = Core::new(vec![first, endpoint(&["A"], 1, 1)]);
        core.probe(0, "None");
        assert_eq!(core.decided(Kind::GameServer), ops_state("None"));
        assert_eq!(core.decided(Kind::Pod), Value::Null, "the Pod waits for the round's end (3.3)");
        core.probe(1, "A");
        assert_eq!(core.decided(Kind::Pod), json!({"metadata": {"labels": {"l": "None"}}}));
        // The second has the last round's opinion, and may have another one in a moment.
        core.probe(0, "x");
        assert_eq!(core.decided(Kind::GameServer), ops_state("None"));
        core.probe(1, "A");
        assert_eq!(core.decided(Kind::GameServer), ops_state("A"));
    }

    #[test]
    fn priorities_hold_what_a_label_can() {
        let mut room = endpoint(&["A", SUCCEEDED], 1, 3);
        set(&mut room.rules_mut().policies[0], Field::of_game_server(DELETION_PRIORITY), "7");
        room.rules_mut().policies[1].sets = vec![(Field::of_game_server(UPDATE_PRIORITY), Template::of("{{.Result}}"))];
        let mut core = Core::new(vec![room]);
        for (result, update_priority, cannot_hold) in [
            ("A", Value::Null, None),
            ("12", json!(12), None),
            ("p-1", json!("p-1"), None),
            ("-5", json!("p-1"), Some("`-5` is not a valid label value")),
            ("", json!("p-1"), Some("`` is not a valid label value")),
        ] {
            core.round(&[result]);
            let decided = core.decided(Kind::GameServer);
            assert_eq!(decided["spec"].get("updatePriority").unwrap_or(&Value::Null), &update_priority, "{result:?}");
            assert_eq!((&decided["spec"]["opsState"], &decided["spec"]["deletionPriority"]), (&json!("A"), &json!(7)));
            let field = format!("GameServer: {UPDATE_PRIORITY}");
            let expected: Vec<_> = cannot_hold.into_iter().map(|why| (field.as_str(), why)).collect();
            assert_eq!(core.cannot_hold(), expected, "{result:?}");
        }
    }

    #[test]
    fn only_what_is_openkruisegames_or_metadata_has_to_be_a_label_or_a_string() {
        let game_server = identity().game_server();
        let target = identity().object_of(&ObjectRef::Target(Target {
            group: String::new(),
            version: "v1".into(),
            resource: "configmaps".into(),
            namespace: None,
            name: "rooms".into(),
        }));
        for (object, pointer, value, expected) in [
            (&game_server, OPS_STATE, json!("a b"), None),
            (&target, OPS_STATE, json!("a b"), Some(json!("a b"))),
            (&game_server, DELETION_PRIORITY, json!("7"), Some(json!(7))),
            (&target, DELETION_PRIORITY, json!("7"), Some(json!("7"))),
            (&target, "/metadata/labels/a", json!("a b"), None),
            (&target, "/metadata/annotations/a", json!(7), Some(json!("7"))),
            (&target, "/data/a", json!(7), Some(json!(7))),
        ] {
            assert_eq!(held(object, pointer, value), expected, "{} {pointer}", object.path);
        }
        assert!(is_key_of_the_pod(&identity().pod(), "/metadata/labels/a"));
        assert!(!is_key_of_the_pod(&target, "/metadata/labels/a") && !is_key_of_the_pod(&identity().pod(), "/spec/a"));
    }

    #[test]
    fn keys_of_the_pod_come_from_every_opinion_and_go_with_them() {
        let mut first = endpoint(&[FAILED], 1, 1);
        set(&mut first.rules_mut().policies[0], Field::label("health"), "bad");
        set(&mut first.rules_mut().policies[0], Field::label("both"), "1");
        let mut second = endpoint(&["A", "B"], 1, 1);
        set(&mut second.rules_mut().policies[0], Field::label("both"), "2");
        set(&mut second.rules_mut().policies[0], Field::annotation("room/x~y"), "is {{.Result}}");
        second.rules_mut().result_fields = vec![Field::label("last")];
        let mut core = Core::new(vec![first, second]);
        let null = Value::Null;
        for (results, health, both, last, annotation) in [
            // What a previous process has left is removed as soon as it may be.
            (["ok", "A"], null.clone(), json!("2"), json!("A"), json!("is A")),
            (["!", "A"], json!("bad"), json!("1"), json!("A"), json!("is A")),
            (["ok", "B"], null.clone(), null.clone(), json!("B"), null.clone()),
            (["ok", "other"], null.clone(), null.clone(), json!("other"), null.clone()),
            // A label that cannot hold the result stays as it was.
            (["ok", "not a label"], null.clone(), null.clone(), json!("other"), null.clone()),
        ] {
            core.round(&results);
            let labels = json!({"health": health, "both": both, "last": last});
            let expected = json!({"metadata": {"labels": labels, "annotations": {"room/x~y": annotation}}});
            assert_eq!(core.decided(Kind::Pod), expected, "{results:?}");
        }
        assert_eq!(core.cannot_hold(), [("Pod: /metadata/labels/last", "`not a label` is not a valid label value")]);
    }

    #[test]
    fn failures_alone_remove_no_key() {
        let labelled = |states: &[&str]| {
            let mut endpoint = endpoint(states, 1, 1);
            set(&mut endpoint.rules_mut().policies[0], Field::label("l"), "x");
            endpoint
        };
        let mut result = endpoint(&[FAILED], 1, 1);
        result.rules_mut().result_fields = vec![Field::label("l")];
        let removed = json!({"metadata": {"labels": {"l": null}}});
        for (endpoints, results, expected) in [
            (vec![labelled(&["A"])], vec!["!"], Value::Null),
            (vec![labelled(&["A"])], vec!["x"], removed.clone()),
            (vec![labelled(&["A", FAILED])], vec!["!"], removed.clone()),
            // Every endpoint that could set it must do without.
            (vec![labelled(&["A"]), labelled(&["A"])], vec!["x", "!"], Value::Null),
            (vec![labelled(&["A"]), labelled(&["A"])], vec!["x", "x"], removed),
            // Of labelKey, not even `Failed` removes it.
            (vec![result], vec!["!"], Value::Null),
        ] {
            let mut core = Core::new(endpoints);
            core.round(&results);
            assert_eq!(core.decided(Kind::Pod), expected, "{results:?}");
        }
    }

    #[test]
    fn a_field_that_cannot_hold_the_value_is_left_to_the_next_endpoint() {
        let with_label = || {
            let mut endpoint = endpoint(&[], 1, 1);
            endpoint.rules_mut().result_fields = vec![Field::label("l")];
            endpoint
        };
        let mut core = Core::new(vec![with_label(), with_label()]);
        for (results, label) in [(["a", "b"], "a"), (["no label", "b"], "b"), (["no label", "c"], "c")] {
            core.round(&results);
            assert_eq!(core.decided(Kind::Pod), json!({"metadata": {"labels": {"l": label}}}), "{results:?}");
        }
    }

    #[test]
    fn a_number_is_written_as_it_is_or_not_at_all() {
        let (field, annotation) = ("/data/n", "/metadata/annotations/n");
        for (field_type, pointer, result, held) in [
            (FieldType::Integer, field, "9223372036854775807", Some(json!(i64::MAX))),
            (FieldType::Integer, field, "-0", Some(json!(0))),
            (FieldType::Integer, field, "9223372036854775808", None),
            (FieldType::Integer, field, "12345678901234567890123", None),
            (FieldType::Integer, annotation, "12345678901234567890123", Some(json!("12345678901234567890123"))),
            (FieldType::Number, field, "2.5e3", Some(json!(2500.0))),
            (FieldType::Number, field, "1e400", None),
            (FieldType::Number, annotation, "1e400", Some(json!("1e400"))),
            (FieldType::Boolean, field, "true", Some(json!(true))),
        ] {
            let mut number = endpoint(&[], 1, 1);
            number.extract = Extract::Value { path: vec!["n".into()], field_type: Some(field_type) };
            number.rules_mut().result_fields = vec![of_target("rooms", "a", pointer)];
            let mut core = Core::new(vec![number]);
            core.round(&[result]);
            let decided: Vec<_> = core.decision.objects().flat_map(|(_, fields)| fields.values().cloned()).collect();
            assert_eq!(decided, Vec::from_iter(held.clone()), "{result} as {field_type:?}");
            let why = format!("`{result}` is not a number that the API server keeps as it is");
            let refused: Vec<&str> = core.cannot_hold().into_iter().map(|(_, why)| why).collect();
            assert_eq!(refused, Vec::from_iter(held.is_none().then_some(why.as_str())), "{result} as {field_type:?}");
        }
    }

    #[test]
    fn results_go_to_fields_of_targets_and_of_the_game_server() {
        let mut players = endpoint(&[], 1, 1);
        players.rules_mut().result_fields = vec![of_target("configmaps", "rooms", "/data/gs-0")];
        let mut own = endpoint(&[], 1, 1);
        own.rules_mut().result_fields = vec![Field::of_game_server(OPS_STATE)];
        let typed = |field| {
            let mut number = endpoint(&[], 1, 1);
            number.extract = Extract::Value { path: vec!["n".into()], field_type: Some(FieldType::Integer) };
            number.rules_mut().result_fields = vec![field];
            number
        };
        let annotation = typed(of_target("pods", "gs-0", "/metadata/annotations/n"));
        let number = typed(Field::of_game_server("/spec/n"));
        let mut core = Core::new(vec![players, own, annotation, number]);

        core.round(&["5", "Allocated", "9", "9"]);
        assert_eq!(core.decided(Kind::Target), json!({"data": {"gs-0": "5"}}));
        assert_eq!(core.decided(Kind::GameServer), json!({"spec": {"opsState": "Allocated", "n": 9}}));
        assert_eq!(core.decided(Kind::Pod), json!({"metadata": {"annotations": {"n": "9"}}}));
        let mut paths: Vec<&str> = core.decision.objects().map(|(object, _)| object.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/games/configmaps/rooms",
                "/api/v1/namespaces/games/pods/gs-0",
                "/apis/game.kruise.io/v1alpha1/namespaces/games/gameservers/gs-0",
            ]
        );
        core.round(&["5", "no state", "9", "9"]);
        assert_eq!(core.decided(Kind::GameServer)["spec"]["opsState"], "Allocated");
        assert_eq!(core.cannot_hold(), [("GameServer: /spec/opsState", "`no state` is not a valid label value")]);
    }

    #[test]
    fn what_a_result_is_part_of_is_bounded() {
        let mut endpoint = endpoint(&[SUCCEEDED], 1, 1);
        set(&mut endpoint.rules_mut().policies[0], Field::annotation("twice"), "{{.Result}}{{.Result}}");
        endpoint.rules_mut().result_fields = vec![Field::annotation("once")];
        let mut core = Core::new(vec![endpoint.clone()]);
        let half = "x".repeat(MAX_VALUE_BYTES / 2);
        let annotations = json!({"metadata": {"annotations": {"twice": half.repeat(2), "once": half}}});
        core.round(&[&half]);
        assert_eq!(core.decided(Kind::Pod), annotations);
        core.opinions[0].observe(
            &endpoint,
            super::super::policy::Outcome::Success(ProbeResult::TooLong(half)),
            Duration::ZERO,
        );
        core.cannot_hold = core.decision.update(&core.endpoints, &core.opinions, 1);
        assert_eq!(core.decided(Kind::Pod), annotations);
        let cannot_hold = core.cannot_hold();
        let fields: Vec<&str> = cannot_hold.iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["Pod: /metadata/annotations/twice", "Pod: /metadata/annotations/once"]);
        assert!(cannot_hold.iter().all(|(_, why)| why.ends_with("it has more than 4096 bytes")), "{cannot_hold:?}");
    }

    #[test]
    fn a_result_with_a_control_character_is_held_by_no_field_unless_it_is_a_line_feed() {
        let mut by_policy = endpoint(&[SUCCEEDED], 1, 1);
        set(&mut by_policy.rules_mut().policies[0], Field::annotation("by-policy"), "is {{.Result}}");
        by_policy.rules_mut().result_fields =
            vec![Field::annotation("result"), of_target("configmaps", "rooms", "/data/gs-0")];
        for (result, held) in [
            ("two\nlines", true),
            ("\u{202e}", true),
            ("a\u{1b}[2Kb", false),
            ("a\rb", false),
            ("a\tb", false),
            ("a\u{7f}b", false),
            ("a\u{9b}b", false),
        ] {
            let mut core = Core::new(vec![by_policy.clone()]);
            core.round(&[result]);
            let fields = if held { 0 } else { 3 };
            assert_eq!(core.cannot_hold().len(), fields, "{result:?}: {:?}", core.cannot_hold());
            assert_eq!(core.decided(Kind::Target)["data"]["gs-0"], if held { json!(result) } else { Value::Null });
            // What a config says itself is written.
            assert_eq!(core.decided(Kind::GameServer), ops_state(SUCCEEDED), "{result:?}");
        }
    }

    #[test]
    fn a_range_decides_by_number() {
        let mut players = endpoint(&["x"], 1, 1);
        players.rules_mut().policies[0].when = When::Range(1.0, f64::INFINITY);
        players.rules_mut().policies[0].sets[0].1 = Template::of("Allocated");
        let mut core = Core::new(vec![players]);
        for (result, expected) in [("0", ""), ("3", "Allocated")] {
            core.round(&[result]);
            assert_eq!(core.decided(Kind::GameServer), ops_state(expected), "{result}");
        }
    }

    #[test]
    fn a_reload_decides_anew_and_removes_what_only_the_old_config_could_set() {
        let labelled = |keys: &[&str]| {
            let mut endpoint = endpoint(&["A"], 1, 2);
            keys.iter().for_each(|key| set(&mut endpoint.rules_mut().policies[0], Field::label(key), "x"));
            endpoint
        };
        let mut core = Core::new(vec![labelled(&["old", "both"])]);
        core.round(&["A"]);
        core.reload(vec![labelled(&["both", "new"])], &[]);
        assert_eq!(core.decided(Kind::GameServer), Value::Null);
        assert_eq!(core.decided(Kind::Pod), json!({"metadata": {"labels": {"old": null}}}));
        assert_eq!(core.set_by(OPS_STATE), None);
        core.round(&["!"]);
        assert_eq!(core.decided(Kind::GameServer), Value::Null, "the endpoint is undecided again");
        // A removal that is not in yet stays one through another reload.
        core.reload(vec![labelled(&["new"])], &[]);
        let removed = json!({"metadata": {"labels": {"old": null, "both": null}}});
        assert_eq!(core.decided(Kind::Pod), removed);
    }

    #[test]
    fn what_is_sent_once_more_survives_a_reload() {
        let mut target = endpoint(&[], 1, 1);
        target.rules_mut().result_fields = vec![of_target("configmaps", "rooms", "/data/x")];
        let mut core = Core::new(vec![target]);
        core.round(&["5"]);
        let (object, _) = core.decision.objects().next().unwrap();
        let again = (object.clone(), "/data/x".to_owned(), json!("5"));
        core.round(&["6"]);
        core.reload(vec![health(1)], &[again]);
        assert_eq!(core.decided(Kind::Target), json!({"data": {"x": "5"}}), "as it is in");
        core.reload(vec![health(1)], &[]);
        assert_eq!(core.decided(Kind::Target), Value::Null);
    }

    #[test]
    fn a_restart_neither_takes_back_nor_gives_early_what_lasts() {
        let mut game = super::super::opinion::tests::lasting(1, 3);
        game.rules_mut().policies[1].sets.push((Field::of_game_server(DELETION_PRIORITY), Template::of("1")));
        let mut later = endpoint(&[SUCCEEDED], 1, 1);
        later.rules_mut().policies[0].sets[0].1 = Template::of("None");
        let mut core = Core::new(vec![game, later]);
        let mut after = |seconds, text| {
            core.opinions[0].observe(&core.endpoints[0], outcome(text), Duration::from_secs(seconds));
            core.opinions[1].observe(&core.endpoints[1], outcome("x"), Duration::from_secs(seconds));
            core.decision.update(&core.endpoints, &core.opinions, 2);
            core.decided(Kind::GameServer)["spec"].clone()
        };
        // The priority, which no later policy sets, is decided at once; for opsState no later endpoint steps in.
        assert_eq!(after(0, "A"), json!({"deletionPriority": 1}));
        assert_eq!(after(10, "A"), json!({"deletionPriority": 1}));
        assert_eq!(after(20, "A")["opsState"], "A");
        // With another condition, everything is as in a process that never restarted.
        assert_eq!(after(21, "B")["opsState"], "B");
        assert_eq!(after(22, "A")["opsState"], "A");
    }

    #[test]
    fn a_result_with_a_control_character_is_written_nowhere() {
        let mut game = endpoint(&["A", SUCCEEDED], 1, 1);
        set(&mut game.rules_mut().policies[1], Field::annotation("room"), "in {{.Result}}");
        set(&mut game.rules_mut().policies[1], Field::annotation("plain"), "a\tb");
        game.rules_mut().result_fields = vec![Field::annotation("last")];
        for (result, written) in [
            ("a b", true),
            ("a\nb", true),
            ("a\u{1b}[31mb", false),
            ("a\tb", false),
            ("a\rb", false),
            ("a\u{9b}b", false),
        ] {
            let mut core = Core::new(vec![game.clone()]);
            core.round(&[result]);
            let annotations = core.decided(Kind::Pod)["metadata"]["annotations"].clone();
            let expected =
                if written { [json!(result), json!(format!("in {result}"))] } else { [Value::Null, Value::Null] };
            assert_eq!([&annotations["last"], &annotations["room"]], expected.each_ref(), "{result:?}");
            // What the config itself contains is its own matter.
            assert_eq!(annotations["plain"], "a\tb");
            assert_eq!(core.cannot_hold().len(), if written { 0 } else { 2 }, "{result:?}");
        }
    }
}
