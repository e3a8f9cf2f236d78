//! Owns a stand-in for kube-apiserver: TLS, the log of what clients did, and the faults that a test scripts.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use serde_json::Value;

use super::certificates::ServerCertificate;
use super::listener::{Listener, Loopback};
use super::locked;
use super::objects::{Change, Objects, Refused, status_object};
use super::wire::{Request, Wire, response};

/// What goes wrong with one attempt: one connection, or one request on a connection that is kept alive.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing; keeps a place in the queue of [`ApiServer::next`].
    Pass,
    /// This answer; the objects are not touched.
    Answer {
        /// 200 to 599.
        status: u16,
        /// Beside Content-Length and Connection.
        headers: Vec<(String, String)>,
        /// The body, of any kind.
        body: String,
    },
    /// The true answer, after this long.
    Slow(Duration),
    /// The request takes effect, and the connection ends without an answer.
    ApplyThenDrop,
    /// The request takes effect, and then this happens in place of the true answer.
    Applied(Box<Fault>),
    /// The connection ends without an answer, and the request takes effect this much later, if it still can then.
    Late(Duration),
    /// The same, at [`ApiServer::deliver_lost`].
    Lost,
    /// The request takes effect; the connection ends in the middle of the answer's body.
    BreakOff,
    /// The true answer, with a member of this many bytes before the others.
    LongAnswer(usize),
    /// The connection ends as soon as it is accepted.
    DropBeforeTls,
    /// The connection ends after the handshake.
    DropAfterTls,
    /// Accepted, and then nothing until the client leaves.
    HangBeforeTls,
    /// The request is read, does not take effect, and is never answered.
    HangAfterRequest,
    /// The true answer, a byte at a time with this much between two.
    DripResponse(Duration),
    /// The request takes effect; the body of the answer never ends.
    EndlessBody,
    /// The request takes effect; the headers of the answer never end.
    EndlessHeaders,
    /// The true answer, with white space after it up to this many bytes.
    HugeBody(usize),
    /// These bytes in place of a response, and the end of the connection.
    Raw(Vec<u8>),
}

impl Fault {
    /// Refuses with an object of kind Status.
    pub fn status(status: u16, message: &str) -> Self {
        Self::status_with(status, &[], message)
    }

    /// Refuses with an object of kind Status and headers, such as Retry-After.
    pub fn status_with(status: u16, headers: &[(&str, &str)], message: &str) -> Self {
        let json = ("Content-Type", "application/json");
        Self::Answer {
            status,
            headers: std::iter::once(&json)
                .chain(headers)
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            body: status_object(status, "", message).to_string(),
        }
    }

    /// Answers 200 with this body.
    pub fn ok(body: &str) -> Self {
        Self::Answer { status: 200, headers: Vec::new(), body: body.to_owned() }
    }

    /// This fault, after the request has taken effect. Not for one that lets it take effect by itself.
    pub fn applied(self) -> Self {
        Self::Applied(Box::new(self))
    }
}

/// Which requests a fault or a foreign writer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    reads: Option<bool>,
    path: Option<String>,
}

impl Which {
    /// A merge-patch `{}`, or a GET.
    pub fn reads() -> Self {
        Self { reads: Some(true), path: None }
    }

    /// A patch with content.
    pub fn writes() -> Self {
        Self { reads: Some(false), path: None }
    }

    /// Whatever is asked of the object at this path.
    pub fn of(path: &str) -> Self {
        Self { reads: None, path: Some(path.to_owned()) }
    }

    /// Only those of the object at this path.
    pub fn to(self, path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    fn holds(&self, request: &Request) -> bool {
        self.reads.is_none_or(|reads| reads == request.is_read())
            && self.path.as_ref().is_none_or(|path| path == request.path())
    }
}

/// How far one connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// It was accepted.
    Tcp,
    /// The client trusted the certificate.
    Tls,
    /// A request was read.
    Http,
}

/// An API server on loopback, until it is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    listener: Listener,
}

/// What somebody else does to the objects.
type ForeignWrite = Box<dyn FnOnce(&mut Objects) + Send>;

struct Shared {
    tls: Mutex<Arc<ServerConfig>>,
    objects: Mutex<Objects>,
    queued_faults: Mutex<VecDeque<Fault>>,
    standing_fault: Mutex<Option<Fault>>,
    queued_faults_of: Mutex<VecDeque<(Which, Fault)>>,
    standing_faults_of: Mutex<Vec<(Which, Fault)>>,
    foreign_writes: Mutex<VecDeque<(Which, ForeignWrite)>>,
    lost: Mutex<Vec<Request>>,
    late_answers: Mutex<Vec<u16>>,
    requests: Mutex<Vec<Request>>,
    attempts: Mutex<Vec<(Instant, Reached)>>,
    failed_handshakes: AtomicUsize,
    resets: AtomicUsize,
    received: Arc<AtomicU64>,
}

impl ApiServer {
    /// One on any free port that accepts `token` and has no objects.
    pub fn start(loopback: Loopback, certificate: &ServerCertificate, token: &str) -> Self {
        Self::start_on(loopback, 0, certificate, token)
    }

    /// Starts one on this port.
    pub fn start_on(loopback: Loopback, port: u16, certificate: &ServerCertificate, token: &str) -> Self {
        let shared = Arc::new(Shared {
            tls: Mutex::new(certificate.server_config()),
            objects: Mutex::new(Objects::new()),
            queued_faults: Mutex::default(),
            standing_fault: Mutex::default(),
            queued_faults_of: Mutex::default(),
            standing_faults_of: Mutex::default(),
            foreign_writes: Mutex::default(),
            lost: Mutex::default(),
            late_answers: Mutex::default(),
            requests: Mutex::default(),
            attempts: Mutex::default(),
            failed_handshakes: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            received: Arc::default(),
        });
        let serving = Arc::clone(&shared);
        let serve = move |connection, tcp| {
            // An error here is a client that left, which the log tells already.
            let served = serving.serve(connection, tcp);
            if served.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
                serving.resets.fetch_add(1, Ordering::SeqCst);
            }
        };
        let listener = Listener::start(loopback, port, false, serve);
        let server = Self { shared, listener };
        server.accept_token(token);
        server
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// `https://` and the address, without a slash after it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Creates the object, or replaces it as if it had been deleted before. OpenKruiseGame's controller owns its fields.
    pub fn put(&self, path: &str, object: Value) {
        locked(&self.shared.objects).put(path, object);
    }

    /// Deletes the object.
    pub fn remove(&self, path: &str) {
        locked(&self.shared.objects).remove(path);
    }

    /// The object as a GET would show it.
    pub fn object(&self, path: &str) -> Option<Value> {
        locked(&self.shared.objects).get(path)
    }

    /// A string in the object, by its JSON pointer: `text(path, "/spec/opsState")`.
    pub fn text(&self, path: &str, pointer: &str) -> Option<String> {
        let object = self.object(path)?;
        object.pointer(pointer)?.as_str().map(str::to_owned)
    }

    /// Changes an object as the client of this name would. Panics when there is none.
    pub fn edit(&self, path: &str, manager: &str, change: impl FnOnce(&mut Value)) {
        locked(&self.shared.objects).edit(path, manager, change);
    }

    /// What became of the object, in order: who changed what, requests that arrived late included.
    pub fn changes(&self, path: &str) -> Vec<Change> {
        let objects = locked(&self.shared.objects);
        objects.changes.iter().filter(|change| change.path == path).cloned().collect()
    }

    /// Whether `metadata.managedFields` is shown; it is at first.
    pub fn show_managed_fields(&self, shown: bool) {
        locked(&self.shared.objects).shows_managed_fields = shown;
    }

    /// Lets this token in, beside those before it.
    pub fn accept_token(&self, token: &str) {
        locked(&self.shared.objects).tokens.insert(token.to_owned());
    }

    /// From now on this token is answered 401.
    pub fn refuse_token(&self, token: &str) {
        locked(&self.shared.objects).tokens.remove(token);
    }

    /// Allows these pairs of verb and resource, such as `("patch", "gameservers")`, and forbids everything else.
    pub fn allow_only(&self, rules: &[(&str, &str)]) {
        let owned = rules.iter().map(|(verb, resource)| (verb.to_string(), resource.to_string()));
        locked(&self.shared.objects).allowed = Some(owned.collect());
    }

    /// Takes [`ApiServer::allow_only`] back.
    pub fn allow_everything(&self) {
        locked(&self.shared.objects).allowed = None;
    }

    /// Serves another certificate, to connections from now on.
    pub fn serve_certificate(&self, certificate: &ServerCertificate) {
        *locked(&self.shared.tls) = certificate.server_config();
    }

    /// What happens to the next attempts, one each, after those that are queued already.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        locked(&self.shared.queued_faults).extend(faults);
    }

    /// What happens to every attempt for which nothing is queued.
    pub fn always(&self, fault: Option<Fault>) {
        *locked(&self.shared.standing_fault) = fault;
    }

    /// What happens to the next requests of this kind, one each, after those that are queued for it already. It gives way
    /// to a fault that [`ApiServer::next`] or [`ApiServer::always`] sets for the attempt.
    pub fn next_of(&self, which: &Which, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().map(|fault| (which.clone(), fault));
        locked(&self.shared.queued_faults_of).extend(faults);
    }

    /// What happens to every request of this kind for which nothing is queued.
    pub fn always_of(&self, which: &Which, fault: Option<Fault>) {
        let mut faults = locked(&self.shared.standing_faults_of);
        faults.retain(|(known, _)| known != which);
        faults.extend(fault.map(|fault| (which.clone(), fault)));
    }

    /// Somebody else writes right before the next request of this kind is answered: before a write means between read and
    /// patch. Each call means one request more.
    pub fn before_next(&self, which: &Which, write: impl FnOnce(&mut Objects) + Send + 'static) {
        locked(&self.shared.foreign_writes).push_back((which.clone(), Box::new(write)));
    }

    /// Answers every patch that says something of this pointer, or this value of it, with 400 or 422, or with 403 as
    /// an admission policy does.
    pub fn refuse(&self, pointer: &str, value: Option<Value>, status: u16) {
        locked(&self.shared.objects).refused.push(Refused { pointer: pointer.to_owned(), value, status });
    }

    /// Takes every [`ApiServer::refuse`] back.
    pub fn refuse_nothing(&self) {
        locked(&self.shared.objects).refused.clear();
    }

    /// Lets the requests of [`Fault::Lost`] arrive, in the order in which they were sent.
    pub fn deliver_lost(&self) {
        for request in std::mem::take(&mut *locked(&self.shared.lost)) {
            self.shared.arrive_late(&request);
        }
    }

    /// The statuses that nobody heard, of the requests of [`Fault::Lost`] and [`Fault::Late`] that have arrived.
    pub fn late_answers(&self) -> Vec<u16> {
        locked(&self.shared.late_answers).clone()
    }

    /// How many requests came on each connection, in the order in which the connections were accepted.
    pub fn requests_per_connection(&self) -> Vec<usize> {
        let mut counts = vec![0; self.connections_accepted()];
        for request in locked(&self.shared.requests).iter() {
            counts[request.connection] += 1;
        }
        counts
    }

    /// Every request that was read, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.requests).clone()
    }

    /// Every connection: when it was accepted, and how far it came.
    pub fn attempts(&self) -> Vec<(Instant, Reached)> {
        locked(&self.shared.attempts).clone()
    }

    /// How many connections were accepted.
    pub fn connections_accepted(&self) -> usize {
        self.listener.accepted()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.listener.open()
    }

    /// How many handshakes failed, as they do when the client does not trust the certificate.
    pub fn failed_handshakes(&self) -> usize {
        self.shared.failed_handshakes.load(Ordering::SeqCst)
    }

    /// How many connections the clients ended with a TCP reset.
    pub fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::SeqCst)
    }

    /// How many decrypted bytes the clients sent. None of them can have seen a token while it is 0.
    pub fn application_bytes(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Closes the port and every connection: from now on connections are refused.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Closes every connection, and lets no packet that opens one through: from now on connecting never ends.
    pub fn drop_packets(&self) {
        self.listener.drop_packets();
    }

    /// Comes back on the same port, with the same objects.
    pub fn start_again(&self) {
        self.listener.start_again();
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, connection: usize, tcp: TcpStream) -> io::Result<()> {
        let attempt = self.note_attempt();
        let first_fault = self.take_fault();
        match first_fault {
            Fault::DropBeforeTls => return Ok(()),
            Fault::HangBeforeTls => return Wire::plain(tcp, Arc::default()).hold(),
            _ => {}
        }
        let config = Arc::clone(&locked(&self.tls));
        let mut wire = match Wire::tls(tcp, config, Arc::clone(&self.received)) {
            Ok(wire) => wire,
            Err(error) => {
                self.failed_handshakes.fetch_add(1, Ordering::SeqCst);
                return Err(error);
            }
        };
        self.note_reached(attempt, Reached::Tls);
        if first_fault == Fault::DropAfterTls {
            return Ok(());
        }
        let mut first_fault = Some(first_fault);
        while let Some(request) = wire.read_request(connection)? {
            self.note_reached(attempt, Reached::Http);
            let fault = first_fault.take().unwrap_or_else(|| self.take_fault());
            if self.answer(&mut wire, &request, fault)? == Then::Drop {
                return Ok(());
            }
            if request.wants_close() {
                break;
            }
        }
        wire.close();
        Ok(())
    }

    fn answer(self: &Arc<Self>, wire: &mut Wire, request: &Request, fault: Fault) -> io::Result<Then> {
        let number = self.log(request);
        if let Some(write) = take_first(&mut locked(&self.foreign_writes), request) {
            write(&mut locked(&self.objects));
        }
        let fault = if fault == Fault::Pass { self.take_fault_of(request) } else { fault };
        self.act(wire, request, number, fault)
    }

    fn act(self: &Arc<Self>, wire: &mut Wire, request: &Request, number: usize, fault: Fault) -> io::Result<Then> {
        match fault {
            // Those of a connection's beginning can only mean its end, once it has been kept alive.
            Fault::DropBeforeTls | Fault::DropAfterTls => return Ok(Then::Drop),
            Fault::HangBeforeTls | Fault::HangAfterRequest => {
                wire.hold()?;
                return Ok(Then::Drop);
            }
            Fault::Raw(bytes) => {
                wire.write(&bytes)?;
                return Ok(Then::Drop);
            }
            Fault::Answer { status, headers, body } => {
                self.log_status(number, status);
                wire.write(&response(request, status, &headers, body.as_bytes()))?;
                return Ok(Then::Continue);
            }
            Fault::Applied(then) => {
                locked(&self.objects).answer(request);
                return self.act(wire, request, number, *then);
            }
            Fault::Late(delay) => {
                let (server, request) = (Arc::clone(self), request.clone());
                thread::spawn(move || {
                    thread::sleep(delay);
                    server.arrive_late(&request);
                });
                return Ok(Then::Drop);
            }
            Fault::Lost => {
                locked(&self.lost).push(request.clone());
                return Ok(Then::Drop);
            }
            Fault::Slow(delay) => thread::sleep(delay),
            _ => {}
        }
        let answer = locked(&self.objects).answer(request);
        if fault == Fault::ApplyThenDrop {
            return Ok(Then::Drop);
        }
        self.log_status(number, answer.status);
        let headers = [("Content-Type".to_owned(), answer.content_type.to_owned())];
        let mut body = answer.body;
        match fault {
            Fault::HugeBody(length) => body.push_str(&" ".repeat(length.saturating_sub(body.len()))),
            Fault::LongAnswer(length) => {
                body = body.replacen('{', &format!("{{\"long\":\"{}\",", "x".repeat(length)), 1)
            }
            _ => {}
        }
        let bytes = response(request, answer.status, &headers, body.as_bytes());
        match fault {
            Fault::EndlessBody => {
                wire.write(format!("HTTP/1.1 {} Endless\r\n\r\n{body}", answer.status).as_bytes())?;
                wire.write_for_ever(b" ")?;
            }
            Fault::EndlessHeaders => {
                wire.write(format!("HTTP/1.1 {} Endless\r\n", answer.status).as_bytes())?;
                wire.write_for_ever(b"X-Endless: and another one\r\n")?;
            }
            Fault::DripResponse(every) => wire.drip(&bytes, every)?,
            Fault::BreakOff => {
                wire.write(&bytes[..bytes.len() - body.len() / 2])?;
                return Ok(Then::Drop);
            }
            _ => wire.write(&bytes)?,
        }
        Ok(Then::Continue)
    }

    fn take_fault(&self) -> Fault {
        let queued = locked(&self.queued_faults).pop_front();
        queued.or_else(|| locked(&self.standing_fault).clone()).unwrap_or(Fault::Pass)
    }

    fn take_fault_of(&self, request: &Request) -> Fault {
        let queued = take_first(&mut locked(&self.queued_faults_of), request);
        let standing = || {
            let faults = locked(&self.standing_faults_of);
            faults.iter().find(|(which, _)| which.holds(request)).map(|(_, fault)| fault.clone())
        };
        queued.or_else(standing).unwrap_or(Fault::Pass)
    }

    fn arrive_late(&self, request: &Request) {
        let status = locked(&self.objects).answer(request).status;
        locked(&self.late_answers).push(status);
    }

    fn note_attempt(&self) -> usize {
        let mut attempts = locked(&self.attempts);
        attempts.push((Instant::now(), Reached::Tcp));
        attempts.len() - 1
    }

    fn note_reached(&self, attempt: usize, reached: Reached) {
        locked(&self.attempts)[attempt].1 = reached;
    }

    fn log(&self, request: &Request) -> usize {
        let mut requests = locked(&self.requests);
        requests.push(request.clone());
        requests.len() - 1
    }

    fn log_status(&self, number: usize, status: u16) {
        locked(&self.requests)[number].answered = Some(status);
    }
}

/// Takes what waits longest for such a request.
fn take_first<T>(queue: &mut VecDeque<(Which, T)>, request: &Request) -> Option<T> {
    let at = queue.iter().position(|(which, _)| which.holds(request))?;
    queue.remove(at).map(|(_, first)| first)
}

/// What becomes of the connection after an answer.
#[derive(PartialEq)]
enum Then {
    Continue,
    Drop,
}
