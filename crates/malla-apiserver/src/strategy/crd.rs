//! CustomResourceDefinitions: conditions, accepted names, and the cleanup of their objects.

use malla_apimachinery::crd;
use malla_apimachinery::meta;
use serde_json::{Value, json};

use crate::core::Core;

/// Holds a CRD until its objects are gone (apiextensions `CustomResourceCleanupFinalizer`).
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Establishes the CRD, unless its names are taken.
pub(super) fn before_store(core: &Core, object: &mut Value) {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    hold(object);
    crd::establish(object, core.now());
    if let Some((reason, message)) = conflict(core, object) {
        refuse(core, object, reason, &message);
    }
}

pub(super) fn mark_deleted(core: &Core, object: &mut Value) {
    let condition = json!({
        "type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress",
        "lastTransitionTime": meta::time(core.now()),
    });
    set_condition(object, condition);
}

fn hold(object: &mut Value) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|one| one == CLEANUP) => {}
        Some(list) => list.push(CLEANUP.into()),
        None => *finalizers = json!([CLEANUP]),
    }
}

/// Another resource of the group that has one of these names.
fn conflict(core: &Core, object: &Value) -> Option<(&'static str, String)> {
    let names = &object["spec"]["names"];
    let group = object["spec"]["group"].as_str().unwrap_or_default();
    let plural = names["plural"].as_str().unwrap_or_default();
    let registry = core.registry();
    let others = registry.group(group);
    for other in others.filter(|family| family.storage.plural != plural) {
        let other = &other.storage;
        let taken = |name: &Value| {
            *name == other.plural.as_str()
                || *name == other.singular.as_str()
                || other.short_names.iter().any(|short| name == short.as_str())
        };
        let shorts = names["shortNames"].as_array().into_iter().flatten();
        let in_use = |name: &Value| format!("{name} is already in use");
        if names["kind"] == other.kind.as_str() || names["kind"] == other.list_kind.as_str() {
            return Some(("KindConflict", in_use(&names["kind"])));
        }
        if taken(&names["singular"]) {
            return Some(("SingularConflict", in_use(&names["singular"])));
        }
        for short in shorts {
            if taken(short) {
                return Some(("ShortNamesConflict", in_use(short)));
            }
        }
    }
    None
}

fn refuse(core: &Core, object: &mut Value, reason: &str, message: &str) {
    let now = meta::time(core.now());
    set_condition(
        object,
        json!({
            "type": "NamesAccepted", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": now,
        }),
    );
    set_condition(
        object,
        json!({
            "type": "Established", "status": "False", "reason": "NotAccepted",
            "message": "not all names are accepted", "lastTransitionTime": now,
        }),
    );
}

fn set_condition(object: &mut Value, condition: Value) {
    let conditions = &mut object["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(list) => {
            list.retain(|old| old["type"] != condition["type"]);
            list.push(condition);
        }
        None => *conditions = json!([condition]),
    }
}
