//! Owns RFC 7386, JSON Merge Patch, written from the RFC: the sidecar's own merge would forgive its own mistakes.

use serde_json::{Map, Value};

/// Merges `patch` into `target` by <https://www.rfc-editor.org/rfc/rfc7386#section-2>.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made one above");
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

/// Merges lists of conditions by their types, too, as a strategic merge-patch of a Pod does:
/// <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/#notes-on-the-strategic-merge-patch>.
pub fn merge_strategically(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                match (fields.get_mut(name), change) {
                    (_, Value::Null) => drop(fields.remove(name)),
                    (Some(Value::Array(conditions)), Value::Array(changed)) if name == "conditions" => {
                        changed.iter().for_each(|condition| merge_condition(conditions, condition));
                    }
                    (Some(field), change) => merge_strategically(field, change),
                    (None, change) => merge(fields.entry(name).or_insert(Value::Null), change),
                }
            }
        }
        (target, patch) => merge(target, patch),
    }
}

fn merge_condition(conditions: &mut Vec<Value>, changed: &Value) {
    match conditions.iter_mut().find(|condition| condition["type"] == changed["type"]) {
        Some(condition) => merge(condition, changed),
        None => conditions.push(changed.clone()),
    }
}
