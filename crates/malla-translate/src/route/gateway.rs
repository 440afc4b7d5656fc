//! Virtual hosts of a gateway's HTTP servers. Here, unlike in sidecars, VirtualServices of one host
//! are merged: their routes follow each other, oldest first, those for every request at the end.

use std::collections::BTreeMap;

use malla_xds_proto::route::virtual_host::TlsRequirementType;
use malla_xds_proto::route::{Route, VirtualHost};

use super::sidecar::virtual_host;
use super::{matching, virtual_service};
use crate::gateways::{self, Bound};
use crate::view::View;

pub(crate) fn names(view: &View<'_>) -> Vec<String> {
    servers(view)
        .filter_map(|server| server.route_name())
        .collect()
}

/// `None` when no server has that configuration.
pub(crate) fn virtual_hosts(view: &View<'_>, name: &str) -> Option<Vec<VirtualHost>> {
    let servers: Vec<Bound<'_>> = servers(view)
        .filter(|server| server.route_name().as_deref() == Some(name))
        .collect();
    // The number users wrote, of the Service's port.
    let port = servers.first()?.server.port;
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for server in &servers {
        merge_server(view, server, port, &mut hosts);
    }
    if hosts.is_empty() {
        // Without routes every request gets 404 NR.
        return Some(vec![virtual_host(
            format!("blackhole:{port}"),
            vec!["*".into()],
            Vec::new(),
        )]);
    }
    Some(
        hosts
            .into_iter()
            .map(|(host, merged)| merged.finish(&host, port))
            .collect(),
    )
}

fn servers<'a>(view: &View<'a>) -> impl Iterator<Item = Bound<'a>> {
    gateways::merged(view)
        .into_values()
        .flat_map(|port| port.servers)
}

/// One virtual host in the making.
#[derive(Debug, Default)]
struct Host {
    routes: Vec<Route>,
    catch_alls: Vec<Route>,
    redirect_to_tls: bool,
    /// VirtualServices whose routes are in, so that a host two servers share is not filled twice.
    merged: Vec<String>,
}

fn merge_server(
    view: &View<'_>,
    server: &Bound<'_>,
    port: u16,
    hosts: &mut BTreeMap<String, Host>,
) {
    let redirect = server
        .server
        .tls
        .as_ref()
        .is_some_and(|tls| tls.https_redirect);
    let gateway = server.gateway_name();
    for (vs, names) in server.virtual_services(view) {
        let routes = virtual_service::routes(view, vs, &gateway, port);
        let id = format!("{gateway} {}", vs.meta.object);
        for name in names {
            let host = hosts.entry(name.to_string()).or_default();
            host.redirect_to_tls |= redirect;
            if host.merged.contains(&id) {
                continue;
            }
            host.merged.push(id.clone());
            for route in &routes {
                let last = route.r#match.as_ref().is_some_and(matching::is_catch_all);
                let list = if last {
                    &mut host.catch_alls
                } else {
                    &mut host.routes
                };
                list.push(route.clone());
            }
        }
    }
    if redirect {
        // A redirecting server needs no VirtualService.
        for host in &server.server.hosts {
            hosts
                .entry(host.host.to_string())
                .or_default()
                .redirect_to_tls = true;
        }
    }
}

impl Host {
    fn finish(self, host: &str, port: u16) -> VirtualHost {
        let mut routes = self.routes;
        // After the first of them nothing is reached.
        routes.extend(self.catch_alls.into_iter().next());
        let mut out = virtual_host(format!("{host}:{port}"), vec![host.to_owned()], routes);
        if self.redirect_to_tls {
            out.require_tls = TlsRequirementType::All.into();
        }
        out
    }
}
