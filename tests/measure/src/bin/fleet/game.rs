//! Owns the game of all sidecars, a process of its own so that its CPU time is counted apart: threads that block in accept(2),
//! answer from memory, and note who came when.
//!
//! It closes first, as a game does that is asked for `Connection: close`. So the ports in TIME_WAIT are its own, and no
//! sidecar runs out of them: 64 addresses of loopback have at most a few hundred sidecars each.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The argument that makes the script the game.
pub(crate) const ARGUMENT: &str = "--game";

const LISTENERS: u8 = 64;

/// A burst fits in, so that no packet that opens a connection is dropped.
const QUEUE: i32 = 4096;

/// One probe, since the start of the game.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) sidecar: usize,
    pub(crate) at: Duration,
}

/// The game, seen from the script, until it is dropped.
pub(crate) struct Game {
    process: Child,
    orders: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
    addresses: Vec<SocketAddr>,
}

impl Game {
    /// Answers every sidecar `None` at first.
    pub(crate) fn start() -> Self {
        let script = std::env::current_exe().expect("a process knows its program");
        let mut process = Command::new(script)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the game starts");
        let orders = process.stdin.take().expect("it is piped");
        let replies = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut game = Self { process, orders, replies, addresses: Vec::new() };
        let addresses = game.reply();
        game.addresses = addresses.split(' ').map(|word| word.parse().expect("an address")).collect();
        game
    }

    /// The address for this sidecar. One of the sample gets the answer that [`Game::tell_sample`] sets.
    pub(crate) fn url(&self, sidecar: usize, of_sample: bool) -> String {
        let address = self.addresses[sidecar % self.addresses.len()];
        let folder = if of_sample { "sample/" } else { "" };
        format!("http://{address}/{folder}{sidecar}")
    }

    /// From now on the sample gets this state.
    pub(crate) fn tell_sample(&mut self, state: &str) {
        self.order(&format!("state {state}"));
    }

    /// Forgets who came until now.
    pub(crate) fn forget(&mut self) {
        self.order("probes forget");
    }

    /// Who came since then, within `time` of the first.
    pub(crate) fn probes_within(&mut self, time: Duration) -> Vec<Probe> {
        self.order("probes show");
        let text = self.reply();
        let mut numbers = text.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let mut probes = Vec::new();
        while let (Some(sidecar), Some(at)) = (numbers.next(), numbers.next()) {
            probes.push(Probe { sidecar: sidecar as usize, at: Duration::from_nanos(at) });
        }
        let first = probes.iter().map(|probe| probe.at).min().unwrap_or_default();
        probes.retain(|probe| probe.at < first + time);
        probes
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the game reads its orders");
    }

    fn reply(&mut self) -> String {
        self.replies.next().expect("the game runs").expect("the game replies in UTF-8")
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the threads of the game share.
struct Shared {
    started: Instant,
    state: Mutex<String>,
}

/// The game's own process. It ends with the script.
pub(crate) fn run() -> io::Result<()> {
    let shared = Arc::new(Shared { started: Instant::now(), state: Mutex::new("None".to_owned()) });
    let (mut addresses, mut books) = (Vec::new(), Vec::new());
    for number in 1..=LISTENERS {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 1, number), 0))?;
        rustix::net::listen(&listener, QUEUE)?;
        addresses.push(listener.local_addr()?.to_string());
        let book = Arc::new(Mutex::new(Vec::new()));
        books.push(Arc::clone(&book));
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            loop {
                // A sidecar that was killed meanwhile is no error of the game's.
                if let Ok(probe) = listener.accept().and_then(|(stream, _)| shared.serve(stream)) {
                    locked(&book).push(probe);
                }
            }
        });
    }
    println!("{}", addresses.join(" "));
    for order in io::stdin().lines() {
        match order?.split_once(' ').unwrap_or_default() {
            ("state", state) => state.clone_into(&mut locked(&shared.state)),
            ("probes", "forget") => books.iter().for_each(|book| locked(book).clear()),
            ("probes", "show") => println!("{}", books.iter().map(|book| in_words(&locked(book))).collect::<String>()),
            order => return Err(io::Error::other(format!("unknown order {order:?}"))),
        }
    }
    Ok(())
}

fn in_words(probes: &[Probe]) -> String {
    probes.iter().map(|probe| format!("{} {} ", probe.sidecar, probe.at.as_nanos())).collect()
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<Probe> {
        let mut buffer = [0; 1024];
        let mut length = 0;
        while !buffer[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer[length..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        let at = self.started.elapsed();
        let request = str::from_utf8(&buffer[..length]).unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (folder, number) = path.rsplit_once('/').unwrap_or_default();
        let sidecar = number.parse().map_err(io::Error::other)?;
        let state = if folder.is_empty() { "None".to_owned() } else { locked(&self.state).clone() };
        let length = state.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{state}");
        stream.write_all(response.as_bytes())?;
        Ok(Probe { sidecar, at })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
