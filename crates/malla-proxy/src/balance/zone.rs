//! Zone-aware routing: requests stay in the own zone as far as that does not overload it.
//!
//! The shares are Envoy's (`regenerateLocalityRoutingStructures`): a zone is meant to take the share of requests that its
//! share of endpoints can serve. Where the proxies of a zone bring less than that, all of theirs stay; else the rest goes
//! to zones that have room. Shares are in ten thousandths.
use std::collections::BTreeMap;

use malla_proxy_config::cluster::ZoneAware;
use malla_proxy_config::endpoints::Locality;

use super::Rng64;

/// A whole.
const WHOLE: u64 = 10_000;

/// How many healthy hosts a zone has, or what they weigh.
pub type Amounts = BTreeMap<Locality, u64>;

/// The proxies that share the work.
#[derive(Debug, Clone)]
pub struct Proxies {
    /// Healthy ones by zone; a zone where none is well has an amount of 0.
    pub healthy: Amounts,
    /// Too few of them are healthy.
    pub in_panic: bool,
}

/// Where the requests of one cluster go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonePlan {
    /// Percent of requests it is for.
    enabled: u32,
    routing: Routing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Routing {
    /// All stay.
    Direct(usize),
    /// So many stay; the others go where there is room. Both in ten thousandths, the room added up zone by zone.
    Residual {
        own: Option<(usize, u64)>,
        room: Vec<u64>,
    },
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlan {
    /// Zones do not matter here.
    Needless,
    /// The proxy is not among those it should be one of, or too few of them are well.
    LocalNotOk,
    TooSmall,
}

/// What a plan said of one request (`lb_zone_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneStep {
    AllDirectly,
    Sampled,
    CrossZone,
    /// As the one before, but nowhere is room.
    NoRoom,
}

impl ZonePlan {
    /// The plan for a cluster with these amounts in its zones, in the order of the answer of [`Self::choose`].
    /// `healthy` is the number of its healthy hosts.
    pub fn new(
        settings: &ZoneAware,
        own: &Locality,
        proxies: &Proxies,
        zones: &[(Locality, u64)],
        healthy: u64,
        in_own: u64,
    ) -> Result<Self, NoPlan> {
        if zones.len() < 2 || proxies.healthy.len() < 2 && settings.force_local.is_none() {
            return Err(NoPlan::Needless);
        }
        if !proxies.healthy.contains_key(own) {
            return Err(NoPlan::LocalNotOk);
        }
        if healthy < settings.min_cluster_size {
            return Err(NoPlan::TooSmall);
        }
        let plan = |routing| Self {
            enabled: settings.enabled_percent,
            routing,
        };
        let (all_proxies, all_hosts) = (
            proxies.healthy.values().sum::<u64>(),
            zones.iter().map(|(_, amount)| amount).sum::<u64>(),
        );
        let share = |part: u64, all: u64| (WHOLE * part).checked_div(all).unwrap_or(0);
        let shares: Vec<(u64, u64)> = zones
            .iter()
            .map(|(zone, amount)| {
                let proxies = proxies.healthy.get(zone).copied().unwrap_or(0);
                match amount {
                    0 => (0, 0),
                    amount => (share(proxies, all_proxies), share(*amount, all_hosts)),
                }
            })
            .collect();
        let at = zones.iter().position(|(zone, _)| zone == own);
        let here = at.and_then(|at| Some((at, *shares.get(at)?)));
        if let Some((at, (proxies, hosts))) = here {
            let forced = settings
                .force_local
                .is_some_and(|min| in_own >= u64::from(min));
            if hosts > 0 && hosts >= proxies || forced {
                return Ok(plan(Routing::Direct(at)));
            }
        }
        let stay = here
            .map(|(at, (proxies, hosts))| (at, (hosts * WHOLE).checked_div(proxies).unwrap_or(0)));
        let mut sum = 0;
        let room = shares.iter().enumerate().map(|(zone, (proxies, hosts))| {
            if Some(zone) != at {
                sum += hosts.saturating_sub(*proxies);
            }
            sum
        });
        let room = room.collect();
        Ok(plan(Routing::Residual { own: stay, room }))
    }

    /// The zone for one request; `None` where zones do not matter to it.
    pub fn choose(&self, rng: &mut Rng64) -> Option<(usize, ZoneStep)> {
        if rng.next() % 100 >= u64::from(self.enabled) {
            return None;
        }
        let (own, room) = match &self.routing {
            Routing::Direct(at) => return Some((*at, ZoneStep::AllDirectly)),
            Routing::Residual { own, room } => (own, room),
        };
        if let Some((at, stay)) = own
            && rng.next() % WHOLE < *stay
        {
            return Some((*at, ZoneStep::Sampled));
        }
        match room.last().copied().unwrap_or(0) {
            0 => Some((rng.below(room.len().max(1)), ZoneStep::NoRoom)),
            all => {
                let draw = rng.next() % all;
                let at = room.iter().position(|upto| draw < *upto)?;
                Some((at, ZoneStep::CrossZone))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use malla_proxy_config::cluster::ZoneAware;
    use malla_proxy_config::endpoints::Locality;
    use proptest::prelude::prop;
    use proptest::{prop_assert, prop_assume, proptest};

    use super::{NoPlan, Proxies, ZonePlan, ZoneStep};
    use crate::balance::Rng64;

    fn zone(at: usize) -> Locality {
        Locality {
            zone: format!("z{at}"),
            ..Locality::default()
        }
    }

    fn proxies(counts: &[u64]) -> Proxies {
        let counts = counts.iter().enumerate();
        Proxies {
            healthy: counts
                .filter(|(_, count)| **count > 0)
                .map(|(at, count)| (zone(at), *count))
                .collect(),
            in_panic: false,
        }
    }

    fn plan(
        own: usize,
        ours: &[u64],
        theirs: &[u64],
        settings: &ZoneAware,
    ) -> Result<ZonePlan, NoPlan> {
        let zones: Vec<_> = theirs
            .iter()
            .enumerate()
            .map(|(at, n)| (zone(at), *n))
            .collect();
        let all = theirs.iter().sum();
        let in_own = theirs.get(own).copied().unwrap_or(0);
        ZonePlan::new(settings, &zone(own), &proxies(ours), &zones, all, in_own)
    }

    /// What becomes of `picks` requests, by zone.
    fn spread(plan: &ZonePlan, zones: usize, picks: usize) -> Vec<usize> {
        let mut rng = Rng64::seeded(3);
        let mut out = vec![0; zones];
        for _ in 0..picks {
            if let Some((at, _)) = plan.choose(&mut rng) {
                out[at] += 1;
            }
        }
        out
    }

    #[test]
    fn envoys_example_is_shared_as_its_documentation_says() {
        // Proxies 40, 40, 20 percent; hosts 25, 50, 25.
        let settings = ZoneAware {
            min_cluster_size: 1,
            ..ZoneAware::default()
        };
        let first = plan(0, &[4, 4, 2], &[5, 10, 5], &settings).unwrap();
        let counts = spread(&first, 3, 100_000);
        for (have, want) in counts.iter().zip([62_500, 25_000, 12_500]) {
            assert!(have.abs_diff(want) < 1000, "{counts:?}");
        }
        let second = plan(1, &[4, 4, 2], &[5, 10, 5], &settings).unwrap();
        assert_eq!(spread(&second, 3, 100), [0, 100, 0]);
        let mut rng = Rng64::seeded(1);
        assert_eq!(second.choose(&mut rng), Some((1, ZoneStep::AllDirectly)));
    }

    #[test]
    fn there_is_not_always_a_plan() {
        let settings = ZoneAware::default();
        let six = [2, 2, 2];
        assert_eq!(plan(0, &[1, 1], &[6], &settings), Err(NoPlan::Needless));
        assert_eq!(plan(0, &[2], &six, &settings), Err(NoPlan::Needless));
        assert_eq!(
            plan(0, &[0, 1, 1], &six, &settings),
            Err(NoPlan::LocalNotOk)
        );
        assert_eq!(plan(0, &[1, 1], &[2, 3], &settings), Err(NoPlan::TooSmall));
        assert!(plan(0, &[1, 1], &six, &settings).is_ok());
        let forced = ZoneAware {
            force_local: Some(2),
            ..settings
        };
        let all = plan(0, &[9, 1], &[2, 8], &forced).unwrap();
        assert_eq!(spread(&all, 2, 10), [10, 0]);
        let few = plan(0, &[9, 1], &[1, 9], &forced).unwrap();
        assert!(spread(&few, 2, 100)[1] > 50, "one host is not two");
        let half = ZoneAware {
            enabled_percent: 0,
            ..settings
        };
        assert_eq!(
            spread(&plan(0, &[1, 1], &six, &half).unwrap(), 3, 10),
            [0, 0, 0]
        );
    }

    proptest! {
        /// All proxies together bring each zone no more than its hosts' share, and use nothing else.
        #[test]
        fn no_zone_gets_more_than_its_share(
            ours in prop::collection::vec(1u64..20, 2..5),
            theirs in prop::collection::vec(0u64..20, 2..5),
        ) {
            let zones = ours.len().min(theirs.len());
            let (ours, theirs) = (&ours[..zones], &theirs[..zones]);
            let settings = ZoneAware { min_cluster_size: 1, ..ZoneAware::default() };
            let (all, hosts) = (ours.iter().sum::<u64>() as f64, theirs.iter().sum::<u64>());
            prop_assume!(hosts > 0);
            let mut load = vec![0.0; zones];
            for own in 0..zones {
                let counts = spread(&plan(own, ours, theirs, &settings).unwrap(), zones, 4000);
                for (load, count) in load.iter_mut().zip(counts) {
                    *load += count as f64 / 4000.0 * ours[own] as f64 / all;
                }
            }
            for (at, load) in load.iter().enumerate() {
                let fair = theirs[at] as f64 / hosts as f64;
                prop_assert!((load - fair).abs() < 0.05, "zone {at}: {load} for {fair}, {ours:?} {theirs:?}");
            }
        }
    }
}
