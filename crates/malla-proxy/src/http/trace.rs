//! The spans of an exchange: begun once its route is known, told to whoever is tried, finished with its record.

use malla_proxy_config::listener::Direction;
use malla_proxy_config::tracing::{Decorator, RouteTracing, Tracer, Tracing};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::exchange::Exchange;
use super::state::Manager;
use crate::telemetry::access_log::{self, Environment, Source, write_text};
use crate::telemetry::record::Record;
use crate::telemetry::trace::decide::{self, Reason};
use crate::telemetry::trace::span::{Side, Span};
use crate::telemetry::trace::tags;
use crate::upstream::Upstreams;

/// Names a span on the other side of the hop.
const DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// The spans of one request.
#[derive(Debug)]
pub(crate) struct Spans {
    /// Its own; `None` where its caller's context was broken.
    request: Option<Span>,
    /// Of the try under way or the last one.
    attempt: Option<Span>,
    egress: bool,
    spawn_upstream: bool,
    /// What the answer tells the caller to call its span.
    operation: Option<HeaderValue>,
    /// The tags of the request are there.
    tagged: bool,
}

impl Spans {
    /// The trace they belong to.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.request.as_ref().map(Span::trace_id)
    }

    /// Trace and span of the request.
    pub(crate) fn ids(&self) -> Option<(u128, u64)> {
        self.request.as_ref().map(Span::ids)
    }
}

/// Decides whether the request is traced and begins its span.
pub(super) fn begin<U: Upstreams>(x: &mut Exchange<U>) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(tracing) = manager.config.tracing.as_deref() else {
        return;
    };
    let reason = reason(x, &manager, tracing);
    count(&manager, reason);
    x.record().traced = reason.is_traced();
    let Some(tracer) = &manager.tracer else {
        return;
    };
    let egress = x.cx.connection.listener.direction == Direction::Outbound;
    let side = Side {
        egress,
        spawn_upstream: tracing.spawn_upstream,
    };
    let record = x.observer.record();
    let started = (record.start_wall, record.start);
    let mut span = tracer.start(
        &x.head.headers,
        reason.is_traced(),
        side,
        &mut x.cx.worker.rng.borrow_mut(),
        started,
    );
    let operation = name(x, tracing, span.as_mut(), egress);
    let spawn_upstream = tracing.spawn_upstream || manager.config.router.start_child_span;
    x.record().spans = Some(Box::new(Spans {
        request: span,
        attempt: None,
        egress,
        spawn_upstream,
        operation,
        tagged: false,
    }));
}

fn reason<U: Upstreams>(x: &mut Exchange<U>, manager: &Manager, tracing: &Tracing) -> Reason {
    let request_id = manager.config.request_id;
    if !request_id.decides_sampling {
        return Reason::Sampling;
    }
    let sampling = route(x).map_or(tracing.sampling, |route| route.sampling);
    let random = x.cx.worker.random();
    decide::decide(
        &mut x.head.headers,
        sampling,
        request_id.packs_trace_reason,
        random,
    )
}

fn route<U: Upstreams>(x: &Exchange<U>) -> Option<&RouteTracing> {
    x.selected.as_ref()?.route().tracing.as_deref()
}

fn count(manager: &Manager, reason: Reason) {
    let stats = &manager.stats;
    match reason {
        Reason::NotTraceable => stats.tracing_not_traceable.inc(),
        Reason::Sampling => stats.tracing_random_sampling.inc(),
        Reason::ServiceForced => stats.tracing_service_forced.inc(),
        Reason::ClientForced => stats.tracing_client_enabled.inc(),
    }
}

/// Names the span; gives what an answer tells its caller.
fn name<U: Upstreams>(
    x: &mut Exchange<U>,
    tracing: &Tracing,
    span: Option<&mut Span>,
    egress: bool,
) -> Option<HeaderValue> {
    let selected = x.selected.clone();
    let decorator = selected.as_ref();
    let decorator: Option<&Decorator> =
        decorator.and_then(|selected| selected.route().decorator.as_deref());
    let told = decorator.filter(|decorator| decorator.propagate);
    let told = told.and_then(|told| HeaderValue::from_str(&told.operation).ok());
    let from_route = selected.as_ref().and_then(|selected| {
        let tracing = selected.route().tracing.as_deref()?;
        tracing.operation.as_ref()
    });
    let format = from_route.or(tracing.operation.as_ref());
    let from_caller = if egress {
        if let Some(told) = &told {
            x.head.headers.insert(DECORATOR, told.clone());
        }
        None
    } else {
        x.head.headers.remove(&DECORATOR)
    };
    let from_caller = from_caller.filter(|name| !name.is_empty());
    if let Some(span) = span.filter(|span| span.is_sampled()) {
        let name = match (format, &from_caller, decorator) {
            (Some(format), _, _) => {
                let mut out = Vec::new();
                write_text(format, &x.source(), b"", &mut out);
                String::from_utf8_lossy(&out).into_owned()
            }
            (None, Some(name), _) => String::from_utf8_lossy(name.as_bytes()).into_owned(),
            (None, None, Some(decorator)) => decorator.operation.clone(),
            (None, None, None) => default_name(&x.head.headers, tracing, egress),
        };
        span.rename(name);
    }
    // A caller that named the span needs no name for its own.
    told.filter(|_| !egress && from_caller.is_none())
}

/// `ingress`, `egress HOST`, or Zipkin's host.
fn default_name(headers: &HeaderMap, tracing: &Tracing, egress: bool) -> String {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = String::from_utf8_lossy(host.unwrap_or_default());
    match tracing.tracer.as_deref() {
        Some(Tracer::Zipkin(_)) => host.into_owned(),
        _ if egress => format!("egress {host}"),
        _ => "ingress".to_owned(),
    }
}

/// Notes what the request says, before its headers go on.
pub(super) fn tag_request<U: Upstreams>(x: &mut Exchange<U>) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(tracing) = manager.config.tracing.as_deref() else {
        return;
    };
    let Some(mut spans) = x.record().spans.take() else {
        return;
    };
    if let Some(span) = &mut spans.request
        && span.is_sampled()
        && !spans.tagged
    {
        spans.tagged = true;
        let node = x.cx.worker.exporters.node();
        tags::of_request(span, &x.head.headers, &x.source(), node, tracing);
    }
    x.record().spans = Some(spans);
}

/// Tells upstreams of the request's span, where tries have none of their own.
pub(super) fn inject<U: Upstreams>(x: &mut Exchange<U>) {
    let propagates = propagates(&x.cx.manager);
    if let Some(spans) = &x.observer.record().spans
        && let Some(span) = &spans.request
        && !spans.spawn_upstream
        && propagates
    {
        span.inject(&mut x.head.headers);
    }
}

fn propagates(manager: &Manager) -> bool {
    let tracing = manager.config.tracing.as_ref();
    tracing.is_some_and(|tracing| tracing.propagate)
}

/// Begins the span of a try, if tries have some, and tells the upstream of it.
pub(super) fn begin_try<U: Upstreams>(x: &mut Exchange<U>, headers: &mut HeaderMap) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(tracing) = manager.config.tracing.as_deref() else {
        return;
    };
    let Some(mut spans) = x.record().spans.take() else {
        return;
    };
    if spans.spawn_upstream
        && let Some(request) = &spans.request
    {
        let mut span = request.child(&mut x.cx.worker.rng.borrow_mut());
        if span.is_sampled() {
            span.rename(try_name(x, tracing));
        }
        if tracing.propagate {
            span.inject(headers);
        }
        if let Some(before) = spans.attempt.replace(span) {
            finish_try(before, &x.source(), tracing);
        }
    }
    x.record().spans = Some(spans);
}

fn try_name<U: Upstreams>(x: &Exchange<U>, tracing: &Tracing) -> String {
    let format = route(x).and_then(|route| route.upstream_operation.as_ref());
    if let Some(format) = format.or(tracing.upstream_operation.as_ref()) {
        let mut out = Vec::new();
        write_text(format, &x.source(), b"", &mut out);
        return String::from_utf8_lossy(&out).into_owned();
    }
    let cluster = x.observer.record().cluster.as_ref();
    let cluster = cluster.map_or("", |cluster| &*cluster.stat_name);
    format!("router {cluster} egress")
}

fn finish_try(mut span: Span, source: &Source<'_>, tracing: &Tracing) {
    if span.is_sampled() {
        let status = source.record.status;
        tags::of_try(&mut span, source, tracing, status);
        span.finish();
    }
}

/// Names of spans in an answer: ours for the caller, or the upstream's for ours.
pub(super) fn exchange_names<U: Upstreams>(x: &mut Exchange<U>, headers: &mut HeaderMap) {
    let Some(spans) = &mut x.observer.record_mut().spans else {
        return;
    };
    if !spans.egress {
        if let Some(operation) = spans.operation.take() {
            headers.insert(DECORATOR, operation);
        }
        return;
    }
    let named = headers.remove(&DECORATOR);
    if let Some(named) = named.filter(|named| !named.is_empty())
        && let Some(span) = &mut spans.request
        && span.is_sampled()
    {
        span.rename(String::from_utf8_lossy(named.as_bytes()).into_owned());
    }
}

/// Ends the spans of a record.
pub(super) fn finish(record: &mut Record, manager: &Manager, environment: &Environment) {
    let Some(tracing) = manager.config.tracing.as_deref() else {
        return;
    };
    let Some(spans) = record.spans.take() else {
        return;
    };
    let source = access_log::source(record, environment);
    if let Some(last) = spans.attempt {
        finish_try(last, &source, tracing);
    }
    let span = spans.request.filter(Span::is_sampled);
    if let Some(mut span) = span {
        tags::of_answer(&mut span, &source, tracing);
        span.finish();
    }
}
