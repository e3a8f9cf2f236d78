//! Owns reading the file's tree: maps, lists, numbers and texts, each problem with the path of its key, the rule and the
//! value (behaviour 2.7). Goes on after a problem, so that all of them are reported at once. Refuses to know what a key
//! means.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::file::{Node, ScalarType};
use super::keys::{MAPS, Map};
use super::syntax::{self, without_secrets};
use super::{spelling, warnings};
use crate::excerpt::{MAX_CHARS, escape, excerpt};

/// What was found of a file by now.
pub(super) struct Checker<'a> {
    /// Looks up the variables of `${SELF:VAR}`.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// The path of each endpoint's policies, which have two spellings.
    pub(super) policy_lists: Vec<String>,
}

/// A value, or the place where it is missing, and the way to it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) node: Option<&'a Node>,
    /// What it is in, and where in it.
    parent: Option<(&'a At<'a>, Step<'a>)>,
    /// Whether it belongs to what may be a secret, be it under another name.
    is_secret: bool,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        At { node: Some(node), parent: None, is_secret: false }
    }

    fn child(&'a self, step: Step<'a>, node: Option<&'a Node>) -> Self {
        At {
            node,
            parent: Some((self, step)),
            is_secret: self.is_secret || matches!(step, Step::Key(key) if is_secret(key)),
        }
    }

    /// The key as a message names it, such as `plugins[0].config`.
    pub(super) fn path(&self) -> String {
        let Some((parent, step)) = self.parent else { return String::new() };
        let path = parent.path();
        match step {
            Step::Index(index) => format!("{path}[{index}]"),
            Step::Key(key) if path.is_empty() => escape(key, MAX_CHARS),
            Step::Key(key) => format!("{path}.{}", escape(key, MAX_CHARS)),
        }
    }

    /// The keys of a map and what stands at each; none of anything else. A message names a header by its place: its name
    /// may hold a secret, as in `{Authorization:Bearer x}`, which YAML reads as one key, wherever it stands.
    pub(super) fn entries(&'a self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let entries: &[(String, Node)] = if let Some(Node::Map(entries)) = self.node { entries } else { &[] };
        entries.iter().enumerate().map(move |(index, (key, node))| {
            let step = if self.is_secret || key.contains([':', ' ']) { Step::Index(index) } else { Step::Key(key) };
            (key.as_str(), self.child(step, Some(node)))
        })
    }

    /// The items of a list; none of anything else.
    fn items(&'a self) -> impl ExactSizeIterator<Item = At<'a>> {
        let items: &[Node] = if let Some(Node::List(items)) = self.node { items } else { &[] };
        items.iter().enumerate().map(|(index, node)| self.child(Step::Index(index), Some(node)))
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.node.and_then(Node::text)
    }

    /// The value as a message shows it: nothing of a header, and of a URL what is no secret.
    fn shown(&self) -> String {
        match self.node {
            None | Some(Node::Null) => "nothing".into(),
            Some(Node::List(_)) => "a list".into(),
            Some(Node::Map(_)) => "a map".into(),
            Some(Node::Scalar { .. }) if self.is_secret => NOT_SHOWN.into(),
            Some(Node::Scalar { text, scalar_type: ScalarType::Text }) => {
                let quoted = warnings::has_typographic_quotes(text);
                let remark = if quoted { " (its typographic quotes are part of the text)" } else { "" };
                let is_url = matches!(self.parent, Some((_, Step::Key("url"))));
                format!("{}{remark}", excerpt(&if is_url { without_secrets(text) } else { text.clone() }))
            }
            Some(Node::Scalar { text, .. }) => escape(text, MAX_CHARS),
        }
    }
}

/// Whether what stands at this key may be a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["header", "body", "auth", "password"].iter().any(|part| key.contains(part))
}

/// A map that is being read.
pub(super) struct Keys<'a> {
    at: &'a At<'a>,
    map: &'static Map,
    /// The keys that were looked at.
    taken: Vec<&'static str>,
    /// Keys that mean nothing here.
    pub(super) ignored: &'static [&'static str],
    /// How many problems there were before it.
    before: usize,
}

impl<'a> Keys<'a> {
    /// The value of a key, or the place where it is missing.
    pub(super) fn take(&mut self, key: &'static str) -> At<'a> {
        debug_assert!(self.map.keys.contains(&key), "{key} is missing in MAPS");
        self.taken.push(key);
        self.at.child(Step::Key(key), self.at.entries().find(|(name, _)| *name == key).and_then(|(_, at)| at.node))
    }

    /// The keys of the map that are there and that nothing has looked at, and their values.
    pub(super) fn left(&self) -> impl Iterator<Item = (&'static str, At<'a>)> {
        let left = self.map.keys.iter().filter(|key| !self.taken.contains(*key));
        left.filter_map(|key| {
            let (_, at) = self.at.entries().find(|(name, _)| name == key)?;
            Some((*key, self.at.child(Step::Key(key), at.node)))
        })
    }
}

/// In place of what may be a secret.
pub(super) const NOT_SHOWN: &str = "something else (a secret perhaps, not shown)";

impl Checker<'_> {
    pub(super) fn problem(&mut self, at: &At, rule: &str, got: &str) {
        let path = at.path();
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        self.problems.push(format!("{path}must {rule}, got {got}"));
    }

    pub(super) fn refuse(&mut self, at: &At, rule: &str) {
        self.problem(at, rule, &at.shown());
    }

    /// What holds for every value, whether this sidecar gives it a meaning or not: a key stands once in its map.
    pub(super) fn check_everywhere(&mut self, at: &At) {
        // A set of keys; of JSON values, since the binary has that map already.
        let mut seen = BTreeMap::new();
        let in_any_case = if at.is_secret { ", in any case" } else { "" };
        for (key, entry) in at.entries() {
            let key = if at.is_secret { key.to_ascii_lowercase() } else { key.to_owned() };
            if seen.insert(key, Value::Null).is_some() {
                self.problem(&entry, &format!("stand here once{in_any_case}"), "it again");
            }
            self.check_everywhere(&entry);
        }
        at.items().for_each(|item| self.check_everywhere(&item));
        if let Some(Node::Scalar { text, .. }) = at.node
            && warnings::has_typographic_quotes(text)
        {
            self.warnings.push(warnings::of_quotes(&at.path()));
        }
    }

    pub(super) fn keys<'a>(&self, at: &'a At<'a>, path: &str) -> Keys<'a> {
        let map = MAPS.iter().find(|map| map.path == path).expect("each map that is read is in MAPS");
        Keys { at, map, taken: Vec::new(), ignored: &[], before: self.problems.len() }
    }

    /// Whether it is a map. A key that is not one of the map's is a problem.
    pub(super) fn end(&mut self, Keys { at, map, ignored, before, .. }: Keys) -> Option<()> {
        if !matches!(at.node, Some(Node::Map(_))) {
            // That its keys are missing follows from this one.
            self.problems.truncate(before);
            self.refuse(at, &format!("be a map of {}", map.keys.join(", ")));
            return None;
        }
        for (key, entry) in at.entries().filter(|(key, _)| !map.keys.contains(key) && !ignored.contains(key)) {
            self.problems.push(match entry.parent {
                Some((_, Step::Key(_))) => {
                    let advice = advice(key, map, &at.path());
                    format!("{}: unknown key {}; {advice}", entry.path(), escape(key, MAX_CHARS))
                }
                // A header, perhaps, whose name and value YAML took for one key.
                _ => format!("{}: unknown key, not shown; write a space after the colon", entry.path()),
            });
        }
        Some(())
    }

    /// The entries of a map of strings; none where it is missing.
    pub(super) fn strings<'a>(&mut self, at: &'a At<'a>) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        if !matches!(at.node, None | Some(Node::Map(_))) {
            self.refuse(at, "be a map of strings, such as {key: value}");
        }
        at.entries()
    }

    /// The items of a list of 1 to `most`; none where it is not one.
    pub(super) fn list<'a>(
        &mut self,
        at: &'a At<'a>,
        most: usize,
        rule: &str,
    ) -> impl Iterator<Item = At<'a>> + use<'a> {
        let count = at.items().len();
        let is_legal = (1..=most).contains(&count);
        match at.node {
            Some(Node::List(_)) if is_legal => {}
            Some(Node::List(_)) => self.problem(at, rule, &count.to_string()),
            _ => self.refuse(at, rule),
        }
        at.items().take(if is_legal { count } else { 0 })
    }

    pub(super) fn integer(&mut self, at: &At, range: RangeInclusive<u32>, default: u32) -> u32 {
        let (least, most) = (range.start(), range.end());
        match at.node {
            None => return default,
            Some(Node::Scalar { scalar_type: ScalarType::Integer(value), .. }) => match u32::try_from(*value) {
                Ok(value) if range.contains(&value) => return value,
                _ => self.refuse(at, &format!("be {least} to {most}")),
            },
            Some(_) => self.wrong_type(at, &format!("be an integer from {least} to {most}")),
        }
        default
    }

    pub(super) fn seconds(&mut self, at: &At, range: RangeInclusive<u32>, default: u32) -> Duration {
        Duration::from_secs(self.integer(at, range, default).into())
    }

    /// A boolean, false where it is missing.
    pub(super) fn boolean(&mut self, at: &At) -> bool {
        match at.node {
            None => false,
            // YAML has True and TRUE, too.
            Some(Node::Scalar { text, scalar_type: ScalarType::Bool }) => text.eq_ignore_ascii_case("true"),
            Some(_) => {
                self.refuse(at, "be true or false");
                false
            }
        }
    }

    pub(super) fn number(&mut self, at: &At, default: f64) -> f64 {
        match at.node {
            None => {}
            Some(Node::Scalar { scalar_type: ScalarType::Integer(value), .. }) => return *value as f64,
            Some(Node::Scalar { scalar_type: ScalarType::Float(value), .. }) if value.is_finite() => return *value,
            Some(_) => self.wrong_type(at, "be a number"),
        }
        default
    }

    /// Not a number at all: the message says what it is instead, and which number was probably meant.
    fn wrong_type(&mut self, at: &At, rule: &str) {
        let (shown, node) = (at.shown(), at.node);
        let got = match node {
            Some(Node::Scalar { text, scalar_type: ScalarType::Text }) => {
                let number = text.trim_matches(warnings::is_typographic_quote).trim_end_matches('s');
                match number.parse::<i64>() {
                    Ok(number) => format!("the string {shown}; write {number} without quotes and unit"),
                    Err(_) => format!("the string {shown}"),
                }
            }
            Some(Node::Scalar { scalar_type: ScalarType::Bool, .. }) => format!("the boolean {shown}"),
            _ => shown,
        };
        self.problem(at, rule, &got);
    }

    /// The text of any scalar, as it stands in the file, where `parse` takes it; a missing one is no problem.
    pub(super) fn parsed<T>(&mut self, at: &At, parse: &dyn Fn(&str) -> Result<T, String>) -> Option<T> {
        match at.node? {
            Node::Scalar { text, .. } => parse(text).map_err(|rule| self.refuse(at, &rule)).ok(),
            _ => {
                self.refuse(at, "be a string");
                None
            }
        }
    }

    /// The same, where a missing one is a problem: the one that an empty text is.
    pub(super) fn required<T>(&mut self, at: &At, parse: &dyn Fn(&str) -> Result<T, String>) -> Option<T> {
        match (at.node, parse("")) {
            (None, Err(rule)) => self.refuse(at, &rule),
            _ => return self.parsed(at, parse),
        }
        None
    }
}

/// What to write in place of a key that `map`, at this path, does not have.
fn advice(key: &str, map: &Map, path: &str) -> String {
    let others: Vec<String> =
        MAPS.iter().filter(|other| other.keys.contains(&key)).map(|other| other.path_near(path)).collect();
    match nearest(key, map.keys) {
        _ if !others.is_empty() => format!("it belongs under {}", others.join(" or ")),
        _ if key == "podOwner" => "name the object in target.name".into(),
        _ if key == "<<" => "YAML's merge is not used: write the keys out, or use an alias for a whole value".into(),
        _ if key.contains(spelling::FULL_WIDTH_COLON) => spelling::COLON.into(),
        _ if map.keys.contains(&syntax::without_invisible_ends(key)) => {
            format!("write {} without the invisible character beside it", syntax::without_invisible_ends(key))
        }
        Some(known) => format!("did you mean {known}?"),
        None => "docs/configuration.md lists all keys".into(),
    }
}

/// The key whose beginning and end `key` shares most of, where at most two letters of the shorter one are left over.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let shared = |name: &&'static str| {
        let name = name.to_ascii_lowercase();
        let (a, b) = (key.as_bytes(), name.as_bytes());
        let same = |(a, b): &(&u8, &u8)| a == b;
        let start = a.iter().zip(b).take_while(same).count();
        let end = a[start..].iter().rev().zip(b[start..].iter().rev()).take_while(same).count();
        let (shorter, shared) = (a.len().min(b.len()), start + end);
        (2 * shared >= shorter && shorter - shared <= 2 && shared > 1).then_some(shared)
    };
    known.iter().filter_map(|name| Some((shared(name)?, *name))).max_by_key(|(shared, _)| *shared).map(|(_, name)| name)
}
