//! The cells of the built-in kinds, one function per kind.

use jiff::Timestamp;
use serde_json::Value;

use super::age::since;
use super::condition;
use crate::builtin::rules::{at, list, text};
use crate::selector::LabelSelector;

pub(super) fn name(object: &Value) -> Value {
    text(object, &["metadata", "name"]).into()
}

/// The age of an object.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(text(object, &["metadata", "creationTimestamp"]), now).into()
}

fn count(object: &Value, path: &[&str]) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

fn or(value: String, fallback: &str) -> String {
    if value.is_empty() {
        fallback.to_owned()
    } else {
        value
    }
}

fn joined<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}

/// At most three entries, then how many more.
fn few(entries: &[String]) -> String {
    const SHOWN: usize = 3;
    match entries.get(..SHOWN) {
        Some(shown) if entries.len() > SHOWN => {
            format!("{} + {} more...", shown.join(","), entries.len() - SHOWN)
        }
        _ if entries.is_empty() => "<none>".to_owned(),
        _ => entries.join(","),
    }
}

pub(super) fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let kind = or(text(service, &["spec", "type"]).to_owned(), "ClusterIP");
    let address = text(service, &["spec", "clusterIP"]).to_owned();
    let ports: Vec<String> = list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let node = match count(port, &["nodePort"]) {
                0 => String::new(),
                number => format!(":{number}"),
            };
            format!(
                "{}{node}/{}",
                count(port, &["port"]),
                or(text(port, &["protocol"]).to_owned(), "TCP")
            )
        })
        .collect();
    vec![
        name(service),
        kind.as_str().into(),
        or(address, "<none>").into(),
        external_address(service, &kind).into(),
        or(ports.join(","), "<none>").into(),
        age(service, now),
        or(
            LabelSelector::from_map(at(service, &["spec", "selector"]).unwrap_or(&Value::Null))
                .to_string(),
            "<none>",
        )
        .into(),
    ]
}

fn external_address(service: &Value, kind: &str) -> String {
    let external = joined(
        list(service, &["spec", "externalIPs"])
            .iter()
            .filter_map(Value::as_str),
    );
    match kind {
        "LoadBalancer" => {
            let ingress = list(service, &["status", "loadBalancer", "ingress"]).iter();
            let given = joined(ingress.map(|entry| match text(entry, &["ip"]) {
                "" => text(entry, &["hostname"]),
                ip => ip,
            }));
            let all = joined([given.as_str(), external.as_str()].into_iter());
            or(all, "<pending>")
        }
        "ExternalName" => text(service, &["spec", "externalName"]).to_owned(),
        _ => or(external, "<none>"),
    }
}

pub(super) fn endpoints(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let mut entries = Vec::new();
    for subset in list(endpoints, &["subsets"]) {
        for address in list(subset, &["addresses"]) {
            let ip = text(address, &["ip"]);
            let ports = list(subset, &["ports"]);
            if ports.is_empty() {
                entries.push(ip.to_owned());
            }
            entries.extend(
                ports
                    .iter()
                    .map(|port| format!("{ip}:{}", count(port, &["port"]))),
            );
        }
    }
    vec![name(endpoints), few(&entries).into(), age(endpoints, now)]
}

pub(super) fn namespace(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(namespace),
        text(namespace, &["status", "phase"]).into(),
        age(namespace, now),
    ]
}

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    const ROLE: &str = "node-role.kubernetes.io/";
    let ready =
        condition(node, "Ready").map_or("Unknown", |ready| match text(ready, &["status"]) {
            "True" => "Ready",
            _ => "NotReady",
        });
    let cordoned = at(node, &["spec", "unschedulable"]) == Some(&Value::Bool(true));
    let status = if cordoned {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    };
    let labels = at(node, &["metadata", "labels"]).and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flat_map(|labels| labels.keys())
        .filter_map(|key| key.strip_prefix(ROLE))
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = list(node, &["status", "addresses"])
            .iter()
            .find(|address| text(address, &["type"]) == kind);
        or(
            found
                .map(|address| text(address, &["address"]).to_owned())
                .unwrap_or_default(),
            "<none>",
        )
    };
    let info = |field: &str| {
        or(
            text(node, &["status", "nodeInfo", field]).to_owned(),
            "<unknown>",
        )
    };
    vec![
        name(node),
        status.into(),
        or(roles.join(","), "<none>").into(),
        age(node, now),
        text(node, &["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn size(object: &Value, path: &[&str]) -> usize {
    match at(object, path) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

pub(super) fn config_map(map: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(map),
        (size(map, &["data"]) + size(map, &["binaryData"])).into(),
        age(map, now),
    ]
}

pub(super) fn secret(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(secret),
        text(secret, &["type"]).into(),
        size(secret, &["data"]).into(),
        age(secret, now),
    ]
}

pub(super) fn service_account(account: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(account),
        size(account, &["secrets"]).into(),
        age(account, now),
    ]
}

/// Both `v1` and `events.k8s.io/v1`: what one calls `involvedObject`, the other calls `regarding`.
pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |old: &[&str], new: &[&str]| match text(event, old) {
        "" => text(event, new).to_owned(),
        found => found.to_owned(),
    };
    let first = either(&["firstTimestamp"], &["deprecatedFirstTimestamp"]);
    let time = text(event, &["eventTime"]).to_owned();
    let first = or(first, &time);
    let last = or(
        either(&["lastTimestamp"], &["deprecatedLastTimestamp"]),
        text(event, &["series", "lastObservedTime"]),
    );
    let last = or(last, &first);
    let object = ["involvedObject", "regarding"]
        .into_iter()
        .find_map(|field| at(event, &[field]))
        .unwrap_or(&Value::Null);
    let target = format!(
        "{}/{}",
        text(object, &["kind"]).to_lowercase(),
        text(object, &["name"])
    );
    let component = either(&["source", "component"], &["reportingComponent"]);
    let source = joined([component.as_str(), text(event, &["source", "host"])].into_iter());
    let times = [&["series", "count"][..], &["count"], &["deprecatedCount"]]
        .into_iter()
        .map(|path| count(event, path))
        .find(|count| *count > 0)
        .unwrap_or(1);
    vec![
        since(&last, now).into(),
        text(event, &["type"]).into(),
        text(event, &["reason"]).into(),
        target.into(),
        text(object, &["fieldPath"]).into(),
        source.into(),
        either(&["message"], &["note"]).trim().into(),
        since(&first, now).into(),
        times.to_string().into(),
        name(event),
    ]
}

/// Containers, images and selector of a workload, for wide output.
fn workload_tail(object: &Value) -> [Value; 3] {
    let containers = || list(object, &["spec", "template", "spec", "containers"]).iter();
    let selector = at(object, &["spec", "selector"])
        .and_then(|selector| LabelSelector::from_object(selector).ok());
    [
        joined(containers().map(|container| text(container, &["name"]))).into(),
        joined(containers().map(|container| text(container, &["image"]))).into(),
        or(selector.unwrap_or_default().to_string(), "<none>").into(),
    ]
}

pub(super) fn deployment(deployment: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!(
        "{}/{}",
        count(deployment, &["status", "readyReplicas"]),
        count(deployment, &["spec", "replicas"])
    );
    let mut cells = vec![
        name(deployment),
        ready.into(),
        count(deployment, &["status", "updatedReplicas"]).into(),
        count(deployment, &["status", "availableReplicas"]).into(),
        age(deployment, now),
    ];
    cells.extend(workload_tail(deployment));
    cells
}

pub(super) fn replica_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(set),
        count(set, &["spec", "replicas"]).into(),
        count(set, &["status", "replicas"]).into(),
        count(set, &["status", "readyReplicas"]).into(),
        age(set, now),
    ];
    cells.extend(workload_tail(set));
    cells
}

pub(super) fn endpoint_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let shown = |port: &Value| match port.get("port") {
        None | Some(Value::Null) => "*".to_owned(),
        Some(number) => number.to_string(),
    };
    let ports: Vec<String> = list(slice, &["ports"]).iter().map(shown).collect();
    let ports = if ports.is_empty() {
        "<unset>".to_owned()
    } else {
        few(&ports)
    };
    let addresses: Vec<String> = list(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| list(endpoint, &["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let addresses = if addresses.is_empty() {
        "<unset>".to_owned()
    } else {
        few(&addresses)
    };
    vec![
        name(slice),
        text(slice, &["addressType"]).into(),
        ports.into(),
        addresses.into(),
        age(slice, now),
    ]
}

pub(super) fn lease(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(lease),
        text(lease, &["spec", "holderIdentity"]).into(),
        age(lease, now),
    ]
}

pub(super) fn webhooks(configuration: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(configuration),
        size(configuration, &["webhooks"]).into(),
        age(configuration, now),
    ]
}

pub(super) fn created_at(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, &["metadata", "creationTimestamp"]).into(),
    ]
}

pub(super) fn binding(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(binding, &["roleRef", "kind"]),
        text(binding, &["roleRef", "name"])
    );
    let subjects = |kind: &str| {
        let found: Vec<String> = list(binding, &["subjects"])
            .iter()
            .filter(|subject| text(subject, &["kind"]) == kind)
            .map(|subject| match text(subject, &["namespace"]) {
                "" => text(subject, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(subject, &["name"])),
            })
            .collect();
        Value::from(found.join(", "))
    };
    vec![
        name(binding),
        role.into(),
        age(binding, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
