//! Owns the one way to make an HTTP client: fresh connections, one deadline for all of a request, no proxy,
//! no redirect, no thread, memory that lives as long as the process. Refuses to know what is asked and what the answer means.

use std::fmt;
use std::io::{self, Read};
use std::mem;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_linger;
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use rustls::{AlertDescription, CertificateError};
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderValue, Request, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, Transport};
use ureq::{Agent, AsSendBody, Body, Error};

use crate::excerpt::{MAX_CHARS, escape};
use crate::net;

/// The most that a response's head may have. ureq's own 64 KiB would be a part of a small memory limit.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most names of a certificate that a message shows.
const MAX_NAMES: usize = 16;

/// What the answer of a game seldom fills. It is of the size of ureq's map of its headers, so that musl's allocator keeps room
/// for both, and does not map a page for each answer anew.
const FIRST_INPUT: usize = 1000;

/// Of the header Connection: a server with one thread is never held by an idle connection.
pub const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Of the header User-Agent.
pub const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("okg-sidecar/", env!("CARGO_PKG_VERSION")));

/// Which servers are spoken to over TLS.
#[derive(Debug)]
pub enum Trust {
    /// None: without TLS.
    Nobody,
    /// Any, as kubelet's probes do.
    Anyone,
    /// Those that these authorities vouch for.
    Authorities(Arc<Vec<Certificate<'static>>>),
}

/// What makes one request.
pub struct Client {
    agent: Agent,
    connected: Arc<AtomicBool>,
}

impl Client {
    /// Sends the request, and gives the response with its head read.
    ///
    /// # Errors
    /// No connection, no response in time, or one that is not HTTP.
    pub fn run(&self, request: Request<impl AsSendBody>) -> Result<Response<Body>, Error> {
        self.agent.run(request)
    }

    /// The same within `timeout`, on the connection of the request before it where that is still open.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub fn run_within(&self, timeout: Duration, request: Request<impl AsSendBody>) -> Result<Response<Body>, Error> {
        self.agent.run(self.agent.configure_request(request).timeout_global(Some(timeout)).build())
    }

    /// Whether there was a connection, with TLS where that is asked for: until then nothing of a request has left.
    pub fn has_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// A client for requests that take `timeout`, at most an hour, and on each connection `most_bytes` received, at most. No line
/// of a request's head has more than `longest_line` bytes.
///
/// One that speaks TLS is made anew for each use, since ureq keeps sessions and settings for an agent's life.
pub fn client(timeout: Duration, longest_line: usize, most_bytes: usize, trust: Trust) -> Client {
    let speaks_tls = !matches!(trust, Trust::Nobody);
    // What is written to the API server must not arrive later than anybody expects.
    let resets = matches!(trust, Trust::Authorities(_));
    let config = Config::builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("okg-sidecar/", env!("CARGO_PKG_VERSION")))
        .accept_encoding(AutoHeaderValue::None)
        // Of what TLS has decrypted.
        .input_buffer_size(MAX_HEAD + 1)
        .output_buffer_size(MAX_HEAD)
        .max_response_header_size(MAX_HEAD)
        .max_idle_connections(1)
        .allow_non_standard_methods(true)
        .tls_config(tls(trust))
        .build();
    let connected = Arc::new(AtomicBool::new(false));
    let connect = ().chain(Connect { longest_line, most_bytes, speaks_tls, resets });
    let last = Connected(Arc::clone(&connected));
    let agent = if speaks_tls {
        Agent::with_parts(config, connect.chain(RustlsConnector::default()).chain(last), InThisThread)
    } else {
        // A connection that might speak TLS takes 2 KiB more, for each probe anew.
        Agent::with_parts(config, connect.chain(last), InThisThread)
    };
    Client { agent, connected }
}

fn tls(trust: Trust) -> TlsConfig {
    let tls = TlsConfig::builder();
    let tls = match trust {
        Trust::Nobody => return tls.build(),
        Trust::Anyone => tls.disable_verification(true),
        Trust::Authorities(certificates) => tls.root_certs(RootCerts::Specific(certificates)),
    };
    let crypto = CryptoProvider { key_provider: &NoKeys, ..rustls::crypto::ring::default_provider() };
    tls.provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(Arc::new(crypto)).build()
}

/// What this client takes, of what ring has.
const ALGORITHMS: &str = "; certificates must have keys and signatures of ECDSA P-256 or P-384 with SHA-256 or SHA-384, of Ed25519, \
                          or of RSA with 2048 to 8192 bits";

/// What to do where a server's certificate was refused, or no handshake came about; nothing after another error.
pub fn advice(error: &(dyn std::error::Error + 'static)) -> String {
    let of_tls = match error.downcast_ref::<Error>() {
        Some(Error::Io(cause)) => cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()),
        Some(Error::Rustls(error)) => Some(error),
        _ => None,
    };
    match of_tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })) => {
            let names: Vec<String> = presented.iter().take(MAX_NAMES).map(|name| escape(name, MAX_CHARS)).collect();
            format!("; the certificate is valid for {}", names.join(", "))
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; ca.crt must contain the authority that signed it, not the server's own certificate".into()
        }
        Some(
            rustls::Error::InvalidCertificate(
                CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
            )
            | rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)
            | rustls::Error::PeerIncompatible(_),
        ) => ALGORITHMS.into(),
        _ => String::new(),
    }
}

/// Loads no private keys: a client without a certificate has none, and the code for them is left out of the binary.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no client certificates".into()))
    }
}

/// The last of the connectors: it is reached when there is a connection.
#[derive(Debug)]
struct Connected(Arc<AtomicBool>);

impl<In: Transport> Connector<In> for Connected {
    type Out = NamesAsInGo<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        self.0.store(true, Ordering::Relaxed);
        Ok(chained.map(|inner| NamesAsInGo { inner, head: Head::RequestLine }))
    }
}

/// Sends the names of headers as Go does, such as `X-Api-Key`: ureq has them in small letters, and some games compare them by
/// case. Of a connection's first request alone, which is every probe's only one; the API server compares as HTTP does.
#[derive(Debug)]
struct NamesAsInGo<In> {
    inner: In,
    head: Head,
}

/// What comes next in the head of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Head {
    RequestLine,
    /// A name, or the empty line behind the last header.
    Line,
    /// A letter of a name, the first of a word.
    Word,
    /// Another letter of a name.
    Letter,
    Value,
    /// Nothing: the body.
    End,
}

impl Head {
    /// Puts the names in a part of the head into capitals.
    fn capitalize(mut self, part: &mut [u8]) -> Self {
        for byte in part {
            self = match (self, *byte) {
                (Self::End, _) => return self,
                (Self::RequestLine | Self::Value, b'\n') => Self::Line,
                (Self::RequestLine | Self::Value, _) => self,
                (Self::Line, b'\r' | b'\n') => Self::End,
                (Self::Word | Self::Letter, b':') => Self::Value,
                (Self::Word | Self::Letter, b'-') => Self::Word,
                (Self::Line | Self::Word, _) => {
                    byte.make_ascii_uppercase();
                    Self::Letter
                }
                (Self::Letter, _) => self,
            };
        }
        self
    }
}

impl<In: Transport> Transport for NamesAsInGo<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.head = self.head.capitalize(&mut self.inner.buffers().output()[..amount]);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Opens a connection that may receive this many bytes. TLS stands behind it, so that a handshake counts, too.
#[derive(Debug)]
struct Connect {
    longest_line: usize,
    most_bytes: usize,
    speaks_tls: bool,
    resets: bool,
}

impl Connector<()> for Connect {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Connection>, Error> {
        let stream = net::connect_to_any(&details.addrs, deadline(details.timeout))
            .map_err(|error| in_time(error, details.timeout))?;
        if self.speaks_tls {
            // A handshake and a request with a body are several writes, and each would wait for the last one's
            // acknowledgement: the 40 ms between a read and its patch are time for somebody else's write.
            stream.set_nodelay(true)?;
        }
        if self.resets {
            set_reset(&stream, true)?;
        }
        let mut memory = if self.speaks_tls { Memory::default() } else { Memory::take() };
        memory.output.resize(self.longest_line.max(memory.output.len()), 0);
        Ok(Some(Connection {
            stream,
            memory,
            speaks_tls: self.speaks_tls,
            resets: self.resets,
            is_idle: false,
            received: 0,
            most_bytes: self.most_bytes,
        }))
    }
}

/// A connection that ends where it receives too much, and where it is reset, which ureq takes for the end of a body that
/// has no length.
///
/// ureq bounds a head and a body, but reads interim responses, the framing of chunks, trailers and TLS records that hold
/// nothing for as long as they come.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    memory: Memory,
    speaks_tls: bool,
    /// Whether it is reset where it is dropped, or the process ends, before an answer was read to its end: of a request in
    /// the socket's buffer the system would send what is left for minutes.
    resets: bool,
    /// Whether the last answer was read to its end.
    is_idle: bool,
    /// In bytes, so far.
    received: usize,
    most_bytes: usize,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.memory
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.resets && mem::take(&mut self.is_idle) {
            set_reset(&self.stream, true)?;
        }
        net::send_all(&self.stream, &self.memory.output[..amount], deadline(timeout))
            .map_err(|error| in_time(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let deadline = deadline(timeout);
        let amount = loop {
            net::wait(&self.stream, PollFlags::IN, deadline).map_err(|error| in_time(error, timeout))?;
            match self.stream.read(self.memory.input_append_buf()) {
                Ok(amount) => break amount,
                // What had come is not there any more, which Linux does with a packet of a wrong checksum.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // ureq looks at the kind, and takes this one for an end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Error::Io(io::Error::other(error)));
                }
                Err(error) => return Err(Error::Io(error)),
            }
        };
        self.memory.input_appended(amount);
        if self.received == 0 && !self.speaks_tls && is_tls(self.memory.input()) {
            return Err(Error::Io(io::Error::other(SpeaksTls)));
        }
        self.received += amount;
        if self.received > self.most_bytes {
            let message = format!("more than {} bytes received", self.most_bytes);
            return Err(Error::Io(io::Error::other(message)));
        }
        Ok(amount > 0)
    }

    /// Whether another request can be sent: nothing has come that was not asked for, not even the end. ureq asks when an
    /// answer was read to its end, and before it uses the connection again.
    fn is_open(&mut self) -> bool {
        if self.resets && !self.is_idle {
            // Where it fails, the end is a reset, which does as well.
            self.is_idle = set_reset(&self.stream, false).is_ok();
        }
        matches!(self.stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.speaks_tls {
            mem::take(&mut self.memory).keep();
        }
    }
}

/// The answer to a request without TLS is a record of TLS.
#[derive(Debug)]
pub struct SpeaksTls;

impl fmt::Display for SpeaksTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record of TLS was received")
    }
}

impl std::error::Error for SpeaksTls {}

/// Whether the bytes begin a record of an alert or a handshake (RFC 8446, 5.1).
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [21 | 22, 3, ..])
}

/// Whether the end of the connection is a reset, which drops what is not sent or not acknowledged yet.
fn set_reset(stream: &TcpStream, resets: bool) -> io::Result<()> {
    Ok(set_socket_linger(stream, resets.then_some(Duration::ZERO))?)
}

/// When a step of a request is late.
fn deadline(timeout: NextTimeout) -> Instant {
    Instant::now() + *timeout.after
}

/// ureq's name for a step that was late.
fn in_time(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

/// The memory of one connection: what is to be sent, and what was received and not consumed yet. It grows with what it holds.
#[derive(Debug, Default)]
struct Memory {
    output: Vec<u8>,
    input: Vec<u8>,
    /// Of `input`.
    unconsumed: Range<usize>,
    /// Whether the last look at the input consumed something of it.
    consumes: bool,
}

/// The memory of the last plain connection, for the next one: a buffer that is made anew costs more than the rest of a probe.
/// That of the rare connection over TLS is larger, and given back.
static LAST: Mutex<Option<Memory>> = Mutex::new(None);

impl Memory {
    fn take() -> Self {
        LAST.lock().ok().and_then(|mut last| last.take()).unwrap_or_default()
    }

    fn keep(self) {
        if let Ok(mut last) = LAST.lock() {
            *last = Some(Self { unconsumed: 0..0, consumes: false, ..self });
        }
    }
}

impl Buffers for Memory {
    fn output(&mut self) -> &mut [u8] {
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.unconsumed.clone()]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.input.copy_within(self.unconsumed.clone(), 0);
        self.unconsumed = 0..self.unconsumed.len();
        if self.unconsumed.end == self.input.len() {
            // A byte more than a head may have, so that one that is too long is seen to be.
            self.input.resize((2 * self.input.len()).clamp(FIRST_INPUT, MAX_HEAD + 1), 0);
        }
        &mut self.input[self.unconsumed.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.unconsumed.end += amount;
    }

    fn input_consume(&mut self, amount: usize) {
        self.unconsumed.start += amount;
        self.consumes = amount > 0;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut self.input[self.unconsumed.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        !self.unconsumed.is_empty() && self.consumes
    }
}

/// Looks names up in the calling thread; ureq's own resolver starts a thread for each request with a timeout.
#[derive(Debug)]
struct InThisThread;

impl Resolver for InThisThread {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default_port = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let mut found = self.empty();
        for address in net::addresses(host, port)? {
            found.push(address);
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn names_of_headers_are_sent_as_in_go_wherever_the_head_is_cut() {
        let head =
            "GET /a-b HTTP/1.1\r\nhost: a-b\r\nx-api-key: k-v\r\nwww-authenticate: x\r\n\r\nbody-text: b\n\nx-y: z";
        let sent =
            "GET /a-b HTTP/1.1\r\nHost: a-b\r\nX-Api-Key: k-v\r\nWww-Authenticate: x\r\n\r\nbody-text: b\n\nx-y: z";
        for cut in 0..head.len() {
            let (mut first, mut second) = (head.as_bytes()[..cut].to_vec(), head.as_bytes()[cut..].to_vec());
            Head::RequestLine.capitalize(&mut first).capitalize(&mut second);
            assert_eq!(String::from_utf8([first, second].concat()).unwrap(), sent, "cut at {cut}");
        }
    }

    #[test]
    fn a_certificate_that_is_refused_comes_with_what_to_do() {
        let expected = ServerName::try_from("10.0.0.1").unwrap();
        let presented = vec!["DnsName(\"kubernetes\")".into(), "IpAddress(10.96.0.1)".into()];
        let name = CertificateError::NotValidForNameContext { expected, presented };
        for (error, told) in [
            (rustls::Error::InvalidCertificate(name), "valid for DnsName(\"kubernetes\"), IpAddress(10.96.0.1)"),
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "ca.crt must contain"),
            (rustls::Error::InvalidCertificate(CertificateError::BadSignature), "ECDSA P-256"),
            (rustls::Error::AlertReceived(AlertDescription::HandshakeFailure), "ECDSA P-256"),
        ] {
            let error = Error::Io(io::Error::other(error));
            assert!(advice(&error).contains(told), "{error}: {}", advice(&error));
        }
        assert_eq!(advice(&Error::Io(io::ErrorKind::ConnectionRefused.into())), "");
        assert_eq!(advice(&io::Error::other("x")), "");
    }
}
