//! Owns the end by a signal that what started this process has blocked (behaviour 7.2). Such a signal stays pending, and no
//! safe call unblocks it, so that the system is asked for it wherever the process waits. Nothing of this happens where
//! the signals are not blocked, as in any pod that a kubelet starts.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// How long a signal that is blocked may wait.
const SEEN_WITHIN: Duration = Duration::from_millis(50);

/// The signals that end the process, as the masks in `/proc/self/status` have them.
const ENDING: u64 = 1 << (SIGTERM - 1) | 1 << (SIGINT - 1);

static BLOCKED: AtomicBool = AtomicBool::new(false);

/// Looks whether one of the signals is blocked: once, since nothing in this process changes that.
pub fn look_for_blocked() {
    BLOCKED.store(masks_hold(&["SigBlk"]), Ordering::Relaxed);
}

/// The longest that a call may wait before [`end_if_signalled`] is to be asked.
pub fn longest_wait() -> Duration {
    if BLOCKED.load(Ordering::Relaxed) { SEEN_WITHIN } else { Duration::MAX }
}

/// Ends the process with code 0 if one of the signals is blocked and waits.
pub fn end_if_signalled() {
    if BLOCKED.load(Ordering::Relaxed) && masks_hold(&["SigPnd", "ShdPnd"]) {
        std::process::exit(0);
    }
}

/// Sleeps, and ends the process if it is signalled.
pub fn sleep(duration: Duration) {
    let began = Instant::now();
    loop {
        let left = duration.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(longest_wait()));
        end_if_signalled();
    }
}

/// Whether one of these masks of the process has one of the signals.
fn masks_hold(names: &[&str]) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.split_once(":\t")).filter(|(name, _)| names.contains(name));
    masks.filter_map(|(_, mask)| u64::from_str_radix(mask, 16).ok()).any(|mask| mask & ENDING != 0)
}
