//! Type URLs of the resources that travel over xDS.

/// Every type URL of a resource or of a message inside an `Any` starts with this.
pub const PREFIX: &str = "type.googleapis.com/";

/// LDS.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// RDS.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// SRDS.
pub const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
/// VHDS.
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// CDS.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// EDS.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// SDS.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// ECDS.
pub const EXTENSION_CONFIG: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// RTDS.
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
/// NDS (Istio): names the DNS proxy of a sidecar answers for.
pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
/// PCDS (Istio): trust anchors.
pub const PROXY_CONFIG: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";
/// Health of a virtual machine's workload, from its agent to the control plane (Istio).
pub const HEALTH_INFORMATION: &str = "type.googleapis.com/istio.v1.HealthInformation";
/// A debug page of the control plane, asked for over xDS by its name (Istio).
pub const DEBUG: &str = "istio.io/debug";
/// State of every connected proxy, for `istioctl proxy-status` (Istio).
pub const DEBUG_SYNCZ: &str = "istio.io/debug/syncz";
/// What one proxy is offered, for `istioctl proxy-status POD` (Istio).
pub const DEBUG_CONFIG_DUMP: &str = "istio.io/debug/config_dump";

/// The message's full name: the text after the last `/`.
#[must_use]
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// What users call the resource type: `LDS` for a listener; the message's name where there is no such word.
#[must_use]
pub fn short(type_url: &str) -> &str {
    match type_url {
        LISTENER => "LDS",
        ROUTE => "RDS",
        SCOPED_ROUTE => "SRDS",
        VIRTUAL_HOST => "VHDS",
        CLUSTER => "CDS",
        ENDPOINTS => "EDS",
        SECRET => "SDS",
        EXTENSION_CONFIG => "ECDS",
        RUNTIME => "RTDS",
        NAME_TABLE => "NDS",
        PROXY_CONFIG => "PCDS",
        other => message_name(other),
    }
}
