//! Names in rules that nothing answers to. Such rules stay in force (their requests get 503 NC) and
//! heal by themselves; this is what status and the analyzer say meanwhile.

use std::fmt;
use std::sync::Arc;

use malla_model::id::ObjectRef;
use malla_model::route::{Destination, HttpAction, MESH_GATEWAY, WeightedDestination};
use malla_model::{Host, Mesh, VirtualService};

use crate::node::{NodeKind, NodeView};
use crate::rules;

/// What is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    Host(Host),
    Port {
        host: Host,
        port: u16,
    },
    /// The host has several ports and the route says none.
    AmbiguousPort(Host),
    Subset {
        host: Host,
        subset: Arc<str>,
    },
    /// `namespace/name`.
    Gateway(Arc<str>),
    /// `namespace/name`.
    Delegate(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(
                f,
                "host {host:?} is no service of the mesh",
                host = host.as_str()
            ),
            Self::Port { host, port } => write!(f, "host {host} has no port {port}"),
            Self::AmbiguousPort(host) => {
                write!(
                    f,
                    "host {host} has several ports: say which with destination.port.number"
                )
            }
            Self::Subset { host, subset } => {
                write!(
                    f,
                    "no DestinationRule of host {host} has the subset {subset:?}"
                )
            }
            Self::Gateway(name) => write!(f, "there is no Gateway {name}"),
            Self::Delegate(name) => write!(f, "there is no VirtualService {name} to delegate to"),
        }
    }
}

/// A reference to something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unresolved {
    /// Whose.
    pub object: ObjectRef,
    /// Where in it, such as `spec.http[0].route[1].destination`.
    pub field: String,
    pub missing: Missing,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.missing)
    }
}

/// Every unresolved reference of the mesh, in order of the objects' age.
#[must_use]
pub fn unresolved(mesh: &Mesh) -> Vec<Unresolved> {
    let mut found = Vec::new();
    let rules = rules::Index::new(mesh);
    for vs in &mesh.virtual_services {
        Finder {
            mesh,
            vs,
            rules: &rules,
            node: client_in(vs.meta.namespace()),
            found: &mut found,
        }
        .check();
    }
    for rule in &mesh.destination_rules {
        let known = mesh
            .services
            .iter()
            .any(|service| rule.host.covers(&service.hostname));
        if !known {
            found.push(Unresolved {
                object: rule.meta.object.clone(),
                field: "spec.host".into(),
                missing: Missing::Host(rule.host.clone()),
            });
        }
    }
    found
}

/// References are judged as a client in the rule's own namespace sees them.
fn client_in(namespace: &str) -> NodeView {
    let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
    NodeView::new(NodeKind::Sidecar, "", namespace, nowhere)
}

struct Finder<'a> {
    mesh: &'a Mesh,
    vs: &'a VirtualService,
    rules: &'a rules::Index<'a>,
    node: NodeView,
    found: &'a mut Vec<Unresolved>,
}

impl Finder<'_> {
    fn check(&mut self) {
        let vs = self.vs;
        for (at, gateway) in vs.gateways.iter().enumerate() {
            self.gateway(gateway, format!("spec.gateways[{at}]"));
        }
        for (at, route) in vs.http.iter().enumerate() {
            let field = format!("spec.http[{at}]");
            match &route.action {
                HttpAction::Forward(to) => self.destinations(to, &field),
                HttpAction::Delegate { namespace, name } => {
                    let known = self.mesh.virtual_services.iter().any(|other| {
                        other.hosts.is_empty()
                            && other.meta.namespace() == &**namespace
                            && other.meta.name() == &**name
                    });
                    if !known {
                        let name = format!("{namespace}/{name}");
                        self.report(format!("{field}.delegate"), Missing::Delegate(name));
                    }
                }
                HttpAction::Redirect(_) | HttpAction::Direct { .. } => {}
            }
            for (mirror_at, mirror) in route.mirrors.iter().enumerate() {
                self.destination(
                    &mirror.destination,
                    format!("{field}.mirrors[{mirror_at}].destination"),
                );
            }
        }
        for (at, route) in vs.tls.iter().enumerate() {
            self.destinations(&route.destinations, &format!("spec.tls[{at}]"));
        }
        for (at, route) in vs.tcp.iter().enumerate() {
            self.destinations(&route.destinations, &format!("spec.tcp[{at}]"));
        }
    }

    fn gateway(&mut self, gateway: &Arc<str>, field: String) {
        if **gateway == *MESH_GATEWAY {
            return;
        }
        let known = self.mesh.gateways.iter().any(|known| {
            gateway
                .split_once('/')
                .is_some_and(|(ns, name)| (known.meta.namespace(), known.meta.name()) == (ns, name))
        });
        if !known {
            self.report(field, Missing::Gateway(gateway.clone()));
        }
    }

    fn destinations(&mut self, to: &[WeightedDestination], field: &str) {
        for (at, to) in to.iter().enumerate() {
            self.destination(&to.destination, format!("{field}.route[{at}].destination"));
        }
    }

    fn destination(&mut self, to: &Destination, field: String) {
        let namespace = self.vs.meta.namespace();
        let mut host = to.host.clone();
        let mut service = self.mesh.service(&host, namespace);
        if let Some(target) = service.and_then(|service| service.alias_of.clone()) {
            service = self.mesh.service(&target, namespace);
            host = target;
        }
        let Some(service) = service else {
            self.report(format!("{field}.host"), Missing::Host(host));
            return;
        };
        match to.port {
            Some(port) if service.port(port).is_none() => {
                self.report(
                    format!("{field}.port.number"),
                    Missing::Port {
                        host: host.clone(),
                        port,
                    },
                );
            }
            None if service.only_port().is_none() => {
                self.report(
                    format!("{field}.port"),
                    Missing::AmbiguousPort(host.clone()),
                );
            }
            _ => {}
        }
        if let Some(subset) = &to.subset {
            let rule = self
                .rules
                .find(self.mesh, &self.node, &host, service.namespace());
            if rule.is_none_or(|rule| rule.subset(subset).is_none()) {
                let subset = subset.clone();
                self.report(format!("{field}.subset"), Missing::Subset { host, subset });
            }
        }
    }

    fn report(&mut self, field: String, missing: Missing) {
        self.found.push(Unresolved {
            object: self.vs.meta.object.clone(),
            field,
            missing,
        });
    }
}
