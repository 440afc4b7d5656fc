//! VirtualServices: what they refer to, and which of them is heard.

use std::collections::BTreeMap;

use malla_model::id::selects;
use malla_model::route::MESH_GATEWAY;
use malla_model::{Host, MeshSettings};

use super::Findings;
use super::message::Code;
use super::world::{Item, Known};
use crate::istio::virtual_service::{Destination, VirtualServiceSpec};
use crate::lower::gateway::server_host;
use crate::lower::routed_claim;
use crate::lower::virtual_service::gateway_name;

pub(super) fn check(known: &Known, settings: &MeshSettings, out: &mut Findings) {
    for service in &known.virtual_services {
        gateways(service, known, out);
        claims(service, known, settings, out);
        for (path, destination) in destinations(&service.spec) {
            self::destination(service, destination, &path, known, settings, out);
        }
        delegates(service, known, out);
        unknown_hosts(service, known, settings, out);
    }
    conflicts(known, settings, out);
}

fn in_mesh(spec: &VirtualServiceSpec) -> bool {
    spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH_GATEWAY)
}

fn gateways(service: &Item<VirtualServiceSpec>, known: &Known, out: &mut Findings) {
    for (at, written) in service.spec.gateways.iter().enumerate() {
        let name = gateway_name(written, service.namespace());
        if &*name == MESH_GATEWAY {
            continue;
        }
        let gateway = known
            .gateways
            .iter()
            .find(|g| *name == format!("{}/{}", g.namespace(), g.name()));
        let Some(gateway) = gateway else {
            out.not_found(
                &service.subject,
                format!("spec.gateways[{at}]"),
                "gateway",
                written,
            );
            continue;
        };
        let served: Vec<_> = gateway
            .spec
            .servers
            .iter()
            .flat_map(|server| {
                server
                    .hosts
                    .iter()
                    .map(|host| server_host(host, gateway.namespace()))
            })
            .filter(|host| {
                host.namespace
                    .as_deref()
                    .is_none_or(|ns| ns == service.namespace())
            })
            .collect();
        let unserved: Vec<&str> = service
            .spec
            .hosts
            .iter()
            .filter(|host| {
                !served
                    .iter()
                    .any(|server| server.host.overlaps(&Host::new(host)))
            })
            .map(String::as_str)
            .collect();
        if !unserved.is_empty() {
            let text = format!(
                "one or more host [{}] defined in VirtualService {} not found in Gateway {name}.",
                unserved.join(" "),
                service.name(),
            );
            out.at(
                Code::VirtualServiceHostNotFoundInGateway,
                &service.subject,
                "spec.hosts",
                text,
            );
        }
    }
}

/// Routes by claims of tokens that no RequestAuthentication of the gateway's pods checks.
fn claims(
    service: &Item<VirtualServiceSpec>,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let Some((at, claim)) = first_claim(&service.spec) else {
        return;
    };
    for written in &service.spec.gateways {
        let name = gateway_name(written, service.namespace());
        let mut gateways = known.gateways.iter();
        let Some(gateway) = gateways.find(|g| *name == format!("{}/{}", g.namespace(), g.name()))
        else {
            continue;
        };
        for pod in &known.pods {
            if !selects(&gateway.spec.selector, pod.labels()) {
                continue;
            }
            let checked = known.request_authentications.iter().any(|policy| {
                let near = [&*settings.root_namespace, pod.namespace()];
                let selector = policy.spec.selector.as_ref();
                near.contains(&policy.namespace())
                    && selector.is_none_or(|it| selects(&it.match_labels, pod.labels()))
            });
            if !checked {
                let text = format!(
                    "The virtual service uses the JWT claim based routing (key: {claim}) but found no request authentication for the gateway ({name}) pod ({}). The request authentication must first be applied for the gateway pods to validate the JWT token and make the claims available for routing.",
                    pod.name(),
                );
                let code = Code::JwtClaimBasedRoutingWithoutRequestAuthN;
                out.at(code, &service.subject, at.as_str(), text);
                return;
            }
        }
    }
}

/// The first match on a claim, and where it is.
fn first_claim(spec: &VirtualServiceSpec) -> Option<(String, &str)> {
    spec.http.iter().enumerate().find_map(|(at, route)| {
        route.matches.iter().enumerate().find_map(|(match_at, of)| {
            let fields = [
                ("headers", &of.headers),
                ("withoutHeaders", &of.without_headers),
            ];
            fields.into_iter().find_map(|(field, headers)| {
                let key = headers.keys().find(|key| routed_claim(key).is_some())?;
                Some((
                    format!("spec.http[{at}].match[{match_at}].{field}.{key}"),
                    key.as_str(),
                ))
            })
        })
    })
}

/// Every destination with its path.
fn destinations(spec: &VirtualServiceSpec) -> Vec<(String, &Destination)> {
    let mut found = Vec::new();
    for (at, route) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{at}]");
        for (at, to) in route.route.iter().enumerate() {
            found.push((format!("{path}.route[{at}].destination"), &to.destination));
        }
        if let Some(mirror) = &route.mirror {
            found.push((format!("{path}.mirror"), mirror));
        }
        for (at, mirror) in route.mirrors.iter().enumerate() {
            found.push((
                format!("{path}.mirrors[{at}].destination"),
                &mirror.destination,
            ));
        }
    }
    let tls = spec
        .tls
        .iter()
        .enumerate()
        .map(|(at, route)| ("tls", at, &route.route));
    let tcp = spec
        .tcp
        .iter()
        .enumerate()
        .map(|(at, route)| ("tcp", at, &route.route));
    for (protocol, at, list) in tls.chain(tcp) {
        for (to_at, to) in list.iter().enumerate() {
            found.push((
                format!("spec.{protocol}[{at}].route[{to_at}].destination"),
                &to.destination,
            ));
        }
    }
    found
}

fn destination(
    service: &Item<VirtualServiceSpec>,
    destination: &Destination,
    path: &str,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    let host = Host::resolve(&destination.host, service.namespace(), &settings.domain);
    let Some(ports) = known.ports_of(&host) else {
        out.not_found(
            &service.subject,
            format!("{path}.host"),
            "host",
            &destination.host,
        );
        return;
    };
    let wanted = destination.port.as_ref().and_then(|port| port.number);
    match wanted {
        None if ports.len() > 1 => {
            let text = format!(
                "This VirtualService routes to a service {host:?} that exposes multiple ports {ports:?}. Specifying a port in the destination is required to disambiguate.",
                host = host.as_str(),
            );
            out.at(
                Code::VirtualServiceDestinationPortSelectorRequired,
                &service.subject,
                path,
                text,
            );
        }
        Some(port) if !ports.iter().any(|known| u32::from(*known) == port) => {
            out.not_found(
                &service.subject,
                format!("{path}.port.number"),
                "host:port",
                &format!("{}:{port}", destination.host),
            );
        }
        _ => {}
    }
    let Some(subset) = destination
        .subset
        .as_deref()
        .filter(|subset| !subset.is_empty())
    else {
        return;
    };
    let defined = known.destination_rules.iter().any(|rule| {
        Host::resolve(&rule.spec.host, rule.namespace(), &settings.domain).covers(&host)
            && rule.spec.subsets.iter().any(|known| known.name == subset)
    });
    if !defined {
        let name = format!("{}+{subset}", destination.host);
        out.not_found(
            &service.subject,
            format!("{path}.subset"),
            "host+subset in destinationrule",
            &name,
        );
    }
}

fn delegates(service: &Item<VirtualServiceSpec>, known: &Known, out: &mut Findings) {
    for (at, route) in service.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else {
            continue;
        };
        let namespace = delegate
            .namespace
            .as_deref()
            .filter(|ns| !ns.is_empty())
            .unwrap_or(service.namespace());
        let name = delegate.name.as_deref().unwrap_or_default();
        let exists = known.virtual_services.iter().any(|other| {
            other.namespace() == namespace && other.name() == name && other.spec.hosts.is_empty()
        });
        if !exists {
            let name = format!("{namespace}/{name}");
            out.not_found(
                &service.subject,
                format!("spec.http[{at}].delegate"),
                "delegate VirtualService",
                &name,
            );
        }
    }
}

/// A sidecar's routes hang on services: of a host that is none, only port 80 is routed.
fn unknown_hosts(
    service: &Item<VirtualServiceSpec>,
    known: &Known,
    settings: &MeshSettings,
    out: &mut Findings,
) {
    if !in_mesh(&service.spec) || known.hosts.is_empty() {
        return;
    }
    for (at, written) in service.spec.hosts.iter().enumerate() {
        let host = Host::resolve(written, service.namespace(), &settings.domain);
        let served = known.hosts.keys().any(|known| known.overlaps(&host));
        if !served {
            let text = format!(
                "No service is called {written:?}, so sidecars apply these routes only to calls of that name on port 80. Check the name, or add a ServiceEntry."
            );
            out.at(
                Code::VirtualServiceHostUnknown,
                &service.subject,
                format!("spec.hosts[{at}]"),
                text,
            );
        }
    }
}

/// Sidecars never merge VirtualServices: of several for one host the oldest is heard.
fn conflicts(known: &Known, settings: &MeshSettings, out: &mut Findings) {
    let mut by_host: BTreeMap<Host, Vec<&Item<VirtualServiceSpec>>> = BTreeMap::new();
    for service in known
        .virtual_services
        .iter()
        .filter(|service| in_mesh(&service.spec))
    {
        for written in &service.spec.hosts {
            let host = Host::resolve(written, service.namespace(), &settings.domain);
            let heard = by_host.entry(host).or_default();
            let apart = heard
                .iter()
                .all(|other| is_private(other) && other.namespace() != service.namespace());
            if heard.is_empty() || !apart || !is_private(service) {
                heard.push(service);
            }
        }
    }
    for (host, services) in by_host.iter().filter(|(_, services)| services.len() > 1) {
        let names: Vec<String> = services
            .iter()
            .map(|s| format!("{}/{}", s.namespace(), s.name()))
            .collect();
        let text = format!(
            "The VirtualServices {} associated with mesh gateway define the same host {host} which can lead to undefined behavior. This can be fixed by merging the conflicting VirtualServices into a single resource.",
            names.join(","),
        );
        for service in services {
            out.at(
                Code::ConflictingMeshGatewayVirtualServiceHosts,
                &service.subject,
                "spec.hosts",
                &text,
            );
        }
        let heard = names.first().cloned().unwrap_or_default();
        for ignored in services.iter().skip(1) {
            let text = format!(
                "Sidecars ignore this VirtualService for the host {host}: the older {heard} has it, and VirtualServices are not merged in the mesh."
            );
            out.at(
                Code::VirtualServiceIgnored,
                &ignored.subject,
                "spec.hosts",
                text,
            );
        }
    }
}

/// Seen by its own namespace only.
fn is_private(service: &Item<VirtualServiceSpec>) -> bool {
    let own = |name: &String| name == "." || name == service.namespace();
    !service.spec.export_to.is_empty() && service.spec.export_to.iter().all(own)
}
