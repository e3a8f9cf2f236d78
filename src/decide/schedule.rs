//! Owns when rounds are due: at a fixed rate from the first, missed ones dropped (SPEC 3.2).

use std::time::Duration;

/// The rounds to come. Times are since the start of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    next: Duration,
    interval: Duration,
}

impl Schedule {
    /// Rounds at `first` and every `interval` from there; `interval` is not zero.
    pub fn new(first: Duration, interval: Duration) -> Self {
        Self { next: first, interval }
    }

    /// When the next round is due.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Whether a round is due.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// Ends a round: the next is the first of the fixed rate that is still to come.
    pub fn advance(&mut self, now: Duration) {
        let late = now.saturating_sub(self.next).as_nanos();
        // The interval is at least a second, and 2^32 of them are 136 years.
        let passed = (late / self.interval.as_nanos().max(1)) as u32;
        self.next += self.interval * passed.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_keep_their_rate_and_drop_what_was_missed() {
        let ms = Duration::from_millis;
        let mut schedule = Schedule::new(ms(10_000), ms(5_000));
        assert!(!schedule.is_due(ms(9_999)));
        assert!(schedule.is_due(ms(10_000)));
        for (round_ended, next) in [
            (10_010, 15_000),
            // Late by less than an interval: the rate stays.
            (19_999, 20_000),
            // Ended when the next was due: that one is dropped.
            (25_000, 30_000),
            // Frozen for a minute.
            (91_000, 95_000),
            (95_000, 100_000),
        ] {
            schedule.advance(ms(round_ended));
            assert_eq!(schedule.next(), ms(next), "ended at {round_ended}");
        }
    }
}
