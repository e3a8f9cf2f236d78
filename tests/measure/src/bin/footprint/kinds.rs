//! Owns what the kinds of probe cost that speak no HTTP, each beside a bare loop of its protocol.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stand_ins::scene::{config, endpoint};
use stand_ins::servers::{TcpServer, UdpServer, a2s_info, bedrock_pong, minecraft_status, quake3_status, says};
use stand_ins::{POD_UID, Scene, SidecarProcess};
use tempfile::TempDir;

use super::{Cost, INTERVAL, Options, Probing, Row, budget, system_calls};

/// A kind of probe, and the calls that one of its probes may take.
pub(super) const KINDS: [(&str, f64); 6] = [
    ("tcp", budget::CALLS_OF_A_UDP_PROBE),
    ("file", budget::CALLS_OF_A_FILE_PROBE),
    ("a2s", budget::CALLS_OF_A_UDP_PROBE),
    ("bedrock", budget::CALLS_OF_A_UDP_PROBE),
    ("quake3", budget::CALLS_OF_A_UDP_PROBE),
    ("minecraft", budget::CALLS_OF_A_MINECRAFT_PROBE),
];

/// What a round takes beside its probes: a look whether the config has changed, and the sleep to the next one.
const OF_A_ROUND: [&str; 2] = ["clock_nanosleep", "stat"];

/// What is probed, and a count of how often.
enum Server {
    Udp(UdpServer),
    Tcp(TcpServer, Arc<AtomicUsize>),
    /// Nobody counts who reads it: a probe an interval.
    File(PathBuf, #[expect(dead_code, reason = "it is removed when this is dropped")] TempDir, Instant),
}

impl Server {
    fn start(kind: &str) -> Self {
        let counted = |answer: Option<Vec<u8>>| {
            let count = Arc::new(AtomicUsize::new(0));
            let counts = Arc::clone(&count);
            let answer = answer.map(says);
            let server = TcpServer::start(move |stream| {
                counts.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = &answer {
                    answer(stream);
                }
            });
            Self::Tcp(server, count)
        };
        match kind {
            "tcp" => counted(None),
            "minecraft" => counted(Some(minecraft_status(
                br#"{"version":{"name":"1.21.1","protocol":767},"players":{"max":20,"online":3},"description":"A server"}"#,
            ))),
            "a2s" => Self::Udp(UdpServer::a2s(|| a2s_info(b"A server", 5, 2))),
            "bedrock" => Self::Udp(UdpServer::saying(bedrock_pong("A server", 3))),
            "quake3" => Self::Udp(UdpServer::saying(quake3_status(&[b"1 48 \"a\"", b"0 0 \"Sarge\""]))),
            _ => {
                let folder = TempDir::new().expect("the temporary folder is writable");
                let path = folder.path().join("state");
                fs::write(&path, "3\n").expect("the folder is writable");
                Self::File(path, folder, Instant::now())
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(server) => Some(server.address()),
            Self::Tcp(server, _) => Some(server.address()),
            Self::File(..) => None,
        }
    }

    /// What both programs are given: an address or a path.
    fn place(&self) -> String {
        match self {
            Self::File(path, ..) => path.display().to_string(),
            Self::Udp(_) | Self::Tcp(..) => self.address().map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

/// A process that probes a server once a second.
struct Prober {
    process: SidecarProcess,
    server: Server,
    #[expect(dead_code, reason = "it stops when this is dropped")]
    scene: Scene,
}

impl Prober {
    fn start((kind, is_bare): (&str, bool), options: &Options, wrapper: &[&str]) -> Self {
        let (server, scene) = (Server::start(kind), Scene::new());
        let place = server.place();
        let process = if is_bare {
            SidecarProcess::builder(&options.bare_loop).arg(place).arg(kind)
        } else {
            // Nothing is ever written: what a write takes would be counted with the probes after it.
            let policies = match kind {
                "tcp" => "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]",
                _ => "markerPolices: [{min: 1000, gameServerOpsState: Maintaining}]",
            };
            scene.pod.update_config(&config(&[endpoint(&format!("{kind}://{place}"), "timeout: 1", policies)]));
            SidecarProcess::builder(&options.binary).pod(&scene.pod)
        };
        let process = process.wrapped_in(wrapper).api_server(&scene.api).env("POD_UID", POD_UID).start();
        Self { process, server, scene }
    }
}

impl Probing for Prober {
    fn process(&self) -> &SidecarProcess {
        &self.process
    }

    fn probes(&self) -> usize {
        match &self.server {
            Server::Udp(server) => server.received().len(),
            Server::Tcp(_, count) => count.load(Ordering::Relaxed),
            Server::File(_, _, started) => (started.elapsed().as_secs_f64() / INTERVAL.as_secs_f64()) as usize,
        }
    }
}

/// What the bare loop and the sidecar took for each kind, all at the same time.
pub(super) struct Run([[Cost; 2]; KINDS.len()]);

impl Run {
    pub(super) fn measure(options: &Options) -> Self {
        let programs = KINDS.map(|(kind, _)| [(kind, true), (kind, false)]);
        let mut calls =
            system_calls(programs.as_flattened(), |program, wrapper| Prober::start(*program, options, wrapper));
        let probers = programs.map(|of_kind| of_kind.map(|program| Prober::start(program, options, &[])));
        for prober in probers.iter().flatten() {
            prober.await_probes(4);
        }
        let before = probers.each_ref().map(|of_kind| of_kind.each_ref().map(Prober::reading));
        thread::sleep(Duration::from_secs(options.seconds));
        let mut at = 0;
        let costs = [0, 1, 2, 3, 4, 5].map(|kind| {
            [0, 1].map(|program| {
                let cost = Cost::between(&before[kind][program], &probers[kind][program], calls[at].take());
                at += 1;
                cost
            })
        });
        Self(costs)
    }
}

/// In Markdown: a column for each kind.
pub(super) fn table(runs: &[Run], broken: &mut Vec<String>) -> String {
    let mut text = String::from("| a probe |");
    KINDS.iter().for_each(|(kind, _)| text += &format!(" {kind} |"));
    text += " budget |\n|---|";
    text += &"--:|".repeat(KINDS.len() + 1);
    text.push('\n');
    let mut row = |name: &str, decimals, of: &dyn Fn(&[Cost; 2]) -> Option<f64>, budget: Option<f64>| {
        let columns = (0..KINDS.len()).map(|kind| runs.iter().map(|run| of(&run.0[kind])).collect()).collect();
        Row { name, decimals, columns, budget }.write(0..KINDS.len(), &mut text, broken);
    };
    row("CPU time of the bare loop, µs", 0, &|[bare, _]| Some(bare.cpu_microseconds), None);
    row("CPU time of okg-sidecar, µs", 0, &|[_, sidecar]| Some(sidecar.cpu_microseconds), None);
    row(
        "the same, times the bare loop",
        2,
        &|[bare, sidecar]| Some(sidecar.cpu_microseconds / bare.cpu_microseconds),
        Some(budget::TIMES_THE_BARE_LOOP_OF_A_KIND),
    );
    let of_a_probe = |cost: &Cost| cost.calls(|name| !OF_A_ROUND.contains(&name));
    row("system calls of the bare loop", 0, &|[bare, _]| of_a_probe(bare), None);
    row("system calls of okg-sidecar", 0, &|[_, sidecar]| of_a_probe(sidecar), None);
    row("page faults", 1, &|[_, sidecar]| Some(sidecar.page_faults), Some(budget::PAGE_FAULTS));
    row("private memory (RssAnon), KiB", 0, &|[_, sidecar]| Some(sidecar.rss_anon_kib), Some(budget::RSS_ANON_KIB));
    row("peak resident memory (VmHWM), KiB", 0, &|[_, sidecar]| Some(sidecar.vm_hwm_kib), Some(budget::VM_HWM_KIB));
    row("threads", 0, &|[_, sidecar]| Some(sidecar.threads), Some(budget::THREADS));
    for (index, (kind, most)) in KINDS.iter().enumerate() {
        for [_, sidecar] in runs.iter().map(|run| &run.0[index]) {
            match of_a_probe(sidecar) {
                None => broken.push(format!("system calls of {kind}: not measured, since there is no strace")),
                Some(calls) if calls.round() > *most => {
                    broken.push(format!("system calls of {kind}: {calls:.1}, at most {most}"));
                }
                Some(_) => {}
            }
        }
    }
    text
}
