//! Everything known about one request when its log line is written.
//!
//! Invariant: filled while the request goes, read by formats at any time; what is not known (yet) is `None`.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::stream_state::StreamState;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::flags::Flags;
use super::istio::LiveCall;
use super::istio::grpc::Messages;
use super::odometer::Wire;
use super::stats::GrpcCallStats;
use crate::connection::{Connection, End};
use crate::http::selected::Selected;
use crate::http::trace::Spans;
use crate::peers::KnownPeer;
use crate::upstream::Attempt;

/// One request and its answer.
#[derive(Debug)]
pub struct Record {
    /// The connection it came on.
    pub connection: Rc<Connection>,
    /// When its head was there.
    pub start: Instant,
    /// The same moment by the wall clock.
    pub start_wall: SystemTime,
    /// Protocol spoken downstream; `None` for plain TCP.
    pub protocol: Option<Version>,
    /// Method; `None` if the head could not be read.
    pub method: Option<Method>,
    /// Path and query as they go upstream.
    pub path: Option<PathAndQuery>,
    /// As they came, where rewritten (`x-envoy-original-path`).
    pub original_path: Option<PathAndQuery>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The client's address, `x-forwarded-for` taken into account.
    pub remote: End,
    /// Request headers as they go upstream, as far as some format asks for them.
    pub request_headers: Captured,
    /// Response headers as they go downstream, likewise.
    pub response_headers: Captured,
    /// Response trailers, likewise.
    pub trailers: Captured,
    /// What both bodies have come to.
    pub progress: Rc<Progress>,
    /// Status sent; `None` if none was.
    pub status: Option<StatusCode>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<Cow<'static, str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination: Option<Cow<'static, str>>,
    /// What went wrong.
    pub flags: Flags,
    /// The route, once selected.
    pub(crate) selected: Option<Rc<Selected>>,
    /// What the request is counted as by its virtual host.
    pub virtual_cluster: Option<Arc<str>>,
    /// The cluster, once selected.
    pub cluster: Option<Arc<Cluster>>,
    /// What is counted of a gRPC call.
    pub grpc_call: Option<Box<GrpcCall>>,
    /// Its name where there is no such cluster.
    pub cluster_name: Option<Arc<str>>,
    /// The last try.
    pub attempt: Attempt,
    /// Number of tries; 0 if none was made.
    pub attempts: u32,
    /// The tries before the last one, where a log wants them.
    pub attempted: Vec<Attempted>,
    /// The request is a gRPC call.
    pub grpc: bool,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u32>,
    /// Counts the messages of a gRPC call, once it is answered.
    pub call: Option<Rc<LiveCall>>,
    /// Who calls, if it told.
    pub downstream_peer: Option<Rc<KnownPeer>>,
    /// Who answered, if it told.
    pub upstream_peer: Option<Rc<KnownPeer>>,
    /// The host asked for, where nothing else says what was called.
    pub host: Option<HeaderValue>,
    /// Bytes of the request's head; 0 if nobody counts.
    pub request_head: u64,
    /// Bytes of the answer's head, likewise.
    pub response_head: u64,
    /// Body bytes sent downstream.
    pub bytes_sent: u64,
    /// In so many pieces.
    pub pieces_sent: u64,
    /// When the first byte went downstream.
    pub first_byte_sent: Option<Instant>,
    /// When all was over.
    pub end: Option<Instant>,
    /// Somebody or something decided to trace it.
    pub traced: bool,
    /// Its open spans.
    pub(crate) spans: Option<Box<Spans>>,
    /// Why it is logged.
    pub moment: Moment,
    /// What filters have noted.
    pub state: Option<Box<StreamState>>,
    /// Bytes of the request's header fields, where a log wants them.
    pub request_headers_bytes: u64,
    /// Bytes of the response's header fields, likewise.
    pub response_headers_bytes: u64,
    /// Bytes of the trailers, likewise.
    pub response_trailers_bytes: u64,
    /// Bytes on the wire, likewise.
    pub wire: Wire,
    /// Where the request began among the bytes of its connection, likewise.
    pub wire_begin: Option<u64>,
    /// When the answer's body began to come, where a log wants that.
    pub body_begun: Option<Instant>,
    /// When all of the answer was there, likewise.
    pub answer_ended: Option<Instant>,
    /// How often a route was looked for.
    pub route_searches: u32,
    /// How long that took, where a log asks.
    pub route_time: Option<Duration>,
    /// How the connections were closed, if they were.
    pub closed: Closed,
    /// Why the client's TLS handshake failed.
    pub handshake_failure: Option<Arc<str>>,
    /// It is a health check.
    pub health_check: bool,
    /// The body of an answer of our own while it is laid out.
    pub local_reply: Option<Bytes>,
}

/// An endpoint that was tried.
#[derive(Debug, Clone)]
pub struct Attempted {
    pub endpoint: Arc<Endpoint>,
    /// The connection, if there was one.
    pub connection: Option<u64>,
}

impl Attempted {
    /// What is kept of a try when the next one begins.
    pub fn of(attempt: &Attempt) -> Option<Self> {
        Some(Self {
            endpoint: attempt.endpoint.clone()?,
            connection: attempt.connection_id,
        })
    }
}

/// How the connections on both sides were closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    pub downstream: CloseType,
    pub upstream: CloseType,
    /// Why this proxy closed them.
    pub downstream_reason: Option<&'static str>,
    pub upstream_reason: Option<&'static str>,
}

impl Closed {
    /// This proxy closes both.
    pub fn by_us(&mut self, reason: &'static str) {
        self.downstream_reason = Some(reason);
        self.upstream_reason = Some(reason);
    }
}

/// How a connection was closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CloseType {
    #[default]
    Normal,
    RemoteReset,
}

impl CloseType {
    /// Envoy's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::RemoteReset => "RemoteReset",
        }
    }

    /// What an error of a connection says.
    pub fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionReset => Self::RemoteReset,
            _ => Self::Normal,
        }
    }
}

/// Why a record is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Moment {
    /// The request, or the TCP connection, is over.
    #[default]
    End,
    /// The listener tells of a connection that is over.
    Connection,
    /// A TCP connection has been accepted.
    TcpStart,
    /// Its endpoint is connected.
    TcpConnected,
    /// It goes on.
    TcpPeriodic,
}

impl Record {
    /// Number and name in `envoy.data.accesslog.v3.AccessLogType`.
    pub fn log_type(&self) -> (i32, &'static str) {
        match self.moment {
            Moment::Connection => (0, "NotSet"),
            Moment::TcpConnected => (1, "TcpUpstreamConnected"),
            Moment::TcpPeriodic => (2, "TcpPeriodic"),
            Moment::TcpStart => (14, "TcpConnectionStart"),
            Moment::End if self.protocol.is_none() => (3, "TcpConnectionEnd"),
            Moment::End => (6, "DownstreamEnd"),
        }
    }
}

/// What the bodies have come to; shared with the body that travels upstream.
#[derive(Debug, Default)]
pub struct Progress {
    /// Request body bytes received.
    pub received: Cell<u64>,
    /// In so many pieces.
    pub pieces: Cell<u64>,
    /// Messages of a gRPC call so far, where somebody counts.
    pub messages: Cell<Messages>,
    pub count_messages: Cell<bool>,
    /// When the last byte of the request came.
    pub request_end: Cell<Option<Instant>>,
    /// The exchange is over, whether or not its request has ended.
    over: Cell<bool>,
    /// Who waits for either end: the timeouts of the request, its mirrors.
    waiting: RefCell<SmallVec<[Waker; 1]>>,
}

impl Progress {
    /// Notes the end of the request.
    pub fn finish(&self) {
        if self.request_end.get().is_none() {
            self.request_end.set(Some(Instant::now()));
            self.wake();
        }
    }

    /// Notes the end of the exchange: what has not come of the request never will.
    pub fn give_up(&self) {
        self.over.set(true);
        self.wake();
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits for the end of the request; gives its moment, or `None` if the exchange was over before.
    pub async fn end(&self) -> Option<Instant> {
        poll_fn(|cx| {
            if let Some(end) = self.request_end.get() {
                return Poll::Ready(Some(end));
            }
            if self.over.get() {
                return Poll::Ready(None);
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Header fields kept for formats after the message has moved on.
#[derive(Debug, Clone, Default)]
pub enum Captured {
    /// Nothing was kept.
    #[default]
    None,
    /// Those some format names.
    Some(Vec<(HeaderName, HeaderValue)>),
    /// All.
    All(Box<HeaderMap>),
}

impl Captured {
    /// Keeps the named fields.
    pub fn of(headers: &HeaderMap, names: &[HeaderName]) -> Self {
        if names.is_empty() {
            return Self::None;
        }
        let mut out = Vec::with_capacity(names.len());
        for name in names {
            for value in headers.get_all(name) {
                out.push((name.clone(), value.clone()));
            }
        }
        Self::Some(out)
    }

    /// The first value of a field.
    pub fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::Some(fields) => fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_bytes()),
            Self::All(headers) => headers.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// The value of a field; several are joined by commas.
    pub fn get(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::None => None,
            Self::Some(fields) => join(
                fields
                    .iter()
                    .filter(|(field, _)| field == name)
                    .map(|(_, value)| value.as_bytes()),
            ),
            Self::All(headers) => join(headers.get_all(name).iter().map(HeaderValue::as_bytes)),
        }
    }
}

fn join<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let mut out = Cow::Borrowed(values.next()?);
    for more in values {
        let all = out.to_mut();
        all.push(b',');
        all.extend_from_slice(more);
    }
    Some(out)
}

/// What is counted of a gRPC call.
#[derive(Debug)]
pub struct GrpcCall {
    pub stats: Arc<GrpcCallStats>,
    /// Messages of the client.
    pub asked: Rc<Cell<Messages>>,
    /// Messages of the answer.
    pub answered: Messages,
    /// The answer is one of gRPC.
    pub answers: bool,
    /// How long the upstream took is kept.
    pub timed: bool,
}

impl GrpcCall {
    /// Counts it at its end; a call without a status is none that succeeded or failed.
    pub fn end(&self, record: &Record) {
        let stats = &self.stats;
        stats.request_message_count.add(self.asked.get().count);
        stats.response_message_count.add(self.answered.count);
        if let Some(status) = record.grpc_status {
            stats.statuses.count(status);
            stats.total.inc();
            match status {
                0 => stats.success.inc(),
                _ => stats.failure.inc(),
            }
        }
        if self.timed
            && let (Some(asked), Some(_), Some(end)) = (
                record.progress.request_end.get(),
                record.attempt.first_byte,
                record.end,
            )
        {
            let time = end.saturating_duration_since(asked);
            stats.upstream_rq_time.record(time);
        }
    }
}

impl Record {
    /// A record of a request on `connection` that starts now.
    pub fn begin(
        connection: Rc<Connection>,
        protocol: Option<Version>,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        let state = connection.state.as_deref().cloned().map(Box::new);
        Self {
            start: now,
            start_wall: wall,
            protocol,
            method: None,
            path: None,
            original_path: None,
            scheme: if connection.tls.is_some() {
                "https"
            } else {
                "http"
            },
            remote: connection.remote.clone(),
            connection,
            request_headers: Captured::None,
            response_headers: Captured::None,
            trailers: Captured::None,
            progress: Rc::default(),
            status: None,
            details: None,
            termination: None,
            flags: Flags::default(),
            selected: None,
            cluster: None,
            virtual_cluster: None,
            grpc_call: None,
            cluster_name: None,
            attempt: Attempt::default(),
            attempts: 0,
            attempted: Vec::new(),
            grpc: false,
            grpc_status: None,
            call: None,
            downstream_peer: None,
            upstream_peer: None,
            host: None,
            request_head: 0,
            response_head: 0,
            bytes_sent: 0,
            pieces_sent: 0,
            first_byte_sent: None,
            end: None,
            traced: false,
            spans: None,
            moment: Moment::default(),
            state,
            request_headers_bytes: 0,
            response_headers_bytes: 0,
            response_trailers_bytes: 0,
            wire: Wire::default(),
            wire_begin: None,
            body_begun: None,
            route_searches: 0,
            route_time: None,
            closed: Closed::default(),
            answer_ended: None,
            handshake_failure: None,
            health_check: false,
            local_reply: None,
        }
    }

    /// Adds what the try that is over has moved.
    pub(crate) fn add_trip(&mut self) {
        let Some(trip) = self.attempt.trip.take() else {
            return;
        };
        let came = (self.progress.received.get(), self.progress.pieces.get());
        let went = (self.bytes_sent, self.pieces_sent);
        self.wire.upstream.add(trip.bytes(came, went));
    }

    /// Host and port of the request.
    pub fn authority(&self) -> Option<Cow<'_, [u8]>> {
        self.request_headers.get(&header::HOST)
    }

    /// Name of the route, if one was selected and has one.
    pub fn route_name(&self) -> Option<&str> {
        let route = self.selected.as_ref()?.route();
        (!route.name.is_empty()).then_some(&*route.name)
    }
}
