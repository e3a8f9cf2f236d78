//! Owns the figures of a process in proc(5).

use std::fs;
use std::time::Duration;

/// How long the first thread, of a sidecar the only one, has been on a CPU. `/proc/PID/stat` counts in hundredths of a
/// second, which is more than a sidecar takes in a minute.
pub(crate) fn cpu_time_of_first_thread(pid: u32) -> Duration {
    nanoseconds(&format!("/proc/{pid}/schedstat"))
}

/// The same of all threads.
pub(crate) fn cpu_time_of_all_threads(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    threads.filter_map(Result::ok).map(|thread| nanoseconds(&format!("{}/schedstat", thread.path().display()))).sum()
}

fn nanoseconds(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(number.unwrap_or_else(|| panic!("{path} has no number")))
}

/// Its own memory, and its share of what it has in common with others, such as the pages of the binary.
pub(crate) fn pss_kib(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{path} has no Pss"))
}
