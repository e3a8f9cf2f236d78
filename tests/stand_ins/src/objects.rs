//! Owns the objects of the API server and the rules by which it answers for them: who may, what a patch changes, what it
//! must match, which values a field accepts, which version it makes, who owns which field. Connections belong to wire.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::merge_patch::{merge, merge_strategically};
use super::wire::Request;

/// The user of every accepted token.
pub const USER: &str = "system:serviceaccount:games:okg-sidecar";

/// The name under which OpenKruiseGame's controller writes; it makes the objects that a test puts.
const CONTROLLER: &str = "manager";

/// The path of a GameServer.
pub fn game_server_path(namespace: &str, name: &str) -> String {
    format!("/apis/game.kruise.io/v1alpha1/namespaces/{namespace}/gameservers/{name}")
}

/// The path of a Pod.
pub fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A GameServer as OpenKruiseGame makes one for the pod of this uid: `spec.opsState` is None.
pub fn game_server(namespace: &str, name: &str, pod_uid: &str) -> Value {
    json!({
        "apiVersion": "game.kruise.io/v1alpha1",
        "kind": "GameServer",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "ownerReferences": owned_by_pod(name, pod_uid),
        },
        "spec": {"opsState": "None", "updatePriority": 0, "deletionPriority": 0, "networkDisabled": false},
        "status": {"currentState": "Ready", "desiredState": "Ready"},
    })
}

/// A Pod with no more than the sidecar could look at.
pub fn pod_object(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid,
            "labels": {"game.kruise.io/owner-gss": "tank-war"},
        },
        "spec": {"containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The owner of a GameServer whose set has reclaimPolicy Cascade: the Pod of this name and uid.
pub fn owned_by_pod(name: &str, uid: &str) -> Value {
    json!([owner("v1", "Pod", name, uid)])
}

/// The owner of a GameServer whose set has reclaimPolicy Delete: the GameServerSet, so that it survives its pod.
pub fn owned_by_set() -> Value {
    json!([owner("game.kruise.io/v1alpha1", "GameServerSet", "tank-war", "99999999-9999-9999-9999-999999999999")])
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The objects by path, and who may do what to them.
pub struct Objects {
    stored: BTreeMap<String, Object>,
    /// Counts up through all objects, as etcd's revision does.
    revision: u64,
    /// Counts the objects that were ever created, for their uids.
    created: u64,
    /// The values that are refused, beside those that the schema forbids.
    pub(super) refused: Vec<Refused>,
    pub(super) tokens: BTreeSet<String>,
    /// Verb and resource; everything when `None`.
    pub(super) allowed: Option<BTreeSet<(String, String)>>,
    pub(super) shows_managed_fields: bool,
    pub(super) changes: Vec<Change>,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it took effect.
    pub at: Instant,
    /// When the request for it came, which may be long before; `None` for what a test did.
    pub asked: Option<Instant>,
    /// The path of the object.
    pub path: String,
    /// The manager that made it.
    pub manager: String,
    /// The object before it, without managedFields; `Null` if it made the object.
    pub before: Value,
    /// The object after it, without managedFields; `Null` if it deleted the object.
    pub after: Value,
}

struct Object {
    /// The object without managedFields, which are made from `owners` when it is shown.
    value: Value,
    /// The manager that last changed each field.
    owners: BTreeMap<FieldPath, String>,
}

type FieldPath = Vec<String>;

/// A field, or one value of it, that an admission webhook or a validation of its own would refuse.
pub(super) struct Refused {
    /// A JSON pointer into the patch.
    pub(super) pointer: String,
    /// Any value when `None`.
    pub(super) value: Option<Value>,
    /// 400 or 422; 403 as an admission policy refuses.
    pub(super) status: u16,
}

/// What the API server answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Objects {
    pub(super) fn new() -> Self {
        Self {
            stored: BTreeMap::new(),
            revision: 1000,
            created: 0,
            refused: Vec::new(),
            tokens: BTreeSet::new(),
            allowed: None,
            shows_managed_fields: true,
            changes: Vec::new(),
        }
    }

    /// Creates the object, or replaces it as if it had been deleted before. It gets a uid unless it brings one.
    pub fn put(&mut self, path: &str, mut value: Value) {
        self.created += 1;
        if value["metadata"]["uid"].is_null() {
            value["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.created));
        }
        let fresh = Object { value: Value::Null, owners: BTreeMap::new() };
        self.stored.insert(path.to_owned(), fresh);
        self.store(path, value, CONTROLLER, None);
    }

    /// Deletes the object.
    pub fn remove(&mut self, path: &str) {
        if let Some(object) = self.stored.remove(path) {
            self.log(path, CONTROLLER, None, object.value, Value::Null);
        }
    }

    /// The object as a GET would show it.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.stored.get(path).map(|object| self.show(object))
    }

    /// Changes an object as the client of this name would. Panics when there is none.
    pub fn edit(&mut self, path: &str, manager: &str, change: impl FnOnce(&mut Value)) {
        let object = self.stored.get(path);
        let mut value = object.unwrap_or_else(|| panic!("no object at {path} to edit")).value.clone();
        change(&mut value);
        self.store(path, value, manager, None);
    }

    fn log(&mut self, path: &str, manager: &str, asked: Option<Instant>, before: Value, after: Value) {
        let (path, manager) = (path.to_owned(), manager.to_owned());
        self.changes.push(Change { at: Instant::now(), asked, path, manager, before, after });
    }

    /// Makes `value` the object; a new version only when that changes anything.
    fn store(&mut self, path: &str, mut value: Value, manager: &str, asked: Option<Instant>) {
        let object = self.stored.get_mut(path).expect("the callers have seen it");
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            // A client that changes or removes these changes nothing; a new object brings its uid.
            match object.value.pointer("/metadata/resourceVersion") {
                Some(version) => metadata.insert("resourceVersion".to_owned(), version.clone()),
                None => metadata.remove("resourceVersion"),
            };
            if let Some(uid) = object.value.pointer("/metadata/uid") {
                metadata.insert("uid".to_owned(), uid.clone());
            }
        }
        if value == object.value {
            return;
        }
        let before = fields(&object.value);
        let after = fields(&value);
        object.owners.retain(|path, _| after.contains_key(path));
        for (path, value) in &after {
            if before.get(path) != Some(value) {
                object.owners.insert(path.clone(), manager.to_owned());
            }
        }
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let before = std::mem::replace(&mut object.value, value.clone());
        self.log(path, manager, asked, before, value);
    }

    fn show(&self, object: &Object) -> Value {
        let mut value = object.value.clone();
        if self.shows_managed_fields {
            value["metadata"]["managedFields"] = managed_fields(object);
        }
        value
    }

    /// Answers a request and does what it asks for.
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        self.try_answer(request).unwrap_or_else(|refusal| refusal.answer())
    }

    fn try_answer(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let authenticated = request.bearer_token().is_some_and(|token| self.tokens.contains(token));
        if !authenticated {
            return Err(Refusal::new(401, "Unauthorized", "Unauthorized"));
        }
        let path = request.path();
        let Some(place) = Place::parse(path) else {
            return Ok(Answer {
                status: 404,
                content_type: "text/plain; charset=utf-8",
                body: "404 page not found\n".to_owned(),
            });
        };
        let verb = match request.method.as_str() {
            "GET" => "get",
            "PATCH" => "patch",
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return Err(Refusal::new(405, "MethodNotAllowed", message));
            }
        };
        self.authorize(verb, &place)?;
        let metadata_only = wants_metadata_only(request)?;
        if verb == "patch" {
            self.patch(request, &place)?;
        }
        let object = self.stored.get(place.object_path).ok_or_else(|| place.not_found())?;
        let mut shown = self.show(object);
        if metadata_only {
            shown = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": shown["metadata"],
            });
        }
        Ok(Answer { status: 200, content_type: "application/json", body: shown.to_string() })
    }

    fn authorize(&self, verb: &str, place: &Place<'_>) -> Result<(), Refusal> {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        let resource = if place.is_status { format!("{}/status", place.resource) } else { place.resource.to_owned() };
        if allowed.contains(&(verb.to_owned(), resource.clone())) {
            return Ok(());
        }
        let scope = match place.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{} \"{}\" is forbidden: User \"{USER}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
            place.qualified_resource(),
            place.name,
            place.group,
        );
        Err(place.refuse(403, "Forbidden", &message))
    }

    fn patch(&mut self, request: &Request, place: &Place<'_>) -> Result<(), Refusal> {
        let content_type = request.header("Content-Type").unwrap_or_default();
        // Custom resources have no strategy.
        let merge = match content_type.split(';').next().map(str::trim) {
            Some("application/merge-patch+json") => merge,
            Some("application/strategic-merge-patch+json") if place.group.is_empty() => merge_strategically,
            _ => {
                let message = "the body of the request was in an unknown format - accepted media types include: \
                               application/merge-patch+json";
                return Err(Refusal::new(415, "UnsupportedMediaType", message));
            }
        };
        let patch: Value = serde_json::from_str(&request.body).map_err(|error| {
            let message = format!("error decoding patch: {error}");
            Refusal::new(400, "BadRequest", &message)
        })?;
        let object = self.stored.get(place.object_path).ok_or_else(|| place.not_found())?;
        let mut value = object.value.clone();
        merge(&mut value, &patch);
        // Each of the two paths leaves the other's part of the object alone.
        let other = if place.is_status { "spec" } else { "status" };
        if place.has_status() && value[other] != object.value[other] {
            value[other] = object.value[other].clone();
        }
        if request.query("fieldValidation") == Some("Strict") {
            place.check_names(&value)?;
        }
        let changes = |pointer: &str| {
            let said = patch.pointer(pointer).filter(|said| !said.is_null());
            said.filter(|said| Some(*said) != object.value.pointer(pointer))
        };
        if changes("/metadata/resourceVersion").is_some() {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes \
                 to the latest version and try again",
                place.qualified_resource(),
                place.name,
            );
            return Err(place.refuse(409, "Conflict", &message));
        }
        if let Some(uid) = changes("/metadata/uid") {
            return Err(place.invalid(422, "metadata.uid", &format!("Invalid value: {uid}: field is immutable")));
        }
        if !value["metadata"].is_object() {
            return Err(place.invalid(422, "metadata", "Required value"));
        }
        place.check_types(&value)?;
        for Refused { pointer, value, status } in &self.refused {
            let Some(said) = patch.pointer(pointer) else { continue };
            if value.as_ref().is_none_or(|value| value == said) {
                if *status == 403 {
                    let denial =
                        "ValidatingAdmissionPolicy 'test' with binding 'test' denied request: refused by the test";
                    let message = format!("{} \"{}\" is forbidden: {denial}", place.qualified_resource(), place.name);
                    return Err(place.refuse(403, "Forbidden", &message));
                }
                let field = pointer.trim_start_matches('/').replace('/', ".");
                return Err(place.invalid(*status, &field, &format!("Invalid value: {said}: refused by the test")));
            }
        }
        // The first word of User-Agent is the name of a client that gives no fieldManager.
        let agent = request.header("User-Agent").unwrap_or("unknown");
        let agent = agent.split('/').next().unwrap_or(agent);
        let manager = request.query("fieldManager").unwrap_or(agent);
        self.store(place.object_path, value, manager, Some(request.at));
        Ok(())
    }
}

/// What a path names.
struct Place<'a> {
    group: &'a str,
    namespace: Option<&'a str>,
    resource: &'a str,
    name: &'a str,
    /// Whether it is the object's subresource `status`.
    is_status: bool,
    /// The path of the object itself.
    object_path: &'a str,
}

impl<'a> Place<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let (path, is_status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => return None,
        };
        let (namespace, resource, name) = match rest {
            ["namespaces", namespace, resource, name] => (Some(*namespace), *resource, *name),
            [resource, name] => (None, *resource, *name),
            _ => return None,
        };
        let place = Self { group, namespace, resource, name, is_status, object_path: path };
        (place.has_status() || !is_status).then_some(place)
    }

    /// Whether the status is a subresource; a GameServer's is, too, but nobody here writes it.
    fn has_status(&self) -> bool {
        self.group.is_empty() && self.resource == "pods"
    }

    /// The name of the resource, such as `gameservers.game.kruise.io`.
    fn qualified_resource(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// What `fieldValidation=Strict` asks for: no field in spec that the schema does not have.
    fn check_names(&self, value: &Value) -> Result<(), Refusal> {
        let unknown = self.spec_of(value).find(|(name, _)| GAME_SERVER_SPEC.iter().all(|known| known.name != *name));
        match unknown {
            // The API server quotes the whole object before it names the fault.
            Some((name, _)) => Err(self.invalid(
                422,
                "patch",
                &format!(
                    "Invalid value: {:?}: strict decoding error: unknown field \"spec.{name}\"",
                    value.to_string()
                ),
            )),
            None => Ok(()),
        }
    }

    /// What the schema asks for.
    fn check_types(&self, value: &Value) -> Result<(), Refusal> {
        for (name, value) in self.spec_of(value) {
            if let Some(field) = GAME_SERVER_SPEC.iter().find(|field| field.name == name && !(field.holds)(value)) {
                let path = format!("spec.{name}");
                let rule = format!("Invalid value: {value}: {path} in body must be of type {}", field.type_name);
                return Err(self.invalid(422, &path, &rule));
            }
        }
        Ok(())
    }

    /// The fields of a GameServer's spec; of another object none, since its schema is not known here.
    fn spec_of<'v>(&self, value: &'v Value) -> impl Iterator<Item = (&'v str, &'v Value)> + use<'v> {
        let is_game_server = self.group == "game.kruise.io" && self.resource == "gameservers";
        let spec = value["spec"].as_object().filter(|_| is_game_server);
        spec.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }

    /// A refusal such as `gameservers.game.kruise.io "gs-0" is invalid: spec.x: ...`, with the field as its cause.
    fn invalid(&self, status: u16, field: &str, rule: &str) -> Refusal {
        let message = format!("{} \"{}\" is invalid: {field}: {rule}", self.qualified_resource(), self.name);
        let reason = if status == 400 { "BadRequest" } else { "Invalid" };
        let mut refusal = self.refuse(status, reason, &message);
        if let Some(details) = &mut refusal.details {
            details["causes"] = json!([{"reason": "FieldValueInvalid", "message": rule, "field": field}]);
        }
        refusal
    }

    fn not_found(&self) -> Refusal {
        let message = format!("{} \"{}\" not found", self.qualified_resource(), self.name);
        self.refuse(404, "NotFound", &message)
    }

    fn refuse(&self, status: u16, reason: &'static str, message: &str) -> Refusal {
        let mut details = json!({"name": self.name, "kind": self.resource});
        if !self.group.is_empty() {
            details["group"] = json!(self.group);
        }
        Refusal { details: Some(details), ..Refusal::new(status, reason, message) }
    }
}

/// A field of a GameServer's spec.
struct SpecField {
    name: &'static str,
    type_name: &'static str,
    holds: fn(&Value) -> bool,
}

/// As in OpenKruiseGame's CustomResourceDefinition.
const GAME_SERVER_SPEC: [SpecField; 5] = [
    SpecField { name: "opsState", type_name: "string", holds: Value::is_string },
    SpecField { name: "updatePriority", type_name: "integer or string", holds: is_int_or_string },
    SpecField { name: "deletionPriority", type_name: "integer or string", holds: is_int_or_string },
    SpecField { name: "networkDisabled", type_name: "boolean", holds: Value::is_boolean },
    SpecField { name: "containers", type_name: "array", holds: Value::is_array },
];

fn is_int_or_string(value: &Value) -> bool {
    value.is_i64() || value.is_string()
}

struct Refusal {
    status: u16,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Refusal {
    fn new(status: u16, reason: &'static str, message: &str) -> Self {
        Self { status, reason, message: message.to_owned(), details: None }
    }

    fn answer(self) -> Answer {
        let mut body = status_object(self.status, self.reason, &self.message);
        if let Some(details) = self.details {
            body["details"] = details;
        }
        Answer { status: self.status, content_type: "application/json", body: body.to_string() }
    }
}

/// The object of kind Status with which an API server refuses.
pub(super) fn status_object(status: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status,
    })
}

/// Whether the first thing in the header Accept that this server has is the metadata alone.
fn wants_metadata_only(request: &Request) -> Result<bool, Refusal> {
    let accepted = request.header("Accept").unwrap_or("*/*");
    for choice in accepted.split(',') {
        let words: Vec<&str> = choice.split(';').map(str::trim).collect();
        if !matches!(words[0], "application/json" | "application/*" | "*/*") {
            continue;
        }
        let says = |word| words.contains(&word);
        if says("as=PartialObjectMetadata") && says("g=meta.k8s.io") && says("v=v1") {
            return Ok(true);
        }
        if !words.iter().any(|word| word.starts_with("as=")) {
            return Ok(false);
        }
    }
    let message = "only the following media types are accepted: application/json, \
                   application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    Err(Refusal::new(406, "NotAcceptable", message))
}

/// Every field of an object that someone can own, with its value. A list is one field.
fn fields(object: &Value) -> BTreeMap<FieldPath, Value> {
    let mut found = BTreeMap::new();
    collect_fields(object, &mut Vec::new(), &mut found);
    found
}

fn collect_fields(value: &Value, path: &mut FieldPath, found: &mut BTreeMap<FieldPath, Value>) {
    if is_nobodys(path) {
        return;
    }
    match value.as_object() {
        Some(fields) if path.is_empty() || !fields.is_empty() => {
            for (name, value) in fields {
                path.push(name.clone());
                collect_fields(value, path, found);
                path.pop();
            }
        }
        // Null, which is what an object was before it was made.
        _ if path.is_empty() => {}
        _ => {
            found.insert(path.clone(), value.clone());
        }
    }
}

/// The API server keeps these itself and writes no owner down.
fn is_nobodys(path: &[String]) -> bool {
    match path {
        [only] => only == "apiVersion" || only == "kind",
        [first, second] if first == "metadata" => matches!(
            second.as_str(),
            "name" | "namespace" | "uid" | "resourceVersion" | "generation" | "creationTimestamp"
        ),
        _ => false,
    }
}

/// One entry a manager, as `metadata.managedFields` has it, with the fields that it was the last to change.
fn managed_fields(object: &Object) -> Value {
    let mut trees: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (path, manager) in &object.owners {
        let mut tree = trees.entry(manager).or_default();
        for name in path {
            tree = tree
                .entry(format!("f:{name}"))
                .or_insert_with(|| json!({}))
                .as_object_mut()
                .expect("every node is made as an object");
        }
    }
    let entry = |(manager, tree): (&str, Map<String, Value>)| {
        json!({
            "manager": manager,
            "operation": "Update",
            "apiVersion": object.value["apiVersion"],
            "fieldsType": "FieldsV1",
            "fieldsV1": tree,
        })
    };
    trees.into_iter().map(entry).collect()
}
