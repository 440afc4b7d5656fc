//! The traffic policy of a DestinationRule, subset or port.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::PortSelector;
use crate::duration::{Duration, DurationOrZero};
use crate::schema::{at_most_one, limit, nullable, required};

/// How clients call a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits of connections and requests, per calling proxy.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out of use.
    pub outlier_detection: Option<OutlierDetection>,
    /// How clients encrypt.
    pub tls: Option<ClientTlsSettings>,
    /// Policies of single ports. They replace the blocks above as a set: a block left out here
    /// falls back to defaults.
    #[schemars(transform = limit("maxItems", 4096))]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Tunnel TCP through an HTTP proxy.
    pub tunnel: Option<TunnelSettings>,
    /// Send the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limit retries to a share of the requests in flight.
    pub retry_budget: Option<RetryBudget>,
}

/// The policy of one port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    /// The service's port.
    pub port: Option<PortSelector>,
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits of connections and requests, per calling proxy.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out of use.
    pub outlier_detection: Option<OutlierDetection>,
    /// How clients encrypt.
    pub tls: Option<ClientTlsSettings>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("simple consistentHash"))]
pub struct LoadBalancerSettings {
    /// A standard algorithm.
    pub simple: Option<SimpleLb>,
    /// Session affinity by hash.
    pub consistent_hash: Option<ConsistentHashLb>,
    /// Preference for near endpoints.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// Zone-aware routing.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Old form of `warmup.duration`.
    pub warmup_duration_secs: Option<Duration>,
    /// Give new endpoints growing shares.
    pub warmup: Option<WarmupConfiguration>,
}

/// A standard algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// Session affinity: the same key goes to the same endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("httpHeaderName httpCookie useSourceIp httpQueryParameterName"))]
#[schemars(transform = at_most_one("ringHash maglev"))]
pub struct ConsistentHashLb {
    /// Hash this header.
    pub http_header_name: Option<String>,
    /// Hash this cookie; one is made where it is missing.
    pub http_cookie: Option<HttpCookie>,
    /// Hash the client's address.
    pub use_source_ip: Option<bool>,
    /// Hash this query parameter.
    pub http_query_parameter_name: Option<String>,
    /// A ring of virtual nodes (the default).
    pub ring_hash: Option<RingHash>,
    /// Maglev's table: faster, less even on change.
    pub maglev: Option<MagLev>,
    /// Old form of `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

/// A ring of virtual nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    /// Smallest number of virtual nodes; absent is 1024.
    pub minimum_ring_size: Option<u64>,
}

/// Maglev's table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MagLev {
    /// Size of the table, a prime; absent is 65537.
    pub table_size: Option<u64>,
}

/// The cookie to hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct HttpCookie {
    /// Name of the cookie.
    pub name: String,
    /// Path of a cookie that is made.
    pub path: Option<String>,
    /// Life of a cookie that is made; `0s` is a session cookie, absent makes none.
    pub ttl: Option<DurationOrZero>,
    /// Further attributes of a cookie that is made.
    pub attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct CookieAttribute {
    /// Name of the attribute.
    pub name: String,
    /// Its value; absent for a flag.
    pub value: Option<String>,
}

/// Preference for near endpoints. Without `outlierDetection` only `distribute` has an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityLbSetting {
    /// Explicit shares, from where to where.
    pub distribute: Vec<Distribute>,
    /// Where to go when a region fails.
    pub failover: Vec<Failover>,
    /// Labels whose agreement makes an endpoint near, most important first.
    pub failover_priority: Vec<String>,
    /// `false` switches locality balancing off; absent is the mesh's setting.
    #[schemars(transform = nullable)]
    pub enabled: Option<bool>,
}

/// Shares of traffic from one locality.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Distribute {
    /// `region/zone/subzone` of the client; `*` ends it early.
    pub from: Option<String>,
    /// Percent by locality of the endpoint; together 100.
    pub to: BTreeMap<String, u32>,
}

/// Where to go when a region fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Failover {
    /// The region.
    pub from: Option<String>,
    /// The region to use instead.
    pub to: Option<String>,
}

/// Zone-aware routing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ZoneAwareLbSetting {
    /// Switches zone-aware routing on.
    #[schemars(transform = nullable)]
    pub enabled: Option<bool>,
    /// Where to go when a region fails.
    pub failover: Vec<Failover>,
    /// Labels whose agreement makes an endpoint near, most important first.
    pub failover_priority: Vec<String>,
    /// Below this number of endpoints zones are ignored; absent is 6.
    #[schemars(transform = nullable, transform = limit("minimum", 1))]
    pub min_cluster_size: Option<u32>,
}

/// Give new endpoints growing shares.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("duration"))]
pub struct WarmupConfiguration {
    /// How long an endpoint is new.
    pub duration: Option<Duration>,
    /// Share it starts with, in percent; absent is 10.
    #[schemars(transform = nullable, transform = limit("minimum", 0), transform = limit("maximum", 100))]
    pub minimum_percent: Option<f64>,
    /// Shape of the growth; 1.0 (the default) is linear.
    #[schemars(transform = nullable, transform = limit("minimum", 0))]
    pub aggression: Option<f64>,
}

/// Limits of connections and requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPoolSettings {
    /// Of TCP connections; they hold for HTTP too.
    pub tcp: Option<TcpSettings>,
    /// Of HTTP requests.
    pub http: Option<HttpSettings>,
}

/// Limits of TCP connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    /// Most connections to the service from one proxy; absent is unlimited.
    pub max_connections: Option<i32>,
    /// Time limit of connecting; absent is the mesh's, 10s.
    pub connect_timeout: Option<Duration>,
    /// TCP keep-alive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Close connections older than this.
    pub max_connection_duration: Option<Duration>,
    /// Close connections idle for this long; absent is 1h, `0s` is never.
    pub idle_timeout: Option<DurationOrZero>,
}

/// TCP keep-alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Limits of HTTP requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    /// Most requests that wait for a connection; absent is unlimited.
    #[serde(rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: Option<i32>,
    /// Most requests in flight, HTTP/1.1 and HTTP/2 alike; absent is unlimited.
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: Option<i32>,
    /// Requests after which a connection is closed; 1 switches keep-alive off.
    pub max_requests_per_connection: Option<i32>,
    /// Most retries in flight; absent is unlimited.
    pub max_retries: Option<i32>,
    /// Close connections without requests for this long; absent is 1h.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 connections are upgraded to HTTP/2.
    pub h2_upgrade_policy: Option<H2UpgradePolicy>,
    /// Speak to the service what the client spoke.
    pub use_client_protocol: bool,
    /// Most concurrent streams of one HTTP/2 connection.
    pub max_concurrent_streams: Option<i32>,
    /// HTTP/2 pings.
    #[serde(rename = "http2KeepAlive")]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether HTTP/1.1 connections are upgraded to HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// HTTP/2 pings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Http2KeepAlive {
    /// Time between pings.
    pub interval: Option<Duration>,
    /// Time an answer may take.
    pub timeout: Option<Duration>,
}

/// When an endpoint is taken out of use. Its presence also switches locality failover on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Old name of `consecutiveGatewayErrors`.
    pub consecutive_errors: Option<i32>,
    /// Count local failures (connect, timeout) apart from answers.
    pub split_external_local_origin_errors: bool,
    /// Local failures in a row that eject; absent is 5. Needs `splitExternalLocalOriginErrors`.
    #[schemars(transform = nullable)]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Answers 502, 503 or 504 in a row that eject; absent or 0 is off.
    #[schemars(transform = nullable)]
    pub consecutive_gateway_errors: Option<u32>,
    /// Answers 5xx in a row that eject; absent is 5, 0 is off.
    #[serde(rename = "consecutive5xxErrors")]
    #[schemars(transform = nullable)]
    pub consecutive_5xx_errors: Option<u32>,
    /// Status codes that count as errors.
    #[serde(rename = "outlierDetectionHttpErrorCodes")]
    #[schemars(transform = crate::schema::each("minimum", 100), transform = crate::schema::each("maximum", 599))]
    pub http_error_codes: Vec<u32>,
    /// Time between sweeps; absent is 10s.
    pub interval: Option<Duration>,
    /// First ejection's length, growing with each further one; absent is 30s.
    pub base_ejection_time: Option<Duration>,
    /// Largest share of endpoints ejected, in percent; absent is 10.
    pub max_ejection_percent: Option<i32>,
    /// Below this share of healthy endpoints ejection stops; absent is 0.
    pub min_health_percent: Option<i32>,
}

/// How clients encrypt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTlsSettings {
    /// Absent is DISABLE.
    pub mode: Option<ClientTlsMode>,
    /// File of the client's certificate (MUTUAL).
    pub client_certificate: Option<String>,
    /// File of the client's private key (MUTUAL).
    pub private_key: Option<String>,
    /// File of the authorities that may sign the server; absent is the system's.
    pub ca_certificates: Option<String>,
    /// Secret with the certificates, on gateways.
    pub credential_name: Option<String>,
    /// Names the server's certificate must hold one of.
    pub subject_alt_names: Vec<String>,
    /// SNI to send.
    pub sni: Option<String>,
    /// Do not verify the server.
    #[schemars(transform = nullable)]
    pub insecure_skip_verify: Option<bool>,
    /// File of revoked certificates.
    pub ca_crl: Option<String>,
}

/// How clients encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

/// Tunnel TCP through an HTTP proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("targetHost targetPort"))]
pub struct TunnelSettings {
    /// CONNECT (the default) or POST.
    pub protocol: Option<String>,
    /// Host to ask the proxy for.
    pub target_host: String,
    /// Port to ask the proxy for.
    pub target_port: u32,
}

/// Send the PROXY protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyProtocol {
    /// V1 (the default) or V2.
    pub version: Option<ProxyProtocolVersion>,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// Limit retries to a share of the requests in flight.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Share in percent; absent is 20.
    #[schemars(transform = nullable, transform = limit("minimum", 0), transform = limit("maximum", 100))]
    pub percent: Option<f64>,
    /// Retries that are always allowed; absent is 3.
    pub min_retry_concurrency: Option<u32>,
    /// Time over which requests are counted; absent counts those in flight.
    pub budget_interval: Option<DurationOrZero>,
}
