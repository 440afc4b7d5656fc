//! A gateway's listeners, one for each port of its servers.

use std::collections::BTreeSet;
use std::time::Duration;

use malla_model::gateway::ServerTlsMode;
use malla_model::route::WeightedDestination;
use malla_model::{Host, Protocol};
use malla_xds_proto::core::TrafficDirection;
use malla_xds_proto::listener::{FilterChain, FilterChainMatch, Listener};
use malla_xds_proto::wkt::duration;

use super::hcm::{Routes, Side};
use super::{base, chain, filter, hcm, sniff, tcp};
use crate::gateways::{self, Bound, Port, Spoken, auto_passthrough_of};
use crate::names::outbound_sni;
use crate::route::{in_scope, tcp_destinations};
use crate::security;
use crate::tls;
use crate::view::View;

/// How long a client may take for its TLS handshake, as Istio has it.
const HANDSHAKE: Duration = Duration::from_secs(15);

pub(crate) fn listeners(view: &View<'_>) -> Vec<Listener> {
    gateways::merged(view)
        .iter()
        .filter_map(|((address, port), servers)| listener(view, address, *port, servers))
        .collect()
}

/// `None` where nothing is behind any of the servers: Envoy refuses a listener without chains.
fn listener(view: &View<'_>, address: &str, port: u16, servers: &Port<'_>) -> Option<Listener> {
    let name = format!("{address}_{port}");
    let mut listener = base(
        view,
        name.clone(),
        address,
        port,
        TrafficDirection::Outbound,
    );
    listener.filter_chains = match servers.spoken {
        Spoken::Http => {
            let first = servers.servers.first()?;
            vec![chain(
                "",
                FilterChainMatch::default(),
                vec![manager(view, &name, first)?],
            )]
        }
        Spoken::Tls => {
            listener.listener_filters = vec![filter::tls_inspector()];
            sniff(view, &mut listener);
            tls_chains(view, &name, &servers.servers)
        }
        Spoken::Tcp => tcp_chains(view, &servers.servers),
    };
    (!listener.filter_chains.is_empty()).then_some(listener)
}

fn manager(
    view: &View<'_>,
    listener: &str,
    server: &Bound<'_>,
) -> Option<malla_xds_proto::listener::Filter> {
    Some(hcm::manager(
        view,
        Side::Gateway,
        format!("outbound_{listener}"),
        Routes::Named(server.route_name()?),
        security::http_filters(view),
        server.server.protocol == Protocol::GrpcWeb,
    ))
}

/// Chains told apart by the name in the TLS handshake; the first server with a name keeps it.
fn tls_chains(view: &View<'_>, listener: &str, servers: &[Bound<'_>]) -> Vec<FilterChain> {
    let mut chains = Vec::new();
    let mut taken = BTreeSet::new();
    for server in servers {
        let Some(settings) = &server.server.tls else {
            continue;
        };
        let new = match settings.mode {
            ServerTlsMode::Passthrough => passthrough(view, server),
            ServerTlsMode::AutoPassthrough => auto_passthrough(view, server),
            _ => terminated(view, listener, server).into_iter().collect(),
        };
        for mut chain in new {
            let of = chain.filter_chain_match.get_or_insert_default();
            if of.server_names.is_empty() {
                if !taken.insert(String::new()) {
                    continue;
                }
            } else {
                of.server_names.retain(|name| taken.insert(name.clone()));
                if of.server_names.is_empty() {
                    continue;
                }
            }
            if *of == FilterChainMatch::default() {
                chain.filter_chain_match = None;
            }
            chains.push(chain);
        }
    }
    chains
}

fn terminated(view: &View<'_>, listener: &str, server: &Bound<'_>) -> Option<FilterChain> {
    let settings = server.server.tls.as_ref()?;
    let http = server.terminates_https();
    let context = tls::gateway_server(view.mesh, settings, &view.node.namespace, http)?;
    let filters = if http {
        vec![manager(view, listener, server)?]
    } else {
        let mut filters = security::network_filters(view);
        let (stat_prefix, to) = tcp_routes(view, server).into_iter().next()?;
        filters.extend(tcp::proxy(view, Side::Gateway, &stat_prefix, &to));
        filters
    };
    let names = server.server.hosts.iter().map(|host| &host.host);
    Some(FilterChain {
        transport_socket: Some(tls::server_socket(&context)),
        transport_socket_connect_timeout: Some(duration(HANDSHAKE)),
        ..chain("", by_name(names), filters)
    })
}

fn passthrough(view: &View<'_>, server: &Bound<'_>) -> Vec<FilterChain> {
    let mut chains = Vec::new();
    let gateway = server.gateway_name();
    let port = server.server.port;
    for (vs, _) in server.virtual_services(view) {
        for route in &vs.tls {
            let in_force = route
                .matches
                .iter()
                .filter(|of| in_scope(view, &of.scope, &gateway, port));
            for of in in_force {
                chains.push(forwarding(
                    view,
                    by_name(&of.sni_hosts),
                    &route.destinations,
                    port,
                ));
            }
        }
    }
    chains
}

/// Between networks: the name in the handshake is a cluster's, and TLS goes through unopened.
fn auto_passthrough(view: &View<'_>, server: &Bound<'_>) -> Vec<FilterChain> {
    let mut chains = Vec::new();
    for service in auto_passthrough_of(view, server.server) {
        let rule = view.rule(&service.hostname, service.namespace());
        let subsets = rule.iter().flat_map(|rule| &rule.subsets).map(|s| &*s.name);
        let subsets: Vec<&str> = std::iter::once("").chain(subsets).collect();
        for port in service.ports.iter().filter(|p| p.protocol != Protocol::Udp) {
            for subset in &subsets {
                let cluster = outbound_sni(port.port, subset, &service.hostname);
                let of = FilterChainMatch {
                    server_names: vec![cluster.clone()],
                    application_protocols: tls::MESH_ALPNS.map(Into::into).to_vec(),
                    ..FilterChainMatch::default()
                };
                chains.push(chain(
                    "",
                    of,
                    tcp::to_cluster(view, Side::Gateway, &cluster),
                ));
            }
        }
    }
    chains
}

fn tcp_chains(view: &View<'_>, servers: &[Bound<'_>]) -> Vec<FilterChain> {
    // Bytes say nothing of a host, so the first route is everybody's.
    let routes = servers
        .iter()
        .flat_map(|server| tcp_routes(view, server))
        .next();
    routes
        .map(|(stat_prefix, to)| {
            let mut filters = security::network_filters(view);
            filters.extend(tcp::proxy(view, Side::Gateway, &stat_prefix, &to));
            chain("", FilterChainMatch::default(), filters)
        })
        .into_iter()
        .collect()
}

fn tcp_routes(view: &View<'_>, server: &Bound<'_>) -> Vec<(String, Vec<(String, u32)>)> {
    let gateway = server.gateway_name();
    let port = server.server.port;
    let mut out = Vec::new();
    for (vs, _) in server.virtual_services(view) {
        for route in &vs.tcp {
            let in_force = route.matches.is_empty()
                || route
                    .matches
                    .iter()
                    .any(|of| in_scope(view, &of.scope, &gateway, port));
            if in_force {
                out.push(weighted(view, &route.destinations, port));
            }
        }
    }
    out
}

fn forwarding(
    view: &View<'_>,
    of: FilterChainMatch,
    to: &[WeightedDestination],
    port: u16,
) -> FilterChain {
    let (stat_prefix, to) = weighted(view, to, port);
    let mut filters = security::network_filters(view);
    filters.extend(tcp::proxy(view, Side::Gateway, &stat_prefix, &to));
    chain("", of, filters)
}

fn weighted(
    view: &View<'_>,
    to: &[WeightedDestination],
    port: u16,
) -> (String, Vec<(String, u32)>) {
    let to = tcp_destinations(view, to, port);
    let stat_prefix = match &to[..] {
        [(only, _)] => only.clone(),
        _ => "weighted".to_owned(),
    };
    (stat_prefix, to)
}

fn by_name<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> FilterChainMatch {
    let names: BTreeSet<String> = hosts.into_iter().map(ToString::to_string).collect();
    FilterChainMatch {
        // `*` is every name, which Envoy says by naming none.
        server_names: if names.contains("*") {
            Vec::new()
        } else {
            names.into_iter().collect()
        },
        ..FilterChainMatch::default()
    }
}
