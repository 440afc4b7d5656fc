//! Puts lowered objects together: services meet the workloads they select.

use std::collections::BTreeMap;
use std::sync::Arc;

use malla_model::id::selects;
use malla_model::mesh::MeshParts;
use malla_model::workload::{Address, Endpoint, Workload, WorkloadEntry};
use malla_model::{Resolution, Service};

use super::Config;

/// What can be selected, by namespace.
#[derive(Default)]
struct Selectable<'a> {
    workloads: BTreeMap<&'a str, Vec<&'a Workload>>,
    entries: BTreeMap<&'a str, Vec<&'a WorkloadEntry>>,
}

/// Adds what acts to the parts of a mesh, whose workloads and Kubernetes Services are there already.
pub fn add<'a>(parts: &mut MeshParts, configs: impl IntoIterator<Item = &'a Config>) {
    let mut entries: Vec<&Arc<WorkloadEntry>> = Vec::new();
    let mut selecting: Vec<&Service> = Vec::new();
    for config in configs {
        match config {
            Config::VirtualService(value) => parts.virtual_services.push(Arc::clone(value)),
            Config::DestinationRule(value) => parts.destination_rules.push(Arc::clone(value)),
            Config::Gateway(value) => parts.gateways.push(Arc::clone(value)),
            Config::Sidecar(value) => parts.sidecars.push(Arc::clone(value)),
            Config::EnvoyFilter(value) => parts.envoy_filters.push(Arc::clone(value)),
            Config::PeerAuthentication(value) => parts.peer_authentications.push(Arc::clone(value)),
            Config::RequestAuthentication(value) => {
                parts.request_authentications.push(Arc::clone(value));
            }
            Config::AuthorizationPolicy(value) => {
                parts.authorization_policies.push(Arc::clone(value));
            }
            Config::Telemetry(value) => parts.telemetries.push(Arc::clone(value)),
            Config::WorkloadEntry(value) => entries.push(value),
            Config::ServiceEntry(services) => {
                for service in services {
                    if service.selector.is_empty() {
                        parts.services.push(Arc::new(service.clone()));
                    } else {
                        selecting.push(service);
                    }
                }
            }
        }
    }
    let workloads = parts.workloads.clone();
    let mut selectable = Selectable::default();
    for workload in &workloads {
        let of = selectable.workloads.entry(workload.meta.namespace());
        of.or_default().push(workload);
    }
    for entry in entries {
        let of = selectable.entries.entry(entry.meta.namespace());
        of.or_default().push(entry);
    }
    let cluster = Arc::clone(&parts.settings.cluster_id);
    if !selectable.entries.is_empty() {
        for service in &mut parts.services {
            let added = selectable.entries(service, &cluster);
            if service.is_kubernetes() && !added.is_empty() {
                let service = Arc::make_mut(service);
                Arc::make_mut(&mut service.endpoints).extend(added);
            }
        }
    }
    for service in selecting {
        let mut endpoints = selectable.workloads(service, &cluster);
        endpoints.extend(selectable.entries(service, &cluster));
        parts.services.push(Arc::new(Service {
            endpoints: Arc::new(endpoints),
            ..service.clone()
        }));
    }
}

impl Selectable<'_> {
    fn workloads(&self, service: &Service, cluster: &str) -> Vec<Endpoint> {
        let there = self
            .workloads
            .get(service.namespace())
            .into_iter()
            .flatten();
        there
            .filter(|workload| selects(&service.selector, &workload.meta.labels))
            .flat_map(|workload| {
                let ports = service.ports.iter();
                ports.filter_map(|port| workload.endpoint(port, cluster))
            })
            .collect()
    }

    fn entries(&self, service: &Service, cluster: &str) -> Vec<Endpoint> {
        if service.selector.is_empty() {
            return Vec::new();
        }
        let resolves = matches!(
            service.resolution,
            Resolution::Dns | Resolution::DnsRoundRobin
        );
        let there = self.entries.get(service.namespace()).into_iter().flatten();
        there
            .filter(|entry| selects(&service.selector, &entry.meta.labels))
            .filter(|entry| resolves || !matches!(entry.address, Address::Dns(_)))
            .flat_map(|entry| {
                let ports = service.ports.iter();
                ports.filter_map(|port| entry.endpoint(port, cluster))
            })
            .collect()
    }
}
