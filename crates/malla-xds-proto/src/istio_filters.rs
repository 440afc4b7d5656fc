//! The configuration of Istio's own Envoy filters, which only its build of Envoy and Malla's proxy have:
//! `istio.stats` (`stats.PluginConfig`), HTTP peer metadata (`io.istio.http.peer_metadata.Config`), TCP metadata
//! exchange (`envoy.tcp.metadataexchange.config.MetadataExchange`) and `istio.alpn`, from github.com/istio/proxy.

use std::collections::HashMap;

use crate::pb::google::protobuf::Duration;

macro_rules! named {
    ($message:ident, $package:literal, $name:literal) => {
        impl prost::Name for $message {
            const NAME: &'static str = $name;
            const PACKAGE: &'static str = $package;

            fn type_url() -> String {
                concat!("type.googleapis.com/", $package, ".", $name).into()
            }
        }
    };
}

/// `stats.PluginConfig`: which metrics are kept, and with which labels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsConfig {
    /// Never take the request's host for the name of a destination nothing is known of.
    #[prost(bool, tag = "6")]
    pub disable_host_header_fallback: bool,
    /// How often open TCP connections and gRPC streams are counted anew.
    #[prost(message, optional, tag = "7")]
    pub tcp_reporting_duration: Option<Duration>,
    /// Applied in order.
    #[prost(message, repeated, tag = "8")]
    pub metrics: Vec<MetricConfig>,
    #[prost(message, repeated, tag = "9")]
    pub definitions: Vec<MetricDefinition>,
    #[prost(enumeration = "StatsReporter", tag = "10")]
    pub reporter: i32,
    #[prost(message, optional, tag = "11")]
    pub rescoping_duration: Option<Duration>,
    #[prost(message, optional, tag = "12")]
    pub scope_grace_period_duration: Option<Duration>,
}
named!(StatsConfig, "stats", "PluginConfig");

/// `stats.MetricConfig`: what differs in one metric, or in all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricConfig {
    /// Label to expression.
    #[prost(map = "string, string", tag = "1")]
    pub dimensions: HashMap<String, String>,
    /// Without `istio_`; empty is every metric.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub tags_to_remove: Vec<String>,
    /// Istio's own filter does not implement it.
    #[prost(string, tag = "4")]
    pub r#match: String,
    #[prost(bool, tag = "5")]
    pub drop: bool,
}
named!(MetricConfig, "stats", "MetricConfig");

/// `stats.MetricDefinition`: a metric of the user's own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricDefinition {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
    #[prost(enumeration = "MetricType", tag = "3")]
    pub r#type: i32,
}
named!(MetricDefinition, "stats", "MetricDefinition");

/// `stats.MetricType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

/// `stats.Reporter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StatsReporter {
    /// Source or destination, by the listener's direction.
    Unspecified = 0,
    /// A gateway in front of several workloads (`waypoint`).
    ServerGateway = 1,
}

/// `io.istio.http.peer_metadata.Config`: how proxies learn of each other over HTTP.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeerMetadataConfig {
    /// Who calls; the first that finds something counts.
    #[prost(message, repeated, tag = "1")]
    pub downstream_discovery: Vec<DiscoveryMethod>,
    /// Who is called.
    #[prost(message, repeated, tag = "2")]
    pub upstream_discovery: Vec<DiscoveryMethod>,
    /// How callers are told of this proxy.
    #[prost(message, repeated, tag = "3")]
    pub downstream_propagation: Vec<PropagationMethod>,
    /// How who is called is told.
    #[prost(message, repeated, tag = "4")]
    pub upstream_propagation: Vec<PropagationMethod>,
    #[prost(bool, tag = "5")]
    pub shared_with_upstream: bool,
    #[prost(string, repeated, tag = "6")]
    pub additional_labels: Vec<String>,
}
named!(PeerMetadataConfig, "io.istio.http.peer_metadata", "Config");

/// `Config.DiscoveryMethod`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryMethod {
    #[prost(oneof = "DiscoverySpecifier", tags = "1, 2, 3")]
    pub method_specifier: Option<DiscoverySpecifier>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DiscoverySpecifier {
    #[prost(message, tag = "1")]
    Baggage(Nothing),
    #[prost(message, tag = "2")]
    WorkloadDiscovery(Nothing),
    #[prost(message, tag = "3")]
    IstioHeaders(IstioHeaders),
}

/// `Config.PropagationMethod`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropagationMethod {
    #[prost(oneof = "PropagationSpecifier", tags = "1")]
    pub method_specifier: Option<PropagationSpecifier>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PropagationSpecifier {
    #[prost(message, tag = "1")]
    IstioHeaders(IstioHeaders),
}

/// `Config.Baggage` and `Config.WorkloadDiscovery`, which say nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Nothing {}

/// `Config.IstioHeaders`: `x-envoy-peer-metadata` and `x-envoy-peer-metadata-id`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct IstioHeaders {
    /// Not to services outside of the mesh.
    #[prost(bool, tag = "1")]
    pub skip_external_clusters: bool,
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`: the same over connections of bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MetadataExchange {
    /// The ALPN protocol that says that the peer does it too: `istio-peer-exchange`.
    #[prost(string, tag = "1")]
    pub protocol: String,
    #[prost(bool, tag = "2")]
    pub enable_discovery: bool,
    #[prost(string, repeated, tag = "3")]
    pub additional_labels: Vec<String>,
}
named!(
    MetadataExchange,
    "envoy.tcp.metadataexchange.config",
    "MetadataExchange"
);

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`: what a request says within TLS, by its protocol.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AlpnConfig {
    #[prost(message, repeated, tag = "1")]
    pub alpn_override: Vec<AlpnOverride>,
}
named!(
    AlpnConfig,
    "istio.envoy.config.filter.http.alpn.v2alpha1",
    "FilterConfig"
);

/// `FilterConfig.AlpnOverride`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AlpnOverride {
    #[prost(enumeration = "AlpnProtocol", tag = "1")]
    pub upstream_protocol: i32,
    #[prost(string, repeated, tag = "2")]
    pub alpn_override: Vec<String>,
}

/// `FilterConfig.Protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum AlpnProtocol {
    Http10 = 0,
    Http11 = 1,
    Http2 = 2,
}

#[cfg(test)]
mod tests {
    use super::{
        DiscoveryMethod, DiscoverySpecifier, IstioHeaders, PeerMetadataConfig, StatsConfig,
    };
    use crate::{any, json};

    #[test]
    fn they_are_read_from_json_as_users_write_them() {
        let any = json::any_from_value(serde_json::json!({
            "@type": "type.googleapis.com/stats.PluginConfig",
            "disable_host_header_fallback": true,
            "tcp_reporting_duration": "15s",
            "metrics": [{"name": "requests_total", "dimensions": {"method": "request.method"}, "tags_to_remove": ["source_app"], "drop": true}],
            "reporter": "SERVER_GATEWAY",
        }))
        .unwrap();
        let config: StatsConfig = any::unpack(&any).unwrap();
        assert!(config.disable_host_header_fallback);
        assert_eq!(config.tcp_reporting_duration.unwrap().seconds, 15);
        assert_eq!(config.metrics[0].dimensions["method"], "request.method");
        assert_eq!(config.reporter, 1);

        let any = json::any_from_value(serde_json::json!({
            "@type": "type.googleapis.com/io.istio.http.peer_metadata.Config",
            "upstream_discovery": [{"istio_headers": {"skip_external_clusters": true}}],
        }))
        .unwrap();
        let config: PeerMetadataConfig = any::unpack(&any).unwrap();
        let headers = IstioHeaders {
            skip_external_clusters: true,
        };
        let wanted = DiscoveryMethod {
            method_specifier: Some(DiscoverySpecifier::IstioHeaders(headers)),
        };
        assert_eq!(config.upstream_discovery, [wanted]);
    }
}
