//! The client and the server of this crate together, over gRPC and in memory, in both variants.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use malla_runtime::backoff::BackoffConfig;
use malla_runtime::drain::{Drain, DrainWatch};
use malla_runtime::task::AbortOnDrop;
use malla_xds::client::{
    AdsClient, ClientConfig, Interest, Rejection, ResourceHandler, Update, Verdict,
};
use malla_xds::message::{ClientMessage, ServerMessage};
use malla_xds::server::{
    AdsServer, Answer, Event, Hello, NodeHandle, ResourceSource, ServerOptions,
};
use malla_xds::transport::Transport;
use malla_xds::transport::grpc::{GrpcTransport, UnixConnector, service};
use malla_xds::transport::memory::MemoryTransport;
use malla_xds::{NodeResources, ResourceMap, ResourceSet, TypeUrl, Variant};
use malla_xds_proto::core::Node;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use malla_xds_proto::endpoint::ClusterLoadAssignment;
use malla_xds_proto::type_url::{CLUSTER, DEBUG, ENDPOINTS};
use malla_xds_proto::{any, cluster::Cluster};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Status};
use tracing::Span;

const PATIENCE: Duration = Duration::from_secs(20);

struct Source {
    resources: watch::Receiver<Arc<dyn NodeResources>>,
    events: watch::Sender<Vec<Event>>,
}

struct Handle {
    resources: watch::Receiver<Arc<dyn NodeResources>>,
    events: watch::Sender<Vec<Event>>,
}

impl ResourceSource for Source {
    fn admit<'a>(
        &'a self,
        metadata: &'a MetadataMap,
        _extensions: &'a mut Extensions,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refused = metadata.contains_key("stranger");
        Box::pin(async move {
            match refused {
                true => Err(Status::unauthenticated("no proof of identity")),
                false => Ok(()),
            }
        })
    }

    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        let handle = Handle {
            resources: self.resources.clone(),
            events: self.events.clone(),
        };
        Box::pin(async move {
            match &*hello.node.id {
                "stranger" => Err(Status::permission_denied("no strangers")),
                _ => Ok(Box::new(handle) as Box<dyn NodeHandle>),
            }
        })
    }
}

impl NodeHandle for Handle {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.resources.clone()
    }

    fn event(&self, event: &Event) {
        self.events.send_modify(|events| events.push(event.clone()));
    }

    fn answer(&self, type_url: &str, names: &[String]) -> Option<Result<Vec<Answer>, Status>> {
        let about = names.join(",");
        (type_url == DEBUG).then(|| {
            Ok(vec![Answer {
                name: about.clone(),
                body: any::pack(&Cluster {
                    name: about,
                    ..Cluster::default()
                }),
            }])
        })
    }
}

/// Keeps clusters, and the endpoints of the clusters it has; refuses what is called "bad".
struct Keeper {
    held: Arc<Mutex<BTreeMap<(TypeUrl, String), usize>>>,
}

impl ResourceHandler for Keeper {
    fn subscriptions(&self) -> Vec<(TypeUrl, Interest)> {
        vec![(CLUSTER.into(), Interest::all())]
    }

    fn apply(&mut self, update: Update) -> Verdict {
        let mut held = self.held.lock().unwrap();
        let mut verdict = Verdict::default();
        for resource in update.resources {
            if resource.name.contains("bad") {
                verdict.rejected.push(Rejection {
                    name: resource.name,
                    reason: "it is bad".into(),
                });
            } else {
                let key = (update.type_url.clone(), resource.name.to_string());
                held.insert(key, resource.body.len());
            }
        }
        for name in update.removed {
            held.remove(&(update.type_url.clone(), name.to_string()));
        }
        if *update.type_url == *CLUSTER {
            let clusters = held.keys().filter(|(known, _)| **known == *CLUSTER);
            let names = Interest::names(clusters.map(|(_, name)| name.as_str()));
            verdict.subscriptions.push((ENDPOINTS.into(), names));
        }
        verdict
    }
}

struct World {
    server: AdsServer<Source>,
    set: ResourceSet,
    publish: watch::Sender<Arc<dyn NodeResources>>,
    events: watch::Sender<Vec<Event>>,
    held: Arc<Mutex<BTreeMap<(TypeUrl, String), usize>>>,
}

impl World {
    fn new(drain: DrainWatch) -> Self {
        let mut set = ResourceSet::new("v0");
        set.set(CLUSTER, ResourceMap::new());
        set.set(ENDPOINTS, ResourceMap::new());
        let first: Arc<dyn NodeResources> = Arc::new(set.clone());
        let publish = watch::Sender::new(first);
        let events = watch::Sender::new(Vec::new());
        let source = Source {
            resources: publish.subscribe(),
            events: events.clone(),
        };
        Self {
            server: AdsServer::new(
                source,
                ServerOptions {
                    identifier: "the only server".into(),
                    ..ServerOptions::new(drain)
                },
            ),
            set,
            publish,
            events,
            held: Arc::default(),
        }
    }

    fn put(&mut self, name: &str) {
        let cluster = Cluster {
            name: name.into(),
            ..Cluster::default()
        };
        self.set.put(CLUSTER, name, any::encode(&cluster));
        let endpoints = ClusterLoadAssignment {
            cluster_name: name.into(),
            ..ClusterLoadAssignment::default()
        };
        self.set.put(ENDPOINTS, name, any::encode(&endpoints));
    }

    async fn publish(&mut self, version: &str) {
        self.set.set_version(version);
        self.publish.send_replace(Arc::new(self.set.clone()));
        let mut events = self.events.subscribe();
        let settled =
            |event: &Event| matches!(event, Event::Settled { version: v, .. } if **v == *version);
        let wait = events.wait_for(|events| events.iter().any(settled));
        let done = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(
            done,
            "{version} did not become active: {:#?}",
            self.events.borrow()
        );
    }

    fn client(&self, variant: Variant, transport: Arc<dyn Transport>) -> AdsClient {
        let node = Node {
            id: "friend".into(),
            ..Node::default()
        };
        let mut config = ClientConfig::new(node);
        config.variant = variant;
        config.reconnect = BackoffConfig {
            initial: Duration::from_millis(20),
            ..BackoffConfig::default()
        };
        let handler = Keeper {
            held: self.held.clone(),
        };
        AdsClient::start(config, transport, Box::new(handler))
    }

    fn held(&self, type_url: &str) -> Vec<String> {
        let held = self.held.lock().unwrap();
        let of_type = held.keys().filter(|(known, _)| **known == *type_url);
        of_type.map(|(_, name)| name.clone()).collect()
    }

    /// The story that both transports and variants tell.
    async fn live(&mut self, client: &AdsClient) {
        self.put("cart");
        self.put("user");
        self.publish("v1").await;
        assert_eq!(self.held(CLUSTER), ["cart", "user"]);
        assert_eq!(self.held(ENDPOINTS), ["cart", "user"]);

        for connection in self.server.connections() {
            assert!(self.server.disconnect(connection.id));
        }
        self.put("order");
        self.put("bad");
        self.set.remove(CLUSTER, "user");
        self.publish("v2").await;
        assert_eq!(self.held(CLUSTER), ["cart", "order"]);
        let mut status = client.status();
        let rejected = status.wait_for(|status| !status.types[CLUSTER].rejected.is_empty());
        let status = tokio::time::timeout(PATIENCE, rejected)
            .await
            .unwrap()
            .unwrap()
            .clone();
        assert!(status.connected);
        assert_eq!(status.types[CLUSTER].resources, 2);
        assert_eq!(status.types[CLUSTER].rejected["bad"], "it is bad");

        let [facts] = &self.server.connections()[..] else {
            panic!("one connection");
        };
        assert!(facts.stream.settled);
        assert_eq!(facts.node.id, "friend");
        assert_eq!(
            facts.stream.types[CLUSTER].rejected["bad"],
            "bad: it is bad"
        );
        assert!(facts.stream.types[ENDPOINTS].rejected.is_empty());
    }
}

async fn in_memory(variant: Variant) {
    let mut world = World::new(DrainWatch::never());
    let transport = MemoryTransport::new(world.server.clone(), Extensions::new());
    let client = world.client(variant, Arc::new(transport));
    world.live(&client).await;
}

#[tokio::test]
async fn in_memory_by_delta() {
    in_memory(Variant::Delta).await;
}

#[tokio::test]
async fn in_memory_by_state_of_the_world() {
    in_memory(Variant::Sotw).await;
}

fn serve(world: &World, path: &std::path::Path) -> AbortOnDrop<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    let service = service(world.server.clone());
    AbortOnDrop::spawn(Span::none(), async move {
        let server = tonic::transport::Server::builder().add_service(service);
        server
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    })
}

async fn over_grpc(variant: Variant) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xds");
    let mut world = World::new(DrainWatch::never());
    let serving = serve(&world, &path);
    let transport = GrpcTransport::new(Arc::new(UnixConnector(path.clone())));
    let client = world.client(variant, Arc::new(transport));
    world.live(&client).await;

    // The server dies, and another one comes in its place: nothing is lost, and what changed arrives.
    drop(serving);
    std::fs::remove_file(&path).unwrap();
    for connection in world.server.connections() {
        assert!(world.server.disconnect(connection.id));
    }
    let mut status = client.status();
    let gone = status.wait_for(|status| !status.connected);
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    assert_eq!(world.held(CLUSTER), ["cart", "order"]);
    let _serving = serve(&world, &path);
    world.put("stock");
    world.publish("v3").await;
    assert_eq!(world.held(CLUSTER), ["cart", "order", "stock"]);
}

#[tokio::test]
async fn over_grpc_by_delta() {
    over_grpc(Variant::Delta).await;
}

#[tokio::test]
async fn over_grpc_by_state_of_the_world() {
    over_grpc(Variant::Sotw).await;
}

#[tokio::test]
async fn a_client_that_is_refused_says_why() {
    let world = World::new(DrainWatch::never());
    let transport = MemoryTransport::new(world.server.clone(), Extensions::new());
    let node = Node {
        id: "stranger".into(),
        ..Node::default()
    };
    let handler = Keeper {
        held: Arc::default(),
    };
    let client = AdsClient::start(
        ClientConfig::new(node),
        Arc::new(transport),
        Box::new(handler),
    );
    let mut status = client.status();
    let refused = status.wait_for(|status| status.last_error.is_some());
    let status = tokio::time::timeout(PATIENCE, refused)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(status.last_error.as_ref().unwrap().contains("no strangers"));
    assert!(!status.connected);
}

#[tokio::test]
async fn a_draining_server_lets_its_clients_go() {
    let drain = Drain::new();
    let mut world = World::new(drain.watch());
    let transport = MemoryTransport::new(world.server.clone(), Extensions::new());
    let client = world.client(Variant::Delta, Arc::new(transport));
    world.put("cart");
    world.publish("v1").await;
    drain.start();
    let mut status = client.status();
    let gone = status.wait_for(|status| !status.connected);
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    assert_eq!(world.held(CLUSTER), ["cart"], "what is held stays");
}

#[tokio::test]
async fn nothing_of_a_stranger_is_read() {
    let world = World::new(DrainWatch::never());
    let mut metadata = MetadataMap::new();
    metadata.insert("stranger", "yes".parse().unwrap());
    let read = Arc::new(AtomicBool::new(false));
    let reading = Arc::clone(&read);
    let requests = stream::poll_fn(move |_| {
        reading.store(true, Ordering::SeqCst);
        Poll::Pending
    });
    let mut responses = world.server.open(
        Variant::Delta,
        requests.boxed(),
        metadata,
        Extensions::new(),
    );
    let answer = tokio::time::timeout(PATIENCE, responses.next()).await;
    assert_eq!(
        answer.unwrap().unwrap().unwrap_err().code(),
        Code::Unauthenticated
    );
    assert!(!read.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_request_of_more_than_four_mebibytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xds");
    let world = World::new(DrainWatch::never());
    let _serving = serve(&world, &path);
    let transport = GrpcTransport::new(Arc::new(UnixConnector(path)));
    let mut link = transport.open(Variant::Delta).await.unwrap();
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: "x".repeat(5 << 20),
            ..Node::default()
        }),
        type_url: CLUSTER.into(),
        ..DeltaDiscoveryRequest::default()
    };
    link.requests
        .send(ClientMessage::Delta(Box::new(request)))
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, link.responses.next()).await;
    let error = answer.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

/// A question and then a subscription on one stream; gives the names the answers hold.
async fn asks_and_subscribes(variant: Variant) -> Vec<String> {
    let mut world = World::new(DrainWatch::never());
    world.put("cart");
    world.publish.send_replace(Arc::new(world.set.clone()));
    let transport = MemoryTransport::new(world.server.clone(), Extensions::new());
    let mut link = transport.open(variant).await.unwrap();
    let node = Some(Node {
        id: "friend".into(),
        ..Node::default()
    });
    let request = |type_url: &str, nonce: &str, names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        match variant {
            Variant::Delta => ClientMessage::Delta(Box::new(DeltaDiscoveryRequest {
                node: node.clone(),
                type_url: type_url.into(),
                response_nonce: nonce.into(),
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            })),
            Variant::Sotw => ClientMessage::Sotw(Box::new(DiscoveryRequest {
                node: node.clone(),
                type_url: type_url.into(),
                response_nonce: nonce.into(),
                resource_names: names,
                ..DiscoveryRequest::default()
            })),
        }
    };
    let mut told = Vec::new();
    for (type_url, names) in [
        (DEBUG, &["a page"][..]),
        (DEBUG, &["another"]),
        (CLUSTER, &[]),
    ] {
        // istioctl makes a nonce up where there is none.
        let nonce = match type_url {
            DEBUG => "2026-01-01 00:00:00",
            _ => "",
        };
        link.requests.send(request(type_url, nonce, names)).unwrap();
        let answer = tokio::time::timeout(PATIENCE, link.responses.next()).await;
        let message = answer.unwrap().unwrap().unwrap();
        assert_eq!(message.type_url(), type_url);
        let (bodies, server) = match &message {
            ServerMessage::Delta(r) => {
                let bodies = r.resources.iter().filter_map(|r| r.resource.clone());
                (bodies.collect::<Vec<_>>(), r.control_plane.clone())
            }
            ServerMessage::Sotw(r) => {
                assert!(!r.version_info.is_empty());
                (r.resources.clone(), r.control_plane.clone())
            }
        };
        assert_eq!(server.unwrap().identifier, "the only server");
        let clusters = bodies
            .iter()
            .map(|body| any::unpack::<Cluster>(body).unwrap().name);
        told.extend(clusters);
        // An acknowledgement is no question: the next answer is the next question's.
        link.requests
            .send(request(type_url, message.nonce(), names))
            .unwrap();
    }
    told
}

#[tokio::test]
async fn questions_are_answered_once_and_beside_subscriptions() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let told = asks_and_subscribes(variant).await;
        assert_eq!(told, ["a page", "another", "cart"], "{variant:?}");
    }
}
