//! The hosts of a cluster: endpoints of the current load assignment, each with the state that outlives an update of it.
//!
//! Invariants: a [`HostSet`] never changes; [`HostState`] follows an address from set to set, so that an endpoint update
//! neither forgets ejections nor miscounts requests under way.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{BalancePolicy, Cluster, LocalityPolicy};
use malla_proxy_config::endpoints::{Endpoint, EndpointSet, Health, Locality};
use malla_proxy_config::metadata::Value;
use tokio::time::Instant;

use super::outlier::Monitor;
use crate::balance::{Availability, Balancer, Member, Tuning};

/// What is known of one address, shared by all workers.
#[derive(Debug)]
pub struct HostState {
    /// Passive health.
    pub monitor: Monitor,
    /// When the address joined the cluster (slow start).
    pub joined: Instant,
    /// Requests (HTTP) or connections (TCP) under way.
    pub active: AtomicU64,
    pub cx_active: AtomicU64,
    pub cx_total: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_timeout: AtomicU64,
}

impl HostState {
    /// The state of an address first seen now.
    pub fn fresh() -> Self {
        Self::new(Instant::now())
    }

    fn new(joined: Instant) -> Self {
        Self {
            monitor: Monitor::default(),
            joined,
            active: AtomicU64::new(0),
            cx_active: AtomicU64::new(0),
            cx_total: AtomicU64::new(0),
            cx_connect_fail: AtomicU64::new(0),
            rq_total: AtomicU64::new(0),
            rq_success: AtomicU64::new(0),
            rq_error: AtomicU64::new(0),
            rq_timeout: AtomicU64::new(0),
        }
    }

    /// Counts something under way until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> ActiveGuard {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.rq_total.fetch_add(1, Ordering::Relaxed);
        ActiveGuard(Arc::clone(self))
    }
}

/// One request or connection under way on a host.
#[derive(Debug)]
pub struct ActiveGuard(Arc<HostState>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One host of a set.
#[derive(Debug, Clone)]
pub struct Host {
    pub endpoint: Arc<Endpoint>,
    pub priority: u32,
    pub locality: Arc<Locality>,
    /// Which of the cluster's `transport_matches` the endpoint's metadata chose; `None` is the default transport.
    pub transport: Option<u16>,
    pub state: Arc<HostState>,
}

impl Host {
    pub fn availability(&self) -> Availability {
        if self.state.monitor.is_ejected() {
            return Availability::Unhealthy;
        }
        match self.endpoint.health {
            Health::Healthy => Availability::Healthy,
            Health::Degraded => Availability::Degraded,
            Health::Unhealthy | Health::Draining => Availability::Unhealthy,
        }
    }
}

impl Host {
    /// The weight in balancing now: less than configured while the host warms up (`slow_start_config`).
    fn weight(&self, cluster: &Cluster, now: Instant) -> u32 {
        let weight = self.endpoint.weight.max(1);
        let Some(slow) = &cluster.balance.slow_start else {
            return weight;
        };
        let age = now
            .saturating_duration_since(self.state.joined)
            .max(Duration::from_secs(1));
        let progress =
            (age.as_secs_f64() / slow.window.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0);
        let share = progress
            .powf(1.0 / slow.aggression.max(f64::MIN_POSITIVE))
            .max(slow.min_weight_percent / 100.0);
        // Scaled up, so that a small weight can still be cut into parts.
        (f64::from(weight) * f64::from(SLOW_START_SCALE) * share).clamp(1.0, f64::from(u32::MAX))
            as u32
    }
}

/// With slow start, all weights of a cluster are multiplied by this.
const SLOW_START_SCALE: u32 = 1000;

/// States by address, carried from one set to the next.
pub type States = HashMap<Address, Arc<HostState>, RandomState>;

/// All hosts of a cluster at one moment.
#[derive(Debug, Default)]
pub struct HostSet {
    /// What it was made from; `None` before the first load assignment.
    pub source: Option<Arc<EndpointSet>>,
    pub hosts: Vec<Arc<Host>>,
    /// Weight of each locality, `[priority][locality]`.
    locality_weights: Vec<Vec<u32>>,
    /// Index of each host's locality within its priority.
    locality_index: Vec<u32>,
}

impl HostSet {
    /// Builds the set of `source`; states of known addresses are taken from `states`, which ends up with exactly the
    /// addresses of the set.
    pub fn build(
        cluster: &Cluster,
        source: &Arc<EndpointSet>,
        states: &mut States,
        now: Instant,
    ) -> Self {
        let mut set = Self {
            source: Some(Arc::clone(source)),
            ..Self::default()
        };
        let mut kept = States::default();
        for group in &source.localities {
            let priority = group.priority as usize;
            if set.locality_weights.len() <= priority {
                set.locality_weights.resize(priority + 1, Vec::new());
            }
            let weights = &mut set.locality_weights[priority];
            let index = weights.len() as u32;
            weights.push(group.weight.unwrap_or(0));
            let locality = Arc::new(group.locality.clone());
            for endpoint in &group.endpoints {
                let known = kept
                    .get(&endpoint.address)
                    .or_else(|| states.get(&endpoint.address));
                let state = known
                    .cloned()
                    .unwrap_or_else(|| Arc::new(HostState::new(now)));
                kept.insert(endpoint.address.clone(), Arc::clone(&state));
                set.locality_index.push(index);
                set.hosts.push(Arc::new(Host {
                    endpoint: Arc::clone(endpoint),
                    priority: group.priority,
                    locality: Arc::clone(&locality),
                    transport: transport_index(cluster, endpoint),
                    state,
                }));
            }
        }
        *states = kept;
        set
    }

    /// A balancer over the hosts as healthy as they are now. `keep` leaves hosts out (metadata match).
    pub fn balancer(
        &self,
        cluster: &Cluster,
        keep: impl Fn(&Host) -> bool,
        now: Instant,
    ) -> (Balancer, Vec<u32>) {
        let by_hostname = matches!(
            cluster.balance.policy,
            BalancePolicy::RingHash {
                by_hostname: true,
                ..
            } | BalancePolicy::Maglev {
                by_hostname: true,
                ..
            }
        );
        let chosen: Vec<u32> = (0..self.hosts.len() as u32)
            .filter(|&index| keep(&self.hosts[index as usize]))
            .collect();
        let members: Vec<Member> = chosen
            .iter()
            .map(|&index| {
                let host = &self.hosts[index as usize];
                Member {
                    key: hash_key(&host.endpoint, by_hostname),
                    weight: host.weight(cluster, now),
                    priority: host.priority,
                    locality: self.locality_index[index as usize],
                    availability: host.availability(),
                }
            })
            .collect();
        let tuning = Tuning {
            panic_threshold: cluster.balance.panic_threshold,
            overprovisioning: self
                .source
                .as_ref()
                .map_or(140, |source| source.overprovisioning_factor),
            locality_weighted: cluster.balance.locality == LocalityPolicy::Weighted,
            fail_on_panic: matches!(
                cluster.balance.locality,
                LocalityPolicy::ZoneAware {
                    fail_on_panic: true,
                    ..
                }
            ),
            by_weight: self
                .source
                .as_ref()
                .is_some_and(|source| source.weighted_priority_health),
        };
        (
            Balancer::new(
                &cluster.balance.policy,
                tuning,
                &members,
                &self.locality_weights,
            ),
            chosen,
        )
    }
}

impl HostSet {
    /// Whether a host is still in its slow-start window.
    pub fn is_warming(&self, cluster: &Cluster, now: Instant) -> bool {
        let Some(slow) = &cluster.balance.slow_start else {
            return false;
        };
        self.hosts
            .iter()
            .any(|host| now.saturating_duration_since(host.state.joined) < slow.window)
    }
}

/// The transport the endpoint's metadata asks for.
pub fn transport_index(cluster: &Cluster, endpoint: &Endpoint) -> Option<u16> {
    let (_, name) = cluster.transport_for(&endpoint.metadata);
    let name = name?;
    let index = cluster
        .transport_matches
        .iter()
        .position(|entry| entry.name == name)?;
    u16::try_from(index).ok()
}

/// What consistent hashing hashes for an endpoint: its `envoy.lb` `hash_key`, its name, or its address.
fn hash_key(endpoint: &Endpoint, by_hostname: bool) -> String {
    if let Some(Value::String(key)) = endpoint
        .metadata
        .get("envoy.lb")
        .and_then(|lb| lb.get("hash_key"))
        && !key.is_empty()
    {
        return key.clone();
    }
    if by_hostname && !endpoint.hostname.is_empty() {
        return endpoint.hostname.clone();
    }
    endpoint.address.to_string()
}
