//! TLS that ends at a gateway.

use malla_model::Mesh;
use malla_model::gateway::{SecretRef, ServerTls, ServerTlsMode, TlsVersion};
use malla_xds_proto::tls::common_tls_context::ValidationContextType;
use malla_xds_proto::tls::{CertificateValidationContext, CommonTlsContext, DownstreamTlsContext};
use malla_xds_proto::wkt;

use super::{
    Served, any_san, certificate_files, combined, delivered, in_file, mesh_server,
    protocol_versions,
};
use crate::names::{ANCHORS_SUFFIX, GRANTED_SECRET, OWN_SECRET};

/// What a gateway's server presents and asks for. `None` where it does not terminate TLS, or where
/// it would with a secret of a namespace that is not `namespace`, the gateway pod's: a Gateway may be
/// written by people who may not read that secret.
pub(crate) fn gateway_server(
    mesh: &Mesh,
    tls: &ServerTls,
    namespace: &str,
    http: bool,
) -> Option<DownstreamTlsContext> {
    match tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
        ServerTlsMode::IstioMutual => {
            let within = if http { Served::Http } else { Served::Bytes };
            return Some(mesh_server(mesh, within));
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
    }
    let asks = tls.mode != ServerTlsMode::Simple;
    let mut params = protocol_versions(
        Some(tls.min_version.unwrap_or(TlsVersion::V1_2)),
        tls.max_version,
    );
    params.cipher_suites = tls.cipher_suites.iter().map(ToString::to_string).collect();
    let mut common = CommonTlsContext {
        tls_params: Some(params),
        alpn_protocols: if http {
            vec!["h2".into(), "http/1.1".into()]
        } else {
            Vec::new()
        },
        ..CommonTlsContext::default()
    };
    let validation = CertificateValidationContext {
        match_typed_subject_alt_names: tls
            .subject_alt_names
            .iter()
            .flat_map(|san| any_san(san))
            .collect(),
        ..CertificateValidationContext::default()
    };
    if !tls.granted.is_empty() {
        let name = |secret: &SecretRef| granted_secret(&secret.namespace, &secret.name);
        common.tls_certificate_sds_secret_configs = tls
            .granted
            .iter()
            .map(|secret| delivered(&name(secret)))
            .collect();
    } else if let Some(first) = tls.credential_names.first() {
        common.tls_certificate_sds_secret_configs = tls
            .credential_names
            .iter()
            .map(|name| Some(delivered(&own_secret(namespace, name)?)))
            .collect::<Option<_>>()?;
        if asks {
            let ca = match &tls.ca_credential_name {
                Some(name) => own_secret(namespace, name)?,
                None => own_secret(namespace, first)?,
            };
            common.validation_context_type = Some(combined(
                validation,
                delivered(&format!("{ca}{ANCHORS_SUFFIX}")),
            ));
        }
    } else {
        if let (Some(certificate), Some(key)) = (&tls.server_certificate, &tls.private_key) {
            common.tls_certificates = vec![certificate_files(certificate, key)];
        }
        if asks {
            common.validation_context_type = Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: tls.ca_certificates.as_deref().map(in_file),
                    ..validation
                },
            ));
        }
    }
    Some(DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(wkt::boolean(tls.mode == ServerTlsMode::Mutual)),
        ..DownstreamTlsContext::default()
    })
}

/// `kubernetes-gateway://namespace/name`.
fn granted_secret(namespace: &str, name: &str) -> String {
    format!("{GRANTED_SECRET}{namespace}/{name}")
}

/// `kubernetes://namespace/name`. A name may say its namespace, but no other than the gateway's own.
pub(crate) fn own_secret(namespace: &str, name: &str) -> Option<String> {
    let name = match name.split_once('/') {
        Some((own, name)) if own == namespace => name,
        Some(_) => return None,
        None => name,
    };
    Some(format!("{OWN_SECRET}{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::own_secret;

    #[test]
    fn a_gateway_reads_secrets_of_its_own_namespace_only() {
        let check = |name: &str| own_secret("istio-system", name);
        let own = Some("kubernetes://istio-system/cert".to_owned());
        assert_eq!(check("cert"), own);
        assert_eq!(check("istio-system/cert"), own);
        assert_eq!(check("bank/cert"), None);
        assert_eq!(check("/cert"), None);
    }
}
