//! Owns one TCP probe: whether a connection comes about (behaviour 9.4).

use std::time::Instant;

use super::ProbeError;
use super::document::Document;
use crate::config::Server;
use crate::net;

/// Connects until the deadline, and closes at once.
///
/// # Errors
/// Why there was no connection: of several addresses, to the first.
pub fn ask(server: &Server, deadline: Instant) -> Result<Document, ProbeError> {
    net::addresses(&server.host, server.port)
        .and_then(|addresses| net::connect_to_any(&addresses, deadline))
        .map(|_| Document::nothing())
        .map_err(ProbeError::NoConnection)
}
