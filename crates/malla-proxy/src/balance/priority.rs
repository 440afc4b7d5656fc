//! How load is shared among priority levels as their health changes, and when a level is in panic.
//!
//! Source: Envoy's "Priority levels", "Overprovisioning" and "Panic threshold" pages and the arithmetic they describe:
//! integer percentages, rounding left-overs to the first level with health. Invariant: the shares sum to 100.

/// Whether a host may serve, and how gladly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Healthy,
    Degraded,
    /// Failed checks, ejected, or told so by EDS: only served in panic.
    Unhealthy,
}

/// Host counts of one priority level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelHealth {
    pub total: u64,
    pub healthy: u64,
    pub degraded: u64,
}

impl LevelHealth {
    /// Adds up hosts by what each counts for.
    pub fn count(hosts: impl Iterator<Item = (Availability, u64)>) -> Self {
        let mut health = Self::default();
        for (host, weight) in hosts {
            health.total += weight;
            match host {
                Availability::Healthy => health.healthy += weight,
                Availability::Degraded => health.degraded += weight,
                Availability::Unhealthy => {}
            }
        }
        health
    }

    /// Percent of its load this level can take; more than enough hosts count as 100.
    fn capacity(&self, hosts: u64, overprovisioning: u32) -> u32 {
        (u64::from(overprovisioning) * hosts)
            .checked_div(self.total)
            .map_or(0, |percent| percent.min(100) as u32)
    }

    fn below(&self, panic_threshold: f64) -> bool {
        let available = self.healthy + self.degraded;
        let percent = if self.total == 0 {
            0.0
        } else {
            100.0 * available as f64 / self.total as f64
        };
        percent < panic_threshold
    }
}

/// The share of each level, in percent, of healthy and degraded hosts apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityLoad {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

impl PriorityLoad {
    pub fn compute(levels: &[LevelHealth], overprovisioning: u32, panic_threshold: f64) -> Self {
        let capacity = |hosts: fn(&LevelHealth) -> u64| -> Vec<u32> {
            levels
                .iter()
                .map(|level| level.capacity(hosts(level), overprovisioning))
                .collect()
        };
        let healthy = capacity(|level| level.healthy);
        let degraded = capacity(|level| level.degraded);
        let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
        let panic: Vec<bool> = levels
            .iter()
            .map(|level| available != 100 && level.below(panic_threshold))
            .collect();
        if panic_threshold == 0.0 && available == 0 {
            return Self::all_to_first(levels.len());
        }
        if panic.iter().all(|&panic| panic) {
            return Self::in_total_panic(levels, panic);
        }
        let (mut healthy, first_healthy, rest) = distribute(&healthy, 100, available);
        let (mut degraded, first_degraded, rest) = distribute(&degraded, rest, available);
        if let Some(first) = first_healthy {
            healthy[first] += rest;
        } else if let Some(first) = first_degraded {
            degraded[first] += rest;
        }
        Self {
            healthy,
            degraded,
            panic,
        }
    }

    /// The level that `draw` falls on, and whether its degraded hosts are meant.
    pub fn choose(&self, draw: u64) -> (usize, bool) {
        let draw = (draw % 100) as u32 + 1;
        let mut passed = 0;
        for (shares, degraded) in [(&self.healthy, false), (&self.degraded, true)] {
            for (level, share) in shares.iter().enumerate() {
                passed += share;
                if draw <= passed {
                    return (level, degraded);
                }
            }
        }
        (0, false)
    }

    pub fn in_panic(&self, level: usize) -> bool {
        self.panic.get(level).copied().unwrap_or(false)
    }

    /// Every level is in panic: load follows the number of hosts, whatever their health.
    fn in_total_panic(levels: &[LevelHealth], panic: Vec<bool>) -> Self {
        let total: u64 = levels.iter().map(|level| level.total).sum();
        let Some(first) = levels.iter().position(|level| level.total > 0) else {
            return Self {
                panic,
                ..Self::all_to_first(levels.len())
            };
        };
        let mut healthy: Vec<u32> = levels
            .iter()
            .map(|level| (100 * level.total / total) as u32)
            .collect();
        healthy[first] += 100 - healthy.iter().sum::<u32>();
        Self {
            healthy,
            degraded: vec![0; levels.len()],
            panic,
        }
    }

    fn all_to_first(levels: usize) -> Self {
        let mut healthy = vec![0; levels];
        if let Some(first) = healthy.first_mut() {
            *first = 100;
        }
        Self {
            healthy,
            degraded: vec![0; levels],
            panic: vec![false; levels],
        }
    }
}

/// Gives as much of `load` as possible to the first levels. Returns the shares, the first level able to serve, and the rest.
fn distribute(capacity: &[u32], mut load: u32, available: u32) -> (Vec<u32>, Option<usize>, u32) {
    let shares = capacity
        .iter()
        .map(|capacity| {
            let share = (capacity * 100)
                .checked_div(available)
                .unwrap_or(0)
                .min(load);
            load -= share;
            share
        })
        .collect();
    (
        shares,
        capacity.iter().position(|&capacity| capacity > 0),
        load,
    )
}

/// A locality's weight, reduced as its hosts fail, with the same overprovisioning as priorities.
pub(super) fn effective_locality_weight(
    weight: u32,
    available: usize,
    total: usize,
    overprovisioning: u32,
) -> f64 {
    if total == 0 {
        return 0.0;
    }
    let ratio = f64::from(overprovisioning) / 100.0 * available as f64 / total as f64;
    f64::from(weight) * ratio.min(1.0)
}
