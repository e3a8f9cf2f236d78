//! Owns the listening sockets of the servers: which address, who is connected, how it goes away and comes back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::locked;

/// Which of the two loopback addresses a server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// 127.0.0.1.
    V4,
    /// ::1.
    V6,
    /// Both, on the same port.
    Both,
}

impl Loopback {
    fn addresses(self, port: u16) -> Vec<SocketAddr> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Both => vec![v4, v6],
        }
    }

    /// Holds `port`, or a free one when it is 0: connecting is refused, and nobody else gets it.
    fn bind(self, port: u16) -> io::Result<Vec<TcpListener>> {
        let hold = |address: &SocketAddr| -> io::Result<TcpListener> {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Connections of an earlier process do not keep the port that is asked for.
            set_socket_reuseaddr(&socket, port != 0)?;
            rustix::net::bind(&socket, address)?;
            set_socket_reuseaddr(&socket, false)?;
            Ok(socket.into())
        };
        let mut last = None;
        for _ in 0..50 {
            // A port that the system chooses goes to somebody else as soon as nobody listens there.
            let port = if port == 0 { port_of_nobody() } else { port };
            match self.addresses(port).iter().map(hold).collect() {
                Ok(sockets) => return Ok(sockets),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("fifty attempts failed"))
    }
}

/// Listens on a port that is bound already. Somebody may have listened on it before.
fn listen(socket: &TcpListener, queue: i32) -> io::Result<()> {
    // Connections of earlier times do not count.
    set_socket_reuseaddr(socket, true)?;
    Ok(rustix::net::listen(socket, queue)?)
}

/// Goes back to holding the port.
fn hold(socket: &TcpListener) {
    // Wakes a blocked accept(2), too, which closing the descriptor would not. The system keeps a port that a socket
    // asked for by number.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    let _ = set_socket_reuseaddr(socket, false);
}

/// Listens with a queue that is full as long as these connections live, so that Linux drops each SYN.
fn fill_queue(socket: &TcpListener) -> Vec<TcpStream> {
    listen(socket, 0).expect("nobody else has the port");
    let address = socket.local_addr().expect("it is bound");
    let mut queued = Vec::new();
    // A busy machine may be late once.
    let mut dropped = 0;
    while dropped < 2 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(stream) => queued.push(stream),
            Err(_) => dropped += 1,
        }
    }
    queued
}

/// Another port each time, below those that the system gives out by itself.
fn port_of_nobody() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    20_000 + (std::process::id().wrapping_mul(37).wrapping_add(taken) % 12_000) as u16
}

/// Takes the number of the connection, in the order in which they are accepted, and the connection.
type Serve = dyn Fn(usize, TcpStream) + Send + Sync;

/// Accepts connections and hands each to a function, until it is stopped or dropped.
pub(super) struct Listener {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
    door: Arc<Door>,
    running: Mutex<Option<Running>>,
    /// What fills the queues while packets are dropped.
    queued: Mutex<Vec<TcpStream>>,
}

struct Running {
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

/// What outlives a stop: the counts, and the function that serves.
struct Door {
    serve: Box<Serve>,
    /// Held while a connection is served, when only one may be at a time.
    turn: Option<Mutex<()>>,
    accepted: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
}

impl Listener {
    /// Port 0 means any. `one_at_a_time` accepts no connection before the one before it is served.
    pub(super) fn start(
        loopback: Loopback,
        port: u16,
        one_at_a_time: bool,
        serve: impl Fn(usize, TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let sockets =
            loopback.bind(port).unwrap_or_else(|error| panic!("listen on {loopback:?}, port {port}: {error}"));
        let address = sockets[0].local_addr().expect("it is bound");
        let listener = Self {
            address,
            sockets,
            door: Arc::new(Door {
                serve: Box::new(serve),
                turn: one_at_a_time.then(Mutex::default),
                accepted: AtomicUsize::new(0),
                open: Mutex::default(),
            }),
            running: Mutex::new(None),
            queued: Mutex::default(),
        };
        listener.start_again();
        listener
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn accepted(&self) -> usize {
        self.door.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        locked(&self.door.open).len()
    }

    /// Refuses connections and ends those that are there, as the end of a process does.
    pub(super) fn stop(&self) {
        let Some(running) = locked(&self.running).take() else {
            return;
        };
        running.stopping.store(true, Ordering::SeqCst);
        self.sockets.iter().for_each(hold);
        // Twice: the first wakes a thread that is serving, the second catches what was accepted meanwhile.
        self.door.disconnect_all();
        for thread in running.threads {
            let _ = thread.join();
        }
        self.door.disconnect_all();
    }

    /// Ends the connections that are there, and lets no packet that opens one through.
    pub(super) fn drop_packets(&self) {
        self.stop();
        locked(&self.queued).extend(self.sockets.iter().flat_map(fill_queue));
    }

    /// Listens again on the port that it had.
    pub(super) fn start_again(&self) {
        self.stop();
        if !locked(&self.queued).is_empty() {
            self.sockets.iter().for_each(hold);
            locked(&self.queued).clear();
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let start = |socket: &TcpListener| {
            listen(socket, 1024).unwrap_or_else(|error| panic!("listen on {}: {error}", self.address));
            let socket = socket.try_clone().expect("a descriptor is left");
            let (door, stopping) = (Arc::clone(&self.door), Arc::clone(&stopping));
            thread::spawn(move || door.accept_from(&socket, &stopping))
        };
        let threads = self.sockets.iter().map(start).collect();
        *locked(&self.running) = Some(Running { threads, stopping });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Door {
    fn accept_from(self: &Arc<Self>, socket: &TcpListener, stopping: &AtomicBool) {
        while !stopping.load(Ordering::SeqCst) {
            let Ok((stream, _)) = socket.accept() else {
                // Out of descriptors, most likely; a tight loop would not give any back.
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let connection = self.enter(&stream);
            if let Some(turn) = &self.turn {
                let _turn = locked(turn);
                (self.serve)(connection.number, stream);
            } else {
                let door = Arc::clone(self);
                thread::spawn(move || {
                    (door.serve)(connection.number, stream);
                    drop(connection);
                });
            }
        }
    }

    fn enter(self: &Arc<Self>, stream: &TcpStream) -> Connection {
        // A byte that a test drips shall leave at once.
        let _ = stream.set_nodelay(true);
        let number = self.accepted.fetch_add(1, Ordering::SeqCst);
        if let Ok(handle) = stream.try_clone() {
            locked(&self.open).insert(number, handle);
        }
        Connection { number, door: Arc::clone(self) }
    }

    fn disconnect_all(&self) {
        for stream in locked(&self.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Counts as open until it is dropped.
struct Connection {
    number: usize,
    door: Arc<Door>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        locked(&self.door.open).remove(&self.number);
    }
}

/// A port on which nobody listens until this is dropped: each connection is refused.
pub struct ClosedPort {
    sockets: Vec<TcpListener>,
}

impl ClosedPort {
    /// One on 127.0.0.1 and on ::1.
    pub fn new() -> Self {
        let sockets = Loopback::Both.bind(0).unwrap_or_else(|error| panic!("hold a port: {error}"));
        Self { sockets }
    }

    /// The one on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.sockets[0].local_addr().expect("it is bound")
    }
}

impl Default for ClosedPort {
    fn default() -> Self {
        Self::new()
    }
}

/// Addresses that never answer a connection: their queues are full and nobody accepts.
pub struct BlackHole {
    sockets: Vec<TcpListener>,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// One on 127.0.0.1.
    pub fn new() -> Self {
        Self::on(Loopback::V4)
    }

    /// One there.
    pub fn on(loopback: Loopback) -> Self {
        let sockets = loopback.bind(0).unwrap_or_else(|error| panic!("hold a port: {error}"));
        let queued = sockets.iter().flat_map(fill_queue).collect();
        Self { sockets, _queued: queued }
    }

    /// The address that never answers; the IPv4 address if there are two.
    pub fn address(&self) -> SocketAddr {
        self.sockets[0].local_addr().expect("it is bound")
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}
