//! Joins the listeners to what a chain ends in: HTTP, connection policies, and the records of connections.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use malla_proxy_config::access_log::AccessLog;
use malla_proxy_config::filter_chain::FilterChain;
use malla_proxy_config::http_manager::HttpManager;
use malla_proxy_config::listener::Listener;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use tokio::time::Instant;

use crate::balance::Rng64;
use crate::connection::{Connection, End};
use crate::http::connection::serve_connection;
use crate::http::state::{HttpWorker, Process};
use crate::policy::network::{self, Admission, Around, Verdict};
use crate::tcp::serve::TcpRecord;
use crate::telemetry::access_log::{self, Environment, Files};
use crate::telemetry::flags::Flag;
use crate::telemetry::log_writer::{LogWriter, WorkerLogs};
use crate::telemetry::odometer::{Odometer, WireBytes};
use crate::telemetry::record::{Moment, Record};
use crate::telemetry::stats::WorkerStats;
use crate::telemetry::trace::tags::NodeNames;
use crate::tls::Env;
use crate::transport::Io;
use crate::upstream::worker::WorkerClusters;
use crate::worker::{Handlers, LocalFuture, MakeHandlers, Worker};

/// The handlers of one worker.
#[derive(Debug)]
struct MeshHandlers {
    _flushing: AbortOnDrop<()>,
    process: Arc<Process>,
    logs: WorkerLogs,
    stats: WorkerStats,
    http: OnceCell<Rc<HttpWorker<WorkerClusters>>>,
}

/// The handlers of a proxy: one HTTP side for each worker, one thread that writes their logs, every `log_flush`.
///
/// # Errors
/// When that thread cannot be started.
pub fn standard(env: &Env, node: NodeNames, log_flush: Duration) -> std::io::Result<MakeHandlers> {
    let hostname = nix::unistd::gethostname()
        .unwrap_or_default()
        .to_string_lossy()
        .into();
    let environment = Environment {
        hostname,
        env: Arc::clone(env),
        zone: TimeZone::system(),
        files: Files::default(),
    };
    let process = Arc::new(Process::new(environment, node));
    let writer = LogWriter::start()?;
    Ok(Arc::new(move |shared, stats| {
        let logs = writer.worker();
        let flushing = tokio::task::spawn_local(logs.clone().flush_regularly(log_flush));
        Box::new(MeshHandlers {
            _flushing: AbortOnDrop::adopt(flushing),
            process: Arc::new(Process {
                failing: Arc::clone(&shared.failing),
                pressure: Arc::clone(&shared.pressure),
                ..Process::clone(&process)
            }),
            logs,
            stats: stats.clone(),
            http: OnceCell::new(),
        })
    }))
}

impl MeshHandlers {
    fn http_worker(&self, worker: &Worker) -> &Rc<HttpWorker<WorkerClusters>> {
        self.http.get_or_init(|| {
            HttpWorker::new(
                worker.live().clone(),
                worker.clusters().clone(),
                self.stats.clone(),
                self.logs.clone(),
                Arc::clone(&self.process),
                worker.tasks().clone(),
                Rc::clone(worker.metrics()),
            )
        })
    }

    fn write(&self, worker: &Worker, logs: &[Arc<AccessLog>], record: &Record) {
        let source = access_log::source(record, &self.process.environment);
        let queues = self.http_worker(worker).log_queues(logs);
        let mut rng = Rng64::seeded(rand::random());
        access_log::write_all(logs, &queues, &source, &mut rng, &self.logs);
    }
}

impl Handlers for MeshHandlers {
    fn http<'a>(
        &'a self,
        worker: &'a Worker,
        io: Io,
        connection: Rc<Connection>,
        manager: Arc<HttpManager>,
        drain: DrainWatch,
    ) -> LocalFuture<'a, ()> {
        let http = Rc::clone(self.http_worker(worker));
        Box::pin(serve_connection(http, connection, manager, io, drain))
    }

    fn admit<'a>(
        &'a self,
        worker: &'a Worker,
        connection: &'a Connection,
    ) -> LocalFuture<'a, Verdict> {
        if connection.chain.filters.is_empty() {
            return Box::pin(std::future::ready(Verdict::Allowed(Admission::default())));
        }
        let around = Around {
            buckets: &self.process.buckets,
            stats: &self.stats,
            environment: &self.process.environment,
            caller: self.http_worker(worker).caller(),
        };
        Box::pin(network::admit(connection, around))
    }

    fn log_tcp(&self, worker: &Worker, tcp: &TcpRecord<'_>) {
        if tcp.proxy.access_logs.is_empty() {
            return;
        }
        let connection = Rc::new(tcp.connection.clone());
        let accepted = (connection.accepted, connection.accepted_at);
        let mut record = Record::begin(connection, None, accepted.0, accepted.1);
        record.attempt = tcp.attempt.clone();
        record.attempts = tcp.attempts;
        record.attempted = tcp.attempted.to_vec();
        record.cluster_name = tcp.cluster.map(Arc::from);
        record.progress.received.set(tcp.received);
        record.bytes_sent = tcp.sent;
        record.wire.downstream = WireBytes {
            received: tcp.received,
            sent: tcp.sent,
            ..WireBytes::default()
        };
        record.wire.upstream = WireBytes {
            received: tcp.sent,
            sent: tcp.received,
            ..WireBytes::default()
        };
        tcp.flags
            .iter()
            .filter_map(|word| Flag::from_short(word))
            .for_each(|flag| record.flags.set(flag));
        record.moment = tcp.moment;
        record.closed = tcp.closed;
        if let (Some(tunnel), Some(id)) = (&tcp.proxy.tunnel, tcp.tunnel_id) {
            let state = record.state.get_or_insert_default();
            state.set(
                "envoy.filters.network.tcp_proxy",
                &tunnel.request_id_key,
                id,
            );
        }
        record.end = (tcp.moment == Moment::End).then(Instant::now);
        self.write(worker, &tcp.proxy.access_logs, &record);
    }

    fn environment(&self) -> &Environment {
        &self.process.environment
    }

    fn ended(
        &self,
        worker: &Worker,
        connection: &Rc<Connection>,
        bytes: &Odometer,
        failure: Option<&str>,
    ) {
        let accepted = (connection.accepted, connection.accepted_at);
        let mut record = Record::begin(Rc::clone(connection), None, accepted.0, accepted.1);
        let (received, sent) = bytes.passed();
        record.progress.received.set(received);
        record.bytes_sent = sent;
        record.moment = Moment::Connection;
        record.handshake_failure = failure.map(Arc::from);
        record.end = Some(Instant::now());
        self.write(worker, &connection.listener.access_logs, &record);
    }

    fn unmatched(&self, worker: &Worker, listener: &Listener, local: End, remote: End) {
        if listener.access_logs.is_empty() {
            return;
        }
        let now = (Instant::now(), SystemTime::now());
        let connection = Connection {
            id: 0,
            listener: Arc::new(listener.clone()),
            chain: Arc::new(FilterChain::closed()),
            direct_local: local.clone(),
            local,
            local_restored: false,
            direct_remote: remote.clone(),
            remote,
            server_name: None,
            tls: None,
            accepted: now.0,
            accepted_at: now.1,
            origin: None,
            socket: None,
            state: None,
        };
        let mut record = Record::begin(Rc::new(connection), None, now.0, now.1);
        record.flags.set(Flag::NoRouteFound);
        record.details = Some("filter_chain_not_found".into());
        record.end = Some(now.0);
        self.write(worker, &listener.access_logs, &record);
    }
}
