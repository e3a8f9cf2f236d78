//! Owns one program of the control plane as a child process that never outlives the test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running program, until it is dropped.
pub struct Daemon {
    child: Child,
    /// Kills the program when this process is gone.
    guardian: Guardian,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with both of its streams in the file `log`.
    pub fn start(program: &Path, args: &[impl AsRef<OsStr>], log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("its folder is writable");
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor is free"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let guardian = Guardian::start("kill -KILL \"$0\"", child.id().to_string());
        Self { child, guardian, log }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// How long it has been on a CPU, all of its threads together.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it is running");
        // The name of the program, in parentheses, may contain spaces: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2).collect();
        let ticks: u64 = fields.iter().map(|field| field.parse::<u64>().expect("utime and stime are numbers")).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number")
    }

    /// The last lines of its output.
    pub fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Daemon {
    /// Kills the program, which gets no chance to clean up.
    fn drop(&mut self) {
        // The guardian first: the number of a program that was waited for may be another's.
        self.guardian.dismiss();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that runs a command when this process is gone, however it went: its standard input is at its end then.
pub(super) struct Guardian(Child);

impl Guardian {
    /// Runs this with `argument` as `$0`.
    pub(super) fn start(command: &str, argument: impl AsRef<OsStr>) -> Self {
        let shell = Command::new("sh")
            .args(["-c", &format!("trap '' INT TERM; read -r _; {command}")])
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        Self(shell)
    }

    /// Ends it before it runs anything.
    pub(super) fn dismiss(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.dismiss();
    }
}
