//! What an HTTP route of a VirtualService does besides forwarding.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Percent, StringMatch};
use super::virtual_service::Destination;
use crate::duration::Duration;
use crate::schema::{at_most_one, nullable, required};

/// Answer with a redirect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("port derivePort"))]
pub struct HttpRedirect {
    /// The new path, whole.
    pub uri: Option<String>,
    /// The new beginning of the path, in place of the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// The new authority.
    pub authority: Option<String>,
    /// The new port.
    pub port: Option<u32>,
    /// Where the new port comes from.
    pub derive_port: Option<RedirectPortSelection>,
    /// The new scheme, `http` or `https`.
    pub scheme: Option<String>,
    /// 301 (the default), 302, 303, 307 or 308.
    pub redirect_code: Option<u32>,
}

/// Where a redirect's port comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    FromProtocolDefault,
    FromRequestPort,
}

/// Answer with a fixed response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("status"))]
pub struct HttpDirectResponse {
    /// Status code, 200 to 599.
    pub status: u32,
    /// The body; absent is empty.
    pub body: Option<HttpBody>,
}

/// A body, as text or as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("string bytes"))]
pub struct HttpBody {
    /// The body as text.
    pub string: Option<String>,
    /// The body as base64.
    #[schemars(extend("format" = "byte"))]
    pub bytes: Option<String>,
}

/// Go on with the routes of another VirtualService.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Delegate {
    /// Name of the VirtualService.
    pub name: Option<String>,
    /// Its namespace; absent is this one.
    pub namespace: Option<String>,
}

/// Change path or authority before forwarding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRewrite {
    /// New path: of a prefix match it replaces the prefix, otherwise the whole path.
    pub uri: Option<String>,
    /// New authority (Host header).
    pub authority: Option<String>,
    /// New path by regular expression.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// Replace what a regular expression matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    /// The regular expression (RE2 syntax).
    #[serde(rename = "match")]
    pub pattern: Option<String>,
    /// The replacement; `\1` is the first group.
    pub rewrite: Option<String>,
}

/// When and how often to try again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRetry {
    /// Number of tries after the first; 0 switches retries off.
    pub attempts: i32,
    /// Time limit of each try; absent is the route's.
    pub per_try_timeout: Option<Duration>,
    /// Comma-separated conditions, Envoy's names and status codes: `5xx,reset,503`.
    pub retry_on: Option<String>,
    /// Try other localities too.
    #[schemars(transform = nullable)]
    pub retry_remote_localities: Option<bool>,
    /// Prefer endpoints that have not been tried.
    #[schemars(transform = nullable)]
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the exponential back-off between tries; absent is 25ms.
    pub backoff: Option<Duration>,
}

/// Delays or errors to inject.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpFaultInjection {
    /// Hold requests back before forwarding them.
    pub delay: Option<FaultDelay>,
    /// Answer with an error instead of forwarding.
    pub abort: Option<FaultAbort>,
}

/// Hold requests back.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("fixedDelay exponentialDelay"))]
pub struct FaultDelay {
    /// Old name of `percentage`.
    pub percent: Option<i32>,
    /// How long.
    pub fixed_delay: Option<Duration>,
    /// Never implemented.
    pub exponential_delay: Option<Duration>,
    /// Share of requests to delay.
    pub percentage: Option<Percent>,
}

/// Answer with an error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = at_most_one("httpStatus grpcStatus http2Error"))]
pub struct FaultAbort {
    /// HTTP status code, 200 to 599.
    pub http_status: Option<i32>,
    /// gRPC status, by name (`UNAVAILABLE`) or number.
    pub grpc_status: Option<String>,
    /// Never implemented.
    #[serde(rename = "http2Error")]
    pub http2_error: Option<String>,
    /// Share of requests to abort.
    pub percentage: Option<Percent>,
}

/// One mirror and its share.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("destination"))]
pub struct HttpMirrorPolicy {
    /// The service that gets the copies.
    pub destination: Destination,
    /// Share of requests to mirror; absent is all.
    pub percentage: Option<Percent>,
}

/// Cross-origin resource sharing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Old form of `allowOrigins`, exact texts.
    pub allow_origin: Vec<String>,
    /// Origins that may call.
    pub allow_origins: Vec<StringMatch>,
    /// Methods for `Access-Control-Allow-Methods`.
    pub allow_methods: Vec<String>,
    /// Headers for `Access-Control-Allow-Headers`.
    pub allow_headers: Vec<String>,
    /// Headers for `Access-Control-Expose-Headers`.
    pub expose_headers: Vec<String>,
    /// How long a browser may keep the preflight's answer.
    pub max_age: Option<Duration>,
    /// Whether credentials may be sent.
    #[schemars(transform = nullable)]
    pub allow_credentials: Option<bool>,
    /// What happens to preflights of other origins.
    pub unmatched_preflights: Option<UnmatchedPreflights>,
}

/// What happens to preflights of origins that are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}

/// Changes to request and response headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// Before forwarding.
    pub request: Option<HeaderOperations>,
    /// Before answering.
    pub response: Option<HeaderOperations>,
}

/// Header changes: set and add by name, remove by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Overwrite these headers.
    pub set: BTreeMap<String, String>,
    /// Append to these headers.
    pub add: BTreeMap<String, String>,
    /// Remove these headers.
    pub remove: Vec<String>,
}
