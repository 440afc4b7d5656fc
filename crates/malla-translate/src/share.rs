//! What proxies have in common: most of what one is sent is what others are sent, byte for byte.
//!
//! A node's resources are its own part (what arrives at its workload) and parts in which nodes differ by little: by
//! their namespace, their kind, and what objects of the mesh say of some nodes and not of others. [`Distinctions`]
//! reduces a node to that: nodes that come to the same have the same part, so it is made once for all of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use malla_model::id::Labels;
use malla_model::service::Distribution;
use malla_model::traffic::{LocalityBalancing, PortPolicy, TrafficPolicy};
use malla_model::workload::Locality;
use malla_model::{DestinationRule, Mesh, Service, VirtualService};

use crate::cluster;
use crate::listener;
use crate::node::{NodeKind, NodeView};
use crate::resource::{Resource, sorted};
use crate::telemetry;
use crate::view::View;

/// The label by which `failoverPriority` compares machines.
const MACHINE: &str = "kubernetes.io/hostname";

/// A part of what nodes are sent that many of them may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Clusters for calls to others, and their endpoints.
    Upstreams,
    /// Listeners but those of a sidecar's own workload.
    Listeners,
    Routes,
}

/// The resources of a [`Part::Upstreams`], each list sorted by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Upstreams {
    pub clusters: Vec<Resource>,
    pub endpoints: Vec<Resource>,
}

/// By what one mesh tells nodes apart, besides namespace, kind, and the like, which are few.
#[derive(Debug, Default)]
pub struct Distinctions {
    /// Labels that some object selects by.
    labels: BTreeSet<(String, String)>,
    /// Keys of labels that `failoverPriority` compares.
    keys: BTreeSet<Arc<str>>,
    /// Keys of metadata that EnvoyFilters look at.
    metadata: BTreeSet<String>,
    /// Some EnvoyFilter looks at versions.
    version: bool,
    /// Some endpoints are nearer to their own machine.
    machine: bool,
    /// Spans name the service that they are of.
    traced: bool,
}

impl Distinctions {
    #[must_use]
    pub fn of(mesh: &Mesh) -> Self {
        let settings = &mesh.settings;
        let by_default = &settings.telemetry;
        let mut found = Self {
            traced: !by_default.default_tracing.is_empty()
                || (by_default.tracing_enabled && by_default.zipkin_address.is_some())
                || mesh.telemetries.iter().any(|it| !it.tracing.is_empty()),
            ..Self::default()
        };
        let selectors = (mesh.sidecars.iter().map(|it| &it.selector))
            .chain(mesh.telemetries.iter().map(|it| &it.selector))
            .chain(mesh.envoy_filters.iter().map(|it| &it.selector))
            .chain(mesh.request_authentications.iter().map(|it| &it.selector))
            .chain(
                mesh.destination_rules
                    .iter()
                    .map(|it| &it.workload_selector),
            );
        selectors.flatten().for_each(|it| found.select(it));
        for vs in &mesh.virtual_services {
            found.read_routes(vs);
        }
        for patch in mesh.envoy_filters.iter().flat_map(|it| &it.patches) {
            found.version |= patch.proxy.version.is_some();
            found.metadata.extend(patch.proxy.metadata.keys().cloned());
        }
        found.read_locality(&settings.locality);
        for rule in &mesh.destination_rules {
            found.read_rule(rule);
        }
        found.machine |= mesh.services.iter().any(|it| stays_near(it));
        found
    }

    fn select(&mut self, selector: &Labels) {
        let pairs = selector
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()));
        self.labels.extend(pairs);
    }

    fn read_routes(&mut self, vs: &VirtualService) {
        let http = vs
            .http
            .iter()
            .flat_map(|it| &it.matches)
            .map(|it| &it.scope);
        let tls = vs.tls.iter().flat_map(|it| &it.matches).map(|it| &it.scope);
        let tcp = vs.tcp.iter().flat_map(|it| &it.matches).map(|it| &it.scope);
        for scope in http.chain(tls).chain(tcp) {
            self.select(&scope.source_labels);
        }
    }

    fn read_rule(&mut self, rule: &DestinationRule) {
        let policies =
            std::iter::once(&rule.policy).chain(rule.subsets.iter().map(|it| &it.policy));
        for TrafficPolicy {
            load_balancer,
            ports,
            ..
        } in policies
        {
            let of_ports = ports
                .iter()
                .map(|PortPolicy { load_balancer, .. }| load_balancer);
            let balancers = std::iter::once(load_balancer).chain(of_ports).flatten();
            for locality in balancers.filter_map(|it| it.locality.as_ref()) {
                self.read_locality(locality);
            }
        }
    }

    fn read_locality(&mut self, locality: &LocalityBalancing) {
        for label in &locality.failover_priority {
            // `key=value` compares with the value, whatever the node's is.
            if !label.contains('=') {
                self.machine |= **label == *MACHINE;
                self.keys.insert(Arc::clone(label));
            }
        }
    }

    /// The node without what `part` does not depend on. Translated for this or for the node itself, the part is
    /// the same; and so it is for all nodes that come to the same.
    #[must_use]
    pub fn reduced(&self, mesh: &Mesh, node: &NodeView, part: Part) -> NodeView {
        if node.kind == NodeKind::Router && part != Part::Upstreams {
            // These are what a gateway is about, and the pods of one are few.
            return node.clone();
        }
        let view = View::new(mesh, node);
        let upstreams = part == Part::Upstreams;
        let mut metadata = node.metadata.clone();
        metadata.retain(|key, _| self.metadata.contains(key));
        let mut labels = self.labels(node, upstreams);
        if part == Part::Listeners && self.traced {
            labels.extend(telemetry::canonical_labels(node));
        }
        NodeView {
            kind: node.kind,
            profile: node.profile,
            name: "".into(),
            namespace: Arc::clone(&node.namespace),
            addresses: addresses(mesh, node, part),
            labels,
            service_account: "".into(),
            locality: if upstreams {
                view.locality().clone()
            } else {
                Locality::default()
            },
            machine: if upstreams && self.machine {
                Arc::clone(&node.machine)
            } else {
                "".into()
            },
            interception: node.interception,
            http10: node.http10,
            dns_capture: false,
            unprivileged: node.unprivileged,
            version: if self.version {
                Arc::clone(&node.version)
            } else {
                "".into()
            },
            metadata,
            stranger: node.stranger,
        }
    }

    fn labels(&self, node: &NodeView, upstreams: bool) -> Labels {
        if node.kind == NodeKind::Router {
            return node.labels.clone(); // Gateways select by them.
        }
        let named = |key: &str, value: &str| {
            let pair = (key.to_owned(), value.to_owned());
            self.labels.contains(&pair) || (upstreams && self.keys.contains(key))
        };
        let labels = node.labels.iter().filter(|(key, value)| named(key, value));
        labels
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// Whether its endpoints on a client's own machine are told from others.
fn stays_near(service: &Service) -> bool {
    service.same_machine || service.distribution == Distribution::SameNode
}

/// One that says of which version of the Internet protocol the node is, and those that matter by themselves: clients
/// of a headless service have a listener for each of its pods but their own.
fn addresses(mesh: &Mesh, node: &NodeView, part: Part) -> Vec<IpAddr> {
    let any: IpAddr = match node.ipv6_only() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let own = node.addresses.iter().copied().filter(|ip| {
        part == Part::Listeners && mesh.services_at(*ip).iter().any(|service| service.headless)
    });
    std::iter::once(any).chain(own).collect()
}

impl View<'_> {
    /// The clusters and endpoints that many nodes may share.
    #[must_use]
    pub fn upstreams(&self) -> Upstreams {
        let clusters = sorted(cluster::outward(self));
        let endpoints = clusters
            .iter()
            .filter_map(|it| self.endpoints(&it.name))
            .collect();
        Upstreams {
            clusters,
            endpoints,
        }
    }

    /// As [`View::upstreams`], but only what depends on endpoints of these services; `None` where that cannot be
    /// told apart from the rest.
    #[must_use]
    pub fn upstreams_of(&self, services: &[&Arc<Service>]) -> Option<Upstreams> {
        let hosts: BTreeSet<_> = services.iter().map(|it| &it.hostname).collect();
        let clusters = sorted(cluster::outward_to(self, &hosts)?);
        let endpoints = clusters
            .iter()
            .filter_map(|it| self.endpoints(&it.name))
            .collect();
        Some(Upstreams {
            clusters,
            endpoints,
        })
    }

    /// The listeners that many nodes may share, by name.
    #[must_use]
    pub fn shared_listeners(&self) -> Vec<Resource> {
        sorted(listener::outward(self))
    }

    /// Every route configuration, by name.
    #[must_use]
    pub fn routes(&self) -> Vec<Resource> {
        let names = self.route_names();
        names.iter().filter_map(|name| self.route(name)).collect()
    }

    /// The clusters that lead to the node's own workload, by name.
    #[must_use]
    pub fn own_clusters(&self) -> Vec<Resource> {
        sorted(cluster::inward(self))
    }

    /// The listeners for the node's own workload, by name.
    #[must_use]
    pub fn own_listeners(&self) -> Vec<Resource> {
        sorted(listener::inward(self))
    }
}
