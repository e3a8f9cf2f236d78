//! Owns what the process is to the system: its signals, its panics, its termination message and its log (behaviour 1.4, 7). Refuses to
//! wait for anyone who reads what it says.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::{LevelFilter, Log, Metadata, Record, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::excerpt::{excerpt, prefix};
use crate::signals;

/// Where Kubernetes reads why a container ended:
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// The most of it that Kubernetes keeps.
const MAX_TERMINATION_BYTES: usize = 4096;

/// The most that a pipe takes in one piece (PIPE_BUF on Linux), and so the longest log line.
const MAX_LINE_BYTES: usize = 4096;

/// Exit codes (behaviour 1.4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Exit {
    /// All is well.
    Success = 0,
    /// An invalid config, a missing part of the pod's environment, a probe that failed.
    Failure = 1,
    /// An invalid command line.
    Usage = 2,
    /// A fault of the sidecar itself; 70 as in sysexits.h.
    Internal = 70,
}

/// Makes SIGTERM and SIGINT end the process at once with code 0, whatever it is doing.
///
/// The handler itself calls `_exit`: a flag would end neither a sleep nor a read, which go on after a signal.
///
/// # Errors
/// The system does not let a handler be set.
pub fn exit_on_signals() -> io::Result<()> {
    let armed = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Success as i32, Arc::clone(&armed))?;
    }
    signals::look_for_blocked();
    Ok(())
}

/// Makes a panic end the process with [`Exit::Internal`] and a termination message; as PID 1 an abort would look like a SIGSEGV.
pub fn exit_on_panic() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let message = panic.payload_as_str().unwrap_or("no message");
        report_exit(&format!("internal error{place}: {}", excerpt(message)), Path::new(TERMINATION_LOG));
        std::process::exit(Exit::Internal as i32);
    }));
}

/// Reports why the process ends, on stderr and in the termination log where there is one.
pub fn report_exit(message: &str, termination_log: &Path) {
    for line in message.lines() {
        // Nobody is left to report a failure of this to, or of the next.
        let _ = Stderr.write(format!("ERROR {line}\n").as_bytes());
    }
    let _ = terminate_with(message, termination_log);
}

/// Writes one line to the termination log, where Kubernetes has mounted one.
fn terminate_with(message: &str, termination_log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(termination_log)?;
    file.write_all(prefix(&message.replace('\n', "; "), MAX_TERMINATION_BYTES).as_bytes())
}

/// Sends the log to stderr: `info` and above, or what RUST_LOG says.
pub fn start_log() {
    let (filters, ignored) = filters(&std::env::var("RUST_LOG").unwrap_or_default());
    let logger = env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_filters(&filters)
        .target(env_logger::Target::Pipe(Box::new(Stderr)))
        .format(|line, record| writeln!(line, "{:5} {}", record.level(), record.args()))
        .build();
    log::set_max_level(logger.filter());
    // Fails when there is a logger already, which does as well.
    let _ = log::set_boxed_logger(Box::new(OwnLines(logger)));
    for directive in ignored {
        warn!("RUST_LOG: {} is ignored, it must be LEVEL, MODULE or MODULE=LEVEL", excerpt(&directive));
    }
}

/// The directives of RUST_LOG that env_logger understands, and the others, which it would report by `eprintln!`: that
/// waits for a reader, and panics without one.
fn filters(text: &str) -> (String, Vec<String>) {
    let (directives, ignored): (Vec<&str>, Vec<&str>) =
        text.split(',').partition(|directive| match directive.split('=').collect::<Vec<_>>().as_slice() {
            [name] => !name.contains('/'),
            [name, level] => !name.contains('/') && level.trim().parse::<LevelFilter>().is_ok(),
            _ => false,
        });
    (directives.join(","), ignored.into_iter().map(str::to_owned).collect())
}

/// Lets through the lines of this crate alone, whatever RUST_LOG says: the HTTP crates' own dump whole requests, bearer
/// token included.
struct OwnLines(env_logger::Logger);

impl Log for OwnLines {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME")) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {}
}

/// Standard error, for a writer that must neither wait nor fail: where nobody reads, what it says is lost.
struct Stderr;

impl Write for Stderr {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if stderr_has_room() {
            let text = String::from_utf8_lossy(line);
            let shown = prefix(text.trim_end_matches('\n'), MAX_LINE_BYTES - 1);
            // A pipe with room takes this much without waiting. When its reader is gone, the line is lost.
            let _ = io::stderr().write(format!("{shown}\n").as_bytes());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a write of [`MAX_LINE_BYTES`] to stderr would not wait. Asks instead of making stderr non-blocking, which
/// would do so to everyone who shares it.
fn stderr_has_room() -> bool {
    let stderr = io::stderr();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_that_env_logger_would_complain_of_are_reported_by_us() {
        for (text, understood, reported) in [
            ("", "", vec![]),
            ("debug", "debug", vec![]),
            ("okg_sidecar=debug,warn", "okg_sidecar=debug,warn", vec![]),
            ("a=b=c,info", "info", vec!["a=b=c"]),
            ("okg_sidecar=loud", "", vec!["okg_sidecar=loud"]),
            ("info/x/y", "", vec!["info/x/y"]),
        ] {
            let (filters, ignored) = filters(text);
            assert_eq!(
                (filters.as_str(), ignored),
                (understood, reported.into_iter().map(str::to_owned).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn the_message_goes_to_the_termination_log_on_one_line_when_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("termination-log");
        assert!(terminate_with("a", &log).is_err() && !log.exists());
        std::fs::write(&log, "something longer from the last time").unwrap();
        terminate_with("one: wrong\ntwo: wrong", &log).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "one: wrong; two: wrong");
        terminate_with(&"空".repeat(5000), &log).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "空".repeat(1365));
    }
}
