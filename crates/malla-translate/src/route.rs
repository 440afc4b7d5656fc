//! RDS: which request goes to which cluster.

mod action;
mod delegate;
mod filters;
mod gateway;
mod headers;
mod inbound;
mod matching;
mod retry;
mod sidecar;
mod virtual_service;

use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::route::{RouteConfiguration, VirtualHost};
use malla_xds_proto::wkt;

pub(crate) use action::tcp_destinations;
pub(crate) use filters::{CORS as CORS_FILTER, FAULT as FAULT_FILTER};
pub(crate) use inbound::configuration as inbound_configuration;
pub(crate) use matching::everything;
pub(crate) use sidecar::speaks_http;
pub(crate) use virtual_service::in_scope;

use crate::metrics;
use crate::node::NodeKind;
use crate::patch;
use crate::resource::Resource;
use crate::view::View;

/// Bodies of direct responses may be that large; Envoy's own limit is 4 KiB.
const MAX_DIRECT_RESPONSE: u32 = 1_048_576;
/// The name of a route that no user wrote.
pub(crate) const DEFAULT_ROUTE: &str = "default";
/// Istio's "no timeout".
pub(crate) const NO_TIMEOUT: Duration = Duration {
    seconds: 0,
    nanos: 0,
};

pub(crate) fn names(view: &View<'_>) -> Vec<String> {
    let mut names = match view.node.kind {
        NodeKind::Sidecar => sidecar::names(view),
        NodeKind::Router => gateway::names(view),
    };
    names.sort();
    names.dedup();
    names
}

pub(crate) fn configuration(view: &View<'_>, name: &str) -> Option<Resource> {
    let hosts = match view.node.kind {
        NodeKind::Sidecar => sidecar::virtual_hosts(view, name)?,
        NodeKind::Router => gateway::virtual_hosts(view, name)?,
    };
    let mut routes = with_hosts(view, name, hosts);
    patch::routes(view, patch::outbound(view.node), &mut routes);
    Some(Resource::new(name, &routes))
}

fn with_hosts(view: &View<'_>, name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        request_headers_to_remove: metrics::headers_to_remove(view),
        // Routes may name clusters that do not exist (yet): such requests get 503 NC.
        validate_clusters: Some(wkt::boolean(false)),
        max_direct_response_body_size_bytes: Some(wkt::uint32(MAX_DIRECT_RESPONSE)),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}
