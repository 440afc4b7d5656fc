//! A console on an API server of its own, and a browser's half of the conversation.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use malla_apiserver::{Config, Server, kinds};
use malla_console::{AllowAll, Console, Options};
use malla_telemetry::{Collector, CollectorConfig, TelemetryConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

pub(crate) const GATEWAY: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: web
  namespace: base
spec:
  selector:
    istio: ingressgateway
  servers:
    - port:
        number: 80
        name: http
        protocol: HTTP
      hosts: ['*']
";

pub(crate) const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: base}
spec:
  host: cart
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
";

const PATIENCE: Duration = Duration::from_secs(20);

/// A console with the session of one browser.
pub(crate) struct Desk {
    routes: Router,
    _console: Console,
    server: Server,
    client: kube::Client,
    cookie: String,
    token: String,
    openapi: Value,
    serving: JoinHandle<()>,
    collecting: Option<(JoinHandle<()>, TempDir)>,
    _directory: TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Desk {
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// A console whose process collects telemetry.
    pub(crate) async fn collecting() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector::new(CollectorConfig {
            telemetry: TelemetryConfig::new(directory.path()),
            grpc: None,
            otlp_http: None,
            zipkin: None,
        });
        let running = tokio::spawn(Arc::clone(&collector).run(std::future::pending()));
        let mut desk = Self::with(Some(collector)).await;
        desk.collecting = Some((running, directory));
        desk.eventually("/api/malla/v1/telemetry/status", |status| {
            status["state"] == "open"
        })
        .await;
        desk
    }

    async fn with(collector: Option<Arc<Collector>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::open(Config::new(directory.path().join("store")))
            .await
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let kubeconfig = server
            .admin_kubeconfig("test", &format!("https://{address}"))
            .unwrap();
        let serving = server.clone();
        let serving = tokio::spawn(async move {
            serving
                .serve(vec![listener], std::future::pending())
                .await
                .unwrap();
        });
        let inside = server.client("test");
        let definitions = malla_apiserver::Resource::new(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
        );
        for crd in malla_api::crds() {
            inside.create(&definitions, None, crd).await.unwrap();
        }
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "base"}});
        inside
            .create(&kinds::NAMESPACES, None, namespace)
            .await
            .unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let console = Console::start(client.clone(), options(&directory, collector)).unwrap();
        tokio::time::timeout(PATIENCE, console.ready())
            .await
            .expect("the cluster is listed");
        let mut desk = Self {
            routes: console.router(),
            _console: console,
            server,
            client,
            cookie: String::new(),
            token: String::new(),
            openapi: openapi(),
            serving,
            collecting: None,
            _directory: directory,
        };
        let session = desk.get("/api/malla/v1/session").await;
        let cookie = session.header("set-cookie");
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        desk.cookie = cookie.split(';').next().unwrap().to_owned();
        desk.token = session.json()["csrfToken"].as_str().unwrap().to_owned();
        desk
    }

    pub(crate) fn token(&self) -> Vec<(&str, &str)> {
        vec![
            ("cookie", &self.cookie),
            ("x-csrf-token", &self.token),
            ("content-type", "application/json"),
        ]
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:20001");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &self.token(), &body.to_string())
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &self.token(), "").await
    }

    /// Asks until the answer holds.
    pub(crate) async fn eventually(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await.json();
            if holds(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn events(&self) -> Events {
        let request = Request::get("/api/malla/v1/events")
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events {
            stream: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// Somebody else writes an object.
    pub(crate) async fn kubernetes_apply(&self, manager: &str, yaml: &str) {
        let object: Value = malla_yaml(yaml);
        let parameters = PostParams {
            dry_run: false,
            field_manager: Some(manager.to_owned()),
        };
        let api = self.api(&object);
        api.create(&parameters, &serde_json::from_value(object).unwrap())
            .await
            .unwrap();
    }

    pub(crate) async fn kubernetes_delete(&self) {
        let api = self.api(&malla_yaml(GATEWAY));
        drop(api.delete("web", &DeleteParams::default()).await.unwrap());
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let kind = malla_api::Kind::parse(object["kind"].as_str().unwrap()).unwrap();
        let gvk = GroupVersionKind::gvk(kind.group(), kind.storage_version(), kind.name());
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
        Api::namespaced_with(self.client.clone(), "base", &resource)
    }

    /// A Service with one pod that has a proxy; nobody runs it.
    pub(crate) async fn service(&self, name: &str) {
        let client = self.server.client("test");
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        client
            .create(&kinds::SERVICE_ACCOUNTS, Some("base"), account)
            .await
            .unwrap();
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "selector": {"app": name}, "ports": [{"name": "http", "port": 7000}],
        }});
        client
            .create(&kinds::SERVICES, Some("base"), service)
            .await
            .unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-1"), "labels": {"app": name, "version": "v1"}},
            "spec": {"containers": [{"name": "app", "image": "x"}, {"name": "istio-proxy", "image": "y"}]},
        });
        client
            .create(&kinds::PODS, Some("base"), pod)
            .await
            .unwrap();
    }

    /// So many Services, headless, so that nobody has to find an address for each.
    pub(crate) async fn services(&self, count: usize) {
        let client = self.server.client("test");
        let all = futures_util::stream::iter(0..count).map(|at| {
            let client = client.clone();
            let name = format!("s{at}");
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
                "clusterIP": "None", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}],
            }});
            async move { client.create(&kinds::SERVICES, Some("base"), service).await }
        });
        let mut all = all.buffer_unordered(64);
        while let Some(created) = all.next().await {
            created.unwrap();
        }
    }

    /// The API server goes away.
    pub(crate) fn lose_api_server(&self) {
        self.serving.abort();
    }

    /// Holds an answer against a schema of `ui/openapi.yaml`.
    pub(crate) fn conforms(&self, schema: &str, answer: &Value) {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": format!("#/components/schemas/{schema}"),
            "components": self.openapi["components"],
        });
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(answer)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{schema}: {errors:#?}\n{answer:#}");
    }

    pub(crate) fn conforms_all(&self, schema: &str, answers: &Value) {
        for answer in answers
            .as_array()
            .unwrap_or_else(|| panic!("{schema}: not a list: {answers}"))
        {
            self.conforms(schema, answer);
        }
    }
}

fn options(directory: &TempDir, collector: Option<Arc<Collector>>) -> Options {
    Options {
        hosts: Vec::new(),
        root_namespace: "istio-system".into(),
        cluster: "Kubernetes".into(),
        version: "0.0.0".into(),
        history: Some(directory.path().join("history/changes.jsonl")),
        authorizer: Arc::new(AllowAll { user: "ann".into() }),
        metrics: None,
        lessons: true,
        collector,
    }
}

fn openapi() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ui/openapi.yaml");
    malla_yaml(&std::fs::read_to_string(path).unwrap())
}

fn malla_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// A page's event stream.
pub(crate) struct Events {
    stream: BodyDataStream,
    text: String,
}

impl Events {
    /// The data of the next event of that name.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        let found = async {
            loop {
                while let Some((event, rest)) = self.text.clone().split_once("\n\n") {
                    self.text = rest.to_owned();
                    if event.lines().any(|line| line == format!("event: {name}")) {
                        let data = event
                            .lines()
                            .find_map(|line| line.strip_prefix("data: "))
                            .unwrap();
                        return serde_json::from_str(data).unwrap();
                    }
                }
                let chunk = self
                    .stream
                    .next()
                    .await
                    .expect("the stream goes on")
                    .unwrap();
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no event {name}"))
    }
}
