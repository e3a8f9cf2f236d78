//! Owns the value at a path of a JSON text (behaviour 6.5). Walks the text without building it up in memory, since 64 KiB of
//! `[[],[],...` would be megabytes of values.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::FieldType;
use crate::excerpt::excerpt;

/// The result at the path: a string as it is, a number or boolean as the body writes it.
///
/// # Errors
/// The body is not JSON, or the value is missing or not of a kind that can be a result.
pub fn extract(body: &str, path: &[String], field_type: Option<FieldType>) -> Result<String, serde_json::Error> {
    let value = value(body, path)?.get();
    let (text, is) = match value.as_bytes().first() {
        Some(b'"') => (string(value)?, FieldType::String),
        Some(b't' | b'f') => (value.to_owned(), FieldType::Boolean),
        Some(b'n') => return Err(serde_json::Error::custom("null at the path")),
        Some(b'[') => return Err(serde_json::Error::custom("an array at the path")),
        Some(b'{') => return Err(serde_json::Error::custom("an object at the path")),
        _ if value.contains(['.', 'e', 'E']) => (value.to_owned(), FieldType::Number),
        _ => (value.to_owned(), FieldType::Integer),
    };
    let fits = |wanted| wanted == is || (wanted == FieldType::Number && is == FieldType::Integer);
    match field_type {
        Some(wanted) if !fits(wanted) => {
            Err(serde_json::Error::custom(format_args!("the value at the path is not of the fieldType {wanted:?}")))
        }
        _ => Ok(text),
    }
}

/// The number of elements of the array at the path, or of members of the object there.
///
/// # Errors
/// The body is not JSON, or the value is missing or another one.
pub fn count(body: &str, path: &[String]) -> Result<usize, serde_json::Error> {
    let value = value(body, path)?.get();
    if !value.starts_with(['[', '{']) {
        return Err(serde_json::Error::custom("neither an array nor an object at the path"));
    }
    serde_json::Deserializer::from_str(value).deserialize_any(Count)
}

/// The value at the path, as a part of the text.
fn value<'b>(body: &'b str, path: &[String]) -> Result<&'b RawValue, serde_json::Error> {
    let mut found: &RawValue = serde_json::from_str(body)?;
    for key in path {
        let mut json = serde_json::Deserializer::from_str(found.get());
        // It is JSON, so that an error says that it has no keys.
        let value = json.deserialize_any(Step(key)).unwrap_or_default();
        found = value.ok_or_else(|| {
            serde_json::Error::custom(format_args!("no value at the path {}", excerpt(&path.join("."))))
        })?;
    }
    Ok(found)
}

/// The text of a JSON string. Half of a surrogate pair becomes U+FFFD.
fn string(value: &str) -> Result<String, serde_json::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    serde_json::Deserializer::from_str(value).deserialize_bytes(Text)
}

/// Counts what is in an object or an array.
struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while map.next_key_seed(IsKey(""))?.is_some() {
            map.next_value::<IgnoredAny>()?;
            count += 1;
        }
        Ok(count)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// Whether a key of an object is this one. A key that is no legal text is another.
struct IsKey<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.0.as_bytes())
    }
}

/// From an object or an array to the value at this key, as a part of the text.
struct Step<'p>(&'p str);

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // The last of repeated keys counts, as in Go and JavaScript.
        while let Some(is_key) = map.next_key_seed(IsKey(self.0))? {
            let value = map.next_value()?;
            if is_key {
                found = Some(value);
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let wanted = self.0.parse::<usize>().ok().filter(|index| index.to_string() == self.0);
        let mut found = None;
        let mut index = 0;
        while let Some(value) = list.next_element()? {
            if Some(index) == wanted {
                found = Some(value);
            }
            index += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, field_type: Option<FieldType>, body: &str) -> Result<String, String> {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        extract(body, &path, field_type).map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_are_results_as_the_body_writes_them() {
        for (path, body, result) in [
            ("a", r#"{"a":"None"}"#, "None"),
            ("a.b", r#" {"x":[{"a":1}], "a":{"c":2,"b":3}} "#, "3"),
            ("a.0.c", r#"{"a":[{"c":true},{"c":false}]}"#, "true"),
            ("1", "[1, 2.50, 3]", "2.50"),
            ("0", r#"{"0":"key"}"#, "key"),
            ("a", r#"{"a":1,"a":2}"#, "2"),
            ("a", r#"{"a":"\u7a7a\n"}"#, "空\n"),
            ("a", r#"{"a":123456789012345678901234567890}"#, "123456789012345678901234567890"),
            ("a", r#"{"a":-1e3}"#, "-1e3"),
        ] {
            assert_eq!(at(path, None, body), Ok(result.into()), "{path} {body}");
        }
    }

    #[test]
    fn everything_else_is_an_error() {
        for (path, body, said) in [
            ("a", "{}", "no value"),
            ("a.b", r#"{"a":"b"}"#, "no value"),
            ("2", "[1,2]", "no value"),
            ("01", "[1,2]", "no value"),
            ("+1", "[1,2]", "no value"),
            ("a", "7", "no value"),
            ("a", "null", "no value"),
            ("a", r#"{"a":null}"#, "null at"),
            ("a", r#"{"a":[1]}"#, "an array at"),
            ("a", r#"{"a":{"b":1}}"#, "an object at"),
            ("a", "", "EOF"),
            ("a", r#"{"a":1"#, "EOF"),
            ("a", r#"{"a":1}}"#, "trailing"),
            ("a", r#"{"a":1,"b":nope}"#, "expected"),
            ("a", "Allocated", "expected"),
        ] {
            let error = at(path, None, body).unwrap_err();
            assert!(error.contains(said), "{path} {body}: {error}");
        }
    }

    #[test]
    fn the_field_type_is_checked() {
        use FieldType::{Boolean, Integer, Number, String};
        for (value, fits) in
            [("\"5\"", vec![String]), ("5", vec![Integer, Number]), ("5.0", vec![Number]), ("true", vec![Boolean])]
        {
            for field_type in [String, Integer, Number, Boolean] {
                let body = format!("{{\"a\":{value}}}");
                let read = at("a", Some(field_type), &body);
                assert_eq!(read.is_ok(), fits.contains(&field_type), "{value} as {field_type:?}: {read:?}");
            }
        }
    }

    #[test]
    fn deep_nesting_overflows_nothing() {
        let (path, body) = (["0"; 200].join("."), "[".repeat(10_000));
        assert!(at(&path, None, &body).unwrap_err().contains("EOF"));
        assert!(at(&path, None, &(body + &"]".repeat(10_000))).unwrap_err().contains("an array at"));
    }
}
