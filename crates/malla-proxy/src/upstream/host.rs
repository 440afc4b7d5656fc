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
use malla_proxy_config::cluster::{BalancePolicy, Cluster, LocalityPolicy, ZoneAware};
use malla_proxy_config::endpoints::{Endpoint, EndpointSet, Health, Locality};
use malla_proxy_config::metadata::{Object, Value};
use tokio::time::Instant;

use super::health::{Flag, Flags};
use super::outlier::Monitor;
use crate::balance::{
    Amounts, Availability, Balancer, Latency, Member, NoPlan, Proxies, Tuning, ZonePlan,
};

/// What is known of one address, shared by all workers.
#[derive(Debug)]
pub struct HostState {
    /// Passive health.
    pub monitor: Monitor,
    /// Active health.
    pub flags: Flags,
    /// How long it takes to answer (peak EWMA).
    pub latency: Latency,
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
        Self::new(Instant::now(), Flags::default())
    }

    fn new(joined: Instant, flags: Flags) -> Self {
        Self {
            flags,
            monitor: Monitor::default(),
            joined,
            latency: Latency::default(),
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

    /// What a balancer of `policy` compares hosts by.
    pub fn load(&self, policy: &BalancePolicy, now: Option<Instant>) -> u64 {
        let active = self.active.load(Ordering::Relaxed);
        match (policy, now) {
            (BalancePolicy::PeakEwma { decay, default_rtt }, Some(now)) => {
                let age = now.saturating_duration_since(self.joined);
                self.latency.cost(age, active, *decay, *default_rtt)
            }
            _ => active,
        }
    }

    /// An answer, or the lack of one, came after `rtt` (peak EWMA); a failure counts as slow, however soon it came.
    pub fn answered(&self, policy: &BalancePolicy, rtt: Duration, failed: bool) {
        if let BalancePolicy::PeakEwma { decay, default_rtt } = policy {
            let rtt = if failed { rtt.max(*default_rtt) } else { rtt };
            self.latency.observe(self.joined.elapsed(), rtt, *decay);
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
    /// Its metadata calls it a canary.
    pub canary: bool,
    pub state: Arc<HostState>,
}

impl Host {
    pub fn availability(&self) -> Availability {
        if self.state.monitor.is_ejected() || self.state.flags.has(Flag::Failed) {
            return Availability::Unhealthy;
        }
        match self.endpoint.health {
            Health::Healthy if self.state.flags.has(Flag::Degraded) => Availability::Degraded,
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

/// Where the proxy is, and the proxies that share the work with it.
#[derive(Debug, Clone)]
pub struct Local {
    pub own: Arc<Locality>,
    pub proxies: Proxies,
}

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
    /// Whether a host that was chosen before may still be used.
    pub fn still_has(&self, host: &Arc<Host>) -> bool {
        let is_it = |other: &Arc<Host>| Arc::ptr_eq(other, host);
        host.availability() != Availability::Unhealthy && self.hosts.iter().any(is_it)
    }

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
                let state = known.cloned().unwrap_or_else(|| {
                    Arc::new(HostState::new(now, first_flags(cluster, endpoint)))
                });
                state.flags.set(Flag::Leaving, false);
                kept.insert(endpoint.address.clone(), Arc::clone(&state));
                set.locality_index.push(index);
                set.hosts.push(Arc::new(Host {
                    endpoint: Arc::clone(endpoint),
                    priority: group.priority,
                    locality: Arc::clone(&locality),
                    transport: transport_index(cluster, endpoint),
                    canary: is_canary(endpoint),
                    state,
                }));
            }
        }
        *states = kept;
        set
    }

    /// Adds hosts of `old` that are gone but still pass their health checks: what the control plane lost may be there.
    pub fn keep_healthy(&mut self, old: &Self, states: &mut States) {
        for (at, host) in old.hosts.iter().enumerate() {
            let address = &host.endpoint.address;
            if states.contains_key(address) || host.state.flags.has(Flag::Failed) {
                continue;
            }
            host.state.flags.set(Flag::Leaving, true);
            let priority = host.priority as usize;
            if self.locality_weights.len() <= priority {
                self.locality_weights.resize(priority + 1, Vec::new());
            }
            let weights = &mut self.locality_weights[priority];
            if weights.is_empty() {
                weights.push(1);
            }
            let locality = old.locality_index.get(at).copied().unwrap_or(0);
            self.locality_index
                .push(locality.min(weights.len() as u32 - 1));
            self.hosts.push(Arc::clone(host));
            states.insert(address.clone(), Arc::clone(&host.state));
        }
    }

    /// A balancer over the hosts as healthy as they are now. `keep` leaves hosts out, `subset` says that those left are
    /// one of the cluster's subsets. With `local`, requests keep to zones.
    pub fn balancer(
        &self,
        cluster: &Cluster,
        keep: impl Fn(&Host) -> bool,
        subset: bool,
        local: Option<&Local>,
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
            .filter(|&index| {
                let host = &self.hosts[index as usize];
                !host.state.flags.has(Flag::Pending) && keep(host)
            })
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
        let subsets = cluster.balance.subsets.as_ref().filter(|_| subset);
        let weights = match subsets {
            Some(subsets) if subsets.scale_locality_weights => self.scaled_weights(&chosen),
            _ => self.locality_weights.clone(),
        };
        let tuning = Tuning {
            panic_threshold: cluster.balance.panic_threshold,
            overprovisioning: self
                .source
                .as_ref()
                .map_or(140, |source| source.overprovisioning_factor),
            locality_weighted: cluster.balance.locality == LocalityPolicy::Weighted
                && subsets.is_none_or(|subsets| subsets.locality_weights),
            fail_on_panic: matches!(
                cluster.balance.locality,
                LocalityPolicy::ZoneAware(ZoneAware {
                    fail_on_panic: true,
                    ..
                })
            ),
            by_weight: self
                .source
                .as_ref()
                .is_some_and(|source| source.weighted_priority_health),
        };
        let policy = &cluster.balance.policy;
        let whole = Balancer::new(policy, tuning, &members, &weights);
        let zoned = local.zip(cluster.balance.locality.zones());
        let balancer = match zoned {
            Some((local, settings)) => {
                self.between_zones(whole, policy, settings, local, &chosen, &members)
            }
            None => whole,
        };
        (balancer, chosen)
    }

    /// The balancer with requests kept to zones, if that can be.
    fn between_zones(
        &self,
        mut whole: Balancer,
        policy: &BalancePolicy,
        settings: ZoneAware,
        local: &Local,
        chosen: &[u32],
        members: &[Member],
    ) -> Balancer {
        if local.proxies.in_panic {
            whole.no_plan = Some(NoPlan::LocalNotOk);
            return match settings.fail_on_panic {
                true => Balancer::new(policy, Tuning::default(), &[], &[]),
                false => whole,
            };
        }
        let locality = |index: u32| &*self.hosts[index as usize].locality;
        let counts =
            |member: &Member| member.priority == 0 && member.availability == Availability::Healthy;
        let mut amounts = Amounts::new();
        let (mut healthy, mut in_own) = (0, 0);
        for (&index, member) in chosen.iter().zip(members) {
            if member.priority > 0 {
                continue;
            }
            let amount = amounts.entry(locality(index).clone()).or_default();
            if counts(member) {
                *amount += if settings.by_weight {
                    u64::from(member.weight)
                } else {
                    1
                };
                healthy += 1;
                in_own += u64::from(*locality(index) == *local.own);
            }
        }
        let zones: Vec<(Locality, u64)> = amounts.into_iter().collect();
        let at = |index: u32| zones.iter().position(|(zone, _)| zone == locality(index));
        let places: Vec<usize> = chosen
            .iter()
            .map(|&index| at(index).unwrap_or(usize::MAX))
            .collect();
        match ZonePlan::new(
            &settings,
            &local.own,
            &local.proxies,
            &zones,
            healthy,
            in_own,
        ) {
            Ok(plan) => whole.between_zones(policy, members, &places, zones.len(), &plan),
            Err(reason) => {
                whole.no_plan = Some(reason);
                whole
            }
        }
    }

    /// The hosts as the proxies that share the work with this one.
    pub fn as_proxies(&self, by_weight: bool, panic_threshold: f64) -> Proxies {
        let mut proxies = Proxies {
            healthy: Amounts::new(),
            in_panic: false,
        };
        let (mut all, mut available) = (0_u32, 0_u32);
        for host in self.hosts.iter().filter(|host| host.priority == 0) {
            let availability = host.availability();
            all += 1;
            available += u32::from(availability != Availability::Unhealthy);
            let amount = proxies.healthy.entry((*host.locality).clone()).or_default();
            if availability == Availability::Healthy {
                *amount += if by_weight {
                    u64::from(host.endpoint.weight)
                } else {
                    1
                };
            }
        }
        proxies.in_panic = f64::from(available) * 100.0 < panic_threshold * f64::from(all.max(1));
        proxies
    }

    /// Weights of localities by the share of their hosts that is chosen.
    fn scaled_weights(&self, chosen: &[u32]) -> Vec<Vec<u32>> {
        let empty = || -> Vec<Vec<u64>> {
            self.locality_weights
                .iter()
                .map(|weights| vec![0; weights.len()])
                .collect()
        };
        let (mut all, mut taken) = (empty(), empty());
        let count = |into: &mut Vec<Vec<u64>>, at: usize| {
            let priority = self.hosts[at].priority as usize;
            let slot = into
                .get_mut(priority)
                .and_then(|level| level.get_mut(self.locality_index[at] as usize));
            if let Some(slot) = slot {
                *slot += 1;
            }
        };
        (0..self.hosts.len()).for_each(|at| count(&mut all, at));
        chosen.iter().for_each(|&at| count(&mut taken, at as usize));
        let scale = |weight: u32, all: u64, taken: u64| match (all, taken) {
            (0, _) | (_, 0) => 0,
            // A locality that has hosts in the subset keeps a share.
            (all, taken) => ((f64::from(weight) * taken as f64 / all as f64).round() as u32)
                .max(u32::from(weight > 0)),
        };
        self.locality_weights
            .iter()
            .zip(all.iter().zip(&taken))
            .map(|(weights, (all, taken))| {
                let counts = all.iter().zip(taken);
                weights
                    .iter()
                    .zip(counts)
                    .map(|(&weight, (&all, &taken))| scale(weight, all, taken))
                    .collect()
            })
            .collect()
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

/// What health checks say of an endpoint before the first.
fn first_flags(cluster: &Cluster, endpoint: &Endpoint) -> Flags {
    let disabled = endpoint.check.as_ref().is_some_and(|check| check.disabled);
    if cluster.health_check.is_none() || disabled {
        return Flags::default();
    }
    Flags::unchecked(cluster.balance.ignore_unchecked)
}

/// The first transport all of whose criteria are among `have` (`transport_socket_match_criteria`).
pub fn transport_by(cluster: &Cluster, have: &Object) -> Option<u16> {
    let index = cluster.transport_matches.iter().position(|entry| {
        let mut criteria = entry.criteria.iter();
        criteria.all(|(key, want)| have.get(key) == Some(want))
    })?;
    u16::try_from(index).ok()
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

/// `envoy.lb` metadata `canary`.
fn is_canary(endpoint: &Endpoint) -> bool {
    let mark = endpoint
        .metadata
        .get("envoy.lb")
        .and_then(|lb| lb.get("canary"));
    mark == Some(&Value::Bool(true))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use malla_proxy_config::cluster::{Cluster, Discovery};
    use malla_xds_proto::json;
    use tokio::time::Instant;

    use super::{HostSet, States};

    /// Weights of a host that joins at 0, by seconds.
    fn weights(slow_start: &str, seconds: &[u64]) -> Vec<u32> {
        let yaml = format!(
            "{{ name: web, lb_policy: ROUND_ROBIN, round_robin_lb_config: {{ slow_start_config: {slow_start} }}, load_assignment: {{ cluster_name: web, endpoints: [ {{ lb_endpoints: [ {{ load_balancing_weight: 2, endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 80 }} }} }} }} ] }} ] }} }}"
        );
        let cluster = Cluster::from_proto(json::from_yaml(&yaml).unwrap()).unwrap();
        let cluster = cluster.value;
        let Discovery::Static(source) = &cluster.discovery else {
            panic!("a static cluster");
        };
        let now = Instant::now();
        let set = HostSet::build(&cluster, source, &mut States::default(), now);
        let at = |seconds| set.hosts[0].weight(&cluster, now + Duration::from_secs(seconds));
        seconds.iter().map(|seconds| at(*seconds)).collect()
    }

    #[test]
    fn new_hosts_get_more_by_the_second() {
        // Envoy: weight * max(min_weight_percent, (time / window) ^ (1 / aggression)); a thousand is the whole of 1.
        for (settings, want) in [
            ("{ slow_start_window: 10s }", [200, 200, 1000, 2000, 2000]),
            (
                "{ slow_start_window: 10s, min_weight_percent: { value: 40 } }",
                [800, 800, 1000, 2000, 2000],
            ),
            (
                "{ slow_start_window: 10s, aggression: { default_value: 2, runtime_key: x } }",
                [632, 632, 1414, 2000, 2000],
            ),
        ] {
            assert_eq!(weights(settings, &[0, 1, 5, 10, 60]), want, "{settings}");
        }
    }
}
