//! What the serving end asks of its owner.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use malla_xds_proto::Any;
use malla_xds_proto::core::Node;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use super::facts::StreamFacts;
use super::stream::Event;
use crate::message::Variant;
use crate::resource::NodeResources;

/// A client that wants to be served.
#[derive(Debug)]
pub struct Hello {
    /// Unique within the server, for as long as it lives.
    pub connection: u64,
    pub node: Node,
    pub variant: Variant,
    /// Type of the first request: tells those who only ask ([`NodeHandle::answer`]) from nodes.
    pub first_type: String,
    pub since: SystemTime,
    /// What the stream has been sent and has answered, now and later.
    pub facts: Arc<ArcSwap<StreamFacts>>,
    /// Headers of the stream, among them `authorization`.
    pub metadata: MetadataMap,
    /// What the transport knows about the peer, such as its verified certificate.
    pub extensions: Extensions,
}

/// Says who may connect and what they get.
pub trait ResourceSource: Send + Sync + 'static {
    /// Authenticates the client by its headers and its connection, before a byte of its messages is
    /// read. What was found out can be left in the extensions; [`ResourceSource::connect`] gets them.
    ///
    /// # Errors
    /// The status that the client is sent: `Unauthenticated`, `Unavailable`.
    fn admit<'a>(
        &'a self,
        _metadata: &'a MetadataMap,
        _extensions: &'a mut Extensions,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Decides what an admitted client gets. Dropping the handle tells that the stream
    /// has ended, for whatever reason.
    ///
    /// # Errors
    /// The status that the client is sent: `PermissionDenied`, `Unavailable`.
    fn connect(&self, hello: Hello) -> BoxFuture<'_, Result<Box<dyn NodeHandle>, Status>>;
}

/// One connected node.
pub trait NodeHandle: Send + Sync {
    /// The node's resources, now and whenever they change. When the sender goes, the stream ends.
    fn resources(&self) -> watch::Receiver<Arc<dyn NodeResources>>;

    /// Something happened on the stream.
    fn event(&self, event: &Event);

    /// Answers a question: a type that is asked about once for each request and not subscribed to,
    /// such as Istio's `istio.io/debug/syncz`. `None` for all other types.
    fn answer(&self, type_url: &str, names: &[String]) -> Option<Result<Vec<Answer>, Status>> {
        let _ = (type_url, names);
        None
    }
}

/// One resource of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub name: String,
    /// Its type may be another than the one that was asked for.
    pub body: Any,
}
