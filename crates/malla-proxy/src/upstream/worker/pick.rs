//! Chooses the host for a request or connection, with a balancer that is rebuilt when hosts or their health change.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{BalancePolicy, Cluster, Discovery, OriginalDst};
use malla_proxy_config::endpoints::{Endpoint, Locality};
use malla_proxy_config::matcher::Fraction;
use malla_proxy_config::route::retry::AvoidHosts;
use tokio::time::Instant;

use super::WorkerCluster;
use super::priorities::left_out;
use super::subset::SubsetPick;
use crate::balance::{Availability, Balancer, NoPlan, Request, Rng64, ZoneStep};
use crate::connection::Connection;
use crate::telemetry::stats::ClusterStats;
use crate::upstream::host::{Host, HostSet, Local};
use crate::upstream::{Choice, SendError};

/// While a host is warming up its weight changes by the second.
const SLOW_START_REFRESH: Duration = Duration::from_secs(1);

/// Subsets whose balancers are kept at once.
const MAX_SUBSETS: usize = 1024;

/// The balancers over one set of hosts in one state of health.
#[derive(Debug, Default)]
pub(super) struct Picker {
    current: Option<Current>,
    /// By the criteria of a subset; good as long as `current` is.
    subsets: HashMap<String, Current, RandomState>,
}

#[derive(Debug)]
pub(super) struct Current {
    hosts: Arc<HostSet>,
    health: u64,
    balancer: Balancer,
    /// Index in `hosts` of each member of the balancer.
    members: Vec<u32>,
    /// Weights are good until then.
    until: Option<Instant>,
    /// The proxies it shares the work with.
    local: Option<LocalHosts>,
}

/// The hosts of the proxies' own cluster (`local_cluster_name`) in one state of health.
#[derive(Debug, Clone)]
pub(super) struct LocalHosts {
    own: Arc<Locality>,
    hosts: Arc<HostSet>,
    health: u64,
}

impl LocalHosts {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.hosts, &other.hosts) && self.health == other.health
    }

    fn view(&self, cluster: &Cluster) -> Option<Local> {
        let settings = cluster.balance.locality.zones()?;
        let panic = cluster.balance.panic_threshold;
        Some(Local {
            own: Arc::clone(&self.own),
            proxies: self.hosts.as_proxies(settings.by_weight, panic),
        })
    }
}

impl WorkerCluster {
    /// The host for a request; `Err` if none may be used or the load assignment drops the request.
    pub(super) async fn choose(
        &self,
        choice: &Choice<'_>,
        headers: &http::HeaderMap,
    ) -> Result<Arc<Host>, SendError> {
        let shared = &self.around.shared;
        if let Discovery::OriginalDst(settings) = &self.config().discovery {
            let stats = &self.around.stats;
            let address = original_destination(settings, choice.connection, headers);
            let Some(address) = address.unwrap_or_else(|_| {
                stats.original_dst_host_invalid.inc();
                None
            }) else {
                stats.upstream_cx_none_healthy.inc();
                return Err(SendError::NoHealthyHost);
            };
            return Ok(self.dynamic_host(address));
        }
        if !shared.is_resolved() {
            // The first look-up is under way: waiting for it beats failing the first requests.
            let _ = tokio::time::timeout(self.config().connect_timeout, shared.resolved()).await;
        }
        let hosts = shared.hosts();
        let drops = hosts.source.as_ref().map(|source| &source.drop_overloads);
        for (_, share) in drops.into_iter().flatten() {
            if share.hit(self.rng.borrow_mut().next()) {
                let all = share.ppm() >= Fraction::ALWAYS.ppm();
                return Err(SendError::DropOverload { all });
            }
        }
        let hash = Request {
            hash: choice.hash,
            reselections: reselections(choice),
        };
        let refuse = |host: &Host| {
            avoided(choice).is_some_and(|avoid| {
                avoid.previous && is_tried(choice.tried, host)
                    || avoid.omits(&host.endpoint.metadata)
            })
        };
        if let Some(host) = self.untried_priority(&hosts, choice, hash, &refuse) {
            return Ok(host);
        }
        let foreseen = self.foreseen.borrow_mut().pop_front();
        if let Some(host) = foreseen.filter(|host| hosts.still_has(host) && !refuse(host)) {
            return Ok(host);
        }
        let picked = self.pick(&hosts, choice, hash, &refuse);
        picked.ok_or_else(|| {
            self.around.stats.upstream_cx_none_healthy.inc();
            SendError::NoHealthyHost
        })
    }

    /// The host of the request after the next, where the policy can tell; it will be chosen then.
    pub(super) fn foresee(&self, choice: &Choice<'_>) -> Option<Arc<Host>> {
        let balance = &self.config().balance;
        let can_tell = matches!(
            balance.policy,
            BalancePolicy::RoundRobin | BalancePolicy::Random
        );
        if !can_tell || balance.subsets.is_some() {
            return None;
        }
        let hosts = self.around.shared.hosts();
        let request = Request {
            hash: None,
            reselections: 0,
        };
        let host = self.pick(&hosts, choice, request, &|_| false)?;
        self.foreseen.borrow_mut().push_back(Arc::clone(&host));
        Some(host)
    }

    fn pick(
        &self,
        hosts: &Arc<HostSet>,
        choice: &Choice<'_>,
        hash: Request,
        refuse: &dyn Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let health = self.around.shared.health_version();
        let local = self.local_hosts();
        let mut rng = self.rng.borrow_mut();
        let mut picker = self.picker.borrow_mut();
        let config = self.config();
        let current = picker.follow(config, hosts, health, local, &self.around.stats);
        match &config.balance.subsets {
            None => {
                if current.balancer.in_panic() {
                    self.around.stats.lb_healthy_panic.inc();
                }
                let picked = current.pick(&config.balance.policy, hash, &mut rng, refuse);
                if let Some(step) = current.balancer.last_step() {
                    count_step(&self.around.stats, step);
                }
                picked
            }
            Some(subsets) => SubsetPick {
                picker: &mut picker,
                config,
                subsets,
                request: hash,
                rng: &mut rng,
                refuse,
                stats: &self.around.stats,
            }
            .choose(choice.metadata_match),
        }
    }

    /// The proxies that share the work with this one, where that matters to the cluster.
    fn local_hosts(&self) -> Option<LocalHosts> {
        let home = &self.around.shared.home;
        let name = home.cluster.as_ref()?;
        let config = self.config();
        if *name == config.name || config.balance.locality.zones().is_none() {
            return None;
        }
        let snapshot = self.around.live.load_full();
        let entry = snapshot.cluster(name)?;
        let mut cached = self.local.borrow_mut();
        let known = cached.take_if(|known| !Arc::ptr_eq(&known.config, &entry.config));
        drop(known);
        let shared = cached.get_or_insert_with(|| self.around.clusters.get(entry));
        Some(LocalHosts {
            own: Arc::clone(&home.locality),
            hosts: Arc::clone(&shared.hosts()),
            health: shared.health_version(),
        })
    }

    fn dynamic_host(&self, address: Address) -> Arc<Host> {
        let mut dynamic = self.dynamic.borrow_mut();
        if let Some(host) = dynamic.get(&address) {
            return Arc::clone(host);
        }
        let host = self.around.shared.dynamic_host(address.clone());
        dynamic.insert(address, Arc::clone(&host));
        host
    }

    /// With `previous_priorities`: a host of a priority not tried yet, while there is one.
    fn untried_priority(
        &self,
        hosts: &HostSet,
        choice: &Choice<'_>,
        hash: Request,
        refuse: &dyn Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let every = choice.avoid_priorities? as usize;
        if every == 0 || choice.tried.is_empty() {
            return None;
        }
        let priority_of = |tried: &Arc<Endpoint>| {
            let mut all = hosts.hosts.iter();
            all.find(|host| host.endpoint.address == tried.address)
                .map(|host| host.priority)
        };
        let tried: Vec<u32> = choice.tried.iter().filter_map(priority_of).collect();
        let all: Vec<u32> = hosts.hosts.iter().map(|host| host.priority).collect();
        let usable = |priority: u32| {
            hosts.hosts.iter().any(|host| {
                host.priority == priority && host.availability() != Availability::Unhealthy
            })
        };
        let out = left_out(&tried, every, usable, &all)?;
        let (mut balancer, members) = hosts.balancer(
            self.config(),
            |host| !out.contains(&host.priority) && usable(host.priority),
            false,
            None,
            Instant::now(),
        );
        let mut rng = self.rng.borrow_mut();
        let now = Instant::now();
        let at = |member: usize| &hosts.hosts[members[member] as usize];
        let picked = balancer.pick(
            hash,
            &mut rng,
            &|m| at(m).state.load(&self.config().balance.policy, Some(now)),
            &|m| refuse(at(m)),
        );
        picked.map(|member| Arc::clone(at(member)))
    }
}

impl Picker {
    /// The balancer of the hosts of a subset, `None` if it has none. `key` names the subset.
    pub(super) fn subset(
        &mut self,
        cluster: &Cluster,
        key: String,
        keep: impl Fn(&Host) -> bool,
    ) -> Option<&mut Current> {
        let (hosts, health, local) = match &self.current {
            Some(current) => (
                Arc::clone(&current.hosts),
                current.health,
                current.local.clone(),
            ),
            None => return None,
        };
        if self.subsets.len() >= MAX_SUBSETS && !self.subsets.contains_key(&key) {
            self.subsets.clear();
        }
        let current = self
            .subsets
            .entry(key)
            .or_insert_with(|| Current::new(cluster, hosts, health, local, keep, true));
        (!current.members.is_empty()).then_some(current)
    }

    /// The balancer over all hosts.
    pub(super) fn all(&mut self) -> Option<&mut Current> {
        self.current.as_mut()
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> &[Arc<Host>] {
        self.current
            .as_ref()
            .map_or(&[], |current| &current.hosts.hosts)
    }

    /// The balancer for `hosts`, rebuilt if anything it depends on changed.
    fn follow(
        &mut self,
        cluster: &Cluster,
        hosts: &Arc<HostSet>,
        health: u64,
        local: Option<LocalHosts>,
        stats: &ClusterStats,
    ) -> &mut Current {
        let fresh = self.current.as_ref().is_some_and(|current| {
            let same = match (&current.local, &local) {
                (None, None) => true,
                (Some(old), Some(new)) => old.is_same(new),
                _ => false,
            };
            same && Arc::ptr_eq(&current.hosts, hosts)
                && current.health == health
                && current.until.is_none_or(|until| Instant::now() < until)
        });
        if !fresh {
            self.current = None;
            self.subsets.clear();
        }
        self.current.get_or_insert_with(|| {
            let zones = local.is_some();
            let all = |_: &Host| true;
            let new = Current::new(cluster, Arc::clone(hosts), health, local, all, false);
            if zones {
                stats.lb_recalculate_zone_structures.inc();
            }
            match new.balancer.no_plan {
                Some(NoPlan::LocalNotOk) => stats.lb_local_cluster_not_ok.inc(),
                Some(NoPlan::TooSmall) => stats.lb_zone_cluster_too_small.inc(),
                Some(NoPlan::Needless) | None => {}
            }
            new
        })
    }
}

fn count_step(stats: &ClusterStats, step: ZoneStep) {
    match step {
        ZoneStep::AllDirectly => stats.lb_zone_routing_all_directly.inc(),
        ZoneStep::Sampled => stats.lb_zone_routing_sampled.inc(),
        ZoneStep::CrossZone => stats.lb_zone_routing_cross_zone.inc(),
        ZoneStep::NoRoom => {
            stats.lb_zone_routing_cross_zone.inc();
            stats.lb_zone_no_capacity_left.inc();
        }
    }
}

impl Current {
    pub(super) fn new(
        cluster: &Cluster,
        hosts: Arc<HostSet>,
        health: u64,
        local: Option<LocalHosts>,
        keep: impl Fn(&Host) -> bool,
        subset: bool,
    ) -> Self {
        let now = Instant::now();
        let view = local.as_ref().and_then(|local| local.view(cluster));
        let (balancer, members) = hosts.balancer(cluster, keep, subset, view.as_ref(), now);
        let warming = hosts.is_warming(cluster, now);
        Self {
            health,
            balancer,
            members,
            until: warming.then(|| now + SLOW_START_REFRESH),
            hosts,
            local,
        }
    }

    pub(super) fn pick(
        &mut self,
        policy: &BalancePolicy,
        request: Request,
        rng: &mut Rng64,
        refuse: &dyn Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let (hosts, members) = (&self.hosts.hosts, &self.members);
        let at = |member: usize| &hosts[members[member] as usize];
        // Only asked for where it matters.
        let now = matches!(policy, BalancePolicy::PeakEwma { .. }).then(Instant::now);
        let active = |member: usize| at(member).state.load(policy, now);
        let picked = self
            .balancer
            .pick(request, rng, &active, &|member| refuse(at(member)));
        picked.map(|member| Arc::clone(at(member)))
    }
}

/// How often another host may be drawn after the first.
fn reselections(choice: &Choice<'_>) -> u32 {
    if avoided(choice).is_some() {
        choice.host_selection_attempts.max(1)
    } else {
        0
    }
}

/// What the request's next try avoids; the first one takes any host.
fn avoided<'a>(choice: &Choice<'a>) -> Option<&'a AvoidHosts> {
    choice
        .avoid
        .filter(|avoid| !choice.tried.is_empty() && !avoid.is_empty())
}

fn is_tried(tried: &[Arc<Endpoint>], host: &Host) -> bool {
    tried
        .iter()
        .any(|tried| tried.address == host.endpoint.address)
}

/// Where an ORIGINAL_DST cluster sends a connection: the header if configured and sent, else where the client meant to go.
/// `Err` if the header is no address.
fn original_destination(
    settings: &OriginalDst,
    connection: &Connection,
    headers: &http::HeaderMap,
) -> Result<Option<Address>, NoAddress> {
    let from_header = settings.header.as_ref().and_then(|name| headers.get(name));
    let address = match from_header {
        Some(value) => {
            let text = value.to_str().map_err(|_| NoAddress)?;
            Some(text.parse().map_err(|_| NoAddress)?)
        }
        None => connection
            .local
            .socket()
            .filter(|_| connection.local_restored),
    };
    Ok(address.map(|mut address: SocketAddr| {
        if let Some(port) = settings.port_override {
            address.set_port(port);
        }
        Address::Socket(address)
    }))
}

/// A header that names no IP address with a port.
#[derive(Debug)]
struct NoAddress;
