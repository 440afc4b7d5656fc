//! EnvoyFilter: patches of generated Envoy configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::common::{LabelSelector, PORT_MESSAGE, PORT_RULE, PolicyTargetReference};
use crate::schema::{at_most_one, free_form, limit, rule};

/// Patches of the Envoy configuration that the control plane generates.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", "only one of targetRefs or workloadSelector can be set"))]
pub struct EnvoyFilterSpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub workload_selector: Option<LabelSelector>,
    /// Only for these objects.
    #[schemars(transform = limit("maxItems", 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The patches, in order.
    pub config_patches: Vec<EnvoyConfigObjectPatch>,
    /// Order among EnvoyFilters, lowest first; absent is 0.
    pub priority: Option<i32>,
}

/// One patch.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyConfigObjectPatch {
    /// What is patched.
    pub apply_to: Option<ApplyTo>,
    /// Where.
    #[serde(rename = "match")]
    pub place: Option<ObjectMatch>,
    /// How.
    pub patch: Option<Patch>,
}

/// What is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApplyTo {
    Invalid,
    Listener,
    FilterChain,
    NetworkFilter,
    HttpFilter,
    RouteConfiguration,
    VirtualHost,
    HttpRoute,
    Cluster,
    ExtensionConfig,
    Bootstrap,
    ListenerFilter,
}

/// Where a patch applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("listener routeConfiguration cluster waypoint"))]
#[schemars(transform = rule("has(self.context) ? ((self.context == 'WAYPOINT') ? has(self.waypoint) : !has(self.waypoint)) : !has(self.waypoint)", "only support waypointMatch when context is WAYPOINT"))]
pub struct ObjectMatch {
    /// Which proxies and directions; absent is ANY.
    pub context: Option<PatchContext>,
    /// Which proxies.
    pub proxy: Option<ProxyMatch>,
    /// Which listener.
    pub listener: Option<ListenerMatch>,
    /// Which routes.
    pub route_configuration: Option<RouteConfigurationMatch>,
    /// Which cluster.
    pub cluster: Option<ClusterMatch>,
    /// Which part of a waypoint.
    pub waypoint: Option<WaypointMatch>,
}

/// Which proxies and directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PatchContext {
    Any,
    SidecarInbound,
    SidecarOutbound,
    Gateway,
    Waypoint,
}

/// Which proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyMatch {
    /// Version, as a regular expression.
    pub proxy_version: Option<String>,
    /// Node metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Which listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerMatch {
    /// Port.
    pub port_number: Option<u32>,
    /// Never implemented.
    pub port_name: Option<String>,
    /// Name of the listener.
    pub name: Option<String>,
    /// Name of a listener filter.
    pub listener_filter: Option<String>,
    /// Which filter chain.
    pub filter_chain: Option<FilterChainMatch>,
}

/// Which filter chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FilterChainMatch {
    /// Name of the chain.
    pub name: Option<String>,
    /// SNI it matches.
    pub sni: Option<String>,
    /// Transport protocol it matches.
    pub transport_protocol: Option<String>,
    /// Transport socket it has.
    pub transport_socket: Option<String>,
    /// Application protocols it matches, comma-separated.
    pub application_protocols: Option<String>,
    /// Which filter.
    pub filter: Option<FilterMatch>,
    /// Destination port it matches.
    pub destination_port: Option<u32>,
}

/// Which filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FilterMatch {
    /// Name of the filter.
    pub name: Option<String>,
    /// Which filter inside of it.
    pub sub_filter: Option<SubFilterMatch>,
}

/// Which filter inside of a filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SubFilterMatch {
    /// Name of the filter.
    pub name: Option<String>,
}

/// Which routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteConfigurationMatch {
    /// Port.
    pub port_number: Option<u32>,
    /// Name of the port, on gateways.
    pub port_name: Option<String>,
    /// `namespace/name` of the Gateway.
    pub gateway: Option<String>,
    /// Which virtual host.
    pub vhost: Option<VirtualHostMatch>,
    /// Name of the route configuration.
    pub name: Option<String>,
}

/// Which virtual host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualHostMatch {
    /// Its name, `host:port`.
    pub name: Option<String>,
    /// One of its domains.
    pub domain_name: Option<String>,
    /// Which route.
    pub route: Option<RouteMatch>,
}

/// Which route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteMatch {
    /// Its name.
    pub name: Option<String>,
    /// What it does.
    pub action: Option<RouteAction>,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RouteAction {
    Any,
    Route,
    Redirect,
    DirectResponse,
}

/// Which cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterMatch {
    /// Port of the service.
    pub port_number: Option<u32>,
    /// The service.
    pub service: Option<String>,
    /// Subset of the service.
    pub subset: Option<String>,
    /// Name of the cluster.
    pub name: Option<String>,
}

/// Which part of a waypoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaypointMatch {
    /// Port of the service.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub port_number: Option<u32>,
    /// Which filter.
    pub filter: Option<FilterMatch>,
    /// Which route.
    pub route: Option<SubFilterMatch>,
}

/// How to patch.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Patch {
    /// What to do.
    pub operation: Option<PatchOperation>,
    /// Envoy configuration, as JSON of its protobuf messages.
    #[schemars(transform = free_form)]
    pub value: Option<Value>,
    /// Where an added filter stands.
    pub filter_class: Option<FilterClass>,
}

/// What a patch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PatchOperation {
    Invalid,
    Merge,
    Add,
    Remove,
    InsertBefore,
    InsertAfter,
    InsertFirst,
    Replace,
    MergeAndReplaceList,
}

/// Where an added filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FilterClass {
    Unspecified,
    Authn,
    Authz,
    Stats,
}
