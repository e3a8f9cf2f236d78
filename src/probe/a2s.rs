//! Owns one probe by Valve's A2S_INFO (behaviour 3.10): <https://developer.valvesoftware.com/wiki/Server_queries>.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::ProbeError;
use super::document::Document;
use super::fields::{Fields, Text};
use crate::config::Server;
use crate::net::{Datagrams, RESEND};

const REQUEST: &[u8] = b"\xff\xff\xff\xffTSource Engine Query\0";

/// What to look at if no answer comes.
const ADVICE: &str = "is the query port another one? CS2 wants host_info_show 2";

/// How long the answer to an old challenge is waited for: a server that does not take it may say nothing.
const PATIENCE: Duration = Duration::from_millis(250);

/// How many probes go without an old challenge after that.
const WITHOUT: u32 = 20;

/// Asks one server again and again.
pub struct Prober {
    server: Server,
    /// That of the last success. If the server takes it again, one exchange is enough.
    challenge: Cell<Option<[u8; 4]>>,
    /// How many probes are to begin without one.
    without: Cell<u32>,
}

/// What a datagram of a server is.
#[derive(Debug, PartialEq)]
pub enum Reply<'d> {
    /// The request has to be sent with these bytes.
    Challenge([u8; 4]),
    /// What was asked for.
    Info(Fields<'d>),
    /// Not an answer to this request.
    Other,
}

impl Prober {
    /// A prober of this server.
    pub fn new(server: &Server) -> Self {
        Self { server: server.clone(), challenge: Cell::default(), without: Cell::default() }
    }

    /// Asks until the deadline.
    ///
    /// # Errors
    /// No answer, or one that cannot be read.
    pub fn ask(&self, deadline: Instant) -> Result<Document, ProbeError> {
        let no_answer = |error| ProbeError::NoAnswer(error, ADVICE);
        let Server { host, port } = &self.server;
        let mut server = Datagrams::connect(host, *port, REQUEST, deadline).map_err(no_answer)?;
        let without = self.without.get();
        let mut challenge = self.challenge.get().filter(|_| without == 0);
        let mut is_silent = challenge.is_some();
        let patience = Instant::now() + PATIENCE;
        match challenge {
            Some(old) => server.send(&answer_to(old), PATIENCE).map_err(no_answer)?,
            None => self.without.set(without.saturating_sub(1)),
        }
        // In case that nothing comes at all.
        self.challenge.set(None);
        loop {
            let reply = read(server.receive().map_err(no_answer)?)?;
            is_silent &= Instant::now() >= patience;
            match reply {
                Reply::Info(info) => {
                    self.challenge.set(challenge);
                    if is_silent {
                        self.without.set(WITHOUT);
                    }
                    return Ok(info.into());
                }
                Reply::Challenge(new) => {
                    challenge = Some(new);
                    server.send(&answer_to(new), RESEND).map_err(no_answer)?;
                }
                Reply::Other => {}
            }
        }
    }
}

/// The request with the bytes of a challenge.
fn answer_to(challenge: [u8; 4]) -> Vec<u8> {
    [REQUEST, &challenge].concat()
}

/// Reads a datagram of a server.
///
/// # Errors
/// An answer that is split or broken.
pub fn read(datagram: &[u8]) -> Result<Reply<'_>, ProbeError> {
    match datagram {
        [0xff, 0xff, 0xff, 0xff, b'A', challenge @ ..] => {
            Ok(challenge.first_chunk().map_or(Reply::Other, |challenge| Reply::Challenge(*challenge)))
        }
        [0xff, 0xff, 0xff, 0xff, b'I', rest @ ..] => source(Reader(rest)).map(Reply::Info).ok_or_else(broken),
        [0xff, 0xff, 0xff, 0xff, b'm', rest @ ..] => gold_source(Reader(rest)).map(Reply::Info).ok_or_else(broken),
        [0xfe, 0xff, 0xff, 0xff, ..] => {
            Err(ProbeError::Unusable("it is split over packets, which is not supported".into()))
        }
        _ => Ok(Reply::Other),
    }
}

fn broken() -> ProbeError {
    ProbeError::Unusable("it ends before the numbers of players and bots".into())
}

/// The answer `I`.
fn source(mut reader: Reader<'_>) -> Option<Fields<'_>> {
    const THE_SHIP: [u8; 2] = 2400_u16.to_le_bytes();
    let [_protocol] = reader.bytes()?;
    let (name, map, _folder, game) = (reader.text()?, reader.text()?, reader.text()?, reader.text()?);
    let (app, [players, max_players, bots]) = (reader.bytes()?, reader.bytes()?);
    // No rule needs more than these numbers: an answer that ends here is one.
    let version = (|| {
        let [_kind, _platform, _password, _vac] = reader.bytes()?;
        if app == THE_SHIP {
            let [_mode, _witnesses, _duration] = reader.bytes()?;
        }
        reader.text()
    })();
    Some(fields(name, map, game, version, [players, max_players, bots]))
}

/// The answer `m` of GoldSrc.
fn gold_source(mut reader: Reader<'_>) -> Option<Fields<'_>> {
    let (_address, name, map, _folder, game) =
        (reader.text()?, reader.text()?, reader.text()?, reader.text()?, reader.text()?);
    let [players, max_players, _protocol, _kind, _platform, _password, is_mod] = reader.bytes()?;
    if is_mod == 1 {
        let (_link, _download) = (reader.text()?, reader.text()?);
        let _zero_version_size_kind_and_library: [u8; 11] = reader.bytes()?;
    }
    let [_vac, bots] = reader.bytes()?;
    Some(fields(name, map, game, None, [players, max_players, bots]))
}

fn fields<'d>(
    name: Text<'d>,
    map: Text<'d>,
    game: Text<'d>,
    version: Option<Text<'d>>,
    [players, max_players, bots]: [u8; 3],
) -> Fields<'d> {
    Fields {
        name,
        map: Some(map),
        version,
        players: players.into(),
        max_players: Some(max_players.into()),
        bots: Some(bots.into()),
        game: Some(game),
        game_mode: None,
    }
}

/// What of a datagram is not read yet.
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Option<Text<'d>> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\xff\xff\xff\xffI\x11A server\0de_dust2\0cstrike\0Counter-Strike: Source\0\xf0\x00";

    fn info(tail: &[u8]) -> Vec<u8> {
        [HEAD, tail].concat()
    }

    fn document(datagram: &[u8]) -> String {
        match read(datagram) {
            Ok(Reply::Info(fields)) => serde_json::to_string(&fields).unwrap(),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_answer_gives_its_fields() {
        let fields = r#"{"players":5,"bots":4,"maxPlayers":64,"name":"A server","map":"de_dust2","game":"Counter-Strike: Source","version":"1.0.0.70"}"#;
        assert_eq!(document(&info(b"\x05\x40\x04dl\x00\x011.0.0.70\0")), fields);
        // Extra data, here a port, keywords and the game's id, is not needed.
        assert_eq!(document(&info(b"\x05\x40\x04dl\x00\x011.0.0.70\0\xa1\x87\x69alltalk\0\xf0\0\0\0\0\0\0\0")), fields);
        let mut ship = info(b"\x05\x40\x04dl\x00\x01\x01\x02\x031.0.0.70\0");
        let app = HEAD.len() - 2;
        ship[app..HEAD.len()].copy_from_slice(&2400_u16.to_le_bytes());
        assert_eq!(document(&ship), fields);
    }

    #[test]
    fn an_answer_of_goldsrc_gives_its_fields() {
        let head = b"\xff\xff\xff\xffm127.0.0.1:27015\0HLDM\0crossfire\0valve\0Half-Life\0\x03\x10\x2fdl\x00";
        let fields = r#"{"players":3,"bots":2,"maxPlayers":16,"name":"HLDM","map":"crossfire","game":"Half-Life"}"#;
        assert_eq!(document(&[&head[..], b"\x00\x01\x02"].concat()), fields);
        let with_mod = [&head[..], b"\x01http://m\0http://d\0\0\x01\0\0\0\x02\0\0\0\0\x01\x01\x02"].concat();
        assert_eq!(document(&with_mod), fields);
    }

    #[test]
    fn a_name_of_any_bytes_hides_no_number() {
        let named = |name: &[u8]| [b"\xff\xff\xff\xffI\x11", name, b"\0m\0f\0g\0\0\0\x02\x08\x00dl\0\x011\0"].concat();
        let fields = |name: &str| {
            format!(r#"{{"players":2,"bots":0,"maxPlayers":8,"name":"{name}","map":"m","game":"g","version":"1"}}"#)
        };
        assert_eq!(document(&named(b"\xe7\xa9")), fields("\u{fffd}"));
        assert_eq!(document(&named(b"\"},\x01\\")), fields(r#"\"}, \\"#));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_a_failure_until_the_numbers_are_there() {
        let whole = info(b"\x05\x40\x04dl\x00\x011.0.0.70\0");
        for end in 5..whole.len() {
            let said = document(&whole[..end]);
            if end < HEAD.len() + 3 {
                assert_eq!(said, "no usable answer: it ends before the numbers of players and bots", "{end}");
            } else {
                assert!(said.starts_with(r#"{"players":5,"bots":4,"maxPlayers":64"#), "{end}: {said}");
            }
        }
        let gold = b"\xff\xff\xff\xffma\0n\0m\0f\0g\0\x03\x10\x2fdl\x00\x00\x01\x02";
        for end in 5..gold.len() {
            assert!(document(&gold[..end]).starts_with("no usable answer"), "{end}");
        }
        assert!(document(gold).contains(r#""players":3"#));
    }

    #[test]
    fn a_challenge_is_told_from_an_answer_and_from_neither() {
        assert_eq!(read(b"\xff\xff\xff\xffA\x01\x02\x03\x04").unwrap(), Reply::Challenge([1, 2, 3, 4]));
        assert_eq!(answer_to([1, 2, 3, 4]), b"\xff\xff\xff\xffTSource Engine Query\0\x01\x02\x03\x04");
        for other in
            [&b""[..], b"\xff\xff\xff\xff", b"\xff\xff\xff\xffA\x01\x02\x03", b"\xff\xff\xff\xffD\x00", b"I\x11"]
        {
            assert_eq!(read(other).unwrap(), Reply::Other, "{other:?}");
        }
        assert!(document(b"\xfe\xff\xff\xff\x01\0\0\0\x02\0\0\0").contains("split over packets"));
    }

    #[test]
    fn answers_that_other_clients_read_alike_are_read() {
        let fields = document(include_bytes!("../../fuzz/seeds/a2s/source"));
        assert!(fields.starts_with(r#"{"players":5,"bots":2,"maxPlayers":24,"name":"A Source server 服""#), "{fields}");
        let fields = document(include_bytes!("../../fuzz/seeds/a2s/goldsrc"));
        assert!(fields.starts_with(r#"{"players":5,"bots":2,"maxPlayers":16,"name":"A GoldSrc server""#), "{fields}");
        let challenge = read(include_bytes!("../../fuzz/seeds/a2s/challenge")).unwrap();
        assert_eq!(challenge, Reply::Challenge(*b"#EzT"));
    }
}
