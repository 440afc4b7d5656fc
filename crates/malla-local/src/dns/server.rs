//! Listens for DNS queries inside the node's network namespace, over UDP and TCP.
//!
//! Invariants: names of the cluster are answered on the spot; forwarded ones occupy one task each,
//! and never more than [`MOST_TASKS`]; malformed datagrams are dropped or answered FORMERR, never
//! believed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::forward::{self, Forwarder};
use super::zone::{Answer, Zone};
use crate::net::Namespace;

/// Queries and connections served at a time.
const MOST_TASKS: usize = 512;
/// Largest datagram offered and sent (DNS flag day 2020), and the largest without EDNS (RFC 1035).
const EDNS_SIZE: u16 = 1232;
const PLAIN_SIZE: u16 = 512;
/// A TCP client may be silent this long.
const IDLE: Duration = Duration::from_secs(10);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct DnsServer {
    _udp: AbortOnDropHandle<()>,
    _tcp: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    zone: Arc<ArcSwap<Zone>>,
    forwarder: Forwarder,
    slots: Arc<Semaphore>,
}

impl DnsServer {
    /// Binds `at` inside `namespace` and serves `zone`.
    pub(crate) async fn start(
        namespace: &Namespace,
        at: SocketAddr,
        zone: Arc<ArcSwap<Zone>>,
    ) -> io::Result<Self> {
        let udp = namespace.datagrams(at).await?;
        let tcp = TcpListener::from_std(namespace.listen(at).await?)?;
        let shared = Arc::new(Shared {
            zone,
            forwarder: Forwarder::new(RESOLV_CONF),
            slots: Arc::new(Semaphore::new(MOST_TASKS)),
        });
        let datagrams = serve_datagrams(Arc::new(udp), Arc::clone(&shared));
        Ok(Self {
            _udp: AbortOnDropHandle::new(tokio::spawn(datagrams)),
            _tcp: AbortOnDropHandle::new(tokio::spawn(serve_streams(tcp, shared))),
        })
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut waiting = JoinSet::new();
    loop {
        let (length, peer) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer.
                Err(_) => continue,
            },
            Some(_) = waiting.join_next() => continue,
        };
        let Some(query) = parse(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        let query = match query {
            Ok(query) => query,
            Err(refusal) => {
                send(&socket, peer, &refusal, PLAIN_SIZE).await;
                continue;
            }
        };
        let size = query.edns.as_ref().map_or(PLAIN_SIZE, |edns| {
            edns.max_payload().clamp(PLAIN_SIZE, EDNS_SIZE)
        });
        match shared.zone.load().answer(&query) {
            Answer::Reply(reply) => send(&socket, peer, &with_edns(reply, &query), size).await,
            later => {
                let Ok(slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
                    let busy = super::zone::reply_to(&query, ResponseCode::ServFail);
                    send(&socket, peer, &busy, size).await;
                    continue;
                };
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                waiting.spawn(async move {
                    let _slot = slot;
                    let reply = shared.resolve(later, &query, false).await;
                    send(&socket, peer, &with_edns(reply, &query), size).await;
                });
            }
        }
    }
}

async fn serve_streams(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
                    continue;
                };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = serve_stream(stream, &shared).await {
                        tracing::trace!(%error, "a DNS connection broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the DNS server could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let Ok(length) = timeout(IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut bytes = vec![0; usize::from(length?)];
        timeout(IDLE, stream.read_exact(&mut bytes)).await??;
        let reply = match parse(&bytes) {
            None => return Ok(()),
            Some(Err(refusal)) => refusal,
            Some(Ok(query)) => {
                let answer = shared.zone.load().answer(&query);
                with_edns(shared.resolve(answer, &query, true).await, &query)
            }
        };
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
            .await?;
    }
}

impl Shared {
    async fn resolve(&self, answer: Answer, query: &Message, over_tcp: bool) -> Message {
        match answer {
            Answer::Reply(reply) => reply,
            Answer::Forward => self.forwarder.ask(query, over_tcp).await,
            Answer::Alias { reply, target } => {
                let kind = query
                    .queries
                    .first()
                    .map(hickory_proto::op::Query::query_type);
                let Some(kind) = kind else {
                    return reply;
                };
                self.forwarder
                    .resolve_alias(reply, forward::about(target, kind))
                    .await
            }
        }
    }
}

/// A query, or what to answer to something that is none; `None`: not worth an answer.
pub(super) fn parse(bytes: &[u8]) -> Option<Result<Message, Message>> {
    if let Ok(query) = Message::from_vec(bytes) {
        return Some(Ok(query));
    }
    let (id, flags) = match bytes {
        [a, b, flags, ..] if bytes.len() >= 12 => (u16::from_be_bytes([*a, *b]), *flags),
        _ => return None,
    };
    let is_answer = flags & 0x80 != 0;
    let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    (!is_answer).then_some(Err(refusal))
}

/// Answers EDNS with EDNS (RFC 6891 §6.1.1).
pub(super) fn with_edns(mut reply: Message, query: &Message) -> Message {
    if query.edns.is_some() && reply.edns.is_none() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_SIZE);
        reply.set_edns(edns);
    }
    if query.edns.is_none() {
        reply.edns = None;
    }
    reply
}

/// A datagram; what does not fit into `size` is cut, so that the client asks again over TCP.
pub(super) fn encode(reply: &Message, size: u16) -> Result<Vec<u8>, ProtoError> {
    let bytes = reply.to_vec()?;
    if bytes.len() <= usize::from(size) {
        return Ok(bytes);
    }
    let mut short = reply.truncate();
    short.metadata.truncation = true;
    let bytes = short.to_vec()?;
    if bytes.len() <= usize::from(size) {
        return Ok(bytes);
    }
    // Only a query of many questions comes here, and it was refused.
    short.queries.clear();
    short.to_vec()
}

async fn send(socket: &UdpSocket, peer: SocketAddr, reply: &Message, size: u16) {
    match encode(reply, size) {
        Ok(bytes) => {
            if let Err(error) = socket.send_to(&bytes, peer).await {
                tracing::trace!(%error, %peer, "a DNS answer was not sent");
            }
        }
        Err(error) => tracing::debug!(%error, "a DNS answer cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::{PLAIN_SIZE, encode};
    use crate::dns::zone::reply_to;

    #[test]
    fn an_answer_fits_whatever_was_asked() {
        let mut query = Message::query();
        for host in 0..100 {
            let name = Name::from_utf8(format!("host-{host}.example.com.")).unwrap();
            query.add_query(Query::query(name, RecordType::A));
        }
        let bytes = encode(&reply_to(&query, ResponseCode::FormErr), PLAIN_SIZE).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= usize::from(PLAIN_SIZE));
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    }
}
