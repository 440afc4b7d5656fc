//! The TCP proxy: cluster, endpoint, connection, copy, record.
use std::convert::Infallible;
use std::sync::Arc;

use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::tcp_proxy::{TcpProxy, Tunnel};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::exchange::{self, Told};
use super::metrics::{self, Begun};
use super::tunnel::{self, Ask, Way};
use super::{End, Limits, Side, Totals, pump};
use crate::connection::Connection;
use crate::http::source_ip;
use crate::policy::network::Admission;
use crate::telemetry::istio::TcpMeter;
use crate::telemetry::record::{Attempted, CloseType, Closed, Moment};
use crate::transport::Io;
use crate::upstream::connect::Purpose;
use crate::upstream::worker::Handle;
use crate::upstream::{Attempt, Choice, ClusterHandle, SendError, Upstreams};
use crate::worker::Worker;

/// What is logged of one TCP connection.
#[derive(Debug)]
pub struct TcpRecord<'a> {
    pub connection: &'a Connection,
    pub proxy: &'a TcpProxy,
    /// The cluster chosen; `None` if none could be, or there is none of that name.
    pub cluster: Option<&'a str>,
    pub attempt: &'a Attempt,
    /// Attempts to connect.
    pub attempts: u32,
    /// The endpoints of those before the last one.
    pub attempted: &'a [Attempted],
    /// Envoy's response flags, in its order.
    pub flags: Vec<&'static str>,
    /// Bytes from the client, and to it.
    pub received: u64,
    pub sent: u64,
    /// How the connections were closed.
    pub closed: Closed,
    /// Why it is logged.
    pub moment: Moment,
    /// The id that its request for a tunnel carried.
    pub tunnel_id: Option<&'a str>,
}

/// Serves one connection to its end.
pub async fn serve(
    worker: &Worker,
    mut io: Io,
    connection: &Connection,
    proxy: &TcpProxy,
    admission: &Admission,
) {
    let stats = worker.stats().tcp(&proxy.stat_prefix);
    stats.downstream_cx_total.inc();
    let mut session = Session {
        worker,
        connection,
        proxy,
        admission,
        cluster: None,
        attempt: Attempt::default(),
        attempts: 0,
        attempted: Vec::new(),
        flags: Vec::new(),
        idle: false,
        closed: Closed::default(),
        totals: Totals::default(),
        known: None,
        caller: Told::default(),
        called: Told::default(),
        meter: None,
        tunnel_id: None,
    };
    if proxy.log_options.on_start {
        session.log(Moment::TcpStart);
    }
    let upstream = session.begin(&mut io).await;
    if upstream.is_some() && proxy.log_options.on_connected {
        session.log(Moment::TcpConnected);
    }
    if upstream.is_none() {
        session.closed.downstream_reason = session.refusal();
    }
    session.meter();
    if let Some(upstream) = upstream {
        session.copy(io, upstream).await;
    }
    let totals = &session.totals;
    stats
        .downstream_cx_rx_bytes_total
        .add(totals.from_downstream.get());
    stats
        .downstream_cx_tx_bytes_total
        .add(totals.from_upstream.get());
    let flagged = |flag| session.flags.contains(&flag);
    if flagged("NC") || flagged("NR") {
        stats.downstream_cx_no_route.inc();
    } else if flagged("DT") {
        stats.max_downstream_connection_duration.inc();
    } else if session.idle {
        stats.idle_timeout.inc();
    }
    session.log(Moment::End);
}

struct Session<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
    proxy: &'a TcpProxy,
    admission: &'a Admission,
    cluster: Option<Arc<str>>,
    attempt: Attempt,
    attempts: u32,
    attempted: Vec<Attempted>,
    flags: Vec<&'static str>,
    /// Nothing moved for too long.
    idle: bool,
    closed: Closed,
    totals: Totals,
    /// The cluster, if there is one of that name.
    known: Option<Arc<Cluster>>,
    /// What the proxies at both ends have told of themselves.
    caller: Told,
    called: Told,
    meter: Option<TcpMeter>,
    /// The id of the last request for a tunnel.
    tunnel_id: Option<String>,
}

impl Session<'_> {
    /// Learns who calls, where that is agreed, and finds the way on.
    async fn begin(&mut self, io: &mut Io) -> Option<Way> {
        match exchange::with_client(self.worker, io, self.connection).await {
            Ok(told) => self.caller = told,
            Err(error) => {
                tracing::debug!(%error, peer = %self.connection.remote, "a client's proxy did not tell who it is");
                self.flags.push("DC");
                return None;
            }
        }
        let mut upstream = match self.connect().await? {
            Way::Direct(upstream, early) if self.proxy.tunnel.is_some() => {
                self.called.rest = early;
                return Some(Way::Direct(upstream, Vec::new()));
            }
            Way::Direct(upstream, _) => upstream,
            stream @ Way::Stream(_) => return Some(stream),
        };
        let cluster = self.known.as_deref()?;
        match exchange::with_server(self.worker, &mut upstream.connected, cluster).await {
            Ok(told) => self.called = told,
            Err(error) => {
                tracing::debug!(%error, peer = ?self.attempt.remote, "an endpoint's proxy did not tell who it is");
                self.flags.push("UC");
                return None;
            }
        }
        Some(Way::Direct(upstream, Vec::new()))
    }

    /// Why nobody could be found to take the connection, in Envoy's words (and with its spelling).
    fn refusal(&self) -> Option<&'static str> {
        let reason = |flag: &&'static str| match *flag {
            "UF" => Some("tcp_initializion_failure:0"),
            "UH" => Some("tcp_initializion_failure:1"),
            "UO" => Some("tcp_initializion_failure:2"),
            "NC" | "NR" => Some("tcp_initializion_failure:3"),
            _ => None,
        };
        self.flags.iter().find_map(reason)
    }

    /// Passes on what came where a preamble should have been.
    async fn give_back(&mut self, io: &mut Io, upstream: &mut impl Side) -> std::io::Result<()> {
        let (forth, back) = (&self.caller.rest, &self.called.rest);
        upstream.write_all(forth).await?;
        io.write_all(back).await?;
        self.totals.from_downstream.set(forth.len() as u64);
        self.totals.from_upstream.set(back.len() as u64);
        Ok(())
    }

    /// Starts to count the connection, where that is asked for.
    fn meter(&mut self) {
        let Some(config) = metrics::config(self.connection) else {
            return;
        };
        let begun = Begun {
            worker: self.worker,
            connection: self.connection,
            cluster: self.known.as_ref(),
            attempt: &self.attempt,
            flags: &self.flags,
            caller: self.caller.peer.as_ref(),
            called: self.called.peer.as_ref(),
        };
        self.meter = Some(begun.count(config));
    }

    /// A connection to an endpoint of the chosen cluster; `None` with the flags set if there is none.
    async fn connect(&mut self) -> Option<Way> {
        let snapshot = self.worker.live().load_full();
        let (name, metadata_match) = match &self.admission.cluster {
            Some(name) => (name, None),
            None => {
                let Some(target) = self.proxy.pick(rand::random()) else {
                    self.flags.push("NR");
                    return None;
                };
                (&target.cluster, target.metadata_match.as_ref())
            }
        };
        let Some(handle) = self.worker.clusters().cluster(&snapshot, name) else {
            self.flags.push("NC");
            return None;
        };
        self.cluster = Some(Arc::clone(name));
        self.known = Some(Arc::clone(handle.config()));
        let hash = self
            .proxy
            .hash_source_ip
            .then(|| source_ip(self.connection))
            .flatten();
        let mut tried = Vec::new();
        for attempt in 0..self.proxy.max_connect_attempts.max(1) {
            if attempt > 0 {
                self.attempted.extend(Attempted::of(&self.attempt));
                self.back_off().await;
            }
            self.attempts += 1;
            let choice = Choice {
                hash,
                tried: &tried,
                metadata_match: metadata_match.or(self.proxy.metadata_match.as_ref()),
                ..Choice::any(self.connection)
            };
            let connected = match &self.proxy.tunnel {
                None => {
                    let attempt = &mut self.attempt;
                    let upstream = handle.connect_tcp(Purpose::Tcp, &choice, attempt).await;
                    upstream.map(|upstream| Way::Direct(Box::new(upstream), Vec::new()))
                }
                Some(tunnel) => self.through(tunnel, &handle, &choice).await,
            };
            match connected {
                Ok(upstream) => return Some(upstream),
                Err(error) => {
                    let retry = matches!(error, SendError::Connect { .. });
                    let flag = flag_of(&error);
                    if matches!(
                        error,
                        SendError::NoHealthyHost | SendError::DropOverload { .. }
                    ) {
                        // Nothing was tried.
                        self.attempts = self.attempts.saturating_sub(1);
                    }
                    if !self.flags.contains(&flag) {
                        // It stays, also where a later attempt succeeds.
                        self.flags.push(flag);
                    }
                    tried.extend(self.attempt.endpoint.clone());
                    if !retry {
                        return None;
                    }
                }
            }
        }
        handle.stats().upstream_cx_connect_attempts_exceeded.inc();
        self.flags.push("URX");
        None
    }

    /// A tunnel through an endpoint that is an HTTP proxy.
    async fn through(
        &mut self,
        tunnel: &Tunnel,
        handle: &Handle,
        choice: &Choice<'_>,
    ) -> Result<Way, SendError> {
        let (ask, id) = Ask::new(tunnel, self.worker, self.connection);
        self.tunnel_id = id;
        let asking = ask.open(handle, choice, &mut self.attempt);
        match self.proxy.idle_timeout {
            None => asking.await,
            Some(limit) => match timeout(limit, asking).await {
                Ok(opened) => opened,
                Err(_) => Err(tunnel::refused("no answer to the request for a tunnel")),
            },
        }
    }

    async fn copy(&mut self, io: Io, way: Way) {
        match way {
            Way::Direct(mut upstream, _) => self.join(io, &mut upstream.connected.io).await,
            Way::Stream(mut stream) => self.join(io, &mut stream).await,
        }
    }

    async fn join(&mut self, mut io: Io, upstream: &mut impl Side) {
        let limits = Limits {
            idle: self.proxy.idle_timeout,
            deadline: self
                .proxy
                .duration_limit(rand::random())
                .map(|limit| self.connection.accepted + limit),
        };
        let buffer = self.worker.buffer();
        if let Err(error) = self.give_back(&mut io, upstream).await {
            tracing::debug!(%error, "a connection broke before its first bytes were passed on");
            return;
        }
        let copying = Box::pin(pump(&mut io, upstream, buffer, limits, &self.totals));
        let config = metrics::config(self.connection);
        let reporting = metrics::report(self.meter.as_ref(), config.map(|c| &**c), &self.totals);
        let logging = self.log_again();
        let end = tokio::select! {
            biased; // The end counts everything anyway.
            end = copying => end,
            never = reporting => match never {},
            never = logging => match never {},
        };
        self.attempt.first_byte.get_or_insert_with(Instant::now);
        match end {
            End::Closed => {}
            // Envoy has no flag for it.
            End::Idle => {
                self.idle = true;
                self.closed.by_us("tcp_session_idle_timeout");
            }
            End::Deadline => {
                self.flags.push("DT");
                self.closed.by_us("max_connection_duration_reached");
            }
            End::Downstream(error) => {
                self.closed.downstream = CloseType::of(&error);
                tracing::debug!(%error, peer = %self.connection.remote, "the client's connection broke");
            }
            End::Upstream(error) => {
                self.closed.upstream = CloseType::of(&error);
                tracing::debug!(%error, peer = ?self.attempt.remote, "the endpoint's connection broke");
                self.flags.push("UC");
            }
        }
    }

    /// Logs the connection again and again, where that is asked for.
    async fn log_again(&self) -> Infallible {
        let Some(interval) = self.proxy.log_options.interval else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(interval).await;
            self.log(Moment::TcpPeriodic);
        }
    }

    /// Waits before another attempt to connect: a random part of a time that doubles.
    async fn back_off(&self) {
        let Some((base, max)) = self.proxy.backoff else {
            return;
        };
        let doubled = base.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
        let part: f64 = rand::random();
        tokio::time::sleep(doubled.min(max).mul_f64(part)).await;
    }

    fn log(&self, moment: Moment) {
        let record = TcpRecord {
            connection: self.connection,
            proxy: self.proxy,
            cluster: self.cluster.as_deref(),
            attempt: &self.attempt,
            attempts: self.attempts,
            attempted: &self.attempted,
            flags: self.flags.clone(),
            received: self.totals.from_downstream.get(),
            sent: self.totals.from_upstream.get(),
            closed: self.closed,
            moment,
            tunnel_id: self.tunnel_id.as_deref(),
        };
        self.worker.handlers().log_tcp(self.worker, &record);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Also where the connection was cut off by the drain of its chain.
        if let Some(meter) = self.meter.take() {
            let totals = &self.totals;
            meter.close(totals.from_upstream.get(), totals.from_downstream.get());
        }
    }
}

fn flag_of(error: &SendError) -> &'static str {
    match error {
        SendError::NoHealthyHost => "UH",
        SendError::Overflow => "UO",
        SendError::DropOverload { all: false } => "DO",
        SendError::DropOverload { all: true } => "UDO",
        SendError::Connect { .. } => "UF",
        SendError::Reset(_) => "UC",
    }
}
