//! Owns the one way to make an HTTP client: fresh connections, one deadline for all of a request, no proxy,
//! no redirect, no thread, small buffers. Refuses to know what is asked and what the answer means.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderValue, Request, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport,
};
use ureq::{Agent, AsSendBody, Body, Error};

/// Of each direction, and the most that a response's head may have. ureq's own 128 KiB would be a third of a small
/// memory limit.
const BUFFER: usize = 16 * 1024;

/// Of the header Connection: a server with one thread is never held by an idle connection.
pub const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Which servers are spoken to over TLS.
#[derive(Debug)]
pub enum Trust {
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

/// A client for a request that takes `timeout`, at most an hour, and `most_bytes` received, at most.
///
/// Made anew for each use: ureq keeps TLS sessions and settings for an agent's life, and making one costs microseconds.
pub fn client(timeout: Duration, most_bytes: usize, trust: Trust) -> Client {
    let crypto = CryptoProvider { key_provider: &NoKeys, ..rustls::crypto::ring::default_provider() };
    let tls = TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(Arc::new(crypto));
    let tls = match trust {
        Trust::Anyone => tls.disable_verification(true),
        Trust::Authorities(certificates) => tls.root_certs(RootCerts::Specific(certificates)),
    };
    let config = Config::builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("okg-sidecar/", env!("CARGO_PKG_VERSION")))
        .accept_encoding(AutoHeaderValue::None)
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .max_response_header_size(BUFFER)
        .max_idle_connections(1)
        .allow_non_standard_methods(true)
        .tls_config(tls.build())
        .build();
    let connected = Arc::new(AtomicBool::new(false));
    let connector =
        ().chain(TcpConnector::default())
            .chain(Bound(most_bytes))
            .chain(RustlsConnector::default())
            .chain(Connected(Arc::clone(&connected)));
    Client { agent: Agent::with_parts(config, connector, InThisThread), connected }
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
    type Out = In;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<In>, Error> {
        self.0.store(true, Ordering::Relaxed);
        Ok(chained)
    }
}

/// Lets a connection receive this many bytes. It stands before TLS, so that a handshake counts, too.
#[derive(Debug)]
struct Bound(usize);

impl<In: Transport> Connector<In> for Bound {
    type Out = Strict<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|transport| Strict { transport, received: 0, most: self.0 }))
    }
}

/// Ends a connection that receives too much, and keeps ureq from taking a reset one for the end of a body that has no
/// length.
///
/// ureq bounds a head and a body, but reads interim responses, the framing of chunks, trailers and TLS records that hold
/// nothing for as long as they come.
#[derive(Debug)]
struct Strict<T> {
    transport: T,
    /// In bytes, so far.
    received: usize,
    most: usize,
}

impl<T: Transport> Transport for Strict<T> {
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.transport.buffers().input().len();
        let progress = self.transport.await_input(timeout).map_err(|error| match error {
            // ureq looks at the kind, and takes this one for an end.
            Error::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Error::Io(io::Error::other(error)),
            error => error,
        })?;
        self.received += self.transport.buffers().input().len() - before;
        if self.received > self.most {
            let message = format!("more than {} bytes received", self.most);
            return Err(Error::Io(io::Error::other(message)));
        }
        Ok(progress)
    }

    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.transport.transmit_output(amount, timeout)
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
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
        for address in addresses(host, port)? {
            found.push(address);
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

/// The addresses of a host in the order in which they are tried, 16 at most.
///
/// # Errors
/// The host has none, or nobody can tell.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        // IPv4 first, since a ::1 that drops packets would eat two thirds of the timeout. RFC 6761 lets localhost mean
        // loopback without asking anyone.
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Ok((bare, port).to_socket_addrs()?.take(16).collect())
}
