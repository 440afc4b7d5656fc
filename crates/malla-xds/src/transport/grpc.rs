//! ADS over gRPC: the client's transport and the server's service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use malla_xds_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use malla_xds_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::framed::{Framed, Outgoing};
use super::{Link, LinkError, Transport, single};
use crate::message::{ClientMessage, ServerMessage, Variant};
use crate::server::{AdsServer, ResourceSource};

/// Largest response a client takes. One cluster is about 2 KiB, so this is a very large mesh.
pub(super) const MAX_RESPONSE: usize = 256 << 20;

/// Largest request a server takes: after a reconnect it lists every resource the client holds, some
/// hundred bytes for each. istiod takes as much.
const MAX_REQUEST: usize = 4 << 20;

/// PINGs, also while idle: a server that vanished without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives gRPC channels: the one thing that differs between TLS, plain text and Unix sockets.
pub trait Connector: Send + Sync {
    /// A new connection.
    fn channel(&self) -> BoxFuture<'_, Result<Channel, LinkError>>;

    /// Headers of a new stream, such as `authorization`.
    fn metadata(&self) -> BoxFuture<'_, Result<MetadataMap, LinkError>> {
        Box::pin(std::future::ready(Ok(MetadataMap::new())))
    }
}

/// A plain-text server at `HOST:PORT`.
#[derive(Debug, Clone)]
pub struct PlainConnector(pub String);

impl Connector for PlainConnector {
    fn channel(&self) -> BoxFuture<'_, Result<Channel, LinkError>> {
        Box::pin(async {
            let refuse = |error: tonic::transport::Error| {
                LinkError::Connect(format!(
                    "cannot connect to {}: {}",
                    self.0,
                    innermost(&error)
                ))
            };
            let endpoint = Endpoint::from_shared(format!("http://{}", self.0)).map_err(refuse)?;
            let endpoint = kept_alive(endpoint.connect_timeout(CONNECT_TIMEOUT));
            endpoint.connect().await.map_err(refuse)
        })
    }
}

/// A plain-text server at a Unix socket.
#[derive(Debug, Clone)]
pub struct UnixConnector(pub PathBuf);

impl Connector for UnixConnector {
    fn channel(&self) -> BoxFuture<'_, Result<Channel, LinkError>> {
        Box::pin(async {
            let path = self.0.clone();
            let connector = tower::service_fn(move |_: tonic::transport::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://localhost");
            let connected = endpoint.connect_with_connector(connector).await;
            connected.map_err(|error| {
                let reason = innermost(&error);
                LinkError::Connect(format!("cannot connect to {}: {reason}", self.0.display()))
            })
        })
    }
}

/// A server that vanishes without a word is noticed.
pub(super) fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true)
}

pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// xDS over the channels of a connector: the aggregated stream, or that of one type.
pub struct GrpcTransport {
    connector: Arc<dyn Connector>,
    single: Option<String>,
}

impl std::fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcTransport").finish_non_exhaustive()
    }
}

impl GrpcTransport {
    #[must_use]
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self {
            connector,
            single: None,
        }
    }

    /// The stream of this type alone, by the type's own service.
    #[must_use]
    pub fn of_type(connector: Arc<dyn Connector>, type_url: impl Into<String>) -> Self {
        Self {
            connector,
            single: Some(type_url.into()),
        }
    }
}

impl Transport for GrpcTransport {
    fn open(&self, variant: Variant) -> BoxFuture<'_, Result<Link, LinkError>> {
        Box::pin(async move {
            let metadata = self.connector.metadata().await?;
            let channel = self.connector.channel().await?;
            let (requests, receiver) = mpsc::unbounded_channel();
            let sent = UnboundedReceiverStream::new(receiver);
            let single = self.single.clone();
            let responses = match variant {
                Variant::Delta => delta_stream(channel, single, sent, metadata),
                Variant::Sotw => sotw_stream(channel, single, sent, metadata),
            };
            Ok(Link {
                requests,
                responses,
            })
        })
    }
}

type LinkStream = BoxStream<'static, Result<ServerMessage, LinkError>>;

fn with_metadata<T>(message: T, metadata: MetadataMap) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata;
    request
}

fn aggregated(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE)
}

fn delta_stream(
    channel: Channel,
    single: Option<String>,
    sent: impl Stream<Item = ClientMessage> + Send + 'static,
    metadata: MetadataMap,
) -> LinkStream {
    let sent = sent.filter_map(|message| async {
        match message {
            ClientMessage::Delta(request) => Some(*request),
            ClientMessage::Sotw(_) => None,
        }
    });
    let request = with_metadata(sent, metadata);
    if let Some(type_url) = single {
        return single::delta(channel, type_url, request);
    }
    let call = async move {
        let mut client = aggregated(channel);
        let answer = client.delta_aggregated_resources(request);
        answer.await.map(Response::into_inner)
    };
    let responses = stream::once(call).try_flatten();
    let mapped = responses.map(|answer| Ok(answer.map(ServerMessage::Delta)?));
    mapped.boxed()
}

fn sotw_stream(
    channel: Channel,
    single: Option<String>,
    sent: impl Stream<Item = ClientMessage> + Send + 'static,
    metadata: MetadataMap,
) -> LinkStream {
    let sent = sent.filter_map(|message| async {
        match message {
            ClientMessage::Sotw(request) => Some(*request),
            ClientMessage::Delta(_) => None,
        }
    });
    let request = with_metadata(sent, metadata);
    if let Some(type_url) = single {
        return single::sotw(channel, type_url, request);
    }
    let call = async move {
        let mut client = aggregated(channel);
        let answer = client.stream_aggregated_resources(request);
        answer.await.map(Response::into_inner)
    };
    let responses = stream::once(call).try_flatten();
    let mapped = responses.map(|answer| Ok(answer.map(ServerMessage::Sotw)?));
    mapped.boxed()
}

/// The gRPC service of a server; add it to tonic's router.
pub fn service<S: ResourceSource>(
    server: AdsServer<S>,
) -> Framed<AggregatedDiscoveryServiceServer<AdsService<S>>> {
    let service = AggregatedDiscoveryServiceServer::new(AdsService { server });
    Framed(service.max_decoding_message_size(MAX_REQUEST))
}

/// Envoy's `AggregatedDiscoveryService` over an [`AdsServer`].
#[derive(Debug)]
pub struct AdsService<S> {
    server: AdsServer<S>,
}

impl<S: ResourceSource> AdsService<S> {
    /// Opens a stream. Its responses are not the answer's own: [`Framed`] sends them.
    fn open<T: Send + 'static, M>(
        &self,
        variant: Variant,
        request: Request<Streaming<T>>,
        wrap: fn(T) -> ClientMessage,
    ) -> Response<Nothing<M>> {
        let (metadata, extensions, incoming) = request.into_parts();
        let incoming = incoming.map(move |message| message.map(wrap)).boxed();
        let responses = self.server.open(variant, incoming, metadata, extensions);
        let mut answer = Response::new(stream::empty());
        answer.extensions_mut().insert(Outgoing::new(responses));
        answer
    }
}

/// What is left for tonic to send.
type Nothing<M> = stream::Empty<Result<M, Status>>;

#[tonic::async_trait]
impl<S: ResourceSource> AggregatedDiscoveryService for AdsService<S> {
    type StreamAggregatedResourcesStream = Nothing<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Nothing<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.open(Variant::Sotw, request, |message| {
            ClientMessage::Sotw(Box::new(message))
        }))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.open(Variant::Delta, request, |message| {
            ClientMessage::Delta(Box::new(message))
        }))
    }
}
