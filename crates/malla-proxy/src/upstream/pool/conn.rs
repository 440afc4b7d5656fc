//! One pooled connection: HTTP/1 (exclusive) or HTTP/2 (shared), and the lease of it that a request holds.
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_runtime::drain::DrainWatch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::{ConnInfo, Holder, Pool, Surroundings, header_limit};
use crate::telemetry::stats::ClusterStats;
use crate::transport::Io;
use crate::transport::frames::{Metered, Side};
use crate::transport::gather::gather;
use crate::upstream::CODEC_HEADERS;
use crate::upstream::body::Outgoing;
use crate::upstream::breaker::Permit;
use crate::upstream::connect::{Failure, FailureKind};
use crate::upstream::counted::Counted;
use crate::upstream::host::HostState;

/// Frames larger than this would only add latency to the streams beside.
const MAX_FRAME: u32 = 16 * 1024;
/// Windows of an upstream connection where none are configured, bytes: small, for there are many idle connections.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Read buffer of an HTTP/1 connection must hold a head; hyper's least.
const MIN_BUFFER: usize = 8 * 1024;
/// Bytes that the read buffer of an HTTP/1 connection grows to, at most, whatever the cluster allows; the codec reads up to
/// twice as many at once. Three such pieces wait for a client that does not read, and larger ones are hardly cheaper.
pub(in crate::upstream) const READ_AHEAD: usize = 64 * 1024;

/// What an open connection counts for; freed when its task ends.
#[derive(Debug)]
pub(in crate::upstream) struct ConnGuard {
    _permit: Permit,
    host: Arc<HostState>,
    stats: Arc<ClusterStats>,
    opened: Instant,
}

impl ConnGuard {
    pub(in crate::upstream) fn new(
        permit: Permit,
        host: Arc<HostState>,
        stats: Arc<ClusterStats>,
    ) -> Self {
        host.cx_active.fetch_add(1, Ordering::Relaxed);
        host.cx_total.fetch_add(1, Ordering::Relaxed);
        stats.upstream_cx_active.inc();
        Self {
            _permit: permit,
            host,
            stats,
            opened: Instant::now(),
        }
    }

    /// It is connected.
    pub(in crate::upstream) fn connected(&self) {
        self.stats
            .upstream_cx_connect_ms
            .record(self.opened.elapsed());
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        self.host.cx_active.fetch_sub(1, Ordering::Relaxed);
        self.stats.upstream_cx_active.dec();
        self.stats.upstream_cx_destroy.inc();
        self.stats
            .upstream_cx_length_ms
            .record(self.opened.elapsed());
    }
}

/// An HTTP/1 connection.
#[derive(Debug)]
pub(in crate::upstream) struct H1 {
    sender: http1::SendRequest<Outgoing>,
    pub(super) info: Rc<ConnInfo>,
    pub(super) served: u32,
    pub(super) idle_since: Instant,
    /// `enable_trailers`
    trailers: bool,
}

impl H1 {
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|cx| self.sender.poll_ready(cx)).await
    }
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub(in crate::upstream) struct H2 {
    sender: http2::SendRequest<Outgoing>,
    pub(super) info: Rc<ConnInfo>,
    active: Cell<usize>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    max_streams: usize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the connection's task.
    peer_streams: Rc<Cell<usize>>,
    max_requests: Option<u32>,
}

impl H2 {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// It has served all the requests it may.
    pub(super) fn is_spent(&self) -> bool {
        self.max_requests
            .is_some_and(|max| self.served.get() >= max)
    }

    pub(super) fn has_room(&self) -> bool {
        self.room() > 0 && !self.is_spent()
    }

    /// How many streams may begin beside those there are.
    pub(super) fn room(&self) -> usize {
        let limit = self.max_streams.min(self.peer_streams.get());
        limit.saturating_sub(self.active.get())
    }

    /// Streams now.
    pub(super) fn streams(&self) -> usize {
        self.active.get()
    }
}

/// A connection, or a share of one, in the hands of one request.
#[derive(Debug)]
pub(in crate::upstream) struct Lease {
    conn: Option<Conn>,
    pool: Weak<Pool>,
    used: bool,
}

#[derive(Debug)]
enum Conn {
    H1(H1),
    H2(Rc<H2>),
}

impl Lease {
    pub(super) fn h1(conn: H1, pool: Weak<Pool>) -> Self {
        Self {
            conn: Some(Conn::H1(conn)),
            pool,
            used: false,
        }
    }

    pub(super) fn h2(conn: Rc<H2>, pool: Weak<Pool>) -> Self {
        conn.active.set(conn.active.get() + 1);
        Self {
            conn: Some(Conn::H2(conn)),
            pool,
            used: false,
        }
    }

    pub(in crate::upstream) fn info(&self) -> Option<&Rc<ConnInfo>> {
        match self.conn.as_ref()? {
            Conn::H1(conn) => Some(&conn.info),
            Conn::H2(conn) => Some(&conn.info),
        }
    }

    /// True if trailers go both ways.
    pub(in crate::upstream) fn takes_trailers(&self) -> bool {
        match &self.conn {
            Some(Conn::H1(conn)) => conn.trailers,
            Some(Conn::H2(_)) | None => true,
        }
    }

    pub(in crate::upstream) fn is_h2(&self) -> bool {
        matches!(self.conn, Some(Conn::H2(_)))
    }

    /// Whether the connection has served a request before.
    pub(in crate::upstream) fn is_reused(&self) -> bool {
        match &self.conn {
            Some(Conn::H1(conn)) => conn.served > 0,
            Some(Conn::H2(conn)) => conn.served.get() > 0,
            None => false,
        }
    }

    /// Sends a request. On failure the request comes back if nothing of it was sent.
    pub(in crate::upstream) async fn send(
        &mut self,
        mut request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Outgoing>>)> {
        self.used = true;
        if !self.takes_trailers() {
            request.body_mut().drop_trailers();
        }
        let result = match &mut self.conn {
            Some(Conn::H1(conn)) => {
                conn.served = conn.served.saturating_add(1);
                conn.sender.try_send_request(request).await
            }
            Some(Conn::H2(conn)) => {
                conn.served.set(conn.served.get().saturating_add(1));
                // Its frames tell.
                request.body_mut().hide_length();
                let mut sender = conn.sender.clone();
                sender.try_send_request(request).await
            }
            None => unreachable!("a lease holds its connection until it is given back or dropped"),
        };
        result.map_err(|mut failed| {
            let message = failed.take_message();
            (failed.into_error(), message)
        })
    }

    /// The exchange is complete: the connection may serve again.
    pub(in crate::upstream) fn give_back(mut self) {
        self.release(true);
    }

    fn release(&mut self, complete: bool) {
        let Some(conn) = self.conn.take() else { return };
        let pool = self.pool.upgrade();
        match conn {
            // Dropping the sender of an unfinished exchange closes the connection.
            Conn::H1(conn) if complete => {
                if let Some(pool) = pool {
                    pool.take_back(conn);
                }
            }
            Conn::H1(_) => {}
            Conn::H2(conn) => {
                conn.active.set(conn.active.get().saturating_sub(1));
                conn.idle_since.set(Instant::now());
                if let Some(pool) = pool {
                    pool.stream_ended(&conn);
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Never used: the request gave up while the connection was on its way to it.
        let complete = !self.used;
        self.release(complete);
    }
}

pub(super) async fn start_h1(
    io: Io,
    info: Rc<ConnInfo>,
    around: &Surroundings,
    hold: Holder,
    kill: CancellationToken,
) -> Result<H1, Failure> {
    let config = &around.shared.config;
    let limit = header_limit(config).max(MIN_BUFFER);
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(limit)
        .max_buf_size(limit.max(READ_AHEAD.min(config.buffer_limit as usize)))
        .preserve_header_case(config.http.http1.preserve_case)
        .title_case_headers(config.http.http1.proper_case);
    if config.http.max_headers as usize != CODEC_HEADERS {
        builder.max_headers(config.http.max_headers as usize);
    }
    let io = TokioIo::new(Counted::new(
        io,
        Arc::clone(&around.stats),
        Arc::clone(&info.odometer),
    ));
    let (mut sender, connection) = builder
        .handshake(io)
        .await
        .map_err(|error| handshake_failure(&error))?;
    drive(&around.tasks, kill, hold, async move {
        let _ = connection.with_upgrades().await;
    });
    // The first poll of the connection makes it ask for a request; without it the pool would think it busy.
    poll_fn(|cx| sender.poll_ready(cx))
        .await
        .map_err(|error| handshake_failure(&error))?;
    Ok(H1 {
        sender,
        info,
        served: 0,
        idle_since: Instant::now(),
        trailers: config.http.http1.enable_trailers,
    })
}

pub(super) async fn start_h2(
    io: Io,
    info: Rc<ConnInfo>,
    around: &Surroundings,
    hold: Holder,
    kill: CancellationToken,
) -> Result<Rc<H2>, Failure> {
    let config = &around.shared.config;
    let options = &config.http.http2;
    let mut builder = http2::Builder::new(LocalExecutor(around.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.initial_stream_window_size.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(
            options
                .initial_connection_window_size
                .unwrap_or(CONNECTION_WINDOW),
        )
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(u32::try_from(header_limit(config)).unwrap_or(u32::MAX));
    if let Some(size) = options.hpack_table_size {
        builder.header_table_size(size);
    }
    if let Some(keepalive) = options.keepalive {
        builder
            .keep_alive_interval(keepalive.interval(rand::random()))
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let (io, sending) = gather(
        Counted::new(io, Arc::clone(&around.stats), Arc::clone(&info.odometer)),
        Duration::ZERO,
    );
    around.tasks.spawn_local(Span::none(), sending);
    let stats = around.registry.http2(Some(&config.stat_name));
    let io = Metered::new(io, Side::Client, options.floods, Arc::clone(&stats));
    let (sender, mut connection) = builder
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| handshake_failure(&error))?;
    let peer_streams = Rc::new(Cell::new(connection.current_max_send_streams()));
    let seen = Rc::clone(&peer_streams);
    let drained = poll_fn(move |cx| {
        let over = Pin::new(&mut connection).poll(cx);
        seen.set(connection.current_max_send_streams());
        over.map(|ended| {
            if ended.is_err_and(|error| error.is_timeout()) {
                // A PING that nobody answered.
                stats.keepalive_timeout.inc();
            }
        })
    });
    drive(&around.tasks, kill, hold, drained);
    Ok(Rc::new(H2 {
        sender,
        info,
        active: Cell::new(0),
        served: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        max_streams: options
            .max_concurrent_streams
            .map_or(usize::MAX, |limit| limit as usize),
        peer_streams,
        max_requests: config.http.max_requests_per_connection,
    }))
}

fn handshake_failure(error: &hyper::Error) -> Failure {
    Failure {
        reason: format!("delayed connect error: {error}").into(),
        kind: FailureKind::Refused,
    }
}

/// Drives a connection on this worker until it ends, or the pool says so.
fn drive(
    tasks: &DrainWatch,
    kill: CancellationToken,
    hold: Holder,
    connection: impl Future<Output = ()> + 'static,
) {
    tasks.spawn_local(Span::none(), async move {
        let _hold = hold;
        tokio::select! {
            biased; // A killed connection must not serve one byte more.
            () = kill.cancelled() => {}
            () = connection => {}
        }
    });
}

/// Runs hyper's helper tasks of HTTP/2 on the worker.
#[derive(Debug, Clone)]
struct LocalExecutor(DrainWatch);

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.0.spawn_local(Span::none(), async move {
            future.await;
        });
    }
}
