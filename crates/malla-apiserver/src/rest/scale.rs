//! The `scale` subresource: replicas of any kind that has them, as `autoscaling/v1 Scale`.

use std::sync::Arc;

use malla_apimachinery::error::FieldError;
use malla_apimachinery::kind::ScalePaths;
use malla_apimachinery::patch;
use serde_json::{Value, json};

use super::intent::Intent;
use super::update::change;
use super::{Cx, Target, read};
use crate::core::Core;
use crate::error::ApiError;

/// The scale of the target.
pub(crate) fn get(core: &Core, target: &Target) -> Result<Value, ApiError> {
    let object = read::get(core, target)?;
    show(target, paths(target)?, &object)
}

/// Replaces or patches the scale of the target.
pub(crate) async fn update(
    core: &Core,
    target: &Target,
    intent: &Intent,
    cx: &mut Cx,
) -> Result<Value, ApiError> {
    let paths = paths(target)?;
    let changed: Arc<Value> = change(core, target, "scale", cx, |object| {
        let scale = show(target, paths, object)?;
        let scale = produce(&scale, intent)?;
        let replicas = wanted(target, &scale)?;
        let version = scale["metadata"]["resourceVersion"].clone();
        if version.is_string() {
            object["metadata"]["resourceVersion"] = version;
        }
        set(object, &paths.spec_replicas, replicas.into());
        Ok(())
    })
    .await?;
    show(target, paths, &changed)
}

fn paths(target: &Target) -> Result<&ScalePaths, ApiError> {
    target
        .kind
        .scale
        .as_ref()
        .ok_or_else(ApiError::no_such_path)
}

fn produce(scale: &Value, intent: &Intent) -> Result<Value, ApiError> {
    let bad = |error: patch::PatchError| ApiError::bad_request(error.to_string());
    match intent {
        Intent::Replace(scale) => Ok(scale.clone()),
        Intent::Json(ops) => patch::json_patch(scale, ops).map_err(bad),
        // A Scale has no lists that would merge by key: the two merge patches agree, and an applied Scale is one.
        Intent::Merge(changes) | Intent::Strategic(changes) => {
            patch::merge_patch(scale, changes).map_err(bad)
        }
        Intent::Apply { config, .. } => patch::merge_patch(scale, config).map_err(bad),
    }
}

fn wanted(target: &Target, scale: &Value) -> Result<i64, ApiError> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            ApiError::bad_request("spec.replicas of the Scale is not a whole number")
        })?,
    };
    if (0..=i64::from(i32::MAX)).contains(&replicas) {
        return Ok(replicas);
    }
    let detail = "must be greater than or equal to 0";
    let error = FieldError::invalid("spec.replicas", replicas, detail);
    Err(ApiError::invalid(
        "autoscaling",
        "Scale",
        &target.name,
        &[error],
    ))
}

fn show(target: &Target, paths: &ScalePaths, object: &Value) -> Result<Value, ApiError> {
    let metadata = &object["metadata"];
    let spec = get_path(object, &paths.spec_replicas).and_then(Value::as_i64);
    let status = get_path(object, &paths.status_replicas).and_then(Value::as_i64);
    if target.kind.custom && spec.is_none() {
        return Err(ApiError::internal(format!(
            "the spec replicas field {:?} does not exist",
            paths.spec_replicas
        )));
    }
    let selector = paths.label_selector.as_deref();
    let selector = selector
        .and_then(|path| get_path(object, path))
        .map(selector_text);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": spec.unwrap_or(0)},
        "status": {"replicas": status.unwrap_or(0)},
    });
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        scale["status"]["selector"] = selector.into();
    }
    Ok(scale)
}

/// A selector as text: custom kinds keep text, built-in ones a `LabelSelector` object.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let values = values.join(",");
        match expression["operator"].as_str() {
            Some("In") => parts.push(format!("{key} in ({values})")),
            Some("NotIn") => parts.push(format!("{key} notin ({values})")),
            Some("Exists") => parts.push(key.to_owned()),
            Some("DoesNotExist") => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.join(",")
}

fn get_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let steps = path.trim_start_matches('.').split('.');
    let mut at = object;
    for step in steps {
        at = at.get(step)?;
    }
    Some(at)
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.trim_start_matches('.').split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{get_path, selector_text, set};

    #[test]
    fn paths_reach_into_objects() {
        let mut object = json!({"spec": {"replicas": 1}});
        set(&mut object, ".spec.replicas", json!(3));
        set(&mut object, ".status.now.replicas", json!(2));
        assert_eq!(
            object,
            json!({"spec": {"replicas": 3}, "status": {"now": {"replicas": 2}}})
        );
        assert_eq!(get_path(&object, ".status.now.replicas"), Some(&json!(2)));
        assert_eq!(get_path(&object, ".status.then"), None);
    }

    #[test]
    fn selectors_are_told_as_text() {
        let selector = json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]});
        assert_eq!(selector_text(&selector), "app=web,tier in (a,b)");
        assert_eq!(selector_text(&json!("app=x")), "app=x");
    }
}
