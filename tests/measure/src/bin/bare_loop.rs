//! The least that a probe can cost: ask, read, compare, sleep, in std alone. `tests/footprint.sh` compiles it by itself, with the
//! flags of the release profile, and measures it beside the sidecar. It takes the game's address or the file's path, and the
//! kind of probe if that is not HTTP; it probes once a second.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);

fn main() {
    let mut words = std::env::args().skip(1);
    let place = words.next().expect("the first argument is an address or a path");
    let kind = words.next().unwrap_or_else(|| "http".to_owned());
    let mut request = match kind.as_str() {
        "http" => format!(
            "GET / HTTP/1.1\r\nHost: {place}\r\nUser-Agent: bare-loop\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        .into_bytes(),
        "a2s" => b"\xff\xff\xff\xffTSource Engine Query\0".to_vec(),
        "bedrock" => [b"\x01\0\0\0\0\0\0\0\0", &MAGIC[..], b"\0\0\0\0\0\0\0\x02"].concat(),
        "quake3" => b"\xff\xff\xff\xffgetstatus\n".to_vec(),
        "minecraft" => b"\x0b\0\xff\xff\xff\xff\x0f\x01h\x63\xdd\x01\x01\0".to_vec(),
        _ => Vec::new(),
    };
    let address = || -> SocketAddr { place.parse().expect("it is an address") };
    let mut buffer = [0; 4096];
    let mut state = Vec::new();
    let started = Instant::now();
    for round in 1.. {
        let length = match kind.as_str() {
            "file" => read(&place, &mut buffer),
            "tcp" => TcpStream::connect_timeout(&address(), TIMEOUT).map(|_| 0),
            "http" => talk(address(), &request, &mut buffer, |_| false),
            // The length of all stands in front; the status of this game has less than 128 bytes.
            "minecraft" => talk(address(), &request, &mut buffer, |answer| answer.len() > usize::from(answer[0])),
            _ => exchange(address(), &mut request, &mut buffer),
        };
        let answer = &buffer[..length.unwrap_or_default()];
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_default();
        if answer[head..] != *state {
            state = answer[head..].to_vec();
            eprintln!("{}", String::from_utf8_lossy(&state).trim());
        }
        thread::sleep((INTERVAL * round).saturating_sub(started.elapsed()));
    }
}

const MAGIC: [u8; 16] = *b"\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78";

/// Reads a response to its end, to where it is whole or to the end of the buffer, and gives its length.
fn talk(address: SocketAddr, request: &[u8], buffer: &mut [u8], is_whole: fn(&[u8]) -> bool) -> io::Result<usize> {
    let mut game = TcpStream::connect_timeout(&address, TIMEOUT)?;
    game.write_all(request)?;
    let mut length = 0;
    loop {
        match game.read(&mut buffer[length..])? {
            0 => return Ok(length),
            read => length += read,
        }
        if is_whole(&buffer[..length]) {
            return Ok(length);
        }
    }
}

/// Sends the request, once more with a challenge where that is the answer, and gives the length of the answer.
fn exchange(address: SocketAddr, request: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<usize> {
    let game = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    game.connect(address)?;
    game.set_read_timeout(Some(TIMEOUT))?;
    loop {
        game.send(request)?;
        let length = game.recv(buffer)?;
        match buffer[..length].strip_prefix(b"\xff\xff\xff\xffA") {
            Some(challenge) => request.extend(challenge),
            None => return Ok(length),
        }
    }
}

fn read(path: &str, buffer: &mut [u8]) -> io::Result<usize> {
    fs::File::open(path)?.read(buffer)
}
