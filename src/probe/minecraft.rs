//! Owns one probe by the status of Minecraft's Java Edition, 1.7 and later (behaviour 3.11):
//! <https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping>.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::Instant;

use super::ProbeError;
use super::document::Document;
use crate::config::Server;
use crate::memory::Memory;
use crate::net::{self, Received};

/// The most bytes of a status: the protocol lets it have 32,767 characters, an icon among them.
pub const MAX_STATUS_BYTES: usize = 3 * 32_767;

/// What to look at if no answer comes.
const ADVICE: &str = "is enable-status=false in server.properties?";

/// Asks until the deadline.
///
/// # Errors
/// No connection, no answer, or one that cannot be read.
pub fn ask(server: &Server, deadline: Instant) -> Result<Document, ProbeError> {
    let stream = net::addresses(&server.host, server.port)
        .and_then(|addresses| net::connect_to_any(&addresses, deadline))
        .map_err(ProbeError::NoConnection)?;
    let no_answer = |error| ProbeError::NoAnswer(error, ADVICE);
    net::send_all(&stream, &request(server), deadline).map_err(no_answer)?;
    let mut received = Received::default();
    let mut memory = Memory::take();
    loop {
        let read = net::receive(&stream, &mut memory, deadline).map_err(no_answer)?;
        received.count(read).map_err(no_answer)?;
        if let Some(status) = find(&memory)? {
            memory.truncate(status.end);
            memory.drain(..status.start);
            return Ok(Document::whole(memory.into_received()));
        }
        if read == 0 {
            return Err(no_answer(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")));
        }
    }
}

/// A handshake that leads to the status, and the request for it.
fn request(server: &Server) -> Vec<u8> {
    // Protocol -1 is none in particular.
    let mut handshake = vec![0x00, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    push_number(&mut handshake, host.len());
    handshake.extend(host.as_bytes());
    handshake.extend(server.port.to_be_bytes());
    handshake.push(0x01);
    let mut request = Vec::new();
    push_number(&mut request, handshake.len());
    request.extend(handshake);
    request.extend([0x01, 0x00]);
    request
}

/// The place of the status in the bytes of a server; `None` as long as more of it is to come.
///
/// # Errors
/// The packet is none of a status, or is larger than one can be.
pub fn find(bytes: &[u8]) -> Result<Option<Range<usize>>, ProbeError> {
    let broken = |rule: &str| Err(ProbeError::Unusable(rule.into()));
    let mut at = 0;
    let Some(length) = number(bytes, &mut at)? else { return Ok(None) };
    // Its id and the length of the text have 4 bytes together.
    if length > MAX_STATUS_BYTES + 4 {
        return broken("its packet is larger than a status can be");
    }
    let end = at + length;
    let Some(id) = number(bytes, &mut at)? else { return Ok(None) };
    if id != 0 {
        return broken("its packet is no status; is this a Java Edition server?");
    }
    let Some(length) = number(bytes, &mut at)? else { return Ok(None) };
    let status = at..at.saturating_add(length);
    if status.end > end {
        return broken("its text is longer than its packet");
    }
    Ok((bytes.len() >= status.end).then_some(status))
}

/// A VarInt, 7 bits a byte from the lowest on; `None` as long as it does not end.
fn number(bytes: &[u8], at: &mut usize) -> Result<Option<usize>, ProbeError> {
    let mut number = 0;
    for shift in [0, 7, 14, 21, 28] {
        let Some(byte) = bytes.get(*at) else { return Ok(None) };
        *at += 1;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some(number));
        }
    }
    Err(ProbeError::Unusable("it has a number of more than 5 bytes".into()))
}

fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        bytes.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of this id, text and length of the text.
    fn packet(id: u8, length: usize, text: &[u8]) -> Vec<u8> {
        let mut content = vec![id];
        push_number(&mut content, length);
        content.extend(text);
        let mut packet = Vec::new();
        push_number(&mut packet, content.len());
        packet.extend(content);
        packet
    }

    fn found(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
        find(bytes).map(|status| status.map(|status| &bytes[status])).map_err(|error| error.to_string())
    }

    #[test]
    fn the_status_is_found_when_all_of_it_is_there() {
        for text in ["{}".to_owned(), "x".repeat(200), "x".repeat(20_000), "x".repeat(MAX_STATUS_BYTES)] {
            let whole = packet(0, text.len(), text.as_bytes());
            for end in (0..whole.len()).rev().take(10).chain(0..10.min(whole.len() - 1)) {
                assert_eq!(found(&whole[..end]), Ok(None), "{end} of {}", whole.len());
            }
            assert_eq!(found(&whole), Ok(Some(text.as_bytes())));
            assert_eq!(found(&[&whole[..], b"more"].concat()), Ok(Some(text.as_bytes())));
        }
    }

    #[test]
    fn lengths_that_lie_are_seen_before_what_they_promise_has_come() {
        for (bytes, said) in [
            (&b"\xff\xff\xff\xff\x07"[..], "larger than a status"),
            (b"\xff\xff\xff\xff\xff", "more than 5 bytes"),
            (b"\x05\xff\xff\xff\xff\xff", "more than 5 bytes"),
            (b"\x02\x00\x01", "longer than its packet"),
            (b"\x00\x00\x00", "longer than its packet"),
            (b"\x07\x00\xff\xff\xff\xff\x0f{}", "longer than its packet"),
            (b"\x0a\x1b", "no status"),
            (b"HTTP/1.1 400 Bad Request\r\n", "no status"),
            (&packet(0, MAX_STATUS_BYTES + 1, b"")[..], "longer than its packet"),
        ] {
            let error = found(bytes).unwrap_err();
            assert!(error.contains(said), "{bytes:?}: {error}");
        }
        let mut too_large = Vec::new();
        push_number(&mut too_large, MAX_STATUS_BYTES + 5);
        assert!(found(&too_large).unwrap_err().contains("larger than a status"));
    }

    #[test]
    fn the_request_names_the_host_and_port_of_the_url() {
        let of = |host: &str| request(&Server { host: host.into(), port: 25565 });
        let expected = b"\x10\x00\xff\xff\xff\xff\x0f\x06mc.lan\x63\xdd\x01\x01\x00";
        assert_eq!(of("mc.lan"), expected);
        assert_eq!(of("[::1]"), b"\x0d\x00\xff\xff\xff\xff\x0f\x03::1\x63\xdd\x01\x01\x00");
        let long = of(&"h".repeat(300));
        assert!(long.starts_with(b"\xb7\x02\x00\xff\xff\xff\xff\x0f\xac\x02h"), "{long:?}");
    }

    #[test]
    fn a_real_server_is_read() {
        let bytes = include_bytes!("../../fuzz/seeds/minecraft/status");
        let status: serde_json::Value = serde_json::from_slice(found(bytes).unwrap().unwrap()).unwrap();
        assert_eq!(status["players"]["online"], 3);
    }
}
