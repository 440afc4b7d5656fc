//! What may stand in `metadata`.

use serde_json::Value;

use super::labels::{check_annotations, check_labels, label_key_problems};
use super::text;
use crate::error::FieldError;

/// All that is wrong with `metadata`, given the problems of the name by the kind's own rule.
pub fn validate(
    object: &Value,
    namespaced: bool,
    name_problems: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        errors.extend(
            name_problems(name)
                .into_iter()
                .map(|problem| FieldError::invalid("metadata.name", name, problem)),
        );
    }
    if namespaced && text(object, "namespace").is_empty() {
        errors.push(FieldError::required("metadata.namespace", ""));
    }
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    check_labels(
        metadata.get("labels").unwrap_or(&Value::Null),
        "metadata.labels",
        &mut errors,
    );
    check_annotations(
        metadata.get("annotations").unwrap_or(&Value::Null),
        "metadata.annotations",
        &mut errors,
    );
    for (index, finalizer) in metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let path = format!("metadata.finalizers[{index}]");
        errors.extend(
            label_key_problems(finalizer)
                .into_iter()
                .map(|problem| FieldError::invalid(&path, finalizer, problem)),
        );
    }
    check_owners(metadata, &mut errors);
    errors
}

fn check_owners(metadata: &Value, errors: &mut Vec<FieldError>) {
    let mut controller: Option<&Value> = None;
    for (index, owner) in metadata
        .get("ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                errors.push(FieldError::required(&path, "must not be empty"));
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first["kind"], owner["kind"]
                );
                errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    metadata["ownerReferences"].clone(),
                    detail,
                ));
            }
            controller = Some(owner);
        }
    }
}
