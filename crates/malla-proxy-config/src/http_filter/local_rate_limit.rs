//! Local rate limits of requests: token buckets of this process.

use std::sync::Arc;

use http::StatusCode;

use crate::checked::{Cx, Invalid, refuse};
use crate::filter_chain::limits::MIN_FILL_INTERVAL;
use crate::headers::HeaderAdd;
use crate::held::Held;
use crate::matcher::Fraction;
use crate::pb::extensions;
use crate::pb::extensions::filters::http as ext;
use crate::rate_limit::{DescriptorEntry, RateLimits, VhostLimits, stage};
use crate::token_bucket::TokenRate;

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRateLimit {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Status of refused requests.
    pub status: StatusCode,
    /// The bucket of all requests; without one only those of descriptors limit.
    pub rate: Option<TokenRate>,
    /// Share of requests it looks at.
    pub enabled: Fraction,
    /// Share of those without a token that is refused.
    pub enforced: Fraction,
    /// Added to requests that have no token and go on.
    pub request_headers: Vec<HeaderAdd>,
    /// Added to refusals.
    pub response_headers: Vec<HeaderAdd>,
    /// Buckets of descriptors.
    pub descriptors: Vec<LocalDescriptor>,
    /// Which entries of routes make descriptors.
    pub stage: u32,
    /// Each connection has buckets of its own.
    pub per_connection: bool,
    /// Write `x-ratelimit-*` headers.
    pub headers: bool,
    /// Write `retry-after` into refusals.
    pub retry_after: bool,
    /// Whether limits of virtual hosts count.
    pub vhost_limits: VhostLimits,
    /// A request with a descriptor takes a token of the common bucket too.
    pub always_default: bool,
    /// gRPC calls are refused as `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// What makes descriptors, instead of the entries of routes.
    pub limits: RateLimits,
    /// The most buckets kept for the values of one descriptor that has wildcards.
    pub max_dynamic: usize,
    /// The buckets.
    pub held: Held,
}

/// `LocalRateLimitDescriptor`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalDescriptor {
    /// The entries of requests it is for; an empty value stands for each value by itself.
    pub entries: Vec<DescriptorEntry>,
    /// Its bucket.
    pub rate: TokenRate,
}

const DEFAULT_DYNAMIC: u32 = 20;
/// Of buckets for one descriptor with wildcards: what clients send must not fill memory.
const MOST_DYNAMIC: u32 = 1_000_000;

impl LocalRateLimit {
    pub(super) fn parse(
        wire: ext::local_ratelimit::v3::LocalRateLimit,
        per_route: bool,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use extensions::common::ratelimit::v3::XRateLimitHeadersRfcVersion;
        let ext::local_ratelimit::v3::LocalRateLimit {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage: at,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = wire;
        refuse!(cx; local_cluster_rate_limit);
        if stat_prefix.is_empty() {
            return Err(cx.invalid("stat_prefix", "is required"));
        }
        let rate = match token_bucket {
            None if per_route => return Err(cx.invalid("token_bucket", "is required")),
            None => None,
            Some(bucket) => Some(cx.field("token_bucket", |cx| TokenRate::parse(bucket, cx))?),
        };
        if rate.is_some_and(|rate| rate.fill_interval < MIN_FILL_INTERVAL) {
            return Err(cx.invalid("token_bucket.fill_interval", "must be at least 50ms"));
        }
        let share = |field: &str, wire: Option<_>, cx: &mut Cx| match wire {
            None => Ok(Fraction::NEVER),
            Some(share) => cx.field(field, |cx| Fraction::parse_runtime(share, cx)),
        };
        let descriptors: Vec<LocalDescriptor> = cx.each("descriptors", descriptors, descriptor)?;
        check_descriptors(&descriptors, rate, cx)?;
        let max_dynamic = max_dynamic_descriptors.map_or(DEFAULT_DYNAMIC, |max| max.value);
        Ok(Self {
            stat_prefix: stat_prefix.into(),
            status: error_code(status.map_or(0, |status| status.code)),
            rate,
            enabled: share("filter_enabled", filter_enabled, cx)?,
            enforced: share("filter_enforced", filter_enforced, cx)?,
            request_headers: cx.each(
                "request_headers_to_add_when_not_enforced",
                request_headers_to_add_when_not_enforced,
                HeaderAdd::parse,
            )?,
            response_headers: cx.each(
                "response_headers_to_add",
                response_headers_to_add,
                HeaderAdd::parse,
            )?,
            descriptors,
            stage: stage(at, cx)?,
            per_connection: local_rate_limit_per_downstream_connection,
            headers: cx.enumeration::<XRateLimitHeadersRfcVersion>(
                "enable_x_ratelimit_headers",
                enable_x_ratelimit_headers,
            )? == XRateLimitHeadersRfcVersion::DraftVersion03,
            retry_after: enable_retry_after_header,
            vhost_limits: vhost_limits(vh_rate_limits, cx)?,
            always_default: always_consume_default_token_bucket.is_none_or(|value| value.value),
            resource_exhausted: rate_limited_as_resource_exhausted,
            limits: RateLimits::parse(rate_limits, cx)?,
            max_dynamic: max_dynamic.clamp(1, MOST_DYNAMIC) as usize,
            held: Held::default(),
        })
    }
}

/// An error status; anything else is 429, as in Envoy.
pub(super) fn error_code(code: i32) -> StatusCode {
    let code = u16::try_from(code)
        .ok()
        .filter(|code| (400..600).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

pub(super) fn vhost_limits(wire: i32, cx: &Cx) -> Result<VhostLimits, Invalid> {
    use extensions::common::ratelimit::v3::VhRateLimitsOptions;
    Ok(match cx.enumeration("vh_rate_limits", wire)? {
        VhRateLimitsOptions::Override => VhostLimits::Override,
        VhRateLimitsOptions::Include => VhostLimits::Include,
        VhRateLimitsOptions::Ignore => VhostLimits::Ignore,
    })
}

fn descriptor(
    wire: extensions::common::ratelimit::v3::LocalRateLimitDescriptor,
    cx: &mut Cx,
) -> Result<LocalDescriptor, Invalid> {
    let extensions::common::ratelimit::v3::LocalRateLimitDescriptor {
        entries,
        token_bucket,
        shadow_mode,
    } = wire;
    refuse!(cx; shadow_mode);
    if entries.is_empty() {
        return Err(cx.invalid("entries", "is required"));
    }
    let bucket = cx.required("token_bucket", token_bucket)?;
    Ok(LocalDescriptor {
        entries: cx.each("entries", entries, DescriptorEntry::parse)?,
        rate: cx.field("token_bucket", |cx| TokenRate::parse(bucket, cx))?,
    })
}

/// Envoy's rules: no two alike, and intervals that are multiples of the common one.
fn check_descriptors(
    descriptors: &[LocalDescriptor],
    rate: Option<TokenRate>,
    cx: &Cx,
) -> Result<(), Invalid> {
    for (index, descriptor) in descriptors.iter().enumerate() {
        let field = format!("descriptors[{index}]");
        let same = |other: &LocalDescriptor| other.entries == descriptor.entries;
        if descriptors.iter().take(index).any(same) {
            return Err(cx.invalid(&format!("{field}.entries"), "is there before"));
        }
        let common = rate.map_or(0, |rate| rate.fill_interval.as_millis());
        let own = descriptor.rate.fill_interval.as_millis();
        if common != 0 && !own.is_multiple_of(common) {
            return Err(cx.invalid(
                &format!("{field}.token_bucket.fill_interval"),
                "must be a multiple of the filter's",
            ));
        }
    }
    Ok(())
}
