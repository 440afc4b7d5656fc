//! Kubernetes' own objects, and the services and workloads they make up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use malla_api::gateway_api::lower::Address;
use malla_api::lower::kubernetes;
use malla_model::{MeshSettings, Service, Workload};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::gateway_api::Addresses;
use crate::manifest::MANAGED_PORTS;
use crate::source::{Change, Watched};
use crate::webhook::review::NamespaceLabels;
use crate::write::gateway_ports::GatewayService;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    #[must_use]
    pub fn of(object: &DynamicObject) -> Self {
        Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// What Kubernetes runs.
#[derive(Debug, Default)]
pub struct Cluster {
    namespaces: Arc<NamespaceLabels>,
    nodes: BTreeMap<Key, core::Node>,
    pods: BTreeMap<Key, core::Pod>,
    services: BTreeMap<Key, core::Service>,
    slices: BTreeMap<Key, EndpointSlice>,
    /// The service of each slice, and the slices of each service.
    service_of: BTreeMap<Key, Key>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,

    workloads: BTreeMap<Key, Arc<Workload>>,
    workload_at: HashMap<IpAddr, Key>,
    lowered: BTreeMap<Key, Arc<Service>>,
    /// Services to put together again before the next world.
    stale: BTreeSet<Key>,
}

impl Cluster {
    pub(super) fn apply(
        &mut self,
        watched: Watched,
        change: Change,
        settings: &MeshSettings,
    ) -> bool {
        match watched {
            Watched::Namespace => self.apply_namespaces(change),
            Watched::Node => {
                let changed = take(&mut self.nodes, change);
                if !changed.is_empty() {
                    let on_them: Vec<Key> = self.pods.keys().cloned().collect();
                    self.lower_pods(on_them, settings);
                }
                !changed.is_empty()
            }
            Watched::Pod => {
                let changed = take(&mut self.pods, change);
                self.lower_pods(changed, settings)
            }
            Watched::Service => {
                let changed = take(&mut self.services, change);
                self.stale.extend(changed.iter().cloned());
                !changed.is_empty()
            }
            Watched::EndpointSlice => {
                let changed = take(&mut self.slices, change);
                for key in &changed {
                    self.file_slice(key);
                }
                !changed.is_empty()
            }
            Watched::MeshConfig | Watched::Istio(_) | Watched::GatewayApi(_) => false,
        }
    }

    /// Notes whose slice that is now, and that both its services, of before and of now, are others.
    fn file_slice(&mut self, key: &Key) {
        if let Some(before) = self.service_of.remove(key) {
            if let Some(slices) = self.slices_of.get_mut(&before) {
                slices.remove(key);
                if slices.is_empty() {
                    self.slices_of.remove(&before);
                }
            }
            self.stale.insert(before);
        }
        if let Some(service) = self.slices.get(key).and_then(service_of) {
            let slices = self.slices_of.entry(service.clone()).or_default();
            slices.insert(key.clone());
            self.service_of.insert(key.clone(), service.clone());
            self.stale.insert(service);
        }
    }

    fn apply_namespaces(&mut self, change: Change) -> bool {
        let mut next = (*self.namespaces).clone();
        let labels = |object: &DynamicObject| object.metadata.labels.clone().unwrap_or_default();
        match change {
            Change::Replaced(list) => {
                next = list.iter().map(|o| (Key::of(o).name, labels(o))).collect()
            }
            Change::Applied(object) => drop(next.insert(Key::of(&object).name, labels(&object))),
            Change::Deleted(object) => drop(next.remove(&Key::of(&object).name)),
        }
        let changed = next != *self.namespaces;
        self.namespaces = Arc::new(next);
        changed
    }

    /// Lowers these pods; whether any workload differs.
    fn lower_pods(&mut self, keys: Vec<Key>, settings: &MeshSettings) -> bool {
        let mut changed = false;
        for key in keys {
            let next = self.pods.get(&key).and_then(|pod| {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                let node = node.map(|name| Key {
                    namespace: String::new(),
                    name: name.to_owned(),
                });
                kubernetes::workload(pod, node.and_then(|key| self.nodes.get(&key)), settings)
            });
            let before = self.workloads.get(&key).cloned();
            if before.as_deref() == next.as_ref() {
                continue;
            }
            changed = true;
            for ip in before.iter().flat_map(|w| &w.addresses) {
                // Unless another pod has the address by now.
                if self.workload_at.get(ip) == Some(&key) {
                    self.workload_at.remove(ip);
                }
            }
            // A pod's name, labels and identity stand in the endpoints of services of its namespace.
            self.stale.extend(
                self.services
                    .keys()
                    .filter(|service| service.namespace == key.namespace)
                    .cloned(),
            );
            match next {
                Some(workload) => {
                    self.workload_at
                        .extend(workload.addresses.iter().map(|ip| (*ip, key.clone())));
                    self.workloads.insert(key, Arc::new(workload));
                }
                None => drop(self.workloads.remove(&key)),
            }
        }
        changed
    }

    pub(super) fn lower_again(&mut self, settings: &MeshSettings) {
        self.lower_pods(self.pods.keys().cloned().collect(), settings);
        self.stale.extend(self.services.keys().cloned());
    }

    /// Puts stale services together again.
    pub(super) fn refresh(&mut self, settings: &MeshSettings) {
        for key in std::mem::take(&mut self.stale) {
            let Some(object) = self.services.get(&key) else {
                self.lowered.remove(&key);
                continue;
            };
            let mut service = kubernetes::service(object, settings);
            let not_ready = object
                .spec
                .as_ref()
                .and_then(|spec| spec.publish_not_ready_addresses)
                .unwrap_or(false);
            let workload_at = |ip| {
                self.workload_at
                    .get(&ip)
                    .and_then(|key| self.workloads.get(key))
                    .map(|w| &**w)
            };
            let own = self.slices_of.get(&key).into_iter().flatten();
            let own = own.filter_map(|key| self.slices.get(key));
            service.endpoints = Arc::new(kubernetes::endpoints(
                &service,
                own,
                not_ready,
                settings,
                workload_at,
            ));
            match self.lowered.get(&key) {
                Some(known) if **known == service => {}
                _ => drop(self.lowered.insert(key, Arc::new(service))),
            }
        }
    }

    pub(super) fn services(&self) -> Vec<Arc<Service>> {
        self.lowered.values().cloned().collect()
    }

    pub(super) fn workloads(&self) -> Vec<Arc<Workload>> {
        self.workloads.values().cloned().collect()
    }

    pub(super) fn namespaces(&self) -> Arc<NamespaceLabels> {
        Arc::clone(&self.namespaces)
    }

    /// Where Services are reached from outside: a load balancer's addresses, else their names within.
    pub(super) fn addresses(&self) -> Addresses {
        let services = self.services.iter();
        services
            .map(|(key, service)| {
                let balancer = service
                    .status
                    .as_ref()
                    .and_then(|s| s.load_balancer.as_ref());
                let ingress = balancer
                    .and_then(|b| b.ingress.as_ref())
                    .into_iter()
                    .flatten();
                let mut addresses: Vec<Address> = ingress
                    .filter_map(|at| {
                        let ip = at
                            .ip
                            .as_ref()
                            .and_then(|ip| ip.parse().ok())
                            .map(Address::Ip);
                        ip.or_else(|| at.hostname.clone().map(Address::Hostname))
                    })
                    .collect();
                let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
                if addresses.is_empty() && kind != Some("LoadBalancer") {
                    let name = format!("{}.{}.svc", key.name, key.namespace);
                    addresses.push(Address::Hostname(name));
                }
                ((key.namespace.clone(), key.name.clone()), addresses)
            })
            .collect()
    }

    pub(super) fn gateway_services(&self) -> Vec<(Key, GatewayService)> {
        let managed = |service: &core::Service| {
            service
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|a| a.contains_key(MANAGED_PORTS))
        };
        let services = self.services.iter().filter(|(_, service)| managed(service));
        services
            .map(|(key, service)| {
                let spec = service.spec.clone().unwrap_or_default();
                let ports = spec.ports.unwrap_or_default();
                let view = GatewayService {
                    annotations: service.metadata.annotations.clone().unwrap_or_default(),
                    selector: spec.selector.unwrap_or_default(),
                    ports: ports
                        .iter()
                        .filter_map(|port| serde_json::to_value(port).ok())
                        .collect(),
                };
                (key.clone(), view)
            })
            .collect()
    }
}

/// The Service a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")?;
    Some(Key {
        namespace: slice.metadata.namespace.clone().unwrap_or_default(),
        name: name.clone(),
    })
}

/// Takes a change into a map of typed objects; the keys of what is different now.
fn take<T: DeserializeOwned + PartialEq>(known: &mut BTreeMap<Key, T>, change: Change) -> Vec<Key> {
    let mut changed = Vec::new();
    let mut put = |known: &mut BTreeMap<Key, T>, object: &DynamicObject| {
        let key = Key::of(object);
        let typed: Result<T, _> = serde_json::to_value(object).and_then(serde_json::from_value);
        match typed {
            Ok(typed) if known.get(&key) == Some(&typed) => {}
            Ok(typed) => {
                known.insert(key.clone(), typed);
                changed.push(key);
            }
            Err(error) => {
                warn!(?key, %error, "an object of the API server cannot be read and is left out")
            }
        }
    };
    match change {
        Change::Replaced(list) => {
            list.iter().for_each(|object| put(known, object));
            let listed: BTreeSet<Key> = list.iter().map(|object| Key::of(object)).collect();
            let gone: Vec<Key> = known
                .keys()
                .filter(|key| !listed.contains(*key))
                .cloned()
                .collect();
            for key in gone {
                known.remove(&key);
                changed.push(key);
            }
        }
        Change::Applied(object) => put(known, &object),
        Change::Deleted(object) => {
            let key = Key::of(&object);
            if known.remove(&key).is_some() {
                changed.push(key);
            }
        }
    }
    changed
}
