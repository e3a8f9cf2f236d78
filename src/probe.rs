//! Owns one probe of one endpoint: the request, and what its answer is (SPEC 3.4 to 3.8). Refuses to know what the
//! result means.

use std::fmt;
use std::io::{self, Read};

use ureq::http::header::CONNECTION;
use ureq::http::{Method, Request};

use crate::config::Endpoint;
use crate::decide::json_path;
use crate::decide::policy::Answer;
use crate::http::{self, Trust};

/// The most of a body that is read.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The most that a game may send in one probe, however it is framed. A game that sends more has failed.
const MAX_RECEIVED_BYTES: usize = 1024 * 1024;

/// What the game answered.
#[derive(Debug)]
pub struct Reply {
    /// The status of the response.
    pub status: u16,
    /// As much of the body as any rule needs.
    pub body: Body,
}

/// A body as far as it was read.
#[derive(Debug)]
pub enum Body {
    /// No rule needs it.
    Unread,
    /// All of it.
    Whole(String),
    /// The beginning of one that has more than [`MAX_BODY_BYTES`].
    Cut(String),
}

/// Asks `endpoint` once, within its timeout.
///
/// # Errors
/// [`ProbeError`]; another status than the expected is one, too.
pub fn ask(endpoint: &Endpoint) -> Result<Reply, ProbeError> {
    let client = http::client(endpoint.timeout, MAX_RECEIVED_BYTES, Trust::Anyone);
    let mut request = Request::new(());
    *request.method_mut() = endpoint.method.clone();
    *request.uri_mut() = endpoint.url.clone();
    request.headers_mut().clone_from(&endpoint.headers);
    request.headers_mut().insert(CONNECTION, http::CLOSE);
    let response = match endpoint.method {
        // Sent with a Content-Length of 0, since a server may wait for a body where nothing says that there is none.
        Method::POST | Method::PUT | Method::PATCH => client.run(request.map(|()| "")),
        _ => client.run(request),
    };
    let mut response = response.map_err(ProbeError::NoResponse)?;
    let status = response.status().as_u16();
    if status != endpoint.expected_status {
        return Err(ProbeError::Status { expected: endpoint.expected_status, got: status });
    }
    let body = if endpoint.needs_body() { read(response.body_mut().as_reader())? } else { Body::Unread };
    Ok(Reply { status, body })
}

/// Reads a body up to [`MAX_BODY_BYTES`], and one byte more to see whether it ends there.
fn read(body: impl Read) -> Result<Body, ProbeError> {
    let mut bytes = Vec::new();
    body.take(MAX_BODY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(ProbeError::Body)?;
    let cut = bytes.len() > MAX_BODY_BYTES;
    if cut
        && let Err(error) = str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        // A character that the cut went through is no fault of the body.
        bytes.truncate(error.valid_up_to());
    }
    let text = String::from_utf8(bytes).map_err(|_| ProbeError::NotUtf8)?;
    Ok(if cut { Body::Cut(text) } else { Body::Whole(text) })
}

/// The result in a reply of `endpoint`.
///
/// # Errors
/// A JSON body that has none.
pub fn answer(endpoint: &Endpoint, reply: &Reply) -> Result<Answer, ProbeError> {
    match (&endpoint.extract, &reply.body) {
        (_, Body::Unread) => Ok(Answer::Unread),
        (None, Body::Whole(body)) => Ok(Answer::Text(body.trim_matches(|c: char| c.is_ascii_whitespace()).to_owned())),
        (None, Body::Cut(body)) => Ok(Answer::Cut(body.clone())),
        (Some(extract), Body::Whole(body)) => {
            json_path::extract(body, extract).map(Answer::Text).map_err(ProbeError::Json)
        }
        (Some(_), Body::Cut(_)) => Err(ProbeError::JsonTooLong),
    }
}

/// Why a probe was no success.
#[derive(Debug)]
pub enum ProbeError {
    /// No connection, no response in time, or one that is not HTTP.
    NoResponse(ureq::Error),
    /// The game says no.
    Status {
        /// By the configuration.
        expected: u16,
        /// In the response.
        got: u16,
    },
    /// The body broke off, or took too long.
    Body(io::Error),
    /// The body is not text.
    NotUtf8,
    /// The body is not JSON, or has no result at the path.
    Json(serde_json::Error),
    /// The body is longer than is read, so that it cannot be read as JSON.
    JsonTooLong,
}

impl ProbeError {
    /// A short name of the kind of failure, the same for failures that a log need not tell apart.
    pub fn kind(&self) -> String {
        match self {
            Self::NoResponse(_) => "no response".into(),
            Self::Status { got, .. } => format!("status {got}"),
            Self::Body(_) => "body broke off".into(),
            Self::NotUtf8 | Self::Json(_) | Self::JsonTooLong => "body unusable".into(),
        }
    }

    /// Whether the sidecar itself is out of descriptors or memory, which says nothing about the game.
    pub fn is_our_own_fault(&self) -> bool {
        const OUT_OF_RESOURCES: [i32; 4] = [libc::ENFILE, libc::EMFILE, libc::ENOMEM, libc::ENOBUFS];
        match self {
            Self::NoResponse(ureq::Error::Io(error)) => {
                error.raw_os_error().is_some_and(|code| OUT_OF_RESOURCES.contains(&code))
            }
            _ => false,
        }
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(_) => f.write_str("no response"),
            Self::Status { expected, got } => write!(f, "status {got}, expected {expected}"),
            Self::Body(_) => f.write_str("the body broke off"),
            Self::NotUtf8 => f.write_str("the body is not UTF-8"),
            Self::Json(_) => f.write_str("no result in the JSON body"),
            Self::JsonTooLong => write!(f, "the JSON body has more than {MAX_BODY_BYTES} bytes"),
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoResponse(error) => Some(error),
            Self::Body(error) => Some(error),
            Self::Json(error) => Some(error),
            Self::Status { .. } | Self::NotUtf8 | Self::JsonTooLong => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(bytes: &[u8]) -> Result<Option<usize>, String> {
        match read(bytes) {
            Ok(Body::Whole(text)) => Ok(Some(text.len())),
            Ok(Body::Cut(_) | Body::Unread) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_body_is_cut_after_64_kib_wherever_the_cut_falls() {
        let long = |count: usize, tail: &str| "x".repeat(count) + tail;
        assert_eq!(body_of(long(MAX_BODY_BYTES, "").as_bytes()), Ok(Some(MAX_BODY_BYTES)));
        assert_eq!(body_of(long(MAX_BODY_BYTES, "x").as_bytes()), Ok(None));
        assert_eq!(body_of(long(MAX_BODY_BYTES, "空").as_bytes()), Ok(None));
        assert_eq!(body_of(long(MAX_BODY_BYTES - 1, "空").as_bytes()), Ok(None));
    }

    #[test]
    fn a_body_that_is_not_utf8_is_a_failure_even_where_it_is_cut() {
        assert!(body_of(b"None\xff").is_err());
        assert!(body_of(b"\xe7\xa9").is_err());
        let mut long = vec![b'x'; MAX_BODY_BYTES + 1];
        long[7] = 0xff;
        assert!(body_of(&long).is_err());
    }
}
