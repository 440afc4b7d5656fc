//! `inbound|port||`: from the sidecar to its own workload.
//!
//! Connections start at 127.0.0.6, which traffic capture lets through, and go to the address the
//! client meant, so the workload sees its own; or to where the node's Sidecar says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use malla_model::Protocol;
use malla_model::sidecar::{Backend, Ingress};
use malla_model::traffic::{ConnectionPool, H2Upgrade};
use malla_xds_proto::cluster::cluster::DiscoveryType;
use malla_xds_proto::cluster::{CircuitBreakers, Cluster};
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{Address, BindConfig, ExtraSourceAddress, SocketAddress};
use malla_xds_proto::endpoint::ClusterLoadAssignment;
use malla_xds_proto::wkt;

use super::{base, istio_metadata, original_dst, policy, set_protocol};
use crate::endpoints::{one_endpoint, pipe, socket_address};
use crate::names::{INBOUND_PASSTHROUGH, LOOPBACK_SOURCE_V4, LOOPBACK_SOURCE_V6, inbound_cluster};
use crate::node::Interception;
use crate::view::{OwnPort, View};

/// Hosts of such clusters are forgotten when unused that long.
const CLEANUP: Duration = Duration::from_secs(60);

pub(crate) fn clusters(view: &View<'_>) -> Vec<Cluster> {
    let mut by_target: BTreeMap<u16, Vec<OwnPort<'_>>> = BTreeMap::new();
    for port in view.own_services() {
        by_target.entry(port.target).or_default().push(*port);
    }
    let mut clusters: Vec<Cluster> = if !view.ingress().is_empty() {
        let mut taken = BTreeSet::new();
        let first = view.ingress().iter();
        first
            .filter(|ingress| taken.insert(ingress.port.number))
            .map(|ingress| {
                let own = by_target.get(&ingress.port.number);
                to_ingress(view, ingress, own.map_or(&[], Vec::as_slice))
            })
            .collect()
    } else if view.node.interception == Interception::None {
        // Nothing arrives but at ports that somebody named.
        Vec::new()
    } else {
        by_target
            .iter()
            .map(|(target, ports)| to_port(view, *target, ports))
            .collect()
    };
    clusters.push(to_unknown_port(view));
    clusters
}

/// `ports` are the services on that port, oldest first; the oldest says what is spoken.
fn to_port(view: &View<'_>, target: u16, ports: &[OwnPort<'_>]) -> Cluster {
    let name = inbound_cluster(target);
    let cluster = if view.mesh.settings.inbound_loopback {
        to_one(&name, loopback(view, target), view)
    } else {
        to_workload(view, &name)
    };
    let protocol = ports.first().map(|first| first.port.protocol);
    shaped(view, cluster, ports, protocol, None)
}

/// As [`to_port`], for a port that the node's Sidecar names.
fn to_ingress(view: &View<'_>, ingress: &Ingress, ports: &[OwnPort<'_>]) -> Cluster {
    let name = inbound_cluster(ingress.port.number);
    let to = match &ingress.endpoint {
        Backend::Meant => None,
        Backend::Loopback(port) => Some(loopback(view, *port)),
        Backend::Instance(port) => {
            let own = view.node.addresses.first();
            own.map(|ip| socket_address(&ip.to_string(), *port))
        }
        Backend::Unix(path) => Some(pipe(path)),
    };
    let cluster = match to {
        None => to_workload(view, &name),
        Some(to) => Cluster {
            // Connections to the loopback address are not captured; to the workload's own they are.
            upstream_bind_config: matches!(ingress.endpoint, Backend::Instance(_))
                .then(|| loopback_source(view)),
            ..to_one(&name, to, view)
        },
    };
    let protocol = ingress.port.protocol;
    shaped(view, cluster, ports, Some(protocol), ingress.pool.as_ref())
}

/// A cluster of one endpoint.
fn to_one(name: &str, to: Address, view: &View<'_>) -> Cluster {
    Cluster {
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![one_endpoint(to)],
            ..ClusterLoadAssignment::default()
        }),
        ..base(view, name, DiscoveryType::Static)
    }
}

fn loopback(view: &View<'_>, port: u16) -> Address {
    let address = match versions(view) {
        (false, true) => "::1",
        _ => "127.0.0.1",
    };
    socket_address(address, port)
}

/// Limits, protocol and metadata. Limits of a DestinationRule hold on the server's side too, or its proxy would be the
/// narrower one; a Sidecar's stand before them.
fn shaped(
    view: &View<'_>,
    mut cluster: Cluster,
    ports: &[OwnPort<'_>],
    protocol: Option<Protocol>,
    own_pool: Option<&ConnectionPool>,
) -> Cluster {
    cluster.metadata = Some(istio_metadata(
        ports.iter().map(|p| &**p.service),
        false,
        None,
        None,
    ));
    let by_rule = || {
        let first = ports.first()?;
        let rule = view.rule(&first.service.hostname, first.service.namespace())?;
        rule.policy(first.port.port, None).connection_pool
    };
    let by_sidecar = || view.scope().sidecar?.inbound_pool.clone();
    let pool = own_pool.cloned().or_else(by_sidecar).or_else(by_rule);
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![policy::breakers(pool.as_ref(), None)],
        ..CircuitBreakers::default()
    });
    if let Some(pool) = &pool {
        policy::apply_connections(&mut cluster, pool);
    }
    let pool = pool.map(|pool| ConnectionPool {
        // What clients upgrade to is their affair; the workload is spoken to as its port says.
        h2_upgrade: H2Upgrade::Default,
        ..pool
    });
    if let Some(options) = protocol.and_then(|it| policy::protocol(it, pool.as_ref())) {
        set_protocol(&mut cluster, &options);
    }
    cluster
}

fn to_unknown_port(view: &View<'_>) -> Cluster {
    let mut cluster = to_workload(view, INBOUND_PASSTHROUGH);
    set_protocol(&mut cluster, &policy::passthrough_protocol());
    cluster
}

fn to_workload(view: &View<'_>, name: &str) -> Cluster {
    Cluster {
        cleanup_interval: Some(wkt::duration(CLEANUP)),
        upstream_bind_config: Some(loopback_source(view)),
        ..original_dst(view, name)
    }
}

/// Which versions of the Internet protocol the node has.
fn versions(view: &View<'_>) -> (bool, bool) {
    let mut ips = view.node.addresses.iter();
    let v6 = view.node.addresses.iter().any(IpAddr::is_ipv6);
    (ips.any(IpAddr::is_ipv4), v6)
}

fn loopback_source(view: &View<'_>) -> BindConfig {
    let source = |address: &str| SocketAddress {
        address: address.into(),
        port_specifier: Some(PortSpecifier::PortValue(0)),
        ..SocketAddress::default()
    };
    let (v4, v6) = versions(view);
    let (first, second) = if v4 || !v6 {
        (LOOPBACK_SOURCE_V4, LOOPBACK_SOURCE_V6)
    } else {
        (LOOPBACK_SOURCE_V6, LOOPBACK_SOURCE_V4)
    };
    let extra = (v4 && v6).then(|| ExtraSourceAddress {
        address: Some(source(second)),
        ..ExtraSourceAddress::default()
    });
    BindConfig {
        source_address: Some(source(first)),
        extra_source_addresses: extra.into_iter().collect(),
        ..BindConfig::default()
    }
}
