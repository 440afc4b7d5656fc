//! Which proxy is served as which pod.

use std::convert::Infallible;

use kube::api::DynamicObject;
use kube::client::Body;
use malla_api::Kind;
use malla_model::{MeshSettings, TrustDomain};
use malla_xds::Variant;
use malla_xds::server::Event;
use malla_xds_proto::wkt;
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
    (publish, Nodes::new(authenticator, worlds, Arc::default()))
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
        first_type: type_url::CLUSTER.to_owned(),
        since: std::time::SystemTime::now(),
        facts: Arc::default(),
        metadata: MetadataMap::new(),
        extensions,
    }
}

fn names(resources: &Arc<dyn NodeResources>, kind: &str) -> Vec<String> {
    let map = resources.wildcard(kind);
    map.into_iter()
        .flat_map(|all| all.iter().map(|(name, _)| name.to_string()))
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

/// An answer as `istioctl` would get it.
fn ask(
    handle: &dyn NodeHandle,
    type_url: &str,
    names: &[&str],
) -> Result<Vec<Answer>, tonic::Code> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let answer = handle.answer(type_url, &names).expect("it is a question");
    answer.map_err(|status| status.code())
}

/// A page told over xDS.
fn told(handle: &dyn NodeHandle, page: &str) -> Result<Value, tonic::Code> {
    let answer = ask(handle, type_url::DEBUG, &[page])?;
    let [answer] = &answer[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(answer.body.type_url, type_url::DEBUG);
    Ok(serde_json::from_slice(&answer.body.value).unwrap())
}

async fn guest(nodes: &Nodes, namespace: &str) -> Box<dyn NodeHandle> {
    let mut asks = hello("127.0.0.1", namespace, "default");
    // istioctl says it is a sidecar of a pod that is nowhere.
    asks.node.id = "sidecar~127.0.0.1~test-1.default~default.svc.cluster.local".to_owned();
    asks.first_type = type_url::DEBUG_SYNCZ.to_owned();
    nodes.accept(asks, LONG).await.unwrap()
}

#[tokio::test]
async fn who_asks_about_proxies_is_answered_at_once_and_is_none() {
    let mut index = index();
    let (_publish, nodes) = nodes(&mut index);
    let mut proxies = Vec::new();
    for (number, namespace) in [(1, "hello"), (2, "base")] {
        let mut hello = hello(&format!("1.2.3.{number}"), namespace, "web");
        hello.connection = number;
        proxies.push(nodes.accept(hello, Duration::ZERO).await.unwrap());
    }
    let admin = guest(&nodes, "istio-system").await;
    assert!(
        admin
            .resources()
            .borrow()
            .wildcard(type_url::CLUSTER)
            .is_none()
    );
    assert_eq!(nodes.reports().len(), 2);
    let seen = |handle: &dyn NodeHandle| {
        let answers = ask(handle, type_url::DEBUG_SYNCZ, &[]).unwrap();
        let names = answers.into_iter().map(|answer| answer.name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(seen(&*admin), ["fake.hello", "fake.base"]);
    let page = told(&*admin, "syncz").unwrap();
    assert_eq!(page[0]["proxy"], "fake.hello");
    assert_eq!(page[0]["proxy_type"], "router");
    for name in debug::PAGES {
        let about = match ["config_dump", "edsz", "ecdsz"].contains(&name) {
            true => format!("{name}?proxyID=fake.base"),
            false => name.to_owned(),
        };
        let page = told(&*admin, &about).unwrap();
        assert!(!page.is_null(), "{name}");
    }
    assert_eq!(told(&*admin, "nothing"), Err(tonic::Code::InvalidArgument));
    assert_eq!(told(&*admin, "edsz"), Err(tonic::Code::InvalidArgument));

    // Others see their own namespace, and nothing of the cluster.
    let tenant = guest(&nodes, "hello").await;
    assert_eq!(seen(&*tenant), ["fake.hello"]);
    assert_eq!(
        told(&*tenant, "configz"),
        Err(tonic::Code::PermissionDenied)
    );
    let dump = |handle: &dyn NodeHandle, proxy: &str| {
        ask(handle, type_url::DEBUG_CONFIG_DUMP, &[proxy])
            .unwrap()
            .len()
    };
    assert_eq!(dump(&*tenant, "fake.hello"), 7);
    assert_eq!(dump(&*tenant, "fake.base"), 0);
    assert_eq!(
        told(&*tenant, "config_dump?proxyID=fake.base"),
        Err(tonic::Code::NotFound)
    );
    // A proxy may ask on its own stream, too.
    assert_eq!(seen(&*proxies[1]), ["fake.base"]);
    assert!(proxies[1].answer(type_url::CLUSTER, &[]).is_none());
    let other = ask(&*admin, "istio.io/debug/other", &[]);
    assert_eq!(other, Err(tonic::Code::InvalidArgument));
}

/// Two services, and a VirtualService for each; cart's is for its own namespace only.
fn routed() -> Index {
    let mut index = Index::new(MeshSettings::default());
    for watched in Watched::all() {
        index.apply((watched, Change::Replaced(vec![])));
    }
    for (number, name, exported) in [(1, "cart", "."), (2, "user", "*")] {
        let service = object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "base"},
            "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"name": "http", "port": 7000 + number, "protocol": "TCP"}]},
        }));
        index.apply((Watched::Service, Change::Applied(service)));
        let route = object(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "base", "uid": name, "generation": 1},
            "spec": {"hosts": [name], "exportTo": [exported], "http": [{"route": [{"destination": {"host": name}}]}]},
        }));
        let watched = Watched::Istio(Kind::VirtualService);
        index.apply((watched, Change::Applied(route)));
    }
    index
}

#[tokio::test]
async fn a_status_counts_the_proxies_that_use_the_object_and_blames_it_for_its_own_resources() {
    let mut index = routed();
    let (publish, nodes) = nodes(&mut index);
    let mut handles = Vec::new();
    for (number, namespace) in [(1, "base"), (2, "hello")] {
        let mut hello = hello(&format!("1.2.3.{number}"), namespace, "web");
        hello.connection = number;
        hello.node.id = hello.node.id.replace("router~", "sidecar~");
        handles.push(nodes.accept(hello, Duration::ZERO).await.unwrap());
    }
    let world = publish.borrow().clone().unwrap();
    let said = |name: &str| {
        let proxies = nodes.connected().proxies();
        let object = world
            .configs
            .iter()
            .find(|c| c.object.metadata.name.as_deref() == Some(name));
        let progress =
            crate::write::status::progress(object.unwrap(), &proxies, "istio-system", world.number);
        (progress.active, progress.of, progress.rejections)
    };
    assert_eq!(said("cart"), (0, 1, vec![]));
    assert_eq!(said("user"), (0, 2, vec![]));
    let version: malla_xds::Version = world.number.to_string().into();
    for handle in &handles {
        handle.event(&Event::Settled {
            version: version.clone(),
            after: Duration::from_millis(3),
        });
    }
    assert_eq!(said("user"), (2, 2, vec![]));
    handles[0].event(&Event::Nacked {
        type_url: type_url::ROUTE.into(),
        version,
        names: vec!["7001".into()],
        message: "no".into(),
    });
    assert_eq!(
        said("cart"),
        (1, 1, vec!["fake.base refuses 7001: no".to_owned()])
    );
    assert_eq!(said("user"), (2, 2, vec![]));
}

/// The endpoints of `cart`.
fn slice(ips: &[&str]) -> Arc<DynamicObject> {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "cart", "namespace": "base", "labels": {"kubernetes.io/service-name": "cart"}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
    }))
}

#[tokio::test]
async fn after_a_change_of_endpoints_streams_look_at_these_alone_and_have_the_rest_in_common() {
    let mut index = routed();
    let ips = ["1.2.3.1", "1.2.3.2", "1.2.3.3"];
    for ip in ips {
        let pod = pod("base", &format!("web-{ip}"), ip);
        index.apply((Watched::Pod, Change::Applied(pod)));
    }
    index.apply((Watched::EndpointSlice, Change::Applied(slice(&ips[..1]))));
    let (publish, nodes) = nodes(&mut index);
    let mut handles = Vec::new();
    for (number, ip) in (1..).zip(ips) {
        let mut hello = hello(ip, "base", &format!("web-{ip}"));
        hello.connection = number;
        hello.node.id = hello.node.id.replace("router~", "sidecar~");
        handles.push(nodes.accept(hello, Duration::ZERO).await.unwrap());
    }
    let mut streams: Vec<_> = handles.iter().map(|handle| handle.resources()).collect();
    let before: Vec<_> = streams
        .iter_mut()
        .map(|it| it.borrow_and_update().clone())
        .collect();
    index.apply((Watched::EndpointSlice, Change::Applied(slice(&ips[..2]))));
    publish.send_replace(Some(index.world()));
    let mut bodies = Vec::new();
    for (stream, before) in streams.iter_mut().zip(&before) {
        let changed = tokio::time::timeout(LONG, stream.changed()).await;
        changed.unwrap().unwrap();
        let now = stream.borrow_and_update().clone();
        let changed = |type_url| {
            let names = now.changed(type_url, before.revision(type_url).unwrap());
            let names = names.unwrap().into_iter();
            names.map(|name| name.to_string()).collect::<Vec<_>>()
        };
        let cart = "outbound|7001||cart.base.svc.cluster.local";
        assert_eq!(changed(type_url::ENDPOINTS), [cart]);
        assert_eq!(changed(type_url::ROUTE), [""; 0]);
        // The cluster names the accounts of its endpoints.
        let mut clusters = changed(type_url::CLUSTER);
        clusters.retain(|name| !name.starts_with("inbound|"));
        assert_eq!(clusters, [cart]);
        bodies.push(now.get(type_url::ENDPOINTS, cart).unwrap().body.as_ptr());
    }
    // Who has become an endpoint has a port of its own now.
    let ports = |at: usize| names(&streams[at].borrow(), type_url::CLUSTER);
    assert!(ports(1).contains(&"inbound|8080||".to_owned()));
    assert!(!ports(2).contains(&"inbound|8080||".to_owned()));
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "made once");
}
