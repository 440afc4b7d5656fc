//! HTTPRoute.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shared::{BackendRef, ParentRef};
use crate::schema::{each_rule, free_form, limit, required, rule};

/// Where HTTP requests go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// What the route attaches to.
    #[schemars(transform = limit("maxItems", 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Names of requests; none is all that the listener serves.
    #[schemars(transform = limit("maxItems", 16))]
    pub hostnames: Vec<String>,
    /// The rules.
    #[schemars(transform = limit("maxItems", 16))]
    pub rules: Vec<HttpRule>,
}

/// Requests, and what happens to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("!has(self.filters) || !has(self.backendRefs) || size(self.backendRefs) == 0 || !self.filters.exists(f, has(f.requestRedirect))", "RequestRedirect filter must not be used together with backendRefs"))]
pub struct HttpRule {
    /// Name of the rule.
    pub name: Option<String>,
    /// Any of these; none is every request.
    #[schemars(transform = limit("maxItems", 64))]
    pub matches: Vec<HttpMatch>,
    /// Changes on the way, in this order.
    #[schemars(transform = limit("maxItems", 16))]
    pub filters: Vec<HttpFilter>,
    /// Where requests go.
    #[schemars(transform = limit("maxItems", 16))]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Limits of time.
    pub timeouts: Option<HttpTimeouts>,
    /// Further tries.
    pub retry: Option<RetryRule>,
    /// Sessions; not in the standard channel, and not honoured.
    #[schemars(transform = free_form)]
    pub session_persistence: Option<serde_json::Value>,
}

/// All of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    /// The path; absent is any.
    pub path: Option<HttpPathMatch>,
    /// Headers, all of them.
    #[schemars(transform = limit("maxItems", 16))]
    pub headers: Vec<NameMatch>,
    /// Parameters of the query, all of them.
    #[schemars(transform = limit("maxItems", 16))]
    pub query_params: Vec<NameMatch>,
    /// The method.
    pub method: Option<String>,
}

/// How a path matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("(has(self.type) && self.type == 'RegularExpression') || !has(self.value) || self.value.startsWith('/')", "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']"))]
#[schemars(transform = rule("(has(self.type) && self.type == 'RegularExpression') || !has(self.value) || !self.value.contains('//')", "must not contain '//' when type one of ['Exact', 'PathPrefix']"))]
#[schemars(transform = rule("!has(self.type) || self.type in ['Exact','PathPrefix','RegularExpression']", "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']"))]
pub struct HttpPathMatch {
    /// PathPrefix (if absent; by segments), Exact or RegularExpression.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The path; absent is `/`.
    #[schemars(transform = limit("maxLength", 1024))]
    pub value: Option<String>,
}

/// How a header or parameter matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name value"))]
pub struct NameMatch {
    /// Exact (if absent) or RegularExpression.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    #[schemars(transform = limit("maxLength", 256))]
    pub name: String,
    /// Its value.
    #[schemars(transform = limit("maxLength", 4096))]
    pub value: String,
}

/// A change on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("type"))]
#[schemars(transform = rule("has(self.requestHeaderModifier) == (self.type == 'RequestHeaderModifier')", "filter.requestHeaderModifier must be specified for RequestHeaderModifier filter.type"))]
#[schemars(transform = rule("has(self.responseHeaderModifier) == (self.type == 'ResponseHeaderModifier')", "filter.responseHeaderModifier must be specified for ResponseHeaderModifier filter.type"))]
#[schemars(transform = rule("has(self.requestMirror) == (self.type == 'RequestMirror')", "filter.requestMirror must be specified for RequestMirror filter.type"))]
#[schemars(transform = rule("has(self.requestRedirect) == (self.type == 'RequestRedirect')", "filter.requestRedirect must be specified for RequestRedirect filter.type"))]
#[schemars(transform = rule("has(self.urlRewrite) == (self.type == 'URLRewrite')", "filter.urlRewrite must be specified for URLRewrite filter.type"))]
pub struct HttpFilter {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: String,
    /// Changes the request's headers.
    pub request_header_modifier: Option<HeaderFilter>,
    /// Changes the answer's headers.
    pub response_header_modifier: Option<HeaderFilter>,
    /// Copies requests.
    pub request_mirror: Option<MirrorFilter>,
    /// Answers with a redirect.
    pub request_redirect: Option<RedirectFilter>,
    /// Changes host and path.
    pub url_rewrite: Option<RewriteFilter>,
    /// Cross-origin requests.
    pub cors: Option<CorsFilter>,
    /// A filter of an implementation.
    #[schemars(transform = free_form)]
    pub extension_ref: Option<serde_json::Value>,
    /// Asks another service; not in the standard channel, and not honoured.
    #[schemars(transform = free_form)]
    pub external_auth: Option<serde_json::Value>,
}

/// Changes of headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderFilter {
    /// Replaces.
    pub set: Vec<NameValue>,
    /// Adds to what is there.
    pub add: Vec<NameValue>,
    /// Takes off.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name value"))]
pub struct NameValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Copies of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("backendRef"))]
pub struct MirrorFilter {
    /// Who gets them.
    pub backend_ref: BackendRef,
    /// How many of a hundred; absent is all.
    #[schemars(transform = limit("maximum", 100))]
    pub percent: Option<u32>,
    /// How many, exactly.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("numerator"))]
pub struct Fraction {
    /// Of the fraction.
    pub numerator: u32,
    /// Absent is 100.
    #[schemars(transform = limit("minimum", 1))]
    pub denominator: Option<u32>,
}

/// A redirect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RedirectFilter {
    /// http or https; absent is the request's.
    pub scheme: Option<String>,
    /// Absent is the request's.
    pub hostname: Option<String>,
    /// Absent is the request's.
    pub path: Option<PathModifier>,
    /// Absent is the scheme's own, else the listener's.
    pub port: Option<u16>,
    /// 301, 302 (if absent), 303, 307 or 308.
    pub status_code: Option<u16>,
}

/// Changes host and path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RewriteFilter {
    /// The new host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathModifier>,
}

/// A new path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("type"))]
pub struct PathModifier {
    /// ReplaceFullPath or ReplacePrefixMatch.
    #[serde(rename = "type")]
    pub kind: String,
    /// In place of the whole path.
    pub replace_full_path: Option<String>,
    /// In place of the prefix that matched.
    pub replace_prefix_match: Option<String>,
}

/// Cross-origin requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsFilter {
    /// Origins, `*` may stand in their host.
    pub allow_origins: Vec<String>,
    /// Whether credentials may come along.
    pub allow_credentials: Option<bool>,
    /// Methods.
    pub allow_methods: Vec<String>,
    /// Headers of requests.
    pub allow_headers: Vec<String>,
    /// Headers of answers that scripts may see.
    pub expose_headers: Vec<String>,
    /// How long, in seconds, a browser may remember; absent is 5.
    pub max_age: Option<u32>,
}

/// A backend, and changes for requests that go there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct HttpBackendRef {
    /// API group; absent is Kubernetes' core.
    pub group: Option<String>,
    /// Kind; absent is Service.
    pub kind: Option<String>,
    /// Name of the backend.
    pub name: String,
    /// Namespace; absent is the route's own.
    pub namespace: Option<String>,
    /// Port of the Service.
    pub port: Option<u16>,
    /// Share of requests, relative to the others'; absent is 1.
    #[schemars(transform = limit("maximum", 1_000_000))]
    pub weight: Option<u32>,
    /// Changes on the way there.
    pub filters: Vec<HttpFilter>,
}

impl HttpBackendRef {
    /// Where it points to.
    #[must_use]
    pub fn backend(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
            weight: self.weight,
        }
    }
}

/// Limits of time; `0s` is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpTimeouts {
    /// For the whole request.
    pub request: Option<String>,
    /// For one try.
    pub backend_request: Option<String>,
}

/// Further tries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryRule {
    /// Statuses that are worth another try.
    #[schemars(transform = each_rule("self >= 400 && self <= 599", "a code is 400 to 599"))]
    pub codes: Vec<u16>,
    /// How many more.
    pub attempts: Option<u32>,
    /// Time between two.
    pub backoff: Option<String>,
}
