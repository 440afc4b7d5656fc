//! Local rate limits of requests.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::http_filter::LocalRateLimit;
use tokio::time::Instant;

use super::descriptors::{self, Which};
use super::{Note, flat};
use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::http::rewrite;
use crate::policy::limiter::{Descriptor, Limiter, Taken};
use crate::policy::token_bucket::TokenBucket;
use crate::telemetry::flags::Flag;
use crate::upstream::Upstreams;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// gRPC's status code for it.
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;

/// Refuses a request that has no token.
pub(super) fn check<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    config: &LocalRateLimit,
) -> Result<(), ProxyError> {
    if !config.enabled.hit(x.cx.worker.random()) {
        return Ok(());
    }
    let stats = x.cx.manager.local_limit_stats(&config.stat_prefix);
    stats.enabled.inc();
    let descriptors = described(x, config);
    let Taken {
        allowed,
        bucket,
        headers,
    } = take(x, config, &descriptors);
    if let Some(bucket) = bucket
        .as_ref()
        .filter(|_| headers.unwrap_or(config.headers))
    {
        x.notes.push((index, Note::Tokens(Arc::clone(bucket))));
    }
    if allowed {
        stats.ok.inc();
        return Ok(());
    }
    stats.rate_limited.inc();
    if !config.enforced.hit(x.cx.worker.random()) {
        rewrite::add_request_headers(x, &config.request_headers);
        return Ok(());
    }
    stats.enforced.inc();
    let mut more = HeaderMap::new();
    rewrite::add_headers(x, &config.response_headers, config.status, &mut more);
    if let Some(bucket) = bucket.filter(|_| config.retry_after) {
        let seconds = reset_seconds(&bucket, Instant::now());
        more.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let verdict = Verdict {
        headers: flat(more),
        grpc: config.resource_exhausted.then_some(RESOURCE_EXHAUSTED),
        ..Verdict::new(config.status, "local_rate_limited")
            .flag(Flag::RateLimited)
            .body("local_rate_limited")
    };
    Err(ProxyError::Filter(Box::new(verdict)))
}

fn described<U: Upstreams>(x: &Exchange<U>, config: &LocalRateLimit) -> Vec<Descriptor> {
    if config.descriptors.is_empty() {
        return Vec::new();
    }
    if config.limits.is_empty() {
        let which = Which {
            stage: Some(config.stage),
            without_disable_key: true,
            in_full: false,
        };
        return descriptors::of_route(x, which, config.vhost_limits);
    }
    let all = Which {
        stage: None,
        without_disable_key: false,
        in_full: true,
    };
    let mut out = Vec::new();
    descriptors::gather(x, &config.limits, all, &mut out);
    out
}

fn take<U: Upstreams>(
    x: &Exchange<U>,
    config: &LocalRateLimit,
    descriptors: &[Descriptor],
) -> Taken {
    let now = Instant::now();
    if config.per_connection {
        let limiter = x.cx.limiter.get_or_init(|| Limiter::new(config, now));
        return limiter.take(descriptors, now);
    }
    let limiter = config.held.get_or_make(|| Limiter::new(config, now));
    limiter.map_or(
        Taken {
            allowed: true,
            bucket: None,
            headers: None,
        },
        |limiter: &Limiter| limiter.take(descriptors, now),
    )
}

fn reset_seconds(bucket: &TokenBucket, now: Instant) -> u64 {
    // A bucket gets a token a year at least.
    bucket.next_token(now).as_secs_f64().ceil() as u64
}

/// Says how many tokens are left (draft-polli-ratelimit-headers-03).
pub(super) fn tell(headers: &mut HeaderMap, bucket: &TokenBucket) {
    let now = Instant::now();
    headers.append(LIMIT, HeaderValue::from(bucket.max()));
    headers.append(REMAINING, HeaderValue::from(bucket.left(now)));
    headers.append(RESET, HeaderValue::from(reset_seconds(bucket, now)));
}
