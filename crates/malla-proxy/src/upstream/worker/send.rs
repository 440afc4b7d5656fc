//! Sends one request to one host ([`ClusterHandle`]), and opens connections for TCP.
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::Endpoint;
use tokio::time::Instant;

use super::{Handle, request_name};
use crate::http::body::RequestBody;
use crate::telemetry::stats::ClusterStats;
use crate::upstream::body::{Outgoing, Slots, UpstreamBody, stream_error};
use crate::upstream::breaker::{Kind, Permit};
use crate::upstream::connect::{Connected, Failure, FailureKind, Purpose, RequestName, connect};
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
        note_host(attempt, &host);
        let mut request = request;
        if choice.auto_host
            && !host.endpoint.hostname.is_empty()
            && let Ok(name) = HeaderValue::from_str(&host.endpoint.hostname)
        {
            request.headers_mut().insert(HOST, name);
        }
        let purpose = Purpose::of(self.config().http.protocol, request.version());
        let name = request_name(&self.config().http, &request);
        let pool = self.cluster.pool(&host, purpose, name, choice.connection);
        let host = pool.host();
        for _ in 0..STALE_TRIES {
            let lease = match pool.obtain(choice.high_priority).await {
                Ok(lease) => lease,
                Err(error) => {
                    note_failure(attempt, &error);
                    if matches!(error, SendError::Connect { .. }) {
                        self.stats().upstream_rq_pending_failure_eject.inc();
                    }
                    return Err(error);
                }
            };
            self.stats().upstream_rq_total.inc();
            let slots = self.slots(host, choice.high_priority)?;
            note_connection(attempt, &lease);
            match self
                .exchange(lease, slots, request, choice.https, attempt)
                .await
            {
                Ok(response) => {
                    self.cluster
                        .around
                        .shared
                        .record(host, outcome_of(&response));
                    return Ok(response);
                }
                // The connection closed under it before a byte was sent: any method may try the next.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => {
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
    pub id: u64,
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
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<TcpUpstream, SendError> {
        let cluster = &self.cluster;
        let shared = &cluster.around.shared;
        let stats = &cluster.around.stats;
        let host = cluster.choose(choice, &http::HeaderMap::new()).await?;
        note_host(attempt, &host);
        let Some(permit) =
            shared.breakers[usize::from(choice.high_priority)].acquire(Kind::Connection)
        else {
            stats.upstream_cx_overflow.inc();
            return Err(SendError::Overflow);
        };
        let conn = ConnGuard::new(permit, Arc::clone(&host.state), Arc::clone(stats));
        stats.upstream_cx_total.inc();
        let snapshot = cluster.around.live.load_full();
        let name = RequestName::default();
        let connecting = connect(
            &shared.config,
            &shared.connectors,
            &host,
            Purpose::Tcp,
            &name,
            Some(choice.connection),
            &snapshot,
        );
        match connecting.await {
            Ok(connected) => {
                if connected.tls.is_some() {
                    stats.ssl_handshake.inc();
                }
                shared.record(&host, Outcome::ConnectedFinal);
                attempt.connected = Some(Instant::now());
                attempt.local = connected.local;
                attempt.remote = connected.remote.or(attempt.remote);
                attempt.tls = connected.tls.clone();
                let id = cluster.around.next_id.get();
                cluster.around.next_id.set(id + 1);
                attempt.connection_id = Some(id);
                let slots = TcpSlots {
                    _conn: conn,
                    _active: host.state.begin(),
                };
                Ok(TcpUpstream {
                    connected,
                    id,
                    slots,
                })
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
            around.stats.upstream_rq_pending_overflow.inc();
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
        https: bool,
        attempt: &mut Attempt,
    ) -> Result<Response<UpstreamBody>, (StreamError, Option<Request<RequestBody>>)> {
        let (mut parts, body) = request.into_parts();
        if lease.is_h2() {
            for_h2(&mut parts, https);
        } else {
            for_h1(&mut parts, &body);
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
            Ok(response) => {
                attempt.first_byte = Some(Instant::now());
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

fn note_host(attempt: &mut Attempt, host: &Host) {
    attempt.endpoint = Some(Arc::<Endpoint>::clone(&host.endpoint));
    attempt.remote = match host.endpoint.address {
        Address::Socket(address) => Some(address),
        Address::Name { .. } | Address::Pipe(_) => None,
    };
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
    let from_uri = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let authority =
        from_uri.or_else(|| host.and_then(|host| host.to_str().ok().map(str::to_owned)));
    let scheme = parts
        .uri
        .scheme_str()
        .unwrap_or(if https { "https" } else { "http" })
        .to_owned();
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str)
        .to_owned();
    let Some(authority) = authority else { return };
    let uri = if parts.method == Method::CONNECT
        && parts.extensions.get::<hyper::ext::Protocol>().is_none()
    {
        Uri::builder().authority(authority).build()
    } else {
        Uri::builder()
            .scheme(scheme.as_str())
            .authority(authority)
            .path_and_query(path)
            .build()
    };
    if let Ok(uri) = uri {
        parts.uri = uri;
    }
}
