//! The accepting side.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::NoClientAuth;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DEFAULT_VERSIONS, ServerConfig, SupportedProtocolVersion};

use super::Current;
use super::sessions::ServerSessions;
use super::verifier::PeerVerifier;
use crate::source::CertSource;
use crate::verify::{AcceptPeer, AnyName, Usage};

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not asked.
    None,
    /// Asked; without one the client is anonymous, with a bad one it is turned away.
    Optional,
    /// Asked, and turned away without one.
    Required,
}

/// How a server speaks TLS.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub client_auth: ClientAuth,
    /// Which of the clients that the bundle vouches for may connect.
    pub accept: Arc<dyn AcceptPeer>,
    /// In order of preference; empty means that ALPN is not negotiated.
    pub alpn: Vec<Vec<u8>>,
    pub versions: &'static [&'static SupportedProtocolVersion],
}

impl ServerOptions {
    /// Any client the bundle vouches for, TLS 1.2 and 1.3.
    #[must_use]
    pub fn new(client_auth: ClientAuth, alpn: &[&[u8]]) -> Self {
        Self {
            client_auth,
            accept: Arc::new(AnyName),
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
            versions: DEFAULT_VERSIONS,
        }
    }
}

/// A configuration that shows the source's current credential and trusts its current bundle.
///
/// # Errors
/// When the provider does not support the versions.
pub fn server_config(
    source: &CertSource,
    options: ServerOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let ServerOptions {
        client_auth,
        accept,
        alpn,
        versions,
    } = options;
    let verifier = || PeerVerifier {
        source: source.clone(),
        usage: Usage::Client,
        algorithms: provider.signature_verification_algorithms,
        accept,
        required: client_auth == ClientAuth::Required,
        host_name: false,
    };
    let verifier: Arc<dyn ClientCertVerifier> = match client_auth {
        ClientAuth::None => Arc::new(NoClientAuth),
        ClientAuth::Optional | ClientAuth::Required => Arc::new(verifier()),
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Current(source.clone())));
    config.alpn_protocols = alpn;
    // Sessions are kept here rather than in tickets at the client, so that they can be forgotten.
    config.session_storage = Arc::new(ServerSessions::new(source.clone()));
    Ok(config)
}
