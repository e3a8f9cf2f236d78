//! Owns when a failed write is tried again (behaviour 4.5): exponential waits with full jitter, and longer ones where the
//! server asks for them.

use std::time::Duration;

/// The first wait is at most this long, and each following one at most twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long an object that is about to appear is asked for often.
const APPEARS_WITHIN: Duration = Duration::from_secs(120);
/// The longest that a server's Retry-After is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);
/// The longest wait where nothing says that trying again soon helps.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How soon a failure may be over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Retry {
    /// A fault of the network or the server: 15 s between attempts at most.
    Transient,
    /// The object is about to appear: 5 s at most in its first two minutes.
    Appearing,
    /// Somebody has to act: 60 s at most.
    Persistent,
    /// A protected state: 30 to 60 s.
    Protected,
}

/// The attempts to write one object. Times are since the start of the process; jitter is uniform in 0..1.
#[derive(Debug, Default)]
pub struct Pace {
    failures: u32,
    appearing_since: Option<Duration>,
    not_before: Duration,
}

impl Pace {
    /// When the next attempt may start.
    pub fn not_before(&self) -> Duration {
        self.not_before
    }

    /// An attempt succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// An attempt failed at `now`; the server asked for a pause of `retry_after`.
    pub fn failed(&mut self, retry: Retry, retry_after: Option<Duration>, now: Duration, jitter: f64) {
        let since = (retry == Retry::Appearing).then(|| *self.appearing_since.get_or_insert(now));
        self.appearing_since = since;
        let longest = match (retry, since) {
            (Retry::Transient, _) => Duration::from_secs(15),
            (Retry::Appearing, Some(since)) if now - since < APPEARS_WITHIN => Duration::from_secs(5),
            (Retry::Appearing | Retry::Persistent | Retry::Protected, _) => LONGEST_WAIT,
        };
        // Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        let wait = match retry {
            Retry::Protected => rarely(jitter),
            _ => FIRST_WAIT.saturating_mul(1 << self.failures.min(6)).min(longest).mul_f64(jitter),
        };
        // Not all at the same moment: up to a tenth later than asked for.
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER).mul_f64(1.0 + jitter / 10.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait.max(asked.min(LONGEST_RETRY_AFTER));
    }
}

/// 30 to 60 s: for what will be refused again unless somebody acts.
pub fn rarely(jitter: f64) -> Duration {
    LONGEST_WAIT.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The longest waits after failures of one kind, a second apart each.
    fn longest_waits(retry: Retry, count: u64) -> Vec<u64> {
        let mut pace = Pace::default();
        let mut wait = |now| {
            pace.failed(retry, None, s(now), 1.0);
            (pace.not_before() - s(now)).as_secs()
        };
        (0..count).map(&mut wait).collect()
    }

    #[test]
    fn waits_grow_to_the_longest_of_their_kind() {
        assert_eq!(longest_waits(Retry::Transient, 7), [1, 2, 4, 8, 15, 15, 15]);
        assert_eq!(longest_waits(Retry::Appearing, 5), [1, 2, 4, 5, 5]);
        assert_eq!(longest_waits(Retry::Persistent, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(longest_waits(Retry::Protected, 2), [60, 60]);
    }

    #[test]
    fn what_does_not_appear_within_two_minutes_is_asked_for_less_often() {
        let waits = longest_waits(Retry::Appearing, 122);
        assert_eq!((waits[119], waits[120]), (5, 60));
        let mut pace = Pace::default();
        pace.failed(Retry::Appearing, None, s(0), 1.0);
        pace.failed(Retry::Transient, None, s(110), 1.0);
        pace.failed(Retry::Appearing, None, s(130), 1.0);
        assert_eq!(pace.not_before(), s(134), "the two minutes count from the latest beginning");
    }

    #[test]
    fn jitter_is_full_and_a_success_starts_anew() {
        let mut pace = Pace::default();
        pace.failed(Retry::Transient, None, s(10), 0.0);
        assert_eq!(pace.not_before(), s(10));
        pace.failed(Retry::Transient, None, s(10), 0.5);
        assert_eq!(pace.not_before(), s(11));
        pace.succeeded();
        assert_eq!(pace.not_before(), s(0));
        pace.failed(Retry::Protected, None, s(0), 0.0);
        assert_eq!(pace.not_before(), s(30));
    }

    #[test]
    fn retry_after_is_the_least_wait_up_to_two_minutes() {
        let not_before = |asked, jitter| {
            let mut pace = Pace::default();
            pace.failed(Retry::Transient, Some(s(asked)), s(0), jitter);
            pace.not_before()
        };
        assert_eq!(not_before(0, 0.5), Duration::from_millis(500));
        assert_eq!(not_before(30, 0.0), s(30));
        assert_eq!(not_before(30, 1.0), s(33));
        assert_eq!(not_before(1_000_000_000, 1.0), s(120));
    }
}
