//! EndpointSlices of one Service.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;
use malla_model::MeshSettings;
use malla_model::id::Labels;
use malla_model::service::Service;
use malla_model::workload::{Address, Endpoint, Health, Locality, TlsMode, Workload};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Lowers the slices of `service`; `workload_at` finds the workload that has an address.
///
/// Endpoints that are not ready are kept, as unhealthy, so that proxies can drain and fail over;
/// `publish_not_ready` (`spec.publishNotReadyAddresses`) makes them count as healthy. The result is
/// ordered and free of duplicates, whatever the order of the slices.
#[must_use]
pub fn endpoints<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a discovery::EndpointSlice>,
    publish_not_ready: bool,
    settings: &MeshSettings,
    workload_at: impl Fn(IpAddr) -> Option<&'a Workload>,
) -> Vec<Endpoint> {
    let mut lowered = Vec::new();
    for slice in slices {
        if slice.address_type == "FQDN" {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = publish_not_ready || is_ready(endpoint);
            let health = match (ready, is_terminating(endpoint)) {
                (true, _) => Health::Healthy,
                (false, true) => Health::Draining,
                (false, false) => Health::Unhealthy,
            };
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok())
            {
                let workload = workload_at(address);
                for port in slice.ports.iter().flatten() {
                    lowered.extend(endpoint_at(
                        service, address, port, health, endpoint, workload, settings,
                    ));
                }
            }
        }
    }
    lowered.sort_by(|a, b| {
        (&a.port_name, &a.address, a.port).cmp(&(&b.port_name, &b.address, b.port))
    });
    lowered
        .dedup_by(|a, b| (&a.port_name, &a.address, a.port) == (&b.port_name, &b.address, b.port));
    lowered
}

/// Absent means ready: so the API says of unknown readiness.
fn is_ready(endpoint: &discovery::Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

fn is_terminating(endpoint: &discovery::Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions
        .and_then(|conditions| conditions.terminating)
        .unwrap_or(false)
}

fn endpoint_at(
    service: &Service,
    address: IpAddr,
    port: &discovery::EndpointPort,
    health: Health,
    endpoint: &discovery::Endpoint,
    workload: Option<&Workload>,
    settings: &MeshSettings,
) -> Option<Endpoint> {
    let number = u16::try_from(port.port?).ok().filter(|port| *port != 0)?;
    if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return None;
    }
    let locality = match workload {
        Some(workload) => workload.locality.clone(),
        None => Locality {
            zone: endpoint.zone.as_deref().unwrap_or_default().into(),
            ..Locality::default()
        },
    };
    Some(Endpoint {
        port_name: port.name.as_deref().unwrap_or_default().into(),
        address: Address::Ip(address),
        port: number,
        labels: workload.map_or_else(Arc::<Labels>::default, |w| Arc::new(w.meta.labels.clone())),
        health,
        weight: 1,
        locality,
        network: workload.map_or_else(|| "".into(), |w| w.network.clone()),
        tls_mode: workload.map_or(TlsMode::Disabled, |w| w.tls_mode),
        identity: workload.map(|w| w.identity.clone()),
        workload: workload.map_or_else(
            || format!(";{};;;{}", service.namespace(), settings.cluster_id).into(),
            |w| w.described(&settings.cluster_id),
        ),
        node: endpoint.node_name.as_deref().unwrap_or_default().into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lower::kubernetes::service;

    #[test]
    fn readiness_decides_health() {
        let settings = MeshSettings::default();
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        let service = service(&serde_json::from_value(object).unwrap(), &settings);
        let slice: discovery::EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "web-1"},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.1"], "zone": "a"},
                {"addresses": ["10.0.0.1"]},
            ],
        }))
        .unwrap();
        let lower = |publish| {
            let list = endpoints(&service, [&slice], publish, &settings, |_| None);
            list.iter().map(|e| (e.port, e.health)).collect::<Vec<_>>()
        };
        assert_eq!(
            lower(false),
            [
                (8080, Health::Healthy),
                (8080, Health::Unhealthy),
                (8080, Health::Draining)
            ]
        );
        assert_eq!(lower(true), [(8080, Health::Healthy); 3]);
    }
}
