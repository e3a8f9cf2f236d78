//! Owns one TCP probe: whether a connection comes about (behaviour 9.4).

use std::io;
use std::time::{Duration, Instant};

use crate::config::TcpProbe;
use crate::net;

/// Connects within `timeout`, and closes at once.
///
/// # Errors
/// Why there was no connection: of several addresses, to the first.
pub fn connect(probe: &TcpProbe, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    net::connect_to_any(&net::addresses(&probe.host, probe.port)?, deadline).map(drop)
}
