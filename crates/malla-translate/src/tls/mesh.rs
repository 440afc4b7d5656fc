//! Mutual TLS between proxies of the mesh, with certificates from each proxy's own agent.

use std::collections::BTreeSet;

use malla_model::gateway::TlsVersion;
use malla_model::{Mesh, SpiffeId};
use malla_xds_proto::core::api_config_source::ApiType;
use malla_xds_proto::core::config_source::ConfigSourceSpecifier;
use malla_xds_proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use malla_xds_proto::core::{ApiConfigSource, ApiVersion, ConfigSource, GrpcService};
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::tls::subject_alt_name_matcher::SanType;
use malla_xds_proto::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use malla_xds_proto::wkt;

use super::{combined, protocol_versions, san};
use crate::names::{ROOT_SECRET, SDS_CLUSTER, WORKLOAD_SECRET};

/// Says "a proxy of the mesh is speaking", so that servers tell its TLS from an application's own.
const ISTIO_ALPN: &str = "istio";
/// Says that each proxy tells of itself before the bytes it passes on.
pub(crate) const PEER_EXCHANGE: &str = "istio-peer-exchange";
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

/// What is within TLS, as far as a cluster's port says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    Http1,
    Http2,
    /// Bytes, or something to be found out.
    Anything,
    /// The same from a proxy that tells of itself first (Istio's TCP metadata exchange).
    Exchanged,
}

/// What a server of the mesh takes within TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Http,
    Bytes,
    /// Bytes from proxies that may tell of themselves first.
    Exchanged,
}

impl Within {
    /// What Istio's per-stream `alpn` filter would offer; it is not in a plain Envoy, and where the
    /// port says what is spoken it is not needed.
    const fn mesh_alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["istio-http/1.1", ISTIO_ALPN, "http/1.1"],
            Self::Http2 => &["istio-h2", ISTIO_ALPN, "h2"],
            Self::Anything => &[ISTIO_ALPN],
            Self::Exchanged => &[PEER_EXCHANGE, ISTIO_ALPN],
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

/// Calls from within the mesh; the client's certificate is required.
pub(crate) fn mesh_server(mesh: &Mesh, within: Served) -> DownstreamTlsContext {
    let alpn: &[&str] = match within {
        Served::Http => &["h2", "http/1.1"],
        Served::Bytes => &[ISTIO_ALPN],
        Served::Exchanged => &[PEER_EXCHANGE, ISTIO_ALPN],
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

fn uri(pattern: MatchPattern) -> SubjectAltNameMatcher {
    san(SanType::Uri, pattern)
}
