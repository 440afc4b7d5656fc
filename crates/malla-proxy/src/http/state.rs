//! What HTTP handling keeps: for the process, for a worker, for each connection manager.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

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
use crate::live::Live;
use crate::telemetry::access_log::{Environment, Needs};
use crate::telemetry::export::exporters::Exporters;
use crate::telemetry::export::queue::Queue;
use crate::telemetry::istio::MeshMetrics;
use crate::telemetry::log_writer::WorkerLogs;
use crate::telemetry::stats::{HttpStats, RbacStats, WorkerStats};
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
}

impl Process {
    /// With the first address of this host that is not a loopback one.
    pub fn new(environment: Environment, node: NodeNames) -> Self {
        Self {
            environment,
            node,
            local_address: first_address(),
        }
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
    pub(super) live: Live,
    pub(super) upstreams: U,
    pub(super) logs: WorkerLogs,
    pub(super) process: Arc<Process>,
    pub(super) tasks: DrainWatch,
    pub(super) metrics: Rc<MeshMetrics>,
    pub(super) rng: RefCell<Rng64>,
    pub(super) exporters: Exporters<U>,
    stats: WorkerStats,
    snapshot: RefCell<LocalSnapshot>,
    managers: RefCell<HashMap<usize, Rc<Manager>>>,
}

/// A snapshot as one worker holds it: taken for each request, so not by a counter that all workers share.
pub(super) type LocalSnapshot = Rc<Arc<Snapshot>>;

/// One connection manager as this worker serves it.
#[derive(Debug)]
pub struct Manager {
    pub(super) config: Arc<HttpManager>,
    pub(super) stats: Arc<HttpStats>,
    /// Headers its logs read.
    pub(super) needs: Needs,
    /// Its routes, with the version of the snapshot they were looked up in.
    routes: RefCell<(u64, Option<LocalRoutes>)>,
    /// Counters of RBAC filters by the prefix their rules have; few.
    rbac: RefCell<Vec<(Arc<str>, Arc<RbacStats>)>>,
    worker_stats: WorkerStats,
    /// Faults under way in this worker.
    pub(super) active_faults: Cell<u64>,
    /// What is kept of Istio's standard metrics.
    pub(super) counted: Option<Arc<StatsConfig>>,
    /// How proxies tell each other who they are.
    pub(super) peers: Option<PeerHeaders>,
    /// Where its spans go.
    pub(super) tracer: Option<Rc<WorkerTracer>>,
    /// Where the entries of each log go that has a log service.
    pub(super) log_queues: Vec<Option<Rc<Queue>>>,
}

fn inline_routes(config: &HttpManager) -> Option<LocalRoutes> {
    match &config.routes {
        RouteSource::Inline(routes) => Some(Rc::new(Arc::clone(routes))),
        RouteSource::Rds(_) => None,
    }
}

impl Manager {
    /// The counters of RBAC rules with this prefix (`rules_stat_prefix`, `shadow_rules_stat_prefix`).
    pub(super) fn rbac_stats(&self, prefix: &Arc<str>) -> Arc<RbacStats> {
        let mut known = self.rbac.borrow_mut();
        if let Some((_, stats)) = known.iter().find(|(name, _)| name == prefix) {
            return Arc::clone(stats);
        }
        let name = format!("http.{}.rbac.{prefix}", self.config.stat_prefix);
        let stats = self.worker_stats.rbac(name.trim_end_matches('.'));
        known.push((Arc::clone(prefix), Arc::clone(&stats)));
        stats
    }

    /// The routes as they are in `snapshot`; `None` if they are not there (yet).
    pub(super) fn routes(&self, snapshot: &Snapshot) -> Option<LocalRoutes> {
        let mut held = self.routes.borrow_mut();
        if let RouteSource::Rds(name) = &self.config.routes
            && held.0 != snapshot.version
        {
            *held = (
                snapshot.version,
                snapshot
                    .route(name)
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
            stats,
            snapshot: RefCell::default(),
            managers: RefCell::default(),
        })
    }

    /// The worker's side of a manager.
    pub(super) fn manager(&self, config: &Arc<HttpManager>) -> Rc<Manager> {
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
            tracer: tracer.map(|tracer| self.exporters.tracer(tracer, env)),
            log_queues: self.log_queues(&config.access_logs),
            routes: RefCell::new((0, inline_routes(config))),
            rbac: RefCell::default(),
            worker_stats: self.stats.clone(),
            active_faults: Cell::new(0),
            config: Arc::clone(config),
        });
        managers.insert(key, Rc::clone(&manager));
        manager
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
            Target::Lines { .. } => None,
        };
        logs.iter().map(queue).collect()
    }

    /// The current snapshot.
    pub(super) fn snapshot(&self) -> LocalSnapshot {
        let now = self.live.load();
        let mut held = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&held, &now) {
            *held = Rc::new(Arc::clone(&now));
        }
        Rc::clone(&held)
    }

    pub(super) fn random(&self) -> u64 {
        self.rng.borrow_mut().next()
    }
}
