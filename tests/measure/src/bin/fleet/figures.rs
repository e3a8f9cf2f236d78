//! Owns what is made of the measurements: rates, spreads, a line of the table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::game::Probe;
use measure::with_commas;

/// What a fleet of one size took.
pub(crate) struct Row {
    pub(crate) sidecars: usize,
    /// In cores.
    pub(crate) cpu: f64,
    pub(crate) cpu_of_probe: Duration,
    /// Of a sidecar, in KiB.
    pub(crate) pss: f64,
    /// Of a sidecar, in KiB, with the kernel's part. None without a cgroup.
    pub(crate) cgroup: Option<f64>,
    /// How far the time between two probes of a sidecar is off the interval: half of them by less, 99 of 100 by less, all.
    pub(crate) period_off: [Duration; 3],
    /// The busiest tenth of a second, times the mean of all.
    pub(crate) bunched: f64,
    /// From the game's change until it is in the GameServer: half of them, and all.
    pub(crate) arrived: [Duration; 2],
    /// How many that were, which is all that the game made.
    pub(crate) changes: usize,
    /// Of the game, in cores.
    pub(crate) game_cpu: f64,
}

impl Row {
    pub(crate) const HEAD: &'static str = "\
| sidecars | CPU of all, cores | CPU a probe, µs | PSS each, KiB | cgroup each, KiB | cgroup of all, MiB | period off by, ms: median, p99, most | busiest 100 ms, times the mean | changes of the sample: how many, in after s: median, most | CPU of the game, cores |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    pub(crate) fn line(&self) -> String {
        let [median, p99, most] = self.period_off.map(|off| format!("{:.1}", off.as_secs_f64() * 1e3));
        let [half, all] = self.arrived.map(|after| format!("{:.1}", after.as_secs_f64()));
        let cgroup = |of: &dyn Fn(f64) -> f64| {
            self.cgroup.map_or("no cgroup".to_owned(), |kib| with_commas(&format!("{:.0}", of(kib))))
        };
        format!(
            "| {} | {:.3} | {} | {:.0} | {} | {} | {median}, {p99}, {most} | {:.1} | {}: {half}, {all} | {:.3} |",
            with_commas(&self.sidecars.to_string()),
            self.cpu,
            self.cpu_of_probe.as_micros(),
            self.pss,
            cgroup(&|kib| kib),
            cgroup(&|kib| kib * self.sidecars as f64 / 1024.0),
            self.bunched,
            self.changes,
            self.game_cpu,
        )
    }
}

/// Of how many one is `share` of the way from the least to the most; `times` is not empty.
pub(crate) fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share).round() as usize]
}

/// How far the time between two probes of the same sidecar is off the interval, of each pair.
pub(crate) fn off_the_interval(probes: &[Probe], interval: Duration) -> Vec<Duration> {
    let mut by_sidecar: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for probe in probes {
        by_sidecar.entry(probe.sidecar).or_default().push(probe.at);
    }
    // Each was noted by one thread, in order.
    by_sidecar.values().flat_map(|times| times.windows(2).map(|two| (two[1] - two[0]).abs_diff(interval))).collect()
}

/// How many came in the busiest tenth of a second of `time`, times the mean.
pub(crate) fn bunched(probes: &[Probe], time: Duration) -> f64 {
    const BIN: Duration = Duration::from_millis(100);
    let mut bins: BTreeMap<u128, usize> = BTreeMap::new();
    for probe in probes {
        *bins.entry(probe.at.as_millis() / BIN.as_millis()).or_default() += 1;
    }
    let busiest = bins.values().max().copied().unwrap_or_default();
    busiest as f64 / (probes.len() as f64 * BIN.as_secs_f64() / time.as_secs_f64())
}
