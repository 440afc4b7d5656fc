//! Phase 5: tries, timeouts, retries.
//!
//! Invariants: a try is only repeated while the whole request can be given again; the record holds the last try; the
//! route's timeout runs from the end of the request over all tries.

mod hedge;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use malla_proxy_config::cluster::UpstreamProtocol;
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::request::text;
use malla_proxy_config::route::OTHER_REQUESTS;
use malla_proxy_config::route::action::{Forward, HostRewrite};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::body::{Flow, Inflow, RequestBody};
use super::error::{ProxyError, Timeout};
use super::exchange::Exchange;
use super::response::BodyOf;
use super::retry::{Answer, Retries};
use super::selected::Selected;
use super::timeouts::Timeouts;
use super::{hash, mirror, peers, rewrite, trace};
use crate::connection::Connection;
use crate::telemetry::codes::Origin;
use crate::telemetry::export::entry;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Attempted;
use crate::telemetry::stats::{ClusterStats, Count, VirtualClusterStats};
use crate::upstream::{Attempt, Choice, ClusterHandle, ResetKind, SendError, Upstreams};

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");
const RETRY_HEADERS: [&str; 6] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    HEDGE,
];
const HEDGE: &str = "x-envoy-hedge-on-per-try-timeout";
/// Bytes of a request body kept for further tries where nothing is configured (Envoy's buffer limit).
const DEFAULT_RETRY_BUFFER: u64 = 1 << 20;

/// What an upstream answered, and what the rest of the response needs.
pub(super) struct Sent<B> {
    pub(super) response: Response<B>,
    /// The route's timeout as a moment.
    pub(super) deadline: Option<Instant>,
    /// The cluster's longest stream as a moment.
    pub(super) until: Option<Instant>,
    /// Of the cluster that answered.
    pub(super) stats: Arc<ClusterStats>,
}

/// How one try ended.
enum Tried<B> {
    Answer(Result<Response<B>, SendError>),
    TryTimeout,
    /// No byte of it for too long.
    TryIdle,
    GlobalTimeout,
    TooLong,
}

impl<B> Tried<B> {
    /// An endpoint was there to be asked.
    fn had_connection(&self) -> bool {
        match self {
            Self::Answer(Err(error)) => matches!(error, SendError::Reset(_)),
            _ => true,
        }
    }
}

/// The cluster of the route, looked up when the route was selected.
fn cluster_of<U: Upstreams>(
    x: &mut Exchange<U>,
    forward: &Forward,
) -> Result<U::Handle, ProxyError> {
    x.handle.take().ok_or_else(|| {
        x.cx.manager.stats.no_cluster.inc();
        ProxyError::NoCluster {
            status: forward.not_found,
        }
    })
}

/// Phases 4 and 5: rewrites the request and sends it until an answer is to be passed on.
pub(super) async fn send<U: Upstreams>(x: &mut Exchange<U>) -> Result<Sent<BodyOf<U>>, ProxyError> {
    let Some(selected) = x.selected.clone() else {
        return Err(ProxyError::NoRoute);
    };
    let Some(forward) = selected.forward() else {
        return Err(ProxyError::NonForwarding);
    };
    let handle = cluster_of(x, forward)?;
    let hashed = if hash::wanted(handle.config()) {
        hash::of(&forward.hash, &x.view(), &x.cx.connection)
    } else {
        hash::Hashed::default()
    };
    x.cookie = hashed.cookie;
    let group = counted_as(x, &selected);
    let hedged = hedged(x, forward);
    let timeouts = Timeouts::of(x, forward, hedged);
    let mut retries = Retries::new(forward.retry.clone(), &x.view());
    if x.internal {
        // Nobody else's got this far.
        for name in RETRY_HEADERS {
            x.head.headers.remove(name);
        }
    }
    peers::tell(x, handle.config());
    rewrite::rewrite_request(x, &selected);
    trace::inject(x);
    x.capture_request();
    x.cx.manager.stats.rq_total.inc();
    let inflow = keep_body(x, &selected, forward, &retries);
    if forward.internal_redirect.is_some() {
        x.replay.clone_from(&inflow);
    }
    mirror::start(x, &forward.mirrors, inflow.as_ref(), timeouts.global);
    let mut tries = Tries {
        handle,
        hash: hashed.hash,
        timeouts,
        inflow,
        tried: SmallVec::new(),
        until: None,
        timed_out: false,
        guard: None,
        group,
    };
    if hedged && retries.is_wanted() {
        return Box::pin(tries.race(x, &selected, forward, &mut retries)).await;
    }
    tries.run(x, &selected, forward, &mut retries).await
}

/// What the virtual host counts the request as, beside its cluster.
fn counted_as<U: Upstreams>(
    x: &mut Exchange<U>,
    selected: &Selected,
) -> Option<Arc<VirtualClusterStats>> {
    let host = selected.vhost();
    let name = host.counted_as(&x.view())?;
    let (host, counted) = (Arc::clone(&host.name), Arc::clone(&name));
    let stats = x.cx.manager.virtual_cluster_stats(host, counted);
    // Envoy has no name for all others but that of their statistics.
    x.record().virtual_cluster = Some(name).filter(|name| **name != *OTHER_REQUESTS);
    Some(stats)
}

/// Whether tries that take too long go on beside the next one; a trusted client has the last word.
fn hedged<U: Upstreams>(x: &Exchange<U>, forward: &Forward) -> bool {
    let asked = x.head.headers.get(HEDGE).filter(|_| x.internal);
    match asked.map(|asked| asked.as_bytes()) {
        Some(b"true") => true,
        Some(b"false") => false,
        _ => forward.hedge,
    }
}

/// The body behind a buffer, where it may be needed again.
fn keep_body<U: Upstreams>(
    x: &mut Exchange<U>,
    selected: &Selected,
    forward: &Forward,
    retries: &Retries,
) -> Option<Rc<Inflow>> {
    if x.replay.is_some() {
        return x.replay.clone();
    }
    if !retries.may_retry() && forward.mirrors.is_empty() && forward.internal_redirect.is_none() {
        return None;
    }
    let limit = selected
        .route()
        .retry_buffer
        .or(selected.vhost().retry_buffer)
        .unwrap_or_else(|| {
            u64::from(x.cx.connection.listener.buffer_limit).min(DEFAULT_RETRY_BUFFER)
        });
    x.body
        .take()
        .map(|body| Inflow::new(body, limit, Rc::clone(&x.flow)))
}

/// The tries of one request.
struct Tries<U: Upstreams> {
    handle: U::Handle,
    hash: Option<u64>,
    timeouts: Timeouts,
    inflow: Option<Rc<Inflow>>,
    tried: SmallVec<[Arc<Endpoint>; 2]>,
    /// When the cluster ends the stream.
    until: Option<Instant>,
    /// The last try took too long.
    timed_out: bool,
    /// Admits the retry under way.
    guard: Option<<U::Handle as ClusterHandle>::RetryGuard>,
    /// What its virtual host counts it as.
    group: Option<Arc<VirtualClusterStats>>,
}

impl<U: Upstreams> Tries<U> {
    async fn run(
        &mut self,
        x: &mut Exchange<U>,
        selected: &Selected,
        forward: &Forward,
        retries: &mut Retries,
    ) -> Result<Sent<BodyOf<U>>, ProxyError> {
        let stats = Arc::clone(self.handle.stats());
        loop {
            let may_retry = self.is_repeatable()
                && (retries.may_retry() || forward.internal_redirect.is_some());
            let request = self.request(x, selected, may_retry);
            let tried = self.one_try(x, forward, request).await;
            self.timed_out = matches!(tried, Tried::TryTimeout | Tried::TryIdle);
            if tried.had_connection() {
                self.tally(|group| &group.upstream_rq_total);
            }
            let (error, answer) = match tried {
                Tried::Answer(Ok(response)) => {
                    match retries.after_response(response.status(), response.headers()) {
                        Answer::Yes if self.admits(x, forward, &stats) => {
                            stats.codes.retried(response.status());
                            let asked = retries.asked_wait(response.headers(), SystemTime::now());
                            drop(response);
                            self.wait(x, retries, asked).await;
                            continue;
                        }
                        answer => {
                            self.count(x, response.status(), Some(response.headers()));
                            self.note_end(
                                x,
                                retries,
                                answer,
                                &stats,
                                response.status().is_success(),
                            );
                            let deadline = self.deadline(x);
                            return Ok(Sent {
                                response,
                                deadline,
                                until: self.until,
                                stats,
                            });
                        }
                    }
                }
                Tried::Answer(Err(SendError::Reset(reset)))
                    if reset.kind == ResetKind::Downstream =>
                {
                    stats.upstream_rq_tx_reset.inc();
                    return Err(ProxyError::of_body(&x.flow));
                }
                Tried::Answer(Err(error)) => {
                    self.note_error(x, &error);
                    let answer = retries.after_error(&error);
                    (
                        ProxyError::Upstream {
                            error,
                            retried: retries.made() > 0,
                        },
                        answer,
                    )
                }
                Tried::TryIdle => {
                    stats.upstream_rq_per_try_idle_timeout.inc();
                    self.handle.report_timeout(&x.record().attempt, false);
                    let error = ProxyError::Timeout(Timeout::TryIdle);
                    (error, retries.after_try_timeout())
                }
                Tried::TryTimeout => {
                    stats.upstream_rq_per_try_timeout.inc();
                    self.handle.report_timeout(&x.record().attempt, false);
                    let error = ProxyError::Timeout(Timeout::Try);
                    (error, retries.after_try_timeout())
                }
                Tried::GlobalTimeout => {
                    stats.upstream_rq_timeout.inc();
                    self.tally(|group| &group.upstream_rq_timeout);
                    self.handle.report_timeout(&x.record().attempt, true);
                    let error = ProxyError::Timeout(Timeout::Response {
                        alternative: self.timeouts.alternative,
                    });
                    (error, Answer::No)
                }
                Tried::TooLong => {
                    stats.upstream_rq_max_duration_reached.inc();
                    (ProxyError::Timeout(Timeout::UpstreamStream), Answer::No)
                }
            };
            if answer == Answer::Yes && self.admits(x, forward, &stats) {
                self.wait(x, retries, None).await;
                continue;
            }
            self.note_end(x, retries, answer, &stats, false);
            let status = error.clone().verdict().status;
            self.count(x, status, None);
            return Err(error);
        }
    }

    /// Counts the answer that is passed on, or what is said instead of one.
    fn count(&self, x: &Exchange<U>, status: StatusCode, headers: Option<&HeaderMap>) {
        let attempt = &x.observer.record().attempt;
        count_response(self.handle.stats(), status, x.internal, attempt, headers);
        if let Some(group) = &self.group {
            group.answers.0.answered(status, &Origin::default());
        }
    }

    /// Counts for the virtual host, where it tells requests apart.
    fn tally(&self, counter: impl FnOnce(&VirtualClusterStats) -> &Count) {
        if let Some(group) = &self.group {
            counter(group).inc();
        }
    }

    /// Counts a try without an answer.
    fn note_error(&self, x: &mut Exchange<U>, error: &SendError) {
        if matches!(error, SendError::DropOverload { .. }) {
            // Nothing was tried.
            let record = x.record();
            record.attempts = record.attempts.saturating_sub(1);
        }
        if is_remote_reset(error) {
            self.handle.stats().upstream_rq_rx_reset.inc();
        }
    }

    fn is_repeatable(&self) -> bool {
        self.inflow
            .as_ref()
            .is_none_or(|inflow| inflow.is_repeatable())
    }

    /// True if the circuit breaker lets one more retry through and the request can be given again.
    fn admits(&mut self, x: &mut Exchange<U>, forward: &Forward, stats: &ClusterStats) -> bool {
        if !self.is_repeatable() {
            return false;
        }
        self.guard = None;
        self.guard = self.handle.admit_retry(forward.high_priority);
        if self.guard.is_none() {
            stats.upstream_rq_retry_overflow.inc();
            self.tally(|group| &group.upstream_rq_retry_overflow);
            x.record().flags.set(Flag::UpstreamOverflow);
            return false;
        }
        stats.upstream_rq_retry.inc();
        self.tally(|group| &group.upstream_rq_retry);
        true
    }

    async fn wait(&mut self, x: &mut Exchange<U>, retries: &mut Retries, asked: Option<Duration>) {
        let pause = self.pause(x, retries, asked);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes one of the tries that are left; returns how long to wait before it.
    fn pause(
        &mut self,
        x: &mut Exchange<U>,
        retries: &mut Retries,
        asked: Option<Duration>,
    ) -> Duration {
        self.tried.extend(x.record().attempt.endpoint.clone());
        let stats = self.handle.stats();
        match asked {
            Some(_) => stats.upstream_rq_retry_backoff_ratelimited.inc(),
            None => stats.upstream_rq_retry_backoff_exponential.inc(),
        }
        retries.take(asked, x.cx.worker.random())
    }

    fn note_end(
        &self,
        x: &mut Exchange<U>,
        retries: &Retries,
        answer: Answer,
        stats: &ClusterStats,
        success: bool,
    ) {
        if answer == Answer::Exhausted {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.tally(|group| &group.upstream_rq_retry_limit_exceeded);
            x.record().flags.set(Flag::UpstreamRetryLimitExceeded);
        }
        if success && retries.made() > 0 {
            stats.upstream_rq_retry_success.inc();
            self.tally(|group| &group.upstream_rq_retry_success);
        }
    }

    fn deadline(&self, x: &Exchange<U>) -> Option<Instant> {
        let end = x
            .flow
            .progress
            .request_end
            .get()
            .unwrap_or_else(Instant::now);
        self.timeouts.global.map(|limit| end + limit)
    }

    /// The request of one try. Headers are moved into the last one.
    fn request(
        &self,
        x: &mut Exchange<U>,
        selected: &Selected,
        may_retry: bool,
    ) -> Request<RequestBody> {
        let record = x.observer.record_mut();
        record.attempts += 1;
        let attempts = record.attempts;
        if selected.vhost().attempt_count_in_request {
            x.head
                .headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        if attempts > 1 {
            self.timeouts.tell_rest(x);
            if selected.vhost().timeout_retry_in_request {
                let value = if self.timed_out { "true" } else { "false" };
                let value = HeaderValue::from_static(value);
                x.head.headers.insert(IS_TIMEOUT_RETRY, value);
            }
        }
        let mut headers = if may_retry {
            x.head.headers.clone()
        } else {
            std::mem::take(&mut x.head.headers)
        };
        trace::begin_try(x, &mut headers);
        if x.cx.manager.needs.sizes {
            let bytes = entry::request_bytes(&headers, x.observer.record());
            x.record().request_headers_bytes = bytes;
        }
        let body = match (&self.inflow, x.body.take()) {
            (Some(inflow), _) => inflow.body(),
            (None, Some(body)) => RequestBody::streamed(body),
            (None, None) => RequestBody::empty(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = x.head.method.clone();
        *request.uri_mut() = x.head.uri.clone();
        *request.version_mut() = x.head.version;
        *request.headers_mut() = headers;
        if x.cx.manager.config.http1.preserve_case {
            // The codec keeps there how names were written.
            *request.extensions_mut() = x.head.extensions.clone();
        }
        if let Some(protocol) = x.head.extensions.get::<hyper::ext::Protocol>() {
            extended_connect(
                &mut request,
                protocol.clone(),
                self.handle.config().http.protocol,
            );
        } else if request.method() == Method::CONNECT {
            let authority = request
                .headers()
                .get(header::HOST)
                .map(text)
                .and_then(|host| host.parse::<Uri>().ok());
            *request.uri_mut() = authority.unwrap_or_default();
        }
        request
    }

    async fn one_try(
        &mut self,
        x: &mut Exchange<U>,
        forward: &Forward,
        request: Request<RequestBody>,
    ) -> Tried<BodyOf<U>> {
        let policy = forward.retry.as_deref();
        let cx = Rc::clone(&x.cx);
        let flow = Rc::clone(&x.flow);
        let selected = x.selected.clone();
        let record = x.observer.record_mut();
        if cx.manager.needs.wire {
            record.add_trip();
        }
        if cx.manager.needs.attempts {
            record.attempted.extend(Attempted::of(&record.attempt));
        }
        record.attempt = Attempt::default();
        let choice = Choice {
            hash: self.hash,
            tried: &self.tried,
            https: record.scheme == "https",
            metered: cx.manager.needs.wire,
            ..choice_of(selected.as_deref(), forward, &cx.connection)
        };
        // Pinned where it is: the largest part of a request's state.
        let mut sending = pin!(self.handle.send(request, &choice, &mut record.attempt));
        let longest = self.handle.config().http.max_stream_duration;
        let idle = policy.and_then(|policy| policy.per_try_idle_timeout);
        flow.try_idle.set(idle);
        let unlimited = self.timeouts.global.is_none() && self.timeouts.per_try.is_none();
        if unlimited && longest.is_none() && idle.is_none() {
            return Tried::Answer(sending.as_mut().await);
        }
        let started = Instant::now();
        self.until = longest.map(|limit| started + limit);
        tokio::select! {
            biased; // An answer that is there counts, however late; the larger limit is told from the smaller.
            answer = sending.as_mut() => Tried::Answer(answer),
            () = passed(&flow, None, self.timeouts.global) => Tried::GlobalTimeout,
            () = passed(&flow, Some(started), self.timeouts.per_try) => Tried::TryTimeout,
            () = quiet(&flow, started, idle) => Tried::TryIdle,
            () = reached(self.until) => Tried::TooLong,
        }
    }
}

/// What a host is chosen by, as far as the route says.
fn choice_of<'a>(
    selected: Option<&'a Selected>,
    forward: &'a Forward,
    connection: &'a Connection,
) -> Choice<'a> {
    let policy = forward.retry.as_deref();
    let weighted = selected.and_then(Selected::weighted);
    Choice {
        avoid: policy.map(|policy| &policy.avoid),
        avoid_priorities: policy.and_then(|policy| policy.avoid_previous_priorities),
        host_selection_attempts: policy.map_or(1, |policy| policy.host_selection_attempts),
        metadata_match: weighted
            .and_then(|cluster| cluster.metadata_match.as_ref())
            .or(forward.metadata_match.as_ref()),
        high_priority: forward.high_priority,
        auto_host: forward.host == HostRewrite::Auto,
        ..Choice::any(connection)
    }
}

/// True if the endpoint itself ended the stream, not its connection.
fn is_remote_reset(error: &SendError) -> bool {
    let SendError::Reset(reset) = error else {
        return false;
    };
    matches!(reset.kind, ResetKind::Remote | ResetKind::RemoteRefused)
}

/// Waits until `limit` has passed since the end of the request, or since `start` if that was later.
async fn passed(flow: &Flow, start: Option<Instant>, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let Some(end) = flow.progress.end().await else {
        return std::future::pending().await; // Nobody waits for an answer any more.
    };
    tokio::time::sleep_until(start.map_or(end, |start| start.max(end)) + limit).await;
}

/// Waits until nothing has moved for `limit` since `start`.
async fn quiet(flow: &Flow, start: Instant, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    loop {
        let since = flow.last.get().map_or(start, |last| last.max(start));
        if Instant::now() >= since + limit {
            return;
        }
        tokio::time::sleep_until(since + limit).await;
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A WebSocket over HTTP/2 becomes one over HTTP/1 where the endpoint speaks that (RFC 8441 §5).
fn extended_connect(
    request: &mut Request<RequestBody>,
    kind: hyper::ext::Protocol,
    upstream: UpstreamProtocol,
) {
    match upstream {
        UpstreamProtocol::Http2 | UpstreamProtocol::Downstream => {
            request.extensions_mut().insert(kind);
        }
        UpstreamProtocol::Http1 | UpstreamProtocol::Alpn => {
            *request.method_mut() = Method::GET;
            *request.version_mut() = http::Version::HTTP_11;
            let headers = request.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            if let Ok(kind) = HeaderValue::from_str(kind.as_str()) {
                headers.insert(header::UPGRADE, kind);
            }
            if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
                // The key only proves to the client that the server is one; the client here does not ask.
                headers.insert(
                    header::SEC_WEBSOCKET_KEY,
                    HeaderValue::from_static("bWFsbGEgcHJveHkga2V5IQ=="),
                );
            }
        }
    }
}

/// Counts a status, from an upstream or instead of one, after this attempt. `headers` are those of the answer.
pub(crate) fn count_response(
    stats: &ClusterStats,
    status: StatusCode,
    internal: bool,
    attempt: &Attempt,
    headers: Option<&HeaderMap>,
) {
    let told = headers.and_then(|headers| headers.get("x-envoy-upstream-canary"));
    let origin = Origin {
        internal,
        canary: attempt.canary || told.is_some_and(|told| told == "true"),
        zones: attempt.zones.as_ref(),
    };
    stats.codes.answered(status, &origin);
}
