//! Owns a way to the API server on which a connection can be stopped, so that a test can come in between two requests.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// A port of its own that leads to another port of loopback, to the end of the test.
pub struct Gate {
    port: u16,
    door: Arc<Door>,
}

#[derive(Default)]
struct Door {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many connections have come.
    arrived: usize,
    /// How many of them may pass; all when `None`.
    may_pass: Option<usize>,
}

impl Gate {
    /// Leads to this port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let own_port = listener.local_addr().expect("it is bound").port();
        let door = Arc::new(Door::default());
        let accepting = Arc::clone(&door);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let door = Arc::clone(&accepting);
                let number = door.change(|state| {
                    state.arrived += 1;
                    state.arrived
                });
                thread::spawn(move || {
                    door.wait_to_pass(number);
                    // An error here ends the connection, as it would have without us.
                    let _ = lead(client, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                });
            }
        });
        Self { port: own_port, door }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have come, the stopped ones included.
    pub fn arrived(&self) -> usize {
        self.door.change(|state| state.arrived)
    }

    /// Stops every connection that comes after the next `count`.
    pub fn stop_after(&self, count: usize) {
        self.door.change(|state| state.may_pass = Some(state.arrived + count));
    }

    /// Lets every connection pass, the stopped ones too.
    pub fn open(&self) {
        self.door.change(|state| state.may_pass = None);
    }
}

impl Door {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    fn wait_to_pass(&self, number: usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = |state: &mut State| state.may_pass.is_some_and(|may_pass| number > may_pass);
        drop(self.changed.wait_while(state, stopped));
    }
}

fn lead(client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ = io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Write);
    let _ = there.join();
    Ok(())
}
