//! A Kubernetes Service.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use malla_model::service::{Distribution, Resolution, Service, ServicePort};
use malla_model::{Host, MeshSettings, Protocol};

use super::super::meta::{ip_block, meta, visibility_or};

/// Who sees a Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Further identities the Service's pods may run as, comma-separated.
const ACCOUNTS: &str = "alpha.istio.io/kubernetes-serviceaccounts";
/// Identities outside of Kubernetes, whole, comma-separated.
const CANONICAL_ACCOUNTS: &str = "alpha.istio.io/canonical-serviceaccounts";

/// The same as `spec.trafficDistribution`, which stands before it.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

fn distribution(written: &str) -> Distribution {
    match written {
        // PreferClose is the older name.
        "PreferClose" | "PreferSameZone" => Distribution::SameZone,
        "PreferSameNode" => Distribution::SameNode,
        _ => Distribution::Any,
    }
}

/// Lowers a Service; its endpoints come from [`super::endpoints()`].
#[must_use]
pub fn service(object: &core::Service, settings: &MeshSettings) -> Service {
    let meta = meta("Service", &object.metadata);
    let spec = object.spec.clone().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let external_name = (spec.type_.as_deref() == Some("ExternalName"))
        .then(|| spec.external_name.as_deref().unwrap_or_default())
        .filter(|name| !name.is_empty());
    let annotation = |name: &str| {
        meta.annotations
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    };
    let own = annotation(ACCOUNTS)
        .split(',')
        .filter(|name| !name.trim().is_empty())
        .map(|name| {
            let (domain, namespace) = (&settings.trust_domain, meta.namespace());
            format!("spiffe://{domain}/ns/{namespace}/sa/{}", name.trim())
        });
    let foreign = annotation(CANONICAL_ACCOUNTS)
        .split(',')
        .filter(|name| !name.trim().is_empty())
        .map(|name| name.trim().to_owned());
    Service {
        hostname: hostname(meta.name(), meta.namespace(), &settings.domain),
        addresses: addresses(&spec),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
        resolution: if headless {
            Resolution::Passthrough
        } else {
            Resolution::Static
        },
        external: false,
        headless,
        alias_of: external_name.map(Host::new),
        visibility: visibility_or(
            annotation(EXPORT_TO).split(','),
            &settings.export.services,
            meta.namespace(),
        ),
        distribution: distribution(
            spec.traffic_distribution
                .as_deref()
                .unwrap_or_else(|| annotation(TRAFFIC_DISTRIBUTION)),
        ),
        same_machine: spec.internal_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.clone().unwrap_or_default(),
        subject_alt_names: own.chain(foreign).collect(),
        endpoints: Arc::default(),
        meta,
    }
}

/// The full name of a Service.
#[must_use]
pub fn hostname(name: &str, namespace: &str, domain: &str) -> Host {
    Host::new(&format!("{name}.{namespace}.svc.{domain}"))
}

fn addresses(spec: &core::ServiceSpec) -> Vec<IpNet> {
    let many = spec.cluster_ips.iter().flatten();
    let one = spec.cluster_ip.iter();
    let mut addresses: Vec<IpNet> = Vec::new();
    for text in many.chain(one) {
        if let Some(block) = ip_block(text)
            && !addresses.contains(&block)
        {
            addresses.push(block);
        }
    }
    addresses
}

fn port(written: &core::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(written.port).ok().filter(|port| *port != 0)?;
    let name = written.name.as_deref().unwrap_or_default();
    let transport = written.protocol.as_deref().unwrap_or("TCP");
    let target_port = match &written.target_port {
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok().filter(|port| *port != 0),
        Some(IntOrString::String(_)) => None,
        None => Some(number),
    };
    let target_name = match &written.target_port {
        Some(IntOrString::String(name)) => Some(name.as_str().into()),
        _ => None,
    };
    let protocol = match transport {
        "SCTP" => Protocol::Udp, // not carried by the mesh either
        _ => Protocol::of_service_port(transport, written.app_protocol.as_deref(), name, number),
    };
    Some(ServicePort {
        name: name.into(),
        port: number,
        target_port,
        target_name,
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lower(object: serde_json::Value) -> Service {
        service(
            &serde_json::from_value(object).unwrap(),
            &MeshSettings::default(),
        )
    }

    #[test]
    fn a_service_keeps_its_addresses_and_protocols() {
        let service = lower(json!({
            "metadata": {"name": "web", "namespace": "shop",
                "annotations": {"networking.istio.io/exportTo": ".,test"}},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
                "selector": {"app": "web"},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080},
                    {"name": "web", "port": 81, "targetPort": "named"},
                    {"name": "grpc-x", "port": 82},
                    {"name": "dns", "port": 53, "protocol": "UDP"}]},
        }));
        assert_eq!(service.hostname.as_str(), "web.shop.svc.cluster.local");
        assert_eq!(service.addresses.len(), 2);
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|p| (p.port, p.target_port, p.protocol))
            .collect();
        assert_eq!(
            ports,
            [
                (80, Some(8080), Protocol::Http),
                (81, None, Protocol::Sniffed),
                (82, Some(82), Protocol::Grpc),
                (53, Some(53), Protocol::Udp),
            ]
        );
        assert!(service.visibility.allows("test"));
        assert!(!service.visibility.allows("other"));
    }

    #[test]
    fn headless_and_external_services_say_so() {
        let headless = lower(json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None"}}));
        assert!(headless.headless && headless.addresses.is_empty());
        assert_eq!(headless.resolution, Resolution::Passthrough);
        let alias = lower(json!({"metadata": {"name": "api"},
            "spec": {"type": "ExternalName", "externalName": "api.example.com"}}));
        assert_eq!(alias.alias_of, Some(Host::new("api.example.com")));
    }
}
