//! Owns reading the file's tree: maps, lists, numbers and texts, each problem with the path of its key, the rule and the
//! value (behaviour 2.7). Goes on after a problem, so that all of them are reported at once. Refuses to know what a key
//! means.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::{Kind, Node};
use super::warnings;
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

/// A value and the path of its key, or the place where it is missing.
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) node: Option<&'n Node>,
}

impl<'n> At<'n> {
    /// The keys and values of a map; none of anything else.
    pub(super) fn entries(&self) -> &'n [(String, Node)] {
        match self.node {
            Some(Node::Map(entries)) => entries,
            _ => &[],
        }
    }

    /// An entry of a map. A message names a header by its place: its name may hold a secret, as in
    /// `{Authorization:Bearer x}`, which YAML reads as one key, wherever it stands.
    pub(super) fn entry(&self, index: usize) -> At<'n> {
        let (key, node) = &self.entries()[index];
        let hidden = self.path.to_ascii_lowercase().contains("header") || key.contains([':', ' ']);
        At { path: if hidden { format!("{}[{index}]", self.path) } else { self.key(key) }, node: Some(node) }
    }

    fn key(&self, key: &str) -> String {
        let key = escape(key, MAX_CHARS);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    fn item(&self, index: usize, node: &'n Node) -> At<'n> {
        At { path: format!("{}[{index}]", self.path), node: Some(node) }
    }
}

/// A map that is being read. Every key that is taken is a known one.
pub(super) struct Keys<'a, 'n> {
    at: &'a At<'n>,
    known: Vec<&'static str>,
    ignored: &'static [&'static str],
    /// How many problems there were before it.
    before: usize,
}

impl<'n> Keys<'_, 'n> {
    /// Accepts keys that mean nothing here.
    pub(super) fn ignore(&mut self, keys: &'static [&'static str]) {
        self.ignored = keys;
    }

    pub(super) fn take(&mut self, key: &'static str) -> At<'n> {
        self.known.push(key);
        let node = self.at.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node);
        At { path: self.at.key(key), node }
    }
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, at: &At, rule: &str, got: &str) {
        let path = if at.path.is_empty() { String::new() } else { format!("{}: ", at.path) };
        self.problems.push(format!("{path}must {rule}, got {got}"));
    }

    pub(super) fn refuse(&mut self, at: &At, rule: &str) {
        self.problem(at, rule, &shown(at.node));
    }

    /// What holds for every value, whether this sidecar gives it a meaning or not: a key stands once in its map.
    pub(super) fn check_everywhere(&mut self, at: &At) {
        let mut seen = BTreeSet::new();
        for (index, (key, _)) in at.entries().iter().enumerate() {
            let entry = at.entry(index);
            if !seen.insert(key.clone()) {
                self.problem(&entry, "stand here once", "it again");
            }
            self.check_everywhere(&entry);
        }
        match at.node {
            Some(Node::List(items)) => {
                items.iter().enumerate().for_each(|(index, item)| self.check_everywhere(&at.item(index, item)));
            }
            Some(Node::Scalar { text, .. }) => self.warnings.extend(warnings::of_quotes(&at.path, text)),
            _ => {}
        }
    }

    pub(super) fn keys<'a, 'n>(&self, at: &'a At<'n>) -> Keys<'a, 'n> {
        Keys { at, known: Vec::new(), ignored: &[], before: self.problems.len() }
    }

    /// Whether it is a map. What was not taken by now is an unknown key.
    pub(super) fn end(&mut self, keys: Keys) -> Option<()> {
        let Keys { at, known, ignored, before } = keys;
        let Some(Node::Map(entries)) = at.node else {
            // That its keys are missing follows from this one.
            self.problems.truncate(before);
            self.refuse(at, &format!("be a map of {}", known.join(", ")));
            return None;
        };
        let after = self.problems.split_off(before);
        let is_unknown = |key: &str| !known.contains(&key) && !ignored.contains(&key);
        for (index, (key, _)) in entries.iter().enumerate().filter(|(_, (key, _))| is_unknown(key)) {
            let meant = match nearest(key, &known) {
                Some(known) => format!("; did you mean {known}?"),
                None if key == "podOwner" => "; name the object in target.name".into(),
                None if key.contains(':') => "; write a space after the colon".into(),
                None => String::new(),
            };
            let rule = format!("be one of {}", known.join(", "));
            self.problem(&at.entry(index), &rule, &format!("an unknown key{meant}"));
        }
        self.problems.extend(after);
        Some(())
    }

    /// The items of a list of 1 to `most`; none where it is not one.
    pub(super) fn list<'n>(&mut self, at: &At<'n>, most: usize, rule: &str) -> Vec<At<'n>> {
        match at.node {
            Some(Node::List(items)) if (1..=most).contains(&items.len()) => {
                return items.iter().enumerate().map(|(index, node)| at.item(index, node)).collect();
            }
            Some(Node::List(items)) => self.problem(at, rule, &items.len().to_string()),
            _ => self.refuse(at, rule),
        }
        Vec::new()
    }

    pub(super) fn integer(&mut self, at: &At, range: RangeInclusive<u32>, default: u32) -> u32 {
        let (least, most) = (range.start(), range.end());
        match at.node {
            None => return default,
            Some(Node::Scalar { kind: Kind::Integer(value), .. }) => match u32::try_from(*value) {
                Ok(value) if range.contains(&value) => return value,
                _ => self.refuse(at, &format!("be {least} to {most}")),
            },
            Some(_) => self.wrong_type(at, &format!("be an integer from {least} to {most}")),
        }
        default
    }

    /// Not a number at all: the message says what it is instead, and which number was probably meant.
    pub(super) fn wrong_type(&mut self, at: &At, rule: &str) {
        let shown = shown(at.node);
        let got = match at.node {
            Some(Node::Scalar { text, kind: Kind::Text }) => {
                let number = text.trim_matches(warnings::is_typographic_quote).trim_end_matches('s');
                match number.parse::<i64>() {
                    Ok(number) => format!("the string {shown}; write {number} without quotes and unit"),
                    Err(_) => format!("the string {shown}"),
                }
            }
            Some(Node::Scalar { kind: Kind::Bool, .. }) => format!("the boolean {shown}"),
            None | Some(_) => shown,
        };
        self.problem(at, rule, &got);
    }

    pub(super) fn seconds(&mut self, at: &At, range: RangeInclusive<u32>, default: u32) -> Duration {
        Duration::from_secs(self.integer(at, range, default).into())
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

    pub(super) fn required<T>(&mut self, at: &At, rule: &str, parse: &dyn Fn(&str) -> Result<T, String>) -> Option<T> {
        if at.node.is_none() {
            self.refuse(at, rule);
        }
        self.parsed(at, parse)
    }
}

/// A value as a message shows it.
pub(super) fn shown(node: Option<&Node>) -> String {
    match node {
        None | Some(Node::Null) => "nothing".into(),
        Some(Node::Scalar { text, kind: Kind::Text }) => shown_text(text),
        Some(Node::Scalar { text, .. }) => escape(text, MAX_CHARS),
        Some(Node::List(_)) => "a list".into(),
        Some(Node::Map(_)) => "a map".into(),
    }
}

/// A text as a message shows it.
pub(super) fn shown_text(text: &str) -> String {
    let remark =
        if warnings::has_typographic_quotes(text) { " (its typographic quotes are part of the text)" } else { "" };
    format!("{}{remark}", excerpt(text))
}

/// The known key that was probably meant: one that differs in two characters that stand together, else one that the key
/// is a part of, else one that is a part of the key.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let mut nearest = None;
    for &name in known {
        let known = name.to_ascii_lowercase();
        let (a, b) = (key.as_bytes(), known.as_bytes());
        let same = |(a, b): &(&u8, &u8)| a == b;
        let start = a.iter().zip(b).take_while(same).count();
        let end = a[start..].iter().rev().zip(b[start..].iter().rev()).take_while(same).count();
        let differ = a.len().max(b.len()) - start - end;
        let rank = match () {
            () if differ <= 2 => 0,
            () if known.contains(&key) => 1,
            () if key.contains(&known) => 2,
            () => continue,
        };
        // Short words lie in everything.
        let likely = differ == 0 || a.len().min(b.len()) >= 4;
        if likely && nearest.is_none_or(|(nearest, _)| (rank, differ) < nearest) {
            nearest = Some(((rank, differ), name));
        }
    }
    nearest.map(|(_, name)| name)
}
