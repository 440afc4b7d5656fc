//! What is known about an accepted connection before its first request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use malla_proxy_config::filter_chain::FilterChain;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::stream_state::StreamState;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::time::Instant;

/// One downstream connection; made by `listener`, read by `http`, `tcp`, `policy` and the access log.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Unique in this process, `%CONNECTION_ID%`.
    pub id: u64,
    /// The listener that took it.
    pub listener: Arc<Listener>,
    /// The chain that matched.
    pub chain: Arc<FilterChain>,
    /// Where the client believes it connected: the original destination if one was restored, else the socket's own.
    pub local: End,
    /// The socket's own local address.
    pub direct_local: End,
    /// True if `local` is a restored original destination.
    pub local_restored: bool,
    /// The client: from the PROXY protocol if used, else the peer.
    pub remote: End,
    /// The peer of the socket.
    pub direct_remote: End,
    /// SNI, from the handshake or from the TLS inspector; lower case.
    pub server_name: Option<Arc<str>>,
    /// The finished handshake; `None` on plain text.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub accepted: Instant,
    /// The same moment by the wall clock.
    pub accepted_at: SystemTime,
    /// Where connections to endpoints on its behalf come from, where that is not left to the cluster.
    pub origin: Option<Arc<Origin>>,
    /// A handle of the socket, where a log asks what the kernel has measured.
    pub socket: Option<Arc<OwnedFd>>,
    /// What network filters have noted of it.
    pub state: Option<Arc<StreamState>>,
}

/// The client's address as the source of connections to endpoints (`original_src`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Port 0 leaves the port to the system.
    pub source: SocketAddr,
    /// SO_MARK, where routes are to tell those connections.
    pub mark: Option<u32>,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A Unix socket: its path, or `@` and its abstract name. Clients have the listener's: they mostly have none.
    Unix(Arc<str>),
}

impl End {
    /// The IP address and the port, where there are some.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The IP address, where there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// The port, where there is one.
    pub fn port(&self) -> Option<u16> {
        self.socket().map(|address| address.port())
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(name) => name.fmt(f),
        }
    }
}

/// A finished downstream handshake.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// The client's certificate, if it gave one.
    pub peer: Option<Arc<PeerCertificate>>,
    /// True if that certificate was checked against trust anchors.
    pub peer_validated: bool,
    /// URI SANs of our own certificate (`By=` in XFCC, `%DOWNSTREAM_LOCAL_URI_SAN%`).
    pub local_uri_sans: Vec<Arc<str>>,
    /// DNS SANs of our own certificate.
    pub local_dns_sans: Vec<Arc<str>>,
    /// Subject of our own certificate, RFC 2253.
    pub local_subject: Arc<str>,
    /// Negotiated ALPN protocol.
    pub alpn: Option<Arc<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Suite name as OpenSSL writes it.
    pub cipher: &'static str,
    /// Name of the group the keys were agreed in, as BoringSSL writes it.
    pub group: &'static str,
    /// Our own certificate, for what logs tell of it.
    pub own: Option<Arc<CertifiedKey>>,
    /// When the client's first message was there, and when the handshake was over.
    pub handshake: Option<(Instant, Instant)>,
}

/// What a client certificate says.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// URI SANs; the first is the SPIFFE id in the mesh.
    pub uri_sans: Vec<Arc<str>>,
    /// DNS SANs.
    pub dns_sans: Vec<Arc<str>>,
    /// Subject, RFC 2253 order and escapes.
    pub subject: Arc<str>,
    /// Issuer, likewise.
    pub issuer: Arc<str>,
    /// Serial number, lower-case hex.
    pub serial: Arc<str>,
    /// SHA-256 of the DER, lower-case hex (`Hash=` in XFCC).
    pub sha256: Arc<str>,
    /// URL-encoded PEM of the leaf (`Cert=` in XFCC).
    pub pem: Arc<str>,
    /// URL-encoded PEM of the chain (`Chain=` in XFCC).
    pub chain_pem: Arc<str>,
    /// The chain itself, leaf first, for what only logs tell of it.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Validity.
    pub not_before: Option<SystemTime>,
    /// Validity.
    pub not_after: Option<SystemTime>,
}

impl Connection {
    /// The client's SPIFFE id or other first URI SAN, if it proved one.
    pub fn peer_uri(&self) -> Option<&str> {
        let peer = self.tls.as_ref()?.peer.as_ref()?;
        peer.uri_sans.first().map(|san| &**san)
    }
}
