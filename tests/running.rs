//! The process and its log: signals, PID 1, a container with little room, a log that nobody reads, a freeze, a panic, and what
//! the log never contains (behaviour 7).

use std::any::Any;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use okg_sidecar::process;
use stand_ins::scene::{binary, config, endpoint};
use stand_ins::sidecar::{Builder, Exit};
use stand_ins::{
    Behaviour, BlackHole, Fault, Game, Init, Lookup, Nameserver, SOON, Scene, SidecarProcess, Signal, TOKEN, Which,
    each, eventually, namespace,
};
use tempfile::TempDir;

/// behaviour 7.2 promises 100 ms; a test sees the end a little later.
const AT_ONCE: Duration = Duration::from_millis(200);

const ROOMS: &str = "markerPolices: [{state: None, gameServerOpsState: None}, \
                     {state: Allocated, gameServerOpsState: Allocated}]";

/// A sidecar in either place.
enum Started {
    Child(SidecarProcess),
    Init(Init),
}

/// The place.
#[derive(Debug, Clone, Copy, PartialEq)]
enum As {
    Child,
    Init,
}

impl Started {
    /// `script` runs first, with mounts of the sidecar's own.
    #[track_caller]
    fn start(place: As, builder: Builder, script: &str) -> Self {
        match place {
            As::Init => Self::Init(Init::start(builder, script)),
            As::Child if script.is_empty() => Self::Child(builder.start()),
            As::Child => Self::Child(namespace::with_mounts(builder, script).start()),
        }
    }

    fn sidecar(&self) -> &SidecarProcess {
        match self {
            Self::Child(sidecar) => sidecar,
            Self::Init(init) => init,
        }
    }

    #[track_caller]
    fn end_by(&self, signal: Signal) -> Exit {
        match self {
            Self::Child(sidecar) => {
                sidecar.signal(signal);
                sidecar.wait_exit(SOON)
            }
            Self::Init(init) => init.end_by(signal, SOON),
        }
    }

    fn pid(&self) -> i32 {
        match self {
            Self::Child(sidecar) => sidecar.pid(),
            Self::Init(init) => init.pid(),
        }
    }

    /// Waits until a SYN of its own to this port of 127.0.0.1 has no answer.
    #[track_caller]
    fn wait_until_it_connects_to(&self, port: u16) {
        const SYN_SENT: &str = "02";
        let peer = format!("0100007F:{port:04X}");
        self.sidecar().eventually(SOON, "a connection attempt", || {
            let table = fs::read_to_string("/proc/net/tcp").expect("Linux tells its sockets");
            table.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words[2] == peer && words[3] == SYN_SENT && self.has_socket(words[9])
            })
        });
    }

    fn has_socket(&self, inode: &str) -> bool {
        let socket = format!("socket:[{inode}]");
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else { return false };
        descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|link| link == Path::new(&socket))
    }

    /// Waits until it does nothing any more. It then blocks in a system call, which nothing else shows.
    #[track_caller]
    fn wait_until_it_is_stuck(&self) {
        let pid = self.pid();
        let mut looks = 0;
        self.sidecar().eventually(SOON, "stuck", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            looks = if stat.contains("(okg-sidecar) S ") { looks + 1 } else { 0 };
            looks > 10
        });
    }
}

/// A pipe that takes no byte more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a descriptor is left");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe can be asked not to block");
    for piece in [4096, 1] {
        while writer.write(&vec![b'.'; piece]).is_ok() {}
    }
    rustix::io::ioctl_fionbio(&writer, false).expect("a pipe can be asked to block");
    (reader, writer)
}

// ---- signals

/// What the sidecar does when a signal comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Delay,
    Sleep,
    Connecting,
    Handshake,
    Answer,
    Body,
    Lookup,
    ApiConnecting,
    ApiHandshake,
    ApiAnswer,
    ApiBody,
    FullLog,
    FullStdout,
}

const EVERYWHERE: [At; 13] = [
    At::Delay,
    At::Sleep,
    At::Connecting,
    At::Handshake,
    At::Answer,
    At::Body,
    At::Lookup,
    At::ApiConnecting,
    At::ApiHandshake,
    At::ApiAnswer,
    At::ApiBody,
    At::FullLog,
    At::FullStdout,
];

/// What starts a container may have blocked the signals, and a mask is inherited.
#[test]
fn signals_that_were_blocked_at_the_start_end_the_process_too() {
    let block = ["env", "--block-signal=TERM", "--block-signal=INT"];
    let waits =
        [Behaviour::Echo("Host".into()), Behaviour::HoldWithoutAnswer, Behaviour::DripBody(Duration::from_millis(20))];
    for behaviour in waits {
        for signal in [Signal::TERM, Signal::INT] {
            let scene = Scene::new();
            scene.pod.update_config(&config(&[endpoint(&scene.game.url("/"), "timeout: 60", ROOMS)]));
            scene.game.behave(behaviour.clone());
            let sidecar = scene.sidecar().wrapped_in(&block).start();
            sidecar.eventually(SOON, "a probe", || !scene.game.requests().is_empty());
            sidecar.signal(signal);
            let exit = sidecar.wait_exit(SOON);
            assert_eq!(exit.code(), Some(0), "{behaviour:?} {signal:?}: {}", sidecar.stderr());
        }
    }
}

/// Brings a sidecar there and ends it.
#[track_caller]
fn end_at(at: At, place: As, signal: Signal) -> Duration {
    let scene = Scene::new();
    let probe_for_long = |url: &str| scene.pod.update_config(&config(&[endpoint(url, "timeout: 60", ROOMS)]));
    let hole = BlackHole::new();
    let port = hole.address().port();
    let mut kept: Vec<Box<dyn Any>> = Vec::new();
    let start = |builder| Started::start(place, builder, "");
    let started = match at {
        At::Delay => {
            let text = scene.rooms("");
            scene.pod.update_config(&text.replace("probeInterval", "startDelaySeconds: 60\n      probeInterval"));
            let started = start(scene.sidecar());
            started.sidecar().wait_for_line("first probe in 60 s", SOON);
            started
        }
        At::Sleep => {
            let started = start(scene.sidecar());
            started.sidecar().wait_for_line("opsState unknown -> None", SOON);
            started
        }
        At::Connecting => {
            probe_for_long(&format!("http://{}/", hole.address()));
            let started = start(scene.sidecar());
            started.wait_until_it_connects_to(port);
            started
        }
        At::Handshake => {
            let mute = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            probe_for_long(&format!("https://{}/", mute.local_addr().expect("it is bound")));
            let started = start(scene.sidecar());
            let (mut stream, _) = mute.accept().expect("the sidecar connects");
            stream.read_exact(&mut [0]).expect("it greets");
            kept.push(Box::new((mute, stream)));
            started
        }
        At::Answer | At::Body => {
            scene.game.behave(match at {
                At::Answer => Behaviour::HoldWithoutAnswer,
                _ => Behaviour::DripBody(Duration::from_millis(20)),
            });
            probe_for_long(&scene.game.url("/"));
            let started = start(scene.sidecar());
            started.sidecar().eventually(SOON, "a probe", || !scene.game.requests().is_empty());
            started
        }
        At::Lookup => {
            let nameserver = Nameserver::start(Lookup::Silence);
            probe_for_long("http://game.example.com/");
            let started = Started::start(place, scene.sidecar(), &nameserver.mount());
            started.sidecar().eventually(SOON, "a question", || nameserver.questions() > 0);
            kept.push(Box::new(nameserver));
            started
        }
        At::ApiConnecting => {
            let started = start(scene.sidecar().env("KUBERNETES_SERVICE_PORT", port.to_string()));
            started.wait_until_it_connects_to(port);
            started
        }
        At::ApiHandshake => {
            scene.api.always(Some(Fault::HangBeforeTls));
            let started = start(scene.sidecar());
            started.sidecar().eventually(SOON, "a connection", || scene.api.open_connections() > 0);
            started
        }
        At::ApiAnswer | At::ApiBody => {
            scene.api.always(Some(match at {
                At::ApiAnswer => Fault::HangAfterRequest,
                _ => Fault::DripResponse(Duration::from_millis(20)),
            }));
            let started = start(scene.sidecar());
            started.sidecar().eventually(SOON, "a patch", || !scene.api.requests().is_empty());
            started
        }
        At::FullLog => {
            let (reader, writer) = full_pipe();
            let started = start(scene.sidecar().log("debug").stderr_to(writer));
            started.sidecar().eventually(SOON, "two probes", || scene.game.requests().len() >= 2);
            kept.push(Box::new(reader));
            started
        }
        At::FullStdout => {
            let (reader, writer) = full_pipe();
            let builder = SidecarProcess::builder(binary()).args(["check", "--config"]).arg(scene.pod.config_path());
            let started = Started::start(place, builder.stderr_to(writer), "exec 1>&2");
            started.wait_until_it_is_stuck();
            kept.push(Box::new(reader));
            started
        }
    };
    let exit = started.end_by(signal);
    if exit.code() != Some(0) {
        started.sidecar().fail(&format!("ended by {signal:?} with {}", exit.status));
    }
    exit.elapsed
}

fn ends_everywhere(place: As) {
    let permitted = namespace::permitted();
    if place == As::Init && !permitted {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        // Two of them need mounts of their own.
        let cases = EVERYWHERE.into_iter().filter(|at| permitted || !matches!(at, At::Lookup | At::FullStdout));
        let cases = cases.map(|at| (format!("{at:?} by {signal:?}"), at));
        each(cases, |at| {
            // A busy machine is slow now and then; what waits for something is slow each time.
            let fastest = (0..10).map(|_| end_at(at, place, signal)).find(|elapsed| *elapsed <= AT_ONCE);
            assert!(fastest.is_some(), "not within {AT_ONCE:?}");
        });
    }
}

#[test]
fn a_signal_ends_it_at_once_wherever_it_is() {
    ends_everywhere(As::Child);
}

#[test]
fn a_signal_ends_pid_1_at_once_wherever_it_is() {
    ends_everywhere(As::Init);
}

#[test]
fn a_signal_in_its_first_moments_never_hangs_it() {
    let scene = Scene::new();
    for step in 0..60 {
        let sidecar = scene.sidecar().start();
        thread::sleep(Duration::from_micros(step * 100));
        // Before there is a handler, the system ends it, or drops the signal if the test was started with that signal
        // ignored, as by nohup or in the background of a script. So it is sent until one is heard.
        let signal = if step % 2 == 0 { Signal::TERM } else { Signal::INT };
        eventually(SOON, "its end", || !sidecar.signal_unless_ended(signal));
        let status = sidecar.wait_exit(SOON).status;
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert!(status.code() == Some(0) || matches!(by_signal, Some(2 | 15)), "step {step}: {status:?}");
    }
}

#[test]
fn a_signal_in_the_first_moments_of_pid_1_never_hangs_it() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    for step in 0..15 {
        let init = Init::start(scene.sidecar(), "");
        eventually(SOON, "the sidecar itself", || init.has_begun());
        thread::sleep(Duration::from_micros(step * 200));
        // The system drops a signal to PID 1 that comes before the handler, so that it is sent until one is heard.
        eventually(SOON, "its end", || !init.signal_unless_ended(Signal::TERM));
        assert_eq!(init.wait_exit(SOON).code(), Some(0), "step {step}");
    }
}

// ---- the container

/// Lets the sidecar write one termination log, which a test can read, with mounts of the sidecar's own.
fn termination_log(folder: &Path) -> (std::path::PathBuf, String) {
    let log = folder.join("termination-log");
    fs::write(&log, "").expect("the folder is writable");
    let target = "/dev/termination-log";
    let script = format!("mount -t tmpfs none /dev\ntouch {target}\nmount --bind {} {target}", log.display());
    (log, script)
}

#[test]
fn pid_1_does_the_job_and_leaves_its_last_words_in_the_termination_log() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    let (log, script) = termination_log(scene.pod.folder());
    let init = Init::start(scene.sidecar(), &script);
    init.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(init.threads(), 1);
    assert_eq!(init.end_by(Signal::TERM, SOON).code(), Some(0));
    assert_eq!(fs::read_to_string(&log).unwrap(), "");

    for (case, builder, code, told) in [
        ("usage", scene.sidecar().arg("serve"), 2, "unexpected argument `serve`"),
        ("surroundings", scene.sidecar().without_env("POD_NAME"), 1, "POD_NAME must be set"),
        ("config", SidecarProcess::builder(binary()).args(["--config", "/nowhere"]), 1, "/nowhere: must be readable"),
    ] {
        let init = Init::start(builder, &script);
        assert_eq!(init.wait_exit(SOON).code(), Some(code), "{case}");
        let words = fs::read_to_string(&log).unwrap();
        assert!(words.contains(told) && words.lines().count() == 1, "{case}: {words}");
    }
}

/// A user whose processes nobody else starts.
fn some_user() -> u32 {
    60_000 + std::process::id() % 5_000
}

#[test]
fn one_process_without_a_thread_and_sixteen_descriptors_are_enough() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    let secure = Game::builder().tls(&stand_ins::ServerCertificate::self_signed(&["game"])).start();
    secure.set(200, "unknown");
    let endpoints = [
        endpoint(&secure.url("/"), "timeout: 20", ROOMS),
        endpoint("http://game.example.com/", "timeout: 20", ROOMS),
        scene.endpoint("timeout: 20", ROOMS),
    ];
    scene.pod.update_config(&config(&endpoints));
    let user = some_user().to_string();
    let limits = ["prlimit", "--nproc=1", "--nofile=16", "setpriv", "--reuid", &user, "--regid", &user];
    let wrapper = [limits.as_slice(), &["--clear-groups", "--no-new-privs"]].concat();
    let forks = SidecarProcess::builder("/bin/sh").args(["-c", "/bin/true; echo forked"]).wrapped_in(&wrapper).start();
    forks.wait_exit(SOON);
    assert!(!forks.stdout().contains("forked"), "the limit does not hold\n{}", forks.stderr());

    let nameserver = Nameserver::start(Lookup::NoSuchName);
    let mount = format!(
        "{}
exec \"$@\"",
        nameserver.mount()
    );
    let wrapper = [["unshare", "--mount", "sh", "-ec", &mount, "sh"].as_slice(), &wrapper].concat();
    let sidecar = scene.sidecar().wrapped_in(&wrapper).start();
    for (state, before) in [("None", "unknown"), ("Allocated", "None"), ("None", "Allocated")] {
        scene.game.set(200, state);
        sidecar.wait_for_line(&format!("opsState {before} -> {state}"), SOON);
        assert_eq!(sidecar.threads(), 1);
    }
    // The second is logged as a game that is away, the first not at all.
    assert_eq!(sidecar.count_lines("failed to lookup address"), 1, "{}", sidecar.stderr());
    assert_eq!(sidecar.count_lines("probe failed"), 1, "{}", sidecar.stderr());
    assert_eq!(sidecar.proc_status("Uid"), u64::from(some_user()));
    assert_eq!(sidecar.proc_status("CapEff"), 0);
}

/// The libraries that a binary is linked to; none when it is static.
fn libraries(of: &Path) -> Vec<String> {
    let told = Command::new("ldd").arg(of).output().map(|output| output.stdout).unwrap_or_default();
    let told = String::from_utf8_lossy(&told).into_owned();
    told.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

#[test]
fn a_read_only_root_that_holds_nothing_else_is_enough() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    let url = format!("http://localhost:{}/", scene.game.address().port());
    scene.pod.update_config(&config(&[endpoint(&url, "timeout: 20", ROOMS)]));
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let binary = fs::canonicalize(binary()).unwrap();
    let mut needed = libraries(&binary);
    needed.push(binary.display().to_string());
    for file in needed {
        let copy = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&file, copy).unwrap();
    }
    let pod = root.join(scene.pod.folder().strip_prefix("/").unwrap());
    fs::create_dir_all(&pod).unwrap();
    Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap();
    let (root, user) = (root.display(), some_user() + 5_000);
    let script = format!(
        "mount --bind {root} {root}\nmount --bind {} {}\nmount -o remount,bind,ro {root}\n\
         set -- prlimit --nproc=1 --nofile=16 /usr/sbin/chroot --userspec={user}:{user} --groups= {root} \"$@\"",
        scene.pod.folder().display(),
        pod.display(),
    );
    let init = Init::start(scene.sidecar(), &script);
    init.wait_for_line("opsState unknown -> None", SOON);
    scene.game.set(200, "Allocated");
    init.wait_for_line("opsState None -> Allocated", SOON);
    let seen_from_inside = |path: &str| fs::exists(format!("/proc/{}/root/{path}", init.pid())).unwrap();
    assert!(!seen_from_inside("proc") && !seen_from_inside("dev") && !seen_from_inside("etc"));
    assert_eq!(init.threads(), 1);
    assert_eq!(init.end_by(Signal::TERM, SOON).code(), Some(0));
}

#[test]
fn without_proc_and_dev_it_works_as_well() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    let script = "mount -t tmpfs -o ro none /dev\nmount -t tmpfs -o ro none /proc";
    let sidecar = namespace::with_mounts(scene.sidecar(), script).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
}

/// Takes all descriptors away for three rounds. The game goes on answering, so that nothing may be decided.
fn runs_out_of_descriptors(scene: &Scene, url: &str, start: impl FnOnce(Builder) -> Builder) {
    let policies = "markerPolices: [{state: None, gameServerOpsState: None}, \
                    {state: Allocated, gameServerOpsState: Allocated}, \
                    {state: Failed, gameServerOpsState: Maintaining}]";
    scene.pod.update_config(&config(&[endpoint(url, "timeout: 20, failureThreshold: 1", policies)]));
    let sidecar = start(scene.sidecar().log("debug")).start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    let limit = |most: &str| {
        let status = Command::new("prlimit").args(["--pid", &sidecar.pid().to_string(), most]).status();
        assert!(status.expect("prlimit runs").success());
    };
    limit("--nofile=1:");
    let probes = || sidecar.count_lines("DEBUG endpoints[0]");
    let before = probes();
    sidecar.eventually(SOON, "four probes", || probes() >= before + 4);
    assert_eq!(sidecar.count_lines("WARN  endpoints[0]"), 1, "{}", sidecar.stderr());
    assert_eq!(sidecar.count_lines("writing "), 0, "{}", sidecar.stderr());
    limit("--nofile=1000:");
    scene.game.set(200, "Allocated");
    sidecar.wait_for_line("opsState None -> Allocated", SOON);
    assert_eq!(scene.patched(), ["None", "Allocated"], "{}", sidecar.stderr());
}

#[test]
fn running_out_of_descriptors_says_nothing_about_the_game() {
    let scene = Scene::new();
    runs_out_of_descriptors(&scene, &scene.game.url("/"), |builder| builder);
}

#[test]
fn running_out_of_descriptors_in_name_lookup_says_nothing_about_the_game() {
    if !namespace::permitted() {
        return;
    }
    let scene = Scene::new();
    let hosts = scene.pod.folder().join("hosts");
    fs::write(&hosts, "127.0.0.1 game.example.com\n").unwrap();
    let mount = format!("mount --bind {} /etc/hosts", hosts.display());
    let url = format!("http://game.example.com:{}/", scene.game.address().port());
    runs_out_of_descriptors(&scene, &url, |builder| namespace::with_mounts(builder, &mount));
}

#[test]
fn it_is_one_process_with_one_thread_that_keeps_no_descriptor() {
    let scene = Scene::new();
    let text =
        scene.rooms("").replace("probeIntervalSeconds: 1", "startDelaySeconds: 4\n      probeIntervalSeconds: 1");
    scene.pod.update_config(&text);
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("first probe in 4 s", SOON);
    // Those that the test itself was given are inherited.
    let inherited = sidecar.open_fds();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    assert_eq!(sidecar.threads(), 1);
    sidecar.eventually(SOON, "no more descriptors than before", || sidecar.open_fds() == inherited);
}

// ---- the log's reader

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let scene = Scene::new();
    let (mut reader, writer) = full_pipe();
    let sidecar = scene.sidecar().log("debug").stderr_to(writer).start();
    let writes = |states: &[&str]| {
        for state in states {
            scene.game.set(200, *state);
            sidecar.eventually(SOON, "a write", || scene.ops_state() == *state && !scene.patched().is_empty());
        }
    };
    writes(&["None", "Allocated", "WaitToBeDeleted"]);
    assert_eq!(sidecar.threads(), 1);

    // Once there is room, lines come again, whole ones, and what was in the pipe is unharmed.
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with('\n') {
        let read = reader.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let line = text.trim_start_matches('.');
    assert!(line.starts_with("DEBUG endpoints[0] ") || line.starts_with("INFO  opsState "), "{line}");

    drop(reader);
    writes(&["None", "Allocated"]);
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_log_that_is_closed_from_the_start_stops_nothing() {
    let scene = Scene::new();
    let wrapper = ["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"];
    let sidecar = scene.sidecar().log("debug").wrapped_in(&wrapper).start();
    sidecar.eventually(SOON, "a write", || scene.ops_state() == "None" && !scene.patched().is_empty());
    scene.game.set(200, "Allocated");
    sidecar.eventually(SOON, "another", || scene.ops_state() == "Allocated");
    // Nothing that it opens later takes the place of standard error, or lines would be written into it.
    let stderr = fs::read_link(format!("/proc/{}/fd/2", sidecar.pid())).unwrap();
    assert_eq!(stderr, Path::new("/dev/null"));
}

#[test]
fn an_end_by_itself_waits_for_no_reader() {
    let scene = Scene::new();
    let (reader, writer) = full_pipe();
    let sidecar = scene.sidecar().without_env("POD_NAME").stderr_to(writer).start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
    drop(reader);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let sidecar = scene.sidecar().without_env("POD_NAME").stderr_to(writer).start();
    assert_eq!(sidecar.wait_exit(SOON).code(), Some(1));
}

// ---- time

#[test]
fn a_freeze_is_followed_by_no_burst() {
    let frozen = Duration::from_secs(5);
    each(["asleep", "in a probe", "in a patch"].map(|case| (case.to_owned(), case)), |case| {
        let scene = Scene::new();
        let sidecar = scene.sidecar().start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        match case {
            "in a probe" => {
                scene.game.behave(Behaviour::HoldWithoutAnswer);
                let probes = scene.game.requests().len();
                sidecar.eventually(SOON, "a probe", || scene.game.requests().len() > probes);
            }
            "in a patch" => {
                scene.api.always_of(&Which::writes(), Some(Fault::HangAfterRequest));
                scene.game.set(200, "Allocated");
                sidecar.eventually(SOON, "a patch", || scene.patched().len() == 2);
            }
            _ => {}
        }
        sidecar.signal(Signal::STOP);
        thread::sleep(frozen);
        let before = scene.game.requests().len();
        scene.game.set(200, "Allocated");
        scene.api.always_of(&Which::writes(), None);
        let thawed = Instant::now();
        sidecar.signal(Signal::CONT);
        sidecar.eventually(SOON * 2, "three probes", || scene.game.requests().len() >= before + 3);
        let probes: Vec<Duration> =
            scene.game.requests()[before..].iter().take(3).map(|probe| probe.at - thawed).collect();
        // One for the round that is due, and then the rate from before: the third comes an interval after the first.
        // Half of it, since a busy machine may see the first one late.
        assert!(probes[2] - probes[0] > Duration::from_millis(500), "{probes:?}");
        sidecar.eventually(SOON, "the game's state", || scene.ops_state() == "Allocated");
    });
}

// ---- panics

/// Set if this test binary is a child of itself.
const PANICS: &str = "OKG_TEST_PANICS";

/// No test: what `a_panic_exits_with_70` runs as a process of its own.
#[test]
fn panics_where_it_is_told_to() {
    if std::env::var_os(PANICS).is_some() {
        process::exit_on_panic();
        panic!("a made-up fault\nERROR forged");
    }
}

#[test]
fn a_panic_exits_with_70_and_last_words() {
    let folder = TempDir::new().unwrap();
    let itself = || {
        let words = ["--exact", "running::panics_where_it_is_told_to", "--nocapture"];
        SidecarProcess::builder(std::env::current_exe().unwrap()).args(words).env(PANICS, "1")
    };
    let told = ["internal error at tests/running.rs:", ": `a made-up fault\\nERROR forged`"];
    let child = itself().start();
    assert_eq!(child.wait_exit(SOON).code(), Some(70));
    let line = child.wait_for_line("ERROR internal error", SOON).text;
    assert!(told.iter().all(|part| line.contains(part)), "{line}");
    // The runtime's own report may contain anything, on several lines.
    assert_eq!(child.count_lines("panicked at"), 0, "{}", child.stderr());
    assert_eq!(child.stderr().lines().count(), 1, "{}", child.stderr());

    let (reader, writer) = full_pipe();
    assert_eq!(itself().stderr_to(writer).start().wait_exit(SOON).code(), Some(70));
    drop(reader);

    if namespace::permitted() {
        let (log, script) = termination_log(folder.path());
        let init = Init::start(itself(), &script);
        assert_eq!(init.wait_exit(SOON).code(), Some(70));
        let words = fs::read_to_string(log).unwrap();
        assert!(told.iter().all(|part| words.contains(part)), "{words}");
    }
}

// ---- what the log contains

/// Base64 without its last group, which depends on what follows.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3).map(|group| group.iter().fold(0_usize, |bits, byte| bits << 8 | *byte as usize));
    groups.flat_map(|bits| [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63]))).collect()
}

/// Every form in which a log may contain a secret, or a good part of it.
fn disguises(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let middle = &bytes[4..16];
    let joined = |separator: &str, show: fn(u8) -> String| {
        middle.iter().map(|byte| show(*byte)).collect::<Vec<_>>().join(separator)
    };
    let mut disguises = vec![String::from_utf8_lossy(middle).into_owned()];
    for separator in ["", " ", ":", ", "] {
        disguises.push(joined(separator, |byte| format!("{byte:02x}")));
        disguises.push(joined(separator, |byte| format!("{byte:02X}")));
    }
    disguises.push(joined(", ", |byte| byte.to_string()));
    disguises.push(joined(", ", |byte| format!("{byte:#x}")));
    disguises.push(middle.iter().rev().map(|byte| char::from(*byte)).collect());
    disguises.extend((0..3).map(|skipped| base64(&bytes[skipped..])));
    disguises
}

#[track_caller]
fn never_says(sidecar: &SidecarProcess, secrets: &[&str]) {
    let text = sidecar.stdout() + &sidecar.stderr();
    for disguise in secrets.iter().flat_map(|secret| disguises(secret)) {
        assert!(!text.contains(&disguise), "{disguise} in\n{text}");
    }
}

#[test]
fn no_secret_is_in_the_log_at_any_level() {
    const NEW_TOKEN: &str = "another-bearer-that-is-hidden";
    const KEY: &str = "Basic c2VjcmV0LWtleS1vZi10aGUtZ2FtZQ==";
    const QUERY: &str = "key-in-the-query-string";
    each(
        ["trace", "ureq=trace,ureq_proto=trace,rustls=trace,okg_sidecar=trace", "trace,ureq_proto::util=trace"]
            .map(|filter| (filter.to_owned(), filter)),
        |filter| {
            let scene = Scene::new();
            let keys = format!("timeout: 20, headers: {{Authorization: '{KEY}'}}");
            let url = scene.game.url(&format!("/state?key={QUERY}"));
            scene.pod.update_config(&config(&[endpoint(&url, &keys, ROOMS)]));
            scene.api.next([Fault::status(403, "no"), Fault::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())]);
            let sidecar = scene.sidecar().log(filter).start();
            sidecar.wait_for_line("opsState unknown -> None", SOON);
            scene.api.refuse_token(TOKEN);
            scene.api.accept_token(NEW_TOKEN);
            scene.pod.rotate_token(NEW_TOKEN);
            scene.api.next([Fault::DropAfterTls]);
            scene.game.set(200, "Allocated");
            sidecar.wait_for_line("opsState None -> Allocated", SOON);

            // Neither can be used, and neither may be logged.
            scene.pod.rotate_token(&format!("{NEW_TOKEN}\r\nX-Other: {TOKEN}"));
            scene.pod.set_ca(&format!("-----BEGIN CERTIFICATE-----\n{TOKEN}\n-----END CERTIFICATE-----\n"));
            scene.game.behave(Behaviour::Raw(b"HTTP/1.1 000 \r\n\r\n".to_vec()));
            sidecar.wait_for_line("probe failed", SOON);
            scene.game.set(200, "None");
            sidecar.wait_for_line("token: must hold a token; using the last good one", SOON);
            sidecar.wait_for_line("opsState Allocated -> None", SOON);
            never_says(&sidecar, &[TOKEN, NEW_TOKEN, KEY, QUERY]);
        },
    );
}

#[test]
fn the_token_is_in_no_log_line_at_any_level_whatever_the_server_says() {
    let scene = Scene::new();
    // A proxy may answer what it got; the second is cut within the token.
    let echo = format!("the request had Authorization: Bearer {TOKEN}");
    let long_echo = format!("{}{TOKEN}", "x".repeat(65));
    scene.api.next([
        Fault::Raw(format!("HTTP/1.1 400 Bearer {TOKEN}\r\nX-Echo: {TOKEN}\r\n\r\n{TOKEN}").into_bytes()),
        Fault::Raw(format!("{TOKEN} SSH-2.0\r\n").into_bytes()),
        Fault::DropAfterTls,
        Fault::status(500, &echo),
        Fault::status(401, &echo),
        Fault::status(503, &long_echo),
    ]);
    let sidecar = scene.sidecar().log("trace").start();
    sidecar.wait_for_line("status 400", SOON);
    for state in ["Allocated", "WaitToBeDeleted"] {
        scene.game.set(200, state);
        sidecar.eventually(2 * SOON, "it is written", || scene.ops_state() == state);
    }
    never_says(&sidecar, &[TOKEN]);
}

#[test]
fn the_token_is_in_no_error_of_the_start_either() {
    for (file, contents) in [
        ("token", format!("{TOKEN} {TOKEN}")),
        ("token", format!("{TOKEN}\n{TOKEN}")),
        ("token", format!("\u{feff}{TOKEN}")),
        ("ca.crt", TOKEN.to_owned()),
    ] {
        let scene = Scene::new();
        scene.pod.account.update(file, contents);
        let sidecar = scene.sidecar().log("trace").start();
        assert_eq!(sidecar.wait_exit(SOON).code(), Some(1), "{}", sidecar.stderr());
        never_says(&sidecar, &[TOKEN]);
    }
}

#[test]
fn a_state_that_lasts_is_told_once() {
    /// How many lines there are after several rounds, the first of the start included.
    type Case = (fn(&Scene), usize, &'static str);
    let cases: [(&str, Case); 7] = [
        ("all is well", (|_| {}, 2, "opsState unknown -> None")),
        (
            "a result that no policy matches",
            (|scene| scene.game.set(200, "odd"), 2, "no policy matches the result `odd`"),
        ),
        ("a game that is away", (|scene| scene.game.stop(), 2, "probe failed: no response")),
        ("a game that says no", (|scene| scene.game.set(500, ""), 2, "probe failed: status 500")),
        ("an API server that is away", (|scene| scene.api.stop(), 2, "retrying: no response")),
        (
            "an API server that fails",
            (|scene| scene.api.always(Some(Fault::status(503, "etcd"))), 2, "retrying: status 503, `etcd`"),
        ),
        ("a GameServer that is not there yet", (|scene| scene.api.remove(&scene.path()), 1, "first probe in 0 s")),
    ];
    each(cases.map(|(name, case)| (name.to_owned(), case)), |(prepare, lines, told)| {
        let scene = Scene::new();
        prepare(&scene);
        // A second endpoint counts the rounds.
        let clock = Game::start();
        let health = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
        let endpoints = [scene.endpoint("timeout: 20", ROOMS), endpoint(&clock.url("/"), "timeout: 20", health)];
        scene.pod.update_config(&config(&endpoints));
        let sidecar = scene.sidecar().start();
        sidecar.eventually(SOON, "six rounds", || clock.requests().len() >= 6);
        sidecar.wait_for_line(told, SOON);
        // One of them warns that the timeouts add up to more than the interval.
        assert_eq!(sidecar.stderr().lines().count(), 1 + lines, "{}", sidecar.stderr());
    });
}

/// Every line is one of ours, whole, of reasonable length, and shows nothing that a terminal would obey.
#[track_caller]
fn is_well_formed(sidecar: &SidecarProcess, longest: usize) {
    for line in sidecar.stderr().lines() {
        let level = ["ERROR ", "WARN  ", "INFO  ", "DEBUG "].iter().find(|level| line.starts_with(**level));
        assert!(level.is_some(), "{line:?}\n{}", sidecar.stderr());
        let odd = |c: char| {
            c.is_control() || ('\u{200b}'..='\u{200f}').contains(&c) || ('\u{2028}'..='\u{202e}').contains(&c)
        };
        assert!(!line.contains(odd), "{line:?}");
        assert!(line.chars().count() <= longest, "{} characters: {line:.200}", line.chars().count());
    }
}

#[test]
fn nothing_from_outside_can_forge_or_flood_a_log() {
    let forged = "INFO  opsState None -> Kill (endpoints[0]";
    let texts = [
        format!("x\n{forged}"),
        format!("x\r\n{forged}"),
        format!("x\r{forged}"),
        format!("\u{b}\u{c}\u{85}\u{2028}\u{2029}{forged}"),
        format!("\u{1b}[2K\u{1b}[1G{forged}"),
        format!("\u{9b}2K\u{7}\u{8}\u{7f}\0{forged}"),
        format!("\u{202e}\u{200b}\u{2066}\u{feff}{forged}"),
        "x\n".repeat(30_000),
        "\u{1b}".repeat(30_000),
        "空".repeat(20_000),
    ];
    each(texts.into_iter().enumerate().map(|(number, text)| (format!("text {number}"), text)), |text| {
        let scene = Scene::new();
        let sidecar = scene.sidecar().log("debug").start();
        sidecar.wait_for_line("opsState unknown -> None", SOON);
        // In a body, in a header, in a status line, in an answer of the API server, in a config.
        scene.game.set(200, text.as_bytes());
        sidecar.wait_for_line("no policy matches", SOON);
        scene.game.behave(Behaviour::Raw(format!("HTTP/1.1 200 {text}\r\nX: {text}\r\n\r\n").into_bytes()));
        let probes = sidecar.count_lines("DEBUG endpoints[0]");
        sidecar.eventually(SOON, "such a probe", || sidecar.count_lines("DEBUG endpoints[0]") >= probes + 2);
        scene.api.next([Fault::status(422, &text)]);
        scene.game.set(200, "Allocated");
        sidecar.wait_for_line("retrying: status 422", SOON);
        scene.api.next([Fault::Answer { status: 500, headers: Vec::new(), body: text.clone() }]);
        scene.game.set(200, "WaitToBeDeleted");
        sidecar.wait_for_line("retrying: status 500", SOON);
        let quoted = serde_json::to_string(&text).unwrap();
        scene.pod.update_config(&format!("{{plugins: [{{name: {quoted}, config: {{}}}}]}}"));
        sidecar.wait_for_line("new config rejected, keeping the old one", SOON);
        is_well_formed(&sidecar, 1000);
        assert!(!sidecar.stderr().lines().any(|line| line.starts_with(forged)), "{}", sidecar.stderr());
    });
}

#[test]
fn a_line_that_is_too_long_is_cut_and_still_ends() {
    let scene = Scene::new();
    let long = "x".repeat(60);
    let mut endpoints = vec![scene.endpoint("timeout: 20", ROOMS)];
    let health = "markerPolices: [{state: Failed, gameServerOpsState: None}]";
    endpoints
        .extend((1..60).map(|number| endpoint(&scene.game.url(&format!("/{long}{number}")), "timeout: 20", health)));
    scene.pod.update_config(&config(&endpoints));
    let sidecar = scene.sidecar().start();
    sidecar.wait_for_line("opsState unknown -> None", SOON);
    // One of them warns that the timeouts add up to more than the interval.
    assert_eq!(sidecar.stderr().lines().count(), 3, "{}", sidecar.stderr());
    is_well_formed(&sidecar, 4096);
}
