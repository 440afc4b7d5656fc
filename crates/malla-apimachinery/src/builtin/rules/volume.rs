//! Volumes of pods.

use std::collections::HashSet;

use serde_json::Value;

use super::{at, list, text};
use crate::error::FieldError;
use crate::meta::labels::dns_label_problems;

/// Checks the volumes of a pod spec and returns their names.
pub(super) fn check_volumes<'a>(
    spec: &'a Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let at_name = format!("{path}.name");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        } else {
            errors.extend(
                dns_label_problems(name)
                    .into_iter()
                    .map(|problem| FieldError::invalid(&at_name, name, problem)),
            );
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at_name, name));
            }
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .filter(|key| *key != "name")
            .collect();
        match sources.as_slice() {
            [] => errors.push(FieldError::required(&path, "must specify a volume type")),
            [_] => {}
            [_, second, ..] => errors.push(FieldError::forbidden(
                &format!("{path}.{second}"),
                "may not specify more than 1 volume type",
            )),
        }
        check_source(volume, &path, errors);
    }
    names
}

fn check_source(volume: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let named = [
        ("configMap", "name"),
        ("secret", "secretName"),
        ("hostPath", "path"),
        ("persistentVolumeClaim", "claimName"),
    ];
    for (source, field) in named {
        if let Some(value) = at(volume, &[source])
            && text(value, &[field]).is_empty()
        {
            errors.push(FieldError::required(
                &format!("{path}.{source}.{field}"),
                "",
            ));
        }
    }
    for (index, source) in list(volume, &["projected", "sources"]).iter().enumerate() {
        let path = format!("{path}.projected.sources[{index}]");
        if let Some(token) = at(source, &["serviceAccountToken"]) {
            let path = format!("{path}.serviceAccountToken");
            if text(token, &["path"]).is_empty() {
                errors.push(FieldError::required(&format!("{path}.path"), ""));
            }
            if let Some(seconds) = token
                .get("expirationSeconds")
                .and_then(Value::as_i64)
                .filter(|seconds| *seconds < 600)
            {
                errors.push(FieldError::invalid(
                    &format!("{path}.expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
        }
        for (source_name, value) in source.as_object().into_iter().flatten() {
            for (index, item) in list(value, &["items"]).iter().enumerate() {
                let file = text(item, &["path"]);
                if file.starts_with('/') || file.split('/').any(|part| part == "..") {
                    let at = format!("{path}.{source_name}.items[{index}].path");
                    errors.push(FieldError::invalid(
                        &at,
                        file,
                        "must be a relative path without '..'",
                    ));
                }
            }
        }
    }
}
