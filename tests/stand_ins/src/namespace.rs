//! Owns starting a child in namespaces of its own: with mounts that nobody else sees, or as PID 1 of a container.
//! Needs root, or CAP_SYS_ADMIN.

use std::fs;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, kill_process};

use super::sidecar::{Builder, Exit, SidecarProcess, Signal};
use super::{holds_within, not_run};

/// Whether this machine permits namespaces. If it does not, the test of this thread is not run.
#[track_caller]
pub fn permitted() -> bool {
    static PERMITTED: LazyLock<bool> = LazyLock::new(|| {
        let attempt = ["--mount", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "none", "/mnt"];
        let status = Command::new("unshare").args(attempt).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    });
    if !*PERMITTED {
        not_run("`unshare --mount --pid`, which this machine does not permit");
    }
    *PERMITTED
}

/// Runs `script` with mounts of its own, which nobody else sees, before the child takes the shell's place.
pub fn with_mounts(builder: Builder, script: &str) -> Builder {
    builder.wrapped_in(&["unshare", "--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"])
}

/// A child as PID 1 of a PID namespace, whose end is that of the `unshare` that it derefs to.
pub struct Init {
    process: SidecarProcess,
    /// None when it ended before it was seen.
    pid: Option<Pid>,
}

impl Init {
    /// Runs `script` with mounts of its own before the child takes the shell's place; `set -- WORDS "$@"` in it wraps the
    /// child.
    #[track_caller]
    pub fn start(builder: Builder, script: &str) -> Self {
        let script = format!("{script}\nexec \"$@\"");
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", &script];
        let mut wrapper = unshare.to_vec();
        wrapper.push("sh");
        let process = builder.wrapped_in(&wrapper).start();
        let mut pid = None;
        let looked = holds_within(Duration::from_secs(10), || {
            pid = child_of(process.pid());
            pid.is_some() || !process.is_running()
        });
        if !looked {
            process.fail("has no child");
        }
        Self { process, pid }
    }

    /// Its process id, as it is seen from here.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.known_pid().as_raw_pid()
    }

    #[track_caller]
    fn known_pid(&self) -> Pid {
        self.pid.unwrap_or_else(|| self.process.fail("ended before it was seen"))
    }

    /// Whether the shell before it has given way to it.
    pub fn has_begun(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid())).is_ok_and(|name| name.starts_with("okg-sidecar"))
    }

    /// How many threads it has; none when it has ended.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }

    /// Sends it a signal, and waits until it ends.
    #[track_caller]
    pub fn end_by(&self, signal: Signal, timeout: Duration) -> Exit {
        let sent = Instant::now();
        if !self.signal_unless_ended(signal) {
            self.process.fail(&format!("ended before {signal:?} was sent"));
        }
        Exit { status: self.process.wait_exit(timeout).status, elapsed: sent.elapsed() }
    }

    /// Sends a signal if it is still running, and returns whether it was. A signal to a process that is just ending is lost.
    #[track_caller]
    pub fn signal_unless_ended(&self, signal: Signal) -> bool {
        // Not after `unshare` has ended, since the number may be another's then.
        if !self.process.is_running() {
            return false;
        }
        match kill_process(self.known_pid(), signal) {
            Ok(()) | Err(Errno::SRCH) => true,
            Err(error) => self.process.fail(&format!("cannot send {signal:?}: {error}")),
        }
    }
}

impl Deref for Init {
    type Target = SidecarProcess;

    fn deref(&self) -> &SidecarProcess {
        &self.process
    }
}

impl Drop for Init {
    /// The child of an `unshare` that is killed is killed, too, unless it has changed its user.
    fn drop(&mut self) {
        if let Some(pid) = self.pid.filter(|_| self.process.is_running()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn child_of(parent: i32) -> Option<Pid> {
    let is_child = |stat: &str| {
        // `PID (NAME) STATE PARENT ...`, and a name may contain any character.
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split(' ').nth(1)?.parse().ok().filter(|of: &i32| *of == parent)
    };
    let mut processes = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        is_child(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Pid::from_raw(pid)
    });
    processes.next()
}
