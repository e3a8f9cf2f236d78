//! The least that a probe over HTTP can cost: connect, write, read, compare, sleep, in std alone. `tests/footprint.sh`
//! compiles it by itself, with the flags of the release profile, and measures it beside the sidecar. It takes the game's
//! address and probes once a second.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);

fn main() {
    let address: SocketAddr =
        std::env::args().nth(1).and_then(|word| word.parse().ok()).expect("the game's address is the one argument");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: bare-loop\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let mut buffer = [0; 4096];
    let mut state = Vec::new();
    let started = Instant::now();
    for round in 1.. {
        let length = probe(address, request.as_bytes(), &mut buffer).unwrap_or_default();
        let response = &buffer[..length];
        let head = response.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(length);
        if response[head..] != *state {
            state = response[head..].to_vec();
            eprintln!("{}", String::from_utf8_lossy(&state).trim());
        }
        thread::sleep((INTERVAL * round).saturating_sub(started.elapsed()));
    }
}

/// Reads a response to its end or to the end of the buffer, and gives its length.
fn probe(address: SocketAddr, request: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
    let mut game = TcpStream::connect_timeout(&address, TIMEOUT)?;
    game.write_all(request)?;
    let mut length = 0;
    loop {
        match game.read(&mut buffer[length..])? {
            0 => return Ok(length),
            read => length += read,
        }
    }
}
