//! Decides whether a failed try is followed by another, and how long to wait before it.
//!
//! Knows no IO and no clock. Conditions, their order and the back-off are Envoy's `RetryStateImpl`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, StatusCode};
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::retry::{RetryOn, RetryPolicy};
use smallvec::SmallVec;

use crate::upstream::{ResetKind, SendError};

/// The retries of one request.
#[derive(Debug)]
pub(super) struct Retries {
    policy: Option<Arc<RetryPolicy>>,
    on: RetryOn,
    codes: SmallVec<[StatusCode; 4]>,
    /// Headers of an answer that are enough by being there (`x-envoy-retriable-header-names`).
    names: SmallVec<[HeaderName; 2]>,
    left: u32,
    made: u32,
}

/// What to do after a failure that a retry could mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not a failure that is retried.
    No,
    /// It would be, but there are no tries left.
    Exhausted,
    /// Try again.
    Yes,
}

impl Retries {
    /// From the route's policy and what a trusted client asks for in headers.
    pub(super) fn new(policy: Option<Arc<RetryPolicy>>, request: &RequestView<'_>) -> Self {
        let header = |name: &str| request.headers.get(name).map(text);
        let mut on = policy.as_ref().map(|policy| policy.on).unwrap_or_default();
        let mut codes = policy
            .as_ref()
            .map(|policy| policy.status_codes.clone())
            .unwrap_or_default();
        let mut left = policy.as_ref().map_or(1, |policy| policy.attempts);
        let asked = [header("x-envoy-retry-on"), header("x-envoy-retry-grpc-on")];
        for words in asked.into_iter().flatten() {
            on = on.with(RetryOn::parse(words));
        }
        if let Some(words) = header("x-envoy-retriable-status-codes") {
            codes.extend(words.split(',').filter_map(|word| word.trim().parse().ok()));
        }
        let names = header("x-envoy-retriable-header-names").unwrap_or_default();
        let names = names
            .split(',')
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        let wanted = policy.as_ref().is_none_or(|policy| {
            policy.request_headers.is_empty()
                || policy
                    .request_headers
                    .iter()
                    .any(|matcher| matcher.is_match(request))
        });
        if !wanted {
            on = RetryOn::default();
        }
        if let Some(max) = header("x-envoy-max-retries").and_then(|max| max.parse().ok()) {
            left = max;
        }
        Self {
            policy,
            on,
            codes,
            names,
            left,
            made: 0,
        }
    }

    /// True if a further try may come.
    pub(super) fn may_retry(&self) -> bool {
        !self.on.is_empty() && self.left > 0
    }

    /// True if some failures are retried, whether or not any tries are left.
    pub(super) fn is_wanted(&self) -> bool {
        !self.on.is_empty()
    }

    /// How many were made.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// After a response head.
    pub(super) fn after_response(&self, status: StatusCode, headers: &HeaderMap) -> Answer {
        self.answer(self.wants_response(status, headers))
    }

    /// After a try without one.
    pub(super) fn after_error(&self, error: &SendError) -> Answer {
        self.answer(self.wants_error(error))
    }

    /// After the timeout of one try that goes on: always, while there are tries left.
    pub(super) fn beside(&self) -> Answer {
        self.answer(!self.on.is_empty())
    }

    /// Whether an answer is one that a try would follow, were there any left.
    pub(super) fn would_follow(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.wants_response(status, headers)
    }

    /// After the timeout of one try.
    pub(super) fn after_try_timeout(&self) -> Answer {
        self.answer(
            self.on.has(
                RetryOn::SERVER_ERROR
                    .with(RetryOn::GATEWAY_ERROR)
                    .with(RetryOn::RESET),
            ),
        )
    }

    /// The wait an answer asks for, where the policy cares; `now` is the wall clock.
    pub(super) fn asked_wait(&self, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
        let policy = self.policy.as_ref()?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        policy.rate_limited.as_ref()?.wait(headers, now)
    }

    /// Takes one try and says how long to wait: what was asked for and up to half as much again, or random below
    /// `base * (2^n - 1)`, at most the longest interval.
    pub(super) fn take(&mut self, asked: Option<Duration>, random: u64) -> Duration {
        self.left = self.left.saturating_sub(1);
        self.made += 1;
        if let Some(asked) = asked {
            let half = u64::try_from(asked.as_millis() / 2).unwrap_or(u64::MAX);
            return asked + Duration::from_millis(random % half.max(1));
        }
        let (base, max) = self.policy.as_ref().map_or(
            (Duration::from_millis(25), Duration::from_millis(250)),
            |policy| policy.back_off,
        );
        let factor = 2_u32.saturating_pow(self.made.min(31)).saturating_sub(1);
        let bound = u64::try_from(base.saturating_mul(factor).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_millis(random % bound).min(max)
    }

    fn answer(&self, wanted: bool) -> Answer {
        match (wanted, self.left) {
            (false, _) => Answer::No,
            (true, 0) => Answer::Exhausted,
            (true, _) => Answer::Yes,
        }
    }

    fn wants_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if headers.contains_key("x-envoy-ratelimited") {
            return self.on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        let code = status.as_u16();
        let by_headers = self.on.has(RetryOn::RETRIABLE_HEADERS)
            && (self.names.iter().any(|name| headers.contains_key(name))
                || self.policy.as_ref().is_some_and(|policy| {
                    policy
                        .response_headers
                        .iter()
                        .any(|matcher| matcher.matches_headers(headers, status))
                }));
        self.on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&code)
            || self.on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code)
            || self.on.has(RetryOn::RETRIABLE_4XX) && code == 409
            || self.on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.codes.contains(&status)
            || by_headers
            || self.wants_grpc(headers)
    }

    fn wants_grpc(&self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status").map(text) else {
            return false;
        };
        let condition = match status {
            "1" => RetryOn::GRPC_CANCELLED,
            "4" => RetryOn::GRPC_DEADLINE_EXCEEDED,
            "8" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            "13" => RetryOn::GRPC_INTERNAL,
            "14" => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        self.on.has(condition)
    }

    fn wants_error(&self, error: &SendError) -> bool {
        let any_reset = RetryOn::SERVER_ERROR
            .with(RetryOn::GATEWAY_ERROR)
            .with(RetryOn::RESET);
        match error {
            SendError::NoHealthyHost | SendError::Overflow | SendError::DropOverload { .. } => {
                false
            }
            SendError::Connect { .. } => self.on.has(
                any_reset
                    .with(RetryOn::CONNECT_FAILURE)
                    .with(RetryOn::RESET_BEFORE_REQUEST),
            ),
            SendError::Reset(reset) => match reset.kind {
                ResetKind::Downstream => false,
                ResetKind::RemoteRefused => {
                    self.on.has(any_reset.with(RetryOn::REFUSED_STREAM))
                        || reset.before_request && self.on.has(RetryOn::RESET_BEFORE_REQUEST)
                }
                ResetKind::Remote
                | ResetKind::Local
                | ResetKind::ConnectionTermination
                | ResetKind::ProtocolError => {
                    self.on.has(any_reset)
                        || reset.before_request && self.on.has(RetryOn::RESET_BEFORE_REQUEST)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method, StatusCode};
    use malla_proxy_config::request::RequestView;

    use super::{Answer, Retries};
    use crate::upstream::{ResetKind, SendError, StreamError};

    fn retries(on: &str) -> Retries {
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-retry-on", on.parse().unwrap());
        let request = RequestView {
            method: &Method::GET,
            path: "/",
            scheme: "http",
            headers: &headers,
            state: None,
        };
        Retries::new(None, &request)
    }

    #[test]
    fn conditions_decide() {
        let response = |on: &str, status: u16, grpc: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(grpc) = grpc {
                headers.insert("grpc-status", grpc.parse().unwrap());
            }
            retries(on).after_response(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert_eq!(response("5xx", 500, None), Answer::Yes);
        assert_eq!(response("gateway-error", 500, None), Answer::No);
        assert_eq!(response("gateway-error", 503, None), Answer::Yes);
        assert_eq!(response("retriable-4xx", 409, None), Answer::Yes);
        assert_eq!(response("unavailable", 200, Some("14")), Answer::Yes);
        assert_eq!(response("connect-failure", 503, None), Answer::No);

        let error = |on: &str, error: SendError| retries(on).after_error(&error);
        let reset = |kind, before_request| {
            SendError::Reset(StreamError {
                kind,
                before_request,
            })
        };
        let refused = SendError::Connect {
            reason: String::new(),
            timeout: false,
        };
        assert_eq!(error("connect-failure", refused.clone()), Answer::Yes);
        assert_eq!(error("refused-stream", refused), Answer::No);
        assert_eq!(
            error("refused-stream", reset(ResetKind::RemoteRefused, false)),
            Answer::Yes
        );
        assert_eq!(
            error(
                "reset-before-request",
                reset(ResetKind::ConnectionTermination, true)
            ),
            Answer::Yes
        );
        assert_eq!(
            error(
                "reset-before-request",
                reset(ResetKind::ConnectionTermination, false)
            ),
            Answer::No
        );
        assert_eq!(error("5xx", SendError::Overflow), Answer::No);
        assert_eq!(
            error("reset", reset(ResetKind::Downstream, true)),
            Answer::No
        );
    }

    #[test]
    fn tries_run_out_and_waits_grow() {
        let mut retries = retries("5xx");
        assert!(retries.take(None, 24) <= Duration::from_millis(24));
        assert_eq!(
            retries.after_response(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new()),
            Answer::Exhausted
        );
        assert!(!retries.may_retry());
        for random in [0, u64::MAX, 12345] {
            assert!(retries.take(None, random) <= Duration::from_millis(250));
        }
    }
}
