//! What arrives for the workload: at `virtualInbound`, or at ports that a Sidecar opens.
//!
//! For every port that a service or a Sidecar's ingress listener opens there is a set of filter chains, which ones depends on how the
//! workload takes connections (PeerAuthentication) and on what the port speaks. A connection that
//! no chain of its port takes is closed, and that is what STRICT means for plaintext.

use std::collections::{BTreeMap, BTreeSet};

use malla_model::Protocol;
use malla_model::gateway::ServerTls;
use malla_model::patch::Context;
use malla_model::policy::MtlsMode;
use malla_model::sidecar::{Capture, Ingress};
use malla_xds_proto::core::TrafficDirection;
use malla_xds_proto::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use malla_xds_proto::wkt;

use super::hcm::{Routes, Side};
use super::{any_address, base, chain, filter, hcm, sniff, tcp};
use crate::authn::Authn;
use crate::metrics;
use crate::names::{
    BLACK_HOLE, INBOUND_PASSTHROUGH, INBOUND_PORT, VIRTUAL_INBOUND, inbound_cluster,
};
use crate::node::{Interception, Profile};
use crate::patch;
use crate::route::inbound_configuration;
use crate::security;
use crate::tls::{self, Served};
use crate::view::{OwnPort, View};

/// What a port speaks, as far as filter chains care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Bytes,
    /// To be found out.
    Either,
}

/// One kind of connections: how they are told, whether TLS ends here, and what is within.
struct Kind {
    transport: &'static str,
    protocols: Vec<String>,
    terminates: bool,
    http: bool,
}

/// A port and all that its chains need.
struct Target<'a> {
    name: String,
    /// `None` is every port without chains of its own.
    port: Option<u16>,
    mode: MtlsMode,
    protocol: Protocol,
    cluster: String,
    /// What callers know it by: a host and a port of that.
    known_as: Option<(String, u16)>,
    /// TLS of the workload's own, which ends here.
    tls: Option<&'a ServerTls>,
}

/// `virtualInbound`, and listeners of a Sidecar that open their ports themselves.
pub(crate) fn listeners(view: &View<'_>) -> Vec<Listener> {
    let captured = view.node.interception != Interception::None;
    let mut listeners = Vec::new();
    let mut chained = Vec::new();
    for (ingress, target) in ingress_targets(view) {
        if captured && ingress.capture == Capture::Default {
            chained.push(target);
        } else if !(view.node.unprivileged && ingress.port.number < 1024) {
            listeners.push(opened(view, ingress, &target));
        }
    }
    if captured {
        if view.ingress().is_empty() {
            chained = service_targets(view);
        }
        listeners.push(virtual_inbound(view, chained));
    }
    listeners
}

/// A listener of a Sidecar on a port of its own.
fn opened(view: &View<'_>, ingress: &Ingress, target: &Target<'_>) -> Listener {
    let address = ingress.bind.as_deref().unwrap_or(any_address(view));
    let mut listener = Listener {
        listener_filters: vec![filter::tls_inspector(), filter::http_inspector()],
        filter_chains: target_chains(view, target),
        ..base(
            view,
            target.name.clone(),
            address,
            ingress.port.number,
            TrafficDirection::Inbound,
        )
    };
    sniff(view, &mut listener);
    listener
}

fn virtual_inbound<'a>(view: &View<'a>, mut targets: Vec<Target<'a>>) -> Listener {
    add_elsewhere(view, &mut targets);
    let without = |needs: fn(&Kind) -> bool| -> Vec<u16> {
        let idle = |target: &&Target<'_>| !kinds(view, target).iter().any(needs);
        targets
            .iter()
            .filter(idle)
            .filter_map(|target| target.port)
            .collect()
    };
    let no_tls = without(|kind| kind.transport == "tls");
    let no_http = without(|kind| kind.transport != "tls" && !kind.protocols.is_empty());

    let loops = FilterChainMatch {
        // A connection to this very port would come back for ever.
        destination_port: Some(wkt::uint32(INBOUND_PORT.into())),
        ..FilterChainMatch::default()
    };
    let mut chains = vec![chain(
        "virtualInbound-blackhole",
        loops,
        tcp::to_cluster(view, Side::Inbound, BLACK_HOLE),
    )];
    chains.extend(
        targets
            .iter()
            .flat_map(|target| target_chains(view, target)),
    );
    let mut listener = Listener {
        listener_filters: vec![
            filter::original_dst(),
            filter::except_for(filter::tls_inspector(), &no_tls),
            filter::except_for(filter::http_inspector(), &no_http),
        ],
        filter_chains: chains,
        ..base(
            view,
            VIRTUAL_INBOUND.into(),
            any_address(view),
            INBOUND_PORT,
            TrafficDirection::Inbound,
        )
    };
    if view.node.interception == Interception::Tproxy {
        listener.transparent = Some(wkt::boolean(true));
        listener.listener_filters.insert(1, filter::original_src());
    }
    sniff(view, &mut listener);
    listener
}

/// One for each port of the workload's services. Of two services on one port the oldest says what it speaks.
fn service_targets<'a>(view: &View<'a>) -> Vec<Target<'a>> {
    let authn = Authn::of(view.mesh, &view.node.namespace, &view.node.labels);
    let mut own: BTreeMap<u16, OwnPort<'a>> = BTreeMap::new();
    for port in view.own_services() {
        if port.port.protocol != Protocol::Udp {
            own.entry(port.target).or_insert(*port);
        }
    }
    own.into_iter()
        .map(|(port, own)| Target {
            name: format!("{}_{port}", any_address(view)),
            port: Some(port),
            mode: authn.at(port),
            protocol: own.port.protocol,
            cluster: inbound_cluster(port),
            known_as: Some((own.service.hostname.to_string(), own.port.port)),
            tls: None,
        })
        .collect()
}

/// One for each ingress listener of the node's Sidecar; of two for one port, the first.
fn ingress_targets<'a>(view: &View<'a>) -> Vec<(&'a Ingress, Target<'a>)> {
    let authn = Authn::of(view.mesh, &view.node.namespace, &view.node.labels);
    let mut taken = BTreeSet::new();
    let mut targets = Vec::new();
    for ingress in view.ingress() {
        let port = ingress.port.number;
        if !taken.insert(port) {
            continue;
        }
        let mode = authn.at(port);
        // Two kinds of TLS on one port cannot be told apart.
        let tls = ingress.tls.as_ref().filter(|_| mode == MtlsMode::Disable);
        let address = ingress.bind.as_deref().unwrap_or(any_address(view));
        let target = Target {
            name: format!("{address}_{port}"),
            port: (ingress.capture == Capture::Default).then_some(port),
            mode,
            protocol: match (ingress.port.protocol, tls) {
                (Protocol::Https, Some(_)) => Protocol::Http,
                (Protocol::Tls, Some(_)) => Protocol::Tcp,
                (protocol, _) => protocol,
            },
            cluster: inbound_cluster(port),
            known_as: view.sidecar_name().map(|name| (name, port)),
            tls,
        };
        targets.push((ingress, target));
    }
    targets
}

/// Ports that no service has: each that PeerAuthentications tell apart, and all others.
fn add_elsewhere(view: &View<'_>, targets: &mut Vec<Target<'_>>) {
    let authn = Authn::of(view.mesh, &view.node.namespace, &view.node.labels);
    let own: BTreeSet<u16> = targets.iter().filter_map(|target| target.port).collect();
    let elsewhere = |port: Option<u16>, mode| Target {
        name: VIRTUAL_INBOUND.to_owned(),
        port,
        mode,
        protocol: Protocol::Sniffed,
        cluster: INBOUND_PASSTHROUGH.to_owned(),
        known_as: None,
        tls: None,
    };
    let others = authn.ports().filter(|(port, _)| !own.contains(port));
    targets.extend(others.map(|(port, mode)| elsewhere(Some(port), mode)));
    targets.push(elsewhere(None, authn.elsewhere()));
}

fn speaks(protocol: Protocol) -> Speaks {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => Speaks::Http,
        Protocol::Sniffed => Speaks::Either,
        _ => Speaks::Bytes,
    }
}

/// The kinds of connections a port takes. Mutual TLS of the mesh is told by its ALPNs, so that TLS
/// of the application's own can go through unopened in PERMISSIVE mode.
fn kinds(view: &View<'_>, target: &Target<'_>) -> Vec<Kind> {
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let plain_http = || {
        let mut protocols = own(&["http/1.1", "h2c"]);
        if view.node.http10 {
            protocols.insert(0, "http/1.0".into());
        }
        protocols
    };
    let mesh = |protocols: &[&str], http| Kind {
        transport: "tls",
        protocols: own(protocols),
        terminates: true,
        http,
    };
    let plain = |protocols, http| Kind {
        transport: "raw_buffer",
        protocols,
        terminates: false,
        http,
    };
    let foreign_tls = || Kind {
        transport: "tls",
        protocols: Vec::new(),
        terminates: false,
        http: false,
    };
    let speaks = speaks(target.protocol);
    if target.tls.is_some() {
        return vec![mesh(&[], speaks == Speaks::Http)];
    }
    match (target.mode, speaks) {
        (MtlsMode::Permissive, Speaks::Http) => {
            vec![mesh(&tls::MESH_ALPNS, true), plain(Vec::new(), true)]
        }
        (MtlsMode::Permissive, Speaks::Bytes) => {
            vec![
                mesh(&tls::MESH_ALPNS, false),
                foreign_tls(),
                plain(Vec::new(), false),
            ]
        }
        (MtlsMode::Permissive, Speaks::Either) => vec![
            mesh(&tls::MESH_HTTP_ALPNS, true),
            plain(plain_http(), true),
            mesh(&tls::MESH_TCP_ALPNS, false),
            plain(Vec::new(), false),
            foreign_tls(),
        ],
        (MtlsMode::Strict, Speaks::Http) => vec![mesh(&[], true)],
        (MtlsMode::Strict, Speaks::Bytes) => vec![mesh(&[], false)],
        (MtlsMode::Strict, Speaks::Either) => {
            vec![mesh(&tls::MESH_HTTP_ALPNS, true), mesh(&[], false)]
        }
        (MtlsMode::Disable, speaks) => {
            let any = |protocols, http| Kind {
                transport: "",
                ..plain(protocols, http)
            };
            match speaks {
                Speaks::Http => vec![any(Vec::new(), true)],
                Speaks::Bytes => vec![any(Vec::new(), false)],
                Speaks::Either => vec![any(plain_http(), true), any(Vec::new(), false)],
            }
        }
    }
}

fn target_chains(view: &View<'_>, target: &Target<'_>) -> Vec<FilterChain> {
    kinds(view, target)
        .into_iter()
        .filter_map(|kind| {
            let of = FilterChainMatch {
                destination_port: target.port.map(|port| wkt::uint32(port.into())),
                transport_protocol: kind.transport.into(),
                application_protocols: kind.protocols,
                ..FilterChainMatch::default()
            };
            let context = match target.tls {
                _ if !kind.terminates => None,
                None => Some(tls::mesh_server(view.mesh, served(view, kind.http))),
                Some(own) => Some(tls::gateway_server(
                    view.mesh,
                    own,
                    &view.node.namespace,
                    kind.http,
                )?),
            };
            let filters = if kind.http {
                vec![http(view, target)]
            } else {
                bytes(view, target)
            };
            Some(FilterChain {
                transport_socket: context.as_ref().map(tls::server_socket),
                ..chain(&target.name, of, filters)
            })
        })
        .collect()
}

fn served(view: &View<'_>, http: bool) -> Served {
    match view.node.profile {
        _ if http => Served::Http,
        Profile::Malla => Served::Exchanged,
        Profile::PlainEnvoy => Served::Bytes,
    }
}

fn http(view: &View<'_>, target: &Target<'_>) -> Filter {
    let (port, operation) = match &target.known_as {
        Some((host, port)) => (*port, format!("{host}:{port}/*")),
        None => (0, ":0/*".to_owned()),
    };
    let stat_prefix = match target.known_as {
        Some(_) => format!("inbound_{}", target.name),
        None => target.cluster.clone(),
    };
    let retried = !matches!(target.protocol, Protocol::Grpc | Protocol::GrpcWeb);
    let mut routes = inbound_configuration(view, &target.cluster, port, &operation, retried);
    routes.request_headers_to_remove = metrics::headers_to_remove(view);
    patch::routes(view, Context::SidecarInbound, &mut routes);
    hcm::manager(
        view,
        Side::Inbound,
        stat_prefix,
        Routes::Inline(Box::new(routes)),
        security::http_filters(view),
        false,
    )
}

fn bytes(view: &View<'_>, target: &Target<'_>) -> Vec<Filter> {
    let mut filters: Vec<Filter> = metrics::exchange(view).into_iter().collect();
    filters.extend(security::network_filters(view));
    filters.extend(tcp::to_cluster(view, Side::Inbound, &target.cluster));
    filters
}
