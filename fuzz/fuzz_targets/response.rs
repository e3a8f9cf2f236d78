//! Any bytes as a game's answer, over a socket. The first byte chooses the endpoint and whether the connection is held
//! open afterwards, the rest is what the game says. No probe panics, outlasts its timeout, or takes in more than it may.

#![no_main]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use okg_sidecar::config::{Config, Endpoint, Extract, MAX_VALUE_BYTES};
use okg_sidecar::decide::opinion::Opinion;
use okg_sidecar::decide::policy::{self, Outcome, ProbeResult};
use okg_sidecar::excerpt::chain;
use okg_sidecar::probe::Prober;

/// Of a probe: a held connection costs all of it.
const TIMEOUT: Duration = Duration::from_millis(40);

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

const CONFIG: &str = r#"
plugins:
- name: http_probe
  config:
    endpoints:
    - url: http://127.0.0.1:PORT/body
      storageConfig: &by_body
        type: InKube
        inKube: {markerPolices: [{state: None, gameServerOpsState: None}, {min: 1, max: 9, gameServerOpsState: Allocated}]}
    - url: http://127.0.0.1:PORT/json
      jsonPathConfig: {jsonPath: players.0.count}
      storageConfig: *by_body
    - url: http://127.0.0.1:PORT/number
      jsonPathConfig: {jsonPath: /n, fieldType: integer}
      storageConfig: *by_body
    - url: http://127.0.0.1:PORT/head
      method: HEAD
      storageConfig: *by_body
    - url: http://127.0.0.1:PORT/unread
      storageConfig: {type: InKube, inKube: {markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]}}
    - url: http://127.0.0.1:PORT/posted
      method: POST
      expectedStatusCode: 204
      storageConfig: *by_body
    - url: http://127.0.0.1:PORT/count
      jsonPathConfig: {jsonPath: $, count: true}
      storageConfig: *by_body
    - url: http://127.0.0.1:PORT/metrics
      metric: players{world="over"}
      storageConfig: *by_body
"#;

struct Game {
    endpoints: Vec<Endpoint>,
    script: Mutex<Sender<Step>>,
}

/// What the game does with the next connection.
struct Step {
    says: Vec<u8>,
    holds: bool,
}

static GAME: LazyLock<Game> = LazyLock::new(|| {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = socket.local_addr().expect("it is bound").port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, CONFIG.replace("PORT", &port.to_string())).expect("the folder is writable");
    let config = Config::load(&file, &|_| None).expect("the config is legal");
    let endpoints = config.endpoints.into_iter().map(|endpoint| Endpoint { timeout: TIMEOUT, ..endpoint }).collect();
    let (sender, receiver) = channel();
    thread::spawn(move || serve(&socket, &receiver));
    Game { endpoints, script: Mutex::new(sender) }
});

fn serve(socket: &TcpListener, script: &Receiver<Step>) {
    while let Ok((tcp, _)) = socket.accept() {
        let Ok(step) = script.recv() else { return };
        // An error here is a client that left, which is its right.
        let _ = answer(tcp, &step);
    }
}

fn answer(mut tcp: TcpStream, step: &Step) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    // The request first: a socket closed with bytes unread resets what it had sent.
    let mut request = Vec::new();
    let mut block = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = tcp.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&block[..read]);
    }
    tcp.write_all(&step.says)?;
    if !step.holds {
        tcp.shutdown(Shutdown::Write)?;
    }
    while tcp.read(&mut block)? > 0 {}
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, says)) = bytes.split_first() else { return };
    let endpoint = &GAME.endpoints[usize::from(*choice) % GAME.endpoints.len()];
    // Seldom, since it costs a whole timeout.
    let holds = *choice >= 0xf0;
    let step = Step { says: says.to_vec(), holds };
    GAME.script.lock().unwrap_or_else(PoisonError::into_inner).send(step).expect("the game runs");

    let asked = Instant::now();
    let result = Prober::new(endpoint).attempt(|response| {
        let shown = response.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    });
    assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
    match result {
        Ok(result) => {
            match &result {
                // U+FFFD has three bytes.
                ProbeResult::Text(text) => {
                    // A sum is written without an exponent.
                    let is_sum = matches!(endpoint.extract, Extract::Metric(_));
                    assert!(text.len() <= MAX_VALUE_BYTES && (is_sum || text.len() <= 3 * says.len()));
                }
                ProbeResult::TooLong(_) => assert!(3 * says.len() > MAX_VALUE_BYTES),
                ProbeResult::Unread => assert_eq!(endpoint.extract, Extract::Nothing),
            }
            let selected = policy::select(&endpoint.rules().policies, &result);
            let mut opinion = Opinion::default();
            opinion.observe(endpoint, Outcome::Success(result), Duration::ZERO);
            assert_eq!(opinion.policy, selected);
        }
        Err(error) => {
            // Logging it forges no line.
            let line = chain(&error);
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.chars().count() <= 1000, "{line}");
        }
    }
});
