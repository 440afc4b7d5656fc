//! VirtualService to routes.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::matching::MatchScope;
use malla_model::route::{
    Destination, HeaderOps, MESH_GATEWAY, TcpMatch, TcpRoute, TlsMatch, TlsRoute, VirtualService,
    WeightedDestination,
};
use malla_model::{Host, MeshSettings};
use serde_json::Value;

use super::meta::{ip_block, meta, port, text, visibility_or};
use super::{Context, Lowered, Refused, decode, http};
use crate::istio::virtual_service as raw;
use crate::kind::Kind;

/// Lowers a VirtualService.
///
/// # Errors
/// When the spec is malformed.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<VirtualService>, Refused> {
    let written: raw::VirtualServiceSpec = decode(Kind::VirtualService, metadata, spec)?;
    let mut cx = Context::new(metadata, &settings.domain);
    let mut gateways = gateways(&written.gateways, cx.namespace);
    if gateways.is_empty() {
        gateways.push(MESH_GATEWAY.into());
    }
    let value = VirtualService {
        meta: meta(Kind::VirtualService.name(), metadata),
        hosts: written
            .hosts
            .iter()
            .map(|host| Host::resolve(host, cx.namespace, cx.domain))
            .collect(),
        gateways,
        http: collect(&written.http, "spec.http", &mut cx, http::route),
        tls: collect(&written.tls, "spec.tls", &mut cx, tls_route),
        tcp: collect(&written.tcp, "spec.tcp", &mut cx, tcp_route),
        visibility: visibility_or(
            written.export_to.iter().map(String::as_str),
            &settings.export.virtual_services,
            cx.namespace,
        ),
    };
    Ok(cx.finish(Kind::VirtualService, spec, value))
}

/// Lowers each item at its path; items that cannot act leave a note and are left out.
pub(super) fn collect<R, M>(
    list: &[R],
    path: &str,
    cx: &mut Context<'_>,
    lower: impl Fn(&R, &str, &mut Context<'_>) -> Option<M>,
) -> Vec<M> {
    list.iter()
        .enumerate()
        .filter_map(|(at, item)| lower(item, &format!("{path}[{at}]"), cx))
        .collect()
}

/// Lowers alternatives. Where there were some and none is left, the whole can never match, which
/// is not the same as an empty list: that would match everything.
pub(super) fn alternatives<R, M>(
    list: &[R],
    path: &str,
    cx: &mut Context<'_>,
    lower: impl Fn(&R, &str, &mut Context<'_>) -> Option<M>,
) -> Option<Vec<M>> {
    let lowered = collect(list, path, cx, lower);
    if lowered.is_empty() && !list.is_empty() {
        return None;
    }
    Some(lowered)
}

fn gateways(list: &[String], namespace: &str) -> Vec<Arc<str>> {
    list.iter()
        .filter(|name| !name.is_empty())
        .map(|name| gateway_name(name, namespace))
        .collect()
}

/// `namespace/name`, whichever of its forms a Gateway's name is written in; the oldest form is the
/// DNS-like `name.namespace.svc.cluster.local`.
pub(crate) fn gateway_name(written: &str, own_namespace: &str) -> Arc<str> {
    if written == MESH_GATEWAY {
        return MESH_GATEWAY.into();
    }
    match (written.split_once('/'), written.split_once('.')) {
        (Some((".", name)), _) => format!("{own_namespace}/{name}").into(),
        (Some(_), _) => written.into(),
        (None, Some((name, rest))) => {
            let namespace = rest.split('.').next().unwrap_or_default();
            format!("{namespace}/{name}").into()
        }
        (None, None) => format!("{own_namespace}/{written}").into(),
    }
}

pub(super) fn scope(
    written_port: Option<u32>,
    source_labels: &malla_model::id::Labels,
    source_namespace: &Option<String>,
    match_gateways: &[String],
    path: &str,
    cx: &mut Context<'_>,
) -> Option<MatchScope> {
    let number = match written_port {
        None => None,
        Some(number) => match port(number) {
            Some(number) => Some(number),
            None => {
                cx.note(
                    format!("{path}.port"),
                    "not a port (1-65535), so this never matches",
                );
                return None;
            }
        },
    };
    Some(MatchScope {
        port: number,
        source_labels: source_labels.clone(),
        source_namespace: text(source_namespace),
        gateways: gateways(match_gateways, cx.namespace),
    })
}

pub(super) fn destination(
    written: &raw::Destination,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<Destination> {
    if written.host.is_empty() {
        cx.note(
            format!("{path}.host"),
            "is empty, so this destination is left out",
        );
        return None;
    }
    let written_port = written.port.as_ref().and_then(|port| port.number);
    let number = match written_port.filter(|number| *number != 0) {
        None => None,
        Some(number) => match port(number) {
            Some(number) => Some(number),
            None => {
                cx.note(
                    format!("{path}.port.number"),
                    "not a port (1-65535), so this destination is left out",
                );
                return None;
            }
        },
    };
    Some(Destination {
        host: Host::resolve(&written.host, cx.namespace, cx.domain),
        subset: text(&written.subset),
        port: number,
    })
}

/// Weights as written; a negative one is no traffic.
pub(super) fn weight(written: Option<i32>, alone: bool) -> u32 {
    match written {
        None | Some(0) if alone => 100,
        Some(weight) => u32::try_from(weight).unwrap_or(0),
        None => 0,
    }
}

fn l4_destinations(
    list: &[raw::RouteDestination],
    path: &str,
    cx: &mut Context<'_>,
) -> Vec<WeightedDestination> {
    let alone = list.len() == 1;
    collect(list, &format!("{path}.route"), cx, |item, path, cx| {
        Some(WeightedDestination {
            destination: destination(&item.destination, &format!("{path}.destination"), cx)?,
            weight: weight(item.weight, alone),
            headers: HeaderOps::default(),
        })
    })
}

fn subnets(list: &[String], path: &str, cx: &mut Context<'_>) -> Option<Vec<IpNet>> {
    alternatives(
        list,
        &format!("{path}.destinationSubnets"),
        cx,
        |text, path, cx| {
            let block = ip_block(text);
            if block.is_none() {
                cx.note(
                    path,
                    "neither an IP address nor a CIDR block, so it matches nothing",
                );
            }
            block
        },
    )
}

fn tls_route(written: &raw::TlsRoute, path: &str, cx: &mut Context<'_>) -> Option<TlsRoute> {
    let matches = alternatives(
        &written.matches,
        &format!("{path}.match"),
        cx,
        |item, path, cx| {
            Some(TlsMatch {
                sni_hosts: item.sni_hosts.iter().map(|host| Host::new(host)).collect(),
                destination_subnets: subnets(&item.destination_subnets, path, cx)?,
                scope: scope(
                    item.port,
                    &item.source_labels,
                    &item.source_namespace,
                    &item.gateways,
                    path,
                    cx,
                )?,
            })
        },
    )?;
    let destinations = l4_destinations(&written.route, path, cx);
    (!destinations.is_empty()).then_some(TlsRoute {
        matches,
        destinations,
    })
}

fn tcp_route(written: &raw::TcpRoute, path: &str, cx: &mut Context<'_>) -> Option<TcpRoute> {
    let matches = alternatives(
        &written.matches,
        &format!("{path}.match"),
        cx,
        |item, path, cx| {
            Some(TcpMatch {
                destination_subnets: subnets(&item.destination_subnets, path, cx)?,
                scope: scope(
                    item.port,
                    &item.source_labels,
                    &item.source_namespace,
                    &item.gateways,
                    path,
                    cx,
                )?,
            })
        },
    )?;
    let destinations = l4_destinations(&written.route, path, cx);
    (!destinations.is_empty()).then_some(TcpRoute {
        matches,
        destinations,
    })
}
