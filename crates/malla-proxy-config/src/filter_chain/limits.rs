//! Network filters that limit connections.

use std::sync::Arc;
use std::time::Duration;

use crate::checked::{Cx, Invalid, ignorable};
use crate::format::Format;
use crate::grpc_service::GrpcService;
use crate::held::Held;
use crate::pb::extensions::filters::network as ext;
use crate::pb::{core, extensions};
use crate::rate_limit::{DescriptorEntry, RateLimitService};
use crate::token_bucket::TokenRate;

/// `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`: a token for each new connection.
#[derive(Debug, Clone)]
pub struct ConnectionRate {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// The bucket.
    pub rate: TokenRate,
    /// False lets all through.
    pub enabled: bool,
    /// Filters with the same key and rate share one bucket.
    pub share_key: Option<Arc<str>>,
    /// The bucket of this very filter.
    pub held: Held,
}

/// `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`: so many connections at a time.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// The most at a time; at least 1.
    pub max: u64,
    /// How long a connection beyond it is held before it is closed.
    pub delay: Option<Duration>,
    /// False lets all through, uncounted.
    pub enabled: bool,
    /// How many there are.
    pub held: Held,
}

/// `envoy.extensions.filters.network.ratelimit.v3.RateLimit`: a service decides.
#[derive(Debug, Clone)]
pub struct NetworkRateLimit {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Domain of the descriptors.
    pub domain: Arc<str>,
    /// What is asked about; values are formats.
    pub descriptors: Vec<Vec<(String, Format)>>,
    /// Who is asked.
    pub service: RateLimitService,
    /// Close connections when it does not answer.
    pub failure_mode_deny: bool,
}

fn enabled(wire: Option<core::RuntimeFeatureFlag>, cx: &mut Cx) -> bool {
    let Some(core::RuntimeFeatureFlag {
        default_value,
        runtime_key,
    }) = wire
    else {
        return true;
    };
    cx.runtime_flag(&runtime_key, default_value.is_none_or(|value| value.value))
}

impl ConnectionRate {
    pub(super) fn parse(
        wire: ext::local_ratelimit::v3::LocalRateLimit,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::local_ratelimit::v3::LocalRateLimit {
            stat_prefix,
            token_bucket,
            runtime_enabled,
            share_key,
        } = wire;
        let stat_prefix = required_prefix(stat_prefix, cx)?;
        let bucket = cx.required("token_bucket", token_bucket)?;
        let rate = cx.field("token_bucket", |cx| TokenRate::parse(bucket, cx))?;
        if rate.fill_interval < MIN_FILL_INTERVAL {
            return Err(cx.invalid("token_bucket.fill_interval", "must be at least 50ms"));
        }
        Ok(Self {
            stat_prefix,
            rate,
            enabled: enabled(runtime_enabled, cx),
            share_key: (!share_key.is_empty()).then(|| share_key.into()),
            held: Held::default(),
        })
    }
}

/// Envoy takes no shorter one.
pub(crate) const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

fn required_prefix(stat_prefix: String, cx: &Cx) -> Result<Arc<str>, Invalid> {
    if stat_prefix.is_empty() {
        return Err(cx.invalid("stat_prefix", "is required"));
    }
    Ok(stat_prefix.into())
}

impl ConnectionLimit {
    pub(super) fn parse(
        wire: ext::connection_limit::v3::ConnectionLimit,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let ext::connection_limit::v3::ConnectionLimit {
            stat_prefix,
            max_connections,
            delay,
            runtime_enabled,
        } = wire;
        let max = cx.required("max_connections", max_connections)?.value;
        if max == 0 {
            return Err(cx.invalid("max_connections", "must be at least 1"));
        }
        Ok(Self {
            stat_prefix: required_prefix(stat_prefix, cx)?,
            max,
            delay: cx
                .duration("delay", delay)?
                .filter(|delay| !delay.is_zero()),
            enabled: enabled(runtime_enabled, cx),
            held: Held::default(),
        })
    }
}

impl NetworkRateLimit {
    pub(super) fn parse(wire: ext::ratelimit::v3::RateLimit, cx: &mut Cx) -> Result<Self, Invalid> {
        let ext::ratelimit::v3::RateLimit {
            stat_prefix,
            domain,
            descriptors,
            timeout,
            failure_mode_deny,
            rate_limit_service,
        } = wire;
        if domain.is_empty() {
            return Err(cx.invalid("domain", "is required"));
        }
        if descriptors.is_empty() {
            return Err(cx.invalid("descriptors", "is required"));
        }
        let service = cx.required("rate_limit_service", rate_limit_service)?;
        let timeout = cx.duration("timeout", timeout)?;
        Ok(Self {
            stat_prefix: required_prefix(stat_prefix, cx)?,
            domain: domain.into(),
            descriptors: cx.each("descriptors", descriptors, descriptor)?,
            service: cx.field("rate_limit_service", |cx| {
                RateLimitService::parse(service, timeout, cx)
            })?,
            failure_mode_deny,
        })
    }
}

fn descriptor(
    wire: extensions::common::ratelimit::v3::RateLimitDescriptor,
    cx: &mut Cx,
) -> Result<Vec<(String, Format)>, Invalid> {
    let extensions::common::ratelimit::v3::RateLimitDescriptor {
        entries,
        limit,
        hits_addend,
        is_negative_hits,
    } = wire;
    // Envoy reads the entries alone here.
    ignorable!(cx; limit, hits_addend, is_negative_hits);
    if entries.is_empty() {
        return Err(cx.invalid("entries", "is required"));
    }
    cx.each("entries", entries, |entry, cx| {
        let DescriptorEntry { key, value } = DescriptorEntry::parse(entry, cx)?;
        let format = Format::compile(&value).map_err(|reason| cx.invalid("value", reason))?;
        Ok((key, format))
    })
}

impl RateLimitService {
    /// `RateLimitServiceConfig` with the filter's timeout.
    pub(crate) fn parse(
        wire: crate::pb::ratelimit::RateLimitServiceConfig,
        timeout: Option<Duration>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let crate::pb::ratelimit::RateLimitServiceConfig {
            grpc_service,
            transport_api_version,
        } = wire;
        if transport_api_version != core::ApiVersion::V3 as i32 {
            return Err(cx.invalid("transport_api_version", "must be V3"));
        }
        let service = cx.required("grpc_service", grpc_service)?;
        let mut service = cx.field("grpc_service", |cx| GrpcService::parse(service, cx))?;
        service.timeout = Some(timeout.unwrap_or(DEFAULT_TIMEOUT));
        Ok(Self { service })
    }
}

/// Envoy's.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
