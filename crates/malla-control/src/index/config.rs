//! Istio's objects, each with what it was lowered to.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use malla_api::{Config, Kind, Lowered, Refused};
use malla_model::MeshSettings;
use serde_json::Value;

use super::cluster::Key;
use crate::source::Change;

/// One object as it was written, and what it means.
#[derive(Debug)]
pub struct ConfigObject {
    pub kind: Kind,
    pub object: Arc<DynamicObject>,
    pub outcome: Result<Lowered<Config>, Refused>,
}

/// All objects of all of Istio's kinds.
#[derive(Debug, Default)]
pub struct Configs {
    objects: BTreeMap<(Kind, Key), Arc<ConfigObject>>,
}

impl Configs {
    pub(super) fn apply(&mut self, kind: Kind, change: Change, settings: &MeshSettings) -> bool {
        match change {
            Change::Replaced(list) => {
                let mut changed = false;
                let keys: Vec<Key> = list.iter().map(|object| Key::of(object)).collect();
                self.objects.retain(|(of, key), _| {
                    let stays = *of != kind || keys.contains(key);
                    changed |= !stays;
                    stays
                });
                list.into_iter().fold(changed, |changed, object| {
                    self.put(kind, object, settings) || changed
                })
            }
            Change::Applied(object) => self.put(kind, object, settings),
            Change::Deleted(object) => self.objects.remove(&(kind, Key::of(&object))).is_some(),
        }
    }

    /// Whether the object means something new; a change of its status alone does not.
    fn put(&mut self, kind: Kind, object: Arc<DynamicObject>, settings: &MeshSettings) -> bool {
        let key = (kind, Key::of(&object));
        let same = self.objects.get(&key).is_some_and(|known| {
            known.object.metadata.uid == object.metadata.uid
                && known.object.metadata.labels == object.metadata.labels
                && known.object.metadata.annotations == object.metadata.annotations
                && known.object.data.get("spec") == object.data.get("spec")
        });
        if same {
            // Its status and versions are newer all the same: writers compare against those.
            if let Some(known) = self.objects.get_mut(&key) {
                let outcome = known.outcome.clone();
                *known = Arc::new(ConfigObject {
                    kind,
                    object,
                    outcome,
                });
            }
            return false;
        }
        self.objects
            .insert(key, Arc::new(lower(kind, object, settings)));
        true
    }

    pub(super) fn lower_again(&mut self, settings: &MeshSettings) {
        for known in self.objects.values_mut() {
            *known = Arc::new(lower(known.kind, Arc::clone(&known.object), settings));
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<ConfigObject>> {
        self.objects.values().cloned().collect()
    }

    /// What acts.
    pub(super) fn acting(&self) -> impl Iterator<Item = &Config> {
        let outcomes = self.objects.values().map(|object| &object.outcome);
        outcomes.filter_map(|outcome| outcome.as_ref().ok().map(|lowered| &lowered.value))
    }
}

fn lower(kind: Kind, object: Arc<DynamicObject>, settings: &MeshSettings) -> ConfigObject {
    static NOTHING: Value = Value::Null;
    let spec = object.data.get("spec").unwrap_or(&NOTHING);
    let outcome = malla_api::lower(kind, &object.metadata, spec, settings);
    ConfigObject {
        kind,
        object,
        outcome,
    }
}
