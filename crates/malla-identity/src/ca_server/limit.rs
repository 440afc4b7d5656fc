//! Certificates per identity: a token bucket each, in a bounded table.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use malla_model::SpiffeId;

/// How often one identity may ask. All replicas of a Deployment share an identity, so the burst is
/// what a large rollout needs at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    pub burst: u32,
    pub per_second: f64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            burst: 500,
            per_second: 20.0,
        }
    }
}

/// Identities remembered; one that has its full burst is the same as one never seen.
const MAX_IDENTITIES: usize = 65_536;

pub(super) struct Limiter {
    limit: RateLimit,
    buckets: Mutex<HashMap<SpiffeId, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Whether `id` may ask now; counts it when it may.
    pub(super) fn admit(&self, id: &SpiffeId, now: Instant) -> bool {
        let burst = f64::from(self.limit.burst);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_IDENTITIES && !buckets.contains_key(id) {
            buckets.retain(|_, bucket| self.level(*bucket, now) < burst);
        }
        if buckets.len() >= MAX_IDENTITIES && !buckets.contains_key(id) {
            return false;
        }
        let full = Bucket {
            tokens: burst,
            at: now,
        };
        let bucket = buckets.entry(id.clone()).or_insert(full);
        let level = self.level(*bucket, now);
        let admitted = level >= 1.0;
        *bucket = Bucket {
            tokens: if admitted { level - 1.0 } else { level },
            at: now,
        };
        admitted
    }

    fn level(&self, bucket: Bucket, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(bucket.at);
        let filled = bucket.tokens + elapsed.as_secs_f64() * self.limit.per_second;
        filled.min(f64::from(self.limit.burst))
    }
}

/// Time for one certificate at the steady rate, for tests and messages.
impl RateLimit {
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_each_identity_for_itself() {
        let limit = RateLimit {
            burst: 2,
            per_second: 1.0,
        };
        let limiter = Limiter::new(limit);
        let cart: SpiffeId = "spiffe://td/ns/base/sa/cart".parse().unwrap();
        let user: SpiffeId = "spiffe://td/ns/base/sa/user".parse().unwrap();
        let now = Instant::now();
        assert!(limiter.admit(&cart, now));
        assert!(limiter.admit(&cart, now));
        assert!(!limiter.admit(&cart, now));
        assert!(limiter.admit(&user, now));
        assert!(limiter.admit(&cart, now + limit.interval()));
        assert!(!limiter.admit(&cart, now + limit.interval()));
    }
}
