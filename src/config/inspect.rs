//! Owns what `okg-sidecar check` looks at: a config file, Kruise's annotation, or the configs in manifests (behaviour 1.2).

use std::path::PathBuf;

use super::file::{self, Node};
use super::{Checked, Config, KRUISE_PODPROBE, MAX_BYTES, watch};
use crate::excerpt::excerpt;

/// The most bytes of manifests.
const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// A config, and what it is called.
#[derive(Debug)]
pub struct Inspected {
    /// The file, or `ConfigMap NAMESPACE/NAME, KEY`.
    pub name: String,
    /// Whether each line about it begins with its name, since there may be others.
    pub is_in_manifest: bool,
    /// What came of it.
    pub checked: Checked,
}

/// Reads what `run` would read, or manifests in its place.
///
/// # Errors
/// There is no config; the lines say why.
pub fn inspect(path: PathBuf, environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Inspected>, String> {
    let name = path.display().to_string();
    let is_of_kruise = environment(KRUISE_PODPROBE).is_some_and(|value| !value.trim().is_empty());
    let is_there = name == "-" || path.try_exists().unwrap_or(true);
    if is_of_kruise || !is_there {
        let (_, config) = Config::open(path, environment)?;
        let warnings = config.warnings.clone();
        return Ok(vec![Inspected { name, is_in_manifest: false, checked: Checked { config: Ok(config), warnings } }]);
    }
    let bytes = watch::read(&path, MAX_MANIFEST_BYTES).map_err(|(problem, _)| format!("{name}: {problem}"))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(format!("{name}: must have at most {MAX_MANIFEST_BYTES} bytes, got more"));
    }
    let text = str::from_utf8(&bytes).ok().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
    match text.and_then(manifests) {
        None => Ok(vec![Inspected { name, is_in_manifest: false, checked: Config::check(bytes, environment) }]),
        Some(manifests) => {
            let configs =
                manifests.and_then(|objects| configs(&objects)).map_err(|problem| format!("{name}: {problem}"))?;
            let check = |(name, text): (String, String)| Inspected {
                name,
                is_in_manifest: true,
                checked: Config::check(text.into_bytes(), environment),
            };
            Ok(configs.into_iter().map(check).collect())
        }
    }
}

/// The objects of a stream of manifests; none if the text is not one.
fn manifests(text: &str) -> Option<Result<Vec<Node>, String>> {
    let is_object = |node: &Node| node.get("kind").is_some() || node.get("apiVersion").is_some();
    match file::documents(text, MAX_MANIFEST_BYTES) {
        Ok(documents) if documents.iter().any(is_object) => Some(Ok(documents)),
        Ok(_) => None,
        // What is no YAML is a manifest by its looks.
        Err(error) => looks_like_a_manifest(text).then(|| Err(format!("must be YAML: {}", super::shown(&error)))),
    }
}

/// Whether a text that is no YAML document was meant as a manifest.
pub(super) fn looks_like_a_manifest(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("kind:") || line.starts_with("apiVersion:"))
}

/// The names and texts of the configs in ConfigMaps.
fn configs(objects: &[Node]) -> Result<Vec<(String, String)>, String> {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for object in objects {
        add(object, &mut found, &mut others);
    }
    if found.is_empty() {
        let others = if others.is_empty() { "nothing".into() } else { others.join(", ") };
        return Err(format!(
            "must hold a ConfigMap with a config, which is a map with plugins, under a key of data; got {others}"
        ));
    }
    Ok(found)
}

fn add(object: &Node, found: &mut Vec<(String, String)>, others: &mut Vec<String>) {
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let Some(kind) = text(object.get("kind")) else { return };
    if let Some(Node::List(items)) = object.get("items") {
        return items.iter().for_each(|item| add(item, found, others));
    }
    let metadata = object.get("metadata");
    let name = text(metadata.and_then(|metadata| metadata.get("name"))).unwrap_or_default();
    let name = match text(metadata.and_then(|metadata| metadata.get("namespace"))) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    let name = excerpt(&name).trim_matches('`').to_owned();
    let before = found.len();
    let data = object.get("data").filter(|_| kind == "ConfigMap");
    let entries: &[(String, Node)] = if let Some(Node::Map(entries)) = data { entries } else { &[] };
    for (key, value) in entries {
        if let Some(text) = value.text().filter(|text| is_config(text)) {
            found.push((format!("{name}, {}", excerpt(key).trim_matches('`')), text.to_owned()));
        }
    }
    if found.len() == before {
        others.push(name);
    }
}

/// Whether the text of a ConfigMap is a config, be it one with mistakes.
fn is_config(text: &str) -> bool {
    match file::documents(text, 4 * MAX_BYTES) {
        Ok(documents) => documents.iter().any(|document| document.get("plugins").is_some()),
        Err(_) => text.lines().any(|line| line.trim_start().starts_with("plugins")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Vec<String>, String> {
        let objects = manifests(text).expect("it is a manifest")?;
        configs(&objects).map(|configs| configs.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn configs_are_found_in_each_config_map_of_a_stream() {
        let stream = "\
apiVersion: v1
kind: Namespace
metadata: {name: games}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: okg, namespace: games}
data:
  other: 'text: 1'
  config.yaml: |
    plugins: []
  broken.yaml: |
    plugins:
    \t- name
---
# nothing
---
kind: List
items:
- {kind: ConfigMap, metadata: {name: second}, data: {c: 'plugins: [1]'}}
- {kind: Secret, metadata: {name: third}, data: {c: 'plugins: [1]'}}
";
        assert_eq!(
            found(stream),
            Ok(vec![
                "ConfigMap games/okg, config.yaml".into(),
                "ConfigMap games/okg, broken.yaml".into(),
                "ConfigMap second, c".into(),
            ])
        );
        let none =
            "kind: ConfigMap\nmetadata: {name: a}\ndata: {x: y}\n---\nkind: Role\nmetadata: {name: b, namespace: c}";
        assert!(found(none).unwrap_err().ends_with("got ConfigMap a, Role c/b"));
        assert!(manifests("plugins: []").is_none());
        assert!(manifests("plugins: [").is_none());
        assert!(manifests("kind: ConfigMap\ndata: [").unwrap().unwrap_err().starts_with("must be YAML"));
    }
}
