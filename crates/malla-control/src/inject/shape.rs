//! Whether a pod has the form that injection edits.
//!
//! The API server sends the webhook pods that it has read, but anybody may call the webhook.

use serde_json::Value;

/// Where a pod is no pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod field {path} is not {expected}")]
pub struct Misshapen {
    pub path: &'static str,
    pub expected: &'static str,
}

/// The fields that injection writes into; each may be absent.
const MAPS: [&str; 4] = [
    "/spec",
    "/metadata",
    "/metadata/labels",
    "/metadata/annotations",
];
const LISTS: [&str; 3] = ["/spec/containers", "/spec/initContainers", "/spec/volumes"];

/// # Errors
/// At the first field that is of another type than a pod's.
pub(super) fn check(pod: &Value) -> Result<(), Misshapen> {
    let is = |path: &'static str, expected, fits: fn(&Value) -> bool| {
        let found = pod.pointer(path).filter(|found| !found.is_null());
        match found.is_none_or(fits) {
            true => Ok(()),
            false => Err(Misshapen { path, expected }),
        }
    };
    is("", "an object", Value::is_object)?;
    for path in MAPS {
        is(path, "an object", Value::is_object)?;
    }
    for path in LISTS {
        is(path, "a list of objects", |found| {
            let items = found.as_array();
            items.is_some_and(|items| items.iter().all(Value::is_object))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check;

    #[test]
    fn what_is_no_pod_is_refused_where_it_is_none() {
        for (pod, want) in [
            (json!({}), None),
            (json!(null), None),
            (json!({"spec": null, "metadata": {"labels": null}}), None),
            (json!({"spec": {"containers": [{}], "volumes": []}}), None),
            (json!([]), Some("")),
            (json!({"spec": 7}), Some("/spec")),
            (
                json!({"metadata": {"annotations": []}}),
                Some("/metadata/annotations"),
            ),
            (
                json!({"spec": {"containers": {}}}),
                Some("/spec/containers"),
            ),
            (
                json!({"spec": {"initContainers": ["x"]}}),
                Some("/spec/initContainers"),
            ),
        ] as [(Value, Option<&str>); 9]
        {
            assert_eq!(check(&pod).err().map(|error| error.path), want, "{pod}");
        }
    }
}
