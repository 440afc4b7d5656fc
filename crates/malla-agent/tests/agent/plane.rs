//! A control plane of a few lines: an authority that knows one token, and xDS for whoever shows a
//! certificate.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use malla_identity::authority::{Authority, Lifetimes};
use malla_identity::bundle::TrustBundle;
use malla_identity::ca_server::{Authenticate, CaServer, Caller, Denied, RateLimit};
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::{AcceptLimits, PeerInfo, incoming};
use malla_identity::tls::{ClientAuth, ServerOptions, server_config};
use malla_model::SpiffeId;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use malla_xds::server::{self, AdsServer, Event, Hello, NodeHandle, ResourceSource};
use malla_xds::{NodeResources, ResourceMap, ResourceSet, transport};
use malla_xds_proto::ca::IstioCertificateServiceServer;
use malla_xds_proto::listener::Listener;
use malla_xds_proto::type_url::{CLUSTER, LISTENER};
use malla_xds_proto::{any, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tracing::Span;

use crate::pod::{IDENTITY, Pod, TOKEN};

struct OneToken;

impl Authenticate for OneToken {
    fn authenticate<'a>(&'a self, caller: Caller<'a>) -> BoxFuture<'a, Result<SpiffeId, Denied>> {
        let known = caller.token == Some(TOKEN);
        Box::pin(async move {
            if known {
                Ok(IDENTITY.parse().unwrap())
            } else {
                Err(Denied::NoProof)
            }
        })
    }
}

struct Source {
    resources: watch::Receiver<Arc<dyn NodeResources>>,
    connected: Arc<Mutex<Vec<SpiffeId>>>,
}

struct Handle(watch::Receiver<Arc<dyn NodeResources>>);

impl ResourceSource for Source {
    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        let peer = hello
            .extensions
            .get::<PeerInfo>()
            .and_then(PeerInfo::identity)
            .cloned();
        assert_eq!(
            hello.node.id,
            "sidecar~127.0.0.1~cart-1.base~base.svc.cluster.local"
        );
        let handle = Handle(self.resources.clone());
        Box::pin(async move {
            let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
            self.connected.lock().unwrap().push(peer);
            Ok(Box::new(handle) as Box<dyn NodeHandle>)
        })
    }
}

impl NodeHandle for Handle {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.0.clone()
    }

    fn event(&self, event: &Event) {
        assert!(!matches!(event, Event::Nacked { .. }), "{event:?}");
    }
}

pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<ArcSwap<Authority>>,
    server: AdsServer<Source>,
    publish: watch::Sender<Arc<dyn NodeResources>>,
    connected: Arc<Mutex<Vec<SpiffeId>>>,
    _serving: AbortOnDrop<()>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        let provider = malla_identity::default_provider();
        let now = SystemTime::now();
        let authority = Authority::self_signed("cluster.local", now).unwrap();
        let day = Duration::from_secs(86_400);
        let own = authority
            .issue_server(&["localhost"], None, day, now, &provider)
            .unwrap();
        let bundle = TrustBundle::new(authority.roots().to_vec()).unwrap();
        let source = CertSource::fixed(Some(Arc::new(own)), bundle);
        let options = ServerOptions::new(ClientAuth::Optional, &[b"h2"]);
        let config = Arc::new(server_config(&source, options, &provider).unwrap());
        let authority = Arc::new(ArcSwap::from_pointee(authority));
        let ca = CaServer::new(
            authority.clone(),
            OneToken,
            Lifetimes::default(),
            RateLimit::default(),
        );

        let empty: Arc<dyn NodeResources> = Arc::new(ResourceSet::new("empty"));
        let publish = watch::Sender::new(empty);
        let connected = Arc::default();
        let source = Source {
            resources: publish.subscribe(),
            connected: Arc::clone(&connected),
        };
        let server = AdsServer::new(source, server::ServerOptions::new(DrainWatch::never()));
        let ads = transport::grpc::service(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = AbortOnDrop::spawn(Span::none(), async move {
            tonic::transport::Server::builder()
                .add_service(ads)
                .add_service(IstioCertificateServiceServer::new(ca))
                .serve_with_incoming(incoming(listener, Some(config), AcceptLimits::default()))
                .await
                .unwrap();
        });
        Self {
            address,
            authority,
            server,
            publish,
            connected,
            _serving: serving,
        }
    }

    /// Gives the pod a listener that speaks mutual TLS.
    pub(crate) fn serve(&self, pod: &Pod) {
        let mut set = ResourceSet::new("v1");
        set.set(CLUSTER, ResourceMap::new());
        set.put(LISTENER, "inbound", listener(pod.inbound));
        self.publish.send_replace(Arc::new(set));
    }

    pub(crate) fn who_connected(&self) -> Vec<SpiffeId> {
        self.connected.lock().unwrap().clone()
    }

    pub(crate) fn disconnect_all(&self) {
        for connection in self.server.connections() {
            assert!(self.server.disconnect(connection.id));
        }
    }
}

fn listener(port: u16) -> Vec<u8> {
    let sds = r#"{ resource_api_version: V3, api_config_source: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: sds-grpc } } ] } }"#;
    let yaml = format!(
        r#"
name: inbound
address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
filter_chains:
- transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        tls_certificate_sds_secret_configs: [ {{ name: default, sds_config: {sds} }} ]
        validation_context_sds_secret_config: {{ name: ROOTCA, sds_config: {sds} }}
  filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: inbound_http
      route_config:
        virtual_hosts:
        - name: all
          domains: ["*"]
          routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: over mutual TLS }} }} }} ]
      http_filters:
      - name: router
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    );
    any::encode(&json::from_yaml::<Listener>(&yaml).unwrap())
}
