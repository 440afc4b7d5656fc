//! What a service port speaks, and how Kubernetes ports say so.

/// The protocol of a port (Istio: protocol selection).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    MySql,
    Udp,
    /// Nothing was declared: the proxy looks at the first bytes.
    Sniffed,
}

impl Protocol {
    /// Ports on which the server speaks first, so looking at the client's bytes would hang for ever.
    const NEVER_SNIFFED: [u16; 4] = [25, 53, 3306, 27017];

    /// Reads one protocol name, as `appProtocol`, a port-name prefix or `Gateway.servers[].port.protocol` gives it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" | "http1" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" | "kubernetes.io/wss" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// Istio's protocol selection for a Kubernetes Service port.
    #[must_use]
    pub fn of_service_port(
        transport: &str,
        app_protocol: Option<&str>,
        name: &str,
        port: u16,
    ) -> Self {
        if transport.eq_ignore_ascii_case("UDP") {
            return Self::Udp;
        }
        if let Some(protocol) = app_protocol.and_then(Self::parse) {
            return protocol;
        }
        let lower = name.to_ascii_lowercase();
        if lower == "grpc-web" || lower.starts_with("grpc-web-") {
            return Self::GrpcWeb;
        }
        let prefix = lower.split('-').next().unwrap_or_default();
        match Self::parse(prefix) {
            Some(protocol) => protocol,
            None if Self::NEVER_SNIFFED.contains(&port) => Self::Tcp,
            None => Self::Sniffed,
        }
    }

    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// HTTP/2 is spoken from the first byte.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Handled as opaque bytes.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::Redis | Self::MySql
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_port_says_what_it_speaks() {
        let of =
            |app: Option<&str>, name: &str, port| Protocol::of_service_port("TCP", app, name, port);
        assert_eq!(of(None, "http", 7000), Protocol::Http);
        assert_eq!(of(None, "http-web", 80), Protocol::Http);
        assert_eq!(of(None, "grpc-web-x", 80), Protocol::GrpcWeb);
        assert_eq!(of(None, "grpc-x", 80), Protocol::Grpc);
        assert_eq!(of(None, "web", 80), Protocol::Sniffed);
        assert_eq!(of(None, "db", 3306), Protocol::Tcp);
        assert_eq!(of(Some("kubernetes.io/h2c"), "tcp-x", 80), Protocol::Http2);
        assert_eq!(
            Protocol::of_service_port("UDP", None, "http", 80),
            Protocol::Udp
        );
    }
}
