//! DestinationRules: whom they are about, and whether what they ask for can act.

use malla_model::{Host, MeshSettings};

use super::Findings;
use super::message::Code;
use super::world::{Item, Known};
use crate::istio::DestinationRuleSpec;
use crate::istio::peer_authentication::MutualTlsMode;
use crate::istio::traffic_policy::{ClientTlsMode, TrafficPolicy};

pub(super) fn check(known: &Known, settings: &MeshSettings, out: &mut Findings) {
    for rule in &known.destination_rules {
        let host = Host::resolve(&rule.spec.host, rule.namespace(), &settings.domain);
        unknown_host(rule, &host, known, out);
        subsets(rule, &host, known, settings, out);
        for (path, policy) in policies(&rule.spec) {
            breaker(rule, policy, &path, out);
            failover(rule, policy, &path, out);
            strict(rule, policy, &path, &host, known, settings, out);
        }
        headless(rule, &host, known, settings, out);
        affinity(rule, &host, known, settings, out);
    }
}

/// Every traffic policy of the rule with its path.
fn policies(spec: &DestinationRuleSpec) -> Vec<(String, &TrafficPolicy)> {
    let whole = spec
        .traffic_policy
        .iter()
        .map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let parts = spec.subsets.iter().enumerate().filter_map(|(at, subset)| {
        Some((
            format!("spec.subsets[{at}].trafficPolicy"),
            subset.traffic_policy.as_ref()?,
        ))
    });
    whole.chain(parts).collect()
}

fn unknown_host(rule: &Item<DestinationRuleSpec>, host: &Host, known: &Known, out: &mut Findings) {
    let serves = |service: &Host| host.covers(service) || service.covers(host);
    if !known.hosts.is_empty() && !known.hosts.keys().any(serves) {
        let text = format!(
            "The host {} defined in the DestinationRule does not match any services in the mesh.",
            rule.spec.host
        );
        out.at(
            Code::UnknownDestinationRuleHost,
            &rule.subject,
            "spec.host",
            text,
        );
    }
}

fn subsets(
    rule: &Item<DestinationRuleSpec>,
    host: &Host,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    if known.pods.is_empty() {
        return;
    }
    let Some(service) = known.services.iter().find(|service| {
        host.as_str()
            == format!(
                "{}.{}.svc.{}",
                service.name(),
                service.namespace(),
                settings.domain
            )
    }) else {
        return;
    };
    let Some(selector) = service
        .spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
    else {
        return;
    };
    for (at, subset) in rule.spec.subsets.iter().enumerate() {
        let mut labels = selector.clone();
        labels.extend(subset.labels.clone());
        // A label that both name differently selects nothing, whatever the pods.
        let contradicts = subset
            .labels
            .iter()
            .any(|(key, value)| selector.get(key).is_some_and(|own| own != value));
        if contradicts || !known.selects_a_pod(&labels, Some(service.namespace())) {
            let text = format!(
                "The Subset {} defined in the DestinationRule does not select any pods. Which may lead to 503 UH (NoHealthyUpstream).",
                subset.name
            );
            out.at(
                Code::DestinationRuleSubsetNotSelectPods,
                &rule.subject,
                format!("spec.subsets[{at}]"),
                text,
            );
        }
    }
}

/// A limit of connections alone makes HTTP/1.1 requests wait instead of failing.
fn breaker(
    rule: &Item<DestinationRuleSpec>,
    policy: &TrafficPolicy,
    path: &str,
    out: &mut Findings,
) {
    let Some(pool) = &policy.connection_pool else {
        return;
    };
    let connections = pool
        .tcp
        .as_ref()
        .and_then(|tcp| tcp.max_connections)
        .unwrap_or(0);
    let pending = pool
        .http
        .as_ref()
        .and_then(|http| http.http1_max_pending_requests)
        .unwrap_or(0);
    if connections > 0 && pending == 0 {
        let text = "maxConnections limits connections, but HTTP/1.1 requests then wait for one without limit. For a circuit breaker set http.http1MaxPendingRequests too.";
        out.at(
            Code::CircuitBreakerQueuesWithoutLimit,
            &rule.subject,
            format!("{path}.connectionPool"),
            text,
        );
    }
}

fn failover(
    rule: &Item<DestinationRuleSpec>,
    policy: &TrafficPolicy,
    path: &str,
    out: &mut Findings,
) {
    let setting = policy
        .load_balancer
        .as_ref()
        .and_then(|lb| lb.locality_lb_setting.as_ref());
    let wanted = setting.is_some_and(|s| s.distribute.is_empty() && s.enabled != Some(false));
    if wanted && policy.outlier_detection.is_none() {
        let text = "Locality preference and failover have no effect without outlierDetection, which notices that endpoints fail. Add it beside loadBalancer.";
        out.at(
            Code::LocalityFailoverInert,
            &rule.subject,
            format!("{path}.loadBalancer.localityLbSetting"),
            text,
        );
    }
}

/// A `tls` block always beats automatic mutual TLS.
fn strict(
    rule: &Item<DestinationRuleSpec>,
    policy: &TrafficPolicy,
    path: &str,
    host: &Host,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let Some(tls) = &policy.tls else { return };
    if tls.mode == Some(ClientTlsMode::IstioMutual) {
        return;
    }
    let suffix = format!(".svc.{}", settings.domain);
    let namespace = host
        .as_str()
        .strip_suffix(&suffix)
        .and_then(|rest| rest.split_once('.'))
        .map(|(_, ns)| ns);
    let Some(namespace) = namespace else { return };
    if required_mode(namespace, known, settings) == Some(MutualTlsMode::Strict) {
        let mode = match tls.mode {
            None | Some(ClientTlsMode::Disable) => "DISABLE",
            Some(ClientTlsMode::Simple) => "SIMPLE",
            Some(ClientTlsMode::Mutual) => "MUTUAL",
            Some(ClientTlsMode::IstioMutual) => "ISTIO_MUTUAL",
        };
        let text = format!(
            "tls.mode {mode} switches the mesh's own mutual TLS off, but PeerAuthentication demands it of {host}, so calls will fail. Remove tls, or use ISTIO_MUTUAL."
        );
        out.at(
            Code::TlsSettingsBreakStrictMtls,
            &rule.subject,
            format!("{path}.tls"),
            text,
        );
    }
}

/// The mode that namespace- and mesh-wide policies set for a namespace.
fn required_mode(namespace: &str, known: &Known, settings: &MeshSettings) -> Option<MutualTlsMode> {
    let of = |namespace: &str| {
        let wide = known.peer_authentications.iter().filter(|policy| {
            let selector = policy.spec.selector.as_ref();
            policy.namespace() == namespace && selector.is_none_or(|s| s.match_labels.is_empty())
        });
        let oldest = wide.min_by(|a, b| a.age().cmp(&b.age()));
        oldest?
            .spec
            .mtls
            .as_ref()?
            .mode
            .filter(|mode| *mode != MutualTlsMode::Unset)
    };
    of(namespace).or_else(|| of(&settings.root_namespace))
}

fn headless(
    rule: &Item<DestinationRuleSpec>,
    host: &Host,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let is_headless = known.services.iter().any(|service| {
        service.spec.cluster_ip.as_deref() == Some("None")
            && host.as_str()
                == format!(
                    "{}.{}.svc.{}",
                    service.name(),
                    service.namespace(),
                    settings.domain
                )
    });
    if !is_headless {
        return;
    }
    for (path, policy) in policies(&rule.spec) {
        if policy.load_balancer.is_some() {
            let text = format!(
                "{host} is headless: clients choose the pod by its address, so load balancing has no effect. Give the Service a cluster IP to use it."
            );
            out.at(
                Code::LoadBalancingInertOnHeadless,
                &rule.subject,
                format!("{path}.loadBalancer"),
                text,
            );
        }
    }
}

/// Weights are drawn for each request, before the hash chooses an endpoint.
fn affinity(
    rule: &Item<DestinationRuleSpec>,
    host: &Host,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let hashes = policies(&rule.spec).into_iter().any(|(_, policy)| {
        policy
            .load_balancer
            .as_ref()
            .is_some_and(|lb| lb.consistent_hash.is_some())
    });
    if !hashes {
        return;
    }
    for service in &known.virtual_services {
        let splits = service.spec.http.iter().any(|route| {
            let here = route.route.iter().filter(|to| {
                let positive = to.weight.unwrap_or(0) > 0;
                positive
                    && Host::resolve(&to.destination.host, service.namespace(), &settings.domain)
                        == *host
            });
            here.count() > 1
        });
        if splits {
            let text = format!(
                "VirtualService {}/{} splits {host} by weight, and the weights are drawn for each request: the same key reaches different subsets. Choose the subset by header or cookie instead.",
                service.namespace(),
                service.name(),
            );
            out.at(
                Code::AffinityBrokenBySplit,
                &rule.subject,
                "spec.trafficPolicy.loadBalancer.consistentHash",
                text,
            );
        }
    }
}
