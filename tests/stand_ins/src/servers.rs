//! Owns servers of games that speak no HTTP, honest or not: a test gives the function that answers each datagram or connection.
//! Owns their protocols' answers, too, byte for byte, written apart from the code that reads them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::locked;

/// A datagram that a server got.
pub struct Asked<'s> {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many came before it.
    pub before: usize,
    socket: &'s UdpSocket,
    from: SocketAddr,
}

impl Asked<'_> {
    /// Answers with a datagram. One that finds nobody is lost.
    pub fn say(&self, bytes: &[u8]) {
        let _ = self.socket.send_to(bytes, self.from);
    }

    /// Answers from another port.
    pub fn say_from_elsewhere(&self, bytes: &[u8]) {
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let _ = elsewhere.send_to(bytes, self.from);
    }
}

type Answer = Box<dyn FnMut(&Asked) + Send>;

/// When a datagram came, and its bytes.
type Datagram = (Instant, Vec<u8>);

/// A server on 127.0.0.1 that answers datagrams.
pub struct UdpServer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Datagram>>>,
    answer: Arc<Mutex<Answer>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// One that does this with each datagram.
    pub fn start(answer: impl FnMut(&Asked) + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes a timeout");
        let address = socket.local_addr().expect("it is bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = {
            let (received, answer, stopping) = (Arc::clone(&received), Arc::clone(&answer), Arc::clone(&stopping));
            thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stopping.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let bytes = buffer[..length].to_vec();
                    let before = {
                        let mut received = locked(&received);
                        received.push((Instant::now(), bytes.clone()));
                        received.len() - 1
                    };
                    locked(&answer)(&Asked { bytes, before, socket: &socket, from });
                }
            })
        };
        Self { address, received, answer, stopping, thread: Some(thread) }
    }

    /// One that answers each datagram with this one.
    pub fn saying(bytes: Vec<u8>) -> Self {
        Self::start(move |asked| asked.say(&bytes))
    }

    /// One that speaks A2S as Valve's servers do: with a challenge that each of its askers needs. `answer` makes the rest.
    pub fn a2s(answer: impl Fn() -> Vec<u8> + Send + 'static) -> Self {
        Self::start(move |asked| match asked.bytes.strip_prefix(A2S_REQUEST) {
            Some(CHALLENGE) => asked.say(&answer()),
            Some(_) => asked.say(&[A2S_CHALLENGE, CHALLENGE].concat()),
            None => {}
        })
    }

    /// Does this from now on.
    pub fn answer(&self, answer: impl FnMut(&Asked) + Send + 'static) {
        *locked(&self.answer) = Box::new(answer);
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it got, and when.
    pub fn received(&self) -> Vec<Datagram> {
        locked(&self.received).clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server on 127.0.0.1 that accepts connections.
pub struct TcpServer {
    address: SocketAddr,
    serve: Arc<Mutex<Serve>>,
    stopping: Arc<AtomicBool>,
}

type Serve = Arc<dyn Fn(TcpStream) + Send + Sync>;

impl TcpServer {
    /// One that does this with each connection, each in a thread of its own.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let serve: Arc<Mutex<Serve>> = Arc::new(Mutex::new(Arc::new(serve)));
        let stopping = Arc::new(AtomicBool::new(false));
        {
            let (serve, stopping) = (Arc::clone(&serve), Arc::clone(&stopping));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let serve = Arc::clone(&locked(&serve));
                    thread::spawn(move || serve(stream));
                }
            });
        }
        Self { address, serve, stopping }
    }

    /// One that answers what it gets with these bytes, and waits for the end.
    pub fn saying(bytes: Vec<u8>) -> Self {
        Self::start(says(bytes))
    }

    /// Does this from now on.
    pub fn serve(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        *locked(&self.serve) = Arc::new(serve);
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers what comes with these bytes, and waits for the end.
pub fn says(bytes: Vec<u8>) -> impl Fn(TcpStream) + Send + Sync {
    move |mut stream| {
        let mut buffer = [0; 1024];
        if stream.read(&mut buffer).is_ok_and(|read| read > 0) && stream.write_all(&bytes).is_ok() {
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
    }
}

/// What a client of A2S_INFO sends, a challenge behind it.
pub const A2S_REQUEST: &[u8] = b"\xff\xff\xff\xffTSource Engine Query\0";
const A2S_CHALLENGE: &[u8] = b"\xff\xff\xff\xffA";
const CHALLENGE: &[u8] = b"\x0a\x08\x5e\xea";

/// An answer of the Source engine.
pub fn a2s_info(name: &[u8], players: u8, bots: u8) -> Vec<u8> {
    let head = b"\0de_dust2\0cstrike\0Counter-Strike: Source\0\xf0\x00";
    let numbers = [players, 64, bots];
    [b"\xff\xff\xff\xffI\x11", name, head, &numbers, b"dl\x00\x01", b"1.0.0.70\0", b"\x80\x87\x69"].concat()
}

/// An answer of the GoldSrc engine.
pub fn a2s_gold_source(players: u8, bots: u8) -> Vec<u8> {
    let head = b"\xff\xff\xff\xffm127.0.0.1:27015\0HLDM\0crossfire\0valve\0Half-Life\0";
    [&head[..], &[players, 16, 47], b"dl\x00\x00\x01", &[bots]].concat()
}

/// What RakNet's offline messages contain.
pub const RAKNET_MAGIC: &[u8] = b"\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78";

/// An answer with this text, and a length that may lie.
pub fn raknet_pong(text: &[u8], length: u16) -> Vec<u8> {
    [b"\x1c\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x2a", RAKNET_MAGIC, &length.to_be_bytes(), text].concat()
}

/// An answer of a Bedrock Edition server.
pub fn bedrock_pong(name: &str, players: u32) -> Vec<u8> {
    let text = format!("MCPE;{name};766;1.21.50;{players};10;13253860892328930865;world;Survival;1;19132;19133;");
    raknet_pong(text.as_bytes(), text.len() as u16)
}

/// An answer of a server of Quake 3's family with these lines of players.
pub fn quake3_status(lines: &[&[u8]]) -> Vec<u8> {
    let mut answer = b"\xff\xff\xff\xffstatusResponse\n\\sv_hostname\\arena\\version\\ioq3 1.36\\mapname\\oa_dm1\\\
                       sv_maxclients\\16\\gamename\\baseoa\\g_gametype\\0\n"
        .to_vec();
    for line in lines {
        answer.extend_from_slice(line);
        answer.push(b'\n');
    }
    answer
}

/// A number as Java Edition writes it.
pub fn var_int(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A status of Java Edition.
pub fn minecraft_status(json: &[u8]) -> Vec<u8> {
    let text = [&[0], &var_int(json.len() as u32)[..], json].concat();
    [var_int(text.len() as u32), text].concat()
}
