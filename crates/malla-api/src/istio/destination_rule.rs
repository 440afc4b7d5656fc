//! DestinationRule: what happens after routing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::WorkloadSelector;
use super::traffic_policy::TrafficPolicy;
use crate::schema::required;

/// What happens after routing: subsets, load balancing, connection pools, ejection, TLS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("host"))]
pub struct DestinationRuleSpec {
    /// The service this is about. Without a dot, a service of this object's namespace.
    pub host: String,
    /// The policy of the whole service.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service, such as its versions.
    pub subsets: Vec<Subset>,
    /// Namespaces that see this object: names, `.` (this one), `*` (all).
    pub export_to: Vec<String>,
    /// Only for these client workloads of this namespace.
    pub workload_selector: Option<WorkloadSelector>,
}

/// A named part of a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct Subset {
    /// Name, as routes refer to it.
    pub name: String,
    /// Labels of the endpoints that belong to it.
    pub labels: BTreeMap<String, String>,
    /// Overrides the service's policy, block by block.
    pub traffic_policy: Option<TrafficPolicy>,
}
