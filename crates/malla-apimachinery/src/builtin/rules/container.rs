//! Containers: image pull policy, ports, environment, probes, resources.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::quantity;
use super::{at, list, one_of, set_default, text};
use crate::error::FieldError;
use crate::meta::labels::dns_label_problems;

/// Longest name of a port (RFC 6335, IANA service names).
const MAX_PORT_NAME: usize = 15;

/// Defaults of one container that depend on other fields.
pub(super) fn default_container(container: &mut Value, host_network: bool) {
    let latest = is_latest(text(container, &["image"]));
    set_default(
        container,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
    for port in container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let number = port.get("containerPort").cloned();
        if let Some(number) = number.filter(|_| host_network) {
            set_default(port, "hostPort", number);
        }
    }
    let Some(resources) = container.get_mut("resources") else {
        return;
    };
    for field in ["limits", "requests"] {
        if let Some(quantities) = resources.get_mut(field) {
            default_quantities(quantities);
        }
    }
    // A limit without a request requests the limit.
    let limits = resources
        .get("limits")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if !limits.is_empty() {
        set_default(resources, "requests", json!({}));
        if let Some(requests) = resources.get_mut("requests") {
            for (name, limit) in limits {
                set_default(requests, &name, limit);
            }
        }
    }
}

/// Quantities written as numbers become strings, as Kubernetes answers them.
pub(super) fn default_quantities(quantities: &mut Value) {
    for quantity in quantities
        .as_object_mut()
        .into_iter()
        .flat_map(|map| map.values_mut())
    {
        if quantity.is_number() {
            *quantity = quantity.to_string().into();
        }
    }
}

/// Whether an image has the tag `latest` or neither tag nor digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Checks all containers of a pod spec.
pub(super) fn check_containers(
    spec: &Value,
    path: &str,
    volumes: &HashSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let mut names: HashSet<&str> = HashSet::new();
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, &[field]).iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            check_name(container, &path, &mut names, errors);
            check_container(container, &path, volumes, errors);
            if field == "initContainers" && text(container, &["restartPolicy"]) != "Always" {
                for probe in [
                    "livenessProbe",
                    "readinessProbe",
                    "startupProbe",
                    "lifecycle",
                ] {
                    if at(container, &[probe]).is_some() {
                        let detail =
                            "may not be set for init containers without restartPolicy=Always";
                        errors.push(FieldError::forbidden(&format!("{path}.{probe}"), detail));
                    }
                }
            }
        }
    }
    check_port_conflicts(spec, path, errors);
}

fn check_name<'a>(
    container: &'a Value,
    path: &str,
    names: &mut HashSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let at = format!("{path}.name");
    let name = text(container, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    errors.extend(
        dns_label_problems(name)
            .into_iter()
            .map(|problem| FieldError::invalid(&at, name, problem)),
    );
    if !names.insert(name) {
        errors.push(FieldError::duplicate(&at, name));
    }
}

fn check_container(
    container: &Value,
    path: &str,
    volumes: &HashSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let image = text(container, &["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(&format!("{path}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            &format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(
        container,
        "imagePullPolicy",
        path,
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    one_of(
        container,
        "terminationMessagePolicy",
        path,
        &["FallbackToLogsOnError", "File"],
        errors,
    );
    check_ports(container, path, errors);
    check_env(container, path, errors);
    let mut mounts = HashSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let (name, target) = (text(mount, &["name"]), text(mount, &["mountPath"]));
        if name.is_empty() {
            errors.push(FieldError::required(&format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(&format!("{path}.name"), name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&format!("{path}.mountPath"), ""));
        } else if !mounts.insert(target) {
            errors.push(FieldError::invalid(
                &format!("{path}.mountPath"),
                target,
                "must be unique",
            ));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = at(container, &[probe]) {
            check_probe(value, probe, &format!("{path}.{probe}"), errors);
        }
    }
    check_resources(container, path, errors);
}

/// Problems of a port number.
pub(super) fn check_port_number(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(port) = value.as_i64()
        && !(1..=65535).contains(&port)
    {
        errors.push(FieldError::invalid(
            path,
            port,
            "must be between 1 and 65535, inclusive",
        ));
    }
}

/// Problems of a port name (IANA service name).
pub(super) fn check_port_name(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let mut problem = |detail: &str| errors.push(FieldError::invalid(path, name, detail));
    if name.len() > MAX_PORT_NAME {
        problem("must be no more than 15 characters");
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        problem("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problem("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        problem("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        problem("must not begin or end with a hyphen");
    }
}

fn check_ports(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    for (index, port) in list(container, &["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, &["name"]);
        if !name.is_empty() {
            let at = format!("{path}.name");
            check_port_name(name, &at, errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at, name));
            }
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => {
                errors.push(FieldError::required(&format!("{path}.containerPort"), ""))
            }
            Some(_) => check_port_number(
                &port["containerPort"],
                &format!("{path}.containerPort"),
                errors,
            ),
        }
        if port
            .get("hostPort")
            .and_then(Value::as_i64)
            .is_some_and(|port| port != 0)
        {
            check_port_number(&port["hostPort"], &format!("{path}.hostPort"), errors);
        }
        one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"], errors);
    }
}

/// Two containers of a pod cannot take the same port of the host.
fn check_port_conflicts(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut taken = HashSet::new();
    for (index, container) in list(spec, &["containers"]).iter().enumerate() {
        for (port_index, port) in list(container, &["ports"]).iter().enumerate() {
            let Some(host) = port
                .get("hostPort")
                .and_then(Value::as_i64)
                .filter(|port| *port != 0)
            else {
                continue;
            };
            let identity = format!(
                "{host}/{}/{}",
                text(port, &["protocol"]),
                text(port, &["hostIP"])
            );
            if !taken.insert(identity.clone()) {
                let at = format!("{path}.containers[{index}].ports[{port_index}].hostPort");
                errors.push(FieldError::duplicate(&at, identity));
            }
        }
    }
}

fn check_env(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&format!("{path}.name"), ""));
        } else if name.contains('=') || !name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(FieldError::invalid(&format!("{path}.name"), name, detail));
        }
        let Some(source) = at(variable, &["valueFrom"]) else {
            continue;
        };
        let path = format!("{path}.valueFrom");
        if !text(variable, &["value"]).is_empty() {
            errors.push(FieldError::invalid(
                &path,
                "",
                "may not be specified when `value` is not empty",
            ));
        }
        match source.as_object().map_or(0, |map| map.len()) {
            0 => errors.push(FieldError::invalid(&path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")),
            1 => {}
            _ => errors.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(value) = at(source, &[reference])
                && text(value, &["key"]).is_empty()
            {
                errors.push(FieldError::required(&format!("{path}.{reference}.key"), ""));
            }
        }
    }
}

fn check_probe(probe: &Value, name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .filter(|handler| at(probe, &[handler]).is_some())
        .collect();
    match handlers.as_slice() {
        [] => errors.push(FieldError::required(path, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => errors.push(FieldError::forbidden(
            &format!("{path}.{second}"),
            "may not specify more than 1 handler type",
        )),
    }
    for handler in ["httpGet", "tcpSocket", "grpc"] {
        let Some(port) = at(probe, &[handler, "port"]) else {
            continue;
        };
        let at = format!("{path}.{handler}.port");
        match port {
            Value::String(name) => check_port_name(name, &at, errors),
            number => check_port_number(number, &at, errors),
        }
    }
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(number) = probe
            .get(field)
            .and_then(Value::as_i64)
            .filter(|number| *number < 0)
        {
            errors.push(FieldError::invalid(
                &format!("{path}.{field}"),
                number,
                "must be greater than or equal to 0",
            ));
        }
    }
    let successes = probe
        .get("successThreshold")
        .and_then(Value::as_i64)
        .unwrap_or(1);
    if name != "readinessProbe" && successes != 1 {
        errors.push(FieldError::invalid(
            &format!("{path}.successThreshold"),
            successes,
            "must be 1",
        ));
    }
}

fn check_resources(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["limits", "requests"] {
        for (name, value) in at(container, &["resources", field])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let path = format!("{path}.resources.{field}");
            match quantity::parse(value) {
                None => errors.push(FieldError::invalid(&path, value.clone(), quantity::SYNTAX)),
                Some(size) if size < 0.0 => {
                    errors.push(FieldError::invalid(
                        &format!("{path}[{name}]"),
                        value.clone(),
                        "must be greater than or equal to 0",
                    ));
                }
                Some(size) => {
                    let limit = at(container, &["resources", "limits", name]);
                    if field == "requests"
                        && let Some(limit) = limit
                        && quantity::parse(limit).is_some_and(|limit| size > limit)
                    {
                        let shown = limit
                            .as_str()
                            .map_or_else(|| limit.to_string(), str::to_owned);
                        errors.push(FieldError::invalid(
                            &path,
                            value.clone(),
                            format!("must be less than or equal to {name} limit of {shown}"),
                        ));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, latest) in [
            ("web", true),
            ("web:latest", true),
            ("r.io:5000/web", true),
            ("web:1", false),
            ("web@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
