//! The mesh as one proxy sees it: what is exported to it, in the order in which rules win.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use malla_model::id::{Labels, selects};
use malla_model::service::{Resolution, ServicePort};
use malla_model::sidecar::Ingress;
use malla_model::telemetry::effective::Levels;
use malla_model::workload::{Address, Locality};
use malla_model::{Gateway, Host, Mesh, Meta, Protocol, Service, VirtualService};

use crate::node::{NodeKind, NodeView};
use crate::patch::Patches;
use crate::rules::{self, Rule};
use crate::scope::Scope;

/// A mesh and a node; everything derived from the pair is derived at most once.
#[derive(Debug)]
pub struct View<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) node: &'a NodeView,
    scope: OnceCell<Scope<'a>>,
    aliases: OnceCell<BTreeMap<&'a Host, Vec<&'a Arc<Service>>>>,
    rules: OnceCell<rules::Index<'a>>,
    own_services: OnceCell<Vec<OwnPort<'a>>>,
    telemetry: OnceCell<Levels<'a>>,
    patches: OnceCell<Patches<'a>>,
}

impl<'a> View<'a> {
    #[must_use]
    pub fn new(mesh: &'a Mesh, node: &'a NodeView) -> Self {
        Self {
            mesh,
            node,
            scope: OnceCell::new(),
            aliases: OnceCell::new(),
            rules: OnceCell::new(),
            own_services: OnceCell::new(),
            telemetry: OnceCell::new(),
            patches: OnceCell::new(),
        }
    }

    pub(crate) fn scope(&self) -> &Scope<'a> {
        self.scope.get_or_init(|| Scope::new(self.mesh, self.node))
    }

    /// Ports that the node's Sidecar names; none: they are those of its services.
    pub(crate) fn ingress(&self) -> &'a [Ingress] {
        self.scope().sidecar.map_or(&[], |sidecar| &sidecar.ingress)
    }

    /// `name.namespace` of the node's Sidecar, which stands for a host where there is none.
    pub(crate) fn sidecar_name(&self) -> Option<String> {
        let meta = &self.scope().sidecar?.meta;
        Some(format!("{}.{}", meta.name(), meta.namespace()))
    }

    /// Services the node knows, by name; of several with one name, the one that wins.
    /// Names of other services ([`Service::alias_of`]) are not among them.
    pub(crate) fn services(&self) -> &[&'a Arc<Service>] {
        &self.scope().services
    }

    pub(crate) fn service(&self, host: &Host) -> Option<&'a Arc<Service>> {
        self.scope().service(self.mesh, host, &self.node.namespace)
    }

    /// The ports the node knows of a service that carry bytes: all but UDP.
    pub(crate) fn ports<'s>(&self, service: &'s Service) -> impl Iterator<Item = &'s ServicePort> {
        let ports = self.scope().ports(service);
        ports.filter(|port| port.protocol != Protocol::Udp)
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

    /// VirtualServices the node knows, as they win.
    pub(crate) fn virtual_services(&self) -> &[&'a Arc<VirtualService>] {
        &self.scope().virtual_services
    }

    /// Whether a policy is for the node: one of its namespace or the root namespace that selects it.
    pub(crate) fn is_for_node(&self, policy: &Meta, selector: Option<&Labels>) -> bool {
        let root = &*self.mesh.settings.root_namespace;
        let near = [root, &*self.node.namespace].contains(&policy.namespace());
        near && selector.is_none_or(|selector| selects(selector, &self.node.labels))
    }

    /// What is in force for the node of all Telemetry objects.
    pub(crate) fn telemetry(&self) -> &Levels<'a> {
        let (namespace, labels) = (&self.node.namespace, &self.node.labels);
        self.telemetry
            .get_or_init(|| Levels::of(self.mesh, namespace, labels))
    }

    /// What EnvoyFilters change of what the node is sent.
    pub(crate) fn patches(&self) -> &Patches<'a> {
        self.patches.get_or_init(|| Patches::new(self))
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
            .filter(|gateway| {
                let here = gateway.pods_in.as_ref();
                here.is_none_or(|namespace| *namespace == self.node.namespace)
                    && selects(&gateway.selector, &self.node.labels)
            })
            .collect()
    }

    /// Whether the node passes connections to `service` on to wherever they were meant for. A gateway
    /// cannot: they were meant for itself.
    pub(crate) fn goes_where_meant(&self, service: &Service) -> bool {
        service.resolution == Resolution::Passthrough && self.node.kind == NodeKind::Sidecar
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
