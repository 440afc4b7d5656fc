//! Which ReplicaSet belongs to which template: hashes, names and revision numbers.

use serde_json::{Map, Value};

use crate::object::text;

/// Label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// Annotation `kubectl rollout history` reads.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations by which a changed size is told from a changed template.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// Never copied from a Deployment to its ReplicaSets.
const NOT_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MOST,
];
/// `k8s.io/apimachinery/pkg/util/rand`: no vowels, so no words.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name for a template; `collisions` sets two templates with the same hash apart.
pub(super) fn hash(template: &Value, collisions: i32) -> String {
    let mut state = 0x811c_9dc5_u32; // FNV-1a
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(canonical(template).to_string().as_bytes());
    feed(&collisions.to_le_bytes());
    let digit = |byte: u8| {
        SAFE.get(usize::from(byte) % SAFE.len())
            .copied()
            .unwrap_or(b'x')
    };
    state
        .to_string()
        .bytes()
        .map(|byte| char::from(digit(byte)))
        .collect()
}

/// Whether two templates ask for the same pods; the hash label does not count.
pub(super) fn same_template(one: &Value, other: &Value) -> bool {
    canonical(one) == canonical(other)
}

/// Sorted, without nulls, empty maps and the hash label.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, Value)> = fields
                .iter()
                .filter(|(key, value)| !value.is_null() && *key != HASH_LABEL)
                .map(|(key, value)| (key, canonical(value)))
                .filter(|(_, value)| value != &Value::Object(Map::new()))
                .collect();
            sorted.sort_by(|one, other| one.0.cmp(other.0));
            sorted
                .into_iter()
                .map(|(key, value)| (key.clone(), value))
                .collect()
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// The revision number of an object; 0 when it has none.
pub(super) fn number(object: &Value) -> i64 {
    annotation(object, REVISION).parse().unwrap_or(0)
}

pub(super) fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object
        .pointer("/metadata/annotations")
        .and_then(|all| all.get(name))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A Deployment's annotations that its ReplicaSets carry too.
pub(super) fn copied_annotations(deployment: &Value) -> Map<String, Value> {
    let all = deployment
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    all.into_iter()
        .flatten()
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Oldest first, as the rollout's arithmetic wants it.
pub(super) fn age(object: &Value) -> (&str, &str) {
    (
        text(object, "/metadata/creationTimestamp"),
        text(object, "/metadata/name"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{hash, same_template};

    #[test]
    fn order_nulls_and_the_hash_label_make_no_other_template() {
        let one = json!({"metadata": {"labels": {"app": "a", "pod-template-hash": "x"}},
                         "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let other = json!({"spec": {"containers": [{"image": "i", "name": "c"}]},
                           "metadata": {"creationTimestamp": null, "labels": {"app": "a"}}});
        assert!(same_template(&one, &other));
        assert_eq!(hash(&one, 0), hash(&other, 0));
        assert_ne!(hash(&one, 0), hash(&one, 1));
        let changed = json!({"metadata": {"labels": {"app": "b"}}});
        assert!(!same_template(&one, &changed));
    }
}
