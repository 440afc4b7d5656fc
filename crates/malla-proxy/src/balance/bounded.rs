//! Consistent hashing with bounded loads (Mirrokni et al., arXiv:1608.01350; `hash_balance_factor` in Envoy).
//!
//! A host may serve `factor` percent of its fair share of the active requests. Over that, the hosts are tried in an order
//! that only depends on the hash (arXiv:1908.08762), and if all are over their share the least loaded serves.
use super::{Rng64, Weighted};

#[derive(Debug)]
pub(super) struct Bound {
    /// Host index and normalised weight.
    hosts: Vec<(u32, f64)>,
    factor: u64,
}

impl Bound {
    pub(super) fn new(hosts: &[Weighted<'_>], factor: u32) -> Self {
        Self {
            hosts: hosts.iter().map(|host| (host.index, host.weight)).collect(),
            factor: u64::from(factor),
        }
    }

    pub(super) fn within(&self, choice: usize, hash: u64, active: &dyn Fn(usize) -> u64) -> usize {
        let total: u64 = self
            .hosts
            .iter()
            .map(|&(host, _)| active(host as usize))
            .sum();
        let slots = ((total + 1) * self.factor).div_ceil(100);
        let load = |(host, weight): (u32, f64)| {
            active(host as usize) as f64 / (slots as f64 * weight).ceil().max(1.0)
        };
        let Some(&first) = self.hosts.iter().find(|(host, _)| *host as usize == choice) else {
            return choice;
        };
        let mut least = load(first);
        if least <= 1.0 {
            return choice;
        }
        let mut best = choice;
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        let mut rng = Rng64::seeded(hash);
        for i in 0..order.len() {
            let j = i + rng.below(order.len() - i);
            order.swap(i, j);
            let other = self.hosts[order[i]];
            let busy = load(other);
            if busy <= 1.0 {
                return other.0 as usize;
            }
            if busy < least {
                (best, least) = (other.0 as usize, busy);
            }
        }
        best
    }
}
