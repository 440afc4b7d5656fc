//! WorkloadEntry to an endpoint that services select.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::MeshSettings;
use malla_model::id::{Labels, Meta, SpiffeId};
use malla_model::workload::{Address, Locality, TlsMode, WorkloadEntry};
use serde_json::Value;

use super::meta::{meta, object_ref, port, text};
use super::{Context, Lowered, Refused, decode};
use crate::istio::workload_entry::WorkloadEntrySpec;
use crate::kind::Kind;

/// The label by which a proxy says that it terminates mutual TLS.
pub(crate) const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Lowers a WorkloadEntry. Labels of the object stand before those of its spec, as in Istio.
///
/// # Errors
/// When the spec is malformed or has no address.
pub fn lower(
    metadata: &ObjectMeta,
    spec: &Value,
    settings: &MeshSettings,
) -> Result<Lowered<WorkloadEntry>, Refused> {
    let written: WorkloadEntrySpec = decode(Kind::WorkloadEntry, metadata, spec)?;
    let mut meta = meta(Kind::WorkloadEntry.name(), metadata);
    let mut labels = written.labels.clone();
    labels.append(&mut meta.labels);
    meta.labels = labels;
    let value = entry(meta, &written, settings).ok_or_else(|| Refused {
        object: object_ref(Kind::WorkloadEntry, metadata),
        path: "spec.address".into(),
        reason: "is required: an IP address, a DNS name or unix:///path (endpoints behind a network's gateway are not supported yet)".into(),
    })?;
    Ok(Context::new(metadata, &settings.domain).finish(Kind::WorkloadEntry, spec, value))
}

/// An entry of the object `meta`; `None` without an address.
pub(super) fn entry(
    meta: Meta,
    written: &WorkloadEntrySpec,
    settings: &MeshSettings,
) -> Option<WorkloadEntry> {
    let account = text(&written.service_account);
    let ports = written.ports.iter();
    Some(WorkloadEntry {
        address: address(written)?,
        ports: ports
            .filter_map(|(name, number)| Some((name.clone(), port(*number)?)))
            .collect(),
        weight: written.weight.unwrap_or(1).max(1),
        locality: Locality::parse(written.locality.as_deref().unwrap_or_default()),
        network: text(&written.network).unwrap_or_default(),
        tls_mode: tls_mode(&meta.labels, account.is_some()),
        identity: account
            .map(|account| SpiffeId::new(&settings.trust_domain, meta.namespace(), &account)),
        meta,
    })
}

fn address(written: &WorkloadEntrySpec) -> Option<Address> {
    let text = written.address.as_deref().filter(|text| !text.is_empty())?;
    Some(match text.strip_prefix("unix://") {
        Some(path) => Address::Unix(path.into()),
        None => match text.parse::<IpAddr>() {
            Ok(ip) => Address::Ip(ip),
            Err(_) => Address::Dns(text.to_ascii_lowercase().into()),
        },
    })
}

/// Istio's rule: the label decides; without it, having an identity does.
fn tls_mode(labels: &Labels, has_account: bool) -> TlsMode {
    match labels.get(TLS_MODE_LABEL).map(String::as_str) {
        Some("istio") => TlsMode::Istio,
        Some(_) => TlsMode::Disabled,
        None if has_account => TlsMode::Istio,
        None => TlsMode::Disabled,
    }
}
