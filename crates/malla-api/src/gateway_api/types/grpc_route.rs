//! GRPCRoute.

use schemars::JsonSchema;
use serde::Deserialize;

use super::http_route::{HttpBackendRef, HttpFilter, NameMatch};
use super::shared::ParentRef;
use crate::schema::{each_rule, free_form, limit, rule};

/// Where gRPC calls go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What the route attaches to.
    #[schemars(transform = limit("maxItems", 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Names of calls' hosts; none is all that the listener serves.
    #[schemars(transform = limit("maxItems", 16))]
    pub hostnames: Vec<String>,
    /// The rules.
    #[schemars(transform = limit("maxItems", 16))]
    pub rules: Vec<GrpcRule>,
}

/// Calls, and what happens to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRule {
    /// Name of the rule.
    pub name: Option<String>,
    /// Any of these; none is every call.
    #[schemars(transform = limit("maxItems", 64))]
    pub matches: Vec<GrpcMatch>,
    /// Changes on the way, in this order.
    #[schemars(transform = each_rule("self.type in ['RequestHeaderModifier','ResponseHeaderModifier','RequestMirror','ExtensionRef']", "type must be one of ['ResponseHeaderModifier', 'RequestHeaderModifier', 'RequestMirror', 'ExtensionRef']"))]
    #[schemars(transform = limit("maxItems", 16))]
    pub filters: Vec<HttpFilter>,
    /// Where calls go.
    #[schemars(transform = limit("maxItems", 16))]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Sessions; not in the standard channel, and not honoured.
    #[schemars(transform = free_form)]
    pub session_persistence: Option<serde_json::Value>,
}

/// All of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcMatch {
    /// The service and its method; absent is any.
    pub method: Option<GrpcMethodMatch>,
    /// Headers, all of them.
    #[schemars(transform = limit("maxItems", 16))]
    pub headers: Vec<NameMatch>,
}

/// How a service and its method match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("has(self.service) || has(self.method)", "One or both of 'service' or 'method' must be specified"))]
#[schemars(transform = rule("!has(self.type) || self.type in ['Exact','RegularExpression']", "type must be one of ['Exact', 'RegularExpression']"))]
#[schemars(transform = rule("(has(self.type) && self.type == 'RegularExpression') || !has(self.service) || self.service.matches('^[.]?[A-Za-z_][A-Za-z_0-9]*([.][A-Za-z_][A-Za-z_0-9]*)*$')", "service must be a name such as package.Service when type is Exact"))]
#[schemars(transform = rule("(has(self.type) && self.type == 'RegularExpression') || !has(self.method) || self.method.matches('^[A-Za-z_][A-Za-z_0-9]*$')", "method must be a name when type is Exact"))]
pub struct GrpcMethodMatch {
    /// Exact (if absent) or RegularExpression.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The service with its package; absent is any.
    #[schemars(transform = limit("maxLength", 1024))]
    pub service: Option<String>,
    /// The method; absent is any.
    #[schemars(transform = limit("maxLength", 1024))]
    pub method: Option<String>,
}
