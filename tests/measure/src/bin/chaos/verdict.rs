//! Owns the verdict: the figures of a run, and what is wrong with them.

use std::time::{Duration, Instant};

use super::history::{Configs, busiest, wrong_changes, wrong_requests};
use super::log::{Life, most_within};
use super::{Chaos, Compared};
use stand_ins::{Reached, Signal, TOKEN};

/// The longest that nothing may be probed: an API server that hangs takes 10 s, two endpoints 2 s, a stop 4 s, and then
/// the next round is a second away.
const LONGEST_SILENCE: Duration = Duration::from_secs(25);

/// Open sockets and files of one probe or one patch.
const MOST_DESCRIPTORS_IN_USE: usize = 4;

/// What VmHWM may add in the second half, when every kind of fault has been seen: a few pages of a peak that had not been.
/// In the first ten minutes the heap takes some 200 KiB until its holes fit what is asked of it.
const MOST_GROWTH_KIB: u64 = 256;

/// The most of VmHWM, well below the memory limit of behaviour 7.1.
const MOST_VM_HWM_KIB: u64 = 3072;

/// Lines of one process beside those that each change of a state, each config and each unusable file is logged in: each of
/// six faults is logged at ten starts and ten ends in five minutes at most, and they may all come in one of them.
const MOST_LINES_A_MINUTE: usize = 120;

/// Faults that are logged again within five minutes while they last. Seldom the cause changes twice, and only the change
/// back falls into a new five minutes.
const MOST_REPEATED: usize = 3;

/// What a pipe takes in one piece. A longer line was cut, and the next one stands behind it.
const MOST_LINE_BYTES: usize = 4096;

/// The start itself, and a warning for each file that cannot be used.
const LINES_OF_A_START: usize = 10;

const MINUTE: Duration = Duration::from_secs(60);

/// A line is read a moment after it was written.
const READ_LATE: Duration = Duration::from_millis(500);

/// The number of the same kind that the report contains at most.
const MOST_TOLD: usize = 3;

impl Chaos {
    /// Prints the figures, and gives what is wrong with them.
    pub(super) fn judge(mut self, recovery: Option<Duration>, quiet: Result<(), String>) -> Vec<String> {
        let mut wrong: Vec<String> = quiet.err().into_iter().collect();
        if !self.sidecar.is_running() {
            wrong.push("it has ended".into());
        }
        self.bury(Signal::TERM);
        let mut demand = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };

        let samples = &self.samples;
        demand(samples.most_threads == 1, format!("{} threads", samples.most_threads));
        let in_use = samples.most_descriptors - samples.least_descriptors;
        demand(in_use <= MOST_DESCRIPTORS_IN_USE, format!("{in_use} descriptors in use at once"));
        let (first, last) =
            samples.compared.as_ref().map(|Compared { first, last, .. }| (*first, *last)).unwrap_or_default();
        let growth = last.vm_hwm_kib.saturating_sub(first.vm_hwm_kib);
        demand(growth <= MOST_GROWTH_KIB, format!("VmHWM grew by {growth} KiB, from {} KiB", first.vm_hwm_kib));
        let peak = samples.most_vm_hwm;
        demand(peak <= MOST_VM_HWM_KIB, format!("VmHWM came to {peak} KiB"));

        let lines = || self.ended.iter().flat_map(|life| &life.lines);
        let leaked = lines().find(|line| line.text.contains(TOKEN));
        demand(leaked.is_none(), format!("the token is in the log: {leaked:?}"));
        let forged = lines().find(|line| line.text.starts_with("INFO forged") || line.text.contains('\u{1b}'));
        demand(forged.is_none(), format!("a forged line is in the log: {forged:?}"));
        let glued = lines().find(|line| line.text.len() > MOST_LINE_BYTES);
        demand(glued.is_none(), format!("a line without an end is in the log: {glued:?}"));
        let silence = self.ended.iter().map(Life::longest_silence).max().unwrap_or_default();
        demand(silence <= LONGEST_SILENCE, format!("nothing was probed for {silence:?}"));

        let starts: Vec<Instant> = self.ended.iter().map(|life| life.started).collect();
        // A start begins a round at once, and so does a config.
        let rounds_at_once: Vec<Instant> = self.ended.iter().flat_map(Life::configs).map(|line| line.at).collect();
        let (room, health) = (self.scene.game.requests(), self.health.requests());
        for (name, probes) in [("room", &room), ("health", &health)] {
            let times: Vec<Instant> = probes.iter().map(|probe| probe.at).collect();
            for millis in [500, 3000, 10_000, 60_000] {
                // One for each second of the grid that the window touches; and in one round the other endpoint may have
                // taken its second, in the next not.
                let bound = millis as usize / 1000 + 2;
                let busiest = most_beyond(&times, Duration::from_millis(millis), &rounds_at_once);
                demand(busiest <= bound, format!("{busiest} probes of the {name} within {millis} ms"));
            }
            let stolen = probes.iter().find(|probe| probe.method != "GET" || probe.header("Authorization").is_some());
            demand(stolen.is_none(), format!("the {name} was asked {stolen:?}"));
        }

        let requests = self.scene.api.requests();
        let attempts = self.scene.api.attempts();
        let writes: Vec<_> = requests.iter().filter(|request| !request.is_read()).collect();
        let changes = self.scene.api.changes(&self.scene.path());
        let of_requests = wrong_requests(&requests, &self.scene.path(), &self.scene.pod_path());
        let of_changes = wrong_changes(&changes, &Configs::of(&self.ended));
        for (count, what) in [(of_requests.len(), of_requests), (of_changes.len(), of_changes)] {
            for what in what.into_iter().take(MOST_TOLD) {
                demand(false, format!("one of {count}: {what}"));
            }
        }
        for (from, to) in &self.anothers_certificate {
            // An attempt that is accepted at the very end may still meet the true one.
            let window = *from..to.checked_sub(Duration::from_millis(500)).unwrap_or(*from);
            let trusted =
                attempts.iter().filter(|(at, reached)| window.contains(at) && *reached > Reached::Tcp).count();
            demand(trusted == 0, format!("{trusted} connections trusted another's certificate"));
        }
        let pace = busiest(&attempts, &requests, &starts);
        demand(pace.is_none(), pace.unwrap_or_default());

        let busiest_minute = self.ended.iter().map(|life| most_within(&life.told_of_faults(), MINUTE)).max();
        let busiest_minute = busiest_minute.unwrap_or_default();
        demand(busiest_minute <= MOST_LINES_A_MINUTE, format!("{busiest_minute} lines about faults in a minute"));
        let repeated: Vec<String> = self.ended.iter().flat_map(Life::repeated).collect();
        demand(repeated.len() <= MOST_REPEATED * self.ended.len(), format!("told again and again: {repeated:?}"));
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let told: usize = self.ended.iter().map(|life| life.told().len()).sum();
        let most_told = writes.len()
            + 2 * (self.config_changes + self.file_changes)
            + 24 * minutes as usize
            + LINES_OF_A_START * self.ended.len()
            + MOST_LINES_A_MINUTE;
        demand(told <= most_told, format!("{told} lines"));

        println!();
        for side in &self.sides {
            let counts: Vec<String> = side.seen.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let total: usize = side.seen.values().sum();
            figure(&format!("faults of the {}", side.name), format!("{total}: {}", counts.join(", ")));
            if !side.unseen.is_empty() {
                figure("  not reached", side.unseen.join(", "));
            }
        }
        let answered = |status: u16| writes.iter().filter(|write| write.answered == Some(status)).count();
        let late = self.scene.api.late_answers();
        let by_sidecar = changes.iter().filter(|change| change.asked.is_some()).count();
        figure("minutes", format!("{minutes:.1}"));
        figure(
            "processes, of which files kept from starting",
            format!("{}, {}", self.ended.len(), self.refused_starts),
        );
        figure("probes of the room, of the health", format!("{}, {} answered to", room.len(), health.len()));
        figure("longest time without a probe", format!("{:.1} s", silence.as_secs_f64()));
        figure(
            "connections to the API server",
            format!("{} with {} reads and {} writes", attempts.len(), requests.len() - writes.len(), writes.len()),
        );
        figure(
            "most of them in a minute",
            most_within(&attempts.iter().map(|(at, _)| *at).collect::<Vec<_>>(), MINUTE).to_string(),
        );
        figure("writes answered 200, 409, 422", format!("{}, {}, {}", answered(200), answered(409), answered(422)));
        figure("changes of the GameServer", format!("{}, of which {by_sidecar} by the sidecar", changes.len()));
        if self.puts_back {
            figure("caches written back after a write", self.put_backs.to_string());
        }
        figure(
            "late arrivals, of which refused",
            format!("{}, {}", late.len(), late.iter().filter(|status| **status == 409).count()),
        );
        figure(
            "first write after the last fault",
            recovery.map_or_else(|| "none".into(), |took| format!("{:.1} s", took.as_secs_f64())),
        );
        figure("threads", format!("{} in each of {} samples", samples.most_threads, samples.count));
        figure("VmHWM, most of any process", format!("{peak} KiB"));
        figure("  of the last at 3/4, at the end", format!("{} KiB, {} KiB", first.vm_hwm_kib, last.vm_hwm_kib));
        figure("  RssAnon of it", format!("{} KiB, {} KiB", first.rss_anon_kib, last.rss_anon_kib));
        figure("descriptors idle, at most", format!("{}, {}", samples.least_descriptors, samples.most_descriptors));
        figure("log lines at info", format!("{told}, most in a minute about faults {busiest_minute}"));
        if !wrong.is_empty() {
            let last = self.ended.last().map(Life::told).unwrap_or_default();
            let tail: Vec<&str> = last.iter().rev().take(40).rev().map(|line| line.text.as_str()).collect();
            println!("\nthe last lines of the log:\n{}\n", tail.join("\n"));
        }
        wrong
    }
}

/// The most that came within any stretch of this length, less what `at_once` explains of it.
fn most_beyond(times: &[Instant], length: Duration, at_once: &[Instant]) -> usize {
    let mut times = times.to_vec();
    times.sort_unstable();
    let beyond = |(first, start): (usize, &Instant)| {
        let count = times[first..].iter().take_while(|at| **at - *start <= length).count();
        // The line of it is read a moment before or after the probe.
        let near = |at: &&Instant| **at + READ_LATE >= *start && **at <= *start + length + READ_LATE;
        count.saturating_sub(at_once.iter().filter(near).count())
    };
    times.iter().enumerate().map(beyond).max().unwrap_or_default()
}

fn figure(name: &str, value: String) {
    println!("{name:<44} {value}");
}
