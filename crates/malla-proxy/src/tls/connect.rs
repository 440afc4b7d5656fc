//! The client side: a cluster's TLS context as a rustls configuration, and the handshake.
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use malla_identity::credential::Credential;
use malla_proxy_config::Snapshot;
use malla_proxy_config::tls::UpstreamTls;
use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

use super::material::{Secrets, TlsSetupError};
use super::verify::{PeerCheck, ServerCheck};
use super::{Cached, TlsSetup, peer};
use crate::transport::Socket;
use crate::transport::ahead::Ahead;
use crate::upstream::UpstreamTlsInfo;

/// Sessions remembered for resumption, over all servers of a cluster.
const SESSIONS: usize = 64;
/// Names for which a configuration of its own is kept (`auto_sni_san_validation`).
const MAX_NAMED: usize = 1024;

/// One upstream TLS context, shared by the workers.
#[derive(Debug)]
pub struct Connector {
    context: Arc<UpstreamTls>,
    setup: TlsSetup,
    config: Cached<Ready>,
    alpn: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Ready {
    config: Arc<ClientConfig>,
    /// The certificate that is shown.
    own: Option<Arc<Credential>>,
    check: Option<Arc<PeerCheck>>,
    /// Configurations that also check the server's name against the SNI sent.
    named: Arc<Mutex<HashMap<String, Arc<ClientConfig>>>>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
    #[error("{0}")]
    Handshake(#[source] io::Error),
    #[error("`{0}` is no server name for SNI")]
    Name(String),
}

impl ConnectError {
    /// Envoy's `transport failure reason`.
    pub fn reason(&self) -> String {
        match self {
            Self::Setup(error) => format!("TLS_error:|{error}:TLS_error_end"),
            Self::Handshake(error) => {
                let rustls = error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match rustls {
                    Some(rustls::Error::InvalidCertificate(reason)) => {
                        format!("TLS_error:|CERTIFICATE_VERIFY_FAILED:{reason}:TLS_error_end")
                    }
                    Some(rustls::Error::AlertReceived(alert)) => {
                        format!(
                            "TLS_error:|SSLV3_ALERT_{}:TLS_error_end",
                            alert_name(*alert)
                        )
                    }
                    Some(other) => format!("TLS_error:|{other}:TLS_error_end"),
                    None => error.to_string(),
                }
            }
            Self::Name(_) => format!("TLS_error:|{self}:TLS_error_end"),
        }
    }

    /// The server's certificate or name was refused.
    pub fn is_verification(&self) -> bool {
        let Self::Handshake(error) = self else {
            return false;
        };
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    }
}

fn alert_name(alert: rustls::AlertDescription) -> String {
    // `UnknownCA` and friends: OpenSSL spells them with underscores.
    let mut out = String::new();
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase() && out.ends_with(|last: char| last.is_ascii_lowercase()) {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// The protocols to offer: the configured ones, or else those the connection is for. To a proxy of the
/// mesh that has to find out what is within (it is offered `istio` and nothing more exact), HTTP is said
/// to be HTTP, as Istio's `alpn` filter does.
fn offered(configured: &[String], purpose: &[&str]) -> Vec<Vec<u8>> {
    let bytes = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let vague = configured.iter().any(|name| name == "istio")
        && !configured.iter().any(|name| name.starts_with("istio-h"));
    match purpose {
        ["http/1.1"] if vague => bytes(&["istio-http/1.1", "istio", "http/1.1"]),
        ["h2"] if vague => bytes(&["istio-h2", "istio", "h2"]),
        _ if configured.is_empty() => bytes(purpose),
        // HTTP has headers for that.
        _ => configured
            .iter()
            .filter(|name| purpose.is_empty() || *name != "istio-peer-exchange")
            .map(|name| name.clone().into_bytes())
            .collect(),
    }
}

impl Connector {
    /// `alpn` is what the connection is for, as far as that is known.
    pub fn new(context: Arc<UpstreamTls>, setup: TlsSetup, alpn: &[&str]) -> Self {
        let alpn = offered(&context.common.alpn, alpn);
        Self::with_alpn(context, setup, alpn)
    }

    /// Offers exactly these protocols, whatever the context says.
    pub fn offering(context: Arc<UpstreamTls>, setup: TlsSetup, alpn: &[&str]) -> Self {
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::with_alpn(context, setup, alpn)
    }

    fn with_alpn(context: Arc<UpstreamTls>, setup: TlsSetup, alpn: Vec<Vec<u8>>) -> Self {
        Self {
            context,
            setup,
            config: Cached::default(),
            alpn,
        }
    }

    /// Builds the configuration now, so that errors in it are seen before a request is.
    pub fn prepare(&self, snapshot: &Snapshot) -> Result<(), TlsSetupError> {
        self.ready(snapshot).map(|_| ())
    }

    /// The SNI to send: the context's, the endpoint's name, or what the request says.
    pub fn server_name<'a>(
        &'a self,
        hostname: &'a str,
        from_request: Option<&'a str>,
    ) -> Option<&'a str> {
        if let Some(name) = from_request {
            return Some(name);
        }
        if self.context.auto_host_sni && !hostname.is_empty() {
            return Some(hostname);
        }
        self.context.sni.as_deref().filter(|name| !name.is_empty())
    }

    /// Shakes hands over `socket`. `check_name` demands that the certificate is for the name sent.
    pub async fn connect(
        &self,
        socket: Socket,
        name: Option<&str>,
        check_name: bool,
        snapshot: &Snapshot,
    ) -> Result<(Box<TlsStream<Ahead<Socket>>>, UpstreamTlsInfo), ConnectError> {
        let ready = self.ready(snapshot)?;
        let stream = self.handshake(&ready, socket, name, check_name).await?;
        let mut info = peer::upstream_info(stream.get_ref().1, ready.own.as_ref());
        info.server_name = name.map(Arc::from);
        Ok((Box::new(TlsStream::Client(stream)), info))
    }

    /// As [`Self::connect`], for connections that serve the proxy itself: what is known of the peer is not kept.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub async fn connect_own(
        &self,
        socket: Socket,
        name: Option<&str>,
        snapshot: &Snapshot,
    ) -> Result<Box<TlsStream<Ahead<Socket>>>, ConnectError> {
        let ready = self.ready(snapshot)?;
        let stream = self.handshake(&ready, socket, name, false).await?;
        Ok(Box::new(TlsStream::Client(stream)))
    }

    async fn handshake(
        &self,
        ready: &Ready,
        socket: Socket,
        name: Option<&str>,
        check_name: bool,
    ) -> Result<tokio_rustls::client::TlsStream<Ahead<Socket>>, ConnectError> {
        let config = match name {
            Some(name) if check_name || self.context.auto_sni_san_validation => {
                self.named(ready, name)?
            }
            _ => Arc::clone(&ready.config),
        };
        let server = match name {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| ConnectError::Name(name.to_owned()))?,
            // An IP address sends no SNI; the verifier does not look at it.
            None => ServerName::IpAddress(
                socket
                    .peer()
                    .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip())
                    .into(),
            ),
        };
        let connecting = TlsConnector::from(config).connect(server, Ahead::new(socket));
        Box::pin(connecting).await.map_err(ConnectError::Handshake)
    }

    fn ready(&self, snapshot: &Snapshot) -> Result<Ready, TlsSetupError> {
        self.config
            .get(&self.context.common, None, snapshot, |secrets| {
                let check = self.setup.peer_check(&self.context.common, secrets)?;
                let (config, own) = self.build(secrets, check.clone())?;
                Ok(Ready {
                    config,
                    own,
                    check: check.map(Arc::new),
                    named: Arc::default(),
                })
            })
    }

    fn build(
        &self,
        secrets: &Secrets,
        check: Option<PeerCheck>,
    ) -> Result<(Arc<ClientConfig>, Option<Arc<Credential>>), TlsSetupError> {
        let common = &self.context.common;
        let (provider, versions) = self.setup.parameters(&common.params)?;
        let own = self.setup.credentials(common, secrets)?;
        let algorithms = provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerCheck(check, algorithms)))
            .with_client_cert_resolver(Arc::new(OwnCertificate(
                own.first().map(|own| Arc::clone(own.certified())),
            )));
        config.alpn_protocols = self.alpn.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok((Arc::new(config), own.into_iter().next().map(Arc::new)))
    }

    fn named(&self, ready: &Ready, name: &str) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let mut named = ready.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = named.get(name) {
            return Ok(Arc::clone(config));
        }
        let Some(check) = &ready.check else {
            return Ok(Arc::clone(&ready.config));
        };
        let mut config = (*ready.config).clone();
        let algorithms = self.setup.provider.signature_verification_algorithms;
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerCheck(
                Some(check.with_dns_name(name)),
                algorithms,
            )));
        // Sessions proven for one name must not be resumed under another.
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        if named.len() < MAX_NAMED {
            named.insert(name.to_owned(), Arc::clone(&config));
        }
        Ok(config)
    }
}

/// The client certificate, whatever the server hints at: in a mesh there is one.
#[derive(Debug)]
struct OwnCertificate(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::offered;

    #[test]
    fn names_of_clusters_are_names_of_servers() {
        assert!(ServerName::try_from("outbound_.7000_._.cart.base.svc.cluster.local").is_ok());
    }

    #[test]
    fn http_in_the_mesh_is_said_to_be_http() {
        let check = |configured: &[&str], purpose: &[&str], want: &[&str]| {
            let configured: Vec<String> = configured.iter().map(ToString::to_string).collect();
            let want: Vec<Vec<u8>> = want.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(
                offered(&configured, purpose),
                want,
                "{configured:?} {purpose:?}"
            );
        };
        check(&[], &["h2", "http/1.1"], &["h2", "http/1.1"]);
        check(&["h2"], &["http/1.1"], &["h2"]);
        check(&["istio"], &[], &["istio"]);
        check(
            &["istio"],
            &["http/1.1"],
            &["istio-http/1.1", "istio", "http/1.1"],
        );
        check(
            &["istio-peer-exchange", "istio", "h2"],
            &["h2"],
            &["istio-h2", "istio", "h2"],
        );
        check(
            &["istio-peer-exchange", "istio"],
            &[],
            &["istio-peer-exchange", "istio"],
        );
        check(
            &["istio-peer-exchange", "istio"],
            &["h2", "http/1.1"],
            &["istio"],
        );
        check(
            &["istio-h2", "istio", "h2"],
            &["h2"],
            &["istio-h2", "istio", "h2"],
        );
    }
}
