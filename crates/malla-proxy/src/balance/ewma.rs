//! The latency of one host as it was lately: peaks count at once, and are forgotten exponentially.
//!
//! As in Linkerd's balancer (finagle's `PeakEwma`, tower's `load::PeakEwma`): a slower answer than expected replaces the
//! estimate, a faster one pulls it down by how much time has passed. Shared by workers without locks: of two
//! answers at the same moment one may be lost, which an average survives.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One host's estimate.
#[derive(Debug, Default)]
pub struct Latency {
    /// Nanoseconds, as the bits of an `f64`; 0 before the first answer.
    estimate: AtomicU64,
    /// When that was so, in nanoseconds of the caller's clock.
    at: AtomicU64,
}

impl Latency {
    /// An answer came `now` after `rtt`.
    pub fn observe(&self, now: Duration, rtt: Duration, decay: Duration) {
        let (estimate, at) = self.read();
        let rtt = nanos(rtt) as f64;
        let next = if rtt > estimate || estimate == 0.0 {
            rtt
        } else {
            let kept = share_left(now.saturating_sub(at), decay);
            estimate * kept + rtt * (1.0 - kept)
        };
        // Never 0 again: that means that nothing is known.
        self.estimate
            .store(next.max(1.0).to_bits(), Ordering::Relaxed);
        self.at.store(nanos(now), Ordering::Relaxed);
    }

    /// What choosing the host costs: the latency expected, for as many requests as would then be under way.
    pub fn cost(&self, now: Duration, active: u64, decay: Duration, default: Duration) -> u64 {
        let (estimate, at) = self.read();
        let latency = if estimate == 0.0 {
            nanos(default) as f64
        } else {
            // A host that is not asked is tried again some time.
            estimate * share_left(now.saturating_sub(at), decay)
        };
        (latency.max(1.0) * (active as f64 + 1.0)) as u64
    }

    fn read(&self) -> (f64, Duration) {
        let at = Duration::from_nanos(self.at.load(Ordering::Relaxed));
        (f64::from_bits(self.estimate.load(Ordering::Relaxed)), at)
    }
}

fn share_left(passed: Duration, decay: Duration) -> f64 {
    (-passed.as_secs_f64() / decay.as_secs_f64().max(f64::MIN_POSITIVE)).exp()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::time::Duration;

    use malla_proxy_config::cluster::BalancePolicy;

    use super::Latency;
    use crate::balance::{Availability, Balancer, Member, Request, Rng64, Tuning};

    const DECAY: Duration = Duration::from_secs(10);
    const DEFAULT: Duration = Duration::from_millis(30);

    #[test]
    fn peaks_count_at_once_and_fade() {
        let latency = Latency::default();
        let second = Duration::from_secs;
        let cost = |now, active| latency.cost(now, active, DECAY, DEFAULT) / 1_000_000;
        assert_eq!(cost(second(0), 0), 30, "unknown");
        latency.observe(second(1), Duration::from_millis(10), DECAY);
        assert_eq!(cost(second(1), 0), 10);
        assert_eq!(cost(second(1), 3), 40, "each request under way counts");
        latency.observe(second(2), Duration::from_millis(100), DECAY);
        assert_eq!(cost(second(2), 0), 100, "a peak");
        latency.observe(second(12), Duration::from_millis(10), DECAY);
        assert_eq!(cost(second(12), 0), 43, "a third of the peak is left");
        assert_eq!(cost(second(22), 0), 15, "and of that without news");
    }

    /// The 99th percentile of latencies, in milliseconds, of ten hosts that take 10 ms, but one that takes 300.
    fn simulate(policy: &BalancePolicy) -> u64 {
        let members: Vec<Member> = (0..10)
            .map(|host| Member {
                key: host.to_string(),
                weight: 1,
                priority: 0,
                locality: 0,
                availability: Availability::Healthy,
            })
            .collect();
        let mut balancer = Balancer::new(policy, Tuning::default(), &members, &[]);
        let mut rng = Rng64::seeded(7);
        let latencies: Vec<Latency> = members.iter().map(|_| Latency::default()).collect();
        let active = RefCell::new(vec![0_u64; members.len()]);
        // Ends of requests: time and host.
        let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
        let (mut now, mut seen) = (0_u64, Vec::new());
        for _ in 0..20_000 {
            now += (-(1.0 - rng.unit()).ln() * 1e6) as u64; // A thousand a second.
            while let Some(Reverse((at, host, rtt))) = ends.peek().copied() {
                if at > now {
                    break;
                }
                ends.pop();
                active.borrow_mut()[host] -= 1;
                latencies[host].observe(Duration::from_nanos(at), Duration::from_nanos(rtt), DECAY);
            }
            let load = |host: usize| {
                let under_way = active.borrow()[host];
                match policy {
                    BalancePolicy::PeakEwma { .. } => {
                        latencies[host].cost(Duration::from_nanos(now), under_way, DECAY, DEFAULT)
                    }
                    _ => under_way,
                }
            };
            let host = balancer
                .pick(Request::default(), &mut rng, &load, &|_| false)
                .unwrap();
            let mean = if host == 3 { 300e6 } else { 10e6 };
            let rtt = (mean * (0.5 + rng.unit())) as u64;
            active.borrow_mut()[host] += 1;
            ends.push(Reverse((now + rtt, host, rtt)));
            seen.push(rtt / 1_000_000);
        }
        seen.sort_unstable();
        seen[seen.len() * 99 / 100]
    }

    #[test]
    fn one_slow_host_hurts_less_than_with_round_robin_or_least_request() {
        let peak = simulate(&BalancePolicy::PeakEwma {
            decay: DECAY,
            default_rtt: DEFAULT,
        });
        let least = simulate(&BalancePolicy::LeastRequest {
            choices: 2,
            active_request_bias: 1.0,
            full_scan: false,
        });
        let turns = simulate(&BalancePolicy::RoundRobin);
        assert!(
            peak < least && peak < turns,
            "{peak} ms, {least} ms, {turns} ms"
        );
        assert!(
            peak < 20,
            "{peak} ms: hardly anything goes to the slow host"
        );
    }
}
