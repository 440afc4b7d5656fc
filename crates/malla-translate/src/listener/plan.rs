//! Which outbound listeners a sidecar has, and for whom: HTTP ports share `0.0.0.0_port` and tell
//! services apart by host; everything else needs an address of its own to be told apart by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use malla_model::service::ServicePort;
use malla_model::workload::Address;
use malla_model::{Host, Protocol, Service};

use super::any_address;
use crate::route::speaks_http;
use crate::scope::Reach;
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
    /// Whether the listener opens its port itself; else connections are handed to it.
    pub(crate) binds: bool,
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
    pub(crate) protocol: Protocol,
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
    let mut plan = Plan {
        view,
        places: BTreeMap::new(),
    };
    for reach in &view.scope().reaches {
        plan.add(reach);
    }
    plan.places
}

struct Plan<'v, 'a> {
    view: &'v View<'a>,
    places: BTreeMap<Place, Slot<'a>>,
}

/// One port of one service, on the way to its place.
#[derive(Clone, Copy)]
struct Item<'r, 'a> {
    reach: &'r Reach<'a>,
    service: &'a Arc<Service>,
    port: &'a ServicePort,
    protocol: Protocol,
    /// The port of the listener; 0 for a path.
    number: u16,
    /// Where the listener is told to be.
    bind: Option<&'r str>,
}

impl<'a> Plan<'_, 'a> {
    fn add(&mut self, reach: &Reach<'a>) {
        let binds = reach.binds(self.view.node);
        let bind = match &reach.egress.bind {
            Some(bind) => Some(&**bind),
            None => binds.then(|| loopback(self.view)),
        };
        // What a listener for one port has, the one for all ports leaves alone.
        let locked: BTreeSet<Place> = match &reach.egress.port {
            None => self.places.keys().cloned().collect(),
            Some(_) => BTreeSet::new(),
        };
        let mut services: Vec<&'a Arc<Service>> = reach.services.clone();
        services.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        for service in services {
            for (port, protocol) in reach.ports(service) {
                let socket = reach.path().is_some();
                let item = Item {
                    reach,
                    service,
                    port,
                    protocol,
                    number: if socket { 0 } else { port.port },
                    bind,
                };
                let unopenable =
                    binds && !socket && port.port < 1024 && self.view.node.unprivileged;
                if !unopenable {
                    self.add_port(item, &locked);
                }
            }
        }
    }

    fn add_port(&mut self, item: Item<'_, 'a>, locked: &BTreeSet<Place>) {
        match item.protocol {
            Protocol::Udp => {}
            Protocol::Sniffed => self.add_sniffed(item, locked),
            protocol if speaks_http(protocol) => {
                let place = self.shared(item);
                self.add_http(item, place, locked, None);
            }
            _ => self.add_tcp(item, locked),
        }
    }

    /// Where services share a listener.
    fn shared(&self, item: Item<'_, 'a>) -> Place {
        let address = item.bind.unwrap_or(any_address(self.view));
        (address.to_owned(), item.number)
    }

    fn slot(
        &mut self,
        item: Item<'_, 'a>,
        place: Place,
        locked: &BTreeSet<Place>,
    ) -> Option<&mut Slot<'a>> {
        if locked.contains(&place) {
            return None;
        }
        let slot = self.places.entry(place).or_default();
        slot.binds |= item.reach.binds(self.view.node);
        Some(slot)
    }

    fn add_http(
        &mut self,
        item: Item<'_, 'a>,
        place: Place,
        locked: &BTreeSet<Place>,
        sniffed: Option<Host>,
    ) {
        let route_name = match (&sniffed, item.reach.path()) {
            (Some(host), _) => format!("{host}:{}", item.number),
            (None, Some(path)) => path.to_owned(),
            (None, None) => item.number.to_string(),
        };
        let Some(slot) = self.slot(item, place, locked) else {
            return;
        };
        let http = slot.http.get_or_insert(Http {
            route_name,
            grpc_web: false,
            sniffed: None,
        });
        http.grpc_web |= item.protocol == Protocol::GrpcWeb;
        if sniffed.is_some() {
            http.sniffed = sniffed;
        }
    }

    fn add_sniffed(&mut self, item: Item<'_, 'a>, locked: &BTreeSet<Place>) {
        let ips: Vec<IpAddr> = match item.bind {
            Some(_) => Vec::new(),
            None => item.service.virtual_ips().collect(),
        };
        if ips.is_empty() {
            let place = self.shared(item);
            self.add_http(item, place, locked, None);
        }
        for ip in &ips {
            let place = (ip.to_string(), item.number);
            self.add_http(item, place, locked, Some(item.service.hostname.clone()));
        }
        // Bytes that are no HTTP. A headless service's go wherever the client was going anyway.
        if !(ips.is_empty() && item.service.headless) {
            self.add_tcp(item, locked);
        }
    }

    fn add_tcp(&mut self, item: Item<'_, 'a>, locked: &BTreeSet<Place>) {
        for (address, within) in self.tcp_addresses(item) {
            if let Some(slot) = self.slot(item, (address, item.number), locked) {
                slot.tcp.push(Tcp {
                    service: item.service,
                    port: item.port,
                    protocol: item.protocol,
                    within,
                });
            }
        }
    }

    /// Where bytes for a service are told from other services'.
    fn tcp_addresses(&self, item: Item<'_, 'a>) -> Vec<(String, Vec<IpNet>)> {
        if let Some(bind) = item.bind {
            return vec![(bind.to_owned(), Vec::new())];
        }
        let service = item.service;
        let (single, wide): (Vec<&IpNet>, Vec<&IpNet>) = service
            .addresses
            .iter()
            .partition(|net| net.prefix_len() == net.max_prefix_len());
        let mut addresses: Vec<(String, Vec<IpNet>)> = single
            .iter()
            .map(|net| (net.addr().to_string(), Vec::new()))
            .collect();
        let anywhere = any_address(self.view).to_owned();
        if !wide.is_empty() {
            addresses.push((anywhere, wide.into_iter().copied().collect()));
        } else if service.addresses.is_empty() && service.headless {
            let pods = pod_addresses(self.view, service, item.port);
            addresses.extend(pods.into_iter().map(|ip| (ip.to_string(), Vec::new())));
        } else if service.addresses.is_empty() {
            addresses.push((anywhere, Vec::new()));
        }
        addresses
    }
}

/// The loopback address of the node's version of the Internet protocol.
fn loopback(view: &View<'_>) -> &'static str {
    if view.node.ipv6_only() {
        "::1"
    } else {
        "127.0.0.1"
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
