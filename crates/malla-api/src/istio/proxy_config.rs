//! ProxyConfig: settings of the proxy process.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;

use super::common::WorkloadSelector;
use crate::schema::{limit, nullable};

/// Settings of the proxy process; they act when a pod is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfigSpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Worker threads; 0 is one for each CPU.
    #[schemars(transform = nullable, transform = limit("minimum", 0))]
    pub concurrency: Option<i32>,
    /// Further variables of the proxy's environment.
    #[schemars(transform = variables)]
    pub environment_variables: BTreeMap<String, String>,
    /// Which image the proxy is.
    pub image: Option<ProxyImage>,
}

fn variables(schema: &mut Schema) {
    if let Some(serde_json::Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".into(), 2048.into());
    }
}

/// Which image the proxy is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyImage {
    /// default, debug or distroless.
    pub image_type: Option<String>,
}
