//! ServiceEntry to services, one for each of its hosts.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::id::{Labels, SpiffeId};
use malla_model::service::{Resolution, Service, ServicePort};
use malla_model::workload::{Address, Endpoint, Health, Locality, TlsMode, Workload};
use malla_model::{Host, MeshSettings, Meta, Protocol};
use serde_json::Value;

use super::meta::{ip_block, meta, object_ref, port, text, visibility};
use super::{Context, Lowered, Refused, decode};
use crate::istio::service_entry as raw;
use crate::istio::workload_entry::WorkloadEntrySpec;
use crate::kind::Kind;

/// The pod label by which a sidecar says that it terminates mutual TLS.
pub(crate) const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Lowers a ServiceEntry. One with a workload selector has no endpoints yet: see [`select`].
///
/// # Errors
/// When the spec is malformed, or its resolution is not supported.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<Vec<Service>>, Refused> {
    let written: raw::ServiceEntrySpec = decode(Kind::ServiceEntry, metadata, spec)?;
    let resolution = match written.resolution.unwrap_or_default() {
        raw::Resolution::None => Resolution::Passthrough,
        raw::Resolution::Static => Resolution::Static,
        raw::Resolution::Dns => Resolution::Dns,
        raw::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        raw::Resolution::DynamicDns => {
            return Err(Refused {
                object: object_ref(Kind::ServiceEntry, metadata),
                path: "spec.resolution".into(),
                reason: "DYNAMIC_DNS is not supported yet; use DNS with one host for each service"
                    .into(),
            });
        }
    };
    let mut cx = Context::new(metadata, &settings.domain);
    let template = template(metadata, &written, resolution, &mut cx);
    let endpoints = endpoints(&written, &template, settings, &mut cx);
    let services = written
        .hosts
        .iter()
        .filter(|host| !host.is_empty())
        .map(|host| {
            let mut service = template.clone();
            service.hostname = Host::resolve(host, cx.namespace, cx.domain);
            let resolves_itself = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin)
                && written.endpoints.is_empty()
                && written.workload_selector.is_none();
            service.endpoints = if resolves_itself && !service.hostname.is_wildcard() {
                Arc::new(own_name(&service))
            } else {
                endpoints.clone()
            };
            service
        })
        .collect();
    Ok(cx.finish(Kind::ServiceEntry, spec, services))
}

/// Everything but the host name and the endpoints.
fn template(
    metadata: &ObjectMeta,
    written: &raw::ServiceEntrySpec,
    resolution: Resolution,
    cx: &mut Context<'_>,
) -> Service {
    let mut addresses = Vec::new();
    for (at, text) in written.addresses.iter().enumerate() {
        match ip_block(text) {
            Some(block) => addresses.push(block),
            None => cx.note(
                format!("spec.addresses[{at}]"),
                "neither an IP address nor a CIDR block",
            ),
        }
    }
    let selector = written.workload_selector.as_ref();
    Service {
        meta: meta(Kind::ServiceEntry.name(), metadata),
        hostname: Host::new(""),
        addresses,
        ports: ports(&written.ports, cx),
        resolution,
        external: written.location.unwrap_or_default() == raw::Location::MeshExternal,
        headless: false,
        alias_of: None,
        visibility: visibility(written.export_to.iter().map(String::as_str), cx.namespace),
        selector: selector.map(|s| s.labels.clone()).unwrap_or_default(),
        subject_alt_names: written.subject_alt_names.iter().cloned().collect(),
        endpoints: Arc::default(),
    }
}

fn ports(list: &[raw::ServicePort], cx: &mut Context<'_>) -> Vec<ServicePort> {
    let mut lowered = Vec::new();
    for (at, written) in list.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let Some(number) = port(written.number) else {
            cx.note(
                format!("{path}.number"),
                "not a port (1-65535), so it is left out",
            );
            continue;
        };
        let declared = written.protocol.as_deref().filter(|text| !text.is_empty());
        let protocol = match declared {
            None => Protocol::of_service_port("TCP", None, "", number),
            Some(text) => Protocol::parse(text).unwrap_or_else(|| {
                cx.note(
                    format!("{path}.protocol"),
                    "not a known protocol; the first bytes decide",
                );
                Protocol::Sniffed
            }),
        };
        lowered.push(ServicePort {
            name: written.name.as_str().into(),
            port: number,
            target_port: written.target_port.and_then(port),
            protocol,
        });
    }
    lowered
}

/// A DNS service without endpoints is found under its own name.
fn own_name(service: &Service) -> Vec<Endpoint> {
    service
        .ports
        .iter()
        .map(|port| Endpoint {
            address: Address::Dns(service.hostname.as_str().into()),
            ..blank(&service.meta, port)
        })
        .collect()
}

/// An endpoint of which nothing is known but its port.
fn blank(meta: &Meta, port: &ServicePort) -> Endpoint {
    Endpoint {
        port_name: port.name.clone(),
        address: Address::Dns("".into()),
        port: port.target_port.unwrap_or(port.port),
        labels: Arc::default(),
        health: Health::Healthy,
        weight: 1,
        locality: Locality::default(),
        network: "".into(),
        tls_mode: TlsMode::Disabled,
        identity: None,
        workload: format!("{};{};;;", meta.name(), meta.namespace()).into(),
        node: "".into(),
    }
}

fn endpoints(
    written: &raw::ServiceEntrySpec,
    service: &Service,
    settings: &MeshSettings,
    cx: &mut Context<'_>,
) -> Arc<Vec<Endpoint>> {
    let mut lowered = Vec::new();
    for (at, entry) in written.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{at}]");
        let by_name = matches!(
            service.resolution,
            Resolution::Dns | Resolution::DnsRoundRobin
        );
        let Some(address) = address(entry, by_name) else {
            cx.note(
                format!("{path}.address"),
                "neither an IP address nor unix:///path (a DNS name needs resolution DNS), so it is left out",
            );
            continue;
        };
        for service_port in &service.ports {
            let own = entry.ports.get(&*service_port.name).copied();
            lowered.push(Endpoint {
                address: address.clone(),
                port: own
                    .and_then(port)
                    .or(service_port.target_port)
                    .unwrap_or(service_port.port),
                labels: Arc::new(entry.labels.clone()),
                weight: entry.weight.unwrap_or(1).max(1),
                locality: Locality::parse(entry.locality.as_deref().unwrap_or_default()),
                network: text(&entry.network).unwrap_or_default(),
                tls_mode: tls_mode(&entry.labels, entry.service_account.as_deref()),
                identity: text(&entry.service_account)
                    .map(|account| SpiffeId::new(&settings.trust_domain, cx.namespace, &account)),
                ..blank(&service.meta, service_port)
            });
        }
    }
    Arc::new(lowered)
}

fn address(entry: &WorkloadEntrySpec, by_name: bool) -> Option<Address> {
    let written = entry.address.as_deref().filter(|text| !text.is_empty())?;
    if let Some(path) = written.strip_prefix("unix://") {
        return Some(Address::Unix(path.into()));
    }
    match written.parse::<IpAddr>() {
        Ok(ip) => Some(Address::Ip(ip)),
        Err(_) if by_name => Some(Address::Dns(written.to_ascii_lowercase().into())),
        Err(_) => None,
    }
}

/// Istio's rule for WorkloadEntries: the label decides; without it, having an identity does.
fn tls_mode(labels: &Labels, service_account: Option<&str>) -> TlsMode {
    match labels.get(TLS_MODE_LABEL).map(String::as_str) {
        Some("istio") => TlsMode::Istio,
        Some(_) => TlsMode::Disabled,
        None if service_account.is_some_and(|account| !account.is_empty()) => TlsMode::Istio,
        None => TlsMode::Disabled,
    }
}

/// The endpoints of a service that selects workloads by label (ServiceEntry `workloadSelector`):
/// those of its own namespace, each with every port.
#[must_use]
pub fn select<'a>(
    service: &Service,
    workloads: impl IntoIterator<Item = &'a Workload>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for workload in workloads {
        let chosen = workload.meta.namespace() == service.namespace()
            && !service.selector.is_empty()
            && malla_model::id::selects(&service.selector, &workload.meta.labels);
        if !chosen {
            continue;
        }
        let Some(ip) = workload.addresses.first() else {
            continue;
        };
        for service_port in &service.ports {
            endpoints.push(Endpoint {
                address: Address::Ip(*ip),
                labels: Arc::new(workload.meta.labels.clone()),
                locality: workload.locality.clone(),
                network: workload.network.clone(),
                tls_mode: workload.tls_mode,
                identity: Some(workload.identity.clone()),
                node: workload.node.clone(),
                workload: workload_key(workload, ""),
                ..blank(&service.meta, service_port)
            });
        }
    }
    endpoints
}

/// Istio's `istio.workload` metadata of an endpoint.
pub(crate) fn workload_key(workload: &Workload, cluster: &str) -> Arc<str> {
    format!(
        "{};{};{};{};{cluster}",
        workload.owner,
        workload.meta.namespace(),
        workload.canonical_name(),
        workload.canonical_revision(),
    )
    .into()
}
