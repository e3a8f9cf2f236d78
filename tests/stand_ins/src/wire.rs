//! Owns HTTP/1.1 as a server reads and writes it, over TCP or TLS, and the ways to do it badly. What a request means
//! belongs to api_server.rs and game.rs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// When the last byte of it had come.
    pub at: Instant,
    /// The method, such as `PATCH`.
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    /// Names and values in the order and case in which they were sent.
    pub headers: Vec<(String, String)>,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
    /// The status that it was answered with, when it was answered with one.
    pub answered: Option<u16>,
    /// The number of the connection that it came on, in the order in which they were accepted.
    pub connection: usize,
}

impl Request {
    /// The first line without the version: `PATCH /api/v1/...`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// The value of a parameter in the query, not decoded.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What follows `Bearer ` in the header Authorization.
    pub fn bearer_token(&self) -> Option<&str> {
        self.header("Authorization")?.strip_prefix("Bearer ")
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// Whether it only looks: a GET, or a merge-patch that changes nothing, which needs the verb `patch` alone.
    pub fn is_read(&self) -> bool {
        self.method == "GET" || self.body.trim() == "{}"
    }

    /// Whether the client wants the connection closed after the answer.
    pub fn wants_close(&self) -> bool {
        self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One accepted connection.
pub struct Wire {
    reader: BufReader<Stream>,
}

struct Stream {
    transport: Transport,
    received: Arc<AtomicU64>,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    /// Adds the bytes that the client sends to `received`.
    pub(super) fn plain(tcp: TcpStream, received: Arc<AtomicU64>) -> Self {
        Self::new(Transport::Plain(tcp), received)
    }

    /// Shakes hands; an error when that fails. Adds the decrypted bytes that the client sends to `received`.
    pub fn tls(mut tcp: TcpStream, config: Arc<ServerConfig>, received: Arc<AtomicU64>) -> io::Result<Self> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let stream = Box::new(StreamOwned::new(tls, tcp));
        Ok(Self::new(Transport::Tls(stream), received))
    }

    fn new(transport: Transport, received: Arc<AtomicU64>) -> Self {
        let stream = Stream { transport, received };
        Self { reader: BufReader::new(stream) }
    }

    /// The next request of this connection; `None` when the client has left instead.
    pub fn read_request(&mut self, connection: usize) -> io::Result<Option<Request>> {
        let line = self.read_line()?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Request {
            at: Instant::now(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: String::new(),
            answered: None,
            connection,
        };
        let body = self.read_body(&request)?;
        request.body = String::from_utf8_lossy(&body).into_owned();
        request.at = Instant::now();
        Ok(Some(request))
    }

    fn read_body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if request.header("Transfer-Encoding").is_some() {
            loop {
                let length = usize::from_str_radix(&self.read_line()?, 16);
                let length = length.map_err(io::Error::other)?;
                self.read_exactly(length, &mut body)?;
                self.read_line()?;
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        let length = request.header("Content-Length").unwrap_or("0");
        self.read_exactly(length.parse().map_err(io::Error::other)?, &mut body)?;
        Ok(body)
    }

    fn read_exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let read = self.reader.by_ref().take(length as u64).read_to_end(into)?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.reader.get_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Writes a byte, waits, writes the next.
    pub(super) fn drip(&mut self, bytes: &[u8], every: Duration) -> io::Result<()> {
        for byte in bytes {
            self.write(&[*byte])?;
            thread::sleep(every);
        }
        Ok(())
    }

    /// Writes the same again and again. Ends by an error alone, when the client has gone.
    pub(super) fn write_for_ever(&mut self, bytes: &[u8]) -> io::Result<()> {
        let block = bytes.repeat(4096_usize.div_ceil(bytes.len()));
        loop {
            self.write(&block)?;
        }
    }

    /// Drips the same again and again. Ends by an error alone, when the client has gone.
    pub(super) fn drip_for_ever(&mut self, bytes: &[u8], every: Duration) -> io::Result<()> {
        loop {
            self.drip(bytes, every)?;
        }
    }

    /// Stays connected, silent, until the client leaves.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    /// Ends the connection as a well-behaved server does; dropping it cuts TLS off instead.
    pub fn close(mut self) {
        if let Transport::Tls(tls) = &mut self.reader.get_mut().transport {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    }

    /// Ends the connection with a TCP reset.
    pub(super) fn reset(self) {
        match &self.reader.get_ref().transport {
            Transport::Plain(tcp) => reset_when_dropped(tcp),
            Transport::Tls(tls) => reset_when_dropped(&tls.sock),
        }
    }
}

/// Makes the end of this connection a TCP reset.
pub(super) fn reset_when_dropped(tcp: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.transport {
            Transport::Plain(tcp) => tcp.read(buffer)?,
            Transport::Tls(tls) => tls.read(buffer)?,
        };
        self.received.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.write(bytes),
            Transport::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.flush(),
            Transport::Tls(tls) => tls.flush(),
        }
    }
}

/// A response as it goes over the wire, to this request. Content-Length is added unless `headers` define how long the body
/// is, `Connection: close` when the request asked for it.
pub fn response(request: &Request, status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let says = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    // RFC 9110, section 6.4.1: these have no body, whatever their headers are.
    let bodiless = matches!(status, 100..200 | 204 | 304);
    if !bodiless && !says("Content-Length") && !says("Transfer-Encoding") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    if request.wants_close() && !says("Connection") {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if !bodiless && request.method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    bytes
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Something Else",
    }
}
