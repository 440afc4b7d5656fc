//! The listening side: handshakes run beside the accept loop, so a slow peer delays nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::Instrument;

use malla_model::SpiffeId;
use malla_runtime::admission::{Admission, Guarded, Keeper, Limits};
use malla_runtime::log::Throttle;
use malla_runtime::task::{AbortOnDrop, TaskSet};

use crate::verify::{self, PeerNames};

/// Who is at the other end; an extension of every tonic request.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    pub remote: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The peer's chain, verified in the handshake; empty for an anonymous peer.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The names in the first of them.
    pub names: Option<Arc<PeerNames>>,
    /// Keeps the connection. Whoever accepts the peer's proof of identity has to, where
    /// [`AcceptLimits::idle`] is set.
    pub keeper: Keeper,
}

impl PeerInfo {
    /// The workload the peer has proved to be.
    #[must_use]
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.names.as_ref()?.spiffe_id.as_ref()
    }
}

/// Bounds of the accepting side.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    pub handshake: Duration,
    /// Connections at a time. Of those that have not been kept, some make room for new ones.
    pub connections: usize,
    /// Connections of one IP address that have not been kept.
    pub unproven_per_peer: usize,
    /// A connection that has not been kept is closed after this time.
    pub idle: Option<Duration>,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connections: 16_384,
            unproven_per_peer: 1024,
            idle: None,
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub enum ServerIo {
    Tls(Box<TlsStream<Guarded<TcpStream>>>, PeerInfo),
    Plain(Box<Guarded<TcpStream>>, PeerInfo),
}

impl Connected for ServerIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        match self {
            Self::Tls(_, info) | Self::Plain(_, info) => info.clone(),
        }
    }
}

/// Accepted connections, for tonic's `serve_with_incoming`. Dropping it stops accepting.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<io::Result<ServerIo>>,
    _accepting: AbortOnDrop<()>,
}

impl Stream for Incoming {
    type Item = io::Result<ServerIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx)
    }
}

/// Accepts on `listener`: TLS with `config`, or plain text without.
#[must_use]
pub fn incoming(
    listener: TcpListener,
    config: Option<Arc<ServerConfig>>,
    limits: AcceptLimits,
) -> Incoming {
    let (sender, connections) = mpsc::channel(16);
    let acceptor = config.map(TlsAcceptor::from);
    let span = tracing::info_span!("accept", listener = ?listener.local_addr().ok());
    Incoming {
        connections,
        _accepting: AbortOnDrop::spawn(span, accept_loop(listener, acceptor, limits, sender)),
    }
}

async fn accept_loop(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    limits: AcceptLimits,
    sender: mpsc::Sender<io::Result<ServerIo>>,
) {
    let admission = Admission::new(Limits {
        total: limits.connections,
        per_peer: limits.unproven_per_peer,
        idle: limits.idle,
    });
    let warnings = Arc::new(Throttle::default());
    let mut handshakes = TaskSet::new();
    loop {
        let (stream, remote) = admission.accept(&listener).await;
        let (acceptor, sender, warnings) = (acceptor.clone(), sender.clone(), warnings.clone());
        let handshake = async move {
            match tokio::time::timeout(limits.handshake, shake(acceptor, stream, remote)).await {
                Ok(Ok(io)) => {
                    // The server has gone when this fails, and so does the connection.
                    let _ = sender.send(Ok(io)).await;
                }
                Ok(Err(error)) => {
                    if let Some(skipped) = warnings.allow(&remote.ip().to_string()) {
                        let reason = verify::reason(&error);
                        tracing::info!(%remote, reason, skipped, "TLS handshake failed");
                    }
                }
                Err(_) => tracing::debug!(%remote, "TLS handshake timed out"),
            }
        };
        handshakes.spawn(tracing::Span::none(), handshake.in_current_span());
    }
}

async fn shake(
    acceptor: Option<TlsAcceptor>,
    stream: Guarded<TcpStream>,
    remote: SocketAddr,
) -> io::Result<ServerIo> {
    stream.get_ref().set_nodelay(true)?;
    let keeper = stream.keeper();
    let Some(acceptor) = acceptor else {
        let info = PeerInfo {
            remote,
            tls: false,
            certificates: Arc::new([]),
            names: None,
            keeper,
        };
        return Ok(ServerIo::Plain(Box::new(stream), info));
    };
    let stream = acceptor.accept(stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain
        .first()
        .map(PeerNames::from_certificate)
        .transpose()
        .map_err(io::Error::other)?;
    let info = PeerInfo {
        remote,
        tls: true,
        certificates: chain.iter().map(|der| der.clone().into_owned()).collect(),
        names: names.map(Arc::new),
        keeper,
    };
    Ok(ServerIo::Tls(Box::new(stream), info))
}

impl AsyncRead for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(io, _) => Pin::new(io).poll_read(cx, buffer),
            Self::Plain(io, _) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(io, _) => Pin::new(io).poll_write(cx, bytes),
            Self::Plain(io, _) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(io, _) => Pin::new(io).poll_flush(cx),
            Self::Plain(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(io, _) => Pin::new(io).poll_shutdown(cx),
            Self::Plain(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
