//! Games that speak no HTTP, from outside, honest and hostile: what each kind of probe decides by, and that no server and no
//! file costs more than a timeout, a thread or memory (behaviour 2.3, 3.8 to 3.13).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use stand_ins::namespace;
use stand_ins::scene::{config, endpoint};
use stand_ins::servers::{
    A2S_REQUEST, RAKNET_MAGIC, TcpServer, UdpServer, a2s_gold_source, a2s_info, bedrock_pong, minecraft_status,
    quake3_status, raknet_pong, says, var_int,
};
use stand_ins::sidecar::Builder;
use stand_ins::{ClosedPort, SOON, Scene, SidecarProcess, TOKEN};
use tempfile::TempDir;

/// Nobody plays, or somebody does.
const BY_NUMBER: &str = "markerPolices: [{min: 0, max: 0, gameServerOpsState: WaitToBeDeleted}, \
                         {min: 1, gameServerOpsState: Allocated}]";

const BY_WORD: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                       {state: Allocated, gameServerOpsState: Allocated}]";

const BY_CONNECTION: &str = "markerPolices: [{state: Succeeded, gameServerOpsState: None}]";

/// The timeout of a probe whose fault lasts that long.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout of a probe that ends by itself.
const LONG: &str = "timeout: 60";

/// What a busy machine may add to a timeout.
const SLACK: Duration = Duration::from_millis(700);

/// How much more memory than honest servers' hostile ones' may take: the debug binary's stacks and messages vary.
const FLAT_KIB: u64 = 1024;

/// A server or a file of a kind, and how the numbers of players and bots are changed.
struct Honest {
    url: String,
    set: Box<dyn Fn(u8, u8) + Send>,
}

fn a2s(answer: impl Fn(u8, u8) -> Vec<u8> + Send + Sync + Copy + 'static) -> Honest {
    let server = UdpServer::a2s(move || answer(0, 0));
    let url = format!("a2s://{}", server.address());
    let set = move |players, bots| {
        server.answer(move |asked| {
            // The challenge of before the change.
            if asked.bytes.len() == A2S_REQUEST.len() {
                asked.say(b"\xff\xff\xff\xffA\x01\x02\x03\x04");
            } else {
                asked.say(&answer(players, bots));
            }
        });
    };
    Honest { url, set: Box::new(set) }
}

fn bedrock() -> Honest {
    let server = UdpServer::saying(bedrock_pong("A server", 0));
    let url = format!("bedrock://{}", server.address());
    // It has no bots.
    let set = move |players: u8, bots: u8| {
        let pong = bedrock_pong("A server", u32::from(players - bots));
        server.answer(move |asked| {
            assert_eq!(asked.bytes[9..25], *RAKNET_MAGIC, "{:?}", asked.bytes);
            asked.say(&pong);
        });
    };
    Honest { url, set: Box::new(set) }
}

fn quake3() -> Honest {
    let server = UdpServer::saying(quake3_status(&[]));
    let url = format!("quake3://{}", server.address());
    let set = move |players: u8, bots: u8| {
        let line = |number: u8| -> &[u8] { if number < bots { b"0 0 \"Sarge\"" } else { b"7 48 \"\xe7\xa9\"" } };
        let status = quake3_status(&(0..players).map(line).collect::<Vec<_>>());
        server.answer(move |asked| {
            assert_eq!(asked.bytes, b"\xff\xff\xff\xffgetstatus\n");
            asked.say(&status);
        });
    };
    Honest { url, set: Box::new(set) }
}

/// With an icon, which is most of the bytes.
fn status(players: u8) -> Vec<u8> {
    let icon = "QUJD".repeat(5_000);
    let json = format!(
        r#"{{"version":{{"name":"1.21.1","protocol":767}},"favicon":"data:image/png;base64,{icon}","players":{{"max":20,"online":{players},"sample":[{{"name":"{}"}}]}},"description":"空"}}"#,
        "\u{fffd}"
    );
    // A name that was cut in the middle of a character.
    let mut bytes = json.into_bytes();
    if let Some(at) = bytes.windows(3).position(|three| three == "\u{fffd}".as_bytes()) {
        bytes.splice(at..at + 3, *b"\xe7\xa9");
    }
    minecraft_status(&bytes)
}

fn minecraft() -> Honest {
    let server = TcpServer::saying(status(0));
    let url = format!("minecraft://{}", server.address());
    let set = move |players: u8, bots: u8| server.serve(says(status(players - bots)));
    Honest { url, set: Box::new(set) }
}

fn file() -> Honest {
    let folder = TempDir::new().expect("the temporary folder is writable");
    let path = folder.path().join("players");
    fs::write(&path, "0").expect("the folder is writable");
    let url = format!("file://{}", path.display());
    let set = move |players: u8, bots: u8| {
        let new = folder.path().join("new");
        fs::write(&new, format!("{}\n", players - bots)).expect("the folder is writable");
        fs::rename(new, &path).expect("the folder is writable");
    };
    Honest { url, set: Box::new(set) }
}

fn honest() -> Vec<(&'static str, Honest)> {
    vec![
        ("a2s", a2s(|players, bots| a2s_info(b"\xe7\xa9 server", players, bots))),
        ("a2s of GoldSrc", a2s(a2s_gold_source)),
        ("bedrock", bedrock()),
        ("quake3", quake3()),
        ("minecraft", minecraft()),
        ("file", file()),
    ]
}

fn scene_with(endpoints: &[String]) -> Scene {
    let scene = Scene::new();
    scene.pod.update_config(&config(endpoints));
    scene
}

#[test]
fn each_kind_counts_players_without_bots() {
    stand_ins::each(honest(), |Honest { url, set }| {
        let scene = scene_with(&[endpoint(&url, LONG, BY_NUMBER)]);
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> WaitToBeDeleted", SOON);
        set(3, 1);
        sidecar.wait_for_line("opsState WaitToBeDeleted -> Allocated", SOON);
        set(2, 2);
        sidecar.wait_for_line("opsState Allocated -> WaitToBeDeleted", SOON);
        assert_eq!(scene.patched(), ["WaitToBeDeleted", "Allocated", "WaitToBeDeleted"]);
        assert_eq!(sidecar.threads(), 1);
        assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    });
}

/// The most resident memory that honest servers of all kinds take.
static CALM_KIB: LazyLock<u64> = LazyLock::new(|| {
    let honest = honest();
    let endpoints: Vec<String> = honest.iter().map(|(_, honest)| endpoint(&honest.url, LONG, BY_NUMBER)).collect();
    let scene = scene_with(&endpoints);
    let sidecar = scene.sidecar().log("debug").start();
    sidecar.eventually(SOON, "three rounds", || sidecar.count_lines("DEBUG endpoints[5]") >= 3);
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    sidecar.vm_hwm_kib()
});

/// Lets a sidecar probe servers that are at fault, and an honest one behind them, which alone decides. `told` is how the
/// failure of each is told; one that is told as a timeout lasts that long, any other ends before.
#[track_caller]
fn endure(faults: &[(String, &str)]) -> SidecarProcess {
    let calm = *CALM_KIB;
    let last = UdpServer::saying(bedrock_pong("A server", 1));
    let mut endpoints = Vec::new();
    for (url, told) in faults {
        let keys = if told.contains("timed out") { "timeout: 1" } else { LONG };
        let rules = if url.starts_with("tcp") { BY_CONNECTION } else { BY_NUMBER };
        endpoints.push(endpoint(url, &format!("{keys}, failureThreshold: 1"), rules));
    }
    endpoints.push(endpoint(&format!("bedrock://{}", last.address()), LONG, BY_NUMBER));
    let scene = scene_with(&endpoints);
    let started = Instant::now();
    let sidecar = scene.sidecar().log("debug").start();
    let rounds = format!("DEBUG endpoints[{}]", faults.len());
    sidecar.eventually(4 * SOON, "two rounds", || sidecar.count_lines(&rounds) >= 2);
    sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
    for (index, (url, told)) in faults.iter().enumerate() {
        let name = format!("endpoints[{index}] ");
        let lines = sidecar.lines();
        let of_it = |level: &str| -> Vec<String> {
            let begins = format!("{level}{name}");
            lines.iter().filter(|line| line.text.starts_with(&begins)).map(|line| line.text.clone()).collect()
        };
        let warned = of_it("WARN  ");
        let is_told = warned.iter().any(|line| line.contains("probe failed") && line.contains(told));
        assert!(is_told, "{url}: not {told}: {warned:?}\n{}", sidecar.stderr());
        let times: Vec<Duration> = of_it("DEBUG ").iter().filter_map(|line| took(line)).collect();
        assert!(times.len() >= 2, "{url}: {times:?}");
        if told.contains("timed out") {
            // A busy machine is slow now and then; a fault that costs more is slow each time.
            assert!(times.iter().all(|took| *took >= TIMEOUT), "{url}: {times:?}");
            assert!(times.iter().any(|took| *took <= TIMEOUT + SLACK), "{url}: {times:?}");
        } else {
            assert!(times.iter().all(|took| *took < Duration::from_secs(30)), "{url}: {times:?}");
        }
    }
    assert_eq!(scene.patched(), ["Allocated"]);
    assert_eq!(sidecar.threads(), 1);
    // A second for the start, on a slow machine.
    let (cpu, elapsed) = (sidecar.cpu_time(), started.elapsed());
    assert!(cpu <= Duration::from_secs(1) + elapsed / 10, "{cpu:?} of {elapsed:?}");
    let peak = sidecar.vm_hwm_kib();
    assert!(peak <= calm + FLAT_KIB, "{peak} KiB, {calm} KiB while all servers are honest");
    sidecar
}

/// How long a probe took, by the log.
fn took(line: &str) -> Option<Duration> {
    line.strip_suffix(" ms")?.rsplit_once(" in ")?.1.parse().ok().map(Duration::from_millis)
}

fn udp_faults(scheme: &str, faults: Vec<(UdpServer, &'static str)>) -> (Vec<UdpServer>, Vec<(String, &'static str)>) {
    let url = |server: &UdpServer| format!("{scheme}://{}", server.address());
    let told = faults.iter().map(|(server, told)| (url(server), *told)).collect();
    (faults.into_iter().map(|(server, _)| server).collect(), told)
}

/// Answers each request with 20 MB, or with 20,000 datagrams. What finds no room on its way to the sidecar is lost.
fn flood(datagram: Vec<u8>) -> UdpServer {
    let count = 20_000_000 / datagram.len().max(1_000);
    UdpServer::start(move |asked| (0..count).for_each(|_| asked.say(&datagram)))
}

/// Faults that any protocol over UDP has.
fn any_udp_faults(honest: &'static [u8]) -> Vec<(UdpServer, &'static str)> {
    vec![
        (UdpServer::start(|_| {}), "timed out"),
        (UdpServer::start(move |asked| asked.say_from_elsewhere(honest)), "timed out"),
        (UdpServer::saying(vec![]), "timed out, and what came is no answer"),
        (UdpServer::saying(vec![0; 65_507]), "timed out, and what came is no answer"),
        (
            // More slowly than it can be called a flood.
            UdpServer::start(|asked| {
                for byte in 0..20 {
                    asked.say(&[byte]);
                    thread::sleep(Duration::from_millis(50));
                }
            }),
            "timed out, and what came is no answer",
        ),
        (flood(vec![]), "more than 4096 pieces received"),
        (flood(vec![0; 65_507]), "more than 1048576 bytes received"),
    ]
}

#[test]
fn hostile_servers_of_a2s_cost_a_timeout_at_most() {
    let honest: &[u8] = a2s_info(b"n", 0, 0).leak();
    let mut faults = any_udp_faults(honest);
    let challenge = b"\xff\xff\xff\xffA\x01\x02\x03\x04";
    faults.extend([
        (UdpServer::saying(challenge.to_vec()), "more than 4096 pieces received"),
        (
            UdpServer::start(|asked| {
                thread::sleep(Duration::from_millis(100));
                asked.say(&[&challenge[..5], &[asked.before as u8; 4]].concat());
            }),
            "timed out, and what came is no answer",
        ),
        (UdpServer::saying(b"\xfe\xff\xff\xff\x01\0\0\0\x02\0\xe0\x04".to_vec()), "split over packets"),
        (UdpServer::saying(honest[..20].to_vec()), "ends before the numbers"),
        (UdpServer::saying(honest[..5].to_vec()), "ends before the numbers"),
        (UdpServer::saying([b"\xff\xff\xff\xffI\x11", &[b'x'; 60_000][..]].concat()), "ends before the numbers"),
        (UdpServer::saying(quake3_status(&[])), "timed out, and what came is no answer"),
    ]);
    let (_servers, faults) = udp_faults("a2s", faults);
    endure(&faults);
}

#[test]
fn hostile_servers_of_bedrock_cost_a_timeout_at_most() {
    let honest: &[u8] = bedrock_pong("n", 0).leak();
    let mut faults = any_udp_faults(honest);
    faults.extend([
        (UdpServer::saying(raknet_pong(b"MCPE;n;1;1;0;9", u16::MAX)), "shorter than its length"),
        (UdpServer::saying(raknet_pong(b"MCPE;n;1;1;0;9", 4)), "not name;protocol;version;players"),
        (UdpServer::saying(raknet_pong(b"MCPE;a;b;1;1;0;9", 16)), "not name;protocol;version;players"),
        (UdpServer::saying(raknet_pong(&[b';'; 60_000], 60_000)), "not one of Bedrock Edition"),
        (UdpServer::saying(honest[..34].to_vec()), "ends before its text"),
        (UdpServer::saying(honest[..30].to_vec()), "timed out, and what came is no answer"),
    ]);
    let (_servers, faults) = udp_faults("bedrock", faults);
    endure(&faults);
}

#[test]
fn hostile_servers_of_quake3_cost_a_timeout_at_most() {
    let honest: &[u8] = quake3_status(&[]).leak();
    let mut faults = any_udp_faults(honest);
    faults.extend([
        (UdpServer::saying(b"\xff\xff\xff\xffstatusResponse\n".to_vec()), "no settings of the server"),
        (UdpServer::saying([&honest[..19], &[b'\n'; 60_000]].concat()), "no settings of the server"),
        (UdpServer::saying(b"\xff\xff\xff\xffinfoResponse\n\\mapname\\m".to_vec()), "neither players nor their number"),
        (UdpServer::saying(b"\xff\xff\xff\xffprint\nbanned\n".to_vec()), "timed out, and what came is no answer"),
    ]);
    let (_servers, faults) = udp_faults("quake3", faults);
    endure(&faults);
}

/// Sends the pieces, each after a pause, until the client leaves.
fn drip(pieces: impl Fn() -> Box<dyn Iterator<Item = Vec<u8>>> + Send + Sync + 'static, pause: Duration) -> TcpServer {
    TcpServer::start(move |mut stream| {
        let _ = stream.set_nodelay(true);
        for piece in pieces() {
            if stream.write_all(&piece).is_err() {
                return;
            }
            thread::sleep(pause);
        }
        wait_for_the_end(stream);
    })
}

fn wait_for_the_end(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

#[test]
fn hostile_servers_of_minecraft_cost_a_timeout_at_most() {
    let head = |length: u32, id: u32, text: u32| [var_int(length), var_int(id), var_int(text)].concat();
    let endless = |head: Vec<u8>| {
        let pieces = move || -> Box<dyn Iterator<Item = Vec<u8>>> {
            Box::new(std::iter::once(head.clone()).chain(std::iter::repeat_with(|| vec![b' '; 16_384])))
        };
        drip(pieces, Duration::ZERO)
    };
    let bytes_of = |bytes: Vec<u8>, pause: u64| {
        let pieces =
            move || -> Box<dyn Iterator<Item = Vec<u8>>> { Box::new(bytes.clone().into_iter().map(|byte| vec![byte])) };
        drip(pieces, Duration::from_millis(pause))
    };
    let json = br#"{"players":{"max":20,"online":0},"description":""}"#;
    let faults = [
        (TcpServer::start(wait_for_the_end), "timed out"),
        (TcpServer::start(drop), "no answer"),
        (TcpServer::saying(b"".to_vec()), "timed out"),
        (
            TcpServer::start(|mut stream| {
                let _ = stream.read(&mut [0; 1024]);
            }),
            "the server closed the connection",
        ),
        (bytes_of(vec![0x80; 5], 10), "more than 5 bytes"),
        (bytes_of(minecraft_status(json), 100), "timed out"),
        (TcpServer::saying(var_int(u32::MAX)), "larger than a status"),
        (endless(var_int(i32::MAX as u32)), "larger than a status"),
        (endless(head(98_000, 0, 200_000)), "longer than its packet"),
        (endless(head(3, 0, 0)), "no number of players"),
        (TcpServer::saying(head(98_000, 0, 97_000)), "timed out"),
        (TcpServer::saying(head(2, 0x1a, 0)), "no status"),
        (TcpServer::saying(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "no status"),
        (
            TcpServer::start(|mut stream| {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(&minecraft_status(br#"{"players":{"online":0}}"#)[..12]);
            }),
            "the server closed the connection",
        ),
        (TcpServer::saying(minecraft_status(b"")), "no number of players"),
        (TcpServer::saying(minecraft_status(b"{\"players\":{\"online\":")), "no number of players"),
        (TcpServer::saying(minecraft_status(b"[[[[[[[[[[[[[")), "no number of players"),
        (TcpServer::saying(minecraft_status(br#"{"description":"hidden"}"#)), "players"),
        (TcpServer::saying(minecraft_status(&[0xff; 90_000])), "no number of players"),
    ];
    let told: Vec<_> =
        faults.iter().map(|(server, told)| (format!("minecraft://{}", server.address()), *told)).collect();
    endure(&told);
}

#[test]
fn a_closed_port_is_seen_at_once() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Connected to itself, it takes nobody else's.
    udp.connect(udp.local_addr().unwrap()).unwrap();
    let tcp = ClosedPort::new();
    let port = udp.local_addr().unwrap().port();
    let urls = ["a2s", "bedrock", "quake3"].map(|kind| format!("{kind}://127.0.0.1:{port}"));
    let mut faults: Vec<_> = urls.into_iter().map(|url| (url, "Connection refused")).collect();
    for kind in ["minecraft", "tcp"] {
        faults.push((format!("{kind}://{}", tcp.address()), "Connection refused"));
    }
    let sidecar = endure(&faults);
    // What to look at.
    sidecar.wait_for_line("no answer (is the query port another one? CS2 wants host_info_show 2): Connection", SOON);
}

#[test]
fn a_request_that_was_lost_is_sent_again_a_second_later() {
    for (scheme, answer) in
        [("a2s", a2s_info(b"n", 1, 0)), ("bedrock", bedrock_pong("n", 1)), ("quake3", quake3_status(&[b"1 20 \"a\""]))]
    {
        let server = UdpServer::start(move |asked| {
            if asked.before >= 2 {
                asked.say(&answer);
            }
        });
        let scene = scene_with(&[endpoint(&format!("{scheme}://{}", server.address()), LONG, BY_NUMBER)]);
        let sidecar = scene.sidecar().log("debug").start();
        sidecar.wait_for_line("opsState unknown -> Allocated", SOON);
        let received = server.received();
        assert!(received[..3].iter().all(|(_, bytes)| *bytes == received[0].1), "{received:?}");
        let lines = sidecar.lines();
        let first = lines.iter().find(|line| line.text.starts_with("DEBUG endpoints[0]")).expect("it has probed");
        assert!(took(&first.text) >= Some(Duration::from_secs(2)), "{}", first.text);
        assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    }
}

#[test]
fn a_challenge_is_answered_and_remembered_until_the_server_forgets_it() {
    let server = UdpServer::a2s(|| a2s_info(b"n", 1, 0));
    let scene = scene_with(&[endpoint(&format!("a2s://{}", server.address()), LONG, BY_NUMBER)]);
    let sidecar = scene.sidecar().log("debug").start();
    let (plain, answered) = (A2S_REQUEST.len(), A2S_REQUEST.len() + 4);
    let lengths = || -> Vec<usize> { server.received().iter().map(|(_, bytes)| bytes.len()).collect() };
    // On a busy machine an answer may come too late once, after which twenty probes go without.
    let is_remembered = || lengths().ends_with(&[answered, answered, answered]);
    sidecar.eventually(2 * SOON, "two probes of one exchange each", is_remembered);
    assert_eq!(lengths()[..2], [plain, answered]);
    // A server that has restarted: it takes other challenges alone, and does not answer a wrong one.
    server.answer(|asked| match asked.bytes.strip_prefix(A2S_REQUEST) {
        Some(b"") => asked.say(b"\xff\xff\xff\xffAnext"),
        Some(b"next") => asked.say(&a2s_info(b"n", 0, 0)),
        _ => {}
    });
    sidecar.wait_for_line("opsState Allocated -> WaitToBeDeleted", SOON);
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    // From then on a probe begins with the plain request.
    sidecar.eventually(SOON, "plain requests", || lengths().ends_with(&[plain, answered, plain, answered]));
}

// ---- files

/// A volume that the game may write to, and a sidecar that reads `state` in it.
struct Shared {
    folder: TempDir,
    scene: Scene,
}

impl Shared {
    fn new(keys: &str) -> Self {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let url = format!("file://{}/state", folder.path().display());
        let in_kube = format!("{BY_WORD}, annotationKey: leaked");
        let scene = scene_with(&[endpoint(&url, keys, &in_kube)]);
        Self { folder, scene }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// As a script does that wants no half of it read.
    fn put(&self, text: &str) {
        fs::write(self.path("new"), text).expect("the folder is writable");
        fs::rename(self.path("new"), self.path("state")).expect("the folder is writable");
    }

    /// Takes what is there away, and puts something else there.
    fn replace(&self, put: impl FnOnce(&Path)) {
        let path = self.path("state");
        let _ = if path.is_dir() && !path.is_symlink() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        put(&path);
    }
}

#[test]
fn nothing_but_a_regular_file_of_the_volume_is_read() {
    let shared = Shared::new("timeout: 60, failureThreshold: 1, maxAgeSeconds: 3600");
    shared.put("None\n");
    let secret = TempDir::new().unwrap();
    fs::write(secret.path().join("token"), TOKEN).unwrap();
    let sidecar = shared.scene.sidecar().log("debug").start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let token = secret.path().join("token");
    let make_fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let old = |path: &Path| {
        fs::write(path, "Allocated").unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(4000)).unwrap();
    };
    let leads_out = "a link leads out of its directory";
    type Put<'p> = Box<dyn Fn(&Path) + 'p>;
    let faults: Vec<(&str, Put)> = vec![
        ("No such file", Box::new(|_| {})),
        (leads_out, Box::new(|path| symlink(&token, path).unwrap())),
        (leads_out, Box::new(|path| symlink("/proc/self/environ", path).unwrap())),
        (leads_out, Box::new(|path| symlink("/dev/zero", path).unwrap())),
        ("", Box::new(|path| symlink("state", path).unwrap())),
        ("not a regular file", Box::new(|path| make_fifo(path))),
        ("not a regular file", Box::new(|path| fs::create_dir(path).unwrap())),
        ("was not modified for 40", Box::new(|path| old(path))),
    ];
    for (told, put) in faults {
        let before = sidecar.count_lines("probe failed");
        shared.replace(&put);
        sidecar.eventually(SOON, told, || sidecar.count_lines("probe failed") > before);
        let lines = sidecar.lines();
        let last = lines.iter().rfind(|line| line.text.contains("probe failed")).expect("it was logged");
        assert!(last.text.contains(told), "{told}: {}", last.text);
        let before = sidecar.count_lines("answers again");
        shared.replace(|path| fs::write(path, "None").unwrap());
        sidecar.eventually(SOON, "it recovers", || sidecar.count_lines("answers again") > before);
    }
    // Until it is written, none of it counts.
    shared.put("Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    assert_eq!(shared.scene.patched(), ["None", "Allocated"]);
    let pod = shared.scene.api.object(&shared.scene.pod_path()).unwrap().to_string();
    assert!(!pod.contains(TOKEN) && !sidecar.stderr().contains(TOKEN));
    assert_eq!(sidecar.threads(), 1);
}

#[test]
fn a_volume_of_kubelet_is_followed_to_its_newest_content() {
    follows_a_volume(&Shared::new(LONG), |builder| builder);
}

#[test]
fn without_proc_links_are_followed_alike() {
    if namespace::permitted() {
        let hide_proc = |builder| namespace::with_mounts(builder, "mount -t tmpfs -o ro none /proc");
        follows_a_volume(&Shared::new(LONG), hide_proc);
    }
}

fn follows_a_volume(shared: &Shared, start: impl FnOnce(Builder) -> Builder) {
    let version = |name: &str, text: &str| {
        fs::create_dir(shared.path(name)).expect("the temporary folder is writable");
        fs::write(shared.path(name).join("state"), text).expect("the temporary folder is writable");
        symlink(name, shared.path("..data_tmp")).expect("the temporary folder is writable");
        fs::rename(shared.path("..data_tmp"), shared.path("..data")).expect("the temporary folder is writable");
    };
    version("..2026_11_30_1", "None");
    symlink("..data/state", shared.path("state")).expect("the temporary folder is writable");
    let sidecar = start(shared.scene.sidecar()).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    version("..2026_11_30_2", "Allocated");
    fs::remove_dir_all(shared.path("..2026_11_30_1")).expect("the temporary folder is writable");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    assert_eq!(sidecar.count_lines("probe failed"), 0, "{}", sidecar.stderr());
    // Another name, so that no moment without a link is seen.
    let secret = TempDir::new().expect("the temporary folder is writable");
    fs::write(secret.path().join("token"), TOKEN).expect("the temporary folder is writable");
    symlink(secret.path().join("token"), shared.path("new")).expect("the temporary folder is writable");
    fs::rename(shared.path("new"), shared.path("state")).expect("the temporary folder is writable");
    sidecar.wait_for_line("probe failed: the file cannot be read: a link leads out of its directory", SOON);
    assert!(!sidecar.stderr().contains(TOKEN), "{}", sidecar.stderr());
}

#[test]
fn a_file_without_end_costs_no_memory() {
    let calm = *CALM_KIB;
    let shared = Shared::new(LONG);
    // Holes, so that it takes no room.
    fs::File::create(shared.path("state")).unwrap().set_len(1 << 40).unwrap();
    let sidecar = shared.scene.sidecar().log("debug").start();
    sidecar.eventually(SOON, "three probes", || sidecar.count_lines("DEBUG endpoints[0]") >= 3);
    sidecar.wait_for_line("a result of more than 4 KiB", SOON);
    let peak = sidecar.vm_hwm_kib();
    assert!(peak <= calm + FLAT_KIB, "{peak} KiB, {calm} KiB while all servers are honest");
    shared.put("None");
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

// ---- what check and probe show

#[test]
fn probe_shows_what_each_kind_got() {
    let servers = (
        UdpServer::saying(a2s_info(b"A server", 5, 4)),
        UdpServer::saying(quake3_status(&[b"0 0 \"Sarge\"", b"7 48 \"a\""])),
        TcpServer::saying(minecraft_status(br#"{"players":{"online":2}}"#)),
    );
    let urls = [
        format!("a2s://{}", servers.0.address()),
        format!("quake3://{}", servers.1.address()),
        format!("minecraft://{}", servers.2.address()),
        format!("tcp://{}", servers.2.address()),
    ];
    let mut endpoints: Vec<String> = urls[..3].iter().map(|url| endpoint(url, LONG, BY_NUMBER)).collect();
    endpoints.push(endpoint(&urls[3], LONG, BY_CONNECTION));
    endpoints.push(endpoint(&urls[0], &format!("{LONG}, jsonPathConfig: {{jsonPath: map}}"), "labelKey: map"));
    let scene = scene_with(&endpoints);
    let ran = |command: &str| {
        let sidecar = scene.sidecar().arg(command).start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(0), "{}{}", sidecar.stdout(), sidecar.stderr());
        sidecar.stdout()
    };
    let probed = ran("probe");
    for shown in [
        r#"{"players":5,"bots":4,"maxPlayers":64,"name":"A server","map":"de_dust2""#,
        r#"{"players":2,"bots":1,"maxPlayers":16,"name":"arena","map":"oa_dm1""#,
        r#"{"players":{"online":2}}"#,
        "a connection",
        "`de_dust2`",
    ] {
        assert!(probed.contains(shown), "{shown}\n{probed}");
    }
    let checked = ran("check");
    for url in &urls[..3] {
        assert!(checked.contains(url), "{url}\n{checked}");
    }
}
