//! Which proxy is served as which pod.

use std::convert::Infallible;

use kube::api::DynamicObject;
use kube::client::Body;
use malla_api::Kind;
use malla_model::{MeshSettings, TrustDomain};
use malla_xds::Variant;
use malla_xds_proto::{type_url, wkt};
use serde_json::{Value, json};

use super::*;
use crate::index::Index;
use crate::source::{Change, Watched};

/// Longer than any test: a proxy that waits for its pod does not give up.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_proxy_may_not_claim_to_be_another() {
    let identity = SpiffeId::new(&TrustDomain::default(), "base", "cart");
    let check = |namespace: &str, account: Option<&str>| {
        let claims = Claims {
            namespace: namespace.into(),
            service_account: account.map(str::to_owned),
        };
        refusal(&claims, &identity)
    };
    assert_eq!(check("base", Some("cart")), None);
    assert_eq!(check("base", None), None);
    assert!(check("other", Some("cart")).is_some());
    assert!(check("base", Some("order")).is_some());
}

fn object(value: Value) -> Arc<DynamicObject> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(namespace: &str, account: &str, ip: &str) -> Arc<DynamicObject> {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": account, "namespace": namespace, "labels": {"istio": "ingressgateway"}},
        "spec": {"serviceAccountName": account, "nodeName": "local", "containers": [{"name": "x"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }))
}

/// Two Gateways, one of which selects every gateway pod there is.
fn index() -> Index {
    let mut index = Index::new(MeshSettings::default());
    for watched in Watched::all() {
        index.apply((watched, Change::Replaced(vec![])));
    }
    for (name, port, selector) in [
        ("labelled", 8080, json!({"istio": "ingressgateway"})),
        ("any", 9090, json!({})),
    ] {
        let gateway = object(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": "istio-system"},
            "spec": {"selector": selector, "servers": [
                {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
            ]},
        }));
        index.apply((Watched::Istio(Kind::Gateway), Change::Applied(gateway)));
    }
    index
}

fn nodes(index: &mut Index) -> (watch::Sender<Option<World>>, Nodes) {
    let (publish, worlds) = watch::channel(Some(index.world()));
    let nowhere = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    let client = kube::Client::new(nowhere, "default");
    let authenticator = Authenticator::new(client, TrustDomain::default());
    (publish, Nodes::new(authenticator, worlds))
}

/// A router that says it is the ingress gateway, with the proof of another account.
fn hello(ip: &str, namespace: &str, account: &str) -> Hello {
    let node = Node {
        id: format!("router~{ip}~fake.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(wkt::structure([(
            "LABELS",
            wkt::object([("istio", wkt::string("ingressgateway"))]),
        )])),
        ..Node::default()
    };
    let mut extensions = Extensions::new();
    let identity = SpiffeId::new(&TrustDomain::default(), namespace, account);
    extensions.insert(Proved(identity));
    Hello {
        connection: 1,
        node,
        variant: Variant::Delta,
        metadata: MetadataMap::new(),
        extensions,
    }
}

fn names(resources: &Arc<dyn NodeResources>, kind: &str) -> Vec<String> {
    let map = resources.wildcard(kind);
    map.into_iter()
        .flat_map(|map| map.keys().map(ToString::to_string))
        .collect()
}

#[tokio::test]
async fn labels_without_a_pod_open_no_gateway_until_the_pod_is_known() {
    let mut index = index();
    // Its address may even be the real gateway's.
    let gateway = pod("istio-system", "gateway", "10.0.0.1");
    index.apply((Watched::Pod, Change::Applied(gateway)));
    let (publish, nodes) = nodes(&mut index);
    for ip in ["1.2.3.4", "10.0.0.1"] {
        let handle = nodes.accept(hello(ip, "hello", "web"), Duration::ZERO);
        let handle = handle.await.unwrap();
        let mut resources = handle.resources();
        let now = resources.borrow_and_update().clone();
        assert_eq!(names(&now, type_url::LISTENER), [""; 0], "{ip}");
        assert!(now.get(type_url::ROUTE, "http.8080").is_none(), "{ip}");
    }
    let handle = nodes.accept(hello("1.2.3.4", "hello", "web"), Duration::ZERO);
    let handle = handle.await.unwrap();
    let mut resources = handle.resources();
    index.apply((
        Watched::Pod,
        Change::Applied(pod("hello", "web", "1.2.3.4")),
    ));
    publish.send_replace(Some(index.world()));
    let served = resources.wait_for(|now| names(now, type_url::LISTENER).len() == 2);
    tokio::time::timeout(LONG, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_proxy_that_is_faster_than_the_news_of_its_pod_waits_for_them() {
    let mut index = index();
    let (publish, nodes) = nodes(&mut index);
    let mut accepting = Box::pin(nodes.accept(hello("1.2.3.4", "hello", "web"), LONG));
    assert!(futures_util::poll!(&mut accepting).is_pending());
    index.apply((
        Watched::Pod,
        Change::Applied(pod("hello", "web", "1.2.3.4")),
    ));
    publish.send_replace(Some(index.world()));
    let handle = tokio::time::timeout(LONG / 2, accepting).await.unwrap();
    let first = handle.unwrap().resources().borrow().clone();
    assert_eq!(names(&first, type_url::LISTENER).len(), 2);
}

#[tokio::test]
async fn a_client_that_was_not_admitted_is_not_served() {
    let mut index = index();
    let (_publish, nodes) = nodes(&mut index);
    let mut hello = hello("1.2.3.4", "hello", "web");
    hello.extensions = Extensions::new();
    let refused = nodes.accept(hello, LONG).await.err();
    let code = refused.map(|status| status.code());
    assert_eq!(code, Some(tonic::Code::Unauthenticated));
}
