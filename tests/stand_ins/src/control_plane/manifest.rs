//! Owns the project's manifests as objects, and the path of each at the API server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::kustomize;

/// The text of a file of deploy/.
pub fn deploy(file: &str) -> String {
    let path = kustomize::deploy().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of a kustomization of deploy/, by its folder.
pub fn built(folder: &str) -> Vec<Value> {
    static BUILT: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || kustomize::build(&kustomize::deploy().join(folder)).unwrap_or_else(|why| panic!("{folder}: {why}"));
    built.entry(folder.to_owned()).or_insert_with(build).clone()
}

/// The same, with its admission policies for the accounts of its own namespace alone.
pub fn built_alone(folder: &str, namespace: &str) -> Vec<Value> {
    let (policies, objects): (Vec<_>, Vec<_>) = built(folder).into_iter().partition(is_of_a_policy);
    objects.into_iter().chain(limited_to(policies, namespace)).collect()
}

/// Whether this is an admission policy or the binding of one.
pub fn is_of_a_policy(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.starts_with("ValidatingAdmissionPolicy"))
}

/// The one object of this kind.
#[track_caller]
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    object
}

/// The objects of a file of deploy/ that is no kustomization, in a namespace as kustomize's `namespace` puts them.
pub fn in_namespace(file: &str, namespace: &str) -> Vec<Value> {
    let mut objects = objects(&deploy(file));
    for object in &mut objects {
        let key = if object["kind"] == "Namespace" { "name" } else { "namespace" };
        object["metadata"][key] = namespace.into();
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = namespace.into();
        }
    }
    objects
}

/// An admission policy of deploy/ that applies to the accounts of one namespace, under a name of its own.
pub fn policy_in(file: &str, namespace: &str) -> Vec<Value> {
    limited_to(objects(&deploy(file)), namespace)
}

/// Admission policies that hold for the accounts of one namespace, under names of their own.
pub fn limited_to(mut objects: Vec<Value>, namespace: &str) -> Vec<Value> {
    for object in &mut objects {
        object["metadata"].as_object_mut().expect("an object has metadata").remove("namespace");
        let name = format!("{}-{namespace}", object["metadata"]["name"].as_str().expect("an object has a name"));
        object["metadata"]["name"] = name.as_str().into();
        if object["kind"] == "ValidatingAdmissionPolicyBinding" {
            object["spec"]["policyName"] = name.into();
        } else {
            let own = format!("request.userInfo.username.startsWith('system:serviceaccount:{namespace}:')");
            let conditions = object["spec"]["matchConditions"].as_array_mut().expect("a policy has conditions");
            conditions.push(json!({"name": "the-tests-own-namespace", "expression": own}));
        }
    }
    objects
}

/// The objects of a YAML text.
pub fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("a manifest is YAML"))
        .collect()
}

/// The path of an object.
pub fn path(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").expect("an object has an apiVersion");
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let kind = text("/kind").expect("an object has a kind").to_lowercase();
    let resource = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let name = text("/metadata/name").expect("an object has a name");
    match text("/metadata/namespace") {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{resource}/{name}"),
        None => format!("{root}/{resource}/{name}"),
    }
}
