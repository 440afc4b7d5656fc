//! What is known about each stream, for `proxy-status` and the debug endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use malla_xds_proto::core::Node;
use tokio::time::Instant;

use crate::message::Variant;
use crate::resource::{Name, TypeUrl, Version};

/// One connection.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    pub id: u64,
    pub node: Arc<Node>,
    pub variant: Variant,
    pub since: SystemTime,
    pub stream: Arc<StreamFacts>,
}

/// One stream's subscriptions.
#[derive(Debug, Clone, Default)]
pub struct StreamFacts {
    /// [`crate::NodeResources::version`] of what is being served.
    pub version: String,
    /// Everything of `version` has been sent and answered.
    pub settled: bool,
    pub types: BTreeMap<TypeUrl, TypeFacts>,
}

/// One type of one stream.
#[derive(Debug, Clone, Default)]
pub struct TypeFacts {
    pub wildcard: bool,
    /// Names subscribed to one by one.
    pub names: usize,
    /// Resources the client holds, as far as we know.
    pub held: usize,
    pub nonce_sent: Option<String>,
    pub nonce_acked: Option<String>,
    /// [`crate::NodeResources::version`] at the last push.
    pub version_sent: Option<Version>,
    pub version_acked: Option<Version>,
    pub sent_at: Option<Instant>,
    pub answered_at: Option<Instant>,
    pub pushes: u64,
    pub rejects: u64,
    /// What the client does not take, and its reason, until it takes another version or the
    /// resource is gone.
    pub rejected: BTreeMap<Name, String>,
}

impl TypeFacts {
    /// Whether the last push has not been answered yet.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.sent_at.is_some() && self.answered_at < self.sent_at
    }
}
