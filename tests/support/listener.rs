//! Owns the listening sockets of the servers: which address, who is connected, how it goes away and comes back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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

    /// Listens on `port`, or on any free one when it is 0.
    fn bind(self, port: u16) -> io::Result<Vec<TcpListener>> {
        let mut last = None;
        // A port that is free on one address may be taken on the other.
        for _ in 0..50 {
            // A name that means both is looked for on 127.0.0.1 first, where nobody else may be given the port meanwhile.
            let port = if port == 0 && self == Self::V6 { port_of_nobody() } else { port };
            match self.bind_once(port) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("fifty attempts failed"))
    }

    fn bind_once(self, port: u16) -> io::Result<Vec<TcpListener>> {
        let mut sockets: Vec<TcpListener> = Vec::new();
        for mut address in self.addresses(port) {
            if let Some(first) = sockets.first() {
                address.set_port(first.local_addr()?.port());
            }
            sockets.push(TcpListener::bind(address)?);
        }
        Ok(sockets)
    }
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
    loopback: Loopback,
    port: u16,
    door: Arc<Door>,
    running: Mutex<Option<Running>>,
}

struct Running {
    sockets: Vec<TcpListener>,
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
            loopback,
            port: address.port(),
            door: Arc::new(Door {
                serve: Box::new(serve),
                turn: one_at_a_time.then(Mutex::default),
                accepted: AtomicUsize::new(0),
                open: Mutex::default(),
            }),
            running: Mutex::new(None),
        };
        listener.run(sockets);
        listener
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.loopback.addresses(self.port)[0]
    }

    pub(super) fn accepted(&self) -> usize {
        self.door.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        locked(&self.door.open).len()
    }

    /// Closes the sockets and every connection, as the end of a process does.
    pub(super) fn stop(&self) {
        let Some(running) = locked(&self.running).take() else {
            return;
        };
        running.stopping.store(true, Ordering::SeqCst);
        for socket in &running.sockets {
            // Wakes a blocked accept(2), which closing the descriptor would not.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        // Twice: the first wakes a thread that is serving, the second catches what was accepted meanwhile.
        self.door.disconnect_all();
        for thread in running.threads {
            let _ = thread.join();
        }
        self.door.disconnect_all();
    }

    /// Listens again on the port that it had.
    pub(super) fn start_again(&self) {
        self.stop();
        let sockets =
            self.loopback.bind(self.port).unwrap_or_else(|error| panic!("listen on port {} again: {error}", self.port));
        self.run(sockets);
    }

    fn run(&self, sockets: Vec<TcpListener>) {
        let stopping = Arc::new(AtomicBool::new(false));
        let threads = sockets
            .iter()
            .map(|socket| {
                let socket = socket.try_clone().expect("a descriptor is left");
                let (door, stopping) = (Arc::clone(&self.door), Arc::clone(&stopping));
                thread::spawn(move || door.accept_from(&socket, &stopping))
            })
            .collect();
        *locked(&self.running) = Some(Running { sockets, threads, stopping });
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

/// An address where connecting never ends: its queue is full and nobody accepts, so that Linux drops each SYN.
pub struct BlackHole {
    socket: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// One on 127.0.0.1.
    pub fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// One at this address; port 0 means any.
    pub fn at(address: SocketAddr) -> Self {
        let socket = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        rustix::net::listen(&socket, 0).expect("a listening socket may shrink its queue");
        let address = socket.local_addr().expect("it is bound");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            queued.push(stream);
        }
        Self { socket, _queued: queued }
    }

    /// Where nobody answers.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}
