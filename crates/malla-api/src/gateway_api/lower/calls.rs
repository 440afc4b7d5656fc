//! Routes for calls within the mesh: their parents are services (GAMMA).
//!
//! A route of the service's own namespace acts for all clients, one of another namespace for the
//! clients of that namespace only. The routes of one namespace for one service become one rule set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::route::MESH_GATEWAY;
use malla_model::service::{ServicePort, Visibility};
use malla_model::{Host, Protocol, Service, VirtualService};

use super::super::GatewayKind;
use super::super::types::ParentRef;
use super::Surroundings;
use super::attach::{Ordered, in_order};
use super::listeners::Why;
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
    attached: Vec<Attached>,
}

/// A route that is attached.
#[derive(Debug)]
struct Attached {
    kind: GatewayKind,
    /// `namespace/name`.
    name: String,
    /// `None` is every port.
    port: Option<u16>,
}

impl Calls {
    /// Attaches a route to the services that a parent of the kind `kind` stands for.
    ///
    /// # Errors
    /// When there is no such service or port, none that the route's kind is for, or when a route that
    /// takes precedence has it: routes for HTTP and for gRPC share no port.
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
            let port = port(reference, service, &full_name)?;
            self.to_service(route, service, port)?;
        }
        Ok(())
    }

    fn to_service(
        &mut self,
        route: &Route<'_>,
        service: &Service,
        port: Option<u16>,
    ) -> Result<(), Why> {
        let key = (service.hostname.clone(), route.namespace.to_owned());
        let set = self.sets.entry(key).or_default();
        let shares = |other: &&Attached| {
            let same_port = other.port.is_none() || port.is_none() || other.port == port;
            other.kind != route.kind && same_port
        };
        if let Some(other) = set.attached.iter().find(shares) {
            let kind = other.kind.name();
            let message = format!("{kind} {} has {}", other.name, service.meta.object);
            return Err(("Conflicted", message));
        }
        set.producers = service.namespace() == route.namespace;
        set.attached.push(Attached {
            kind: route.kind,
            name: route.full_name(),
            port,
        });
        for rule in &route.rules.routes {
            let mut ordered = Ordered::new(route, rule);
            for of in &mut Arc::make_mut(&mut ordered.route).matches {
                of.scope.port = port;
            }
            set.rules.push(ordered);
        }
        Ok(())
    }

    /// As rules of the gateway that stands for all sidecars.
    pub(super) fn virtual_services(&self) -> impl Iterator<Item = Arc<VirtualService>> + '_ {
        self.sets.iter().filter_map(|((host, namespace), set)| {
            let (meta, http) = in_order(&set.rules)?;
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
                tls: Vec::new(),
                tcp: Vec::new(),
                visibility,
            }))
        })
    }
}

/// The port that a parent names by number or name; `None` is every port.
fn port(reference: &ParentRef, service: &Service, full_name: &str) -> Result<Option<u16>, Why> {
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
    let carries =
        |port: &&ServicePort| port.protocol.is_http() || port.protocol == Protocol::Sniffed;
    let Some(first) = ports.find(carries) else {
        let message = format!("{full_name} speaks no HTTP there, by the names of its ports");
        return Err(("UnsupportedProtocol", message));
    };
    let all = section.is_none() && reference.port.is_none();
    Ok((!all).then_some(first.port))
}
