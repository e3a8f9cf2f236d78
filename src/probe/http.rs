//! Owns one HTTP probe: the request, and the result in its response (behaviour 3.4 to 3.8).

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http::header::CONNECTION;
use ureq::http::uri::Scheme;
use ureq::http::{Method, Request};

use super::ProbeError;
use crate::config::{HttpProbe, MAX_VALUE_BYTES};
use crate::decide::json_path;
use crate::decide::policy::ProbeResult;
use crate::excerpt::excerpt;
use crate::http::{self, CLOSE, Client, Trust};

/// The most of a body that is read for a value in it.
pub const MAX_JSON_BYTES: usize = 64 * 1024;

/// The most that a game may send in one probe, however it is framed. A game that sends more has failed.
const MAX_RECEIVED_BYTES: usize = 1024 * 1024;

/// What came over the wire, as far as any rule needs it.
#[derive(Debug)]
pub struct Response {
    status: u16,
    body: Body,
}

/// A body as far as it was read.
#[derive(Debug)]
enum Body {
    /// No rule needs it.
    Unread,
    /// All of it.
    Whole(String),
    /// The beginning of one that is longer than what is read.
    Cut(String),
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Unread => write!(f, "{}, body not read", self.status),
            Body::Whole(body) => write!(f, "{} {}", self.status, excerpt(body)),
            Body::Cut(body) => write!(f, "{} {}, and more", self.status, excerpt(body)),
        }
    }
}

/// Sends one request again and again, with what is the same each time made once.
pub struct Prober {
    probe: HttpProbe,
    timeout: Duration,
    request: Request<()>,
    longest_line: usize,
    /// None for https: ureq would keep a session for each ticket that the game sends.
    client: Option<Client>,
}

impl Prober {
    /// For the probe, within `timeout` each time.
    pub fn new(probe: &HttpProbe, timeout: Duration) -> Self {
        let mut request = Request::new(());
        *request.method_mut() = probe.method.clone();
        *request.uri_mut() = probe.url.clone();
        request.headers_mut().clone_from(&probe.headers);
        request.headers_mut().insert(CONNECTION, CLOSE);
        // What ureq adds is short.
        let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let longest_line = 256 + headers.chain([probe.url.to_string().len()]).max().unwrap_or_default();
        let is_plain = probe.url.scheme() == Some(&Scheme::HTTP);
        let client = is_plain.then(|| http::client(timeout, longest_line, MAX_RECEIVED_BYTES, Trust::Nobody));
        Self { probe: probe.clone(), timeout, request, longest_line, client }
    }

    /// Sends the request, and reads as much of the response as any rule needs.
    ///
    /// # Errors
    /// No response in time, another status than the expected, a body that breaks off or is not UTF-8.
    pub fn send(&self) -> Result<Response, ProbeError> {
        let (probe, request) = (&self.probe, self.request.clone());
        let tls;
        let client = match &self.client {
            Some(client) => client,
            None => {
                tls = http::client(self.timeout, self.longest_line, MAX_RECEIVED_BYTES, Trust::Anyone);
                &tls
            }
        };
        let response = match probe.method {
            // Sent with a Content-Length of 0, since a server may wait for a body where nothing says that there is none.
            Method::POST | Method::PUT | Method::PATCH => client.run(request.map(|()| "")),
            _ => client.run(request),
        };
        let mut response = response.map_err(|error| match &error {
            ureq::Error::Io(cause) if cause.get_ref().is_some_and(is_not_tls) => ProbeError::NotTls(error),
            _ => ProbeError::NoResponse(error),
        })?;
        let status = response.status().as_u16();
        if !probe.expected_status.contains(&status) {
            return Err(ProbeError::Status { expected: probe.expected_status.clone(), got: status });
        }
        let body = match (probe.reads_body, &probe.extract) {
            (false, _) => Body::Unread,
            (true, None) => read(response.body_mut().as_reader(), MAX_VALUE_BYTES, probe.lossy)?,
            (true, Some(_)) => read(response.body_mut().as_reader(), MAX_JSON_BYTES, probe.lossy)?,
        };
        Ok(Response { status, body })
    }

    /// The result in a response.
    ///
    /// # Errors
    /// A body that is not JSON, or that has no result at the path.
    pub fn result(&self, response: Response) -> Result<ProbeResult, ProbeError> {
        match (&self.probe.extract, response.body) {
            (_, Body::Unread) => Ok(ProbeResult::Unread),
            (None, Body::Whole(body)) => Ok(ProbeResult::Text(body.trim_ascii().to_owned())),
            (None, Body::Cut(body)) => Ok(ProbeResult::TooLong(body)),
            (Some(extract), Body::Whole(body)) => match json_path::extract(&body, extract) {
                Ok(value) if value.trim_ascii().len() > MAX_VALUE_BYTES => Ok(ProbeResult::TooLong(value)),
                Ok(value) => Ok(ProbeResult::Text(value.trim_ascii().to_owned())),
                Err(error) => Err(ProbeError::Json(error)),
            },
            (Some(_), Body::Cut(_)) => Err(ProbeError::JsonTooLong),
        }
    }
}

/// Whether TLS met bytes that are none of its own.
fn is_not_tls(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(rustls::Error::InvalidMessage(_)))
}

/// Reads a body of at most `most` bytes, and one byte more to see whether it ends there. A `lossy` one needs not be UTF-8.
fn read(body: impl Read, most: usize, lossy: bool) -> Result<Body, ProbeError> {
    let mut bytes = Vec::new();
    body.take(most as u64 + 1).read_to_end(&mut bytes).map_err(ProbeError::Body)?;
    let cut = bytes.len() > most;
    if cut
        && let Err(error) = str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        // A character that the cut went through is no fault of the body.
        bytes.truncate(error.valid_up_to());
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if lossy => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        Err(_) => return Err(ProbeError::NotUtf8),
    };
    Ok(if cut { Body::Cut(text) } else { Body::Whole(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(bytes: &[u8]) -> Result<Option<usize>, String> {
        match read(bytes, MAX_VALUE_BYTES, false) {
            Ok(Body::Whole(text)) => Ok(Some(text.len())),
            Ok(Body::Cut(_) | Body::Unread) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_body_is_cut_at_its_bound_wherever_the_cut_falls() {
        let long = |count: usize, tail: &str| "x".repeat(count) + tail;
        assert_eq!(body_of(long(MAX_VALUE_BYTES, "").as_bytes()), Ok(Some(MAX_VALUE_BYTES)));
        assert_eq!(body_of(long(MAX_VALUE_BYTES, "x").as_bytes()), Ok(None));
        assert_eq!(body_of(long(MAX_VALUE_BYTES, "空").as_bytes()), Ok(None));
        assert_eq!(body_of(long(MAX_VALUE_BYTES - 1, "空").as_bytes()), Ok(None));
    }

    #[test]
    fn a_body_that_is_not_utf8_is_a_failure_even_where_it_is_cut() {
        assert!(body_of(b"None\xff").is_err());
        assert!(body_of(b"\xe7\xa9").is_err());
        let mut long = vec![b'x'; MAX_VALUE_BYTES + 1];
        long[7] = 0xff;
        assert!(body_of(&long).is_err());
    }
}
