//! Owns the way from a document to its result, the same for all kinds of probe (behaviour 3.7, 3.9, 6.5). Pure: documents and
//! no sockets.

use super::document::{Content, Document};
use super::{ProbeError, json_path};
use crate::config::{Extract, MAX_VALUE_BYTES};
use crate::decide::policy::ProbeResult;

/// The most of a document that is read for a value in it.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// How many bytes of a document its result depends on; of a longer one the beginning is enough.
pub fn needed_bytes(extract: &Extract) -> usize {
    match extract {
        Extract::Nothing => 0,
        Extract::Whole => MAX_VALUE_BYTES,
        Extract::Value { .. } => MAX_DOCUMENT_BYTES,
    }
}

/// The result in a document.
///
/// # Errors
/// The document is too long, is not JSON or has no value at the path, and a rule needs that value.
pub fn of(document: Document, extract: &Extract) -> Result<ProbeResult, ProbeError> {
    let text = match (extract, document.content) {
        (Extract::Nothing, _) | (_, Content::Nothing) => return Ok(ProbeResult::Unread),
        (Extract::Whole, Content::Cut(bytes)) => return Ok(ProbeResult::TooLong(text(bytes))),
        (Extract::Value { .. }, Content::Cut(_)) => return Err(ProbeError::DocumentTooLong),
        (_, Content::Whole(bytes)) => text(bytes),
    };
    let found = match extract {
        Extract::Nothing | Extract::Whole => text,
        Extract::Value { path, field_type } => {
            json_path::extract(&text, path, *field_type).map_err(ProbeError::NoResult)?
        }
    };
    let trimmed = found.trim_ascii();
    if trimmed.len() > MAX_VALUE_BYTES {
        return Ok(ProbeResult::TooLong(trimmed.to_owned()));
    }
    Ok(ProbeResult::Text(if trimmed.len() == found.len() { found } else { trimmed.to_owned() }))
}

/// The bytes as text, with U+FFFD for what is not UTF-8, and without a byte order mark.
fn text(bytes: Vec<u8>) -> String {
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    const MARK: char = '\u{feff}';
    if text.starts_with(MARK) {
        text.drain(..MARK.len_utf8());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(of_length(MAX_VALUE_BYTES + 1), ProbeResult::TooLong("x".repeat(MAX_VALUE_BYTES + 1)));
        assert_eq!(of(Document::cut("x"), &Extract::Whole).unwrap(), ProbeResult::TooLong("x".into()));
        let value = Extract::Value { path: vec!["a".into()], field_type: None };
        assert!(matches!(of(Document::cut("{\"a\":1"), &value), Err(ProbeError::DocumentTooLong)));
    }

    #[test]
    fn a_document_that_no_rule_needs_decides_nothing() {
        assert_eq!(of(Document::whole("{broken"), &Extract::Nothing).unwrap(), ProbeResult::Unread);
        assert_eq!(of(Document::nothing(), &Extract::Whole).unwrap(), ProbeResult::Unread);
    }
}
