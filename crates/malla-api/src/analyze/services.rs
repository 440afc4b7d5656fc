//! Services and ServiceEntries: what their ports say, and who else serves the same pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{self as core, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use malla_model::Protocol;
use malla_model::id::selects;

use super::Findings;
use super::message::Code;
use super::world::{Item, Known};
use crate::istio::service_entry::Resolution;
use crate::lower::gaps;

pub(super) fn check(known: &Known, out: &mut Findings) {
    for service in &known.services {
        port_names(service, out);
        let object = core::Service {
            metadata: service.metadata.clone(),
            spec: Some(service.spec.clone()),
            ..core::Service::default()
        };
        for gap in gaps::of_service(&object) {
            let text = format!("This field has no effect: {gap}.");
            out.at(Code::FieldNotHonoured, &service.subject, gap.path, text);
        }
    }
    for deployment in &known.deployments {
        let pod_labels = deployment
            .spec
            .template
            .metadata
            .as_ref()
            .and_then(|m| m.labels.clone());
        let services: Vec<_> = known
            .services
            .iter()
            .filter(|service| {
                let selector = service
                    .spec
                    .selector
                    .as_ref()
                    .filter(|selector| !selector.is_empty());
                service.namespace() == deployment.namespace()
                    && selector.is_some_and(|s| selects(s, &pod_labels.clone().unwrap_or_default()))
            })
            .collect();
        if services.len() > 1 {
            protocols(&deployment.subject, &services, out);
            ports(&deployment.subject, &services, out);
        }
    }
    addresses(known, out);
}

fn protocol(port: &ServicePort) -> Protocol {
    Protocol::of_service_port(
        port.protocol.as_deref().unwrap_or("TCP"),
        port.app_protocol.as_deref(),
        port.name.as_deref().unwrap_or_default(),
        u16::try_from(port.port).unwrap_or_default(),
    )
}

fn target(port: &ServicePort) -> String {
    match &port.target_port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => port.port.to_string(),
    }
}

fn port_names(service: &Item<ServiceSpec>, out: &mut Findings) {
    let system = ["kube-system", "istio-system"].contains(&service.namespace());
    let is_api_server = service.namespace() == "default" && service.name() == "kubernetes";
    if system || is_api_server || service.spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    for (at, port) in service.spec.ports.iter().flatten().enumerate() {
        if protocol(port) == Protocol::Sniffed {
            let text = format!(
                "Port name {} (port: {}, targetPort: {}) doesn't follow the naming convention of Istio port.",
                port.name.as_deref().unwrap_or_default(),
                port.port,
                target(port),
            );
            out.at(
                Code::PortNameIsNotUnderNamingConvention,
                &service.subject,
                format!("spec.ports[{at}]"),
                text,
            );
        }
    }
}

/// Services by what `key` says of their ports.
fn grouped<'a, K: Ord>(
    services: &[&'a Item<ServiceSpec>],
    key: impl Fn(&ServicePort) -> K,
) -> BTreeMap<K, Vec<(&'a str, &'a ServicePort)>> {
    let mut groups: BTreeMap<K, Vec<(&str, &ServicePort)>> = BTreeMap::new();
    for service in services {
        for port in service.spec.ports.iter().flatten() {
            groups
                .entry(key(port))
                .or_default()
                .push((service.name(), port));
        }
    }
    groups
}

fn protocols(deployment: &super::Subject, services: &[&Item<ServiceSpec>], out: &mut Findings) {
    for (number, ports) in grouped(services, |port| port.port) {
        let mut kinds: Vec<Protocol> = ports.iter().map(|(_, port)| protocol(port)).collect();
        kinds.sort();
        kinds.dedup();
        if kinds.len() > 1 {
            let mut names: Vec<&str> = ports.iter().map(|(name, _)| *name).collect();
            names.dedup();
            let text = format!(
                "This deployment {} is associated with multiple services using port {number} but different protocols: [{}]",
                deployment.name,
                names.join(" "),
            );
            out.add(
                Code::DeploymentAssociatedToMultipleServices,
                deployment,
                text,
            );
        }
    }
}

fn ports(deployment: &super::Subject, services: &[&Item<ServiceSpec>], out: &mut Findings) {
    for (target, ports) in grouped(services, target) {
        let mut numbers: Vec<i32> = ports.iter().map(|(_, port)| port.port).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut names: Vec<&str> = ports.iter().map(|(name, _)| *name).collect();
        names.dedup();
        if numbers.len() > 1 && names.len() > 1 {
            let text = format!(
                "This deployment {} is associated with multiple services [{}] using targetPort {target:?} but different ports: {numbers:?}.",
                deployment.name,
                names.join(" "),
            );
            out.add(Code::DeploymentConflictingPorts, deployment, text);
        }
    }
}

/// Without an address of its own, a TCP port is everybody's.
fn addresses(known: &Known, out: &mut Findings) {
    for entry in &known.service_entries {
        if !entry.spec.addresses.is_empty() {
            continue;
        }
        for (at, port) in entry.spec.ports.iter().enumerate() {
            let written = port.protocol.as_deref().unwrap_or_default();
            let opaque = written.is_empty() || written.eq_ignore_ascii_case("TCP");
            let allocates = entry.spec.resolution.unwrap_or_default() != Resolution::None;
            if opaque {
                let hint = if allocates {
                    " Malla does not allocate addresses yet."
                } else {
                    ""
                };
                let text = format!("ServiceEntry addresses are required for this protocol.{hint}");
                out.at(
                    Code::ServiceEntryAddressesRequired,
                    &entry.subject,
                    format!("spec.ports[{at}]"),
                    text,
                );
            }
        }
    }
}
