//! What the schema cannot say about built-in kinds: defaults that depend on other fields, validations, immutable fields.
//!
//! Each kind has one `Rules` value; custom kinds have [`CUSTOM`].

mod config;
mod container;
mod network;
mod pod;
mod quantity;
mod volume;
mod workload;

use serde_json::Value;

use crate::crd;
use crate::error::FieldError;
use crate::meta::labels::{
    dns_1035_problems, dns_label_problems, dns_subdomain_problems, path_segment_problems,
};

/// The rules of a kind. A kind without a rule has a function that does nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) name: fn(&str) -> Vec<String>,
    pub(crate) default: fn(&mut Value),
    pub(crate) validate: fn(&Value, &mut Vec<FieldError>),
    pub(crate) validate_update: fn(&Value, &Value, &mut Vec<FieldError>),
}

fn no_default(_: &mut Value) {}
fn no_check(_: &Value, _: &mut Vec<FieldError>) {}
fn no_update_check(_: &Value, _: &Value, _: &mut Vec<FieldError>) {}

const PLAIN: Rules = Rules {
    name: dns_subdomain_problems,
    default: no_default,
    validate: no_check,
    validate_update: no_update_check,
};

/// Rules of custom kinds: their schemas say it all.
pub(crate) const CUSTOM: Rules = PLAIN;

/// The rules of a built-in kind.
pub(crate) fn of(group: &str, kind: &str) -> Rules {
    match (group, kind) {
        ("", "Namespace") => Rules {
            name: dns_label_problems,
            default: config::default_namespace,
            ..PLAIN
        },
        ("", "Pod") => Rules {
            default: pod::default_pod,
            validate: pod::validate_pod,
            validate_update: pod::validate_pod_update,
            ..PLAIN
        },
        ("", "Service") => Rules {
            name: dns_1035_problems,
            default: network::default_service,
            validate: network::validate_service,
            validate_update: network::validate_service_update,
        },
        ("", "ConfigMap") => Rules {
            validate: config::validate_config_map,
            validate_update: config::validate_immutable_data,
            ..PLAIN
        },
        ("", "Secret") => Rules {
            default: config::default_secret,
            validate: config::validate_secret,
            validate_update: config::validate_secret_update,
            ..PLAIN
        },
        ("", "Endpoints") => Rules {
            default: network::default_endpoints,
            validate: network::validate_endpoints,
            ..PLAIN
        },
        ("discovery.k8s.io", "EndpointSlice") => Rules {
            default: network::default_endpoint_slice,
            validate: network::validate_endpoint_slice,
            validate_update: network::validate_endpoint_slice_update,
            ..PLAIN
        },
        ("apps", "Deployment") => Rules {
            default: workload::default_deployment,
            validate: workload::validate_deployment,
            validate_update: workload::validate_workload_update,
            ..PLAIN
        },
        ("apps", "ReplicaSet") => Rules {
            default: workload::default_replica_set,
            validate: workload::validate_replica_set,
            validate_update: workload::validate_workload_update,
            ..PLAIN
        },
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Rules {
            default: crd::default_names,
            validate: crd::validate,
            validate_update: crd::validate_update,
            ..PLAIN
        },
        ("admissionregistration.k8s.io", _) => Rules {
            default: config::default_webhooks,
            validate: config::validate_webhooks,
            ..PLAIN
        },
        ("rbac.authorization.k8s.io", _) => Rules {
            name: path_segment_problems,
            default: config::default_subjects,
            validate: config::validate_rbac,
            validate_update: config::validate_role_ref_update,
        },
        _ => PLAIN,
    }
}

/// The object at a path of fields.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, field| value.get(field))
        .filter(|value| !value.is_null())
}

/// The text at a path; empty if absent.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The entries of the list at a path.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Sets a field of an object unless it is there.
pub(crate) fn set_default(value: &mut Value, field: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), default.into());
    }
}

/// Refuses a change of a field.
pub(crate) fn immutable(new: &Value, old: &Value, path: &[&str], errors: &mut Vec<FieldError>) {
    if at(new, path) != at(old, path) {
        let value = at(new, path).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(
            &path.join("."),
            value,
            "field is immutable",
        ));
    }
}

/// Refuses a text that is not one of these; absent is fine.
pub(crate) fn one_of(
    value: &Value,
    field: &str,
    path: &str,
    supported: &[&str],
    errors: &mut Vec<FieldError>,
) {
    if let Some(word) = value.get(field).and_then(Value::as_str)
        && !supported.contains(&word)
    {
        errors.push(FieldError::not_supported(
            &format!("{path}.{field}"),
            word,
            supported,
        ));
    }
}
