//! `outbound|port|subset|host`, and on gateways between networks `outbound_.port_.subset_.host`.

use std::collections::BTreeSet;

use malla_model::service::{Resolution, ServicePort};
use malla_model::traffic::{Balance, ClientTlsMode, H2Upgrade, Subset};
use malla_model::{Host, Protocol, Service};
use malla_xds_proto::cluster::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use malla_xds_proto::cluster::cluster::{
    CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig, TransportSocketMatch,
};
use malla_xds_proto::cluster::{CircuitBreakers, Cluster};
use malla_xds_proto::core::UpstreamHttpProtocolOptions;
use malla_xds_proto::wkt;

use super::{base, istio_metadata, original_dst, policy, set_protocol};
use crate::authn::speaks_mtls;
use crate::endpoints::{load_assignment, of_port, weighs_localities};
use crate::gateways::auto_passthrough;
use crate::metrics;
use crate::names::{outbound_cluster, outbound_sni};
use crate::node::Profile;
use crate::providers;
use crate::rules::{Policy, Rule};
use crate::tls::{self, Within};
use crate::view::View;

/// Keeps many clusters' refreshes from falling together.
const DNS_JITTER: std::time::Duration = std::time::Duration::from_millis(100);

/// Clusters to all services that the node knows, or to those named alone.
pub(crate) fn clusters(view: &View<'_>, only: Option<&BTreeSet<&Host>>) -> Vec<Cluster> {
    let asked = |service: &Service| only.is_none_or(|only| only.contains(&service.hostname));
    let mut clusters = Vec::new();
    for service in view.services().iter().filter(|it| asked(it)) {
        let rule = view.rule(&service.hostname, service.namespace());
        for port in view.ports(service) {
            let subsets = rule.as_ref().map_or(&[][..], |rule| &rule.subsets);
            for subset in std::iter::once(None).chain(subsets.iter().map(Some)) {
                clusters.push(cluster(view, service, port, subset, rule.as_ref()));
            }
        }
    }
    let hidden = providers::hidden(view).into_iter();
    for (service, port) in hidden.filter(|(it, _)| asked(it)) {
        clusters.push(cluster(view, service, port, None, None));
    }
    for service in auto_passthrough(view).into_iter().filter(|it| asked(it)) {
        let rule = view.rule(&service.hostname, service.namespace());
        for port in view.ports(service) {
            let subsets = rule.as_ref().map_or(&[][..], |rule| &rule.subsets);
            for subset in std::iter::once(None).chain(subsets.iter().map(Some)) {
                clusters.push(unopened(view, service, port, subset, rule.as_ref()));
            }
        }
    }
    clusters
}

/// For connections whose TLS goes through unopened: the client's own socket is the only one.
fn unopened(
    view: &View<'_>,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    rule: Option<&Rule>,
) -> Cluster {
    let subset_name = subset.map_or("", |subset| &*subset.name);
    let name = outbound_sni(port.port, subset_name, &service.hostname);
    shaped(view, &name, service, port, subset, rule).0
}

fn cluster(
    view: &View<'_>,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    rule: Option<&Rule>,
) -> Cluster {
    let subset_name = subset.map(|subset| &*subset.name);
    let name = outbound_cluster(
        port.port,
        subset_name.unwrap_or_default(),
        &service.hostname,
    );
    let (mut cluster, policy) = shaped(view, &name, service, port, subset, rule);
    let mut protocol = policy::protocol(port.protocol, policy.connection_pool.as_ref());
    if let Some(verification) = host_verification(&policy, port.protocol) {
        protocol
            .get_or_insert_with(policy::http1)
            .upstream_http_protocol_options = Some(verification);
    }
    if let Some(protocol) = &protocol {
        set_protocol(&mut cluster, protocol);
    }
    secure(view, &mut cluster, service, port, subset_name, &policy);
    cluster
}

/// The cluster with everything that does not depend on what is spoken, and the policy that shaped it.
fn shaped(
    view: &View<'_>,
    name: &str,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    rule: Option<&Rule>,
) -> (Cluster, Policy) {
    let mut policy = rule
        .map(|rule| rule.policy(port.port, subset))
        .unwrap_or_default();
    if view.mesh.settings.h2_upgrade && port.protocol == Protocol::Http {
        let pool = policy.connection_pool.get_or_insert_default();
        if pool.h2_upgrade == H2Upgrade::Default {
            pool.h2_upgrade = H2Upgrade::Upgrade;
        }
    }
    let mut cluster = discovered(view, name, service, port, subset, &policy);
    cluster.metadata = Some(istio_metadata(
        [service],
        service.external,
        subset.map(|subset| &*subset.name),
        rule.map(|rule| &rule.object),
    ));
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![policy::breakers(
            policy.connection_pool.as_ref(),
            policy.retry_budget.as_ref(),
        )],
        ..CircuitBreakers::default()
    });
    if let Some(keepalive) = &view.mesh.settings.tcp_keepalive {
        policy::keep_alive(&mut cluster, keepalive);
    }
    if let Some(pool) = &policy.connection_pool {
        policy::apply_connections(&mut cluster, pool);
    }
    if let Some(outlier) = &policy.outlier {
        policy::apply_outlier(&mut cluster, outlier);
    }
    (cluster, policy)
}

/// The cluster with its way of finding endpoints and choosing among them.
fn discovered(
    view: &View<'_>,
    name: &str,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    policy: &Policy,
) -> Cluster {
    let balancer = policy.load_balancer.as_ref();
    let follow_client = balancer.is_some_and(|lb| lb.algorithm == Balance::Passthrough);
    if view.goes_where_meant(service) || follow_client {
        return original_dst(view, name);
    }
    let kind = match service.resolution {
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolution::Static | Resolution::Passthrough => DiscoveryType::Eds,
    };
    let mut cluster = base(view, name, kind);
    if kind == DiscoveryType::Eds {
        cluster.eds_cluster_config = Some(EdsClusterConfig {
            eds_config: Some(tls::ads()),
            service_name: name.to_owned(),
        });
    } else {
        cluster.load_assignment = Some(load_assignment(view, name, service, port, subset, policy));
        resolve_names(view, &mut cluster);
    }
    policy::apply_balance(&mut cluster, balancer);
    // Unready endpoints are sent too; without this Envoy would use them when most are unready.
    policy::panic_threshold(&mut cluster, 0);
    if weighs_localities(view, service, policy) {
        let common = cluster
            .common_lb_config
            .get_or_insert_with(CommonLbConfig::default);
        common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig {},
        ));
    }
    cluster
}

#[expect(
    deprecated,
    reason = "Envoy's older spelling of DNS clusters, which all versions read"
)]
/// How often the proxy looks a cluster's names up, and for which addresses.
pub(super) fn resolve_names(view: &View<'_>, cluster: &mut Cluster) {
    cluster.dns_lookup_family = if view.node.ipv6_only() {
        DnsLookupFamily::V6Only
    } else {
        DnsLookupFamily::V4Only
    }
    .into();
    cluster.dns_refresh_rate = Some(wkt::duration(view.mesh.settings.dns_refresh));
    cluster.dns_jitter = Some(wkt::duration(DNS_JITTER));
    cluster.respect_dns_ttl = true;
}

/// For TLS to the outside the host of the request is the server's name, unless the rule gives one.
fn host_verification(policy: &Policy, protocol: Protocol) -> Option<UpstreamHttpProtocolOptions> {
    let tls = policy.tls.as_ref()?;
    let outside = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if !outside || tls.sni.is_some() || !(protocol.is_http() || protocol == Protocol::Sniffed) {
        return None;
    }
    Some(UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: tls.subject_alt_names.is_empty() && !tls.insecure_skip_verify,
        ..UpstreamHttpProtocolOptions::default()
    })
}

/// TLS by rule, or automatic mutual TLS where the endpoint says that it speaks it.
fn secure(
    view: &View<'_>,
    cluster: &mut Cluster,
    service: &Service,
    port: &ServicePort,
    subset: Option<&str>,
    policy: &Policy,
) {
    let sni = outbound_sni(port.port, subset.unwrap_or_default(), &service.hostname);
    let mut within = policy::within(port.protocol, policy.connection_pool.as_ref());
    if within == Within::Anything && view.node.profile == Profile::Malla {
        within = Within::Exchanged;
        cluster.filters = vec![metrics::cluster_exchange()];
    }
    let sans = server_names(view, service, port);
    if let Some(tls) = &policy.tls {
        cluster.transport_socket = tls::rule_client(view, tls, &sni, within, &sans)
            .map(|context| tls::client_socket(&context));
        return;
    }
    if !view.mesh.settings.auto_mtls || service.external {
        return;
    }
    let socket = tls::client_socket(&tls::mesh_client(&sni, within, &sans));
    let follows_client = cluster.cluster_discovery_type
        == Some(
            malla_xds_proto::cluster::cluster::ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst.into(),
            ),
        );
    if follows_client {
        // Such a cluster's endpoints have no metadata, so it is TLS for all or for none.
        let endpoints = of_port(service, port, None);
        let all = endpoints
            .iter()
            .all(|e| speaks_mtls(view.mesh, service.namespace(), e));
        if all && !endpoints.is_empty() {
            cluster.transport_socket = Some(socket);
        }
        return;
    }
    cluster.transport_socket_matches = vec![
        TransportSocketMatch {
            name: "tlsMode-istio".into(),
            r#match: Some(wkt::structure([("tlsMode", wkt::string("istio"))])),
            transport_socket: Some(socket),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".into(),
            r#match: Some(wkt::structure::<String>([])),
            transport_socket: Some(tls::plaintext_socket()),
        },
    ];
}

/// Who servers of that port may be.
fn server_names(view: &View<'_>, service: &Service, port: &ServicePort) -> BTreeSet<String> {
    service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.port_name == port.name)
        .filter_map(|endpoint| endpoint.identity.as_ref())
        .flat_map(|id| tls::identity_names(view.mesh, id))
        .chain(service.subject_alt_names.iter().cloned())
        .collect()
}
