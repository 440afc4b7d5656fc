//! Kubernetes' own objects: Services with their EndpointSlices, Pods and Nodes, Secrets.
//!
//! Invariant: a Pod is a workload whether it is ready or not; an endpoint's health says whether
//! clients should use it. Host names follow Istio: `<name>.<namespace>.svc.<domain>`.

pub mod endpoints;
pub mod secret;
pub mod service;
pub mod workload;

pub use endpoints::endpoints;
pub use service::service;
pub use workload::{locality, workload};

/// Kubernetes' well-known label for a region.
pub(crate) const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Kubernetes' well-known label for a zone.
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Istio's label for what is smaller than a zone.
pub(crate) const SUBZONE_LABEL: &str = "topology.istio.io/subzone";
/// Istio's label for a pod's locality, `region.zone.subzone`; wins over the node's.
pub(crate) const LOCALITY_LABEL: &str = "istio-locality";
/// Istio's label for the network a workload is on.
pub(crate) const NETWORK_LABEL: &str = "topology.istio.io/network";
