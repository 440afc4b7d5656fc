//! Endpoints objects that users write for Services without selectors, mirrored to EndpointSlices:
//! everything else reads slices only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use malla_apiserver::{ApiError, kinds};
use serde_json::{Value, json};

use super::{MANAGED_LABEL, SERVICE_LABEL, replace, slices_of};
use crate::controllers::Context;
use crate::object::{self, Key, text};

/// Marks slices made here (kube-controller-manager's name).
pub(super) const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Brings the mirrored slices of a Service up to date.
pub(super) async fn sync(
    context: &Context,
    key: &Key,
    service: Option<&Service>,
) -> Result<(), ApiError> {
    let without_selector = service.is_some_and(|service| {
        let spec = service.spec.clone().unwrap_or_default();
        spec.selector.unwrap_or_default().is_empty()
            && spec.type_.as_deref() != Some("ExternalName")
    });
    let endpoints = object::find::<Endpoints>(&context.client, &kinds::ENDPOINTS, key)?;
    let wanted = match endpoints.filter(|_| without_selector) {
        Some(endpoints) if !skipped(&endpoints) => slices(key, &endpoints),
        _ => BTreeMap::new(),
    };
    let stored = slices_of(context, key, MIRROR)?;
    replace(context, key, &wanted, stored).await
}

fn skipped(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(SKIP))
        .is_some_and(|value| value == "true")
}

/// A slice per subset, named by its place.
fn slices(key: &Key, endpoints: &Endpoints) -> BTreeMap<String, Value> {
    let slice = |(place, subset): (usize, &EndpointSubset)| {
        let name = format!("{}-mirror-{place}", key.name);
        let part = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Value> {
            let all = addresses.iter().flatten();
            all.map(|address| endpoint(address, ready)).collect()
        };
        let mut all = part(&subset.addresses, true);
        all.extend(part(&subset.not_ready_addresses, false));
        let ports: Vec<Value> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| {
                let mut port = json!(port);
                port["name"] = json!(text(&port, "/name"));
                port
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": key.namespace,
                "labels": {SERVICE_LABEL: key.name, MANAGED_LABEL: MIRROR},
                "ownerReferences": [object::controlled_by("v1", "Endpoints", &endpoints.metadata)],
            },
            "addressType": "IPv4", "ports": ports, "endpoints": all,
        });
        (name, slice)
    };
    endpoints
        .subsets
        .iter()
        .flatten()
        .enumerate()
        .map(slice)
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address.ip], "conditions": {"ready": ready}});
    let optional = [
        ("hostname", json!(address.hostname)),
        ("nodeName", json!(address.node_name)),
        ("targetRef", json!(address.target_ref)),
    ];
    for (field, value) in optional {
        if !value.is_null() {
            endpoint[field] = value;
        }
    }
    endpoint
}
