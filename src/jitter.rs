//! Owns randomness, of which jitter is the only use: without it a fleet would retry in step.

use std::hash::{BuildHasher, RandomState};

/// Draws numbers; each process draws others, since the standard library takes its hash keys from the system.
#[derive(Debug, Default)]
pub struct Jitter {
    keys: RandomState,
    drawn: u64,
}

impl Jitter {
    /// The next number, uniform in 0..1.
    pub fn draw(&mut self) -> f64 {
        self.drawn += 1;
        // The upper 53 bits, as many as a double holds.
        (self.keys.hash_one(self.drawn) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_the_unit_interval_and_differ_between_processes() {
        let mut jitter = Jitter::default();
        let drawn: Vec<f64> = (0..10_000).map(|_| jitter.draw()).collect();
        assert!(drawn.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = drawn.iter().sum::<f64>() / 10_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert_ne!(Jitter::default().draw(), Jitter::default().draw());
    }
}
