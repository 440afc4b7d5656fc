//! Secrets for Envoy (SDS) from a certificate source: `default` is the workload's certificate and
//! key, `ROOTCA` the roots it trusts. A renewed certificate is pushed; Envoy swaps it in place.
//!
//! Secrets are resources like others, so the protocol is `malla-xds`'s; only the gRPC service has
//! another name than ADS.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use malla_identity::source::CertSource;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;
use malla_xds::server::{AdsServer, Event, Hello, NodeHandle, ResourceSource, ServerOptions};
use malla_xds::{ClientMessage, NodeResources, ResourceMap, ResourceSet, ServerMessage, Variant};
use malla_xds_proto::any;
use malla_xds_proto::core::DataSource;
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use malla_xds_proto::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use malla_xds_proto::tls::secret::Type;
use malla_xds_proto::tls::{CertificateValidationContext, Secret, TlsCertificate};
use malla_xds_proto::type_url::SECRET;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

/// Istio's name for the workload's certificate.
pub const WORKLOAD: &str = "default";
/// Istio's name for the roots.
pub const ROOTS: &str = "ROOTCA";

/// Serves the secrets of one source.
#[derive(Debug)]
pub struct SdsService {
    server: AdsServer<Secrets>,
    _following: AbortOnDrop<()>,
}

/// What every connection gets.
struct Secrets {
    resources: watch::Receiver<Arc<dyn NodeResources>>,
}

struct Connected {
    resources: watch::Receiver<Arc<dyn NodeResources>>,
}

impl ResourceSource for Secrets {
    // Who may connect is decided by the permissions of the socket.
    fn connect(&self, _: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>> {
        let connected = Connected {
            resources: self.resources.clone(),
        };
        Box::pin(async move { Ok(Box::new(connected) as Box<dyn NodeHandle>) })
    }
}

impl NodeHandle for Connected {
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>> {
        self.resources.clone()
    }

    fn event(&self, event: &Event) {
        match event {
            Event::Nacked { names, message, .. } => {
                tracing::warn!(?names, message, "the proxy refuses its secrets");
            }
            Event::Acked { .. } => tracing::debug!("the proxy has its secrets"),
            _ => {}
        }
    }
}

impl SdsService {
    /// Starts following `source`. Add the result to tonic's router.
    #[must_use]
    pub fn start(source: CertSource, drain: DrainWatch) -> SecretDiscoveryServiceServer<Self> {
        let publish = watch::Sender::new(secrets(&source));
        let server = AdsServer::new(
            Secrets {
                resources: publish.subscribe(),
            },
            ServerOptions::new(drain),
        );
        let following = AbortOnDrop::spawn(Span::current(), async move {
            let mut changes = source.changes();
            loop {
                changes.mark_unchanged();
                publish.send_replace(secrets(&source));
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        SecretDiscoveryServiceServer::new(Self {
            server,
            _following: following,
        })
    }

    fn open<T: Send + 'static>(
        &self,
        variant: Variant,
        request: Request<Streaming<T>>,
        wrap: fn(T) -> ClientMessage,
    ) -> BoxStream<'static, Result<ServerMessage, Status>> {
        let (metadata, extensions, incoming) = request.into_parts();
        let incoming = incoming.map(move |message| message.map(wrap)).boxed();
        self.server
            .open(variant, incoming, metadata, extensions)
            .boxed()
    }
}

/// What there is now. A secret that is not there yet is left out: Envoy waits for it.
fn secrets(source: &CertSource) -> Arc<dyn NodeResources> {
    let mut set = ResourceSet::new("");
    set.set(SECRET, ResourceMap::new());
    if let Some(credential) = source.credential() {
        let certificate = TlsCertificate {
            certificate_chain: Some(inline(credential.chain_pem())),
            private_key: Some(inline(credential.key_pem())),
            ..TlsCertificate::default()
        };
        let secret = secret(WORKLOAD, Type::TlsCertificate(certificate));
        set.put(SECRET, WORKLOAD, any::encode(&secret));
    }
    let bundle = source.bundle();
    if !bundle.is_empty() {
        let context = CertificateValidationContext {
            trusted_ca: Some(inline(bundle.roots_pem())),
            ..CertificateValidationContext::default()
        };
        let secret = secret(ROOTS, Type::ValidationContext(context));
        set.put(SECRET, ROOTS, any::encode(&secret));
    }
    Arc::new(set)
}

fn secret(name: &str, content: Type) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(content),
    }
}

fn inline(text: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..DataSource::default()
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SdsService {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let responses = self.open(Variant::Delta, request, |message| {
            ClientMessage::Delta(Box::new(message))
        });
        let unwrapped = responses.filter_map(|message| async {
            match message {
                Ok(ServerMessage::Delta(response)) => Some(Ok(response)),
                Ok(ServerMessage::Sotw(_)) => None, // A stream has one variant.
                Err(status) => Some(Err(status)),
            }
        });
        Ok(Response::new(unwrapped.boxed()))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let responses = self.open(Variant::Sotw, request, |message| {
            ClientMessage::Sotw(Box::new(message))
        });
        let unwrapped = responses.filter_map(|message| async {
            match message {
                Ok(ServerMessage::Sotw(response)) => Some(Ok(response)),
                Ok(ServerMessage::Delta(_)) => None, // A stream has one variant.
                Err(status) => Some(Err(status)),
            }
        });
        Ok(Response::new(unwrapped.boxed()))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented(
            "secrets are streamed (expected StreamSecrets or DeltaSecrets)",
        ))
    }
}
