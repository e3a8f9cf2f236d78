//! Owns a stand-in for the cluster's nameserver that never gives an address, and the file that leads to it.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// What comes back for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing.
    Silence,
    /// There is no such name.
    NoSuchName,
    /// The server has failed.
    ServerFailure,
    /// Bytes that are no answer.
    Garbage,
}

/// A nameserver on port 53 of a loopback address of its own, until it is dropped. Needs root.
pub struct Nameserver {
    questions: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Nameserver {
    /// Starts one that answers every question like this.
    pub fn start(lookup: Lookup) -> Self {
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let [low, high, ..] = std::process::id().to_le_bytes();
        let address = Ipv4Addr::new(127, STARTED.fetch_add(1, Ordering::SeqCst), high, low.clamp(1, 254));
        let socket = UdpSocket::bind((address, 53)).unwrap_or_else(|error| panic!("listen on {address}:53: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("it is not zero");
        let (questions, stopping) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (asked, stop) = (Arc::clone(&questions), Arc::clone(&stopping));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stop.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = lookup.answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        let folder = TempDir::new().expect("the temporary folder is writable");
        // Once and for a second, instead of the five or ten that are usual.
        let text = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
        std::fs::write(folder.path().join("resolv.conf"), text).expect("it was made here");
        Self { questions, stopping, thread: Some(thread), folder }
    }

    /// A shell command that makes it the nameserver of a mount namespace.
    pub fn mount(&self) -> String {
        format!("mount --bind {} /etc/resolv.conf", self.folder.path().join("resolv.conf").display())
    }

    /// How many questions came.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Lookup {
    fn answer(self, question: &[u8]) -> Option<Vec<u8>> {
        // RFC 1035, section 4.1.1: the same question with QR, RA and a code.
        let with_code = |code: u8| {
            let mut answer = question.to_vec();
            *answer.get_mut(2)? |= 0x80;
            *answer.get_mut(3)? = 0x80 | code;
            Some(answer)
        };
        match self {
            Self::Silence => None,
            Self::NoSuchName => with_code(3),
            Self::ServerFailure => with_code(2),
            Self::Garbage => Some(question.iter().take(2).chain(b"\xff\xffSSH-2.0").copied().collect()),
        }
    }
}
