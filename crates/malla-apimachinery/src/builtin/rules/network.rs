//! Services, Endpoints and EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::container::{check_port_name, check_port_number};
use super::{at, immutable, list, one_of, set_default, text};
use crate::error::FieldError;
use crate::meta::labels::{check_labels, dns_label_problems, dns_subdomain_problems};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn default_service(service: &mut Value) {
    let Some(spec) = service.get_mut("spec") else {
        return;
    };
    let kind = text(spec, &["type"]).to_owned();
    if text(spec, &["sessionAffinity"]) == "ClientIP" {
        set_default(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    if kind != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
        let address = text(spec, &["clusterIP"]).to_owned();
        if !address.is_empty() {
            set_default(spec, "clusterIPs", json!([address]));
        }
        let six = address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv6());
        set_default(
            spec,
            "ipFamilies",
            json!([if six { "IPv6" } else { "IPv4" }]),
        );
        set_default(spec, "ipFamilyPolicy", "SingleStack");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let number = port.get("port").cloned();
        let target = port.get("targetPort");
        let unset = target.is_none_or(|target| target.is_null() || target == 0 || target == "");
        if let Some(number) = number.filter(|_| unset)
            && let Some(map) = port.as_object_mut()
        {
            map.insert("targetPort".into(), number);
        }
    }
}

pub(super) fn validate_service(service: &Value, errors: &mut Vec<FieldError>) {
    let Some(spec) = at(service, &["spec"]) else {
        errors.push(FieldError::required("spec.ports", ""));
        return;
    };
    let kind = text(spec, &["type"]);
    one_of(
        spec,
        "type",
        "spec",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        errors,
    );
    one_of(
        spec,
        "sessionAffinity",
        "spec",
        &["ClientIP", "None"],
        errors,
    );
    one_of(
        spec,
        "internalTrafficPolicy",
        "spec",
        &["Cluster", "Local"],
        errors,
    );
    one_of(
        spec,
        "externalTrafficPolicy",
        "spec",
        &["Cluster", "Local"],
        errors,
    );
    let address = text(spec, &["clusterIP"]);
    if kind == "ExternalName" {
        let name = text(spec, &["externalName"]).trim_end_matches('.');
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            errors.extend(
                dns_subdomain_problems(name)
                    .into_iter()
                    .map(|problem| FieldError::invalid("spec.externalName", name, problem)),
            );
        }
        if !address.is_empty() && address != "None" {
            errors.push(FieldError::forbidden(
                "spec.clusterIPs[0]",
                "may not be set for ExternalName services",
            ));
        }
    } else if list(spec, &["ports"]).is_empty() && address != "None" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if address == "None" && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", address, detail));
    }
    if !matches!(address, "" | "None") && address.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", address, BAD_IP));
    }
    check_labels(
        at(spec, &["selector"]).unwrap_or(&Value::Null),
        "spec.selector",
        errors,
    );
    for (index, ip) in list(spec, &["externalIPs"]).iter().enumerate() {
        check_ip(ip, &format!("spec.externalIPs[{index}]"), errors);
    }
    check_service_ports(spec, kind, errors);
}

fn check_service_ports(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let ports = list(spec, &["ports"]);
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, &["name"]);
        let at_name = format!("{path}.name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(&at_name, ""));
        } else if !name.is_empty() {
            errors.extend(
                dns_label_problems(name)
                    .into_iter()
                    .map(|problem| FieldError::invalid(&at_name, name, problem)),
            );
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at_name, name));
            }
        }
        let number = port.get("port").cloned().unwrap_or(json!(0));
        check_port_number(&number, &format!("{path}.port"), errors);
        one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"], errors);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                check_port_name(name, &format!("{path}.targetPort"), errors)
            }
            Some(number) => check_port_number(number, &format!("{path}.targetPort"), errors),
            None => {}
        }
        let protocol = text(port, &["protocol"]);
        if !numbers.insert((number.as_i64(), protocol)) {
            let value = json!({"port": number, "protocol": protocol});
            errors.push(FieldError::duplicate(&path, value));
        }
        if let Some(node_port) = port
            .get("nodePort")
            .and_then(Value::as_i64)
            .filter(|port| *port != 0)
        {
            let at = format!("{path}.nodePort");
            if matches!(kind, "ClusterIP" | "ExternalName") {
                errors.push(FieldError::forbidden(
                    &at,
                    format!("may not be used when `type` is '{kind}'"),
                ));
            } else if !node_ports.insert((node_port, protocol)) {
                errors.push(FieldError::duplicate(&at, node_port));
            }
        }
    }
}

pub(super) fn validate_service_update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let external = |service: &Value| text(service, &["spec", "type"]) == "ExternalName";
    let (before, after) = (
        text(old, &["spec", "clusterIP"]),
        text(new, &["spec", "clusterIP"]),
    );
    if !external(new) && !external(old) && !before.is_empty() && before != after {
        let value = at(new, &["spec", "clusterIPs"])
            .cloned()
            .unwrap_or_else(|| json!([after]));
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            value,
            "may not change once set",
        ));
    }
}

fn check_ip(ip: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if ip.as_str().is_none_or(|ip| ip.parse::<IpAddr>().is_err()) {
        errors.push(FieldError::invalid(path, ip.clone(), BAD_IP));
    }
}

/// The protocol of endpoint ports is TCP unless said otherwise.
pub(super) fn default_endpoints(endpoints: &mut Value) {
    for subset in endpoints
        .get_mut("subsets")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        default_protocols(subset);
    }
}

fn default_protocols(object: &mut Value) {
    for port in object
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        set_default(port, "protocol", "TCP");
    }
}

pub(super) fn validate_endpoints(endpoints: &Value, errors: &mut Vec<FieldError>) {
    for (index, subset) in list(endpoints, &["subsets"]).iter().enumerate() {
        let path = format!("subsets[{index}]");
        if list(subset, &["addresses"]).is_empty()
            && list(subset, &["notReadyAddresses"]).is_empty()
        {
            errors.push(FieldError::required(
                &path,
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (index, address) in list(subset, &[field]).iter().enumerate() {
                check_ip(
                    address.get("ip").unwrap_or(&Value::Null),
                    &format!("{path}.{field}[{index}].ip"),
                    errors,
                );
            }
        }
        check_endpoint_ports(subset, &path, errors);
    }
}

fn check_endpoint_ports(object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let ports = list(object, &["ports"]);
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}.")
        };
        let path = format!("{prefix}ports[{index}]");
        let name = text(port, &["name"]);
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&format!("{path}.name"), name));
        }
        if let Some(number) = port.get("port") {
            check_port_number(number, &format!("{path}.port"), errors);
        }
        one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"], errors);
    }
}

pub(super) fn default_endpoint_slice(slice: &mut Value) {
    for port in slice
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        set_default(port, "name", "");
    }
    default_protocols(slice);
}

pub(super) fn validate_endpoint_slice(slice: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(slice, &["addressType"]);
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    }
    let supported = ["FQDN", "IPv4", "IPv6"];
    if !kind.is_empty() && !supported.contains(&kind) {
        errors.push(FieldError::not_supported("addressType", kind, &supported));
    }
    for (index, endpoint) in list(slice, &["endpoints"]).iter().enumerate() {
        let addresses = list(endpoint, &["addresses"]);
        let path = format!("endpoints[{index}].addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(
                &path,
                "must contain at least 1 address",
            ));
        }
        for (index, address) in addresses.iter().enumerate() {
            let parsed = address
                .as_str()
                .and_then(|address| address.parse::<IpAddr>().ok());
            let fits = match kind {
                "IPv4" => parsed.is_some_and(|address| address.is_ipv4()),
                "IPv6" => parsed.is_some_and(|address| address.is_ipv6()),
                _ => true,
            };
            if !fits {
                errors.push(FieldError::invalid(
                    &format!("{path}[{index}]"),
                    address.clone(),
                    format!("must be a valid {kind} address"),
                ));
            }
        }
    }
    check_endpoint_ports(slice, "", errors);
}

pub(super) fn validate_endpoint_slice_update(
    new: &Value,
    old: &Value,
    errors: &mut Vec<FieldError>,
) {
    immutable(new, old, &["addressType"], errors);
}
