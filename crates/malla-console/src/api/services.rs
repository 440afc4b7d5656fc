//! Services: what they are made of, what rules bear on them, what went through them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use malla_api::Kind;
use malla_model::{Host, MeshSettings};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::metrics::{Flow, SeenBy, flows};
use crate::mirror::{Mirror, Object, Watched, has_proxy, selects};
use crate::pods::PodIndex;
use crate::proxies::is_ready;
use crate::server::App;

/// Figures are over the last minute.
pub(crate) const WINDOW: u32 = 60;
const SERVICE_LABELS: [&str; 2] = ["destination_service_namespace", "destination_service_name"];

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let metrics = app.metrics.as_deref();
    let measured = flows(metrics, SeenBy::Either, "", &SERVICE_LABELS, WINDOW).await;
    let pods = app.mirror.list(Watched::Pod);
    let index = PodIndex::new(&pods);
    let services = app.mirror.list(Watched::Service);
    let shown = services
        .iter()
        .map(|service| summary(service, &index.behind(service), &measured));
    Json(shown.collect())
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let service = app.mirror.get(Watched::Service, &namespace, &name);
    let service = service
        .ok_or_else(|| ApiError::not_found(format!("there is no Service {namespace}/{name}")))?;
    let pods = app.mirror.list(Watched::Pod);
    let backends = PodIndex::new(&pods).behind(&service);
    // Names of Kubernetes objects need no escaping in PromQL.
    let matchers = format!(
        "destination_service_namespace=\"{}\",destination_service_name=\"{}\"",
        service.namespace(),
        service.name()
    );
    let metrics = app.metrics.as_deref();
    let (measured, by_version) = tokio::join!(
        flows(metrics, SeenBy::Either, &matchers, &SERVICE_LABELS, WINDOW),
        flows(
            metrics,
            SeenBy::Callee,
            &matchers,
            &["destination_version"],
            WINDOW
        ),
    );
    let proxies = app.control.proxies(&app.mirror).await;
    let instances = backends.iter().map(|pod| {
        let proxy = proxies
            .iter()
            .find(|proxy| proxy.pod == pod.name() && proxy.namespace == pod.namespace());
        let version = proxy
            .map(|proxy| proxy.version.as_str())
            .unwrap_or_default();
        instance(&app.mirror, pod, has_proxy(&pod.value).then_some(version))
    });
    let rules = Rules::of(&app, &service, &backends);
    Ok(Json(json!({
        "service": summary(&service, &backends, &measured),
        "versions": versions(&backends, &by_version),
        "instances": instances.collect::<Vec<_>>(),
        "destinationRule": rules.destination_rules.first(),
        "virtualServices": rules.virtual_services,
        "policies": rules.policies,
    })))
}

fn summary(
    service: &Object,
    backends: &[Arc<Object>],
    measured: &BTreeMap<Vec<String>, Flow>,
) -> Value {
    let (namespace, name) = (service.namespace(), service.name());
    let flow = measured
        .get([namespace.to_owned(), name.to_owned()].as_slice())
        .copied()
        .unwrap_or_default();
    let versions: BTreeSet<&str> = backends
        .iter()
        .filter_map(|pod| pod.label("version"))
        .collect();
    let with_proxy = backends.iter().filter(|pod| has_proxy(&pod.value)).count();
    json!({
        "namespace": namespace, "name": name,
        "hosts": [host(service).as_str()],
        "ports": ports(service),
        "versions": versions,
        "rps": flow.rps, "errorShare": flow.error_share, "p99": flow.p99,
        "sidecars": format!("{with_proxy}/{}", backends.len()),
    })
}

pub(crate) fn host(service: &Object) -> Host {
    let domain = MeshSettings::default().domain;
    Host::new(&format!(
        "{}.{}.svc.{domain}",
        service.name(),
        service.namespace()
    ))
}

fn ports(service: &Object) -> Vec<Value> {
    let ports = service
        .value
        .pointer("/spec/ports")
        .and_then(Value::as_array);
    let shown = ports.into_iter().flatten().map(|port| {
        let text = |name: &str| port.get(name).and_then(Value::as_str).unwrap_or_default();
        json!({"name": text("name"), "port": port["port"], "protocol": protocol(port)})
    });
    shown.collect()
}

/// As Istio selects it: `appProtocol`, else the port name's first word, else by looking at the bytes.
fn protocol(port: &Value) -> String {
    let text = |name: &str| port.get(name).and_then(Value::as_str).unwrap_or_default();
    let named = match text("appProtocol") {
        "" => text("name").split('-').next().unwrap_or_default(),
        said => said,
    };
    let known = [
        "http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "mongo", "mysql", "redis",
        "udp",
    ];
    match (named, text("protocol")) {
        (_, "UDP") => "UDP".to_owned(),
        (named, _) if known.contains(&named) => named.to_ascii_uppercase(),
        _ => "AUTO".to_owned(),
    }
}

fn versions(backends: &[Arc<Object>], measured: &BTreeMap<Vec<String>, Flow>) -> Vec<Value> {
    let mut versions: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for pod in backends {
        versions
            .entry(pod.label("version").unwrap_or("-"))
            .or_default()
            .push(pod);
    }
    let all: f64 = measured.values().map(|flow| flow.rps).sum();
    let shown = versions.into_iter().map(|(name, pods)| {
        // Istio says `unknown` or `latest` of workloads without the label.
        let names: &[&str] = if name == "-" {
            &["latest", "unknown", ""]
        } else {
            &[name]
        };
        let flow = names
            .iter()
            .find_map(|name| measured.get([(*name).to_owned()].as_slice()));
        let flow = flow.copied().unwrap_or_default();
        let workloads: BTreeSet<String> = pods.iter().map(|pod| workload(pod)).collect();
        json!({
            "name": name,
            "labels": common_labels(&pods),
            "workloads": workloads,
            "weight": if all > 0.0 { (flow.rps / all).clamp(0.0, 1.0) } else { 0.0 },
            "rps": flow.rps, "errorShare": flow.error_share, "p99": flow.p99,
        })
    });
    shown.collect()
}

/// Labels that every pod of a version has, without the machinery's.
fn common_labels(pods: &[&Object]) -> BTreeMap<String, String> {
    let machinery = ["pod-template-hash", "security.istio.io/tlsMode"];
    let first = pods
        .first()
        .and_then(|pod| crate::mirror::labels(&pod.value));
    let labels = first
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    labels
        .filter(|(name, value)| {
            !machinery.contains(&name.as_str())
                && !name.starts_with("service.istio.io/")
                && pods.iter().all(|pod| pod.label(name) == Some(value))
        })
        .collect()
}

/// The workload a pod belongs to: its Deployment, as far as names tell; else what owns it; else itself.
pub(crate) fn workload(pod: &Object) -> String {
    let owner = pod.value.pointer("/metadata/ownerReferences/0");
    let text = |name: &str| {
        owner
            .and_then(|owner| owner.get(name)?.as_str())
            .unwrap_or_default()
    };
    match (text("kind"), text("name")) {
        ("ReplicaSet", set) => {
            let hash = pod.label("pod-template-hash").unwrap_or_default();
            let deployment = set
                .strip_suffix(hash)
                .and_then(|name| name.strip_suffix('-'));
            deployment
                .filter(|_| !hash.is_empty())
                .unwrap_or(set)
                .to_owned()
        }
        (_, "") => pod.name().to_owned(),
        (_, owner) => owner.to_owned(),
    }
}

fn instance(mirror: &Mirror, pod: &Object, proxy: Option<&str>) -> Value {
    let node_name = pod.text("/spec/nodeName");
    let node = mirror.get(Watched::Node, "", node_name);
    let zone_label = |label: &str| {
        let of_node = node.as_ref().and_then(|node| node.label(label));
        of_node.unwrap_or_default().to_owned()
    };
    json!({
        "pod": pod.name(), "ip": pod.text("/status/podIP"), "node": node_name,
        "region": zone_label("topology.kubernetes.io/region"),
        "zone": zone_label("topology.kubernetes.io/zone"),
        "ready": is_ready(&pod.value),
        "version": pod.label("version").unwrap_or("-"),
        "proxy": proxy,
    })
}

/// Rules that bear on a service.
struct Rules {
    destination_rules: Vec<Value>,
    virtual_services: Vec<Value>,
    policies: Vec<Value>,
}

impl Rules {
    fn of(app: &App, service: &Object, backends: &[Arc<Object>]) -> Self {
        let own = host(service);
        let names = |rule: &Object, text: Option<&str>| {
            text.is_some_and(|text| resolved(rule, text) == own)
        };
        let of_kind = |kind: Kind| app.mirror.list(Watched::Istio(kind));
        let destination_rules = of_kind(Kind::DestinationRule);
        let destination_rules = destination_rules
            .iter()
            .filter(|rule| names(rule, Some(rule.text("/spec/host"))));
        let virtual_services = of_kind(Kind::VirtualService);
        let virtual_services = virtual_services.iter().filter(|rule| {
            let mut hosts = rule
                .value
                .pointer("/spec/hosts")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            hosts.any(|host| names(rule, host.as_str()))
                || destinations(&rule.value)
                    .into_iter()
                    .any(|host| names(rule, Some(host)))
        });
        let kinds = [
            Kind::PeerAuthentication,
            Kind::RequestAuthentication,
            Kind::AuthorizationPolicy,
        ];
        let policies = kinds.into_iter().flat_map(of_kind);
        let policies = policies.filter(|policy| {
            let in_reach = policy.namespace() == app.root_namespace
                || policy.namespace() == service.namespace();
            let selector = policy
                .value
                .pointer("/spec/selector/matchLabels")
                .unwrap_or(&Value::Null);
            in_reach
                && (selector.is_null() || backends.iter().any(|pod| selects(selector, &pod.value)))
        });
        Self {
            destination_rules: destination_rules.map(|rule| reference(rule)).collect(),
            virtual_services: virtual_services.map(|rule| reference(rule)).collect(),
            policies: policies.map(|rule| reference(&rule)).collect(),
        }
    }
}

pub(crate) fn resolved(rule: &Object, text: &str) -> Host {
    Host::resolve(text, rule.namespace(), &MeshSettings::default().domain)
}

/// Hosts a VirtualService sends to.
pub(crate) fn destinations(virtual_service: &Value) -> Vec<&str> {
    let routes = ["http", "tcp", "tls"]
        .into_iter()
        .filter_map(|protocol| virtual_service.pointer("/spec")?.get(protocol)?.as_array());
    let targets = routes
        .flatten()
        .filter_map(|route| route.get("route")?.as_array())
        .flatten();
    targets
        .filter_map(|target| target.pointer("/destination/host")?.as_str())
        .collect()
}

/// An object and what it does, in a few words.
pub(crate) fn reference(object: &Object) -> Value {
    let kind = object.text("/kind");
    let mut reference =
        json!({"kind": kind, "namespace": object.namespace(), "name": object.name()});
    let summary = match kind {
        "VirtualService" => route_summary(&object.value),
        "DestinationRule" => destination_summary(&object.value),
        _ => super::security::summary(object),
    };
    if !summary.is_empty() {
        reference["summary"] = json!(summary);
    }
    reference
}

fn route_summary(rule: &Value) -> String {
    let count = |name: &str| {
        rule.pointer("/spec")
            .and_then(|spec| spec.get(name)?.as_array())
            .map_or(0, Vec::len)
    };
    let parts = [
        ("http", count("http")),
        ("tcp", count("tcp")),
        ("tls", count("tls")),
    ];
    let mut words: Vec<String> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name} route{}", plural(*count)))
        .collect();
    let http = rule.pointer("/spec/http").and_then(Value::as_array);
    for action in ["fault", "timeout", "retries", "mirror", "redirect"] {
        if http.is_some_and(|routes| routes.iter().any(|route| route.get(action).is_some())) {
            words.push(action.to_owned());
        }
    }
    words.join(", ")
}

fn destination_summary(rule: &Value) -> String {
    let subsets = rule
        .pointer("/spec/subsets")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let mut words = Vec::new();
    if subsets > 0 {
        words.push(format!("{subsets} subset{}", plural(subsets)));
    }
    let policy = rule
        .pointer("/spec/trafficPolicy")
        .and_then(Value::as_object);
    words.extend(policy.into_iter().flatten().map(|(name, _)| name.clone()));
    words.join(", ")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object {
            value,
            writer: None,
        }
    }

    #[test]
    fn a_pods_workload_is_its_deployment() {
        let owned = |kind: &str, owner: &str, hash: &str| {
            workload(&object(json!({"metadata": {
                "name": "pod", "labels": {"pod-template-hash": hash}, "ownerReferences": [{"kind": kind, "name": owner}],
            }})))
        };
        assert_eq!(owned("ReplicaSet", "cart-7f", "7f"), "cart");
        assert_eq!(owned("ReplicaSet", "cart-7f", ""), "cart-7f");
        assert_eq!(owned("StatefulSet", "db", ""), "db");
        assert_eq!(
            workload(&object(json!({"metadata": {"name": "alone"}}))),
            "alone"
        );
    }

    #[test]
    fn protocols_are_istios() {
        let check = |port: Value| protocol(&port);
        assert_eq!(check(json!({"name": "http-web"})), "HTTP");
        assert_eq!(check(json!({"name": "web", "appProtocol": "grpc"})), "GRPC");
        assert_eq!(check(json!({"name": "web"})), "AUTO");
        assert_eq!(check(json!({"name": "dns", "protocol": "UDP"})), "UDP");
    }

    #[test]
    fn rules_say_what_they_do() {
        let rule = object(
            json!({"kind": "VirtualService", "metadata": {"namespace": "a", "name": "b"}, "spec": {"http": [
                {"timeout": "3s", "route": [{"destination": {"host": "x"}}]}, {"route": [{"destination": {"host": "y"}}]},
            ]}}),
        );
        assert_eq!(reference(&rule)["summary"], "2 http routes, timeout");
        assert_eq!(destinations(&rule.value), ["x", "y"]);
    }
}
