//! Kubernetes objects as values: keys, typed views, owners.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use malla_apiserver::{ApiError, Client, ListParams, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Namespace and name. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub(crate) fn of(object: &Value) -> Self {
        Self::new(
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        )
    }

    pub(crate) fn of_meta(metadata: &ObjectMeta) -> Self {
        Self::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    }

    /// The namespace as clients take it.
    pub(crate) fn scope(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The text at a JSON pointer; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A typed view of a stored object. What the server stored has the right shape, so a failure is
/// an internal error.
pub(crate) fn typed<K: DeserializeOwned>(object: &Value) -> Result<K, ApiError> {
    K::deserialize(object).map_err(|error| {
        let key = Key::of(object);
        ApiError::internal(format!(
            "stored object {key} has an unexpected shape: {error}"
        ))
    })
}

/// Reads one object; `None` when there is none.
pub(crate) fn find<K: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    key: &Key,
) -> Result<Option<K>, ApiError> {
    match find_raw(client, resource, key)? {
        Some(object) => Ok(Some(typed(&object)?)),
        None => Ok(None),
    }
}

pub(crate) fn find_raw(
    client: &Client,
    resource: &Resource,
    key: &Key,
) -> Result<Option<Arc<Value>>, ApiError> {
    match client.get(resource, key.scope(), &key.name) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists objects of a namespace (or all) that `wanted` picks, as typed views.
pub(crate) fn list<K: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    namespace: Option<&str>,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<K>, ApiError> {
    let listed = client.list(resource, namespace, &ListParams::default())?;
    listed
        .items
        .iter()
        .filter(|object| wanted(object))
        .map(|object| typed(object))
        .collect()
}

/// Whether `uid` is the controlling owner of `object`.
pub(crate) fn is_controlled_by(object: &Value, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| text(owner, "/uid") == uid)
}

/// The controlling owner reference of an object.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners
        .iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// A reference that makes an object the controller of another.
pub(crate) fn controlled_by(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Reads `matchLabels` and `matchExpressions` over an object's labels.
pub(crate) fn selects(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|expression| {
            let found = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "In" => found.is_some_and(|value| values.contains(value)),
                "NotIn" => found.is_none_or(|value| !values.contains(value)),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// Labels of an object; empty when it has none.
pub(crate) fn labels(metadata: &ObjectMeta) -> std::collections::BTreeMap<String, String> {
    metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
