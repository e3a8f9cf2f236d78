//! Owns the lives of the process, one from each start to its end, and what the log of one contains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stand_ins::sidecar::Line;

/// One process from its start to its end.
pub(super) struct Life {
    pub(super) started: Instant,
    pub(super) lines: Vec<Line>,
}

impl Life {
    /// The lines that are there without RUST_LOG.
    pub(super) fn told(&self) -> Vec<&Line> {
        let levels = ["INFO ", "WARN ", "ERROR"];
        self.lines.iter().filter(|line| levels.iter().any(|level| line.text.starts_with(level))).collect()
    }

    /// The start line and those of each reload, which end with the places that are probed from then on.
    pub(super) fn configs(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| {
            let text = line.text.get(6..).unwrap_or_default();
            text.starts_with("okg-sidecar ") || text.starts_with("config reloaded")
        })
    }

    /// Whether it came so far that only a signal ends it.
    pub(super) fn has_begun(lines: &[Line]) -> bool {
        lines.iter().any(|line| line.text.starts_with("INFO  okg-sidecar "))
    }

    /// Lines about faults. Each change is logged in a line, so is each config and each file that cannot be used and can be
    /// again.
    pub(super) fn told_of_faults(&self) -> Vec<Instant> {
        let is_change = |line: &&Line| {
            let text = line.text.as_str();
            let of_files = ["config reloaded", "config.yaml", "token", "ca.crt"].iter().any(|word| text.contains(word));
            of_files || text.contains("written in")
        };
        self.told().into_iter().filter(|line| !is_change(line)).map(|line| line.at).collect()
    }

    /// The faults that were logged although they had been logged in the five minutes before and were not over since (behaviour 7.4).
    pub(super) fn repeated(&self) -> Vec<String> {
        let mut last: BTreeMap<&str, (&str, Instant)> = BTreeMap::new();
        let mut repeated = Vec::new();
        for line in self.told() {
            let text = line.text.get(6..).unwrap_or_default();
            if text.starts_with("config reloaded") {
                last.retain(|place, _| !place.starts_with("endpoints["));
            } else if let Some((place, _)) =
                [": answers again", " works again", " is not needed"].iter().find_map(|over| text.split_once(over))
            {
                last.remove(place);
            } else if let Some((place, rest)) = text.split_once(": probe failed").or_else(|| text.split_once(" failed"))
            {
                // The line without its count.
                let cause = rest.split_once(": ").map_or(rest, |(_, cause)| cause);
                let before = last.insert(place, (cause, line.at));
                if before.is_some_and(|(known, at)| known == cause && line.at - at < Duration::from_secs(295)) {
                    repeated.push(line.text.clone());
                }
            }
        }
        repeated
    }

    /// The time between two probes, by the lines at `debug`.
    pub(super) fn longest_silence(&self) -> Duration {
        let probes: Vec<Instant> =
            self.lines.iter().filter(|line| line.text.starts_with("DEBUG endpoints[")).map(|line| line.at).collect();
        probes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// The most that came within any stretch of this length. `times` may be out of order by a little.
pub(super) fn most_within(times: &[Instant], length: Duration) -> usize {
    let mut times = times.to_vec();
    times.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in times.iter().enumerate() {
        while *at - times[first] > length {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}
