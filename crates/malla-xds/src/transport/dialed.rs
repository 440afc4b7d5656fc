//! gRPC over connections that somebody else opens, such as a proxy through one of its clusters.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Uri};

use super::LinkError;
use super::grpc::{Connector, innermost, kept_alive};

/// A connection, encrypted or not.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens connections to one server.
pub trait Dialer: Send + Sync {
    /// A new connection that speaks HTTP/2.
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>, String>>;

    /// `:authority`.
    fn authority(&self) -> &str;

    /// What is sent at the start of each stream.
    fn headers(&self) -> http::HeaderMap;
}

/// A [`Connector`] over a [`Dialer`].
pub struct DialedConnector(pub Arc<dyn Dialer>);

impl std::fmt::Debug for DialedConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialedConnector").finish_non_exhaustive()
    }
}

impl Connector for DialedConnector {
    fn channel(&self) -> BoxFuture<'_, Result<Channel, LinkError>> {
        Box::pin(async {
            let stream = self.0.dial().await.map_err(LinkError::Connect)?;
            let refuse = |error: tonic::transport::Error| LinkError::Connect(innermost(&error));
            let mut once = Some(stream);
            // A channel that loses its connection is not mended: its owner opens another one.
            let connector = tower::service_fn(move |_: Uri| {
                let stream = once.take();
                async move {
                    stream
                        .map(TokioIo::new)
                        .ok_or_else(|| io::Error::other("the connection has ended"))
                }
            });
            let origin = format!("http://{}", self.0.authority());
            let endpoint = kept_alive(Endpoint::from_shared(origin).map_err(refuse)?);
            endpoint
                .connect_with_connector(connector)
                .await
                .map_err(refuse)
        })
    }

    fn metadata(&self) -> BoxFuture<'_, Result<MetadataMap, LinkError>> {
        let headers = MetadataMap::from_headers(self.0.headers());
        Box::pin(std::future::ready(Ok(headers)))
    }
}
