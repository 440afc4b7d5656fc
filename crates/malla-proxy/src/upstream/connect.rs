//! Opens connections to endpoints: socket options, PROXY header, TLS, one timeout over all of it.
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use malla_proxy_config::Snapshot;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, ProxyProtocolVersion, Transport, UpstreamProtocol};
use malla_proxy_config::listener::TcpKeepalive;
use malla_runtime::socket::{ConnectOptions, Keepalive, SocketError};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::host::Host;
use super::{SendError, UpstreamTlsInfo};
use crate::connection::Connection;
use crate::tls::TlsSetup;
use crate::tls::connect::{ConnectError, Connector};
use crate::transport::{Io, Socket};

/// What a connection is for; decides the ALPN offered where the configuration names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    Tcp,
    Http1,
    Http2,
    /// ALPN decides between the two.
    HttpAny,
}

impl Purpose {
    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &[],
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::HttpAny => &["h2", "http/1.1"],
        }
    }

    /// The purpose of a connection for a request of this version.
    pub fn of(protocol: UpstreamProtocol, version: http::Version) -> Self {
        match protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
            UpstreamProtocol::Alpn => Self::HttpAny,
            UpstreamProtocol::Downstream if version == http::Version::HTTP_2 => Self::Http2,
            UpstreamProtocol::Downstream => Self::Http1,
        }
    }
}

/// The TLS connectors of one cluster, made when first used.
#[derive(Debug)]
pub struct Connectors {
    setup: TlsSetup,
    /// The default transport, then each of `transport_matches`; by purpose.
    slots: Vec<[OnceLock<Option<Connector>>; 4]>,
}

impl Connectors {
    pub fn new(cluster: &Cluster, setup: TlsSetup) -> Self {
        let slots = (0..=cluster.transport_matches.len())
            .map(|_| Default::default())
            .collect();
        Self { setup, slots }
    }

    fn get(
        &self,
        transport: &Transport,
        index: Option<u16>,
        purpose: Purpose,
    ) -> Option<&Connector> {
        let slot = self
            .slots
            .get(index.map_or(0, |index| usize::from(index) + 1))?;
        let make = || {
            let tls = transport.tls.as_ref()?;
            Some(Connector::new(
                Arc::clone(tls),
                self.setup.clone(),
                purpose.alpn(),
            ))
        };
        slot.get(purpose as usize)?.get_or_init(make).as_ref()
    }
}

/// A connection that is ready for bytes.
#[derive(Debug)]
pub struct Connected {
    pub io: Io,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub tls: Option<Rc<UpstreamTlsInfo>>,
}

/// What the TLS handshake takes from the request (`auto_sni`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RequestName {
    pub sni: Option<Arc<str>>,
    pub check: bool,
}

/// Why no connection came about.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Envoy's transport failure reason; empty after a timeout.
    pub reason: Arc<str>,
    pub kind: FailureKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Refused,
    Timeout,
    Tls {
        verification: bool,
    },
    /// The own address could not be bound.
    Bind,
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        Self::Connect {
            reason: failure.reason.to_string(),
            timeout: failure.kind == FailureKind::Timeout,
        }
    }
}

/// Connects to `host`. `downstream` is needed for PROXY headers.
pub async fn connect(
    cluster: &Cluster,
    connectors: &Connectors,
    host: &Host,
    purpose: Purpose,
    name: &RequestName,
    downstream: Option<&Connection>,
    snapshot: &Snapshot,
) -> Result<Connected, Failure> {
    let work = establish(
        cluster, connectors, host, purpose, name, downstream, snapshot,
    );
    match timeout(cluster.connect_timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure {
            reason: Arc::from(""),
            kind: FailureKind::Timeout,
        }),
    }
}

async fn establish(
    cluster: &Cluster,
    connectors: &Connectors,
    host: &Host,
    purpose: Purpose,
    name: &RequestName,
    downstream: Option<&Connection>,
    snapshot: &Snapshot,
) -> Result<Connected, Failure> {
    let mut socket = open(cluster, &host.endpoint.address).await?;
    let (local, remote) = (socket.local(), socket.peer());
    let transport = match host.transport {
        Some(index) => cluster
            .transport_matches
            .get(usize::from(index))
            .map_or(&cluster.transport, |m| &m.transport),
        None => &cluster.transport,
    };
    if let (Some(version), Some(downstream)) = (transport.proxy_protocol, downstream) {
        let header = proxy_header(version, downstream.remote, downstream.local);
        socket
            .write_all(&header)
            .await
            .map_err(|error| refused(&error))?;
    }
    let Some(connector) = connectors.get(transport, host.transport, purpose) else {
        return Ok(Connected {
            io: Io::Plain(socket),
            local,
            remote,
            tls: None,
        });
    };
    let sni = connector.server_name(&host.endpoint.hostname, name.sni.as_deref());
    let (stream, info) = connector
        .connect(socket, sni, name.check, snapshot)
        .await
        .map_err(|error| tls_failure(&error))?;
    Ok(Connected {
        io: Io::Tls(stream),
        local,
        remote,
        tls: Some(info),
    })
}

async fn open(cluster: &Cluster, address: &Address) -> Result<Socket, Failure> {
    match address {
        Address::Socket(address) => {
            let options = ConnectOptions {
                source: cluster
                    .bind
                    .map(|bind| bind.source)
                    .filter(|source| source.is_ipv4() == address.is_ipv4()),
                keepalive: cluster.keepalive.map(keepalive),
                ..ConnectOptions::default()
            };
            let stream = malla_runtime::socket::connect(*address, options)
                .await
                .map_err(|error| {
                    let kind = match &error {
                        SocketError::Connect { .. } if !is_bind(error.io()) => FailureKind::Refused,
                        _ => FailureKind::Bind,
                    };
                    Failure {
                        kind,
                        ..refused(error.io())
                    }
                })?;
            Ok(Socket::Tcp(stream))
        }
        Address::Pipe(path) => UnixStream::connect(path)
            .await
            .map(Socket::Unix)
            .map_err(|error| refused(&error)),
        // DNS clusters hand out resolved addresses only.
        Address::Name { host, .. } => Err(refused(&io::Error::other(format!(
            "{host} is not resolved"
        )))),
    }
}

fn is_bind(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    )
}

fn refused(error: &io::Error) -> Failure {
    let text = match error.raw_os_error() {
        // `strerror` alone, as Envoy words it.
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    };
    Failure {
        reason: format!("delayed connect error: {text}").into(),
        kind: FailureKind::Refused,
    }
}

fn tls_failure(error: &ConnectError) -> Failure {
    Failure {
        reason: error.reason().into(),
        kind: FailureKind::Tls {
            verification: error.is_verification(),
        },
    }
}

/// Linux's defaults where the configuration gives none.
const KEEPALIVE_TIME: Duration = Duration::from_secs(7200);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEPALIVE_PROBES: u32 = 9;

/// The socket option for a configured keep-alive.
pub fn keepalive(config: TcpKeepalive) -> Keepalive {
    Keepalive {
        time: config.time.unwrap_or(KEEPALIVE_TIME),
        interval: config.interval.unwrap_or(KEEPALIVE_INTERVAL),
        probes: config.probes.unwrap_or(KEEPALIVE_PROBES),
    }
}

/// A PROXY protocol header (HAProxy's specification, sections 2.1 and 2.2).
fn proxy_header(
    version: ProxyProtocolVersion,
    source: SocketAddr,
    destination: SocketAddr,
) -> Vec<u8> {
    let same_family = source.is_ipv4() == destination.is_ipv4();
    match version {
        ProxyProtocolVersion::V1 if !same_family => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyProtocolVersion::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!(
                "PROXY {family} {from} {to} {} {}\r\n",
                source.port(),
                destination.port()
            )
            .into_bytes()
        }
        ProxyProtocolVersion::V2 => {
            let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            match (source, destination) {
                (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                    out.extend([0x21, 0x11, 0, 12]);
                    out.extend(from.ip().octets());
                    out.extend(to.ip().octets());
                }
                (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                    out.extend([0x21, 0x21, 0, 36]);
                    out.extend(from.ip().octets());
                    out.extend(to.ip().octets());
                }
                _ => {
                    out.extend([0x20, 0, 0, 0]); // LOCAL: mixed families cannot be said.
                    return out;
                }
            }
            out.extend(source.port().to_be_bytes());
            out.extend(destination.port().to_be_bytes());
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::proxy_header;
    use crate::listener::sniff::{ProxyHeader, Verdict, inspect_proxy_protocol};
    use malla_proxy_config::cluster::ProxyProtocolVersion::{V1, V2};

    #[test]
    fn our_own_inspector_reads_the_headers_back() {
        for (source, destination) in [
            ("192.0.2.1:5000", "10.0.0.1:80"),
            ("[2001:db8::1]:5000", "[::1]:80"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for version in [V1, V2] {
                let header = proxy_header(version, source, destination);
                let want = ProxyHeader {
                    addresses: Some((source, destination)),
                    length: header.len(),
                };
                assert_eq!(
                    inspect_proxy_protocol(&header),
                    Verdict::Is(want),
                    "{version:?}"
                );
            }
        }
    }
}
