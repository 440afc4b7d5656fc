//! One cluster as all workers share it: its hosts, breakers, outlier detection and DNS.
//!
//! Invariant: what a request touches here is atomics and `ArcSwap` loads. The locks are taken when endpoints change, when
//! a host trips a threshold, and on timers.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use malla_proxy_config::Snapshot;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, Discovery, DnsResolver};
use malla_proxy_config::endpoints::{Endpoint, Locality};
use malla_proxy_config::snapshot::{ClusterEntry, EndpointCell};
use malla_runtime::task::AbortOnDrop;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::breaker::Breakers;
use super::connect::Connectors;
use super::dns;
use super::health::{self, Flag, HealthState};
use super::host::{Host, HostSet, States, transport_index};
use super::outlier::{self, Detector, Monitor, Outcome};
use crate::live::Live;
use crate::tls::TlsSetup;
use crate::tls::connect::Connector;
use crate::tls::material::TlsSetupError;

/// A cluster's state across workers.
#[derive(Debug)]
pub struct SharedCluster {
    pub config: Arc<Cluster>,
    /// Default and high priority.
    pub breakers: [Arc<Breakers>; 2],
    pub outlier: Option<OutlierState>,
    /// Active health checks.
    pub health: Option<HealthState>,
    pub connectors: Connectors,
    /// What became of look-ups of its names.
    pub lookups: dns::Lookups,
    /// Where the proxy is.
    pub home: Arc<Home>,
    source: EndpointCell,
    hosts: ArcSwap<HostSet>,
    states: Mutex<States>,
    /// Grows when the balancing of unchanged endpoints must change (ejections).
    health_version: AtomicU64,
    membership_changes: AtomicU64,
    /// Whether endpoints have been found at all; DNS clusters start out not knowing.
    resolved: watch::Sender<bool>,
    tasks: Mutex<Vec<AbortOnDrop<()>>>,
}

/// Where the proxy is (`node.locality`), and among which other proxies.
#[derive(Debug, Default)]
pub struct Home {
    pub locality: Arc<Locality>,
    /// The cluster of the proxies that share the work (`cluster_manager.local_cluster_name`).
    pub cluster: Option<Arc<str>>,
    /// Who is asked for names, where a cluster does not say.
    pub resolver: Option<Arc<DnsResolver>>,
}

/// Outlier detection of one cluster.
#[derive(Debug)]
pub struct OutlierState {
    detector: Mutex<Detector<Address>>,
    pub stats: outlier::Stats,
}

impl SharedCluster {
    fn new(entry: &ClusterEntry, setup: &TlsSetup, home: &Arc<Home>) -> Arc<Self> {
        let config = Arc::clone(&entry.config);
        let is_dns = matches!(
            config.discovery,
            Discovery::StrictDns(_) | Discovery::LogicalDns(_)
        );
        let outlier = config.outlier.map(|settings| OutlierState {
            detector: Mutex::new(Detector::new(settings, Arc::as_ptr(&config) as u64)),
            stats: outlier::Stats::default(),
        });
        Arc::new(Self {
            breakers: [
                Breakers::new(&config.thresholds[0]),
                Breakers::new(&config.thresholds[1]),
            ],
            source: if is_dns {
                EndpointCell::default()
            } else {
                Arc::clone(&entry.endpoints)
            },
            outlier,
            health: config.health_check.as_ref().map(|_| HealthState::default()),
            connectors: Connectors::new(&config, setup.clone()),
            config,
            home: Arc::clone(home),
            lookups: dns::Lookups::default(),
            hosts: ArcSwap::default(),
            states: Mutex::default(),
            health_version: AtomicU64::new(0),
            membership_changes: AtomicU64::new(0),
            resolved: watch::Sender::new(!is_dns),
            tasks: Mutex::default(),
        })
    }

    /// The hosts now, following the load assignment.
    pub fn hosts(&self) -> Guard<Arc<HostSet>> {
        let source = self.source.load();
        let hosts = self.hosts.load();
        let current = match (&*source, &hosts.source) {
            (None, None) => true,
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            _ => false,
        };
        if current {
            return hosts;
        }
        self.rebuild();
        self.hosts.load()
    }

    /// Grows with every ejection and return.
    pub fn health_version(&self) -> u64 {
        self.health_version.load(Ordering::Acquire)
    }

    /// How often the set of hosts changed.
    pub fn membership_changes(&self) -> u64 {
        self.membership_changes.load(Ordering::Relaxed)
    }

    /// Replaces the endpoints (DNS); true if they are others.
    pub(super) fn set_endpoints(&self, set: malla_proxy_config::endpoints::EndpointSet) -> bool {
        let unchanged = self.source.load().as_ref().is_some_and(|old| **old == set);
        if !unchanged {
            self.source.store(Some(Arc::new(set)));
            if let Some(health) = &self.health {
                health.hosts_changed.notify_one();
            }
        }
        self.set_resolved();
        !unchanged
    }

    /// Lets requests stop waiting for the first DNS answer, whatever it was.
    pub(super) fn set_resolved(&self) {
        self.resolved
            .send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// Waits for the first DNS answer and the first round of health checks; at once for other clusters.
    pub async fn resolved(&self) {
        let first_round = self.health.as_ref().map(|health| &health.first_round);
        for known in [Some(&self.resolved), first_round].into_iter().flatten() {
            if !*known.borrow() {
                let _ = known.subscribe().wait_for(|known| *known).await;
            }
        }
    }

    /// Whether [`Self::resolved`] would wait.
    pub fn is_resolved(&self) -> bool {
        let unchecked = self
            .health
            .as_ref()
            .is_some_and(|health| !*health.first_round.borrow());
        *self.resolved.borrow() && !unchecked
    }

    /// Whether a request or connection was ever sent to the cluster (`no_traffic_interval`).
    pub(super) fn had_traffic(&self) -> bool {
        let hosts = self.hosts();
        hosts
            .hosts
            .iter()
            .any(|host| host.state.cx_total.load(Ordering::Relaxed) > 0)
    }

    /// Health checks changed their mind about a host.
    pub(super) fn health_changed(&self, host: &Host) {
        let flags = &host.state.flags;
        if flags.has(Flag::Leaving) && flags.has(Flag::Failed) {
            // Nothing keeps it any more.
            self.rebuild();
        }
        self.health_version.fetch_add(1, Ordering::AcqRel);
    }

    /// A healthy host is let back in by outlier detection.
    pub(super) fn pardon(&self, host: &Host) {
        let (Some(outlier), Some(settings)) = (&self.outlier, &self.config.outlier) else {
            return;
        };
        let monitor = &host.state.monitor;
        let healthy = !host.state.flags.has(Flag::Failed);
        if !settings.uneject_on_check || !healthy || !monitor.is_ejected() {
            return;
        }
        lock(&outlier.detector).pardon(&host.endpoint.address, monitor, &outlier.stats);
        self.health_version.fetch_add(1, Ordering::AcqRel);
    }

    /// A host asked in an answer not to be used any more.
    pub(super) fn fail_at_once(&self, host: &Host) {
        let Some(health) = &self.health else { return };
        if !health::is_checked(host) {
            return;
        }
        let flags = &host.state.flags;
        let failed = flags.set(Flag::Failed, true);
        let excluded = flags.set(Flag::Excluded, true);
        health::count(&health.stats.failure);
        health::count(&health.stats.passive_failure);
        if failed || excluded {
            self.health_changed(host);
        }
    }

    /// The host of an address that no load assignment has (ORIGINAL_DST), made on first sight.
    pub fn dynamic_host(&self, address: Address) -> Arc<Host> {
        let mut states = lock(&self.states);
        let state = Arc::clone(states.entry(address.clone()).or_insert_with(|| {
            self.membership_changes.fetch_add(1, Ordering::Relaxed);
            Arc::new(super::host::HostState::fresh())
        }));
        let endpoint = Arc::new(Endpoint {
            address,
            hostname: String::new(),
            health: malla_proxy_config::endpoints::Health::Healthy,
            weight: 1,
            metadata: malla_proxy_config::metadata::Metadata::default(),
            check: None,
            more_addresses: Vec::new(),
        });
        Arc::new(Host {
            transport: transport_index(&self.config, &endpoint),
            canary: false,
            endpoint,
            priority: 0,
            locality: Arc::default(),
            state,
        })
    }

    /// Forgets dynamic hosts nobody uses (`cleanup_interval`).
    fn forget_idle_hosts(&self) {
        lock(&self.states).retain(|_, state| {
            Arc::strong_count(state) > 1
                || state.cx_active.load(Ordering::Relaxed) > 0
                || state.active.load(Ordering::Relaxed) > 0
        });
    }

    /// Tells passive health how an attempt ended.
    pub fn record(&self, host: &Host, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Status(status) if status < 500 => &host.state.rq_success,
            Outcome::Status(_) | Outcome::Reset => &host.state.rq_error,
            Outcome::TimedOut => &host.state.rq_timeout,
            Outcome::ConnectFailed | Outcome::ConnectTimedOut => &host.state.cx_connect_fail,
            Outcome::Connected | Outcome::ConnectedFinal => {
                return self.record_outlier(host, outcome);
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.record_outlier(host, outcome);
    }

    fn record_outlier(&self, host: &Host, outcome: Outcome) {
        let (Some(outlier), Some(settings)) = (&self.outlier, &self.config.outlier) else {
            return;
        };
        let monitor = &host.state.monitor;
        let Some(cause) = monitor.record(outcome, settings) else {
            return;
        };
        let address = &host.endpoint.address;
        let ejected = lock(&outlier.detector).triggered(
            Instant::now(),
            address,
            monitor,
            cause,
            &outlier.stats,
        );
        if ejected {
            self.health_version.fetch_add(1, Ordering::AcqRel);
            tracing::info!(cluster = %self.config.name, host = %address, cause = cause.name(), "host ejected");
        }
    }

    fn outlier_interval(&self) {
        let Some(outlier) = &self.outlier else { return };
        let hosts = self.hosts().clone();
        let monitors: HashMap<&Address, &Monitor> = hosts
            .hosts
            .iter()
            .map(|host| (&host.endpoint.address, &host.state.monitor))
            .collect();
        let monitor_of = |address: &Address| monitors.get(address).copied();
        if lock(&outlier.detector).interval(Instant::now(), monitor_of, &outlier.stats) {
            self.health_version.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn rebuild(&self) {
        let mut states = lock(&self.states);
        // Loaded again under the lock: another worker may have come first, with newer endpoints.
        let source = self.source.load_full();
        let next = match &source {
            Some(source) => {
                let mut next = HostSet::build(&self.config, source, &mut states, Instant::now());
                if self.health.is_some() && !self.config.ignore_health_on_removal {
                    next.keep_healthy(&self.hosts.load(), &mut states);
                }
                next
            }
            None => HostSet::default(),
        };
        if let Some(outlier) = &self.outlier {
            let addresses = next.hosts.iter().map(|host| host.endpoint.address.clone());
            lock(&outlier.detector).set_hosts(addresses, &outlier.stats);
        }
        self.hosts.store(Arc::new(next));
        self.membership_changes.fetch_add(1, Ordering::Relaxed);
        if let Some(health) = &self.health {
            health.hosts_changed.notify_one();
        }
    }

    fn start_tasks(self: &Arc<Self>, control: &Handle, live: &Live) {
        let mut tasks = lock(&self.tasks);
        if self.health.is_some() {
            tasks.push(health::follow(control, Arc::downgrade(self), live.clone()));
        }
        if let Some(settings) = &self.config.outlier {
            let every = settings.interval;
            tasks.push(spawn_every(
                control,
                every,
                Arc::downgrade(self),
                |cluster| cluster.outlier_interval(),
            ));
        }
        match &self.config.discovery {
            Discovery::StrictDns(settings) => {
                tasks.push(dns::follow(
                    control,
                    Arc::downgrade(self),
                    settings.clone(),
                    false,
                ));
            }
            Discovery::LogicalDns(settings) => {
                tasks.push(dns::follow(
                    control,
                    Arc::downgrade(self),
                    settings.clone(),
                    true,
                ));
            }
            Discovery::OriginalDst(_) => {
                let every = self.config.cleanup_interval;
                tasks.push(spawn_every(
                    control,
                    every,
                    Arc::downgrade(self),
                    |cluster| cluster.forget_idle_hosts(),
                ));
            }
            Discovery::Static(_) | Discovery::Eds { .. } => {}
        }
    }
}

/// Runs `tick` on a live cluster again and again; ends with the cluster.
fn spawn_every(
    control: &Handle,
    every: Duration,
    cluster: Weak<SharedCluster>,
    tick: fn(&SharedCluster),
) -> AbortOnDrop<()> {
    AbortOnDrop::adopt(control.spawn(async move {
        loop {
            tokio::time::sleep(every.max(Duration::from_millis(1))).await;
            let Some(cluster) = cluster.upgrade() else {
                return;
            };
            tick(&cluster);
        }
    }))
}

/// The hosts a cluster would have, for showing a cluster that nobody uses.
pub fn preview(entry: &ClusterEntry) -> Vec<Arc<Host>> {
    let source = entry.endpoints.load_full();
    let set = source.map(|source| {
        HostSet::build(
            &entry.config,
            &source,
            &mut States::default(),
            Instant::now(),
        )
    });
    set.map(|set| set.hosts).unwrap_or_default()
}

/// The clusters in use, over all workers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clusters {
    control: Handle,
    setup: TlsSetup,
    live: Live,
    home: Arc<Home>,
    known: Arc<Mutex<HashMap<Arc<str>, Arc<SharedCluster>>>>,
}

impl Clusters {
    /// `control` runs DNS, health checks and timers; checks follow `live`.
    pub fn new(control: Handle, setup: TlsSetup, live: Live) -> Self {
        Self {
            control,
            setup,
            live,
            home: Arc::default(),
            known: Arc::default(),
        }
    }

    /// Where the proxy is; call it before the first cluster is used.
    #[must_use]
    pub fn at(self, home: Home) -> Self {
        Self {
            home: Arc::new(home),
            ..self
        }
    }

    /// The state of a cluster of a snapshot. A changed cluster gets a new one; requests under way keep the old.
    pub fn get(&self, entry: &ClusterEntry) -> Arc<SharedCluster> {
        let mut known = lock(&self.known);
        if let Some(cluster) = known.get(&entry.config.name)
            && Arc::ptr_eq(&cluster.config, &entry.config)
        {
            return Arc::clone(cluster);
        }
        let cluster = SharedCluster::new(entry, &self.setup, &self.home);
        cluster.start_tasks(&self.control, &self.live);
        known.insert(Arc::clone(&entry.config.name), Arc::clone(&cluster));
        cluster
    }

    /// Endpoints have changed. Where new ones get their share by and by, they are new from now on, not from their first
    /// request on; other clusters see it when they are used.
    pub fn note_endpoints(&self) {
        let known = lock(&self.known);
        let slow = known
            .values()
            .filter(|cluster| cluster.config.balance.slow_start.is_some());
        slow.for_each(|cluster| drop(cluster.hosts()));
    }

    /// Whether the certificates written in a cluster can be used; those of secrets may come later.
    ///
    /// # Errors
    /// With the file or field that is at fault.
    pub fn check_tls(&self, cluster: &Cluster, snapshot: &Snapshot) -> Result<(), TlsSetupError> {
        let matched = cluster
            .transport_matches
            .iter()
            .map(|entry| &entry.transport);
        for tls in matched
            .chain([&cluster.transport])
            .filter_map(|transport| transport.tls.as_ref())
        {
            match Connector::new(Arc::clone(tls), self.setup.clone(), &[]).prepare(snapshot) {
                Ok(()) | Err(TlsSetupError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The state of a cluster, if any worker has used it.
    pub fn peek(&self, name: &str) -> Option<Arc<SharedCluster>> {
        lock(&self.known).get(name).cloned()
    }

    /// Follows a new snapshot: forgets clusters that left it, and starts resolving names and checking health before the
    /// first request.
    pub fn follow(&self, snapshot: &Snapshot) {
        let current = |cluster: &SharedCluster| {
            let entry = snapshot.cluster(&cluster.config.name);
            entry.is_some_and(|entry| Arc::ptr_eq(&entry.config, &cluster.config))
        };
        lock(&self.known).retain(|_, cluster| current(cluster));
        for entry in snapshot.clusters() {
            let is_dns = matches!(
                entry.config.discovery,
                Discovery::StrictDns(_) | Discovery::LogicalDns(_)
            );
            let is_local = self.home.cluster.as_ref() == Some(&entry.config.name);
            if is_dns || is_local || entry.config.health_check.is_some() {
                self.get(entry);
            }
            if entry.config.balance.slow_start.is_some() {
                drop(self.get(entry).hosts());
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data whole, so a panic elsewhere changes nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
