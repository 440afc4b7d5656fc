//! The way out: TCP connections of pods to addresses that are not of the cluster.
//!
//! The node's namespace has no link to the host's network, which only root could change. So rules
//! hand such connections to a relay at the node's address, which makes them again from the host's
//! namespace. Anything but TCP stays inside; names are resolved by the cluster's DNS, which asks
//! the host's resolvers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::namespace::Namespace;

/// Where the relay listens at the node's address.
pub const EGRESS_PORT: u16 = 15499;
/// Connections relayed at a time.
const MOST: usize = 1024;
/// As long as Linux tries a connection by itself is too long to hold a pod's.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// The running relay; it ends when dropped.
#[derive(Debug)]
pub struct Egress(#[expect(dead_code, reason = "held for its drop")] AbortOnDropHandle<()>);

impl Egress {
    /// Listens at `at` inside the node's namespace.
    pub async fn start(node: &Namespace, at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::from_std(node.listen(at).await?)?;
        Ok(Self(AbortOnDropHandle::new(tokio::spawn(serve(
            listener, at,
        )))))
    }
}

async fn serve(listener: TcpListener, own: SocketAddr) {
    let slots = Arc::new(Semaphore::new(MOST));
    let mut relays = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = relays.join_next() => continue,
        };
        match accepted {
            Ok((pod, _)) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    reset(&pod);
                    continue;
                };
                relays.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = relay(pod, own).await {
                        tracing::debug!(%error, "a connection out of the cluster failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the relay out of the cluster could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn relay(mut pod: TcpStream, own: SocketAddr) -> io::Result<()> {
    let wanted = SockRef::from(&pod).original_dst_v4()?;
    let to = wanted
        .as_socket()
        .ok_or_else(|| io::Error::other("no original destination"))?;
    if to == own {
        reset(&pod);
        return Err(io::Error::other("a pod called the relay itself"));
    }
    let connected = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(to)).await;
    let mut outside = match connected {
        Ok(Ok(outside)) => outside,
        Ok(Err(error)) => {
            reset(&pod);
            return Err(io::Error::new(error.kind(), format!("{to}: {error}")));
        }
        Err(_) => {
            reset(&pod);
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{to}: no answer"),
            ));
        }
    };
    pod.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut pod, &mut outside).await?;
    Ok(())
}

/// Makes the coming close a reset: the nearest to "refused" once a connection was accepted.
pub(crate) fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::trace!(%error, "a connection is closed instead of reset");
    }
}
