//! One immutable world: everything the control plane knows at one instant.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::gateway::Gateway;
use crate::host::Host;
use crate::patch::EnvoyFilter;
use crate::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::route::VirtualService;
use crate::secret::Secrets;
use crate::service::Service;
use crate::settings::MeshSettings;
use crate::sidecar::Sidecar;
use crate::telemetry::Telemetry;
use crate::token::RequestAuthentication;
use crate::traffic::DestinationRule;
use crate::workload::Workload;

/// Everything, at one instant. Built by the control plane's one writer, then only read.
///
/// Invariant: every list is sorted oldest first ([`crate::Meta::age`]) except `services`, sorted by host and
/// then as they win ([`Mesh::service`]), and `workloads`, sorted by name, so the same world always looks the same.
#[derive(Debug, Default)]
pub struct Mesh {
    pub settings: MeshSettings,
    pub services: Vec<Arc<Service>>,
    pub workloads: Vec<Arc<Workload>>,
    pub virtual_services: Vec<Arc<VirtualService>>,
    pub destination_rules: Vec<Arc<DestinationRule>>,
    pub gateways: Vec<Arc<Gateway>>,
    pub sidecars: Vec<Arc<Sidecar>>,
    pub envoy_filters: Vec<Arc<EnvoyFilter>>,
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    pub request_authentications: Vec<Arc<RequestAuthentication>>,
    pub authorization_policies: Vec<Arc<AuthorizationPolicy>>,
    pub telemetries: Vec<Arc<Telemetry>>,
    pub secrets: Arc<Secrets>,
    index: Index,
}

#[derive(Debug, Default)]
struct Index {
    service_by_host: HashMap<Host, Vec<usize>>,
    workload_by_ip: HashMap<IpAddr, usize>,
}

/// The parts a [`Mesh`] is built from, in any order.
#[derive(Debug, Clone, Default)]
pub struct MeshParts {
    pub settings: MeshSettings,
    pub services: Vec<Arc<Service>>,
    pub workloads: Vec<Arc<Workload>>,
    pub virtual_services: Vec<Arc<VirtualService>>,
    pub destination_rules: Vec<Arc<DestinationRule>>,
    pub gateways: Vec<Arc<Gateway>>,
    pub sidecars: Vec<Arc<Sidecar>>,
    pub envoy_filters: Vec<Arc<EnvoyFilter>>,
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    pub request_authentications: Vec<Arc<RequestAuthentication>>,
    pub authorization_policies: Vec<Arc<AuthorizationPolicy>>,
    pub telemetries: Vec<Arc<Telemetry>>,
    pub secrets: Arc<Secrets>,
}

impl Mesh {
    /// Sorts and indexes the parts.
    #[must_use]
    pub fn new(mut parts: MeshParts) -> Self {
        let order = |s: &Service| (s.hostname.clone(), !s.is_kubernetes());
        parts.services.sort_by(|a, b| {
            order(a)
                .cmp(&order(b))
                .then_with(|| a.meta.age().cmp(&b.meta.age()))
        });
        parts
            .workloads
            .sort_by(|a, b| a.meta.object.cmp(&b.meta.object));
        parts
            .virtual_services
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .destination_rules
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .gateways
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .sidecars
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .envoy_filters
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .peer_authentications
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .request_authentications
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .authorization_policies
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        parts
            .telemetries
            .sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));

        let mut index = Index::default();
        for (at, service) in parts.services.iter().enumerate() {
            index
                .service_by_host
                .entry(service.hostname.clone())
                .or_default()
                .push(at);
        }
        for (at, workload) in parts.workloads.iter().enumerate() {
            for ip in &workload.addresses {
                index.workload_by_ip.insert(*ip, at);
            }
        }
        Self {
            settings: parts.settings,
            services: parts.services,
            workloads: parts.workloads,
            virtual_services: parts.virtual_services,
            destination_rules: parts.destination_rules,
            gateways: parts.gateways,
            sidecars: parts.sidecars,
            envoy_filters: parts.envoy_filters,
            peer_authentications: parts.peer_authentications,
            request_authentications: parts.request_authentications,
            authorization_policies: parts.authorization_policies,
            telemetries: parts.telemetries,
            secrets: parts.secrets,
            index,
        }
    }

    /// The service of that name as `namespace` sees it: its own first, then Kubernetes' before those of
    /// ServiceEntries, then the oldest.
    #[must_use]
    pub fn service(&self, host: &Host, namespace: &str) -> Option<&Arc<Service>> {
        let candidates = || {
            self.index
                .service_by_host
                .get(host)
                .into_iter()
                .flatten()
                .filter_map(|at| self.services.get(*at))
        };
        candidates()
            .find(|s| s.namespace() == namespace)
            .or_else(|| candidates().find(|s| s.visibility.allows(namespace)))
    }

    #[must_use]
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.index
            .workload_by_ip
            .get(&ip)
            .and_then(|at| self.workloads.get(*at))
    }

    /// Services whose endpoints run at that address: what a sidecar there serves.
    #[must_use]
    pub fn services_at(&self, ip: IpAddr) -> Vec<&Arc<Service>> {
        self.services
            .iter()
            .filter(|s| {
                s.endpoints
                    .iter()
                    .any(|e| e.address == crate::workload::Address::Ip(ip))
            })
            .collect()
    }
}
