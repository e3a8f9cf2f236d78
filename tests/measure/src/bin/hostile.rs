//! What a hostile game costs its sidecar (behaviour 3.8): threads, descriptors, memory and CPU time while the game gives one and the same
//! hostile answer to every probe; started by `tests/hostile.sh`. Prints a line for each answer, the most expensive ones first.

use std::any::Any;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use stand_ins::scene::{config, endpoint};
use stand_ins::servers::{TcpServer, UdpServer, a2s_info, minecraft_status, quake3_status, raknet_pong, says, var_int};
use stand_ins::{
    ApiServer, Authority, Behaviour, Game, Loopback, POD_UID, Pod, SidecarProcess, TOKEN, game_server, game_server_path,
};

/// How many sidecars and their games run at a time: each game may take a core of its own.
const AT_ONCE: usize = 2;
/// The budgets: threads, descriptors, KiB of memory.
const MOST: (u64, usize, u64) = (1, 6, 2048);

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A game, and how it is probed. The server runs for as long as this lives.
struct Hostile {
    name: &'static str,
    url: String,
    keys: &'static str,
    _server: Box<dyn Any + Send + Sync>,
}

/// What its sidecar took.
struct Cost {
    name: &'static str,
    cpu: Duration,
    threads: u64,
    descriptors: usize,
    memory_kib: u64,
}

fn http(name: &'static str, behaviour: Behaviour) -> Hostile {
    let game = Game::start();
    game.behave(behaviour);
    Hostile { name, url: game.url("/"), keys: "timeout: 1", _server: Box::new(game) }
}

fn http_with(name: &'static str, keys: &'static str, body: Vec<u8>) -> Hostile {
    Hostile { keys, ..http(name, Behaviour::answer(200, body)) }
}

fn raw(name: &'static str, bytes: &[u8]) -> Hostile {
    http(name, Behaviour::Raw(bytes.to_vec()))
}

fn held(name: &'static str, bytes: &[u8]) -> Hostile {
    http(name, Behaviour::RawThenHold(bytes.to_vec()))
}

fn endless(name: &'static str, head: &str, again: &str) -> Hostile {
    http(name, Behaviour::Endless(head.into(), again.into()))
}

fn at(name: &'static str, scheme: &str, address: SocketAddr, server: impl Any + Send + Sync) -> Hostile {
    Hostile { name, url: format!("{scheme}://{address}"), keys: "timeout: 1", _server: Box::new(server) }
}

fn udp(name: &'static str, scheme: &str, server: UdpServer) -> Hostile {
    at(name, scheme, server.address(), server)
}

fn minecraft(name: &'static str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Hostile {
    let server = TcpServer::start(serve);
    at(name, "minecraft", server.address(), server)
}

/// Sends this to whoever has asked, as fast as it can, for longer than a probe lasts.
fn flood(datagram: Vec<u8>) -> UdpServer {
    UdpServer::start(move |asked| {
        let until = Instant::now() + Duration::from_millis(900);
        while Instant::now() < until {
            asked.say(&datagram);
        }
    })
}

/// Sends the bytes one by one, without a pause.
fn byte_by_byte(bytes: Vec<u8>) -> impl Fn(TcpStream) + Send + Sync {
    move |mut stream| {
        let _ = (stream.set_nodelay(true), stream.read(&mut [0; 1024]));
        let _ = bytes.iter().try_for_each(|byte| stream.write_all(&[*byte]));
    }
}

fn answers() -> Vec<Hostile> {
    let fast = Duration::from_millis(5);
    let interim = TcpServer::start(byte_by_byte(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(15 * 1024 / 25)));
    let length = |length: u32| [var_int(length), var_int(0), var_int(length - 4)].concat();
    vec![
        http("no answer", Behaviour::HoldWithoutAnswer),
        http("the connection closed at once", Behaviour::CloseAtOnce),
        http("a reset", Behaviour::Reset),
        http(
            "a reset within the body",
            Behaviour::RawThenReset(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nNo".to_vec()),
        ),
        http("status 500", Behaviour::answer(500, "None")),
        http("a redirect to itself", Behaviour::answer_with(302, &[("Location", "/")], "")),
        http("a body that is not UTF-8", Behaviour::answer(200, b"\xff\xfe".repeat(8_000))),
        raw("SSH's greeting", b"SSH-2.0-OpenSSH_9.2\r\n"),
        raw("an alert of TLS", b"\x15\x03\x01\0\x02\x02\x0a"),
        raw("status 000", b"HTTP/1.1 000 None\r\nContent-Length: 4\r\n\r\nNone"),
        raw("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 9\r\n\r\nNoneOrMore"),
        raw("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nNone"),
        raw(
            "a length and chunks",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nNone\r\n0\r\n\r\n",
        ),
        raw("a body shorter than its length", b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nNone"),
        held("half a header, held", b"HTTP/1.1 200 OK\r\nContent-Le"),
        held("a terabyte announced, held", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nNone"),
        held("no length, held", b"HTTP/1.1 200 OK\r\n\r\nNone"),
        http("4 MiB of body", Behaviour::answer(200, vec![b'N'; 4 << 20])),
        http("headers, a byte every 5 ms", Behaviour::DripHeaders(fast)),
        http("a body, a byte every 5 ms", Behaviour::DripBody(fast)),
        http("a body without end", Behaviour::EndlessBody),
        http("chunks without end", Behaviour::EndlessChunks),
        endless("chunks of one byte without end", CHUNKED, "1\r\nN\r\n"),
        endless("a chunk's size without end", CHUNKED, "0"),
        endless("a chunk's extension without end", &format!("{CHUNKED}1;"), "x"),
        endless("trailers without end", &format!("{CHUNKED}0\r\n"), "A: b\r\n"),
        http("headers without end", Behaviour::EndlessHeaders),
        endless("one header without end", "HTTP/1.1 200 OK\r\nA: ", "x"),
        endless("a reason without end", "HTTP/1.1 200 ", "x"),
        http("interim responses without end", Behaviour::Endless1xx),
        at("15 KiB of interim responses, byte by byte", "http", interim.address(), interim),
        http_with("64 KiB of nested JSON", "timeout: 1, jsonPathConfig: {jsonPath: a}", vec![b'['; 65_536]),
        http_with(
            "64 KiB of JSON's escapes",
            "timeout: 1, jsonPathConfig: {jsonPath: a}",
            [b"{\"a\":\"", &b"\\u0041".repeat(10_000)[..], b"\"}"].concat(),
        ),
        http_with(
            "64 KiB of samples of a metric",
            "timeout: 1, metric: players",
            b"players{a=\"\\\"\"} 1\n".repeat(3_600),
        ),
        udp("A2S: a flood of empty datagrams", "a2s", flood(Vec::new())),
        udp("A2S: a flood of 65,507 bytes each", "a2s", flood(vec![0; 65_507])),
        udp("A2S: challenges without end", "a2s", UdpServer::saying(b"\xff\xff\xff\xffA\x01\x02\x03\x04".to_vec())),
        udp("A2S: an answer cut short", "a2s", UdpServer::saying(a2s_info(b"n", 0, 0)[..20].to_vec())),
        udp("Bedrock: a flood", "bedrock", flood(vec![0x1c; 1_400])),
        udp("Bedrock: a length that lies", "bedrock", UdpServer::saying(raknet_pong(b"MCPE;n;1;1;0;9", u16::MAX))),
        udp("Quake 3: a flood", "quake3", flood(b"\xff\xff\xff\xffprint\n".to_vec())),
        udp("Quake 3: 8,000 players", "quake3", UdpServer::saying(quake3_status(&[&b"1 1 \"\""[..]; 8_000]))),
        minecraft("Minecraft: a length without end", says(vec![0x80; 4_096])),
        minecraft("Minecraft: 98,000 bytes announced, held", says(length(98_000))),
        minecraft("Minecraft: 90,000 bytes that are no JSON", says(minecraft_status(&[0xff; 90_000]))),
        minecraft("Minecraft: a status, byte by byte", byte_by_byte(minecraft_status(&[b' '; 60_000]))),
    ]
}

/// Runs the sidecar beside this game for so long.
fn endure(hostile: &Hostile, binary: &Path, api: &ApiServer, authority: &Authority, how_long: Duration) -> Cost {
    let config =
        config(&[endpoint(&hostile.url, hostile.keys, "markerPolices: [{state: Failed, gameServerOpsState: None}]")]);
    let pod = Pod::new(&config, &authority.pem(), TOKEN);
    let sidecar = SidecarProcess::builder(binary).pod(&pod).api_server(api).env("POD_UID", POD_UID).start();
    let until = Instant::now() + how_long;
    // Until it runs the sidecar, a child has its parent's descriptors.
    thread::sleep(Duration::from_millis(500));
    let mut descriptors = 0;
    while Instant::now() < until {
        descriptors = descriptors.max(sidecar.open_fds());
        thread::sleep(Duration::from_millis(50));
    }
    Cost {
        name: hostile.name,
        cpu: sidecar.cpu_time(),
        threads: sidecar.threads(),
        descriptors,
        memory_kib: sidecar.vm_hwm_kib(),
    }
}

fn main() -> ExitCode {
    let Some((binary, seconds, check)) = parse() else {
        eprintln!("usage: hostile --binary PATH [--seconds N] [--check]");
        return ExitCode::from(2);
    };
    let machine = measure::machine();
    let authority = Authority::new("cluster");
    let api = ApiServer::start(Loopback::V4, &authority.loopback_certificate(), TOKEN);
    api.put(&game_server_path("games", "gs-0"), game_server("games", "gs-0", POD_UID));
    let answers = answers();
    println!("{} hostile answers, {} s each ({machine}).\n", answers.len(), seconds.as_secs());
    println!(
        "| answer of the game | CPU time, ms a second | threads | descriptors | VmHWM, KiB |\n|---|--:|--:|--:|--:|"
    );
    let mut costs: Vec<Cost> = Vec::new();
    for together in answers.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let (binary, api, authority) = (&binary, &api, &authority);
            let run = |hostile| scope.spawn(move || endure(hostile, binary, api, authority, seconds));
            let running: Vec<_> = together.iter().map(run).collect();
            costs.extend(running.into_iter().map(|running| running.join().expect("a measurement does not fail")));
        });
    }
    costs.sort_by_key(|cost| std::cmp::Reverse(cost.cpu));
    for Cost { name, cpu, threads, descriptors, memory_kib } in &costs {
        let cpu = cpu.as_secs_f64() * 1_000.0 / seconds.as_secs_f64();
        println!("| {name} | {cpu:.1} | {threads} | {descriptors} | {memory_kib} |");
    }
    let is_within = |cost: &Cost| cost.threads <= MOST.0 && cost.descriptors <= MOST.1 && cost.memory_kib <= MOST.2;
    if check && !costs.iter().all(is_within) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn parse() -> Option<(PathBuf, Duration, bool)> {
    let (mut binary, mut seconds, mut check) = (PathBuf::new(), 20, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => binary = fs::canonicalize(words.next()?).ok()?,
            "--seconds" => seconds = words.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
            "--check" => check = true,
            _ => return None,
        }
    }
    binary.is_file().then_some((binary, Duration::from_secs(seconds), check))
}
