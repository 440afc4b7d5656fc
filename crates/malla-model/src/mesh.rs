//! One immutable world: everything the control plane knows at one instant.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

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
use crate::workload::{Address, Workload};

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
    /// Made when somebody first asks: most worlds differ so little from the one before that nobody does.
    services_by_ip: OnceLock<HashMap<IpAddr, Vec<usize>>>,
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
        let index = self.index.services_by_ip.get_or_init(|| {
            let mut index: HashMap<IpAddr, Vec<usize>> = HashMap::new();
            for (at, service) in self.services.iter().enumerate() {
                for endpoint in &*service.endpoints {
                    if let Address::Ip(ip) = endpoint.address {
                        let there = index.entry(ip).or_default();
                        if there.last() != Some(&at) {
                            there.push(at);
                        }
                    }
                }
            }
            index
        });
        let there = index.get(&ip).into_iter().flatten();
        there.filter_map(|at| self.services.get(*at)).collect()
    }

    /// Services that differ from those of `before` in their endpoints and in nothing else, as they are now.
    /// `None` when anything else differs but workloads.
    #[must_use]
    pub fn endpoints_since(&self, before: &Self) -> Option<Vec<&Arc<Service>>> {
        // Whoever adds a field says here what a change of it means.
        let Self {
            settings,
            services,
            workloads: _,
            virtual_services,
            destination_rules,
            gateways,
            sidecars,
            envoy_filters,
            peer_authentications,
            authorization_policies,
            request_authentications,
            telemetries,
            secrets,
            index: _,
        } = self;
        let same = *settings == before.settings
            && services.len() == before.services.len()
            && *virtual_services == before.virtual_services
            && *destination_rules == before.destination_rules
            && *gateways == before.gateways
            && *sidecars == before.sidecars
            && *envoy_filters == before.envoy_filters
            && *peer_authentications == before.peer_authentications
            && *authorization_policies == before.authorization_policies
            && *request_authentications == before.request_authentications
            && *telemetries == before.telemetries
            && *secrets == before.secrets;
        let mut changed = Vec::new();
        for (now, then) in services.iter().zip(&before.services).filter(|_| same) {
            if Arc::ptr_eq(now, then) || now == then {
                continue;
            }
            let mut probe = (**now).clone();
            probe.endpoints = Arc::clone(&then.endpoints);
            if probe != **then {
                return None;
            }
            changed.push(now);
        }
        same.then_some(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::id::{Labels, Meta, ObjectRef};
    use crate::service::{Distribution, Resolution, Visibility};
    use crate::workload::{Endpoint, Health, Locality, TlsMode};

    fn endpoint(ip: [u8; 4]) -> Endpoint {
        Endpoint {
            port_name: "http".into(),
            address: Address::Ip(ip.into()),
            port: 80,
            labels: Arc::default(),
            health: Health::Healthy,
            weight: 1,
            locality: Locality::default(),
            network: "".into(),
            tls_mode: TlsMode::Disabled,
            identity: None,
            workload: "".into(),
            node: "".into(),
        }
    }

    fn service(name: &str, ips: &[[u8; 4]]) -> Service {
        Service {
            meta: Meta {
                object: ObjectRef::new("Service", "base", name),
                created: 0,
                generation: 1,
                labels: Labels::new(),
                annotations: Labels::new(),
            },
            hostname: Host::new(name),
            addresses: Vec::new(),
            ports: Vec::new(),
            resolution: Resolution::Static,
            external: false,
            headless: false,
            alias_of: None,
            visibility: Visibility::Public,
            distribution: Distribution::Any,
            same_machine: false,
            selector: Labels::new(),
            subject_alt_names: BTreeSet::new(),
            endpoints: Arc::new(ips.iter().copied().map(endpoint).collect()),
        }
    }

    fn mesh(settings: &MeshSettings, services: [Service; 2]) -> Mesh {
        Mesh::new(MeshParts {
            settings: settings.clone(),
            services: services.map(Arc::new).into(),
            ..MeshParts::default()
        })
    }

    #[test]
    fn a_change_of_endpoints_is_told_from_others() {
        let settings = MeshSettings::default();
        let services = || {
            [
                service("a", &[[10, 0, 0, 1]]),
                service("b", &[[10, 0, 0, 1]; 2]),
            ]
        };
        let before = mesh(&settings, services());
        let none: [&Arc<Service>; 0] = [];
        let again = mesh(&settings, services());
        assert_eq!(again.endpoints_since(&before).unwrap_or_default(), none);

        let [a, _] = services();
        let grown = mesh(&settings, [a, service("b", &[[10, 0, 0, 2]])]);
        let changed = grown.endpoints_since(&before).unwrap_or_default();
        assert_eq!(changed, [&grown.services[1]]);

        let [a, mut b] = services();
        b.headless = true;
        assert!(mesh(&settings, [a, b]).endpoints_since(&before).is_none());
        let other = MeshSettings {
            auto_mtls: false,
            ..settings
        };
        assert!(mesh(&other, services()).endpoints_since(&before).is_none());
    }

    #[test]
    fn services_are_found_by_their_endpoints() {
        let of = [
            service("a", &[[10, 0, 0, 1]]),
            service("b", &[[10, 0, 0, 1]; 2]),
        ];
        let mesh = mesh(&MeshSettings::default(), of);
        let at = |ip: [u8; 4]| mesh.services_at(ip.into()).len();
        assert_eq!((at([10, 0, 0, 1]), at([10, 0, 0, 2])), (2, 0));
    }
}
