//! Patches of route configurations, their virtual hosts and routes.

use malla_model::patch::{
    ApplyTo, Context, HostPlace, Operation, Patch, Place, RouteAction, RoutePlace, RoutesPlace,
};
use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::{Route, RouteConfiguration, VirtualHost};

use super::{edit, merge_into, value};
use crate::gateways;
use crate::view::View;

/// Merges into the configuration; removes, adds and changes virtual hosts and routes.
pub(crate) fn routes(view: &View<'_>, context: Context, routes: &mut RouteConfiguration) {
    let patches = view.patches();
    if patches.is_empty() {
        return;
    }
    let here = |apply_to| -> Vec<&Patch> {
        let all = patches.of(apply_to, context);
        all.filter(|patch| is_configuration(view, context, patch, &routes.name))
            .collect()
    };
    let whole = here(ApplyTo::RouteConfiguration);
    let of_hosts = here(ApplyTo::VirtualHost);
    let of_routes = here(ApplyTo::HttpRoute);
    for patch in whole {
        merge_into(patch, routes);
    }
    routes
        .virtual_hosts
        .retain_mut(|host| patched_host(&of_hosts, &of_routes, host));
    for patch in of_hosts {
        if patch.operation == Operation::Add {
            routes.virtual_hosts.extend(value::<VirtualHost>(patch));
        }
    }
}

/// Patches a virtual host; `false` when it is removed.
fn patched_host(of_hosts: &[&Patch], of_routes: &[&Patch], host: &mut VirtualHost) -> bool {
    for patch in of_hosts {
        if !is_host(patch, host) {
            continue;
        }
        match patch.operation {
            Operation::Remove => return false,
            Operation::Replace => {
                if let Some(new) = value(patch) {
                    *host = new;
                }
            }
            _ => merge_into(patch, host),
        }
    }
    let of_routes: Vec<&Patch> = of_routes
        .iter()
        .copied()
        .filter(|patch| is_host(patch, host))
        .collect();
    host.routes
        .retain_mut(|route| patched_route(&of_routes, route));
    for patch in of_routes {
        let named = host_place(patch).is_some_and(|place| place.route.is_some());
        let is = |route: &Route| is_route(patch, route);
        match patch.operation {
            Operation::Add | Operation::InsertBefore | Operation::InsertAfter => {
                edit(
                    patch,
                    &mut host.routes,
                    named.then_some(&is as &dyn Fn(&Route) -> bool),
                );
            }
            // Where it names a route, only beside that one.
            Operation::InsertFirst if !named || host.routes.iter().any(is) => {
                edit(patch, &mut host.routes, None);
            }
            _ => {}
        }
    }
    true
}

/// Patches a route; `false` when it is removed.
fn patched_route(patches: &[&Patch], route: &mut Route) -> bool {
    for patch in patches {
        if !is_route(patch, route) {
            continue;
        }
        if patch.operation == Operation::Remove {
            return false;
        }
        merge_into(patch, route);
    }
    true
}

fn place(patch: &Patch) -> Option<&RoutesPlace> {
    match &patch.place {
        Place::Routes(place) => Some(place),
        Place::Anywhere | Place::Listener(_) | Place::Cluster(_) => None,
    }
}

fn host_place(patch: &Patch) -> Option<&HostPlace> {
    place(patch)?.host.as_ref()
}

fn is_configuration(view: &View<'_>, context: Context, patch: &Patch, name: &str) -> bool {
    let Some(place) = place(patch) else {
        return true;
    };
    if place.name.as_ref().is_some_and(|want| **want != *name) {
        return false;
    }
    if context != Context::Gateway {
        let inbound = name
            .strip_prefix("inbound|")
            .and_then(|rest| rest.split('|').next());
        let own = inbound.unwrap_or(name).parse().ok();
        return place.port.is_none_or(|port| own == Some(port));
    }
    // `http.PORT` and `https.PORT.NAME.GATEWAY.NAMESPACE`
    let mut parts = name.splitn(5, '.');
    let (_, port) = (
        parts.next(),
        parts.next().and_then(|port| port.parse().ok()),
    );
    let port_name = parts.next().unwrap_or_default();
    let gateway = match (parts.next(), parts.next()) {
        (Some(gateway), Some(namespace)) => format!("{namespace}/{gateway}"),
        _ => String::new(),
    };
    place
        .port_name
        .as_ref()
        .is_none_or(|want| **want == *port_name)
        && place.gateway.as_ref().is_none_or(|want| **want == *gateway)
        && place.port.is_none_or(|want| is_port(view, port, want))
}

/// Whether Services know the gateway's port by that number; where none does, whether it is that.
fn is_port(view: &View<'_>, own: Option<u16>, want: u16) -> bool {
    let Some(own) = own else { return false };
    let ports = gateways::merged(view);
    let mut of_services = ports
        .values()
        .flat_map(|port| &port.servers)
        .filter(|server| server.port == own)
        .map(|server| server.server.port)
        .peekable();
    match of_services.peek() {
        None => own == want,
        Some(_) => of_services.any(|port| port == want),
    }
}

fn is_host(patch: &Patch, host: &VirtualHost) -> bool {
    host_place(patch).is_none_or(|place| {
        place.name.as_ref().is_none_or(|name| **name == *host.name)
            && (place.domain.iter()).all(|domain| host.domains.iter().any(|it| **it == **domain))
    })
}

fn is_route(patch: &Patch, route: &Route) -> bool {
    let Some(RoutePlace { name, action }) = host_place(patch).and_then(|it| it.route.as_ref())
    else {
        return true;
    };
    let does = match &route.action {
        Some(Action::Route(_)) => Some(RouteAction::Route),
        Some(Action::Redirect(_)) => Some(RouteAction::Redirect),
        Some(Action::DirectResponse(_)) => Some(RouteAction::DirectResponse),
        _ => None,
    };
    name.as_ref().is_none_or(|name| **name == *route.name)
        && (action.is_none() || does.is_none() || *action == does)
}
