//! The balancers against slow oracles, and against the values Envoy's own tests hold.
use malla_proxy_config::cluster::BalancePolicy;
use proptest::prelude::{Strategy, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};
use xxhash_rust::xxh64::xxh64;

use super::ring_hash::Ring;
use super::{
    Availability, Balancer, LevelHealth, MaglevTable, Member, PriorityLoad, Request, Rng64, Tuning,
    Weighted,
};

fn member(key: &str, weight: u32, priority: u32, availability: Availability) -> Member {
    Member {
        key: key.to_owned(),
        weight,
        priority,
        locality: 0,
        availability,
    }
}

fn healthy(count: u16) -> Vec<Member> {
    (0..count)
        .map(|i| {
            member(
                &format!("127.0.0.1:{}", 90 + i),
                1,
                0,
                Availability::Healthy,
            )
        })
        .collect()
}

fn shares(
    policy: BalancePolicy,
    tuning: Tuning,
    members: &[Member],
    weights: &[Vec<u32>],
    picks: usize,
) -> Vec<usize> {
    let mut balancer = Balancer::new(&policy, tuning, members, weights);
    let mut rng = Rng64::seeded(7);
    let mut counts = vec![0; members.len()];
    for _ in 0..picks {
        let pick = balancer.pick(Request::default(), &mut rng, &|_| 0, &|_| false);
        counts[pick.expect("a host")] += 1;
    }
    counts
}

const LEAST: BalancePolicy = BalancePolicy::LeastRequest {
    choices: 2,
    active_request_bias: 1.0,
    full_scan: false,
};

fn ring(min_size: u64) -> BalancePolicy {
    BalancePolicy::RingHash {
        min_size,
        max_size: 8 << 20,
        murmur: false,
        by_hostname: false,
        balance_factor: None,
    }
}

fn maglev(balance_factor: Option<u32>) -> BalancePolicy {
    BalancePolicy::Maglev {
        table_size: 65537,
        by_hostname: false,
        balance_factor,
    }
}

/// The points of Envoy's own `RingHashLoadBalancerTest.Basic`: six hosts, twelve points.
#[test]
fn the_ring_has_envoys_points() {
    let members = healthy(6);
    let mut balancer = Balancer::new(&ring(12), Tuning::default(), &members, &[]);
    let mut at = |hash| {
        let request = Request {
            hash: Some(hash),
            reselections: 0,
        };
        balancer.pick(request, &mut Rng64::seeded(0), &|_| 0, &|_| false)
    };
    for (point, port) in [
        (833437586790550860u64, 94),
        (928266305478181108, 92),
        (1033482794131418490, 90),
        (3551244743356806947, 95),
        (3851675632748031481, 93),
        (5583722120771150861, 91),
        (6311230543546372928, 91),
        (7700377290971790572, 93),
        (13144177310400110813, 95),
        (13444792449719432967, 92),
        (15516499411664133160, 94),
        (16117243373044804889, 90),
    ] {
        assert_eq!(at(point), Some(port - 90), "the owner of point {point}");
    }
    assert_eq!(at(0), Some(4), "the ring starts at its first point");
    assert_eq!(at(u64::MAX), Some(4), "and closes there");
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1u32..5, 1..12)
}

fn normalised<'a>(keys: &'a [String], weights: &[u32]) -> Vec<Weighted<'a>> {
    let sum: u32 = weights.iter().sum();
    (0u32..)
        .zip(keys.iter().zip(weights))
        .map(|(index, (key, &weight))| Weighted {
            index,
            key,
            weight: f64::from(weight) / f64::from(sum),
        })
        .collect()
}

fn keys(count: usize) -> Vec<String> {
    (0..count)
        .map(|i| format!("10.0.{}.{}:8080", i / 256, i % 256))
        .collect()
}

/// Every slot asks the hosts in turn, with the permutation written out in full as in the paper.
fn maglev_by_the_paper(hosts: &[Weighted<'_>], size: u64) -> Vec<u32> {
    let heaviest = hosts.iter().map(|h| h.weight).fold(0.0, f64::max);
    let mut preferences: Vec<_> = hosts
        .iter()
        .map(|h| {
            let offset = xxh64(h.key.as_bytes(), 0) % size;
            let skip = xxh64(h.key.as_bytes(), 1) % (size - 1) + 1;
            (0..size)
                .map(move |j| ((offset + j * skip) % size) as usize)
                .collect::<Vec<_>>()
                .into_iter()
        })
        .collect();
    let mut table = vec![None; size as usize];
    let mut credit = vec![0.0; hosts.len()];
    for round in 1.. {
        for (i, host) in hosts.iter().enumerate() {
            if table.iter().all(Option::is_some) {
                return table.into_iter().flatten().collect();
            }
            if f64::from(round) * host.weight < credit[i] {
                continue;
            }
            credit[i] += heaviest;
            let free = preferences[i]
                .find(|&slot| table[slot].is_none())
                .expect("a free slot");
            table[free] = Some(host.index);
        }
    }
    unreachable!("the table fills up")
}

proptest! {
    #[test]
    fn a_ring_lookup_is_a_scan_for_the_next_point(weights in weights(), hash: u64) {
        let keys = keys(weights.len());
        let hosts = normalised(&keys, &weights);
        let ring = Ring::build(&hosts, 64, 8 << 20, false);
        let sum: u32 = weights.iter().sum();
        let lightest = f64::from(*weights.iter().min().expect("one")) / f64::from(sum);
        let scale = (lightest * 64.0).ceil() / lightest;
        let mut points = Vec::new();
        let (mut placed, mut target) = (0.0, 0.0);
        for host in &hosts {
            target += scale * host.weight;
            let mut i = 0;
            while placed < target {
                points.push((xxh64(format!("{}_{i}", host.key).as_bytes(), 0), host.index));
                placed += 1.0;
                i += 1;
            }
        }
        let next = points.iter().filter(|p| p.0 >= hash).min().or(points.iter().min()).expect("a point");
        prop_assert_eq!(ring.choose(hash, 0), Some(next.1 as usize));
    }

    #[test]
    fn a_maglev_table_is_the_papers(weights in weights(), hash: u64) {
        let keys = keys(weights.len());
        let hosts = normalised(&keys, &weights);
        let table = MaglevTable::build(&hosts, 251);
        let oracle = maglev_by_the_paper(&hosts, 251);
        prop_assert_eq!(table.choose(hash, 0), Some(oracle[(hash % 251) as usize] as usize));
    }

    #[test]
    fn priority_shares_sum_to_a_hundred(
        levels in prop::collection::vec((0u64..10, 0u64..10, 0u64..10), 1..5),
        threshold in prop::sample::select(vec![0.0, 30.0, 50.0, 100.0]),
        draw: u64,
    ) {
        let levels: Vec<LevelHealth> = levels
            .into_iter()
            .map(|(healthy, degraded, failed)| LevelHealth { total: healthy + degraded + failed, healthy, degraded })
            .collect();
        let load = PriorityLoad::compute(&levels, 140, threshold);
        let counted = (0..100u64).map(|d| load.choose(d).0).filter(|&l| l < levels.len()).count();
        prop_assert_eq!(counted, 100);
        // No load for a level without hosts while another has some, except with panic switched off altogether.
        let (level, _) = load.choose(draw);
        if threshold > 0.0 && levels.iter().any(|l| l.total > 0) {
            prop_assert!(levels[level].total > 0, "{:?} chose {}", load, level);
        }
    }

    #[test]
    fn weighted_round_robin_keeps_the_weights(weights in weights()) {
        let members: Vec<Member> = weights.iter().enumerate()
            .map(|(i, &w)| member(&i.to_string(), w, 0, Availability::Healthy))
            .collect();
        let sum: u32 = weights.iter().sum();
        let counts = shares(BalancePolicy::RoundRobin, Tuning::default(), &members, &[], sum as usize * 20);
        for (count, weight) in counts.iter().zip(&weights) {
            let want = 20 * *weight as usize;
            prop_assert!(count.abs_diff(want) <= 20, "{:?} for {:?}", counts, weights);
        }
    }

    #[test]
    fn refused_hosts_are_avoided_while_there_are_others(seed: u64, hash: u64) {
        let members = healthy(4);
        for policy in [BalancePolicy::RoundRobin, LEAST, BalancePolicy::Random,
            ring(1024), maglev(None)] {
            let mut balancer = Balancer::new(&policy, Tuning::default(), &members, &[]);
            let request = Request { hash: Some(hash), reselections: 60 };
            let pick = balancer.pick(request, &mut Rng64::seeded(seed), &|_| 0, &|host| host != 2);
            prop_assert_eq!(pick, Some(2), "{:?}", policy);
        }
    }
}

#[test]
fn least_request_prefers_the_idle() {
    let members = healthy(3);
    let mut balancer = Balancer::new(&LEAST, Tuning::default(), &members, &[]);
    let mut rng = Rng64::seeded(1);
    let busy = |index: usize| if index == 0 { 50 } else { 0 };
    let to_busy = (0..900)
        .filter(|_| balancer.pick(Request::default(), &mut rng, &busy, &|_| false) == Some(0))
        .count();
    // Only when both draws fall on it: 1 in 9.
    assert!((50..160).contains(&to_busy), "{to_busy} of 900");
}

#[test]
fn a_failing_level_hands_its_load_down() {
    use Availability::{Healthy, Unhealthy};
    let mut members: Vec<Member> = (0..10)
        .map(|i| {
            member(
                &format!("a{i}"),
                1,
                0,
                if i < 5 { Healthy } else { Unhealthy },
            )
        })
        .collect();
    members.extend((0..10).map(|i| member(&format!("b{i}"), 1, 1, Healthy)));
    // Half of level 0 is healthy: 50 % x 1.4 = 70 % of the load stays.
    let counts = shares(
        BalancePolicy::RoundRobin,
        Tuning::default(),
        &members,
        &[],
        10_000,
    );
    let first: usize = counts[..10].iter().sum();
    assert!((6_700..7_300).contains(&first), "{first} of 10000");
    assert!(
        counts[5..10].iter().all(|&count| count == 0),
        "no unhealthy host serves: {counts:?}"
    );
}

#[test]
fn panic_serves_from_every_host() {
    use Availability::{Healthy, Unhealthy};
    let members: Vec<Member> = (0..4)
        .map(|i| {
            member(
                &format!("a{i}"),
                1,
                0,
                if i == 0 { Healthy } else { Unhealthy },
            )
        })
        .collect();
    let counts = shares(
        BalancePolicy::RoundRobin,
        Tuning::default(),
        &members,
        &[],
        400,
    );
    assert_eq!(counts, [100; 4]);
    let off = Tuning {
        panic_threshold: 0.0,
        ..Tuning::default()
    };
    assert_eq!(
        shares(BalancePolicy::RoundRobin, off, &members, &[], 400),
        [400, 0, 0, 0]
    );
    let strict = Tuning {
        fail_on_panic: true,
        ..Tuning::default()
    };
    let mut balancer = Balancer::new(&BalancePolicy::RoundRobin, strict, &members, &[]);
    assert_eq!(
        balancer.pick(Request::default(), &mut Rng64::seeded(0), &|_| 0, &|_| {
            false
        }),
        None
    );
}

#[test]
fn without_panic_no_healthy_host_means_none() {
    let members = [member("a", 1, 0, Availability::Unhealthy)];
    let off = Tuning {
        panic_threshold: 0.0,
        ..Tuning::default()
    };
    for policy in [
        BalancePolicy::RoundRobin,
        LEAST,
        BalancePolicy::Random,
        ring(1024),
        maglev(None),
    ] {
        let mut balancer = Balancer::new(&policy, off, &members, &[]);
        assert_eq!(
            balancer.pick(Request::default(), &mut Rng64::seeded(0), &|_| 0, &|_| {
                false
            }),
            None
        );
    }
}

#[test]
fn localities_share_by_weight() {
    let mut members = healthy(6);
    for (i, member) in members.iter_mut().enumerate() {
        member.locality = (i % 2) as u32;
    }
    let tuning = Tuning {
        locality_weighted: true,
        ..Tuning::default()
    };
    let counts = shares(
        BalancePolicy::RoundRobin,
        tuning,
        &members,
        &[vec![80, 20]],
        1_000,
    );
    let first: usize = counts.iter().step_by(2).sum();
    assert!((795..=805).contains(&first), "{first} of 1000");
    let none = shares(
        BalancePolicy::RoundRobin,
        tuning,
        &members,
        &[vec![100, 0]],
        300,
    );
    assert_eq!(
        none.iter().skip(1).step_by(2).sum::<usize>(),
        0,
        "a locality of weight 0 gets nothing"
    );
}

#[test]
fn a_busy_host_sheds_its_excess() {
    let members = healthy(4);
    let mut balancer = Balancer::new(&maglev(Some(150)), Tuning::default(), &members, &[]);
    let mut rng = Rng64::seeded(0);
    let request = Request {
        hash: Some(99),
        reselections: 0,
    };
    let favourite = balancer
        .pick(request, &mut rng, &|_| 0, &|_| false)
        .unwrap();
    // 40 active on one host of four: far over 1.5 times its share.
    let busy = |host: usize| if host == favourite { 40 } else { 1 };
    let first = balancer.pick(request, &mut rng, &busy, &|_| false).unwrap();
    assert_ne!(first, favourite);
    assert_eq!(
        balancer.pick(request, &mut rng, &busy, &|_| false),
        Some(first),
        "the same hash, the same refuge"
    );
}
