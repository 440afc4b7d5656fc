//! From the Gateway API's objects to the model, and to what each object's status says.
//!
//! A listener becomes a gateway of its own, with one server; what its routes say about one host
//! becomes one set of rules, in the order that the Gateway API prescribes, and so does what routes
//! say of calls to one service. Nothing that is refused is left out silently: a condition says why.

mod attach;
mod backends;
mod calls;
mod filters;
mod grants;
mod grpc;
mod http;
mod listener_sets;
mod listeners;
mod objects;
mod policies;
mod routes;
mod rules;
mod status;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use malla_model::id::Labels;
use malla_model::{Gateway, MeshSettings, Secrets, Service, VirtualService};

pub use objects::{Name, Object, Objects, Set};
pub use status::Status;

use super::types::{GatewayClassSpec, GatewaySpec, Infrastructure};
use super::{CONTROLLER, GatewayKind};
use calls::Calls;
use listener_sets::Added;
use listeners::{Listener, Owner};
use policies::Backends;
use status::Conditions;

/// Where a gateway's Service is reached from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Ip(IpAddr),
    Hostname(String),
}

/// What the objects stand among.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub settings: &'a MeshSettings,
    pub services: &'a [Arc<Service>],
    pub secrets: &'a Secrets,
    pub namespaces: &'a BTreeMap<String, Labels>,
    /// Of Services, by namespace and name.
    pub addresses: &'a BTreeMap<(String, String), Vec<Address>>,
    /// RFC 3339, for conditions that change.
    pub now: &'a str,
}

/// A Gateway whose pods, Service and account are made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    pub namespace: String,
    /// Of the Gateway.
    pub gateway: String,
    pub uid: String,
    pub class: String,
    /// Port and name of each port that listeners open.
    pub ports: BTreeMap<u16, String>,
    /// The address that its Service is to ask for.
    pub address: Option<String>,
    pub labels: Labels,
    pub annotations: Labels,
}

impl Managed {
    /// The name of everything that is made.
    #[must_use]
    pub fn name(&self) -> String {
        deployed_name(&self.gateway, &self.class)
    }
}

fn deployed_name(gateway: &str, class: &str) -> String {
    format!("{gateway}-{class}")
}

/// What all objects mean together.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub gateways: Vec<Arc<Gateway>>,
    pub virtual_services: Vec<Arc<VirtualService>>,
    pub statuses: Vec<Status>,
    pub managed: Vec<Managed>,
    /// Namespaces whose Secrets listeners name.
    pub secret_namespaces: BTreeSet<Arc<str>>,
}

/// Lowers all objects together.
#[must_use]
pub fn lower(objects: &Objects, around: &Surroundings<'_>) -> Outcome {
    let mut out = Outcome::default();
    let mut classes = BTreeSet::new();
    for class in objects.classes.values() {
        if class.spec.controller_name == CONTROLLER {
            classes.insert(class.name().to_owned());
            out.statuses.push(class_status(class, around.now));
        }
    }
    let mut gateways: Vec<&Arc<Object<GatewaySpec>>> = objects
        .gateways
        .values()
        .filter(|gateway| classes.contains(&gateway.spec.gateway_class_name))
        .collect();
    gateways.sort_by_key(|gateway| gateway.age());

    let sets = listener_sets::of(objects, &gateways, around);
    let mut listeners: Vec<Listener<'_>> = Vec::new();
    for gateway in &gateways {
        let added: Vec<_> = sets
            .iter()
            .filter(|added| added.allowed && std::ptr::eq(added.gateway, &***gateway))
            .map(|added| added.set)
            .collect();
        let namespaces = &mut out.secret_namespaces;
        listeners.extend(listeners::of(gateway, &added, objects, around, namespaces));
    }
    let owners: BTreeSet<Owner<'_>> = gateways
        .iter()
        .map(|gateway| Owner::gateway(gateway))
        .chain(sets.iter().map(|added| Owner::set(added.set)))
        .collect();
    let mut calls = Calls::default();
    let mut backends = Backends::default();
    for route in routes::of(objects, around) {
        let parents = attach::attach(&route, &owners, &mut listeners, &mut calls, around);
        backends.add(&route, &parents);
        out.statuses
            .extend(status::route(&route, &parents, around.now));
    }
    out.statuses.extend(backends.statuses(objects, around));
    out.virtual_services.extend(calls.virtual_services());
    let of_owner = |owner: Owner<'_>| -> Vec<&Listener<'_>> {
        let listeners = listeners.iter();
        listeners.filter(|of| of.owner == owner).collect()
    };
    for added in &sets {
        let own = of_owner(Owner::set(added.set));
        out.statuses.push(added.status(&own, around.now));
    }
    for gateway in gateways {
        let pods = pods(gateway, around);
        let adds = |added: &&Added<'_>| {
            std::ptr::eq(added.gateway, &**gateway)
                && added.is_accepted(&of_owner(Owner::set(added.set)))
        };
        let (own, count) = (of_owner(Owner::gateway(gateway)), sets.iter().filter(adds));
        out.statuses
            .push(status::gateway(gateway, &own, count.count(), &pods, around));
        let of_gateway = |listener: &&Listener<'_>| std::ptr::eq(listener.gateway, &**gateway);
        let all: Vec<&Listener<'_>> = listeners.iter().filter(of_gateway).collect();
        out.managed.extend(managed(gateway, &all, &pods));
        let Pods::Of {
            selector,
            namespace,
            ..
        } = pods
        else {
            continue;
        };
        for listener in all.into_iter().filter(|listener| listener.is_open()) {
            let gateways = listener.gateways(&selector, &namespace);
            out.gateways.extend(gateways.into_iter().map(Arc::new));
            out.virtual_services.extend(listener.virtual_services());
        }
    }
    out
}

/// Which pods carry a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pods {
    /// Those with these labels, behind a Service.
    Of {
        selector: Labels,
        namespace: Arc<str>,
        service: String,
        /// Made for it.
        managed: bool,
    },
    /// None, and why.
    Nobody(String),
}

fn pods(gateway: &Object<GatewaySpec>, around: &Surroundings<'_>) -> Pods {
    let hostname = gateway.spec.addresses.iter().find_map(|address| {
        let hostname = address.kind.as_deref() == Some("Hostname");
        address.value.as_deref().filter(|_| hostname)
    });
    let known = |kind: &str| matches!(kind, "Hostname" | "IPAddress");
    let mut kinds = gateway
        .spec
        .addresses
        .iter()
        .filter_map(|a| a.kind.as_deref());
    if let Some(other) = kinds.find(|kind| !known(kind)) {
        return Pods::Nobody(format!("addresses of type {other} are not supported"));
    }
    let Some(hostname) = hostname else {
        let selector = [(super::NAME_LABEL.to_owned(), gateway.name().to_owned())];
        return Pods::Of {
            selector: selector.into(),
            namespace: gateway.namespace().into(),
            service: deployed_name(gateway.name(), &gateway.spec.gateway_class_name),
            managed: true,
        };
    };
    let full = if hostname.contains('.') {
        hostname.to_owned()
    } else {
        format!(
            "{hostname}.{}.svc.{}",
            gateway.namespace(),
            around.settings.domain
        )
    };
    let found = around
        .services
        .iter()
        .find(|service| service.is_kubernetes() && service.hostname.as_str() == full);
    match found {
        // Pods of another namespace would open ports for whoever writes a Gateway here.
        Some(service) if service.namespace() != gateway.namespace() => Pods::Nobody(format!(
            "Service {hostname} is of another namespace than the Gateway"
        )),
        Some(service) if !service.selector.is_empty() => Pods::Of {
            selector: service.selector.clone(),
            namespace: service.namespace().into(),
            service: service.meta.name().to_owned(),
            managed: false,
        },
        Some(_) => Pods::Nobody(format!("Service {hostname} selects no pods")),
        None => Pods::Nobody(format!("there is no Service {hostname}")),
    }
}

fn managed(
    gateway: &Object<GatewaySpec>,
    listeners: &[&Listener<'_>],
    pods: &Pods,
) -> Option<Managed> {
    if !matches!(pods, Pods::Of { managed: true, .. }) {
        return None;
    }
    let empty = Infrastructure::default();
    let infrastructure = gateway.spec.infrastructure.as_ref().unwrap_or(&empty);
    let open = listeners.iter().filter(|listener| listener.is_accepted());
    Some(Managed {
        namespace: gateway.namespace().to_owned(),
        gateway: gateway.name().to_owned(),
        uid: gateway.metadata.uid.clone().unwrap_or_default(),
        class: gateway.spec.gateway_class_name.clone(),
        ports: open
            .map(|listener| {
                (
                    listener.written.port,
                    format!(
                        "{}-{}",
                        listener.written.protocol.to_ascii_lowercase(),
                        listener.written.port
                    ),
                )
            })
            .collect(),
        address: gateway.spec.wanted_ips().next().map(str::to_owned),
        labels: infrastructure.labels.clone(),
        annotations: infrastructure.annotations.clone(),
    })
}

fn class_status(class: &Object<GatewayClassSpec>, now: &str) -> Status {
    let mut conditions = Conditions::new(&class.status, class.generation(), now);
    match &class.spec.parameters_ref {
        None => conditions.set("Accepted", true, "Accepted", "handled by Malla"),
        Some(_) => conditions.set(
            "Accepted",
            false,
            "InvalidParameters",
            "spec.parametersRef: Malla does not read settings of classes yet",
        ),
    }
    let status = serde_json::json!({"conditions": conditions.finish(), "supportedFeatures": status::features()});
    let name = ("", class.name());
    Status::new(GatewayKind::GatewayClass, name, &class.status, status)
}

#[cfg(test)]
mod tests;
