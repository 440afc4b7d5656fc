//! Retry policies.

use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use crate::checked::{Cx, Invalid, refuse, type_name};
use crate::http_filter::status_code;
use crate::pb::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use crate::pb::route as pb;
use crate::request::HeaderMatcher;

const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);

/// `RetryPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// How often, at most.
    pub attempts: u32,
    /// Limit for each try; `None` leaves the route's timeout.
    pub per_try_timeout: Option<Duration>,
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
    /// Avoid hosts tried before (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// Avoid priorities tried before, updated after every so many tries (`previous_priorities`).
    pub avoid_previous_priorities: Option<u32>,
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
            refresh_cluster_on_retry,
        } = wire;
        refuse!(cx; per_try_idle_timeout, retry_options_predicates, rate_limited_retry_back_off, refresh_cluster_on_retry);
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
            avoid_previous_hosts: previous_hosts(retry_host_predicate, cx)?,
            avoid_previous_priorities: previous_priorities(retry_priority, cx)?,
        })
    }
}

fn previous_hosts(
    wire: Vec<pb::retry_policy::RetryHostPredicate>,
    cx: &mut Cx,
) -> Result<bool, Invalid> {
    use pb::retry_policy::retry_host_predicate::ConfigType;
    let mut found = false;
    for predicate in wire {
        let pb::retry_policy::RetryHostPredicate { name, config_type } = predicate;
        let kind = match &config_type {
            Some(ConfigType::TypedConfig(any)) => type_name(any),
            None => name.clone(),
        };
        match kind.as_str() {
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            | "envoy.retry_host_predicates.previous_hosts" => found = true,
            other => {
                return Err(cx.invalid(
                    "retry_host_predicate",
                    format!("{other} is not supported by this proxy"),
                ));
            }
        }
    }
    Ok(found)
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
