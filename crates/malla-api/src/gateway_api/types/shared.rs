//! References, and the grants that let them cross namespaces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::{limit, required};

/// What a route attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct ParentRef {
    /// API group; absent is the Gateway API's.
    pub group: Option<String>,
    /// Kind; absent is Gateway.
    pub kind: Option<String>,
    /// Namespace; absent is the route's own.
    pub namespace: Option<String>,
    /// Name of the parent.
    pub name: String,
    /// Name of one listener; absent is all that fit.
    pub section_name: Option<String>,
    /// Port of the listeners; absent is any.
    pub port: Option<u16>,
}

/// Where requests go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct BackendRef {
    /// API group; absent is Kubernetes' core.
    pub group: Option<String>,
    /// Kind; absent is Service.
    pub kind: Option<String>,
    /// Name of the backend.
    pub name: String,
    /// Namespace; absent is the route's own.
    pub namespace: Option<String>,
    /// Port of the Service.
    pub port: Option<u16>,
    /// Share of requests, relative to the others'; absent is 1.
    #[schemars(transform = limit("maximum", 1_000_000))]
    pub weight: Option<u32>,
}

/// Labels to select by, as everywhere in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("key operator"))]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: String,
    /// Values for In and NotIn.
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether these labels are selected; an unknown operator selects nothing.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let pairs = self.match_labels.iter();
        let mut pairs = pairs.map(|(key, value)| labels.get(key) == Some(value));
        let mut rest = self.match_expressions.iter().map(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = value.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        });
        pairs.all(|holds| holds) && rest.all(|holds| holds)
    }
}

/// Lets references of other namespaces into this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("from to"))]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Objects that may refer into the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("group kind namespace"))]
pub struct GrantFrom {
    /// Their API group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("group kind"))]
pub struct GrantTo {
    /// Their API group; empty is Kubernetes' core.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Name of one; absent is all.
    pub name: Option<String>,
}
