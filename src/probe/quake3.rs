//! Owns one probe by `getstatus`, which servers of Quake 3's family answer (behaviour 3.10).

use std::time::Instant;

use super::ProbeError;
use super::document::Document;
use super::fields::{self, Fields, Text};
use crate::config::Server;

const REQUEST: &[u8] = b"\xff\xff\xff\xffgetstatus\n";

const STATUS: &[u8] = b"\xff\xff\xff\xffstatusResponse\n";

/// What Xonotic's engine answers when its players do not fit into 1,400 bytes: their numbers alone.
const INFO: &[u8] = b"\xff\xff\xff\xffinfoResponse\n";

/// What to look at if no answer comes.
const ADVICE: &str = "is the port another one? does it listen on this address?";

/// Asks until the deadline.
///
/// # Errors
/// No answer, or one that cannot be read.
pub fn ask(server: &Server, deadline: Instant) -> Result<Document, ProbeError> {
    fields::ask(server, REQUEST, deadline, ADVICE, read)
}

/// Reads a datagram of a server; `None` if it is no answer to the request.
///
/// # Errors
/// An answer that is broken.
pub fn read(datagram: &[u8]) -> Result<Option<Fields<'_>>, ProbeError> {
    let broken = |rule: &str| ProbeError::Unusable(rule.into());
    let (answer, has_list) = match (datagram.strip_prefix(STATUS), datagram.strip_prefix(INFO)) {
        (Some(answer), _) => (answer, true),
        (None, Some(answer)) => (answer, false),
        (None, None) => return Ok(None),
    };
    let mut lines = answer.split(|byte| *byte == b'\n');
    let settings = lines.next().and_then(|line| line.strip_prefix(b"\\"));
    let settings = settings.ok_or_else(|| broken("it has no settings of the server"))?;
    let setting = |wanted: &[&[u8]]| {
        let mut words = settings.split(|byte| *byte == b'\\');
        loop {
            let (key, value) = (words.next()?, words.next()?);
            if wanted.contains(&key) {
                return Some(Text(value));
            }
        }
    };
    let number = |key: &[u8]| setting(&[key]).and_then(Text::number);
    let (players, bots) = if has_list {
        // A line each: score, ping, name. Whatever a name contains, its line counts.
        let lines = lines.filter(|line| !line.iter().all(|byte| *byte == 0 || byte.is_ascii_whitespace()));
        lines.fold((0, 0), |(players, bots), line| {
            // Everybody has a ping but the bots that the server runs itself.
            let is_bot = line.split(u8::is_ascii_whitespace).nth(1) == Some(b"0");
            (players + 1, bots + usize::from(is_bot))
        })
    } else {
        let players = number(b"clients").ok_or_else(|| broken("it has neither players nor their number"))?;
        (players, number(b"bots").unwrap_or_default())
    };
    Ok(Some(Fields {
        name: setting(&[b"sv_hostname", b"hostname"]).unwrap_or_default(),
        map: setting(&[b"mapname"]),
        version: setting(&[b"version", b"gameversion"]),
        players,
        max_players: number(b"sv_maxclients"),
        bots: Some(bots),
        game: setting(&[b"gamename"]),
        game_mode: setting(&[b"g_gametype"]),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(answer: &[u8]) -> String {
        match read(&[b"\xff\xff\xff\xff", answer].concat()) {
            Ok(Some(fields)) => serde_json::to_string(&fields).unwrap(),
            Ok(None) => "skipped".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_answer_gives_its_fields() {
        for (answer, fields) in [
            (
                "statusResponse\n\\sv_hostname\\arena\\version\\ioq3 1.36\\g_gametype\\0\\mapname\\oa_dm1\\sv_maxclients\\8\\gamename\\baseoa\n\
                 0 0 \"Sarge\"\n12 48 \"player\"\n0 0 \"Grunt\"\n",
                r#"{"players":3,"bots":2,"maxPlayers":8,"name":"arena","map":"oa_dm1","game":"baseoa","gameMode":"0","version":"ioq3 1.36"}"#,
            ),
            (
                // Xonotic's, with a team behind the ping.
                "statusResponse\n\\gamename\\Xonotic\\gameversion\\802\\sv_maxclients\\16\\mapname\\stormkeep\\hostname\\x\n5 31 1 \"^1a\"\n",
                r#"{"players":1,"bots":0,"maxPlayers":16,"name":"x","map":"stormkeep","game":"Xonotic","version":"802"}"#,
            ),
            (
                "infoResponse\n\\gamename\\Xonotic\\sv_maxclients\\64\\clients\\40\\bots\\2\\mapname\\m\\hostname\\x",
                r#"{"players":40,"bots":2,"maxPlayers":64,"name":"x","map":"m","game":"Xonotic"}"#,
            ),
            ("statusResponse\n\\a\\b", r#"{"players":0,"bots":0,"name":""}"#),
            ("statusResponse\n\\a\n\0\n \n", r#"{"players":0,"bots":0,"name":""}"#),
            // The first of repeated settings counts, and a value is no key.
            ("statusResponse\n\\x\\mapname\\mapname\\m\\mapname\\n\n", r#"{"players":0,"bots":0,"name":"","map":"m"}"#),
        ] {
            assert_eq!(document(answer.as_bytes()), fields, "{answer}");
        }
    }

    #[test]
    fn whatever_a_player_is_called_it_counts() {
        let of = |line: &[u8]| document(&[b"statusResponse\n\\a\\b\n0 0 \"bot\"\n", line].concat());
        for line in [
            &b"3 50 \"\xe7\xa9\"\n"[..],
            b"3 50 \"\xff\"",
            b"3 50 \"a \"quoted\" \\name\\ 0\"\n",
            b"-3 999 \"\"\n",
            b"\x01\n",
            b"no numbers\n",
        ] {
            assert_eq!(of(line), r#"{"players":2,"bots":1,"name":""}"#, "{line:?}");
        }
    }

    #[test]
    fn what_is_broken_is_a_failure_and_what_is_no_answer_is_skipped() {
        for broken in ["statusResponse\n", "statusResponse\n0 0 \"a\"\n", "statusResponse\n\n\\a\\b"] {
            assert!(document(broken.as_bytes()).contains("no settings of the server"), "{broken}");
        }
        assert!(document(b"infoResponse\n\\a\\b").contains("neither players nor their number"));
        for other in ["", "print\nserver is full\n", "infoResponse", "statusResponse"] {
            assert_eq!(document(other.as_bytes()), "skipped", "{other}");
        }
        assert_eq!(read(b"statusResponse\n\\a\\b").unwrap(), None);
    }

    #[test]
    fn real_servers_are_read() {
        let of = |datagram: &[u8]| document(&datagram[4..]);
        let fields = of(include_bytes!("../../fuzz/seeds/quake3/openarena"));
        assert!(
            fields.starts_with(r#"{"players":2,"bots":2,"maxPlayers":8,"name":"okg test","map":"oa_dm1""#),
            "{fields}"
        );
        let fields = of(include_bytes!("../../fuzz/seeds/quake3/darkplaces"));
        assert!(fields.starts_with(r#"{"players":3,"bots":2,"maxPlayers":16,"name":"A Xonotic server""#), "{fields}");
        let fields = of(include_bytes!("../../fuzz/seeds/quake3/darkplaces-info"));
        assert!(fields.starts_with(r#"{"players":3,"bots":2,"maxPlayers":16,"name":"A Xonotic server""#), "{fields}");
    }
}
