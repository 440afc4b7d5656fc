//! Phase 6: what goes back, from an upstream or from here.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use malla_proxy_config::request::text;
use tracing::Span;

use super::error::{ProxyError, Verdict};
use super::exchange::{Exchange, has_no_body};
use super::forwarded::REQUEST_ID;
use super::normalise::hop_by_hop;
use super::response::{BodyOf, ResponseBody, takes_trailers};
use super::rewrite::{edit_response, manager_headers};
use super::send::{ATTEMPT_COUNT, Sent};
use super::trace;
use super::upgrade::{Upgrade, tunnel};
use super::{metrics, peers};
use crate::telemetry::access_log::grpc_from_http;
use crate::telemetry::export::entry;
use crate::telemetry::record::Captured;
use crate::upstream::Upstreams;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What an upstream's answer becomes.
pub(super) fn rewrite_response<U: Upstreams>(
    x: &mut Exchange<U>,
    sent: Sent<BodyOf<U>>,
) -> Response<ResponseBody<U>> {
    let Sent {
        mut response,
        deadline,
        until,
    } = sent;
    let status = response.status();
    let agreed = x.upgrade.as_ref().is_some_and(|upgrade| {
        upgrade.is_agreed(&x.head.method, status) || status == StatusCode::SWITCHING_PROTOCOLS
    });
    let upstream_upgrade = agreed.then(|| hyper::upgrade::on(&mut response));
    let (mut parts, body) = response.into_parts();
    hop_by_hop(&mut parts.headers, agreed);
    peers::learn(x, &mut parts.headers);
    let config = Rc::clone(&x.cx.manager);
    let router = config.config.router;
    let record = x.observer.record_mut();
    if !router.suppress_envoy_headers
        && let (Some(end), Some(first)) =
            (record.progress.request_end.get(), record.attempt.first_byte)
    {
        let millis =
            u64::try_from(first.saturating_duration_since(end).as_millis()).unwrap_or(u64::MAX);
        parts
            .headers
            .insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    record.status = Some(status);
    record.details = Some("via_upstream".into());
    record.grpc_status = parts
        .headers
        .get(&GRPC_STATUS)
        .and_then(|status| text(status).parse().ok());
    let attempts = record.attempts;
    if let Some(selected) = &x.selected {
        if selected.vhost().attempt_count_in_response {
            parts
                .headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        edit_response(x, selected, status, &mut parts.headers);
    }
    if x.upgrade.is_some() && !agreed {
        x.flow.finish(); // Only a tunnel would have brought more.
    }
    if let Some(counted) = config.counted.as_ref().filter(|_| x.grpc) {
        let call = metrics::begin_call(&x.cx, counted, x.observer.record());
        x.record().call = Some(call);
    }
    finish_headers(x, &mut parts.headers, agreed, false);
    if let Some(upstream) = upstream_upgrade {
        return tunnelled(x, parts.headers, upstream, body);
    }
    x.flow.response.set(deadline);
    x.flow.upstream.set(until);
    let no_body = has_no_body(&x.head.method, status);
    let trailers = takes_trailers(x.head.version, config.config.http1.enable_trailers);
    let flow = Rc::clone(&x.flow);
    let observer = x.observer.hand_over();
    let mut out = Response::new(ResponseBody::upstream(
        body, observer, flow, no_body, trailers,
    ));
    *out.status_mut() = status;
    *out.headers_mut() = parts.headers;
    name_unknown(&mut out);
    out
}

/// A reason phrase where the codec has none.
fn name_unknown<B>(response: &mut Response<B>) {
    if response.status().canonical_reason().is_none() {
        let reason = hyper::ext::ReasonPhrase::from_static(b"Unknown");
        response.extensions_mut().insert(reason);
    }
}

/// Answers an agreed upgrade and leaves the rest to a task.
fn tunnelled<U: Upstreams>(
    x: &mut Exchange<U>,
    mut headers: HeaderMap,
    upstream: hyper::upgrade::OnUpgrade,
    held: BodyOf<U>,
) -> Response<ResponseBody<U>> {
    let http2 = x.head.version == Version::HTTP_2;
    let status = if http2 || x.head.method == Method::CONNECT {
        for name in [
            header::CONNECTION,
            header::UPGRADE,
            header::SEC_WEBSOCKET_ACCEPT,
            header::CONTENT_LENGTH,
        ] {
            headers.remove(name);
        }
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    };
    x.record().status = Some(status);
    let stats = Arc::clone(&x.cx.manager.stats);
    stats.downstream_cx_upgrades_total.inc();
    if let Some(downstream) = x.upgrade.as_mut().and_then(Upgrade::take) {
        let (observer, flow) = (x.observer.hand_over(), Rc::clone(&x.flow));
        let task = async move {
            stats.downstream_cx_upgrades_active.inc();
            tunnel(downstream, upstream, held, observer, flow).await;
            stats.downstream_cx_upgrades_active.dec();
        };
        // Part of the connection: the drain of its chain waits for it, and may cut it off.
        x.cx.drain.spawn_local(Span::none(), task);
    }
    let mut out = Response::new(ResponseBody::tunnelled(Rc::clone(&x.flow)));
    *out.status_mut() = status;
    *out.headers_mut() = headers;
    out
}

/// An answer of our own.
pub(super) fn answer<U: Upstreams>(
    mut x: Exchange<U>,
    error: ProxyError,
) -> Response<ResponseBody<U>> {
    let from_route = error.is_from_route();
    if x.upgrade.is_some() {
        x.flow.finish(); // Only a tunnel would have brought more.
    }
    let Verdict {
        status,
        flag,
        details,
        body,
        headers: more,
        grpc,
        unheard,
        close,
    } = error.verdict();
    if matches!(x.observer.record().request_headers, Captured::None) {
        x.capture_request();
    }
    let mut headers = HeaderMap::with_capacity(8);
    let (status, body) = if x.grpc {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        let code = grpc.unwrap_or_else(|| grpc_from_http(status));
        headers.insert(GRPC_STATUS, HeaderValue::from(code));
        if !body.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encoded(&body))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        x.record().grpc_status = Some(code);
        (StatusCode::OK, Bytes::new())
    } else {
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (status, body)
    };
    if !x.grpc && !has_no_body(&Method::GET, status) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    headers.extend(more.into_iter().map(|(name, value)| (Some(name), value)));
    if let Some(selected) = x.selected.as_deref().filter(|_| from_route) {
        if status == StatusCode::CREATED
            && let Ok(here) = HeaderValue::from_str(&url(&x))
        {
            headers.insert(header::LOCATION, here);
        }
        edit_response(&x, selected, status, &mut headers);
    }
    let attempts = x.observer.record().attempts;
    if attempts > 0
        && x.selected
            .as_ref()
            .is_some_and(|selected| selected.vhost().attempt_count_in_response)
    {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
    }
    let record = x.record();
    if let Some(flag) = flag {
        record.flags.set(flag);
    }
    record.status = (!unheard).then_some(status);
    record.details = Some(details);
    finish_headers(&mut x, &mut headers, false, close);
    let body = if x.is_head() { Bytes::new() } else { body };
    let mut out = Response::new(ResponseBody::full(
        body,
        x.observer.hand_over(),
        Rc::clone(&x.flow),
    ));
    *out.status_mut() = status;
    *out.headers_mut() = headers;
    name_unknown(&mut out);
    out
}

/// The request's own address: a route that says 201 has created it.
fn url<U: Upstreams>(x: &Exchange<U>) -> String {
    let view = x.view();
    format!("{}://{}{}", view.scheme, view.authority(), view.path)
}

/// What every answer gets, whoever made it; then what logs read of it is kept.
fn finish_headers<U: Upstreams>(
    x: &mut Exchange<U>,
    headers: &mut HeaderMap,
    agreed: bool,
    close: bool,
) {
    x.finish_headers(headers);
    peers::tell_back(x, headers);
    trace::exchange_names(x, headers);
    let id = x.head.headers.get(&REQUEST_ID).cloned().or_else(|| {
        let kept = x.observer.record().request_headers.get(&REQUEST_ID)?;
        HeaderValue::from_bytes(&kept).ok()
    });
    manager_headers(headers, &x.cx.manager.config, id);
    // Nobody waits for the rest of a request that is answered, and HTTP/1 cannot go on without.
    let early = !agreed && x.flow.progress.request_end.get().is_none();
    if early {
        x.cx.manager
            .stats
            .downstream_rq_response_before_rq_complete
            .inc();
    }
    let last = close || early || x.closes || x.cx.is_last_request();
    if x.head.version != Version::HTTP_2 && last {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let manager = Rc::clone(&x.cx.manager);
    let needs = &manager.needs;
    let captured = if needs.everything {
        Captured::All(Box::new(headers.clone()))
    } else {
        Captured::of(headers, &needs.response)
    };
    let bytes = if needs.sizes {
        entry::response_bytes(headers)
    } else {
        0
    };
    let record = x.record();
    record.response_headers = captured;
    record.response_headers_bytes = bytes;
    if manager.counted.is_some()
        && let Some(status) = record.status
    {
        record.response_head = metrics::response_head(status, headers);
    }
}

/// `grpc-message` as the gRPC protocol wants it: percent-encoded outside of printable ASCII.
fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
