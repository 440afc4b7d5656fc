//! What of the mesh one proxy knows, and through which of its listeners (Istio: Sidecar).
//!
//! Without a Sidecar there is one listener for everything that is exported to the proxy. With one, a service is
//! known when an egress listener imports it, or when a VirtualService that one imports leads to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use malla_model::id::selects;
use malla_model::matching::MatchScope;
use malla_model::route::{Destination, HttpAction, MESH_GATEWAY};
use malla_model::service::{ServicePort, Visibility};
use malla_model::settings::OutboundPolicy;
use malla_model::sidecar::{Capture, Egress, Import, OWN_NAMESPACE, Sidecar};
use malla_model::{Host, Mesh, Protocol, Service, VirtualService};

use crate::node::{Interception, NodeKind, NodeView};

/// A mesh as one proxy knows it.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) sidecar: Option<&'a Sidecar>,
    /// Never empty. The last may be for all ports that no other has.
    pub(crate) reaches: Vec<Reach<'a>>,
    /// All services, by name.
    pub(crate) services: Vec<&'a Arc<Service>>,
    /// All VirtualServices, as they win.
    pub(crate) virtual_services: Vec<&'a Arc<VirtualService>>,
    /// Services known, with their ports; `None` where nothing restricts them.
    known: Option<BTreeMap<&'a Host, Known<'a>>>,
}

#[derive(Debug)]
struct Known<'a> {
    service: &'a Arc<Service>,
    ports: Ports,
}

#[derive(Debug, PartialEq, Eq)]
enum Ports {
    All,
    Some(BTreeSet<u16>),
}

/// One of its outbound listeners, or the many that stand for every port.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) egress: &'a Egress,
    pub(crate) services: Vec<&'a Arc<Service>>,
    pub(crate) virtual_services: Vec<&'a Arc<VirtualService>>,
    on_mesh: ByHost<'a>,
}

/// Rules of one host, and rules of hosts that are patterns.
#[derive(Debug, Default)]
struct ByHost<'a> {
    exact: HashMap<&'a Host, Vec<&'a Arc<VirtualService>>>,
    /// Most specific first.
    wild: Vec<(&'a Host, &'a Arc<VirtualService>)>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(mesh: &'a Mesh, node: &NodeView) -> Self {
        static EVERYTHING: LazyLock<Egress> = LazyLock::new(Egress::everything);
        let virtual_services = visible_virtual_services(mesh, &node.namespace);
        match chosen(mesh, node) {
            Some(sidecar) => Self::restricted(mesh, node, sidecar, virtual_services),
            None => {
                let services = visible_services(mesh, &node.namespace);
                let reach = Reach::new(&EVERYTHING, services.clone(), virtual_services.clone());
                Self {
                    sidecar: None,
                    reaches: vec![reach],
                    services,
                    virtual_services,
                    known: None,
                }
            }
        }
    }

    fn restricted(
        mesh: &'a Mesh,
        node: &NodeView,
        sidecar: &'a Sidecar,
        virtual_services: Vec<&'a Arc<VirtualService>>,
    ) -> Self {
        let namespace = &*node.namespace;
        let reaches: Vec<Reach<'_>> = sidecar
            .egress
            .iter()
            .map(|egress| {
                let imports = Imports::new(&egress.imports, namespace);
                let imported = virtual_services.iter().copied();
                let imported = imported.filter(|vs| imports.virtual_service(vs)).collect();
                Reach::new(egress, imports.services(mesh, egress), imported)
            })
            .collect();
        let mut known = BTreeMap::new();
        for reach in &reaches {
            for service in &reach.services {
                let ports = match &reach.egress.port {
                    Some(port) => Ports::Some(BTreeSet::from([port.number])),
                    None => Ports::All,
                };
                learn(&mut known, service, ports);
            }
            for vs in &reach.virtual_services {
                for (host, ports) in destinations(mesh, vs, namespace) {
                    let Some(service) = mesh.service(host, namespace) else {
                        continue;
                    };
                    if let Some(ports) = of_listener(reach.egress, service, ports) {
                        learn(&mut known, service, ports);
                    }
                }
            }
        }
        let used: HashSet<*const VirtualService> = reaches
            .iter()
            .flat_map(|reach| &reach.virtual_services)
            .map(|vs| Arc::as_ptr(vs))
            .collect();
        let used = |vs: &&'a Arc<VirtualService>| used.contains(&Arc::as_ptr(vs));
        Self {
            sidecar: Some(sidecar),
            services: known.values().map(|known| known.service).collect(),
            virtual_services: virtual_services.into_iter().filter(used).collect(),
            known: Some(known),
            reaches,
        }
    }

    /// The service of that name, if the proxy knows it.
    pub(crate) fn service(
        &self,
        mesh: &'a Mesh,
        host: &Host,
        namespace: &str,
    ) -> Option<&'a Arc<Service>> {
        match &self.known {
            None => mesh.service(host, namespace),
            Some(known) => known.get(host).map(|known| known.service),
        }
    }

    /// The ports the proxy knows of a service it knows.
    pub(crate) fn ports<'s>(
        &self,
        service: &'s Service,
    ) -> impl Iterator<Item = &'s ServicePort> + use<'s, 'a, '_> {
        let known = self.known.as_ref().and_then(|it| it.get(&service.hostname));
        service.ports.iter().filter(move |port| match known {
            Some(Known {
                ports: Ports::Some(numbers),
                ..
            }) => numbers.contains(&port.port),
            _ => true,
        })
    }

    /// The listener that has the port, and where the socket is a path, the path.
    pub(crate) fn reach(&self, port: u16, path: &str) -> Option<&Reach<'a>> {
        self.reaches.iter().find(|reach| match &reach.egress.port {
            None => true,
            Some(own) if port == 0 => own.number == 0 && reach.egress.bind.as_deref() == Some(path),
            Some(own) => own.number == port,
        })
    }

    /// What happens to calls to unknown hosts.
    pub(crate) fn outbound(&self, mesh: &Mesh) -> OutboundPolicy {
        self.sidecar
            .and_then(|sidecar| sidecar.outbound)
            .unwrap_or(mesh.settings.outbound)
    }

    /// Where such calls go, where they may, if not straight there.
    pub(crate) fn egress_proxy(&self) -> Option<&'a Destination> {
        self.sidecar?.egress_proxy.as_ref()
    }
}

impl<'a> Reach<'a> {
    fn new(
        egress: &'a Egress,
        services: Vec<&'a Arc<Service>>,
        virtual_services: Vec<&'a Arc<VirtualService>>,
    ) -> Self {
        Self {
            on_mesh: ByHost::new(&virtual_services),
            egress,
            services,
            virtual_services,
        }
    }

    /// VirtualServices on the mesh gateway that have `host`: exact names, then the most specific wildcard.
    pub(crate) fn on_mesh(&self, host: &Host) -> impl Iterator<Item = &'a Arc<VirtualService>> {
        let exact = self.on_mesh.exact.get(host).into_iter().flatten().copied();
        let wild = self.on_mesh.wild.iter();
        exact.chain(
            wild.filter(move |(pattern, _)| pattern.covers(host))
                .map(|(_, vs)| *vs),
        )
    }

    /// Whether its listeners open their ports themselves.
    pub(crate) fn binds(&self, node: &NodeView) -> bool {
        node.interception == Interception::None
            || self.egress.capture == Capture::None
            || self.path().is_some()
    }

    /// The path of its Unix domain socket, `unix://` before it.
    pub(crate) fn path(&self) -> Option<&'a str> {
        let bind = self.egress.bind.as_deref()?;
        bind.starts_with("unix://").then_some(bind)
    }

    /// The ports of `service` on it, and what is spoken there.
    pub(crate) fn ports<'s>(
        &self,
        service: &'s Service,
    ) -> impl Iterator<Item = (&'s ServicePort, Protocol)> + use<'s, 'a> {
        let own = self.egress.port.as_ref();
        service.ports.iter().filter_map(move |port| match own {
            None => Some((port, port.protocol)),
            Some(own) if own.number == port.port || own.number == 0 => Some((port, own.protocol)),
            Some(_) => None,
        })
    }
}

impl<'a> ByHost<'a> {
    fn new(virtual_services: &[&'a Arc<VirtualService>]) -> Self {
        let mut index = Self::default();
        for vs in virtual_services {
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
}

/// The Sidecar for a proxy: of its namespace the oldest that selects it, else the one for all; else the root
/// namespace's for all. Gateways have none.
fn chosen<'a>(mesh: &'a Mesh, node: &NodeView) -> Option<&'a Sidecar> {
    if node.kind != NodeKind::Sidecar {
        return None;
    }
    let find = |namespace: &str, fits: &dyn Fn(&Sidecar) -> bool| {
        let mut sidecars = mesh.sidecars.iter();
        sidecars.find(|it| it.meta.namespace() == namespace && fits(it))
    };
    let selecting = |it: &Sidecar| {
        let selector = it.selector.as_ref();
        selector.is_some_and(|selector| selects(selector, &node.labels))
    };
    let for_all = |it: &Sidecar| it.selector.is_none();
    find(&node.namespace, &selecting)
        .or_else(|| find(&node.namespace, &for_all))
        .or_else(|| find(&mesh.settings.root_namespace, &for_all))
        .map(|it| &**it)
}

/// Services exported to a namespace, by name; of several with one name, the one that wins. Names of other services
/// ([`Service::alias_of`]) are not among them.
fn visible_services<'a>(mesh: &'a Mesh, namespace: &str) -> Vec<&'a Arc<Service>> {
    let mut hosts: Vec<&Host> = mesh.services.iter().map(|s| &s.hostname).collect();
    hosts.dedup(); // The mesh keeps services sorted by name.
    hosts
        .into_iter()
        .filter_map(|host| mesh.service(host, namespace))
        .filter(|service| service.alias_of.is_none())
        .collect()
}

/// VirtualServices visible in a namespace: private ones first, then those exported to it by name, then routes of its
/// own that the Gateway API attaches to services, then public ones; oldest first within each.
fn visible_virtual_services<'a>(mesh: &'a Mesh, namespace: &str) -> Vec<&'a Arc<VirtualService>> {
    let all = mesh.virtual_services.iter();
    let mut visible: Vec<_> = all
        .filter(|vs| !vs.hosts.is_empty() && vs.visibility.allows(namespace))
        .collect();
    visible.sort_by_key(|vs| match &vs.visibility {
        Visibility::Namespaces(names) if names.len() == 1 && vs.meta.namespace() == namespace => 0,
        Visibility::Namespaces(_) | Visibility::Nobody => 1,
        Visibility::Public
            if vs.meta.object.kind != "VirtualService" && vs.meta.namespace() == namespace =>
        {
            2
        }
        Visibility::Public => 3,
    });
    visible
}

/// The `namespace/host` list of a listener, for a proxy of one namespace.
struct Imports<'i> {
    list: &'i [Import],
    own: &'i str,
}

impl<'i> Imports<'i> {
    const fn new(list: &'i [Import], own: &'i str) -> Self {
        Self { list, own }
    }

    /// Whether any of those about a namespace that leave hosts out (or that do not) has such a host.
    fn any(&self, namespace: &str, excluded: bool, host: impl Fn(&Host) -> bool) -> bool {
        let about = |import: &&Import| match import.namespace.as_deref() {
            None => true,
            Some(OWN_NAMESPACE) => namespace == self.own,
            Some(name) => namespace == name,
        };
        let mut list = self.list.iter().filter(|it| it.excluded == excluded);
        list.any(|import| about(&import) && host(&import.host))
    }

    fn service(&self, service: &Service) -> bool {
        let covers = |host: &Host| host.covers(&service.hostname);
        !self.any(service.namespace(), true, covers) && self.any(service.namespace(), false, covers)
    }

    /// A VirtualService comes whole, if any of its hosts does.
    fn virtual_service(&self, vs: &VirtualService) -> bool {
        let namespace = vs.meta.namespace();
        vs.hosts.iter().any(|host| {
            self.any(namespace, false, |it| it.overlaps(host))
                && !self.any(namespace, true, |it| it.covers(host))
        })
    }

    /// The imported services that `egress` can serve, by name; of several with one name, the one that wins.
    fn services<'a>(&self, mesh: &'a Mesh, egress: &Egress) -> Vec<&'a Arc<Service>> {
        let mut found: Vec<&Arc<Service>> = Vec::new();
        for service in &mesh.services {
            let usable = service.alias_of.is_none()
                && service.visibility.allows(self.own)
                && of_listener(egress, service, BTreeSet::new()).is_some();
            if !usable || !self.service(service) {
                continue;
            }
            // The mesh has services of one name in the order in which they win, but for the proxy's own.
            match found.last_mut() {
                Some(last) if last.hostname == service.hostname => {
                    if service.namespace() == self.own && last.namespace() != self.own {
                        *last = service;
                    }
                }
                _ => found.push(service),
            }
        }
        found
    }
}

/// The ports of a service that a listener serves; `wanted` says which a route needs (none is all).
fn of_listener(egress: &Egress, service: &Service, wanted: BTreeSet<u16>) -> Option<Ports> {
    match &egress.port {
        Some(own) if own.number != 0 => service
            .port(own.number)
            .map(|port| Ports::Some(BTreeSet::from([port.port]))),
        _ if wanted.is_empty() => Some(Ports::All),
        _ => {
            let there = |number: &u16| service.port(*number).is_some();
            let ports: BTreeSet<u16> = wanted.into_iter().filter(there).collect();
            (!ports.is_empty()).then_some(Ports::Some(ports))
        }
    }
}

/// Adds a service, or ports of it. The first to have a name keeps it, but for Kubernetes' services.
fn learn<'a>(known: &mut BTreeMap<&'a Host, Known<'a>>, service: &'a Arc<Service>, ports: Ports) {
    use std::collections::btree_map::Entry;
    match known.entry(&service.hostname) {
        Entry::Vacant(entry) => {
            entry.insert(Known { service, ports });
        }
        Entry::Occupied(mut entry) => {
            let there = entry.get_mut();
            if !Arc::ptr_eq(there.service, service) {
                if service.is_kubernetes() && !there.service.is_kubernetes() {
                    *there = Known { service, ports };
                }
                return;
            }
            match (&mut there.ports, ports) {
                (Ports::Some(have), Ports::Some(more)) => have.extend(more),
                (have, _) => *have = Ports::All,
            }
        }
    }
}

/// Where a VirtualService leads to from a namespace: hosts and their ports (none is all), through delegates too.
fn destinations<'a>(
    mesh: &'a Mesh,
    vs: &'a VirtualService,
    namespace: &str,
) -> BTreeMap<&'a Host, BTreeSet<u16>> {
    let mut found: BTreeMap<&Host, Option<BTreeSet<u16>>> = BTreeMap::new();
    let mut add = |to: &'a Destination| {
        let ports = found
            .entry(&to.host)
            .or_insert_with(|| Some(BTreeSet::new()));
        match (ports.as_mut(), to.port) {
            (Some(ports), Some(port)) => drop(ports.insert(port)),
            _ => *ports = None,
        }
    };
    let from_here = |scopes: &mut dyn Iterator<Item = &MatchScope>| {
        let mut any = false;
        let mut fits = false;
        for scope in scopes {
            any = true;
            fits |= scope
                .source_namespace
                .as_deref()
                .is_none_or(|ns| ns == namespace);
        }
        fits || !any
    };
    let delegates = vs.http.iter().filter_map(|route| match &route.action {
        HttpAction::Delegate { namespace, name } => mesh.virtual_services.iter().find(|child| {
            child.hosts.is_empty()
                && (child.meta.namespace(), child.meta.name()) == (&**namespace, &**name)
        }),
        _ => None,
    });
    let delegated = delegates.flat_map(|child| &child.http);
    for route in vs.http.iter().chain(delegated) {
        if !from_here(&mut route.matches.iter().map(|of| &of.scope)) {
            continue;
        }
        if let HttpAction::Forward(to) = &route.action {
            to.iter().for_each(|to| add(&to.destination));
        }
        route.mirrors.iter().for_each(|to| add(&to.destination));
    }
    for route in &vs.tls {
        if from_here(&mut route.matches.iter().map(|of| &of.scope)) {
            route
                .destinations
                .iter()
                .for_each(|to| add(&to.destination));
        }
    }
    for route in &vs.tcp {
        if from_here(&mut route.matches.iter().map(|of| &of.scope)) {
            route
                .destinations
                .iter()
                .for_each(|to| add(&to.destination));
        }
    }
    found
        .into_iter()
        .map(|(host, ports)| (host, ports.unwrap_or_default()))
        .collect()
}
