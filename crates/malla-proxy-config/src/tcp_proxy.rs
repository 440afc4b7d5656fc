//! The TCP proxy filter.

mod parse;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::metadata::Metadata;

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
    /// Connection attempts; at least 1.
    pub max_connect_attempts: u32,
    /// Consistent hash from the source address.
    pub hash_source_ip: bool,
    /// One record for each connection.
    pub access_logs: Vec<Arc<AccessLog>>,
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
