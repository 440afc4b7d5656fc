//! Route configurations: from a host and a request to what happens with it.
//!
//! Reading order: [`RouteConfig`] → [`table`] (which virtual host, which route) → [`matcher`] (does it fit) →
//! [`action`] (what then) → [`redirect`], [`retry`], [`hash`].

pub mod action;
pub mod hash;
pub mod internal_redirect;
pub mod matcher;
pub mod redirect;
pub mod retry;
pub mod table;

use std::sync::Arc;

use crate::checked::{Checked, Cx, Invalid, ignorable, refuse};
use crate::headers::HeaderEdits;
use crate::http_filter::PerFilter;
use crate::metadata::Metadata;
use crate::pb::route as pb;
use crate::rate_limit::RateLimits;
use crate::request::{HeaderMatcher, RequestView};
use crate::runtime::Values;
use crate::tracing::{Decorator, RouteTracing};
use action::{Action, Mirror};
use matcher::RouteMatch;
use retry::RetryPolicy;
use table::{HostTable, RouteIndex};

/// `envoy.config.route.v3.RouteConfiguration`, compiled.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Resource name.
    pub name: Arc<str>,
    /// Virtual hosts, in order.
    pub vhosts: Vec<Arc<VirtualHost>>,
    hosts: HostTable,
    /// Compare domains with the host without its port.
    pub ignore_port: bool,
    /// Changes to every request.
    pub request_headers: HeaderEdits,
    /// Changes to every response.
    pub response_headers: HeaderEdits,
    /// The most specific level has the last word; else the least specific has.
    pub most_specific_wins: bool,
    /// Removed from external requests.
    pub internal_only: Vec<http::HeaderName>,
    /// What it says about filters.
    pub per_filter: PerFilter,
}

/// `VirtualHost`.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Name.
    pub name: Arc<str>,
    /// Metadata.
    pub metadata: Metadata,
    /// Routes, in order.
    pub routes: Vec<Arc<Route>>,
    index: RouteIndex,
    /// Redirect plain HTTP to HTTPS.
    pub require_tls: RequireTls,
    /// Changes to its requests.
    pub request_headers: HeaderEdits,
    /// Changes to its responses.
    pub response_headers: HeaderEdits,
    /// What it says about filters.
    pub per_filter: PerFilter,
    /// What its requests count against.
    pub rate_limits: RateLimits,
    /// Write `x-envoy-attempt-count` into requests.
    pub attempt_count_in_request: bool,
    /// Write it into responses.
    pub attempt_count_in_response: bool,
    /// Tell in `x-envoy-is-timeout-retry` of further tries whether a timeout led to them.
    pub timeout_retry_in_request: bool,
    /// Most bytes of a request body kept for retries; `None` leaves the listener's limit.
    pub retry_buffer: Option<u64>,
    /// Requests that are counted together, in order; all others are counted as [`OTHER_REQUESTS`] if there are any.
    pub virtual_clusters: Vec<VirtualCluster>,
}

/// `VirtualCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualCluster {
    /// Its name in statistics and logs.
    pub name: Arc<str>,
    /// Which requests: those that all of these take.
    pub headers: Vec<HeaderMatcher>,
}

/// What Envoy calls the requests that no virtual cluster takes.
pub const OTHER_REQUESTS: &str = "other";

/// `TlsRequirementType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireTls {
    /// Plain HTTP is fine.
    None,
    /// Only internal requests may be plain HTTP.
    ExternalOnly,
    /// Always.
    All,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// `%ROUTE_NAME%`; may be empty.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What then.
    pub action: Action,
    /// Changes to its requests.
    pub request_headers: HeaderEdits,
    /// Changes to its responses.
    pub response_headers: HeaderEdits,
    /// What it says about filters.
    pub per_filter: PerFilter,
    /// Metadata: `istio` names the rule behind it.
    pub metadata: Metadata,
    /// Most bytes of a request body kept for retries.
    pub retry_buffer: Option<u64>,
    /// Which of its requests are traced, and how.
    pub tracing: Option<Box<RouteTracing>>,
    /// Names its spans.
    pub decorator: Option<Box<Decorator>>,
}

/// What route configurations hand down to their routes while parsing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inherited {
    retry: Option<Arc<RetryPolicy>>,
    mirrors: Vec<Mirror>,
    hedge: bool,
    max_direct_body: usize,
}

/// Envoy's `max_direct_response_body_size_bytes`.
const DEFAULT_MAX_DIRECT_BODY: u32 = 4096;

impl RouteConfig {
    /// Parses one route configuration.
    pub fn from_proto(wire: pb::RouteConfiguration) -> Result<Checked<Self>, Invalid> {
        Cx::check(|cx| Self::parse(wire, cx))
    }

    /// As [`Self::from_proto`], with runtime values.
    pub fn from_proto_with(
        wire: pb::RouteConfiguration,
        runtime: &Arc<Values>,
    ) -> Result<Checked<Self>, Invalid> {
        Cx::with_runtime(runtime, |cx| Self::parse(wire, cx))
    }

    pub(crate) fn parse(wire: pb::RouteConfiguration, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = wire;
        refuse!(cx; vhds, cluster_specifier_plugins, vhost_header, ignore_path_parameters_in_path_matching,
            route_specifiers);
        // A route to a cluster that is not there answers 503 NC: names may arrive in any order.
        ignorable!(cx; metadata);
        let _ = validate_clusters;
        let inherited = Inherited {
            retry: None,
            hedge: false,
            mirrors: cx.each(
                "request_mirror_policies",
                request_mirror_policies,
                Mirror::parse,
            )?,
            max_direct_body: max_direct_response_body_size_bytes
                .map_or(DEFAULT_MAX_DIRECT_BODY, |max| max.value)
                as usize,
        };
        let mut domains = Vec::new();
        let mut vhosts = Vec::new();
        for (index, vhost) in virtual_hosts.into_iter().enumerate() {
            cx.field(&format!("virtual_hosts[{index}]"), |cx| {
                domains.push(vhost.domains.clone());
                vhosts.push(Arc::new(VirtualHost::parse(vhost, inherited.clone(), cx)?));
                Ok(())
            })?;
        }
        let hosts = HostTable::compile(&domains).map_err(|(vhost, reason)| {
            cx.invalid(&format!("virtual_hosts[{vhost}].domains"), reason)
        })?;
        let internal_only = cx.each(
            "internal_only_headers",
            internal_only_headers,
            |name, cx| {
                name.parse()
                    .map_err(|_| cx.invalid("", format!("`{name}` is not a header name")))
            },
        )?;
        Ok(Self {
            name: name.into(),
            vhosts,
            hosts,
            ignore_port: ignore_port_in_host_matching,
            request_headers: HeaderEdits::parse(
                "request",
                request_headers_to_add,
                request_headers_to_remove,
                cx,
            )?,
            response_headers: HeaderEdits::parse(
                "response",
                response_headers_to_add,
                response_headers_to_remove,
                cx,
            )?,
            most_specific_wins: most_specific_header_mutations_wins,
            internal_only,
            per_filter: PerFilter::parse(typed_per_filter_config, cx)?,
        })
    }

    /// The virtual host for an authority: exact name, then longest `*.suffix`, then longest `prefix.*`, then `*`.
    pub fn vhost(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.vhosts.get(self.vhost_index(authority)?)
    }

    /// The same as an index into `vhosts`.
    pub fn vhost_index(&self, authority: &str) -> Option<usize> {
        let host = if self.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        self.hosts.find(host)
    }
}

/// An authority without its port, if it has a numeric one; IPv6 brackets stay.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

impl VirtualCluster {
    fn parse(wire: pb::VirtualCluster, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::VirtualCluster { headers, name } = wire;
        if name.is_empty() {
            return Err(cx.invalid("name", "is required"));
        }
        if headers.is_empty() {
            return Err(cx.invalid("headers", "takes at least one"));
        }
        Ok(Self {
            name: name.into(),
            headers: cx.each("headers", headers, HeaderMatcher::parse)?,
        })
    }
}

impl VirtualHost {
    /// What a request is counted as, if requests are told apart here.
    pub fn counted_as(&self, request: &RequestView<'_>) -> Option<Arc<str>> {
        if self.virtual_clusters.is_empty() {
            return None;
        }
        let takes =
            |one: &&VirtualCluster| one.headers.iter().all(|header| header.is_match(request));
        let found = self.virtual_clusters.iter().find(takes);
        Some(found.map_or_else(|| OTHER_REQUESTS.into(), |found| Arc::clone(&found.name)))
    }

    fn parse(
        wire: pb::VirtualHost,
        mut inherited: Inherited,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pb::VirtualHost {
            name,
            domains: _,
            routes,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = wire;
        refuse!(cx; matcher, retry_policy_typed_config, route_specifiers);
        if name.is_empty() {
            return Err(cx.invalid("name", "is required"));
        }
        if let Some(policy) = retry_policy {
            inherited.retry =
                Some(Arc::new(cx.field("retry_policy", |cx| {
                    RetryPolicy::parse(policy, cx)
                })?));
        }
        if let Some(policy) = hedge_policy {
            inherited.hedge = cx.field("hedge_policy", |cx| action::hedges(policy, cx))?;
        }
        if !request_mirror_policies.is_empty() {
            inherited.mirrors = cx.each(
                "request_mirror_policies",
                request_mirror_policies,
                Mirror::parse,
            )?;
        }
        let mut per_filter = PerFilter::parse(typed_per_filter_config, cx)?;
        per_filter.add_legacy_cors(cors, cx)?;
        let routes: Vec<Arc<Route>> = cx.each("routes", routes, |route, cx| {
            Route::parse(route, &inherited, cx).map(Arc::new)
        })?;
        Ok(Self {
            name: name.into(),
            virtual_clusters: cx.each(
                "virtual_clusters",
                virtual_clusters,
                VirtualCluster::parse,
            )?,
            metadata: Metadata::parse(metadata, "metadata", cx),
            index: RouteIndex::compile(&routes),
            routes,
            require_tls: match cx.enumeration("require_tls", require_tls)? {
                pb::virtual_host::TlsRequirementType::None => RequireTls::None,
                pb::virtual_host::TlsRequirementType::ExternalOnly => RequireTls::ExternalOnly,
                pb::virtual_host::TlsRequirementType::All => RequireTls::All,
            },
            request_headers: HeaderEdits::parse(
                "request",
                request_headers_to_add,
                request_headers_to_remove,
                cx,
            )?,
            response_headers: HeaderEdits::parse(
                "response",
                response_headers_to_add,
                response_headers_to_remove,
                cx,
            )?,
            per_filter,
            rate_limits: RateLimits::parse(rate_limits, cx)?,
            attempt_count_in_request: include_request_attempt_count,
            attempt_count_in_response: include_attempt_count_in_response,
            timeout_retry_in_request: include_is_timeout_retry_header,
            retry_buffer: buffer_limit(request_body_buffer_limit, per_request_buffer_limit_bytes),
        })
    }

    /// The first route that fits, as an index into `routes`; `random` decides runtime fractions.
    pub fn route_index(&self, request: &RequestView<'_>, random: u64) -> Option<usize> {
        self.index.find(&self.routes, request, random)
    }
}

fn buffer_limit(
    new: Option<crate::pb::google::UInt64Value>,
    old: Option<crate::pb::google::UInt32Value>,
) -> Option<u64> {
    new.map(|limit| limit.value)
        .or(old.map(|limit| limit.value.into()))
}

impl Route {
    fn parse(wire: pb::Route, inherited: &Inherited, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = wire;
        refuse!(cx; route_specifiers);
        ignorable!(cx; stat_prefix);
        let matches = cx.required("match", r#match)?;
        let matches = cx.field("match", |cx| RouteMatch::parse(matches, cx))?;
        let action = cx.required("action", action)?;
        let mut per_filter = PerFilter::parse(typed_per_filter_config, cx)?;
        if let pb::route::Action::Route(route) = &action {
            per_filter.add_legacy_cors(route.cors.clone(), cx)?;
        }
        let tracing = match tracing {
            None => None,
            Some(wire) => Some(Box::new(
                cx.field("tracing", |cx| RouteTracing::parse(wire, cx))?,
            )),
        };
        let decorator = match decorator {
            None => None,
            Some(wire) => Some(Box::new(
                cx.field("decorator", |cx| Decorator::parse(wire, cx))?,
            )),
        };
        Ok(Self {
            name: name.into(),
            action: Action::parse(action, &matches, inherited, cx)?,
            matches,
            request_headers: HeaderEdits::parse(
                "request",
                request_headers_to_add,
                request_headers_to_remove,
                cx,
            )?,
            response_headers: HeaderEdits::parse(
                "response",
                response_headers_to_add,
                response_headers_to_remove,
                cx,
            )?,
            per_filter,
            metadata: Metadata::parse(metadata, "metadata", cx),
            retry_buffer: buffer_limit(request_body_buffer_limit, per_request_buffer_limit_bytes),
            tracing,
            decorator,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn ports_are_cut_off() {
        for (authority, want) in [
            ("a.b:80", "a.b"),
            ("a.b", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:", "a:"),
            ("a:x", "a:x"),
        ] {
            assert_eq!(without_port(authority), want, "{authority}");
        }
    }
}
