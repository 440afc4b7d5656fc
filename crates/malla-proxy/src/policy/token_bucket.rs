//! A bucket that fills with time and is emptied by requests, as Envoy's `AtomicTokenBucketImpl`.
//!
//! It keeps one moment: when it would have been empty had it filled ever since. So it needs no timer, and workers share
//! it by one compare-and-swap without a lock.
//!
//! Invariant: it never gives more than it started with and what has come in since.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use malla_proxy_config::token_bucket::TokenRate;
use tokio::time::Instant;

/// Slower than a token a year is a token a year.
const SLOWEST: f64 = 1.0 / (365.0 * 24.0 * 3600.0);
/// What rounding may take from a token; an exactly full bucket gives all of its tokens.
const TOLERANCE: f64 = 1e-6;

/// The bucket.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    per_second: f64,
    origin: Instant,
    /// Seconds from `origin` (often less than zero) as the bits of an `f64`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: TokenRate, now: Instant) -> Self {
        let (max, per_second) = (f64::from(rate.max_tokens), rate.per_second().max(SLOWEST));
        Self {
            max,
            per_second,
            origin: now,
            empty_at: AtomicU64::new((-max / per_second).to_bits()),
        }
    }

    /// Takes `tokens` if there are so many.
    pub fn take(&self, now: Instant, tokens: u64) -> bool {
        let (now, wanted) = (self.seconds(now), tokens as f64);
        let taken = |bits| {
            let have = self.have(now, f64::from_bits(bits));
            let left = have - wanted;
            (left > -TOLERANCE).then(|| (now - left / self.per_second).to_bits())
        };
        self.empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    /// Whole tokens in it.
    pub fn left(&self, now: Instant) -> u64 {
        // Never below zero nor above `max`, which is a `u32`.
        (self.tokens(now) + TOLERANCE) as u64
    }

    /// Until there is a token; zero if there is one.
    pub fn next_token(&self, now: Instant) -> Duration {
        let missing = 1.0 - TOLERANCE - self.tokens(now);
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::MAX)
    }

    /// The most that it holds.
    pub fn max(&self) -> u64 {
        self.max as u64
    }

    /// Tokens it gets in a second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    fn tokens(&self, now: Instant) -> f64 {
        let empty_at = f64::from_bits(self.empty_at.load(Ordering::Relaxed));
        self.have(self.seconds(now), empty_at).max(0.0)
    }

    fn have(&self, now: f64, empty_at: f64) -> f64 {
        ((now - empty_at) * self.per_second).min(self.max)
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.origin).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use malla_proxy_config::token_bucket::TokenRate;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::TokenBucket;

    fn rate(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> TokenRate {
        TokenRate {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        }
    }

    /// Exact: counts in tokens times nanoseconds of the interval.
    struct Oracle {
        rate: TokenRate,
        level: u128,
        last: Instant,
    }

    impl Oracle {
        fn interval(&self) -> u128 {
            self.rate.fill_interval.as_nanos()
        }

        /// Whether so many are there, or `None` where it is too close to say; takes them if `take` says so.
        fn judge(&mut self, now: Instant, tokens: u64) -> Option<bool> {
            let passed = now.duration_since(self.last).as_nanos();
            let full = u128::from(self.rate.max_tokens) * self.interval();
            let filled = self.level + passed * u128::from(self.rate.tokens_per_fill);
            (self.level, self.last) = (filled.min(full), now);
            let wanted = u128::from(tokens) * self.interval();
            let close = self.interval() / 100_000 + 1;
            match self.level.abs_diff(wanted) <= close && self.level < wanted {
                true => None,
                false => Some(self.level >= wanted),
            }
        }

        fn take(&mut self, tokens: u64) {
            let wanted = u128::from(tokens) * self.interval();
            self.level = self.level.saturating_sub(wanted);
        }
    }

    proptest! {
        #[test]
        fn it_gives_what_an_exact_count_gives(
            max in 1_u32..50,
            per_fill in 1_u32..20,
            interval in 50_u64..5_000,
            steps in proptest::collection::vec((0_u64..3_000_000, 1_u64..4), 1..200),
        ) {
                let rate = rate(max, per_fill, Duration::from_millis(interval));
                let start = Instant::now();
                let mut now = start;
                let bucket = TokenBucket::new(rate, start);
                let level = u128::from(max) * rate.fill_interval.as_nanos();
                let mut oracle = Oracle { rate, level, last: start };
                for (micros, tokens) in steps {
                    now += Duration::from_micros(micros);
                    let left = bucket.left(now);
                    assert!(left <= u64::from(max));
                    let waits = bucket.next_token(now);
                    assert_eq!(waits.is_zero(), left > 0, "{waits:?} with {left}");
                    let want = oracle.judge(now, tokens);
                    let have = bucket.take(now, tokens);
                    assert!(want.is_none_or(|want| want == have), "{want:?} but {have}");
                    if have {
                        oracle.take(tokens);
                    }
                }
        }
    }

    #[test]
    fn a_full_bucket_gives_all_of_it_and_then_one_at_a_time() {
        let start = Instant::now();
        let bucket = TokenBucket::new(rate(3, 1, Duration::from_secs(10)), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let take = |seconds| bucket.take(at(seconds), 1);
        assert_eq!(
            [take(0), take(0), take(0), take(0)],
            [true, true, true, false]
        );
        assert_eq!(bucket.next_token(start).as_secs_f64().ceil(), 10.0);
        assert!(!take(9));
        assert_eq!([take(10), take(10)], [true, false]);
        assert_eq!(bucket.left(at(100_000_010)), 3, "never more than it holds");
    }

    #[test]
    fn threads_share_it_without_losing_or_making_a_token() {
        let now = Instant::now();
        let bucket = Arc::new(TokenBucket::new(
            rate(10_000, 1, Duration::from_secs(3600)),
            now,
        ));
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                std::thread::spawn(move || (0..5_000).filter(|_| bucket.take(now, 1)).count())
            })
            .collect();
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(taken, 10_000);
    }
}
