//! Client and server in one process: the messages travel as values, nothing is encoded.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Extensions;
use tonic::metadata::MetadataMap;

use super::{Link, LinkError, Transport};
use crate::message::Variant;
use crate::server::{AdsServer, ResourceSource};

/// Reaches a server in the same process.
#[derive(Debug)]
pub struct MemoryTransport<S> {
    server: AdsServer<S>,
    /// What the server is told about the peer, in place of a verified certificate.
    extensions: Extensions,
}

impl<S: ResourceSource> MemoryTransport<S> {
    #[must_use]
    pub fn new(server: AdsServer<S>, extensions: Extensions) -> Self {
        Self { server, extensions }
    }
}

impl<S: ResourceSource> Transport for MemoryTransport<S> {
    fn open(&self, variant: Variant) -> BoxFuture<'_, Result<Link, LinkError>> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let incoming = UnboundedReceiverStream::new(receiver).map(Ok).boxed();
        let responses = self.server.open(
            variant,
            incoming,
            MetadataMap::new(),
            self.extensions.clone(),
        );
        let link = Link {
            requests,
            responses: responses
                .map(|message| message.map_err(LinkError::from))
                .boxed(),
        };
        Box::pin(std::future::ready(Ok(link)))
    }
}
