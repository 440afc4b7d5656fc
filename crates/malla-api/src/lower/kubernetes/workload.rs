//! A Pod, and the Node it runs on.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use malla_model::MeshSettings;
use malla_model::id::{Labels, SpiffeId};
use malla_model::workload::{Locality, TlsMode, Workload};

use super::super::meta::meta;
use super::super::workload_entry::TLS_MODE_LABEL;
use super::{LOCALITY_LABEL, NETWORK_LABEL, REGION_LABEL, SUBZONE_LABEL, ZONE_LABEL};

/// Lowers a Pod; `node` is the one it runs on, where it is known. `None` for pods without an
/// address of their own (not scheduled yet, or on the host's network) and for ones that ended.
#[must_use]
pub fn workload(
    pod: &core::Pod,
    node: Option<&core::Node>,
    settings: &MeshSettings,
) -> Option<Workload> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return None;
    }
    let addresses = addresses(status);
    if addresses.is_empty() {
        return None;
    }
    let meta = meta("Pod", &pod.metadata);
    let account = spec
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let identity = SpiffeId::new(
        &settings.trust_domain,
        meta.namespace(),
        account.unwrap_or("default"),
    );
    Some(Workload {
        addresses,
        identity,
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        locality: pod_locality(&meta.labels, node),
        network: meta
            .labels
            .get(NETWORK_LABEL)
            .map(String::as_str)
            .unwrap_or_default()
            .into(),
        tls_mode: match meta.labels.get(TLS_MODE_LABEL).map(String::as_str) {
            Some("istio") => TlsMode::Istio,
            _ => TlsMode::Disabled,
        },
        owner: owner(pod).into(),
        meta,
    })
}

fn addresses(status: &core::PodStatus) -> Vec<IpAddr> {
    let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let one = status.pod_ip.iter().map(String::as_str);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in many.chain(one).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses
}

/// A pod's own label wins over its node's; it is written with dots, for `/` cannot stand in labels.
fn pod_locality(labels: &Labels, node: Option<&core::Node>) -> Locality {
    match labels.get(LOCALITY_LABEL).filter(|text| !text.is_empty()) {
        Some(text) if text.contains('/') => Locality::parse(text),
        Some(text) => Locality::parse(&text.replacen('.', "/", 2)),
        None => node.map(locality).unwrap_or_default(),
    }
}

/// Where a node runs, by its topology labels.
#[must_use]
pub fn locality(node: &core::Node) -> Locality {
    let label = |name: &str| {
        let labels = node.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(name))
            .map(String::as_str)
            .unwrap_or_default()
            .into()
    };
    Locality {
        region: label(REGION_LABEL),
        zone: label(ZONE_LABEL),
        subzone: label(SUBZONE_LABEL),
    }
}

/// The name users know: the Deployment's, not its ReplicaSet's; the CronJob's, not its Job's.
fn owner(pod: &core::Pod) -> String {
    let own_name = pod.metadata.name.clone().unwrap_or_default();
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners
        .clone()
        .find(|owner| owner.controller == Some(true))
        .or(owners.clone().next())
    else {
        return own_name;
    };
    let hash = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"));
    match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => owner
            .name
            .strip_suffix(hash.as_str())
            .and_then(|rest| rest.strip_suffix('-'))
            .unwrap_or(&owner.name)
            .to_owned(),
        ("Job", _) => without_schedule(&owner.name).to_owned(),
        _ => owner.name.clone(),
    }
}

/// A CronJob names its Jobs with the minute they are for.
fn without_schedule(job: &str) -> &str {
    match job.rsplit_once('-') {
        Some((name, minute)) if minute.len() >= 8 && minute.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        _ => job,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn lower(object: serde_json::Value, node: serde_json::Value) -> Option<Workload> {
        let node: core::Node = serde_json::from_value(node).unwrap();
        workload(
            &serde_json::from_value(object).unwrap(),
            Some(&node),
            &MeshSettings::default(),
        )
    }

    fn node() -> serde_json::Value {
        json!({"metadata": {"name": "n1", "labels": {
            "topology.kubernetes.io/region": "guangzhou", "topology.kubernetes.io/zone": "a"}}})
    }

    #[test]
    fn a_pod_is_known_by_its_deployment_and_account() {
        let pod = json!({
            "metadata": {"name": "order-v1-6d5f-abcde", "namespace": "base",
                "labels": {"app": "order", "pod-template-hash": "6d5f", "security.istio.io/tlsMode": "istio"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "order-v1-6d5f", "uid": "1", "controller": true}]},
            "spec": {"serviceAccountName": "order", "nodeName": "n1", "containers": []},
            "status": {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]},
        });
        let workload = lower(pod, node()).unwrap();
        assert_eq!(&*workload.owner, "order-v1");
        assert_eq!(
            workload.identity.to_string(),
            "spiffe://cluster.local/ns/base/sa/order"
        );
        assert_eq!(&*workload.locality.zone, "a");
        assert_eq!(workload.tls_mode, TlsMode::Istio);
        assert_eq!(workload.addresses.len(), 2);
    }

    #[test]
    fn a_pods_own_locality_wins() {
        let pod = json!({
            "metadata": {"name": "x", "labels": {"istio-locality": "eu.west.rack1"}},
            "spec": {"containers": []}, "status": {"podIP": "10.0.0.5"},
        });
        let workload = lower(pod, node()).unwrap();
        let locality = workload.locality;
        assert_eq!(
            (&*locality.region, &*locality.zone, &*locality.subzone),
            ("eu", "west", "rack1")
        );
        assert_eq!(&*workload.owner, "x");
        assert_eq!(
            workload.identity.to_string(),
            "spiffe://cluster.local/ns/default/sa/default"
        );
    }

    #[test]
    fn pods_without_an_address_of_their_own_are_no_workloads() {
        for (spec, status) in [
            (json!({"containers": []}), json!({})),
            (
                json!({"containers": [], "hostNetwork": true}),
                json!({"podIP": "10.0.0.5"}),
            ),
            (
                json!({"containers": []}),
                json!({"podIP": "10.0.0.5", "phase": "Succeeded"}),
            ),
        ] {
            assert_eq!(
                lower(
                    json!({"metadata": {}, "spec": spec, "status": status}),
                    node()
                ),
                None
            );
        }
    }

    #[test]
    fn a_cron_jobs_pod_is_known_by_the_cron_job() {
        assert_eq!(without_schedule("backup-28930000"), "backup");
        assert_eq!(without_schedule("backup-v2"), "backup-v2");
    }
}
