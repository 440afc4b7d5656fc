//! The TCP proxy filter.

mod parse;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::metadata::Metadata;

pub use tunnel::Tunnel;

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Where connections go; never empty.
    pub clusters: Vec<WeightedTarget>,
    /// Sum of the weights; at least 1.
    pub total_weight: u64,
    /// Only endpoints with this `envoy.lb` metadata.
    pub metadata_match: Option<Metadata>,
    /// Close after so long without bytes either way; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Close after so long in any case.
    pub max_connection_duration: Option<Duration>,
    /// Up to so much longer, as a share of it.
    pub max_duration_jitter: f64,
    /// Connection attempts; at least 1.
    pub max_connect_attempts: u32,
    /// The first wait between attempts, and the longest; `None` does not wait.
    pub backoff: Option<(Duration, Duration)>,
    /// Consistent hash from the source address.
    pub hash_source_ip: bool,
    /// Bytes go through an HTTP proxy.
    pub tunnel: Option<Box<Tunnel>>,
    /// One record for each connection.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// When else than at the end.
    pub log_options: LogOptions,
}

/// `TcpAccessLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// When the connection has been accepted.
    pub on_start: bool,
    /// When the endpoint is connected.
    pub on_connected: bool,
    /// Again and again.
    pub interval: Option<Duration>,
}

/// A cluster and its share.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedTarget {
    /// Cluster name; it may not exist (yet).
    pub cluster: Arc<str>,
    /// Share of the total.
    pub weight: u64,
    /// Merged over the filter's own `metadata_match`.
    pub metadata_match: Option<Metadata>,
}

impl TcpProxy {
    /// How long a connection may last, given a uniformly random number from 0 to 1.
    pub fn duration_limit(&self, random: f64) -> Option<Duration> {
        let limit = self.max_connection_duration?;
        Some(limit + limit.mul_f64(self.max_duration_jitter * random))
    }

    /// The target for one connection, given a uniformly random number.
    pub fn pick(&self, random: u64) -> Option<&WeightedTarget> {
        let mut point = random % self.total_weight.max(1);
        for target in &self.clusters {
            match point.checked_sub(target.weight) {
                None => return Some(target),
                Some(rest) => point = rest,
            }
        }
        None
    }
}
