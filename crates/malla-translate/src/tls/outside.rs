//! TLS to servers outside of the mesh, as DestinationRules ask for.

use std::collections::BTreeSet;

use malla_model::gateway::TlsVersion;
use malla_model::traffic::{ClientTls, ClientTlsMode};
use malla_xds_proto::tls::certificate_validation_context::SystemRootCerts;
use malla_xds_proto::tls::common_tls_context::ValidationContextType;
use malla_xds_proto::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};

use super::{
    Within, any_san, certificate_files, combined, delivered, in_file, mesh_client,
    protocol_versions,
};
use crate::names::{ANCHORS_SUFFIX, OWN_SECRET};
use crate::node::Profile;
use crate::view::View;

/// Where the system's trust anchors are on Debian, Ubuntu and in Envoy's images. Stock Envoy knows of none by itself: it
/// reads `system_root_certs` and then verifies nothing.
const ENVOY_ANCHORS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS as a DestinationRule asks a client for; `None` where it asks for none.
pub(crate) fn rule_client(
    view: &View<'_>,
    tls: &ClientTls,
    default_sni: &str,
    within: Within,
    sans: &BTreeSet<String>,
) -> Option<UpstreamTlsContext> {
    let mut wanted: BTreeSet<String> = tls
        .subject_alt_names
        .iter()
        .map(ToString::to_string)
        .collect();
    match tls.mode {
        ClientTlsMode::Disable => None,
        ClientTlsMode::IstioMutual => {
            if wanted.is_empty() {
                wanted.clone_from(sans);
            }
            Some(mesh_client(
                tls.sni.as_deref().unwrap_or(default_sni),
                within,
                &wanted,
            ))
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual => Some(outside_client(view, tls, within)),
    }
}

fn outside_client(view: &View<'_>, tls: &ClientTls, within: Within) -> UpstreamTlsContext {
    let sans: Vec<SubjectAltNameMatcher> = tls
        .subject_alt_names
        .iter()
        .flat_map(|san| any_san(san))
        .collect();
    let mut common = CommonTlsContext {
        tls_params: Some(protocol_versions(
            Some(TlsVersion::V1_2),
            Some(TlsVersion::V1_3),
        )),
        alpn_protocols: if within == Within::Http2 {
            vec!["h2".into()]
        } else {
            Vec::new()
        },
        ..CommonTlsContext::default()
    };
    let mut validation = CertificateValidationContext {
        match_typed_subject_alt_names: sans,
        ..CertificateValidationContext::default()
    };
    if let Some(credential) = &tls.credential_name {
        let name = format!("{OWN_SECRET}{}/{credential}", view.node.namespace);
        if tls.mode == ClientTlsMode::Mutual {
            common.tls_certificate_sds_secret_configs = vec![delivered(&name)];
        }
        common.validation_context_type = Some(combined(
            validation,
            delivered(&format!("{name}{ANCHORS_SUFFIX}")),
        ));
        return with_sni(tls, common);
    }
    if tls.mode == ClientTlsMode::Mutual
        && let (Some(certificate), Some(key)) = (&tls.client_certificate, &tls.private_key)
    {
        common.tls_certificates = vec![certificate_files(certificate, key)];
    }
    if tls.insecure_skip_verify {
        return with_sni(tls, common);
    }
    match (&tls.ca_certificates, view.node.profile) {
        (Some(file), _) => validation.trusted_ca = Some(in_file(file)),
        (None, Profile::PlainEnvoy) => validation.trusted_ca = Some(in_file(ENVOY_ANCHORS)),
        (None, Profile::Malla) => {
            validation.system_root_certs = Some(SystemRootCerts::default());
        }
    }
    common.validation_context_type = Some(ValidationContextType::ValidationContext(validation));
    with_sni(tls, common)
}

fn with_sni(tls: &ClientTls, common: CommonTlsContext) -> UpstreamTlsContext {
    UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: tls.sni.as_deref().unwrap_or_default().to_owned(),
        ..UpstreamTlsContext::default()
    }
}
