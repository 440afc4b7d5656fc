//! Secrets: certificates with keys, and validation contexts, by SDS name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::checked::{Checked, Cx, Invalid};
use crate::pb::tls as pb;
use crate::runtime::Values;
use crate::tls::parse::ticket_keys;
use crate::tls::{DataSource, TlsCertificate, ValidationContext};

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
    /// Keys of session tickets, 80 bytes each.
    TicketKeys(Arc<[DataSource]>),
    /// Whatever else is secret, such as an OAuth2 client's.
    Generic(Arc<GenericSecret>),
}

/// `envoy.extensions.transport_sockets.tls.v3.GenericSecret`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenericSecret {
    /// The one secret.
    pub secret: Option<DataSource>,
    /// Several, by name.
    pub secrets: BTreeMap<String, DataSource>,
}

impl Secret {
    /// Parses one secret.
    pub fn from_proto(wire: pb::Secret) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    /// As [`Self::from_proto`], with runtime values.
    pub fn from_proto_with(
        wire: pb::Secret,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
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
            Type::SessionTicketKeys(keys) => {
                SecretKind::TicketKeys(cx.field("session_ticket_keys", |cx| ticket_keys(keys, cx))?)
            }
            Type::GenericSecret(generic) => {
                let generic = cx.field("generic_secret", |cx| GenericSecret::parse(generic, cx))?;
                SecretKind::Generic(Arc::new(generic))
            }
        };
        Ok(Self {
            name: name.into(),
            kind,
        })
    }
}

impl Secret {
    /// The files it is made of, and the directory whose changes mean that they were replaced.
    pub fn files(&self) -> (Vec<Arc<Path>>, Option<Arc<Path>>) {
        let (sources, directory): (Vec<&DataSource>, _) = match &self.kind {
            SecretKind::Certificate(pair) => {
                (vec![&pair.chain, &pair.key], pair.watched_directory.clone())
            }
            SecretKind::Validation(context) => {
                let sources = context.trusted_ca.iter().chain(&context.crl);
                (sources.collect(), context.watched_directory.clone())
            }
            SecretKind::TicketKeys(keys) => (keys.iter().collect(), None),
            SecretKind::Generic(generic) => {
                let sources = generic.secret.iter().chain(generic.secrets.values());
                (sources.collect(), None)
            }
        };
        let files = sources.into_iter().filter_map(|source| match source {
            DataSource::File(path) => Some(Arc::clone(path)),
            DataSource::Loaded { path, .. } => Some(Arc::clone(path)),
            DataSource::Inline(_) | DataSource::Env(_) => None,
        });
        (files.collect(), directory)
    }
}

impl GenericSecret {
    fn parse(wire: pb::GenericSecret, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::GenericSecret { secret, secrets } = wire;
        let secret = secret
            .map(|wire| cx.field("secret", |cx| DataSource::parse(wire, cx)))
            .transpose()?;
        let mut named = BTreeMap::new();
        for (name, wire) in secrets {
            let source = cx.field(&format!("secrets[{name}]"), |cx| {
                DataSource::parse(wire, cx)
            })?;
            named.insert(name, source);
        }
        Ok(Self {
            secret,
            secrets: named,
        })
    }
}
