//! Secrets: certificates with keys, and validation contexts, by SDS name.

use std::sync::Arc;

use crate::checked::{Checked, Cx, Invalid};
use crate::pb::tls as pb;
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

impl Secret {
    /// Parses one secret.
    pub fn from_proto(wire: pb::Secret) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    pub(crate) fn parse(wire: pb::Secret, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::secret::Type;
        let pb::Secret { name, r#type } = wire;
        let kind = match cx.required("type", r#type)? {
            Type::TlsCertificate(certificate) => {
                let certificate = cx.field("tls_certificate", |cx| {
                    TlsCertificate::parse(certificate, cx)
                })?;
                SecretKind::Certificate(Arc::new(certificate))
            }
            Type::ValidationContext(context) => {
                let context = cx.field("validation_context", |cx| {
                    ValidationContext::parse(context, cx)
                })?;
                SecretKind::Validation(Arc::new(context))
            }
            Type::SessionTicketKeys(_) => {
                return Err(cx.invalid("session_ticket_keys", "not supported by this proxy"));
            }
            Type::GenericSecret(_) => {
                return Err(cx.invalid("generic_secret", "not supported by this proxy"));
            }
        };
        Ok(Self {
            name: name.into(),
            kind,
        })
    }
}
