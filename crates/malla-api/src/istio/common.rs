//! Shapes that several kinds share: string matches, selectors, ports, policy targets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::{at_most_one, each_rule, limit, pattern, required, rule};

/// How to compare a text; case-sensitive. At most one of the fields may be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("exact prefix regex"))]
pub struct StringMatch {
    /// The whole text is this.
    pub exact: Option<String>,
    /// The text starts with this.
    pub prefix: Option<String>,
    /// The whole text matches this regular expression (RE2 syntax).
    pub regex: Option<String>,
}

/// Selects workloads by their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels a workload must carry, all of them.
    #[schemars(transform = match_labels)]
    pub match_labels: BTreeMap<String, String>,
}

fn match_labels(schema: &mut schemars::Schema) {
    limit("maxProperties", 4096)(schema);
    rule(
        "self.all(key, !key.contains('*'))",
        "wildcard not allowed in label key match",
    )(schema);
    rule("self.all(key, key.size() != 0)", "key must not be empty")(schema);
    if let Some(serde_json::Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".into(), 63.into());
    }
    each_rule(
        "!self.contains('*')",
        "wildcard not allowed in label value match",
    )(schema);
}

/// Selects workloads by their labels (the networking kinds' older spelling).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels a workload must carry, all of them.
    #[schemars(transform = selector_labels)]
    pub labels: BTreeMap<String, String>,
}

fn selector_labels(schema: &mut schemars::Schema) {
    limit("maxProperties", 256)(schema);
    if let Some(serde_json::Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".into(), 63.into());
    }
    each_rule(
        "!self.contains('*')",
        "wildcard is not supported in selector",
    )(schema);
}

/// Attaches a policy to another object of the same namespace, such as a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("kind name"))]
pub struct PolicyTargetReference {
    /// API group of the target; empty is the core group.
    #[schemars(transform = limit("maxLength", 253))]
    #[schemars(transform = pattern("^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub group: Option<String>,
    /// Kind of the target.
    #[schemars(transform = limit("minLength", 1), transform = limit("maxLength", 63))]
    #[schemars(transform = pattern("^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub kind: String,
    /// Name of the target.
    #[schemars(transform = limit("minLength", 1), transform = limit("maxLength", 253))]
    pub name: String,
    /// Must be empty: a policy reaches only its own namespace.
    #[schemars(transform = rule("self.size() == 0", "cross namespace referencing is not currently supported"))]
    pub namespace: Option<String>,
}

/// The rule of every kind that takes both a selector and targets.
pub const ONE_ATTACHMENT: &str = "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1";
/// Its message.
pub const ONE_ATTACHMENT_MESSAGE: &str = "only one of targetRefs or selector can be set";

/// A port, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    /// Port number, 1 to 65535.
    pub number: Option<u32>,
}

/// A share, in percent; 0.0 to 100.0.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Percent {
    /// Percent, such as 0.1 or 50.
    pub value: f64,
}

/// Bounds of a port number as CEL.
pub const PORT_RULE: &str = "0 < self && self <= 65535";
/// Its message.
pub const PORT_MESSAGE: &str = "port must be between 1-65535";
