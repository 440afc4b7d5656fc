//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::pod::{check_template, default_pod_spec};
use super::{at, immutable, set_default, text};
use crate::error::FieldError;
use crate::meta::labels::{label_key_problems, label_value_problems};
use crate::selector::LabelSelector;

pub(super) fn default_deployment(deployment: &mut Value) {
    let Some(spec) = deployment.get_mut("spec") else {
        return;
    };
    if let Some(strategy) = spec.get_mut("strategy")
        && text(strategy, &["type"]) == "RollingUpdate"
    {
        set_default(strategy, "rollingUpdate", json!({}));
        if let Some(rolling) = strategy.get_mut("rollingUpdate") {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
    default_template(spec);
}

pub(super) fn default_replica_set(set: &mut Value) {
    if let Some(spec) = set.get_mut("spec") {
        default_template(spec);
    }
}

fn default_template(spec: &mut Value) {
    if let Some(spec) = spec
        .get_mut("template")
        .and_then(|template| template.get_mut("spec"))
    {
        default_pod_spec(spec);
    }
}

pub(super) fn validate_deployment(deployment: &Value, errors: &mut Vec<FieldError>) {
    validate_replica_set(deployment, errors);
    let Some(spec) = at(deployment, &["spec"]) else {
        return;
    };
    not_negative(spec, "revisionHistoryLimit", errors);
    not_negative(spec, "minReadySeconds", errors);
    not_negative(spec, "progressDeadlineSeconds", errors);
    let ready = spec
        .get("minReadySeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if let Some(deadline) = spec
        .get("progressDeadlineSeconds")
        .and_then(Value::as_i64)
        .filter(|deadline| *deadline <= ready)
    {
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
    let Some(strategy) = at(spec, &["strategy"]) else {
        return;
    };
    match text(strategy, &["type"]) {
        "Recreate" => {
            if at(strategy, &["rollingUpdate"]).is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
            }
        }
        "RollingUpdate" => check_rolling_update(strategy, errors),
        other => errors.push(FieldError::not_supported(
            "spec.strategy.type",
            other,
            &["Recreate", "RollingUpdate"],
        )),
    }
}

fn check_rolling_update(strategy: &Value, errors: &mut Vec<FieldError>) {
    let mut zeros = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let Some(value) = at(strategy, &["rollingUpdate", field]) else {
            continue;
        };
        let path = format!("spec.strategy.rollingUpdate.{field}");
        let number = match value {
            Value::String(text) => text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok()),
            other => other.as_i64(),
        };
        match number {
            None => errors.push(FieldError::invalid(&path, value.clone(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")),
            Some(number) if number < 0 => errors.push(FieldError::invalid(&path, value.clone(), "must be greater than or equal to 0")),
            Some(number) if field == "maxUnavailable" && number > 100 && value.is_string() => {
                errors.push(FieldError::invalid(&path, value.clone(), "must not be greater than 100%"));
            }
            Some(0) => zeros += 1,
            Some(_) => {}
        }
    }
    if zeros == 2 {
        let value = at(strategy, &["rollingUpdate", "maxUnavailable"])
            .cloned()
            .unwrap_or(Value::Null);
        errors.push(FieldError::invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            value,
            "may not be 0 when `maxSurge` is 0",
        ));
    }
}

pub(super) fn validate_replica_set(set: &Value, errors: &mut Vec<FieldError>) {
    let Some(spec) = at(set, &["spec"]) else {
        errors.push(FieldError::required("spec", ""));
        return;
    };
    not_negative(spec, "replicas", errors);
    let selector = at(spec, &["selector"]);
    let empty = |selector: &Value| {
        selector.as_object().is_none_or(|map| {
            map.values().all(|part| {
                part.as_object().is_none_or(serde_json::Map::is_empty)
                    && part.as_array().is_none_or(Vec::is_empty)
            })
        })
    };
    match selector {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) if empty(selector) => {
            errors.push(FieldError::invalid(
                "spec.selector",
                selector.clone(),
                "empty selector is invalid for deployment",
            ));
        }
        Some(selector) => check_selector(selector, spec, errors),
    }
    let Some(template) = at(spec, &["template"]) else {
        errors.push(FieldError::required("spec.template", ""));
        return;
    };
    check_template(template, "spec.template", errors);
    let policy = text(template, &["spec", "restartPolicy"]);
    if !matches!(policy, "" | "Always") {
        errors.push(FieldError::not_supported(
            "spec.template.spec.restartPolicy",
            policy,
            &["Always"],
        ));
    }
}

fn check_selector(selector: &Value, spec: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in at(selector, &["matchLabels"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let value = value.as_str().unwrap_or_default();
        let keys = label_key_problems(key)
            .into_iter()
            .map(|problem| FieldError::invalid("spec.selector.matchLabels", key.as_str(), problem));
        errors.extend(keys);
        let values = label_value_problems(value)
            .into_iter()
            .map(|problem| FieldError::invalid("spec.selector.matchLabels", value, problem));
        errors.extend(values);
    }
    match LabelSelector::from_object(selector) {
        Err(problem) => errors.push(FieldError::invalid(
            "spec.selector",
            selector.clone(),
            problem.to_string(),
        )),
        Ok(parsed) => {
            let labels = at(spec, &["template", "metadata", "labels"]);
            if at(spec, &["template"]).is_some() && !parsed.matches(labels) {
                let labels = labels.cloned().unwrap_or(json!({}));
                errors.push(FieldError::invalid(
                    "spec.template.metadata.labels",
                    labels,
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
}

fn not_negative(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = spec
        .get(field)
        .and_then(Value::as_i64)
        .filter(|number| *number < 0)
    {
        errors.push(FieldError::invalid(
            &format!("spec.{field}"),
            number,
            "must be greater than or equal to 0",
        ));
    }
}

pub(super) fn validate_workload_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    immutable(new, old, &["spec", "selector"], errors);
}
