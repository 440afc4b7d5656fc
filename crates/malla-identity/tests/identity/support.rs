//! What the identity tests share: authorities, credentials, and a handshake in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_identity::authority::Authority;
use malla_identity::bundle::TrustBundle;
use malla_identity::credential::Credential;
use malla_identity::csr;
use malla_identity::key::PrivateKey;
use malla_identity::source::CertSource;
use malla_identity::verify::reason;
use malla_model::SpiffeId;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn provider() -> Arc<CryptoProvider> {
    malla_identity::default_provider()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn cart() -> SpiffeId {
    id("spiffe://cluster.local/ns/base/sa/cart")
}

pub(crate) fn authority() -> Authority {
    Authority::self_signed("cluster.local", SystemTime::now()).unwrap()
}

/// A credential for `id`, valid for `ttl` from `now` on.
pub(crate) fn certify(
    authority: &Authority,
    id: &SpiffeId,
    ttl: Duration,
    now: SystemTime,
) -> Arc<Credential> {
    let key = PrivateKey::generate().unwrap();
    let request = csr::request(&key, id).unwrap();
    let request = csr::Request::from_pem(request.as_bytes()).unwrap();
    let chain = authority.certify(&request, id, ttl, now).unwrap();
    Arc::new(Credential::new(chain, key.to_der(), &provider()).unwrap())
}

pub(crate) fn bundle(authority: &Authority) -> TrustBundle {
    TrustBundle::new(authority.roots().to_vec()).unwrap()
}

/// A workload of the mesh: certified for a day, trusting its own authority.
pub(crate) fn workload(authority: &Authority, id: &SpiffeId) -> CertSource {
    let credential = certify(authority, id, DAY, SystemTime::now());
    CertSource::fixed(Some(credential), bundle(authority))
}

/// How a handshake ended, at either side.
pub(crate) struct Handshake {
    pub(crate) client: Result<rustls::HandshakeKind, String>,
    pub(crate) server: Result<(), String>,
}

/// Shakes hands over memory; a server's refusal reaches a TLS 1.3 client with the first byte.
pub(crate) async fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Handshake {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(client.clone());
    let acceptor = TlsAcceptor::from(server.clone());
    let name = "istiod.istio-system.svc".try_into().unwrap();
    let calling = async {
        let mut stream = connector
            .connect(name, near)
            .await
            .map_err(|e| reason(&e))?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(|e| reason(&e))?;
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let answering = async {
        let mut stream = acceptor.accept(far).await.map_err(|e| reason(&e))?;
        stream.write_all(b"!").await.map_err(|e| reason(&e))?;
        stream.flush().await.map_err(|e| reason(&e))?;
        let _ = stream.shutdown().await;
        Ok(())
    };
    let (client, server) = tokio::join!(calling, answering);
    Handshake { client, server }
}
