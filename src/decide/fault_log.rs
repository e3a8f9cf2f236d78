//! Owns how often a fault is logged: when it starts, when its cause changes, then every five minutes with a count, and
//! when it is over (behaviour 7.4).

use std::time::Duration;

/// How long a fault that goes on is silent.
pub const REPEATED_AFTER: Duration = Duration::from_secs(300);

/// Faults that start and end faster than this many times in [`REPEATED_AFTER`] are not logged each time.
const STARTS: u32 = 10;

/// One thing that can be at fault, over time. Times are since the start of the process.
#[derive(Debug, Default)]
pub struct FaultLog {
    current: Option<Fault>,
    window: Duration,
    starts: u32,
}

#[derive(Debug)]
struct Fault {
    cause: String,
    since: Duration,
    logged: Option<Duration>,
    count: u32,
}

impl FaultLog {
    /// Takes in a failure. Gives how many there were in this fault when it is to be logged.
    ///
    /// `cause` is a short name of the kind of fault; `patience` is how long it may last unlogged.
    pub fn failed(&mut self, now: Duration, cause: &str, patience: Duration) -> Option<u32> {
        if now >= self.window + REPEATED_AFTER {
            self.window = now;
            self.starts = 0;
        }
        let fault =
            self.current.get_or_insert_with(|| Fault { cause: cause.to_owned(), since: now, logged: None, count: 0 });
        fault.count = fault.count.saturating_add(1);
        let changed = fault.cause != cause;
        let logs = match fault.logged {
            None => now - fault.since >= patience && self.starts < STARTS,
            Some(logged) => (changed && self.starts < STARTS) || now - logged >= REPEATED_AFTER,
        };
        if changed {
            cause.clone_into(&mut fault.cause);
        }
        if !logs {
            return None;
        }
        self.starts += 1;
        fault.logged = Some(now);
        Some(fault.count)
    }

    /// Takes in a failure of a kind that is logged once a fault. Gives whether it is to be logged now.
    pub fn begins(&mut self, now: Duration) -> bool {
        let unlogged = self.current.as_ref().is_none_or(|fault| fault.logged.is_none());
        self.failed(now, "", Duration::ZERO).is_some() && unlogged
    }

    /// Whether there was a failure and no success after it.
    pub fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Takes in a success. Gives how many failures it ended and how long they lasted, when they had been logged.
    pub fn recovered(&mut self, now: Duration) -> Option<(u32, Duration)> {
        let fault = self.current.take()?;
        fault.logged.map(|_| (fault.count, now - fault.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fault_is_logged_at_its_start_every_five_minutes_and_at_its_end() {
        let mut fault = FaultLog::default();
        assert_eq!(fault.recovered(s(0)), None);
        let logged: Vec<(u64, u32)> = (10..=700)
            .step_by(10)
            .filter_map(|now| fault.failed(s(now), "refused", s(0)).map(|count| (now, count)))
            .collect();
        assert_eq!(logged, [(10, 1), (310, 31), (610, 61)]);
        assert_eq!(fault.recovered(s(710)), Some((70, s(700))));
        assert_eq!(fault.recovered(s(720)), None);
        assert_eq!(fault.failed(s(730), "refused", s(0)), Some(1));
    }

    #[test]
    fn a_new_cause_is_logged_at_once() {
        let mut fault = FaultLog::default();
        assert_eq!(fault.failed(s(1), "404", s(0)), Some(1));
        assert_eq!(fault.failed(s(2), "404", s(0)), None);
        assert_eq!(fault.failed(s(3), "403", s(0)), Some(3));
        assert_eq!(fault.failed(s(4), "403", s(0)), None);
    }

    #[test]
    fn what_is_normal_for_a_while_is_logged_when_it_lasts() {
        let mut fault = FaultLog::default();
        assert_eq!(fault.failed(s(0), "404", s(60)), None);
        assert_eq!(fault.failed(s(59), "404", s(60)), None);
        assert_eq!(fault.failed(s(60), "404", s(60)), Some(3));
        let mut short = FaultLog::default();
        assert_eq!(short.failed(s(0), "404", s(60)), None);
        assert_eq!(short.recovered(s(5)), None);
    }

    #[test]
    fn what_is_logged_once_is_logged_again_after_it_was_over() {
        let mut fault = FaultLog::default();
        let logged: Vec<bool> = (0..700).step_by(100).map(|now| fault.begins(s(now))).collect();
        assert_eq!(logged, [true, false, false, false, false, false, false]);
        assert!(fault.recovered(s(700)).is_some());
        assert!(fault.begins(s(800)));
    }

    #[test]
    fn a_fault_that_comes_and_goes_floods_no_log() {
        let mut fault = FaultLog::default();
        let mut lines = 0;
        for now in 0..3600 {
            let logged = if now % 2 == 0 {
                fault.failed(s(now), "refused", s(0)).is_some()
            } else {
                fault.recovered(s(now)).is_some()
            };
            lines += u32::from(logged);
        }
        assert_eq!(lines, 12 * STARTS * 2);
    }
}
