//! The calling side: one HTTP/2 connection, kept alive, over our TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::verify;

/// Why a channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("{address:?} is no gRPC address (expected HOST:PORT)")]
    Address { address: String },
    #[error("{name:?} is no server name (expected a DNS name or an IP address)")]
    ServerName { name: String },
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
}

/// Where a channel goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT`; resolved at every connection.
    pub address: String,
    /// The name expected in the server's certificate and sent as SNI, when it is not the host.
    pub server_name: Option<String>,
}

impl Target {
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            server_name: None,
        }
    }

    fn server_name(&self) -> Result<ServerName<'static>, ChannelError> {
        let host = self
            .address
            .rsplit_once(':')
            .map_or(&*self.address, |(host, _)| host);
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(name.to_owned()).map_err(|_| ChannelError::ServerName {
            name: name.to_owned(),
        })
    }
}

/// Timing of a channel.
#[derive(Debug, Clone, Copy)]
pub struct ChannelOptions {
    /// TCP and TLS together.
    pub connect: Duration,
    /// HTTP/2 PINGs, also while idle: a peer that vanished without a word is noticed.
    pub keepalive: Duration,
    pub keepalive_timeout: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// Opens a channel: TLS with `config`, or plain text without.
///
/// # Errors
/// When the target is no address, or cannot be reached, or is not who it should be.
pub async fn channel(
    target: &Target,
    config: Option<Arc<ClientConfig>>,
    options: ChannelOptions,
) -> Result<Channel, ChannelError> {
    let endpoint = endpoint(&target.address, options)?;
    let address = target.address.clone();
    let tls = match config {
        Some(config) => Some((TlsConnector::from(config), target.server_name()?)),
        None => None,
    };
    let connector = service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            let io: Box<dyn Io> = match tls {
                Some((connector, name)) => Box::new(connector.connect(name, tcp).await?),
                None => Box::new(tcp),
            };
            Ok::<_, io::Error>(TokioIo::new(io))
        }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| refuse(&target.address, &error))
}

/// Opens a plain-text channel over a Unix socket.
///
/// # Errors
/// When nobody listens at `path`.
pub async fn unix_channel(path: PathBuf, options: ChannelOptions) -> Result<Channel, ChannelError> {
    let endpoint = endpoint("localhost", options)?;
    let text = path.display().to_string();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| refuse(&text, &error))
}

fn endpoint(address: &str, options: ChannelOptions) -> Result<Endpoint, ChannelError> {
    // The scheme is always `http`: TLS is the connector's business.
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|_| ChannelError::Address {
            address: address.to_owned(),
        })?;
    Ok(endpoint
        .connect_timeout(options.connect)
        .http2_keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20))
}

fn refuse(address: &str, error: &tonic::transport::Error) -> ChannelError {
    ChannelError::Connect {
        address: address.to_owned(),
        reason: verify::reason(error),
    }
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}
