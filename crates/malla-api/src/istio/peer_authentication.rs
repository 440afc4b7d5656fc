//! PeerAuthentication: whether callers must prove who they are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::WorkloadSelector;
use crate::schema::{limit, rule};

/// Whether workloads accept plain text, mutual TLS, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? self.selector.matchLabels : {}).size() > 0) : true", "portLevelMtls requires selector"))]
pub struct PeerAuthenticationSpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Mutual TLS.
    pub mtls: Option<MutualTls>,
    /// Exceptions by port of the workload (not of the service). Needs `selector`.
    #[schemars(transform = limit("minProperties", 1))]
    #[schemars(transform = rule("self.all(key, 0 < int(key) && int(key) <= 65535)", "port must be between 1-65535"))]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// Mutual TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MutualTls {
    /// UNSET inherits.
    pub mode: Option<MutualTlsMode>,
}

/// What workloads accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    Unset,
    Disable,
    Permissive,
    Strict,
}
