//! One request while it is handled, and the observer that writes its record exactly once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use hyper::body::Incoming;
use malla_proxy_config::request::RequestView;
use malla_proxy_config::stream_state::StreamState;
use tokio::time::Instant;

use super::adaptor::{Adapted, Adaptor};
use super::body::{Flow, Inflow};
use super::client_body::ClientBody;
use super::connection::Context;
use super::metrics;
use super::peers::Told;
use super::selected::Selected;
use super::state::LocalSnapshot;
use super::trace;
use super::upgrade::Upgrade;
use crate::filter::chain::Chain;
use crate::filter::{self, Note};
use crate::telemetry::access_log::{self, Source};
use crate::telemetry::export::entry;
use crate::telemetry::flags::Flag;
use crate::telemetry::odometer::{FRAME, Head};
use crate::telemetry::record::{Captured, Progress, Record};
use crate::telemetry::stats::HttpStats;
use crate::upstream::Upstreams;

/// A stream without an answer that its client gave up earlier than this was none (Envoy's
/// `overload.premature_reset_min_stream_lifetime_seconds` is 1, in whole seconds).
const PREMATURE: Duration = Duration::from_secs(2);

/// One request while it is handled.
pub(crate) struct Exchange<U: Upstreams> {
    pub(crate) cx: Rc<Context<U>>,
    pub(crate) snapshot: LocalSnapshot,
    /// The manager's filters as they are for this request.
    pub(crate) chain: Rc<Chain>,
    pub(crate) head: Parts,
    pub(crate) body: Option<ClientBody>,
    pub(crate) flow: Rc<Flow>,
    pub(crate) observer: Observer<U>,
    pub(crate) selected: Option<Rc<Selected>>,
    /// The route's cluster, where there is one.
    pub(crate) handle: Option<U::Handle>,
    /// What filters keep of the request for its answer, by their places in the chain.
    pub(crate) notes: Vec<(usize, Note)>,
    /// What changes the body of the answer.
    pub(crate) adapted: Option<Box<Adapted>>,
    pub(super) upgrade: Option<Upgrade>,
    /// A cookie made for consistent hashing.
    pub(crate) cookie: Option<HeaderValue>,
    /// The body, kept for where a redirect may lead.
    pub(super) replay: Option<Rc<Inflow>>,
    /// Where a redirect that was followed came from.
    pub(super) original_url: Option<HeaderValue>,
    /// The routes between which redirects were followed here.
    pub(super) redirects: Vec<(Arc<str>, Arc<str>)>,
    /// What the client's proxy has told of itself.
    pub(super) told: Told,
    /// Decides fractions of routing for this request.
    pub(crate) random: u64,
    pub(crate) grpc: bool,
    pub(crate) internal: bool,
    /// An HTTP/1.0 client that did not ask for more.
    pub(crate) closes: bool,
    /// `x-request-id`, where answers say it.
    pub(crate) id: Option<HeaderValue>,
}

impl<U: Upstreams> Exchange<U> {
    /// Starts the record and the counters of a request.
    pub(crate) fn begin(cx: Rc<Context<U>>, request: Request<Incoming>) -> Self {
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
        if cx.manager.needs.wire {
            let http2 = head.version == Version::HTTP_2;
            let came = Head::request_came(&head.method, &head.uri, &head.headers, http2);
            record.wire.downstream.head_came(came);
            record.wire_begin = cx.pulse.next_begin();
        }
        let flow = Flow::new(Rc::clone(&record.progress));
        flow.last.set(Some(record.start));
        cx.begun.set(Some(Rc::clone(&flow)));
        let body = (!http_body::Body::is_end_stream(&body)).then_some(body);
        let http1 = head.version != Version::HTTP_2;
        let closes = head.version < Version::HTTP_11 && !asks_keep_alive(&head.headers)
            || http1 && proxy_asks_close(&head.headers);
        let upgrade = Upgrade::of(&mut head, body.is_some());
        if body.is_none() && upgrade.is_none() {
            record.progress.request_end.set(Some(record.start));
        }
        let body = body.map(|body| ClientBody::new(body, Rc::clone(&flow)));
        let stats = &cx.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match head.version {
            Version::HTTP_2 => stats.downstream_rq_http2_total.inc(),
            _ => stats.downstream_rq_http1_total.inc(),
        }
        let grpc = record.grpc;
        let random = cx.worker.random();
        let snapshot = cx.worker.snapshot();
        Self {
            chain: cx.worker.chain(&cx.manager, &snapshot),
            snapshot,
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
            notes: Vec::new(),
            adapted: None,
            upgrade,
            cookie: None,
            replay: None,
            original_url: None,
            redirects: Vec::new(),
            told: Told::default(),
            random,
            internal: false,
            closes,
            id: None,
        }
    }

    /// Ends the record with a redirect that is followed, and begins the one of the request that `head` is now.
    pub(super) fn begin_again(&mut self, status: StatusCode) {
        let old = self.observer.record();
        let mut next = Record::begin(
            Rc::clone(&self.cx.connection),
            old.protocol,
            Instant::now(),
            SystemTime::now(),
        );
        next.remote = old.remote.clone();
        next.scheme = old.scheme;
        next.grpc = old.grpc;
        next.request_head = old.request_head;
        next.method = Some(self.head.method.clone());
        next.path = self.head.uri.path_and_query().cloned();
        let progress = &self.flow.progress;
        let so_far = Progress::default();
        so_far.received.set(progress.received.get());
        so_far.request_end.set(progress.request_end.get());
        if self.replay.is_some() {
            // Told twice, counted twice.
            progress.received.set(progress.received.get() * 2);
        }
        self.capture_request();
        let old = self.observer.record_mut();
        next.progress = std::mem::replace(&mut old.progress, Rc::new(so_far));
        old.method.clone_from(&next.method);
        old.path.clone_from(&next.path);
        old.original_path = None;
        old.status = Some(status);
        old.details = Some("internal_redirect".into());
        let stats = &self.cx.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        let next = Observer::new(next, Rc::clone(&self.cx));
        std::mem::replace(&mut self.observer, next).finish();
    }

    /// The request as matchers see it.
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.head.method,
            path: self
                .head
                .uri
                .path_and_query()
                .map_or("", |path| path.as_str()),
            scheme: self.observer.record().scheme,
            headers: &self.head.headers,
            state: self.observer.record().state.as_deref(),
        }
    }

    /// What the filter at this place has kept for the answer.
    pub(crate) fn note(&self, index: usize) -> Option<&Note> {
        let note = self.notes.iter().find(|(at, _)| *at == index);
        note.map(|(_, note)| note)
    }

    /// Changes the body of the answer on its way; the filter that does takes `content-length` off.
    pub(crate) fn adapt(&mut self, adaptor: Box<dyn Adaptor>) {
        self.adapted.get_or_insert_default().push(adaptor);
    }

    /// The request goes to another path than it came with.
    pub(crate) fn set_path(&mut self, path: PathAndQuery) {
        self.head.uri = Uri::from(path.clone());
        self.record().path = Some(path);
    }

    /// Where filters note what they have found out.
    pub(crate) fn state_mut(&mut self) -> &mut StreamState {
        self.record().state.get_or_insert_default()
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        self.observer.record_mut()
    }

    /// The request as formats see it while its headers are still here.
    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            record: self.observer.record(),
            environment: &self.cx.worker.process.environment,
            request: Some(&self.head.headers),
            response: None,
        }
    }

    /// Keeps what logs read of the request headers; call it before they move on.
    pub(crate) fn capture_request(&mut self) {
        let wants_all = self
            .selected
            .as_deref()
            .is_some_and(response_formats_read_request)
            || (self.chain.edits_answers
                && filter::reads_request(&self.chain.filters, self.selected.as_deref()));
        trace::tag_request(self);
        if self.cx.manager.config.request_id.in_response {
            self.id = self
                .head
                .headers
                .get(&super::forwarded::REQUEST_ID)
                .cloned();
        }
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

    /// Adds the cookie of consistent hashing.
    pub(crate) fn set_cookie(&mut self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie.take() {
            headers.append(SET_COOKIE, cookie);
        }
    }

    /// It wants a tunnel: there is no body to look at.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    pub(crate) fn is_head(&self) -> bool {
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

/// `proxy-connection: close`, as old clients say it.
fn proxy_asks_close(headers: &HeaderMap) -> bool {
    let value = headers.get("proxy-connection");
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
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
pub(crate) struct Observer<U: Upstreams> {
    record: Option<Box<Record>>,
    cx: Rc<Context<U>>,
}

impl<U: Upstreams> Observer<U> {
    pub(crate) fn new(record: Record, cx: Rc<Context<U>>) -> Self {
        Self {
            record: Some(Box::new(record)),
            cx,
        }
    }

    /// The manager's counters.
    pub(crate) fn stats(&self) -> &Arc<HttpStats> {
        &self.cx.manager.stats
    }

    /// What the manager's logs read.
    pub(crate) fn needs(&self) -> &access_log::Needs {
        &self.cx.manager.needs
    }

    pub(crate) fn record(&self) -> &Record {
        self.record
            .as_deref()
            .expect("only `finish` and `drop` take the record, and both end the observer")
    }

    pub(crate) fn record_mut(&mut self) -> &mut Record {
        self.record
            .as_deref_mut()
            .expect("only `finish` and `drop` take the record, and both end the observer")
    }

    /// Moves the record into another owner; this one writes nothing any more.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self {
            record: self.record.take(),
            cx: Rc::clone(&self.cx),
        }
    }

    /// Writes the record: the request is over.
    pub(crate) fn finish(mut self) {
        if let Some(record) = self.record.take() {
            self.observe(*record);
        }
    }

    /// Adds up what has passed on both sides.
    fn count_wire(&self, record: &mut Record) {
        record.add_trip();
        let progress = &record.progress;
        let came = (progress.received.get(), progress.pieces.get());
        let went = (record.bytes_sent, record.pieces_sent);
        let wire = &mut record.wire.downstream;
        match record.wire_begin {
            Some(begin) => wire.received = self.cx.pulse.bytes_since(begin),
            None => wire.received += came.0 + FRAME * came.1,
        }
        wire.sent += went.0;
    }

    fn observe(&self, mut record: Record) {
        let end = Instant::now();
        record.end = Some(end);
        record.progress.give_up();
        let stats = &self.cx.manager.stats;
        let duration = end.saturating_duration_since(record.start);
        stats.downstream_rq_time.record(duration);
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
        if let Some(call) = &record.grpc_call {
            call.end(&record);
        }
        let unread = record.progress.request_end.get().is_none();
        let shared = record.protocol == Some(Version::HTTP_2);
        self.cx.stream_ended(unread && !shared);
        if shared {
            let brief = record.start.elapsed() < PREMATURE;
            self.cx.note_reset(brief && record.status.is_none());
        }
        if let Some(config) = &self.cx.manager.counted {
            metrics::count(&self.cx, config, &mut record);
        }
        let (worker, manager) = (&self.cx.worker, &self.cx.manager);
        let environment = &worker.process.environment;
        if manager.needs.wire {
            self.count_wire(&mut record);
        }
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
pub(crate) fn has_no_body(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}
