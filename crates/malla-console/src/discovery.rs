//! What is scraped: pods that ask for it by Prometheus' annotations, and the control plane.
//!
//! As the usual Prometheus job `kubernetes-pods` does it: `prometheus.io/scrape: "true"`, with
//! `/port`, `/path` and `/scheme` beside it. A change is acted on within a second; while the API
//! server or the control plane is away, the list stays as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use malla_telemetry::Collector;
use malla_telemetry::scrape::Target;
use serde_json::Value;

use crate::addresses::by_address;
use crate::api::services::workload;
use crate::control::host_port;
use crate::mirror::{Mirror, Object, Watched, containers};

/// Pods come and go in bursts.
const TOGETHER: Duration = Duration::from_millis(200);
/// As Istio's sample configuration of Prometheus calls it.
const JOB: &str = "kubernetes-pods";

/// Keeps the collector's list of targets as the cluster's pods ask, and its picture of who has which
/// address, until it is dropped.
pub(crate) async fn follow(mirror: Arc<Mirror>, collector: Arc<Collector>, cluster: String) {
    let mut changes = mirror.pods_changed();
    mirror.ready().await;
    loop {
        changes.mark_unchanged();
        let pods = mirror.list(Watched::Pod);
        collector.scrape(pods.iter().flat_map(|pod| targets(pod)).collect());
        let services = mirror.list(Watched::Service);
        collector
            .workloads()
            .replace(by_address(&pods, &services, &cluster));
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

/// What of a pod is scraped: nothing, one port, or each port it declares.
fn targets(pod: &Object) -> Vec<Target> {
    let annotation = |name: &str| {
        let all = pod.value.pointer("/metadata/annotations");
        all.and_then(|all| all.get(format!("prometheus.io/{name}"))?.as_str())
    };
    let runs = pod.text("/status/phase") == "Running";
    let ip = pod.text("/status/podIP");
    if annotation("scrape") != Some("true") || !runs || ip.is_empty() {
        return Vec::new();
    }
    // What is encrypted cannot be asked for without being told whom to trust.
    if annotation("scheme").is_some_and(|scheme| scheme != "http") {
        return Vec::new();
    }
    let ports = match annotation("port").map(str::parse::<u16>) {
        Some(Ok(port)) => vec![port],
        Some(Err(_)) => Vec::new(),
        None => declared_ports(&pod.value),
    };
    let path = annotation("path").unwrap_or("/metrics");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = |port: u16| Target {
        url: format!("http://{}{slash}{path}", host_port(ip, port)),
        labels: labels(pod),
        gateway: is_gateway(&pod.value),
    };
    ports.into_iter().map(target).collect()
}

fn labels(pod: &Object) -> BTreeMap<String, String> {
    let workload = workload(pod);
    let pairs = [
        ("job", JOB),
        ("namespace", pod.namespace()),
        ("pod", pod.name()),
        ("node", pod.text("/spec/nodeName")),
        ("app", pod.label("app").unwrap_or(&workload)),
    ];
    let known = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    known
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A gateway is nothing but its proxy.
pub(crate) fn is_gateway(pod: &Value) -> bool {
    let mut names = containers(pod).peekable();
    names.peek().is_some() && names.all(|name| name == "istio-proxy")
}

fn declared_ports(pod: &Value) -> Vec<u16> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let ports = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .filter(|port| ["TCP", ""].contains(&port["protocol"].as_str().unwrap_or_default()))
        .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok());
    ports.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The addresses scraped of a pod that runs with these annotations.
    fn urls(annotations: Value) -> Vec<String> {
        let pod = pod(annotations, "Running", "10.0.0.1");
        targets(&pod).into_iter().map(|target| target.url).collect()
    }

    fn pod(annotations: Value, phase: &str, ip: &str) -> Object {
        let value = json!({
            "metadata": {"name": "cart-5-x", "namespace": "base", "annotations": annotations, "labels": {"pod-template-hash": "5"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5"}]},
            "spec": {"nodeName": "n", "containers": [
                {"name": "cart", "ports": [{"containerPort": 7000}, {"containerPort": 53, "protocol": "UDP"}]},
                {"name": "istio-proxy"},
            ]},
            "status": {"phase": phase, "podIP": ip},
        });
        Object {
            value,
            writer: None,
        }
    }

    #[test]
    fn a_pod_is_scraped_where_its_annotations_say() {
        let asks = |more: Value| {
            let mut all = json!({"prometheus.io/scrape": "true"});
            for (name, value) in more.as_object().unwrap() {
                all[format!("prometheus.io/{name}")] = value.clone();
            }
            urls(all)
        };
        assert_eq!(
            asks(json!({"port": "15020", "path": "/stats/prometheus"})),
            ["http://10.0.0.1:15020/stats/prometheus"]
        );
        assert_eq!(asks(json!({})), ["http://10.0.0.1:7000/metrics"]);
        assert_eq!(asks(json!({"path": "x"})), ["http://10.0.0.1:7000/x"]);
        assert!(asks(json!({"port": "http"})).is_empty());
        assert!(asks(json!({"scheme": "https"})).is_empty());
        assert!(urls(json!({"prometheus.io/scrape": "false"})).is_empty());
        assert!(urls(json!({})).is_empty());
    }

    #[test]
    fn only_pods_that_run_and_can_be_reached_are_scraped() {
        let asks = || json!({"prometheus.io/scrape": "true", "prometheus.io/port": "1"});
        assert!(targets(&pod(asks(), "Pending", "10.0.0.1")).is_empty());
        assert!(targets(&pod(asks(), "Running", "")).is_empty());
        assert_eq!(
            targets(&pod(asks(), "Running", "fd00::1"))[0].url,
            "http://[fd00::1]:1/metrics"
        );
    }

    #[test]
    fn series_are_labelled_as_usual() {
        let asks = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "1"});
        let target = &targets(&pod(asks, "Running", "10.0.0.1"))[0];
        let pairs: Vec<String> = target
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = "app=cart job=kubernetes-pods namespace=base node=n pod=cart-5-x";
        assert_eq!(pairs.join(" "), expected);
        assert!(!target.gateway);
        assert!(is_gateway(
            &json!({"spec": {"containers": [{"name": "istio-proxy"}]}})
        ));
        assert!(!is_gateway(&json!({"spec": {}})));
    }
}
