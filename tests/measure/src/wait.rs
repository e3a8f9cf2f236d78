//! Owns waiting for what a cluster does, which is asked over the network and takes seconds.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Waits until `condition` holds, and looks once more at the end.
///
/// # Errors
/// What did not come to hold.
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let last_look = Instant::now() >= deadline;
        if condition() {
            return Ok(());
        }
        if last_look {
            return Err(format!("not within {timeout:?}: {what}"));
        }
        thread::sleep(POLL);
    }
}
