//! WorkloadEntry: one endpoint outside of Kubernetes, such as a virtual machine.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::common::{PORT_MESSAGE, PORT_RULE};
use crate::schema::{each_rule, limit, rule};

/// One endpoint outside of Kubernetes, such as a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = uds_has_no_ports)]
pub struct WorkloadEntrySpec {
    /// IP address, DNS name (with resolution DNS only) or `unix:///path`.
    #[schemars(transform = address)]
    pub address: Option<String>,
    /// Port numbers by the service's port names; absent is the service's own.
    #[schemars(transform = ports)]
    pub ports: BTreeMap<String, u32>,
    /// Labels, for subsets and selectors.
    #[schemars(transform = limit("maxProperties", 256))]
    pub labels: BTreeMap<String, String>,
    /// Network it is on.
    #[schemars(transform = limit("maxLength", 2048))]
    pub network: Option<String>,
    /// `region/zone/subzone`.
    #[schemars(transform = limit("maxLength", 2048))]
    pub locality: Option<String>,
    /// Share relative to the other endpoints.
    pub weight: Option<u32>,
    /// Service account it runs as, for its identity.
    #[schemars(transform = limit("maxLength", 253))]
    pub service_account: Option<String>,
}

/// The rule a WorkloadEntry has and a WorkloadGroup's template has not.
pub(super) fn needs_address(schema: &mut Schema) {
    rule(
        "has(self.address) || has(self.network)",
        "Address is required",
    )(schema);
}

fn uds_has_no_ports(schema: &mut Schema) {
    rule(
        "(has(self.address) ? self.address : '').startsWith('unix://') ? !has(self.ports) : true",
        "UDS may not include ports",
    )(schema);
}

fn address(schema: &mut Schema) {
    limit("maxLength", 256)(schema);
    rule(
        "self.startsWith('unix://') ? (self.substring(7, 8) == '/' || self.substring(7, 8) == '@') : true",
        "UDS must be an absolute path or abstract socket",
    )(schema);
    rule(
        "self.startsWith('unix://') ? !self.endsWith('/') : true",
        "UDS may not be a dir",
    )(schema);
}

fn ports(schema: &mut Schema) {
    limit("maxProperties", 128)(schema);
    rule(
        "self.all(key, size(key) < 63 && key.matches('^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$'))",
        "port name must be valid",
    )(schema);
    each_rule(PORT_RULE, PORT_MESSAGE)(schema);
}

/// The schema of a WorkloadEntry that stands alone or in a ServiceEntry.
pub(super) fn standing_alone(schema: &mut Schema) {
    match schema.get_mut("items").map(<&mut Schema>::try_from) {
        Some(Ok(items)) => needs_address(items),
        Some(Err(_)) => {}
        None => needs_address(schema),
    }
}

/// The CRD's schema of the kind itself.
#[must_use]
pub fn schema() -> Value {
    let mut value = crate::schema::structural::<WorkloadEntrySpec>();
    if let Ok(schema) = <&mut Schema>::try_from(&mut value) {
        needs_address(schema);
    }
    value
}
