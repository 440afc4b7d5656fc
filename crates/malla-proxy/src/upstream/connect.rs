//! Opens connections to endpoints: socket options, PROXY header, TLS, one timeout over all of it.
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use malla_proxy_config::Snapshot;
use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, ProxyProtocolVersion, Transport, UpstreamProtocol};
use malla_proxy_config::listener::TcpKeepalive;
use malla_runtime::socket::{ConnectOptions, Keepalive, SocketError, connect_with};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::host::Host;
use super::{Opened, SendError, UpstreamTlsInfo};
use crate::connection::{Connection, Origin};
use crate::listener::set_all;
use crate::tls::TlsSetup;
use crate::tls::connect::{ConnectError, Connector};
use crate::transport::{Io, Socket, unix_name};

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
    pub(super) fn alpn(self) -> &'static [&'static str] {
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
    /// How handshakes are set up.
    pub(super) fn setup(&self) -> &TlsSetup {
        &self.setup
    }

    pub fn new(cluster: &Cluster, setup: TlsSetup) -> Self {
        let slots = (0..=cluster.transport_matches.len())
            .map(|_| Default::default())
            .collect();
        Self { setup, slots }
    }

    pub(super) fn get(
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
    pub tls: Option<UpstreamTlsInfo>,
    pub opened: Opened,
}

/// What a connection takes from whom it is opened for: names for the TLS handshake (`auto_sni`), its source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RequestName {
    pub sni: Option<Arc<str>>,
    pub check: bool,
    /// In place of the cluster's own source.
    pub origin: Option<Arc<Origin>>,
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
    let transport = transport_of(cluster, host.transport);
    let target = Target {
        address: &host.endpoint.address,
        more: &host.endpoint.more_addresses,
        hostname: &host.endpoint.hostname,
        proxy_protocol: transport.proxy_protocol,
        ends: downstream
            .and_then(|downstream| Some((downstream.remote.socket()?, downstream.local.socket()?))),
        connector: connectors.get(transport, host.transport, purpose),
    };
    within(
        cluster.connect_timeout,
        target.establish(cluster, name, snapshot),
    )
    .await
}

/// The transport of an endpoint whose metadata chose `index`.
pub(super) fn transport_of(cluster: &Cluster, index: Option<u16>) -> &Transport {
    match index {
        Some(index) => cluster
            .transport_matches
            .get(usize::from(index))
            .map_or(&cluster.transport, |entry| &entry.transport),
        None => &cluster.transport,
    }
}

async fn within(
    limit: Duration,
    work: impl Future<Output = Result<Connected, Failure>>,
) -> Result<Connected, Failure> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure {
            reason: Arc::from(""),
            kind: FailureKind::Timeout,
        }),
    }
}

/// Where a connection goes, and what is said on it first.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) address: &'a Address,
    /// Tried beside it when it does not answer.
    pub(super) more: &'a [SocketAddr],
    pub(super) hostname: &'a str,
    pub(super) proxy_protocol: Option<ProxyProtocolVersion>,
    /// Source and destination for the PROXY header; `None` where the proxy speaks for itself.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    pub(super) connector: Option<&'a Connector>,
}

impl Target<'_> {
    /// Connects, says PROXY, shakes hands.
    pub(super) async fn establish(
        &self,
        cluster: &Cluster,
        name: &RequestName,
        snapshot: &Snapshot,
    ) -> Result<Connected, Failure> {
        let begun = Instant::now();
        let mut socket = open_any(cluster, self.address, self.more, name.origin.as_deref()).await?;
        let mut opened = Opened {
            begun,
            connected: Instant::now(),
            secured: None,
        };
        let (local, remote) = (socket.local(), socket.peer());
        if let Some(version) = self.proxy_protocol {
            let header = match self.ends {
                Some((source, destination)) => proxy_header(version, source, destination),
                None => own_header(version, local, remote),
            };
            socket
                .write_all(&header)
                .await
                .map_err(|error| refused(&error))?;
        }
        let Some(connector) = self.connector else {
            return Ok(Connected {
                io: Io::Plain(socket),
                local,
                remote,
                tls: None,
                opened,
            });
        };
        let sni = connector.server_name(self.hostname, name.sni.as_deref());
        let (stream, info) = connector
            .connect(socket, sni, name.check, snapshot)
            .await
            .map_err(|error| tls_failure(&error))?;
        opened.secured = Some(Instant::now());
        Ok(Connected {
            io: Io::Tls(stream),
            local,
            remote,
            tls: Some(info),
            opened,
        })
    }
}

/// Opens the first address that answers, the next one joining every [`ATTEMPT_DELAY`] or at a failure (RFC 8305).
async fn open_any(
    cluster: &Cluster,
    address: &Address,
    more: &[SocketAddr],
    origin: Option<&Origin>,
) -> Result<Socket, Failure> {
    let Address::Socket(first) = address else {
        return open(cluster, address, origin).await;
    };
    if more.is_empty() {
        return open(cluster, address, origin).await;
    }
    let mut left = interleaved(*first, more).into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut failed = None;
    loop {
        if let Some(next) = left.next() {
            under_way.push(async move { open(cluster, &Address::Socket(next), origin).await });
        } else if under_way.is_empty() {
            return Err(failed.unwrap_or_else(|| refused(&io::Error::other("no address"))));
        }
        let delay = async {
            match left.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(ATTEMPT_DELAY).await,
            }
        };
        tokio::select! {
            Some(result) = under_way.next() => match result {
                Ok(socket) => return Ok(socket),
                Err(failure) => failed = Some(failure),
            },
            () = delay => {}
        }
    }
}

/// Address families take turns, the first address's family first.
fn interleaved(first: SocketAddr, more: &[SocketAddr]) -> Vec<SocketAddr> {
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) = std::iter::once(first)
        .chain(more.iter().copied())
        .partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut out = Vec::with_capacity(more.len() + 1);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return out;
        }
        out.extend(pair.into_iter().flatten());
    }
}

pub(crate) async fn open(
    cluster: &Cluster,
    address: &Address,
    origin: Option<&Origin>,
) -> Result<Socket, Failure> {
    match address {
        Address::Socket(address) => {
            let bind = cluster.bind.as_ref();
            let source = bind.and_then(|bind| bind.source_for(*address));
            let options = ConnectOptions {
                source: origin.map(|origin| origin.source).or(source),
                transparent: origin.is_some(),
                mark: origin.and_then(|origin| origin.mark),
                freebind: bind.is_some_and(|bind| bind.freebind),
                keepalive: cluster.keepalive.map(keepalive),
            };
            let stream = connect_with(*address, options, |socket| {
                let wanted = bind.map_or(&[][..], |bind| &bind.options);
                set_all(socket, wanted)
            })
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
        Address::Pipe { path, .. } => UnixStream::connect(unix_name(path))
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

/// Between the starts of attempts at the addresses of one endpoint (RFC 8305 §5, Envoy's value).
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// The PROXY header of a connection of the proxy's own.
fn own_header(
    version: ProxyProtocolVersion,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
) -> Vec<u8> {
    match (version, local, remote) {
        (ProxyProtocolVersion::V1, Some(local), Some(remote)) => {
            proxy_header(version, local, remote)
        }
        (ProxyProtocolVersion::V1, ..) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocolVersion::V2, ..) => {
            let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            out.extend([0x20, 0, 0, 0]); // LOCAL
            out
        }
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
    use super::{interleaved, proxy_header};
    use crate::listener::sniff::{ProxyHeader, Verdict, inspect_proxy_protocol};
    use malla_proxy_config::cluster::ProxyProtocolVersion::{V1, V2};

    #[test]
    fn families_take_turns() {
        let at = |text: &str| text.parse().unwrap();
        let order = interleaved(
            at("[::1]:1"),
            &[
                at("[::1]:2"),
                at("1.0.0.1:1"),
                at("1.0.0.1:2"),
                at("1.0.0.1:3"),
            ],
        );
        let want = ["[::1]:1", "1.0.0.1:1", "[::1]:2", "1.0.0.1:2", "1.0.0.1:3"].map(at);
        assert_eq!(order, want);
    }

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
