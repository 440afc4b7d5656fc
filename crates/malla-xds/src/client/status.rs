//! What is known about the client's stream, for readiness and debug endpoints.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::resource::{Name, TypeUrl};

/// The client at one moment.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The server has answered on the current stream.
    pub connected: bool,
    /// Streams that the server has answered on, ever.
    pub connections: u64,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
    pub types: BTreeMap<TypeUrl, TypeStatus>,
}

impl Status {
    /// Whether at least one response of the type has been applied.
    #[must_use]
    pub fn has_received(&self, type_url: &str) -> bool {
        self.types
            .get(type_url)
            .is_some_and(|known| known.updates > 0)
    }
}

/// One type.
#[derive(Debug, Clone, Default)]
pub struct TypeStatus {
    /// Resources held.
    pub resources: usize,
    /// Responses, and those of them in which something was rejected.
    pub updates: u64,
    pub rejected_updates: u64,
    /// The server's version of the last response that was accepted as a whole.
    pub version: String,
    pub last_update: Option<Instant>,
    /// What is not taken, and why, until another version is or the resource is gone. (An earlier
    /// version may be in use meanwhile.)
    pub rejected: BTreeMap<Name, String>,
}
