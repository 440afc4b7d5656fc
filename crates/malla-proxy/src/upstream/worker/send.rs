//! Sends one request to one host ([`ClusterHandle`]), and opens connections for TCP.
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::Endpoint;
use tokio::time::Instant;

use super::{Handle, request_name};
use crate::balance::Availability;
use crate::http::body::RequestBody;
use crate::telemetry::codes::Zones;
use crate::telemetry::odometer::{Head, Trip};
use crate::telemetry::stats::ClusterStats;
use crate::upstream::body::{Outgoing, Slots, UpstreamBody, stream_error};
use crate::upstream::breaker::{Kind, Permit};
use crate::upstream::cluster::Home;
use crate::upstream::connect::{Connected, Failure, FailureKind, Purpose, RequestName, connect};
use crate::upstream::health;
use crate::upstream::host::{ActiveGuard, Host};
use crate::upstream::outlier::Outcome;
use crate::upstream::pool::{ConnGuard, Lease};
use crate::upstream::{Attempt, Choice, ClusterHandle, ResetKind, SendError, StreamError};

/// How often a request moves on to another connection because the one it got had just closed.
const STALE_TRIES: usize = 3;

impl ClusterHandle for Handle {
    type Body = UpstreamBody;
    type RetryGuard = Permit;

    fn config(&self) -> &Arc<Cluster> {
        self.cluster.config()
    }

    fn stats(&self) -> &Arc<ClusterStats> {
        &self.cluster.around.stats
    }

    fn membership(&self) -> (usize, usize) {
        let hosts = self.cluster.around.shared.hosts();
        let healthy = |host: &&Arc<Host>| host.availability() == Availability::Healthy;
        let healthy = hosts.hosts.iter().filter(healthy).count();
        (healthy, hosts.hosts.len())
    }

    fn admit_retry(&self, high_priority: bool) -> Option<Permit> {
        self.cluster.around.shared.breakers[usize::from(high_priority)].acquire(Kind::Retry)
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let host = self.cluster.choose(choice, request.headers()).await?;
        note_host(attempt, &host, &self.cluster.around.shared.home);
        show(attempt, choice);
        let mut request = request;
        if choice.auto_host
            && !host.endpoint.hostname.is_empty()
            && let Ok(name) = HeaderValue::from_str(&host.endpoint.hostname)
        {
            request.headers_mut().insert(HOST, name);
        }
        let purpose = Purpose::of(self.config().http.protocol, request.version());
        let name = request_name(&self.config().http, &request);
        self.cluster.connect_ahead(purpose, &name, choice);
        let pool = self.cluster.pool(&host, purpose, name, choice.connection);
        let host = pool.host();
        let policy = &self.config().balance.policy;
        for _ in 0..STALE_TRIES {
            let lease = match pool.obtain(choice.high_priority).await {
                Ok(lease) => lease,
                Err(error) => {
                    note_failure(attempt, &error);
                    if error == SendError::Overflow {
                        // It has not even waited for a connection there.
                        (attempt.endpoint, attempt.remote) = (None, None);
                    }
                    if matches!(error, SendError::Connect { .. }) {
                        host.state.answered(policy, Duration::ZERO, true);
                        self.stats().upstream_rq_pending_failure_eject.inc();
                    }
                    return Err(error);
                }
            };
            let slots = self.slots(host, choice.high_priority)?;
            self.stats().upstream_rq_total.inc();
            note_connection(attempt, &lease);
            show(attempt, choice);
            let started = Instant::now();
            match self.exchange(lease, slots, request, choice, attempt).await {
                Ok(response) => {
                    let shared = &self.cluster.around.shared;
                    if shared.health.is_some()
                        && response.headers().contains_key(health::IMMEDIATE_FAIL)
                    {
                        shared.fail_at_once(host);
                    }
                    host.state.answered(policy, started.elapsed(), false);
                    shared.record(host, outcome_of(&response));
                    return Ok(response);
                }
                // The connection closed under it before a byte was sent: any method may try the next.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => {
                    host.state.answered(policy, started.elapsed(), true);
                    if error.kind != ResetKind::Downstream && error.kind != ResetKind::Local {
                        self.cluster.around.shared.record(host, Outcome::Reset);
                    }
                    return Err(SendError::Reset(error));
                }
            }
        }
        Err(SendError::Reset(StreamError {
            kind: ResetKind::ConnectionTermination,
            before_request: true,
        }))
    }

    fn report_timeout(&self, attempt: &Attempt, _global: bool) {
        let Some(endpoint) = &attempt.endpoint else {
            return;
        };
        let hosts = self.cluster.around.shared.hosts();
        if let Some(host) = hosts
            .hosts
            .iter()
            .find(|host| host.endpoint.address == endpoint.address)
        {
            self.cluster.around.shared.record(host, Outcome::TimedOut);
        }
    }
}

/// A connection for a TCP proxy, with what it counts for.
#[derive(Debug)]
pub struct TcpUpstream {
    pub connected: Connected,
    pub slots: TcpSlots,
}

/// Freed by its drop, at the end of the connection.
#[derive(Debug)]
pub struct TcpSlots {
    _conn: ConnGuard,
    _active: ActiveGuard,
}

impl Handle {
    /// Opens a connection of its own to one host, for bytes without HTTP.
    pub async fn connect_tcp(
        &self,
        purpose: Purpose,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<TcpUpstream, SendError> {
        let cluster = &self.cluster;
        let shared = &cluster.around.shared;
        let stats = &cluster.around.stats;
        let host = cluster.choose(choice, &http::HeaderMap::new()).await?;
        note_host(attempt, &host, &shared.home);
        let Some(permit) =
            shared.breakers[usize::from(choice.high_priority)].acquire(Kind::Connection)
        else {
            stats.upstream_cx_overflow.inc();
            return Err(SendError::Overflow);
        };
        let conn = ConnGuard::new(permit, Arc::clone(&host.state), Arc::clone(stats));
        stats.upstream_cx_total.inc();
        let snapshot = cluster.around.live.load_full();
        let name = RequestName {
            origin: choice.connection.origin.clone(),
            ..RequestName::default()
        };
        let connecting = connect(
            &shared.config,
            &shared.connectors,
            &host,
            purpose,
            &name,
            Some(choice.connection),
            &snapshot,
        );
        match connecting.await {
            Ok(connected) => {
                conn.connected();
                if connected.tls.is_some() {
                    stats.ssl_handshake.inc();
                }
                shared.record(&host, Outcome::ConnectedFinal);
                attempt.connected = Some(Instant::now());
                attempt.local = connected.local;
                attempt.remote = connected.remote.or(attempt.remote);
                attempt.tls = connected.tls.clone().map(Rc::new);
                attempt.opened = Some(connected.opened);
                let id = cluster.around.next_id.get();
                cluster.around.next_id.set(id + 1);
                attempt.connection_id = Some(id);
                let slots = TcpSlots {
                    _conn: conn,
                    _active: host.state.begin(),
                };
                Ok(TcpUpstream { connected, slots })
            }
            Err(failure) => {
                self.count_failure(&host, &failure);
                let error = failure.into();
                note_failure(attempt, &error);
                Err(error)
            }
        }
    }

    fn count_failure(&self, host: &Host, failure: &Failure) {
        let stats = &self.cluster.around.stats;
        let outcome = match failure.kind {
            FailureKind::Bind => return stats.bind_errors.inc(),
            FailureKind::Timeout => {
                stats.upstream_cx_connect_timeout.inc();
                Outcome::ConnectTimedOut
            }
            FailureKind::Refused => Outcome::ConnectFailed,
            FailureKind::Tls { verification } => {
                stats.ssl_connection_error.inc();
                if verification {
                    stats.ssl_fail_verify_error.inc();
                }
                Outcome::ConnectFailed
            }
        };
        stats.upstream_cx_connect_fail.inc();
        self.cluster.around.shared.record(host, outcome);
    }

    fn slots(&self, host: &Arc<Host>, high_priority: bool) -> Result<Slots, SendError> {
        let around = &self.cluster.around;
        let Some(permit) =
            around.shared.breakers[usize::from(high_priority)].acquire(Kind::Request)
        else {
            return Err(SendError::Overflow);
        };
        Ok(Slots::new(host.state.begin(), permit, &around.stats))
    }

    /// One exchange on one connection. The request comes back with the error if none of it was sent.
    async fn exchange(
        &self,
        mut lease: Lease,
        slots: Slots,
        request: Request<RequestBody>,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<Response<UpstreamBody>, (StreamError, Option<Request<RequestBody>>)> {
        let (mut parts, body) = request.into_parts();
        if lease.is_h2() {
            for_h2(&mut parts, choice.https);
        } else {
            for_h1(&mut parts, &body);
        }
        let http2 = lease.is_h2();
        if choice.metered {
            let head = Head::request_goes(&parts.method, &parts.uri, &parts.headers, http2);
            // The connection's count is the exchange's where no other is beside it.
            let odometer = lease.info().filter(|_| !http2).map(|info| &info.odometer);
            attempt.trip = Some(Box::new(Trip::begin(head, odometer)));
        }
        let empty = body.is_end_stream();
        let (body, sent) = Outgoing::new(body);
        let started = Instant::now();
        if empty {
            attempt.request_sent = Some(started);
        }
        let result = lease.send(Request::from_parts(parts, body)).await;
        if !empty {
            attempt.request_sent = sent.get();
        }
        match result {
            Ok(response) if is_ambiguous(&response) => Err((
                // Dropping it closes the connection: nobody knows where its next answer begins.
                StreamError {
                    kind: ResetKind::ProtocolError,
                    before_request: false,
                },
                None,
            )),
            Ok(response) => {
                attempt.first_byte = Some(Instant::now());
                if let Some(trip) = &mut attempt.trip {
                    trip.answered(Head::answer_came(response.headers(), http2));
                }
                Ok(response.map(|incoming| UpstreamBody::new(incoming, lease, slots)))
            }
            Err((error, unsent)) => {
                tracing::debug!(%error, source = ?std::error::Error::source(&error), "exchange with an endpoint failed");
                Err((
                    stream_error(&error),
                    unsent.map(|request| request.map(Outgoing::into_inner)),
                ))
            }
        }
    }
}

/// True if an HTTP/1 answer's end could be told in two ways (RFC 9112 §6.3).
fn is_ambiguous(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return false;
    };
    response.version() != Version::HTTP_2
        && (headers.contains_key(TRANSFER_ENCODING)
            || response.status() == StatusCode::NO_CONTENT && length != "0")
}

fn note_host(attempt: &mut Attempt, host: &Host, home: &Home) {
    attempt.canary = host.canary;
    attempt.zones = Zones::between(&home.locality, &host.locality);
    attempt.endpoint = Some(Arc::<Endpoint>::clone(&host.endpoint));
    attempt.remote = match host.endpoint.address {
        Address::Socket(address) => Some(address),
        Address::Name { .. } | Address::Pipe { .. } => None,
    };
}

fn show(attempt: &Attempt, choice: &Choice<'_>) {
    if let Some(seen) = choice.seen {
        seen.borrow_mut().clone_from(attempt);
    }
}

fn note_connection(attempt: &mut Attempt, lease: &Lease) {
    attempt.connected = Some(Instant::now());
    attempt.reused = lease.is_reused();
    attempt.protocol = Some(if lease.is_h2() {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    });
    if let Some(info) = lease.info() {
        attempt.local = info.local;
        attempt.remote = info.remote.or(attempt.remote);
        attempt.tls = info.tls.clone();
        attempt.opened = Some(info.times);
        attempt.connection_id = Some(info.id);
    }
}

fn note_failure(attempt: &mut Attempt, error: &SendError) {
    if let SendError::Connect { reason, .. } = error
        && !reason.is_empty()
    {
        attempt.transport_failure = Some(Arc::from(reason.as_str()));
    }
}

/// What passive health learns from a response head: the status, or what a gRPC status maps to.
fn outcome_of<B>(response: &Response<B>) -> Outcome {
    let grpc = response
        .headers()
        .get("grpc-status")
        .and_then(|value| value.to_str().ok());
    let status = match grpc.and_then(|text| text.parse::<u32>().ok()) {
        Some(code) => grpc_to_http(code),
        None => response.status().as_u16(),
    };
    Outcome::Status(status)
}

/// Envoy's `Grpc::Utility::grpcToHttpStatus`.
fn grpc_to_http(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Origin form, a Host header, and the framing of a body whose length nobody knows.
fn for_h1(parts: &mut http::request::Parts, body: &RequestBody) {
    parts.version = Version::HTTP_11;
    if parts.method == Method::CONNECT {
        return;
    }
    let unsized_body = !body.is_end_stream() && body.size_hint().exact().is_none();
    if unsized_body && !parts.headers.contains_key(CONTENT_LENGTH) {
        // The codec frames the body of a GET only if it is told to.
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
    let expects_body = !matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE
    );
    if expects_body && body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) {
        // As Envoy; RFC 9110 §8.6 asks for it.
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    if let Some(authority) = parts.uri.authority() {
        if !parts.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
}

/// Scheme and authority in the target; no connection-specific fields (RFC 9113 §8.2.2).
fn for_h2(parts: &mut http::request::Parts, https: bool) {
    parts.version = Version::HTTP_2;
    for field in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        parts.headers.remove(field);
    }
    let host = parts.headers.remove(HOST);
    if parts.uri.authority().is_some() && parts.uri.scheme().is_some() {
        return;
    }
    let plain_connect =
        parts.method == Method::CONNECT && parts.extensions.get::<hyper::ext::Protocol>().is_none();
    let mut target = parts.uri.clone().into_parts();
    if target.authority.is_none() {
        target.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    }
    if target.authority.is_none() {
        return;
    }
    if plain_connect {
        (target.scheme, target.path_and_query) = (None, None);
    } else {
        let scheme = if https { Scheme::HTTPS } else { Scheme::HTTP };
        target.scheme.get_or_insert(scheme);
        target
            .path_and_query
            .get_or_insert(PathAndQuery::from_static("/"));
    }
    let uri = Uri::from_parts(target);
    if let Ok(uri) = uri {
        parts.uri = uri;
    }
}
