//! Owns one attempt of one probe: from the wire to a result, or to the reason why there is none. Each kind of probe has a
//! file of its own here, which returns a [`Document`] before a deadline and has no part in results. Refuses to know what a
//! result means.

pub mod a2s;
pub mod bedrock;
pub mod document;
pub mod fields;
pub mod file;
pub mod http;
pub mod json_path;
pub mod metric;
pub mod minecraft;
pub mod quake3;
pub mod result;
pub mod tcp;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::document::Document;
use crate::config::{Endpoint, Extract, FileProbe, Probe, Server, statuses};
use crate::decide::policy::ProbeResult;

/// What probes one endpoint.
pub struct Prober {
    kind: Kind,
    timeout: Duration,
    extract: Extract,
}

/// What a kind of probe keeps from one attempt to the next.
#[expect(clippy::large_enum_variant, reason = "there are 64 at most")]
enum Kind {
    Http(http::Prober),
    Tcp(Server),
    File(FileProbe),
    A2s(a2s::Prober),
    Minecraft(Server),
    Bedrock(Server),
    Quake3(Server),
}

impl Prober {
    /// For the endpoint's probe and timeout.
    pub fn new(endpoint: &Endpoint) -> Self {
        let Endpoint { probe, timeout, extract, .. } = endpoint;
        let kind = match probe {
            Probe::Http(http) => Kind::Http(http::Prober::new(http, *timeout, result::needed_bytes(extract))),
            Probe::Tcp(server) => Kind::Tcp(server.clone()),
            Probe::File(file) => Kind::File(file.clone()),
            Probe::A2s(server) => Kind::A2s(a2s::Prober::new(server)),
            Probe::Minecraft(server) => Kind::Minecraft(server.clone()),
            Probe::Bedrock(server) => Kind::Bedrock(server.clone()),
            Probe::Quake3(server) => Kind::Quake3(server.clone()),
        };
        Self { kind, timeout: *timeout, extract: extract.clone() }
    }

    /// The same for a person: an error of a wrong status has the answer, too.
    pub fn for_a_person(endpoint: &Endpoint) -> Self {
        let mut prober = Self::new(endpoint);
        if let Kind::Http(http) = &mut prober.kind {
            http.show_refusals();
        }
        prober
    }

    /// Probes once, and shows `seen` the document.
    ///
    /// # Errors
    /// [`ProbeError`]; a response that is not the expected one is one, too.
    pub fn attempt(&self, seen: impl FnOnce(&Document)) -> Result<ProbeResult, ProbeError> {
        let deadline = Instant::now() + self.timeout;
        let document = match &self.kind {
            Kind::Http(prober) => prober.ask(),
            Kind::Tcp(server) => tcp::ask(server, deadline),
            Kind::File(file) => file::read(file),
            Kind::A2s(prober) => prober.ask(deadline),
            Kind::Minecraft(server) => minecraft::ask(server, deadline),
            Kind::Bedrock(server) => bedrock::ask(server, deadline),
            Kind::Quake3(server) => quake3::ask(server, deadline),
        }?;
        seen(&document);
        result::of(document, &self.extract)
    }
}

/// Why a probe was no success.
#[derive(Debug)]
pub enum ProbeError {
    /// No connection, no response in time, or one that is not HTTP.
    NoResponse(ureq::Error),
    /// https, where the port does not speak TLS.
    NotTls(ureq::Error),
    /// http, where the port speaks TLS.
    SpeaksTls(ureq::Error),
    /// No TCP connection in time.
    NoConnection(io::Error),
    /// The game says no.
    Status {
        /// By the configuration.
        expected: RangeInclusive<u16>,
        /// In the response.
        got: u16,
        /// The response, for a person who looks for its reason.
        answer: Option<Document>,
    },
    /// The body broke off, or took too long.
    Body(io::Error),
    /// No answer in time to what was sent, or one that broke off; and what to look at.
    NoAnswer(io::Error, &'static str),
    /// An answer that is none by the rules of its protocol: which rule.
    Unusable(String),
    /// The file is not there or cannot be read.
    File(io::Error),
    /// The file was not modified for longer than `maxAgeSeconds`.
    TooOld {
        /// Since it was modified.
        age: Duration,
        /// By the configuration.
        most: Duration,
    },
    /// The document is not JSON, or has no result at the path.
    NoResult(serde_json::Error),
    /// The document has no sample of the metric, or none that is a number: why.
    NoMetric(String),
    /// The answer of the game server has no number of players.
    NoPlayers(serde_json::Error),
    /// The document is longer than is read, so that no value can be looked for.
    DocumentTooLong,
}

impl ProbeError {
    /// A short name of the kind of failure, the same for failures that a log need not tell apart.
    pub fn kind(&self) -> String {
        match self {
            Self::NoResponse(_) | Self::NotTls(_) | Self::SpeaksTls(_) => "no response".into(),
            Self::NoConnection(_) => "no connection".into(),
            Self::Status { got, .. } => format!("status {got}"),
            Self::Body(_) => "body broke off".into(),
            Self::NoAnswer(..) => "no answer".into(),
            Self::File(_) => "no file".into(),
            Self::TooOld { .. } => "file too old".into(),
            Self::Unusable(_) | Self::NoResult(_) | Self::NoMetric(_) | Self::NoPlayers(_) | Self::DocumentTooLong => {
                "answer unusable".into()
            }
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
            Self::NoResponse(ureq::Error::Io(error))
            | Self::NoConnection(error)
            | Self::NoAnswer(error, _)
            | Self::File(error) => Errno::from_io_error(error).is_some_and(|code| OUT_OF_RESOURCES.contains(&code)),
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
            Self::SpeaksTls(_) => f.write_str("no response, since the port speaks TLS; use https"),
            Self::Status { expected, got, .. } => write!(f, "status {got}, expected {}", statuses(expected)),
            Self::Body(_) => f.write_str("the body broke off"),
            Self::NoAnswer(_, advice) => write!(f, "no answer ({advice})"),
            Self::Unusable(rule) => write!(f, "no usable answer: {rule}"),
            Self::File(_) => f.write_str("the file cannot be read"),
            Self::TooOld { age, most } => {
                write!(f, "the file was not modified for {} s, maxAgeSeconds is {}", age.as_secs(), most.as_secs())
            }
            Self::NoResult(_) => f.write_str("no result in the JSON document"),
            Self::NoMetric(why) => write!(f, "no result in the metrics: {why}"),
            Self::NoPlayers(_) => f.write_str("no number of players in the answer, since the server may hide it"),
            Self::DocumentTooLong => write!(f, "the document has more than {} bytes", result::MAX_DOCUMENT_BYTES),
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoResponse(error) | Self::NotTls(error) | Self::SpeaksTls(error) => Some(error),
            Self::Body(error) | Self::NoConnection(error) | Self::NoAnswer(error, _) | Self::File(error) => Some(error),
            Self::NoResult(error) | Self::NoPlayers(error) => Some(error),
            Self::Status { .. } | Self::Unusable(_) | Self::TooOld { .. } => None,
            Self::NoMetric(_) | Self::DocumentTooLong => None,
        }
    }
}
