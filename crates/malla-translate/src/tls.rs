//! TLS contexts: mutual TLS within the mesh (`mesh`), TLS that DestinationRules ask for (`outside`)
//! and gateways' servers (`gateway`); here is what they share.

mod gateway;
mod mesh;
mod outside;

use malla_model::gateway::TlsVersion;
use malla_xds_proto::any;
use malla_xds_proto::core::config_source::ConfigSourceSpecifier;
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::core::transport_socket::ConfigType;
use malla_xds_proto::core::{
    AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, TransportSocket,
};
use malla_xds_proto::matcher::StringMatcher;
use malla_xds_proto::matcher::string_matcher::MatchPattern;
use malla_xds_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use malla_xds_proto::tls::subject_alt_name_matcher::SanType;
use malla_xds_proto::tls::tls_parameters::TlsProtocol;
use malla_xds_proto::tls::{
    CertificateValidationContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    TlsCertificate, TlsParameters, UpstreamTlsContext,
};

pub(crate) use gateway::{gateway_server, own_secret};
pub(crate) use mesh::{
    MESH_ALPNS, MESH_HTTP_ALPNS, MESH_TCP_ALPNS, PEER_EXCHANGE, Served, Within, identity_names,
    mesh_client, mesh_server, trust_domains,
};
pub(crate) use outside::rule_client;

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

/// `validation`, with the trust anchors that `ca` delivers.
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

/// A secret the control plane delivers. It may not exist, which must not keep everything else on the
/// listener from working: so the proxy does not wait for it for ever.
fn delivered(name: &str) -> SdsSecretConfig {
    let source = ConfigSource {
        initial_fetch_timeout: None,
        ..ads()
    };
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(source),
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

/// Users give a name without its type, so it may be either.
fn any_san(name: &str) -> impl Iterator<Item = SubjectAltNameMatcher> {
    let exact = || MatchPattern::Exact(name.into());
    let address = name.parse::<std::net::IpAddr>().is_ok();
    let names = [san(SanType::Dns, exact()), san(SanType::Uri, exact())];
    let addresses = address.then(|| san(SanType::IpAddress, exact()));
    names.into_iter().chain(addresses)
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
