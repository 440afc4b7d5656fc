//! The endpoints of one cluster: localities, priorities, weights.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Address;
use crate::checked::{Checked, Cx, Invalid, ignorable, refuse};
use crate::matcher::Fraction;
use crate::metadata::{Metadata, Value};
use crate::pb::{core, endpoint as pb};
use crate::runtime::Values;

/// Envoy's `overprovisioning_factor` when none is given.
pub const DEFAULT_OVERPROVISIONING: u32 = 140;
/// Envoy's limit for a locality's priority.
const MAX_PRIORITY: u32 = 128;

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

/// `named_endpoints`: written once, used by name.
type Named = HashMap<String, pb::Endpoint>;

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
    /// What is different for active health checks.
    pub check: Option<Box<CheckTarget>>,
    /// Further addresses of the same endpoint, tried when `address` does not answer (RFC 8305).
    pub more_addresses: Vec<SocketAddr>,
}

/// `Endpoint.HealthCheckConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckTarget {
    /// Where checks go instead.
    pub address: Option<Address>,
    /// The host of their requests; may be empty.
    pub hostname: String,
    /// It is not checked, and counts as healthy.
    pub disabled: bool,
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

impl EndpointSet {
    /// Parses one load assignment.
    pub fn from_proto(wire: pb::ClusterLoadAssignment) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    /// As [`Self::from_proto`], with runtime values.
    pub fn from_proto_with(
        wire: pb::ClusterLoadAssignment,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    pub(crate) fn parse(wire: pb::ClusterLoadAssignment, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::ClusterLoadAssignment {
            cluster_name,
            endpoints,
            named_endpoints,
            policy,
        } = wire;
        if cluster_name.is_empty() {
            return Err(cx.invalid("cluster_name", "is required"));
        }
        let localities = cx.each("endpoints", endpoints, |wire, cx| {
            LocalityEndpoints::parse(wire, &named_endpoints, cx)
        })?;
        let mut set = Self {
            cluster_name: cluster_name.into(),
            localities,
            overprovisioning_factor: DEFAULT_OVERPROVISIONING,
            drop_overloads: Vec::new(),
            weighted_priority_health: false,
        };
        if let Some(policy) = policy {
            cx.field("policy", |cx| set.parse_policy(policy, cx))?;
        }
        Ok(set)
    }

    fn parse_policy(
        &mut self,
        wire: pb::cluster_load_assignment::Policy,
        cx: &mut Cx,
    ) -> Result<(), Invalid> {
        let pb::cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = wire;
        refuse!(cx; endpoint_stale_after);
        self.weighted_priority_health = weighted_priority_health;
        self.overprovisioning_factor =
            overprovisioning_factor.map_or(DEFAULT_OVERPROVISIONING, |factor| factor.value);
        self.drop_overloads = cx.each("drop_overloads", drop_overloads, |overload, cx| {
            let share = cx.required("drop_percentage", overload.drop_percentage)?;
            Ok((
                overload.category,
                cx.field("drop_percentage", |cx| Fraction::parse(share, cx))?,
            ))
        })?;
        Ok(())
    }

    /// All endpoints with their locality.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalityEndpoints, &Arc<Endpoint>)> {
        self.localities.iter().flat_map(|locality| {
            locality
                .endpoints
                .iter()
                .map(move |endpoint| (locality, endpoint))
        })
    }
}

impl LocalityEndpoints {
    fn parse(wire: pb::LocalityLbEndpoints, named: &Named, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::locality_lb_endpoints::LbConfig;
        let pb::LocalityLbEndpoints {
            locality,
            metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity,
            lb_config,
        } = wire;
        ignorable!(cx; proximity);
        let listed = match lb_config {
            None => Vec::new(),
            Some(LbConfig::LoadBalancerEndpoints(list)) => list.lb_endpoints,
            Some(LbConfig::LedsClusterLocalityConfig(_)) => {
                return Err(cx.invalid(
                    "leds_cluster_locality_config",
                    "not supported by this proxy; list the endpoints",
                ));
            }
        };
        if priority > MAX_PRIORITY {
            return Err(cx.invalid(
                "priority",
                format!("{priority} is more than {MAX_PRIORITY}"),
            ));
        }
        let locality = locality.unwrap_or_default();
        Ok(Self {
            locality: Locality {
                region: locality.region,
                zone: locality.zone,
                sub_zone: locality.sub_zone,
            },
            priority,
            weight: load_balancing_weight.map(|weight| weight.value),
            endpoints: cx.each(
                "lb_endpoints",
                lb_endpoints.into_iter().chain(listed),
                |wire, cx| Endpoint::parse(wire, named, cx).map(Arc::new),
            )?,
            metadata: Metadata::parse(metadata, "metadata", cx),
        })
    }
}

impl Endpoint {
    /// `istio.workload` of its metadata: what the control plane says of the workload there.
    pub fn workload(&self) -> Option<&str> {
        match self.metadata.get("istio")?.get("workload")? {
            Value::String(workload) => Some(workload),
            _ => None,
        }
    }

    fn parse(wire: pb::LbEndpoint, named: &Named, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::lb_endpoint::HostIdentifier;
        let pb::LbEndpoint {
            health_status,
            metadata,
            load_balancing_weight,
            host_identifier,
        } = wire;
        let endpoint = match cx.required("endpoint", host_identifier)? {
            HostIdentifier::Endpoint(endpoint) => endpoint,
            HostIdentifier::EndpointName(name) => named.get(&name).cloned().ok_or_else(|| {
                cx.invalid(
                    "endpoint_name",
                    format!("`{name}` is not among named_endpoints"),
                )
            })?,
        };
        let pb::Endpoint {
            address,
            health_check_config,
            hostname,
            additional_addresses,
            observability_name,
        } = endpoint;
        ignorable!(cx; observability_name);
        let address = cx.required("endpoint.address", address)?;
        let address = cx.field("endpoint.address", |cx| Address::parse(address, cx))?;
        let more_addresses = cx.each(
            "endpoint.additional_addresses",
            additional_addresses,
            |more, cx| {
                let wire = cx.required("address", more.address)?;
                let parsed = cx.field("address", |cx| Address::parse(wire, cx))?;
                parsed
                    .socket()
                    .ok_or_else(|| cx.invalid("address", "must be an IP address with a port"))
            },
        )?;
        Ok(Self {
            check: CheckTarget::parse(health_check_config, &address, cx)?,
            more_addresses,
            address,
            hostname,
            health: Health::from(
                cx.enumeration::<core::HealthStatus>("health_status", health_status)?,
            ),
            weight: load_balancing_weight.map_or(1, |weight| weight.value.max(1)),
            metadata: Metadata::parse(metadata, "metadata", cx),
        })
    }
}

impl CheckTarget {
    fn parse(
        wire: Option<pb::endpoint::HealthCheckConfig>,
        address: &Address,
        cx: &mut Cx,
    ) -> Result<Option<Box<Self>>, Invalid> {
        let Some(wire) = wire else { return Ok(None) };
        cx.field("endpoint.health_check_config", |cx| {
            let pb::endpoint::HealthCheckConfig {
                port_value,
                hostname,
                address: other,
                disable_active_health_check: disabled,
            } = wire;
            let mut target = match other {
                None => None,
                Some(wire) => Some(cx.field("address", |cx| Address::parse(wire, cx))?),
            };
            if port_value > 0 {
                let port = cx.port("port_value", port_value)?;
                match target.as_ref().unwrap_or(address) {
                    Address::Socket(address) => {
                        target = Some(Address::Socket(SocketAddr::new(address.ip(), port)));
                    }
                    Address::Name { host, .. } => {
                        target = Some(Address::Name {
                            host: host.clone(),
                            port,
                        });
                    }
                    Address::Pipe { .. } => {
                        return Err(cx.invalid("port_value", "cannot be used with a pipe"));
                    }
                }
            }
            Ok(Some(Box::new(Self {
                address: target,
                hostname,
                disabled,
            })))
        })
    }
}

impl From<core::HealthStatus> for Health {
    fn from(wire: core::HealthStatus) -> Self {
        match wire {
            core::HealthStatus::Unknown | core::HealthStatus::Healthy => Self::Healthy,
            core::HealthStatus::Degraded => Self::Degraded,
            core::HealthStatus::Unhealthy | core::HealthStatus::Timeout => Self::Unhealthy,
            core::HealthStatus::Draining => Self::Draining,
        }
    }
}
