//! The socket options a transparent proxy needs. The only place with `unsafe`, in [`inherit`] and [`measure`].
//!
//! Everything here is one system call with a name and an error that says which option failed and
//! why that usually happens.

pub mod inherit;
pub mod measure;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, IpTransparent};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections waiting to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {address} (is another process using the port?)")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot set {option} on a socket{hint}")]
    Option {
        option: &'static str,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("file descriptor {fd} is no listening TCP socket")]
    Inherit {
        fd: i32,
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// The system's own error.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        match self {
            Self::Listen { source, .. }
            | Self::Option { source, .. }
            | Self::Connect { source, .. }
            | Self::Inherit { source, .. } => source,
        }
    }
}

const NEEDS_NET_ADMIN: &str = " (it needs CAP_NET_ADMIN)";

fn option<T>(
    option: &'static str,
    hint: &'static str,
    result: io::Result<T>,
) -> Result<T, SocketError> {
    result.map_err(|source| SocketError::Option {
        option,
        hint,
        source,
    })
}

/// How a listening socket is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenOptions {
    /// `SO_REUSEPORT`: every worker opens its own socket and the kernel spreads connections.
    pub reuse_port: bool,
    /// `IP_TRANSPARENT`: accepts connections to addresses that are not ours (TPROXY).
    pub transparent: bool,
    /// `IP_FREEBIND`: binds addresses that do not exist yet.
    pub freebind: bool,
    /// An IPv6 wildcard listener also takes IPv4.
    pub dual_stack: bool,
}

/// Opens a listening TCP socket; port 0 picks a free one.
///
/// # Errors
/// When an option is refused or the address is taken.
pub fn listen(address: SocketAddr, options: ListenOptions) -> Result<TcpListener, SocketError> {
    let refuse = |source| SocketError::Listen { address, source };
    let socket = open(address, Type::STREAM, Protocol::TCP, options)?;
    socket.bind(&address.into()).map_err(refuse)?;
    socket.listen(BACKLOG).map_err(refuse)?;
    TcpListener::from_std(socket.into()).map_err(refuse)
}

/// Opens a bound UDP socket; port 0 picks a free one.
///
/// # Errors
/// When an option is refused or the address is taken.
pub fn bind_udp(address: SocketAddr, options: ListenOptions) -> Result<UdpSocket, SocketError> {
    let refuse = |source| SocketError::Listen { address, source };
    let socket = open(address, Type::DGRAM, Protocol::UDP, options)?;
    socket.bind(&address.into()).map_err(refuse)?;
    UdpSocket::from_std(socket.into()).map_err(refuse)
}

fn open(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    options: ListenOptions,
) -> Result<Socket, SocketError> {
    let refuse = |source| SocketError::Listen { address, source };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).map_err(refuse)?;
    socket.set_nonblocking(true).map_err(refuse)?;
    if kind == Type::STREAM {
        option("SO_REUSEADDR", "", socket.set_reuse_address(true))?;
    }
    if options.reuse_port {
        option("SO_REUSEPORT", "", socket.set_reuse_port(true))?;
    }
    if address.is_ipv6() {
        option("IPV6_V6ONLY", "", socket.set_only_v6(!options.dual_stack))?;
    }
    if options.transparent {
        set_transparent(&socket, address.is_ipv6())?;
    }
    if options.freebind {
        set_freebind(&socket, address.is_ipv6())?;
    }
    Ok(socket)
}

/// `IP_TRANSPARENT`: the socket may use addresses that are not this machine's.
///
/// # Errors
/// Without `CAP_NET_ADMIN`.
pub fn set_transparent(socket: &impl AsFd, ipv6: bool) -> Result<(), SocketError> {
    let reference = SockRef::from(socket);
    let result = if ipv6 {
        reference.set_ip_transparent_v6(true)
    } else {
        setsockopt(socket, IpTransparent, &true).map_err(io::Error::from)
    };
    option("IP_TRANSPARENT", NEEDS_NET_ADMIN, result)
}

fn set_freebind(socket: &impl AsFd, ipv6: bool) -> Result<(), SocketError> {
    let reference = SockRef::from(socket);
    let result = if ipv6 {
        reference.set_freebind_v6(true)
    } else {
        reference.set_freebind_v4(true)
    };
    option("IP_FREEBIND", "", result)
}

/// `SO_MARK`: policy routing and nftables rules can tell our packets by it.
///
/// # Errors
/// Without `CAP_NET_ADMIN`.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> Result<(), SocketError> {
    option(
        "SO_MARK",
        NEEDS_NET_ADMIN,
        SockRef::from(socket).set_mark(mark),
    )
}

/// The address a redirected connection was meant for, or `None` when it was not redirected, which
/// includes a connection made to the listener itself: `SO_ORIGINAL_DST` after a REDIRECT, the
/// socket's own address on a transparent socket (TPROXY).
///
/// # Errors
/// When the kernel refuses for another reason than "no such entry".
pub fn original_destination(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = canonical(stream.local_addr()?);
    let reference = SockRef::from(stream);
    let answer = if local.is_ipv4() {
        reference.original_dst_v4()
    } else {
        reference.original_dst_v6()
    };
    let original = match answer {
        Ok(address) => address.as_socket().map(canonical),
        // ENOENT: conntrack knows the connection, but nothing translated it. ENOPROTOOPT: this
        // kernel (or namespace) has no NAT at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
            None
        }
        Err(error) => return Err(error),
    };
    let original = original.filter(|address| *address != local);
    Ok(original.or_else(|| is_transparent(&reference, local.is_ipv4()).then_some(local)))
}

fn is_transparent(socket: &SockRef<'_>, ipv4: bool) -> bool {
    let flag = if ipv4 {
        socket.ip_transparent_v4()
    } else {
        socket.ip_transparent_v6()
    };
    // A kernel that does not know the option has no such sockets.
    flag.unwrap_or(false)
}

/// `::ffff:10.0.0.1` as `10.0.0.1`, so that both kinds of listener see the same address.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// TCP keep-alive probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dropped.
    pub probes: u32,
}

/// # Errors
/// When the kernel refuses the values (each must be at least a second).
pub fn set_keepalive(socket: &impl AsFd, keepalive: Keepalive) -> Result<(), SocketError> {
    let wanted = TcpKeepalive::new()
        .with_time(keepalive.time)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    option(
        "SO_KEEPALIVE",
        " (times must be at least 1s)",
        SockRef::from(socket).set_tcp_keepalive(&wanted),
    )
}

/// How an outgoing connection is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectOptions {
    /// Bind to this address first, so that the peer sees it; port 0 leaves the port to the kernel.
    pub source: Option<SocketAddr>,
    /// The source need not be there yet (`IP_FREEBIND`).
    pub freebind: bool,
    /// The source need not be ours (`IP_TRANSPARENT`).
    pub transparent: bool,
    pub mark: Option<u32>,
    pub keepalive: Option<Keepalive>,
}

/// Connects without delay for small writes (`TCP_NODELAY`), with `options` set before the first
/// packet. The caller bounds the time.
///
/// # Errors
/// When an option is refused, the source cannot be bound, or the peer does not answer.
pub async fn connect(
    address: SocketAddr,
    options: ConnectOptions,
) -> Result<TcpStream, SocketError> {
    connect_with(address, options, |_| Ok(())).await
}

/// As [`connect`]; `tune` sets further options before the socket is bound.
///
/// # Errors
/// Likewise, and when `tune` fails.
pub async fn connect_with(
    address: SocketAddr,
    options: ConnectOptions,
    tune: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<TcpStream, SocketError> {
    let refuse = |source| SocketError::Connect { address, source };
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }
    .map_err(refuse)?;
    option("TCP_NODELAY", "", socket.set_nodelay(true))?;
    if let Some(mark) = options.mark {
        set_mark(&socket, mark)?;
    }
    if options.transparent {
        set_transparent(&socket, address.is_ipv6())?;
    }
    if let Some(keepalive) = options.keepalive {
        set_keepalive(&socket, keepalive)?;
    }
    if options.freebind {
        set_freebind(&socket, address.is_ipv6())?;
    }
    option("socket_options", "", tune(socket.as_fd()))?;
    if let Some(source) = options.source {
        if source.port() == 0 {
            // The port is chosen at connect, so that one source address is not limited to 28k
            // connections in all, but 28k per peer.
            let result = setsockopt(&socket, IpBindAddressNoPort, &true).map_err(io::Error::from);
            option("IP_BIND_ADDRESS_NO_PORT", "", result)?;
        }
        socket.bind(source).map_err(refuse)?;
    }
    socket.connect(address).await.map_err(refuse)
}

/// The wildcard address of the same family as `address`.
#[must_use]
pub fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    #[tokio::test]
    async fn two_workers_share_a_port_and_a_third_process_is_told() {
        let shared = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let first = listen(LOOPBACK.parse().unwrap(), shared).unwrap();
        let address = first.local_addr().unwrap();
        let _second = listen(address, shared).unwrap();
        let refused = listen(address, ListenOptions::default()).unwrap_err();
        assert!(
            refused.to_string().contains(&address.to_string()),
            "{refused}"
        );
        assert_eq!(refused.io().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn the_peer_sees_the_chosen_source() {
        let listener = listen(LOOPBACK.parse().unwrap(), ListenOptions::default()).unwrap();
        let options = ConnectOptions {
            source: Some("127.0.0.6:0".parse().unwrap()),
            keepalive: Some(Keepalive {
                time: Duration::from_secs(10),
                interval: Duration::from_secs(5),
                probes: 3,
            }),
            ..ConnectOptions::default()
        };
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), connect(address, options));
        let (stream, peer) = accepted.unwrap();
        assert_eq!(peer.ip(), "127.0.0.6".parse::<IpAddr>().unwrap());
        assert!(connected.unwrap().nodelay().unwrap());
        assert_eq!(original_destination(&stream).unwrap(), None);
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_peer() {
        let free = listen(LOOPBACK.parse().unwrap(), ListenOptions::default())
            .unwrap()
            .local_addr()
            .unwrap();
        let error = connect(free, ConnectOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains(&free.to_string()));
    }

    #[test]
    fn mapped_addresses_are_seen_as_ipv4() {
        let mapped = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }
}
