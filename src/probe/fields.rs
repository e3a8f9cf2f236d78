//! Owns the document of protocols that have none of their own: the same names for the same facts (behaviour 2.3), and a bound
//! for each text, so that no document grows with what a server sends.

use std::time::Instant;

use serde::{Serialize, Serializer};

use super::ProbeError;
use super::document::Document;
use crate::config::Server;
use crate::net::Datagrams;

/// The most bytes of a text that are kept. A protocol's own bounds are far below.
const MAX_TEXT_BYTES: usize = 1024;

/// The facts that a server gives of itself, the numbers first, since a message shows the beginning. The document leaves out what the
/// protocol does not have.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fields<'a> {
    /// How many players there are, bots included if the protocol includes them.
    pub players: usize,
    /// How many of the players are bots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bots: Option<usize>,
    /// How many players there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_players: Option<usize>,
    /// The server's name.
    pub name: Text<'a>,
    /// The map, world or level that is played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Text<'a>>,
    /// The game, or its modification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub game: Option<Text<'a>>,
    /// How it is played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub game_mode: Option<Text<'a>>,
    /// The version of the game or of its server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Text<'a>>,
}

/// Sends one request over UDP and gives the first datagram that `read` takes for its answer.
///
/// # Errors
/// No answer until the deadline, with the advice, or one that cannot be read.
pub fn ask(
    server: &Server,
    request: &'static [u8],
    deadline: Instant,
    advice: &'static str,
    read: fn(&[u8]) -> Result<Option<Fields<'_>>, ProbeError>,
) -> Result<Document, ProbeError> {
    let no_answer = |error| ProbeError::NoAnswer(error, advice);
    let mut server = Datagrams::connect(&server.host, server.port, request, deadline).map_err(no_answer)?;
    loop {
        if let Some(fields) = read(server.receive().map_err(no_answer)?)? {
            return Ok(fields.into());
        }
    }
}

impl From<Fields<'_>> for Document {
    fn from(fields: Fields) -> Self {
        // Texts and numbers alone are always JSON.
        Self::whole(serde_json::to_vec(&fields).unwrap_or_default())
    }
}

/// A text of the game, in whatever bytes.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Text<'a>(pub &'a [u8]);

impl Text<'_> {
    /// The number that it is in digits.
    pub fn number(self) -> Option<usize> {
        let digits = str::from_utf8(self.0.trim_ascii()).ok()?;
        digits.parse().ok().filter(|_| !digits.starts_with('+'))
    }

    /// As it stands in the document: cut at [`MAX_TEXT_BYTES`], with U+FFFD for what is not UTF-8, and a space for a control
    /// character.
    fn shown(self) -> String {
        let kept = &self.0[..self.0.len().min(MAX_TEXT_BYTES)];
        String::from_utf8_lossy(kept).replace(char::is_control, " ")
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_protocol_does_not_have_is_left_out() {
        let fields = Fields { name: Text(b"A \"server\""), players: 2, ..Fields::default() };
        assert_eq!(Document::from(fields), Document::whole(r#"{"players":2,"name":"A \"server\""}"#));
        let fields = Fields {
            name: Text(b"n"),
            map: Some(Text(b"m")),
            version: Some(Text(b"1")),
            players: 3,
            max_players: Some(8),
            bots: Some(1),
            game: Some(Text(b"g")),
            game_mode: Some(Text(b"Survival")),
        };
        let document = r#"{"players":3,"bots":1,"maxPlayers":8,"name":"n","map":"m","game":"g","gameMode":"Survival","version":"1"}"#;
        assert_eq!(Document::from(fields), Document::whole(document));
    }

    #[test]
    fn a_text_is_json_whatever_its_bytes_are_and_never_long() {
        let of = |bytes: &[u8]| serde_json::to_string(&Text(bytes)).unwrap();
        assert_eq!(of("玩家".as_bytes()), "\"玩家\"");
        assert_eq!(of(b"\xe7\xa9"), "\"\u{fffd}\"");
        assert_eq!(of(b"a\xffb\x00\n\"\\"), "\"a\u{fffd}b  \\\"\\\\\"");
        assert_eq!(of(&[b'x'; MAX_TEXT_BYTES + 1]), format!("\"{}\"", "x".repeat(MAX_TEXT_BYTES)));
        assert!(of(&[0xff; 65_536]).len() <= 3 * MAX_TEXT_BYTES + 2);
    }

    #[test]
    fn numbers_are_digits() {
        for (text, number) in
            [("0", Some(0)), (" 12\n", Some(12)), ("+1", None), ("-1", None), ("", None), ("1.0", None)]
        {
            assert_eq!(Text(text.as_bytes()).number(), number, "{text:?}");
        }
        assert_eq!(Text(b"99999999999999999999999").number(), None);
    }
}
