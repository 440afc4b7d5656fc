//! A control plane of a few lines: one set of resources for every node, and a record of events.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use malla_xds::server::{AdsServer, Event, Hello, NodeHandle, ResourceSource, ServerOptions};
use malla_xds::{NodeResources, ResourceMap, ResourceSet, transport};
use malla_xds_proto::cluster::Cluster;
use malla_xds_proto::endpoint::ClusterLoadAssignment;
use malla_xds_proto::listener::Listener;
use malla_xds_proto::route::RouteConfiguration;
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tracing::Span;

use crate::peer::message;

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
    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        assert_eq!(hello.node.id, "envoy-under-test");
        let handle = Handle {
            resources: self.resources.clone(),
            events: self.events.clone(),
        };
        Box::pin(async move { Ok(Box::new(handle) as Box<dyn NodeHandle>) })
    }
}

impl NodeHandle for Handle {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.resources.clone()
    }

    fn event(&self, event: &Event) {
        self.events.send_modify(|events| events.push(event.clone()));
    }
}

pub(crate) struct Plane {
    address: SocketAddr,
    server: AdsServer<Source>,
    current: Mutex<ResourceSet>,
    publish: watch::Sender<Arc<dyn NodeResources>>,
    events: watch::Sender<Vec<Event>>,
    _serving: AbortOnDrop<()>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        let mut current = ResourceSet::new("empty");
        for type_url in [CLUSTER, ENDPOINTS, LISTENER, ROUTE] {
            current.set(type_url, ResourceMap::new());
        }
        let first: Arc<dyn NodeResources> = Arc::new(current.clone());
        let publish = watch::Sender::new(first);
        let events = watch::Sender::new(Vec::new());
        let source = Source {
            resources: publish.subscribe(),
            events: events.clone(),
        };
        let server = AdsServer::new(source, ServerOptions::new(DrainWatch::never()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = transport::grpc::service(server.clone());
        let serving = AbortOnDrop::spawn(Span::none(), async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            server,
            current: Mutex::new(current),
            publish,
            events,
            _serving: serving,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn change(&self, version: &str, change: impl FnOnce(&mut ResourceSet)) {
        let mut current = self.current.lock().unwrap();
        change(&mut current);
        current.set_version(version);
        self.publish.send_replace(Arc::new(current.clone()));
    }

    pub(crate) fn disconnect_all(&self) {
        for connection in self.server.connections() {
            assert!(self.server.disconnect(connection.id));
        }
    }

    /// Waits for the first event like this, from the beginning.
    pub(crate) async fn event(&self, like: impl Fn(&Event) -> bool) -> Event {
        let mut events = self.events.subscribe();
        let found = events.wait_for(|events| events.iter().any(&like));
        let found = tokio::time::timeout(PATIENCE, found).await;
        let found = found.map(|events| events.unwrap().clone());
        let events = found.unwrap_or_else(|_| {
            panic!("it did not happen; {:#?}", self.events.borrow());
        });
        events.into_iter().find(like).unwrap()
    }

    pub(crate) async fn settled(&self, version: &str) {
        self.event(|event| matches!(event, Event::Settled { version: v, .. } if **v == *version))
            .await;
    }

    /// The types pushed at a version, in order.
    pub(crate) fn pushes(&self, version: &str) -> Vec<String> {
        let pushed = |event: &Event| match event {
            Event::Pushed {
                type_url,
                version: v,
                ..
            } if **v == *version => Some(type_url.to_string()),
            _ => None,
        };
        self.events.borrow().iter().filter_map(pushed).collect()
    }

    /// How many resources of a type were pushed at a version.
    pub(crate) fn resources_pushed(&self, version: &str, wanted: &str) -> usize {
        let pushed = |event: &Event| match event {
            Event::Pushed {
                type_url,
                version: v,
                resources,
                ..
            } if **v == *version && type_url.as_str() == wanted => Some(*resources),
            _ => None,
        };
        self.events.borrow().iter().filter_map(pushed).sum()
    }
}

pub(crate) fn listener(name: &str, port: u16, routes: &str) -> Vec<u8> {
    message::<Listener>(&format!(
        r#"
name: {name}
address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {name}
      rds: {{ route_config_name: {routes}, config_source: {{ ads: {{}}, resource_api_version: V3 }} }}
      http_filters:
      - name: router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#
    ))
}

pub(crate) fn route_direct(name: &str, body: &str) -> Vec<u8> {
    message::<RouteConfiguration>(&format!(
        r#"
name: {name}
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - match: {{ prefix: / }}
    direct_response: {{ status: 200, body: {{ inline_string: "{body}" }} }}
"#
    ))
}

pub(crate) fn route_to(name: &str, cluster: &str) -> Vec<u8> {
    message::<RouteConfiguration>(&format!(
        r#"
name: {name}
validate_clusters: false
virtual_hosts:
- name: all
  domains: ["*"]
  routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ]
"#
    ))
}

/// A cluster that gets its endpoints over ADS, and waits for them for ever, as Istio's do.
pub(crate) fn cluster(name: &str, connect_timeout: u32) -> Vec<u8> {
    message::<Cluster>(&format!(
        r#"
name: {name}
type: EDS
connect_timeout: {connect_timeout}s
eds_cluster_config:
  eds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}
"#
    ))
}

pub(crate) fn cluster_static(name: &str) -> Vec<u8> {
    message::<Cluster>(&format!(
        r#"
name: {name}
type: STATIC
load_assignment:
  cluster_name: {name}
  endpoints:
  - lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9 }} }} }} }} ]
"#
    ))
}

pub(crate) fn endpoints(name: &str, port: u16) -> Vec<u8> {
    message::<ClusterLoadAssignment>(&format!(
        r#"
cluster_name: {name}
endpoints:
- lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ]
"#
    ))
}
