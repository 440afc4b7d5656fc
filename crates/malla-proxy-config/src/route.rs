//! Route configurations: from a host and a request to what happens with it.

use std::sync::Arc;

/// `envoy.config.route.v3.RouteConfiguration`, compiled.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Resource name.
    pub name: Arc<str>,
}
