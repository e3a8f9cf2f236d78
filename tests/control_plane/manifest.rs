//! Owns the project's manifests as objects, and where an object has its place at the API server.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// The text of a file of deploy/.
pub fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
