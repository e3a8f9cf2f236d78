//! Owns one probe by RakNet's unconnected ping, which servers of Minecraft's Bedrock Edition answer (behaviour 3.10):
//! <https://minecraft.wiki/w/RakNet>.

use std::time::Instant;

use super::ProbeError;
use super::document::Document;
use super::fields::{self, Fields, Text};
use crate::config::Server;

const MAGIC: [u8; 16] = *b"\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78";

/// A ping at the time 0 by the client 2.
const REQUEST: &[u8] =
    b"\x01\0\0\0\0\0\0\0\0\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78\0\0\0\0\0\0\0\x02";

/// What to look at if no answer comes.
const ADVICE: &str = "is the port another one? Java Edition wants minecraft://";

/// Asks until the deadline.
///
/// # Errors
/// No answer, or one that cannot be read.
pub fn ask(server: &Server, deadline: Instant) -> Result<Document, ProbeError> {
    fields::ask(server, REQUEST, deadline, ADVICE, read)
}

/// Reads a datagram of a server; `None` if it is no answer to a ping.
///
/// # Errors
/// An answer that is broken.
pub fn read(datagram: &[u8]) -> Result<Option<Fields<'_>>, ProbeError> {
    let broken = |rule: &str| Err(ProbeError::Unusable(rule.into()));
    // Behind the time of the ping and the server's id.
    let Some(behind) = datagram.strip_prefix(b"\x1c").and_then(|rest| rest.get(16..)) else { return Ok(None) };
    let Some(behind) = behind.strip_prefix(&MAGIC) else { return Ok(None) };
    let Some((length, text)) = behind.split_first_chunk() else { return broken("it ends before its text") };
    let Some(text) = text.get(..u16::from_be_bytes(*length).into()) else {
        return broken("its text is shorter than its length");
    };
    let mut parts = parts(text);
    if !matches!(parts.next(), Some(b"MCPE" | b"MCEE")) {
        return broken("it is not one of Bedrock Edition");
    }
    let mut next = || parts.next().map(Text);
    let (name, protocol, version, players, max_players) = (next(), next(), next(), next(), next());
    // A semicolon in the name of a server that does not escape it shifts the others.
    let (Some(name), Some(_), Some(players)) = (name, protocol.and_then(Text::number), players.and_then(Text::number))
    else {
        return broken("its parts are not name;protocol;version;players");
    };
    let (_id, map, game_mode) = (next(), next(), next());
    let max_players = max_players.and_then(Text::number);
    Ok(Some(Fields { name, map, version, players, max_players, game_mode, ..Fields::default() }))
}

/// The parts of the text between semicolons; one in a name stands behind a backslash.
fn parts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_escaped = false;
    text.split(move |byte| {
        let ends = *byte == b';' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(text: &[u8]) -> Vec<u8> {
        let length = (text.len() as u16).to_be_bytes();
        [b"\x1c\0\0\0\0\0\0\0\0\x2a\xfa\x08\x73\xa4\xc3\xcf\x7e", &MAGIC[..], &length, text].concat()
    }

    fn document(datagram: &[u8]) -> String {
        match read(datagram) {
            Ok(Some(fields)) => serde_json::to_string(&fields).unwrap(),
            Ok(None) => "skipped".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_answer_gives_its_fields() {
        let real = b"MCPE;A Bedrock Server;766;1.21.50;2;10;-4299666129168960320;world;Survival;";
        let fields = r#"{"players":2,"maxPlayers":10,"name":"A Bedrock Server","map":"world","gameMode":"Survival","version":"1.21.50"}"#;
        assert_eq!(document(&pong(real)), fields);
        for (text, fields) in [
            ("MCEE;School;766;1.21.0;0;30", r#"{"players":0,"maxPlayers":30,"name":"School","version":"1.21.0"}"#),
            (r"MCPE;a\;b\\;1;1;3;9", r#"{"players":3,"maxPlayers":9,"name":"a\\;b\\\\","version":"1"}"#),
            ("MCPE;\u{a7}l空;1;1;3;many", "{\"players\":3,\"name\":\"\u{a7}l空\",\"version\":\"1\"}"),
        ] {
            assert_eq!(document(&pong(text.as_bytes())), fields, "{text}");
        }
        assert!(document(&pong(b"MCPE;\xff;1;1;3;9")).contains(r#""players":3"#));
    }

    #[test]
    fn what_is_broken_is_a_failure_and_what_is_no_answer_is_skipped() {
        let lies = |length: u16| {
            let mut datagram = pong(b"MCPE;n;1;1;3;9");
            datagram[33..35].copy_from_slice(&length.to_be_bytes());
            document(&datagram)
        };
        assert!(lies(u16::MAX).contains("shorter than its length"));
        assert!(lies(15).contains("shorter than its length"));
        assert!(lies(10).contains("not name;protocol;version;players"));
        for text in ["MCPE", "MCPE;n;1;1", "MCPE;n;1;1;", "MCPE;n;1;1;-1;9", "MCPE;a;b;1;1;3;9", ""] {
            assert!(document(&pong(text.as_bytes())).starts_with("no usable answer"), "{text}");
        }
        assert!(document(&pong(b"FOO;n;1;1;3;9")).contains("not one of Bedrock Edition"));
        assert!(document(&pong(b"")[..34]).contains("ends before its text"));
        let whole = pong(b"MCPE;n;1;1;3;9");
        let other_magic = [&whole[..20], &whole[21..]].concat();
        for other in [&b""[..], b"\x1c", &whole[..32], &whole[1..], &other_magic] {
            assert_eq!(document(other), "skipped", "{other:?}");
        }
    }

    #[test]
    fn a_real_server_is_read() {
        let fields = document(include_bytes!("../../fuzz/seeds/bedrock/raknet"));
        assert!(
            fields.starts_with(r#"{"players":2,"maxPlayers":10,"name":"A Bedrock Server","map":"world""#),
            "{fields}"
        );
    }
}
