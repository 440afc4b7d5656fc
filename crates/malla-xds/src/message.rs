//! The messages of a stream, in either variant.

use malla_xds_proto::core::ControlPlane;
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

/// How changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// Only what changed (`DeltaAggregatedResources`).
    #[default]
    Delta,
    /// State of the world (`StreamAggregatedResources`).
    Sotw,
}

/// From the client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientMessage {
    Delta(Box<DeltaDiscoveryRequest>),
    Sotw(Box<DiscoveryRequest>),
}

/// From the server.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    Delta(DeltaDiscoveryResponse),
    Sotw(DiscoveryResponse),
}

impl ClientMessage {
    #[must_use]
    pub fn variant(&self) -> Variant {
        match self {
            Self::Delta(_) => Variant::Delta,
            Self::Sotw(_) => Variant::Sotw,
        }
    }

    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::Delta(request) => &request.type_url,
            Self::Sotw(request) => &request.type_url,
        }
    }

    /// The node, which only a stream's first message must have.
    #[must_use]
    pub fn node(&self) -> Option<&malla_xds_proto::core::Node> {
        match self {
            Self::Delta(request) => request.node.as_ref(),
            Self::Sotw(request) => request.node.as_ref(),
        }
    }
}

impl ClientMessage {
    /// Names that are asked for, or subscribed to.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::Delta(request) => &request.resource_names_subscribe,
            Self::Sotw(request) => &request.resource_names,
        }
    }

    /// Nonce of the response this is an answer to; empty when it is none.
    #[must_use]
    pub fn response_nonce(&self) -> &str {
        match self {
            Self::Delta(request) => &request.response_nonce,
            Self::Sotw(request) => &request.response_nonce,
        }
    }
}

impl ServerMessage {
    /// Says which server this comes from.
    pub fn sign(&mut self, identifier: &str) {
        let control_plane = Some(ControlPlane {
            identifier: identifier.to_owned(),
        });
        match self {
            Self::Delta(response) => response.control_plane = control_plane,
            Self::Sotw(response) => response.control_plane = control_plane,
        }
    }

    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::Delta(response) => &response.type_url,
            Self::Sotw(response) => &response.type_url,
        }
    }

    #[must_use]
    pub fn nonce(&self) -> &str {
        match self {
            Self::Delta(response) => &response.nonce,
            Self::Sotw(response) => &response.nonce,
        }
    }
}
