//! Which Secrets are read, and who is told of them, by an API server that a test plays.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Method, Request, Response};
use kube::client::Body;
use malla_model::secret::NoSecret;
use serde_json::{Value, json};

use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n";

/// Answers lists, watches and access reviews.
#[derive(Debug, Default)]
struct Cluster {
    allows: AtomicBool,
    reviews: AtomicUsize,
    lists: Mutex<Vec<String>>,
}

impl Cluster {
    fn answer(&self, request: &Request<Body>) -> Value {
        let uri = request.uri();
        if request.method() == Method::POST {
            self.reviews.fetch_add(1, Ordering::Relaxed);
            return json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": {},
                "status": {"allowed": self.allows.load(Ordering::Relaxed)},
            });
        }
        let mut lists = self.lists.lock().unwrap();
        lists.push(uri.path().to_owned());
        json!({
            "apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "roots", "namespace": "edge"}, "data": {"ca.crt": base64(CERTIFICATE)}},
                      {"metadata": {"name": "broken", "namespace": "edge"}, "data": {"tls.crt": base64("x"), "tls.key": base64("y")}}],
        })
    }
}

fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}

fn reader(account: &str) -> Reader {
    Reader {
        namespace: "edge".into(),
        account: Some(account.into()),
    }
}

struct Running {
    cluster: Arc<Cluster>,
    asked: Arc<Asked>,
    secrets: watch::Receiver<Arc<Secrets>>,
    _keeping: AbortOnDrop<()>,
}

fn start(allows: bool) -> Running {
    let cluster = Arc::new(Cluster::default());
    cluster.allows.store(allows, Ordering::Relaxed);
    let served = Arc::clone(&cluster);
    let service = tower::service_fn(move |request: Request<Body>| {
        let cluster = Arc::clone(&served);
        async move {
            if request.uri().query().unwrap_or_default().contains("watch=") {
                pending::<()>().await;
            }
            let body = cluster.answer(&request).to_string();
            Ok::<_, Infallible>(Response::new(Body::from(body.into_bytes())))
        }
    });
    let asked = Arc::new(Asked::default());
    let (send, secrets) = watch::channel(Arc::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let keeping = keep(
        kube::Client::new(service, "default"),
        provider,
        Arc::clone(&asked),
        send,
    );
    Running {
        cluster,
        asked,
        secrets,
        _keeping: AbortOnDrop::spawn(info_span!("test"), keeping),
    }
}

/// Waits until the reader's right has been answered and the namespace read.
async fn known(running: &mut Running, account: &str) -> Arc<Secrets> {
    let known = running.secrets.wait_for(|secrets| {
        let keys = secrets.namespaces.get("edge");
        keys.is_some_and(|keys| keys.readers.contains_key(account))
    });
    let limit = Duration::from_secs(60);
    Arc::clone(&tokio::time::timeout(limit, known).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_namespace_is_read_once_somebody_asks() {
    let mut running = start(true);
    running.asked.ask(reader("gateway"));
    let secrets = known(&mut running, "gateway").await;
    assert_eq!(secrets.may_read("edge", "gateway"), Ok(()));
    assert!(secrets.anchors("edge", "roots").is_ok());
    let no_key = secrets.key_pair("edge", "roots").unwrap_err().to_string();
    assert!(
        no_key.contains("expected the keys tls.crt and tls.key"),
        "{no_key}"
    );
    let broken = secrets.key_pair("edge", "broken").unwrap_err().to_string();
    assert!(
        broken.starts_with("Secret edge/broken: the certificate chain"),
        "{broken}"
    );
    assert!(matches!(
        secrets.key_pair("bank", "x"),
        Err(NoSecret::Unread(_))
    ));
    let lists = running.cluster.lists.lock().unwrap().clone();
    assert_eq!(
        lists,
        ["/api/v1/namespaces/edge/secrets"],
        "no other namespace is looked into"
    );
}

#[tokio::test]
async fn who_may_not_list_secrets_is_refused() {
    let mut running = start(false);
    running.asked.ask(reader("gateway"));
    let secrets = known(&mut running, "gateway").await;
    let refused = secrets.may_read("edge", "gateway").unwrap_err().to_string();
    assert!(refused.contains("may not list Secrets"), "{refused}");
    // Trust anchors are no secret.
    assert!(secrets.anchors("edge", "roots").is_ok());
    running.asked.ask(reader("other"));
    known(&mut running, "other").await;
    assert_eq!(
        running.cluster.reviews.load(Ordering::Relaxed),
        2,
        "each is asked about once"
    );
}

#[test]
fn answers_are_asked_for_again_when_they_are_old() {
    let mut known = Known::default();
    let now = Instant::now();
    let gateway = reader("gateway");
    assert!(known.is_due(&gateway, now));
    assert!(!known.is_due(&gateway, now), "it is being asked");
    known.answered(gateway.clone(), Some(true), now);
    assert!(!known.is_due(&gateway, now + REFUSED));
    assert!(known.is_due(&gateway, now + PERMITTED));
    known.answered(gateway.clone(), None, now);
    assert_eq!(
        known.answers[&gateway].allowed,
        Some(true),
        "no answer changes nothing"
    );
    assert!(known.is_due(&gateway, now + UNANSWERED));
}
