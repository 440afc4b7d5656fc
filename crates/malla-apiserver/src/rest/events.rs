//! `events.k8s.io/v1` Events: another face of the core Events, which is how they are stored.

use malla_apimachinery::kind::ResourceKind;
use serde_json::Value;

/// Group of the other face.
pub(crate) const GROUP: &str = "events.k8s.io";
/// Name in the store.
pub(crate) const CORE: &str = "events";

/// Field names: core, and `events.k8s.io` (pkg/apis/core/v1 and events/v1 conversion).
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Turns an Event of either face into that of `kind`.
pub(crate) fn convert(event: &mut Value, kind: &ResourceKind) {
    let Some(fields) = event.as_object_mut() else {
        return;
    };
    for (core, other) in NAMES {
        let (from, to) = match kind.group == GROUP {
            true => (core, other),
            false => (other, core),
        };
        if let Some(value) = fields.shift_remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    fields.insert("apiVersion".to_owned(), kind.api_version().into());
}
