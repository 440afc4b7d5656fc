//! Admission webhooks, called for real over TLS.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use malla_apiserver::Dial;
use malla_apiserver::outside::{BoxedStream, DialTarget};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::pods;
use crate::watcher;

type Answer = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// A webhook server; the answer is a function of the path and the request.
struct Hook {
    address: SocketAddr,
    bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
    _task: AbortOnDropHandle<()>,
}

impl Hook {
    async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = vec!["hook.default.svc".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::new(answer),
            seen.clone(),
        ));
        Self {
            address,
            bundle: STANDARD.encode(certificate.pem()),
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// A configuration with one webhook on ConfigMaps; `extra` is merged into it.
    fn configuration(&self, kind: &str, name: &str, path: &str, extra: Value) -> Value {
        let mut hook = json!({
            "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 5,
            "clientConfig": {"url": format!("https://{}{path}", self.address), "caBundle": self.bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"]}],
        });
        for (field, value) in extra.as_object().unwrap() {
            hook[field] = value.clone();
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook],
        })
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Value>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else {
            continue;
        };
        let (answer, seen) = (answer.clone(), seen.clone());
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (answer, seen) = (answer.clone(), seen.clone());
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                let mut response = answer(&path, &review["request"]);
                response["uid"] = review["request"]["uid"].clone();
                seen.lock().unwrap().push(review["request"].clone());
                let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(review.to_string()))))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

fn allow() -> Value {
    json!({"allowed": true})
}

fn patch(ops: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(ops.to_string())})
}

/// Adds a label, once.
fn label(request: &Value, key: &str) -> Value {
    if request["object"]["metadata"]["labels"].is_object() {
        let path = format!("/metadata/labels/{key}");
        return patch(&json!([{"op": "add", "path": path, "value": "set"}]));
    }
    patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {key: "set"}}]))
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_change_objects_in_order() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, request| label(request, path.trim_start_matches('/'))).await;
    for name in ["b", "a"] {
        let path = format!("/{name}");
        let configuration =
            hook.configuration("MutatingWebhookConfiguration", name, &path, json!({}));
        cluster.apply(&configuration.to_string()).await;
    }
    cluster.ok(&["create", "configmap", "m"]).await;
    let labels = &cluster.json(&["configmap", "m"]).await["metadata"]["labels"];
    assert_eq!(*labels, json!({"a": "set", "b": "set"}));
    let seen = hook.seen();
    assert_eq!(seen.len(), 2);
    let first = &seen[0];
    assert_eq!(
        (
            &first["operation"],
            &first["namespace"],
            &first["name"],
            &first["userInfo"]["username"],
            &first["dryRun"]
        ),
        (
            &json!("CREATE"),
            &json!("default"),
            &json!("m"),
            &json!("kubernetes-admin"),
            &json!(false)
        )
    );
    assert_eq!(
        seen[1]["object"]["metadata"]["labels"],
        json!({"a": "set"}),
        "the second sees the first's change"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_called_again_when_its_object_changed() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, request| label(request, path.trim_start_matches('/'))).await;
    for (name, policy) in [("a", "IfNeeded"), ("b", "IfNeeded"), ("c", "Never")] {
        let extra = json!({"reinvocationPolicy": policy});
        let configuration = hook.configuration(
            "MutatingWebhookConfiguration",
            name,
            &format!("/{name}"),
            extra,
        );
        cluster.apply(&configuration.to_string()).await;
    }
    cluster.ok(&["create", "configmap", "m"]).await;
    // a, b, c; then a and b once more, because c changed the object after them.
    assert_eq!(hook.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_webhooks_refuse_and_warn() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| {
        if request["object"]["data"]["bad"].is_string() {
            return json!({"allowed": false, "status": {"message": "no bad data", "code": 403}, "warnings": ["think again"]});
        }
        json!({"allowed": true, "warnings": ["looks odd"]})
    })
    .await;
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "v", "/", json!({}));
    cluster.apply(&configuration.to_string()).await;
    let made = cluster.run(&["create", "configmap", "m"]).await;
    assert!(
        made.ok && made.err.contains("Warning: looks odd"),
        "{made:?}"
    );
    let refused = cluster
        .run(&["create", "configmap", "n", "--from-literal=bad=1"])
        .await;
    assert!(
        refused
            .err
            .contains("admission webhook \"v.example.com\" denied the request: no bad data"),
        "{refused:?}"
    );
    assert!(
        cluster
            .fails(&["get", "configmap", "n"])
            .await
            .contains("NotFound")
    );
    // Deletions were not asked for.
    let calls = hook.seen().len();
    cluster.ok(&["delete", "configmap", "m"]).await;
    assert_eq!(hook.seen().len(), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_rules_and_conditions_choose_requests() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| json!({"allowed": false})).await;
    let calls = |extra: Value, labels: Value, want: bool| {
        let (cluster, hook) = (&cluster, &hook);
        async move {
            let text = extra.to_string();
            let configuration =
                hook.configuration("ValidatingWebhookConfiguration", "v", "/", extra);
            cluster.apply(&configuration.to_string()).await;
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": labels}});
            let printed = cluster
                .feed(&["create", "--dry-run=server", "-f", "-"], &map.to_string())
                .await;
            assert_eq!(
                printed.err.contains("without explanation"),
                want,
                "{text}: {printed:?}"
            );
        }
    };
    let none = json!({});
    calls(
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}),
        none.clone(),
        true,
    )
    .await;
    calls(
        json!({"namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}}}),
        none.clone(),
        false,
    )
    .await;
    calls(json!({"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}), none.clone(), true).await;
    calls(json!({"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}), json!({"skip": "me"}), false).await;
    let rule = |field: &str, value: Value| {
        let mut rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"], "operations": ["*"]});
        rule[field] = value;
        json!({"rules": [rule]})
    };
    calls(rule("operations", json!(["UPDATE"])), none.clone(), false).await;
    calls(
        rule("resources", json!(["secrets", "configmaps/*"])),
        none.clone(),
        true,
    )
    .await;
    calls(rule("scope", json!("Cluster")), none.clone(), false).await;
    calls(rule("apiGroups", json!(["apps"])), none.clone(), false).await;
    let condition =
        |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    calls(
        condition("request.userInfo.username == 'kubernetes-admin'"),
        none.clone(),
        true,
    )
    .await;
    calls(
        condition("object.metadata.name.startsWith('x')"),
        none.clone(),
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_policies_decide_when_nobody_answers() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let nowhere = json!({"clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": hook.bundle}, "failurePolicy": "Ignore"});
    let mut configuration = hook.configuration("MutatingWebhookConfiguration", "m", "/", nowhere);
    cluster.apply(&configuration.to_string()).await;
    cluster.ok(&["create", "configmap", "ignored"]).await;
    configuration["webhooks"][0]["failurePolicy"] = "Fail".into();
    cluster.apply(&configuration.to_string()).await;
    let failed = cluster.fails(&["create", "configmap", "failed"]).await;
    assert!(failed.contains("failed calling webhook \"m.example.com\": failed to call webhook: Post \"https://127.0.0.1:1/?timeout=5s\""), "{failed}");
    // A certificate of another authority is no answer either.
    let other = Hook::start(|_, _| allow()).await;
    configuration["webhooks"][0]["clientConfig"] =
        json!({"url": format!("https://{}/", hook.address), "caBundle": other.bundle});
    cluster.apply(&configuration.to_string()).await;
    let failed = cluster.fails(&["create", "configmap", "failed"]).await;
    assert!(failed.contains("failed calling webhook"), "{failed}");
    cluster
        .ok(&["delete", "mutatingwebhookconfiguration", "m"])
        .await;
    cluster.ok(&["create", "configmap", "free"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_reach_only_webhooks_without_side_effects() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let configuration = hook.configuration(
        "ValidatingWebhookConfiguration",
        "v",
        "/",
        json!({"sideEffects": "NoneOnDryRun"}),
    );
    cluster.apply(&configuration.to_string()).await;
    cluster
        .ok(&["create", "configmap", "m", "--dry-run=server"])
        .await;
    assert_eq!(hook.seen()[0]["dryRun"], true);
}

/// Leads the Service `hook` of `default` to a real listener.
struct Leads(SocketAddr);

impl Dial for Leads {
    fn dial(&self, target: DialTarget) -> BoxFuture<'_, std::io::Result<BoxedStream>> {
        Box::pin(async move {
            let want = DialTarget::Service {
                namespace: "default".to_owned(),
                name: "hook".to_owned(),
                port: 8443,
            };
            assert_eq!(target, want);
            Ok(Box::new(TcpStream::connect(self.0).await?) as BoxedStream)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_dialed_through_the_node() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| label(request, "injected")).await;
    cluster.server.attach_dial(Arc::new(Leads(hook.address)));
    let service = json!({"clientConfig": {"caBundle": hook.bundle,
        "service": {"namespace": "default", "name": "hook", "port": 8443, "path": "/inject"}}});
    let configuration = hook.configuration("MutatingWebhookConfiguration", "m", "/", service);
    cluster.apply(&configuration.to_string()).await;
    cluster.ok(&["create", "configmap", "m"]).await;
    assert_eq!(
        cluster.json(&["configmap", "m"]).await["metadata"]["labels"]["injected"],
        "set"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_webhook_is_given_up() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let hook = Hook::start(|_, _| allow()).await;
    // Accepts by its backlog and never speaks TLS.
    let mute = json!({"timeoutSeconds": 1, "clientConfig": {"url": format!("https://{}/", listener.local_addr().unwrap()), "caBundle": hook.bundle}});
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "v", "/", mute);
    cluster.apply(&configuration.to_string()).await;
    let started = std::time::Instant::now();
    let failed = cluster.fails(&["create", "configmap", "m"]).await;
    assert!(failed.contains("no answer within 1 s"), "{failed}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_may_refuse_streams() {
    let cluster = pods::cluster().await;
    let hook = Hook::start(
        |_, _| json!({"allowed": false, "status": {"message": "no shells", "code": 403}}),
    )
    .await;
    let rules = json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "operations": ["CONNECT"]}]});
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "v", "/", rules);
    cluster.apply(&configuration.to_string()).await;
    let refused = cluster.fails(&["exec", "p", "-c", "a", "--", "sh"]).await;
    assert!(
        refused.contains("denied the request: no shells"),
        "{refused}"
    );
    cluster.fails(&["attach", "p", "-c", "a"]).await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(watcher::client(&cluster).await, "default");
    assert!(pods.portforward("p", &[7]).await.is_err());
    let seen = hook.seen();
    let mut kinds: Vec<&Value> = seen.iter().map(|seen| &seen["kind"]["kind"]).collect();
    kinds.dedup(); // kubectl tries SPDY when it is refused a WebSocket.
    assert_eq!(
        kinds,
        [
            "PodExecOptions",
            "PodAttachOptions",
            "PodPortForwardOptions"
        ]
    );
    assert_eq!(seen[0]["object"]["command"], json!(["sh"]));
    let last = seen.last().unwrap();
    assert_eq!(last["object"]["ports"], json!([7]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let check = |extra: Value, want: &'static str| {
        let (cluster, hook) = (&cluster, &hook);
        async move {
            let configuration =
                hook.configuration("ValidatingWebhookConfiguration", "v", "/", extra);
            let refused = cluster
                .feed(&["apply", "-f", "-"], &configuration.to_string())
                .await;
            assert!(
                !refused.ok && refused.err.contains(want),
                "{want}: {refused:?}"
            );
        }
    };
    let condition = json!({"matchConditions": [{"name": "c", "expression": "nobody.name == 'x'"}]});
    check(
        condition,
        "webhooks[0].matchConditions[0].expression: Invalid value",
    )
    .await;
    let bundle = json!({"clientConfig": {"url": "https://127.0.0.1/", "caBundle": STANDARD.encode("no certificate")}});
    check(bundle, "webhooks[0].clientConfig.caBundle: Invalid value").await;
    check(json!({"sideEffects": "Some"}), "webhooks[0].sideEffects").await;
    // What a controller is to fill in with its certificate later.
    for placeholder in ["", "Cg=="] {
        let client = json!({"clientConfig": {"url": "https://127.0.0.1/", "caBundle": placeholder}, "rules": []});
        let configuration = hook.configuration("ValidatingWebhookConfiguration", "v", "/", client);
        cluster.apply(&configuration.to_string()).await;
    }
}
