//! Token buckets for requests: one for all, one for each configured descriptor, and one for each value that stands in
//! for a wildcard.
//!
//! Invariants: the buckets of values are bounded in number, the longest unused goes first, and clients' values are kept
//! as digests, so what clients send fills no memory. Only they are found under a lock, held for one look-up; buckets
//! themselves need none.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use malla_proxy_config::http_filter::{LocalDescriptor, LocalRateLimit};
use malla_proxy_config::rate_limit::DescriptorEntry;
use malla_proxy_config::token_bucket::TokenRate;
use tokio::time::Instant;

use super::token_bucket::TokenBucket;

/// What a request counts against.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Descriptor {
    /// Keys and values, in order.
    pub entries: Vec<DescriptorEntry>,
    /// A limit sent along: requests, and their `RateLimitUnit`.
    pub limit: Option<(u32, i32)>,
    /// What it counts for; `None` is one.
    pub hits: Option<u64>,
    /// They are given back.
    pub negative: bool,
    /// Says for itself whether `x-ratelimit-*` headers are written.
    pub headers: Option<bool>,
}

/// What became of a request's tokens.
#[derive(Debug)]
pub struct Taken {
    /// There were enough.
    pub allowed: bool,
    /// The bucket that decided; `None` where nothing has a bucket.
    pub bucket: Option<Arc<TokenBucket>>,
    /// What the deciding descriptor says of `x-ratelimit-*` headers.
    pub headers: Option<bool>,
}

/// The buckets of one filter.
#[derive(Debug)]
pub struct Limiter {
    common: Option<Arc<TokenBucket>>,
    fixed: HashMap<Vec<DescriptorEntry>, Arc<TokenBucket>>,
    wild: Vec<Wild>,
    always_common: bool,
}

impl Limiter {
    /// Full ones.
    pub fn new(config: &LocalRateLimit, now: Instant) -> Self {
        let full = |rate| Arc::new(TokenBucket::new(rate, now));
        let is_wild = |descriptor: &&LocalDescriptor| {
            let mut entries = descriptor.entries.iter();
            entries.any(|entry| entry.value.is_empty())
        };
        let (wild, fixed): (Vec<_>, Vec<_>) = config.descriptors.iter().partition(is_wild);
        Self {
            common: config.rate.map(full),
            fixed: fixed
                .into_iter()
                .map(|it| (it.entries.clone(), full(it.rate)))
                .collect(),
            wild: wild
                .into_iter()
                .map(|it| Wild::new(it, config.max_dynamic))
                .collect(),
            always_common: config.always_default,
        }
    }

    /// Takes tokens for a request with these descriptors: the slowest bucket first, the common one last.
    pub fn take(&self, descriptors: &[Descriptor], now: Instant) -> Taken {
        let find = |descriptor| Some((self.find(descriptor, now)?, descriptor));
        let mut found: Vec<(Arc<TokenBucket>, &Descriptor)> =
            descriptors.iter().filter_map(find).collect();
        found.sort_by(|(left, _), (right, _)| left.per_second().total_cmp(&right.per_second()));
        let taken = |allowed, bucket: &Arc<TokenBucket>, headers| Taken {
            allowed,
            bucket: Some(Arc::clone(bucket)),
            headers,
        };
        for (bucket, descriptor) in &found {
            if !bucket.take(now, descriptor.hits.unwrap_or(1)) {
                return taken(false, bucket, descriptor.headers);
            }
        }
        if found.is_empty() || self.always_common {
            match &self.common {
                Some(common) if !common.take(now, 1) => return taken(false, common, None),
                Some(common) if found.is_empty() => return taken(true, common, None),
                // Without a common bucket nothing else limits.
                Some(_) | None => {}
            }
        }
        match found.first() {
            Some((bucket, descriptor)) => taken(true, bucket, descriptor.headers),
            None => Taken {
                allowed: true,
                bucket: None,
                headers: None,
            },
        }
    }

    fn find(&self, descriptor: &Descriptor, now: Instant) -> Option<Arc<TokenBucket>> {
        if let Some(bucket) = self.fixed.get(&descriptor.entries) {
            return Some(Arc::clone(bucket));
        }
        let mut wild = self.wild.iter();
        wild.find(|wild| wild.fits(&descriptor.entries))
            .map(|wild| wild.bucket(&descriptor.entries, now))
    }
}

/// A descriptor with wildcards.
#[derive(Debug)]
struct Wild {
    entries: Vec<DescriptorEntry>,
    rate: TokenRate,
    most: usize,
    /// Two keyed hashes make a digest that nobody outside can aim at.
    hashers: [RandomState; 2],
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    buckets: HashMap<Digest, (Arc<TokenBucket>, u64)>,
    /// By last use.
    order: BTreeMap<u64, Digest>,
    next: u64,
}

type Digest = [u64; 2];

impl Wild {
    fn new(config: &LocalDescriptor, most: usize) -> Self {
        Self {
            entries: config.entries.clone(),
            rate: config.rate,
            most,
            hashers: [RandomState::new(), RandomState::new()],
            seen: Mutex::default(),
        }
    }

    fn fits(&self, entries: &[DescriptorEntry]) -> bool {
        let fits = |(have, want): (&DescriptorEntry, &DescriptorEntry)| {
            have.key == want.key && (want.value.is_empty() || have.value == want.value)
        };
        entries.len() == self.entries.len() && entries.iter().zip(&self.entries).all(fits)
    }

    fn bucket(&self, entries: &[DescriptorEntry], now: Instant) -> Arc<TokenBucket> {
        let digest = self
            .hashers
            .each_ref()
            .map(|hasher| hasher.hash_one(entries));
        // A panic while holding it cannot leave more than one entry out of order.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bucket(digest, self.most, || TokenBucket::new(self.rate, now))
    }
}

impl Seen {
    fn bucket(
        &mut self,
        digest: Digest,
        most: usize,
        make: impl FnOnce() -> TokenBucket,
    ) -> Arc<TokenBucket> {
        let stamp = self.next;
        self.next += 1;
        if let Some((bucket, last)) = self.buckets.get_mut(&digest) {
            self.order.remove(last);
            *last = stamp;
            self.order.insert(stamp, digest);
            return Arc::clone(bucket);
        }
        while self.buckets.len() >= most {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.buckets.remove(&oldest);
        }
        let bucket = Arc::new(make());
        self.buckets.insert(digest, (Arc::clone(&bucket), stamp));
        self.order.insert(stamp, digest);
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::StatusCode;
    use malla_proxy_config::http_filter::{LocalDescriptor, LocalRateLimit};
    use malla_proxy_config::matcher::Fraction;
    use malla_proxy_config::rate_limit::{DescriptorEntry, RateLimits, VhostLimits};
    use malla_proxy_config::token_bucket::TokenRate;
    use tokio::time::Instant;

    use super::{Descriptor, Limiter};

    fn rate(max_tokens: u32) -> TokenRate {
        TokenRate {
            max_tokens,
            tokens_per_fill: max_tokens,
            fill_interval: Duration::from_secs(3600),
        }
    }

    fn entry(key: &str, value: &str) -> DescriptorEntry {
        DescriptorEntry {
            key: key.into(),
            value: value.into(),
        }
    }

    fn limiter(common: u32, descriptors: &[(&str, &str, u32)]) -> Limiter {
        let descriptors = descriptors
            .iter()
            .map(|(key, value, tokens)| LocalDescriptor {
                entries: vec![entry(key, value)],
                rate: rate(*tokens),
            });
        let config = LocalRateLimit {
            stat_prefix: Arc::from("any"),
            status: StatusCode::TOO_MANY_REQUESTS,
            rate: Some(rate(common)),
            enabled: Fraction::ALWAYS,
            enforced: Fraction::ALWAYS,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            descriptors: descriptors.collect(),
            stage: 0,
            per_connection: false,
            headers: false,
            retry_after: false,
            vhost_limits: VhostLimits::Override,
            always_default: true,
            resource_exhausted: false,
            limits: RateLimits::default(),
            max_dynamic: 3,
            held: Default::default(),
        };
        Limiter::new(&config, Instant::now())
    }

    fn asked(key: &str, value: &str) -> Vec<Descriptor> {
        vec![Descriptor {
            entries: vec![entry(key, value)],
            ..Descriptor::default()
        }]
    }

    #[test]
    fn a_descriptor_has_its_own_bucket_and_the_common_one() {
        let limiter = limiter(4, &[("a", "x", 2)]);
        let take = |descriptors: &[Descriptor]| limiter.take(descriptors, Instant::now()).allowed;
        let x = asked("a", "x");
        assert_eq!([take(&x), take(&x), take(&x)], [true, true, false]);
        // A refusal takes nothing of the common one, which has two left.
        assert_eq!([take(&[]), take(&[]), take(&[])], [true, true, false]);
    }

    #[test]
    fn values_of_a_wildcard_have_a_bucket_each_and_the_oldest_goes() {
        let limiter = limiter(1000, &[("user", "", 1)]);
        let take = |user: &str| limiter.take(&asked("user", user), Instant::now()).allowed;
        assert_eq!(
            [take("a"), take("a"), take("b"), take("b")],
            [true, false, true, false]
        );
        assert!(take("c"));
        assert!(!take("a"), "used lately, so it stays");
        assert!(take("d"), "b goes");
        assert!(take("b"), "and begins anew");
        for index in 0..100 {
            take(&format!("attacker {index}"));
        }
        assert_eq!(limiter.wild[0].seen.lock().unwrap().buckets.len(), 3);
        assert_eq!(limiter.wild[0].seen.lock().unwrap().order.len(), 3);
    }

    #[test]
    fn hits_count_for_as_many() {
        let limiter = limiter(100, &[("a", "x", 5)]);
        let mut descriptors = asked("a", "x");
        descriptors[0].hits = Some(3);
        let take = || limiter.take(&descriptors, Instant::now()).allowed;
        assert_eq!([take(), take()], [true, false]);
    }
}
