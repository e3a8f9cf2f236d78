//! Owns connections and datagrams that nothing waits on for longer than until a deadline: names to addresses, an address to a
//! socket, and waiting for it. No thread, and no call that is not needed: std's way to a connection within a time takes
//! two calls more, and two for the time of its reads and writes.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use std::vec;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};

use crate::memory::Memory;
use crate::signals;

/// The most that a server may send in one probe, however it is framed.
pub const MAX_RECEIVED_BYTES: usize = 1024 * 1024;

/// The most pieces that it may come in, since tiny ones cost as much time as large ones.
const MAX_PIECES: usize = 4096;

/// How long an answer to a datagram is waited for before it is sent again.
pub const RESEND: Duration = Duration::from_secs(1);

/// The least port that Linux gives to a connection. Where nobody listens on a port of this machine, it may give just that
/// port, and TCP's simultaneous open then connects the socket to itself (RFC 9293, 3.5).
const FIRST_EPHEMERAL_PORT: u16 = 1024;

/// The addresses of a host in the order in which they are tried, 16 at most.
///
/// # Errors
/// The host has none, or no DNS server answers.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        // IPv4 first, since a ::1 that drops packets would eat half of the timeout. RFC 6761 lets localhost mean loopback
        // without asking anyone.
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Ok((bare, port).to_socket_addrs()?.take(16).collect())
}

/// Connects to the first of the addresses that lets it. The socket does not block: see [`wait`].
///
/// # Errors
/// Why there was no connection to the first address; [`ErrorKind::TimedOut`] if the deadline has passed.
pub fn connect_to_any(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failed = None;
    for (index, address) in addresses.iter().enumerate() {
        // What is left is shared out, so that one that drops packets leaves time for the next.
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - index) as u32;
        match connect_to(address, now + share) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn connect_to(address: &SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let socket = socket(address, SocketType::STREAM)?;
    let connecting = connect(&socket, address);
    let stream = TcpStream::from(socket);
    match connecting {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let ready = wait(&stream, PollFlags::OUT, deadline)?;
            if ready != PollFlags::OUT
                && let Some(error) = stream.take_error()?
            {
                return Err(error);
            }
        }
        Err(error) => return Err(error.into()),
    }
    let to_itself = |local: SocketAddr| io::Result::Ok(local.port() == address.port() && stream.peer_addr()? == local);
    if address.port() >= FIRST_EPHEMERAL_PORT && to_itself(stream.local_addr()?)? {
        // Closed in order, it would keep the port from the game for a minute.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(stream)
}

/// One that does not block.
fn socket(address: &SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// What a server has sent in one probe.
#[derive(Debug, Default)]
pub struct Received {
    bytes: usize,
    pieces: usize,
}

impl Received {
    /// Counts what one read, or one datagram, gave.
    ///
    /// # Errors
    /// It is more than a server may send.
    pub fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        self.pieces += 1;
        if self.bytes > MAX_RECEIVED_BYTES {
            Err(io::Error::other(format!("more than {MAX_RECEIVED_BYTES} bytes received")))
        } else if self.pieces > MAX_PIECES {
            Err(io::Error::other(format!("more than {MAX_PIECES} pieces received")))
        } else {
            Ok(())
        }
    }
}

/// Sends all of the bytes on a connection.
///
/// # Errors
/// [`ErrorKind::TimedOut`] at the deadline, or what the system gives.
pub fn send_all(stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::AGAIN | Errno::INTR) => {
                wait(stream, PollFlags::OUT, deadline)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Appends what comes next on a connection, as far as there is room for it, and gives how many bytes that were; 0 at the end.
///
/// # Errors
/// [`ErrorKind::TimedOut`] at the deadline, or what the system gives.
pub fn receive(stream: &TcpStream, memory: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
    loop {
        wait(stream, PollFlags::IN, deadline)?;
        match recv(stream, spare_capacity(memory), RecvFlags::empty()) {
            Ok((_, bytes)) => return Ok(bytes),
            // What had come is not there any more, which Linux does with a packet of a wrong checksum.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A conversation by datagrams. Its socket is connected: nobody but the server can answer, and a closed port is seen at once.
/// Each conversation has a port of its own, so that what comes late answers no later one.
#[derive(Debug)]
pub struct Datagrams {
    /// Those that are left.
    addresses: vec::IntoIter<SocketAddr>,
    socket: OwnedFd,
    request: &'static [u8],
    /// When it is sent the next time.
    send_at: Instant,
    deadline: Instant,
    received: Received,
    memory: Memory,
}

impl Datagrams {
    /// Talks with the first address of the host until the deadline. If that refuses, the next one is asked.
    ///
    /// # Errors
    /// The host has no address, or none that datagrams can be sent to.
    pub fn connect(host: &str, port: u16, request: &'static [u8], deadline: Instant) -> io::Result<Self> {
        let mut addresses = addresses(host, port)?.into_iter();
        let socket = next_socket(&mut addresses).unwrap_or_else(|| Err(ErrorKind::NotFound.into()))?;
        let (received, memory) = (Received::default(), Memory::take());
        Ok(Self { addresses, socket, request, send_at: Instant::now(), deadline, received, memory })
    }

    /// Sends this at once. If no datagram comes within `patience`, the request itself is sent.
    ///
    /// # Errors
    /// What the system gives.
    pub fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        match send(&self.socket, bytes, SendFlags::empty()) {
            // One that found no room is lost like any other.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {
                self.send_at = Instant::now() + patience;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next datagram. The request is sent at first, unless something else was, and each second after that.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] at the deadline; the port is closed; the server sends too much.
    pub fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.receive_from_one() {
                Ok(bytes) => {
                    self.received.count(bytes)?;
                    return Ok(&self.memory);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(error),
                Err(error) => {
                    let Some(Ok(socket)) = next_socket(&mut self.addresses) else { return Err(error) };
                    (self.socket, self.send_at) = (socket, Instant::now());
                }
            }
        }
    }

    fn receive_from_one(&mut self) -> io::Result<usize> {
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(match self.received.pieces {
                    0 => ErrorKind::TimedOut.into(),
                    _ => io::Error::new(ErrorKind::TimedOut, "timed out, and what came is no answer to the request"),
                });
            }
            if now >= self.send_at {
                self.send(self.request, RESEND)?;
            }
            match wait(&self.socket, PollFlags::IN, self.deadline.min(self.send_at)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => continue,
                Err(error) => return Err(error),
            }
            self.memory.clear();
            match recv(&self.socket, spare_capacity(&mut self.memory), RecvFlags::empty()) {
                // The system gave the socket the port that is asked, since it was free: it talks to itself.
                Ok(_) if self.memory[..] == *self.request => return Err(Errno::CONNREFUSED.into()),
                Ok((_, bytes)) => return Ok(bytes),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A socket that is connected to the first of the addresses that can be reached, unless none is left.
fn next_socket(addresses: &mut vec::IntoIter<SocketAddr>) -> Option<io::Result<OwnedFd>> {
    let mut tried = None;
    for address in addresses {
        let connected =
            socket(&address, SocketType::DGRAM).and_then(|socket| connect(&socket, &address).map(|()| socket));
        match connected {
            Ok(socket) => return Some(Ok(socket)),
            Err(error) => tried = tried.or(Some(Err(error.into()))),
        }
    }
    tried
}

/// Waits until the descriptor is ready for what is `wanted`, and gives what it is ready for.
///
/// # Errors
/// [`ErrorKind::TimedOut`] at the deadline.
pub fn wait(descriptor: &impl AsFd, wanted: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    let mut descriptors = [PollFd::new(descriptor, wanted)];
    loop {
        signals::end_if_signalled();
        let left = deadline.saturating_duration_since(Instant::now());
        let (left, is_last) = (left.min(signals::longest_wait()), left <= signals::longest_wait());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut descriptors, Some(&left)) {
            // A process that was stopped and goes on has its calls interrupted.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if is_last => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) => {}
            Ok(_) => return Ok(descriptors[0].revents()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A port where nobody listens, held by a connection that leaves from it.
    fn closed() -> (TcpListener, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = stream.local_addr().unwrap();
        (listener, stream, address)
    }

    #[test]
    fn a_connection_goes_to_the_first_address_that_lets_it() {
        let (_listener, _stream, closed) = closed();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let stream = connect_to_any(&[closed, open], soon()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = connect_to_any(&[closed, closed], soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn nothing_waits_beyond_its_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect_to_any(&[listener.local_addr().unwrap()], soon()).unwrap();
        let waited = wait(&stream, PollFlags::IN, Instant::now() + Duration::from_millis(20));
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(listener.accept().unwrap());
        assert!(wait(&stream, PollFlags::IN, soon()).unwrap().contains(PollFlags::IN));
    }

    #[test]
    fn localhost_is_loopback_and_ipv6_may_stand_in_brackets() {
        let of = |host| addresses(host, 80).unwrap();
        let loopback: Vec<SocketAddr> = vec!["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()];
        assert_eq!(of("LocalHost."), loopback);
        assert_eq!(of("[::1]"), loopback[1..]);
    }

    /// A server that hands each datagram to `answer`, until that returns false.
    fn server(at: &str, answer: impl Fn(&UdpSocket, usize, SocketAddr) -> bool + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind(at).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            for count in 1.. {
                let Ok((_, from)) = socket.recv_from(&mut [0; 100]) else { return };
                if !answer(&socket, count, from) {
                    return;
                }
            }
        });
        address
    }

    fn ask(address: SocketAddr, host: &str, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut server = Datagrams::connect(host, address.port(), b"question", deadline)?;
        loop {
            let datagram = server.receive()?;
            if datagram.starts_with(b"answer") {
                return Ok(datagram.to_owned());
            }
        }
    }

    #[test]
    fn a_datagram_is_sent_again_until_something_answers_it() {
        let address = server("127.0.0.1:0", |socket, count, from| {
            if count == 2 {
                socket.send_to(b"", from).unwrap();
                socket.send_to(b"other", from).unwrap();
                socket.send_to(&[&b"answer"[..], &[7; 65_501]].concat(), from).unwrap();
            }
            count < 2
        });
        let asked = Instant::now();
        assert_eq!(ask(address, "127.0.0.1", soon()).unwrap().len(), 65_507);
        assert!(asked.elapsed() >= RESEND);
    }

    #[test]
    fn only_the_server_itself_can_answer() {
        let address = server("127.0.0.1:0", |_, _, from| {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"answer", from).unwrap();
            true
        });
        let error = ask(address, "127.0.0.1", Instant::now() + Duration::from_secs(2)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "timed out"));
        let address = server("127.0.0.1:0", |socket, _, from| socket.send_to(b"other", from).is_ok());
        let error = ask(address, "127.0.0.1", Instant::now() + Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.to_string(), "timed out, and what came is no answer to the request");
    }

    #[test]
    fn a_closed_port_is_seen_at_once_and_the_next_address_asked() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        held.connect(held.local_addr().unwrap()).unwrap();
        let error = ask(held.local_addr().unwrap(), "127.0.0.1", soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let address = server("[::1]:0", |socket, _, from| socket.send_to(b"answer", from).is_ok());
        let taken = UdpSocket::bind(("127.0.0.1", address.port()));
        if let Ok(taken) = taken {
            taken.connect(taken.local_addr().unwrap()).unwrap();
            assert_eq!(ask(address, "localhost", soon()).unwrap(), b"answer");
        }
    }

    #[test]
    fn a_server_that_sends_too_much_has_failed() {
        for (datagram, said) in [(0, "more than 4096 pieces received"), (60_000, "more than 1048576 bytes received")] {
            let address = server("127.0.0.1:0", move |socket, _, from| {
                while socket.send_to(&vec![0; datagram], from).is_ok() {}
                true
            });
            assert_eq!(ask(address, "127.0.0.1", soon()).unwrap_err().to_string(), said);
        }
    }
}
