//! The streams of one type each (CDS, EDS, LDS, RDS, SRDS, VHDS, SDS, ECDS, RTDS): the same messages, other methods.

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use malla_xds_proto::pb::envoy::service;
use malla_xds_proto::type_url;
use service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use service::extension::v3::extension_config_discovery_service_client::ExtensionConfigDiscoveryServiceClient;
use service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use service::route::v3::scoped_routes_discovery_service_client::ScopedRoutesDiscoveryServiceClient;
use service::runtime::v3::runtime_discovery_service_client::RuntimeDiscoveryServiceClient;
use service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::LinkError;
use super::grpc::MAX_RESPONSE;
use crate::message::ServerMessage;

type LinkStream = BoxStream<'static, Result<ServerMessage, LinkError>>;

/// Calls the method of the type's own service.
macro_rules! call {
    ($client:ident . $method:ident ($channel:expr, $request:expr)) => {{
        let mut client = $client::new($channel).max_decoding_message_size(MAX_RESPONSE);
        client.$method($request).await
    }};
}

fn unknown<T>(type_url: &str) -> Result<T, Status> {
    let text = format!("resources of type {type_url} have no service of their own; use ads");
    Err(Status::unimplemented(text))
}

/// State of the world.
pub(super) fn sotw(
    channel: Channel,
    type_url: String,
    request: Request<impl Stream<Item = DiscoveryRequest> + Send + 'static>,
) -> LinkStream {
    let call = async move {
        let answer: Result<Response<Streaming<DiscoveryResponse>>, Status> = match &*type_url {
            type_url::CLUSTER => {
                call!(ClusterDiscoveryServiceClient.stream_clusters(channel, request))
            }
            type_url::ENDPOINTS => {
                call!(EndpointDiscoveryServiceClient.stream_endpoints(channel, request))
            }
            type_url::LISTENER => {
                call!(ListenerDiscoveryServiceClient.stream_listeners(channel, request))
            }
            type_url::ROUTE => call!(RouteDiscoveryServiceClient.stream_routes(channel, request)),
            type_url::SCOPED_ROUTE => {
                call!(ScopedRoutesDiscoveryServiceClient.stream_scoped_routes(channel, request))
            }
            type_url::SECRET => {
                call!(SecretDiscoveryServiceClient.stream_secrets(channel, request))
            }
            type_url::EXTENSION_CONFIG => {
                call!(
                    ExtensionConfigDiscoveryServiceClient
                        .stream_extension_configs(channel, request)
                )
            }
            type_url::RUNTIME => {
                call!(RuntimeDiscoveryServiceClient.stream_runtime(channel, request))
            }
            other => unknown(other),
        };
        answer.map(Response::into_inner)
    };
    let responses = stream::once(call).try_flatten();
    responses
        .map(|answer| Ok(answer.map(ServerMessage::Sotw)?))
        .boxed()
}

/// Only differences.
pub(super) fn delta(
    channel: Channel,
    type_url: String,
    request: Request<impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static>,
) -> LinkStream {
    let call = async move {
        let answer: Result<Response<Streaming<DeltaDiscoveryResponse>>, Status> = match &*type_url {
            type_url::CLUSTER => {
                call!(ClusterDiscoveryServiceClient.delta_clusters(channel, request))
            }
            type_url::ENDPOINTS => {
                call!(EndpointDiscoveryServiceClient.delta_endpoints(channel, request))
            }
            type_url::LISTENER => {
                call!(ListenerDiscoveryServiceClient.delta_listeners(channel, request))
            }
            type_url::ROUTE => call!(RouteDiscoveryServiceClient.delta_routes(channel, request)),
            type_url::SCOPED_ROUTE => {
                call!(ScopedRoutesDiscoveryServiceClient.delta_scoped_routes(channel, request))
            }
            type_url::SECRET => {
                call!(SecretDiscoveryServiceClient.delta_secrets(channel, request))
            }
            type_url::EXTENSION_CONFIG => {
                call!(
                    ExtensionConfigDiscoveryServiceClient.delta_extension_configs(channel, request)
                )
            }
            type_url::RUNTIME => {
                call!(RuntimeDiscoveryServiceClient.delta_runtime(channel, request))
            }
            other => unknown(other),
        };
        answer.map(Response::into_inner)
    };
    let responses = stream::once(call).try_flatten();
    responses
        .map(|answer| Ok(answer.map(ServerMessage::Delta)?))
        .boxed()
}
