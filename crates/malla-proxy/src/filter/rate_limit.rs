//! Rate limits that a service decides, for each request.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::http_filter::{HttpRateLimit, RateLimitPerRoute, RequestKind};
use malla_proxy_config::metadata::from_struct;
use malla_proxy_config::rate_limit::VhostLimits;
use malla_xds_proto::pb::envoy::config::core::v3 as core;
use malla_xds_proto::pb::envoy::service::ratelimit::v3 as pb;

use super::descriptors::{self, Which};
use super::local_rate_limit::RESOURCE_EXHAUSTED;
use super::{Note, flat};
use crate::http::error::{ProxyError, Verdict};
use crate::http::exchange::Exchange;
use crate::http::rewrite;
use crate::policy::limiter::Descriptor;
use crate::policy::rls;
use crate::telemetry::codes::Origin;
use crate::telemetry::flags::Flag;
use crate::upstream::{ClusterHandle, Upstreams};

/// Where the filter notes what the service tells of the request.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Asks the service about a request, and refuses it where that says so.
pub(super) async fn check<U: Upstreams>(
    x: &mut Exchange<U>,
    index: usize,
    config: &HttpRateLimit,
    route: Option<&RateLimitPerRoute>,
) -> Result<(), ProxyError> {
    let wanted = match config.requests {
        RequestKind::Both => true,
        RequestKind::Internal => x.internal,
        RequestKind::External => !x.internal,
    };
    let Some(handle) = x.handle.clone().filter(|_| wanted) else {
        return Ok(());
    };
    if !config.enabled.hit(x.cx.worker.random()) {
        return Ok(());
    }
    let descriptors = described(x, config, route);
    if descriptors.is_empty() {
        return Ok(());
    }
    let domain = route.and_then(|route| route.domain.as_ref());
    let domain = domain.unwrap_or(&config.domain);
    let caller = std::rc::Rc::clone(x.cx.worker.caller());
    let answer = rls::ask(&caller, &config.service, domain, &descriptors).await;
    let cluster = &handle.config().stat_name;
    let stats = x.cx.manager.rate_limit_stats(cluster, &config.stat_scope());
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, cluster = %config.service.service.cluster, "a rate limit service did not answer");
            stats.error.inc();
            if !config.failure_deny.hit(x.cx.worker.random()) {
                stats.failure_mode_allowed.inc();
                return Ok(());
            }
            let verdict = Verdict::new(config.error_status, "rate_limiter_error")
                .flag(Flag::RateLimitServiceError);
            return Err(ProxyError::Filter(Box::new(verdict)));
        }
    };
    if let Some(tree) = &answer.dynamic_metadata
        && !tree.fields.is_empty()
    {
        x.state_mut().merge(NAMESPACE, from_struct(tree.clone()));
    }
    let over = rls::is_over(&answer);
    let mut told = headers_of(&answer.response_headers_to_add);
    if over {
        stats.over_limit.inc();
        let codes = &handle.stats().codes;
        codes.answered(StatusCode::TOO_MANY_REQUESTS, &Origin::default());
        if config.says_limited {
            told.insert(RATE_LIMITED, HeaderValue::from_static("true"));
        }
    } else {
        stats.ok.inc();
    }
    if config.headers {
        told.extend(draft_headers(&answer.statuses));
    }
    if over && config.enforced.hit(x.cx.worker.random()) {
        return Err(refusal(x, config, told, answer.raw_body.into()));
    }
    for (name, value) in &headers_of(&answer.request_headers_to_add) {
        x.head.headers.append(name.clone(), value.clone());
    }
    if !told.is_empty() {
        x.notes.push((index, Note::Headers(told)));
    }
    Ok(())
}

fn described<U: Upstreams>(
    x: &Exchange<U>,
    config: &HttpRateLimit,
    route: Option<&RateLimitPerRoute>,
) -> Vec<Descriptor> {
    let of_route = route.map(|route| &route.limits);
    let own = of_route
        .filter(|limits| !limits.is_empty())
        .or(Some(&config.limits).filter(|limits| !limits.is_empty()));
    if let Some(limits) = own {
        let mut out = Vec::new();
        let all = Which {
            stage: None,
            without_disable_key: false,
            in_full: true,
        };
        descriptors::gather(x, limits, all, &mut out);
        return out;
    }
    let which = Which {
        stage: Some(config.stage),
        without_disable_key: false,
        in_full: false,
    };
    let vhost = route.map_or(VhostLimits::Override, |route| route.vhost_limits);
    descriptors::of_route(x, which, vhost)
}

fn refusal<U: Upstreams>(
    x: &Exchange<U>,
    config: &HttpRateLimit,
    mut told: HeaderMap,
    body: Bytes,
) -> ProxyError {
    rewrite::add_headers(x, &config.response_headers, config.status, &mut told);
    let verdict = Verdict {
        body,
        headers: flat(told),
        grpc: config.resource_exhausted.then_some(RESOURCE_EXHAUSTED),
        ..Verdict::new(config.status, "request_rate_limited").flag(Flag::RateLimited)
    };
    ProxyError::Filter(Box::new(verdict))
}

/// Those of the service's headers that are headers.
fn headers_of(wire: &[core::HeaderValue]) -> HeaderMap {
    let mut out = HeaderMap::new();
    for field in wire {
        let bytes = match field.raw_value.is_empty() {
            true => field.value.as_bytes(),
            false => &field.raw_value,
        };
        let name = HeaderName::from_bytes(field.key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(bytes)) {
            let framing = [
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONNECTION,
                header::HOST,
            ];
            if !framing.contains(&name) {
                out.append(name, value);
            }
        }
    }
    out
}

/// The state of the tightest limit (draft-polli-ratelimit-headers-03).
fn draft_headers(statuses: &[pb::rate_limit_response::DescriptorStatus]) -> HeaderMap {
    let mut out = HeaderMap::new();
    let limited = || {
        statuses
            .iter()
            .filter_map(|it| Some((it, it.current_limit.as_ref()?)))
    };
    let Some((tightest, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
        return out;
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, limit) in limited() {
        if let Some(window) = window(limit.unit) {
            text.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                text.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let reset = tightest.duration_until_reset.as_ref();
    let seconds = reset.map_or(0, |duration| duration.seconds.max(0));
    let fields = [
        ("x-ratelimit-limit", text),
        (
            "x-ratelimit-remaining",
            tightest.limit_remaining.to_string(),
        ),
        ("x-ratelimit-reset", seconds.to_string()),
    ];
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(&value) {
            out.insert(HeaderName::from_static(name), value);
        }
    }
    out
}

/// Seconds of a unit.
fn window(unit: i32) -> Option<u64> {
    use pb::rate_limit_response::rate_limit::Unit;
    const DAY: u64 = 24 * 3600;
    match Unit::try_from(unit).ok()? {
        Unit::Unknown => None,
        Unit::Second => Some(1),
        Unit::Minute => Some(60),
        Unit::Hour => Some(3600),
        Unit::Day => Some(DAY),
        Unit::Week => Some(7 * DAY),
        Unit::Month => Some(30 * DAY),
        Unit::Year => Some(365 * DAY),
    }
}

/// The fields that a service's bytes add to an answer, for `fuzz/`.
#[cfg(fuzzing)]
pub fn told(bytes: &[u8]) -> Option<(HeaderMap, HeaderMap)> {
    use prost::Message as _;
    let answer = pb::RateLimitResponse::decode(bytes).ok()?;
    let _ = rls::is_over(&answer);
    let mut response = headers_of(&answer.response_headers_to_add);
    response.extend(draft_headers(&answer.statuses));
    Some((headers_of(&answer.request_headers_to_add), response))
}

/// A name that stays the same while the filter does.
pub(crate) fn scope(cluster: &str, scope: &str) -> Arc<str> {
    format!("{cluster}.{scope}").into()
}
