//! The calling side.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DEFAULT_VERSIONS, SupportedProtocolVersion};

use super::Current;
use super::sessions::ClientSessions;
use super::verifier::{NoVerification, PeerVerifier};
use crate::source::CertSource;
use crate::verify::{AcceptPeer, AnyName, AnyWorkload, Usage};

/// How a client speaks TLS.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Whether the server's certificate is verified at all. `false` is Envoy's TLS context without
    /// a validation context: encrypted, but to whom nobody knows.
    pub verify: bool,
    /// Which of the servers that the bundle vouches for is the right one.
    pub accept: Arc<dyn AcceptPeer>,
    /// Also require the name that was connected to as a DNS or IP name of the certificate.
    pub host_name: bool,
    /// Show the source's credential when asked for one.
    pub present: bool,
    /// In order of preference; empty means that ALPN is not offered.
    pub alpn: Vec<Vec<u8>>,
    pub versions: &'static [&'static SupportedProtocolVersion],
}

impl ClientOptions {
    /// Mutual TLS inside the mesh: the server is known by its SPIFFE id, and DNS names mean nothing.
    #[must_use]
    pub fn mesh(accept: Arc<dyn AcceptPeer>, alpn: &[&[u8]]) -> Self {
        Self {
            verify: true,
            accept,
            host_name: false,
            present: true,
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
            versions: DEFAULT_VERSIONS,
        }
    }

    /// Any workload of the mesh.
    #[must_use]
    pub fn any_workload(alpn: &[&[u8]]) -> Self {
        Self::mesh(Arc::new(AnyWorkload), alpn)
    }

    /// The rules of the web: the certificate must carry the host's name. For istiod and for hosts
    /// outside of the mesh; `present` shows our certificate to those that ask.
    #[must_use]
    pub fn web(present: bool, alpn: &[&[u8]]) -> Self {
        Self {
            host_name: true,
            present,
            ..Self::mesh(Arc::new(AnyName), alpn)
        }
    }
}

/// A configuration that trusts the source's current bundle and shows its current credential.
///
/// # Errors
/// When the provider does not support the versions.
pub fn client_config(
    source: &CertSource,
    options: ClientOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let ClientOptions {
        verify,
        accept,
        host_name,
        present,
        alpn,
        versions,
    } = options;
    let algorithms = provider.signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = if verify {
        Arc::new(PeerVerifier {
            source: source.clone(),
            usage: Usage::Server,
            algorithms,
            accept,
            required: true,
            host_name,
        })
    } else {
        Arc::new(NoVerification { algorithms })
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = if present {
        builder.with_client_cert_resolver(Arc::new(Current(source.clone())))
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn;
    config.resumption = Resumption::store(Arc::new(ClientSessions::new(source.clone())));
    Ok(config)
}
