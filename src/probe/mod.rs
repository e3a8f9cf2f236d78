//! Owns one attempt of one probe: from the wire to a result, or to the reason why there is none. Each kind of probe has a
//! file of its own here. Refuses to know what a result means.

pub mod http;
pub mod tcp;

use std::fmt::{self, Display};
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::io::Errno;

use crate::config::{Endpoint, Probe, TcpProbe, statuses};
use crate::decide::policy::ProbeResult;

/// What probes one endpoint.
#[expect(clippy::large_enum_variant, reason = "there are 64 at most")]
pub enum Prober {
    /// By an HTTP request.
    Http(http::Prober),
    /// By a TCP connection.
    Tcp(TcpProbe, Duration),
}

impl Prober {
    /// For the endpoint's probe and timeout.
    pub fn new(endpoint: &Endpoint) -> Self {
        match &endpoint.probe {
            Probe::Http(probe) => Self::Http(http::Prober::new(probe, endpoint.timeout)),
            Probe::Tcp(probe) => Self::Tcp(probe.clone(), endpoint.timeout),
        }
    }

    /// Probes once, and shows `seen` the response.
    ///
    /// # Errors
    /// [`ProbeError`]; a response that is not the expected one is one, too.
    pub fn attempt(&self, seen: impl FnOnce(&dyn Display)) -> Result<ProbeResult, ProbeError> {
        match self {
            Self::Http(prober) => {
                let response = prober.send()?;
                seen(&response);
                prober.result(response)
            }
            // A connection says no more than that there is one.
            Self::Tcp(probe, timeout) => tcp::connect(probe, *timeout)
                .map(|()| ProbeResult::Text(String::new()))
                .map_err(ProbeError::NoConnection),
        }
    }
}

/// Why a probe was no success.
#[derive(Debug)]
pub enum ProbeError {
    /// No connection, no response in time, or one that is not HTTP.
    NoResponse(ureq::Error),
    /// https, where the port does not speak TLS.
    NotTls(ureq::Error),
    /// No TCP connection in time.
    NoConnection(io::Error),
    /// The game says no.
    Status {
        /// By the configuration.
        expected: RangeInclusive<u16>,
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
            Self::NoResponse(_) | Self::NotTls(_) => "no response".into(),
            Self::NoConnection(_) => "no connection".into(),
            Self::Status { got, .. } => format!("status {got}"),
            Self::Body(_) => "body broke off".into(),
            Self::NotUtf8 | Self::Json(_) | Self::JsonTooLong => "body unusable".into(),
        }
    }

    /// What a pod's condition says of it: in kruise-daemon's words where those are stable (behaviour 9.4).
    pub fn message(&self) -> String {
        match self {
            Self::Status { got, .. } => format!("HTTP probe failed with statuscode: {got}"),
            _ => format!("probe failed: {}", self.kind()),
        }
    }

    /// Whether the sidecar itself is out of descriptors or memory, which says nothing about the game.
    pub fn is_our_own_fault(&self) -> bool {
        const OUT_OF_RESOURCES: [Errno; 4] = [Errno::NFILE, Errno::MFILE, Errno::NOMEM, Errno::NOBUFS];
        match self {
            Self::NoResponse(ureq::Error::Io(error)) | Self::NoConnection(error) => {
                Errno::from_io_error(error).is_some_and(|code| OUT_OF_RESOURCES.contains(&code))
            }
            _ => false,
        }
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(_) => f.write_str("no response"),
            Self::NoConnection(_) => f.write_str("no connection"),
            Self::NotTls(_) => f.write_str("no response, since the port does not speak TLS; use http"),
            Self::Status { expected, got } => write!(f, "status {got}, expected {}", statuses(expected)),
            Self::Body(_) => f.write_str("the body broke off"),
            Self::NotUtf8 => f.write_str("the body is not UTF-8"),
            Self::Json(_) => f.write_str("no result in the JSON body"),
            Self::JsonTooLong => write!(f, "the JSON body has more than {} bytes", http::MAX_JSON_BYTES),
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoResponse(error) | Self::NotTls(error) => Some(error),
            Self::Body(error) | Self::NoConnection(error) => Some(error),
            Self::Json(error) => Some(error),
            Self::Status { .. } | Self::NotUtf8 | Self::JsonTooLong => None,
        }
    }
}
