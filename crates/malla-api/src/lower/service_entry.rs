//! ServiceEntry to services, one for each of its hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::id::Labels;
use malla_model::service::{Distribution, Resolution, Service, ServicePort};
use malla_model::workload::{Address, Endpoint, Locality, TlsMode, WorkloadEntry};
use malla_model::{Host, MeshSettings, Meta, Protocol};
use serde_json::Value;

use super::meta::{ip_block, meta, object_ref, port, visibility_or};
use super::{Context, Lowered, Refused, decode, workload_entry};
use crate::istio::service_entry as raw;
use crate::kind::Kind;

/// Lowers a ServiceEntry. One with a workload selector has no endpoints yet: see [`super::assemble`].
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
    let template = template(
        metadata,
        &written,
        resolution,
        &settings.export.services,
        &mut cx,
    );
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
                Arc::new(own_name(&service, &settings.cluster_id))
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
    exports: &[Arc<str>],
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
        distribution: Distribution::Any,
        same_machine: false,
        visibility: visibility_or(
            written.export_to.iter().map(String::as_str),
            exports,
            cx.namespace,
        ),
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
            target_name: None,
            protocol,
        });
    }
    lowered
}

/// A DNS service without endpoints is found under its own name.
fn own_name(service: &Service, cluster: &str) -> Vec<Endpoint> {
    let itself = WorkloadEntry {
        meta: Meta {
            labels: Labels::new(),
            ..service.meta.clone()
        },
        address: Address::Dns(service.hostname.as_str().into()),
        ports: BTreeMap::new(),
        weight: 1,
        locality: Locality::default(),
        network: "".into(),
        identity: None,
        tls_mode: TlsMode::Disabled,
    };
    let ports = service.ports.iter();
    ports
        .filter_map(|port| itself.endpoint(port, cluster))
        .collect()
}

fn endpoints(
    written: &raw::ServiceEntrySpec,
    service: &Service,
    settings: &MeshSettings,
    cx: &mut Context<'_>,
) -> Arc<Vec<Endpoint>> {
    let by_name = matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    );
    let mut lowered = Vec::new();
    for (at, spec) in written.endpoints.iter().enumerate() {
        let meta = Meta {
            labels: spec.labels.clone(),
            ..service.meta.clone()
        };
        let entry = workload_entry::entry(meta, spec, settings);
        match entry.filter(|entry| by_name || !matches!(entry.address, Address::Dns(_))) {
            Some(entry) => lowered.extend(
                service
                    .ports
                    .iter()
                    .filter_map(|port| entry.endpoint(port, &settings.cluster_id)),
            ),
            None => cx.note(
                format!("spec.endpoints[{at}].address"),
                "neither an IP address nor unix:///path (a DNS name needs resolution DNS), so it is left out",
            ),
        }
    }
    Arc::new(lowered)
}
