//! Owns one HTTP probe: the request, and the document in its response (behaviour 3.4 to 3.8).

use std::io::Read;
use std::time::Duration;

use ureq::http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, HeaderValue, Method, Request};

use super::ProbeError;
use super::document::{Content, Document};
use crate::config::HttpProbe;
use crate::http_client::{self, CLOSE, Client, SpeaksTls, Trust};
use crate::net::MAX_RECEIVED_BYTES;

/// The most of a body that is read for a person.
const MAX_SHOWN_BYTES: usize = 1024;

/// Sends one request again and again, with what is the same each time made once.
pub struct Prober {
    probe: HttpProbe,
    timeout: Duration,
    needed_bytes: usize,
    shows_refusals: bool,
    request: Request<()>,
    longest_line: usize,
    /// None for https: ureq would keep a session for each ticket that the game sends.
    client: Option<Client>,
}

impl Prober {
    /// For the probe, within `timeout` each time. Of a body, the rules need `needed_bytes`.
    pub fn new(probe: &HttpProbe, timeout: Duration, needed_bytes: usize) -> Self {
        let mut request = Request::new(());
        *request.method_mut() = probe.method.clone();
        *request.uri_mut() = probe.url.clone();
        *request.headers_mut() = headers(probe);
        // What ureq adds is short.
        let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let longest_line = 256 + lines.chain([probe.url.to_string().len()]).max().unwrap_or_default();
        let is_plain = probe.url.scheme() == Some(&Scheme::HTTP);
        let client = is_plain.then(|| http_client::client(timeout, longest_line, MAX_RECEIVED_BYTES, Trust::Nobody));
        Self { probe: probe.clone(), timeout, needed_bytes, shows_refusals: false, request, longest_line, client }
    }

    /// Reads the body of an answer with another status than the expected, too, for a person who looks for its reason.
    pub fn show_refusals(&mut self) {
        self.shows_refusals = true;
    }

    /// Sends the request, and reads as much of the response as any rule needs.
    ///
    /// # Errors
    /// No response in time, another status than the expected, a body that breaks off.
    pub fn ask(&self) -> Result<Document, ProbeError> {
        let (probe, request) = (&self.probe, self.request.clone());
        let tls;
        let client = match &self.client {
            Some(client) => client,
            None => {
                tls = http_client::client(self.timeout, self.longest_line, MAX_RECEIVED_BYTES, Trust::Anyone);
                &tls
            }
        };
        let response = match probe.method {
            Method::POST | Method::PUT | Method::PATCH => client.run(request.map(|()| probe.body.as_str())),
            _ => client.run(request),
        };
        let mut response = response.map_err(|error| match &error {
            ureq::Error::Io(cause) if cause.get_ref().is_some_and(is_not_tls) => ProbeError::NotTls(error),
            ureq::Error::Io(cause) if cause.get_ref().is_some_and(|cause| cause.is::<SpeaksTls>()) => {
                ProbeError::SpeaksTls(error)
            }
            _ => ProbeError::NoResponse(error),
        })?;
        let status = response.status().as_u16();
        if !probe.expected_status.contains(&status) {
            let answer = self.shows_refusals.then(|| {
                // It may say why, as far as it comes.
                let content = read(response.body_mut().as_reader(), MAX_SHOWN_BYTES).unwrap_or(Content::Nothing);
                Document { status: Some(status), content }
            });
            return Err(ProbeError::Status { expected: probe.expected_status.clone(), got: status, answer });
        }
        let content = match self.needed_bytes {
            0 => Content::Nothing,
            most => read(response.body_mut().as_reader(), most)?,
        };
        Ok(Document { status: Some(status), content })
    }
}

/// All headers, in the order in which they are sent: `Host` first, as browsers and Go send it, then the probe's own, then the
/// others of the config, which replace the probe's.
fn headers(probe: &HttpProbe) -> HeaderMap {
    let host = probe.url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    // Also of an empty body, since a server may wait for one if nothing says that there is none.
    let length = matches!(probe.method, Method::POST | Method::PUT | Method::PATCH).then(|| probe.body.len().into());
    let own = [
        (HOST, host),
        (USER_AGENT, Some(http_client::USER_AGENT)),
        (ACCEPT, Some(HeaderValue::from_static("*/*"))),
        (CONTENT_LENGTH, length),
        (CONNECTION, Some(CLOSE)),
    ];
    let mut all = HeaderMap::new();
    // Nothing is removed again: that would change the order.
    for (name, value) in own {
        let configured = probe.headers.get_all(&name);
        let configured = configured.iter().map(|value| (name.clone(), value.clone()));
        let own = value.filter(|_| !probe.headers.contains_key(&name)).map(|value| (name.clone(), value));
        for (name, value) in configured.chain(own) {
            all.append(name, value);
        }
    }
    for (name, value) in &probe.headers {
        if ![HOST, USER_AGENT, ACCEPT].contains(name) {
            all.append(name.clone(), value.clone());
        }
    }
    all
}

/// Whether TLS met bytes that are none of its own.
fn is_not_tls(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(rustls::Error::InvalidMessage(_)))
}

/// Reads a body of at most `most` bytes, and one byte more to see whether it ends there.
fn read(body: impl Read, most: usize) -> Result<Content, ProbeError> {
    let mut bytes = Vec::new();
    body.take(most as u64 + 1).read_to_end(&mut bytes).map_err(ProbeError::Body)?;
    Ok(if bytes.len() > most { Content::Cut(bytes) } else { Content::Whole(bytes) })
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderName;

    use super::*;

    #[test]
    fn host_is_the_first_header_and_what_the_config_names_replaces_our_own() {
        let sent = |method: Method, configured: &[(&'static str, &'static str)]| {
            let mut names = HeaderMap::new();
            for (name, value) in configured {
                names.append(*name, HeaderValue::from_static(value));
            }
            let probe = HttpProbe {
                url: "http://game:80/x".parse().unwrap(),
                method,
                headers: names,
                body: "{}".into(),
                ..HttpProbe::default()
            };
            let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            headers(&probe).iter().map(line).collect::<Vec<_>>()
        };
        let agent = format!("user-agent: {}", http_client::USER_AGENT.to_str().unwrap());
        assert_eq!(sent(Method::GET, &[]), ["host: game:80", &agent, "accept: */*", "connection: close"]);
        assert_eq!(
            sent(Method::POST, &[("x-b", "1"), ("accept", "text/plain"), ("host", "h"), ("x-a", "2"), ("x-b", "3")]),
            [
                "host: h",
                &agent,
                "accept: text/plain",
                "content-length: 2",
                "connection: close",
                "x-b: 1",
                "x-b: 3",
                "x-a: 2"
            ]
        );
    }

    #[test]
    fn a_body_is_cut_behind_its_bound() {
        assert_eq!(read(&[b'x'; 5][..], 5).unwrap(), Content::Whole(vec![b'x'; 5]));
        assert_eq!(read(&[b'x'; 9][..], 5).unwrap(), Content::Cut(vec![b'x'; 6]));
    }
}
