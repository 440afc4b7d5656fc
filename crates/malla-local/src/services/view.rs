//! A Service with its endpoints, as the node sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use malla_apiserver::{ApiError, Client, ListParams, kinds};

use crate::dns::{Host, Names, Record};
use crate::net::rules::{Backends, Frontend, Services, Transport};
use crate::object::{self, Key};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not set.
const DEFAULT_AFFINITY: i32 = 10800;

/// An endpoint of a slice.
#[derive(Debug, Clone)]
struct Endpoint {
    address: Ipv4Addr,
    hostname: Option<String>,
    ready: bool,
    /// Still serves though it is ending.
    draining: bool,
}

/// A slice's port with its endpoints.
#[derive(Debug, Clone)]
struct Served {
    name: String,
    transport: Option<Transport>,
    port: Option<u16>,
    endpoint: Endpoint,
}

/// A port of a Service.
#[derive(Debug, Clone)]
pub(super) struct PortView {
    pub(super) name: String,
    pub(super) transport: Option<Transport>,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
    /// Where connections go: ready endpoints, or those still draining if there are no others.
    pub(super) endpoints: BTreeSet<SocketAddrV4>,
}

/// A Service.
#[derive(Debug, Clone)]
pub(super) struct ServiceView {
    pub(super) key: Key,
    pub(super) service: Service,
    pub(super) kind: String,
    pub(super) cluster_ip: Option<Ipv4Addr>,
    headless: bool,
    pub(super) ports: Vec<PortView>,
    served: Vec<Served>,
}

/// Reads all Services.
pub(super) fn read(client: &Client) -> Result<Vec<ServiceView>, ApiError> {
    let services: Vec<Service> = object::list(client, &kinds::SERVICES, None, |_| true)?;
    let slices: Vec<EndpointSlice> = object::list(client, &kinds::ENDPOINT_SLICES, None, |_| true)?;
    let mut by_service: BTreeMap<Key, Vec<EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)) {
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            by_service
                .entry(Key::new(namespace, service))
                .or_default()
                .push(slice);
        }
    }
    let view = |service: Service| {
        let slices = by_service
            .remove(&Key::of_meta(&service.metadata))
            .unwrap_or_default();
        ServiceView::new(service, &slices)
    };
    Ok(services.into_iter().map(view).collect())
}

/// Names of all namespaces.
pub(super) fn namespaces(client: &Client) -> Result<BTreeSet<String>, ApiError> {
    let listed = client.list(&kinds::NAMESPACES, None, &ListParams::default())?;
    Ok(listed
        .items
        .iter()
        .map(|namespace| Key::of(namespace).name)
        .collect())
}

impl ServiceView {
    fn new(service: Service, slices: &[EndpointSlice]) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let served: Vec<Served> = slices.iter().flat_map(served).collect();
        let ports = spec.ports.iter().flatten();
        let ports = ports
            .filter_map(|port| PortView::new(port, &served))
            .collect();
        let address = spec.cluster_ip.as_deref().unwrap_or_default();
        Self {
            key: Key::of_meta(&service.metadata),
            kind: spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned()),
            cluster_ip: address.parse().ok(),
            headless: address == "None",
            ports,
            served,
            service,
        }
    }

    /// The Service's part of the cluster's DNS zone.
    pub(super) fn names(&self) -> Names {
        let spec = self.service.spec.clone().unwrap_or_default();
        let external = spec.external_name.filter(|_| self.kind == "ExternalName");
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        let mut records = Vec::new();
        if self.headless {
            let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
            let usable = self
                .served
                .iter()
                .filter(|one| one.endpoint.ready || publish_all);
            for served in usable {
                let endpoint = &served.endpoint;
                let name = endpoint
                    .hostname
                    .clone()
                    .unwrap_or_else(|| dashed(endpoint.address));
                let named = endpoint.hostname.is_some();
                let host = Host {
                    address: endpoint.address,
                    named,
                };
                hosts.insert(name.clone(), host);
                if let (Some(transport), Some(port)) = (served.transport, served.port) {
                    records.push(Record {
                        port_name: served.name.clone(),
                        transport,
                        port,
                        host: Some(name),
                    });
                }
            }
        } else {
            let with_transport = self
                .ports
                .iter()
                .filter_map(|port| Some((port, port.transport?)));
            records.extend(with_transport.map(|(port, transport)| Record {
                port_name: port.name.clone(),
                transport,
                port: port.port,
                host: None,
            }));
        }
        Names {
            namespace: self.key.namespace.clone(),
            service: self.key.name.clone(),
            address: self.cluster_ip,
            external,
            hosts,
            records,
        }
    }

    fn affinity_seconds(&self) -> Option<u32> {
        let spec = self.service.spec.as_ref()?;
        if spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let config = spec.session_affinity_config.as_ref();
        let config = config.and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds);
        u32::try_from(seconds.unwrap_or(DEFAULT_AFFINITY)).ok()
    }
}

impl PortView {
    fn new(port: &ServicePort, served: &[Served]) -> Option<Self> {
        let name = port.name.clone().unwrap_or_default();
        let transport = transport(port.protocol.as_deref());
        let fitting = || {
            served
                .iter()
                .filter(|one| one.name == name && one.transport == transport)
        };
        let socket = |one: &Served| Some(SocketAddrV4::new(one.endpoint.address, one.port?));
        let mut endpoints: BTreeSet<SocketAddrV4> = fitting()
            .filter(|one| one.endpoint.ready)
            .filter_map(socket)
            .collect();
        if endpoints.is_empty() {
            let draining = fitting().filter(|one| one.endpoint.draining);
            endpoints = draining.filter_map(socket).collect();
        }
        Some(Self {
            name,
            transport,
            port: u16::try_from(port.port).ok()?,
            node_port: port
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|p| *p > 0),
            endpoints,
        })
    }
}

/// Every endpoint of a slice with every port; once without a port if it has none.
fn served(slice: &EndpointSlice) -> Vec<Served> {
    if slice.address_type != "IPv4" {
        return Vec::new();
    }
    let mut all = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let terminating = conditions.terminating.unwrap_or(false);
        let serving = conditions.serving.unwrap_or(ready);
        for address in endpoint
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
        {
            let endpoint = Endpoint {
                address,
                hostname: endpoint.hostname.clone(),
                ready,
                draining: terminating && serving,
            };
            let ports = slice.ports.as_deref().unwrap_or_default();
            if ports.is_empty() {
                all.push(Served {
                    name: String::new(),
                    transport: None,
                    port: None,
                    endpoint: endpoint.clone(),
                });
            }
            all.extend(ports.iter().map(|port| Served {
                name: port.name.clone().unwrap_or_default(),
                transport: transport(port.protocol.as_deref()),
                port: port.port.and_then(|port| u16::try_from(port).ok()),
                endpoint: endpoint.clone(),
            }));
        }
    }
    all
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

/// All frontends: cluster IPs, external IPs, and node ports at the node's address.
pub(super) fn rules(views: &[ServiceView], node: Ipv4Addr) -> Services {
    let mut services = Services::new();
    for view in views {
        let external = view
            .service
            .spec
            .as_ref()
            .and_then(|spec| spec.external_ips.as_ref());
        let external = external
            .into_iter()
            .flatten()
            .filter_map(|text| text.parse().ok());
        let addresses: Vec<Ipv4Addr> = view.cluster_ip.into_iter().chain(external).collect();
        for port in &view.ports {
            let Some(transport) = port.transport else {
                continue;
            };
            let backends = Backends {
                endpoints: port.endpoints.clone(),
                affinity_seconds: view.affinity_seconds(),
            };
            let at = addresses.iter().map(|address| (*address, port.port));
            for (address, port) in at.chain(port.node_port.map(|port| (node, port))) {
                let frontend = Frontend {
                    address,
                    transport,
                    port,
                };
                services.insert(frontend, backends.clone());
            }
        }
    }
    services
}
