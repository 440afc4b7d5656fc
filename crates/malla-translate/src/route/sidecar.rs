//! Virtual hosts of a sidecar's outbound listeners.
//!
//! A configuration is named by its listener's port, or `host:port` for a port whose protocol is
//! found out by looking. VirtualServices never merge here: the first one that has a host keeps it.

use std::collections::BTreeSet;
use std::sync::Arc;

use malla_model::route::MESH_GATEWAY;
use malla_model::settings::OutboundPolicy;
use malla_model::{Host, Protocol, Service};
use malla_xds_proto::core::DataSource;
use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::{Decorator, DirectResponseAction, Route, RouteAction, VirtualHost};

use super::action::{hash_policy, to_cluster};
use super::{DEFAULT_ROUTE, matching, virtual_service};
use crate::listener::{outbound_route_names, unknown_cluster};
use crate::names::outbound_cluster;
use crate::scope::Reach;
use crate::view::View;

/// Where unregistered hosts of VirtualServices are served (a special case of Istio's).
const UNREGISTERED_PORT: u16 = 80;

pub(crate) fn names(view: &View<'_>) -> Vec<String> {
    outbound_route_names(view)
}

/// `None` when there is no such listener.
pub(crate) fn virtual_hosts(view: &View<'_>, name: &str) -> Option<Vec<VirtualHost>> {
    let scope = view.scope();
    if name.starts_with("unix://") {
        let mut hosts = of_port(view, scope.reach(0, name)?, 0);
        hosts.push(catch_all(view));
        return Some(hosts);
    }
    if let Some((host, port)) = name.rsplit_once(':') {
        let service = view.service(&Host::new(host))?;
        let port = port.parse().ok()?;
        return one_service(view, scope.reach(port, "")?, service, port);
    }
    let port: u16 = name.parse().ok()?;
    let mut hosts = of_port(view, scope.reach(port, "")?, port);
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts.push(catch_all(view));
    Some(hosts)
}

/// The listener stands for one service only, so whatever host is asked for is that service.
fn one_service(
    view: &View<'_>,
    reach: &Reach<'_>,
    service: &Arc<Service>,
    port: u16,
) -> Option<Vec<VirtualHost>> {
    service.port(port)?;
    let routes = rule_for(view, reach, service, port)
        .unwrap_or_else(|| vec![default_route(view, service, port)]);
    Some(vec![VirtualHost {
        domains: vec!["*".into()],
        ..virtual_host(format!("{}:{port}", service.hostname), Vec::new(), routes)
    }])
}

/// The hosts of one port; of a Unix domain socket (port 0), of every port of what it reaches.
fn of_port(view: &View<'_>, reach: &Reach<'_>, port: u16) -> Vec<VirtualHost> {
    let mut hosts = Vec::new();
    let mut taken = Taken::default();
    let here = |service: &Service| {
        let mut ports = reach.ports(service);
        ports
            .find(|(at, protocol)| (port == 0 || at.port == port) && speaks_http(*protocol))
            .map(|(at, _)| at.port)
    };
    let services: Vec<(&Arc<Service>, u16)> = reach
        .services
        .iter()
        .filter_map(|service| Some((*service, here(service)?)))
        .collect();
    // Full names first, so that no alias of one service can take another's name.
    for (service, _) in &services {
        taken.full_names.insert(service.hostname.to_string());
    }
    for (service, port) in services {
        let routes = rule_for(view, reach, service, port)
            .unwrap_or_else(|| vec![default_route(view, service, port)]);
        let domains = taken.claim(domains(view, service));
        if !domains.is_empty() {
            hosts.push(virtual_host(
                format!("{}:{port}", service.hostname),
                domains,
                routes,
            ));
        }
    }
    if port == UNREGISTERED_PORT {
        hosts.extend(unregistered(view, reach, &mut taken));
    }
    hosts
}

/// Routes of the VirtualService that has the service, where it has any for this node and port.
fn rule_for(
    view: &View<'_>,
    reach: &Reach<'_>,
    service: &Service,
    port: u16,
) -> Option<Vec<Route>> {
    reach
        .on_mesh(&service.hostname)
        .map(|vs| virtual_service::routes(view, vs, MESH_GATEWAY, port))
        .find(|routes| !routes.is_empty())
}

/// Hosts of VirtualServices that are no services of this port.
fn unregistered(view: &View<'_>, reach: &Reach<'_>, taken: &mut Taken) -> Vec<VirtualHost> {
    let port = UNREGISTERED_PORT;
    let mut hosts = Vec::new();
    for vs in &reach.virtual_services {
        if !vs.gateways.iter().any(|gateway| **gateway == *MESH_GATEWAY) {
            continue;
        }
        let unknown: Vec<&Host> = vs
            .hosts
            .iter()
            .filter(|host| !is_registered(view, reach, host))
            .collect();
        if unknown.is_empty() {
            continue;
        }
        let routes = virtual_service::routes(view, vs, MESH_GATEWAY, port);
        if routes.is_empty() {
            continue;
        }
        for host in unknown {
            // The catch-all is the mesh's own.
            let domains = taken.claim(vec![host.to_string()]);
            if host.as_str() != "*" && !domains.is_empty() {
                hosts.push(virtual_host(
                    format!("{host}:{port}"),
                    domains,
                    routes.clone(),
                ));
            }
        }
    }
    hosts
}

fn is_registered(view: &View<'_>, reach: &Reach<'_>, host: &Host) -> bool {
    if host.is_wildcard() {
        let mut services = reach.services.iter();
        services.any(|service| host.covers(&service.hostname))
    } else {
        view.service(host).is_some()
    }
}

pub(crate) const fn speaks_http(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb | Protocol::Sniffed
    )
}

pub(crate) fn virtual_host(name: String, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name,
        domains,
        routes,
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

fn default_route(view: &View<'_>, service: &Service, port: u16) -> Route {
    let host = &service.hostname;
    let hash = hash_policy(view, host, port, None).into_iter().collect();
    Route {
        name: DEFAULT_ROUTE.into(),
        r#match: Some(matching::everything()),
        decorator: Some(Decorator {
            operation: format!("{host}:{port}/*"),
            ..Decorator::default()
        }),
        action: Some(Action::Route(to_cluster(
            view,
            outbound_cluster(port, "", host),
            hash,
        ))),
        ..Route::default()
    }
}

/// Requests to hosts nobody knows.
fn catch_all(view: &View<'_>) -> VirtualHost {
    let (name, action) = match view.scope().outbound(view.mesh) {
        OutboundPolicy::AllowAny => (
            "allow_any",
            Action::Route(RouteAction {
                retry_policy: None,
                ..to_cluster(view, unknown_cluster(view), Vec::new())
            }),
        ),
        OutboundPolicy::RegistryOnly => (
            "block_all",
            Action::DirectResponse(DirectResponseAction {
                status: 502,
                body: None::<DataSource>,
                ..DirectResponseAction::default()
            }),
        ),
    };
    let route = Route {
        name: name.into(),
        r#match: Some(matching::everything()),
        action: Some(action),
        ..Route::default()
    };
    virtual_host(name.into(), vec!["*".into()], vec![route])
}

/// Domains of one configuration; Envoy refuses one that two virtual hosts claim.
#[derive(Debug, Default)]
struct Taken {
    full_names: BTreeSet<String>,
    domains: BTreeSet<String>,
}

impl Taken {
    /// Those of `domains` that are still free. The first is the full name, the rest are shorthands
    /// that must not be another service's full name.
    fn claim(&mut self, domains: Vec<String>) -> Vec<String> {
        domains
            .into_iter()
            .enumerate()
            .filter(|(at, domain)| *at == 0 || !self.full_names.contains(domain))
            .filter_map(|(_, domain)| self.domains.insert(domain.clone()).then_some(domain))
            .collect()
    }
}

/// Every way a client may spell the service: names as its namespace resolves them, virtual IPs, and
/// the names of ExternalName services that stand for it.
fn domains(view: &View<'_>, service: &Service) -> Vec<String> {
    let mut domains = Vec::new();
    let names =
        std::iter::once(service).chain(view.aliases(&service.hostname).iter().map(|s| &***s));
    for named in names {
        spell(view, named, &mut domains);
    }
    if service.headless {
        let pods: Vec<String> = domains.iter().map(|domain| format!("*.{domain}")).collect();
        domains.extend(pods);
    }
    domains.extend(service.virtual_ips().map(|ip| match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    domains
}

fn spell(view: &View<'_>, service: &Service, domains: &mut Vec<String>) {
    let host = service.hostname.as_str();
    domains.push(host.to_owned());
    if host.starts_with('*') {
        return;
    }
    domains.push(format!("{host}."));
    let settings = &view.mesh.settings;
    let suffix = format!(".{}.svc.{}", service.namespace(), settings.domain);
    if let Some(name) = host.strip_suffix(&suffix) {
        if *service.namespace() == *view.node.namespace {
            domains.push(name.to_owned());
        }
        domains.push(format!("{name}.{}", service.namespace()));
        domains.push(format!("{name}.{}.svc", service.namespace()));
    }
}
