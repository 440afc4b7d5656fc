//! What HTTP handling keeps: for the process, for a worker, for each connection manager.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use malla_proxy_config::Snapshot;
use malla_proxy_config::access_log::{AccessLog, Target};
use malla_proxy_config::http_filter::HttpFilterKind;
use malla_proxy_config::http_manager::{HttpManager, RouteSource};
use malla_proxy_config::istio_stats::StatsConfig;
use malla_runtime::drain::DrainWatch;

use super::metrics;
use super::peers::PeerHeaders;
use super::selected::LocalRoutes;
use crate::balance::Rng64;
use crate::call::Caller;
use crate::filter::chain::{Chain, Chains};
use crate::filter::rate_limit;
use crate::live::Live;
use crate::overload::Pressure;
use crate::policy::connections::SharedBuckets;
use crate::telemetry::access_log::{Environment, Needs};
use crate::telemetry::export::exporters::Exporters;
use crate::telemetry::export::queue::Queue;
use crate::telemetry::istio::MeshMetrics;
use crate::telemetry::log_writer::WorkerLogs;
use crate::telemetry::stats::{
    GrpcCallStats, Http2Stats, HttpStats, Known, LocalLimitStats, RateLimitStats, RbacStats,
    VirtualClusterStats, WorkerStats,
};
use crate::telemetry::trace::span::WorkerTracer;
use crate::telemetry::trace::tags::NodeNames;
use crate::upstream::Upstreams;

/// The same for the whole process.
#[derive(Debug, Clone)]
pub struct Process {
    /// For formats.
    pub environment: Environment,
    /// Who it is.
    pub node: NodeNames,
    /// Stands for the client in `x-forwarded-for` when the client is on this host (Envoy's local address).
    pub local_address: Option<IpAddr>,
    /// What several limits on connections share.
    pub buckets: SharedBuckets,
    /// Somebody said that it is to fail health checks.
    pub failing: Arc<AtomicBool>,
    /// What is done without while a resource is short.
    pub pressure: Arc<Pressure>,
}

impl Process {
    /// With the first address of this host that is not a loopback one.
    pub fn new(environment: Environment, node: NodeNames) -> Self {
        Self {
            environment,
            node,
            local_address: first_address(),
            buckets: SharedBuckets::default(),
            failing: Arc::default(),
            pressure: Arc::default(),
        }
    }

    /// True while it is to fail health checks.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

fn first_address() -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()))
        })
        .find(|address| !address.is_loopback())
}

/// One worker's HTTP handling.
#[derive(Debug)]
pub struct HttpWorker<U> {
    pub(crate) live: Live,
    pub(crate) upstreams: U,
    pub(crate) logs: WorkerLogs,
    pub(crate) process: Arc<Process>,
    pub(crate) tasks: DrainWatch,
    pub(crate) metrics: Rc<MeshMetrics>,
    pub(crate) rng: RefCell<Rng64>,
    pub(crate) exporters: Exporters<U>,
    /// Of all HTTP/2 connections of clients.
    pub(crate) http2_stats: Arc<Http2Stats>,
    stats: WorkerStats,
    snapshot: RefCell<LocalSnapshot>,
    managers: RefCell<HashMap<usize, Rc<Manager>>>,
}

/// A snapshot as one worker holds it: taken for each request, so not by a counter that all workers share.
pub(crate) type LocalSnapshot = Rc<Arc<Snapshot>>;

/// One connection manager as this worker serves it.
#[derive(Debug)]
pub struct Manager {
    pub(crate) config: Arc<HttpManager>,
    pub(crate) stats: Arc<HttpStats>,
    /// Headers its logs read.
    pub(crate) needs: Needs,
    /// Its routes, with the version of the snapshot they were looked up in.
    routes: RefCell<(u64, Option<LocalRoutes>)>,
    /// Counters of RBAC filters by the prefix their rules have; few.
    rbac: RefCell<Vec<(Arc<str>, Arc<RbacStats>)>>,
    local_limits: Known<LocalLimitStats>,
    rate_limits: Known<RateLimitStats>,
    pub(crate) grpc_calls: Known<GrpcCallStats>,
    /// By virtual host and name.
    virtual_clusters: Known<VirtualClusterStats, (Arc<str>, Arc<str>)>,
    worker_stats: WorkerStats,
    /// Faults under way in this worker.
    pub(crate) active_faults: Cell<u64>,
    /// What is kept of Istio's standard metrics.
    pub(crate) counted: Option<Arc<StatsConfig>>,
    /// How proxies tell each other who they are.
    pub(super) peers: Option<PeerHeaders>,
    /// Its filters.
    chains: Chains,
    /// Where its spans go.
    pub(crate) tracer: Option<Rc<WorkerTracer>>,
    /// Where the entries of each log go that has a log service.
    pub(crate) log_queues: Vec<Option<Rc<Queue>>>,
}

fn inline_routes(config: &HttpManager) -> Option<LocalRoutes> {
    match &config.routes {
        RouteSource::Inline(routes) => Some(Rc::new(Arc::clone(routes))),
        RouteSource::Rds(_) => None,
    }
}

impl Manager {
    /// The counters of RBAC rules with this prefix (`rules_stat_prefix`, `shadow_rules_stat_prefix`).
    pub(crate) fn rbac_stats(&self, prefix: &Arc<str>) -> Arc<RbacStats> {
        let mut known = self.rbac.borrow_mut();
        if let Some((_, stats)) = known.iter().find(|(name, _)| name == prefix) {
            return Arc::clone(stats);
        }
        let name = format!("http.{}.rbac.{prefix}", self.config.stat_prefix);
        let stats = self.worker_stats.rbac(name.trim_end_matches('.'));
        known.push((Arc::clone(prefix), Arc::clone(&stats)));
        stats
    }

    /// The counters of what a virtual host counts under a name.
    pub(crate) fn virtual_cluster_stats(
        &self,
        host: Arc<str>,
        name: Arc<str>,
    ) -> Arc<VirtualClusterStats> {
        let key = (host, name);
        let make = || self.worker_stats.virtual_cluster(&key.0, &key.1);
        self.virtual_clusters.get(&key, make)
    }

    /// The counters of a local rate limit with this prefix.
    pub(crate) fn local_limit_stats(&self, prefix: &Arc<str>) -> Arc<LocalLimitStats> {
        let make = || self.worker_stats.local_limit(prefix);
        self.local_limits.get(prefix, make)
    }

    /// The counters of a cluster's requests that a rate limit service decides on.
    pub(crate) fn rate_limit_stats(&self, cluster: &str, scope: &str) -> Arc<RateLimitStats> {
        let name = rate_limit::scope(cluster, scope);
        self.rate_limits
            .get(&name, || self.worker_stats.rate_limit(&name))
    }

    /// The routes as they are in `snapshot`; `None` if they are not there (yet).
    pub(crate) fn routes(&self, snapshot: &Snapshot) -> Option<LocalRoutes> {
        let mut held = self.routes.borrow_mut();
        if let RouteSource::Rds(rds) = &self.config.routes
            && held.0 != snapshot.version
        {
            *held = (
                snapshot.version,
                snapshot
                    .route(&rds.name)
                    .map(|routes| Rc::new(Arc::clone(routes))),
            );
        }
        held.1.clone()
    }
}

impl<U: Upstreams> HttpWorker<U> {
    /// `tasks` owns what outlives a request: mirrors and tunnels.
    pub fn new(
        live: Live,
        upstreams: U,
        stats: WorkerStats,
        logs: WorkerLogs,
        process: Arc<Process>,
        tasks: DrainWatch,
        metrics: Rc<MeshMetrics>,
    ) -> Rc<Self> {
        let exporters = Exporters::new(
            upstreams.clone(),
            live.clone(),
            stats.clone(),
            tasks.clone(),
            process.node.clone(),
        );
        Rc::new(Self {
            live,
            upstreams,
            logs,
            process,
            tasks,
            metrics,
            exporters,
            rng: RefCell::new(Rng64::seeded(rand::random())),
            http2_stats: stats.http2(None),
            stats,
            snapshot: RefCell::default(),
            managers: RefCell::default(),
        })
    }

    /// The worker's side of a manager.
    pub(crate) fn manager(&self, config: &Arc<HttpManager>) -> Rc<Manager> {
        let key = Arc::as_ptr(config) as usize;
        let mut managers = self.managers.borrow_mut();
        if let Some(manager) = managers.get(&key) {
            return Rc::clone(manager);
        }
        // Managers of listeners that are gone: nothing but this table holds them.
        managers.retain(|_, manager| {
            Arc::strong_count(&manager.config) > 1 || Rc::strong_count(manager) > 1
        });
        let (counted, peers) = self.onlookers(config);
        let mut needs = Needs::of(config.access_logs.iter().map(|log| &**log));
        if let Some(counted) = &counted {
            metrics::needs(counted, &mut needs);
        }
        if let Some(local_reply) = &config.local_reply {
            needs.add_local_reply(local_reply);
        }
        let tracing = config.tracing.as_deref();
        if let Some(tracing) = tracing {
            needs.add_tracing(tracing);
        }
        let tracer = tracing.and_then(|tracing| tracing.tracer.as_ref());
        let env = &self.process.environment.env;
        let manager = Rc::new(Manager {
            stats: self.stats.http(&config.stat_prefix),
            needs,
            counted,
            peers,
            chains: Chains::start(config, self),
            tracer: tracer.map(|tracer| self.exporters.tracer(tracer, env)),
            log_queues: self.log_queues(&config.access_logs),
            routes: RefCell::new((0, inline_routes(config))),
            rbac: RefCell::default(),
            local_limits: Known::default(),
            rate_limits: Known::default(),
            grpc_calls: Known::default(),
            virtual_clusters: Known::default(),
            worker_stats: self.stats.clone(),
            active_faults: Cell::new(0),
            config: Arc::clone(config),
        });
        managers.insert(key, Rc::clone(&manager));
        manager
    }

    /// A manager's filters as they are in `snapshot`.
    pub(crate) fn chain(&self, manager: &Manager, snapshot: &Snapshot) -> Rc<Chain> {
        manager.chains.get(&manager.config, snapshot, self)
    }

    /// The filters that act on no request: the first of each counts.
    fn onlookers(&self, config: &HttpManager) -> (Option<Arc<StatsConfig>>, Option<PeerHeaders>) {
        let on = || config.filters.iter().filter(|filter| !filter.disabled);
        let counted = on().find_map(|filter| match &filter.kind {
            HttpFilterKind::IstioStats(config) => Some(Arc::clone(config)),
            _ => None,
        });
        let peers = on().find_map(|filter| match &filter.kind {
            HttpFilterKind::PeerMetadata(config) => {
                Some(PeerHeaders::new(config, &self.metrics.own))
            }
            _ => None,
        });
        (counted, peers)
    }

    /// The queues of logs that go to log services, at the places of their logs.
    pub fn log_queues(&self, logs: &[Arc<AccessLog>]) -> Vec<Option<Rc<Queue>>> {
        let queue = |log: &Arc<AccessLog>| match &log.target {
            Target::Grpc(log) => Some(self.exporters.log(&log.stream)),
            Target::Otlp(log) => Some(self.exporters.otlp_log(&log.export)),
            Target::Lines { .. } => None,
        };
        logs.iter().map(queue).collect()
    }

    /// The current snapshot.
    pub(crate) fn snapshot(&self) -> LocalSnapshot {
        let now = self.live.load();
        let mut held = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&held, &now) {
            *held = Rc::new(Arc::clone(&now));
        }
        Rc::clone(&held)
    }

    /// The worker's counters.
    pub(crate) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Calls of filters to services beside the request's own.
    pub(crate) fn caller(&self) -> &Rc<Caller<U>> {
        self.exporters.caller()
    }

    pub(crate) fn random(&self) -> u64 {
        self.rng.borrow_mut().next()
    }
}
