//! Owns the way from a document to its result, the same for all kinds of probe (behaviour 3.7, 3.9, 6.5). Pure: documents and
//! no sockets.

use std::borrow::Cow;

use serde::de::Error;

use super::document::{Content, Document};
use super::{ProbeError, json_path, metric};
use crate::config::{Extract, FieldType, MAX_VALUE_BYTES, Players};
use crate::decide::policy::ProbeResult;
use crate::excerpt::prefix;
use crate::memory;

/// The most bytes of a document that are read for a value in it, and of a file.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// How many bytes of a document its result depends on; of a longer one the beginning is enough.
pub fn needed_bytes(extract: &Extract) -> usize {
    match extract {
        Extract::Nothing => 0,
        Extract::Whole => MAX_VALUE_BYTES,
        Extract::Value { .. } | Extract::Count { .. } | Extract::Metric(_) | Extract::Players(_) => MAX_DOCUMENT_BYTES,
    }
}

/// The result in a document.
///
/// # Errors
/// A rule needs a value, and the document is too long or does not have it.
pub fn of(document: Document, extract: &Extract) -> Result<ProbeResult, ProbeError> {
    let (mut bytes, is_cut) = match document.content {
        Content::Nothing => return Ok(ProbeResult::Unread),
        Content::Whole(bytes) => (bytes, false),
        Content::Cut(bytes) => (bytes, true),
    };
    let whole = |value: String| bounded(&value, false);
    let result = match extract {
        Extract::Nothing => Ok(ProbeResult::Unread),
        Extract::Whole => Ok(bounded(&text(&bytes), is_cut)),
        _ if is_cut => Err(ProbeError::DocumentTooLong),
        Extract::Metric(metric) => metric::sum(&text(&bytes), metric).map_err(ProbeError::NoMetric).map(whole),
        Extract::Value { path, field_type } => {
            json_path::extract(&json(&mut bytes), path, *field_type).map_err(ProbeError::NoResult).map(whole)
        }
        Extract::Count { path, .. } => {
            let count = json_path::count(&json(&mut bytes), path);
            count.map_err(ProbeError::NoResult).map(|count| whole(count.to_string()))
        }
        Extract::Players(players) => players_in(&json(&mut bytes), *players).map_err(ProbeError::NoPlayers).map(whole),
    };
    memory::keep(bytes);
    result
}

/// A value as a result, which has at most 4 KiB.
fn bounded(value: &str, is_cut: bool) -> ProbeResult {
    let value = value.trim_ascii();
    if is_cut || value.len() > MAX_VALUE_BYTES {
        return ProbeResult::TooLong(prefix(value, MAX_VALUE_BYTES).to_owned());
    }
    ProbeResult::Text(value.to_owned())
}

/// The number of players in the JSON of a game server.
fn players_in(text: &str, players: Players) -> Result<String, serde_json::Error> {
    let number = |path: &[&str]| {
        let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
        json_path::extract(text, &path, Some(FieldType::Integer))
    };
    match players {
        Players::All => number(&["players"]),
        Players::Online => number(&["players", "online"]),
        Players::WithoutBots => {
            let count = |key| number(&[key])?.parse::<i64>().map_err(serde_json::Error::custom);
            Ok(count("players")?.saturating_sub(count("bots")?).max(0).to_string())
        }
    }
}

/// The text of JSON, with a space for each control character inside a string, which JSON does not allow there. In place, since
/// one more copy of a document of 64 KiB is over the memory that a probe may take.
fn json(bytes: &mut [u8]) -> Cow<'_, str> {
    let (mut is_in_string, mut is_escaped) = (false, false);
    for byte in bytes.iter_mut() {
        match *byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_in_string,
            b'"' => is_in_string = !is_in_string,
            control if is_in_string && control.is_ascii_control() => *byte = b' ',
            _ => {}
        }
    }
    text(bytes)
}

/// The bytes as text, with U+FFFD for what is not UTF-8, and without a byte order mark.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Metric;

    #[test]
    fn a_document_is_text_whatever_its_bytes_are() {
        for (bytes, expected) in [
            (&b" None\r\n"[..], "None"),
            (b"None\xff", "None\u{fffd}"),
            (b"\xe7\xa9", "\u{fffd}"),
            (b"\xef\xbb\xbfNone", "None"),
            (b"", ""),
        ] {
            let result = of(Document::whole(bytes), &Extract::Whole).unwrap();
            assert_eq!(result, ProbeResult::Text(expected.into()), "{bytes:?}");
        }
    }

    #[test]
    fn a_result_has_at_most_4_kib() {
        let of_length = |length: usize| of(Document::whole("x".repeat(length)), &Extract::Whole).unwrap();
        assert_eq!(of_length(MAX_VALUE_BYTES), ProbeResult::Text("x".repeat(MAX_VALUE_BYTES)));
        assert_eq!(of_length(MAX_VALUE_BYTES + 1), ProbeResult::TooLong("x".repeat(MAX_VALUE_BYTES)));
        assert_eq!(of(Document::cut("x"), &Extract::Whole).unwrap(), ProbeResult::TooLong("x".into()));
        let value = Extract::Value { path: vec!["a".into()], field_type: None };
        assert!(matches!(of(Document::cut("{\"a\":1"), &value), Err(ProbeError::DocumentTooLong)));
    }

    #[test]
    fn what_no_rule_needs_never_decides() {
        let players = Extract::Value { path: vec!["players".into()], field_type: None };
        for document in [
            &b"{\"players\":2,\"clients\":[{\"name\":\"\xe7\xa9\"}]}"[..],
            b"\xef\xbb\xbf{\"players\":2}",
            b"{\"name\":\"a\tb\x00c\nd\",\"players\":2}",
            b"{\"name\":\"a \\\"quoted\\\\\",\n\t\"players\":2}",
            // A character whose other half is missing.
            b"{\"\\ud800\":\"\\ud800\",\"players\":2}",
            b"{\"players\":\"2\x0c\"}",
        ] {
            let result = of(Document::whole(document), &players);
            assert_eq!(result.unwrap(), ProbeResult::Text("2".into()), "{}", String::from_utf8_lossy(document));
        }
        let name = Extract::Value { path: vec!["name".into()], field_type: None };
        let named = of(Document::whole("{\"name\":\"a\\ud800\tb\\\tc\"}"), &name).unwrap_err();
        assert!(matches!(named, ProbeError::NoResult(_)), "an escape of a tab is none: {named:?}");
        let named = of(Document::whole("{\"name\":\"a\\ud800\tb\"}"), &name).unwrap();
        assert_eq!(named, ProbeResult::Text("a\u{fffd}\u{fffd}\u{fffd} b".into()));
    }

    #[test]
    fn each_way_takes_its_own_result() {
        let count =
            |path: &[&str]| Extract::Count { path: path.iter().map(|key| (*key).into()).collect(), field_type: None };
        let text = |text: &str| Ok(text.to_owned());
        for (document, extract, expected) in [
            ("[1,[2],{}]", count(&[]), text("3")),
            (" {} ", count(&[]), text("0")),
            (r#"{"a":{"x":1,"y":[]}}"#, count(&["a"]), text("2")),
            (r#"{"a":[]}"#, count(&["a"]), text("0")),
            (r#"{"\ud800":1,"":2}"#, count(&[]), text("2")),
            (r#"{"a":null}"#, count(&["a"]), Err("no result in the JSON document")),
            (r#"{"a":"text"}"#, count(&["a"]), Err("no result in the JSON document")),
            (r#"{"a":7}"#, count(&["a"]), Err("no result in the JSON document")),
            ("{}", count(&["a"]), Err("no result in the JSON document")),
            ("7", count(&[]), Err("no result in the JSON document")),
            (r#"{"players":5,"bots":2}"#, Extract::Players(Players::WithoutBots), text("3")),
            (r#"{"players":2,"bots":5}"#, Extract::Players(Players::WithoutBots), text("0")),
            (r#"{"players":5}"#, Extract::Players(Players::WithoutBots), Err("no number of players in the answer")),
            (r#"{"players":5}"#, Extract::Players(Players::All), text("5")),
            (r#"{"players":{"online":4}}"#, Extract::Players(Players::Online), text("4")),
            (r#"{"version":{}}"#, Extract::Players(Players::Online), Err("no number of players in the answer")),
            (
                r#"{"players":{"online":"4"}}"#,
                Extract::Players(Players::Online),
                Err("no number of players in the answer"),
            ),
            ("players 4\n", Extract::Metric(Metric { name: "players".into(), labels: Vec::new() }), text("4")),
            (
                "",
                Extract::Metric(Metric { name: "players".into(), labels: Vec::new() }),
                Err("no result in the metrics"),
            ),
        ] {
            let result = of(Document::whole(document), &extract);
            match (result, expected) {
                (Ok(ProbeResult::Text(found)), Ok(expected)) => assert_eq!(found, expected, "{document}"),
                (Err(error), Err(beginning)) => {
                    assert!(error.to_string().starts_with(beginning), "{document}: {error}")
                }
                (found, _) => panic!("{document}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_document_that_no_rule_needs_decides_nothing() {
        assert_eq!(of(Document::whole("{broken"), &Extract::Nothing).unwrap(), ProbeResult::Unread);
        assert_eq!(of(Document::nothing(), &Extract::Whole).unwrap(), ProbeResult::Unread);
    }
}
