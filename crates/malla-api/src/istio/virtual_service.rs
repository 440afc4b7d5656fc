//! VirtualService: where requests go.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::PortSelector;
use super::http_action::{
    CorsPolicy, Delegate, Headers, HttpDirectResponse, HttpFaultInjection, HttpMirrorPolicy,
    HttpRedirect, HttpRetry, HttpRewrite,
};
use super::http_match::HttpMatchRequest;
use crate::duration::Duration;
use crate::istio::common::Percent;
use crate::schema::{nullable, required};

/// Where requests to some hosts go: routes by path, header, weight, with timeouts, retries, faults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// Hosts whose requests these routes take: a DNS name, `*.suffix` or `*`. A name without a dot
    /// is a service of this object's namespace.
    pub hosts: Vec<String>,
    /// Gateways (`name` or `namespace/name`) that apply these routes; the word `mesh` stands for
    /// all sidecars and is the default.
    pub gateways: Vec<String>,
    /// Routes for HTTP; the first that matches is taken.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS passed through unterminated, by SNI.
    pub tls: Vec<TlsRoute>,
    /// Routes for opaque TCP.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see this object: names, `.` (this one), `*` (all).
    pub export_to: Vec<String>,
}

/// One HTTP route: what it matches and what it does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    /// Name of the route, shown in access logs and metrics.
    pub name: Option<String>,
    /// Alternatives, any of which must match; none matches every request.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Services to forward to, by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answer with a redirect instead of forwarding.
    pub redirect: Option<HttpRedirect>,
    /// Answer with a fixed response instead of forwarding.
    pub direct_response: Option<HttpDirectResponse>,
    /// Go on with the routes of another VirtualService.
    pub delegate: Option<Delegate>,
    /// Change path or authority before forwarding.
    pub rewrite: Option<HttpRewrite>,
    /// Time limit of the whole request; absent is none.
    pub timeout: Option<Duration>,
    /// When and how often to try again.
    pub retries: Option<HttpRetry>,
    /// Delays or errors to inject, on the client's side.
    pub fault: Option<HttpFaultInjection>,
    /// Send a copy of requests to this service too and ignore its answers.
    pub mirror: Option<Destination>,
    /// Several mirrors, each with its share.
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Old name of `mirrorPercentage`.
    #[schemars(transform = nullable)]
    pub mirror_percent: Option<u32>,
    /// Old name of `mirrorPercentage`.
    #[serde(rename = "mirror_percent")]
    #[schemars(transform = nullable)]
    pub mirror_percent_snake: Option<u32>,
    /// Share of requests to mirror to `mirror`; absent is all.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin resource sharing.
    pub cors_policy: Option<CorsPolicy>,
    /// Changes to request and response headers.
    pub headers: Option<Headers>,
}

/// One service a route forwards to, and its weight.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("destination"))]
pub struct HttpRouteDestination {
    /// The service.
    pub destination: Destination,
    /// Share relative to the sum of weights; 0 gets nothing. A single destination takes all.
    pub weight: Option<i32>,
    /// Changes to headers for this destination only.
    pub headers: Option<Headers>,
}

/// A service, or a subset of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("host"))]
pub struct Destination {
    /// Name of the service. Without a dot, a service of this object's namespace.
    pub host: String,
    /// Name of a subset that a DestinationRule for the host defines.
    pub subset: Option<String>,
    /// Port of the service; may be left out where it has only one.
    pub port: Option<PortSelector>,
}

/// One TLS route, chosen by SNI without decryption.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("match"))]
pub struct TlsRoute {
    /// Alternatives, any of which must match.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    /// Services to forward to, by weight.
    pub route: Vec<RouteDestination>,
}

/// What a TLS connection must look like; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("sniHosts"))]
pub struct TlsMatchAttributes {
    /// SNI names, each within one of the VirtualService's hosts; `*.suffix` is allowed.
    pub sni_hosts: Vec<String>,
    /// Destination addresses, IP or CIDR.
    pub destination_subnets: Vec<String>,
    /// Port the client called.
    pub port: Option<u32>,
    /// Only for clients with these labels.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this applies to; overrides the VirtualService's list.
    pub gateways: Vec<String>,
    /// Only for clients of this namespace.
    pub source_namespace: Option<String>,
}

/// One route for opaque TCP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// Alternatives, any of which must match; none matches every connection.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    /// Services to forward to, by weight.
    pub route: Vec<RouteDestination>,
}

/// What a TCP connection must look like; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct L4MatchAttributes {
    /// Destination addresses, IP or CIDR.
    pub destination_subnets: Vec<String>,
    /// Port the client called.
    pub port: Option<u32>,
    /// Old; nothing reads it.
    pub source_subnet: Option<String>,
    /// Only for clients with these labels.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this applies to; overrides the VirtualService's list.
    pub gateways: Vec<String>,
    /// Only for clients of this namespace.
    pub source_namespace: Option<String>,
}

/// One service a TCP or TLS route forwards to, and its weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("destination"))]
pub struct RouteDestination {
    /// The service.
    pub destination: Destination,
    /// Share relative to the sum of weights.
    pub weight: Option<i32>,
}
