//! Access logs: where records go and what they look like.

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Clone)]
pub struct AccessLog {}
