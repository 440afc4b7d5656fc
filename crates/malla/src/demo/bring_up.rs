//! Brings the mesh up inside a running cluster: kinds, control plane, gateway, shop; then waits
//! until a request from the outside has been answered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use malla_apiserver::kinds::{DEPLOYMENTS, NAMESPACES, PODS, SERVICES};
use malla_apiserver::{Client, ListParams, WatchEvent};
use malla_control::manifest::{
    CONSOLE, CONSOLE_PORT, ConsoleOptions, Installation, ROOT_NAMESPACE, console, control_plane,
    ingress_gateway,
};
use malla_local::published as published_at;
use serde_json::Value;

use super::images::MALLA_IMAGE;
use super::objects::{apply, as_kubectl, documents};
use super::{LESSONS, VISITORS};

/// The Service outside callers come in by.
const GATEWAY: &str = "istio-ingressgateway";

/// Lessons that are applied from the start: the shop, and the way to it.
const AT_START: usize = 2;

/// The page, and through it every service: cart asks stock.
const SHOP_PATHS: &[&str] = &["/", "/product", "/user", "/list"];

/// How long a part may take to come up on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to bring up.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) cluster_id: String,
    pub(crate) shop: bool,
    pub(crate) visitors: bool,
    /// Further arguments of every proxy, such as `--envoy-path P`.
    pub(crate) proxy_args: Vec<String>,
    /// Where the console keeps its history and what it collects.
    pub(crate) console_folder: PathBuf,
}

/// Where the outside comes in.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    pub(crate) ingress: SocketAddr,
    pub(crate) console: SocketAddr,
}

/// Brings everything up; `done` hears of each step.
pub(crate) async fn bring_up(
    client: &Client,
    plan: &Plan,
    mut done: impl FnMut(&str),
) -> Result<Reached> {
    let installation = Installation {
        namespace: ROOT_NAMESPACE.to_owned(),
        image: MALLA_IMAGE.to_owned(),
        cluster_id: plan.cluster_id.clone(),
        mesh_config: MESH_CONFIG.to_owned(),
        control_args: Vec::new(),
        proxy_args: plan.proxy_args.clone(),
    };
    // A cluster that was kept (`--data`) has the shop as its user left it.
    let fresh = client.get(&NAMESPACES, None, ROOT_NAMESPACE).is_err();
    apply(client, malla_api::crd::crds()).await?;
    apply(client, malla_api::gateway_api::crd::crds()).await?;
    apply(client, control_plane(&installation)).await?;
    apply(client, ingress_gateway(&installation)).await?;
    apply(client, console(&installation, &console_options(plan))).await?;
    deployment_available(client, ROOT_NAMESPACE, "istiod").await?;
    done("control plane");
    if plan.shop && fresh {
        for yaml in LESSONS.iter().take(AT_START) {
            apply_as_kubectl(client, yaml).await?;
        }
    }
    deployment_available(client, ROOT_NAMESPACE, GATEWAY).await?;
    done("ingress gateway");
    let shop_is_there = client.get(&NAMESPACES, None, "base").is_ok();
    if plan.shop && shop_is_there {
        for deployment in client
            .list(&DEPLOYMENTS, Some("base"), &ListParams::default())?
            .items
        {
            let name = deployment
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            deployment_available(client, "base", name).await?;
        }
        done("shop");
    }
    let open = plan.shop && shop_is_there && (fresh || is_open(client, 80));
    let port = if open { 80 } else { 15021 };
    let paths = if open {
        SHOP_PATHS
    } else {
        &["/healthz/ready"]
    };
    let ingress = published(client, GATEWAY, port).await?;
    for path in paths {
        answered(ingress, path).await?;
    }
    if plan.visitors && fresh {
        apply_as_kubectl(client, VISITORS).await?;
        deployment_available(client, "visitors", "visitors").await?;
    }
    deployment_available(client, ROOT_NAMESPACE, CONSOLE).await?;
    let console = published(client, CONSOLE, CONSOLE_PORT).await?;
    answered(console, "/api/malla/v1/session").await?;
    done("console");
    Ok(Reached { ingress, console })
}

fn console_options(plan: &Plan) -> ConsoleOptions {
    ConsoleOptions {
        // The host's loopback.
        published: true,
        lessons: true,
        scrape_interval: 5,
        folder: plan.console_folder.to_str().map(str::to_owned),
    }
}

/// As a demo wants it: access logs to the standard output and to the console's collector, every
/// request traced. Everything else is Istio's default.
const MESH_CONFIG: &str = "\
accessLogFile: /dev/stdout
defaultConfig:
  tracing: {sampling: 100}
defaultProviders:
  metrics: [prometheus]
  tracing: [malla-traces]
  accessLogging: [envoy, malla-logs, malla-tcp-logs]
extensionProviders:
- name: malla-traces
  opentelemetry: {service: malla-telemetry.istio-system.svc.cluster.local, port: 4317}
- name: malla-logs
  envoyHttpAls:
    service: malla-telemetry.istio-system.svc.cluster.local
    port: 4317
    # What links a line to its trace, and tells gRPC from HTTP.
    additionalRequestHeadersToLog: [x-b3-traceid, traceparent, content-type]
    additionalResponseHeadersToLog: [grpc-status]
    additionalResponseTrailersToLog: [grpc-status]
- name: malla-tcp-logs
  envoyTcpAls: {service: malla-telemetry.istio-system.svc.cluster.local, port: 4317}
";

async fn apply_as_kubectl(client: &Client, yaml: &str) -> Result<()> {
    let objects = documents(yaml)?.into_iter().map(as_kubectl).collect();
    apply(client, objects).await
}

async fn deployment_available(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let params = ListParams {
        field_selector: format!("metadata.name={name}"),
        ..ListParams::default()
    };
    let available = |deployment: &Value| {
        let count = |pointer: &str| {
            deployment
                .pointer(pointer)
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        let wanted = count("/spec/replicas");
        count("/status/observedGeneration") >= count("/metadata/generation")
            && count("/status/updatedReplicas") >= wanted
            && count("/status/availableReplicas") >= wanted
    };
    let resource = DEPLOYMENTS;
    let wait = wait_until(client, &resource, namespace, &params, available);
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(done) => done,
        Err(_) => bail!(
            "{namespace}/{name} is not available after {PATIENCE:?}:{}",
            complaints(client, namespace, name)?
        ),
    }
}

/// What the pods of a deployment say about their containers that do not serve.
fn complaints(client: &Client, namespace: &str, deployment: &str) -> Result<String> {
    let prefix = format!("{deployment}-");
    let pods = client.list(&PODS, Some(namespace), &ListParams::default())?;
    let mut said = String::new();
    for pod in &pods.items {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if !name.starts_with(&prefix) {
            continue;
        }
        for kind in ["initContainerStatuses", "containerStatuses"] {
            for container in pod["status"][kind].as_array().into_iter().flatten() {
                let states = [
                    &container["state"]["waiting"],
                    &container["lastState"]["terminated"],
                ];
                let states = states.into_iter().filter(|state| state.is_object());
                for state in states {
                    let text = |field: &str| state[field].as_str().unwrap_or_default();
                    let container = container["name"].as_str().unwrap_or_default();
                    said += &format!(
                        "\n  pod {name}, container {container}: {} {}",
                        text("reason"),
                        text("message")
                    );
                }
            }
        }
    }
    Ok(said)
}

async fn wait_until(
    client: &Client,
    resource: &malla_apiserver::Resource,
    namespace: &str,
    params: &ListParams,
    holds: impl Fn(&Value) -> bool,
) -> Result<()> {
    loop {
        let listed = client.list(resource, Some(namespace), params)?;
        if listed.items.iter().any(|object| holds(object)) {
            return Ok(());
        }
        let mut watch = client.watch(resource, Some(namespace), params, listed.resource_version)?;
        while let Some(Ok(event)) = watch.next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
                && holds(&object)
            {
                return Ok(());
            }
        }
    }
}

fn is_open(client: &Client, port: u16) -> bool {
    client
        .get(&SERVICES, Some(ROOT_NAMESPACE), GATEWAY)
        .is_ok_and(|service| published_at(&service).contains_key(&port))
}

/// Waits until a port of a Service is there for callers on this machine.
async fn published(client: &Client, name: &str, port: u16) -> Result<SocketAddr> {
    let params = ListParams {
        field_selector: format!("metadata.name={name}"),
        ..ListParams::default()
    };
    let resource = SERVICES;
    let wait = wait_until(client, &resource, ROOT_NAMESPACE, &params, |service| {
        published_at(service).contains_key(&port)
    });
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.with_context(|| {
        format!("port {port} of {ROOT_NAMESPACE}/{name} was not opened in {PATIENCE:?}")
    })??;
    let service = client.get(&SERVICES, Some(ROOT_NAMESPACE), name)?;
    published_at(&service)
        .get(&port)
        .copied()
        .with_context(|| format!("port {port} of {ROOT_NAMESPACE}/{name} was closed again"))
}

/// Waits until a request from the outside gets a 200.
async fn answered(address: SocketAddr, path: &str) -> Result<()> {
    const AGAIN: Duration = Duration::from_millis(50);
    let wait = async {
        loop {
            match status(address, path).await {
                Ok(200) => return,
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.with_context(|| format!("http://{address}{path} did not answer 200 in {PATIENCE:?}"))
}

async fn status(address: SocketAddr, path: &str) -> Result<u16> {
    use http_body_util::Empty;
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<bytes::Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        anyhow::Ok(answer.status().as_u16())
    };
    tokio::select! {
        answer = exchange => answer,
        // The connection ends first only when it broke.
        ended = connection => { ended?; bail!("the connection was closed") }
        () = tokio::time::sleep(Duration::from_secs(5)) => bail!("no answer"),
    }
}
