//! What an HTTP route of a VirtualService matches.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::StringMatch;

/// What a request must look like; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// Name of the match, appended to the route's name in access logs.
    pub name: Option<String>,
    /// The path. A prefix is a prefix of bytes, not of path segments.
    pub uri: Option<StringMatch>,
    /// The scheme, `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method, such as `GET`.
    pub method: Option<StringMatch>,
    /// The authority (Host header).
    pub authority: Option<StringMatch>,
    /// Headers, by lower-case name. An empty match only asks for presence.
    pub headers: BTreeMap<String, StringMatch>,
    /// Port the client called.
    pub port: Option<u32>,
    /// Only for clients with these labels.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this applies to; overrides the VirtualService's list.
    pub gateways: Vec<String>,
    /// Query parameters, by name.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compare `uri` without regard to case (exact and prefix only).
    pub ignore_uri_case: bool,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Only for clients of this namespace.
    pub source_namespace: Option<String>,
    /// Prefix of the route's own metrics.
    pub stat_prefix: Option<String>,
}
