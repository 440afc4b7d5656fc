//! Groups endpoints by locality and gives each group a priority (0 is tried first) and a weight,
//! as Istio's `localityLbSetting` says.
//!
//! Without outlier detection nothing would ever fail over, so priorities need it; `distribute`
//! does not. Priorities are contiguous, because Envoy refuses gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use malla_model::Service;
use malla_model::service::Distribution;
use malla_model::traffic::LocalityBalancing;
use malla_model::workload::{Endpoint, Locality};
use malla_xds_proto::endpoint::{LbEndpoint, LocalityLbEndpoints};
use malla_xds_proto::{core, wkt};

use crate::rules::Policy;
use crate::view::View;

/// Groups by (priority, locality).
pub(crate) fn group(
    view: &View<'_>,
    service: &Service,
    endpoints: Vec<(&Endpoint, LbEndpoint)>,
    policy: &Policy,
) -> Vec<LocalityLbEndpoints> {
    let setting = setting(view, service, policy);
    let shares = setting.and_then(|setting| shares(setting, view.locality()));
    let fails_over = policy.outlier.is_some() || prefers(service, policy).is_some();
    let failover = setting.filter(|_| fails_over && shares.is_none());

    let mut groups: BTreeMap<(u32, &Locality), Vec<LbEndpoint>> = BTreeMap::new();
    for (endpoint, lb_endpoint) in endpoints {
        let priority = failover.map_or(0, |setting| priority(view, endpoint, setting));
        groups
            .entry((priority, &endpoint.locality))
            .or_default()
            .push(lb_endpoint);
    }
    let priorities: BTreeSet<u32> = groups.keys().map(|(priority, _)| *priority).collect();
    let rank = |priority: u32| priorities.range(..priority).count();

    let mut out: Vec<LocalityLbEndpoints> = groups
        .into_iter()
        .map(|((priority, locality), lb_endpoints)| LocalityLbEndpoints {
            locality: Some(wire(locality)),
            load_balancing_weight: Some(wkt::uint32(total_weight(&lb_endpoints))),
            lb_endpoints,
            priority: u32::try_from(rank(priority)).unwrap_or(u32::MAX),
            ..LocalityLbEndpoints::default()
        })
        .collect();
    if let Some(shares) = shares {
        distribute(&mut out, shares);
    }
    out
}

/// The setting in force: the rule's, else what the Service prefers, else the mesh's; `None` where it is off.
fn setting<'s>(
    view: &'s View<'_>,
    service: &Service,
    policy: &'s Policy,
) -> Option<&'s LocalityBalancing> {
    let setting = own(policy)
        .or_else(|| prefers(service, policy))
        .unwrap_or(&view.mesh.settings.locality);
    (setting.enabled != Some(false)).then_some(setting)
}

fn own(policy: &Policy) -> Option<&LocalityBalancing> {
    policy.load_balancer.as_ref()?.locality.as_ref()
}

/// Nearest first, as the Service asks for it; without outlier detection, because that is Kubernetes' own promise.
fn prefers(service: &Service, policy: &Policy) -> Option<&'static LocalityBalancing> {
    static NEAR: LazyLock<[LocalityBalancing; 2]> = LazyLock::new(|| {
        let places = [
            "topology.istio.io/network",
            "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone",
            "topology.istio.io/subzone",
            "kubernetes.io/hostname",
        ];
        [3, 5].map(|count| LocalityBalancing {
            failover_priority: places.iter().take(count).map(|it| (*it).into()).collect(),
            ..LocalityBalancing::default()
        })
    });
    let [zone, machine] = &*NEAR;
    match service.distribution {
        _ if own(policy).is_some() => None,
        Distribution::Any => None,
        Distribution::SameZone => Some(zone),
        Distribution::SameNode => Some(machine),
    }
}

/// Whether localities take shares of traffic by weight in that cluster.
pub(crate) fn weighs_localities(view: &View<'_>, service: &Service, policy: &Policy) -> bool {
    setting(view, service, policy).is_some_and(|setting| {
        policy.outlier.is_some()
            || prefers(service, policy).is_some()
            || shares(setting, view.locality()).is_some()
    })
}

fn priority(view: &View<'_>, endpoint: &Endpoint, setting: &LocalityBalancing) -> u32 {
    if setting.failover_priority.is_empty() {
        return distance(view.locality(), &endpoint.locality, setting);
    }
    let labels = &setting.failover_priority;
    let first_mismatch = labels
        .iter()
        .position(|label| !label_matches(view, endpoint, label))
        .unwrap_or(labels.len());
    u32::try_from(labels.len() - first_mismatch).unwrap_or(u32::MAX)
}

/// 0 the same subzone, 1 the same zone, 2 the same region, 3 elsewhere (or where `failover` points), 4 the rest.
fn distance(from: &Locality, to: &Locality, setting: &LocalityBalancing) -> u32 {
    if from.region != to.region {
        let target = setting.failover.iter().find(|(f, _)| *f == from.region);
        return match target {
            Some((_, target)) if *target != to.region => 4,
            _ => 3,
        };
    }
    match (from.zone == to.zone, from.subzone == to.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// `key` compares both sides' labels; `key=value` compares the endpoint's with that value.
fn label_matches(view: &View<'_>, endpoint: &Endpoint, label: &str) -> bool {
    let (key, value) = match label.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (label, None),
    };
    let theirs = topology(&endpoint.locality, &endpoint.node, key)
        .or_else(|| endpoint.labels.get(key).map(String::as_str));
    let ours = value
        .or_else(|| topology(view.locality(), &view.node.machine, key))
        .or_else(|| view.node.labels.get(key).map(String::as_str));
    ours == theirs
}

/// Labels that stand for a place.
fn topology<'a>(locality: &'a Locality, machine: &'a str, key: &str) -> Option<&'a str> {
    match key {
        "topology.kubernetes.io/region" => Some(&locality.region),
        "topology.kubernetes.io/zone" => Some(&locality.zone),
        "topology.istio.io/subzone" => Some(&locality.subzone),
        "kubernetes.io/hostname" => Some(machine),
        _ => None,
    }
}

type Shares = [(std::sync::Arc<str>, u32)];

/// Where `distribute` sends traffic that starts at `from`.
fn shares<'a>(setting: &'a LocalityBalancing, from: &Locality) -> Option<&'a Shares> {
    setting
        .distribute
        .iter()
        .find(|(pattern, _)| covers(pattern, from))
        .map(|(_, to)| &**to)
}

/// `region/zone/subzone`, where `*` and missing parts match anything.
fn covers(pattern: &str, locality: &Locality) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    pattern
        .split('/')
        .zip(parts)
        .all(|(wanted, part)| wanted == "*" || wanted == &**part)
}

/// Localities not listed get nothing; those that share one entry share its percentage by weight.
fn distribute(groups: &mut Vec<LocalityLbEndpoints>, shares: &Shares) {
    let entry = |group: &LocalityLbEndpoints| {
        let locality = group.locality.as_ref()?;
        let locality = Locality {
            region: (*locality.region).into(),
            zone: (*locality.zone).into(),
            subzone: (*locality.sub_zone).into(),
        };
        shares
            .iter()
            .position(|(pattern, _)| covers(pattern, &locality))
    };
    let mut sums = vec![0u64; shares.len()];
    for group in groups.iter() {
        if let Some(sum) = entry(group).and_then(|at| sums.get_mut(at)) {
            *sum += weight(group);
        }
    }
    groups.retain_mut(|group| {
        let Some(at) = entry(group) else { return false };
        let (Some((_, percent)), Some(sum)) = (shares.get(at), sums.get(at)) else {
            return false;
        };
        // Hundredths keep small localities of a shared entry above zero.
        let share = u64::from(*percent) * 100 * weight(group) / (*sum).max(1);
        group.load_balancing_weight =
            Some(wkt::uint32(u32::try_from(share.max(1)).unwrap_or(u32::MAX)));
        *percent > 0
    });
}

fn weight(group: &LocalityLbEndpoints) -> u64 {
    group
        .load_balancing_weight
        .map_or(0, |weight| weight.value.into())
}

fn total_weight(endpoints: &[LbEndpoint]) -> u32 {
    endpoints.iter().fold(0, |sum, endpoint| {
        sum.saturating_add(endpoint.load_balancing_weight.map_or(1, |w| w.value))
    })
}

fn wire(locality: &Locality) -> core::Locality {
    core::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        sub_zone: locality.subzone.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use malla_model::workload::Locality;

    use super::{LocalityBalancing, covers, distance};

    #[test]
    fn nearness_has_four_steps() {
        let here = Locality::parse("r1/z1/s1");
        let mut setting = LocalityBalancing::default();
        let at =
            |to: &str, setting: &LocalityBalancing| distance(&here, &Locality::parse(to), setting);
        for (to, want) in [
            ("r1/z1/s1", 0),
            ("r1/z1/s2", 1),
            ("r1/z2/s1", 2),
            ("r2/z1/s1", 3),
        ] {
            assert_eq!(at(to, &setting), want, "{to}");
        }
        setting.failover = vec![("r1".into(), "r3".into())];
        assert_eq!((at("r3", &setting), at("r2", &setting)), (3, 4));
    }

    #[test]
    fn patterns_of_localities() {
        let here = Locality::parse("r1/z1/s1");
        for (pattern, want) in [
            ("r1", true),
            ("r1/*", true),
            ("r1/z1/s1", true),
            ("r1/z2", false),
            ("*", true),
            ("r2/*", false),
        ] {
            assert_eq!(covers(pattern, &here), want, "{pattern}");
        }
    }
}
