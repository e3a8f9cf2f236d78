//! Owns the sidecar's real binary as a child process: its arguments and environment, its output, its cost and its end.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

use super::api_server::ApiServer;
use super::pod::Pod;
use super::{holds_within, locked};

pub use rustix::process::Signal;

/// How a sidecar is started. It gets no environment but what is given here.
pub struct Builder {
    wrapper: Vec<OsString>,
    binary: PathBuf,
    args: Vec<OsString>,
    flags: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    stderr: Option<Stdio>,
}

impl Builder {
    /// Adds one argument, before the flags that [`Builder::pod`] gives.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// Takes a variable away that an earlier step has set.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Sets RUST_LOG.
    pub fn log(self, filter: &str) -> Self {
        self.env("RUST_LOG", filter)
    }

    /// Gives it this pod's name, namespace and mounted files.
    pub fn pod(mut self, pod: &Pod) -> Self {
        self.flags = vec![
            "--config".into(),
            pod.config_path().into(),
            "--service-account-dir".into(),
            pod.account_path().into(),
        ];
        self.env("POD_NAME", &pod.name).env("POD_NAMESPACE", &pod.namespace)
    }

    /// Sets the variables that name the API server as kubelet does: an IPv6 address has no brackets.
    pub fn api_server(self, server: &ApiServer) -> Self {
        let address = server.address();
        self.env("KUBERNETES_SERVICE_HOST", address.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", address.port().to_string())
    }

    /// Runs the binary by way of a command that replaces itself by it, such as `prlimit --nofile=16 --`. One that forks
    /// would be signalled and measured in its place.
    pub fn wrapped_in(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// Sends stderr elsewhere, such as into a pipe that nobody reads; its lines are not collected then.
    pub fn stderr_to(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> SidecarProcess {
        let mut words = self.wrapper;
        words.push(self.binary.into());
        words.extend(self.args);
        words.extend(self.flags);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.stderr.unwrap_or_else(Stdio::piped));
        let mut described = String::new();
        for (name, value) in &self.env {
            let _ = writeln!(described, "  {}={}", name.display(), value.display());
        }
        let line: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let description = format!("command: {}\nenvironment:\n{described}", line.join(" ").trim_end());
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start: {error}\n{description}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(collect(stdout, Stream::Stdout, Arc::clone(&lines)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(collect(stderr, Stream::Stderr, Arc::clone(&lines)));
        }
        SidecarProcess {
            pid: Pid::from_child(&child),
            child: Mutex::new(child),
            description,
            lines,
            readers,
            clock_started: Mutex::new(started),
        }
    }
}

/// Which of the two a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What `check` and `probe` print.
    Stdout,
    /// The log.
    Stderr,
}

/// One line that the sidecar wrote.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was read here.
    pub at: Instant,
    /// The stream that it was written to.
    pub stream: Stream,
    /// The line without its line feed. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// How the sidecar ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Code or signal.
    pub status: ExitStatus,
    /// Since the last signal that was sent, or since the start when none was.
    pub elapsed: Duration,
}

impl Exit {
    /// The exit code; `None` when a signal killed it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A running sidecar, until it is dropped.
pub struct SidecarProcess {
    pid: Pid,
    child: Mutex<Child>,
    description: String,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
    clock_started: Mutex<Instant>,
}

impl SidecarProcess {
    /// Starts from nothing but the binary; a test has its path in `env!("CARGO_BIN_EXE_okg-sidecar")`.
    pub fn builder(binary: impl Into<PathBuf>) -> Builder {
        Builder {
            wrapper: Vec::new(),
            binary: binary.into(),
            args: Vec::new(),
            flags: Vec::new(),
            env: BTreeMap::new(),
            stderr: None,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Everything that it wrote, of both streams, in the order in which it was read.
    pub fn lines(&self) -> Vec<Line> {
        locked(&self.lines).clone()
    }

    /// The number of lines that contain `text`.
    pub fn count_lines(&self, text: &str) -> usize {
        locked(&self.lines).iter().filter(|line| line.text.contains(text)).count()
    }

    /// The lines of stdout, each with a line feed.
    pub fn stdout(&self) -> String {
        self.text_of(Stream::Stdout)
    }

    /// The lines of stderr, each with a line feed.
    pub fn stderr(&self) -> String {
        self.text_of(Stream::Stderr)
    }

    fn text_of(&self, stream: Stream) -> String {
        let mut text = String::new();
        for line in locked(&self.lines).iter() {
            if line.stream == stream {
                text.push_str(&line.text);
                text.push('\n');
            }
        }
        text
    }

    /// The first line that contains `text`, even if it was written before this call.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Line {
        let find = || {
            let lines = locked(&self.lines);
            lines.iter().find(|line| line.text.contains(text)).cloned()
        };
        self.eventually(timeout, &format!("a line with `{text}`"), || find().is_some());
        find().expect("a line that was written stays")
    }

    /// Waits until `condition` is true. Fails, with everything that the sidecar has written, after `timeout` or as soon as it has
    /// ended.
    #[track_caller]
    pub fn eventually(&self, timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
        let mut held = false;
        let mut ended = false;
        holds_within(timeout, || {
            // The order lets the condition see what came right before the end.
            ended = !self.is_running();
            held = condition();
            held || ended
        });
        if !held && ended {
            self.fail(&format!("ended without: {what}"));
        }
        if !held {
            self.fail(&format!("not within {timeout:?}: {what}"));
        }
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if !self.signal_unless_ended(signal) {
            self.fail(&format!("ended before {signal:?} was sent"));
        }
    }

    /// Sends a signal if it is still running, and returns whether it was.
    #[track_caller]
    pub fn signal_unless_ended(&self, signal: Signal) -> bool {
        *locked(&self.clock_started) = Instant::now();
        // Not after the process was waited for, since its number may be another's then.
        if !self.is_running() {
            return false;
        }
        if let Err(error) = kill_process(self.pid, signal) {
            self.fail(&format!("cannot send {signal:?}: {error}"));
        }
        true
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// How it ended, when it has.
    pub fn status(&self) -> Option<ExitStatus> {
        let mut child = locked(&self.child);
        // All of the output belongs to the end: a test reads it right after.
        let status = child.try_wait().expect("a child can be waited for")?;
        drop(child);
        holds_within(Duration::from_secs(1), || self.readers.iter().all(JoinHandle::is_finished));
        Some(status)
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> Exit {
        let started = *locked(&self.clock_started);
        let mut ended = None;
        holds_within(timeout, || {
            let status = locked(&self.child).try_wait();
            ended = status.expect("a child can be waited for").map(|_| started.elapsed());
            ended.is_some()
        });
        match (ended, self.status()) {
            (Some(elapsed), Some(status)) => Exit { status, elapsed },
            _ => self.fail(&format!("still running after {timeout:?}")),
        }
    }

    /// How many threads it has.
    #[track_caller]
    pub fn threads(&self) -> u64 {
        self.proc_status("Threads")
    }

    /// The most resident memory that it ever had, in KiB.
    #[track_caller]
    pub fn vm_hwm_kib(&self) -> u64 {
        self.proc_status("VmHWM")
    }

    /// A number of `/proc/PID/status`, such as `RssAnon` (in KiB) or `voluntary_ctxt_switches`.
    #[track_caller]
    pub fn proc_status(&self, field: &str) -> u64 {
        let text = self.proc_file("status");
        let value = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(name, value)| (name == field).then_some(value));
        value
            .and_then(|value| value.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| self.fail(&format!("/proc/PID/status has no number {field}")))
    }

    /// How long its first thread, which should be its only one, has been on a CPU.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let text = self.proc_file("schedstat");
        let nanoseconds = text.split_whitespace().next();
        let nanoseconds = nanoseconds.and_then(|number| number.parse().ok());
        Duration::from_nanos(nanoseconds.unwrap_or_else(|| self.fail("/proc/PID/schedstat has no number")))
    }

    /// How many file descriptors it has open.
    #[track_caller]
    pub fn open_fds(&self) -> usize {
        match fs::read_dir(format!("/proc/{}/fd", self.pid())) {
            Ok(entries) => entries.count(),
            Err(error) => self.fail(&format!("cannot list its descriptors: {error}")),
        }
    }

    #[track_caller]
    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid()))
            .unwrap_or_else(|error| self.fail(&format!("cannot read /proc/PID/{name}: {error}")))
    }

    /// Panics with `what` and everything that is known of this process.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        let status = match self.status() {
            Some(status) => status.to_string(),
            None => "running".to_owned(),
        };
        panic!("{what}\n{}status: {status}\nstdout:\n{}stderr:\n{}", self.description, self.stdout(), self.stderr(),);
    }
}

impl Drop for SidecarProcess {
    fn drop(&mut self) {
        let mut child = locked(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn collect(from: impl Read + Send + 'static, stream: Stream, lines: Arc<Mutex<Vec<Line>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            locked(&lines).push(Line { at: Instant::now(), stream, text: text.into_owned() });
            bytes.clear();
        }
    })
}
