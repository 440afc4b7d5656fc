//! TLSRoute and TCPRoute: where connections go, whatever is spoken on them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shared::{BackendRef, ParentRef};
use crate::schema::{limit, required, rule};

/// Where TLS connections go, by the name in their handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("hostnames rules"))]
pub struct TlsRouteSpec {
    /// What the route attaches to.
    #[schemars(transform = limit("maxItems", 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Names in the handshake (SNI, RFC 6066 §3).
    #[schemars(transform = rule("self.all(h, !isIP(h))", "Hostnames cannot contain an IP"))]
    #[schemars(transform = limit("maxItems", 1024))]
    #[schemars(transform = limit("minItems", 1))]
    pub hostnames: Vec<String>,
    /// The rule.
    #[schemars(transform = limit("maxItems", 1))]
    #[schemars(transform = limit("minItems", 1))]
    pub rules: Vec<StreamRule>,
}

/// Where connections to a port go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("rules"))]
pub struct TcpRouteSpec {
    /// What the route attaches to.
    #[schemars(transform = limit("maxItems", 32))]
    pub parent_refs: Vec<ParentRef>,
    /// The rule.
    #[schemars(transform = limit("maxItems", 1))]
    #[schemars(transform = limit("minItems", 1))]
    pub rules: Vec<StreamRule>,
}

/// Where connections go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("backendRefs"))]
pub struct StreamRule {
    /// Name of the rule.
    pub name: Option<String>,
    /// The backends.
    #[schemars(transform = limit("maxItems", 16))]
    #[schemars(transform = limit("minItems", 1))]
    pub backend_refs: Vec<BackendRef>,
}
