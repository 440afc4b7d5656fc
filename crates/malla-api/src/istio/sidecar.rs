//! Sidecar: which services and ports a sidecar knows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::LabelSelector;
use super::gateway::ServerTlsSettings;
use super::traffic_policy::ConnectionPoolSettings;
use super::virtual_service::Destination;
use crate::schema::required;

/// Which services a sidecar knows and which ports it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarSpec {
    /// Only these workloads; absent is the whole namespace.
    pub workload_selector: Option<LabelSelector>,
    /// Ports it serves; absent is what the services say.
    pub ingress: Vec<IstioIngressListener>,
    /// Services it knows; absent is all that are exported to it.
    pub egress: Vec<IstioEgressListener>,
    /// Limits of inbound connections.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    /// What happens to calls to unknown hosts.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A port of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarPort {
    /// Port number, 1 to 65535.
    pub number: Option<u32>,
    /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS.
    pub protocol: Option<String>,
    /// Name of the port.
    pub name: Option<String>,
    /// Old; nothing reads it.
    pub target_port: Option<u32>,
}

/// How traffic gets to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    Default,
    Iptables,
    None,
}

/// A port it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("port"))]
pub struct IstioIngressListener {
    /// The port.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: Option<String>,
    /// How traffic gets there.
    pub capture_mode: Option<CaptureMode>,
    /// Where the application listens: `127.0.0.1:PORT`, `0.0.0.0:PORT` or `unix:///path`.
    pub default_endpoint: Option<String>,
    /// Encryption.
    pub tls: Option<ServerTlsSettings>,
    /// Limits of its connections.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// Services it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("hosts"))]
pub struct IstioEgressListener {
    /// Only on this port.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: Option<String>,
    /// How traffic gets there.
    pub capture_mode: Option<CaptureMode>,
    /// Services, `namespace/host`; the namespace may be `*`, `.`, `~`.
    pub hosts: Vec<String>,
}

/// What happens to calls to unknown hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    /// Absent is the mesh's.
    pub mode: Option<OutboundMode>,
    /// Where they go instead.
    pub egress_proxy: Option<Destination>,
}

/// What happens to calls to unknown hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    RegistryOnly,
    AllowAny,
}
