//! What happens after routing (Istio: DestinationRule).

use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::id::{Labels, Meta};
use crate::service::Visibility;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    pub meta: Meta,
    pub host: Host,
    pub policy: TrafficPolicy,
    pub subsets: Vec<Subset>,
    pub visibility: Visibility,
    /// Only for these client workloads, when present.
    pub workload_selector: Option<Labels>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: Labels,
    pub policy: TrafficPolicy,
}

/// Blocks are inherited one by one; [`PortPolicy`] replaces the first four as a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
    pub ports: Vec<PortPolicy>,
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortPolicy {
    pub port: u16,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadBalancer {
    pub algorithm: Balance,
    /// `Some(false)` switches locality balancing off; `None` is the mesh's setting.
    pub locality: Option<LocalityBalancing>,
    pub warmup: Option<Warmup>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// Istio's default and its meaning of UNSPECIFIED and LEAST_CONN.
    #[default]
    LeastRequest,
    Random,
    RoundRobin,
    Passthrough,
    Hash {
        key: HashKey,
        table: HashTable,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// Lower case.
    Header(Arc<str>),
    Cookie {
        name: Arc<str>,
        path: Arc<str>,
        ttl: Option<Duration>,
    },
    SourceIp,
    QueryParameter(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashTable {
    Ring { minimum_size: u64 },
    Maglev { size: u64 },
}

impl Default for HashTable {
    fn default() -> Self {
        Self::Ring { minimum_size: 1024 }
    }
}

/// Percents by locality.
pub type Shares = Vec<(Arc<str>, u32)>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalityBalancing {
    pub enabled: Option<bool>,
    /// (from, [(to, percent)])
    pub distribute: Vec<(Arc<str>, Shares)>,
    /// (from region, to region)
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    pub failover_priority: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    pub duration: Duration,
    pub minimum_percent: u32,
    /// Thousandths, 1000 = 1.0.
    pub aggression: u32,
}

/// `None` is Istio's default (practically unlimited), not Envoy's 1024.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<Keepalive>,
    pub max_connection_duration: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub http1_max_pending_requests: Option<u32>,
    pub http2_max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    pub max_retries: Option<u32>,
    pub http_idle_timeout: Option<Duration>,
    pub h2_upgrade: H2Upgrade,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum H2Upgrade {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// Present at all, it also switches locality failover on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutlierDetection {
    pub consecutive_5xx: Option<u32>,
    /// Also set by the old `consecutiveErrors`.
    pub consecutive_gateway_errors: Option<u32>,
    pub consecutive_local_origin_failures: Option<u32>,
    pub split_external_local_origin_errors: bool,
    pub interval: Option<Duration>,
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<u32>,
    pub min_health_percent: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    pub sni: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub client_certificate: Option<Arc<str>>,
    pub private_key: Option<Arc<str>>,
    pub ca_certificates: Option<Arc<str>>,
    pub credential_name: Option<Arc<str>>,
    pub insecure_skip_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryBudget {
    /// Thousandths of a percent.
    pub percent_milli: u32,
    pub min_retry_concurrency: u32,
}
