//! The server side: a listener's TLS context as a rustls configuration, and the handshake.
use std::io;
use std::sync::Arc;

use malla_identity::credential::Credential;
use malla_proxy_config::Snapshot;
use malla_proxy_config::tls::{DownstreamTls, Tickets};
use rustls::ServerConfig;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use tokio::time::Instant;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::material::{Secrets, TlsSetupError};
use super::tickets::SharedTickets;
use super::verify::{ClientCheck, PeerCheck};
use super::{Cached, TlsSetup, peer};
use crate::connection::TlsInfo;
use crate::transport::Socket;
use crate::transport::ahead::Ahead;

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
    /// The same for clients none of whose protocols we know. RFC 7301 would have them refused; Envoy
    /// goes on without ALPN, and proxies of the mesh count on it (they offer `istio`).
    without_alpn: Arc<ServerConfig>,
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
        Self {
            context,
            setup,
            config: Cached::default(),
        }
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
    ) -> Result<(Box<TlsStream<Ahead<Socket>>>, TlsInfo), AcceptError> {
        let ready = self.ready(snapshot)?;
        let hello =
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Ahead::new(socket));
        let start = Box::pin(hello).await.map_err(AcceptError::Handshake)?;
        let begun = Instant::now();
        let config = ready.config_for(&start.client_hello());
        let stream = Box::pin(start.into_stream(config))
            .await
            .map_err(AcceptError::Handshake)?;
        let mut info =
            peer::downstream_info(stream.get_ref().1, ready.check.as_deref(), &ready.own);
        info.handshake = Some((begun, Instant::now()));
        Ok((Box::new(TlsStream::Server(stream)), info))
    }

    fn ready(&self, snapshot: &Snapshot) -> Result<Ready, TlsSetupError> {
        let context = &self.context;
        self.config.get(
            &context.common,
            context.tickets.sds(),
            snapshot,
            |secrets| self.build(secrets),
        )
    }

    fn build(&self, secrets: &Secrets) -> Result<Ready, TlsSetupError> {
        let common = &self.context.common;
        let (provider, versions) = self.setup.parameters(&common.params)?;
        let own: Arc<[Arc<Credential>]> = self
            .setup
            .credentials(common, secrets)?
            .into_iter()
            .map(Arc::new)
            .collect();
        let check = self.setup.peer_check(common, secrets)?;
        let algorithms = provider.signature_verification_algorithms;
        let required = self.context.require_client_certificate;
        let verifier = ClientCheck {
            check: check.clone(),
            required,
            algorithms,
        };
        let resolver = Certificates {
            own: Arc::clone(&own),
            require_sni: self.context.require_sni,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(resolver));
        // Envoy sets SSL_OP_CIPHER_SERVER_PREFERENCE.
        config.ignore_client_order = true;
        config.alpn_protocols = common
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        let keys = self.setup.ticket_keys(&self.context.tickets, secrets)?;
        config.send_tls13_tickets = usize::from(self.context.tickets != Tickets::Off);
        if !keys.is_empty() {
            config.ticketer = Arc::new(SharedTickets::new(&keys)?);
        } else if self.context.tickets != Tickets::Off {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        }
        config.session_storage = if self.context.disable_stateful_resumption {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(SESSIONS)
        };
        let mut without_alpn = config.clone();
        without_alpn.alpn_protocols.clear();
        Ok(Ready {
            config: Arc::new(config),
            without_alpn: Arc::new(without_alpn),
            check: check.map(Arc::new),
            own,
        })
    }
}

impl Ready {
    fn config_for(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let known = |name: &[u8]| self.config.alpn_protocols.iter().any(|own| own == name);
        let stranger = hello.alpn().is_some_and(|mut offered| !offered.any(known));
        Arc::clone(if stranger {
            &self.without_alpn
        } else {
            &self.config
        })
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
        let usable = |own: &&Arc<Credential>| {
            own.certified()
                .key
                .choose_scheme(hello.signature_schemes())
                .is_some()
        };
        let named = |own: &&Arc<Credential>| name.is_some_and(|name| covers(own, name));
        let mut usable_ones = self.own.iter().filter(usable);
        let chosen = usable_ones
            .clone()
            .find(named)
            .or_else(|| usable_ones.next());
        // With none usable the first still gives the handshake its proper error.
        chosen
            .or_else(|| self.own.first())
            .map(|own| Arc::clone(own.certified()))
    }
}

fn covers(own: &Credential, name: &str) -> bool {
    own.names()
        .dns
        .iter()
        .any(|dns| match dns.strip_prefix("*.") {
            Some(parent) => name
                .split_once('.')
                .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => dns.eq_ignore_ascii_case(name),
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::server::{Acceptor, ResolvesServerCertUsingSni};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

    use super::Ready;

    fn server(alpn: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    #[test]
    fn a_client_of_unknown_protocols_is_served_without_alpn() {
        let check = |own: &[&str], offered: &[&str], want: &[&str]| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            config.alpn_protocols = offered
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect();
            let mut client =
                ClientConnection::new(Arc::new(config), "a.b".try_into().unwrap()).unwrap();
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            let mut acceptor = Acceptor::default();
            acceptor.read_tls(&mut &*bytes).unwrap();
            let accepted = acceptor
                .accept()
                .map_err(|(error, _)| error)
                .unwrap()
                .unwrap();

            let ready = Ready {
                config: server(own),
                without_alpn: server(&[]),
                check: None,
                own: Arc::from([]),
            };
            let config = ready.config_for(&accepted.client_hello());
            let want: Vec<Vec<u8>> = want.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(config.alpn_protocols, want, "{own:?} {offered:?}");
        };
        check(&["h2", "http/1.1"], &["istio"], &[]);
        check(&["h2", "http/1.1"], &["istio", "h2"], &["h2", "http/1.1"]);
        check(&["h2", "http/1.1"], &[], &["h2", "http/1.1"]);
        check(&[], &["istio"], &[]);
    }
}
