//! A list of hosts that round robin, least request or random chooses from.
//!
//! Equal weights take the plain rotation or the power of N choices; unequal weights take an earliest-deadline-first
//! schedule, as Envoy's `EdfLoadBalancerBase` does.
use malla_proxy_config::cluster::BalancePolicy;

use super::Rng64;
use super::edf::Edf;

#[derive(Debug)]
pub(super) struct Group {
    hosts: Vec<u32>,
    cursor: usize,
    /// Only with unequal weights; its entries are positions in `hosts`.
    schedule: Option<Schedule>,
    /// Unequal weights that costs are compared by (peak EWMA).
    weights: Vec<u32>,
}

#[derive(Debug)]
struct Schedule {
    weights: Vec<u32>,
    order: Edf,
}

impl Group {
    pub(super) fn new(policy: &BalancePolicy, hosts: impl Iterator<Item = (u32, u32)>) -> Self {
        let (hosts, weights): (Vec<u32>, Vec<u32>) = hosts.unzip();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let unscheduled = matches!(
            policy,
            BalancePolicy::Random | BalancePolicy::PeakEwma { .. }
        );
        let scheduled = !equal && !unscheduled;
        let schedule = scheduled.then(|| Schedule {
            order: Edf::new(weights.iter().map(|&weight| f64::from(weight))),
            weights: weights.clone(),
        });
        let compared = !equal && matches!(policy, BalancePolicy::PeakEwma { .. });
        Self {
            hosts,
            cursor: 0,
            schedule,
            weights: if compared { weights } else { Vec::new() },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(super) fn choose(
        &mut self,
        policy: &BalancePolicy,
        rng: &mut Rng64,
        active: &dyn Fn(usize) -> u64,
    ) -> Option<usize> {
        match (self.hosts.len(), &mut self.schedule) {
            (0, _) => None,
            (1, _) => Some(self.hosts[0] as usize),
            (_, Some(schedule)) => {
                let hosts = &self.hosts;
                let weights = &schedule.weights;
                let position = schedule.order.next(|position, _| {
                    weigh(policy, weights[position], active(hosts[position] as usize))
                })?;
                Some(hosts[position] as usize)
            }
            (count, None) => Some(match policy {
                BalancePolicy::RoundRobin => {
                    // A random start keeps many proxies from marching in step.
                    if self.cursor == 0 {
                        self.cursor = 1 + rng.below(count);
                    }
                    let position = self.cursor % count;
                    self.cursor = self.cursor.wrapping_add(1).max(1);
                    self.hosts[position] as usize
                }
                BalancePolicy::LeastRequest {
                    full_scan: true, ..
                } => self.least_of_all(rng, active),
                BalancePolicy::LeastRequest { choices, .. } => self.least(*choices, rng, active),
                BalancePolicy::PeakEwma { .. } => self.cheaper_of_two(rng, active),
                // Hashing policies never get here; a random host is right for the rest.
                _ => self.hosts[rng.below(count)] as usize,
            }),
        }
    }

    /// The least busy of `choices` random hosts (with repetition, as Envoy's `LEAST_REQUEST` samples).
    fn least(&self, choices: u32, rng: &mut Rng64, active: &dyn Fn(usize) -> u64) -> usize {
        let mut best = self.hosts[rng.below(self.hosts.len())] as usize;
        let mut least = active(best);
        for _ in 1..choices {
            let other = self.hosts[rng.below(self.hosts.len())] as usize;
            let busy = active(other);
            if busy < least {
                (best, least) = (other, busy);
            }
        }
        best
    }

    /// Of two different random hosts the one that costs less for its weight.
    fn cheaper_of_two(&self, rng: &mut Rng64, cost: &dyn Fn(usize) -> u64) -> usize {
        let one = rng.below(self.hosts.len());
        let other = (one + 1 + rng.below(self.hosts.len() - 1)) % self.hosts.len();
        // Crosswise, so that nothing is divided.
        let price = |host: usize, rival: usize| {
            let weight = self.weights.get(rival).copied().unwrap_or(1);
            u128::from(cost(self.hosts[host] as usize)) * u128::from(weight)
        };
        let best = if price(one, other) <= price(other, one) {
            one
        } else {
            other
        };
        self.hosts[best] as usize
    }

    /// The least busy of all; among equals any.
    fn least_of_all(&self, rng: &mut Rng64, active: &dyn Fn(usize) -> u64) -> usize {
        let (mut best, mut least, mut equals) = (0, u64::MAX, 0);
        for &host in &self.hosts {
            let busy = active(host as usize);
            if busy < least {
                (best, least, equals) = (host as usize, busy, 1);
            } else if busy == least {
                equals += 1;
                if rng.below(equals) == 0 {
                    best = host as usize;
                }
            }
        }
        best
    }
}

fn weigh(policy: &BalancePolicy, weight: u32, active: u64) -> f64 {
    let weight = f64::from(weight);
    match policy {
        BalancePolicy::LeastRequest {
            active_request_bias: 0.0,
            ..
        } => weight,
        BalancePolicy::LeastRequest {
            active_request_bias: 1.0,
            ..
        } => weight / (active + 1) as f64,
        BalancePolicy::LeastRequest {
            active_request_bias,
            ..
        } => weight / ((active + 1) as f64).powf(*active_request_bias),
        _ => weight,
    }
}
