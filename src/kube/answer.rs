//! Owns what is kept of what the API server answers with, an object or a refusal: some texts, each bounded where it is
//! taken from the stream (behaviour 4.7, 4.10). Whatever else is in it is checked to be JSON and dropped.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::mem::take;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::decide::condition::{condition, condition_pointer};
use crate::decide::guarded::{Manager, Seen};
use crate::decide::record;
use crate::excerpt::prefix;
use crate::json::escaped_key;

/// The most of an answer that is read.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The most bytes of a text that is kept.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// The most bytes of a JSON string that reach the parser, which holds a whole string: more than a text of
/// [`MAX_TEXT_BYTES`] has, each of its bytes escaped as `\u0000`.
const MAX_STRING_BYTES: usize = 6 * (MAX_TEXT_BYTES + 1);

/// The deepest nesting, which the parser remembers level by level.
const MAX_DEPTH: usize = 128;

/// The most records that are kept, those with the highest numbers. A write leaves two.
const MAX_RECORDS: usize = 16;

/// The most bytes of a pointer to a record: Kubernetes allows 317 in an annotation's key.
const MAX_POINTER_BYTES: usize = 512;

/// The most managers that are kept, the last ones. The API server itself keeps 10 that did not apply.
const MAX_MANAGERS: usize = 16;

/// The most bytes of what names a manager: Kubernetes allows 128.
const MAX_NAME_BYTES: usize = 256;

const RESOURCE_VERSION: &str = "/metadata/resourceVersion";
/// An element of a list has the name `*` in a path.
const OWNER: &str = "/metadata/ownerReferences/*";
const OWNER_KIND: &str = "/metadata/ownerReferences/*/kind";
const OWNER_UID: &str = "/metadata/ownerReferences/*/uid";
const MANAGER: &str = "/metadata/managedFields/*";
const MANAGER_NAME: &str = "/metadata/managedFields/*/manager";
const CONDITION: &str = "/status/conditions/*";
const CONDITION_TYPE: &str = "/status/conditions/*/type";
const CONDITION_STATUS: &str = "/status/conditions/*/status";
const CONDITION_MESSAGE: &str = "/status/conditions/*/message";
const MANAGED: &str = "/metadata/managedFields/*/fieldsV1";

/// The paths that are kept of every object.
const OWN: [&str; 4] = [RESOURCE_VERSION, OWNER_KIND, OWNER_UID, MANAGER_NAME];

const MESSAGE: &str = "/message";
const CAUSE_FIELD: &str = "/details/causes/*/field";

/// What is kept of a refusal: a `Status` of Kubernetes.
#[derive(Debug, Default)]
pub struct Status {
    /// Its message.
    pub message: Option<String>,
    /// Whether a cause is the object's uid.
    pub other_uid: bool,
}

/// What is kept of an object, with the values at RFC 6901 pointers.
///
/// # Errors
/// The body breaks off, is no JSON object, has more than 2 MiB, nests deeper than 128 levels, or has no resourceVersion.
pub fn object(mut body: impl Read, pointers: &[&str]) -> Result<Seen, serde_json::Error> {
    let body: &mut dyn Read = &mut body;
    let mut body = Shortened { inner: body.take(MAX_BYTES + 1), depth: 0, string: None };
    let mut picks = ObjectPicks::new(pointers);
    walk(&mut body, &mut picks)?;
    if body.inner.limit() == 0 {
        return Err(Error::custom(format_args!("more than {MAX_BYTES} bytes")));
    }
    if picks.answer.resource_version.is_empty() {
        // An object without one is none of the API server's.
        return Err(Error::custom("no metadata.resourceVersion"));
    }
    Ok(picks.answer)
}

/// What is kept of a refusal's body, as much of it as is there.
pub fn status(mut body: &[u8]) -> Status {
    let mut status = Status::default();
    // What came before it broke off may still say why.
    let _ = walk(&mut body, &mut status);
    status
}

/// The same code for both, since a parser for each kind of reader would be 20 KB of the binary.
fn walk(body: &mut dyn Read, picks: &mut dyn Picks) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1024, body));
    Walk { at: String::new(), picks }.deserialize(&mut json)?;
    json.end()
}

/// What is kept, by the path where it stands: a pointer in which the elements of a list have the name `*`.
trait Picks {
    /// Whether the value at this path, or anything in it, is kept.
    fn wants(&self, at: &str) -> bool;
    /// The value at a path, unless it is an object or a list.
    fn scalar(&mut self, at: &str, value: Value);
    /// The object or the list at a path is over.
    fn end(&mut self, at: &str);
}

/// Whether `path` is `at`, or below it.
fn is_or_leads_to(at: &str, path: &str) -> bool {
    path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether this is the pointer of a record, which people find under the name without a number.
fn is_record(pointer: &str) -> bool {
    pointer.len() <= MAX_POINTER_BYTES && pointer.strip_prefix(record::POINTER).is_some_and(|rest| !rest.contains('/'))
}

#[derive(Default)]
struct ObjectPicks<'a> {
    pointers: &'a [&'a str],
    /// Paths in `fieldsV1`: of the fields at the pointers, and the beginning of those of records.
    managed: Vec<String>,
    managed_records: String,
    /// The owner and the manager that are being read.
    owner_is_pod: bool,
    owner_uid: Option<String>,
    manager: Manager,
    /// Type, status and message of the condition that is being read.
    condition: [String; 3],
    answer: Seen,
}

impl<'a> ObjectPicks<'a> {
    fn new(pointers: &'a [&'a str]) -> Self {
        // The field /spec/opsState is there as /f:spec/f:opsState.
        let managed = |pointer: &str| format!("{MANAGED}{}", pointer.replace('/', "/f:"));
        Self {
            pointers,
            managed: pointers.iter().map(|pointer| managed(pointer)).collect(),
            managed_records: managed(record::POINTER),
            ..Self::default()
        }
    }

    fn wants_conditions(&self) -> bool {
        self.pointers.iter().any(|pointer| pointer.starts_with("/status/conditions/"))
    }

    fn set_record(&mut self, at: &str, text: Value) {
        let records = &mut self.answer.records;
        records.insert(at.to_owned(), text);
        if records.len() > MAX_RECORDS {
            let number = |pointer: &str| pointer[record::POINTER.len()..].strip_prefix('-')?.parse::<u64>().ok();
            let lowest = records.keys().min_by_key(|pointer| number(pointer)).cloned();
            lowest.map(|pointer| records.remove(&pointer));
        }
    }
}

impl Picks for ObjectPicks<'_> {
    fn wants(&self, at: &str) -> bool {
        OWN.iter().any(|path| is_or_leads_to(at, path))
            || (CONDITION.starts_with(at) || at.starts_with(CONDITION)) && self.wants_conditions()
            || is_or_leads_to(at, record::POINTER)
            || is_record(at)
            || self.pointers.iter().any(|pointer| is_or_leads_to(at, pointer))
            || is_or_leads_to(at, &self.managed_records)
            || at.starts_with(&self.managed_records)
            || self.managed.iter().any(|path| is_or_leads_to(at, path))
    }

    fn scalar(&mut self, at: &str, value: Value) {
        if self.pointers.contains(&at) && value.as_str().is_none_or(|text| text.len() <= MAX_TEXT_BYTES) {
            self.answer.values.insert(at.to_owned(), value.clone());
        }
        let text = value.as_str().filter(|text| text.len() <= MAX_TEXT_BYTES);
        if is_record(at) {
            self.set_record(at, text.map_or(Value::Null, Value::from));
        }
        let Some(text) = text else { return };
        let name = || prefix(text, MAX_NAME_BYTES).to_owned();
        match at {
            RESOURCE_VERSION => self.answer.resource_version = name(),
            OWNER_KIND => self.owner_is_pod = text == "Pod",
            OWNER_UID => self.owner_uid = Some(name()),
            MANAGER_NAME => self.manager.name = name(),
            CONDITION_TYPE => self.condition[0] = text.to_owned(),
            CONDITION_STATUS => self.condition[1] = text.to_owned(),
            CONDITION_MESSAGE => self.condition[2] = text.to_owned(),
            _ => {}
        }
    }

    fn end(&mut self, at: &str) {
        if is_record(at) {
            self.set_record(at, Value::Null);
        }
        match at {
            OWNER => {
                let (is_pod, uid) = (take(&mut self.owner_is_pod), self.owner_uid.take());
                self.answer.owner = self.answer.owner.take().or(uid.filter(|_| is_pod));
            }
            CONDITION => {
                let [name, status, message] = take(&mut self.condition);
                let pointer = condition_pointer(&name);
                if self.pointers.contains(&pointer.as_str()) {
                    self.answer.values.insert(pointer, condition(&name, &status, &message));
                }
            }
            MANAGER => {
                let manager = take(&mut self.manager);
                if !manager.fields.is_empty() {
                    self.answer.managers.push(manager);
                }
                if self.answer.managers.len() > MAX_MANAGERS {
                    self.answer.managers.remove(0);
                }
            }
            _ => {
                let pointer = at.strip_prefix(MANAGED).unwrap_or_default().replace("/f:", "/");
                let fields = &mut self.manager.fields;
                if (self.pointers.contains(&pointer.as_str()) || is_record(&pointer))
                    && fields.len() < self.pointers.len() + MAX_RECORDS
                {
                    fields.push(pointer);
                }
            }
        }
    }
}

impl Picks for Status {
    fn wants(&self, at: &str) -> bool {
        [MESSAGE, CAUSE_FIELD].iter().any(|path| is_or_leads_to(at, path))
    }

    fn scalar(&mut self, at: &str, value: Value) {
        match (at, value) {
            (MESSAGE, Value::String(message)) => self.message = Some(message),
            (CAUSE_FIELD, Value::String(field)) => self.other_uid |= field == "metadata.uid",
            _ => {}
        }
    }

    fn end(&mut self, _: &str) {}
}

/// The value at the path `at`.
struct Walk<'a> {
    at: String,
    picks: &'a mut dyn Picks,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.at.is_empty() { deserializer.deserialize_map(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let at = format!("{}/{}", self.at, escaped_key(&key));
            if self.picks.wants(&at) {
                map.next_value_seed(Walk { at, picks: &mut *self.picks })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        self.picks.end(&self.at);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let at = format!("{}/*", self.at);
        if self.picks.wants(&at) {
            while list.next_element_seed(Walk { at: at.clone(), picks: &mut *self.picks })?.is_some() {}
        } else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
        }
        self.picks.end(&self.at);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.picks.scalar(&self.at, Value::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.picks.scalar(&self.at, value.into());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.picks.scalar(&self.at, value.into());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.picks.scalar(&self.at, value.into());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.picks.scalar(&self.at, value.into());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.picks.scalar(&self.at, value.into());
        Ok(())
    }
}

/// JSON in which no string is longer than [`MAX_STRING_BYTES`], since the rest of one is left out, and nothing is nested
/// deeper than [`MAX_DEPTH`], which is an error.
struct Shortened<'a> {
    inner: io::Take<&'a mut dyn Read>,
    depth: usize,
    string: Option<JsonString>,
}

/// How far a string has been read.
#[derive(Default)]
struct JsonString {
    bytes: usize,
    is_cut: bool,
    /// The bytes of the escape that is being read, the backslash included.
    escape_bytes: usize,
    /// The value of its hexadecimal digits.
    code: u32,
    /// Whether the escape before it stands for the first half of a character.
    is_half: bool,
}

impl Read for Shortened<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.inner.read(into)?;
            let mut kept = 0;
            for at in 0..read {
                if self.keeps(into[at])? {
                    into[kept] = into[at];
                    kept += 1;
                }
            }
            // To give nothing would mean the end.
            if kept > 0 || read == 0 {
                return Ok(kept);
            }
        }
    }
}

impl Shortened<'_> {
    fn keeps(&mut self, byte: u8) -> io::Result<bool> {
        if let Some(string) = &mut self.string {
            let is_over = byte == b'"' && string.escape_bytes == 0;
            let keeps = is_over || string.keeps(byte);
            if is_over {
                self.string = None;
            }
            return Ok(keeps);
        }
        match byte {
            b'"' => self.string = Some(JsonString::default()),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > MAX_DEPTH {
            return Err(io::Error::other(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(true)
    }
}

impl JsonString {
    /// Whether a byte before the closing quote is kept: the string is cut between two characters.
    fn keeps(&mut self, byte: u8) -> bool {
        let begins_a_character = self.escape_bytes == 0 && byte & 0xc0 != 0x80 && !self.is_half;
        self.is_cut |= begins_a_character && self.bytes >= MAX_STRING_BYTES;
        self.bytes += 1;
        match (self.escape_bytes, byte) {
            (0, b'\\') => (self.escape_bytes, self.code) = (1, 0),
            (0, _) => self.is_half = false,
            (1, b'u') => self.escape_bytes = 2,
            (1, _) => (self.escape_bytes, self.is_half) = (0, false),
            (_, digit) => {
                self.code = self.code * 16 + char::from(digit).to_digit(16).unwrap_or_default();
                self.escape_bytes += 1;
                if self.escape_bytes == 6 {
                    (self.escape_bytes, self.is_half) = (0, (0xd800..0xdc00).contains(&self.code));
                }
            }
        }
        !self.is_cut
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OPS_STATE: &str = "/spec/opsState";

    /// A GameServer whose metadata has these members, too.
    fn game_server(metadata: &str, spec: &str) -> String {
        format!(r#"{{"kind":"GameServer","metadata":{{"name":"gs-0",{metadata}"resourceVersion":"7"}},"spec":{spec}}}"#)
    }

    fn with(metadata: &str) -> Seen {
        object(game_server(&format!("{metadata},"), "{}").as_bytes(), &[OPS_STATE]).expect("it is an object")
    }

    #[test]
    fn values_at_the_pointers_are_kept_and_nothing_else() {
        let spec = r#"{"a": {"b/c": {"d": 1.5}, "e": "x"}, "f": [{"g": 1}], "h": true, "i": null, "j": "text"}"#;
        for (wanted, found) in [
            (vec![], json!({})),
            (
                vec!["/spec/a/b~1c/d", "/spec/h", "/spec/j"],
                json!({"/spec/a/b~1c/d": 1.5, "/spec/h": true, "/spec/j": "text"}),
            ),
            (vec!["/spec/i", "/nowhere", "/metadata/name"], json!({"/spec/i": null, "/metadata/name": "gs-0"})),
            // An object and a list are no value of a field.
            (vec!["/spec/a", "/spec/f"], json!({})),
            // What the pointer leads through is no object.
            (vec!["/spec/f/g", "/spec/f/0/g", "/spec/h/x", "/spec/i/x", "/spec/j/x"], json!({})),
        ] {
            let answer = object(game_server("", spec).as_bytes(), &wanted).unwrap();
            assert_eq!(json!(answer.values), found, "{wanted:?}");
            assert_eq!(answer.resource_version, "7");
        }
    }

    #[test]
    fn the_owner_is_the_first_pod() {
        for (owners, owner) in [
            (r#"[{"kind":"GameServerSet","uid":"s"},{"uid":"p","kind":"Pod"},{"kind":"Pod","uid":"q"}]"#, Some("p")),
            (r#"[{"kind":"GameServerSet","uid":"s"},{"kind":"Pod"}]"#, None),
            (r#"[{"kind":"Pod","uid":7},{"uid":"s"},[{"kind":"Pod","uid":"p"}],null]"#, None),
            (r#"{"kind":"Pod","uid":"p"}"#, None),
            ("[]", None),
        ] {
            assert_eq!(with(&format!(r#""ownerReferences":{owners}"#)).owner.as_deref(), owner, "{owners}");
        }
    }

    #[test]
    fn records_are_kept_with_the_highest_numbers_and_a_long_one_without_its_text() {
        let record = |key: &str| format!("/metadata/annotations/okg-sidecar~1decided{key}");
        let (full, long) = ("é".repeat(MAX_TEXT_BYTES / 2), r"é\u00e9".repeat(MAX_TEXT_BYTES / 2));
        let answer = with(&format!(
            r#""annotations":{{"okg-sidecar/decided":"{full}","okg-sidecar/decided-7":"{long}","a":"b","okg-sidecar/decided-8":{{"x":"y"}}}}"#
        ));
        let kept = [("", Some(full)), ("-7", None), ("-8", None)];
        assert_eq!(answer.records, kept.map(|(key, text)| (record(key), text.map_or(Value::Null, Value::from))).into());

        let many: Vec<_> = (1..=40).map(|n| format!(r#""okg-sidecar/decided-{n}":"{n}""#)).collect();
        let answer = with(&format!(r#""annotations":{{{},"okg-sidecar/decided":""}}"#, many.join(",")));
        assert_eq!(answer.records, (25..=40).map(|n| (record(&format!("-{n}")), Value::from(n.to_string()))).collect());
    }

    #[test]
    fn managers_are_kept_with_the_fields_and_records_that_they_manage() {
        let entry = |name: &str, fields: &str| {
            format!(r#"{{"fieldsV1":{fields},"manager":"{name}","operation":"Update","time":"2026-11-24T08:00:00Z"}}"#)
        };
        let manager = |name: &str, fields: &[&str]| Manager {
            name: name.into(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        let entries = [
            entry("kubectl-edit", r#"{"f:spec":{"f:opsState":{},"f:other":{}}}"#),
            entry("controller", r#"{"f:metadata":{"f:annotations":{".":{},"f:a":{}}},"f:spec":{".":{}}}"#),
            entry(
                "okg-sidecar",
                r#"{"f:metadata":{"f:annotations":{"f:okg-sidecar/decided":{},"f:okg-sidecar/decided-3":{}}},"f:spec":{"f:opsState":{}}}"#,
            ),
        ];
        let answer = with(&format!(r#""managedFields":[{}]"#, entries.join(",")));
        let record = record::POINTER;
        let expected = [
            manager("kubectl-edit", &[OPS_STATE]),
            manager("okg-sidecar", &[record, &format!("{record}-3"), OPS_STATE]),
        ];
        assert_eq!(answer.managers, expected);

        let many: Vec<_> = (0..40).map(|n| entry(&n.to_string(), r#"{"f:spec":{"f:opsState":{}}}"#)).collect();
        let answer = with(&format!(r#""managedFields":[{}]"#, many.join(",")));
        assert_eq!(answer.managers, (24..40).map(|n| manager(&n.to_string(), &[OPS_STATE])).collect::<Vec<_>>());
    }

    #[test]
    fn what_breaks_off_or_is_too_long_or_deep_is_no_answer() {
        let max = MAX_BYTES as usize;
        for (body, reason) in [
            (r#"{"metadata": {"resourceVersion": "7"}"#, "EOF"),
            (r#"{"metadata": {"resourceVersion": "7"}} x"#, "trailing"),
            (r#"{"metadata": {"resourceVersion": "7"}, "b": nope}"#, "expected"),
            (r#"{"metadata": {"resourceVersion": 7}}"#, "no metadata.resourceVersion"),
            ("{}", "no metadata.resourceVersion"),
            ("", "EOF"),
            ("[]", "a JSON object"),
            ("null", "a JSON object"),
            (&format!("{}{}", game_server("", "{}"), " ".repeat(max)), "more than 2097152 bytes"),
            (&game_server("", &format!("\"{}\"", "x".repeat(max))), "EOF"),
            (&game_server("", &format!("{}{}", "[".repeat(128), "]".repeat(128))), "nested deeper than 128 levels"),
        ] {
            let error = object(body.as_bytes(), &["/a"]).unwrap_err().to_string();
            assert!(error.contains(reason), "{:.20}: {error}", body);
        }
        let object_alone = game_server("", "{}");
        let whole = format!("{object_alone}{}", " ".repeat(max - object_alone.len()));
        assert!(object(whole.as_bytes(), &["/a"]).is_ok());
    }

    #[test]
    fn a_long_string_is_cut_between_two_characters_and_what_follows_it_is_read() {
        for text in ["x", "é", "…", "😀", r"\n", r"\u00e9", r"\ud83d\ude00", r"\\", r#"\""#, "x\\ud83d\\ude00"] {
            for before in 0..12 {
                let long = "x".repeat(before) + &text.repeat(2 * MAX_STRING_BYTES / text.len());
                let body = game_server(
                    &format!(r#""annotations":{{"{long}":"{long}"}},"#),
                    &format!(r#"{{"a":"{long}","b":1}}"#),
                );
                let answer = object(body.as_bytes(), &["/spec/a", "/spec/b"]).unwrap();
                assert_eq!(json!(answer.values), json!({"/spec/b": 1}), "{text}, {before} bytes before it");
                let mut shortened = Vec::new();
                let body: &mut dyn Read = &mut body.as_bytes();
                let mut all = Shortened { inner: body.take(u64::MAX), depth: 0, string: None };
                all.read_to_end(&mut shortened).unwrap();
                assert!(shortened.len() <= 3 * (MAX_STRING_BYTES + 12) + 200, "{text}: {}", shortened.len());
            }
        }
        // A text of 8 KiB is whole, however it is escaped.
        let escaped = r"\u0041".repeat(MAX_TEXT_BYTES);
        let answer = object(game_server("", &format!(r#"{{"a":"{escaped}"}}"#)).as_bytes(), &["/spec/a"]).unwrap();
        assert_eq!(answer.values["/spec/a"], json!("A".repeat(MAX_TEXT_BYTES)));
    }

    #[test]
    fn of_a_refusal_the_message_and_a_cause_are_kept() {
        for (body, message, other_uid) in [
            (r#"{"message":"no","details":{"causes":[{"field":"spec"},{"field":"metadata.uid"}]}}"#, Some("no"), true),
            (r#"{"details":{"causes":[{"field":"spec"}]},"message":"no"#, None, false),
            (r#"{"message":"no","details":{"causes":[{"#, Some("no"), false),
            (r#"{"message":["no"],"details":[]}"#, None, false),
            ("upstream connect error", None, false),
        ] {
            let status = status(body.as_bytes());
            assert_eq!((status.message.as_deref(), status.other_uid), (message, other_uid), "{body}");
        }
    }
}
