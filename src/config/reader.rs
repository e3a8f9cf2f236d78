//! Owns reading the file's tree: maps with their allowed keys, lists, numbers and texts, each problem with the path of its
//! key, the rule and the value (SPEC 2.7). Goes on after a problem, so that all of them are told at once. Refuses to know
//! which key means what.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::{Kind, Node};
use crate::excerpt::{MAX_CHARS, escape, excerpt};

/// What was found of a file by now.
pub(super) struct Checker<'a> {
    /// Looks up the variables of `${SELF:VAR}`.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A value and the path of its key.
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) node: &'n Node,
}

/// A map whose keys are known to be allowed.
pub(super) struct Keys<'n> {
    pub(super) path: String,
    pub(super) entries: &'n [(String, Node)],
}

impl<'n> Keys<'n> {
    pub(super) fn path(&self, key: &str) -> String {
        let key = escape(key, MAX_CHARS);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn get(&self, key: &str) -> Option<At<'n>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(At { path: self.path(key), node })
    }
}

impl Checker<'_> {
    pub(super) fn refuse(&mut self, at: &At, rule: impl Display) {
        self.problems.push(format!("{}: must {rule}, got {}", at.path, shown(at.node)));
    }

    pub(super) fn missing(&mut self, path: String, rule: &str) {
        self.problems.push(format!("{path}: must {rule}, got nothing"));
    }

    /// A key stands once in its map, also where this sidecar gives the map no meaning (2.7).
    pub(super) fn repeated_keys(&mut self, path: &str, node: &Node) {
        match node {
            Node::Map(entries) => {
                let mut seen = BTreeSet::new();
                let map = Keys { path: path.to_owned(), entries };
                for (key, value) in entries {
                    let path = map.path(key);
                    if !seen.insert(key) {
                        self.problems.push(format!("{path}: must stand here once, got it again"));
                    }
                    self.repeated_keys(&path, value);
                }
            }
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.repeated_keys(&format!("{path}[{index}]"), item);
                }
            }
            Node::Null | Node::Scalar { .. } => {}
        }
    }

    pub(super) fn keys<'n>(&mut self, at: &At<'n>, allowed: &[&str]) -> Option<Keys<'n>> {
        let Node::Map(entries) = at.node else {
            self.refuse(at, format_args!("be a map of {}", allowed.join(", ")));
            return None;
        };
        let keys = Keys { path: at.path.clone(), entries };
        for (key, _) in entries.iter().filter(|(key, _)| !allowed.contains(&key.as_str())) {
            let rule = match key.as_str() {
                "markerPolicies" => "be spelled markerPolices, as OpenKruiseGame's sidecars do".to_owned(),
                "podOwner" => "not be given: name the object in target.name".to_owned(),
                _ => format!("be one of {}", allowed.join(", ")),
            };
            self.problems.push(format!("{}: must {rule}, got an unknown key", keys.path(key)));
        }
        Some(keys)
    }

    pub(super) fn list<'n>(&mut self, at: &At<'n>, counts: RangeInclusive<usize>, of: &str) -> Vec<At<'n>> {
        let (least, most) = (counts.start(), counts.end());
        match at.node {
            Node::List(items) if counts.contains(&items.len()) => items
                .iter()
                .enumerate()
                .map(|(index, node)| At { path: format!("{}[{index}]", at.path), node })
                .collect(),
            Node::List(items) => {
                self.problems.push(format!(
                    "{}: must be a list of {least} to {most} {of}, got {}",
                    at.path,
                    items.len()
                ));
                Vec::new()
            }
            _ => {
                self.refuse(at, format_args!("be a list of {of}"));
                Vec::new()
            }
        }
    }

    pub(super) fn integer(&mut self, keys: &Keys, key: &str, range: RangeInclusive<u32>, default: u32) -> u32 {
        let Some(at) = keys.get(key) else { return default };
        if let Node::Scalar { kind: Kind::Integer(value), .. } = at.node
            && let Ok(value) = u32::try_from(*value)
            && range.contains(&value)
        {
            return value;
        }
        self.refuse(&at, format_args!("be {} to {}", range.start(), range.end()));
        default
    }

    pub(super) fn seconds(&mut self, keys: &Keys, key: &str, range: RangeInclusive<u32>, default: u32) -> Duration {
        Duration::from_secs(self.integer(keys, key, range, default).into())
    }

    /// The text of any scalar, as it stands in the file.
    pub(super) fn text<'n>(&mut self, at: &At<'n>) -> Option<&'n str> {
        if let Node::Scalar { text, .. } = at.node {
            return Some(text);
        }
        self.refuse(at, "be a string");
        None
    }

    pub(super) fn parsed<T>(&mut self, at: &At, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(at)?;
        parse(text).map_err(|rule| self.refuse(at, rule)).ok()
    }

    pub(super) fn optional<T>(
        &mut self,
        keys: &Keys,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        keys.get(key).and_then(|at| self.parsed(&at, parse))
    }

    pub(super) fn required<T>(
        &mut self,
        keys: &Keys,
        key: &str,
        rule: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match keys.get(key) {
            Some(at) => self.parsed(&at, parse),
            None => {
                self.missing(keys.path(key), rule);
                None
            }
        }
    }
}

/// A value as a message shows it.
pub(super) fn shown(node: &Node) -> String {
    match node {
        Node::Null => "nothing".into(),
        Node::Scalar { text, kind: Kind::Text } => excerpt(text),
        Node::Scalar { text, .. } => escape(text, MAX_CHARS),
        Node::List(_) => "a list".into(),
        Node::Map(_) => "a map".into(),
    }
}
