//! Names in rules that nothing answers to. Such rules stay in force (their requests get 503 NC) and
//! heal by themselves; this is what status and the analyzer say meanwhile.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use malla_model::gateway::ServerTlsMode;
use malla_model::id::{ObjectRef, selects};
use malla_model::policy::{AuthorizationPolicy, PolicyAction};
use malla_model::route::{Destination, HttpAction, MESH_GATEWAY, WeightedDestination};
use malla_model::secret::NoSecret;
use malla_model::telemetry::ProviderKind;
use malla_model::token::{KeySource, RequestAuthentication};
use malla_model::{Gateway, Host, Mesh, VirtualService};

use crate::jwt;
use crate::names::ANCHORS_SUFFIX;
use crate::node::{NodeKind, NodeView};
use crate::providers;
use crate::rules;
use crate::secret;
use crate::tls::own_secret;
use crate::view::View;

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
    /// What TLS of a gateway's pods in that namespace needs.
    Secret(NoSecret),
    /// A Secret, as it was written, of another namespace than that of a gateway's pods.
    SecretElsewhere {
        name: Arc<str>,
        pods: Arc<str>,
    },
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
            Self::Secret(why) => write!(f, "{why}"),
            Self::SecretElsewhere { name, pods } => write!(
                f,
                "Secret {name:?} is of another namespace than the gateway's pods, which may only read those of {pods}"
            ),
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
    for gateway in &mesh.gateways {
        secrets(mesh, gateway, &mut found);
    }
    for policy in &mesh.request_authentications {
        key_servers(mesh, policy, &mut found);
    }
    for policy in &mesh.authorization_policies {
        authorizer(mesh, policy, &mut found);
    }
    found
}

/// The service of the authorizer that a CUSTOM policy asks; names of providers are judged where they are read.
fn authorizer(mesh: &Mesh, policy: &AuthorizationPolicy, found: &mut Vec<Unresolved>) {
    let PolicyAction::Custom { provider } = &policy.action else {
        return;
    };
    let Some(ProviderKind::Authorizer(authorizer)) = mesh.settings.telemetry.provider(provider)
    else {
        return;
    };
    let node = client_in(policy.meta.namespace());
    if let Some(missing) = providers::missing(&View::new(mesh, &node), &authorizer.target) {
        found.push(Unresolved {
            object: policy.meta.object.clone(),
            field: "spec.provider.name".into(),
            missing,
        });
    }
}

/// Services that serve keys. Whether servers outside of the mesh do, only proxies know.
fn key_servers(mesh: &Mesh, policy: &RequestAuthentication, found: &mut Vec<Unresolved>) {
    let node = client_in(policy.meta.namespace());
    let view = View::new(mesh, &node);
    for (at, rule) in policy.rules.iter().enumerate() {
        if let KeySource::Remote { uri, .. } = &rule.keys
            && let Some(missing) = jwt::missing_server(&view, uri)
        {
            found.push(Unresolved {
                object: policy.meta.object.clone(),
                field: format!("spec.jwtRules[{at}].jwksUri"),
                missing,
            });
        }
    }
}

/// Secrets that the servers of a gateway name, for each namespace that has pods of it. As long as the
/// Secrets there have not been read, nothing is said of them.
fn secrets(mesh: &Mesh, gateway: &Gateway, found: &mut Vec<Unresolved>) {
    if gateway.selector.is_empty() {
        return; // Which pods are gateways at all is only known of those that connect.
    }
    let pods = mesh.workloads.iter();
    let pods: BTreeSet<_> = pods
        .filter(|pod| selects(&gateway.selector, &pod.meta.labels))
        .map(|pod| (&pod.identity.namespace, &pod.identity.service_account))
        .collect();
    for (namespace, account) in pods {
        let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
        let node = NodeView {
            service_account: Arc::clone(account),
            ..NodeView::new(NodeKind::Router, "", namespace, nowhere)
        };
        for (field, name, suffix) in named_secrets(gateway) {
            let missing = match own_secret(namespace, &name) {
                None => Missing::SecretElsewhere {
                    name,
                    pods: Arc::clone(namespace),
                },
                Some(own) => {
                    match secret::secret(&View::new(mesh, &node), &format!("{own}{suffix}")) {
                        Some(Err(why)) if !matches!(why, NoSecret::Unread(_)) => {
                            Missing::Secret(why)
                        }
                        _ => continue,
                    }
                }
            };
            let unresolved = Unresolved {
                object: gateway.meta.object.clone(),
                field,
                missing,
            };
            if !found.contains(&unresolved) {
                found.push(unresolved);
            }
        }
    }
}

/// Each Secret that a gateway's servers name: where, its name, and what to look it up with.
fn named_secrets(gateway: &Gateway) -> Vec<(String, Arc<str>, &'static str)> {
    let mut named = Vec::new();
    for (at, server) in gateway.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let mutual = matches!(
            tls.mode,
            ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
        );
        if tls.mode != ServerTlsMode::Simple && !mutual {
            continue;
        }
        let tls_at = format!("spec.servers[{at}].tls");
        let several = tls.credential_names.len() > 1;
        for (nth, name) in tls.credential_names.iter().enumerate() {
            let field = if several {
                format!("{tls_at}.credentialNames[{nth}]")
            } else {
                format!("{tls_at}.credentialName")
            };
            named.push((field, Arc::clone(name), ""));
        }
        let own = tls.ca_credential_name.as_ref();
        let anchors = match (own, tls.credential_names.first()) {
            (Some(own), _) => Some((format!("{tls_at}.caCertCredentialName"), own)),
            (None, Some(first)) => Some((format!("{tls_at}.credentialName"), first)),
            (None, None) => None,
        };
        if mutual && let Some((field, name)) = anchors {
            named.push((field, Arc::clone(name), ANCHORS_SUFFIX));
        }
    }
    named
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
