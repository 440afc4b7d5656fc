//! Walks a call through emitted resources: which listener, filter chain, virtual host and route take
//! it, and what becomes of it. It looks at the xDS alone, as a proxy does, so it also tests what
//! this crate emits.

mod access;
mod authorizer;
mod chain;
mod claims;
mod routing;
mod text;

use std::net::{IpAddr, SocketAddr};

use malla_xds_proto::any::UnpackError;
use malla_xds_proto::hcm::HttpConnectionManager;
use malla_xds_proto::hcm::http_connection_manager::RouteSpecifier;
use malla_xds_proto::hcm::http_filter;
use malla_xds_proto::listener::filter;
use malla_xds_proto::listener::{Filter, FilterChain, Listener};
use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::route_action::ClusterSpecifier;
use malla_xds_proto::route::{Route, RouteConfiguration};
use malla_xds_proto::tcp_proxy::TcpProxy;
use malla_xds_proto::tcp_proxy::tcp_proxy;
use malla_xds_proto::{any, http_filters, network_filters};
use serde_json::Value;

use self::authorizer::Notes;
use crate::names::{VIRTUAL_INBOUND, VIRTUAL_OUTBOUND};
use crate::resource::{Resource, Resources};

/// Where a call meets the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Captured on its way out of the sidecar's workload.
    Outbound,
    /// Captured on its way to the sidecar's workload.
    Inbound,
    /// At a port the proxy opened itself (a gateway).
    Open,
}

/// A connection and, where HTTP is spoken, the request on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub from: IpAddr,
    /// Where the client meant to go.
    pub to: SocketAddr,
    pub tls: Option<Hello>,
    pub request: Option<Request>,
}

/// A TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    pub sni: String,
    pub alpn: Vec<String>,
    /// The URI of the client's certificate, where it has one.
    pub peer: Option<String>,
}

/// The head of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub authority: String,
    /// With the query.
    pub path: String,
    /// Names are lower case.
    pub headers: Vec<(String, String)>,
    pub http2: bool,
    /// What its token says, a good one; they count where the proxy checks tokens.
    pub claims: Option<Value>,
}

/// The way a call went.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub listener: String,
    pub chain: String,
    pub route_configuration: Option<String>,
    pub virtual_host: Option<String>,
    /// With its timeouts, retries, faults and changes.
    pub route: Option<Route>,
    /// Clusters of the authorizers that are asked about it; the verdict holds if they say yes.
    pub asks: Vec<String>,
    pub verdict: Verdict,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The connection is closed: no filter chain takes it, or the one that does speaks something else.
    Closed(&'static str),
    /// By the named policy (an RBAC policy's name), or because no policy allows it.
    Denied {
        policy: Option<String>,
    },
    /// Forwarded to one of these, by weight.
    Clusters(Vec<Share>),
    Redirect(Box<malla_xds_proto::route::RedirectAction>),
    Answer(u32),
    /// 404: no virtual host or no route.
    NotFound,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub cluster: String,
    pub weight: u32,
    /// Where there is no such cluster, requests get 503 NC.
    pub exists: bool,
}

/// Why resources cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("{name} {source}")]
    Resource {
        name: String,
        #[source]
        source: UnpackError,
    },
    #[error("there is no listener {0}")]
    NoListener(String),
    #[error("listener {listener} takes routes {name:?}, which are not there")]
    NoRoutes { listener: String, name: String },
}

/// Walks `call` through `resources`.
///
/// # Errors
/// When the resources are not whole; a call that is refused is a [`Verdict`].
pub fn walk(resources: &Resources, entry: Entry, call: &Call) -> Result<Trace, Broken> {
    let listener = listener(resources, entry, call.to)?;
    let mut trace = Trace {
        listener: listener.name.clone(),
        chain: String::new(),
        route_configuration: None,
        virtual_host: None,
        route: None,
        asks: Vec::new(),
        verdict: Verdict::Closed("no filter chain matches"),
    };
    if let Some(chain) = chain::find(&listener, call) {
        trace.chain.clone_from(&chain.name);
        through(resources, &listener, chain, call, &mut trace)?;
    }
    Ok(trace)
}

fn listener(resources: &Resources, entry: Entry, to: SocketAddr) -> Result<Listener, Broken> {
    let named = |name: &str| {
        resources
            .listeners
            .iter()
            .find(|resource| *resource.name == *name)
    };
    let exact = format!("{}_{}", to.ip(), to.port());
    let shared = format!("0.0.0.0_{}", to.port());
    let shared_v6 = format!("::_{}", to.port());
    let found = match entry {
        Entry::Inbound => named(VIRTUAL_INBOUND),
        Entry::Outbound | Entry::Open => named(&exact)
            .or_else(|| named(&shared))
            .or_else(|| named(&shared_v6))
            .or_else(|| named(VIRTUAL_OUTBOUND).filter(|_| entry == Entry::Outbound)),
    };
    unpack(found.ok_or(Broken::NoListener(shared))?)
}

fn unpack<M: prost::Message + prost::Name + Default>(resource: &Resource) -> Result<M, Broken> {
    any::unpack(&resource.body).map_err(|source| Broken::Resource {
        name: resource.name.to_string(),
        source,
    })
}

/// Through the chain's filters, in order.
fn through(
    resources: &Resources,
    listener: &Listener,
    chain: &FilterChain,
    call: &Call,
    trace: &mut Trace,
) -> Result<(), Broken> {
    let opened = chain.transport_socket.is_some();
    if opened && call.tls.is_none() {
        trace.verdict = Verdict::Closed("the chain expects TLS");
        return Ok(());
    }
    let mut notes = Notes::default();
    let seen = access::Seen::new(call, opened, None);
    for filter in &chain.filters {
        if let Some(rbac) = config::<network_filters::rbac::v3::Rbac>(filter)? {
            let prefix = &rbac.shadow_rules_stat_prefix;
            notes.take(rbac.shadow_rules.as_ref(), prefix, &seen);
            if let Some(policy) = rbac.rules.and_then(|rules| access::denied(&rules, &seen)) {
                trace.verdict = Verdict::Denied { policy };
                return Ok(());
            }
        } else if let Some(authz) = config::<network_filters::ext_authz::v3::ExtAuthz>(filter)? {
            if notes.fit(authz.filter_enabled_metadata.as_ref()) {
                let service = authz.grpc_service.as_ref();
                trace
                    .asks
                    .extend(service.and_then(authorizer::grpc_cluster));
            }
        } else if let Some(proxy) = config::<TcpProxy>(filter)? {
            trace.verdict = Verdict::Clusters(tcp_shares(resources, proxy.cluster_specifier));
            return Ok(());
        } else if let Some(manager) = config::<HttpConnectionManager>(filter)? {
            return http(resources, listener, manager, call, opened, trace);
        }
    }
    Ok(())
}

fn config<M: prost::Message + prost::Name + Default>(filter: &Filter) -> Result<Option<M>, Broken> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(packed)) if any::is::<M>(packed) => {
            any::unpack(packed)
                .map(Some)
                .map_err(|source| Broken::Resource {
                    name: filter.name.clone(),
                    source,
                })
        }
        _ => Ok(None),
    }
}

fn http(
    resources: &Resources,
    listener: &Listener,
    manager: HttpConnectionManager,
    call: &Call,
    opened: bool,
    trace: &mut Trace,
) -> Result<(), Broken> {
    let Some(request) = call
        .request
        .as_ref()
        .filter(|_| opened == call.tls.is_some())
    else {
        trace.verdict = Verdict::Closed("the chain expects HTTP");
        return Ok(());
    };
    let Some(claims) = filtered(&manager, call, request, opened, trace) else {
        return Ok(());
    };
    let routes: RouteConfiguration = match manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(routes)) => routes,
        Some(RouteSpecifier::Rds(rds)) => {
            let name = rds.route_config_name;
            let found = resources
                .routes
                .iter()
                .find(|resource| *resource.name == *name);
            unpack(found.ok_or_else(|| Broken::NoRoutes {
                listener: listener.name.clone(),
                name,
            })?)?
        }
        _ => RouteConfiguration::default(),
    };
    trace.route_configuration = Some(routes.name.clone());
    let Some(host) = routing::virtual_host(&routes, &request.authority) else {
        trace.verdict = Verdict::NotFound;
        return Ok(());
    };
    trace.virtual_host = Some(host.name.clone());
    let secure = opened
        || request
            .headers
            .iter()
            .any(|(k, v)| k == "x-forwarded-proto" && v == "https");
    if host.require_tls != 0 && !secure {
        trace.verdict = Verdict::Redirect(Box::default());
        return Ok(());
    }
    let route = host
        .routes
        .iter()
        .find(|route| routing::matches(route, request, claims));
    trace.route = route.cloned();
    trace.verdict = match route.and_then(|route| route.action.as_ref()) {
        Some(Action::Route(action)) => {
            Verdict::Clusters(http_shares(resources, action.cluster_specifier.as_ref()))
        }
        Some(Action::Redirect(redirect)) => Verdict::Redirect(Box::new(redirect.clone())),
        Some(Action::DirectResponse(direct)) => Verdict::Answer(direct.status),
        _ => Verdict::NotFound,
    };
    Ok(())
}

/// What the filters before the router know of a request's token; `None` where they deny it.
fn filtered<'c>(
    manager: &HttpConnectionManager,
    call: &Call,
    request: &'c Request,
    opened: bool,
    trace: &mut Trace,
) -> Option<Option<&'c Value>> {
    use http_filters::{ext_authz::v3::ExtAuthz, jwt_authn::v3::JwtAuthentication, rbac::v3::Rbac};
    let mut claims = None;
    let mut notes = Notes::default();
    for filter in &manager.http_filters {
        let Some(http_filter::ConfigType::TypedConfig(packed)) = &filter.config_type else {
            continue;
        };
        let seen = access::Seen::new(call, opened, claims);
        if any::is::<JwtAuthentication>(packed) {
            claims = request.claims.as_ref();
        } else if let Ok(authz) = any::unpack::<ExtAuthz>(packed) {
            if notes.fit(authz.filter_enabled_metadata.as_ref()) {
                trace
                    .asks
                    .extend(authorizer::cluster(authz.services.as_ref()));
            }
        } else if let Ok(rbac) = any::unpack::<Rbac>(packed) {
            let prefix = &rbac.shadow_rules_stat_prefix;
            notes.take(rbac.shadow_rules.as_ref(), prefix, &seen);
            if let Some(policy) = rbac.rules.and_then(|rules| access::denied(&rules, &seen)) {
                trace.verdict = Verdict::Denied { policy };
                return None;
            }
        }
    }
    Some(claims)
}

fn share(resources: &Resources, cluster: &str, weight: u32) -> Share {
    Share {
        cluster: cluster.to_owned(),
        weight,
        exists: resources
            .clusters
            .iter()
            .any(|resource| *resource.name == *cluster),
    }
}

fn http_shares(resources: &Resources, to: Option<&ClusterSpecifier>) -> Vec<Share> {
    match to {
        Some(ClusterSpecifier::Cluster(name)) => vec![share(resources, name, 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|to| {
                share(
                    resources,
                    &to.name,
                    to.weight.map_or(0, |weight| weight.value),
                )
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn tcp_shares(resources: &Resources, to: Option<tcp_proxy::ClusterSpecifier>) -> Vec<Share> {
    match to {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => vec![share(resources, &name, 1)],
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|to| share(resources, &to.name, to.weight))
            .collect(),
        None => Vec::new(),
    }
}
