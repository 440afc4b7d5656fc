//! The way to the control plane: TLS that shows our certificate and expects its DNS name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use malla_identity::bundle::TrustBundle;
use malla_identity::source::CertSource;
use malla_identity::tls::grpc::{ChannelOptions, Target, channel};
use malla_identity::tls::{ClientOptions, client_config};
use malla_identity::verify::reason;
use malla_xds::transport::LinkError;
use malla_xds::transport::grpc::Connector;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::node::host;
use crate::settings::Settings;

/// Resolving, connecting and shaking hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum IstiodError {
    #[error("cannot read the control plane's root certificate {path:?}: {reason}")]
    Root { path: PathBuf, reason: String },
    #[error("cannot connect to the control plane at {address}: {reason}")]
    Connect { address: String, reason: String },
}

/// Connects to the control plane. Roots and certificate are looked up for every connection.
#[derive(Debug, Clone)]
pub struct Istiod {
    address: String,
    /// `None` is plain text.
    root: Option<PathBuf>,
    source: CertSource,
    provider: Arc<CryptoProvider>,
}

/// A connection, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Istiod {
    #[must_use]
    pub fn new(settings: &Settings, source: CertSource, provider: Arc<CryptoProvider>) -> Self {
        Self {
            address: settings.control_plane.clone(),
            root: settings.secure.then(|| settings.paths.root.clone()),
            source,
            provider,
        }
    }

    /// # Errors
    /// When the root cannot be read, or the control plane is not reached, or is not who it should be.
    pub async fn connect(&self) -> Result<Box<dyn Io>, IstiodError> {
        let refuse = |reason: String| IstiodError::Connect {
            address: self.address.clone(),
            reason,
        };
        let tls = self.tls().await?;
        let connecting = async {
            let tcp = TcpStream::connect(&self.address)
                .await
                .map_err(|e| refuse(e.to_string()))?;
            tcp.set_nodelay(true).map_err(|e| refuse(e.to_string()))?;
            let Some(config) = tls else {
                return Ok(Box::new(tcp) as Box<dyn Io>);
            };
            let name = ServerName::try_from(host(&self.address).to_owned())
                .map_err(|_| refuse("it is no host name".to_owned()))?;
            let stream = TlsConnector::from(config).connect(name, tcp).await;
            Ok(Box::new(stream.map_err(|e| refuse(reason(&e)))?) as Box<dyn Io>)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(refuse(format!("no answer within {CONNECT_TIMEOUT:?}"))))
    }

    async fn tls(&self) -> Result<Option<Arc<ClientConfig>>, IstiodError> {
        let Some(path) = &self.root else {
            return Ok(None);
        };
        let refuse = |reason: String| IstiodError::Root {
            path: path.clone(),
            reason,
        };
        let text = tokio::fs::read(path)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let bundle =
            TrustBundle::from_pem("root-cert.pem", &text).map_err(|e| refuse(e.to_string()))?;
        let source = CertSource::fixed(self.source.credential(), bundle);
        let options = ClientOptions::web(true, &[b"h2"]);
        let config =
            client_config(&source, options, &self.provider).map_err(|e| refuse(e.to_string()))?;
        Ok(Some(Arc::new(config)))
    }
}

/// The xDS client of Malla's own proxy.
impl Connector for Istiod {
    fn channel(&self) -> BoxFuture<'_, Result<Channel, LinkError>> {
        Box::pin(async {
            // Without a certificate the control plane does not know us; it comes within moments.
            self.source.ready().await;
            let tls = self
                .tls()
                .await
                .map_err(|e| LinkError::Connect(e.to_string()))?;
            channel(&Target::new(&self.address), tls, ChannelOptions::default())
                .await
                .map_err(|e| LinkError::Connect(e.to_string()))
        })
    }
}
