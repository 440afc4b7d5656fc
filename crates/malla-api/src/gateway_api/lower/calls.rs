//! Routes for calls within the mesh: their parents are services (GAMMA).
//!
//! A route of the service's own namespace acts for all clients, one of another namespace for the
//! clients of that namespace only. The routes of one namespace for one service become one rule set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::route::{MESH_GATEWAY, TcpMatch, TcpRoute, TlsRoute, WeightedDestination};
use malla_model::service::{ServicePort, Visibility};
use malla_model::{Host, Meta, Protocol, Service, VirtualService};

use super::super::GatewayKind;
use super::super::types::ParentRef;
use super::Surroundings;
use super::attach::{Ordered, in_order};
use super::listeners::{Why, by_name};
use super::routes::Route;

/// What all routes say of calls within the mesh.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// By the service's host and the routes' namespace.
    sets: BTreeMap<(Host, String), Set>,
}

#[derive(Debug, Default)]
struct Set {
    /// Whether that namespace is the service's own.
    producers: bool,
    rules: Vec<Ordered>,
    tls: Vec<TlsRoute>,
    tcp: Vec<TcpRoute>,
    attached: Vec<Attached>,
    /// Of the oldest route.
    meta: Option<Arc<Meta>>,
}

/// A route that is attached.
#[derive(Debug)]
struct Attached {
    kind: GatewayKind,
    /// `namespace/name`.
    name: String,
    /// `None` is every port.
    port: Option<u16>,
    hosts: Vec<Host>,
}

impl Attached {
    /// Whether both cannot act.
    fn clashes(&self, other: &Self) -> bool {
        use GatewayKind::{GrpcRoute, HttpRoute, TcpRoute, TlsRoute};
        let same_port = self.port.is_none() || other.port.is_none() || self.port == other.port;
        same_port
            && match (self.kind, other.kind) {
                (HttpRoute, GrpcRoute) | (GrpcRoute, HttpRoute) | (TcpRoute, TcpRoute) => true,
                (TlsRoute, TlsRoute) => self.hosts.iter().any(|host| other.hosts.contains(host)),
                _ => false,
            }
    }
}

impl Calls {
    /// Attaches a route to the services that a parent of the kind `kind` stands for.
    ///
    /// # Errors
    /// When there is no such service or port, none that the route's kind is for, or when a route that
    /// takes precedence has it: routes for HTTP and for gRPC share no port, and connections all go
    /// where one route says.
    pub(super) fn attach(
        &mut self,
        route: &Route<'_>,
        reference: &ParentRef,
        kind: &str,
        around: &Surroundings<'_>,
    ) -> Result<(), Why> {
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace);
        let name = reference.name.as_str();
        let full_name = format!("{kind} {namespace}/{name}");
        let mut services = around
            .services
            .iter()
            .filter(|service| {
                let object = &service.meta.object;
                let is = (object.kind, &*object.namespace, &*object.name);
                is == (kind, namespace, name) && service.visibility.allows(route.namespace)
            })
            .peekable();
        if services.peek().is_none() {
            let message = format!("there is no {full_name}");
            return Err(("NoMatchingParent", message));
        }
        for service in services {
            let port = port(route.kind, reference, service, &full_name)?;
            self.attach_to(route, service, port)?;
        }
        Ok(())
    }

    fn attach_to(
        &mut self,
        route: &Route<'_>,
        service: &Service,
        port: Option<u16>,
    ) -> Result<(), Why> {
        let key = (service.hostname.clone(), route.namespace.to_owned());
        let set = self.sets.entry(key).or_default();
        let new = Attached {
            kind: route.kind,
            name: route.full_name(),
            port,
            hosts: route.hostnames.iter().map(|name| Host::new(name)).collect(),
        };
        if let Some(other) = set.attached.iter().find(|other| other.clashes(&new)) {
            let kind = other.kind.name();
            let message = format!("{kind} {} has {}", other.name, service.meta.object);
            return Err(("Conflicted", message));
        }
        let to = route.rules.connections.clone();
        match route.kind {
            GatewayKind::TlsRoute => set.tls.push(by_name(new.hosts.clone(), port, to)),
            GatewayKind::TcpRoute => set.tcp.push(to_port(port, to)),
            _ => set.rules.extend(rules_of(route, port)),
        }
        set.producers = service.namespace() == route.namespace;
        set.meta.get_or_insert_with(|| Arc::clone(&route.origin));
        set.attached.push(new);
        Ok(())
    }

    /// As rules of the gateway that stands for all sidecars.
    pub(super) fn virtual_services(&self) -> impl Iterator<Item = Arc<VirtualService>> + '_ {
        self.sets.iter().filter_map(|((host, namespace), set)| {
            let (meta, http) = match in_order(&set.rules) {
                Some(rules) => rules,
                None => (Meta::clone(set.meta.as_ref()?), Vec::new()),
            };
            let visibility = if set.producers {
                Visibility::Public
            } else {
                Visibility::Namespaces(BTreeSet::from([Arc::from(namespace.as_str())]))
            };
            Some(Arc::new(VirtualService {
                meta,
                hosts: vec![host.clone()],
                gateways: vec![MESH_GATEWAY.into()],
                http,
                tls: set.tls.clone(),
                tcp: set.tcp.clone(),
                visibility,
            }))
        })
    }
}

/// What a route says of requests to a port.
fn rules_of(route: &Route<'_>, port: Option<u16>) -> impl Iterator<Item = Ordered> {
    route.rules.routes.iter().map(move |rule| {
        let mut ordered = Ordered::new(route, rule);
        for of in &mut Arc::make_mut(&mut ordered.route).matches {
            of.scope.port = port;
        }
        ordered
    })
}

fn to_port(port: Option<u16>, destinations: Vec<WeightedDestination>) -> TcpRoute {
    let mut of = TcpMatch::default();
    of.scope.port = port;
    TcpRoute {
        matches: vec![of],
        destinations,
    }
}

/// The port that a parent names by number or name; `None` is every port.
fn port(
    kind: GatewayKind,
    reference: &ParentRef,
    service: &Service,
    full_name: &str,
) -> Result<Option<u16>, Why> {
    if let Some(target) = &service.alias_of {
        let message = format!("{full_name} is another name of {target}: attach the route there");
        return Err(("NoMatchingParent", message));
    }
    let section = reference.section_name.as_deref();
    let named = |port: &&ServicePort| {
        section.is_none_or(|name| name == &*port.name)
            && reference.port.is_none_or(|number| number == port.port)
    };
    let mut ports = service.ports.iter().filter(named).peekable();
    if ports.peek().is_none() {
        let message = format!("{full_name} has no such port");
        return Err(("NoMatchingParent", message));
    }
    let Some(first) = ports.find(|port| carries(port.protocol, kind)) else {
        let kind = kind.name();
        let message =
            format!("{full_name} speaks nothing there that {kind}s are for, by its ports' names");
        return Err(("UnsupportedProtocol", message));
    };
    let all = section.is_none() && reference.port.is_none();
    Ok((!all).then_some(first.port))
}

/// Whether routes of a kind act on ports where that is spoken.
fn carries(protocol: Protocol, kind: GatewayKind) -> bool {
    match kind {
        GatewayKind::HttpRoute | GatewayKind::GrpcRoute => {
            protocol.is_http() || protocol == Protocol::Sniffed
        }
        GatewayKind::TlsRoute => protocol.is_tls() || protocol == Protocol::Sniffed,
        _ => !protocol.is_http() && protocol != Protocol::Udp,
    }
}
