//! The graph as the API has it.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Graph {
    /// End of the window, Unix seconds.
    pub at: f64,
    /// Seconds.
    pub window: f64,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    Service,
    Workload,
    Version,
    Gateway,
    /// A caller or callee without a proxy that says who it is.
    Unknown,
    /// A host outside of the cluster.
    External,
}

impl NodeKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::Version => "version",
            Self::Gateway => "gateway",
            Self::Unknown => "unknown",
            Self::External => "external",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub id: String,
    pub kind: NodeKind,
    /// Empty for unknown and external.
    pub namespace: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Requests arriving, or leaving for a node that nothing calls.
    pub rps: f64,
    pub error_share: f64,
    /// Milliseconds; `None` when nothing was measured.
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    /// Whether its own proxy reports.
    pub in_mesh: bool,
    /// Rules that bear on it: filled in by whoever knows the configuration.
    pub badges: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
}

impl Protocol {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub id: String,
    pub source: String,
    pub target: String,
    pub protocol: Protocol,
    /// Requests; for TCP connections opened.
    pub rps: f64,
    /// Share of 5xx, of failed gRPC statuses, and of responses that never came.
    pub error_share: f64,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub bytes_per_second: f64,
    /// Share under mutual TLS, 0 to 1.
    pub mtls: f64,
    /// Status code → rate.
    pub codes: BTreeMap<String, f64>,
}
