//! Clusters: how their endpoints are found, chosen, limited, connected to and judged.

mod balance;
pub mod health;
mod http_options;
mod outlier;
mod parse;
pub(crate) mod resolver;
pub mod subset;
mod transport;

pub use health::HealthCheck;
pub(crate) use http_options::part;
pub use http_options::{CommonHttp, Underscores};
pub(crate) use parse::DEFAULT_BUFFER_LIMIT;
pub use resolver::DnsResolver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config_source::ConfigSource;
use crate::endpoints::EndpointSet;
use crate::listener::{SocketOption, TcpKeepalive};
use crate::metadata::{Metadata, Object, Value};
use crate::peer_metadata::MetadataExchange;
use crate::tls::UpstreamTls;

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Resource name.
    pub name: Arc<str>,
    /// Name in statistics (`alt_stat_name`, else the name).
    pub stat_name: Arc<str>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// Limit for connecting, TLS handshake included.
    pub connect_timeout: Duration,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Circuit breakers of the default priority and of the high one.
    pub thresholds: [Thresholds; 2],
    /// Connection limit of each endpoint (`per_host_thresholds`).
    pub max_connections_per_host: Option<u32>,
    /// Passive health checks.
    pub outlier: Option<OutlierDetection>,
    /// Active health checks.
    pub health_check: Option<HealthCheck>,
    /// Endpoints that leave the load assignment go at once, however healthy.
    pub ignore_health_on_removal: bool,
    /// HTTP towards this cluster.
    pub http: UpstreamHttp,
    /// The transport for endpoints that no entry of `transport_matches` takes.
    pub transport: Transport,
    /// First entry whose criteria the endpoint's `envoy.transport_socket_match` metadata contains.
    pub transport_matches: Vec<TransportMatch>,
    /// Keep-alive on connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Where connections come from.
    pub bind: Option<Bind>,
    /// Bytes buffered per connection before reading stops.
    pub buffer_limit: u32,
    /// How often ORIGINAL_DST hosts without connections are forgotten.
    pub cleanup_interval: Duration,
    /// Close connections of an endpoint once it is seen as unhealthy.
    pub close_on_health_failure: bool,
    /// Each downstream connection has its own pool.
    pub pool_per_downstream: bool,
    /// Connections opened ahead of need.
    pub preconnect: Option<Preconnect>,
    /// Metadata: `istio` has the service and the rule behind the cluster.
    pub metadata: Metadata,
    /// What of that metrics and metadata exchange look at with every request.
    pub mesh: MeshFacts,
    /// Proxies tell each other who they are on connections of bytes, where the handshake agrees on it.
    pub exchange: Option<MetadataExchange>,
}

/// What `metadata.istio` says of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshFacts {
    /// The first of the services behind it.
    pub service: Option<ServiceName>,
    /// Outside of the mesh (`external`), or where nobody knows what is behind it.
    pub external: bool,
    /// It must not be told who calls (`disable_mx`).
    pub secretive: bool,
}

/// How metrics name a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceName {
    /// Host name.
    pub host: Box<str>,
    /// Name of the object.
    pub name: Box<str>,
    /// Its namespace; may be empty.
    pub namespace: Box<str>,
}

impl MeshFacts {
    pub(crate) fn of(name: &str, metadata: &Metadata) -> Self {
        let istio = metadata.get("istio");
        let flag = |key| {
            matches!(
                istio.and_then(|istio| istio.get(key)),
                Some(Value::Bool(true))
            )
        };
        let service = match istio.and_then(|istio| istio.get("services")) {
            Some(Value::List(services)) => services.first(),
            _ => None,
        };
        Self {
            service: service.and_then(ServiceName::of),
            external: flag("external") || name == "PassthroughCluster",
            secretive: flag("disable_mx"),
        }
    }
}

impl ServiceName {
    fn of(service: &Value) -> Option<Self> {
        let Value::Object(service) = service else {
            return None;
        };
        let text = |key| match service.get(key) {
            Some(Value::String(text)) => text.as_str(),
            _ => "",
        };
        let host = text("host");
        let name = match text("name") {
            "" => host.split('.').next().unwrap_or_default(),
            name => name,
        };
        Some(Self {
            host: host.into(),
            name: name.into(),
            namespace: text("namespace").into(),
        })
    }
}

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// Written in the cluster.
    Static(Arc<EndpointSet>),
    /// Every address the names resolve to.
    StrictDns(Dns),
    /// One logical endpoint: each new connection takes the current first address.
    LogicalDns(Dns),
    /// From the load assignment of this name.
    Eds {
        /// EDS resource name.
        service: Arc<str>,
        /// Where it comes from.
        source: ConfigSource,
    },
    /// The connection's original destination, or a header.
    OriginalDst(OriginalDst),
}

/// DNS discovery.
#[derive(Debug, Clone)]
pub struct Dns {
    /// Names and ports, with localities and priorities.
    pub template: Arc<EndpointSet>,
    /// Time between look-ups.
    pub refresh: Duration,
    /// Up to so much is added to each.
    pub jitter: Duration,
    /// Time between look-ups that failed, if it is another one: first and longest.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// Use the answer's TTL instead of `refresh`.
    pub respect_ttl: bool,
    /// But never look again sooner than this.
    pub min_ttl: Duration,
    /// Address families.
    pub family: DnsFamily,
    /// Who is asked; `None` leaves the bootstrap's.
    pub resolver: Option<Arc<DnsResolver>>,
}

/// `DnsLookupFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6 first, IPv4 if there is none.
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4 first, IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// `OriginalDstLbConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginalDst {
    /// Take the address from this header.
    pub header: Option<http::HeaderName>,
    /// Replace the port.
    pub port_override: Option<u16>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// Inside a priority.
    pub policy: BalancePolicy,
    /// Across localities.
    pub locality: LocalityPolicy,
    /// Percent of healthy endpoints below which health is disregarded; 0 switches that off.
    pub panic_threshold: f64,
    /// Endpoints are grouped by metadata, and requests go to a group.
    pub subsets: Option<Arc<subset::Subsets>>,
    /// New endpoints get less at first.
    pub slow_start: Option<SlowStart>,
    /// Changes of membership or weight closes connections of the cluster.
    pub close_on_set_change: bool,
    /// Endpoints do not count before their first active health check (`ignore_new_hosts_until_first_hc`).
    pub ignore_unchecked: bool,
}

/// Inside a priority.
#[derive(Debug, Clone, PartialEq)]
pub enum BalancePolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The least busy of some.
    LeastRequest {
        /// How many are compared; at least 2.
        choices: u32,
        /// How strongly load counts against weight when weights differ.
        active_request_bias: f64,
        /// Compare all of them.
        full_scan: bool,
    },
    /// Any, by weight.
    Random,
    /// The better of two, by recent latency and requests under way (Malla's own, as Linkerd's).
    PeakEwma {
        /// A latency's weight falls to 1/e in this time.
        decay: Duration,
        /// Latency of an endpoint that has not answered yet.
        default_rtt: Duration,
    },
    /// Ring hash.
    RingHash {
        /// Fewest entries of the ring.
        min_size: u64,
        /// Most entries of the ring.
        max_size: u64,
        /// Murmur hash 2 instead of xxHash.
        murmur: bool,
        /// Hash the hostname, not the address.
        by_hostname: bool,
        /// Bounded load, percent of the average (at least 100); `None` unbounded.
        balance_factor: Option<u32>,
    },
    /// Maglev.
    Maglev {
        /// Entries of the table, a prime.
        table_size: u64,
        /// Hash the hostname, not the address.
        by_hostname: bool,
        /// As in ring hash.
        balance_factor: Option<u32>,
    },
    /// The cluster gives the endpoint: ORIGINAL_DST.
    ClusterProvided,
}

/// Across localities of one priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalityPolicy {
    /// Localities do not matter.
    None,
    /// By locality weight.
    Weighted,
    /// Own zone first where that does not overload it.
    ZoneAware(ZoneAware),
}

/// `ZoneAwareLbConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneAware {
    /// Percent of requests it applies to.
    pub enabled_percent: u32,
    /// Off below so many healthy endpoints.
    pub min_cluster_size: u64,
    /// In panic fail instead of using unhealthy endpoints.
    pub fail_on_panic: bool,
    /// All to the own zone, if it has so many healthy endpoints.
    pub force_local: Option<u32>,
    /// Zones are compared by their endpoints' weights, not by their number.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    /// Envoy's, which also hold for clusters that say nothing.
    fn default() -> Self {
        Self {
            enabled_percent: 100,
            min_cluster_size: 6,
            fail_on_panic: false,
            force_local: None,
            by_weight: false,
        }
    }
}

impl LocalityPolicy {
    /// How requests are shared between zones where the proxy knows the others that share the work.
    pub fn zones(&self) -> Option<ZoneAware> {
        match self {
            Self::None => Some(ZoneAware::default()),
            Self::Weighted => None,
            Self::ZoneAware(settings) => Some(*settings),
        }
    }
}

/// `SlowStartConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long an endpoint is new.
    pub window: Duration,
    /// Exponent's inverse of the weight curve; 1 is linear.
    pub aggression: f64,
    /// Percent of the weight it starts with.
    pub min_weight_percent: f64,
}

/// One set of circuit breakers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Connections.
    pub max_connections: u32,
    /// Requests waiting for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight; not used with a budget.
    pub max_retries: u32,
    /// Retries as a share of requests in flight.
    pub retry_budget: Option<RetryBudget>,
    /// Keep `remaining_*` gauges.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// `RetryBudget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of requests in flight and pending.
    pub percent: f64,
    /// Always allow so many.
    pub min_concurrency: u32,
}

/// Passive health checks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetection {
    /// 5xx answers in a row; `None` does not eject.
    pub consecutive_5xx: Enforced,
    /// 502, 503, 504 in a row.
    pub consecutive_gateway_failure: Enforced,
    /// Connect failures, resets and timeouts in a row, where they are told apart.
    pub consecutive_local_origin_failure: Enforced,
    /// Tell local failures from answers of the endpoint.
    pub split_local_origin_errors: bool,
    /// Time between sweeps.
    pub interval: Duration,
    /// Ejection lasts this times the number of ejections.
    pub base_ejection_time: Duration,
    /// But never longer than this.
    pub max_ejection_time: Duration,
    /// Up to so much is added to each ejection.
    pub max_ejection_jitter: Duration,
    /// Percent of endpoints that may be ejected.
    pub max_ejection_percent: u32,
    /// One endpoint may be ejected whatever the percentage.
    pub always_eject_one: bool,
    /// An active health check that succeeds ends the ejection.
    pub uneject_on_check: bool,
    /// Statistical ejection by success rate.
    pub success_rate: SuccessRate,
    /// Statistical ejection by failure percentage.
    pub failure_percentage: FailurePercentage,
}

/// A count, and the percent of cases in which reaching it ejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// So many in a row.
    pub threshold: u32,
    /// 0 detects without ejecting.
    pub enforcing_percent: u32,
}

/// Success-rate ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Percent of detections that eject.
    pub enforcing_percent: u32,
    /// The same for local failures, where told apart.
    pub enforcing_local_percent: u32,
    /// Endpoints with enough volume needed.
    pub minimum_hosts: u32,
    /// Requests in an interval needed to count.
    pub request_volume: u32,
    /// Thousandths of a standard deviation below the mean.
    pub stdev_factor: u32,
}

/// Failure-percentage ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Eject at this percent of failures.
    pub threshold: u32,
    /// Percent of detections that eject.
    pub enforcing_percent: u32,
    /// The same for local failures, where told apart.
    pub enforcing_local_percent: u32,
    /// Endpoints with enough volume needed.
    pub minimum_hosts: u32,
    /// Requests in an interval needed to count.
    pub request_volume: u32,
}

/// HTTP towards a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamHttp {
    /// Which protocol to speak.
    pub protocol: UpstreamProtocol,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// Close connections without requests after so long; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Close connections older than this once they are free.
    pub max_connection_duration: Option<Duration>,
    /// Limit for a whole request and answer.
    pub max_stream_duration: Option<Duration>,
    /// Requests per connection; `None` unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// Header fields in an answer.
    pub max_headers: u32,
    /// KiB of header in an answer; `None` is Envoy's 60.
    pub max_response_headers_kb: Option<u32>,
    /// SNI is the request's host.
    pub auto_sni: bool,
    /// The server's DNS SAN must match that host.
    pub auto_san_validation: bool,
    /// Header to take instead of the host.
    pub auto_sni_header: Option<http::HeaderName>,
}

/// Which HTTP to speak upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge on plain text.
    Http2,
    /// What the client speaks.
    Downstream,
    /// What ALPN settles; HTTP/1.1 on plain text.
    Alpn,
}

/// `Http1ProtocolOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http1Options {
    /// Serve HTTP/1.0 requests too.
    pub accept_http_10: bool,
    /// Host for HTTP/1.0 requests without one.
    pub default_host_for_http_10: Option<String>,
    /// Pass trailers on.
    pub enable_trailers: bool,
    /// Header names as they came, not lower case.
    pub preserve_case: bool,
    /// Header names in Proper-Case.
    pub proper_case: bool,
    /// Accept absolute-form targets.
    pub allow_absolute_url: bool,
    /// Accept any method's name.
    pub custom_methods: bool,
    /// Read a request with both framings by its chunks; it is refused otherwise.
    pub chunked_length: bool,
}

/// `Http2ProtocolOptions`; `None` leaves the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http2Options {
    /// Concurrent streams.
    pub max_concurrent_streams: Option<u32>,
    /// Bytes of a stream's window.
    pub initial_stream_window_size: Option<u32>,
    /// Bytes of the connection's window.
    pub initial_connection_window_size: Option<u32>,
    /// HPACK table bytes.
    pub hpack_table_size: Option<u32>,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// When the peer is asked whether it is there.
    pub keepalive: Option<Http2Keepalive>,
    /// What a peer may send and make us send without asking for anything.
    pub floods: FloodLimits,
}

/// `KeepaliveSettings`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Http2Keepalive {
    /// Between two PINGs.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The interval is longer by up to this part of it, 0.15 for 15 %.
    pub jitter: f64,
}

impl Http2Keepalive {
    /// The interval of one connection; `random` is below 1.
    pub fn interval(&self, random: f64) -> Duration {
        self.interval.mul_f64(1.0 + self.jitter * random)
    }
}

/// The limits of `Http2ProtocolOptions` on frames that ask for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// `max_outbound_frames`: that wait to be sent.
    pub frames: u32,
    /// `max_outbound_control_frames`: answers to PING and SETTINGS, and RST_STREAM, among them.
    pub control_frames: u32,
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub priorities_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub window_updates_per_data: u32,
}

impl Default for FloodLimits {
    /// Envoy's.
    fn default() -> Self {
        Self {
            frames: 10_000,
            control_frames: 1000,
            empty_frames: 1,
            priorities_per_stream: 100,
            window_updates_per_data: 10,
        }
    }
}

/// How bytes travel to an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Transport {
    /// TLS, or plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// A PROXY protocol header of this version first.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// PROXY protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// One entry of `transport_socket_matches`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// Name, `tlsMode-istio` for one.
    pub name: String,
    /// All of it must be in the endpoint's metadata; empty takes every endpoint.
    pub criteria: Object,
    /// The transport for those.
    pub transport: Transport,
}

/// `PreconnectPolicy`: streams to be ready for, over those that there are; 1 is none ahead of need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preconnect {
    /// At each endpoint that has been asked.
    pub per_upstream: f64,
    /// Over the cluster, at the endpoints that are asked next.
    pub predictive: f64,
}

/// `BindConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bind {
    /// Source addresses, one for each family; port 0 leaves the port to the system.
    pub sources: Vec<SocketAddr>,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// Set on each socket before it is bound.
    pub options: Vec<SocketOption>,
}

impl Bind {
    /// The source for connections to `address`.
    pub fn source_for(&self, address: SocketAddr) -> Option<SocketAddr> {
        let mut sources = self.sources.iter().copied();
        sources.find(|source| source.is_ipv4() == address.is_ipv4())
    }
}

impl Cluster {
    /// The transport for an endpoint with this metadata, with the name of the match that chose it.
    pub fn transport_for(&self, metadata: &Metadata) -> (&Transport, Option<&str>) {
        let have = metadata.get("envoy.transport_socket_match");
        let fits = |entry: &&TransportMatch| {
            entry
                .criteria
                .iter()
                .all(|(key, want)| have.and_then(|have| have.get(key)) == Some(want))
        };
        match self.transport_matches.iter().find(fits) {
            Some(entry) => (&entry.transport, Some(&entry.name)),
            None => (&self.transport, None),
        }
    }
}
