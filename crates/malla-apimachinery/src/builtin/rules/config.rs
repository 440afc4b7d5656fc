//! Namespaces, ConfigMaps, Secrets, webhook configurations and RBAC.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{at, immutable, list, one_of, set_default, text};
use crate::error::FieldError;
use crate::meta::labels::dns_subdomain_problems;

/// Most bytes of data in a ConfigMap or Secret (Kubernetes' `MaxSecretSize`).
const MAX_DATA_BYTES: usize = 1024 * 1024;

pub(super) fn default_namespace(namespace: &mut Value) {
    set_default(namespace, "spec", json!({}));
    if let Some(spec) = namespace.get_mut("spec") {
        set_default(spec, "finalizers", json!(["kubernetes"]));
    }
    set_default(namespace, "status", json!({}));
    if let Some(status) = namespace.get_mut("status") {
        set_default(status, "phase", "Active");
    }
    let name = text(namespace, &["metadata", "name"]).to_owned();
    if let Some(metadata) = namespace.get_mut("metadata").filter(|_| !name.is_empty()) {
        set_default(metadata, "labels", json!({}));
        if let Some(labels) = metadata.get_mut("labels") {
            set_default(labels, "kubernetes.io/metadata.name", name);
        }
    }
}

fn check_keys(object: &Value, errors: &mut Vec<FieldError>) -> usize {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in at(object, &[field])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let symbols = key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            if key.is_empty() || key.len() > 253 || !symbols || key == "." || key.starts_with("..")
            {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                errors.push(FieldError::invalid(
                    &format!("{field}[{key}]"),
                    key.as_str(),
                    detail,
                ));
            }
            size += key.len() + value.as_str().map_or(0, str::len);
        }
    }
    size
}

pub(super) fn validate_config_map(map: &Value, errors: &mut Vec<FieldError>) {
    let size = check_keys(map, errors);
    let data = at(map, &["data"]).and_then(Value::as_object);
    for (key, _) in at(map, &["binaryData"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if data.is_some_and(|data| data.contains_key(key)) {
            errors.push(FieldError::invalid(
                &format!("data[{key}]"),
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    if size > MAX_DATA_BYTES {
        errors.push(FieldError::too_long(
            "",
            format!("may not be more than {MAX_DATA_BYTES} bytes"),
        ));
    }
}

/// An immutable ConfigMap or Secret stays as it is.
pub(super) fn validate_immutable_data(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in ["data", "binaryData"] {
        if new.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(
                field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}

/// Moves `stringData` into `data`, as the API server does on every write.
pub(super) fn default_secret(secret: &mut Value) {
    let Some(map) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else {
        return;
    };
    let data = map
        .entry("data")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(data) = data.as_object_mut() else {
        return;
    };
    for (key, value) in plain {
        if let Some(text) = value.as_str() {
            data.insert(key, STANDARD.encode(text).into());
        }
    }
}

pub(super) fn validate_secret(secret: &Value, errors: &mut Vec<FieldError>) {
    if check_keys(secret, errors) > MAX_DATA_BYTES / 3 * 4 {
        errors.push(FieldError::too_long(
            "data",
            format!("may not be more than {MAX_DATA_BYTES} bytes"),
        ));
    }
    let needed: &[&str] = match text(secret, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if at(secret, &["data", key]).is_none() {
            errors.push(FieldError::required(&format!("data[{key}]"), ""));
        }
    }
    if text(secret, &["type"]) == "kubernetes.io/service-account-token"
        && text(
            secret,
            &[
                "metadata",
                "annotations",
                "kubernetes.io/service-account.name",
            ],
        )
        .is_empty()
    {
        errors.push(FieldError::required(
            "metadata.annotations[kubernetes.io/service-account.name]",
            "",
        ));
    }
}

pub(super) fn validate_secret_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    immutable(new, old, &["type"], errors);
    validate_immutable_data(new, old, errors);
}

/// A webhook that names no operations scope, path or failure policy gets Kubernetes' defaults from the schema; the rest is here.
pub(super) fn default_webhooks(configuration: &mut Value) {
    for webhook in configuration
        .get_mut("webhooks")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for rule in webhook
            .get_mut("rules")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            set_default(rule, "scope", "*");
        }
    }
}

pub(super) fn validate_webhooks(configuration: &Value, errors: &mut Vec<FieldError>) {
    let mut names = Vec::new();
    for (index, webhook) in list(configuration, &["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{index}]");
        let name = text(webhook, &["name"]);
        let at_name = format!("{path}.name");
        if !dns_subdomain_problems(name).is_empty() || name.split('.').count() < 3 {
            errors.push(FieldError::invalid(
                &at_name,
                name,
                "should be a domain with at least three segments separated by dots",
            ));
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&at_name, name));
        }
        names.push(name);
        check_webhook(webhook, &path, errors);
    }
}

fn check_webhook(webhook: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let versions = list(webhook, &["admissionReviewVersions"]);
    if !versions.is_empty()
        && !versions
            .iter()
            .any(|version| version == "v1" || version == "v1beta1")
    {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(
            &format!("{path}.admissionReviewVersions"),
            versions.to_vec(),
            detail,
        ));
    }
    one_of(
        webhook,
        "sideEffects",
        path,
        &["None", "NoneOnDryRun"],
        errors,
    );
    one_of(webhook, "failurePolicy", path, &["Fail", "Ignore"], errors);
    one_of(
        webhook,
        "matchPolicy",
        path,
        &["Equivalent", "Exact"],
        errors,
    );
    one_of(
        webhook,
        "reinvocationPolicy",
        path,
        &["IfNeeded", "Never"],
        errors,
    );
    if let Some(seconds) = webhook.get("timeoutSeconds").and_then(Value::as_i64)
        && !(1..=30).contains(&seconds)
    {
        errors.push(FieldError::invalid(
            &format!("{path}.timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    let client = format!("{path}.clientConfig");
    match (
        at(webhook, &["clientConfig", "url"]),
        at(webhook, &["clientConfig", "service"]),
    ) {
        (None, None) | (Some(_), Some(_)) => {
            errors.push(FieldError::required(
                &client,
                "exactly one of url or service is required",
            ));
        }
        (Some(url), None) if !url.as_str().is_some_and(|url| url.starts_with("https://")) => {
            errors.push(FieldError::invalid(
                &format!("{client}.url"),
                url.clone(),
                "'https' is the only allowed URL scheme",
            ));
        }
        _ => {}
    }
    for (index, rule) in list(webhook, &["rules"]).iter().enumerate() {
        let path = format!("{path}.rules[{index}]");
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if list(rule, &[field]).is_empty() {
                errors.push(FieldError::required(&format!("{path}.{field}"), ""));
            }
        }
        for (index, operation) in list(rule, &["operations"]).iter().enumerate() {
            let supported = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            if !operation
                .as_str()
                .is_some_and(|operation| supported.contains(&operation))
            {
                errors.push(FieldError::not_supported(
                    &format!("{path}.operations[{index}]"),
                    operation.clone(),
                    &supported,
                ));
            }
        }
        one_of(
            rule,
            "scope",
            &path,
            &["*", "Cluster", "Namespaced"],
            errors,
        );
    }
}

/// Users and groups belong to the RBAC API group, service accounts to none.
pub(super) fn default_subjects(object: &mut Value) {
    for subject in object
        .get_mut("subjects")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if matches!(text(subject, &["kind"]), "User" | "Group") {
            set_default(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

pub(super) fn validate_rbac(object: &Value, errors: &mut Vec<FieldError>) {
    for (index, rule) in list(object, &["rules"]).iter().enumerate() {
        let path = format!("rules[{index}]");
        if list(rule, &["verbs"]).is_empty() {
            errors.push(FieldError::required(
                &format!("{path}.verbs"),
                "verbs must contain at least one value",
            ));
        }
        if list(rule, &["nonResourceURLs"]).is_empty() {
            if list(rule, &["apiGroups"]).is_empty() {
                errors.push(FieldError::required(
                    &format!("{path}.apiGroups"),
                    "resource rules must supply at least one api group",
                ));
            }
            if list(rule, &["resources"]).is_empty() {
                errors.push(FieldError::required(
                    &format!("{path}.resources"),
                    "resource rules must supply at least one resource",
                ));
            }
        }
    }
    if let Some(role) = at(object, &["roleRef"]) {
        one_of(role, "kind", "roleRef", &["ClusterRole", "Role"], errors);
    }
    for (index, subject) in list(object, &["subjects"]).iter().enumerate() {
        let path = format!("subjects[{index}]");
        one_of(
            subject,
            "kind",
            &path,
            &["Group", "ServiceAccount", "User"],
            errors,
        );
        // A RoleBinding's own namespace is meant where none is named.
        if text(subject, &["kind"]) == "ServiceAccount"
            && text(object, &["kind"]) == "ClusterRoleBinding"
            && text(subject, &["namespace"]).is_empty()
        {
            errors.push(FieldError::required(&format!("{path}.namespace"), ""));
        }
    }
}

pub(super) fn validate_role_ref_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if at(new, &["roleRef"]) != at(old, &["roleRef"]) {
        let value = at(new, &["roleRef"]).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(
            "roleRef",
            value,
            "cannot change roleRef",
        ));
    }
}
