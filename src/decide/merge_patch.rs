//! Owns how changed fields become a JSON merge-patch (RFC 7386).

use serde_json::{Map, Value};

use super::object::Kind;
use crate::json::pointer_keys;

/// The merge-patch that makes the changes, each an RFC 6901 pointer and a value; null removes the field.
pub fn merge_patch<'c>(changes: impl IntoIterator<Item = (&'c str, Value)>) -> Value {
    let mut patch = Value::Object(Map::new());
    for (pointer, value) in changes {
        let mut at = &mut patch;
        for key in pointer_keys(pointer) {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[key];
        }
        *at = value;
    }
    patch
}

/// The patch of an object of this kind. That of a pod's status is a strategic one, whose list is merged by the conditions'
/// types.
pub fn patch_of<'c>(kind: Kind, changes: impl IntoIterator<Item = (&'c String, &'c Value)>) -> Value {
    let changes = changes.into_iter();
    match kind {
        Kind::GameServer | Kind::Pod | Kind::Target => {
            merge_patch(changes.map(|(pointer, value)| (pointer.as_str(), value.clone())))
        }
        Kind::PodStatus => merge_patch([("/status/conditions", changes.map(|(_, value)| value.clone()).collect())]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn removals_are_nulls() {
        let changes =
            [("/metadata/labels/a", Value::Null), ("/metadata/labels/b~1c~0d", json!("x")), ("/spec/n", json!(1))];
        let patch = json!({"metadata": {"labels": {"a": null, "b/c~d": "x"}}, "spec": {"n": 1}});
        assert_eq!(merge_patch(changes), patch);
    }

    #[test]
    fn conditions_are_a_list() {
        let conditions = [("a/b".to_owned(), json!({"type": "a/b"})), ("c".to_owned(), json!({"type": "c"}))];
        let patch = json!({"status": {"conditions": [{"type": "a/b"}, {"type": "c"}]}});
        assert_eq!(patch_of(Kind::PodStatus, conditions.iter().map(|(name, value)| (name, value))), patch);
    }
}
