//! The time limits of one request: the route's, those a trusted client asks for, a gRPC client's
//! own, and what the upstream is told of them (Envoy's router filter and connection manager).

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use malla_proxy_config::request::text;
use malla_proxy_config::route::action::{Forward, GrpcDeadline, StreamLimit};

use super::exchange::Exchange;
use crate::upstream::Upstreams;

const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const TIMEOUT_MS: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY_TIMEOUT_MS: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const ALTERNATIVE: &str = "x-envoy-upstream-rq-timeout-alt-response";
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `grpc-timeout` has at most eight digits (gRPC over HTTP/2).
const MOST_GRPC_DIGITS: u128 = 99_999_999;

/// The limits of the tries of a request. `None` is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) global: Option<Duration>,
    pub(super) per_try: Option<Duration>,
    /// Answer 204 instead of 504.
    pub(super) alternative: bool,
    /// A gRPC upstream is told, too.
    grpc: bool,
    hedged: bool,
}

impl Timeouts {
    /// Reads and removes the headers that ask for limits, and tells the upstream what is left to it.
    pub(super) fn of<U: Upstreams>(x: &mut Exchange<U>, forward: &Forward, hedged: bool) -> Self {
        let router = x.cx.manager.config.router;
        let headers = &mut x.head.headers;
        let own = match &forward.stream_limit {
            Some(StreamLimit::Grpc(deadline)) if x.grpc => Some(deadline),
            _ => None,
        };
        let mut global = match own {
            Some(deadline) => request_deadline(deadline, headers),
            None => forward.timeout,
        };
        let mut per_try = forward
            .retry
            .as_ref()
            .and_then(|retry| retry.per_try_timeout);
        let mut alternative = false;
        if x.internal {
            // Only trusted clients' wishes have got this far.
            let expected = router
                .respect_expected_timeout
                .then(|| take_millis(headers, EXPECTED_TIMEOUT.as_str()))
                .flatten();
            if let Some(asked) = expected.or_else(|| take_millis(headers, TIMEOUT_MS)) {
                global = (!asked.is_zero()).then_some(asked);
            }
            if let Some(asked) = take_millis(headers, PER_TRY_TIMEOUT_MS) {
                per_try = (!asked.is_zero()).then_some(asked);
            }
            alternative = headers.remove(ALTERNATIVE).is_some();
        }
        if let (Some(limit), Some(whole)) = (per_try, global)
            && limit >= whole
        {
            per_try = None;
        }
        // A try that goes on beside the next one has all the time there is.
        if let Some(expected) = per_try.filter(|_| !hedged).or(global) {
            if !router.suppress_envoy_headers {
                let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
                headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
            }
            if own.is_some() {
                tell_grpc(headers, expected);
            }
        }
        Self {
            global,
            per_try,
            alternative,
            grpc: own.is_some(),
            hedged,
        }
    }
}

impl Timeouts {
    /// Tells the upstream of a further try how much time is left to it.
    pub(super) fn tell_rest<U: Upstreams>(&self, x: &mut Exchange<U>) {
        let Some(expected) = self.per_try.filter(|_| !self.hedged).or(self.global) else {
            return;
        };
        let spent = x.flow.progress.request_end.get().map(|end| end.elapsed());
        let left = self.global.map(|global| {
            // Too late is still told as something: nothing would mean no limit.
            global
                .saturating_sub(spent.unwrap_or_default())
                .max(Duration::from_millis(1))
        });
        let expected = left.map_or(expected, |left| left.min(expected));
        let headers = &mut x.head.headers;
        if !x.cx.manager.config.router.suppress_envoy_headers {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        if self.grpc {
            tell_grpc(headers, expected);
        }
    }
}

/// How long the whole stream may take, from its start: `None` leaves the manager's limit,
/// `Some(None)` is no limit.
pub(super) fn of_stream(
    forward: &Forward,
    headers: &mut HeaderMap,
    is_grpc: bool,
    of_manager: Option<Duration>,
) -> Option<Option<Duration>> {
    let Some(StreamLimit::Whole { max, grpc }) = &forward.stream_limit else {
        return None;
    };
    let limit = match grpc.as_ref().zip(grpc_timeout(headers)) {
        None => max.unwrap_or(of_manager),
        Some((deadline, asked)) => {
            let capped = match deadline.max {
                max if max.is_zero() => asked,
                max => asked.min(max),
            };
            Some(capped.saturating_sub(deadline.offset))
        }
    };
    // A gRPC upstream is told what there is, whatever its client asked for.
    match limit {
        Some(limit) if is_grpc => tell_grpc(headers, limit),
        None if is_grpc => drop(headers.remove(&GRPC_TIMEOUT)),
        Some(_) | None => {}
    }
    Some(limit)
}

/// What a gRPC client asks for, within the route's limit; `None` is no limit.
fn request_deadline(deadline: &GrpcDeadline, headers: &HeaderMap) -> Option<Duration> {
    let mut asked = grpc_timeout(headers).unwrap_or_default();
    if deadline.offset < asked {
        asked -= deadline.offset;
    }
    if !deadline.max.is_zero() && (asked.is_zero() || asked > deadline.max) {
        asked = deadline.max;
    }
    (!asked.is_zero()).then_some(asked)
}

fn take_millis(headers: &mut HeaderMap, name: &str) -> Option<Duration> {
    let value = headers.remove(name)?;
    text(&value).parse().ok().map(Duration::from_millis)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        // Envoy counts in milliseconds, and rounds up so that little does not become none.
        "u" => Some(Duration::from_millis(count.div_ceil(1000))),
        "n" => Some(Duration::from_millis(count.div_ceil(1_000_000))),
        _ => None,
    }
}

fn tell_grpc(headers: &mut HeaderMap, timeout: Duration) {
    let millis = timeout.as_millis();
    let text = [(1, "m"), (1000, "S"), (60_000, "M"), (3_600_000, "H")]
        .into_iter()
        .map(|(size, unit)| (millis / size, unit))
        .find(|(count, _)| *count <= MOST_GRPC_DIGITS)
        .map_or_else(
            || format!("{MOST_GRPC_DIGITS}H"),
            |(count, unit)| format!("{count}{unit}"),
        );
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))])
    }

    #[test]
    fn grpc_timeouts_are_read_as_grpc_writes_them() {
        for (text, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("4m", Some(4)),
            ("1500u", Some(2)),
            ("5n", Some(1)),
            ("99999999H", Some(99_999_999 * 3_600_000)),
            ("123456789m", None),
            ("-1m", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("5x", None),
        ] {
            let read = grpc_timeout(&asking(text));
            // "m" alone has no digits, which is no number.
            assert_eq!(read, millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn a_client_may_ask_for_less_and_not_for_more() {
        let limit = |max, offset| GrpcDeadline {
            max: Duration::from_secs(max),
            offset: Duration::from_secs(offset),
        };
        for (deadline, text, seconds) in [
            (limit(10, 0), "3S", Some(3)),
            (limit(10, 0), "30S", Some(10)),
            (limit(0, 0), "30S", Some(30)),
            (limit(0, 1), "30S", Some(29)),
            (limit(0, 40), "30S", Some(30)),
            (limit(10, 0), "none", Some(10)),
            (limit(0, 0), "none", None),
        ] {
            let got = request_deadline(&deadline, &asking(text));
            assert_eq!(got, seconds.map(Duration::from_secs), "{text} {deadline:?}");
        }
    }

    #[test]
    fn long_limits_are_told_in_longer_units() {
        for (millis, text) in [
            (5, "5m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
        ] {
            let mut headers = HeaderMap::new();
            tell_grpc(&mut headers, Duration::from_millis(millis));
            assert_eq!(headers[GRPC_TIMEOUT], text);
        }
    }
}
