//! The connections of one worker to one host, for one protocol and one transport.
//!
//! HTTP/1 connections serve one request at a time and are reused last in, first out; HTTP/2 connections are shared up to
//! their stream limit. A request that finds nothing free waits in a queue; each waiting request asks for a connection of
//! its own, and whichever connection becomes free first serves the longest waiting (Envoy's connection pool).
//!
//! Invariants: one thread only; no borrow is held over an await; a connection that failed to open fails every waiting
//! request, so that retries can choose another host.
mod ahead;
mod conn;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use malla_proxy_config::cluster::Cluster;
use malla_runtime::drain::DrainWatch;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::breaker::{Breakers, Kind};
use super::cluster::{Clusters, SharedCluster};
use super::connect::{Connected, Failure, FailureKind, Purpose, RequestName, connect};
use super::host::Host;
use super::outlier::Outcome;
use super::{Opened, SendError, UpstreamTlsInfo};
use crate::connection::Connection;
use crate::live::Live;
use crate::telemetry::odometer::Odometer;
use crate::telemetry::stats::{ClusterStats, WorkerStats};

pub(super) use self::ahead::{AT_A_TIME, Load};
#[cfg(test)]
pub(super) use self::conn::READ_AHEAD;
pub(super) use self::conn::{ConnGuard, H1, H2, Lease};

/// What a pool needs of its worker.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) live: Live,
    /// The clusters over all workers.
    pub(super) clusters: Clusters,
    pub(super) tasks: DrainWatch,
    pub(super) shared: Arc<SharedCluster>,
    pub(super) stats: Arc<ClusterStats>,
    /// Where further counters come from.
    pub(super) registry: WorkerStats,
    /// Numbers upstream connections (`%UPSTREAM_CONNECTION_ID%`); each worker has its own stretch.
    pub(super) next_id: Rc<Cell<u64>>,
}

/// Connections to one host.
#[derive(Debug)]
pub(super) struct Pool {
    host: Arc<Host>,
    purpose: Purpose,
    name: RequestName,
    /// The downstream connection this pool belongs to, where it belongs to one.
    downstream: Option<Rc<Connection>>,
    around: Surroundings,
    inner: RefCell<Inner>,
    /// Set when the host is gone: connections are not kept any more.
    retired: Cell<bool>,
    /// Ends all connections at once.
    kill: CancellationToken,
}

#[derive(Debug, Default)]
struct Inner {
    idle: Vec<H1>,
    shared: Vec<Rc<H2>>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, Failure>>>,
    connecting: usize,
    /// Connections established and not yet closed.
    open: usize,
    /// Whether the last connection spoke HTTP/2, where ALPN decides.
    speaks_h2: bool,
}

/// Facts of one connection, for logs.
#[derive(Debug)]
pub(super) struct ConnInfo {
    pub(super) id: u64,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    pub(super) tls: Option<Rc<UpstreamTlsInfo>>,
    pub(super) times: Opened,
    pub(super) odometer: Arc<Odometer>,
    pub(super) opened: Instant,
}

impl Pool {
    pub(super) fn new(
        host: Arc<Host>,
        purpose: Purpose,
        name: RequestName,
        downstream: Option<Rc<Connection>>,
        around: Surroundings,
    ) -> Rc<Self> {
        Rc::new(Self {
            host,
            purpose,
            name,
            downstream,
            around,
            inner: RefCell::default(),
            retired: Cell::new(false),
            kill: CancellationToken::new(),
        })
    }

    /// A connection for one request. Waits for one to become free or to be opened.
    pub(super) async fn obtain(self: &Rc<Self>, high_priority: bool) -> Result<Lease, SendError> {
        if let Some(lease) = self.take_ready() {
            self.open_ahead(high_priority);
            return Ok(lease);
        }
        let stats = &self.around.stats;
        let Some(_pending) = self.breakers(high_priority).acquire(Kind::Pending) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(SendError::Overflow);
        };
        stats.upstream_rq_pending_total.inc();
        let _waiting = PendingGauge::new(stats);
        let (give, receive) = oneshot::channel();
        self.inner.borrow_mut().waiting.push_back(give);
        self.connect_for_waiting(high_priority);
        self.open_ahead(high_priority);
        match receive.await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(failure)) => Err(failure.into()),
            // The pool was dropped with its worker.
            Err(_) => Err(SendError::NoHealthyHost),
        }
    }

    pub(super) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// No connection is kept from now on; with `at_once` those in use are closed too.
    pub(super) fn retire(&self, at_once: bool) {
        self.retired.set(true);
        let (idle, shared) = {
            let mut inner = self.inner.borrow_mut();
            (
                std::mem::take(&mut inner.idle),
                std::mem::take(&mut inner.shared),
            )
        };
        drop((idle, shared));
        if at_once {
            self.kill.cancel();
        }
    }

    /// Drops connections that closed, or were idle or alive for too long. True if nothing is left.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let http = &self.around.shared.config.http;
        let stats = &self.around.stats;
        let mut gone = Vec::new();
        let mut gone_shared = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            let expired = |since: Instant| {
                http.idle_timeout
                    .is_some_and(|limit| now.saturating_duration_since(since) >= limit)
            };
            gone.extend(inner.idle.extract_if(.., |conn| {
                let idle = expired(conn.idle_since);
                if idle && !conn.is_closed() {
                    stats.upstream_cx_idle_timeout.inc();
                }
                let old = is_old(http.max_connection_duration, &conn.info, now);
                if old && !idle && !conn.is_closed() {
                    stats.upstream_cx_max_duration_reached.inc();
                }
                idle || conn.is_closed() || old
            }));
            gone_shared.extend(inner.shared.extract_if(.., |conn| {
                let idle = conn.is_idle() && expired(conn.idle_since());
                if idle && !conn.is_closed() {
                    stats.upstream_cx_idle_timeout.inc();
                }
                let old = is_old(http.max_connection_duration, &conn.info, now);
                if old && !idle && !conn.is_closed() {
                    stats.upstream_cx_max_duration_reached.inc();
                }
                idle || conn.is_closed() || old
            }));
        }
        drop((gone, gone_shared));
        let inner = self.inner.borrow();
        inner.open == 0 && inner.connecting == 0 && inner.waiting.is_empty()
    }

    fn breakers(&self, high_priority: bool) -> &Arc<Breakers> {
        &self.around.shared.breakers[usize::from(high_priority)]
    }

    /// A connection that can take a request now.
    fn take_ready(self: &Rc<Self>) -> Option<Lease> {
        let mut inner = self.inner.borrow_mut();
        // Last in, first out: the warmest connection is the least likely to have been closed by the peer.
        let mut index = inner.idle.len();
        while let Some(at) = index.checked_sub(1) {
            index = at;
            if inner.idle[at].is_closed() {
                inner.idle.remove(at);
            } else if inner.idle[at].is_ready() {
                let conn = inner.idle.remove(at);
                return Some(Lease::h1(conn, Rc::downgrade(self)));
            }
        }
        inner.shared.retain(|conn| !conn.is_closed());
        let conn = inner.shared.iter().find(|conn| conn.has_room())?;
        Some(Lease::h2(Rc::clone(conn), Rc::downgrade(self)))
    }

    /// Opens connections until there is one under way for each waiting request.
    fn connect_for_waiting(self: &Rc<Self>, high_priority: bool) {
        let missing = {
            let inner = self.inner.borrow();
            let wanted = inner.waiting.len().div_ceil(self.streams(&inner).max(1));
            wanted.saturating_sub(inner.connecting)
        };
        for _ in 0..missing {
            if !self.open_another(high_priority) {
                return;
            }
        }
    }

    /// How many streams a connection under way will take.
    fn streams(&self, inner: &Inner) -> usize {
        match self.purpose {
            Purpose::Http2 => self.stream_limit(),
            Purpose::HttpAny if inner.speaks_h2 || inner.open == 0 => self.stream_limit(),
            _ => 1,
        }
    }

    /// Begins to open a connection; false where there may be no more.
    fn open_another(self: &Rc<Self>, high_priority: bool) -> bool {
        let Some(guard) = self.admit_connection(high_priority) else {
            return false;
        };
        self.inner.borrow_mut().connecting += 1;
        let pool = Rc::clone(self);
        self.around
            .tasks
            .spawn_local(Span::none(), async move { pool.open_one(guard).await });
        true
    }

    fn stream_limit(&self) -> usize {
        self.around
            .shared
            .config
            .http
            .http2
            .max_concurrent_streams
            .map_or(usize::MAX, |limit| limit as usize)
    }

    /// Counts one more connection. A host without any always gets one, or what waits for it would wait for ever.
    fn admit_connection(&self, high_priority: bool) -> Option<ConnGuard> {
        let cluster = &self.around.shared;
        let breakers = self.breakers(high_priority);
        let alone = {
            let inner = self.inner.borrow();
            inner.open == 0 && inner.connecting == 0
        };
        let per_host = cluster.config.max_connections_per_host;
        let host_full = per_host.is_some_and(|max| {
            self.host
                .state
                .cx_active
                .load(std::sync::atomic::Ordering::Relaxed)
                >= u64::from(max)
        });
        let permit = if host_full {
            None
        } else {
            breakers.acquire(Kind::Connection)
        };
        let permit = match permit {
            Some(permit) => permit,
            None => {
                self.around.stats.upstream_cx_overflow.inc();
                if !alone {
                    return None;
                }
                breakers.force(Kind::Connection)
            }
        };
        Some(ConnGuard::new(
            permit,
            Arc::clone(&self.host.state),
            Arc::clone(&self.around.stats),
        ))
    }

    async fn open_one(self: Rc<Self>, guard: ConnGuard) {
        let snapshot = self.around.live.load_full();
        let cluster = &self.around.shared;
        let downstream = self.downstream.as_deref();
        let attempt = connect(
            &cluster.config,
            &cluster.connectors,
            &self.host,
            self.purpose,
            &self.name,
            downstream,
            &snapshot,
        );
        let result = match attempt.await {
            Ok(connected) => self.start(connected, guard).await,
            Err(failure) => Err(failure),
        };
        self.inner.borrow_mut().connecting -= 1;
        match result {
            Ok(()) => {
                cluster.record(&self.host, Outcome::Connected);
                self.serve_waiting();
            }
            Err(failure) => self.fail_waiting(failure),
        }
    }

    /// Puts HTTP on a fresh connection and adds it to the pool.
    async fn start(self: &Rc<Self>, connected: Connected, guard: ConnGuard) -> Result<(), Failure> {
        let stats = &self.around.stats;
        guard.connected();
        let over_tls = connected.tls.is_some();
        if over_tls {
            stats.ssl_handshake.inc();
        }
        let negotiated = connected.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
        let use_h2 = match self.purpose {
            Purpose::Http2 => true,
            Purpose::HttpAny => negotiated == Some("h2"),
            Purpose::Http1 | Purpose::Tcp => false,
        };
        let id = self.around.next_id.get();
        self.around.next_id.set(id + 1);
        let info = Rc::new(ConnInfo {
            id,
            local: connected.local,
            remote: connected.remote,
            tls: connected.tls.map(Rc::new),
            times: connected.opened,
            odometer: Arc::default(),
            opened: Instant::now(),
        });
        let hold = Holder::new(self, guard);
        if use_h2 {
            let conn =
                conn::start_h2(connected.io, info, &self.around, hold, self.kill.clone()).await?;
            stats.upstream_cx_http2_total.inc();
            let mut inner = self.inner.borrow_mut();
            inner.speaks_h2 = true;
            inner.shared.push(conn);
        } else {
            let conn =
                conn::start_h1(connected.io, info, &self.around, hold, self.kill.clone()).await?;
            stats.upstream_cx_http1_total.inc();
            let mut inner = self.inner.borrow_mut();
            inner.speaks_h2 = false;
            inner.idle.push(conn);
        }
        stats.upstream_cx_total.inc();
        Ok(())
    }

    /// Hands free connections to those who wait, in order.
    fn serve_waiting(self: &Rc<Self>) {
        loop {
            // Those who gave up (a timeout) are skipped.
            let waiting = loop {
                let next = self.inner.borrow_mut().waiting.pop_front();
                match next {
                    Some(waiting) if waiting.is_closed() => {}
                    other => break other,
                }
            };
            let Some(waiting) = waiting else { return };
            match self.take_ready() {
                Some(lease) => drop(waiting.send(Ok(lease))),
                None => {
                    self.inner.borrow_mut().waiting.push_front(waiting);
                    return;
                }
            }
        }
    }

    fn fail_waiting(&self, failure: Failure) {
        let (stats, cluster) = (&self.around.stats, &self.around.shared);
        stats.upstream_cx_total.inc();
        match failure.kind {
            FailureKind::Timeout => {
                stats.upstream_cx_connect_timeout.inc();
                stats.upstream_cx_connect_fail.inc();
                cluster.record(&self.host, Outcome::ConnectTimedOut);
            }
            FailureKind::Refused => {
                stats.upstream_cx_connect_fail.inc();
                cluster.record(&self.host, Outcome::ConnectFailed);
            }
            FailureKind::Tls { verification } => {
                stats.upstream_cx_connect_fail.inc();
                stats.ssl_connection_error.inc();
                if verification {
                    stats.ssl_fail_verify_error.inc();
                }
                let (host, reason) = (&self.host.endpoint.address, &failure.reason);
                tracing::debug!(cluster = %cluster.config.name, %host, %reason, "TLS handshake with an endpoint failed");
                cluster.record(&self.host, Outcome::ConnectFailed);
            }
            FailureKind::Bind => stats.bind_errors.inc(),
        }
        let waiting = std::mem::take(&mut self.inner.borrow_mut().waiting);
        for waiting in waiting {
            let _ = waiting.send(Err(failure.clone()));
        }
    }

    /// Takes an HTTP/1 connection back after a complete exchange.
    fn take_back(self: &Rc<Self>, mut conn: H1) {
        let http = &self.around.shared.config.http;
        let spent = http
            .max_requests_per_connection
            .is_some_and(|max| conn.served >= max);
        if spent {
            self.around.stats.upstream_cx_max_requests.inc();
        }
        let old = is_old(http.max_connection_duration, &conn.info, Instant::now());
        if old {
            self.around.stats.upstream_cx_max_duration_reached.inc();
        }
        if self.retired.get() || spent || old || conn.is_closed() {
            return;
        }
        conn.idle_since = Instant::now();
        if conn.is_ready() {
            self.inner.borrow_mut().idle.push(conn);
            self.serve_waiting();
            return;
        }
        // The answer came before the request was all sent, or the connection task has yet to run: wait for it.
        let pool = Rc::downgrade(self);
        self.around.tasks.spawn_local(Span::none(), async move {
            if conn.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
                && !pool.retired.get()
            {
                pool.inner.borrow_mut().idle.push(conn);
                pool.serve_waiting();
            }
        });
    }

    /// A stream of a shared connection ended.
    fn stream_ended(self: &Rc<Self>, conn: &Rc<H2>) {
        if conn.is_spent() {
            self.inner
                .borrow_mut()
                .shared
                .retain(|other| !Rc::ptr_eq(other, conn));
        }
        let waits = !self.inner.borrow().waiting.is_empty();
        if waits {
            self.serve_waiting();
        }
    }
}

/// Held by the task that drives a connection; tells the pool when it is over.
#[derive(Debug)]
pub(super) struct Holder {
    pool: Weak<Pool>,
    _guard: ConnGuard,
}

impl Holder {
    fn new(pool: &Rc<Pool>, guard: ConnGuard) -> Self {
        pool.inner.borrow_mut().open += 1;
        Self {
            pool: Rc::downgrade(pool),
            _guard: guard,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let missing = {
            let mut inner = pool.inner.borrow_mut();
            inner.open -= 1;
            !inner.waiting.is_empty()
        };
        if missing && !pool.around.tasks.is_draining() {
            pool.connect_for_waiting(false);
        }
    }
}

fn is_old(limit: Option<std::time::Duration>, info: &ConnInfo, now: Instant) -> bool {
    limit.is_some_and(|limit| now.saturating_duration_since(info.opened) >= limit)
}

/// `upstream_rq_pending_active` of one request.
struct PendingGauge<'a>(&'a ClusterStats);

impl<'a> PendingGauge<'a> {
    fn new(stats: &'a ClusterStats) -> Self {
        stats.upstream_rq_pending_active.inc();
        Self(stats)
    }
}

impl Drop for PendingGauge<'_> {
    fn drop(&mut self) {
        self.0.upstream_rq_pending_active.dec();
    }
}

/// The limits of the cluster's HTTP/1 and HTTP/2 that connections are opened with.
pub(super) fn header_limit(cluster: &Cluster) -> usize {
    // Envoy's default for responses is 60 KiB.
    cluster
        .http
        .max_response_headers_kb
        .map_or(60, |kb| kb as usize)
        * 1024
}
