//! The servers a gateway carries, merged by the port they end up on.
//!
//! Server ports are the Service's; the listener opens what the Service maps them to. Servers of one
//! port must agree on what is spoken: plain HTTP, TLS (told apart by SNI) or TCP; the oldest decides
//! and the others are left out, as the analyzer reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::gateway::{Server, ServerTlsMode};
use malla_model::{Gateway, Host, Protocol, Service, VirtualService};

use crate::view::View;

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http,
    Tls,
    Tcp,
}

/// One server of one Gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) server: &'a Server,
    /// The port the listener opens.
    pub(crate) port: u16,
}

/// All servers on one address.
#[derive(Debug)]
pub(crate) struct Port<'a> {
    pub(crate) spoken: Spoken,
    pub(crate) servers: Vec<Bound<'a>>,
}

impl Bound<'_> {
    /// `namespace/name`, as VirtualServices name the gateway.
    pub(crate) fn gateway_name(&self) -> String {
        format!(
            "{}/{}",
            self.gateway.meta.namespace(),
            self.gateway.meta.name()
        )
    }

    pub(crate) fn spoken(&self) -> Spoken {
        let protocol = self.server.protocol;
        if self
            .server
            .tls
            .as_ref()
            .is_some_and(|tls| !tls.https_redirect)
            || protocol.is_tls()
        {
            Spoken::Tls
        } else if protocol.is_http() {
            Spoken::Http
        } else {
            Spoken::Tcp
        }
    }

    /// TLS ends here, and HTTP is within.
    pub(crate) fn terminates_https(&self) -> bool {
        let ends = self.server.tls.as_ref().is_some_and(|tls| {
            !matches!(
                tls.mode,
                ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
            )
        });
        ends && (self.server.protocol == Protocol::Https || self.server.protocol.is_http())
    }

    /// The route configuration of an HTTP server.
    pub(crate) fn route_name(&self) -> Option<String> {
        let bind = self
            .server
            .bind
            .as_ref()
            .map_or(String::new(), |bind| format!(".{bind}"));
        if self.spoken() == Spoken::Http {
            return Some(format!("http.{}{bind}", self.port));
        }
        self.terminates_https().then(|| {
            format!(
                "https.{}.{}.{}.{}{bind}",
                self.server.port,
                self.server.port_name,
                self.gateway.meta.name(),
                self.gateway.meta.namespace()
            )
        })
    }

    /// VirtualServices bound to this server and, of each, the hosts it may serve here.
    pub(crate) fn virtual_services<'v>(
        &self,
        view: &'v View<'_>,
    ) -> Vec<(&'v Arc<VirtualService>, Vec<&'v Host>)> {
        let name = self.gateway_name();
        view.virtual_services()
            .iter()
            .filter(|vs| vs.gateways.contains(&Arc::from(&*name)))
            .filter_map(|vs| {
                let hosts: Vec<&Host> = vs
                    .hosts
                    .iter()
                    .filter(|host| self.admits(vs, host))
                    .collect();
                (!hosts.is_empty()).then_some((*vs, hosts))
            })
            .collect()
    }

    fn admits(&self, vs: &VirtualService, host: &Host) -> bool {
        self.server.hosts.iter().any(|allowed| {
            allowed
                .namespace
                .as_deref()
                .is_none_or(|namespace| namespace == vs.meta.namespace())
                && allowed.host.overlaps(host)
        })
    }
}

/// The node's listeners: address and port, and what is on them.
pub(crate) fn merged<'a>(view: &View<'a>) -> BTreeMap<(String, u16), Port<'a>> {
    let mut ports: BTreeMap<(String, u16), Port<'a>> = BTreeMap::new();
    for gateway in view.gateways() {
        for server in &gateway.servers {
            let address = bind_address(view, server);
            for port in listening_ports(view, server.port) {
                let bound = Bound {
                    gateway,
                    server,
                    port,
                };
                let spoken = bound.spoken();
                let entry = ports
                    .entry((address.clone(), port))
                    .or_insert_with(|| Port {
                        spoken,
                        servers: Vec::new(),
                    });
                if entry.spoken == spoken {
                    entry.servers.push(bound);
                }
            }
        }
    }
    ports
}

/// Services behind a server that forwards TLS of the mesh unopened, by the names its hosts admit.
pub(crate) fn auto_passthrough_of<'a>(view: &View<'a>, server: &Server) -> Vec<&'a Arc<Service>> {
    let admits = |service: &Service| {
        server.hosts.iter().any(|allowed| {
            let namespace = allowed.namespace.as_deref();
            allowed.host.covers(&service.hostname)
                && namespace.is_none_or(|ns| ns == service.namespace())
        })
    };
    view.services()
        .iter()
        .copied()
        .filter(|service| !service.external && admits(service))
        .collect()
}

/// As [`auto_passthrough_of`], of all servers of the node, by name.
pub(crate) fn auto_passthrough<'a>(view: &View<'a>) -> Vec<&'a Arc<Service>> {
    let mut services: Vec<&Arc<Service>> = view
        .gateways()
        .into_iter()
        .flat_map(|gateway| &gateway.servers)
        .filter(|server| {
            let tls = server.tls.as_ref();
            tls.is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
        })
        .flat_map(|server| auto_passthrough_of(view, server))
        .collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    services.dedup_by(|a, b| a.hostname == b.hostname);
    services
}

fn bind_address(view: &View<'_>, server: &Server) -> String {
    match &server.bind {
        Some(bind) => bind.to_string(),
        None if view.node.ipv6_only() => "::".into(),
        None => "0.0.0.0".into(),
    }
}

/// Where the Services of the gateway's pods send that port, else the port itself.
fn listening_ports(view: &View<'_>, port: u16) -> BTreeSet<u16> {
    let targets: BTreeSet<u16> = view
        .own_services()
        .iter()
        .filter(|own| own.port.port == port)
        .map(|own| own.target)
        .collect();
    if !targets.is_empty() {
        return targets;
    }
    let privileged = port < 1024;
    if privileged && view.node.unprivileged {
        return BTreeSet::new();
    }
    BTreeSet::from([port])
}
