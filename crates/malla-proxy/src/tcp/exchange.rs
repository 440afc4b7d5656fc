//! Proxies tell each other who they are before the bytes they pass on: Istio's TCP metadata exchange.
//!
//! Where the handshake has agreed on it, each side begins with a number that says so, a length, and an `Any` with a
//! `Struct`. Both write before they read, so neither waits for the other.
//!
//! Invariant: nothing of it reaches an application, and nothing of an application's is lost: bytes that turn out to be no
//! preamble are given back.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::filter_chain::NetworkFilter;
use malla_proxy_config::peer_metadata::MetadataExchange;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::connection::Connection;
use crate::peers::{KnownPeer, MAGIC, MOST_METADATA, Peers};
use crate::transport::Io;
use crate::upstream::connect::Connected;
use crate::worker::Worker;

/// A proxy that has agreed on a preamble sends it at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the other side began with.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) peer: Option<Rc<KnownPeer>>,
    /// Bytes that were no preamble, to be passed on.
    pub(super) rest: Vec<u8>,
}

/// Learns who calls, if the client's proxy has agreed to tell.
///
/// # Errors
/// When the connection fails, or the other side says nothing for long.
pub(super) async fn with_client(
    worker: &Worker,
    io: &mut Io,
    connection: &Connection,
) -> io::Result<Told> {
    let alpn = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let mut filters = connection.chain.filters.iter();
    let config = filters.find_map(|filter| match filter {
        NetworkFilter::MetadataExchange(config) => Some(&**config),
        _ => None,
    });
    exchange(worker, io, config, alpn).await
}

/// Learns who is called, likewise. This takes a round trip before the client's first bytes go on.
///
/// # Errors
/// As for [`with_client`].
pub(super) async fn with_server(
    worker: &Worker,
    upstream: &mut Connected,
    cluster: &Cluster,
) -> io::Result<Told> {
    let alpn = upstream.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    exchange(worker, &mut upstream.io, cluster.exchange.as_ref(), alpn).await
}

async fn exchange(
    worker: &Worker,
    io: &mut Io,
    config: Option<&MetadataExchange>,
    alpn: Option<&str>,
) -> io::Result<Told> {
    let Some(config) = config.filter(|config| alpn == Some(&config.protocol)) else {
        return Ok(Told::default());
    };
    let metrics = worker.metrics();
    let work = async {
        io.write_all(&metrics.own.preamble(&config.labels)).await?;
        io.flush().await?;
        listen(io, &metrics.peers).await
    };
    timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn listen(io: &mut (impl AsyncRead + Unpin), peers: &Peers) -> io::Result<Told> {
    let mut head = [0; 8];
    let mut read = 0;
    while let Some(left) = head.get_mut(read..).filter(|left| !left.is_empty()) {
        let more = io.read(left).await?;
        read += more;
        let have = head.get(..read.min(MAGIC.len())).unwrap_or_default();
        if more == 0 || !MAGIC.starts_with(have) {
            return Ok(Told {
                peer: None,
                rest: head.get(..read).unwrap_or_default().to_vec(),
            });
        }
    }
    let [.., a, b, c, d] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MOST_METADATA {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut any = vec![0; length];
    io.read_exact(&mut any).await?;
    Ok(Told {
        peer: peers.of_preamble(&any),
        rest: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::core::Node;

    use super::{MAGIC, MOST_METADATA, listen};
    use crate::peers::{Own, Peers};

    async fn heard(bytes: &[u8]) -> std::io::Result<(bool, Vec<u8>)> {
        let mut from = bytes;
        let told = listen(&mut from, &Peers::default()).await?;
        assert!(told.rest.is_empty() || told.peer.is_none());
        let rest = [told.rest, from.to_vec()].concat();
        Ok((told.peer.is_some(), rest))
    }

    #[tokio::test]
    async fn a_preamble_is_taken_and_what_follows_is_left() {
        let preamble = Own::from_node(&Node::default()).preamble(&[]);
        let all = [&preamble, &b"hello"[..]].concat();
        assert_eq!(heard(&all).await.unwrap(), (true, b"hello".to_vec()));
        let empty = [&MAGIC[..], &[0; 4], b"hello"].concat();
        assert_eq!(heard(&empty).await.unwrap(), (false, b"hello".to_vec()));
    }

    #[tokio::test]
    async fn what_is_no_preamble_is_given_back() {
        for bytes in [
            &b""[..],
            b"G",
            b"GET / HTTP",
            &MAGIC[..3],
            b"\x3d\x23xx and more",
        ] {
            assert_eq!(heard(bytes).await.unwrap(), (false, bytes.to_vec()));
        }
    }

    #[tokio::test]
    async fn a_length_is_believed_up_to_a_point() {
        let length = u32::try_from(MOST_METADATA + 1).unwrap().to_be_bytes();
        assert!(
            heard(&[&MAGIC[..], &length, &[0; 100]].concat())
                .await
                .is_err()
        );
        assert!(
            heard(&[&MAGIC[..], &[0, 0, 1, 0], &[0; 100]].concat())
                .await
                .is_err(),
            "cut short"
        );
    }
}
