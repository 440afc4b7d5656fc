//! The wire: credentials, limits, negotiation, watches, hostile bodies.

use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cluster::Cluster;
use crate::samples::{THINGS, samples};

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

/// TLS that trusts the cluster, as the kubeconfig's user or as nobody.
fn tls(cluster: &Cluster, anonymous: bool) -> ClientConfig {
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let field = |name: &str| {
        let line = kubeconfig.lines().find(|line| line.contains(name)).unwrap();
        let text = line.split(": ").nth(1).unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&field("certificate-authority-data")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = builder.with_root_certificates(roots);
    if anonymous {
        return builder.with_no_client_auth();
    }
    let certificate = CertificateDer::from_pem_slice(&field("client-certificate-data")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&field("client-key-data")).unwrap();
    builder
        .with_client_auth_cert(vec![certificate], key)
        .unwrap()
}

/// One request on a connection of its own.
pub(crate) async fn send(
    cluster: &Cluster,
    anonymous: bool,
    request: Request<Full<Bytes>>,
) -> Answer {
    let address = cluster.url().replace("https://", "");
    let stream = TcpStream::connect(&address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(cluster, anonymous)));
    let stream = connector
        .connect(ServerName::try_from("127.0.0.1").unwrap(), stream)
        .await
        .unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

async fn get(cluster: &Cluster, path: &str) -> Answer {
    send(cluster, false, request(Method::GET, path, &[], "")).await
}

async fn post(cluster: &Cluster, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    send(
        cluster,
        false,
        request(Method::POST, path, &headers, body.to_string()),
    )
    .await
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_health_and_version_only() {
    let cluster = Cluster::start().await;
    let check = |path: &'static str, token: &'static str, want: u16| {
        let cluster = &cluster;
        async move {
            let headers: &[(&str, &str)] = if token.is_empty() {
                &[]
            } else {
                &[("authorization", token)]
            };
            let answer = send(cluster, true, request(Method::GET, path, headers, "")).await;
            assert_eq!(answer.status.as_u16(), want, "{path} {token}");
            answer
        }
    };
    for path in ["/healthz", "/readyz", "/livez", "/version"] {
        check(path, "", 200).await;
    }
    let refused = check("/api/v1/namespaces/default/pods", "", 403)
        .await
        .json();
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    check("/apis", "", 403).await;
    check("/openapi/v3", "", 403).await;
    check("/api/v1/pods", "Bearer nonsense", 401).await;
    check("/api/v1/pods", "Basic YTpi", 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let cluster = Cluster::start().await;
    let other = Cluster::start().await;
    let mut config = tls(&other, false);
    let trusting = tls(&cluster, true);
    config.dangerous().set_certificate_verifier(Arc::new(Blind));
    drop(trusting);
    let stream = TcpStream::connect(cluster.url().replace("https://", ""))
        .await
        .unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("127.0.0.1").unwrap(), stream)
        .await;
    // TLS 1.3 tells of the refusal with the first read.
    if let Ok(stream) = stream {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender
            .send_request(request(Method::GET, "/version", &[], ""))
            .await;
        assert!(answer.is_err());
        connection.abort();
    }
}

/// Trusts any server: the test is about the client's certificate.
#[derive(Debug)]
struct Blind;

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_and_judged() {
    let cluster = Cluster::start().await;
    let check = |body: Bytes, media: &'static str, want: u16, reason: &'static str| {
        let cluster = &cluster;
        async move {
            let headers = [("content-type", media)];
            let answer = send(cluster, false, request(Method::POST, MAPS, &headers, body)).await;
            assert_eq!(
                (
                    answer.status.as_u16(),
                    answer.json()["reason"].as_str().unwrap().to_owned()
                ),
                (want, reason.to_owned())
            );
        }
    };
    let json = "application/json";
    check(
        Bytes::from(vec![b' '; 4 * 1024 * 1024]),
        json,
        413,
        "RequestEntityTooLarge",
    )
    .await;
    check("[".repeat(100_000).into(), json, 400, "BadRequest").await;
    check("{".into(), json, 400, "BadRequest").await;
    check("[]".into(), json, 400, "BadRequest").await;
    check("null".into(), json, 400, "BadRequest").await;
    check(r#"{"metadata": []}"#.into(), json, 400, "BadRequest").await;
    check(
        r#"{"metadata": {"name": "a", "labels": "x"}}"#.into(),
        json,
        400,
        "BadRequest",
    )
    .await;
    check(
        r#"{"metadata": {"name": "Not A Name"}}"#.into(),
        json,
        422,
        "Invalid",
    )
    .await;
    check(
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}"#.into(),
        json,
        400,
        "BadRequest",
    )
    .await;
    check(
        r#"{"metadata": {"name": "a", "namespace": "kube-system"}}"#.into(),
        json,
        400,
        "BadRequest",
    )
    .await;
    check(
        r#"{"metadata": {"name": "a", "resourceVersion": "1"}}"#.into(),
        json,
        400,
        "BadRequest",
    )
    .await;
    check("{}".into(), "text/plain", 415, "UnsupportedMediaType").await;
    check(
        "k8s\0\u{1}".into(),
        "application/vnd.kubernetes.protobuf",
        400,
        "BadRequest",
    )
    .await;
    check("a: &a [*a]".into(), "application/yaml", 400, "BadRequest").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": "x"});
    let answer = post(&cluster, "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_fields_are_warned_of_or_refused() {
    let cluster = Cluster::start().await;
    let body = r#"{"metadata": {"name": "a", "name": "b"}}"#;
    let headers = [("content-type", "application/json")];
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer = send(
        &cluster,
        false,
        request(Method::POST, &strict, &headers, body),
    )
    .await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .contains(r#"duplicate field "metadata.name""#)
    );
    let answer = send(&cluster, false, request(Method::POST, MAPS, &headers, body)).await;
    assert_eq!(answer.status, 201);
    assert_eq!(
        answer.headers["warning"],
        r#"299 - "duplicate field \"metadata.name\"""#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_of_one_snapshot() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        post(&cluster, MAPS, &map(name)).await;
    }
    let first = get(&cluster, &format!("{MAPS}?limit=2")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens between the pages is not seen.
    post(&cluster, MAPS, &map("bb")).await;
    send(
        &cluster,
        false,
        request(Method::DELETE, &format!("{MAPS}/d"), &[], ""),
    )
    .await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = get(&cluster, &format!("{MAPS}?limit=9&continue={token}"))
        .await
        .json();
    let names: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c", "d", "e"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = get(
        &cluster,
        &format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"),
    )
    .await
    .json();
    assert_eq!(exact["items"].as_array().unwrap().len(), 5);
    cluster.server.compact();
    let expired = get(&cluster, &format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!(
        (expired.status.as_u16(), &expired.json()["reason"]),
        (410, &json!("Expired"))
    );
    let future = get(&cluster, &format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(future.status, 504);
    assert_eq!(
        get(&cluster, &format!("{MAPS}?continue=x")).await.status,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_changes_bookmarks_and_their_end() {
    let cluster = Cluster::start().await;
    let start = get(&cluster, MAPS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    post(&cluster, MAPS, &map("a")).await;
    let mut labelled = map("a");
    labelled["metadata"]["labels"] = json!({"x": "y"});
    let headers = [("content-type", "application/json")];
    send(
        &cluster,
        false,
        request(
            Method::PUT,
            &format!("{MAPS}/a"),
            &headers,
            labelled.to_string(),
        ),
    )
    .await;
    send(
        &cluster,
        false,
        request(
            Method::PUT,
            &format!("{MAPS}/a"),
            &headers,
            map("a").to_string(),
        ),
    )
    .await;
    send(
        &cluster,
        false,
        request(Method::DELETE, &format!("{MAPS}/a"), &[], ""),
    )
    .await;
    let kinds = |answer: &Answer| -> Vec<String> {
        answer
            .lines()
            .iter()
            .map(|line| line["type"].as_str().unwrap().to_owned())
            .collect()
    };
    let watch = |query: String| {
        let cluster = &cluster;
        async move { get(cluster, &format!("{MAPS}?watch=1&timeoutSeconds=1&{query}")).await }
    };
    let all = watch(format!("resourceVersion={start}")).await;
    assert_eq!(kinds(&all), ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]);
    // An object that begins and ceases to match appears and disappears.
    let some = watch(format!("resourceVersion={start}&labelSelector=x%3Dy")).await;
    assert_eq!(kinds(&some), ["ADDED", "DELETED"]);
    let marked = watch(format!(
        "resourceVersion={start}&labelSelector=no&allowWatchBookmarks=true"
    ))
    .await;
    assert_eq!(marked.lines()[0]["type"], "BOOKMARK");
    post(&cluster, MAPS, &map("b")).await;
    let initial = watch(
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            .to_owned(),
    )
    .await;
    let lines = initial.lines();
    assert_eq!(
        (&lines[0]["type"], &lines[0]["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    assert_eq!(
        lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    cluster.server.compact();
    let expired = watch(format!("resourceVersion={start}")).await;
    assert_eq!(
        (expired.status.as_u16(), &expired.json()["reason"]),
        (410, &json!("Expired"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_older_than_the_window_has_expired() {
    let cluster = Cluster::start_with(|config| config.limits.watch_window = 8).await;
    let mut versions = Vec::new();
    for number in 0..12 {
        let made = post(&cluster, MAPS, &map(&format!("m{number}")))
            .await
            .json();
        let version = made["metadata"]["resourceVersion"].as_str().unwrap();
        versions.push(version.to_owned());
    }
    let check = |start: String, want: u16| {
        let cluster = &cluster;
        async move {
            let path = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={start}");
            let answer = get(cluster, &path).await;
            assert_eq!(answer.status, want, "{start}");
            answer
        }
    };
    let expired = check(versions[2].clone(), 410).await;
    assert_eq!(expired.json()["reason"], "Expired");
    // The last eight changes are remembered.
    let remembered = check(versions[3].clone(), 200).await;
    assert_eq!(remembered.lines().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_form_asked_for() {
    let cluster = Cluster::start().await;
    post(&cluster, MAPS, &map("a")).await;
    let with = |accept: &'static str| {
        let cluster = &cluster;
        async move {
            send(
                cluster,
                false,
                request(Method::GET, MAPS, &[("accept", accept)], ""),
            )
            .await
        }
    };
    assert_eq!(
        with("application/json;as=Table;v=v1;g=meta.k8s.io")
            .await
            .json()["kind"],
        "Table"
    );
    let partial = with("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .await
        .json();
    assert_eq!(
        (&partial["kind"], &partial["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("a"))
    );
    assert!(
        with("application/yaml")
            .await
            .body
            .starts_with(b"kind: ConfigMapList")
    );
    assert_eq!(with("image/png").await.status, 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_describes_every_kind() {
    let cluster = Cluster::start().await;
    cluster.apply(THINGS).await;
    let index = get(&cluster, "/openapi/v3").await.json();
    for sample in samples() {
        let (group, version) = match sample.api_version.split_once('/') {
            None => ("", sample.api_version.as_str()),
            Some(parts) => parts,
        };
        let path = match group {
            "" => format!("api/{version}"),
            group => format!("apis/{group}/{version}"),
        };
        let url = index["paths"][&path]["serverRelativeURL"].as_str().unwrap();
        let answer = get(&cluster, url).await;
        let cached = answer.headers["cache-control"].to_str().unwrap();
        assert!(cached.contains("immutable"), "{url}: {cached}");
        let document = answer.json();
        assert_eq!(document["openapi"], "3.0.0");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let gvk = json!({"group": group, "version": version, "kind": sample.kind});
        let named = schemas.values().find(|schema| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.is_some_and(|kinds| kinds.contains(&gvk))
        });
        assert!(named.is_some(), "{path}: {gvk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_honour_preconditions_and_propagation() {
    let cluster = Cluster::start().await;
    let made = post(&cluster, MAPS, &map("a")).await.json();
    let delete = |options: Value| {
        let cluster = &cluster;
        async move {
            let headers = [("content-type", "application/json")];
            send(
                cluster,
                false,
                request(
                    Method::DELETE,
                    &format!("{MAPS}/a"),
                    &headers,
                    options.to_string(),
                ),
            )
            .await
        }
    };
    let other = delete(json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(other.status, 409);
    assert!(
        other.json()["message"]
            .as_str()
            .unwrap()
            .contains("Precondition failed: UID in precondition: other")
    );
    let held = delete(json!({"propagationPolicy": "Foreground"}))
        .await
        .json();
    assert_eq!(
        held["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let uid = &made["metadata"]["uid"];
    let headers = [("content-type", "application/merge-patch+json")];
    let free = json!({"metadata": {"finalizers": null, "uid": uid}}).to_string();
    let last = send(
        &cluster,
        false,
        request(Method::PATCH, &format!("{MAPS}/a"), &headers, free),
    )
    .await;
    assert_eq!(last.status, 200);
    assert_eq!(get(&cluster, &format!("{MAPS}/a")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_and_queries_are_answered() {
    let cluster = Cluster::start().await;
    let check = |path: &'static str, want: u16| {
        let cluster = &cluster;
        async move { assert_eq!(get(cluster, path).await.status.as_u16(), want, "{path}") }
    };
    check("/api/v1/namespaces/%00/pods/x", 400).await;
    check("/api/v1/namespaces/%ff/pods", 400).await;
    check("/api/v1/namespaces/default/pods/..%2f..%2fx", 404).await;
    check("/apis//v1/pods", 404).await;
    check("/api/v1/pods?labelSelector=%3D%3D%3D", 400).await;
    check("/api/v1/pods?limit=-1", 400).await;
    check("/api/v1/pods?resourceVersion=x", 400).await;
    check(
        "/api/v1/pods?watch=1&resourceVersion=99999999999999999999",
        400,
    )
    .await;
    check("/api/v1/namespaces/default/pods/x/nonsense", 404).await;
    check("/apis/apps/v1/namespaces/default/nonsense", 404).await;
    let delete = send(
        &cluster,
        false,
        request(Method::DELETE, "/api/v1/namespaces", &[], ""),
    )
    .await;
    assert_eq!(delete.status, 405);
}
