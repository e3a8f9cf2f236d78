//! Owns RFC 7386, JSON Merge Patch, written from the RFC: the sidecar's own merge would forgive its own mistakes.

use serde_json::{Map, Value};

/// Merges `patch` into `target`, as <https://www.rfc-editor.org/rfc/rfc7386#section-2> says.
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
