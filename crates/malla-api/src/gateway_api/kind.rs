//! The kinds of the Gateway API: their names and versions.

use serde_json::Value;

use super::types;
use crate::schema::structural;

/// One of the Gateway API's kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayKind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    BackendTlsPolicy,
    ReferenceGrant,
}

impl GatewayKind {
    pub const ALL: [Self; 9] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::BackendTlsPolicy,
        Self::ReferenceGrant,
    ];

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As in `kind:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::ListenerSet => "listenersets",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::BackendTlsPolicy => "backendtlspolicies",
            Self::ReferenceGrant => "referencegrants",
        }
    }

    /// Upstream's short name.
    #[must_use]
    pub fn short_name(self) -> Option<&'static str> {
        match self {
            Self::GatewayClass => Some("gc"),
            Self::Gateway => Some("gtw"),
            Self::ListenerSet => Some("lset"),
            Self::BackendTlsPolicy => Some("btlspolicy"),
            Self::ReferenceGrant => Some("refgrant"),
            Self::HttpRoute | Self::GrpcRoute | Self::TlsRoute | Self::TcpRoute => None,
        }
    }

    /// Served versions, the stored one first.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            // Clusters still have it in this version alone.
            Self::ReferenceGrant => &["v1beta1", "v1"],
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => &["v1", "v1beta1"],
            _ => &["v1"],
        }
    }

    /// The version that is stored, which every cluster serves.
    #[must_use]
    pub fn storage_version(self) -> &'static str {
        self.versions().first().copied().unwrap_or("v1")
    }

    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self != Self::GatewayClass
    }

    /// The schema of `spec`.
    #[must_use]
    pub fn spec_schema(self) -> Value {
        match self {
            Self::GatewayClass => structural::<types::GatewayClassSpec>(),
            Self::Gateway => structural::<types::GatewaySpec>(),
            Self::ListenerSet => structural::<types::ListenerSetSpec>(),
            Self::HttpRoute => structural::<types::HttpRouteSpec>(),
            Self::GrpcRoute => structural::<types::GrpcRouteSpec>(),
            Self::TlsRoute => structural::<types::TlsRouteSpec>(),
            Self::TcpRoute => structural::<types::TcpRouteSpec>(),
            Self::BackendTlsPolicy => structural::<types::BackendTlsPolicySpec>(),
            Self::ReferenceGrant => structural::<types::ReferenceGrantSpec>(),
        }
    }
}
