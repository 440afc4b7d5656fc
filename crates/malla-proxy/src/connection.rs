//! What is known about an accepted connection before its first request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use malla_proxy_config::filter_chain::FilterChain;
use malla_proxy_config::listener::Listener;
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
    pub local: SocketAddr,
    /// The socket's own local address.
    pub direct_local: SocketAddr,
    /// True if `local` is a restored original destination.
    pub local_restored: bool,
    /// The client: from the PROXY protocol if used, else the peer.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// SNI, from the handshake or from the TLS inspector; lower case.
    pub server_name: Option<Arc<str>>,
    /// The finished handshake; `None` on plain text.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub accepted: Instant,
    /// The same moment by the wall clock.
    pub accepted_at: SystemTime,
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
