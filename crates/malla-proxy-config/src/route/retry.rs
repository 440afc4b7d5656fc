//! Retry policies.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use smallvec::SmallVec;

use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::http_filter::status_code;
use crate::metadata::{Metadata, Value};
use crate::pb::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use crate::pb::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use crate::pb::route as pb;
use crate::request::{HeaderMatcher, text};

const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
/// `RateLimitedRetryBackOff.max_interval` when none is given.
const DEFAULT_MAX_RESET: Duration = Duration::from_secs(300);

/// `RetryPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// How often, at most.
    pub attempts: u32,
    /// Limit for each try; `None` leaves the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Limit for each try without a byte of its answer, once its head is there; `None` leaves the stream's.
    pub per_try_idle_timeout: Option<Duration>,
    /// Codes for `retriable-status-codes`.
    pub status_codes: SmallVec<[StatusCode; 4]>,
    /// Response headers for `retriable-headers`.
    pub response_headers: Vec<HeaderMatcher>,
    /// Only requests that match any of these; empty means all.
    pub request_headers: Vec<HeaderMatcher>,
    /// Shortest and longest wait; the wait is random below `base * (2^n - 1)`.
    pub back_off: (Duration, Duration),
    /// Draw a host again, at most so often, while it was tried before; at least 1.
    pub host_selection_attempts: u32,
    /// Waits that the endpoint asks for.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// Hosts that further tries avoid.
    pub avoid: AvoidHosts,
    /// Avoid priorities tried before, updated after every so many tries (`previous_priorities`).
    pub avoid_previous_priorities: Option<u32>,
}

/// `RateLimitedRetryBackOff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// Where the wait is, in order.
    pub headers: Vec<(HeaderName, ResetFormat)>,
    /// Longer ones do not count.
    pub max: Duration,
}

/// How a header says when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    /// In so many seconds.
    Seconds,
    /// At this second of Unix time.
    Unix,
}

impl RateLimitedBackOff {
    /// The wait an answer asks for; `now` is Unix time.
    pub fn wait(&self, headers: &HeaderMap, now: Duration) -> Option<Duration> {
        self.headers.iter().find_map(|(name, format)| {
            let value: u64 = text(headers.get(name)?).parse().ok()?;
            let wait = match format {
                ResetFormat::Seconds => Duration::from_secs(value),
                ResetFormat::Unix => Duration::from_secs(value).checked_sub(now)?,
            };
            (wait <= self.max).then_some(wait)
        })
    }
}

/// `retry_host_predicate`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AvoidHosts {
    /// Those tried before (`previous_hosts`).
    pub previous: bool,
    /// Canaries (`omit_canary_hosts`).
    pub canaries: bool,
    /// Those with this metadata (`omit_host_metadata`).
    pub with_metadata: Vec<Metadata>,
}

impl AvoidHosts {
    /// True if any host may be chosen again.
    pub fn is_empty(&self) -> bool {
        !self.previous && !self.canaries && self.with_metadata.is_empty()
    }

    /// Whether a host with this metadata is avoided whether or not it was tried.
    pub fn omits(&self, metadata: &Metadata) -> bool {
        let canary = || {
            let mark = metadata.get("envoy.lb").and_then(|lb| lb.get("canary"));
            mark == Some(&Value::Bool(true))
        };
        self.canaries && canary()
            || self
                .with_metadata
                .iter()
                .any(|omit| metadata.contains(omit))
    }
}

/// Declares the conditions as bits with their Envoy names.
macro_rules! conditions {
    ($($name:ident = $bit:literal $text:literal),+ $(,)?) => {
        /// A set of retry conditions.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct RetryOn(u32);

        impl RetryOn {
            $(#[doc = concat!("`", $text, "`.")] pub const $name: Self = Self(1 << $bit);)+

            fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

conditions! {
    SERVER_ERROR = 0 "5xx",
    GATEWAY_ERROR = 1 "gateway-error",
    RESET = 2 "reset",
    RESET_BEFORE_REQUEST = 3 "reset-before-request",
    CONNECT_FAILURE = 4 "connect-failure",
    RETRIABLE_4XX = 5 "retriable-4xx",
    REFUSED_STREAM = 6 "refused-stream",
    RETRIABLE_STATUS_CODES = 7 "retriable-status-codes",
    RETRIABLE_HEADERS = 8 "retriable-headers",
    ENVOY_RATE_LIMITED = 9 "envoy-ratelimited",
    HTTP3_POST_CONNECT_FAILURE = 10 "http3-post-connect-failure",
    GRPC_CANCELLED = 11 "cancelled",
    GRPC_DEADLINE_EXCEEDED = 12 "deadline-exceeded",
    GRPC_INTERNAL = 13 "internal",
    GRPC_RESOURCE_EXHAUSTED = 14 "resource-exhausted",
    GRPC_UNAVAILABLE = 15 "unavailable",
}

impl RetryOn {
    /// True if any condition of `other` is in the set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if there is no condition.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Reads a comma-separated list, from configuration or from `x-envoy-retry-on`; a three-digit code among them goes
    /// to the codes, unknown words are left out as Envoy does.
    pub fn parse(text: &str) -> Self {
        text.split(',')
            .filter_map(|word| Self::from_name(word.trim()))
            .fold(Self::default(), Self::with)
    }
}

impl RetryPolicy {
    pub(super) fn parse(wire: pb::RetryPolicy, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            // Only cluster specifiers that are refused here choose anew.
            refresh_cluster_on_retry: _,
        } = wire;
        // Envoy has none to name either.
        refuse!(cx; retry_options_predicates);
        for word in retry_on
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            // Envoy takes numbers nowhere here; the control plane lists codes apart. Unknown words are left out there too.
            if RetryOn::from_name(word).is_none() {
                cx.warn(
                    "retry_on",
                    format!("`{word}` is not a condition this proxy knows; it never applies"),
                );
            }
        }
        let back_off = match retry_back_off {
            None => (DEFAULT_BASE_INTERVAL, DEFAULT_BASE_INTERVAL * 10),
            Some(pb::retry_policy::RetryBackOff {
                base_interval,
                max_interval,
            }) => {
                let base = cx.duration("retry_back_off.base_interval", base_interval)?;
                let base = cx
                    .required("retry_back_off.base_interval", base)?
                    .max(Duration::from_millis(1));
                let max = cx
                    .duration("retry_back_off.max_interval", max_interval)?
                    .unwrap_or(base * 10);
                if max < base {
                    return Err(cx.invalid("retry_back_off.max_interval", "is below base_interval"));
                }
                (base, max)
            }
        };
        let limit = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        let status_codes: Vec<StatusCode> = cx.each(
            "retriable_status_codes",
            retriable_status_codes,
            |status, cx| status_code("", status, cx),
        )?;
        Ok(Self {
            on: RetryOn::parse(&retry_on),
            attempts: num_retries.map_or(1, |retries| retries.value),
            per_try_timeout: limit(cx.duration("per_try_timeout", per_try_timeout)?),
            per_try_idle_timeout: limit(cx.duration("per_try_idle_timeout", per_try_idle_timeout)?),
            rate_limited: match rate_limited_retry_back_off {
                None => None,
                Some(wire) => Some(cx.field("rate_limited_retry_back_off", |cx| {
                    RateLimitedBackOff::parse(wire, cx)
                })?),
            },
            status_codes: SmallVec::from_vec(status_codes),
            response_headers: cx.each(
                "retriable_headers",
                retriable_headers,
                HeaderMatcher::parse,
            )?,
            request_headers: cx.each(
                "retriable_request_headers",
                retriable_request_headers,
                HeaderMatcher::parse,
            )?,
            back_off,
            host_selection_attempts: u32::try_from(host_selection_retry_max_attempts.max(1))
                .unwrap_or(u32::MAX),
            avoid: AvoidHosts::parse(retry_host_predicate, cx)?,
            avoid_previous_priorities: previous_priorities(retry_priority, cx)?,
        })
    }
}

impl RateLimitedBackOff {
    fn parse(
        wire: pb::retry_policy::RateLimitedRetryBackOff,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::retry_policy::ResetHeaderFormat;
        let pb::retry_policy::RateLimitedRetryBackOff {
            reset_headers,
            max_interval,
        } = wire;
        if reset_headers.is_empty() {
            return Err(cx.invalid("reset_headers", "takes at least one header"));
        }
        Ok(Self {
            headers: cx.each("reset_headers", reset_headers, |wire, cx| {
                let name = wire
                    .name
                    .parse()
                    .map_err(|_| cx.invalid("name", "is not a header name"))?;
                let format = match cx.enumeration("format", wire.format)? {
                    ResetHeaderFormat::Seconds => ResetFormat::Seconds,
                    ResetHeaderFormat::UnixTimestamp => ResetFormat::Unix,
                };
                Ok((name, format))
            })?,
            max: cx
                .duration("max_interval", max_interval)?
                .unwrap_or(DEFAULT_MAX_RESET),
        })
    }
}

impl AvoidHosts {
    fn parse(
        wire: Vec<pb::retry_policy::RetryHostPredicate>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::retry_policy::retry_host_predicate::ConfigType;
        let mut out = Self::default();
        for (index, predicate) in wire.into_iter().enumerate() {
            let pb::retry_policy::RetryHostPredicate { name, config_type } = predicate;
            let field = format!("retry_host_predicate[{index}]");
            let (kind, any) = match &config_type {
                Some(ConfigType::TypedConfig(any)) => (type_name(any), Some(any)),
                None => (name.clone(), None),
            };
            match (kind.as_str(), any) {
                (
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    | "envoy.retry_host_predicates.previous_hosts",
                    _,
                ) => out.previous = true,
                (
                    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate"
                    | "envoy.retry_host_predicates.omit_canary_hosts",
                    _,
                ) => out.canaries = true,
                (
                    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
                    Some(any),
                ) => {
                    let OmitHostMetadataConfig { metadata_match } = cx.unpack(&field, any)?;
                    out.with_metadata
                        .push(Metadata::parse(metadata_match, &field, cx));
                }
                (other, _) => {
                    return Err(
                        cx.invalid(&field, format!("{other} is not supported by this proxy"))
                    );
                }
            }
        }
        Ok(out)
    }
}

fn previous_priorities(
    wire: Option<pb::retry_policy::RetryPriority>,
    cx: &mut Cx,
) -> Result<Option<u32>, Invalid> {
    use pb::retry_policy::retry_priority::ConfigType;
    let Some(pb::retry_policy::RetryPriority { name, config_type }) = wire else {
        return Ok(None);
    };
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.invalid(
            "retry_priority.typed_config",
            format!("is required for `{name}`"),
        ));
    };
    if type_name(&any)
        != "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    {
        return Err(cx.invalid(
            "retry_priority",
            format!("{} is not supported by this proxy", type_name(&any)),
        ));
    }
    let PreviousPrioritiesConfig { update_frequency } =
        cx.unpack("retry_priority.typed_config", &any)?;
    match u32::try_from(update_frequency) {
        Ok(frequency) if frequency > 0 => Ok(Some(frequency)),
        _ => Err(cx.invalid("retry_priority.update_frequency", "must be at least 1")),
    }
}
