//! The server side: a listener's TLS context as a rustls configuration, and the handshake.
use std::io;
use std::sync::Arc;

use malla_identity::credential::Credential;
use malla_proxy_config::Snapshot;
use malla_proxy_config::tls::DownstreamTls;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::material::{Secrets, TlsSetupError};
use super::verify::{ClientCheck, PeerCheck};
use super::{Cached, TlsSetup, peer};
use crate::connection::TlsInfo;
use crate::transport::Socket;

/// TLS 1.2 sessions kept for resumption by id; TLS 1.3 uses tickets.
const SESSIONS: usize = 256;

/// One filter chain's TLS, shared by the workers.
#[derive(Debug)]
pub struct Acceptor {
    context: Arc<DownstreamTls>,
    setup: TlsSetup,
    config: Cached<Ready>,
}

/// A configuration, and what it says about ourselves.
#[derive(Debug, Clone)]
struct Ready {
    config: Arc<ServerConfig>,
    check: Option<Arc<PeerCheck>>,
    own: Arc<[Arc<Credential>]>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
    #[error("handshake failed")]
    Handshake(#[source] io::Error),
}

impl AcceptError {
    /// The handshake was refused because the client gave no certificate.
    pub fn is_missing_certificate(&self) -> bool {
        matches!(self.rustls(), Some(rustls::Error::NoCertificatesPresented))
    }

    /// The client's certificate was refused.
    pub fn is_bad_certificate(&self) -> bool {
        matches!(self.rustls(), Some(rustls::Error::InvalidCertificate(_)))
    }

    fn rustls(&self) -> Option<&rustls::Error> {
        match self {
            Self::Handshake(error) => error.get_ref()?.downcast_ref(),
            Self::Setup(_) => None,
        }
    }
}

impl Acceptor {
    pub fn new(context: Arc<DownstreamTls>, setup: TlsSetup) -> Self {
        Self { context, setup, config: Cached::default() }
    }

    /// Builds the configuration now, so that errors in it are seen before a client is.
    pub fn prepare(&self, snapshot: &Snapshot) -> Result<(), TlsSetupError> {
        self.ready(snapshot).map(|_| ())
    }

    /// Shakes hands. The socket is dropped on failure, after the alert went out.
    pub async fn accept(
        &self,
        socket: Socket,
        snapshot: &Snapshot,
    ) -> Result<(Box<TlsStream<Socket>>, TlsInfo), AcceptError> {
        let ready = self.ready(snapshot)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&ready.config));
        let stream = Box::pin(acceptor.accept(socket)).await.map_err(AcceptError::Handshake)?;
        let info = peer::downstream_info(stream.get_ref().1, ready.check.as_deref(), &ready.own);
        Ok((Box::new(TlsStream::Server(stream)), info))
    }

    fn ready(&self, snapshot: &Snapshot) -> Result<Ready, TlsSetupError> {
        self.config.get(&self.context.common, snapshot, |secrets| self.build(secrets))
    }

    fn build(&self, secrets: &Secrets) -> Result<Ready, TlsSetupError> {
        let common = &self.context.common;
        let (provider, versions) = self.setup.parameters(&common.params)?;
        let own: Arc<[Arc<Credential>]> =
            self.setup.credentials(common, secrets)?.into_iter().map(Arc::new).collect();
        let check = self.setup.peer_check(common, secrets)?;
        let algorithms = provider.signature_verification_algorithms;
        let required = self.context.require_client_certificate;
        let verifier = ClientCheck { check: check.clone(), required, algorithms };
        let resolver = Certificates { own: Arc::clone(&own), require_sni: self.context.require_sni };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = common.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        if !self.context.disable_stateless_resumption {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
            config.send_tls13_tickets = 1;
        } else {
            config.send_tls13_tickets = 0;
        }
        config.session_storage = if self.context.disable_stateful_resumption {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(SESSIONS)
        };
        Ok(Ready { config: Arc::new(config), check: check.map(Arc::new), own })
    }
}

/// Chooses among several own certificates by the client's SNI and signature schemes.
#[derive(Debug)]
struct Certificates {
    own: Arc<[Arc<Credential>]>,
    require_sni: bool,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        if name.is_none() && self.require_sni {
            return None;
        }
        let usable = |own: &&Arc<Credential>| own.certified().key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |own: &&Arc<Credential>| name.is_some_and(|name| covers(own, name));
        let mut usable_ones = self.own.iter().filter(usable);
        let chosen = usable_ones.clone().find(named).or_else(|| usable_ones.next());
        // With none usable the first still gives the handshake its proper error.
        chosen.or_else(|| self.own.first()).map(|own| Arc::clone(own.certified()))
    }
}

fn covers(own: &Credential, name: &str) -> bool {
    own.names().dns.iter().any(|dns| match dns.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => dns.eq_ignore_ascii_case(name),
    })
}
