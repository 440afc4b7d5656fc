//! `inbound|port||`: from the sidecar to its own workload.
//!
//! Connections start at 127.0.0.6, which traffic capture lets through, and go to the address the
//! client meant, so the workload sees its own.

use std::collections::BTreeMap;
use std::time::Duration;

use malla_xds_proto::cluster::{CircuitBreakers, Cluster};
use malla_xds_proto::core::socket_address::PortSpecifier;
use malla_xds_proto::core::{BindConfig, ExtraSourceAddress, SocketAddress};
use malla_xds_proto::wkt;

use super::{istio_metadata, original_dst, policy, set_protocol};
use crate::names::{INBOUND_PASSTHROUGH, LOOPBACK_SOURCE_V4, LOOPBACK_SOURCE_V6, inbound_cluster};
use crate::view::{OwnPort, View};

/// Hosts of such clusters are forgotten when unused that long.
const CLEANUP: Duration = Duration::from_secs(60);

pub(crate) fn clusters(view: &View<'_>) -> Vec<Cluster> {
    let mut by_target: BTreeMap<u16, Vec<OwnPort<'_>>> = BTreeMap::new();
    for port in view.own_services() {
        by_target.entry(port.target).or_default().push(*port);
    }
    let mut clusters: Vec<Cluster> = by_target
        .iter()
        .map(|(target, ports)| to_port(view, *target, ports))
        .collect();
    clusters.push(to_unknown_port(view));
    clusters
}

/// `ports` are the services on that port, oldest first; the oldest says what is spoken.
fn to_port(view: &View<'_>, target: u16, ports: &[OwnPort<'_>]) -> Cluster {
    let mut cluster = to_workload(view, &inbound_cluster(target));
    cluster.metadata = Some(istio_metadata(
        ports.iter().map(|p| &**p.service),
        false,
        None,
        None,
    ));
    let Some(first) = ports.first() else {
        return cluster;
    };
    // Limits of a rule hold on the server's side too, or its proxy would be the narrower one.
    let rule = view.rule(&first.service.hostname, first.service.namespace());
    let pool = rule.and_then(|rule| rule.policy(first.port.port, None).connection_pool);
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![policy::breakers(pool.as_ref(), None)],
        ..CircuitBreakers::default()
    });
    if let Some(pool) = &pool {
        policy::apply_connections(&mut cluster, pool);
    }
    let protocol = pool.map(|pool| malla_model::traffic::ConnectionPool {
        // What clients upgrade to is their affair; the workload is spoken to as its port says.
        h2_upgrade: malla_model::traffic::H2Upgrade::Default,
        ..pool
    });
    if let Some(options) = policy::protocol(first.port.protocol, protocol.as_ref()) {
        set_protocol(&mut cluster, &options);
    }
    cluster
}

fn to_unknown_port(view: &View<'_>) -> Cluster {
    let mut cluster = to_workload(view, INBOUND_PASSTHROUGH);
    set_protocol(&mut cluster, &policy::downstream_protocol());
    cluster
}

fn to_workload(view: &View<'_>, name: &str) -> Cluster {
    let source = |address: &str| SocketAddress {
        address: address.into(),
        port_specifier: Some(PortSpecifier::PortValue(0)),
        ..SocketAddress::default()
    };
    let v4 = view.node.addresses.iter().any(std::net::IpAddr::is_ipv4);
    let v6 = view.node.addresses.iter().any(std::net::IpAddr::is_ipv6);
    let (first, second) = if v4 || !v6 {
        (LOOPBACK_SOURCE_V4, LOOPBACK_SOURCE_V6)
    } else {
        (LOOPBACK_SOURCE_V6, LOOPBACK_SOURCE_V4)
    };
    Cluster {
        cleanup_interval: Some(wkt::duration(CLEANUP)),
        upstream_bind_config: Some(BindConfig {
            source_address: Some(source(first)),
            extra_source_addresses: if v4 && v6 {
                vec![ExtraSourceAddress {
                    address: Some(source(second)),
                    ..ExtraSourceAddress::default()
                }]
            } else {
                Vec::new()
            },
            ..BindConfig::default()
        }),
        ..original_dst(view, name)
    }
}
