//! EnvoyFilter to patches, whose values are Envoy's messages.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::matching::Pattern;
use malla_model::patch::{
    ApplyTo, ChainPlace, ClusterPlace, Context as Where, EnvoyFilter, HostPlace, ListenerPlace,
    Operation, Patch, Place, ProxyMatch, RouteAction, RoutePlace, RoutesPlace,
};
use malla_xds_proto::{cluster, hcm, json, listener, route};
use prost::{Message, Name};
use serde_json::Value;

use super::meta::{meta, port, selector, text};
use super::virtual_service::collect;
use super::{Context, Lowered, Refused, decode};
use crate::istio::envoy_filter as raw;
use crate::kind::Kind;

/// Lowers an EnvoyFilter. A patch that cannot act is left out and reported; the others act.
///
/// # Errors
/// When the spec is malformed.
pub fn lower(metadata: &ObjectMeta, spec: &Value) -> Result<Lowered<EnvoyFilter>, Refused> {
    let written: raw::EnvoyFilterSpec = decode(Kind::EnvoyFilter, metadata, spec)?;
    let mut cx = Context::new(metadata, "");
    if !written.target_refs.is_empty() {
        cx.note(
            "spec.targetRefs",
            "Malla does not act on it yet; use workloadSelector",
        );
    }
    let labels = written.workload_selector.as_ref().map(|s| &s.labels);
    let value = EnvoyFilter {
        meta: meta(Kind::EnvoyFilter.name(), metadata),
        selector: selector(labels),
        priority: written.priority.unwrap_or_default(),
        patches: if written.target_refs.is_empty() {
            collect(
                &written.config_patches,
                "spec.configPatches",
                &mut cx,
                patch,
            )
        } else {
            Vec::new()
        },
    };
    Ok(cx.finish(Kind::EnvoyFilter, spec, value))
}

fn patch(written: &raw::EnvoyConfigObjectPatch, path: &str, cx: &mut Context<'_>) -> Option<Patch> {
    let apply_to = apply_to(written.apply_to, path, cx)?;
    let place = written.place.clone().unwrap_or_default();
    let context = match place.context {
        None | Some(raw::PatchContext::Any) => Where::Any,
        Some(raw::PatchContext::SidecarInbound) => Where::SidecarInbound,
        Some(raw::PatchContext::SidecarOutbound) => Where::SidecarOutbound,
        Some(raw::PatchContext::Gateway) => Where::Gateway,
        Some(raw::PatchContext::Waypoint) => {
            cx.note(format!("{path}.match.context"), "Malla has no waypoints");
            return None;
        }
    };
    let change = written.patch.clone().unwrap_or_default();
    let Some(operation) = operation(change.operation) else {
        cx.note(
            format!("{path}.patch.operation"),
            "is required (MERGE, ADD, REMOVE, INSERT_BEFORE, INSERT_AFTER, INSERT_FIRST, REPLACE or MERGE_AND_REPLACE_LIST)",
        );
        return None;
    };
    Some(Patch {
        apply_to,
        context,
        proxy: proxy(place.proxy.as_ref(), path, cx)?,
        value: value(apply_to, operation, change.value, path, cx)?,
        place: self::place(place),
        operation,
    })
}

fn apply_to(written: Option<raw::ApplyTo>, path: &str, cx: &mut Context<'_>) -> Option<ApplyTo> {
    let why = match written {
        Some(raw::ApplyTo::Listener) => return Some(ApplyTo::Listener),
        Some(raw::ApplyTo::ListenerFilter) => return Some(ApplyTo::ListenerFilter),
        Some(raw::ApplyTo::FilterChain) => return Some(ApplyTo::FilterChain),
        Some(raw::ApplyTo::NetworkFilter) => return Some(ApplyTo::NetworkFilter),
        Some(raw::ApplyTo::HttpFilter) => return Some(ApplyTo::HttpFilter),
        Some(raw::ApplyTo::RouteConfiguration) => return Some(ApplyTo::RouteConfiguration),
        Some(raw::ApplyTo::VirtualHost) => return Some(ApplyTo::VirtualHost),
        Some(raw::ApplyTo::HttpRoute) => return Some(ApplyTo::HttpRoute),
        Some(raw::ApplyTo::Cluster) => return Some(ApplyTo::Cluster),
        Some(raw::ApplyTo::ExtensionConfig) => {
            "Malla does not deliver extension configurations yet; put typed_config into the filter"
        }
        Some(raw::ApplyTo::Bootstrap) => {
            "Malla does not change bootstraps yet; use annotations of the pod"
        }
        Some(raw::ApplyTo::Invalid) | None => "is required, such as HTTP_FILTER or CLUSTER",
    };
    cx.note(format!("{path}.applyTo"), why);
    None
}

const fn operation(written: Option<raw::PatchOperation>) -> Option<Operation> {
    Some(match written {
        Some(raw::PatchOperation::Merge) => Operation::Merge,
        Some(raw::PatchOperation::MergeAndReplaceList) => Operation::MergeAndReplaceList,
        Some(raw::PatchOperation::Add) => Operation::Add,
        Some(raw::PatchOperation::Remove) => Operation::Remove,
        Some(raw::PatchOperation::InsertBefore) => Operation::InsertBefore,
        Some(raw::PatchOperation::InsertAfter) => Operation::InsertAfter,
        Some(raw::PatchOperation::InsertFirst) => Operation::InsertFirst,
        Some(raw::PatchOperation::Replace) => Operation::Replace,
        Some(raw::PatchOperation::Invalid) | None => return None,
    })
}

fn proxy(
    written: Option<&raw::ProxyMatch>,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<ProxyMatch> {
    let Some(written) = written else {
        return Some(ProxyMatch::default());
    };
    let version = match text(&written.proxy_version).map(|text| Pattern::new(&text)) {
        None => None,
        Some(Ok(pattern)) => Some(pattern),
        Some(Err(error)) => {
            cx.note(
                format!("{path}.match.proxy.proxyVersion"),
                format!(
                    "not a regular expression of RE2's syntax, so the patch is left out: {error}"
                ),
            );
            return None;
        }
    };
    Some(ProxyMatch {
        version,
        metadata: written.metadata.clone(),
    })
}

/// The patch's message, encoded; `None` (and a note) when it is not one.
fn value(
    apply_to: ApplyTo,
    operation: Operation,
    written: Option<Value>,
    path: &str,
    cx: &mut Context<'_>,
) -> Option<Arc<[u8]>> {
    let written = match written {
        _ if operation == Operation::Remove => return Some(Arc::default()),
        Some(written @ Value::Object(_)) => written,
        _ => {
            cx.note(
                format!("{path}.patch.value"),
                "is required for every operation but REMOVE, so the patch is left out",
            );
            return None;
        }
    };
    let encoded = match apply_to {
        ApplyTo::Listener => encode::<listener::Listener>(written),
        ApplyTo::ListenerFilter => encode::<listener::ListenerFilter>(written),
        ApplyTo::FilterChain => encode::<listener::FilterChain>(written),
        ApplyTo::NetworkFilter => encode::<listener::Filter>(written),
        ApplyTo::HttpFilter => encode::<hcm::HttpFilter>(written),
        ApplyTo::RouteConfiguration => encode::<route::RouteConfiguration>(written),
        ApplyTo::VirtualHost => encode::<route::VirtualHost>(written),
        ApplyTo::HttpRoute => encode::<route::Route>(written),
        ApplyTo::Cluster => encode::<cluster::Cluster>(written),
    };
    match encoded {
        Ok(bytes) => Some(bytes),
        Err(json::JsonError::Field {
            path: field,
            reason,
        }) => {
            let dot = if field.is_empty() { "" } else { "." };
            cx.note(
                format!("{path}.patch.value{dot}{field}"),
                format!("{reason}, so the patch is left out"),
            );
            None
        }
        Err(error) => {
            cx.note(format!("{path}.patch.value"), error.to_string());
            None
        }
    }
}

fn encode<M: Message + Name + Default>(written: Value) -> Result<Arc<[u8]>, json::JsonError> {
    let message: M = json::from_value(written)?;
    Ok(message.encode_to_vec().into())
}

fn place(written: raw::ObjectMatch) -> Place {
    if let Some(listener) = written.listener {
        Place::Listener(Box::new(listener_place(listener)))
    } else if let Some(routes) = written.route_configuration {
        Place::Routes(Box::new(routes_place(routes)))
    } else if let Some(cluster) = written.cluster {
        Place::Cluster(ClusterPlace {
            name: text(&cluster.name),
            port: cluster.port_number.and_then(port),
            service: text(&cluster.service),
            subset: text(&cluster.subset),
        })
    } else {
        Place::Anywhere
    }
}

fn listener_place(written: raw::ListenerMatch) -> ListenerPlace {
    let chain = written.filter_chain.unwrap_or_default();
    let named = |name: Option<String>| Arc::from(name.unwrap_or_default());
    let sub = chain.filter.as_ref().and_then(|it| it.sub_filter.clone());
    let protocols = chain.application_protocols.unwrap_or_default();
    ListenerPlace {
        name: text(&written.name),
        port: written.port_number.and_then(port),
        listener_filter: text(&written.listener_filter),
        chain: ChainPlace {
            name: text(&chain.name),
            sni: text(&chain.sni),
            transport_protocol: text(&chain.transport_protocol),
            transport_socket: text(&chain.transport_socket),
            application_protocols: protocols
                .split(',')
                .filter(|protocol| !protocol.is_empty())
                .map(Arc::from)
                .collect(),
            destination_port: chain.destination_port.and_then(port),
        },
        filter: chain.filter.map(|filter| named(filter.name)),
        http_filter: sub.map(|filter| named(filter.name)),
    }
}

fn routes_place(written: raw::RouteConfigurationMatch) -> RoutesPlace {
    RoutesPlace {
        name: text(&written.name),
        port: written.port_number.and_then(port),
        port_name: text(&written.port_name),
        gateway: text(&written.gateway),
        host: written.vhost.map(|host| HostPlace {
            name: text(&host.name),
            domain: text(&host.domain_name),
            route: host.route.map(|route| RoutePlace {
                name: text(&route.name),
                action: match route.action {
                    None | Some(raw::RouteAction::Any) => None,
                    Some(raw::RouteAction::Route) => Some(RouteAction::Route),
                    Some(raw::RouteAction::Redirect) => Some(RouteAction::Redirect),
                    Some(raw::RouteAction::DirectResponse) => Some(RouteAction::DirectResponse),
                },
            }),
        }),
    }
}
