//! One span while it is open.
//!
//! Its tags are written as they come, in the collector's own form; what is not sampled writes none and costs its ids.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use malla_proxy_config::tracing::Tracer;
use tokio::time::Instant;

use super::context::{self, Context, TRACEPARENT, TRACESTATE};
use super::{otlp, zipkin};
use crate::balance::Rng64;
use crate::telemetry::export::queue::Queue;

/// Which side of a hop a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server,
    Client,
}

/// How a manager's spans begin.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// The manager sends requests out of the workload.
    pub egress: bool,
    /// Each try gets a span of its own.
    pub spawn_upstream: bool,
}

impl Side {
    fn kind(self) -> Kind {
        if self.egress && !self.spawn_upstream {
            Kind::Client
        } else {
            Kind::Server
        }
    }
}

/// A tracer as one worker uses it.
#[derive(Debug)]
pub struct WorkerTracer {
    pub config: Arc<Tracer>,
    pub queue: Rc<Queue>,
    /// `service-cluster` of the node, Zipkin's name of the service.
    pub service: Arc<str>,
}

/// An open span.
#[derive(Debug)]
pub struct Span {
    tracer: Rc<WorkerTracer>,
    ids: Context,
    /// A caller may have opened it; ours is the other half.
    shared: bool,
    kind: Kind,
    state: Option<HeaderValue>,
    name: String,
    start: SystemTime,
    since: Instant,
    tags: Vec<u8>,
    error: bool,
}

impl WorkerTracer {
    /// The span of a request; `None` where its headers hold a broken context, as in Envoy.
    pub fn start(
        self: &Rc<Self>,
        headers: &HeaderMap,
        traced: bool,
        side: Side,
        rng: &mut Rng64,
        (start, since): (SystemTime, Instant),
    ) -> Option<Span> {
        let mut span = Span {
            tracer: Rc::clone(self),
            ids: Context {
                trace: 0,
                span: rng.next(),
                parent: None,
                sampled: traced,
            },
            shared: false,
            kind: side.kind(),
            state: None,
            name: String::new(),
            start,
            since,
            tags: Vec::new(),
            error: false,
        };
        match &*self.config {
            Tracer::OpenTelemetry(config) => {
                match headers.get(&TRACEPARENT) {
                    None => span.ids.trace = u128::from(rng.next()) << 64 | u128::from(rng.next()),
                    Some(value) => {
                        let caller = context::traceparent(value.as_bytes()).ok()?;
                        span.ids.trace = caller.trace;
                        span.ids.parent = Some(caller.span);
                        // Both must want it: the caller, and we by the request id.
                        span.ids.sampled = caller.sampled && traced;
                        span.state = joined(headers);
                    }
                }
                span.ids.sampled |= config.always_on;
            }
            Tracer::Zipkin(config) => {
                let (said, caller) = context::b3(headers, traced, config.w3c).ok()?;
                match caller {
                    None => {
                        let high = if config.wide_ids { rng.next() } else { 0 };
                        span.ids.trace = u128::from(high) << 64 | u128::from(span.ids.span);
                        span.ids.sampled = said.unwrap_or(traced);
                    }
                    Some(caller) if side.egress || !config.shared => {
                        span.ids.trace = caller.trace;
                        span.ids.parent = Some(caller.span);
                        span.ids.sampled = caller.sampled;
                    }
                    Some(caller) => span.ids = caller,
                }
                // Said of every span that may share one, as Envoy does.
                span.shared = config.shared && span.kind == Kind::Server;
            }
        }
        Some(span)
    }
}

/// All lines of `tracestate` as one.
fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(&TRACESTATE).iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(first.clone());
    };
    let all = [first, second].into_iter().chain(lines);
    let all: Vec<&[u8]> = all.map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b","[..])).ok()
}

impl Span {
    /// A span for one try, below this one.
    pub fn child(&self, rng: &mut Rng64) -> Self {
        Self {
            tracer: Rc::clone(&self.tracer),
            ids: Context {
                span: rng.next(),
                parent: Some(self.ids.span),
                ..self.ids
            },
            shared: false,
            kind: Kind::Client,
            state: self.state.clone(),
            name: String::new(),
            start: SystemTime::now(),
            since: Instant::now(),
            tags: Vec::new(),
            error: false,
        }
    }

    /// True if it goes to the collector: only then are names and tags worth making.
    pub fn is_sampled(&self) -> bool {
        self.ids.sampled
    }

    /// The trace it belongs to, as `%TRACE_ID%` prints it.
    pub fn trace_id(&self) -> String {
        let wide = matches!(&*self.tracer.config, Tracer::OpenTelemetry(_)) || self.is_wide();
        let digits = if wide { 32 } else { 16 };
        format!("{:0digits$x}", self.ids.trace)
    }

    /// The trace it belongs to, and its own id.
    pub fn ids(&self) -> (u128, u64) {
        (self.ids.trace, self.ids.span)
    }

    fn is_wide(&self) -> bool {
        self.ids.trace >> 64 != 0
    }

    /// Its name from now on.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Adds a tag. Names are given once each, by whoever knows the value last.
    pub fn tag(&mut self, name: &str, value: &[u8]) {
        match &*self.tracer.config {
            Tracer::OpenTelemetry(_) => otlp::attribute(&mut self.tags, name, value),
            Tracer::Zipkin(_) => zipkin::tag(&mut self.tags, name, value),
        }
    }

    /// Marks it as failed where OpenTelemetry wants so: by status, and by side.
    pub fn note_status(&mut self, status: u16) {
        let limit = match self.kind {
            Kind::Client => 400,
            Kind::Server => 500,
        };
        self.error = status >= limit;
    }

    /// Tells an upstream that this is its caller.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let parent = || context::traceparent_value(self.ids.trace, self.ids.span, self.ids.sampled);
        match &*self.tracer.config {
            Tracer::OpenTelemetry(_) => {
                headers.insert(TRACEPARENT, parent());
                // Empty where there is none, as in Envoy.
                let state = self.state.clone();
                headers.insert(TRACESTATE, state.unwrap_or(HeaderValue::from_static("")));
            }
            Tracer::Zipkin(config) => {
                context::write_b3(headers, &self.ids, self.is_wide());
                if config.w3c {
                    headers.insert(TRACEPARENT, parent());
                }
            }
        }
    }

    /// Ends it; a sampled one goes to the exporter.
    pub fn finish(self) {
        if !self.ids.sampled {
            return;
        }
        let queue = Rc::clone(&self.tracer.queue);
        queue.add(|out| match &*self.tracer.config {
            Tracer::OpenTelemetry(_) => otlp::span(out, &self.facts()),
            Tracer::Zipkin(_) => zipkin::span(out, &self.facts(), &self.tracer.service),
        });
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            ids: &self.ids,
            wide: self.is_wide(),
            shared: self.shared,
            kind: self.kind,
            state: self.state.as_ref().map(HeaderValue::as_bytes),
            name: &self.name,
            start: self.start.duration_since(UNIX_EPOCH).unwrap_or_default(),
            duration: self.since.elapsed(),
            tags: &self.tags,
            error: self.error,
        }
    }
}

/// A finished span as encoders see it.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) ids: &'a Context,
    pub(super) wide: bool,
    pub(super) shared: bool,
    pub(super) kind: Kind,
    pub(super) state: Option<&'a [u8]>,
    pub(super) name: &'a str,
    /// Since 1970.
    pub(super) start: Duration,
    pub(super) duration: Duration,
    /// In the encoder's own form.
    pub(super) tags: &'a [u8],
    pub(super) error: bool,
}
