//! What proxies are given of the cluster's Secrets: certificates with their keys, and trust anchors.
//!
//! Invariant: a proxy is only ever given what its own namespace has, and key pairs only if its
//! service account may list the Secrets there; or what a server it carries has been granted.

use malla_model::secret::{KeyPair, NoSecret, TrustAnchors};
use malla_xds_proto::core::DataSource;
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::tls::secret::Type;
use malla_xds_proto::tls::{CertificateValidationContext, Secret, TlsCertificate};

use crate::names::{ANCHORS_SUFFIX, GRANTED_SECRET, OWN_SECRET};
use crate::resource::Resource;
use crate::view::View;

/// The secret of that resource name (`kubernetes://NAMESPACE/NAME`, with `-cacert` at its end for
/// trust anchors, or `kubernetes-gateway://NAMESPACE/NAME`), as the node may have it. `None` for other
/// names.
pub(crate) fn secret(view: &View<'_>, name: &str) -> Option<Result<Resource, NoSecret>> {
    let (mesh, node) = (view.mesh, view.node);
    if let Some(granted) = name.strip_prefix(GRANTED_SECRET) {
        return Some(granted_secret(view, granted).map(|content| resource(name, content)));
    }
    let (namespace, object) = name.strip_prefix(OWN_SECRET)?.split_once('/')?;
    if *namespace != *node.namespace {
        return Some(Err(NoSecret::Forbidden {
            namespace: namespace.into(),
            account: node.service_account.clone(),
        }));
    }
    let content = match object.strip_suffix(ANCHORS_SUFFIX) {
        Some(object) => mesh.secrets.anchors(namespace, object).map(validation),
        None => mesh.secrets.key_pair(namespace, object).and_then(|pair| {
            mesh.secrets.may_read(namespace, &node.service_account)?;
            Ok(certificate(pair))
        }),
    };
    Some(content.map(|content| resource(name, content)))
}

/// A key pair that one of the node's gateways has been granted.
fn granted_secret(view: &View<'_>, name: &str) -> Result<Type, NoSecret> {
    let (namespace, object) = name.split_once('/').unwrap_or(("", name));
    let gateways = view.gateways();
    let mut servers = gateways.iter().flat_map(|gateway| &gateway.servers);
    let granted = servers.any(|server| {
        let mut secrets = server.tls.iter().flat_map(|tls| &tls.granted);
        secrets.any(|secret| (&*secret.namespace, &*secret.name) == (namespace, object))
    });
    if !granted {
        return Err(NoSecret::Forbidden {
            namespace: namespace.into(),
            account: view.node.service_account.clone(),
        });
    }
    view.mesh
        .secrets
        .key_pair(namespace, object)
        .map(certificate)
}

fn resource(name: &str, content: Type) -> Resource {
    let secret = Secret {
        name: name.into(),
        r#type: Some(content),
    };
    Resource::new(name, &secret)
}

fn certificate(pair: &KeyPair) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(&pair.chain)),
        private_key: Some(inline(&pair.key)),
        ocsp_staple: pair.staple.as_deref().map(inline),
        ..TlsCertificate::default()
    })
}

fn validation(anchors: &TrustAnchors) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(&anchors.roots)),
        crl: anchors.revoked.as_deref().map(inline),
        ..CertificateValidationContext::default()
    })
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    }
}
