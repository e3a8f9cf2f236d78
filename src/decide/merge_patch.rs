//! Owns how changed fields become a JSON merge-patch (RFC 7386).

use serde_json::{Map, Value};

use crate::config;

/// The merge-patch that makes the changes, each an RFC 6901 pointer and a value; `None` removes the field.
pub fn merge_patch<'c>(changes: impl IntoIterator<Item = (&'c str, Option<Value>)>) -> Value {
    let mut patch = Value::Object(Map::new());
    for (pointer, value) in changes {
        let mut at = &mut patch;
        for key in config::pointer_keys(pointer) {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[key];
        }
        *at = value.unwrap_or(Value::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn removals_are_nulls() {
        let changes =
            [("/metadata/labels/a", None), ("/metadata/labels/b~1c~0d", Some(json!("x"))), ("/spec/n", Some(json!(1)))];
        let patch = json!({"metadata": {"labels": {"a": null, "b/c~d": "x"}}, "spec": {"n": 1}});
        assert_eq!(merge_patch(changes), patch);
    }
}
