//! A request's life: normalise → select_route → authorise → rewrite_request → send → rewrite_response → observe.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use malla_proxy_config::http_filter::{
    CorsPolicy, Fault, FilterOverride, HttpFilterKind, HttpRbac,
};
use malla_proxy_config::http_manager::RouteSource;
use malla_proxy_config::request::text;
use malla_proxy_config::route::action::Target;
use tokio::time::Instant;
use tracing::Span;

use super::body::Flow;
use super::connection::Context;
use super::error::{ProxyError, Verdict};
use super::exchange::{Exchange, Selected, has_no_body};
use super::forwarded::REQUEST_ID;
use super::normalise::{hop_by_hop, normalise};
use super::response::{BodyOf, Limits, ResponseBody, takes_trailers};
use super::rewrite::{answer_of_route, edit_response, manager_headers};
use super::send::{Sent, send};
use super::upgrade::tunnel;
use crate::filter::{cors, fault};
use crate::policy::rbac::{self, Subject};
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Captured;
use crate::upstream::Upstreams;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Handles one request; the record is written when the answer's body has gone.
pub(super) async fn serve<U: Upstreams>(
    cx: Rc<Context<U>>,
    request: Request<Incoming>,
) -> Response<ResponseBody<U>> {
    let mut x = Exchange::begin(cx, request);
    let flow = Rc::clone(&x.flow);
    let watch = Watch::of(&x);
    let outcome = tokio::select! {
        biased; // An answer that is there beats a timeout of the same moment.
        outcome = run(&mut x) => outcome,
        error = watch.passed(&flow) => Err(error),
    };
    match outcome {
        Ok(response) => response,
        Err(error) => answer(x, error),
    }
}

/// The phases.
async fn run<U: Upstreams>(x: &mut Exchange<U>) -> Result<Response<ResponseBody<U>>, ProxyError> {
    normalise(x)?;
    select_route(x)?;
    authorise(x).await?;
    let sent = send(x).await?; // Rewrites the request, then balances, tries and retries.
    Ok(rewrite_response(x, sent))
}

/// Phase 2: virtual host, route, weighted cluster; upgrades must be allowed there.
fn select_route<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let config = match &x.cx.manager.config.routes {
        RouteSource::Inline(config) => Some(Arc::clone(config)),
        RouteSource::Rds(name) => x.snapshot.route(name).cloned(),
    };
    x.selected = config.and_then(|config| {
        let view = x.view();
        let vhost = Arc::clone(config.vhost(view.authority())?);
        let route = Arc::clone(vhost.route(&view, x.random)?);
        let selected = Selected {
            config,
            vhost,
            route,
            weighted: None,
        };
        let weighted = match &selected.forward().map(|forward| &forward.target) {
            Some(Target::Weighted(weighted)) => {
                let from_header = weighted
                    .random_header
                    .as_ref()
                    .and_then(|name| view.headers.get(name));
                let random = from_header
                    .and_then(|value| text(value).parse().ok())
                    .unwrap_or(x.random);
                let drawn = weighted.pick(random);
                drawn.and_then(|drawn| {
                    weighted
                        .clusters
                        .iter()
                        .position(|cluster| std::ptr::eq(cluster, drawn))
                })
            }
            _ => None,
        };
        Some(Selected {
            weighted,
            ..selected
        })
    });
    if !x.internal
        && let Some(selected) = &x.selected
    {
        for name in &selected.config.internal_only {
            x.head.headers.remove(name);
        }
    }
    let route = x
        .selected
        .as_ref()
        .map(|selected| Arc::clone(&selected.route));
    x.record().route = route;
    let idle = x
        .selected
        .as_ref()
        .and_then(Selected::forward)
        .and_then(|forward| forward.idle_timeout);
    if let Some(idle) = idle {
        x.flow.idle.set(idle);
    }
    if let Some(upgrade) = &x.upgrade {
        let forward = x.selected.as_ref().and_then(Selected::forward);
        if !upgrade.is_allowed(&x.cx.manager.config, forward) {
            x.cx.manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            return Err(ProxyError::UpgradeRefused);
        }
    }
    Ok(())
}

/// Phase 3: the filters that may stop the request, in configured order; then the route's own answers.
async fn authorise<U: Upstreams>(x: &mut Exchange<U>) -> Result<(), ProxyError> {
    let manager = Rc::clone(&x.cx.manager);
    let selected = x.selected.clone();
    for filter in &manager.config.filters {
        let level = selected
            .as_ref()
            .and_then(|selected| selected.per_filter(&filter.name));
        if matches!(level, Some(FilterOverride::Disabled)) || (filter.disabled && level.is_none()) {
            continue;
        }
        match (&filter.kind, level) {
            (HttpFilterKind::Fault(_), Some(FilterOverride::Fault(config))) => {
                inject(x, config).await?
            }
            (HttpFilterKind::Fault(config), _) => inject(x, config).await?,
            (HttpFilterKind::Cors, Some(FilterOverride::Cors(policy))) => check_origin(x, policy)?,
            (HttpFilterKind::Cors, _) => {}
            (HttpFilterKind::Rbac(_), Some(FilterOverride::Rbac(config))) => {
                check_access(x, config)?
            }
            (HttpFilterKind::Rbac(config), _) => check_access(x, config)?,
            (HttpFilterKind::GrpcStats, _) | (HttpFilterKind::Router(_), _) => {}
        }
    }
    match &selected {
        None => {
            x.cx.manager.stats.no_route.inc();
            Err(ProxyError::NoRoute)
        }
        Some(selected) => answer_of_route(x, selected),
    }
}

async fn inject<U: Upstreams>(x: &mut Exchange<U>, config: &Fault) -> Result<(), ProxyError> {
    if config.delay.is_none() && config.abort.is_none() {
        return Ok(());
    }
    let cluster =
        x.selected
            .as_ref()
            .and_then(Selected::forward)
            .and_then(|forward| match &forward.target {
                Target::Cluster(name) => Some(&**name),
                Target::Header(_) | Target::Weighted(_) => None,
            });
    if !fault::applies(config, &x.view(), cluster) {
        return Ok(());
    }
    let manager = Rc::clone(&x.cx.manager);
    let (delay_draw, abort_draw) = (x.cx.worker.random(), x.cx.worker.random());
    let delay = fault::delay(config, &x.head.headers, delay_draw);
    let abort = fault::abort(config, &x.head.headers, abort_draw);
    if delay.is_none() && abort.is_none() {
        return Ok(());
    }
    let Some(_active) = ActiveFault::start(&manager, config.max_active) else {
        manager.stats.fault_faults_overflow.inc();
        return Ok(());
    };
    if let Some(delay) = delay {
        manager.stats.fault_delays_injected.inc();
        x.record().flags.set(Flag::DelayInjected);
        tokio::time::sleep(delay).await;
    }
    match abort {
        None => Ok(()),
        Some((status, grpc)) => {
            manager.stats.fault_aborts_injected.inc();
            Err(ProxyError::FaultAbort { status, grpc })
        }
    }
}

/// Counts one fault under way; freed by its drop.
struct ActiveFault(Rc<super::state::Manager>);

impl ActiveFault {
    fn start(manager: &Rc<super::state::Manager>, max: Option<u64>) -> Option<Self> {
        let active = manager.active_faults.get();
        if max.is_some_and(|max| active >= max) {
            return None;
        }
        manager.active_faults.set(active + 1);
        manager.stats.fault_active_faults.inc();
        Some(Self(Rc::clone(manager)))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0
            .active_faults
            .set(self.0.active_faults.get().saturating_sub(1));
        self.0.stats.fault_active_faults.dec();
    }
}

fn check_origin<U: Upstreams>(
    x: &mut Exchange<U>,
    policy: &Arc<CorsPolicy>,
) -> Result<(), ProxyError> {
    if !policy.enabled.hit(x.cx.worker.random()) {
        return Ok(());
    }
    let stats = &x.cx.manager.stats;
    match cors::check(&x.head.method, &x.head.headers, policy) {
        cors::Outcome::Pass => {
            if x.head.headers.contains_key(header::ORIGIN) {
                stats.cors_origin_invalid.inc();
            }
            Ok(())
        }
        cors::Outcome::Allowed(origin) => {
            stats.cors_origin_valid.inc();
            x.cors = Some((origin, Arc::clone(policy)));
            Ok(())
        }
        cors::Outcome::Preflight(headers) => {
            if headers.is_empty() {
                stats.cors_origin_invalid.inc()
            } else {
                stats.cors_origin_valid.inc()
            }
            Err(ProxyError::Preflight { headers })
        }
    }
}

fn check_access<U: Upstreams>(x: &mut Exchange<U>, config: &HttpRbac) -> Result<(), ProxyError> {
    let view = x.view();
    let subject = Subject {
        connection: &x.cx.connection,
        request: Some(&view),
        remote: x.observer.record().remote,
    };
    let stats = &x.cx.manager.stats;
    if let Some(rules) = &config.shadow {
        let decision = rbac::decide(rules, &subject);
        if decision.allowed {
            stats.rbac_shadow_allowed.inc()
        } else {
            stats.rbac_shadow_denied.inc()
        }
        tracing::debug!(
            prefix = &*config.shadow_prefix,
            allowed = decision.allowed,
            policy = decision.policy,
            "shadow rules decided"
        );
    }
    let Some(rules) = &config.rules else {
        return Ok(());
    };
    let decision = rbac::decide(rules, &subject);
    if decision.allowed {
        stats.rbac_allowed.inc();
        return Ok(());
    }
    stats.rbac_denied.inc();
    Err(ProxyError::Denied {
        policy: decision.policy.map(Arc::from),
    })
}

/// Phase 6: what an upstream's answer becomes.
fn rewrite_response<U: Upstreams>(
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
    let upstream_version = response.version();
    let upstream_upgrade = agreed.then(|| hyper::upgrade::on(&mut response));
    let (mut parts, body) = response.into_parts();
    hop_by_hop(&mut parts.headers, agreed);
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
    record.upstream_protocol = Some(upstream_version);
    record.grpc_status = parts
        .headers
        .get(&GRPC_STATUS)
        .and_then(|status| text(status).parse().ok());
    let attempts = record.attempts;
    if let Some(selected) = &x.selected {
        if selected.vhost.attempt_count_in_response {
            parts
                .headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        edit_response(x, selected, status, &mut parts.headers);
    }
    finish_headers(x, &mut parts.headers, false);
    if let Some(upstream) = upstream_upgrade {
        return tunnelled(x, parts.headers, upstream, body);
    }
    let limits = Limits {
        idle: x.flow.idle.get(),
        response: deadline,
        stream: x.flow.until.get(),
        upstream: until,
    };
    let no_body = has_no_body(&x.head.method, status);
    let trailers = takes_trailers(x.head.version, config.config.http1.enable_trailers);
    let flow = Rc::clone(&x.flow);
    let observer = x.observer.hand_over();
    let mut out = Response::new(ResponseBody::upstream(
        body, observer, flow, limits, no_body, trailers,
    ));
    *out.status_mut() = status;
    *out.headers_mut() = parts.headers;
    out
}

/// Answers an agreed upgrade and leaves the rest to a task.
fn tunnelled<U: Upstreams>(
    x: &mut Exchange<U>,
    mut headers: HeaderMap,
    upstream: hyper::upgrade::OnUpgrade,
    held: BodyOf<U>,
) -> Response<ResponseBody<U>> {
    let http2 = x.head.version == Version::HTTP_2;
    let status = if http2 || x.head.method == http::Method::CONNECT {
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
    if let Some(downstream) = x.upgrade.as_mut().and_then(super::upgrade::Upgrade::take) {
        let (observer, flow) = (x.observer.hand_over(), Rc::clone(&x.flow));
        let task = async move {
            stats.downstream_cx_upgrades_active.inc();
            tunnel(downstream, upstream, held, observer, flow).await;
            stats.downstream_cx_upgrades_active.dec();
        };
        x.cx.worker.tasks.spawn_local(Span::none(), task);
    }
    let mut out = Response::new(ResponseBody::tunnelled(Rc::clone(&x.flow)));
    *out.status_mut() = status;
    *out.headers_mut() = headers;
    out
}

/// An answer of our own.
fn answer<U: Upstreams>(mut x: Exchange<U>, error: ProxyError) -> Response<ResponseBody<U>> {
    let Verdict {
        status,
        flag,
        details,
        body,
        headers: more,
        grpc,
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
        let code = grpc.unwrap_or_else(|| crate::telemetry::access_log::grpc_from_http(status));
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
    if !x.grpc && !has_no_body(&http::Method::GET, status) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    headers.extend(more.into_iter().map(|(name, value)| (Some(name), value)));
    let attempts = x.observer.record().attempts;
    if attempts > 0
        && x.selected
            .as_ref()
            .is_some_and(|selected| selected.vhost.attempt_count_in_response)
    {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
    }
    let record = x.record();
    if let Some(flag) = flag {
        record.flags.set(flag);
    }
    record.status = Some(status);
    record.details = Some(details);
    finish_headers(&mut x, &mut headers, close);
    let body = if x.is_head() { Bytes::new() } else { body };
    let mut out = Response::new(ResponseBody::full(
        body,
        x.observer.hand_over(),
        Rc::clone(&x.flow),
    ));
    *out.status_mut() = status;
    *out.headers_mut() = headers;
    out
}

/// What every answer gets, whoever made it; then what logs read of it is kept.
fn finish_headers<U: Upstreams>(x: &mut Exchange<U>, headers: &mut HeaderMap, close: bool) {
    x.finish_headers(headers);
    let id = x.head.headers.get(&REQUEST_ID).cloned().or_else(|| {
        let kept = x.observer.record().request_headers.get(&REQUEST_ID)?;
        HeaderValue::from_bytes(&kept).ok()
    });
    manager_headers(headers, &x.cx.manager.config, id);
    if x.head.version != Version::HTTP_2 && (close || x.cx.is_last_request()) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let captured = Captured::of(headers, &x.cx.manager.needs.response);
    x.record().response_headers = captured;
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

/// The limits of a request that are not the route's.
struct Watch {
    start: Instant,
    request: Option<Duration>,
}

impl Watch {
    fn of<U: Upstreams>(x: &Exchange<U>) -> Self {
        let config = &x.cx.manager.config;
        let start = x.observer.record().start;
        x.flow.idle.set(config.timeouts.stream_idle);
        x.flow
            .until
            .set(config.common.max_stream_duration.map(|limit| start + limit));
        Self {
            start,
            request: config.timeouts.request,
        }
    }

    /// Waits until a limit has passed.
    async fn passed(self, flow: &Flow) -> ProxyError {
        loop {
            let last = flow.last.get().unwrap_or(self.start);
            let idle = flow
                .idle
                .get()
                .map(|limit| (last + limit, ProxyError::IdleTimeout));
            let unfinished = flow.progress.request_end.get().is_none();
            let request = self.request.filter(|_| unfinished);
            let request = request.map(|limit| (self.start + limit, ProxyError::RequestTimeout));
            let until = flow.until.get().map(|at| (at, ProxyError::MaxDuration));
            let next = [request, until, idle]
                .into_iter()
                .flatten()
                .min_by_key(|(at, _)| *at);
            match next {
                None => return pending().await,
                Some((at, error)) if Instant::now() >= at => return error,
                Some((at, _)) => tokio::time::sleep_until(at).await,
            }
        }
    }
}
