//! Reads a PROXY protocol header, version 1 (text) or 2 (binary), as HAProxy's specification defines them.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Verdict;

/// What the header says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// `(source, destination)`; `None` for LOCAL and UNKNOWN, where the connection's own addresses stand.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes to take off the stream.
    pub length: usize,
}

const V1: &[u8] = b"PROXY ";
/// Longest version 1 header, line end included.
const V1_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER: usize = 16;

/// Decides whether a stream starts with a PROXY header.
pub fn inspect_proxy_protocol(prefix: &[u8]) -> Verdict<ProxyHeader> {
    let starts = |signature: &[u8]| prefix.iter().zip(signature).all(|(a, b)| a == b);
    if starts(V1) {
        if prefix.len() < V1.len() {
            Verdict::More
        } else {
            version1(prefix)
        }
    } else if starts(V2) {
        version2(prefix)
    } else {
        Verdict::IsNot
    }
}

fn version1(prefix: &[u8]) -> Verdict<ProxyHeader> {
    let Some(end) = memchr::memmem::find(prefix, b"\r\n") else {
        return if prefix.len() > V1_MAX {
            Verdict::IsNot
        } else {
            Verdict::More
        };
    };
    let length = end + 2;
    let addresses = std::str::from_utf8(&prefix[..end]).ok().and_then(|line| {
        let mut words = line.split(' ').skip(1);
        let family = words.next()?;
        if family == "UNKNOWN" {
            return Some(None);
        }
        let (source, destination) = (
            words.next()?.parse::<IpAddr>().ok()?,
            words.next()?.parse::<IpAddr>().ok()?,
        );
        let ports = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let fits = match family {
            "TCP4" => source.is_ipv4() && destination.is_ipv4(),
            "TCP6" => source.is_ipv6() && destination.is_ipv6(),
            _ => false,
        };
        (fits && words.next().is_none()).then(|| {
            Some((
                SocketAddr::new(source, ports.0),
                SocketAddr::new(destination, ports.1),
            ))
        })
    });
    match addresses {
        Some(addresses) if length <= V1_MAX => Verdict::Is(ProxyHeader { addresses, length }),
        _ => Verdict::IsNot,
    }
}

fn version2(prefix: &[u8]) -> Verdict<ProxyHeader> {
    let Some(header) = prefix.first_chunk::<V2_HEADER>() else {
        return Verdict::More;
    };
    let [.., command, family, high, low] = *header;
    let length = V2_HEADER + usize::from(u16::from_be_bytes([high, low]));
    let Some(body) = prefix.get(V2_HEADER..length) else {
        return Verdict::More;
    };
    let addresses = match (command, family) {
        (0x20, _) => None, // LOCAL: a health check of the balancer itself.
        (0x21, 0x11) => match v2_pair::<4>(body) {
            Some(pair) => Some(pair),
            None => return Verdict::IsNot,
        },
        (0x21, 0x21) => match v2_pair::<16>(body) {
            Some(pair) => Some(pair),
            None => return Verdict::IsNot,
        },
        (0x21, 0x00) => None, // UNSPEC.
        _ => return Verdict::IsNot,
    };
    Verdict::Is(ProxyHeader { addresses, length })
}

fn v2_pair<const N: usize>(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes)
                .ok()
                .map(|b| IpAddr::V4(Ipv4Addr::from(b))),
            _ => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let source = SocketAddr::new(ip(body.get(..N)?)?, port(2 * N)?);
    let destination = SocketAddr::new(ip(body.get(N..2 * N)?)?, port(2 * N + 2)?);
    Some((source, destination))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::any;
    use proptest::proptest;

    use super::{ProxyHeader, V2, Verdict, inspect_proxy_protocol};

    #[track_caller]
    fn check(bytes: &[u8], want: Option<(&str, &str)>, length: usize) {
        let addresses = want.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        assert_eq!(
            inspect_proxy_protocol(bytes),
            Verdict::Is(ProxyHeader { addresses, length })
        );
        for end in 0..length {
            assert_eq!(
                inspect_proxy_protocol(&bytes[..end]),
                Verdict::More,
                "the first {end} bytes"
            );
        }
    }

    #[test]
    fn both_versions_are_read() {
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 80\r\nGET",
            Some(("192.0.2.1:5000", "198.51.100.1:80")),
            43,
        );
        check(
            b"PROXY TCP6 2001:db8::1 ::1 5000 80\r\n",
            Some(("[2001:db8::1]:5000", "[::1]:80")),
            36,
        );
        check(b"PROXY UNKNOWN\r\n", None, 15);
        let mut v2 = V2.to_vec();
        v2.extend_from_slice(&[
            0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 1, 0x13, 0x88, 0, 80, b'x',
        ]);
        check(&v2, Some(("192.0.2.1:5000", "198.51.100.1:80")), 28);
        let mut local = V2.to_vec();
        local.extend_from_slice(&[0x20, 0, 0, 0]);
        check(&local, None, 16);
    }

    #[test]
    fn malformed_headers_are_none() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        ] {
            assert_eq!(inspect_proxy_protocol(bytes), Verdict::IsNot);
        }
        assert_eq!(
            inspect_proxy_protocol(&[b"PROXY ".as_slice(), &[b'a'; 200]].concat()),
            Verdict::IsNot
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..60)) {
            let _ = inspect_proxy_protocol(&bytes);
            let _ = inspect_proxy_protocol(&[V2, &bytes].concat());
            let _ = inspect_proxy_protocol(&[b"PROXY ".as_slice(), &bytes].concat());
        }
    }
}
