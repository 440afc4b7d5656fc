//! A sidecar's outbound listeners. Captured connections arrive at `virtualOutbound` and are handed
//! to the listener of the address they were meant for; no other opens a port of its own.
//!
//! Where nothing is captured, the workload calls its proxy: on the loopback address, at the port of
//! the service. A Sidecar's listeners may be anywhere, even at paths.

use std::collections::BTreeSet;

use ipnet::IpNet;
use malla_model::route::MESH_GATEWAY;
use malla_model::traffic::{ClientTlsMode, TrafficPolicy};
use malla_model::{Host, Protocol};
use malla_xds_proto::core::{CidrRange, TrafficDirection};
use malla_xds_proto::listener::{FilterChain, FilterChainMatch, Listener};
use malla_xds_proto::wkt;

use super::hcm::{Routes, Side};
use super::plan::{Slot, Tcp, plan};
use super::{any_address, base, chain, filter, hcm, sniff, tcp};
use crate::names::{BLACK_HOLE, OUTBOUND_PORT, VIRTUAL_OUTBOUND, outbound_cluster};
use crate::node::{Interception, Profile};
use crate::route::{in_scope, tcp_destinations};
use crate::scope::Reach;
use crate::view::View;

/// The name Istio gives to chains for traffic it knows nothing of.
const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";

pub(crate) fn listeners(view: &View<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = plan(view)
        .iter()
        .filter_map(|((address, port), slot)| {
            let reach = view.scope().reach(*port, address)?;
            Some(listener(view, reach, address, *port, slot))
        })
        .collect();
    if view.node.interception != Interception::None {
        listeners.push(virtual_outbound(view));
    }
    listeners
}

fn virtual_outbound(view: &View<'_>) -> Listener {
    let loops = FilterChainMatch {
        // A connection to this very port would come back for ever.
        destination_port: Some(wkt::uint32(OUTBOUND_PORT.into())),
        ..FilterChainMatch::default()
    };
    Listener {
        use_original_dst: Some(wkt::boolean(true)),
        filter_chains: vec![
            chain(
                "virtualOutbound-blackhole",
                loops,
                tcp::to_cluster(view, Side::Outbound, BLACK_HOLE),
            ),
            chain(
                "virtualOutbound-catchall-tcp",
                FilterChainMatch::default(),
                tcp::unknown(view),
            ),
        ],
        ..base(
            view,
            VIRTUAL_OUTBOUND.into(),
            any_address(view),
            OUTBOUND_PORT,
            TrafficDirection::Outbound,
        )
    }
}

fn listener(
    view: &View<'_>,
    reach: &Reach<'_>,
    address: &str,
    port: u16,
    slot: &Slot<'_>,
) -> Listener {
    let name = format!("{address}_{port}");
    let mut listener = Listener {
        bind_to_port: (!slot.binds).then(|| wkt::boolean(false)),
        ..base(
            view,
            name.clone(),
            address,
            port,
            TrafficDirection::Outbound,
        )
    };
    let shared = address == any_address(view);
    let (mut chains, default) = tcp_chains(view, reach, slot, shared);
    let by_name = chains.iter().any(|chain| {
        chain
            .filter_chain_match
            .as_ref()
            .is_some_and(|m| !m.server_names.is_empty())
    });
    if let Some(http) = &slot.http {
        chains.insert(0, http_chain(view, reach, &name, http));
        listener.listener_filters = vec![filter::tls_inspector(), filter::http_inspector()];
        sniff(view, &mut listener);
    } else if by_name {
        listener.listener_filters = vec![filter::tls_inspector()];
        sniff(view, &mut listener);
    }
    listener.default_filter_chain = Some(default.unwrap_or_else(|| {
        chain(
            PASSTHROUGH_CHAIN,
            FilterChainMatch::default(),
            tcp::unknown(view),
        )
    }));
    if chains.is_empty() {
        // One chain for all is said plainly.
        chains.extend(listener.default_filter_chain.take());
    }
    listener.filter_chains = chains;
    listener
}

/// Plain HTTP, found out by looking; anything else falls through to the other chains.
fn http_chain(
    view: &View<'_>,
    reach: &Reach<'_>,
    name: &str,
    http: &super::plan::Http,
) -> FilterChain {
    let mut protocols = vec!["http/1.1".to_owned(), "h2c".to_owned()];
    if view.node.http10 {
        protocols.insert(0, "http/1.0".to_owned());
    }
    let of = FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        application_protocols: protocols,
        ..FilterChainMatch::default()
    };
    let says_http = view.node.profile == Profile::PlainEnvoy
        && http
            .sniffed
            .as_ref()
            .is_some_and(|host| stays_in_mesh(view, reach, host));
    let manager = hcm::manager(
        view,
        Side::Outbound,
        format!("outbound_{name}"),
        Routes::Named(http.route_name.clone()),
        says_http.then(filter::http_alpn).into_iter().collect(),
        http.grpc_web,
    );
    chain("", of, vec![manager])
}

/// Whether calls to `host` end at proxies of the mesh or in plaintext, never at TLS of somebody else's.
fn stays_in_mesh(view: &View<'_>, reach: &Reach<'_>, host: &Host) -> bool {
    let outside = |policy: &TrafficPolicy| {
        let own = policy
            .tls
            .iter()
            .chain(policy.ports.iter().filter_map(|p| p.tls.as_ref()));
        own.into_iter()
            .any(|tls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual))
    };
    let ruled_out = view.rule_of(host).is_some_and(|rule| {
        outside(&rule.policy) || rule.subsets.iter().any(|subset| outside(&subset.policy))
    });
    let rerouted = reach.on_mesh(host).next().is_some();
    let external = view.service(host).is_none_or(|service| service.external);
    !(ruled_out || rerouted || external)
}

/// Chains for what is passed on as bytes, and the one for what matches none of them.
fn tcp_chains(
    view: &View<'_>,
    reach: &Reach<'_>,
    slot: &Slot<'_>,
    shared: bool,
) -> (Vec<FilterChain>, Option<FilterChain>) {
    let mut chains = Vec::new();
    let mut default = None;
    let mut taken = BTreeSet::new();
    for target in &slot.tcp {
        for (of, to) in targets(view, reach, target, shared) {
            // The oldest service keeps a match that two have.
            if !taken.insert(format!("{of:?}")) {
                continue;
            }
            let stat_prefix = outbound_cluster(target.port.port, "", &target.service.hostname);
            let chain = chain(
                "",
                of.clone(),
                tcp::proxy(view, Side::Outbound, &stat_prefix, &to),
            );
            if of == FilterChainMatch::default() {
                default = Some(chain);
            } else {
                chains.push(chain);
            }
        }
    }
    (chains, default)
}

type Weighted = Vec<(String, u32)>;

/// Where connections of one service go: by its VirtualService's TLS and TCP routes, else to itself.
fn targets(
    view: &View<'_>,
    reach: &Reach<'_>,
    target: &Tcp<'_>,
    shared: bool,
) -> Vec<(FilterChainMatch, Weighted)> {
    let mut out = Vec::new();
    let host = &target.service.hostname;
    let port = target.port.port;
    let mut everything_routed = false;
    for vs in reach.on_mesh(host) {
        if target.protocol.is_tls() || target.protocol == Protocol::Sniffed {
            for route in &vs.tls {
                let to = || tcp_destinations(view, &route.destinations, port);
                for of in &route.matches {
                    if in_scope(view, &of.scope, MESH_GATEWAY, port) {
                        let within = if of.destination_subnets.is_empty() {
                            &target.within
                        } else {
                            &of.destination_subnets
                        };
                        out.push((matching(within, &of.sni_hosts), to()));
                    }
                }
            }
        }
        for route in &vs.tcp {
            let to = || tcp_destinations(view, &route.destinations, port);
            if route.matches.is_empty() {
                out.push((matching(&target.within, &[]), to()));
                everything_routed = true;
            }
            for of in &route.matches {
                if in_scope(view, &of.scope, MESH_GATEWAY, port) {
                    let all = of.destination_subnets.is_empty();
                    let within = if all {
                        &target.within
                    } else {
                        &of.destination_subnets
                    };
                    out.push((matching(within, &[]), to()));
                    everything_routed |= all;
                }
            }
        }
        if !out.is_empty() {
            break;
        }
    }
    if !everything_routed {
        // On a shared address only the name in the handshake tells services apart.
        let name = (shared && target.protocol.is_tls()).then(|| host.clone());
        let to = vec![(outbound_cluster(port, "", host), 1)];
        out.push((matching(&target.within, name.as_slice()), to));
    }
    out
}

fn matching(within: &[IpNet], names: &[Host]) -> FilterChainMatch {
    FilterChainMatch {
        prefix_ranges: within.iter().map(range).collect(),
        server_names: names
            .iter()
            .filter(|name| name.as_str() != "*")
            .map(ToString::to_string)
            .collect(),
        ..FilterChainMatch::default()
    }
}

pub(crate) fn range(net: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: net.network().to_string(),
        prefix_len: Some(wkt::uint32(net.prefix_len().into())),
    }
}
