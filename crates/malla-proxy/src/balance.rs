//! Picks one endpoint of a cluster for one request.
//!
//! Everything here is pure: a [`Balancer`] is built from a list of [`Member`]s and never waits, does no IO and reads no
//! clock. Health (EDS status, outlier ejection) is decided elsewhere and is only read when the balancer is built;
//! a change of health builds a new one. The arithmetic is Envoy's, so that the same endpoints and the same hash give
//! the same host as Envoy's ring-hash and Maglev balancers, and the same shares in priorities, localities and panic.
mod bounded;
mod edf;
mod ewma;
mod group;
mod maglev;
mod priority;
mod ring_hash;
mod rng;
mod zone;

use malla_proxy_config::cluster::BalancePolicy;

use self::bounded::Bound;
use self::group::Group;
use self::maglev::MaglevTable;
use self::ring_hash::Ring;

pub use self::ewma::Latency;
pub use self::priority::{Availability, LevelHealth, PriorityLoad};
pub use self::rng::Rng64;
pub use self::zone::{Amounts, NoPlan, Proxies, ZonePlan, ZoneStep};

/// What applies to the whole cluster, whatever the algorithm (`Cluster.common_lb_config`, `ClusterLoadAssignment.policy`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// Below this share of healthy hosts a level is balanced over all its hosts; percent, 0 turns panic off.
    pub panic_threshold: f64,
    /// Percent, 140 unless told (`overprovisioning_factor`).
    pub overprovisioning: u32,
    /// Whether `locality_weighted_lb_config` is set.
    pub locality_weighted: bool,
    /// A level's health is measured by weight, not by count (`weighted_priority_health`).
    pub by_weight: bool,
    /// `fail_traffic_on_panic`: in panic pick nothing at all.
    pub fail_on_panic: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            panic_threshold: 50.0,
            overprovisioning: 140,
            locality_weighted: false,
            by_weight: false,
            fail_on_panic: false,
        }
    }
}

/// One endpoint, as the balancers see it. A pick answers with its index in the list.
#[derive(Clone, Debug)]
pub struct Member {
    /// What is hashed for this host: `address:port`, unless the endpoint's metadata names another key.
    pub key: String,
    /// At least 1.
    pub weight: u32,
    pub priority: u32,
    /// Index of the locality within its priority level, in the order of the load assignment.
    pub locality: u32,
    pub availability: Availability,
}

/// What one request asks of a pick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// From the route's hash policy; without one, hashing balancers use a random hash.
    pub hash: Option<u64>,
    /// How often a host already tried may be passed over (`host_selection_retry_max_attempts`).
    pub reselections: u32,
}

/// A cluster's balancer for one immutable list of members.
#[derive(Debug)]
pub struct Balancer {
    load: PriorityLoad,
    levels: Vec<Level>,
    fail_on_panic: bool,
    /// What zones had to do with the last pick.
    step: Option<ZoneStep>,
    /// Why there is no plan for zones, where one was wanted.
    pub no_plan: Option<NoPlan>,
}

#[derive(Debug)]
struct Level {
    panic: bool,
    chooser: Chooser,
}

#[derive(Debug)]
enum Chooser {
    Ring(Ring, Option<Bound>),
    Maglev(MaglevTable, Option<Bound>),
    Groups(Box<Groups>),
}

/// The host lists that schedulers run over: all hosts (panic), the healthy and the degraded, each optionally split by locality.
#[derive(Debug)]
struct Groups {
    policy: BalancePolicy,
    all: Group,
    healthy: Source,
    degraded: Source,
}

#[derive(Debug)]
enum Source {
    Flat(Group),
    Localities(edf::Edf, Vec<Group>),
    /// All of them, and by zone.
    Zones(Box<(ZonePlan, Group, Vec<Group>)>),
}

impl Balancer {
    /// Builds the tables for `members`. `locality_weights[priority][locality]` is used with `tuning.locality_weighted`.
    pub fn new(
        policy: &BalancePolicy,
        tuning: Tuning,
        members: &[Member],
        locality_weights: &[Vec<u32>],
    ) -> Self {
        let count = members
            .iter()
            .map(|member| member.priority as usize + 1)
            .max()
            .unwrap_or(0);
        let mut by_level: Vec<Vec<u32>> = vec![Vec::new(); count];
        for (index, member) in members.iter().enumerate() {
            by_level[member.priority as usize].push(index as u32);
        }
        let health: Vec<LevelHealth> = by_level
            .iter()
            .map(|level| {
                let hosts = level.iter().map(|&index| &members[index as usize]);
                LevelHealth::count(hosts.map(|host| {
                    let weight = if tuning.by_weight {
                        u64::from(host.weight)
                    } else {
                        1
                    };
                    (host.availability, weight)
                }))
            })
            .collect();
        let load = PriorityLoad::compute(&health, tuning.overprovisioning, tuning.panic_threshold);
        let levels = by_level
            .iter()
            .enumerate()
            .map(|(priority, level)| {
                let panic = load.in_panic(priority);
                let weights = locality_weights
                    .get(priority)
                    .filter(|_| tuning.locality_weighted);
                let scope = Scope {
                    members,
                    level,
                    weights: weights.map(Vec::as_slice),
                    overprovisioning: tuning.overprovisioning,
                };
                Level {
                    panic,
                    chooser: scope.chooser(policy, panic),
                }
            })
            .collect();
        Self {
            load,
            levels,
            fail_on_panic: tuning.fail_on_panic,
            step: None,
            no_plan: None,
        }
    }

    /// Shares the first level between zones; `zones` has the zone of each member, as the plan numbers them.
    #[must_use]
    pub fn between_zones(
        mut self,
        policy: &BalancePolicy,
        members: &[Member],
        zones: &[usize],
        count: usize,
        plan: &ZonePlan,
    ) -> Self {
        if let Some(Level {
            chooser: Chooser::Groups(groups),
            ..
        }) = self.levels.first_mut()
        {
            let zoned = |availability| {
                let hosts = |zone: Option<usize>| {
                    let all = members.iter().zip(zones).enumerate();
                    let fit = all.filter(move |(_, (member, at))| {
                        let here = zone.is_none_or(|zone| zone == **at);
                        member.priority == 0 && member.availability == availability && here
                    });
                    Group::new(
                        policy,
                        fit.map(|(index, (member, _))| (index as u32, member.weight)),
                    )
                };
                let zones = (0..count).map(|zone| hosts(Some(zone))).collect();
                Source::Zones(Box::new((plan.clone(), hosts(None), zones)))
            };
            groups.healthy = zoned(Availability::Healthy);
            groups.degraded = zoned(Availability::Degraded);
        }
        self
    }

    /// What zones had to do with the last pick.
    pub fn last_step(&mut self) -> Option<ZoneStep> {
        self.step.take()
    }

    /// Chooses a member. `active` tells how many requests a member is serving now, or for peak EWMA its cost; `refuse` says that a member should be
    /// passed over if another can be had (`retry_host_predicate`): after `request.reselections` refusals the last choice stands.
    pub fn pick(
        &mut self,
        request: Request,
        rng: &mut Rng64,
        active: &dyn Fn(usize) -> u64,
        refuse: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let hash = request.hash.unwrap_or_else(|| rng.next());
        let mut last = None;
        for attempt in 0..=u64::from(request.reselections) {
            // Schedulers draw the priority anew for each try; hashing ones keep it, as Envoy does.
            let draw = if self.is_hashing() { hash } else { rng.next() };
            let (priority, degraded) = self.load.choose(draw);
            let level = self.levels.get_mut(priority)?;
            if level.panic && self.fail_on_panic {
                return None;
            }
            last = level.choose(hash, attempt, degraded, rng, active, &mut self.step);
            match last {
                Some(index) if refuse(index) => {}
                settled => return settled,
            }
        }
        last
    }

    /// Whether some level serves from unhealthy hosts because too few are healthy.
    pub fn in_panic(&self) -> bool {
        self.levels.iter().any(|level| level.panic)
    }

    fn is_hashing(&self) -> bool {
        matches!(
            self.levels.first().map(|level| &level.chooser),
            Some(Chooser::Ring(..) | Chooser::Maglev(..))
        )
    }
}

impl Level {
    fn choose(
        &mut self,
        hash: u64,
        attempt: u64,
        degraded: bool,
        rng: &mut Rng64,
        active: &dyn Fn(usize) -> u64,
        step: &mut Option<ZoneStep>,
    ) -> Option<usize> {
        match &mut self.chooser {
            Chooser::Ring(ring, bound) => within(ring.choose(hash, attempt)?, bound, hash, active),
            Chooser::Maglev(table, bound) => {
                within(table.choose(hash, attempt)?, bound, hash, active)
            }
            Chooser::Groups(groups) => {
                let policy = &groups.policy;
                let source = match (self.panic, degraded) {
                    (true, _) => return groups.all.choose(policy, rng, active),
                    (false, false) => &mut groups.healthy,
                    (false, true) => &mut groups.degraded,
                };
                match source {
                    Source::Flat(group) => group.choose(policy, rng, active),
                    Source::Localities(order, groups) => {
                        let locality = order.next(|_, weight| weight)?;
                        groups.get_mut(locality)?.choose(policy, rng, active)
                    }
                    Source::Zones(zones) => {
                        let (plan, all, groups) = &mut **zones;
                        match plan.choose(rng) {
                            None => all.choose(policy, rng, active),
                            Some((zone, taken)) => {
                                *step = Some(taken);
                                groups.get_mut(zone)?.choose(policy, rng, active)
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The hashed host, or another one while it is over its share of the load.
fn within(
    choice: usize,
    bound: &Option<Bound>,
    hash: u64,
    active: &dyn Fn(usize) -> u64,
) -> Option<usize> {
    Some(
        bound
            .as_ref()
            .map_or(choice, |bound| bound.within(choice, hash, active)),
    )
}

/// One priority level while its tables are being built.
struct Scope<'a> {
    members: &'a [Member],
    level: &'a [u32],
    weights: Option<&'a [u32]>,
    overprovisioning: u32,
}

impl Scope<'_> {
    fn chooser(&self, policy: &BalancePolicy, panic: bool) -> Chooser {
        let bound = |hosts: &[Weighted<'_>], factor: &Option<u32>| {
            factor.map(|factor| Bound::new(hosts, factor))
        };
        match policy {
            BalancePolicy::RingHash {
                min_size,
                max_size,
                murmur,
                balance_factor,
                ..
            } => {
                let hosts = self.normalised(panic);
                let ring = Ring::build(&hosts, *min_size, *max_size, *murmur);
                Chooser::Ring(ring, bound(&hosts, balance_factor))
            }
            BalancePolicy::Maglev {
                table_size,
                balance_factor,
                ..
            } => {
                let hosts = self.normalised(panic);
                Chooser::Maglev(
                    MaglevTable::build(&hosts, *table_size),
                    bound(&hosts, balance_factor),
                )
            }
            // The cluster gives the host where it is `ClusterProvided`; nothing asks this balancer then.
            BalancePolicy::RoundRobin
            | BalancePolicy::LeastRequest { .. }
            | BalancePolicy::Random
            | BalancePolicy::PeakEwma { .. }
            | BalancePolicy::ClusterProvided => Chooser::Groups(Box::new(Groups {
                policy: policy.clone(),
                all: self.group(policy, |_| true),
                healthy: self.source(policy, Availability::Healthy),
                degraded: self.source(policy, Availability::Degraded),
            })),
        }
    }

    fn group(&self, policy: &BalancePolicy, keep: impl Fn(&Member) -> bool) -> Group {
        let hosts = self
            .level
            .iter()
            .map(|&index| (index, &self.members[index as usize]))
            .filter(|(_, member)| keep(member))
            .map(|(index, member)| (index, member.weight));
        Group::new(policy, hosts)
    }

    fn source(&self, policy: &BalancePolicy, wanted: Availability) -> Source {
        let Some(weights) = self.weights else {
            return Source::Flat(self.group(policy, |member| member.availability == wanted));
        };
        let groups: Vec<Group> = (0..weights.len() as u32)
            .map(|locality| {
                self.group(policy, |member| {
                    member.availability == wanted && member.locality == locality
                })
            })
            .collect();
        let effective =
            weights
                .iter()
                .zip(&groups)
                .enumerate()
                .map(|(locality, (&weight, group))| {
                    let total = self.size_of(locality as u32);
                    priority::effective_locality_weight(
                        weight,
                        group.len(),
                        total,
                        self.overprovisioning,
                    )
                });
        let order = edf::Edf::new(effective);
        if order.is_empty() {
            return Source::Flat(self.group(policy, |member| member.availability == wanted));
        }
        Source::Localities(order, groups)
    }

    fn size_of(&self, locality: u32) -> usize {
        self.level
            .iter()
            .filter(|&&index| self.members[index as usize].locality == locality)
            .count()
    }

    /// Host weights that sum to 1 over the level, locality weights applied: what consistent-hash tables are built from.
    fn normalised(&self, panic: bool) -> Vec<Weighted<'_>> {
        let usable = |index: &&u32| {
            panic || self.members[**index as usize].availability == Availability::Healthy
        };
        let share = |locality: Option<u32>, share: f64| -> Vec<Weighted<'_>> {
            let hosts: Vec<u32> = self
                .level
                .iter()
                .filter(usable)
                .copied()
                .filter(|&i| {
                    locality.is_none_or(|wanted| self.members[i as usize].locality == wanted)
                })
                .collect();
            let sum: u64 = hosts
                .iter()
                .map(|&i| u64::from(self.members[i as usize].weight))
                .sum();
            hosts
                .into_iter()
                .map(|index| {
                    let member = &self.members[index as usize];
                    let weight = f64::from(member.weight) * share / sum as f64;
                    Weighted {
                        index,
                        key: &member.key,
                        weight,
                    }
                })
                .collect()
        };
        match self.weights {
            None => share(None, 1.0),
            Some(weights) => {
                let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
                weights
                    .iter()
                    .enumerate()
                    .filter(|(_, weight)| **weight != 0)
                    .flat_map(|(locality, &weight)| {
                        share(Some(locality as u32), f64::from(weight) / sum as f64)
                    })
                    .collect()
            }
        }
    }
}

/// A host with its share of the level, for the consistent-hash tables.
#[derive(Clone, Copy, Debug)]
struct Weighted<'a> {
    index: u32,
    key: &'a str,
    weight: f64,
}

#[cfg(test)]
mod tests;
