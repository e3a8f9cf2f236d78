//! Owns TCP connections that nothing waits on for longer than until a deadline: names to addresses, an address to a
//! connection, and waiting for it. No thread, and no call that is not needed: std's way to a connection within a time takes
//! two calls more, and two for the time of its reads and writes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

/// The least port that Linux gives to a connection. Where nobody listens on a port of this machine, it may give just that
/// port, and TCP's simultaneous open then connects the socket to itself (RFC 9293, 3.5).
const FIRST_EPHEMERAL_PORT: u16 = 1024;

/// The addresses of a host in the order in which they are tried, 16 at most.
///
/// # Errors
/// The host has none, or nobody can tell.
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
/// Why there was no connection to the first address; [`io::ErrorKind::TimedOut`] where the deadline has passed.
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
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
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
    if address.port() >= FIRST_EPHEMERAL_PORT && stream.local_addr()? == *address {
        // Closed in order, it would keep the port from the game for a minute.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(stream)
}

/// Waits until the descriptor is ready for what is `wanted`, and gives what it is ready for.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the deadline.
pub fn wait(descriptor: &impl AsFd, wanted: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    let mut descriptors = [PollFd::new(descriptor, wanted)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut descriptors, Some(&left)) {
            // A process that was stopped and goes on has its calls interrupted.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(descriptors[0].revents()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

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
}
