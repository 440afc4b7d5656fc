//! Others' programs beside the collector: Debian's Prometheus, OpenTelemetry's Python SDK, a Zipkin
//! client's request.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use malla_testkit::{Demo, Request, eventually};
use serde_json::{Value, json};

use super::api::{Api, encoded};
use super::{SOON, apply};

/// Where a port of a LoadBalancer Service is on this machine.
fn published(demo: &Demo, namespace: &str, name: &str, port: u16) -> String {
    eventually("the service is published", SOON, || {
        let service = demo.kubectl_json(&["-n", namespace, "get", "service", name]);
        let all = &service["metadata"]["annotations"]["local.malla.dev/published"];
        let all = all.as_str().unwrap_or_default();
        let mut ports = all.split(',').filter_map(|entry| entry.split_once('='));
        ports
            .find(|(from, _)| *from == port.to_string())
            .map(|(_, at)| format!("http://{at}"))
            .ok_or_else(|| format!("published: {all:?}"))
    })
}

/// Runs Debian's Prometheus in a pod, on the targets that the console scrapes.
pub(super) fn prometheus_agrees(demo: &Demo, api: &Api) {
    // What goes on changing cannot be compared.
    drop(demo.kubectl_ok(&[
        "-n",
        "visitors",
        "scale",
        "deployment/visitors",
        "--replicas=0",
    ]));
    let data = Path::new(demo.kubeconfig()).parent().unwrap();
    let added = Command::new(env!("CARGO_BIN_EXE_malla"))
        .args(["local", "image", "add", "test/prometheus", "--data"])
        .arg(data)
        .args([
            "--",
            "prometheus",
            "--config.file=/etc/prometheus-test/prometheus.yml",
        ])
        .args([
            "--storage.tsdb.path=/data",
            "--web.listen-address=0.0.0.0:9090",
        ])
        .status()
        .unwrap();
    assert!(added.success());
    let targets = api.get("/api/v1/targets").unwrap();
    let targets = targets["data"]["activeTargets"].as_array().unwrap();
    let statics: Vec<Value> = targets.iter().filter_map(static_config).collect();
    let config = json!({
        "global": {"scrape_interval": "2s"},
        "scrape_configs": [{"job_name": "kubernetes-pods", "static_configs": statics}],
    });
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    apply(
        demo,
        "prometheus",
        &[
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus", "namespace": "default"},
            "data": {"prometheus.yml": config.to_string()}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prometheus", "namespace": "default", "labels": {"app": "prometheus"}},
            "spec": {
                "containers": [{"name": "prometheus", "image": "test/prometheus",
                    "volumeMounts": [mount("config", "/etc/prometheus-test"), mount("data", "/data")]}],
                "volumes": [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}],
            }}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "prometheus", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "prometheus"}, "ports": [{"port": 9090}]}}),
        ],
    );
    let theirs = Api::new(&published(demo, "default", "prometheus", 9090));
    let compared = eventually("both have the same numbers", SOON, || {
        // The console has more with stock Envoy: what it derived.
        let (ours, theirs) = (numbers(api)?, numbers(&theirs)?);
        let odd = |key: &&String| ours.get(*key) != theirs.get(*key);
        match theirs.keys().find(odd) {
            _ if scraped(&theirs) < targets.len() => {
                Err(format!("Prometheus scraped {} targets", scraped(&theirs)))
            }
            Some(key) => Err(format!(
                "{key}: Prometheus {:?}, the console {:?}",
                theirs.get(key),
                ours.get(key)
            )),
            None => Ok(theirs.len()),
        }
    });
    println!("  {compared} series are equal");
}

fn scraped(series: &BTreeMap<String, String>) -> usize {
    let up = "\"__name__\": \"up\"";
    series.keys().filter(|labels| labels.contains(up)).count()
}

fn static_config(target: &Value) -> Option<Value> {
    let address = target["scrapeUrl"].as_str()?.strip_prefix("http://")?;
    let (address, path) = address.split_once('/')?;
    let mut labels = target["labels"].clone();
    let fields = labels.as_object_mut()?;
    fields.remove("instance");
    fields.remove("job");
    fields.insert("__metrics_path__".to_owned(), json!(format!("/{path}")));
    Some(json!({"targets": [address], "labels": labels}))
}

/// The values of all counters that only traffic changes, by their labels.
fn numbers(api: &Api) -> Result<BTreeMap<String, String>, String> {
    let query = "{job=\"kubernetes-pods\",__name__=~\"istio_(request|response|tcp|build).*|envoy_cluster_membership_total|up\"}";
    let answer = api.get(&format!("/api/v1/query?query={}", encoded(query)))?;
    let result = answer["data"]["result"].as_array().cloned();
    let series = result.unwrap_or_default().into_iter().filter_map(|series| {
        let labels: BTreeMap<String, String> =
            serde_json::from_value(series["metric"].clone()).ok()?;
        let value = series["value"][1].as_str()?.to_owned();
        Some((format!("{labels:?}"), value))
    });
    Ok(series.collect())
}

/// Opens the collector's ports to this machine.
fn collector(demo: &Demo, port: u16) -> String {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "collect", "namespace": "istio-system"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "malla-console"},
            "ports": [{"name": "otlp", "port": 4318}, {"name": "zipkin", "port": 9411}]}});
    apply(demo, "collect", &[service]);
    published(demo, "istio-system", "collect", port)
}

const PYTHON: &str = r#"
import sys
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "python"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[1] + "/v1/traces")))
tracer = provider.get_tracer("test")
with tracer.start_as_current_span("parent") as parent:
    with tracer.start_as_current_span("child") as child:
        child.set_attribute("answer", 42)
        child.record_exception(ValueError("<script>alert(1)</script>"))
provider.shutdown()
print(f"{parent.get_span_context().trace_id:032x}")
"#;

pub(super) fn pythons_spans_are_shown(demo: &Demo, api: &Api) {
    let address = collector(demo, 4318);
    let python = std::env::var("MALLA_PYTHON")
        .expect("MALLA_PYTHON names the folder of OpenTelemetry's SDK (scripts/setup.sh)");
    let output = Command::new("python3")
        .args(["-c", PYTHON, &address])
        .env("PYTHONPATH", python)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let trace = String::from_utf8(output.stdout).unwrap();
    let found = api
        .get(&format!("/jaeger/api/traces/{}", trace.trim()))
        .unwrap();
    let spans = found["data"][0]["spans"].as_array().unwrap();
    let names: Vec<&str> = spans
        .iter()
        .filter_map(|span| span["operationName"].as_str())
        .collect();
    assert_eq!(names.len(), 2, "{found}");
    let child = spans
        .iter()
        .find(|span| span["operationName"] == "child")
        .unwrap();
    let tags = child["tags"].as_array().unwrap();
    assert!(
        tags.iter()
            .any(|tag| tag["key"] == "answer" && tag["value"] == 42),
        "{child}"
    );
    assert!(child["logs"].to_string().contains("alert(1)"), "{child}");
    let services = api.get("/jaeger/api/services").unwrap();
    assert!(
        services["data"].to_string().contains("\"python\""),
        "{services}"
    );
}

pub(super) fn zipkins_spans_are_shown(demo: &Demo, api: &Api) {
    let address = collector(demo, 9411);
    let span = json!([{"traceId": "ab", "id": "ab", "name": "old", "kind": "SERVER", "timestamp": 1_700_000_000_000_000_u64,
        "duration": 1000, "localEndpoint": {"serviceName": "zipkin-client"}}]);
    let sent = eventually("the collector is reached", Duration::from_secs(20), || {
        Request::post_json(&format!("{address}/api/v2/spans"), &span).send()
    });
    assert_eq!(sent.status, 202, "{}", sent.body);
    let found = api.get("/jaeger/api/traces/ab").unwrap();
    assert_eq!(found["data"][0]["spans"][0]["operationName"], "old");
}
