//! The clusters as one worker uses them: host choice, pools, and the sending of a request ([`Upstreams`]).
mod pick;
mod priorities;
mod send;
mod subset;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use malla_proxy_config::Snapshot;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, UpstreamHttp};
use malla_runtime::drain::DrainWatch;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cluster::{Clusters, SharedCluster};
use super::connect::{Purpose, RequestName};
use super::host::Host;
use super::pool::{AT_A_TIME, Load, Pool, Surroundings};
use super::{Choice, Upstreams};
use crate::balance::Rng64;
use crate::connection::Connection;
use crate::live::Live;
use crate::telemetry::stats::{ClusterStats, WorkerStats};

use self::pick::Picker;
pub use self::send::{TcpSlots, TcpUpstream};

/// How often pools are looked over while there are any.
const SWEEP: Duration = Duration::from_secs(1);

/// All clusters of one worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerClusters {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clusters: Clusters,
    live: Live,
    stats: WorkerStats,
    tasks: DrainWatch,
    next_id: Rc<Cell<u64>>,
    handles: RefCell<HashMap<Arc<str>, Handle, RandomState>>,
    /// Wakes the sweeper when there is something to sweep.
    busy: Notify,
}

/// One cluster of this worker.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) cluster: Rc<WorkerCluster>,
}

/// What a handle points at.
#[derive(Debug)]
pub(super) struct WorkerCluster {
    around: Surroundings,
    picker: RefCell<Picker>,
    rng: RefCell<Rng64>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>, RandomState>>,
    /// The proxies' own cluster, once it mattered.
    local: RefCell<Option<Arc<SharedCluster>>>,
    /// Hosts that are chosen already, for the requests to come (`predictive_preconnect_ratio`).
    foreseen: RefCell<VecDeque<Arc<Host>>>,
    /// Hosts of ORIGINAL_DST clusters, by address.
    dynamic: RefCell<HashMap<Address, Arc<Host>, RandomState>>,
}

/// What connections may be shared by: same host, same transport, same protocol, same server name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    address: Address,
    transport: Option<u16>,
    purpose: Purpose,
    name: RequestName,
    /// Set where each downstream connection has its own (`connection_pool_per_downstream_connection`, PROXY headers).
    downstream: Option<u64>,
}

impl WorkerClusters {
    /// `tasks` ends everything this worker's pools run; `worker` numbers it.
    pub fn new(
        clusters: Clusters,
        live: Live,
        stats: WorkerStats,
        tasks: DrainWatch,
        worker: usize,
    ) -> Self {
        let inner = Inner {
            clusters,
            live,
            stats,
            tasks,
            next_id: Rc::new(Cell::new((worker as u64) << 48)),
            handles: RefCell::default(),
            busy: Notify::new(),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// Keeps the pools tidy; run it as a task of the worker for as long as the worker lives.
    pub async fn sweep(self) {
        loop {
            self.inner.busy.notified().await;
            loop {
                tokio::time::sleep(SWEEP).await;
                if !self.sweep_once() {
                    break;
                }
            }
        }
    }

    /// True if there may be something to sweep again.
    fn sweep_once(&self) -> bool {
        let snapshot = self.inner.live.load_full();
        let now = Instant::now();
        let mut busy = false;
        let mut gone = Vec::new();
        self.inner.handles.borrow_mut().retain(|name, handle| {
            let entry = snapshot.cluster(name);
            let current = entry.is_some_and(|entry| {
                Arc::ptr_eq(&entry.config, &handle.cluster.around.shared.config)
            });
            if !current {
                gone.push(handle.clone());
            }
            current
        });
        for handle in gone {
            handle.cluster.retire_all();
        }
        let handles: Vec<Handle> = self.inner.handles.borrow().values().cloned().collect();
        for handle in handles {
            busy |= handle.cluster.sweep(now);
        }
        busy
    }
}

impl Upstreams for WorkerClusters {
    type Handle = Handle;

    fn cluster(&self, snapshot: &Arc<Snapshot>, name: &str) -> Option<Handle> {
        let entry = snapshot.cluster(name)?;
        if let Some(handle) = self.inner.handles.borrow().get(name)
            && Arc::ptr_eq(&handle.cluster.around.shared.config, &entry.config)
        {
            return Some(handle.clone());
        }
        let shared = self.inner.clusters.get(entry);
        let handle = Handle {
            cluster: Rc::new(WorkerCluster::new(&self.inner, shared)),
        };
        let old = self
            .inner
            .handles
            .borrow_mut()
            .insert(Arc::clone(&entry.config.name), handle.clone());
        if let Some(old) = old {
            // The configuration changed: what is under way ends on the old connections, nothing new starts on them.
            old.cluster.retire_all();
        }
        self.inner.busy.notify_one();
        Some(handle)
    }
}

impl WorkerCluster {
    fn new(worker: &Inner, shared: Arc<SharedCluster>) -> Self {
        let stats: Arc<ClusterStats> = worker.stats.cluster(&shared.config.stat_name);
        let around = Surroundings {
            live: worker.live.clone(),
            clusters: worker.clusters.clone(),
            tasks: worker.tasks.clone(),
            shared,
            stats,
            registry: worker.stats.clone(),
            next_id: Rc::clone(&worker.next_id),
        };
        Self {
            around,
            picker: RefCell::default(),
            rng: RefCell::new(Rng64::seeded(rand::random())),
            pools: RefCell::default(),
            local: RefCell::default(),
            foreseen: RefCell::default(),
            dynamic: RefCell::default(),
        }
    }

    fn config(&self) -> &Arc<Cluster> {
        &self.around.shared.config
    }

    /// The pool of a host for a request.
    fn pool(
        &self,
        host: &Arc<Host>,
        purpose: Purpose,
        mut name: RequestName,
        downstream: &Connection,
    ) -> Rc<Pool> {
        name.origin.clone_from(&downstream.origin);
        let config = self.config();
        let transport = match host.transport {
            Some(index) => config
                .transport_matches
                .get(usize::from(index))
                .map(|entry| &entry.transport),
            None => Some(&config.transport),
        };
        let own = config.pool_per_downstream
            || transport.is_some_and(|transport| transport.proxy_protocol.is_some());
        let key = PoolKey {
            address: host.endpoint.address.clone(),
            transport: host.transport,
            purpose,
            name,
            downstream: own.then_some(downstream.id),
        };
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(&key) {
            return Rc::clone(pool);
        }
        let owner = own.then(|| Rc::new(downstream.clone()));
        let pool = Pool::new(
            Arc::clone(host),
            purpose,
            key.name.clone(),
            owner,
            self.around.clone(),
        );
        pools.insert(key, Rc::clone(&pool));
        pool
    }

    /// Opens connections where the next requests will go.
    fn connect_ahead(&self, purpose: Purpose, name: &RequestName, choice: &Choice<'_>) {
        let Some(policy) = self.config().preconnect else {
            return;
        };
        if policy.predictive <= 1.0 {
            return;
        }
        for _ in 0..AT_A_TIME {
            let pools = self.pools.borrow();
            let load = pools.values().map(|pool| pool.load());
            let load = load.fold(Load::default(), Load::and);
            drop(pools);
            if !load.exceeds(policy.predictive, 1) {
                return;
            }
            let Some(host) = self.foresee(choice) else {
                return;
            };
            let pool = self.pool(&host, purpose, name.clone(), choice.connection);
            if !pool.expect_another(policy.predictive, choice.high_priority) {
                return;
            }
        }
    }

    fn retire_all(&self) {
        for pool in self.pools.borrow().values() {
            pool.retire(false);
        }
    }

    /// Closes what is idle for too long or leads to hosts that are gone. True if any pool is left.
    fn sweep(&self, now: Instant) -> bool {
        let hosts = self.around.shared.hosts().clone();
        let config = self.config();
        let is_fixed = hosts.source.is_some();
        self.pools.borrow_mut().retain(|key, pool| {
            let host = hosts
                .hosts
                .iter()
                .find(|host| host.endpoint.address == key.address);
            let gone = is_fixed && host.is_none_or(|host| host.transport != key.transport);
            let sick = config.close_on_health_failure
                && host.is_some_and(|host| {
                    host.availability() == crate::balance::Availability::Unhealthy
                });
            if gone || sick {
                pool.retire(sick);
                return false;
            }
            !pool.sweep(now)
        });
        let pools = self.pools.borrow();
        self.dynamic
            .borrow_mut()
            .retain(|address, _| pools.keys().any(|key| key.address == *address));
        !pools.is_empty()
    }
}

/// The server name and its check, where the request decides them (`auto_sni`, `auto_san_validation`).
fn request_name<B>(http: &UpstreamHttp, request: &http::Request<B>) -> RequestName {
    if !http.auto_sni && !http.auto_san_validation {
        return RequestName::default();
    }
    let from_header = http
        .auto_sni_header
        .as_ref()
        .and_then(|header| request.headers().get(header));
    let host = from_header
        .or_else(|| request.headers().get(http::header::HOST))
        .and_then(|value| value.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    let name = host.map(|host| match host.parse::<http::uri::Authority>() {
        Ok(authority) => authority
            .host()
            .trim_matches(['[', ']'])
            .to_ascii_lowercase(),
        Err(_) => host.to_ascii_lowercase(),
    });
    RequestName {
        sni: name.filter(|_| http.auto_sni).map(Arc::from),
        check: http.auto_san_validation,
        origin: None,
    }
}

#[cfg(test)]
mod tests;
