//! ServiceEntry: services that Kubernetes does not know.

use schemars::{JsonSchema, Schema};
use serde::Deserialize;

use super::common::{LabelSelector, PORT_MESSAGE, PORT_RULE};
use super::workload_entry::{WorkloadEntrySpec, standing_alone};
use crate::schema::{each, each_rule, limit, list_map, required, rule};

/// A service that Kubernetes does not know: outside of the mesh, or on virtual machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("hosts"), transform = resolution_rules)]
pub struct ServiceEntrySpec {
    /// Names of the service: DNS names or `*.suffix`.
    #[schemars(transform = limit("minItems", 1), transform = limit("maxItems", 256))]
    #[schemars(transform = each_rule("self != '*'", "hostname cannot be wildcard"))]
    pub hosts: Vec<String>,
    /// Virtual IPs or CIDR blocks.
    #[schemars(transform = limit("maxItems", 256), transform = each("maxLength", 64))]
    pub addresses: Vec<String>,
    /// Ports.
    #[schemars(transform = limit("maxItems", 256), transform = list_map("name"))]
    #[schemars(transform = rule("self.all(l1, self.exists_one(l2, l1.number == l2.number))", "port number cannot be duplicated"))]
    pub ports: Vec<ServicePort>,
    /// Whether it is part of the mesh; absent is MESH_EXTERNAL.
    pub location: Option<Location>,
    /// How proxies find its addresses; absent is NONE.
    pub resolution: Option<Resolution>,
    /// Its endpoints.
    #[schemars(transform = limit("maxItems", 4096), transform = standing_alone)]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and WorkloadEntries of this namespace that are its endpoints.
    pub workload_selector: Option<LabelSelector>,
    /// Namespaces that see it: names, `.` (this one), `*` (all), `~` (none).
    pub export_to: Vec<String>,
    /// Names its servers' certificates must hold one of.
    pub subject_alt_names: Vec<String>,
}

fn resolution_rules(schema: &mut Schema) {
    rule(
        "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
        "only one of WorkloadSelector or Endpoints can be set",
    )(schema);
    rule(
        "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains('/')) && !((has(self.resolution) ? self.resolution : 'NONE') in ['STATIC', 'NONE']))",
        "CIDR addresses are allowed only for NONE/STATIC resolution types",
    )(schema);
    rule(
        "((has(self.resolution) ? self.resolution : 'NONE') == 'NONE') ? !has(self.endpoints) : true",
        "NONE mode cannot set endpoints",
    )(schema);
    rule(
        "((has(self.resolution) ? self.resolution : '') == 'DNS_ROUND_ROBIN') ? ((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true",
        "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
    )(schema);
}

/// A port of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("number name"))]
pub struct ServicePort {
    /// Port number that clients use.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub number: u32,
    /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS; absent is looked at.
    #[schemars(transform = limit("maxLength", 256))]
    pub protocol: Option<String>,
    /// Name of the port.
    #[schemars(transform = limit("maxLength", 256))]
    pub name: String,
    /// Port number that servers use; absent is `number`.
    #[schemars(transform = rule(PORT_RULE, PORT_MESSAGE))]
    pub target_port: Option<u32>,
}

/// Whether a service is part of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    #[default]
    MeshExternal,
    MeshInternal,
}

/// How proxies find a service's addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}
