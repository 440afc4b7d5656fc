//! Role-based access control rules.

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Debug, Clone)]
pub struct Rbac {}
