//! WorkloadGroup: a template for WorkloadEntries.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{PORT_MESSAGE, PORT_RULE};
use super::workload_entry::WorkloadEntrySpec;
use crate::schema::{at_most_one, each, limit, pattern, required, rule};

/// A template for the WorkloadEntries of virtual machines that register themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("template"))]
pub struct WorkloadGroupSpec {
    /// Labels and annotations of the entries.
    pub metadata: Option<EntryMetadata>,
    /// The entries.
    pub template: Option<WorkloadEntrySpec>,
    /// How their health is checked.
    pub probe: Option<ReadinessProbe>,
}

/// Labels and annotations of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryMetadata {
    /// Labels.
    #[schemars(transform = limit("maxProperties", 256))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[schemars(transform = limit("maxProperties", 256))]
    pub annotations: BTreeMap<String, String>,
}

/// How health is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("httpGet tcpSocket exec grpc"))]
pub struct ReadinessProbe {
    /// Seconds before the first check.
    #[schemars(transform = limit("minimum", 0))]
    pub initial_delay_seconds: Option<i32>,
    /// Seconds a check may take; absent is 1.
    #[schemars(transform = limit("minimum", 0))]
    pub timeout_seconds: Option<i32>,
    /// Seconds between checks; absent is 10.
    #[schemars(transform = limit("minimum", 0))]
    pub period_seconds: Option<i32>,
    /// Successes in a row that make it healthy; absent is 1.
    #[schemars(transform = limit("minimum", 0))]
    pub success_threshold: Option<i32>,
    /// Failures in a row that make it unhealthy; absent is 3.
    #[schemars(transform = limit("minimum", 0))]
    pub failure_threshold: Option<i32>,
    /// By HTTP.
    pub http_get: Option<HttpProbe>,
    /// By connecting.
    pub tcp_socket: Option<TcpProbe>,
    /// By running a command.
    pub exec: Option<ExecProbe>,
    /// By gRPC's health service.
    pub grpc: Option<GrpcProbe>,
}

/// A check by HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("port"))]
pub struct HttpProbe {
    /// Path.
    pub path: Option<String>,
    /// Port.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub port: u32,
    /// Host; absent is the machine itself.
    pub host: Option<String>,
    /// HTTP (the default) or HTTPS.
    #[schemars(transform = rule("self in ['', 'HTTP', 'HTTPS']", "scheme must be one of [HTTP, HTTPS]"))]
    pub scheme: Option<String>,
    /// Further headers.
    pub http_headers: Vec<ProbeHeader>,
}

/// A header of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProbeHeader {
    /// Name.
    #[schemars(transform = pattern("^[-_A-Za-z0-9]+$"))]
    pub name: String,
    /// Value.
    pub value: Option<String>,
}

/// A check by connecting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("port"))]
pub struct TcpProbe {
    /// Host; absent is the machine itself.
    pub host: Option<String>,
    /// Port.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub port: u32,
}

/// A check by running a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("command"))]
pub struct ExecProbe {
    /// Command and arguments.
    #[schemars(transform = each("minLength", 1))]
    pub command: Vec<String>,
}

/// A check by gRPC's health service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcProbe {
    /// Service to ask for.
    pub service: Option<String>,
    /// Port.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub port: Option<u32>,
}
