//! YAML and metadata for tests.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part; a test says what went wrong by failing

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_apimachinery::kind::FieldValidation;
use serde_json::{Value, json};

/// Parses YAML to JSON.
#[track_caller]
pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Metadata of an object of that name.
pub(crate) fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        ..ObjectMeta::default()
    }
}

/// What the embedded API server says of an object of a definition's first version with this spec: by
/// its schema, its choices and its CEL rules.
#[track_caller]
pub(crate) fn served(crd: &Value, spec: &str) -> Vec<String> {
    let served = malla_apimachinery::crd::kinds(crd).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let group = text(&crd["spec"]["group"]);
    let version = text(&crd["spec"]["versions"][0]["name"]);
    let mut object = json!({
        "apiVersion": format!("{group}/{version}"),
        "kind": crd["spec"]["names"]["kind"],
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": yaml(spec),
    });
    match served[0].decode(&mut object, FieldValidation::Strict) {
        Err(error) => vec![error.to_string()],
        Ok(_) => served[0]
            .validate_create(&object)
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}
