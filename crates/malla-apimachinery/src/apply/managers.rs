//! `metadata.managedFields`: who owns which fields.
//!
//! Invariant: no manager is kept with an empty set; entries are written in Kubernetes' order (operation, time, name).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::FieldSet;

/// Most managers of operation `Update`; the oldest beyond are put together.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Identity of a manager. Appliers are the same manager whatever version they apply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) applier: bool,
    pub(super) name: String,
    /// Empty for appliers.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Identity {
    /// As conflicts name a manager: `"kubectl-client-side-apply" using apps/v1`.
    pub(super) fn display(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applier {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managers(pub(super) BTreeMap<Identity, Owned>);

impl Managers {
    /// Reads `managedFields`; `None` if any entry is malformed.
    pub(super) fn parse(entries: Option<&Value>) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for entry in entries.and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| {
                entry
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let applier = match text("operation").as_str() {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            let api_version = text("apiVersion");
            let identity = Identity {
                applier,
                name: text("manager"),
                api_version: if applier {
                    String::new()
                } else {
                    api_version.clone()
                },
                subresource: text("subresource"),
            };
            let fields = FieldSet::parse(entry.get("fieldsV1").unwrap_or(&json!({})))?;
            let time = Some(text("time")).filter(|time| !time.is_empty());
            managers.insert(
                identity,
                Owned {
                    api_version,
                    time,
                    fields,
                },
            );
        }
        Some(Self(managers))
    }

    /// Whether the client asks to forget all owners: one empty entry.
    pub(super) fn is_reset(entries: Option<&Value>) -> bool {
        let entries = entries.and_then(Value::as_array);
        entries.is_some_and(|entries| matches!(entries.as_slice(), [one] if one.as_object().is_some_and(serde_json::Map::is_empty)))
    }

    /// Writes `managedFields`; `None` if there are no managers.
    pub(super) fn encode(&self) -> Option<Value> {
        let mut entries: Vec<(&Identity, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, owned_a), (b, owned_b)| {
            let key = |identity: &Identity, owned: &Owned| {
                (!identity.applier, owned.time.clone(), identity.clone())
            };
            key(a, owned_a).cmp(&key(b, owned_b))
        });
        let entry = |(identity, owned): (&Identity, &Owned)| {
            let mut entry = json!({
                "manager": identity.name,
                "operation": if identity.applier { "Apply" } else { "Update" },
                "apiVersion": owned.api_version,
            });
            if let Some(time) = &owned.time {
                entry["time"] = time.as_str().into();
            }
            entry["fieldsType"] = "FieldsV1".into();
            entry["fieldsV1"] = owned.fields.to_fields();
            if !identity.subresource.is_empty() {
                entry["subresource"] = identity.subresource.as_str().into();
            }
            entry
        };
        let entries: Vec<Value> = entries.into_iter().map(entry).collect();
        (!entries.is_empty()).then(|| entries.into())
    }

    /// Takes fields from everybody; managers left with nothing go.
    pub(super) fn take(&mut self, fields: &FieldSet, except: Option<&Identity>) {
        for (identity, owned) in &mut self.0 {
            if Some(identity) != except {
                owned.fields = owned.fields.difference(fields);
            }
        }
        self.0.retain(|_, owned| !owned.fields.is_empty());
    }

    /// Everything anybody owns.
    pub(super) fn all(&self) -> FieldSet {
        self.0
            .values()
            .fold(FieldSet::default(), |all, owned| all.union(&owned.fields))
    }

    /// Puts the oldest updaters together when there are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Identity)> = self
            .0
            .iter()
            .filter(|(identity, _)| !identity.applier)
            .map(|(identity, owned)| (owned.time.clone(), identity.clone()))
            .collect();
        if updaters.len() <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let surplus = updaters.len() - MAX_UPDATERS + 1;
        for (_, identity) in updaters.into_iter().take(surplus) {
            let Some(old) = self.0.remove(&identity) else {
                continue;
            };
            let ancient = Identity {
                name: ANCIENT.to_owned(),
                subresource: String::new(),
                ..identity
            };
            let bucket = self.0.entry(ancient).or_insert_with(|| Owned {
                fields: FieldSet::default(),
                ..old.clone()
            });
            bucket.fields = std::mem::take(&mut bucket.fields).union(&old.fields);
            bucket.time = bucket.time.clone().max(old.time);
        }
    }
}
