//! Phase 6: what goes back, from an upstream or from here.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use malla_proxy_config::overload::ActionKind;
use malla_proxy_config::request::text;
use malla_proxy_config::route::action::Action;
use malla_proxy_config::route::matcher::is_grpc;
use malla_proxy_config::route::redirect::DirectResponse;
use tokio::time::Instant;
use tracing::Span;

use super::error::{ProxyError, Verdict};
use super::exchange::{Exchange, has_no_body};
use super::forwarded::REQUEST_ID;
use super::local_reply::{self, Reply};
use super::normalise::hop_by_hop;
use super::preface::Prospect;
use super::response::{BodyOf, ResponseBody, takes_trailers};
use super::rewrite::{edit_response, manager_headers};
use super::send::{ATTEMPT_COUNT, Sent};
use super::trace;
use super::upgrade::{Upgrade, tunnel};
use super::{metrics, peers};
use crate::filter::{self, Note};
use crate::telemetry::access_log::grpc_from_http;
use crate::telemetry::export::entry;
use crate::telemetry::odometer::Head;
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
        stats: _,
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
    if let Some(call) = &mut record.grpc_call {
        call.answers = status == StatusCode::OK && is_grpc(&parts.headers);
    }
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
        // A client that was sure of its tunnel may have sent bytes that are no request.
        x.closes = true;
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
    let told = |(_, note): &(usize, Note)| matches!(note, Note::BodyTold);
    let no_body = has_no_body(&x.head.method, status) || x.notes.iter().any(told);
    let trailers = takes_trailers(x.head.version, config.config.http1.enable_trailers);
    let flow = Rc::clone(&x.flow);
    let observer = x.observer.hand_over();
    let body = ResponseBody::upstream(body, observer, flow, no_body, trailers);
    let announced = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let body = body.adapted(x.adapted.take()).metered(announced);
    let mut out = Response::new(body);
    *out.status_mut() = status;
    *out.headers_mut() = parts.headers;
    if config.config.http1.preserve_case {
        // The codec keeps there how names were written.
        parts.extensions.remove::<hyper::ext::ReasonPhrase>();
        *out.extensions_mut() = parts.extensions;
    }
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
    x.cx.pulse.decide(Prospect::Tunnel);
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
    let direct = matches!(error, ProxyError::Direct { .. });
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
    add_headers(&mut headers, more);
    let record = x.record();
    if let Some(flag) = flag {
        record.flags.set(flag);
    }
    record.details = Some(details);
    let mut reply = Reply::new(status, headers, body);
    if from_route {
        finish_of_route(&mut x, &mut reply, direct);
    }
    let attempts = x.observer.record().attempts;
    if attempts > 0
        && x.selected
            .as_ref()
            .is_some_and(|selected| selected.vhost().attempt_count_in_response)
    {
        reply
            .headers
            .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
    }
    let (original, content_type) = (reply.body.clone(), content_type_of(&reply).cloned());
    local_reply::rewrite(&mut x, &mut reply);
    if x.grpc {
        as_grpc(&mut x, &mut reply, grpc);
    } else {
        let retyped = content_type_of(&reply) == content_type.as_ref() && reply.body != original;
        as_http(&mut reply, retyped);
    }
    let Reply {
        status,
        mut headers,
        mut body,
        ..
    } = reply;
    if filter::tells_body(&x, status, &mut headers, &body) {
        body = Bytes::new();
    }
    x.record().status = (!unheard).then_some(status);
    if unheard && x.head.version != Version::HTTP_2 {
        x.cx.pulse.hush();
    }
    finish_headers(&mut x, &mut headers, false, close);
    let body = if x.is_head() { Bytes::new() } else { body };
    let body = ResponseBody::full(body, x.observer.hand_over(), Rc::clone(&x.flow));
    let mut out = Response::new(body.adapted(x.adapted.take()));
    *out.status_mut() = status;
    *out.headers_mut() = headers;
    name_unknown(&mut out);
    out
}

/// The first of a name replaces what is there, further ones are added to it.
fn add_headers(headers: &mut HeaderMap, more: Vec<(HeaderName, HeaderValue)>) {
    let mut last: Option<HeaderName> = None;
    for (name, value) in more {
        if last.as_ref() == Some(&name) {
            headers.append(name, value);
        } else {
            headers.insert(name.clone(), value);
            last = Some(name);
        }
    }
}

/// What a route that answers itself says beside its status.
fn finish_of_route<U: Upstreams>(x: &mut Exchange<U>, reply: &mut Reply, direct: bool) {
    let Some(selected) = x.selected.clone() else {
        return;
    };
    if direct
        && let Action::Direct(DirectResponse {
            layout: Some(layout),
            ..
        }) = &selected.route().action
    {
        local_reply::lay_out_direct(x, layout, reply);
    }
    if reply.status == StatusCode::CREATED
        && let Ok(here) = HeaderValue::from_str(&url(x))
    {
        reply.headers.insert(header::LOCATION, here);
    }
    edit_response(x, &selected, reply.status, &mut reply.headers);
}

fn content_type_of(reply: &Reply) -> Option<&HeaderValue> {
    reply.headers.get(header::CONTENT_TYPE)
}

/// The answer to a gRPC call: all of it is in the headers.
fn as_grpc<U: Upstreams>(x: &mut Exchange<U>, reply: &mut Reply, grpc: Option<u32>) {
    let headers = &mut reply.headers;
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.remove(header::CONTENT_LENGTH);
    let configured = headers
        .get(&GRPC_STATUS)
        .and_then(|status| text(status).parse().ok());
    let code = configured
        .or(grpc)
        .unwrap_or_else(|| grpc_from_http(reply.status));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    let mut body = std::mem::take(&mut reply.body);
    if reply.json && body.ends_with(b"\n") {
        body.truncate(body.len() - 1);
    }
    if !body.is_empty()
        && !x.is_head()
        && let Ok(message) = HeaderValue::from_str(&percent_encoded(&body))
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    reply.status = StatusCode::OK;
    x.record().grpc_status = Some(code);
}

/// Any other answer; `retyped` says that its body is new and its type is not.
fn as_http(reply: &mut Reply, retyped: bool) {
    let headers = &mut reply.headers;
    if reply.body.is_empty() {
        headers.remove(header::CONTENT_TYPE);
    } else if retyped || !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, reply.content_type.clone());
    }
    if has_no_body(&Method::GET, reply.status) {
        headers.remove(header::CONTENT_LENGTH);
        reply.body = Bytes::new();
    } else {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    }
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
    x.set_cookie(headers);
    filter::respond(x, headers);
    peers::tell_back(x, headers);
    trace::exchange_names(x, headers);
    let id = x.id.take();
    let id = id.or_else(|| x.head.headers.get(&REQUEST_ID).cloned());
    manager_headers(headers, &x.cx.manager.config, id);
    // Nobody waits for the rest of a request that is answered, and HTTP/1 cannot go on without.
    let early = !agreed && x.flow.progress.request_end.get().is_none();
    if early {
        x.cx.manager
            .stats
            .downstream_rq_response_before_rq_complete
            .inc();
    }
    let pressure = &x.cx.worker.process.pressure;
    if pressure.acts(ActionKind::DisableHttpKeepalive) {
        x.cx.end_soon();
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
    if needs.wire
        && let Some(status) = x.observer.record().status
    {
        let http2 = x.head.version == Version::HTTP_2;
        let head = Head::answer_goes(status, headers, http2);
        x.record().wire.downstream.head_went(head);
    }
    let bytes = if needs.sizes {
        entry::response_bytes(headers)
    } else {
        0
    };
    let record = x.record();
    record.first_byte_sent = Some(Instant::now());
    record.response_headers = captured;
    record.response_headers_bytes = bytes;
    if manager.counted.is_some()
        && let Some(status) = record.status
    {
        record.response_head = metrics::response_head(status, headers);
    }
}

/// `grpc-message` as the gRPC protocol wants it: percent-encoded outside of printable ASCII.
pub(crate) fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
