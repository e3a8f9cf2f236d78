//! Owns one TCP probe: whether a connection comes about (behaviour 9.4).

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::config::TcpProbe;
use crate::http;

/// Connects within `timeout`, and closes at once.
///
/// # Errors
/// Why there was no connection: of several addresses, to the first.
pub fn connect(probe: &TcpProbe, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let addresses = http::addresses(&probe.host, probe.port)?;
    let mut failed = None;
    for (index, address) in addresses.iter().enumerate() {
        // What is left is shared out, so that one that drops packets leaves time for the next.
        let left = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
        // The system takes no zero, which a slow name lookup leaves.
        match TcpStream::connect_timeout(address, left.max(Duration::from_millis(1))) {
            Ok(_) => return Ok(()),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}
