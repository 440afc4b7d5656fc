//! Gateways: what they listen on, what runs them, where they are reached.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use malla_api::Kind;
use serde_json::{Value, json};

use super::services::reference;
use crate::findings::about;
use crate::metrics::{Flow, SeenBy, flows};
use crate::mirror::{Object, Watched, has_proxy, selects};
use crate::pods::PodIndex;
use crate::proxies::is_ready;
use crate::server::App;

const WINDOW: u32 = super::services::WINDOW;
/// Malla's local cluster says here where a LoadBalancer Service is reached: `80=127.0.0.1:8080,…`.
const PUBLISHED: &str = "local.malla.dev/published";

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    // A gateway only ever reports calls it makes.
    let by_workload = ["source_workload_namespace", "source_workload"];
    let measured = flows(
        app.metrics.as_deref(),
        SeenBy::Caller,
        "",
        &by_workload,
        WINDOW,
    )
    .await;
    let messages = app.analyzer.messages(&app.mirror).await;
    let gateways = app.mirror.list(Watched::Istio(Kind::Gateway));
    let shown = gateways.iter().map(|gateway| {
        let pods = pods(&app, gateway);
        let services = services(&app, &pods);
        let mut flow = Flow::default();
        if let Some(pod) = pods.first() {
            let key = [pod.namespace().to_owned(), super::services::workload(pod)];
            flow = measured.get(key.as_slice()).copied().unwrap_or_default();
        }
        let listening = pods.iter().any(|pod| is_ready(&pod.value));
        json!({
            "namespace": gateway.namespace(), "name": gateway.name(),
            "selector": gateway.value.pointer("/spec/selector").cloned().unwrap_or_else(|| json!({})),
            "addresses": addresses(&services, gateway),
            "servers": servers(gateway).map(|server| described(server, listening, &services)).collect::<Vec<_>>(),
            "pods": pods.iter().map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect::<Vec<_>>(),
            "virtualServices": bound(&app, gateway),
            "rps": flow.rps, "errorShare": flow.error_share, "p99": flow.p99,
            "findings": about(&messages, "Gateway", gateway.namespace(), gateway.name()),
        })
    });
    Json(shown.collect())
}

/// Pods of any namespace that the gateway's selector picks.
fn pods(app: &App, gateway: &Object) -> Vec<Arc<Object>> {
    let selector = gateway
        .value
        .pointer("/spec/selector")
        .unwrap_or(&Value::Null);
    let pods = app.mirror.list(Watched::Pod).into_iter();
    pods.filter(|pod| has_proxy(&pod.value) && selects(selector, &pod.value))
        .collect()
}

fn services(app: &App, pods: &[Arc<Object>]) -> Vec<Arc<Object>> {
    let index = PodIndex::new(pods);
    let services = app.mirror.list(Watched::Service).into_iter();
    services
        .filter(|service| !index.behind(service).is_empty())
        .collect()
}

fn servers(gateway: &Object) -> impl Iterator<Item = &Value> {
    gateway
        .value
        .pointer("/spec/servers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn port(server: &Value) -> u64 {
    server
        .pointer("/port/number")
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

fn described(server: &Value, listening: bool, services: &[Arc<Object>]) -> Value {
    let text = |pointer: &str| {
        server
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let port = port(server);
    let has_port = |service: &Arc<Object>| {
        let ports = service
            .value
            .pointer("/spec/ports")
            .and_then(Value::as_array);
        ports
            .into_iter()
            .flatten()
            .any(|p| p.get("port").and_then(Value::as_u64) == Some(port))
    };
    let tls = server.get("tls").filter(|tls| tls.is_object()).map(|tls| {
        let mode = tls.get("mode").and_then(Value::as_str).unwrap_or("SIMPLE");
        let mut shown =
            json!({"mode": mode, "redirect": tls.get("httpsRedirect") == Some(&json!(true))});
        if let Some(credential) = tls.get("credentialName").and_then(Value::as_str) {
            shown["credential"] = json!(credential);
        }
        shown
    });
    json!({
        "port": port, "protocol": text("/port/protocol"), "name": text("/port/name"),
        "hosts": server.get("hosts").cloned().unwrap_or_else(|| json!([])),
        "open": listening && services.iter().any(has_port),
        "tls": tls,
    })
}

/// Where the gateway's servers are reached from outside.
fn addresses(services: &[Arc<Object>], gateway: &Object) -> Vec<String> {
    let mut found = Vec::new();
    for server in servers(gateway) {
        let secure = server
            .pointer("/port/protocol")
            .is_some_and(|p| p == "HTTPS" || p == "TLS");
        let scheme = if secure { "https" } else { "http" };
        for service in services {
            let published = service
                .value
                .pointer("/metadata/annotations")
                .and_then(|all| all.get(PUBLISHED)?.as_str());
            let here = published
                .unwrap_or_default()
                .split(',')
                .filter_map(|entry| entry.split_once('='));
            let here = here.filter(|(from, _)| *from == port(server).to_string());
            found.extend(here.map(|(_, at)| format!("{scheme}://{at}")));
            let balancers = service
                .value
                .pointer("/status/loadBalancer/ingress")
                .and_then(Value::as_array);
            let outside = balancers
                .into_iter()
                .flatten()
                .filter(|_| published.is_none());
            found.extend(outside.filter_map(|at| {
                let name = at.get("hostname").or_else(|| at.get("ip"))?.as_str()?;
                Some(format!(
                    "{scheme}://{}",
                    crate::control::host_port(name, u16::try_from(port(server)).ok()?)
                ))
            }));
        }
    }
    found.dedup();
    found
}

/// VirtualServices that name the gateway.
fn bound(app: &App, gateway: &Object) -> Vec<Value> {
    let full = format!("{}/{}", gateway.namespace(), gateway.name());
    let rules = app.mirror.list(Watched::Istio(Kind::VirtualService));
    let theirs = rules.iter().filter(|rule| {
        let named = rule
            .value
            .pointer("/spec/gateways")
            .and_then(Value::as_array);
        named
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|name| {
                name == full || (name == gateway.name() && rule.namespace() == gateway.namespace())
            })
    });
    theirs.map(|rule| reference(rule)).collect()
}
