//! The TCP proxy: cluster, endpoint, connection, copy, record.
use std::sync::Arc;

use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::tcp_proxy::TcpProxy;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use xxhash_rust::xxh64::xxh64;

use super::exchange::{self, Told};
use super::metrics::{self, Begun};
use super::{End, Limits, Totals, pump};
use crate::connection::Connection;
use crate::telemetry::istio::TcpMeter;
use crate::transport::Io;
use crate::upstream::worker::TcpUpstream;
use crate::upstream::{Attempt, Choice, ClusterHandle, SendError, Upstreams};
use crate::worker::Worker;

/// What is logged of one TCP connection.
#[derive(Debug)]
pub struct TcpRecord<'a> {
    pub connection: &'a Connection,
    pub proxy: &'a TcpProxy,
    /// The cluster chosen; empty if none could be.
    pub cluster: Option<&'a str>,
    pub attempt: &'a Attempt,
    /// Attempts to connect.
    pub attempts: u32,
    /// Envoy's response flags, in its order.
    pub flags: Vec<&'static str>,
    /// Bytes from the client, and to it.
    pub received: u64,
    pub sent: u64,
    /// Why the connection was terminated, in Envoy's words.
    pub termination: Option<&'static str>,
}

/// Serves one connection to its end.
pub async fn serve(worker: &Worker, mut io: Io, connection: &Connection, proxy: &TcpProxy) {
    let stats = worker.stats().tcp(&proxy.stat_prefix);
    stats.downstream_cx_total.inc();
    let mut session = Session {
        worker,
        connection,
        proxy,
        cluster: None,
        attempt: Attempt::default(),
        attempts: 0,
        flags: Vec::new(),
        termination: None,
        totals: Totals::default(),
        known: None,
        caller: Told::default(),
        called: Told::default(),
        meter: None,
    };
    let upstream = session.begin(&mut io).await;
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
    match session.termination {
        _ if session.flags.contains(&"NC") || session.flags.contains(&"NR") => {
            stats.downstream_cx_no_route.inc()
        }
        Some(IDLE) => stats.idle_timeout.inc(),
        Some(MAX_DURATION) => stats.max_downstream_connection_duration.inc(),
        _ => {}
    }
    session.log();
}

const IDLE: &str = "tcp_session_idle_timeout";
const MAX_DURATION: &str = "max_connection_duration_reached";

struct Session<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
    proxy: &'a TcpProxy,
    cluster: Option<Arc<str>>,
    attempt: Attempt,
    attempts: u32,
    flags: Vec<&'static str>,
    termination: Option<&'static str>,
    totals: Totals,
    /// The cluster, if there is one of that name.
    known: Option<Arc<Cluster>>,
    /// What the proxies at both ends have told of themselves.
    caller: Told,
    called: Told,
    meter: Option<TcpMeter>,
}

impl Session<'_> {
    /// Learns who calls, where that is agreed, and finds the way on.
    async fn begin(&mut self, io: &mut Io) -> Option<TcpUpstream> {
        match exchange::with_client(self.worker, io, self.connection).await {
            Ok(told) => self.caller = told,
            Err(error) => {
                tracing::debug!(%error, peer = %self.connection.remote, "a client's proxy did not tell who it is");
                self.flags.push("DC");
                return None;
            }
        }
        let mut upstream = self.connect().await?;
        let cluster = self.known.as_deref()?;
        match exchange::with_server(self.worker, &mut upstream.connected, cluster).await {
            Ok(told) => self.called = told,
            Err(error) => {
                tracing::debug!(%error, peer = ?self.attempt.remote, "an endpoint's proxy did not tell who it is");
                self.flags.push("UC");
                return None;
            }
        }
        Some(upstream)
    }

    /// Passes on what came where a preamble should have been.
    async fn give_back(&mut self, io: &mut Io, upstream: &mut Io) -> std::io::Result<()> {
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
    async fn connect(&mut self) -> Option<TcpUpstream> {
        let snapshot = self.worker.live().load_full();
        let Some(target) = self.proxy.pick(rand::random()) else {
            self.flags.push("NR");
            return None;
        };
        self.cluster = Some(Arc::clone(&target.cluster));
        let Some(handle) = self.worker.clusters().cluster(&snapshot, &target.cluster) else {
            self.flags.push("NC");
            return None;
        };
        self.known = Some(Arc::clone(handle.config()));
        let hash = self
            .proxy
            .hash_source_ip
            .then(|| xxh64(self.connection.remote.ip().to_string().as_bytes(), 0));
        let mut tried = Vec::new();
        let mut last = None;
        for _ in 0..self.proxy.max_connect_attempts.max(1) {
            self.attempts += 1;
            let choice = Choice {
                connection: self.connection,
                hash,
                tried: &tried,
                avoid_tried: false,
                avoid_priorities: None,
                host_selection_attempts: 1,
                metadata_match: target
                    .metadata_match
                    .as_ref()
                    .or(self.proxy.metadata_match.as_ref()),
                high_priority: false,
                auto_host: false,
                https: false,
            };
            match handle.connect_tcp(&choice, &mut self.attempt).await {
                Ok(upstream) => return Some(upstream),
                Err(error) => {
                    let retry = matches!(error, SendError::Connect { .. });
                    last = Some(error);
                    tried.extend(self.attempt.endpoint.clone());
                    if !retry {
                        break;
                    }
                }
            }
        }
        self.flags.extend(last.as_ref().map(flag_of));
        if matches!(last, Some(SendError::Connect { .. }))
            && self.attempts >= self.proxy.max_connect_attempts
        {
            self.flags.push("URX");
        }
        None
    }

    async fn copy(&mut self, mut io: Io, mut upstream: TcpUpstream) {
        let limits = Limits {
            idle: self.proxy.idle_timeout,
            deadline: self
                .proxy
                .max_connection_duration
                .map(|limit| self.connection.accepted + limit),
        };
        let buffer = self.worker.buffer();
        if let Err(error) = self.give_back(&mut io, &mut upstream.connected.io).await {
            tracing::debug!(%error, "a connection broke before its first bytes were passed on");
            return;
        }
        let copying = Box::pin(pump(
            &mut io,
            &mut upstream.connected.io,
            buffer,
            limits,
            &self.totals,
        ));
        let config = metrics::config(self.connection);
        let reporting = metrics::report(self.meter.as_ref(), config.map(|c| &**c), &self.totals);
        let end = tokio::select! {
            biased; // The end counts everything anyway.
            end = copying => end,
            never = reporting => match never {},
        };
        self.attempt.first_byte.get_or_insert_with(Instant::now);
        match end {
            End::Closed => {}
            End::Idle => {
                self.flags.push("SI");
                self.termination = Some(IDLE);
            }
            End::Deadline => {
                self.flags.push("DT");
                self.termination = Some(MAX_DURATION);
            }
            End::Downstream(error) => {
                tracing::debug!(%error, peer = %self.connection.remote, "the client's connection broke");
                self.flags.push("DC");
            }
            End::Upstream(error) => {
                tracing::debug!(%error, peer = ?self.attempt.remote, "the endpoint's connection broke");
                self.flags.push("UC");
            }
        }
    }

    fn log(&self) {
        let record = TcpRecord {
            connection: self.connection,
            proxy: self.proxy,
            cluster: self.cluster.as_deref(),
            attempt: &self.attempt,
            attempts: self.attempts,
            flags: self.flags.clone(),
            received: self.totals.from_downstream.get(),
            sent: self.totals.from_upstream.get(),
            termination: self.termination,
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
        SendError::DropOverload => "DO",
        SendError::Connect { .. } => "UF",
        SendError::Reset(_) => "UC",
    }
}
