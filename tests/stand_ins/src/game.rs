//! Owns a stand-in for the game: whatever a process in the same pod may answer to an HTTP probe, right or wrong.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;

use super::certificates::ServerCertificate;
use super::listener::{Listener, Loopback};
use super::locked;
use super::wire::{Request, Wire, reset_when_dropped, response};

/// What the game does with one connection, or with one request on a connection that is kept alive.
#[derive(Debug, Clone, PartialEq)]
pub enum Behaviour {
    /// Answers, and closes when the client asked for that.
    Answer {
        /// 100 to 999.
        status: u16,
        /// Beside Content-Length and Connection.
        headers: Vec<(String, String)>,
        /// The body, of any kind.
        body: Vec<u8>,
    },
    /// Answers 200 with the value of this header of the request.
    Echo(String),
    /// These bytes in place of a response, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes in place of a response, then silence until the client leaves.
    RawThenHold(Vec<u8>),
    /// These bytes in place of a response, then a TCP reset.
    RawThenReset(Vec<u8>),
    /// A 200 whose headers come a byte at a time, this far apart, and never end.
    DripHeaders(Duration),
    /// A 200 whose body comes a byte at a time, this far apart, and never ends.
    DripBody(Duration),
    /// A 200 without a length whose body never ends.
    EndlessBody,
    /// A 200 in chunks that never end.
    EndlessChunks,
    /// A 200 whose headers never end.
    EndlessHeaders,
    /// `100 Continue`, for ever.
    Endless1xx,
    /// The first bytes in place of a response, then the second ones again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// The connection ends as soon as it is accepted.
    CloseAtOnce,
    /// The connection ends with a TCP reset as soon as it is accepted.
    Reset,
    /// The request is read and never answered.
    HoldWithoutAnswer,
    /// Another behaviour, this long after the request.
    After(Duration, Box<Behaviour>),
    /// One for each in turn; the last one stays. At least one, none of them a script.
    Script(Vec<Behaviour>),
}

impl Behaviour {
    /// An answer without headers of its own.
    pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// An answer with headers, such as Location.
    pub fn answer_with(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let owned = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Self::Answer { status, headers: owned.collect(), body: body.into() }
    }
}

/// How a game is made.
pub struct Builder {
    loopback: Loopback,
    port: u16,
    tls: Option<Arc<ServerConfig>>,
    one_at_a_time: bool,
}

impl Builder {
    /// Listens on this loopback address; the default is 127.0.0.1.
    pub fn on(mut self, loopback: Loopback) -> Self {
        self.loopback = loopback;
        self
    }

    /// Listens on this port; the default is any free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Speaks HTTPS.
    pub fn tls(mut self, certificate: &ServerCertificate) -> Self {
        self.tls = Some(certificate.server_config());
        self
    }

    /// Serves a connection to its end before it accepts another, as a game with one thread does.
    pub fn one_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Starts it. At first it answers 200 without a body.
    pub fn start(self) -> Game {
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::answer(200, "")),
            requests: Mutex::default(),
            tls: self.tls,
        });
        let serving = Arc::clone(&shared);
        let serve = move |connection, tcp| {
            // An error here is a client that left, which is its right.
            let _ = serving.serve(connection, tcp);
        };
        let listener = Listener::start(self.loopback, self.port, self.one_at_a_time, serve);
        Game { shared, listener }
    }
}

/// A game on loopback, until it is dropped.
pub struct Game {
    shared: Arc<Shared>,
    listener: Listener,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    tls: Option<Arc<ServerConfig>>,
}

impl Game {
    /// One over plain HTTP on 127.0.0.1.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One of another kind.
    pub fn builder() -> Builder {
        Builder { loopback: Loopback::V4, port: 0, tls: None, one_at_a_time: false }
    }

    /// The address that it listens on; the IPv4 address if there are two.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The URL of a path that starts with a slash.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address())
    }

    /// Answers this from now on.
    pub fn set(&self, status: u16, body: impl Into<Vec<u8>>) {
        self.behave(Behaviour::answer(status, body));
    }

    /// Behaves like this from now on, towards connections that come and requests on those that are there.
    pub fn behave(&self, behaviour: Behaviour) {
        if let Behaviour::Script(steps) = &behaviour {
            assert!(!steps.is_empty(), "a script has at least one step");
        }
        *locked(&self.shared.behaviour) = behaviour;
    }

    /// Every request that was read, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.requests).clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.listener.accepted()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.listener.open()
    }

    /// Closes the port and every connection: from now on connections are refused.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Comes back on the same port.
    pub fn start_again(&self) {
        self.listener.start_again();
    }
}

impl Shared {
    fn serve(&self, connection: usize, tcp: TcpStream) -> io::Result<()> {
        let first = self.take_behaviour();
        match first {
            Behaviour::CloseAtOnce => return Ok(()),
            Behaviour::Reset => {
                reset_when_dropped(&tcp);
                return Ok(());
            }
            _ => {}
        }
        let mut wire = match &self.tls {
            Some(config) => Wire::tls(tcp, Arc::clone(config), Arc::default())?,
            None => Wire::plain(tcp, Arc::default()),
        };
        let mut first = Some(first);
        while let Some(request) = wire.read_request(connection)? {
            let number = self.log(&request);
            let behaviour = first.take().unwrap_or_else(|| self.take_behaviour());
            match self.act(&mut wire, &request, number, behaviour)? {
                Then::Close => break,
                Then::Reset => {
                    wire.reset();
                    return Ok(());
                }
                Then::Continue if request.wants_close() => break,
                Then::Continue => {}
            }
        }
        wire.close();
        Ok(())
    }

    fn act(&self, wire: &mut Wire, request: &Request, number: usize, behaviour: Behaviour) -> io::Result<Then> {
        const OK: &str = "HTTP/1.1 200 OK\r\n";
        match behaviour {
            Behaviour::Answer { status, headers, body } => {
                locked(&self.requests)[number].answered = Some(status);
                wire.write(&response(request, status, &headers, &body))?;
                return Ok(Then::Continue);
            }
            Behaviour::Echo(header) => {
                locked(&self.requests)[number].answered = Some(200);
                let value = request.header(&header).unwrap_or_default();
                wire.write(&response(request, 200, &[], value.as_bytes()))?;
                return Ok(Then::Continue);
            }
            Behaviour::Raw(bytes) => wire.write(&bytes)?,
            Behaviour::RawThenHold(bytes) => {
                wire.write(&bytes)?;
                wire.hold()?;
            }
            Behaviour::RawThenReset(bytes) => {
                wire.write(&bytes)?;
                return Ok(Then::Reset);
            }
            Behaviour::DripHeaders(every) => {
                wire.write(OK.as_bytes())?;
                wire.drip_for_ever(b"X-Drip: drop\r\n", every)?;
            }
            Behaviour::DripBody(every) => {
                wire.write(format!("{OK}\r\n").as_bytes())?;
                wire.drip_for_ever(b"drip ", every)?;
            }
            Behaviour::EndlessBody => {
                wire.write(format!("{OK}\r\n").as_bytes())?;
                wire.write_for_ever(b"and so on ")?;
            }
            Behaviour::EndlessChunks => {
                wire.write(format!("{OK}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
                wire.write_for_ever(b"a\r\nand so on \r\n")?;
            }
            Behaviour::EndlessHeaders => {
                wire.write(OK.as_bytes())?;
                wire.write_for_ever(b"X-Endless: and another one\r\n")?;
            }
            Behaviour::Endless1xx => wire.write_for_ever(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            Behaviour::Endless(start, repeated) => {
                wire.write(&start)?;
                wire.write_for_ever(&repeated)?;
            }
            Behaviour::HoldWithoutAnswer => wire.hold()?,
            Behaviour::CloseAtOnce => {}
            Behaviour::Reset => return Ok(Then::Reset),
            Behaviour::After(delay, behaviour) => {
                thread::sleep(delay);
                return self.act(wire, request, number, *behaviour);
            }
            Behaviour::Script(_) => panic!("a script is no step of another"),
        }
        Ok(Then::Close)
    }

    fn take_behaviour(&self) -> Behaviour {
        match &mut *locked(&self.behaviour) {
            Behaviour::Script(steps) if steps.len() > 1 => steps.remove(0),
            Behaviour::Script(steps) => steps[0].clone(),
            one => one.clone(),
        }
    }

    fn log(&self, request: &Request) -> usize {
        let mut requests = locked(&self.requests);
        requests.push(request.clone());
        requests.len() - 1
    }
}

/// What becomes of the connection.
enum Then {
    Continue,
    Close,
    Reset,
}
