//! Owns which probe is due when (behaviour 3.2): rounds at a fixed rate, whose probes follow one another. All endpoints of
//! a config file share one round.

use std::time::Duration;

/// The rounds to come. Times are since the start of the process.
#[derive(Debug)]
pub struct Schedule {
    rounds: Vec<Round>,
}

/// Probes that come at the same rate, one after the other.
#[derive(Debug)]
struct Round {
    /// The index of its first probe, and how many there are.
    first: usize,
    count: usize,
    /// How many were probed in the round that has begun.
    probed: usize,
    next: Duration,
    interval: Duration,
}

impl Schedule {
    /// Rounds of `count` probes each, the first at `first`, then every `interval`, which is not zero.
    pub fn new(rounds: impl IntoIterator<Item = (usize, Duration, Duration)>) -> Self {
        let mut index = 0;
        let rounds = rounds.into_iter().map(|(count, next, interval)| {
            let first = index;
            index += count;
            Round { first, count, probed: 0, next, interval }
        });
        Self { rounds: rounds.collect() }
    }

    /// When the next probe is due, past or to come.
    pub fn next(&self) -> Duration {
        self.rounds.iter().map(Round::due).min().unwrap_or(Duration::MAX)
    }

    /// The index of the probe that is due, the longest overdue first.
    pub fn due(&self, now: Duration) -> Option<usize> {
        let round = self.rounds.iter().min_by_key(|round| round.due())?;
        (round.due() <= now).then_some(round.first + round.probed)
    }

    /// Whether a round starts with this probe.
    pub fn starts_with(&self, probe: usize) -> bool {
        self.rounds.iter().any(|round| round.first == probe)
    }

    /// The probe of this index has ended. The next round is the next of the fixed rate: it starts at once when it is late
    /// by less than half an interval, and what was missed by more is dropped.
    pub fn advance(&mut self, probe: usize, now: Duration) {
        let Some(round) = self.rounds.iter_mut().find(|round| probe < round.first + round.count) else { return };
        round.probed += 1;
        if round.probed < round.count {
            return;
        }
        round.probed = 0;
        round.next += round.interval;
        let late = now.saturating_sub(round.next);
        if late >= round.interval / 2 {
            // The interval is at least a second, and 2^32 of them are 136 years.
            let missed = late.as_nanos() / round.interval.as_nanos().max(1);
            round.next += round.interval * (missed as u32).saturating_add(1);
        }
    }
}

impl Round {
    /// A round that has begun goes on before any other begins.
    fn due(&self) -> Duration {
        if self.probed > 0 { Duration::ZERO } else { self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn rounds_keep_their_rate_and_drop_what_was_missed() {
        let mut schedule = Schedule::new([(1, ms(10_000), ms(5_000))]);
        assert_eq!(schedule.due(ms(9_999)), None);
        assert_eq!(schedule.due(ms(10_000)), Some(0));
        for (round_ended, next) in [
            (10_010, 15_000),
            // It took the whole interval: the next one is due, and the rate stays.
            (20_001, 20_000),
            (27_499, 25_000),
            // Late by half an interval.
            (32_500, 35_000),
            // Frozen for a minute.
            (91_000, 95_000),
            (95_000, 100_000),
        ] {
            schedule.advance(0, ms(round_ended));
            assert_eq!(schedule.next(), ms(next), "ended at {round_ended}");
        }
    }

    #[test]
    fn the_probes_of_a_round_follow_one_another() {
        let mut schedule = Schedule::new([(3, ms(0), ms(1_000))]);
        for now in [0, 5_000] {
            for probe in 0..3 {
                assert_eq!(schedule.due(ms(now)), Some(probe));
                assert_eq!(schedule.starts_with(probe), probe == 0);
                schedule.advance(probe, ms(now));
            }
            assert_eq!(schedule.due(ms(now)), None);
        }
    }

    #[test]
    fn each_round_has_its_own_rate() {
        let mut schedule = Schedule::new([(1, ms(1_000), ms(3_000)), (2, ms(2_000), ms(10_000))]);
        let mut probed = Vec::new();
        for now in (0..9_000).step_by(500) {
            while let Some(probe) = schedule.due(ms(now)) {
                probed.push((now, probe));
                schedule.advance(probe, ms(now));
            }
        }
        assert_eq!(probed, [(1_000, 0), (2_000, 1), (2_000, 2), (4_000, 0), (7_000, 0)]);
        assert!(schedule.starts_with(1) && !schedule.starts_with(2));
        assert_eq!(Schedule::new([]).due(Duration::MAX), None);
    }
}
