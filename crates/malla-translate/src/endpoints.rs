//! EDS: who answers for a cluster, how near they are and whether they speak mutual TLS.

mod locality;

pub(crate) use locality::weighs_localities;

use malla_model::id::selects;
use malla_model::service::{Resolution, ServicePort};
use malla_model::traffic::{Balance, Subset};
use malla_model::workload::{Address, Endpoint, Health};
use malla_model::{Host, Service};
use malla_xds_proto::core::address::Address as AddressKind;
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{self, HealthStatus, Metadata, Pipe, SocketAddress};
use malla_xds_proto::endpoint::lb_endpoint::HostIdentifier;
use malla_xds_proto::endpoint::{self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use malla_xds_proto::wkt;

use crate::authn::speaks_mtls;
use crate::names::parse_outbound;
use crate::providers;
use crate::resource::Resource;
use crate::rules::Policy;
use crate::view::View;

/// The endpoints of an outbound cluster whose endpoints the control plane knows.
pub(crate) fn assignment(view: &View<'_>, cluster: &str) -> Option<Resource> {
    let (port, subset_name, host) = parse_outbound(cluster)?;
    let hidden = || {
        let mut hidden = providers::hidden(view).into_iter();
        hidden.find(|(service, at)| service.hostname == host && at.port == port)
    };
    let service = match view.service(&host) {
        Some(service) => &**service,
        None => hidden()?.0,
    };
    let port = service.port(port)?;
    let resolved_by_proxy = matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    );
    if resolved_by_proxy || view.goes_where_meant(service) {
        return None;
    }
    let rule = view.rule(&host, service.namespace());
    let subset = match subset_name {
        "" => None,
        name => Some(rule.as_ref()?.subset(name)?),
    };
    let policy = rule
        .as_ref()
        .map(|rule| rule.policy(port.port, subset))
        .unwrap_or_default();
    let balancer = policy.load_balancer.as_ref();
    if balancer.is_some_and(|lb| lb.algorithm == Balance::Passthrough) {
        return None; // Such a cluster goes wherever the client was going.
    }
    let assignment = load_assignment(view, cluster, service, port, subset, &policy);
    Some(Resource::new(cluster, &assignment))
}

/// As EDS sends it, and as DNS clusters hold it inline.
pub(crate) fn load_assignment(
    view: &View<'_>,
    cluster: &str,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    policy: &Policy,
) -> ClusterLoadAssignment {
    let chosen = of_port(service, port, subset);
    // Unready endpoints are sent as such, unless a threshold of health decides by itself.
    let threshold = policy.outlier.as_ref().and_then(|o| o.min_health_percent);
    let only_healthy = threshold.is_some_and(|percent| percent > 0);
    let endpoints = chosen
        .iter()
        .filter(|e| !only_healthy || e.health == Health::Healthy)
        .filter(|e| !service.same_machine || e.node == view.node.machine)
        .map(|e| (e, lb_endpoint(view, service, e)))
        .collect();
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: locality::group(view, service, endpoints, policy),
        ..ClusterLoadAssignment::default()
    }
}

/// The endpoints of one port and subset, in order of their addresses.
pub(crate) fn of_port(
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = service
        .endpoints
        .iter()
        .filter(|e| e.port_name == port.name)
        .filter(|e| subset.is_none_or(|subset| selects(&subset.labels, &e.labels)))
        .cloned()
        .collect();
    let resolves = matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    );
    if resolves && service.endpoints.is_empty() && !service.hostname.is_wildcard() {
        endpoints.push(by_name(&service.hostname, port));
    }
    endpoints.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
    endpoints
}

/// A ServiceEntry resolved by DNS and without endpoints is its own endpoint.
fn by_name(host: &Host, port: &ServicePort) -> Endpoint {
    Endpoint {
        port_name: port.name.clone(),
        address: Address::Dns(host.as_str().into()),
        port: port.target_port.unwrap_or(port.port),
        labels: std::sync::Arc::default(),
        health: Health::Healthy,
        weight: 1,
        locality: malla_model::workload::Locality::default(),
        network: "".into(),
        tls_mode: malla_model::workload::TlsMode::Disabled,
        identity: None,
        workload: "".into(),
        node: "".into(),
    }
}

fn lb_endpoint(view: &View<'_>, service: &Service, endpoint: &Endpoint) -> LbEndpoint {
    let mut metadata = Metadata::default();
    if !service.external && speaks_mtls(view.mesh, service.namespace(), endpoint) {
        metadata.filter_metadata.insert(
            "envoy.transport_socket_match".into(),
            wkt::structure([("tlsMode", wkt::string("istio"))]),
        );
    }
    if !endpoint.workload.is_empty() {
        metadata.filter_metadata.insert(
            "istio".into(),
            wkt::structure([("workload", wkt::string(&endpoint.workload))]),
        );
    }
    LbEndpoint {
        health_status: match endpoint.health {
            Health::Healthy => HealthStatus::Healthy,
            Health::Unhealthy => HealthStatus::Unhealthy,
            Health::Draining => HealthStatus::Draining,
        }
        .into(),
        metadata: (metadata != Metadata::default()).then_some(metadata),
        load_balancing_weight: Some(wkt::uint32(endpoint.weight.max(1))),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(&endpoint.address, endpoint.port)),
            ..endpoint::Endpoint::default()
        })),
    }
}

fn address(of: &Address, port: u16) -> core::Address {
    match of {
        Address::Ip(ip) => socket_address(&ip.to_string(), port),
        Address::Dns(name) => socket_address(name, port),
        Address::Unix(path) => core::Address {
            address: Some(AddressKind::Pipe(Pipe {
                path: path.to_string(),
                ..Pipe::default()
            })),
        },
    }
}

/// A place of one endpoint, of which nothing is known but its address.
pub(crate) fn one_endpoint(address: core::Address) -> LocalityLbEndpoints {
    let host = endpoint::Endpoint {
        address: Some(address),
        ..endpoint::Endpoint::default()
    };
    LocalityLbEndpoints {
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(host)),
            ..LbEndpoint::default()
        }],
        ..LocalityLbEndpoints::default()
    }
}

/// A Unix domain socket.
pub(crate) fn pipe(path: &str) -> core::Address {
    address(&Address::Unix(path.into()), 0)
}

/// `address:port`, TCP.
pub(crate) fn socket_address(address: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}
