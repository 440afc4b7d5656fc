//! Asks the system's name servers.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use malla_proxy_config::cluster::{DnsFamily, DnsResolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::sysconf::{self, ResolvConf};
use super::{SystemFiles, record_types};

/// TTL of addresses that do not come from DNS.
const STATIC_TTL: Duration = Duration::from_secs(30);
/// Largest UDP answer we take (RFC 6891's recommendation for EDNS, not announced here, is smaller).
const MAX_UDP: usize = 4096;

/// Addresses of a name, in the order given, and how long they may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("`{0}` is not a DNS name")]
    Name(String),
    #[error("no name server answered for `{name}` (tried {servers})")]
    Silent { name: String, servers: String },
}

/// Reads its settings anew for each name, so that a changed `resolv.conf` is followed.
#[derive(Debug)]
pub struct Resolver {
    files: SystemFiles,
    settings: Option<Arc<DnsResolver>>,
    /// The server to begin with, where they take turns.
    turn: AtomicUsize,
}

impl Resolver {
    pub fn new(files: SystemFiles, settings: Option<Arc<DnsResolver>>) -> Self {
        Self {
            files,
            settings,
            turn: AtomicUsize::new(0),
        }
    }

    /// The system's settings, and what is different from them.
    async fn conf(&self) -> ResolvConf {
        let text = tokio::fs::read_to_string(&self.files.resolv_conf).await;
        let mut conf = ResolvConf::parse(&text.unwrap_or_default());
        if let Some(settings) = &self.settings {
            conf.change(settings);
            if settings.rotate && !conf.servers.is_empty() {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % conf.servers.len();
                conf.servers.rotate_left(turn);
            }
        }
        conf
    }

    /// The addresses of `name` (which may be an address itself); none if there is no such name.
    pub async fn resolve(&self, name: &str, family: DnsFamily) -> Result<Answer, ResolveError> {
        if let Ok(ip) = name.parse() {
            return Ok(Answer {
                addresses: vec![ip],
                ttl: STATIC_TTL,
            });
        }
        let read = async |path| tokio::fs::read_to_string(path).await.unwrap_or_default();
        let (kinds, all) = record_types(family);
        let fits = |ip: &IpAddr| {
            kinds.contains(if ip.is_ipv4() {
                &RecordType::A
            } else {
                &RecordType::AAAA
            })
        };
        let listed = sysconf::hosts(&read(&self.files.hosts).await, name);
        let addresses: Vec<IpAddr> = listed.into_iter().filter(fits).collect();
        if !addresses.is_empty() {
            return Ok(Answer {
                addresses,
                ttl: STATIC_TTL,
            });
        }
        let conf = self.conf().await;
        let mut silent = true;
        for candidate in conf.candidates(name) {
            let full = Name::from_utf8(format!("{candidate}."))
                .map_err(|_| ResolveError::Name(candidate.clone()))?;
            let mut found: Option<Answer> = None;
            for &kind in kinds {
                match ask_servers(&conf, &full, kind).await {
                    Some(Some(answer)) => {
                        silent = false;
                        match &mut found {
                            Some(found) => {
                                found.addresses.extend(answer.addresses);
                                found.ttl = found.ttl.min(answer.ttl);
                            }
                            None => found = Some(answer),
                        }
                        if !all {
                            break;
                        }
                    }
                    Some(None) => silent = false,
                    None => {}
                }
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
        if silent {
            let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
            return Err(ResolveError::Silent {
                name: name.to_owned(),
                servers: servers.join(", "),
            });
        }
        Ok(Answer {
            addresses: Vec::new(),
            ttl: Duration::ZERO,
        })
    }
}

/// Asks each server in turn. `None`: nobody answered; `Some(None)`: an answer without addresses.
async fn ask_servers(conf: &ResolvConf, name: &Name, kind: RecordType) -> Option<Option<Answer>> {
    for _ in 0..conf.attempts {
        for &server in &conf.servers {
            let asking = async {
                if conf.tcp {
                    let (id, bytes) = question(name, kind)?;
                    return ask_tcp(server, &bytes, id).await;
                }
                ask(server, name, kind).await
            };
            let Ok(Ok(message)) = timeout(conf.timeout, asking).await else {
                continue;
            };
            match message.metadata.response_code {
                ResponseCode::NoError => return Some(addresses(&message)),
                ResponseCode::NXDomain => return Some(None),
                _ => {}
            }
        }
    }
    None
}

fn addresses(message: &Message) -> Option<Answer> {
    let records = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some((IpAddr::V4(a.0), record.ttl)),
            RData::AAAA(aaaa) => Some((IpAddr::V6(aaaa.0), record.ttl)),
            _ => None,
        });
    let (addresses, ttls): (Vec<IpAddr>, Vec<u32>) = records.unzip();
    let ttl = Duration::from_secs(u64::from(ttls.into_iter().min()?));
    Some(Answer { addresses, ttl })
}

/// The addresses in a server's bytes and how long they hold, for `fuzz/`.
#[cfg(fuzzing)]
pub fn answered(bytes: &[u8]) -> Option<(usize, Duration)> {
    let found = addresses(&Message::from_vec(bytes).ok()?)?;
    Some((found.addresses.len(), found.ttl))
}

/// A question and its number.
fn question(name: &Name, kind: RecordType) -> std::io::Result<(u16, Vec<u8>)> {
    let id = rand::random();
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    Ok((id, query.to_vec().map_err(std::io::Error::other)?))
}

async fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Message> {
    let (id, bytes) = question(name, kind)?;
    let own: SocketAddr = SocketAddr::new(malla_runtime::socket::unspecified_like(server.ip()), 0);
    let socket = UdpSocket::bind(own).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; MAX_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        // Someone else's answer: a stray or forged datagram must not end the wait.
        let ours =
            answer.metadata.id == id && answer.queries.first().map(Query::name) == Some(name);
        if !ours {
            continue;
        }
        return if answer.metadata.truncation {
            ask_tcp(server, &bytes, id).await
        } else {
            Ok(answer)
        };
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8], id: u16) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if answer.metadata.id == id {
        Ok(answer)
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::rdata::{A, AAAA};
    use hickory_proto::rr::{RData, Record, RecordType};
    use malla_proxy_config::cluster::DnsFamily;
    use tokio::net::UdpSocket;

    use super::{Name, addresses, ask};

    fn answer(query: &Message) -> Message {
        let mut reply = Message::new(
            query.metadata.id,
            MessageType::Response,
            query.metadata.op_code,
        );
        let question = query.queries[0].clone();
        let name = question.name().clone();
        let known = name.to_string() == "web.test.";
        match question.query_type() {
            RecordType::A if known => {
                for (ip, ttl) in [([10, 0, 0, 1], 20), ([10, 0, 0, 2], 7)] {
                    reply.add_answer(Record::from_rdata(
                        name.clone(),
                        ttl,
                        RData::A(A(ip.into())),
                    ));
                }
            }
            RecordType::AAAA if known => {
                reply.add_answer(Record::from_rdata(
                    name,
                    9,
                    RData::AAAA(AAAA("fd00::1".parse().unwrap())),
                ));
            }
            _ => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        reply.add_query(question);
        reply
    }

    #[tokio::test]
    async fn answers_carry_the_shortest_ttl() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                server.send_to(b"noise", peer).await.unwrap();
                server
                    .send_to(&answer(&query).to_vec().unwrap(), peer)
                    .await
                    .unwrap();
            }
        };
        let ask = async {
            let name = Name::from_utf8("web.test.").unwrap();
            let v4 = addresses(&ask(address, &name, RecordType::A).await.unwrap()).unwrap();
            assert_eq!(
                v4.addresses,
                [
                    "10.0.0.1".parse::<IpAddr>().unwrap(),
                    "10.0.0.2".parse().unwrap()
                ]
            );
            assert_eq!(v4.ttl, Duration::from_secs(7));
            let unknown = Name::from_utf8("other.test.").unwrap();
            let none = super::ask(address, &unknown, RecordType::A).await.unwrap();
            assert_eq!(addresses(&none), None);
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn addresses_resolve_to_themselves() {
        let resolver = super::Resolver::new(super::SystemFiles::default(), None);
        let answer = resolver
            .resolve("192.0.2.1", DnsFamily::Auto)
            .await
            .unwrap();
        assert_eq!(answer.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }
}
