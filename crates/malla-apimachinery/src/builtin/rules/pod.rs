//! Pods and pod templates: defaults that depend on other fields, validation, and what may change.

use serde_json::{Value, json};

use super::container::{check_containers, default_container, default_quantities};
use super::volume::check_volumes;
use super::{at, list, one_of, set_default, text};
use crate::error::FieldError;
use crate::meta::labels::{
    check_annotations, check_labels, dns_label_problems, dns_subdomain_problems,
};

pub(super) fn default_pod(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        default_pod_spec(spec);
        set_default(spec, "enableServiceLinks", true);
    }
}

/// The defaults of a pod spec, in a pod or in a template.
pub(super) fn default_pod_spec(spec: &mut Value) {
    if let Some(account) = spec
        .get("serviceAccountName")
        .cloned()
        .filter(|name| name != "")
    {
        set_default(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        set_default(spec, "serviceAccountName", account);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec
            .get_mut(field)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            default_container(container, host_network);
        }
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        default_quantities(overhead);
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let sources = volume
            .as_object()
            .map_or(0, |map| map.keys().filter(|key| *key != "name").count());
        if sources == 0 {
            set_default(volume, "emptyDir", json!({}));
        }
    }
}

pub(super) fn validate_pod(pod: &Value, errors: &mut Vec<FieldError>) {
    match at(pod, &["spec"]) {
        Some(spec) => check_pod_spec(spec, "spec", errors),
        None => errors.push(FieldError::required("spec.containers", "")),
    }
}

/// Checks a `PodTemplateSpec`.
pub(super) fn check_template(template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let labels = at(template, &["metadata", "labels"]).unwrap_or(&Value::Null);
    check_labels(labels, &format!("{path}.metadata.labels"), errors);
    let annotations = at(template, &["metadata", "annotations"]).unwrap_or(&Value::Null);
    check_annotations(annotations, &format!("{path}.metadata.annotations"), errors);
    match at(template, &["spec"]) {
        Some(spec) => check_pod_spec(spec, &format!("{path}.spec"), errors),
        None => errors.push(FieldError::required(&format!("{path}.spec.containers"), "")),
    }
}

fn check_pod_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = check_volumes(spec, path, errors);
    if list(spec, &["containers"]).is_empty() {
        errors.push(FieldError::required(&format!("{path}.containers"), ""));
    }
    check_containers(spec, path, &volumes, errors);
    one_of(
        spec,
        "restartPolicy",
        path,
        &["Always", "OnFailure", "Never"],
        errors,
    );
    one_of(
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    let names = [
        (
            "serviceAccountName",
            dns_subdomain_problems as fn(&str) -> Vec<String>,
        ),
        ("nodeName", dns_subdomain_problems),
        ("hostname", dns_label_problems),
        ("subdomain", dns_label_problems),
    ];
    for (field, problems) in names {
        let name = text(spec, &[field]);
        if !name.is_empty() {
            let at = format!("{path}.{field}");
            errors.extend(
                problems(name)
                    .into_iter()
                    .map(|problem| FieldError::invalid(&at, name, problem)),
            );
        }
    }
    let grace = spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    if let Some(seconds) = grace.filter(|seconds| *seconds < 0) {
        let at = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(
            &at,
            seconds,
            "must be greater than or equal to 0",
        ));
    }
    check_labels(
        at(spec, &["nodeSelector"]).unwrap_or(&Value::Null),
        &format!("{path}.nodeSelector"),
        errors,
    );
    for (index, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        let ip = text(alias, &["ip"]);
        if ip.parse::<std::net::IpAddr>().is_err() {
            let at = format!("{path}.hostAliases[{index}].ip");
            errors.push(FieldError::invalid(
                &at,
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
}

/// What kube-apiserver says when a pod's spec changes.
const POD_UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate_pod_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    // The scheduler's binding is the one time a node name may appear.
    let unbound = text(old, &["spec", "nodeName"]).is_empty();
    let frozen = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(map) = spec.as_object_mut() {
            for field in [
                "activeDeadlineSeconds",
                "tolerations",
                "ephemeralContainers",
                "schedulingGates",
            ] {
                map.remove(field);
            }
            if unbound {
                map.remove("nodeName");
            }
            for field in ["containers", "initContainers"] {
                for container in map
                    .get_mut(field)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(container) = container.as_object_mut() {
                        container.remove("image");
                    }
                }
            }
        }
        spec
    };
    if frozen(new) != frozen(old) {
        errors.push(FieldError::forbidden("spec", POD_UPDATE));
    }
    if !list(new, &["spec", "tolerations"]).is_empty()
        || !list(old, &["spec", "tolerations"]).is_empty()
    {
        let (new, old) = (
            list(new, &["spec", "tolerations"]),
            list(old, &["spec", "tolerations"]),
        );
        if !old.iter().all(|toleration| new.contains(toleration)) {
            errors.push(FieldError::forbidden(
                "spec.tolerations",
                "existing toleration can not be modified except its tolerationSeconds",
            ));
        }
    }
}
