//! Servers of keys (RequestAuthentication's `jwksUri`) that are no services of the mesh: `jwks|port|scheme|host`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use malla_model::token::JwksUri;
use malla_model::traffic::{ClientTls, ClientTlsMode};
use malla_xds_proto::cluster::Cluster;
use malla_xds_proto::cluster::cluster::DiscoveryType;
use malla_xds_proto::endpoint::ClusterLoadAssignment;

use super::base;
use super::outbound::resolve_names;
use crate::endpoints::{one_endpoint, socket_address};
use crate::jwt;
use crate::tls::{self, Within};
use crate::view::View;

pub(crate) fn clusters(view: &View<'_>) -> Vec<Cluster> {
    jwt::outside_key_servers(view)
        .into_iter()
        .map(|(name, uri)| cluster(view, &name, uri))
        .collect()
}

fn cluster(view: &View<'_>, name: &str, uri: &JwksUri) -> Cluster {
    let host = uri.host.as_str();
    let named = host.parse::<IpAddr>().is_err();
    let mut cluster = match named {
        true => base(view, name, DiscoveryType::StrictDns),
        false => base(view, name, DiscoveryType::Static),
    };
    if named {
        resolve_names(view, &mut cluster);
    }
    cluster.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![one_endpoint(socket_address(host, uri.port))],
        ..ClusterLoadAssignment::default()
    });
    if uri.tls {
        let context = tls::rule_client(
            view,
            &verified(host, named),
            "",
            Within::Http1,
            &BTreeSet::new(),
        );
        cluster.transport_socket = context.map(|context| tls::client_socket(&context));
    }
    cluster
}

/// TLS to exactly that host, by the system's trust anchors.
fn verified(host: &str, named: bool) -> ClientTls {
    let name: Arc<str> = host.into();
    ClientTls {
        mode: ClientTlsMode::Simple,
        // An address is no server name (RFC 6066, 3).
        sni: named.then(|| Arc::clone(&name)),
        subject_alt_names: vec![name],
        client_certificate: None,
        private_key: None,
        ca_certificates: None,
        credential_name: None,
        insecure_skip_verify: false,
    }
}
