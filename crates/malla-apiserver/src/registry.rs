//! What is served right now: the built-in kinds and those the stored CRDs declare.
//!
//! Invariant: a registry never changes; a change of CRDs makes a new one and swaps it in, before the write that
//! caused it is answered. Unchanged families are shared with the old one, so their schemas are compiled once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use malla_apimachinery::builtin;
use malla_apimachinery::crd;
use malla_apimachinery::kind::ResourceKind;
use serde_json::Value;

use crate::openapi::Documents;
use crate::rest::events;

/// Group resource of CRDs in the store.
pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// One resource in all its versions.
#[derive(Debug)]
pub(crate) struct Family {
    /// E.g. `deployments.apps`; the key in the store.
    pub(crate) group_resource: Arc<str>,
    /// All versions, preferred first.
    pub(crate) versions: Vec<Arc<ResourceKind>>,
    /// The version objects are stored in.
    pub(crate) storage: Arc<ResourceKind>,
    /// The CRD this comes from: uid and generation.
    origin: Option<(String, i64)>,
    /// The CRD is being deleted: reads and deletes only.
    pub(crate) terminating: bool,
}

/// A resource at one version: what a request's path names.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) family: Arc<Family>,
    pub(crate) kind: Arc<ResourceKind>,
}

/// Everything served.
#[derive(Debug)]
pub(crate) struct Registry {
    /// By group, then plural.
    families: BTreeMap<(String, String), Arc<Family>>,
    documents: OnceLock<Documents>,
}

/// A kind's group-version for discovery, preferred versions first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupVersions {
    pub(crate) group: String,
    pub(crate) versions: Vec<String>,
}

impl Family {
    /// What clients see it as by default.
    pub(crate) fn preferred(&self) -> &Arc<ResourceKind> {
        let served = self.versions.iter().find(|kind| kind.served);
        served.unwrap_or(&self.storage)
    }

    fn new(mut kinds: Vec<ResourceKind>, crd: Option<&Value>) -> Option<Self> {
        kinds.sort_by_key(|kind| version_rank(&kind.version));
        let versions: Vec<Arc<ResourceKind>> = kinds.into_iter().map(Arc::new).collect();
        let storage = versions.iter().find(|kind| kind.storage);
        let storage = storage.or(versions.first())?.clone();
        Some(Self {
            group_resource: storage.group_resource().into(),
            storage,
            versions,
            origin: crd.map(origin),
            terminating: crd.is_some_and(|crd| crd["metadata"]["deletionTimestamp"].is_string()),
        })
    }
}

impl Registry {
    /// The built-in kinds alone.
    pub(crate) fn builtin() -> Self {
        let mut by_resource: BTreeMap<(String, String), Vec<ResourceKind>> = BTreeMap::new();
        for kind in builtin::kinds() {
            let key = (kind.group.clone(), kind.plural.clone());
            by_resource.entry(key).or_default().push(kind);
        }
        let mut families: BTreeMap<_, _> = by_resource
            .into_iter()
            .filter_map(|(key, kinds)| Some((key, Family::new(kinds, None)?)))
            .collect();
        // The two Events are one resource with two faces.
        let face = |group: &str| (group.to_owned(), events::CORE.to_owned());
        let core = families.get(&face("")).map(|core| core.storage.clone());
        if let (Some(core), Some(other)) = (core, families.get_mut(&face(events::GROUP))) {
            other.group_resource = events::CORE.into();
            other.storage = core;
        }
        let families = families.into_iter();
        Self {
            families: families
                .map(|(key, family)| (key, Arc::new(family)))
                .collect(),
            documents: OnceLock::new(),
        }
    }

    /// The built-in kinds and what these CRDs declare. CRDs whose names were not accepted, or that do not compile
    /// (stored by an older program), serve nothing.
    pub(crate) fn with_crds<'a>(&self, crds: impl Iterator<Item = &'a Value>) -> Self {
        let builtins = self.families.iter();
        let mut families: BTreeMap<_, _> = builtins
            .filter(|(_, family)| family.origin.is_none())
            .map(|(key, family)| (key.clone(), family.clone()))
            .collect();
        let known: HashMap<_, _> = self
            .families
            .values()
            .filter_map(|family| Some((family.origin.clone()?, family)))
            .collect();
        for crd in crds.filter(|crd| condition(crd, "Established")) {
            let old = known.get(&origin(crd)).copied();
            let Some(family) = family_of(crd, old) else {
                continue;
            };
            let key = (family.storage.group.clone(), family.storage.plural.clone());
            families.insert(key, family);
        }
        Self {
            families,
            documents: OnceLock::new(),
        }
    }

    /// The resource a path names, if that version is served.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let family = self.families.get(&(group.to_owned(), plural.to_owned()))?;
        let kind = family
            .versions
            .iter()
            .find(|kind| kind.version == version && kind.served)?;
        Some(Served {
            family: family.clone(),
            kind: kind.clone(),
        })
    }

    /// The resource that serves a kind.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<Served> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let families = self.group(group);
        for family in families {
            let served = family.versions.iter().find(|candidate| {
                candidate.served && candidate.version == version && candidate.kind == kind
            });
            if let Some(served) = served {
                return Some(Served {
                    family: family.clone(),
                    kind: served.clone(),
                });
            }
        }
        None
    }

    /// A family by its name in the store.
    pub(crate) fn family(&self, group: &str, plural: &str) -> Option<&Arc<Family>> {
        self.families.get(&(group.to_owned(), plural.to_owned()))
    }

    /// All families of a group.
    pub(crate) fn group(&self, group: &str) -> impl Iterator<Item = &Arc<Family>> {
        self.families
            .iter()
            .filter(move |((of, _), _)| of == group)
            .map(|(_, family)| family)
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = &Arc<Family>> {
        self.families.values()
    }

    /// All groups with their served versions.
    pub(crate) fn groups(&self) -> Vec<GroupVersions> {
        let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((group, _), family) in &self.families {
            let versions = groups.entry(group).or_default();
            for kind in family.versions.iter().filter(|kind| kind.served) {
                if !versions.contains(&kind.version) {
                    versions.push(kind.version.clone());
                }
            }
        }
        groups
            .into_iter()
            .filter(|(_, versions)| !versions.is_empty())
            .map(|(group, mut versions)| {
                versions.sort_by_key(|version| version_rank(version));
                GroupVersions {
                    group: group.to_owned(),
                    versions,
                }
            })
            .collect()
    }

    /// The kinds served at a group-version.
    pub(crate) fn kinds_of(&self, group: &str, version: &str) -> Vec<Served> {
        self.group(group)
            .filter_map(|family| {
                let mut kinds = family.versions.iter();
                let kind = kinds.find(|kind| kind.version == version && kind.served)?;
                Some(Served {
                    family: family.clone(),
                    kind: kind.clone(),
                })
            })
            .collect()
    }

    /// The OpenAPI documents, made at the first use.
    pub(crate) fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::of(self))
    }
}

/// Whether a condition of a CRD is `True`.
pub(crate) fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    })
}

fn origin(crd: &Value) -> (String, i64) {
    let metadata = &crd["metadata"];
    let uid = metadata["uid"].as_str().unwrap_or_default();
    (
        uid.to_owned(),
        metadata["generation"].as_i64().unwrap_or_default(),
    )
}

fn family_of(crd: &Value, old: Option<&Arc<Family>>) -> Option<Arc<Family>> {
    let terminating = crd["metadata"]["deletionTimestamp"].is_string();
    if let Some(old) = old
        && old.terminating == terminating
    {
        return Some(old.clone());
    }
    match crd::kinds(crd) {
        Ok(kinds) => Family::new(kinds, Some(crd)).map(Arc::new),
        Err(errors) => {
            let name = crd["metadata"]["name"].as_str().unwrap_or_default();
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            tracing::error!(crd = name, error = first, "stored CRD does not compile");
            None
        }
    }
}

/// Sorts as Kubernetes prefers versions: `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then others by name.
fn version_rank(version: &str) -> (u8, Reverse<u32>, Reverse<u32>, String) {
    let other = (3, Reverse(0), Reverse(0), version.to_owned());
    let Some(rest) = version.strip_prefix('v') else {
        return other;
    };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse::<u32>() else {
        return other;
    };
    let (stability, minor) = if rest.is_empty() {
        (0, "0")
    } else if let Some(minor) = rest.strip_prefix("beta") {
        (1, minor)
    } else if let Some(minor) = rest.strip_prefix("alpha") {
        (2, minor)
    } else {
        return other;
    };
    match minor.parse::<u32>() {
        Ok(minor) => (stability, Reverse(major), Reverse(minor), String::new()),
        Err(_) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn versions_sort_as_kubernetes_prefers_them() {
        let mut versions = [
            "foo1",
            "v1alpha1",
            "v1",
            "v11beta2",
            "v10",
            "v12alpha1",
            "v2",
            "v3beta1",
            "foo10",
            "v10beta3",
        ];
        versions.sort_by_key(|version| version_rank(version));
        // The example of the Kubernetes documentation on CRD version priority.
        let want = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v1alpha1",
            "foo1",
            "foo10",
        ];
        assert_eq!(versions, want);
    }
}
