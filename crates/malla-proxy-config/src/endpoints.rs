//! The endpoints of one cluster: localities, priorities, weights.

use std::sync::Arc;

use crate::address::Address;
use crate::matcher::Fraction;
use crate::metadata::Metadata;

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSet {
    /// The EDS service name or the cluster's own name.
    pub cluster_name: Arc<str>,
    /// In the order given; several may share a priority.
    pub localities: Vec<LocalityEndpoints>,
    /// In percent; 140 means a priority takes all traffic while at least 1/1.4 of it is healthy.
    pub overprovisioning_factor: u32,
    /// Share of requests to drop, by category.
    pub drop_overloads: Vec<(String, Fraction)>,
    /// Health of a priority is measured by weight, not by count.
    pub weighted_priority_health: bool,
}

/// One locality at one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    /// Region, zone and sub-zone.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// For locality-weighted balancing; `None` or 0 gets no traffic there.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Metadata of the locality.
    pub metadata: Metadata,
}

/// Where endpoints are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone in the region.
    pub zone: String,
    /// Part of the zone.
    pub sub_zone: String,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// The name for `auto_host_rewrite` and hostname hashing; may be empty.
    pub hostname: String,
    /// As the control plane sees it.
    pub health: Health,
    /// At least 1.
    pub weight: u32,
    /// Chooses the transport socket, carries `istio.workload`.
    pub metadata: Metadata,
}

/// `envoy.config.core.v3.HealthStatus`, folded to what balancing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// UNKNOWN or HEALTHY.
    Healthy,
    /// DEGRADED: used after the healthy ones.
    Degraded,
    /// UNHEALTHY or TIMEOUT.
    Unhealthy,
    /// DRAINING: as unhealthy for new requests.
    Draining,
}
