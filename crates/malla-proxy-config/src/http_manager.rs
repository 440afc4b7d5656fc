//! The HTTP connection manager.

use std::sync::Arc;

/// `HttpConnectionManager`.
#[derive(Debug, Clone)]
pub struct HttpManager {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
}
