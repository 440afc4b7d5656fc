//! Which outbound listeners a sidecar has, and for whom: HTTP ports share `0.0.0.0_port` and tell
//! services apart by host; everything else needs an address of its own to be told apart by.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use malla_model::service::ServicePort;
use malla_model::workload::Address;
use malla_model::{Host, Service};

use super::any_address;
use crate::route::speaks_http;
use crate::view::View;

/// Address (text, so that `0.0.0.0` and virtual IPs sort together) and port.
pub(crate) type Place = (String, u16);

/// What arrives at one place.
#[derive(Debug, Default)]
pub(crate) struct Slot<'a> {
    /// The route configuration, where HTTP is expected (perhaps among other things).
    pub(crate) http: Option<Http>,
    /// Services whose bytes are passed on as they are, oldest first.
    pub(crate) tcp: Vec<Tcp<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http {
    pub(crate) route_name: String,
    pub(crate) grpc_web: bool,
    /// The only service it can be, where the port has not said what it speaks.
    pub(crate) sniffed: Option<Host>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tcp<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) port: &'a ServicePort,
    /// Only these destinations; empty is any.
    pub(crate) within: Vec<IpNet>,
}

/// Names of the route configurations these listeners take.
pub(crate) fn route_names(view: &View<'_>) -> Vec<String> {
    plan(view)
        .into_values()
        .filter_map(|slot| Some(slot.http?.route_name))
        .collect()
}

pub(crate) fn plan<'a>(view: &View<'a>) -> BTreeMap<Place, Slot<'a>> {
    let mut services: Vec<&'a Arc<Service>> = view.services().to_vec();
    services.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
    let mut places: BTreeMap<Place, Slot<'a>> = BTreeMap::new();
    for service in services {
        for port in &service.ports {
            use malla_model::Protocol;
            match port.protocol {
                Protocol::Udp => {}
                Protocol::Sniffed => add_sniffed(view, &mut places, service, port),
                protocol if speaks_http(protocol) => {
                    let place = (any_address(view).to_owned(), port.port);
                    add_http(&mut places, place, port.port.to_string(), port);
                }
                _ => add_tcp(view, &mut places, service, port),
            }
        }
    }
    places
}

fn add_http(
    places: &mut BTreeMap<Place, Slot<'_>>,
    place: Place,
    route_name: String,
    port: &ServicePort,
) {
    let slot = places.entry(place).or_default();
    let http = slot.http.get_or_insert(Http {
        route_name,
        grpc_web: false,
        sniffed: None,
    });
    http.grpc_web |= port.protocol == malla_model::Protocol::GrpcWeb;
}

fn add_sniffed<'a>(
    view: &View<'a>,
    places: &mut BTreeMap<Place, Slot<'a>>,
    service: &'a Arc<Service>,
    port: &'a ServicePort,
) {
    let ips: Vec<IpAddr> = service.virtual_ips().collect();
    if ips.is_empty() {
        let place = (any_address(view).to_owned(), port.port);
        add_http(places, place, port.port.to_string(), port);
    }
    for ip in &ips {
        let name = sniffed_route_name(&service.hostname, port.port);
        let place = (ip.to_string(), port.port);
        add_http(places, place.clone(), name, port);
        if let Some(Slot {
            http: Some(http), ..
        }) = places.get_mut(&place)
        {
            http.sniffed = Some(service.hostname.clone());
        }
    }
    // Bytes that are no HTTP. A headless service's go wherever the client was going anyway.
    if !(ips.is_empty() && service.headless) {
        add_tcp(view, places, service, port);
    }
}

fn sniffed_route_name(host: &Host, port: u16) -> String {
    format!("{host}:{port}")
}

fn add_tcp<'a>(
    view: &View<'a>,
    places: &mut BTreeMap<Place, Slot<'a>>,
    service: &'a Arc<Service>,
    port: &'a ServicePort,
) {
    let mut add = |address: String, within: Vec<IpNet>| {
        let slot = places.entry((address, port.port)).or_default();
        slot.tcp.push(Tcp {
            service,
            port,
            within,
        });
    };
    let (single, wide): (Vec<&IpNet>, Vec<&IpNet>) = service
        .addresses
        .iter()
        .partition(|net| net.prefix_len() == net.max_prefix_len());
    for net in &single {
        add(net.addr().to_string(), Vec::new());
    }
    if !wide.is_empty() {
        add(
            any_address(view).to_owned(),
            wide.into_iter().copied().collect(),
        );
    }
    if !service.addresses.is_empty() {
        return;
    }
    if service.headless {
        for ip in pod_addresses(view, service, port) {
            add(ip.to_string(), Vec::new());
        }
    } else {
        add(any_address(view).to_owned(), Vec::new());
    }
}

/// Clients of a headless service dial its pods; the node's own pod needs no listener.
fn pod_addresses(view: &View<'_>, service: &Service, port: &ServicePort) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.port_name == port.name)
        .filter_map(|endpoint| match endpoint.address {
            Address::Ip(ip) if !view.node.addresses.contains(&ip) => Some(ip),
            _ => None,
        })
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}
