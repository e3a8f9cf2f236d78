//! Owns what is kept of an object that the API server answers with: the values at the pointers that were asked for, taken
//! from the stream (behaviour 4.7). Whatever else is in it is checked to be JSON and dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::json::escaped_key;

/// The most of an answer that is read.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The values at RFC 6901 pointers of a JSON object.
///
/// # Errors
/// The body breaks off, is no JSON object, or has more than 2 MiB.
pub fn pick(body: impl Read, wanted: &[&str]) -> Result<BTreeMap<String, Value>, serde_json::Error> {
    let mut found = BTreeMap::new();
    let mut body = BufReader::with_capacity(1024, body.take(MAX_BYTES + 1));
    let mut json = serde_json::Deserializer::from_reader(&mut body);
    Pick { wanted, at: String::new(), found: &mut found }.deserialize(&mut json)?;
    json.end()?;
    if body.get_ref().limit() == 0 {
        return Err(Error::custom(format_args!("more than {MAX_BYTES} bytes")));
    }
    Ok(found)
}

/// The value at the pointer `at`.
struct Pick<'a> {
    wanted: &'a [&'a str],
    at: String,
    found: &'a mut BTreeMap<String, Value>,
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.at.is_empty() { deserializer.deserialize_map(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let at = format!("{}/{}", self.at, escaped_key(&key));
            let leads_to = |pointer: &&str| pointer.strip_prefix(&at).is_some_and(|rest| rest.starts_with('/'));
            if self.wanted.contains(&at.as_str()) {
                let value = map.next_value()?;
                self.found.insert(at, value);
            } else if self.wanted.iter().any(leads_to) {
                map.next_value_seed(Pick { wanted: self.wanted, at, found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn picked(body: &str, wanted: &[&str]) -> Result<Value, String> {
        pick(body.as_bytes(), wanted).map(|found| json!(found)).map_err(|error| error.to_string())
    }

    #[test]
    fn values_at_the_pointers_are_kept_and_nothing_else() {
        let body = r#"{"a": {"b/c": {"d": [1]}, "e": "x"}, "f": [{"g": 1}], "h": 1.5, "i": null, "j": "text"}"#;
        for (wanted, found) in [
            (vec![], json!({})),
            (vec!["/a/b~1c/d", "/h"], json!({"/a/b~1c/d": [1], "/h": 1.5})),
            (vec!["/a", "/i", "/nowhere"], json!({"/a": {"b/c": {"d": [1]}, "e": "x"}, "/i": null})),
            // What the pointer leads through is no object.
            (vec!["/f/g", "/f/0/g", "/h/x", "/i/x", "/j/x"], json!({})),
        ] {
            assert_eq!(picked(body, &wanted), Ok(found), "{wanted:?}");
        }
    }

    #[test]
    fn what_breaks_off_or_is_too_long_is_no_answer() {
        for (body, reason) in [
            (r#"{"a": 1"#, "EOF"),
            (r#"{"a": 1} x"#, "trailing"),
            (r#"{"a": 1, "b": nope}"#, "expected"),
            ("", "EOF"),
            ("[]", "a JSON object"),
            ("null", "a JSON object"),
            (&format!("{{\"a\": 1}}{}", " ".repeat(MAX_BYTES as usize)), "more than 2097152 bytes"),
            (&format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_BYTES as usize)), "EOF"),
        ] {
            let error = picked(body, &["/a"]).unwrap_err();
            assert!(error.contains(reason), "{:.20}: {error}", body);
        }
        let whole = format!("{{\"a\": 1}}{}", " ".repeat(MAX_BYTES as usize - 8));
        assert_eq!(picked(&whole, &["/a"]), Ok(json!({"/a": 1})));
    }
}
