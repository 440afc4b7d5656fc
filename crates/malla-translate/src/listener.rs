//! LDS: where connections arrive and what is made of them.

mod filter;
mod gateway;
mod hcm;
mod inbound;
mod outbound;
mod plan;
mod tcp;

use malla_model::patch::Context;
use malla_xds_proto::core::TrafficDirection;
use malla_xds_proto::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::wkt;

use crate::endpoints::{pipe, socket_address};
use crate::node::NodeKind;
use crate::patch;
use crate::resource::Resource;
use crate::telemetry::logs;
use crate::view::View;

pub(crate) use filter::{http as http_filter, network as network_filter};
pub(crate) use hcm::Side;
pub(crate) use plan::route_names as outbound_route_names;
pub(crate) use tcp::unknown_cluster;

/// The listeners for calls to others; all of a gateway's.
pub(crate) fn outward(view: &View<'_>) -> Vec<Resource> {
    let listeners = match view.node.kind {
        NodeKind::Sidecar => outbound::listeners(view),
        NodeKind::Router => gateway::listeners(view),
    };
    packed(view, listeners, patch::outbound(view.node))
}

/// The listeners for calls to the workload of a sidecar.
pub(crate) fn inward(view: &View<'_>) -> Vec<Resource> {
    if view.node.kind != NodeKind::Sidecar {
        return Vec::new();
    }
    packed(view, inbound::listeners(view), Context::SidecarInbound)
}

/// With what patches make of them, and add in that context.
fn packed(view: &View<'_>, listeners: Vec<Listener>, context: Context) -> Vec<Resource> {
    let mut listeners = patch::listeners(view, listeners);
    listeners.extend(patch::more_listeners(view, context));
    let packed = listeners.iter();
    packed
        .map(|listener| Resource::new(&listener.name, listener))
        .collect()
}

/// A listener with what all of them have in common.
fn base(
    view: &View<'_>,
    name: String,
    address: &str,
    port: u16,
    direction: TrafficDirection,
) -> Listener {
    let told = match direction {
        TrafficDirection::Inbound => malla_model::telemetry::Side::Server,
        TrafficDirection::Outbound | TrafficDirection::Unspecified => {
            malla_model::telemetry::Side::Client
        }
    };
    Listener {
        name,
        address: Some(match address.strip_prefix("unix://") {
            Some(path) => pipe(path),
            None => socket_address(address, port),
        }),
        traffic_direction: direction.into(),
        access_log: if view.mesh.settings.listener_log {
            logs::of(view, told, logs::Layer::Unrouted)
        } else {
            Vec::new()
        },
        ..Listener::default()
    }
}

/// Looks at a connection's first bytes; how long, the mesh's settings say (0 is for ever).
fn sniff(view: &View<'_>, listener: &mut Listener) {
    let timeout = view.mesh.settings.protocol_detection_timeout;
    listener.listener_filters_timeout = Some(timeout.map_or_else(Duration::default, wkt::duration));
    listener.continue_on_listener_filters_timeout = true;
}

fn chain(name: &str, of: FilterChainMatch, filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: (of != FilterChainMatch::default()).then_some(of),
        filters,
        ..FilterChain::default()
    }
}

/// The address that stands for all of the node's.
pub(crate) fn any_address(view: &View<'_>) -> &'static str {
    if view.node.ipv6_only() {
        "::"
    } else {
        "0.0.0.0"
    }
}
