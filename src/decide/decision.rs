//! Owns what the objects should look like: from the opinions of all endpoints to fields of the GameServer, the Pod and
//! targets, and from changed fields to a JSON merge-patch (RFC 7386). Refuses values that OpenKruiseGame or the API
//! server could not hold.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::tracker::Tracker;
use crate::config::{self, Endpoint, FieldType, MAX_VALUE_BYTES, Policy, Priority, Target};
use crate::excerpt::excerpt;

/// Fields of one object by RFC 6901 pointer.
pub type Fields = BTreeMap<String, Value>;

/// Changes of one object's fields by RFC 6901 pointer; `None` removes the field.
pub type Changes = BTreeMap<String, Option<Value>>;

/// The GameServer's field that OpenKruiseGame scales by.
pub const OPS_STATE: &str = "/spec/opsState";

/// An object that is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Which of the three kinds it is.
    pub kind: Kind,
    /// Its path at the API server.
    pub path: String,
}

impl Object {
    /// Whether it is a GameServer, the pod's own or another.
    fn is_game_server(&self) -> bool {
        self.path.starts_with("/apis/game.kruise.io/") && self.path.contains("/gameservers/")
    }
}

/// What an object is to the sidecar, in the order of urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The pod's own GameServer.
    GameServer,
    /// The pod itself. Its labels and annotations go when no policy sets them any more.
    Pod,
    /// Any other object.
    Target,
}

/// Whose objects they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The pod's namespace.
    pub namespace: String,
    /// The name of the pod and of its GameServer.
    pub name: String,
}

impl Identity {
    /// The pod's own GameServer.
    pub fn game_server(&self) -> Object {
        self.object("game.kruise.io", "v1alpha1", &self.namespace, "gameservers", &self.name)
    }

    /// The pod.
    pub fn pod(&self) -> Object {
        self.object("", "v1", &self.namespace, "pods", &self.name)
    }

    /// A target, which may turn out to be the pod or its GameServer.
    pub fn target(&self, target: &Target) -> Object {
        let Target { group, version, resource, namespace, name } = target;
        self.object(group, version, namespace.as_ref().unwrap_or(&self.namespace), resource, name)
    }

    fn object(&self, group: &str, version: &str, namespace: &str, resource: &str, name: &str) -> Object {
        let own = namespace == self.namespace && name == self.name;
        let kind = match (group, resource) {
            ("game.kruise.io", "gameservers") if own => Kind::GameServer,
            ("", "pods") if own => Kind::Pod,
            _ => Kind::Target,
        };
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        Object { kind, path: format!("{root}/namespaces/{namespace}/{resource}/{name}") }
    }
}

/// What all objects should look like by the latest decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The fields of each object.
    pub fields: BTreeMap<Object, Fields>,
    /// The endpoint whose opinion decides on the GameServer, as logs name it.
    pub decided_by: String,
    /// Fields that were left as they were before, since they could not hold what the result makes of them; and the
    /// result, as a message shows it.
    pub illegal: Vec<(String, String)>,
    /// The GameServer's fields that policies gave: they stand while no endpoint has an opinion (5.3).
    game_server: Fields,
    /// The Pod's fields that policies gave: they stand while no endpoint has an opinion (5.3).
    pod: Fields,
}

/// An endpoint, what is known of its results, and the policy of its opinion.
type Stance<'a> = (&'a Endpoint, &'a Tracker, Option<&'a Policy>);

impl Desired {
    /// The latest decision, where `before` is the one that it follows (SPEC 5.2, 5.3, 6).
    pub fn decide<'a>(
        endpoints: impl Iterator<Item = (&'a Endpoint, &'a Tracker)>,
        identity: &Identity,
        before: &Self,
    ) -> Self {
        let stances: Vec<Stance> = endpoints
            .map(|(endpoint, tracker)| (endpoint, tracker, tracker.opinion().and_then(|at| endpoint.policies.get(at))))
            .collect();
        let mut desired = Self {
            decided_by: before.decided_by.clone(),
            game_server: before.game_server.clone(),
            pod: before.pod.clone(),
            ..Self::default()
        };
        desired.decide_on_game_server(&stances, &before.game_server);
        desired.collect_pod_metadata(&stances, &identity.pod(), &before.pod);
        desired.fields.insert(identity.game_server(), desired.game_server.clone());
        desired.fields.insert(identity.pod(), desired.pod.clone());
        for (index, (endpoint, tracker, _)) in stances.iter().enumerate() {
            if let Some(result) = tracker.result() {
                desired.publish(index, endpoint, result, identity, before);
            }
        }
        desired
    }

    /// The first endpoint whose opinion says anything about the GameServer speaks for all (5.2).
    fn decide_on_game_server(&mut self, stances: &[Stance], before: &Fields) {
        let deciding = stances.iter().enumerate().find_map(|(index, (endpoint, tracker, policy))| {
            policy.filter(|policy| policy.sets_game_server()).map(|policy| (index, endpoint, tracker, policy))
        });
        let Some((index, endpoint, tracker, policy)) = deciding else { return };
        self.decided_by = place(index, endpoint);
        let result = tracker.result().unwrap_or_default();
        let mut fields = Fields::new();
        if let Some(state) = &policy.ops_state {
            fields.insert(OPS_STATE.into(), Value::from(state.as_str()));
        }
        for (name, priority) in
            [("deletionPriority", &policy.deletion_priority), ("updatePriority", &policy.update_priority)]
        {
            match priority {
                None => {}
                Some(Priority::Integer(value)) => {
                    fields.insert(format!("/spec/{name}"), Value::from(*value));
                }
                Some(Priority::Text(template)) => {
                    let pointer = format!("/spec/{name}");
                    // OpenKruiseGame copies both priorities into labels of the pod, as it does with opsState.
                    match template.render(result).filter(|text| config::is_ops_state(text)) {
                        Some(text) => {
                            let value = text.parse::<i32>().map_or_else(|_| Value::from(text), Value::from);
                            fields.insert(pointer, value);
                        }
                        None => self.leave_out(pointer, result, &mut fields, before),
                    }
                }
            }
        }
        self.game_server = fields;
    }

    /// Every endpoint's opinion may set metadata of the Pod; for one key the first in the list does (6.1).
    fn collect_pod_metadata(&mut self, stances: &[Stance], pod: &Object, before: &Fields) {
        if stances.iter().all(|(_, _, policy)| policy.is_none()) {
            return;
        }
        let mut fields = Fields::new();
        for (_, tracker, policy) in stances {
            let Some(policy) = policy else { continue };
            let result = tracker.result().unwrap_or_default();
            for (map, templates) in [("labels", &policy.labels), ("annotations", &policy.annotations)] {
                for (key, template) in templates {
                    let pointer = metadata_pointer(map, key);
                    if fields.contains_key(&pointer) {
                        continue;
                    }
                    match template.render(result).and_then(|text| held(pod, &pointer, text.into())) {
                        Some(value) => {
                            fields.insert(pointer, value);
                        }
                        None => self.leave_out(pointer, result, &mut fields, before),
                    }
                }
            }
        }
        self.pod = fields;
    }

    /// Writes the result itself where the endpoint says (6.1, 6.3).
    fn publish(&mut self, index: usize, endpoint: &Endpoint, result: &str, identity: &Identity, before: &Self) {
        let bounded = result.len() <= MAX_VALUE_BYTES;
        for (map, key) in [("annotations", &endpoint.annotation_key), ("labels", &endpoint.label_key)] {
            if let Some(key) = key {
                let (pod, pointer) = (identity.pod(), metadata_pointer(map, key));
                let value = bounded.then(|| held(&pod, &pointer, result.into())).flatten();
                self.publish_to(pod, pointer, value, result, before);
            }
        }
        if let Some(field) = &endpoint.field {
            let object = field.target.as_ref().map_or_else(|| identity.game_server(), |target| identity.target(target));
            let pointer = field.pointer.as_str();
            let value = bounded.then(|| held(&object, pointer, typed(endpoint, result))).flatten();
            let decides = object.kind == Kind::GameServer && pointer == OPS_STATE && value.is_some();
            if decides && !self.game_server.contains_key(OPS_STATE) {
                self.decided_by = place(index, endpoint);
            }
            self.publish_to(object, pointer.to_owned(), value, result, before);
        }
    }

    /// Sets a field that nothing before it has set, to a `value` where the result makes one that it can hold.
    fn publish_to(&mut self, object: Object, pointer: String, value: Option<Value>, result: &str, before: &Self) {
        let mut fields = self.fields.remove(&object).unwrap_or_default();
        match value {
            _ if fields.contains_key(&pointer) => {}
            Some(value) => {
                fields.insert(pointer, value);
            }
            None => {
                let nothing = Fields::new();
                self.leave_out(pointer, result, &mut fields, before.fields.get(&object).unwrap_or(&nothing));
            }
        }
        self.fields.insert(object, fields);
    }

    /// Leaves a field as it was `before`, since it cannot hold what the result makes of it.
    fn leave_out(&mut self, pointer: String, result: &str, fields: &mut Fields, before: &Fields) {
        if let Some(value) = before.get(&pointer) {
            fields.insert(pointer.clone(), value.clone());
        }
        self.illegal.push((pointer, excerpt(result)));
    }
}

/// A value as a field can hold it, where it can: labels and annotations are strings, and OpenKruiseGame makes opsStates
/// and priorities label values.
fn held(object: &Object, pointer: &str, value: Value) -> Option<Value> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match pointer {
        OPS_STATE if object.is_game_server() => config::is_ops_state(&text).then(|| text.into()),
        "/spec/deletionPriority" | "/spec/updatePriority" if object.is_game_server() => {
            let integer = value.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            config::is_ops_state(&text).then(|| if integer { value } else { text.into() })
        }
        _ if pointer.starts_with("/metadata/labels/") => config::is_label_value(&text).then(|| text.into()),
        _ if pointer.starts_with("/metadata/annotations/") => Some(text.into()),
        _ => Some(value),
    }
}

/// An endpoint as logs name it.
pub fn place(index: usize, endpoint: &Endpoint) -> String {
    format!("endpoints[{index}] {}", endpoint.place())
}

/// A result with a fieldType is written as that type, any other as a string.
fn typed(endpoint: &Endpoint, result: &str) -> Value {
    match endpoint.extract.as_ref().and_then(|extract| extract.field_type) {
        None | Some(FieldType::String) => Value::from(result),
        Some(_) => serde_json::from_str(result).unwrap_or_else(|_| Value::from(result)),
    }
}

fn metadata_pointer(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// The merge-patch that makes the changes.
pub fn merge_patch(changes: &Changes) -> Value {
    let mut patch = Value::Object(Map::new());
    for (pointer, value) in changes {
        let mut at = &mut patch;
        for key in config::pointer_keys(pointer) {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[key];
        }
        *at = value.clone().unwrap_or(Value::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::policy::{Answer, Reading};
    use super::super::tracker::tests::endpoint;
    use super::*;
    use crate::config::{Extract, FAILED, Field, SUCCEEDED, When};

    fn identity() -> Identity {
        Identity { namespace: "games".into(), name: "gs-0".into() }
    }

    /// The merge-patch of everything that a decision gave one kind of object; null when it gave nothing.
    fn patch_of(desired: &Desired, kind: Kind) -> Value {
        let fields = desired.fields.iter().filter(|(object, _)| object.kind == kind).flat_map(|(_, fields)| fields);
        let changes: Changes = fields.map(|(pointer, value)| (pointer.clone(), Some(value.clone()))).collect();
        if changes.is_empty() { Value::Null } else { merge_patch(&changes) }
    }

    /// Endpoints with trackers that are fed one round after the other.
    struct Sidecar {
        endpoints: Vec<Endpoint>,
        trackers: Vec<Tracker>,
        desired: Desired,
    }

    impl Sidecar {
        fn new(endpoints: Vec<Endpoint>) -> Self {
            let trackers = vec![Tracker::default(); endpoints.len()];
            Self { endpoints, trackers, desired: Desired::default() }
        }

        /// One round; `!` stands for a failure.
        fn round(&mut self, results: &[&str]) -> &Desired {
            for ((endpoint, tracker), result) in self.endpoints.iter().zip(&mut self.trackers).zip(results) {
                let reading = match *result {
                    "!" => Reading::Failure,
                    text => Reading::Success(Answer::Text(text.into())),
                };
                tracker.observe(endpoint, &reading);
            }
            self.desired = Desired::decide(self.endpoints.iter().zip(&self.trackers), &identity(), &self.desired);
            &self.desired
        }
    }

    fn template(text: &str) -> crate::config::Template {
        crate::config::Template::for_test(text)
    }

    #[test]
    fn the_first_endpoint_with_an_opinion_decides_on_the_game_server() {
        let mut health = endpoint(&[FAILED], 1, 2);
        health.policies[0].ops_state = Some("Maintaining".into());
        let mut sidecar = Sidecar::new(vec![health, endpoint(&["None", "Allocated"], 1, 3)]);
        for (results, ops_state) in [
            (["ok", "?"], None),
            (["ok", "None"], Some("None")),
            (["!", "Allocated"], Some("Allocated")),
            (["!", "Allocated"], Some("Maintaining")),
            (["!", "None"], Some("Maintaining")),
            (["ok", "None"], Some("None")),
            // An unknown result takes the opinion away, and what was decided stands.
            (["ok", "?"], Some("None")),
        ] {
            let patch = patch_of(sidecar.round(&results), Kind::GameServer);
            let expected = ops_state.map_or(Value::Null, |state| json!({"spec": {"opsState": state}}));
            assert_eq!(patch, expected, "{results:?}");
        }
    }

    #[test]
    fn priorities_go_with_the_ops_state_and_hold_what_a_label_can() {
        let mut room = endpoint(&["A", SUCCEEDED], 1, 3);
        room.policies[0].deletion_priority = Some(Priority::Integer(7));
        room.policies[1].ops_state = None;
        room.policies[1].update_priority = Some(Priority::Text(template("{{.Result}}")));
        let mut sidecar = Sidecar::new(vec![room]);
        for (result, patch, illegal) in [
            ("A", json!({"spec": {"opsState": "A", "deletionPriority": 7}}), None),
            ("12", json!({"spec": {"updatePriority": 12}}), None),
            ("p-1", json!({"spec": {"updatePriority": "p-1"}}), None),
            ("-5", json!({"spec": {"updatePriority": "p-1"}}), Some("`-5`")),
            ("", json!({"spec": {"updatePriority": "p-1"}}), Some("``")),
        ] {
            let desired = sidecar.round(&[result]);
            assert_eq!(patch_of(desired, Kind::GameServer), patch, "{result:?}");
            assert_eq!(desired.illegal.first().map(|(_, result)| result.as_str()), illegal, "{result:?}");
        }
    }

    #[test]
    fn pod_metadata_comes_from_every_opinion_and_the_first_has_the_key() {
        let mut first = endpoint(&[FAILED], 1, 1);
        first.policies[0].labels = vec![("health".into(), template("bad")), ("both".into(), template("1"))];
        let mut second = endpoint(&["A", "B"], 1, 1);
        second.policies[0].labels = vec![("both".into(), template("2"))];
        second.policies[0].annotations = vec![("room/x~y".into(), template("is {{.Result}}"))];
        second.label_key = Some("last".into());
        let mut sidecar = Sidecar::new(vec![first, second]);
        for (results, metadata) in [
            (["ok", "A"], json!({"labels": {"both": "2", "last": "A"}, "annotations": {"room/x~y": "is A"}})),
            (
                ["!", "A"],
                json!({"labels": {"health": "bad", "both": "1", "last": "A"}, "annotations": {"room/x~y": "is A"}}),
            ),
            (["ok", "B"], json!({"labels": {"last": "B"}})),
            // No opinion anywhere: policies' metadata stand, the result is still published.
            (["ok", "other"], json!({"labels": {"last": "other"}})),
            // What the label was before stands.
            (["ok", "not a label"], json!({"labels": {"last": "other"}})),
        ] {
            let patch = patch_of(sidecar.round(&results), Kind::Pod);
            assert_eq!(patch, json!({ "metadata": metadata }), "{results:?}");
        }
        assert_eq!(sidecar.desired.illegal, [("/metadata/labels/last".into(), "`not a label`".into())]);
    }

    #[test]
    fn results_go_to_fields_of_targets_and_of_the_game_server() {
        let target = |resource: &str, name: &str| Target {
            group: String::new(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: None,
            name: name.into(),
        };
        let field = |target, pointer: &str| Some(Field { target, pointer: pointer.into() });
        let mut players = endpoint(&[], 1, 1);
        players.field = field(Some(target("configmaps", "rooms")), "/data/gs-0");
        let mut own = endpoint(&[], 1, 1);
        own.field = field(None, OPS_STATE);
        let mut number = endpoint(&[], 1, 1);
        number.field = field(Some(target("pods", "gs-0")), "/metadata/annotations/n");
        number.extract = Some(Extract { path: vec!["n".into()], field_type: Some(FieldType::Integer) });
        let mut sidecar = Sidecar::new(vec![players, own, number]);

        let desired = sidecar.round(&["5", "Allocated", "9"]);
        assert_eq!(patch_of(desired, Kind::Target), json!({"data": {"gs-0": "5"}}));
        assert_eq!(patch_of(desired, Kind::GameServer), json!({"spec": {"opsState": "Allocated"}}));
        assert_eq!(patch_of(desired, Kind::Pod), json!({"metadata": {"annotations": {"n": "9"}}}));
        let paths: Vec<&str> = desired.fields.keys().map(|object| object.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/apis/game.kruise.io/v1alpha1/namespaces/games/gameservers/gs-0",
                "/api/v1/namespaces/games/pods/gs-0",
                "/api/v1/namespaces/games/configmaps/rooms",
            ]
        );

        let desired = sidecar.round(&["5", "no state", "9"]);
        assert_eq!(patch_of(desired, Kind::GameServer), json!({"spec": {"opsState": "Allocated"}}));
        assert_eq!(desired.illegal, [(OPS_STATE.into(), "`no state`".into())]);
        assert_eq!(desired.decided_by, "endpoints[1] http://localhost:8080/");
    }

    #[test]
    fn what_a_result_is_part_of_is_bounded() {
        let mut endpoint = endpoint(&[SUCCEEDED], 1, 1);
        endpoint.policies[0].annotations = vec![("twice".into(), template("{{.Result}}{{.Result}}"))];
        endpoint.annotation_key = Some("once".into());
        let mut sidecar = Sidecar::new(vec![endpoint]);
        let half = "x".repeat(MAX_VALUE_BYTES / 2);
        let annotations = json!({"twice": half.repeat(2), "once": half});
        assert_eq!(patch_of(sidecar.round(&[&half]), Kind::Pod), json!({"metadata": {"annotations": annotations}}));
        let desired = sidecar.round(&[&half.repeat(3)]);
        assert_eq!(patch_of(desired, Kind::Pod), json!({"metadata": {"annotations": annotations}}));
        let left_out: Vec<&str> = desired.illegal.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(left_out, ["/metadata/annotations/twice", "/metadata/annotations/once"]);
    }

    #[test]
    fn a_range_decides_by_number() {
        let mut players = endpoint(&["x"], 1, 1);
        players.policies[0].when = When::Range(1.0, f64::INFINITY);
        players.policies[0].ops_state = Some("Allocated".into());
        let mut sidecar = Sidecar::new(vec![players]);
        assert_eq!(patch_of(sidecar.round(&["0"]), Kind::GameServer), Value::Null);
        assert_eq!(patch_of(sidecar.round(&["3"]), Kind::GameServer), json!({"spec": {"opsState": "Allocated"}}));
    }

    #[test]
    fn removals_are_nulls() {
        let changes = Changes::from([
            ("/metadata/labels/a".into(), None),
            ("/metadata/labels/b~1c~0d".into(), Some(json!("x"))),
            ("/spec/n".into(), Some(json!(1))),
        ]);
        assert_eq!(merge_patch(&changes), json!({"metadata": {"labels": {"a": null, "b/c~d": "x"}}, "spec": {"n": 1}}));
    }
}
