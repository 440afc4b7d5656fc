//! Patches of the Envoy configuration that the control plane generates (Istio: EnvoyFilter).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Labels, Meta};
use crate::matching::Pattern;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyFilter {
    pub meta: Meta,
    /// `None` is every workload of the namespace; in the root namespace, of the mesh.
    pub selector: Option<Labels>,
    /// Lowest first.
    pub priority: i32,
    pub patches: Vec<Patch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub apply_to: ApplyTo,
    pub context: Context,
    pub proxy: ProxyMatch,
    pub place: Place,
    pub operation: Operation,
    /// The message that [`ApplyTo`] names, encoded; empty where the operation needs none.
    pub value: Arc<[u8]>,
}

/// What is patched, and the message of a patch's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplyTo {
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.listener.v3.ListenerFilter`
    ListenerFilter,
    /// `envoy.config.listener.v3.FilterChain`
    FilterChain,
    /// `envoy.config.listener.v3.Filter`
    NetworkFilter,
    /// `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`
    HttpFilter,
    /// `envoy.config.route.v3.RouteConfiguration`
    RouteConfiguration,
    /// `envoy.config.route.v3.VirtualHost`
    VirtualHost,
    /// `envoy.config.route.v3.Route`
    HttpRoute,
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
}

/// Which proxies and directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    Any,
    SidecarInbound,
    SidecarOutbound,
    Gateway,
}

/// Which proxies, by what they say of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyMatch {
    /// Found anywhere in the version, unlike other patterns.
    pub version: Option<Pattern>,
    /// Of the node's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Where in the configuration; absent fields match everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Anywhere,
    Listener(Box<ListenerPlace>),
    Routes(Box<RoutesPlace>),
    Cluster(ClusterPlace),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerPlace {
    pub name: Option<Arc<str>>,
    pub port: Option<u16>,
    pub listener_filter: Option<Arc<str>>,
    pub chain: ChainPlace,
    /// The network filter, if one is named; its name may be empty, which no filter has.
    pub filter: Option<Arc<str>>,
    /// The HTTP filter, likewise.
    pub http_filter: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainPlace {
    pub name: Option<Arc<str>>,
    pub sni: Option<Arc<str>>,
    pub transport_protocol: Option<Arc<str>>,
    pub transport_socket: Option<Arc<str>>,
    /// All of them.
    pub application_protocols: Vec<Arc<str>>,
    pub destination_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutesPlace {
    pub name: Option<Arc<str>>,
    /// On gateways the port of the Service.
    pub port: Option<u16>,
    pub port_name: Option<Arc<str>>,
    /// `namespace/name`.
    pub gateway: Option<Arc<str>>,
    pub host: Option<HostPlace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPlace {
    pub name: Option<Arc<str>>,
    pub domain: Option<Arc<str>>,
    pub route: Option<RoutePlace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePlace {
    pub name: Option<Arc<str>>,
    pub action: Option<RouteAction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteAction {
    Route,
    Redirect,
    DirectResponse,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterPlace {
    /// Beside a name nothing else is looked at.
    pub name: Option<Arc<str>>,
    pub port: Option<u16>,
    pub service: Option<Arc<str>>,
    pub subset: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// As protobuf merges: lists grow.
    Merge,
    /// Likewise, but lists are replaced.
    MergeAndReplaceList,
    Add,
    Remove,
    InsertBefore,
    InsertAfter,
    InsertFirst,
    Replace,
}

impl Operation {
    #[must_use]
    pub const fn merges(self) -> bool {
        matches!(self, Self::Merge | Self::MergeAndReplaceList)
    }
}
