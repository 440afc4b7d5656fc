//! Phase 5: tries, timeouts, retries.
//!
//! Invariants: a try is only repeated while the whole request can be given again; the record holds the last try; the
//! route's timeout runs from the end of the request over all tries.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use malla_proxy_config::cluster::UpstreamProtocol;
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::request::text;
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
use crate::telemetry::export::entry;
use crate::telemetry::flags::Flag;
use crate::telemetry::stats::ClusterStats;
use crate::upstream::{Attempt, Choice, ClusterHandle, ResetKind, SendError, Upstreams};

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const RETRY_HEADERS: [&str; 6] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
];
/// Bytes of a request body kept for further tries where nothing is configured (Envoy's buffer limit).
const DEFAULT_RETRY_BUFFER: u64 = 1 << 20;

/// What an upstream answered, and what the rest of the response needs.
pub(super) struct Sent<B> {
    pub(super) response: Response<B>,
    /// The route's timeout as a moment.
    pub(super) deadline: Option<Instant>,
    /// The cluster's longest stream as a moment.
    pub(super) until: Option<Instant>,
}

/// How one try ended.
enum Tried<B> {
    Answer(Result<Response<B>, SendError>),
    TryTimeout,
    GlobalTimeout,
    TooLong,
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
    let timeouts = Timeouts::of(x, forward);
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
    mirror::start(x, &forward.mirrors, inflow.as_ref(), timeouts.global);
    let mut tries = Tries {
        handle,
        hash: hashed.hash,
        timeouts,
        inflow,
        tried: SmallVec::new(),
        until: None,
        guard: None,
    };
    tries.run(x, &selected, forward, &mut retries).await
}

/// The body behind a buffer, where it may be needed again.
fn keep_body<U: Upstreams>(
    x: &mut Exchange<U>,
    selected: &Selected,
    forward: &Forward,
    retries: &Retries,
) -> Option<Rc<Inflow>> {
    if !retries.may_retry() && forward.mirrors.is_empty() {
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
    /// Admits the retry under way.
    guard: Option<<U::Handle as ClusterHandle>::RetryGuard>,
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
            let may_retry = retries.may_retry() && self.is_repeatable();
            let request = self.request(x, selected, may_retry);
            let tried = self.one_try(x, forward, request).await;
            let (error, answer) = match tried {
                Tried::Answer(Ok(response)) => {
                    match retries.after_response(response.status(), response.headers()) {
                        Answer::Yes if self.admits(x, forward, &stats) => {
                            drop(response);
                            self.wait(x, retries).await;
                            continue;
                        }
                        answer => {
                            count_response(&stats, response.status());
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
                            });
                        }
                    }
                }
                Tried::Answer(Err(SendError::Reset(reset)))
                    if reset.kind == ResetKind::Downstream =>
                {
                    stats.upstream_rq_tx_reset.inc();
                    let bad = x.flow.malformed.get();
                    return Err(if bad {
                        ProxyError::BadBody
                    } else {
                        ProxyError::ClientGone
                    });
                }
                Tried::Answer(Err(error)) => {
                    if is_remote_reset(&error) {
                        stats.upstream_rq_rx_reset.inc();
                    }
                    let answer = retries.after_error(&error);
                    (
                        ProxyError::Upstream {
                            error,
                            retried: retries.made() > 0,
                        },
                        answer,
                    )
                }
                Tried::TryTimeout => {
                    stats.upstream_rq_per_try_timeout.inc();
                    self.handle.report_timeout(&x.record().attempt, false);
                    (
                        ProxyError::Timeout(Timeout::Try),
                        retries.after_try_timeout(),
                    )
                }
                Tried::GlobalTimeout => {
                    stats.upstream_rq_timeout.inc();
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
                self.wait(x, retries).await;
                continue;
            }
            self.note_end(x, retries, answer, &stats, false);
            count_response(&stats, error.clone().verdict().status);
            return Err(error);
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
            x.record().flags.set(Flag::UpstreamOverflow);
            return false;
        }
        stats.upstream_rq_retry.inc();
        true
    }

    async fn wait(&mut self, x: &mut Exchange<U>, retries: &mut Retries) {
        self.tried.extend(x.record().attempt.endpoint.clone());
        let pause = retries.take(x.cx.worker.random());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn note_end(
        &self,
        x: &mut Exchange<U>,
        retries: &Retries,
        answer: Answer,
        stats: &ClusterStats,
        success: bool,
    ) {
        if answer == Answer::Exhausted && retries.made() > 0 {
            stats.upstream_rq_retry_limit_exceeded.inc();
            x.record().flags.set(Flag::UpstreamRetryLimitExceeded);
        }
        if success && retries.made() > 0 {
            stats.upstream_rq_retry_success.inc();
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
            (None, Some(body)) => RequestBody::streamed(body, Rc::clone(&x.flow)),
            (None, None) => RequestBody::empty(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = x.head.method.clone();
        *request.uri_mut() = x.head.uri.clone();
        *request.version_mut() = x.head.version;
        *request.headers_mut() = headers;
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
        let weighted = selected.as_deref().and_then(Selected::weighted);
        let metadata = weighted
            .and_then(|cluster| cluster.metadata_match.as_ref())
            .or(forward.metadata_match.as_ref());
        let record = x.observer.record_mut();
        let https = record.scheme == "https";
        record.attempt = Attempt::default();
        let choice = Choice {
            connection: &cx.connection,
            hash: self.hash,
            tried: &self.tried,
            avoid_tried: policy.is_some_and(|policy| policy.avoid_previous_hosts),
            avoid_priorities: policy.and_then(|policy| policy.avoid_previous_priorities),
            host_selection_attempts: policy.map_or(1, |policy| policy.host_selection_attempts),
            metadata_match: metadata,
            high_priority: forward.high_priority,
            auto_host: forward.host == HostRewrite::Auto,
            https,
        };
        let sending = self.handle.send(request, &choice, &mut record.attempt);
        let longest = self.handle.config().http.max_stream_duration;
        if self.timeouts.global.is_none() && self.timeouts.per_try.is_none() && longest.is_none() {
            return Tried::Answer(sending.await);
        }
        let started = Instant::now();
        self.until = longest.map(|limit| started + limit);
        tokio::select! {
            biased; // An answer that is there counts, however late; the larger limit is told from the smaller.
            answer = sending => Tried::Answer(answer),
            () = passed(&flow, None, self.timeouts.global) => Tried::GlobalTimeout,
            () = passed(&flow, Some(started), self.timeouts.per_try) => Tried::TryTimeout,
            () = reached(self.until) => Tried::TooLong,
        }
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

/// Counts a status, from an upstream or instead of one.
pub(super) fn count_response(stats: &ClusterStats, status: StatusCode) {
    stats.upstream_rq_completed.inc();
    match status.as_u16() / 100 {
        1 => stats.upstream_rq_1xx.inc(),
        2 => stats.upstream_rq_2xx.inc(),
        3 => stats.upstream_rq_3xx.inc(),
        4 => stats.upstream_rq_4xx.inc(),
        _ => stats.upstream_rq_5xx.inc(),
    }
    match status.as_u16() {
        200 => stats.upstream_rq_200.inc(),
        404 => stats.upstream_rq_404.inc(),
        500 => stats.upstream_rq_500.inc(),
        502 => stats.upstream_rq_502.inc(),
        503 => stats.upstream_rq_503.inc(),
        504 => stats.upstream_rq_504.inc(),
        _ => {}
    }
}
