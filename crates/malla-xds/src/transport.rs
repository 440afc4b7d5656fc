//! How the two ends reach each other: over gRPC, or in memory.
//!
//! A transport opens [`Link`]s. Whether a link works shows when its first response arrives; until
//! then requests can be sent all the same (a gRPC server may send nothing, not even headers, before
//! it has an answer).

pub mod dialed;
mod framed;
pub mod grpc;
pub mod memory;
mod single;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::message::{ClientMessage, ServerMessage, Variant};

/// One stream, seen from the client. Dropping it ends the stream.
pub struct Link {
    /// Unbounded, because the state machine bounds it: one request per response, and one per change
    /// of subscriptions.
    pub requests: mpsc::UnboundedSender<ClientMessage>,
    pub responses: BoxStream<'static, Result<ServerMessage, LinkError>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Why a stream could not be opened, or ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Connect(String),
    #[error("the server ended the stream: {:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Opens links.
pub trait Transport: Send + Sync {
    fn open(&self, variant: Variant) -> BoxFuture<'_, Result<Link, LinkError>>;
}
