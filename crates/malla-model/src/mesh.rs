//! One immutable world: everything the control plane knows at one instant.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::host::Host;
use crate::id::TrustDomain;
use crate::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::route::VirtualService;
use crate::service::Service;
use crate::telemetry::{Telemetry, TelemetrySettings};
use crate::traffic::DestinationRule;
use crate::workload::Workload;

/// The mesh-wide settings (Istio: MeshConfig), with Istio's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    pub root_namespace: Arc<str>,
    pub domain: Arc<str>,
    pub trust_domain: TrustDomain,
    pub trust_domain_aliases: Vec<TrustDomain>,
    pub cluster_id: Arc<str>,
    pub connect_timeout: Duration,
    /// `None` waits for ever (Istio's default of 0 s).
    pub protocol_detection_timeout: Option<Duration>,
    pub auto_mtls: bool,
    pub outbound: OutboundPolicy,
    /// `None` is off; `/dev/stdout` in the demo.
    pub access_log_file: Option<Arc<str>>,
    /// `None` is Istio's default text format.
    pub access_log_format: Option<Arc<str>>,
    pub access_log_json: bool,
    pub locality_balancing: bool,
    pub telemetry: TelemetrySettings,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            domain: "cluster.local".into(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            cluster_id: "Kubernetes".into(),
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: None,
            auto_mtls: true,
            outbound: OutboundPolicy::AllowAny,
            access_log_file: None,
            access_log_format: None,
            access_log_json: false,
            locality_balancing: true,
            telemetry: TelemetrySettings::default(),
        }
    }
}

/// What happens to calls to hosts the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundPolicy {
    AllowAny,
    RegistryOnly,
}

/// Everything, at one instant. Built by the control plane's one writer, then only read.
///
/// Invariant: every list is sorted oldest first ([`crate::Meta::age`]) except `services` and
/// `workloads`, which are sorted by name, so the same world always looks the same.
#[derive(Debug, Default)]
pub struct Mesh {
    pub settings: MeshSettings,
    pub services: Vec<Arc<Service>>,
    pub workloads: Vec<Arc<Workload>>,
    pub virtual_services: Vec<Arc<VirtualService>>,
    pub destination_rules: Vec<Arc<DestinationRule>>,
    pub gateways: Vec<Arc<Gateway>>,
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    pub authorization_policies: Vec<Arc<AuthorizationPolicy>>,
    pub telemetries: Vec<Arc<Telemetry>>,
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
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    pub authorization_policies: Vec<Arc<AuthorizationPolicy>>,
    pub telemetries: Vec<Arc<Telemetry>>,
}

impl Mesh {
    /// Sorts and indexes the parts.
    #[must_use]
    pub fn new(mut parts: MeshParts) -> Self {
        parts
            .services
            .sort_by(|a, b| (&a.hostname, a.meta.age()).cmp(&(&b.hostname, b.meta.age())));
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
            .peer_authentications
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
            peer_authentications: parts.peer_authentications,
            authorization_policies: parts.authorization_policies,
            telemetries: parts.telemetries,
            index,
        }
    }

    /// The service of that name as `namespace` sees it: its own first, then the oldest visible.
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
