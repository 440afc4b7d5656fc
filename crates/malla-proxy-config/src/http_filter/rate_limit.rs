//! Rate limits that a service decides.

use std::sync::Arc;

use http::StatusCode;

use super::local_rate_limit::{error_code, vhost_limits};
use crate::checked::{Cx, Invalid, refuse};
use crate::headers::HeaderAdd;
use crate::matcher::Fraction;
use crate::pb::extensions::filters::http as ext;
use crate::rate_limit::{RateLimitService, RateLimits, VhostLimits, stage};

/// `envoy.extensions.filters.http.ratelimit.v3.RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRateLimit {
    /// Domain of the descriptors.
    pub domain: String,
    /// Which entries of routes make descriptors.
    pub stage: u32,
    /// Which requests.
    pub requests: RequestKind,
    /// Who is asked.
    pub service: RateLimitService,
    /// Share of requests it looks at.
    pub enabled: Fraction,
    /// Share of those over their limit that is refused.
    pub enforced: Fraction,
    /// Share of requests refused when the service does not answer.
    pub failure_deny: Fraction,
    /// Status of refused requests.
    pub status: StatusCode,
    /// Status when the service does not answer.
    pub error_status: StatusCode,
    /// gRPC calls are refused as `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// Write `x-ratelimit-*` headers.
    pub headers: bool,
    /// Write `x-envoy-ratelimited`.
    pub says_limited: bool,
    /// Added to refusals.
    pub response_headers: Vec<HeaderAdd>,
    /// In the middle of its statistics' names.
    pub stat_prefix: String,
    /// What makes descriptors, instead of the entries of routes.
    pub limits: RateLimits,
}

/// `request_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// All.
    Both,
    /// From the inside.
    Internal,
    /// From the outside.
    External,
}

/// `RateLimitPerRoute`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitPerRoute {
    /// Whether limits of virtual hosts count.
    pub vhost_limits: VhostLimits,
    /// What makes descriptors here.
    pub limits: RateLimits,
    /// Another domain.
    pub domain: Option<String>,
}

impl HttpRateLimit {
    pub(super) fn parse(wire: ext::ratelimit::v3::RateLimit, cx: &mut Cx) -> Result<Self, Invalid> {
        use ext::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
        let ext::ratelimit::v3::RateLimit {
            domain,
            stage: at,
            request_type,
            timeout,
            failure_mode_deny,
            rate_limited_as_resource_exhausted,
            rate_limit_service,
            enable_x_ratelimit_headers,
            disable_x_envoy_ratelimited_header,
            rate_limited_status,
            response_headers_to_add,
            status_on_error,
            stat_prefix,
            filter_enabled,
            filter_enforced,
            failure_mode_deny_percent,
            rate_limits,
            metadata_namespace,
            enable_retry_after_header,
        } = wire;
        refuse!(cx; metadata_namespace, enable_retry_after_header);
        if domain.is_empty() {
            return Err(cx.invalid("domain", "is required"));
        }
        let service = cx.required("rate_limit_service", rate_limit_service)?;
        let timeout = cx.duration("timeout", timeout)?;
        let share = |field: &str, wire: Option<_>, default, cx: &mut Cx| match wire {
            None => Ok(default),
            Some(share) => cx.field(field, |cx| Fraction::parse_runtime(share, cx)),
        };
        let deny = if failure_mode_deny {
            Fraction::ALWAYS
        } else {
            Fraction::NEVER
        };
        let status = rate_limited_status.map_or(0, |status| status.code);
        Ok(Self {
            domain,
            stage: stage(at, cx)?,
            requests: match request_type.as_str() {
                "" | "both" => RequestKind::Both,
                "internal" => RequestKind::Internal,
                "external" => RequestKind::External,
                _ => {
                    return Err(
                        cx.invalid("request_type", "must be internal, external, both or empty")
                    );
                }
            },
            service: cx.field("rate_limit_service", |cx| {
                RateLimitService::parse(service, timeout, cx)
            })?,
            enabled: share("filter_enabled", filter_enabled, Fraction::ALWAYS, cx)?,
            enforced: share("filter_enforced", filter_enforced, Fraction::ALWAYS, cx)?,
            failure_deny: share(
                "failure_mode_deny_percent",
                failure_mode_deny_percent,
                deny,
                cx,
            )?,
            status: error_code(status),
            error_status: match status_on_error {
                None => StatusCode::INTERNAL_SERVER_ERROR,
                Some(status) => u16::try_from(status.code)
                    .ok()
                    .and_then(|code| StatusCode::from_u16(code).ok())
                    .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            },
            resource_exhausted: rate_limited_as_resource_exhausted,
            headers: cx.enumeration::<XRateLimitHeadersRfcVersion>(
                "enable_x_ratelimit_headers",
                enable_x_ratelimit_headers,
            )? == XRateLimitHeadersRfcVersion::DraftVersion03,
            says_limited: !disable_x_envoy_ratelimited_header,
            response_headers: cx.each(
                "response_headers_to_add",
                response_headers_to_add,
                HeaderAdd::parse,
            )?,
            stat_prefix,
            limits: RateLimits::parse(rate_limits, cx)?,
        })
    }

    /// Where the statistics are, after the cluster's name.
    pub fn stat_scope(&self) -> Arc<str> {
        match self.stat_prefix.is_empty() {
            true => Arc::from("ratelimit"),
            false => format!("ratelimit.{}", self.stat_prefix).into(),
        }
    }
}

impl RateLimitPerRoute {
    pub(super) fn parse(
        wire: ext::ratelimit::v3::RateLimitPerRoute,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use ext::ratelimit::v3::rate_limit_per_route::OverrideOptions;
        let ext::ratelimit::v3::RateLimitPerRoute {
            vh_rate_limits,
            override_option,
            rate_limits,
            domain,
        } = wire;
        let vhost_limits = match cx.enumeration("override_option", override_option)? {
            // The two enumerations are alike.
            OverrideOptions::Default => vhost_limits(vh_rate_limits, cx)?,
            OverrideOptions::OverridePolicy => VhostLimits::Override,
            OverrideOptions::IncludePolicy => VhostLimits::Include,
            OverrideOptions::IgnorePolicy => VhostLimits::Ignore,
        };
        Ok(Self {
            vhost_limits,
            limits: RateLimits::parse(rate_limits, cx)?,
            domain: (!domain.is_empty()).then_some(domain),
        })
    }
}
