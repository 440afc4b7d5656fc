//! The mesh as one proxy sees it: what is exported to it, in the order in which rules win.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use malla_model::id::selects;
use malla_model::route::MESH_GATEWAY;
use malla_model::service::{ServicePort, Visibility};
use malla_model::telemetry::effective::Levels;
use malla_model::workload::{Address, Locality};
use malla_model::{Gateway, Host, Mesh, Service, VirtualService};

use crate::node::{NodeKind, NodeView};
use crate::rules::{self, Rule};

/// Rules of one host, and rules of hosts that are patterns.
#[derive(Debug, Default)]
struct ByHost<'a> {
    exact: HashMap<&'a Host, Vec<&'a Arc<VirtualService>>>,
    /// Most specific first.
    wild: Vec<(&'a Host, &'a Arc<VirtualService>)>,
}

/// A mesh and a node; everything derived from the pair is derived at most once.
#[derive(Debug)]
pub struct View<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) node: &'a NodeView,
    services: OnceCell<Vec<&'a Arc<Service>>>,
    aliases: OnceCell<BTreeMap<&'a Host, Vec<&'a Arc<Service>>>>,
    virtual_services: OnceCell<Vec<&'a Arc<VirtualService>>>,
    on_mesh: OnceCell<ByHost<'a>>,
    rules: OnceCell<rules::Index<'a>>,
    own_services: OnceCell<Vec<OwnPort<'a>>>,
    telemetry: OnceCell<Levels<'a>>,
}

impl<'a> View<'a> {
    #[must_use]
    pub fn new(mesh: &'a Mesh, node: &'a NodeView) -> Self {
        Self {
            mesh,
            node,
            services: OnceCell::new(),
            aliases: OnceCell::new(),
            virtual_services: OnceCell::new(),
            on_mesh: OnceCell::new(),
            rules: OnceCell::new(),
            own_services: OnceCell::new(),
            telemetry: OnceCell::new(),
        }
    }

    /// Services exported to the node, by name; of several with one name, the one that wins.
    /// Names of other services ([`Service::alias_of`]) are not among them.
    pub(crate) fn services(&self) -> &[&'a Arc<Service>] {
        self.services.get_or_init(|| {
            let mut hosts: Vec<&Host> = self.mesh.services.iter().map(|s| &s.hostname).collect();
            hosts.dedup(); // The mesh keeps services sorted by name.
            hosts
                .into_iter()
                .filter_map(|host| self.service(host))
                .filter(|service| service.alias_of.is_none())
                .collect()
        })
    }

    pub(crate) fn service(&self, host: &Host) -> Option<&'a Arc<Service>> {
        self.mesh.service(host, &self.node.namespace)
    }

    /// ExternalName services that stand for `host`.
    pub(crate) fn aliases(&self, host: &Host) -> &[&'a Arc<Service>] {
        self.aliases
            .get_or_init(|| {
                let mut aliases: BTreeMap<_, Vec<_>> = BTreeMap::new();
                for service in &self.mesh.services {
                    if let Some(target) = &service.alias_of
                        && service.visibility.allows(&self.node.namespace)
                    {
                        aliases.entry(target).or_default().push(service);
                    }
                }
                aliases
            })
            .get(host)
            .map_or(&[], Vec::as_slice)
    }

    /// VirtualServices visible to the node: private ones first, then those exported to its
    /// namespace by name, then public ones; oldest first within each.
    pub(crate) fn virtual_services(&self) -> &[&'a Arc<VirtualService>] {
        self.virtual_services.get_or_init(|| {
            let namespace = &self.node.namespace;
            let mut visible: Vec<_> = self
                .mesh
                .virtual_services
                .iter()
                .filter(|vs| !vs.hosts.is_empty() && vs.visibility.allows(namespace))
                .collect();
            visible.sort_by_key(|vs| match &vs.visibility {
                Visibility::Namespaces(names)
                    if names.len() == 1 && vs.meta.namespace() == &**namespace =>
                {
                    0
                }
                Visibility::Namespaces(_) | Visibility::Nobody => 1,
                Visibility::Public => 2,
            });
            visible
        })
    }

    /// VirtualServices on the mesh gateway that have `host`: exact names, then the most specific wildcard.
    pub(crate) fn on_mesh(&self, host: &Host) -> impl Iterator<Item = &'a Arc<VirtualService>> {
        let index = self.on_mesh.get_or_init(|| self.index_mesh());
        let exact = index.exact.get(host).into_iter().flatten().copied();
        let wild = index
            .wild
            .iter()
            .filter(move |(pattern, _)| pattern.covers(host));
        exact.chain(wild.map(|(_, vs)| *vs))
    }

    fn index_mesh(&self) -> ByHost<'a> {
        let mut index = ByHost::default();
        for vs in self.virtual_services() {
            if !vs.gateways.iter().any(|gateway| **gateway == *MESH_GATEWAY) {
                continue;
            }
            for host in &vs.hosts {
                if host.is_wildcard() {
                    index.wild.push((host, vs));
                } else {
                    index.exact.entry(host).or_default().push(vs);
                }
            }
        }
        // Stable: the first of equals stays first.
        index.wild.sort_by(|a, b| a.0.by_specificity(b.0));
        index
    }

    /// What is in force for the node of all Telemetry objects.
    pub(crate) fn telemetry(&self) -> &Levels<'a> {
        let (namespace, labels) = (&self.node.namespace, &self.node.labels);
        self.telemetry
            .get_or_init(|| Levels::of(self.mesh, namespace, labels))
    }

    /// Where the node runs: as it says itself, else as the platform says of its workload.
    pub(crate) fn locality(&self) -> &'a Locality {
        let unknown = self.node.locality == Locality::default();
        let workload = self.node.addresses.first().filter(|_| unknown);
        workload
            .and_then(|ip| self.mesh.workload_by_ip(*ip))
            .map_or(&self.node.locality, |workload| &workload.locality)
    }

    /// The rule for calls of the node to `host`, which is in `namespace`.
    pub(crate) fn rule(&self, host: &Host, namespace: &str) -> Option<Rule> {
        let rules = self.rules.get_or_init(|| rules::Index::new(self.mesh));
        rules.find(self.mesh, self.node, host, namespace)
    }

    /// As [`View::rule`], for a host that may be no service.
    pub(crate) fn rule_of(&self, host: &Host) -> Option<Rule> {
        let namespace = self.service(host).map_or("", |service| service.namespace());
        self.rule(host, namespace)
    }

    /// Gateways this node carries; none on a sidecar.
    pub(crate) fn gateways(&self) -> Vec<&'a Arc<Gateway>> {
        if self.node.kind != NodeKind::Router || self.node.stranger {
            return Vec::new();
        }
        self.mesh
            .gateways
            .iter()
            .filter(|gateway| selects(&gateway.selector, &self.node.labels))
            .collect()
    }

    /// Services this node's workload serves, oldest first, with the number of each port they open on it.
    pub(crate) fn own_services(&self) -> &[OwnPort<'a>] {
        self.own_services.get_or_init(|| self.find_own_services())
    }

    fn find_own_services(&self) -> Vec<OwnPort<'a>> {
        let mut found: Vec<OwnPort<'a>> = Vec::new();
        let mut services: Vec<&Arc<Service>> = self
            .node
            .addresses
            .iter()
            .flat_map(|ip| self.mesh.services_at(*ip))
            .collect();
        services.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        services.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for service in services {
            for port in &service.ports {
                let target = service.endpoints.iter().find(|endpoint| {
                    endpoint.port_name == port.name && self.is_own_address(&endpoint.address)
                });
                if let Some(target) = target {
                    found.push(OwnPort {
                        service,
                        port,
                        target: target.port,
                    });
                }
            }
        }
        found
    }

    fn is_own_address(&self, address: &Address) -> bool {
        match address {
            Address::Ip(ip) => self.node.addresses.contains(ip),
            _ => false,
        }
    }
}

/// A port that a service opens on the node's workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnPort<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) port: &'a ServicePort,
    /// Where the workload listens.
    pub(crate) target: u16,
}
