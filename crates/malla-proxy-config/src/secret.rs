//! Secrets: certificates with keys, and validation contexts, by SDS name.

use std::sync::Arc;

use crate::tls::{TlsCertificate, ValidationContext};

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// SDS resource name, `default` and `ROOTCA` in the mesh.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: SecretKind,
}

/// The kinds the proxy uses.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretKind {
    /// A certificate chain and its key.
    Certificate(Arc<TlsCertificate>),
    /// Trust anchors and name checks.
    Validation(Arc<ValidationContext>),
}
