//! What every object has: its key, its metadata, its generation.
//!
//! Invariant: clients cannot set or change `uid`, `creationTimestamp`, `deletionTimestamp` or `generation`; whatever they send
//! there is replaced by what the server knows.

pub mod labels;
mod validation;

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::error::FieldError;

pub use validation::validate;

/// Longest `generateName` prefix that is kept, so that prefix and suffix fit a DNS label (Kubernetes' `names` package).
const MAX_GENERATED_PREFIX: usize = 58;

/// Where an object is within its resource. Orders by namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts; an empty namespace means cluster-scoped.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object; absent parts are empty.
    pub fn of(object: &Value) -> Self {
        Self::new(text(object, "namespace"), text(object, "name"))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// A precondition that does not hold (HTTP 409).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreconditionError {
    /// `metadata.resourceVersion` differs.
    #[error(
        "the object has been modified; please apply your changes to the latest version and try again"
    )]
    ResourceVersion,
    /// `metadata.uid` differs.
    #[error("Precondition failed: UID in precondition: {want}, UID in object meta: {found}")]
    Uid {
        /// What the client wants.
        want: String,
        /// What the object has.
        found: String,
    },
}

/// What a new object gets from outside.
#[derive(Debug, Clone, Copy)]
pub struct Creation<'a> {
    /// Namespace of the request; empty for cluster-scoped.
    pub namespace: &'a str,
    /// Fresh uid.
    pub uid: &'a str,
    /// Now.
    pub now: Timestamp,
    /// Five random characters for `generateName`.
    pub suffix: &'a str,
}

/// Fills `metadata` of a new object, before defaulting: namespace, name from `generateName`, uid, creationTimestamp, generation 1; drops what
/// clients may not set. `with_status`: the kind has a status subresource, so `status` is dropped on create.
pub fn prepare_create(
    object: &mut Value,
    creation: &Creation<'_>,
    with_status: bool,
) -> Result<(), FieldError> {
    let map = object.as_object_mut().ok_or_else(not_an_object)?;
    if with_status {
        map.remove("status");
    }
    let generation = has_generation(map);
    let metadata = metadata_mut(map)?;
    fill_namespace(metadata, creation.namespace)?;
    if let Some(version) = metadata
        .get("resourceVersion")
        .and_then(Value::as_str)
        .filter(|version| !version.is_empty())
    {
        let detail = "resourceVersion should not be set on objects to be created";
        return Err(FieldError::invalid(
            "metadata.resourceVersion",
            version,
            detail,
        ));
    }
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    let named = metadata
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|name| !name.is_empty());
    if !named
        && let Some(prefix) = metadata
            .get("generateName")
            .and_then(Value::as_str)
            .filter(|prefix| !prefix.is_empty())
    {
        let kept: String = prefix.chars().take(MAX_GENERATED_PREFIX).collect();
        let name = format!("{kept}{}", creation.suffix);
        metadata.insert("name".into(), name.into());
    }
    metadata.insert("uid".into(), creation.uid.into());
    metadata.insert("creationTimestamp".into(), time(creation.now).into());
    if generation {
        metadata.insert("generation".into(), json!(1));
    }
    Ok(())
}

fn fill_namespace(metadata: &mut Map<String, Value>, namespace: &str) -> Result<(), FieldError> {
    match metadata.get("namespace").and_then(Value::as_str) {
        Some(found) if !found.is_empty() && found != namespace => {
            let detail = "the namespace of the provided object does not match the namespace sent on the request";
            Err(FieldError::invalid("metadata.namespace", found, detail))
        }
        _ if namespace.is_empty() => {
            metadata.remove("namespace");
            Ok(())
        }
        _ => {
            metadata.insert("namespace".into(), namespace.into());
            Ok(())
        }
    }
}

/// Carries what clients may not change from `old` to `new` and bumps `generation` when anything outside metadata and status
/// changed. Through the main endpoint of a kind with a status subresource, `status` is kept; through `status`, only `status`
/// (and `managedFields`) is taken from `new`.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: Option<&str>, with_status: bool) {
    if subresource == Some("status") {
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        *new = old.clone();
        let Some(map) = new.as_object_mut() else {
            return;
        };
        set(map, "status", status);
        if let Ok(metadata) = metadata_mut(map) {
            set(metadata, "managedFields", managed);
        }
        return;
    }
    let Some(map) = new.as_object_mut() else {
        return;
    };
    if with_status {
        set(map, "status", old.get("status").cloned());
    }
    let bumped = has_generation(map) && content_differs(map, old, with_status);
    let Ok(metadata) = metadata_mut(map) else {
        return;
    };
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "name",
        "namespace",
    ] {
        set(
            metadata,
            field,
            old.pointer("/metadata")
                .and_then(|metadata| metadata.get(field))
                .cloned(),
        );
    }
    metadata.remove("selfLink");
    if bumped {
        let generation = metadata
            .get("generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        metadata.insert("generation".into(), json!(generation.saturating_add(1)));
    }
}

/// Sets or removes a field, keeping its place if it exists.
fn set(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// Kinds without a spec (ConfigMap, Secret, …) have no generation.
fn has_generation(map: &Map<String, Value>) -> bool {
    map.contains_key("spec") || map.contains_key("webhooks")
}

fn content_differs(new: &Map<String, Value>, old: &Value, with_status: bool) -> bool {
    let is_content = |field: &str| {
        !(field == "metadata"
            || with_status && field == "status"
            || field == "apiVersion"
            || field == "kind")
    };
    let fields = |map: &Map<String, Value>| map.keys().filter(|field| is_content(field)).count();
    let old = old.as_object();
    fields(new) != old.map_or(0, fields)
        || new.iter().any(|(field, value)| {
            is_content(field) && old.and_then(|old| old.get(field)) != Some(value)
        })
}

/// Checks `metadata.resourceVersion` and `metadata.uid` of an update against the live object; absent ones are not checked.
pub fn check_preconditions(new: &Value, live: &Value) -> Result<(), PreconditionError> {
    let (want, found) = (text(new, "uid"), text(live, "uid"));
    if !want.is_empty() && want != found {
        return Err(PreconditionError::Uid {
            want: want.to_owned(),
            found: found.to_owned(),
        });
    }
    let version = text(new, "resourceVersion");
    if !version.is_empty() && version != text(live, "resourceVersion") {
        return Err(PreconditionError::ResourceVersion);
    }
    Ok(())
}

/// Whether two objects are equal but for `resourceVersion` and the times in `managedFields`: writing one over the other is
/// no write at all.
pub fn same_content(a: &Value, b: &Value) -> bool {
    strip_volatile(a) == strip_volatile(b)
}

fn strip_volatile(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        for entry in metadata
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
    }
    object
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `metadata`, made if it is absent or null.
pub(crate) fn metadata_mut(
    map: &mut Map<String, Value>,
) -> Result<&mut Map<String, Value>, FieldError> {
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut().ok_or_else(not_an_object)
}

fn not_an_object() -> FieldError {
    FieldError::invalid("metadata", Value::Null, "must be an object")
}

/// RFC 3339 with whole seconds, as `metav1.Time`.
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
