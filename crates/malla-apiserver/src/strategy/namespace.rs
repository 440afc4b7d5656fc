//! Namespaces: their phase, and the finalizer the namespace controller works off.

use serde_json::{Value, json};

/// The finalizer in `spec.finalizers` that holds a namespace until its content is gone.
const KUBERNETES: &str = "kubernetes";

pub(super) fn begin_create(object: &mut Value) {
    object["status"] = json!({"phase": "Active"});
    let finalizers = &mut object["spec"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|one| one == KUBERNETES) => {}
        Some(list) => list.push(KUBERNETES.into()),
        None => *finalizers = json!([KUBERNETES]),
    }
    let name = object["metadata"]["name"].clone();
    let labels = &mut object["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["kubernetes.io/metadata.name"] = name;
}

/// Only the `finalize` endpoint changes `spec.finalizers`.
pub(super) fn begin_update(old: &Value, new: &mut Value, subresource: Option<&str>) {
    if subresource != Some("finalize") {
        new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
    }
    let labels = &mut new["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["kubernetes.io/metadata.name"] = old["metadata"]["name"].clone();
}

pub(super) fn mark_deleted(object: &mut Value) {
    object["status"]["phase"] = "Terminating".into();
}
