//! TLS contexts: mutual TLS within the mesh, TLS that DestinationRules ask for, and gateways' servers.

use std::collections::BTreeSet;

use malla_model::gateway::{ServerTls, ServerTlsMode, TlsVersion};
use malla_model::traffic::{ClientTls, ClientTlsMode};
use malla_model::{Mesh, SpiffeId};
use malla_xds_proto::core::api_config_source::ApiType;
use malla_xds_proto::core::config_source::ConfigSourceSpecifier;
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use malla_xds_proto::core::transport_socket::ConfigType;
use malla_xds_proto::core::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService,
    TransportSocket,
};
use malla_xds_proto::matcher::StringMatcher;
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::tls::certificate_validation_context::SystemRootCerts;
use malla_xds_proto::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use malla_xds_proto::tls::subject_alt_name_matcher::SanType;
use malla_xds_proto::tls::tls_parameters::TlsProtocol;
use malla_xds_proto::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};
use malla_xds_proto::{any, wkt};

use crate::names::{ROOT_SECRET, SDS_CLUSTER, WORKLOAD_SECRET};

/// Says "a proxy of the mesh is speaking", so that servers tell its TLS from an application's own.
const ISTIO_ALPN: &str = "istio";
/// What a server in PERMISSIVE mode takes for mutual TLS of the mesh.
pub(crate) const MESH_ALPNS: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];
/// Those of them that also say that HTTP is within.
pub(crate) const MESH_HTTP_ALPNS: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// Those that leave open what is within.
pub(crate) const MESH_TCP_ALPNS: [&str; 2] = ["istio-peer-exchange", "istio"];
/// Istio's ciphers for servers in the mesh.
const SERVER_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// Configuration that arrives on the stream the resource itself came by.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(Duration::default()),
        ..ConfigSource::default()
    }
}

pub(crate) fn plaintext_socket() -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".into(),
        config_type: Some(ConfigType::TypedConfig(any::pack(&RawBuffer {}))),
    }
}

pub(crate) fn client_socket(context: &UpstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(any::pack(context))),
    }
}

pub(crate) fn server_socket(context: &DownstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(any::pack(context))),
    }
}

/// What is within TLS, as far as a cluster's port says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    Http1,
    Http2,
    /// Bytes, or something to be found out.
    Anything,
}

impl Within {
    /// What Istio's per-stream `alpn` filter would offer; it is not in a plain Envoy, and where the
    /// port says what is spoken it is not needed.
    const fn mesh_alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["istio-http/1.1", ISTIO_ALPN, "http/1.1"],
            Self::Http2 => &["istio-h2", ISTIO_ALPN, "h2"],
            Self::Anything => &[ISTIO_ALPN],
        }
    }
}

/// Calls within the mesh: the workload's certificate, and a server that is one of `sans`
/// (anybody of the mesh, where none is known).
pub(crate) fn mesh_client(
    sni: &str,
    within: Within,
    sans: &BTreeSet<String>,
) -> UpstreamTlsContext {
    let sans = sans.iter().map(|san| uri(MatchPattern::Exact(san.clone())));
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(protocol_versions(
                Some(TlsVersion::V1_2),
                Some(TlsVersion::V1_3),
            )),
            ..workload_context(within.mesh_alpn(), sans.collect())
        }),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    }
}

/// Calls from within the mesh, to HTTP or to bytes; the client's certificate is required.
pub(crate) fn mesh_server(mesh: &Mesh, http: bool) -> DownstreamTlsContext {
    let alpn: &[&str] = if http {
        &["h2", "http/1.1"]
    } else {
        &[ISTIO_ALPN]
    };
    let domains = trust_domains(mesh)
        .map(|domain| uri(MatchPattern::Prefix(format!("spiffe://{domain}/"))))
        .collect();
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                cipher_suites: SERVER_CIPHERS.map(Into::into).to_vec(),
                ..protocol_versions(Some(TlsVersion::V1_2), Some(TlsVersion::V1_3))
            }),
            ..workload_context(alpn, domains)
        }),
        require_client_certificate: Some(wkt::boolean(true)),
        ..DownstreamTlsContext::default()
    }
}

/// The mesh's own trust domain, then its aliases.
pub(crate) fn trust_domains(mesh: &Mesh) -> impl Iterator<Item = &str> {
    std::iter::once(&mesh.settings.trust_domain)
        .chain(&mesh.settings.trust_domain_aliases)
        .map(malla_model::TrustDomain::as_str)
}

/// The identity under every name its trust domain goes by.
pub(crate) fn identity_names(mesh: &Mesh, id: &SpiffeId) -> Vec<String> {
    if trust_domains(mesh).any(|domain| domain == id.trust_domain.as_str()) {
        trust_domains(mesh)
            .map(|domain| {
                format!(
                    "spiffe://{domain}/ns/{}/sa/{}",
                    id.namespace, id.service_account
                )
            })
            .collect()
    } else {
        vec![id.to_string()]
    }
}

/// TLS as a DestinationRule asks for; `None` where it asks for none.
pub(crate) fn rule_client(
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
        ClientTlsMode::Simple | ClientTlsMode::Mutual => Some(outside_client(tls, within)),
    }
}

fn outside_client(tls: &ClientTls, within: Within) -> UpstreamTlsContext {
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
        let name = format!("kubernetes://{credential}");
        if tls.mode == ClientTlsMode::Mutual {
            common.tls_certificate_sds_secret_configs = vec![delivered(&name)];
        }
        common.validation_context_type =
            Some(combined(validation, delivered(&format!("{name}-cacert"))));
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
    match &tls.ca_certificates {
        Some(file) => validation.trusted_ca = Some(in_file(file)),
        None => validation.system_root_certs = Some(SystemRootCerts::default()),
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

/// What a gateway's server presents and asks for. `None` where it does not terminate TLS.
/// Secrets are taken from `namespace`, the gateway pod's.
pub(crate) fn gateway_server(
    mesh: &Mesh,
    tls: &ServerTls,
    namespace: &str,
    http: bool,
) -> Option<DownstreamTlsContext> {
    match tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
        ServerTlsMode::IstioMutual => return Some(mesh_server(mesh, http)),
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
    if let Some(first) = tls.credential_names.first() {
        common.tls_certificate_sds_secret_configs = tls
            .credential_names
            .iter()
            .map(|name| delivered(&secret_name(namespace, name)))
            .collect();
        if asks {
            let ca = match &tls.ca_credential_name {
                Some(name) => secret_name(namespace, name),
                None => secret_name(namespace, first),
            };
            common.validation_context_type =
                Some(combined(validation, delivered(&format!("{ca}-cacert"))));
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

/// `kubernetes://namespace/name`; a name may already say its namespace.
fn secret_name(namespace: &str, name: &str) -> String {
    if name.contains('/') {
        format!("kubernetes://{name}")
    } else {
        format!("kubernetes://{namespace}/{name}")
    }
}

fn workload_context(alpn: &[&str], sans: Vec<SubjectAltNameMatcher>) -> CommonTlsContext {
    let validation = CertificateValidationContext {
        match_typed_subject_alt_names: sans,
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
        tls_certificate_sds_secret_configs: vec![from_agent(WORKLOAD_SECRET)],
        validation_context_type: Some(combined(validation, from_agent(ROOT_SECRET))),
        ..CommonTlsContext::default()
    }
}

fn combined(
    validation: CertificateValidationContext,
    ca: SdsSecretConfig,
) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(validation),
        validation_context_sds_secret_config: Some(ca),
        ..CombinedCertificateValidationContext::default()
    })
}

/// A secret the proxy's own agent has.
fn from_agent(name: &str) -> SdsSecretConfig {
    let agent = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: SDS_CLUSTER.into(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                ApiConfigSource {
                    api_type: ApiType::Grpc.into(),
                    transport_api_version: ApiVersion::V3.into(),
                    grpc_services: vec![agent],
                    set_node_on_first_message_only: true,
                    ..ApiConfigSource::default()
                },
            )),
            initial_fetch_timeout: Some(Duration::default()),
            resource_api_version: ApiVersion::V3.into(),
            ..ConfigSource::default()
        }),
    }
}

/// A secret the control plane delivers.
fn delivered(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ads()),
    }
}

fn certificate_files(certificate: &str, key: &str) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: Some(in_file(certificate)),
        private_key: Some(in_file(key)),
        ..TlsCertificate::default()
    }
}

fn in_file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::Filename(path.into())),
        ..DataSource::default()
    }
}

fn uri(pattern: MatchPattern) -> SubjectAltNameMatcher {
    san(SanType::Uri, pattern)
}

/// Users give a name without its type, so it may be either.
fn any_san(name: &str) -> [SubjectAltNameMatcher; 2] {
    let exact = || MatchPattern::Exact(name.into());
    [san(SanType::Dns, exact()), san(SanType::Uri, exact())]
}

fn san(kind: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

fn protocol_versions(min: Option<TlsVersion>, max: Option<TlsVersion>) -> TlsParameters {
    let number = |version: Option<TlsVersion>| match version {
        None => TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_0) => TlsProtocol::TlSv10,
        Some(TlsVersion::V1_1) => TlsProtocol::TlSv11,
        Some(TlsVersion::V1_2) => TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
    };
    TlsParameters {
        tls_minimum_protocol_version: number(min).into(),
        tls_maximum_protocol_version: number(max).into(),
        ..TlsParameters::default()
    }
}
