//! Names that are not of the cluster: asked of the machine's resolvers.
//!
//! Answers are relayed as they came, and kept for a short time. Invariant: an answer is taken only
//! if its id and question are those asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

/// How long one resolver is waited for, and how often all are tried.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Resolvers used: glibc's MAXNS.
const MOST_RESOLVERS: usize = 3;
/// Answers are kept for at most this long, whatever their time to live.
const KEEP: Duration = Duration::from_secs(30);
const MOST_KEPT: usize = 1024;
const LARGEST: usize = 4096;

/// Asks the machine's resolvers.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolv_conf: &'static str,
    kept: Mutex<HashMap<Query, (Instant, Message)>>,
}

impl Forwarder {
    /// Reads the resolvers from `resolv_conf` each time it asks: networks change.
    pub(super) fn new(resolv_conf: &'static str) -> Self {
        Self {
            resolv_conf,
            kept: Mutex::default(),
        }
    }

    /// Answers a query, over TCP if the client came over TCP. `SERVFAIL` when no resolver does.
    pub(super) async fn ask(&self, query: &Message, over_tcp: bool) -> Message {
        let fail = || super::zone::reply_to(query, ResponseCode::ServFail);
        let Some(question) = query.queries.first() else {
            return fail();
        };
        if let Some(mut known) = self.known(question) {
            known.metadata.id = query.metadata.id;
            return known;
        }
        let text = std::fs::read_to_string(self.resolv_conf).unwrap_or_default();
        let resolvers = resolvers(&text);
        for _ in 0..ROUNDS {
            for resolver in &resolvers {
                match timeout(PATIENCE, ask_one(*resolver, query, over_tcp)).await {
                    Ok(Ok(answer)) => {
                        self.keep(question, &answer);
                        return answer;
                    }
                    Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver failed"),
                    Err(_) => tracing::debug!(%resolver, "a resolver did not answer"),
                }
            }
        }
        fail()
    }

    /// The records of an alias's target, appended to `reply`.
    pub(super) async fn resolve_alias(&self, mut reply: Message, target: Query) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(target);
        let answer = self.ask(&query, false).await;
        reply.metadata.response_code = answer.metadata.response_code;
        reply.add_answers(answer.answers);
        reply
    }

    fn known(&self, question: &Query) -> Option<Message> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = kept.get(question)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, question: &Query, answer: &Message) {
        let ttls = answer
            .answers
            .iter()
            .chain(&answer.authorities)
            .map(|record| record.ttl);
        let Some(ttl) = ttls.min().filter(|_| !answer.metadata.truncation) else {
            return;
        };
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() < MOST_KEPT {
            let until = now + Duration::from_secs(ttl.into()).min(KEEP);
            kept.insert(question.clone(), (until, answer.clone()));
        }
    }
}

async fn ask_one(resolver: SocketAddr, query: &Message, over_tcp: bool) -> io::Result<Message> {
    let mut asked = query.clone();
    asked.metadata.id = rand::random();
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    let answer = if over_tcp {
        over_stream(resolver, &bytes).await?
    } else {
        over_datagrams(resolver, &bytes).await?
    };
    let mut answer = Message::from_vec(&answer).map_err(io::Error::other)?;
    if answer.metadata.id != asked.metadata.id || answer.queries != asked.queries {
        return Err(io::Error::other("the answer is to another question"));
    }
    answer.metadata.id = query.metadata.id;
    Ok(answer)
}

async fn over_datagrams(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket takes datagrams of its peer only.
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LARGEST];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn over_stream(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), query].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The `nameserver` lines of a resolv.conf.
pub(super) fn resolvers(text: &str) -> Vec<SocketAddr> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| {
        // A zone index (`fe80::1%eth0`) cannot be used without its number.
        rest.trim().parse::<IpAddr>().ok()
    });
    addresses
        .take(MOST_RESOLVERS)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// A question of the same class and type about another name.
pub(super) fn about(target: hickory_proto::rr::Name, kind: RecordType) -> Query {
    Query::query(target, kind)
}

#[cfg(test)]
mod tests {
    use super::resolvers;

    #[test]
    fn resolvers_are_read_as_by_the_c_library() {
        let text = "# local\nsearch x\nnameserver 127.0.0.53\n nameserver\t::1 \nnameserver fe80::1%eth0\n\
                    nameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53", "1.1.1.1:53"]);
    }
}
