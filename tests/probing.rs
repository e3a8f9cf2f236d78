//! One probe and the rounds of probes, with a game that answers well, badly or never (behaviour 3). What a result means belongs
//! to deciding.rs.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use serde_json::json;
use stand_ins::scene::{config, endpoint};
use stand_ins::{
    Behaviour, BlackHole, ClosedPort, Game, Lookup, Loopback, Nameserver, Request, SOON, Scene, ServerCertificate,
    SidecarProcess, each, namespace,
};

use crate::steps;
use crate::steps::{ROOM, every, scene_of};

/// The time from round to round: longer than a timeout, so that a fault that costs two of them differs from one that costs one.
const INTERVAL: Duration = Duration::from_secs(3);

/// The number of rounds that go wrong.
const ROUNDS: usize = 2;

/// The timeout of a probe whose fault lasts that long.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What a busy machine may add to a timeout.
const SLACK: Duration = Duration::from_millis(700);

/// The timeout of a probe that ends by itself. A busy machine takes seconds for what else goes on for ever, never half of this.
const LONG: Duration = Duration::from_secs(60);

/// How much more memory than a calm game's a fault may take: the debug binary's stacks and messages vary.
const FLAT_KIB: u64 = 1024;

const ROOMS: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                     {state: Allocated, gameServerOpsState: Allocated}]";

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// The message of a probe that received more than it may, however that was framed.
const BOUND: &str = "more than 1048576 bytes received";

fn two_endpoints(first: &str, timeout: Duration, scene: &Scene) -> String {
    // One failure is enough for the second endpoint to decide.
    let keys = |timeout: Duration| format!("timeout: {}", timeout.as_secs());
    let first = endpoint(first, &format!("{}, failureThreshold: 1", keys(timeout)), ROOMS);
    let endpoints = [first, scene.endpoint(&keys(LONG), ROOMS)];
    config(&endpoints).replace("probeIntervalSeconds: 1", &format!("probeIntervalSeconds: {}", INTERVAL.as_secs()))
}

/// The most resident memory that the same takes while nothing is wrong, a write included.
static CALM_KIB: LazyLock<u64> = LazyLock::new(|| {
    let (calm, scene) = (Game::start(), Scene::new());
    calm.set(200, "None");
    scene.pod.update_config(&two_endpoints(&calm.url("/"), LONG, &scene));
    let sidecar = scene.sidecar().log("debug").start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    sidecar.eventually(SOON, "a second round", || scene.game.requests().len() >= 2);
    sidecar.vm_hwm_kib()
});

/// Lets a sidecar whose first endpoint is at fault live through some rounds. Only the second endpoint, in good health,
/// may decide anything. A fault that is logged as a timeout lasts that long and no longer; any other ends long before.
/// `script` runs in mounts of the sidecar's own.
#[track_caller]
fn endure(url: &str, told: &str, script: Option<&str>) -> (Scene, SidecarProcess) {
    let calm = *CALM_KIB;
    let scene = Scene::new();
    scene.game.set(200, "Allocated");
    let lasts = told.contains("timeout");
    scene.pod.update_config(&two_endpoints(url, if lasts { TIMEOUT } else { LONG }, &scene));
    let builder = scene.sidecar().log("debug");
    let builder = match script {
        Some(script) => namespace::with_mounts(builder, script),
        None => builder,
    };
    let sidecar = builder.start();
    let mut threads = 0;
    sidecar.eventually(2 * LONG, "probes of both endpoints", || {
        threads = threads.max(sidecar.threads());
        scene.game.requests().len() >= ROUNDS && probe_times(&sidecar).len() >= ROUNDS
    });
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    let warnings = || -> Vec<String> {
        let lines = sidecar.lines().into_iter().map(|line| line.text);
        lines.filter(|line| line.starts_with("WARN  endpoints[0]")).collect()
    };
    sidecar.eventually(SOON, told, || warnings().iter().any(|line| line.contains(told)));
    if lasts {
        // A busy machine may need the timeout for what comes before the fault, and the log contains that, too.
        assert!(warnings().iter().all(|line| line.contains("timeout")), "{}", sidecar.stderr());
        // It is slow now and then; a fault that costs more is slow each time.
        let in_time = |took: &Duration| *took <= TIMEOUT + SLACK;
        sidecar.eventually(SOON, "a probe in time", || probe_times(&sidecar).iter().any(in_time));
        let at_the_rate = |two: &[Request]| {
            let pause = two[1].at - two[0].at;
            pause >= INTERVAL - SLACK && pause <= INTERVAL + SLACK
        };
        sidecar.eventually(SOON, "rounds at their rate", || scene.game.requests().windows(2).any(at_the_rate));
    } else {
        let took = probe_times(&sidecar);
        assert!(took.iter().all(|took| *took <= LONG / 2), "{took:?}\n{}", sidecar.stderr());
        assert_eq!(warnings().len(), 1, "{}", sidecar.stderr());
    }

    assert_eq!(threads, 1);
    assert_eq!(scene.patched(), ["Allocated"]);
    let peak = sidecar.vm_hwm_kib();
    assert!(peak <= calm + FLAT_KIB, "{peak} KiB, {calm} KiB while all is well");
    (scene, sidecar)
}

/// How long the probes of the first endpoint took, by the log.
fn probe_times(sidecar: &SidecarProcess) -> Vec<Duration> {
    let lines = sidecar.lines();
    let probes = lines.iter().filter(|line| line.text.starts_with("DEBUG endpoints[0]"));
    let times = probes.filter_map(|line| line.text.strip_suffix(" ms")?.rsplit_once(" in ")?.1.parse().ok());
    times.map(Duration::from_millis).collect()
}

/// Lets a game misbehave in that way, and recover in the end.
fn endure_game(game: &Game, behaviour: Behaviour, told: &str) {
    game.behave(behaviour);
    let (scene, sidecar) = endure(&game.url("/"), told, None);
    game.set(200, "None");
    if sidecar.count_lines("probe failed") > 0 {
        sidecar.wait_for_line("answers again after", SOON);
    }
    sidecar.wait_for_line("opsState Allocated -> None (endpoints[0]", SOON);
    assert_eq!(scene.patched(), ["Allocated", "None"]);
    stand_ins::eventually(SOON, "no connection left open", || game.open_connections() == 0);
}

fn raw(text: &str) -> Behaviour {
    Behaviour::Raw(text.as_bytes().to_vec())
}

fn held(text: &str) -> Behaviour {
    Behaviour::RawThenHold(text.as_bytes().to_vec())
}

fn reset_after(text: &str) -> Behaviour {
    Behaviour::RawThenReset(text.as_bytes().to_vec())
}

fn endless(start: &str, repeated: &str) -> Behaviour {
    Behaviour::Endless(start.as_bytes().to_vec(), repeated.as_bytes().to_vec())
}

// ---- faults

#[test]
fn a_game_that_is_too_slow_is_cut_off_at_the_deadline() {
    let drip = Duration::from_millis(50);
    let terabyte = format!("{OK}Content-Length: 1099511627776\r\n\r\nNone");
    each(
        [
            ("never answers", (Behaviour::HoldWithoutAnswer, "no response: timeout")),
            ("drips headers", (Behaviour::DripHeaders(drip), "no response: timeout")),
            ("drips a body", (Behaviour::DripBody(drip), "the body broke off: timeout")),
            ("half a status line", (held("HTTP/1.1 20"), "no response: timeout")),
            ("half a header", (held(&format!("{OK}Content-Len")), "no response: timeout")),
            ("no length on a held socket", (held(&format!("{OK}\r\nNone")), "the body broke off: timeout")),
            ("a length that is never reached", (held(&terabyte), "the body broke off: timeout")),
            (
                "a chunk that is never reached",
                (
                    held(&format!("{OK}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nNone")),
                    "the body broke off: timeout",
                ),
            ),
            (
                "no last chunk",
                (held(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n4\r\nNone\r\n")), "the body broke off: timeout"),
            ),
            (
                "answers after the deadline",
                (
                    Behaviour::After(Duration::from_millis(1500), Box::new(Behaviour::answer(200, "None"))),
                    "no response: timeout",
                ),
            ),
        ],
        |(behaviour, told)| endure_game(&Game::start(), behaviour, told),
    );
}

#[test]
fn a_game_that_sends_without_end_costs_neither_memory_nor_time() {
    let terabyte = format!("{OK}Content-Length: 1099511627776\r\n\r\n");
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    each(
        [
            ("a body", (Behaviour::EndlessBody, "more than 4 KiB")),
            ("a terabyte", (endless(&terabyte, "and so on "), "more than 4 KiB")),
            ("chunks", (Behaviour::EndlessChunks, "more than 4 KiB")),
            ("chunks of one byte", (endless(&chunked, "1\r\nx\r\n"), "more than 4 KiB")),
            ("one chunk", (endless(&format!("{chunked}ffffffffffffffff\r\n"), "x"), "more than 4 KiB")),
            ("a chunk's size", (endless(&chunked, "0"), "the body broke off")),
            ("a chunk's extension", (endless(&format!("{chunked}4;a="), "x"), "the body broke off")),
            ("trailers", (endless(&format!("{chunked}4\r\nNone\r\n0\r\n"), "X-Endless: x\r\n"), BOUND)),
            ("headers", (Behaviour::EndlessHeaders, "no response: ")),
            ("one header", (endless(&format!("{OK}X-Endless: "), "x"), "no response: ")),
            ("interim responses", (Behaviour::Endless1xx, BOUND)),
            ("early hints", (endless("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), BOUND)),
            ("a status line", (endless("HTTP/1.1 200 ", "x"), "no response: ")),
            ("empty lines", (endless("", "\r\n"), "no response: ")),
            ("zeros", (endless("", "\0"), "no response: ")),
        ],
        |(behaviour, told)| endure_game(&Game::start(), behaviour, told),
    );
}

#[test]
fn a_game_that_speaks_no_proper_http_is_a_failure() {
    let headers: String = (0..1000).map(|number| format!("X-{number}: x\r\n")).collect();
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let length = "Content-Length: 4\r\n\r\nNone";
    let no_response = "no response: ";
    each(
        [
            ("SSH", (raw("SSH-2.0-OpenSSH_9.2\r\n"), no_response)),
            ("SSH that waits", (held("SSH-2.0-OpenSSH_9.2\r\n"), no_response)),
            ("HTTP/0.9", (raw("None"), no_response)),
            ("HTTP/2", (raw("HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nNone"), no_response)),
            ("status 000", (raw(&format!("HTTP/1.1 000 Nothing\r\n{length}")), no_response)),
            ("status 2000", (raw(&format!("HTTP/1.1 2000 OK\r\n{length}")), no_response)),
            ("status 999", (raw(&format!("HTTP/1.1 999 Odd\r\n{length}")), "status 999, expected 200")),
            ("switches protocols", (held("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "status 101, expected 200")),
            (
                "two lengths",
                (raw(&format!("{OK}Content-Length: 4\r\nContent-Length: 9\r\n\r\nNoneOther")), no_response),
            ),
            ("a list of lengths", (raw(&format!("{OK}Content-Length: 4, 9\r\n\r\nNoneOther")), no_response)),
            ("a negative length", (raw(&format!("{OK}Content-Length: -4\r\n\r\nNone")), no_response)),
            (
                "a length of 2^70",
                (raw(&format!("{OK}Content-Length: 1180591620717411303424\r\n\r\nNone")), no_response),
            ),
            ("a folded header", (raw(&format!("{OK}X-Folded: a\r\n b\r\n{length}")), no_response)),
            ("no header at all", (raw(&format!("{OK}no header\r\n{length}")), no_response)),
            ("a NUL in a header", (raw(&format!("{OK}X-Nul: \0\r\n{length}")), no_response)),
            ("a thousand headers", (raw(&format!("{OK}{headers}{length}")), no_response)),
            ("a chunk without a size", (raw(&format!("{chunked}None\r\n0\r\n\r\n")), "the body broke off: ")),
            ("a chunk of -4", (raw(&format!("{chunked}-4\r\nNone\r\n0\r\n\r\n")), "the body broke off: ")),
            ("a chunk of 2^68", (raw(&format!("{chunked}fffffffffffffffff\r\nNone")), "the body broke off: ")),
            ("a chunk longer than it says", (raw(&format!("{chunked}2\r\nNone\r\n0\r\n\r\n")), "the body broke off: ")),
        ],
        |(behaviour, told)| endure_game(&Game::start(), behaviour, told),
    );
}

#[test]
fn a_game_that_breaks_off_is_a_failure() {
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let pause = Duration::from_millis(100);
    each(
        [
            ("closes at once", (Behaviour::CloseAtOnce, "no response: ")),
            ("resets at once", (Behaviour::Reset, "no response: ")),
            ("closes after the request", (raw(""), "no response: ")),
            ("resets after the request", (Behaviour::After(pause, Box::new(Behaviour::Reset)), "no response: ")),
            ("resets in a header", (reset_after(&format!("{OK}Content-Len")), "no response: ")),
            (
                "resets in the body",
                (reset_after(&format!("{OK}Content-Length: 9\r\n\r\nNone")), "the body broke off: "),
            ),
            ("resets in a chunk", (reset_after(&format!("{chunked}9\r\nNone")), "the body broke off: ")),
            ("closes in the status line", (raw("HTTP/1.1 2"), "no response: ")),
            ("closes after the status line", (raw(OK), "no response: ")),
            ("closes in a header", (raw(&format!("{OK}Content-Len")), "no response: ")),
            ("closes in the body", (raw(&format!("{OK}Content-Length: 9\r\n\r\nNone")), "the body broke off: ")),
            (
                "closes in a terabyte",
                (raw(&format!("{OK}Content-Length: 1099511627776\r\n\r\nNone")), "the body broke off: "),
            ),
            ("closes in a chunk", (raw(&format!("{chunked}9\r\nNone")), "the body broke off: ")),
            ("closes before the last chunk", (raw(&format!("{chunked}4\r\nNone\r\n")), "the body broke off: ")),
        ],
        |(behaviour, told)| endure_game(&Game::start(), behaviour, told),
    );
}

#[test]
fn a_reset_is_no_end_of_a_body_without_a_length() {
    endure_game(&Game::start(), reset_after(&format!("{OK}\r\nNone")), "the body broke off: ");
}

#[test]
fn a_game_over_tls_has_the_same_deadline() {
    let drip = Duration::from_millis(50);
    each(
        [
            ("never answers", (Behaviour::HoldWithoutAnswer, "no response: timeout")),
            ("drips headers", (Behaviour::DripHeaders(drip), "no response: timeout")),
            ("drips a body", (Behaviour::DripBody(drip), "the body broke off: timeout")),
            ("an endless body", (Behaviour::EndlessBody, "more than 4 KiB")),
            ("endless headers", (Behaviour::EndlessHeaders, "no response: ")),
            ("endless interim responses", (Behaviour::Endless1xx, BOUND)),
            ("closes in the handshake", (Behaviour::CloseAtOnce, "no response: ")),
            ("closes after the request", (raw(""), "no response: ")),
        ],
        |(behaviour, told)| {
            let game = Game::builder().tls(&ServerCertificate::self_signed(&["game"])).start();
            endure_game(&game, behaviour, told);
        },
    );
}

/// Accepts, and hands each connection to a function that keeps it as long as it likes.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    // This thread ends with the test's process, which does not wait for it.
    thread::spawn(move || {
        for stream in socket.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn a_game_that_cannot_be_reached_costs_one_timeout_at_most() {
    let hole = BlackHole::new();
    let both = BlackHole::on(Loopback::Both);
    let closed = ClosedPort::new();
    let mute = listen(|stream| {
        // Until the peer closes.
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    });
    let dripping = listen(|mut stream| {
        // A handshake message of 16 KiB, a byte at a time.
        let _ = stream.write_all(&[22, 3, 3, 0x40, 0]);
        while stream.write_all(b"\x02").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let plain = listen(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nThis port speaks HTTP\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    each(
        [
            ("a black hole", (format!("http://{}/", hole.address()), "no response: timeout")),
            ("black holes on both", (format!("http://localhost:{}/", both.address().port()), "no response: timeout")),
            ("nobody listens", (format!("http://{}/", closed.address()), "Connection refused")),
            ("nobody on either", (format!("http://localhost:{}/", closed.address().port()), "Connection refused")),
            ("TLS that never answers", (format!("https://{mute}/"), "no response: timeout")),
            ("TLS that drips", (format!("https://{dripping}/"), "no response: timeout")),
            ("TLS that is none", (format!("https://{plain}/"), "no response, since the port does not speak TLS")),
        ],
        |(url, told)| drop(endure(&url, told, None)),
    );
}

#[test]
fn a_name_that_never_resolves_costs_one_lookup_and_no_thread() {
    if !namespace::permitted() {
        return;
    }
    each(
        [
            ("a nameserver that is silent", Lookup::Silence),
            ("a name that is not there", Lookup::NoSuchName),
            ("a nameserver that fails", Lookup::ServerFailure),
            ("a nameserver that talks nonsense", Lookup::Garbage),
        ],
        |lookup| {
            let nameserver = Nameserver::start(lookup);
            endure("http://game.example.com/", "failed to lookup address", Some(&nameserver.mount()));
            assert!(nameserver.questions() >= ROUNDS);
        },
    );
}

// ---- what is no fault

/// Waits until the sidecar has written None, and gives how long the probe took, by the log.
#[track_caller]
fn succeeds(scene: &Scene, keys: &str, in_kube: &str, decided: &str) -> Duration {
    let keys = format!("timeout: {}, {keys}", LONG.as_secs());
    scene.pod.update_config(&config(&[scene.endpoint(&keys, in_kube)]));
    let sidecar = scene.sidecar().log("debug").start();
    sidecar.wait_for_line(&format!("opsState unknown -> {decided}"), SOON);
    assert_eq!(sidecar.count_lines("WARN  endpoints[0]"), 0, "{}", sidecar.stderr());
    let line = sidecar.wait_for_line("DEBUG endpoints[0]", SOON).text;
    let milliseconds = line.strip_suffix(" ms").and_then(|line| line.rsplit_once(" in ")?.1.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or_else(|| sidecar.fail(&line)))
}

#[test]
fn odd_but_legal_answers_are_understood() {
    let length = "Content-Length: 4\r\n\r\nNone";
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let headers: String = (0..90).map(|number| format!("X-{number}: x\r\n")).collect();
    each(
        [
            ("HTTP/1.0 up to the end", raw("HTTP/1.0 200 OK\r\n\r\nNone")),
            ("HTTP/1.0 with a length, held", held(&format!("HTTP/1.0 200 OK\r\n{length}"))),
            ("HTTP/1.1 up to the end", raw(&format!("{OK}\r\nNone"))),
            ("a length, held", held(&format!("{OK}{length}"))),
            ("chunks, held", held(&format!("{chunked}2\r\nNo\r\n2\r\nne\r\n0\r\n\r\n"))),
            ("a chunk's extension", held(&format!("{chunked}4;a=b\r\nNone\r\n0\r\n\r\n"))),
            ("trailers", held(&format!("{chunked}4\r\nNone\r\n0\r\nX-Trailer: x\r\n\r\n"))),
            ("the same length twice", held(&format!("{OK}Content-Length: 4\r\n{length}"))),
            ("more than it says", held(&format!("{OK}{length} and more"))),
            ("gzip that is none", held(&format!("{OK}Content-Encoding: gzip\r\n{length}"))),
            ("no reason", held(&format!("HTTP/1.1 200\r\n{length}"))),
            ("many headers", held(&format!("{OK}{headers}{length}"))),
            ("a long header", held(&format!("{OK}X-Long: {}\r\n{length}", "x".repeat(12_000)))),
            (
                "bytes in a header",
                Behaviour::RawThenHold([OK.as_bytes(), b"X-Bytes: \xff\r\n", length.as_bytes()].concat()),
            ),
            ("interim responses before it", held(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}{length}"))),
            ("drips in time", Behaviour::After(Duration::from_millis(500), Box::new(Behaviour::answer(200, "None")))),
        ],
        |behaviour| {
            let scene = Scene::new();
            scene.game.behave(behaviour);
            succeeds(&scene, "failureThreshold: 1", ROOMS, "None");
        },
    );
}

#[test]
fn a_body_that_no_rule_needs_is_not_waited_for() {
    let health = "markerPolices: [{state: Succeeded, gameServerOpsState: None}, \
                  {state: Failed, gameServerOpsState: Maintaining}]";
    let drip = Duration::from_millis(50);
    let held_open = held(&format!("{OK}\r\nNone"));
    let terabyte = held(&format!("{OK}Content-Length: 1099511627776\r\n\r\nNone"));
    each(
        [
            ("no length on a held socket", ("method: GET", held_open.clone())),
            ("a terabyte", ("method: GET", terabyte.clone())),
            ("drips", ("method: GET", Behaviour::DripBody(drip))),
            ("an endless body", ("method: GET", Behaviour::EndlessBody)),
            ("endless chunks", ("method: GET", Behaviour::EndlessChunks)),
            ("not UTF-8", ("method: GET", Behaviour::answer(200, b"\xff\xfe"))),
            ("HEAD", ("method: HEAD", terabyte)),
            ("another status", ("expectedStatusCode: 404", held("HTTP/1.1 404 Not Found\r\n\r\n"))),
            ("no content", ("expectedStatusCode: 204", held("HTTP/1.1 204 No Content\r\n\r\n"))),
            (
                "a redirect that is expected",
                ("expectedStatusCode: 302", held("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n")),
            ),
        ],
        |(keys, behaviour)| {
            let scene = Scene::new();
            scene.game.behave(behaviour);
            let took = succeeds(&scene, keys, health, "None");
            assert!(took < LONG / 2, "{took:?}");
        },
    );
}

#[test]
fn an_answer_to_head_has_no_body_to_wait_for() {
    let scene = Scene::new();
    scene.game.behave(held(&format!("{OK}Content-Length: 4\r\n\r\n")));
    let empty = "markerPolices: [{state: '', gameServerOpsState: None}]";
    let took = succeeds(&scene, "method: HEAD", empty, "None");
    assert!(took < LONG / 2, "{took:?}");
}

#[test]
fn a_body_counts_up_to_4_kib_and_a_longer_one_is_no_state() {
    let longest = format!("None{}", " ".repeat(4 * 1024 - 4));
    let succeeded = "markerPolices: [{state: None, gameServerOpsState: None}, \
                     {state: Succeeded, gameServerOpsState: Allocated}]";
    each([("with a length", false), ("up to the end", true)], |up_to_the_end| {
        let answer = |body: &str| match up_to_the_end {
            true => raw(&format!("{OK}\r\n{body}")),
            false => Behaviour::answer(200, body),
        };
        for (policies, body, decided) in
            [(ROOMS, &longest, "None"), (succeeded, &longest, "None"), (succeeded, &format!("{longest} "), "Allocated")]
        {
            let scene = Scene::new();
            scene.game.behave(answer(body));
            succeeds(&scene, "failureThreshold: 1", policies, decided);
        }
        let scene = Scene::new();
        scene.game.behave(answer(&format!("{longest} ")));
        let sidecar = scene.sidecar().start();
        let line = sidecar.wait_for_line("no policy matches", SOON).text;
        assert!(line.contains("more than 4 KiB"), "{line}");
        assert!(scene.patched().is_empty());
    });
}

#[test]
fn a_body_that_is_cut_is_no_failure() {
    let scene = Scene::new();
    let policies = "markerPolices: [{state: None, gameServerOpsState: None}, \
                    {state: Failed, gameServerOpsState: Maintaining}]";
    scene.pod.update_config(&config(&[scene.endpoint("timeout: 60, failureThreshold: 1", policies)]));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    scene.game.behave(Behaviour::EndlessBody);
    let probes = scene.game.requests().len();
    sidecar.eventually(SOON, "three more probes", || scene.game.requests().len() >= probes + 3);
    assert_eq!(scene.patched(), ["None"]);
    scene.game.stop();
    sidecar.wait_for_line("opsState None -> Maintaining", SOON);
}

// ---- roads that are not taken

#[test]
fn no_proxy_is_asked_whatever_the_environment_says() {
    let (scene, proxy) = (Scene::new(), Game::start());
    let mut builder = scene.sidecar();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        builder = builder.env(name, proxy.url("/"));
    }
    let builder = builder.env("NO_PROXY", "").env("no_proxy", "");
    let secure = Game::builder().tls(&ServerCertificate::self_signed(&["game"])).start();
    secure.set(200, "unknown");
    let endpoints = [endpoint(&secure.url("/"), "timeout: 20", ROOMS), scene.endpoint("timeout: 20", ROOMS)];
    scene.pod.update_config(&config(&endpoints));
    let sidecar = builder.start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert!(!secure.requests().is_empty());
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn no_redirect_is_followed() {
    let elsewhere = Game::start();
    elsewhere.set(200, "None");
    let location = elsewhere.url("/");
    each([("moved", 301), ("found", 302), ("see other", 303), ("temporary", 307), ("permanent", 308)], |status| {
        let behaviour = Behaviour::answer_with(status, &[("Location", &location)], "None");
        endure_game(&Game::start(), behaviour, &format!("status {status}, expected 200"));
    });
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn localhost_is_found_where_the_other_address_is_dead() {
    let policies = "markerPolices: [{state: None, gameServerOpsState: None}]";
    each(
        [
            ("::1 drops", (Loopback::V4, Some(Loopback::V6))),
            ("127.0.0.1 drops", (Loopback::V6, Some(Loopback::V4))),
            ("::1 refuses", (Loopback::V4, None)),
            ("127.0.0.1 refuses", (Loopback::V6, None)),
        ],
        |(alive, dropping)| {
            let hole = dropping.map(BlackHole::on);
            let port = hole.as_ref().map_or(0, |hole| hole.address().port());
            let scene = Scene::with_game(Game::builder().on(alive).port(port).start());
            let url = format!("http://localhost:{}/", scene.game.address().port());
            scene.pod.update_config(&config(&[endpoint(&url, "timeout: 10, failureThreshold: 1", policies)]));
            let sidecar = scene.sidecar().start();
            sidecar.wait_for_line("opsState unknown -> None", SOON);
            assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
        },
    );
}

#[test]
fn a_game_that_dies_and_one_that_lives_are_told_apart_every_round() {
    let (scene, health) = (Scene::new(), Game::start());
    let failed = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
    let endpoints =
        [endpoint(&health.url("/"), "timeout: 20, failureThreshold: 2", failed), scene.endpoint("timeout: 20", ROOMS)];
    scene.pod.update_config(&config(&endpoints));
    health.behave(Behaviour::Script(
        [200, 500, 200, 500, 200, 500, 500].map(|status| Behaviour::answer(status, "")).to_vec(),
    ));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState None -> Maintaining (endpoints[0]", SOON * 2);
    // Single failures in between were no reason.
    let written = scene.api.requests().last().map(|request| request.at);
    assert_eq!(health.requests().iter().filter(|probe| Some(probe.at) < written).count(), 7);
    assert_eq!(scene.patched(), ["None", "Maintaining"]);
}

// ---- a probe (3.5 to 3.7)

#[test]
fn a_probe_is_a_fresh_connection_with_the_headers_of_the_spec() {
    let scene = Scene::new();
    scene.pod.update_config(&config(&[endpoint(
        &scene.game.url("/state?room=1"),
        "method: post, headers: {Host: tank.war, X-Key: 007}",
        "markerPolices: [{state: None, gameServerOpsState: None}]",
    )]));
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "two probes", || scene.game.requests().len() >= 2);
    let requests = scene.game.requests();
    assert_eq!(scene.game.connections(), requests.len());
    let probe = &requests[0];
    assert_eq!(probe.line(), "POST /state?room=1");
    let version = concat!("okg-sidecar/", env!("CARGO_PKG_VERSION"));
    let headers: Vec<(&str, &str)> =
        probe.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        headers,
        [
            ("Host", "tank.war"),
            ("User-Agent", version),
            ("Accept", "*/*"),
            ("Content-Length", "0"),
            ("Connection", "close"),
            ("X-Key", "007")
        ]
    );
}

#[test]
fn an_https_game_is_probed_without_verifying_its_certificate() {
    let scene = Scene::with_game(Game::builder().tls(&ServerCertificate::self_signed(&["elsewhere"])).start());
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

#[test]
fn localhost_is_found_on_either_address_or_both() {
    for loopback in [Loopback::V4, Loopback::V6, Loopback::Both] {
        let scene = Scene::with_game(Game::builder().on(loopback).start());
        let url = format!("http://localhost:{}", scene.game.address().port());
        let policies = "markerPolices: [{state: None, gameServerOpsState: None}]";
        scene.pod.update_config(&config(&[endpoint(&url, "timeout: 3", policies)]));
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
    }
}

#[test]
fn a_game_with_one_thread_is_never_held() {
    let scene = Scene::with_game(Game::builder().one_at_a_time().start());
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "three probes", || scene.game.requests().len() >= 3);
    scene_is_quiet(&scene);
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
}

fn scene_is_quiet(scene: &Scene) {
    stand_ins::eventually(SOON, "no connection left open", || scene.game.open_connections() == 0);
}

#[test]
fn a_game_that_comes_up_late_is_found() {
    let scene = Scene::new();
    scene.game.stop();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("Connection refused", SOON);
    assert!(scene.patched().is_empty());
    scene.game.start_again();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

#[test]
fn failures_write_nothing_and_are_told_when_they_start_and_end() {
    let scene = Scene::new();
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    for (behaviour, told) in [
        (Behaviour::answer(500, "Allocated"), "probe failed: status 500, expected 200"),
        (Behaviour::answer_with(302, &[("Location", "/")], "Allocated"), "status 302, expected 200"),
        (Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "no response: "),
        (Behaviour::HoldWithoutAnswer, "timeout"),
    ] {
        scene.game.behave(behaviour);
        sidecar.wait_for_line(told, SOON);
        scene.game.set(200, "None");
        let ended = sidecar.count_lines("answers again after");
        sidecar.eventually(SOON, "an end of the failure", || sidecar.count_lines("answers again after") > ended);
    }
    assert_eq!(scene.patched(), ["None"]);
}

// ---- rounds (3.2, 3.3)

#[test]
fn rounds_keep_their_rate_from_the_first_after_the_delay() {
    let scene = Scene::new();
    let text =
        scene.rooms("").replace("probeIntervalSeconds: 1", "startDelaySeconds: 2\n      probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    scene.game.behave(Behaviour::After(Duration::from_millis(300), Box::new(Behaviour::answer(200, "None"))));
    let started = std::time::Instant::now();
    let sidecar = scene.sidecar().start();
    // Four pauses of the interval and four answers would take 5.2 s. A busy machine is late now and then, or drops a
    // round; what does not keep the rate is late each time.
    let four_rounds_in_time = |probes: &[Request]| probes[4].at - probes[0].at < Duration::from_millis(4600);
    sidecar.eventually(SOON, "five probes at the rate", || scene.game.requests().windows(5).any(four_rounds_in_time));
    for (index, probe) in scene.game.requests().iter().enumerate() {
        let at = probe.at - started;
        assert!(at >= Duration::from_secs(2 + index as u64), "probe {index} after {at:?}");
    }
}

#[test]
fn a_hung_endpoint_delays_no_ops_state_of_one_before_it() {
    let (scene, hung) = (Scene::new(), Game::start());
    hung.behave(Behaviour::HoldWithoutAnswer);
    let room = scene.endpoint("timeout: 1", ROOM);
    // It can set opsState, too, but not over the room, which has an opinion.
    let last = endpoint(&hung.url("/"), "timeout: 8", ROOM);
    scene.pod.update_config(&every(10, &config(&[room, last])));
    let sidecar = steps::settled(&scene, "None");
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    sidecar.eventually(SOON, "the hung probe", || !hung.requests().is_empty());
}

#[test]
fn an_endpoint_that_could_still_change_the_decision_is_waited_for() {
    let (scene, second) = (Scene::new(), Game::start());
    second.behave(Behaviour::After(Duration::from_millis(800), Box::new(Behaviour::answer(200, "x"))));
    let priority =
        endpoint(&second.url("/"), "timeout: 2", "markerPolices: [{state: x, gameServerDeletionPriority: 3}]");
    scene.pod.update_config(&every(4, &config(&[scene.endpoint("timeout: 1", ROOM), priority])));
    let sidecar = steps::settled(&scene, "None");
    assert_eq!(scene.field("/spec/deletionPriority"), json!(3), "{}", sidecar.stderr());
    assert_eq!(scene.writes().len(), 1);
}

#[test]
fn a_timeout_equal_to_the_interval_costs_no_round() {
    let scene = Scene::new();
    scene.game.behave(Behaviour::HoldWithoutAnswer);
    let sidecar = scene.sidecar().start();
    sidecar.eventually(SOON, "eight probes", || scene.game.requests().len() >= 8);
    let probes = scene.game.requests();
    let took = probes[7].at - probes[0].at;
    assert!(took > Duration::from_millis(6500) && took < Duration::from_millis(7800), "{took:?}");
}

// ---- sizes (3.7, 3.8)

#[test]
fn a_result_of_more_than_4_kib_equals_no_state_and_is_never_written() {
    let longest = "x".repeat(4096);
    let policies = format!(
        "markerPolices: [{{state: Succeeded, gameServerOpsState: Allocated}}, \
         {{state: {longest}, gameServerOpsState: None}}], annotationKey: last"
    );
    let scene = scene_of(&policies);
    let pod = scene.pod_path();
    scene.game.set(200, longest.clone());
    let sidecar = steps::settled(&scene, "None");
    sidecar.eventually(SOON, "the longest", || scene.field_of(&pod, "/metadata/annotations/last") == longest.as_str());
    scene.game.set(200, format!("{longest}x"));
    steps::becomes(&scene, &sidecar, "Allocated");
    scene.await_probes(&sidecar, 2);
    assert_eq!(scene.field_of(&pod, "/metadata/annotations/last"), longest.as_str());
}

/// The only port that this machine of its own gives to connections is the one that is probed, and nobody listens there.
#[test]
fn a_probe_of_a_closed_port_never_connects_to_itself() {
    if !namespace::permitted() {
        return;
    }
    const PORT: u16 = 40_000;
    let own_network =
        format!("ip link set lo up; echo '{PORT} {PORT}' > /proc/sys/net/ipv4/ip_local_port_range; exec \"$@\"");
    let scene = Scene::new();
    let tcp = format!(r#"[{{"podConditionType": "a", "probe": {{"tcpSocket": {{"port": {PORT}}}}}}}]"#);
    let http = config(&[endpoint(&format!("http://127.0.0.1:{PORT}"), "timeout: 1", ROOMS)]);
    for (annotation, config) in [(tcp, None), (String::new(), Some(http))] {
        scene.pod.config.remove("config.yaml");
        config.iter().for_each(|config| scene.pod.update_config(config));
        let sidecar = scene
            .sidecar()
            .env("KRUISE_PODPROBE", annotation)
            .wrapped_in(&["unshare", "--net", "sh", "-ec", &own_network, "sh"])
            .arg("probe")
            .start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{}{}", sidecar.stdout(), sidecar.stderr());
        assert!(sidecar.stdout().contains("Connection refused"), "{}", sidecar.stdout());
    }
}
