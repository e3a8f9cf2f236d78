//! What a process beside the sidecar sees of it in a process namespace that they share (behaviour 7.6): in the image, nobody may read
//! the binary, so that the kernel closes `/proc/PID` to all but those with CAP_SYS_PTRACE (proc(5), prctl(2): PR_SET_DUMPABLE).

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use stand_ins::scene::{binary, config, endpoint};
use stand_ins::{SOON, holds_within};
use tempfile::TempDir;

/// Of the sidecar in the image, and of a game that runs as the same user.
const UID: u32 = 61729;

/// What leads to the token, and to all else that the process has.
const SECRETS: [&str; 3] = ["root/etc/passwd", "environ", "maps"];

/// As the sidecar's user if the tests run as root, who may read everything; else as who runs them.
fn as_user(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() { command.uid(UID).gid(UID) } else { command }
}

/// A copy of the binary with this mode, and a process of it that waits for its config.
struct Copy {
    folder: TempDir,
    process: Child,
}

impl Copy {
    fn start(mode: u32) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let copy = folder.path().join("okg-sidecar");
        fs::copy(binary(), &copy).expect("the temporary folder is writable");
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).expect("it is ours");
        let mut check = Command::new(copy);
        check.args(["check", "--config", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        as_user(&mut check);
        let process = loop {
            match check.spawn() {
                // Another test has started a process while the copy was written, which has the file open for a moment.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
                spawned => break spawned.expect("everybody may execute it"),
            }
        };
        // For a moment after its start every process is closed.
        let status = format!("/proc/{}/status", process.id());
        let waits = || fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tS"));
        assert!(holds_within(SOON, waits), "it does not wait for its config");
        Self { folder, process }
    }

    /// Which of [`SECRETS`] another process of its user can open.
    fn seen(&self) -> Vec<&'static str> {
        let is_seen = |name: &&str| {
            let mut head = Command::new("head");
            head.args(["-c", "1"]).arg(format!("/proc/{}/{name}", self.process.id())).stdout(Stdio::null());
            as_user(head.stderr(Stdio::null())).status().expect("there is head").success()
        };
        SECRETS.into_iter().filter(is_seen).collect()
    }

    /// What it says of this config.
    fn check(mut self, config: &str) -> (Output, TempDir) {
        let mut stdin = self.process.stdin.take().expect("it is piped");
        stdin.write_all(config.as_bytes()).expect("it reads");
        drop(stdin);
        (self.process.wait_with_output().expect("it ends"), self.folder)
    }
}

#[test]
fn a_process_of_the_same_user_reads_nothing_of_a_sidecar_whose_binary_nobody_may_read() {
    for (mode, seen) in [(0o755, &SECRETS[..]), (0o111, &[])] {
        let copy = Copy::start(mode);
        assert_eq!(copy.seen(), seen, "mode {mode:o}");
        // What `kubectl exec` runs is a process of its user, too.
        let rules = "markerPolices: [{state: Failed, gameServerOpsState: Maintaining}]";
        let (output, _folder) = copy.check(&config(&[endpoint("http://localhost:1", "timeout: 1", rules)]));
        assert_eq!(output.status.code(), Some(0), "mode {mode:o}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("3 failures in a row -> opsState Maintaining"));
    }
}
