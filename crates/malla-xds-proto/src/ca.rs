//! Istio's certificate service, `istio.v1.auth.IstioCertificateService/CreateCertificate`
//! (istio/api `security/v1alpha1/ca.proto`): messages, client and server in the shape tonic's code
//! generator gives them.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service, StdError, async_trait, http};
use tonic::server::{NamedService, UnaryService};
use tonic::{GrpcMethod, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::pb::google::protobuf::Struct;

/// The service's full name.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
const METHOD: &str = "CreateCertificate";
const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Asks for a certificate. Who asks is proved by the call's bearer token or client certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// PEM of a PKCS #10 request.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds; the server may grant less.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// `CertSigner`, and the identity a ztunnel asks for (`ImpersonatedIdentity`).
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The certificate: PEM, leaf first, root last.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct IstioCertificateResponse {
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// Calls the service over any gRPC transport.
#[derive(Debug, Clone)]
pub struct IstioCertificateServiceClient<T> {
    inner: tonic::client::Grpc<T>,
}

impl<T> IstioCertificateServiceClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    pub fn new(transport: T) -> Self {
        Self {
            inner: tonic::client::Grpc::new(transport),
        }
    }

    /// # Errors
    /// The server's status, or `UNKNOWN` when the transport is not ready.
    pub async fn create_certificate(
        &mut self,
        request: impl tonic::IntoRequest<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.inner.ready().await.map_err(|error| {
            Status::unknown(format!("{SERVICE} is not ready: {}", error.into()))
        })?;
        let mut request = request.into_request();
        request
            .extensions_mut()
            .insert(GrpcMethod::new(SERVICE, METHOD));
        let path = PathAndQuery::from_static(PATH);
        self.inner.unary(request, path, ProstCodec::default()).await
    }
}

/// What a server of the service does.
#[async_trait]
pub trait IstioCertificateService: Send + Sync + 'static {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status>;
}

/// Serves an [`IstioCertificateService`]; add it to tonic's router.
#[derive(Debug)]
pub struct IstioCertificateServiceServer<T> {
    inner: Arc<T>,
}

impl<T> IstioCertificateServiceServer<T> {
    pub fn new(inner: T) -> Self {
        Self::from_arc(Arc::new(inner))
    }

    pub const fn from_arc(inner: Arc<T>) -> Self {
        Self { inner }
    }
}

impl<T> Clone for IstioCertificateServiceServer<T> {
    fn clone(&self) -> Self {
        Self::from_arc(Arc::clone(&self.inner))
    }
}

impl<T> NamedService for IstioCertificateServiceServer<T> {
    const NAME: &'static str = SERVICE;
}

impl<T, B> Service<http::Request<B>> for IstioCertificateServiceServer<T>
where
    T: IstioCertificateService,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = CreateCertificate(Arc::clone(&self.inner));
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            Ok(tonic::server::Grpc::new(ProstCodec::default())
                .unary(method, request)
                .await)
        })
    }
}

struct CreateCertificate<T>(Arc<T>);

impl<T: IstioCertificateService> UnaryService<IstioCertificateRequest> for CreateCertificate<T> {
    type Response = IstioCertificateResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.create_certificate(request).await })
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Request, Response, Status, async_trait};

    use super::{
        IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
        IstioCertificateServiceClient, IstioCertificateServiceServer,
    };

    struct Echo;

    #[async_trait]
    impl IstioCertificateService for Echo {
        async fn create_certificate(
            &self,
            request: Request<IstioCertificateRequest>,
        ) -> Result<Response<IstioCertificateResponse>, Status> {
            let request = request.into_inner();
            if request.csr.is_empty() {
                return Err(Status::invalid_argument("no csr"));
            }
            Ok(Response::new(IstioCertificateResponse {
                cert_chain: vec![request.csr, request.validity_duration.to_string()],
            }))
        }
    }

    #[tokio::test]
    async fn client_and_server_understand_each_other() {
        // A tonic service is a transport, so no socket is needed.
        let mut client =
            IstioCertificateServiceClient::new(IstioCertificateServiceServer::new(Echo));
        let mut request = IstioCertificateRequest {
            csr: "pem".into(),
            validity_duration: 86_400,
            metadata: None,
        };
        let answer = client.create_certificate(request.clone()).await.unwrap();
        assert_eq!(answer.into_inner().cert_chain, ["pem", "86400"]);

        request.csr.clear();
        let refused = client.create_certificate(request).await.unwrap_err();
        assert_eq!(refused.message(), "no csr");
    }
}
