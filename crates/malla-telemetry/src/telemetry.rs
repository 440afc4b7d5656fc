//! The collector as one value: stores, receivers, scraper, queries.

mod own_metrics;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use axum::Router;
use malla_xds_proto::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;

use crate::clock::{Clock, Trust};
use crate::derive::{Deriver, Workloads};
use crate::graph::{self, Graph, GraphQuery};
use crate::logs::als::Als;
use crate::logs::store::LogStore;
use crate::logs::{LogFilter, LogIntake, LogLine, LogPage, LogQuery, LogTail, Origin, TAIL, text};
use crate::metrics::{MetricStore, MetricsConfig, SeriesData, StoreError};
use crate::promql::{Answer, Cancel, Engine, QueryConfig, QueryError};
use crate::records::{Family, Intake, IntakeStats, Records, RecordsError, RetentionConfig};
use crate::scrape::{ScrapeConfig, Scraper, Target};
use crate::spans::otlp::{Grpc, LARGEST, SpanIntake};
use crate::spans::store::SpanStore;
use crate::{api, spans};

/// What open calls are given when the receivers stop.
const GRACE: Duration = Duration::from_secs(2);

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Holds `metrics/` and `records/`; made if absent.
    pub folder: PathBuf,
    pub metrics: MetricsConfig,
    pub spans: RetentionConfig,
    pub logs: RetentionConfig,
    pub scrape: ScrapeConfig,
    pub query: QueryConfig,
    pub clock: Clock,
    /// Who has which address, for proxies whose metrics are derived from their access logs.
    pub workloads: Arc<Workloads>,
}

impl TelemetryConfig {
    /// Defaults for a small mesh: metrics 15 days or 4 GiB, spans and logs 3 days or 2 GiB each.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let records = RetentionConfig {
            retention: Duration::from_secs(3 * 24 * 3600),
            max_bytes: 2 << 30,
            queue_bytes: 64 << 20,
        };
        Self {
            folder: folder.into(),
            metrics: MetricsConfig::default(),
            spans: records.clone(),
            logs: records,
            scrape: ScrapeConfig::default(),
            query: QueryConfig::default(),
            clock: Clock::system(),
            workloads: Arc::default(),
        }
    }
}

/// Why the collector cannot be opened, or a question not be answered.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Metrics(#[from] StoreError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("telemetry is closing")]
    Closing,
}

/// Where telemetry comes in; what is absent is not listened to.
#[derive(Debug, Default)]
pub struct Receivers {
    /// OTLP and Envoy's access logs.
    pub grpc: Option<TcpListener>,
    pub otlp_http: Option<TcpListener>,
    /// Zipkin's v2 JSON.
    pub zipkin: Option<TcpListener>,
}

/// The collector. Share it in an [`Arc`]; dropping it writes what is queued.
#[derive(Debug)]
pub struct Telemetry {
    clock: Clock,
    scrape: ScrapeConfig,
    store: Arc<MetricStore>,
    engine: Engine,
    queries: Arc<Semaphore>,
    scraper: Arc<Scraper>,
    records: Arc<Records>,
    span_store: Arc<SpanStore>,
    span_intake: Arc<SpanIntake>,
    log_store: Arc<LogStore>,
    log_intake: Arc<LogIntake>,
    log_streams: Arc<AtomicU64>,
    deriver: Arc<Deriver>,
}

impl Telemetry {
    /// Opens or makes the stores. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        let folder = |name: &str| config.folder.join(name);
        let at = |path: &Path| {
            let path = path.to_owned();
            |source| TelemetryError::Folder { path, source }
        };
        fs::create_dir_all(&config.folder).map_err(at(&config.folder))?;
        let store = Arc::new(MetricStore::open(&folder("metrics"), config.metrics)?);
        let queue = (config.spans.queue_bytes, config.logs.queue_bytes);
        let records = Arc::new(Records::open(
            &folder("records"),
            config.spans,
            config.logs,
        )?);
        let clock = config.clock;
        let span_store = Arc::new(SpanStore::new(records.clone()));
        let log_store = Arc::new(LogStore::new(records.clone(), clock.now()));
        let (tail, _) = broadcast::channel(TAIL);
        let spans = span_writer(&span_store, &clock, queue.0).map_err(at(&config.folder))?;
        let logs = log_writer(&log_store, &clock, &tail, queue.1).map_err(at(&config.folder))?;
        Ok(Self {
            engine: Engine::new(store.clone(), config.query.clone()),
            queries: Arc::new(Semaphore::new(config.query.at_once.max(1))),
            scraper: Arc::new(Scraper::new(
                config.scrape.clone(),
                store.clone(),
                clock.clone(),
            )),
            scrape: config.scrape,
            clock,
            store,
            records,
            span_store,
            span_intake: Arc::new(SpanIntake::new(spans)),
            log_store,
            log_intake: Arc::new(LogIntake::new(logs, tail)),
            log_streams: Arc::default(),
            deriver: Arc::new(Deriver::new(config.workloads)),
        })
    }

    /// Scrapes a changing list of targets and keeps the stores in order: blocks, retention, syncs,
    /// and the collector's own metrics. Runs until dropped; run it once.
    pub async fn run(&self, targets: watch::Receiver<Vec<Target>>) {
        let scraping = self.scraper.clone().run(targets);
        tokio::join!(scraping, self.keep_house(), self.report_self());
    }

    /// Receives spans (OTLP, Zipkin) and access logs (Envoy's ALS) until `stop` resolves.
    ///
    /// # Errors
    /// When a listener fails.
    pub async fn serve(
        &self,
        receivers: Receivers,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (stopping, _) = watch::channel(false);
        let wait = |mut stopped: watch::Receiver<bool>| async move {
            stopped.wait_for(|stopped| *stopped).await.ok();
        };
        // Boxed: it is large, and whoever awaits us would have to hold it.
        let grpc = receivers.grpc.map(|listener| {
            Box::pin(self.grpc_services().serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                wait(stopping.subscribe()),
            ))
        });
        let http = |listener: Option<TcpListener>, routes: Router| {
            listener.map(|listener| {
                axum::serve(listener, routes)
                    .with_graceful_shutdown(wait(stopping.subscribe()))
                    .into_future()
            })
        };
        let otlp = http(
            receivers.otlp_http,
            spans::otlp::router(self.span_intake.clone()),
        );
        let zipkin = http(
            receivers.zipkin,
            spans::zipkin::router(self.span_intake.clone()),
        );
        let servers = async {
            tokio::try_join!(
                maybe(grpc.map(|server| async { server.await.map_err(io::Error::other) })),
                maybe(otlp),
                maybe(zipkin),
            )
        };
        // Streams of access logs never end by themselves.
        let stop = async {
            stop.await;
            stopping.send_replace(true);
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = servers => served.map(|_| ()),
            () = stop => Ok(()),
        }
    }

    fn grpc_services(&self) -> tonic::transport::server::Router {
        let traces = TraceServiceServer::new(Grpc(self.span_intake.clone()))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(LARGEST);
        let logs = AccessLogServiceServer::new(Als {
            intake: self.log_intake.clone(),
            streams: self.log_streams.clone(),
            deriver: self.deriver.clone(),
        })
        .max_decoding_message_size(LARGEST);
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(traces)
            .add_service(logs)
    }

    /// Prometheus' API, Jaeger's, the graph and the logs; see [`api`].
    pub fn router(self: &Arc<Self>) -> Router {
        api::router(self.clone())
    }

    /// The service graph. A window that holds fewer than two scrapes is made longer; gateways
    /// among the targets are recognised by their labels `workload` or `app`.
    ///
    /// # Errors
    /// When a query fails.
    pub async fn graph(&self, mut query: GraphQuery) -> Result<Graph, TelemetryError> {
        let interval = i64::try_from(self.scrape.interval.as_millis()).unwrap_or(i64::MAX);
        query.window = query.window.max(interval.saturating_mul(5) / 2);
        query.gateways.extend(self.gateways());
        self.bounded(move |engine, cancel| graph::build(engine, &query, cancel))
            .await
    }

    /// A PromQL expression's value now.
    ///
    /// # Errors
    /// When the query fails or takes too long.
    pub async fn instant(&self, query: &str) -> Result<Answer, TelemetryError> {
        let (query, now) = (query.to_owned(), self.clock.now());
        self.bounded(move |engine, cancel| engine.instant(&query, now, cancel))
            .await
    }

    /// A PromQL expression's values between two times, every `step` (Unix milliseconds).
    ///
    /// # Errors
    /// As [`Telemetry::instant`].
    pub async fn range(
        &self,
        query: &str,
        bounds: (i64, i64),
        step: i64,
    ) -> Result<Vec<SeriesData>, TelemetryError> {
        let query = query.to_owned();
        self.bounded(move |engine, cancel| engine.range(&query, bounds, step, cancel))
            .await
    }

    async fn bounded<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &Cancel) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, TelemetryError> {
        let limit = self.engine.config().timeout;
        let answer = tokio::time::timeout(limit, self.query(work)).await;
        Ok(answer
            .map_err(|_| QueryError::Timeout)?
            .map_err(|_| TelemetryError::Closing)??)
    }

    fn gateways(&self) -> BTreeSet<(String, String)> {
        let targets = self
            .scraper
            .targets()
            .into_iter()
            .map(|health| health.target);
        let named = targets.filter(|target| target.gateway).flat_map(|target| {
            let namespace = target.labels.get("namespace").cloned().unwrap_or_default();
            let names = ["workload", "app"].map(|label| target.labels.get(label).cloned());
            names
                .into_iter()
                .flatten()
                .map(move |name| (namespace.clone(), name))
        });
        named.collect()
    }

    /// One page of access log lines.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn logs(&self, query: LogQuery) -> Result<LogPage, TelemetryError> {
        let store = self.log_store.clone();
        let page = tokio::task::spawn_blocking(move || store.search(&query)).await;
        Ok(page.map_err(|_| TelemetryError::Closing)??)
    }

    /// Lines as they come.
    #[must_use]
    pub fn logs_tail(&self, filter: LogFilter) -> LogTail {
        self.log_intake.follow(filter)
    }

    /// Takes a line that a proxy wrote to its standard output, in Istio's text or JSON form.
    /// `false` when it is something else, or the queue is full.
    pub fn take_log_line(&self, line: &str, origin: &Origin) -> bool {
        match text::parse(line, origin) {
            Some(line) => self.log_intake.take(vec![line]),
            None => false,
        }
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    #[must_use]
    pub fn scraper(&self) -> &Scraper {
        &self.scraper
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What came of spans and of log lines.
    pub(crate) fn taken(&self) -> (IntakeStats, IntakeStats) {
        (self.span_intake.stats(), self.log_intake.stats())
    }

    pub(crate) fn bytes_of(&self, family: Family) -> u64 {
        self.records.stats(family).bytes
    }

    /// Open streams of access logs.
    pub(crate) fn log_streams(&self) -> u64 {
        self.log_streams.load(Ordering::Relaxed)
    }

    pub(crate) fn span_store(&self) -> &Arc<SpanStore> {
        &self.span_store
    }

    /// Runs a query off the async threads, at most so many at once. Dropping the future stops it.
    /// The outer error says that the process is going down.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &Cancel) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<Result<T, QueryError>, &'static str> {
        const CLOSING: &str = "telemetry is closing";
        let slot = self
            .queries
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| CLOSING)?;
        let engine = self.engine.clone();
        let cancel = Cancel::default();
        let _stop = CancelOnDrop(cancel.clone());
        let work = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work(&engine, &cancel)
        });
        work.await.map_err(|_| CLOSING)
    }

    /// Writes blocks, deletes what is old or too much, syncs.
    async fn keep_house(&self) {
        let mut trust = Trust::new();
        let mut flushed = Instant::now();
        let mut ticks = interval(Duration::from_secs(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let trusted = trust.check(now, self.clock.now());
            let waited = now.duration_since(flushed);
            let early = waited > Duration::from_secs(300) && self.store.wants_flush();
            let flush = early || waited >= self.store.flush_interval();
            let (store, records) = (self.store.clone(), self.records.clone());
            let work =
                tokio::task::spawn_blocking(move || housework(&store, &records, flush, trusted));
            if work.await.is_err() {
                return;
            }
            if flush {
                flushed = now;
            }
        }
    }
}

fn housework(store: &MetricStore, records: &Records, flush: bool, trusted: Option<i64>) {
    let warn = |what: &str, error: &dyn std::error::Error| tracing::warn!(%error, "{what}");
    if let Err(error) = store.sync() {
        warn("metrics could not be synced", &error);
    }
    if let Err(error) = records.sync() {
        warn("spans and logs could not be synced", &error);
    }
    if flush && let Err(error) = store.flush() {
        warn("a block of metrics could not be written", &error);
    }
    if let Err(error) = store.retain(trusted) {
        warn("old metrics could not be deleted", &error);
    }
    if let Err(error) = records.retain(trusted) {
        warn("old spans and logs could not be deleted", &error);
    }
}

/// Nobody who is not there ever ends.
async fn maybe(server: Option<impl Future<Output = io::Result<()>>>) -> io::Result<()> {
    match server {
        Some(server) => server.await,
        None => std::future::pending().await,
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn span_writer(
    store: &Arc<SpanStore>,
    clock: &Clock,
    limit: usize,
) -> io::Result<Intake<spans::model::SpanRecord>> {
    let (store, clock) = (store.clone(), clock.clone());
    Intake::start("malla-spans", limit, move |spans| {
        store
            .write(clock.now(), &spans)
            .map_err(|error| error.to_string())
    })
}

fn log_writer(
    store: &Arc<LogStore>,
    clock: &Clock,
    tail: &broadcast::Sender<Arc<LogLine>>,
    limit: usize,
) -> io::Result<Intake<LogLine>> {
    let (store, clock, tail) = (store.clone(), clock.clone(), tail.clone());
    Intake::start("malla-logs", limit, move |lines: Vec<LogLine>| {
        store
            .write(clock.now(), &lines)
            .map_err(|error| error.to_string())?;
        if tail.receiver_count() > 0 {
            for line in lines {
                tail.send(Arc::new(line)).ok();
            }
        }
        Ok(())
    })
}
