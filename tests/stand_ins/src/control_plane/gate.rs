//! Owns a way to the API server on which a write can be stopped, so that a test can come in between a sidecar's read and
//! its patch, or have a patch arrive after the sidecar has given it up.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustls::ServerConfig;
use serde_json::Value;

use super::client::Client;
use crate::wire::{Request, Wire, response};

/// A port of its own that leads to the API server, to the end of the test.
pub struct Gate {
    port: u16,
    door: Arc<Door>,
}

struct Door {
    server: String,
    authority_pem: String,
    tls: Arc<ServerConfig>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many of the writes that come next are stopped.
    to_stop: usize,
    /// How many are stopped.
    stopped: usize,
    /// How often the gate was opened.
    opened: usize,
}

impl Gate {
    /// Leads to this URL, whose certificate this authority has signed. `tls` is what the gate itself serves with.
    pub fn to(server: String, authority_pem: String, tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let door = Arc::new(Door { server, authority_pem, tls, state: Mutex::default(), changed: Condvar::default() });
        let serving = Arc::clone(&door);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let door = Arc::clone(&serving);
                // An error ends the connection, as it would have without us.
                thread::spawn(move || drop(door.serve(client)));
            }
        });
        Self { port, door }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the next write until the gate is opened. Reads pass, and so does every later write.
    pub fn stop_next_write(&self) {
        self.door.change(|state| state.to_stop += 1);
    }

    /// How many writes are stopped.
    pub fn stopped(&self) -> usize {
        self.door.change(|state| state.stopped)
    }

    /// Lets those pass that are stopped, whether or not anybody waits for the answer.
    pub fn open(&self) {
        self.door.change(|state| state.opened += 1);
    }
}

impl Door {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut wire = Wire::tls(client, Arc::clone(&self.tls), Arc::default())?;
        while let Some(request) = wire.read_request(0)? {
            if !request.is_read() {
                self.wait_to_pass();
            }
            let (status, body) = self.pass_on(&request)?;
            let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
            wire.write(&response(&request, status, &headers, body.as_bytes()))?;
            if request.wants_close() {
                break;
            }
        }
        wire.close();
        Ok(())
    }

    fn wait_to_pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.to_stop == 0 {
            return;
        }
        state.to_stop -= 1;
        state.stopped += 1;
        let opened = state.opened;
        let mut state =
            self.changed.wait_while(state, |state| state.opened == opened).unwrap_or_else(PoisonError::into_inner);
        state.stopped -= 1;
    }

    /// Sends it to the API server as it came.
    fn pass_on(&self, request: &Request) -> io::Result<(u16, String)> {
        let client = Client::new(&self.server, &self.authority_pem, request.bearer_token().unwrap_or_default(), 0);
        let headers: Vec<(&str, &str)> = ["Accept", "Content-Type", "User-Agent"]
            .into_iter()
            .filter_map(|name| Some((name, request.header(name)?)))
            .collect();
        let body = request.json();
        let body = (body != Value::Null).then_some(&body);
        let answer = client.try_send(&request.method, &request.target, &headers, body).map_err(io::Error::other)?;
        Ok((answer.status, answer.text))
    }
}
