//! The workload's own credential, which this process fetches itself, as the secrets that TLS contexts name.
use std::sync::Arc;

use bytes::Bytes;
use malla_proxy_config::secret::{Secret, SecretKind};
use malla_proxy_config::tls::{DataSource, TlsCertificate, ValidationContext};
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::{core, tls as tls_pb, type_url};
use prost::Message as _;

use super::WORKLOAD_SECRETS;
use crate::inventory::Inventory;
use crate::live::Live;

/// Puts this process's own credential and roots (PEM) where TLS contexts find them.
pub fn own_identity(live: &Live, inventory: &Inventory, chain: Bytes, key: Bytes, roots: Bytes) {
    let [own, trusted] = WORKLOAD_SECRETS;
    show_identity(inventory, &chain, &roots);
    let certificate = TlsCertificate {
        chain: DataSource::Inline(chain),
        key: DataSource::Inline(key),
        watched_directory: None,
    };
    let context = ValidationContext {
        trusted_ca: Some(DataSource::Inline(roots)),
        ..ValidationContext::default()
    };
    live.update_now(|draft| {
        draft.put_secret(Secret {
            name: own.into(),
            kind: SecretKind::Certificate(Arc::new(certificate)),
        });
        draft.put_secret(Secret {
            name: trusted.into(),
            kind: SecretKind::Validation(Arc::new(context)),
        });
    });
}

/// Notes the own secrets as if they had come over SDS, for whoever looks at the configuration. The key is not kept.
fn show_identity(inventory: &Inventory, chain: &Bytes, roots: &Bytes) {
    use tls_pb::secret::Type;
    let inline = |bytes: &Bytes| {
        let specifier = Some(Specifier::InlineBytes(bytes.to_vec()));
        Some(core::DataSource {
            specifier,
            ..core::DataSource::default()
        })
    };
    let [own, trusted] = WORKLOAD_SECRETS;
    let certificate = Type::TlsCertificate(tls_pb::TlsCertificate {
        certificate_chain: inline(chain),
        private_key: inline(&Bytes::from_static(b"[redacted]")),
        ..tls_pb::TlsCertificate::default()
    });
    let context = Type::ValidationContext(tls_pb::CertificateValidationContext {
        trusted_ca: inline(roots),
        ..tls_pb::CertificateValidationContext::default()
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let version: Arc<str> = now.unwrap_or_default().as_secs().to_string().into();
    for (name, kind) in [(own, certificate), (trusted, context)] {
        let secret = tls_pb::Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        };
        let body = Bytes::from(secret.encode_to_vec());
        inventory.accept(type_url::SECRET, &name.into(), &version, body, false);
    }
}
