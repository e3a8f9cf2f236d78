//! Owns what the YAML says: a tree of values that keeps each scalar's text as it stands in the file, so that a state
//! `None`, `no` or `1` stays that text. Refuses to know what any key means.
//!
//! Types with a derived `Deserialize` cannot say this: they stop at the first problem, forget the path of its key, take
//! the last of repeated keys or none, and turn `1.0` into a number before anybody asks for its text.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most bytes that a config file may have: the YAML scanner's time is quadratic in nesting.
pub const MAX_BYTES: usize = 32 * 1024;

/// The most bytes that a file may hold once its aliases are followed, so that none can expand without bound.
const MAX_EXPANDED_BYTES: usize = 4 * MAX_BYTES;

/// What a value counts beside its text, so that there are 10,000 of them at most.
const VALUE_BYTES: usize = 13;

/// One value of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Scalar {
        text: String,
        scalar_type: ScalarType,
    },
    List(Vec<Node>),
    /// In the order of the file, repeated keys included.
    Map(Vec<(String, Node)>),
}

/// What a plain scalar is by YAML's core schema; a quoted one is always [`ScalarType::Text`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ScalarType {
    Text,
    Bool,
    Integer(i128),
    Float(f64),
}

/// Reads the one document of `text`.
///
/// # Errors
/// What is wrong with it as YAML, with line and column.
pub(super) fn parse(text: &str) -> Result<Node, serde_yaml::Error> {
    let mut tree = Node::Null;
    // serde_yaml gives either the type of a number or its text, never both: the first pass fills in everything but the
    // texts of numbers and booleans, and the second, which knows where those are, asks for them as strings.
    for _ in 0..2 {
        let left = Cell::new(MAX_EXPANDED_BYTES);
        Fill { node: &mut tree, left: &left }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    }
    Ok(tree)
}

/// Reads all documents of `text`, without the texts of numbers and booleans. With aliases followed, they hold at most `most`
/// bytes.
///
/// # Errors
/// What is wrong with one of them as YAML.
pub(super) fn documents(text: &str, most: usize) -> Result<Vec<Node>, serde_yaml::Error> {
    let left = Cell::new(most);
    let read = |document| {
        let mut tree = Node::Null;
        Fill { node: &mut tree, left: &left }.deserialize(document).map(|()| tree)
    };
    serde_yaml::Deserializer::from_str(text).map(read).collect()
}

impl Node {
    /// The value of a key of a map; the last of repeated ones, as the API server has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().rev().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, .. } => Some(text),
            Self::Null | Self::List(_) | Self::Map(_) => None,
        }
    }
}

/// Fills in one node: from [`Node::Null`] in the first pass, from what that found in the second.
struct Fill<'a> {
    node: &'a mut Node,
    /// The bytes that the tree may still take.
    left: &'a Cell<usize>,
}

/// A few hundred bytes of aliases can stand for gigabytes, and a ConfigMap that is changed must not end a running sidecar.
fn take<E: Error>(left: &Cell<usize>, bytes: usize) -> Result<(), E> {
    let rest = left.get().checked_sub(bytes);
    let rule = || E::custom(format_args!("must hold at most {MAX_EXPANDED_BYTES} bytes, aliases followed"));
    left.set(rest.ok_or_else(rule)?);
    Ok(())
}

impl Fill<'_> {
    fn scalar<E>(self, scalar_type: ScalarType) -> Result<(), E> {
        *self.node = Node::Scalar { text: String::new(), scalar_type };
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if matches!(self.node, Node::Null) {
            take(self.left, VALUE_BYTES)?;
        }
        match self.node {
            Node::Scalar { scalar_type: ScalarType::Text, .. } => {
                deserializer.deserialize_ignored_any(IgnoredAny).map(drop)
            }
            Node::Scalar { .. } => deserializer.deserialize_str(self),
            Node::Null | Node::List(_) | Node::Map(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map, a list or a scalar without a tag")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    /// The document of an empty file.
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar(ScalarType::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(ScalarType::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(ScalarType::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<(), E> {
        self.scalar(ScalarType::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<(), E> {
        self.scalar(ScalarType::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(ScalarType::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        take(self.left, value.len())?;
        match self.node {
            Node::Scalar { text, .. } => value.clone_into(text),
            node => *node = Node::Scalar { text: value.to_owned(), scalar_type: ScalarType::Text },
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !matches!(self.node, Node::List(_)) {
            *self.node = Node::List(Vec::new());
        }
        let Node::List(items) = self.node else { return Ok(()) };
        for index in 0.. {
            if index == items.len() {
                items.push(Node::Null);
            }
            if list.next_element_seed(Fill { node: &mut items[index], left: self.left })?.is_none() {
                items.truncate(index);
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if !matches!(self.node, Node::Map(_)) {
            *self.node = Node::Map(Vec::new());
        }
        let Node::Map(entries) = self.node else { return Ok(()) };
        let mut index = 0;
        while let Some(key) = map.next_key::<String>()? {
            if index == entries.len() {
                take(self.left, key.len())?;
                entries.push((key, Node::Null));
            }
            map.next_value_seed(Fill { node: &mut entries[index].1, left: self.left })?;
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, scalar_type: ScalarType) -> Node {
        Node::Scalar { text: text.into(), scalar_type }
    }

    #[test]
    fn scalars_keep_their_text_and_tell_their_type() {
        for (yaml, node) in [
            ("None", text("None", ScalarType::Text)),
            ("no", text("no", ScalarType::Text)),
            ("1", text("1", ScalarType::Integer(1))),
            ("1.0", text("1.0", ScalarType::Float(1.0))),
            ("0x10", text("0x10", ScalarType::Integer(16))),
            ("007", text("007", ScalarType::Text)),
            ("true", text("true", ScalarType::Bool)),
            ("'1'", text("1", ScalarType::Text)),
            ("\"\"", text("", ScalarType::Text)),
            ("!!str 1", text("1", ScalarType::Text)),
            ("~", Node::Null),
            ("", Node::Null),
            ("99999999999999999999", text("99999999999999999999", ScalarType::Integer(99_999_999_999_999_999_999))),
        ] {
            assert_eq!(parse(yaml).unwrap(), node, "{yaml:?}");
        }
    }

    #[test]
    fn lists_maps_repeated_keys_and_aliases_are_kept_as_they_stand() {
        assert_eq!(
            parse("a: [1, ~, {b: 2}]\na: &x yes\nc: *x\n3: ''").unwrap(),
            Node::Map(vec![
                (
                    "a".into(),
                    Node::List(vec![
                        text("1", ScalarType::Integer(1)),
                        Node::Null,
                        Node::Map(vec![("b".into(), text("2", ScalarType::Integer(2)))]),
                    ])
                ),
                ("a".into(), text("yes", ScalarType::Text)),
                ("c".into(), text("yes", ScalarType::Text)),
                ("3".into(), text("", ScalarType::Text)),
            ])
        );
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_with_its_place() {
        for (yaml, said) in [
            ("a: [", "line 2 column 1"),
            ("a: !x 1", "a map, a list or a scalar without a tag"),
            ("[a]: 1", "expected a string"),
            ("a: 1\n---\nb: 2", "more than one document"),
            (&"[".repeat(200), "recursion limit"),
        ] {
            let error = parse(yaml).unwrap_err().to_string();
            assert!(error.contains(said), "{yaml:?}: {error}");
        }
    }

    #[test]
    fn aliases_cannot_expand_without_bound() {
        let mut yaml = String::from("a: &a [0,0,0,0,0,0,0,0,0,0]\n");
        for (to, from) in ["b", "c", "d", "e", "f"].iter().zip(["a", "b", "c", "d", "e"]) {
            yaml += &format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(","));
        }
        let error = parse(&yaml).unwrap_err().to_string();
        assert!(error.contains("at most 131072 bytes"), "{error}");

        let long = "x".repeat(16_000);
        let yaml = format!("a: &a {long}\nb: [{}]", ["*a"; 9].join(", "));
        let error = parse(&yaml).unwrap_err().to_string();
        assert!(error.contains("at most 131072 bytes"), "{error}");
    }
}
