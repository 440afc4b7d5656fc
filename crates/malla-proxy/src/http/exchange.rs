//! One request while it is handled, and the observer that writes its record exactly once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONNECTION, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use malla_proxy_config::http_filter::CorsPolicy;
use malla_proxy_config::request::RequestView;
use tokio::time::Instant;

use super::body::Flow;
use super::connection::Context;
use super::metrics;
use super::peers::Told;
use super::selected::Selected;
use super::state::LocalSnapshot;
use super::trace;
use super::upgrade::Upgrade;
use crate::telemetry::access_log::{self, Source};
use crate::telemetry::export::entry;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::{Captured, Record};
use crate::telemetry::stats::HttpStats;
use crate::upstream::Upstreams;

/// One request while it is handled.
pub(super) struct Exchange<U: Upstreams> {
    pub(super) cx: Rc<Context<U>>,
    pub(super) snapshot: LocalSnapshot,
    pub(super) head: Parts,
    pub(super) body: Option<Incoming>,
    pub(super) flow: Rc<Flow>,
    pub(super) observer: Observer<U>,
    pub(super) selected: Option<Rc<Selected>>,
    /// The route's cluster, where there is one.
    pub(super) handle: Option<U::Handle>,
    /// The origin this is a CORS request from, and the policy that allows it.
    pub(super) cors: Option<(HeaderValue, Arc<CorsPolicy>)>,
    pub(super) upgrade: Option<Upgrade>,
    /// A cookie made for consistent hashing.
    pub(super) cookie: Option<HeaderValue>,
    /// What the client's proxy has told of itself.
    pub(super) told: Told,
    /// Decides fractions of routing for this request.
    pub(super) random: u64,
    pub(super) grpc: bool,
    pub(super) internal: bool,
    /// An HTTP/1.0 client that did not ask for more.
    pub(super) closes: bool,
}

impl<U: Upstreams> Exchange<U> {
    /// Starts the record and the counters of a request.
    pub(super) fn begin(cx: Rc<Context<U>>, request: Request<Incoming>) -> Self {
        let (mut head, body) = request.into_parts();
        let mut record = Record::begin(
            Rc::clone(&cx.connection),
            Some(head.version),
            Instant::now(),
            SystemTime::now(),
        );
        record.method = Some(head.method.clone());
        record.path = head.uri.path_and_query().cloned();
        record.grpc = malla_proxy_config::route::matcher::is_grpc(&head.headers);
        if cx.manager.counted.is_some() {
            record.request_head = metrics::request_head(&head.method, &head.uri, &head.headers);
            record.progress.count_messages.set(record.grpc);
        }
        let flow = Flow::new(Rc::clone(&record.progress));
        flow.last.set(Some(record.start));
        cx.begun.set(Some(Rc::clone(&flow)));
        let body = (!http_body::Body::is_end_stream(&body)).then_some(body);
        let closes = head.version < Version::HTTP_11 && !asks_keep_alive(&head.headers);
        let upgrade = Upgrade::of(&mut head, &body);
        if body.is_none() && upgrade.is_none() {
            record.progress.request_end.set(Some(record.start));
        }
        let stats = &cx.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match head.version {
            Version::HTTP_2 => stats.downstream_rq_http2_total.inc(),
            _ => stats.downstream_rq_http1_total.inc(),
        }
        let grpc = record.grpc;
        let random = cx.worker.random();
        Self {
            snapshot: cx.worker.snapshot(),
            observer: Observer {
                record: Some(Box::new(record)),
                cx: Rc::clone(&cx),
            },
            cx,
            grpc,
            head,
            body,
            flow,
            selected: None,
            handle: None,
            cors: None,
            upgrade,
            cookie: None,
            told: Told::default(),
            random,
            internal: false,
            closes,
        }
    }

    /// The request as matchers see it.
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.head.method,
            path: self
                .head
                .uri
                .path_and_query()
                .map_or("", |path| path.as_str()),
            scheme: self.observer.record().scheme,
            headers: &self.head.headers,
        }
    }

    pub(super) fn record(&mut self) -> &mut Record {
        self.observer.record_mut()
    }

    /// The request as formats see it while its headers are still here.
    pub(super) fn source(&self) -> Source<'_> {
        Source {
            record: self.observer.record(),
            environment: &self.cx.worker.process.environment,
            request: Some(&self.head.headers),
            response: None,
        }
    }

    /// Keeps what logs read of the request headers; call it before they move on.
    pub(super) fn capture_request(&mut self) {
        let wants_all = self
            .selected
            .as_deref()
            .is_some_and(response_formats_read_request);
        trace::tag_request(self);
        let needs = &self.cx.manager.needs;
        let captured = if wants_all || needs.everything {
            Captured::All(Box::new(self.head.headers.clone()))
        } else {
            Captured::of(&self.head.headers, &needs.request)
        };
        if needs.sizes {
            let bytes = entry::request_bytes(&self.head.headers, self.observer.record());
            self.observer.record_mut().request_headers_bytes = bytes;
        }
        let unnamed = |record: &Record| {
            let cluster = record.cluster.as_ref();
            cluster.is_none_or(|cluster| cluster.mesh.service.is_none())
        };
        let fallback = self.cx.manager.counted.as_ref();
        let host = fallback
            .filter(|config| config.host_fallback && unnamed(self.observer.record()))
            .and_then(|_| self.head.headers.get(http::header::HOST).cloned());
        let record = self.observer.record_mut();
        record.request_headers = captured;
        record.host = host;
    }

    /// Adds what is said with any answer of ours or of an upstream.
    pub(super) fn finish_headers(&mut self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie.take() {
            headers.append(SET_COOKIE, cookie);
        }
        if let Some((origin, policy)) = &self.cors {
            crate::filter::cors::answer(headers, origin, policy);
        }
    }

    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}

fn asks_keep_alive(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("keep-alive"))
}

/// True if a response edit on the way may read request headers.
fn response_formats_read_request(selected: &Selected) -> bool {
    use malla_proxy_config::headers::{HeaderEdits, HeaderText};
    let reads = |edits: &HeaderEdits| {
        edits
            .add
            .iter()
            .any(|add| matches!(add.value, HeaderText::Format(_)))
    };
    reads(&selected.config().response_headers)
        || reads(&selected.vhost().response_headers)
        || reads(&selected.route().response_headers)
        || selected
            .weighted()
            .is_some_and(|cluster| reads(&cluster.response_headers))
}

/// Owns the record of a request; writes it once, at the end or, if the client goes, when it is dropped.
pub(super) struct Observer<U: Upstreams> {
    record: Option<Box<Record>>,
    cx: Rc<Context<U>>,
}

impl<U: Upstreams> Observer<U> {
    pub(super) fn new(record: Record, cx: Rc<Context<U>>) -> Self {
        Self {
            record: Some(Box::new(record)),
            cx,
        }
    }

    /// The manager's counters.
    pub(super) fn stats(&self) -> &Arc<HttpStats> {
        &self.cx.manager.stats
    }

    /// What the manager's logs read.
    pub(super) fn needs(&self) -> &access_log::Needs {
        &self.cx.manager.needs
    }

    pub(super) fn record(&self) -> &Record {
        self.record
            .as_deref()
            .expect("only `finish` and `drop` take the record, and both end the observer")
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        self.record
            .as_deref_mut()
            .expect("only `finish` and `drop` take the record, and both end the observer")
    }

    /// Moves the record into another owner; this one writes nothing any more.
    pub(super) fn hand_over(&mut self) -> Self {
        Self {
            record: self.record.take(),
            cx: Rc::clone(&self.cx),
        }
    }

    /// Writes the record: the request is over.
    pub(super) fn finish(mut self) {
        if let Some(record) = self.record.take() {
            self.observe(*record);
        }
    }

    fn observe(&self, mut record: Record) {
        record.end = Some(Instant::now());
        record.progress.give_up();
        let stats = &self.cx.manager.stats;
        stats.downstream_rq_active.dec();
        stats.downstream_rq_completed.inc();
        match record.status.map_or(0, |status| status.as_u16() / 100) {
            1 => stats.downstream_rq_1xx.inc(),
            2 => stats.downstream_rq_2xx.inc(),
            3 => stats.downstream_rq_3xx.inc(),
            4 => stats.downstream_rq_4xx.inc(),
            5 => stats.downstream_rq_5xx.inc(),
            _ => {}
        }
        if let Some(stats) = &record.grpc_stats {
            stats.grpc_total.inc();
            match record.grpc_status {
                Some(0) => stats.grpc_success.inc(),
                Some(_) | None => stats.grpc_failure.inc(),
            }
        }
        let unread = record.progress.request_end.get().is_none();
        self.cx
            .stream_ended(unread && record.protocol != Some(Version::HTTP_2));
        if let Some(config) = &self.cx.manager.counted {
            metrics::count(&self.cx, config, &mut record);
        }
        let (worker, manager) = (&self.cx.worker, &self.cx.manager);
        let environment = &worker.process.environment;
        let logs = &manager.config.access_logs;
        if !logs.is_empty() {
            let source = access_log::source(&record, environment);
            let mut rng = worker.rng.borrow_mut();
            access_log::write_all(logs, &manager.log_queues, &source, &mut rng, &worker.logs);
        }
        trace::finish(&mut record, manager, environment);
    }
}

impl<U: Upstreams> Drop for Observer<U> {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        // Nobody finished it: hyper dropped the request or its answer because the client went away.
        let (flag, details) = if record.protocol == Some(Version::HTTP_2) && !self.cx.is_closing() {
            (Flag::DownstreamRemoteReset, "http2.remote_reset")
        } else {
            (
                Flag::DownstreamConnectionTermination,
                "downstream_remote_disconnect",
            )
        };
        record.flags.set(flag);
        record.details = Some(details.into());
        self.cx.manager.stats.downstream_rq_rx_reset.inc();
        self.observe(*record);
    }
}

/// Status classes that have no body whatever the headers say (RFC 9110 §6.4.1).
pub(super) fn has_no_body(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}
