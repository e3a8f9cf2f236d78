//! Owns what the YAML says: a tree of values that keeps each scalar's text as it stands in the file, so that a state
//! `None`, `no` or `1` stays that text. Refuses to know what any key means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most bytes that a config file may have: the YAML scanner's time is quadratic in nesting.
pub const MAX_BYTES: usize = 32 * 1024;

/// The most values, and bytes in them, that a file may hold once its aliases are followed, so that no file can expand
/// without bound.
const MAX_VALUES: usize = 10_000;
const MAX_VALUE_BYTES: usize = 4 * MAX_BYTES;

/// One value of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Scalar {
        text: String,
        kind: Kind,
    },
    List(Vec<Node>),
    /// In the order of the file, repeated keys included.
    Map(Vec<(String, Node)>),
}

/// What a plain scalar is by YAML's core schema; a quoted one is always [`Kind::Text`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
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
    let used = Used::default();
    let mut tree = Shape(&used).deserialize(serde_yaml::Deserializer::from_str(text))?;
    // serde_yaml tells either a scalar's type or its text, never both: the first pass took the types, and since it
    // found out where the scalars are, the second can ask for their texts.
    Texts(&mut tree, &used).deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok(tree)
}

/// How much the tree holds by now.
#[derive(Default)]
struct Used {
    values: Cell<usize>,
    bytes: Cell<usize>,
}

impl Used {
    fn take<E: Error>(&self, values: usize, bytes: usize) -> Result<(), E> {
        self.values.set(self.values.get() + values);
        self.bytes.set(self.bytes.get() + bytes);
        if self.values.get() > MAX_VALUES {
            return Err(E::custom(format_args!("must hold at most {MAX_VALUES} values, aliases followed")));
        }
        if self.bytes.get() > MAX_VALUE_BYTES {
            return Err(E::custom(format_args!("must hold at most {MAX_VALUE_BYTES} bytes, aliases followed")));
        }
        Ok(())
    }
}

/// The first pass: everything but the texts of scalars.
#[derive(Clone, Copy)]
struct Shape<'a>(&'a Used);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.take(1, 0)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map, a list or a scalar without a tag")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(scalar(Kind::Bool))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(scalar(Kind::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(scalar(Kind::Integer(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(scalar(Kind::Integer(value)))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(scalar(Kind::Integer(i128::try_from(value).unwrap_or(i128::MAX))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(scalar(Kind::Float(value)))
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(scalar(Kind::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.take(0, key.len())?;
            entries.push((key, map.next_value_seed(self)?));
        }
        Ok(Node::Map(entries))
    }
}

fn scalar(kind: Kind) -> Node {
    Node::Scalar { text: String::new(), kind }
}

/// The second pass: the texts, into the tree of the first.
struct Texts<'a>(&'a mut Node, &'a Used);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Node::Null => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            Node::Scalar { .. } => deserializer.deserialize_str(self),
            Node::List(_) => deserializer.deserialize_seq(self),
            Node::Map(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("what the first pass found")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.1.take(0, value.len())?;
        if let Node::Scalar { text, .. } = self.0 {
            value.clone_into(text);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Node::List(items) = self.0 {
            for item in items {
                list.next_element_seed(Texts(item, self.1))?;
            }
        }
        // Asked once more so that it sees its end.
        list.next_element::<IgnoredAny>().map(drop)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Node::Map(entries) = self.0 {
            for (_, value) in entries {
                map.next_key::<IgnoredAny>()?;
                map.next_value_seed(Texts(value, self.1))?;
            }
        }
        map.next_key::<IgnoredAny>().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, kind: Kind) -> Node {
        Node::Scalar { text: text.into(), kind }
    }

    #[test]
    fn scalars_keep_their_text_and_tell_their_type() {
        for (yaml, node) in [
            ("None", text("None", Kind::Text)),
            ("no", text("no", Kind::Text)),
            ("1", text("1", Kind::Integer(1))),
            ("1.0", text("1.0", Kind::Float(1.0))),
            ("0x10", text("0x10", Kind::Integer(16))),
            ("007", text("007", Kind::Text)),
            ("true", text("true", Kind::Bool)),
            ("'1'", text("1", Kind::Text)),
            ("\"\"", text("", Kind::Text)),
            ("!!str 1", text("1", Kind::Text)),
            ("~", Node::Null),
            ("", Node::Null),
            ("99999999999999999999", text("99999999999999999999", Kind::Integer(99_999_999_999_999_999_999))),
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
                        text("1", Kind::Integer(1)),
                        Node::Null,
                        Node::Map(vec![("b".into(), text("2", Kind::Integer(2)))]),
                    ])
                ),
                ("a".into(), text("yes", Kind::Text)),
                ("c".into(), text("yes", Kind::Text)),
                ("3".into(), text("", Kind::Text)),
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
        assert!(error.contains("at most 10000 values"), "{error}");

        let long = "x".repeat(16_000);
        let yaml = format!("a: &a {long}\nb: [{}]", ["*a"; 9].join(", "));
        let error = parse(&yaml).unwrap_err().to_string();
        assert!(error.contains("at most 131072 bytes"), "{error}");
    }
}
