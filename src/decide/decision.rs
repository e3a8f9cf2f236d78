//! Owns the decision: field by field, what the opinions say every object must hold (behaviour 5.2 to 5.4, 6). Refuses
//! values that OpenKruiseGame or the API server could not hold.

use std::collections::BTreeMap;

use serde_json::Value;

use super::object::{Identity, Kind, Object};
use super::opinion::Opinion;
use super::policy::ProbeResult;
use crate::config::{self, Endpoint, FieldType, Policy, Priority, Probe, Template};

/// The GameServer's field that OpenKruiseGame scales by.
pub const OPS_STATE: &str = "/spec/opsState";
/// The GameServer's field that orders deletions within one opsState.
pub const DELETION_PRIORITY: &str = "/spec/deletionPriority";
/// The GameServer's field that orders updates.
pub const UPDATE_PRIORITY: &str = "/spec/updatePriority";

/// What was decided for one object, by RFC 6901 pointer; `None` removes the field.
pub type Fields = BTreeMap<String, Option<Value>>;

/// What was last decided for every field of every object.
#[derive(Debug)]
pub struct Decision {
    rules: Vec<Rule>,
    decided: BTreeMap<Object, Fields>,
    /// The GameServer's fields that a present opinion sets, and the index of its endpoint.
    present: BTreeMap<String, usize>,
}

/// Who can decide one field.
#[derive(Debug)]
struct Rule {
    object: Object,
    pointer: String,
    /// In the order of the endpoints, which is the precedence.
    sources: Vec<Source>,
}

/// One way in which an endpoint can set a field.
#[derive(Debug, PartialEq)]
struct Source {
    endpoint: usize,
    from: From,
}

#[derive(Debug, PartialEq)]
enum From {
    /// A policy's gameServerOpsState.
    OpsState,
    /// A policy's gameServerDeletionPriority.
    DeletionPriority,
    /// A policy's gameServerUpdatePriority.
    UpdatePriority,
    /// A policy's label of this key.
    Label(String),
    /// A policy's annotation of this key.
    Annotation(String),
    /// The result itself: annotationKey, labelKey, jsonPath.
    Result,
}

/// A field that cannot hold what an opinion makes of the result.
#[derive(Debug, PartialEq)]
pub struct CannotHold {
    /// The field.
    pub pointer: String,
    /// The result, as a message shows it.
    pub result: String,
}

impl Decision {
    /// Nothing decided yet.
    pub fn new(endpoints: &[Endpoint], identity: &Identity) -> Self {
        Self { rules: rules(endpoints, identity), decided: BTreeMap::new(), present: BTreeMap::new() }
    }

    /// Goes on with other endpoints, undecided as at a start (behaviour 8.5): keys of the Pod that only the old ones could
    /// set are removed, what `is_sent_again` says stays, and everything else is decided anew.
    pub fn reload(
        &mut self,
        endpoints: &[Endpoint],
        identity: &Identity,
        is_sent_again: impl Fn(&Object, &str, &Option<Value>) -> bool,
    ) {
        let mut old = std::mem::replace(self, Self::new(endpoints, identity));
        for Rule { object, pointer, .. } in old.rules.into_iter().filter(|rule| rule.object.kind == Kind::Pod) {
            old.decided.entry(object).or_default().insert(pointer, None);
        }
        for (object, fields) in old.decided {
            let can_be_set =
                |pointer: &str| self.rules.iter().any(|rule| rule.object == object && rule.pointer == pointer);
            let kept: Fields = fields
                .into_iter()
                .filter(|(pointer, value)| {
                    (value.is_none() && !can_be_set(pointer)) || is_sent_again(&object, pointer, value)
                })
                .collect();
            if !kept.is_empty() {
                self.decided.insert(object, kept);
            }
        }
    }

    /// Decides anew, by the opinions after the first `probed` endpoints of a round were probed: before the last one, only
    /// on the GameServer, and only where no endpoint still to be probed can change the decision (behaviour 3.3). Gives the
    /// fields that cannot hold what an opinion sets.
    pub fn update(&mut self, endpoints: &[Endpoint], opinions: &[Opinion], probed: usize) -> Vec<CannotHold> {
        let mut cannot_hold = Vec::new();
        let round_ends = probed >= endpoints.len();
        let rules = self.rules.iter().filter(|rule| round_ends || rule.object.kind == Kind::GameServer);
        let found: Vec<(&Rule, Found)> =
            rules.map(|rule| (rule, rule.evaluate(endpoints, opinions, probed, &mut cannot_hold))).collect();
        // One decision is one patch. But an endpoint that fails, and may hang, delays no field of one before it.
        let is_worth_waiting = |probe: usize| probe >= probed && !opinions.get(probe).is_some_and(Opinion::is_failing);
        if found.iter().any(|(_, found)| matches!(found, Found::Open(probe) if is_worth_waiting(*probe))) {
            return Vec::new();
        }
        for (rule, found) in found {
            let of_game_server = rule.object.kind == Kind::GameServer;
            let decided = match found {
                Found::Open(_) => continue,
                Found::Set(endpoint, value) => {
                    if of_game_server {
                        self.present.insert(rule.pointer.clone(), endpoint);
                    }
                    Some(value)
                }
                Found::Removed => None,
                Found::Unset => {
                    if of_game_server {
                        self.present.remove(&rule.pointer);
                    }
                    continue;
                }
            };
            if self.decided.get(&rule.object).and_then(|fields| fields.get(&rule.pointer)) != Some(&decided) {
                self.decided.entry(rule.object.clone()).or_default().insert(rule.pointer.clone(), decided);
            }
        }
        cannot_hold
    }

    /// Every object for which something was decided, and what.
    pub fn objects(&self) -> impl Iterator<Item = (&Object, &Fields)> {
        self.decided.iter()
    }

    /// Whether anything is decided for `object`, or can be.
    pub fn concerns(&self, object: &Object) -> bool {
        self.decided.contains_key(object) || self.rules.iter().any(|rule| rule.object == *object)
    }

    /// What was decided for `object`.
    pub fn fields(&self, object: &Object) -> &Fields {
        static NOTHING: Fields = Fields::new();
        self.decided.get(object).unwrap_or(&NOTHING)
    }

    /// Whether a present opinion sets this field of the GameServer.
    pub fn is_present(&self, pointer: &str) -> bool {
        self.present.contains_key(pointer)
    }

    /// The index of the endpoint whose present opinion sets this field of the GameServer.
    pub fn decided_by(&self, pointer: &str) -> Option<usize> {
        self.present.get(pointer).copied()
    }
}

/// What the opinions say of one field.
enum Found {
    /// The endpoint of this index is undecided, or still to be probed.
    Open(usize),
    /// The endpoint of this index sets it to this value.
    Set(usize, Value),
    /// It belongs to the sidecar, and no opinion sets it.
    Removed,
    /// No opinion sets it to a value that it can hold.
    Unset,
}

impl Rule {
    /// The first opinion in the list that sets the field to a value that it can hold.
    fn evaluate(
        &self,
        endpoints: &[Endpoint],
        opinions: &[Opinion],
        probed: usize,
        cannot_hold: &mut Vec<CannotHold>,
    ) -> Found {
        // A Pod's keys have no other writer (6.1). Failures alone remove none, and `Failed` none that takes the result.
        let mut may_be_removed = self.object.kind == Kind::Pod;
        for Source { endpoint: index, from } in &self.sources {
            let (endpoint, opinion) = (&endpoints[*index], &opinions[*index]);
            if *index >= probed || opinion.is_undecided() {
                return Found::Open(*index);
            }
            let value = match from.value(endpoint, opinion) {
                Sets::Nothing => {
                    let knows = if *from == From::Result { opinion.result().is_some() } else { opinion.is_formed() };
                    may_be_removed &= knows;
                    continue;
                }
                Sets::Value(value) => held(&self.object, &self.pointer, value),
                Sets::TooMuch => None,
            };
            if let Some(value) = value {
                return Found::Set(*index, value);
            }
            may_be_removed = false;
            let result = opinion.result().map(ProbeResult::to_string).unwrap_or_default();
            cannot_hold.push(CannotHold { pointer: self.pointer.clone(), result });
        }
        if may_be_removed { Found::Removed } else { Found::Unset }
    }
}

/// What an opinion sets a field to.
enum Sets {
    Nothing,
    Value(Value),
    /// More than a value may have.
    TooMuch,
}

impl From {
    fn value(&self, endpoint: &Endpoint, opinion: &Opinion) -> Sets {
        let policy = opinion.policy(endpoint);
        let of_policy = |value: fn(&Policy) -> Option<&Priority>| match policy.and_then(value) {
            None => Sets::Nothing,
            Some(Priority::Integer(value)) => Sets::Value(Value::from(*value)),
            Some(Priority::Text(template)) => rendered(template, opinion),
        };
        let of_map = |map: fn(&Policy) -> &[(String, Template)], key: &str| {
            let entry = policy.and_then(|policy| map(policy).iter().find(|(name, _)| name == key));
            entry.map_or(Sets::Nothing, |(_, template)| rendered(template, opinion))
        };
        match self {
            Self::OpsState => match policy.and_then(|policy| policy.ops_state.as_deref()) {
                Some(state) => Sets::Value(Value::from(state)),
                None => Sets::Nothing,
            },
            Self::DeletionPriority => of_policy(|policy| policy.deletion_priority.as_ref()),
            Self::UpdatePriority => of_policy(|policy| policy.update_priority.as_ref()),
            Self::Label(key) => of_map(|policy| &policy.labels, key),
            Self::Annotation(key) => of_map(|policy| &policy.annotations, key),
            Self::Result => match opinion.result() {
                None => Sets::Nothing,
                Some(ProbeResult::Text(text)) => Sets::Value(typed(endpoint, text)),
                Some(ProbeResult::TooLong(_) | ProbeResult::Unread) => Sets::TooMuch,
            },
        }
    }
}

fn rendered(template: &Template, opinion: &Opinion) -> Sets {
    let text = match opinion.result() {
        _ if !template.needs_result() => template.render(""),
        Some(ProbeResult::Text(result)) => template.render(result),
        Some(ProbeResult::TooLong(_) | ProbeResult::Unread) | None => None,
    };
    text.map_or(Sets::TooMuch, |text| Sets::Value(Value::from(text)))
}

/// A result with a fieldType is written as that type, any other as a string.
fn typed(endpoint: &Endpoint, result: &str) -> Value {
    let Probe::Http(probe) = &endpoint.probe;
    match probe.extract.as_ref().and_then(|extract| extract.field_type) {
        None | Some(FieldType::String) => Value::from(result),
        Some(FieldType::Integer | FieldType::Number | FieldType::Boolean) => {
            serde_json::from_str(result).unwrap_or_else(|_| Value::from(result))
        }
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

/// An endpoint as logs name it.
pub fn place(index: usize, endpoint: &Endpoint) -> String {
    format!("endpoints[{index}] {}", endpoint.probe.place())
}

/// Every field that the endpoints can set, each with who can.
fn rules(endpoints: &[Endpoint], identity: &Identity) -> Vec<Rule> {
    let mut rules: BTreeMap<(Object, String), Vec<Source>> = BTreeMap::new();
    let (game_server, pod) = (identity.game_server(), identity.pod());
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut add = |object: &Object, pointer: String, from: From| {
            let sources = rules.entry((object.clone(), pointer)).or_default();
            let source = Source { endpoint: index, from };
            // Several policies of one endpoint set the same field.
            if !sources.contains(&source) {
                sources.push(source);
            }
        };
        for policy in &endpoint.policies {
            let of_game_server = [
                (OPS_STATE, policy.ops_state.is_some(), From::OpsState),
                (DELETION_PRIORITY, policy.deletion_priority.is_some(), From::DeletionPriority),
                (UPDATE_PRIORITY, policy.update_priority.is_some(), From::UpdatePriority),
            ];
            for (pointer, _, from) in of_game_server.into_iter().filter(|(_, is_set, _)| *is_set) {
                add(&game_server, pointer.into(), from);
            }
            for (key, _) in &policy.labels {
                add(&pod, metadata_pointer("labels", key), From::Label(key.clone()));
            }
            for (key, _) in &policy.annotations {
                add(&pod, metadata_pointer("annotations", key), From::Annotation(key.clone()));
            }
        }
        for (map, key) in [("annotations", &endpoint.annotation_key), ("labels", &endpoint.label_key)] {
            if let Some(key) = key {
                add(&pod, metadata_pointer(map, key), From::Result);
            }
        }
        if let Some(field) = &endpoint.field {
            let object = field.target.as_ref().map_or_else(|| game_server.clone(), |target| identity.target(target));
            add(&object, field.pointer.clone(), From::Result);
        }
    }
    rules.into_iter().map(|((object, pointer), sources)| Rule { object, pointer, sources }).collect()
}

fn metadata_pointer(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('~', "~0").replace('/', "~1"))
}
