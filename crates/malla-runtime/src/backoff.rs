//! Exponential back-off with jitter.
//!
//! Pure: it computes delays and never waits. The randomness is a seeded generator of its own, so a
//! test (or a model of a thousand reconnecting proxies) sees the same delays every time.

use std::time::Duration;

/// The shape of the delays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffConfig {
    /// The first delay, before jitter.
    pub initial: Duration,
    /// No delay is longer, before jitter.
    pub max: Duration,
    /// Each delay is this many times the one before.
    pub factor: f64,
    /// Share of the delay that is random, 0 to 1: 0.2 means between 80 % and 120 %.
    pub jitter: f64,
}

impl Default for BackoffConfig {
    /// Envoy's own numbers for gRPC streams: 500 ms, doubling, up to 30 s.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.25,
        }
    }
}

/// Computes the next delay.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
    random: SplitMix64,
}

impl Backoff {
    /// Seeded from the process's random source, so that many processes do not retry in step.
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        Self::seeded(config, rand::random())
    }

    /// The same seed gives the same delays.
    #[must_use]
    pub fn seeded(config: BackoffConfig, seed: u64) -> Self {
        Self {
            config,
            attempts: 0,
            random: SplitMix64(seed),
        }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let BackoffConfig {
            initial,
            max,
            factor,
            jitter,
        } = self.config;
        let exponent = i32::try_from(self.attempts).unwrap_or(i32::MAX);
        let grown = initial.as_secs_f64() * factor.max(1.0).powi(exponent);
        let base = grown.min(max.as_secs_f64());
        self.attempts = self.attempts.saturating_add(1);
        let spread = jitter.clamp(0.0, 1.0) * (2.0 * self.random.unit() - 1.0);
        Duration::from_secs_f64((base * (1.0 + spread)).max(0.0))
    }

    /// Call after a success: the next failure starts over.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Delays given out since the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// `splitmix64` (Steele, Lea, Flood 2014): tiny and good enough to spread retries.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        // 53 bits are exactly what a double's mantissa holds.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let config = BackoffConfig {
            jitter: 0.0,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::seeded(config, 1);
        let millis: Vec<u128> = (0..8).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(millis, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_millis(), 500);
    }

    proptest! {
        #[test]
        fn jitter_stays_inside_its_share(seed in any::<u64>(), attempts in 0usize..200) {
            let config = BackoffConfig::default();
            let mut backoff = Backoff::seeded(config, seed);
            let mut again = backoff.clone();
            for _ in 0..attempts {
                let delay = backoff.next_delay();
                prop_assert!(delay >= config.initial.mul_f64(1.0 - config.jitter));
                prop_assert!(delay <= config.max.mul_f64(1.0 + config.jitter));
                prop_assert!(delay == again.next_delay());
            }
        }
    }
}
