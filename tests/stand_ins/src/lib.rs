//! What the tests, the demo and the footprint and chaos scripts stand on: an API server, a game, a pod's mounted files
//! and the sidecar as a child process. All of it listens on loopback alone, runs on std threads, knows nothing of the
//! test harness, and never calls the sidecar's own code, which it is there to judge.

pub mod api_server;
pub mod certificates;
pub mod control_plane;
pub mod game;
pub mod listener;
pub mod merge_patch;
pub mod nameserver;
pub mod namespace;
pub mod objects;
pub mod pod;
pub mod scene;
pub mod servers;
pub mod sidecar;
pub mod wire;

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::api_server::{ApiServer, Fault, Reached, Which};
pub use self::certificates::{Authority, ServerCertificate};
pub use self::game::{Behaviour, Game};
pub use self::listener::{BlackHole, ClosedPort, Loopback};
pub use self::nameserver::{Lookup, Nameserver};
pub use self::namespace::Init;
pub use self::objects::{
    Change, Objects, game_server, game_server_path, owned_by_pod, owned_by_set, pod_object, pod_path,
};
pub use self::pod::{Pod, Volume, bound_token, bound_token_until};
pub use self::scene::{OTHER_POD_UID, POD_UID, RECORD, SOON, Scene, TOKEN};
pub use self::sidecar::{SidecarProcess, Signal};
pub use self::wire::Request;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this package is two folders deep")
}

/// How often a condition that is waited for is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` is true, and panics with `what` if it does not become true within `timeout`.
///
/// If a sidecar is running, the message of [`SidecarProcess::eventually`] contains its log.
#[track_caller]
pub fn eventually(timeout: Duration, what: &str, condition: impl FnMut() -> bool) {
    if !holds_within(timeout, condition) {
        panic!("not within {timeout:?}: {what}");
    }
}

/// Whether `condition` becomes true within `timeout`. It is looked at once more at the end.
pub fn holds_within(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let last_look = Instant::now() >= deadline;
        if condition() {
            return true;
        }
        if last_look {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Runs `test` for every case at the same time, since most of a case is waiting.
pub fn side_by_side<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// Runs each case in a thread of its own, since nearly all of their time is waiting, and names those that fail.
#[track_caller]
pub fn each<N: Into<String>, T: Send>(cases: impl IntoIterator<Item = (N, T)>, run: impl Fn(T) + Sync) {
    let run = &run;
    let failed: Vec<String> = thread::scope(|scope| {
        let start = |(name, case): (N, T)| {
            let name = name.into();
            let thread = thread::Builder::new().name(name.clone());
            (name, thread.spawn_scoped(scope, move || run(case)).expect("a thread can be started"))
        };
        let running: Vec<_> = cases.into_iter().map(start).collect();
        running.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "failed, each with a message above: {failed:?}");
}

/// Prints that the test of this thread is not run, since this is missing, where no test harness hides it. If `CI` is `true`, the
/// test fails instead: one that never runs protects nothing.
#[track_caller]
pub fn not_run(needs: &str) {
    let line = format!("NOT RUN: {} needs {needs}", thread::current().name().unwrap_or("a test"));
    assert!(!in_ci(), "{line}");
    // Without a reader the line is lost, and nothing else.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether `CI` is `true`.
pub fn in_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// A test that failed in another thread leaves the data readable, for the message that gives the reason.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
