//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! Semantics are those of `sigs.k8s.io/structured-merge-diff` and `k8s.io/apimachinery/pkg/util/managedfields`: an applier owns
//! what it applies; what it stops applying goes, unless somebody else owns it; changing what another manager owns is a conflict
//! unless forced; an update takes the fields it changes.
//!
//! Invariants: a field of the result that anybody owns exists; an apply with the same configuration twice changes nothing.

mod managers;
mod merge;
mod set;
mod typed;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::meta;
use crate::schema::Schema;
use managers::{Identity, Managers, Owned};
use set::FieldSet;
use typed::Comparison;

/// The manager of what an object had before anybody was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's name when it applies server-side; only then is its client-side annotation honoured.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields nobody owns: the server's, and those that make the object's identity.
const UNOWNED: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// Who writes, and through which endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// `fieldManager`, or what the server derives from the user agent for updates.
    pub name: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// `status`, `scale` or none.
    pub subresource: Option<&'a str>,
    /// Now, for the `time` of entries that change.
    pub now: Timestamp,
    /// Dotted paths this endpoint does not write: [`crate::kind::ResourceKind::ignored_fields`].
    pub ignored: &'a [&'a str],
}

/// One field somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// Path such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Fields are owned by others and `force` was not given (HTTP 409, reason Conflict).
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
    /// The applied object is malformed, e.g. a list entry lacks its key (HTTP 400).
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.field
        );
    }
    let mut by_manager: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager
            .entry(&conflict.manager)
            .or_default()
            .push(format!("- {}", conflict.field));
    }
    let texts: Vec<String> = by_manager
        .iter()
        .map(|(manager, fields)| format!("conflicts with {manager}:\n{}", fields.join("\n")))
        .collect();
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        texts.join("\n")
    )
}

impl ApplyError {
    /// The 409 or 400 `metav1.Status`.
    pub fn status(&self) -> Value {
        let (reason, code, causes) = match self {
            Self::Conflict(conflicts) => {
                let cause = |conflict: &Conflict| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": format!("conflict with {}", conflict.manager),
                        "field": conflict.field,
                    })
                };
                ("Conflict", 409, conflicts.iter().map(cause).collect())
            }
            Self::Malformed(_) => ("BadRequest", 400, Vec::new()),
        };
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "details": {"causes": causes}, "code": code,
        })
    }
}

/// Applies `config` over `live` (none: creates) and returns the new object with its managedFields. The result has the
/// schema's defaults, not yet those of the kind's rules, and is not validated.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApplyError::Malformed(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    if let Some(problem) = typed::ambiguity(Some(&schema.root), config, "") {
        return Err(ApplyError::Malformed(format!(
            "failed to create typed patch object: {problem}"
        )));
    }
    let nothing = json!({});
    let bare = without_managed_fields(live.unwrap_or(&nothing));
    let mut recorded = live
        .and_then(|live| Managers::parse(live.pointer("/metadata/managedFields")))
        .unwrap_or_default();
    if live.is_some() && recorded.0.is_empty() {
        let before = Identity {
            applier: false,
            name: BEFORE_FIRST_APPLY.to_owned(),
            api_version: manager.api_version.to_owned(),
            subresource: String::new(),
        };
        // As an update through this endpoint would have recorded it: without what the endpoint does not write.
        let ignored = ignored_set(manager.ignored);
        let fields = owned_by_anybody(&typed::fields_of(&schema.root, &bare), &ignored);
        let time = Some(meta::time(manager.now));
        recorded.0.insert(
            before,
            Owned {
                api_version: manager.api_version.to_owned(),
                time,
                fields,
            },
        );
    }
    let attempt = Application {
        schema,
        live: &bare,
        config,
        manager,
        recorded: &recorded,
    };
    match attempt.run(force) {
        Err(ApplyError::Conflict(conflicts)) if manager.name == KUBECTL => {
            // kubectl's client-side apply owned these fields under another name: moving to server-side apply takes them over.
            let allowed = last_applied_fields(schema, &bare);
            let left: Vec<Conflict> = conflicts
                .into_iter()
                .filter(|conflict| !allowed.contains(&conflict.field))
                .collect();
            if left.is_empty() {
                attempt.run(true)
            } else {
                Err(ApplyError::Conflict(left))
            }
        }
        other => other,
    }
}

struct Application<'a> {
    schema: &'a Schema,
    live: &'a Value,
    config: &'a Value,
    manager: &'a Manager<'a>,
    recorded: &'a Managers,
}

impl Application<'_> {
    fn run(&self, force: bool) -> Result<Value, ApplyError> {
        let root = &*self.schema.root;
        let mut managers = self.recorded.clone();
        let ignored = ignored_set(self.manager.ignored);
        let identity = Identity {
            applier: true,
            name: self.manager.name.to_owned(),
            api_version: String::new(),
            subresource: self.manager.subresource.unwrap_or_default().to_owned(),
        };
        let last = managers.0.remove(&identity);
        let fields = owned_by_anybody(&typed::fields_of(root, self.config), &ignored);
        let applied = Owned {
            api_version: self.manager.api_version.to_owned(),
            time: None,
            fields,
        };
        managers.0.insert(identity.clone(), applied.clone());
        let mut object = merge::merge(Some(root), self.live, self.config);
        if let Some(last) = &last {
            let dropped = last
                .fields
                .with_named_parents(Some(root))
                .difference(&managers.all().with_named_parents(Some(root)));
            object = merge::remove(Some(root), &object, &dropped);
        }
        self.update_last_applied(&mut object);
        // An atomic value with a default left out (`fieldRef` without `apiVersion`) is the same value.
        self.schema.default(&mut object);
        let comparison = Comparison::of(root, self.live, &object).excluding(&ignored);
        let changed = comparison.modified.clone().union(&comparison.added);
        if !force {
            let conflicts = conflicts(&managers, &identity, &changed);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflict(conflicts));
            }
        }
        managers.take(&changed.union(&comparison.removed), Some(&identity));
        let unchanged = last.as_ref().filter(|last| {
            last.fields == applied.fields
                && last.api_version == applied.api_version
                && object == *self.live
        });
        let time = unchanged.map_or_else(
            || Some(meta::time(self.manager.now)),
            |last| last.time.clone(),
        );
        if let Some(mine) = managers.0.get_mut(&identity) {
            mine.time = time;
        }
        write_managed_fields(&mut object, &managers);
        Ok(object)
    }

    /// Keeps kubectl's client-side annotation true after a server-side apply, so that going back works.
    fn update_last_applied(&self, object: &mut Value) {
        let annotation = object
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut);
        if self.manager.name == KUBECTL
            && let Some(annotations) = annotation
            && annotations.contains_key(LAST_APPLIED)
        {
            let text = format!("{}\n", sorted(self.config));
            annotations.insert(LAST_APPLIED.to_owned(), text.into());
        }
    }
}

/// With keys in order, as Go writes maps: kubectl compares the annotation as text.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> = map
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            let ordered = ordered.into_iter().map(|(key, value)| (key.clone(), value));
            Value::Object(ordered.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn conflicts(managers: &Managers, me: &Identity, changed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (identity, owned) in managers.0.iter().filter(|(identity, _)| *identity != me) {
        let contested = owned.fields.intersection(changed);
        let conflict = |path: Vec<&str>| Conflict {
            manager: identity.display(),
            field: set::display(&path),
        };
        conflicts.extend(contested.paths().into_iter().map(conflict));
    }
    conflicts
}

/// The fields of the last client-side applied configuration that still have the applied value.
fn last_applied_fields(schema: &Schema, live: &Value) -> Vec<String> {
    let annotation = live
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str);
    let Some(last) = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Vec::new();
    };
    let mut complete = last.clone();
    schema.default(&mut complete);
    let Comparison {
        added,
        modified,
        removed,
    } = Comparison::of(&schema.root, &complete, live);
    let fields = typed::fields_of(&schema.root, &last)
        .difference(&modified)
        .difference(&added)
        .difference(&removed);
    let mut allowed: Vec<String> = fields
        .paths()
        .iter()
        .map(|path| set::display(path))
        .collect();
    // The annotation itself changes hands with what it describes.
    allowed.push(format!(".metadata.annotations.{LAST_APPLIED}"));
    allowed
}

/// Records an update (create, put, patch) of `live` (none: create) to `new` in `new`'s managedFields. A client may change
/// managedFields itself (through the main endpoint): what it sends is the base, unless it is malformed or empty.
pub fn update(schema: &Schema, live: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let nothing = json!({});
    let live = live.unwrap_or(&nothing);
    let sent = new
        .pointer("/metadata/managedFields")
        .filter(|_| manager.subresource.is_none());
    let known = || Managers::parse(live.pointer("/metadata/managedFields")).unwrap_or_default();
    let mut managers = if Managers::is_reset(sent) {
        Managers::default()
    } else {
        Managers::parse(sent)
            .filter(|managers| !managers.0.is_empty())
            .unwrap_or_else(known)
    };
    let ignored = ignored_set(manager.ignored);
    let (before, after) = (without_managed_fields(live), without_managed_fields(new));
    let comparison = Comparison::of(&schema.root, &before, &after).excluding(&ignored);
    let changed = owned_by_anybody(&comparison.modified.union(&comparison.added), &ignored);
    managers.take(&changed.clone().union(&comparison.removed), None);
    if !changed.is_empty() {
        let identity = Identity {
            applier: false,
            name: manager.name.to_owned(),
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.unwrap_or_default().to_owned(),
        };
        let fresh = || Owned {
            api_version: manager.api_version.to_owned(),
            time: None,
            fields: FieldSet::default(),
        };
        let mine = managers.0.entry(identity).or_insert_with(fresh);
        mine.fields = std::mem::take(&mut mine.fields).union(&changed);
        mine.time = Some(meta::time(manager.now));
    }
    managers.cap();
    *new = after;
    write_managed_fields(new, &managers);
}

/// A set without the fields nobody owns and those the endpoint does not write.
fn owned_by_anybody(fields: &FieldSet, ignored: &FieldSet) -> FieldSet {
    let mut unowned = FieldSet::default();
    for path in UNOWNED {
        unowned.insert(
            &path
                .iter()
                .map(|element| (*element).to_owned())
                .collect::<Vec<_>>(),
        );
    }
    fields.recursive_difference(ignored).difference(&unowned)
}

fn ignored_set(paths: &[&str]) -> FieldSet {
    let mut ignored = FieldSet::default();
    for path in paths {
        ignored.insert(
            &path
                .split('.')
                .map(|field| format!("f:{field}"))
                .collect::<Vec<_>>(),
        );
    }
    ignored
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

fn write_managed_fields(object: &mut Value, managers: &Managers) {
    let Some(entries) = managers.encode() else {
        return;
    };
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let metadata = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

#[cfg(test)]
#[path = "apply/tests.rs"]
mod tests;
