//! Limits on connections: how many there are, and how fast new ones come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use malla_proxy_config::filter_chain::limits::{ConnectionLimit, ConnectionRate};
use malla_proxy_config::token_bucket::TokenRate;
use tokio::time::Instant;

use super::token_bucket::TokenBucket;
use crate::telemetry::stats::{ConnectionLimitStats, WorkerStats};

/// Buckets that several filters share, by their keys and rates.
///
/// Locked when a filter meets its first connection, not for each.
#[derive(Debug, Clone, Default)]
pub struct SharedBuckets(Arc<Mutex<ByKey>>);

type ByKey = HashMap<(Arc<str>, TokenRate), Weak<TokenBucket>>;

impl SharedBuckets {
    fn get(&self, key: &Arc<str>, rate: TokenRate) -> Arc<TokenBucket> {
        // A panic while holding it leaves whole entries.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, bucket| bucket.strong_count() > 0);
        let slot = known.entry((Arc::clone(key), rate)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let bucket = Arc::new(TokenBucket::new(rate, Instant::now()));
            *slot = Arc::downgrade(&bucket);
            bucket
        })
    }
}

/// True if one more connection may come now.
pub fn has_token(config: &ConnectionRate, shared: &SharedBuckets, stats: &WorkerStats) -> bool {
    if !config.enabled {
        return true;
    }
    let make = || match &config.share_key {
        Some(key) => shared.get(key, config.rate),
        None => Arc::new(TokenBucket::new(config.rate, Instant::now())),
    };
    let bucket: Option<&Arc<TokenBucket>> = config.held.get_or_make(make);
    let allowed = bucket.is_none_or(|bucket| bucket.take(Instant::now(), 1));
    if !allowed {
        stats
            .connection_rate(&config.stat_prefix)
            .rate_limited
            .inc();
    }
    allowed
}

/// A connection counted by a limit; given back by its drop.
#[derive(Debug)]
pub struct LimitSlot {
    count: Arc<AtomicU64>,
    stats: Arc<ConnectionLimitStats>,
}

impl Drop for LimitSlot {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.stats.active_connections.dec();
    }
}

/// Counts one more connection, and says whether it is within the limit; `None` where nobody counts.
pub fn count(config: &ConnectionLimit, stats: &WorkerStats) -> Option<(LimitSlot, bool)> {
    if !config.enabled {
        return None;
    }
    let count: &Arc<AtomicU64> = config.held.get_or_make(Arc::default)?;
    let before = count.fetch_add(1, Ordering::Relaxed);
    let stats = stats.connection_limit(&config.stat_prefix);
    stats.active_connections.inc();
    let within = before < config.max;
    if !within {
        stats.limited_connections.inc();
    }
    let count = Arc::clone(count);
    Some((LimitSlot { count, stats }, within))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use malla_proxy_config::filter_chain::limits::{ConnectionLimit, ConnectionRate};
    use malla_proxy_config::token_bucket::TokenRate;

    use super::{SharedBuckets, count, has_token};
    use crate::telemetry::stats::Registry;

    fn rate(share_key: Option<&str>) -> ConnectionRate {
        ConnectionRate {
            stat_prefix: Arc::from("in"),
            rate: TokenRate {
                max_tokens: 2,
                tokens_per_fill: 1,
                fill_interval: Duration::from_secs(3600),
            },
            enabled: true,
            share_key: share_key.map(Arc::from),
            held: Default::default(),
        }
    }

    #[test]
    fn filters_with_one_key_share_a_bucket() {
        let (shared, registry) = (SharedBuckets::default(), Registry::default());
        let stats = registry.worker(0);
        let (a, b, alone) = (rate(Some("k")), rate(Some("k")), rate(None));
        let may = |config| has_token(config, &shared, &stats);
        assert_eq!([may(&a), may(&b), may(&a)], [true, true, false]);
        assert_eq!([may(&alone), may(&alone), may(&alone)], [true, true, false]);
        assert_eq!(registry.totals()["local_rate_limit.in.rate_limited"], 2);
    }

    #[test]
    fn a_closed_connection_makes_room() {
        let registry = Registry::default();
        let stats = registry.worker(0);
        let config = ConnectionLimit {
            stat_prefix: Arc::from("in"),
            max: 1,
            delay: None,
            enabled: true,
            held: Default::default(),
        };
        let (first, within) = count(&config, &stats).unwrap();
        assert!(within);
        assert!(!count(&config, &stats).unwrap().1);
        drop(first);
        assert!(count(&config, &stats).unwrap().1);
        let totals = registry.totals();
        assert_eq!(totals["connection_limit.in.limited_connections"], 1);
        assert_eq!(totals["connection_limit.in.active_connections"], 0);
    }
}
