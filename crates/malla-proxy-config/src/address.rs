//! Addresses and address ranges.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use crate::checked::{Cx, Invalid, refuse};
use crate::pb::core;

/// The longest name of a Unix socket that Linux takes, bytes.
const MAX_PIPE: usize = 107;

/// Where something listens or is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A DNS name and port; only endpoints of DNS clusters have it.
    Name {
        /// The name to resolve.
        host: Arc<str>,
        /// The port to connect to.
        port: u16,
    },
    /// A Unix domain socket.
    Pipe {
        /// Its path; an abstract name begins with `@`.
        path: Arc<Path>,
        /// The permissions of a listener's file; 0 leaves them.
        mode: u32,
    },
}

impl Address {
    pub(crate) fn parse(wire: core::Address, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::address::Address as Wire;
        match cx.required("address", wire.address)? {
            Wire::SocketAddress(address) => {
                cx.field("socket_address", |cx| Self::parse_socket(address, cx))
            }
            Wire::Pipe(core::Pipe { path, mode }) => cx.field("pipe", |cx| {
                if path.is_empty() {
                    return Err(cx.invalid("path", "is required"));
                }
                if path.len() > MAX_PIPE {
                    return Err(cx.invalid("path", format!("is longer than {MAX_PIPE} bytes")));
                }
                if mode > 0o777 {
                    return Err(cx.invalid("mode", "must be at most 0777 (511)"));
                }
                if mode != 0 && path.starts_with('@') {
                    return Err(
                        cx.invalid("mode", "an abstract name has no permissions; remove it")
                    );
                }
                let path = Arc::from(Path::new(&path));
                Ok(Self::Pipe { path, mode })
            }),
            Wire::EnvoyInternalAddress(_) => Err(cx.invalid(
                "envoy_internal_address",
                "internal listeners are not supported by this proxy",
            )),
        }
    }

    fn parse_socket(wire: core::SocketAddress, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::socket_address::PortSpecifier;
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = wire;
        refuse!(cx; resolver_name, network_namespace_filepath);
        // Of listeners; whoever reads one looks at it.
        let _ = ipv4_compat;
        if protocol != core::socket_address::Protocol::Tcp as i32 {
            return Err(cx.invalid("protocol", "only TCP is supported by this proxy"));
        }
        let port = match port_specifier {
            Some(PortSpecifier::PortValue(port)) => cx.port("port_value", port)?,
            Some(PortSpecifier::NamedPort(_)) => {
                return Err(cx.invalid("named_port", "not supported; use port_value"));
            }
            None => 0,
        };
        match address.parse::<IpAddr>() {
            Ok(ip) => Ok(Self::Socket(SocketAddr::new(ip, port))),
            Err(_) if address.is_empty() => Err(cx.invalid("address", "is required")),
            Err(_) => Ok(Self::Name {
                host: address.into(),
                port,
            }),
        }
    }

    /// The IP address and port, where it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            Self::Name { .. } | Self::Pipe { .. } => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe { path, .. } => path.display().fmt(f),
        }
    }
}

/// A CIDR range, host bits cleared as Envoy does.
pub(crate) fn cidr(wire: core::CidrRange, cx: &Cx) -> Result<IpNet, Invalid> {
    let ip: IpAddr = wire.address_prefix.parse().map_err(|_| {
        cx.invalid(
            "address_prefix",
            format!("`{}` is not an IP address", wire.address_prefix),
        )
    })?;
    let length = wire.prefix_len.map_or(0, |length| length.value);
    let net = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(ip, length).ok());
    net.map(|net| net.trunc())
        .ok_or_else(|| cx.invalid("prefix_len", format!("{length} is too long for {ip}")))
}
