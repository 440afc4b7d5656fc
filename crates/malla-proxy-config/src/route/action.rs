//! What happens with a request that a route takes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Inherited;
use super::hash::HashPolicy;
use super::internal_redirect::InternalRedirect;
use super::matcher::{PathMatch, RouteMatch};
use super::redirect::{DirectResponse, Redirect};
use super::retry::RetryPolicy;
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::headers::HeaderEdits;
use crate::http_filter::HeaderEdit;
use crate::http_filter::PerFilter;
use crate::matcher::{Fraction, RegexReplace};
use crate::metadata::Metadata;
use crate::pb::{core, google, route as pb};
use crate::rate_limit::RateLimits;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It goes to a cluster.
    Forward(Box<Forward>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers.
    Direct(DirectResponse),
    /// Matched by a server that does not forward; a proxy answers 500.
    NonForwarding,
}

/// `RouteAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Where to.
    pub target: Target,
    /// The answer when that cluster is not there.
    pub not_found: StatusCode,
    /// Only endpoints with this `envoy.lb` metadata.
    pub metadata_match: Option<Metadata>,
    /// Change of the path.
    pub path: PathRewrite,
    /// Change of the host.
    pub host: HostRewrite,
    /// Keep the old host in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Limit for the whole exchange, from the end of the request; `None` is none.
    pub timeout: Option<Duration>,
    /// Limit without progress; `None` leaves the manager's, `Some(None)` is none.
    pub idle_timeout: Option<Option<Duration>>,
    /// What gRPC clients may ask for, or a limit for the whole stream instead of `timeout`.
    pub stream_limit: Option<StreamLimit>,
    /// When to try again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// A try that takes too long goes on beside the next one (`hedge_on_per_try_timeout`).
    pub hedge: bool,
    /// Redirects of the endpoint that are followed here.
    pub internal_redirect: Option<Arc<InternalRedirect>>,
    /// Copies that go elsewhere.
    pub mirrors: Vec<Mirror>,
    /// What its requests count against.
    pub rate_limits: RateLimits,
    /// And against those of the virtual host.
    pub include_vhost_rate_limits: bool,
    /// High-priority circuit breakers.
    pub high_priority: bool,
    /// What consistent hashing is over, in order.
    pub hash: Vec<HashPolicy>,
    /// Upgrade types this route switches on or off, lower case.
    pub upgrades: Vec<(String, bool)>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This cluster; it may not be there (yet).
    Cluster(Arc<str>),
    /// The cluster this request header names.
    Header(HeaderName),
    /// One of several, by weight.
    Weighted(Weighted),
}

/// Weighted clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// The clusters.
    pub clusters: Vec<WeightedCluster>,
    /// Sum of the weights; at least 1.
    pub total: u64,
    /// Take the random number from this request header.
    pub random_header: Option<HeaderName>,
}

/// One of several clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    /// Name, or the header that has it.
    pub cluster: Result<Arc<str>, HeaderName>,
    /// Share of the total.
    pub weight: u64,
    /// Merged over the route's.
    pub metadata_match: Option<Metadata>,
    /// Changes to its requests.
    pub request_headers: HeaderEdits,
    /// Changes to its responses.
    pub response_headers: HeaderEdits,
    /// What it says about filters.
    pub per_filter: PerFilter,
    /// Its own host.
    pub host: Option<HeaderValue>,
}

impl Weighted {
    /// The cluster a number falls to, by its index.
    pub fn pick_index(&self, random: u64) -> Option<usize> {
        let mut point = random % self.total.max(1);
        self.clusters
            .iter()
            .position(|cluster| match point.checked_sub(cluster.weight) {
                None => true,
                Some(rest) => {
                    point = rest;
                    false
                }
            })
    }
}

/// Change of the path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// None.
    Keep,
    /// The matched part is replaced.
    Prefix {
        /// Length of the matched part; `None` replaces the whole path.
        matched: Option<usize>,
        /// By what.
        by: String,
    },
    /// Every match is replaced, the query is left alone.
    Regex(RegexReplace),
}

/// Change of the host.
#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    /// None.
    Keep,
    /// This.
    Literal(HeaderValue),
    /// The chosen endpoint's hostname.
    Auto,
    /// The value of this request header.
    Header(HeaderName),
    /// The path with every match replaced.
    PathRegex(RegexReplace),
}

/// Limits that stand in for a route's timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamLimit {
    /// `max_stream_duration`: counts from the stream's start, and Envoy takes no `timeout` then.
    Whole {
        /// `None` leaves the manager's, `Some(None)` is none.
        max: Option<Option<Duration>>,
        /// For requests that have `grpc-timeout`.
        grpc: Option<GrpcDeadline>,
    },
    /// `max_grpc_timeout`: for gRPC requests instead of `timeout`.
    Grpc(GrpcDeadline),
}

/// How far a route follows `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcDeadline {
    /// At most this; zero is whatever it says.
    pub max: Duration,
    /// Subtracted from what the client asks for.
    pub offset: Duration,
}

/// `RequestMirrorPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Name, or the header that has it.
    pub cluster: Result<Arc<str>, HeaderName>,
    /// Share of requests.
    pub fraction: Fraction,
    /// The host gets `-shadow` appended.
    pub shadow_suffix: bool,
    /// The host is this instead.
    pub host: Option<HeaderValue>,
    /// Changes to the copy's headers.
    pub mutations: Vec<HeaderEdit>,
}

impl Action {
    pub(super) fn parse(
        wire: pb::route::Action,
        matches: &RouteMatch,
        inherited: &Inherited,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::route::Action as Wire;
        match wire {
            Wire::Route(route) => {
                let forward =
                    cx.field("route", |cx| Forward::parse(route, matches, inherited, cx))?;
                Ok(Self::Forward(Box::new(forward)))
            }
            Wire::Redirect(redirect) => cx
                .field("redirect", |cx| Redirect::parse(redirect, matches, cx))
                .map(Self::Redirect),
            Wire::DirectResponse(direct) => cx
                .field("direct_response", |cx| {
                    DirectResponse::parse(direct, inherited.max_direct_body, cx)
                })
                .map(Self::Direct),
            Wire::NonForwardingAction(_) => Ok(Self::NonForwarding),
            Wire::FilterAction(_) => {
                Err(cx.invalid("filter_action", "not supported by this proxy"))
            }
        }
    }
}

fn header_name(field: &str, name: &str, cx: &Cx) -> Result<HeaderName, Invalid> {
    name.parse()
        .map_err(|_| cx.invalid(field, format!("`{name}` is not a header name")))
}

fn header_value(field: &str, text: &str, cx: &Cx) -> Result<HeaderValue, Invalid> {
    HeaderValue::from_str(text)
        .map_err(|_| cx.invalid(field, "has characters that no header may have"))
}

/// A cluster by name or by header; exactly one must be given.
fn cluster_or_header(
    name: String,
    header: &str,
    cx: &Cx,
) -> Result<Result<Arc<str>, HeaderName>, Invalid> {
    match (name.is_empty(), header.is_empty()) {
        (false, true) => Ok(Ok(name.into())),
        (true, false) => header_name("cluster_header", header, cx).map(Err),
        _ => Err(cx.invalid(
            "cluster",
            "exactly one of a name and cluster_header is required",
        )),
    }
}

impl Forward {
    fn parse(
        wire: pb::RouteAction,
        matches: &RouteMatch,
        inherited: &Inherited,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pb::RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors: _,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = wire;
        refuse!(cx; path_rewrite_policy, path_rewrite, retry_policy_typed_config);
        ignorable!(cx; flush_timeout, early_data_policy);
        let timeout = cx.duration("timeout", timeout)?.unwrap_or(DEFAULT_TIMEOUT);
        let idle_timeout = cx.duration("idle_timeout", idle_timeout)?;
        let retry = match retry_policy {
            Some(policy) => {
                Some(Arc::new(cx.field("retry_policy", |cx| {
                    RetryPolicy::parse(policy, cx)
                })?))
            }
            None => inherited.retry.clone(),
        };
        let mirrors = match request_mirror_policies {
            none if none.is_empty() => inherited.mirrors.clone(),
            some => cx.each("request_mirror_policies", some, Mirror::parse)?,
        };
        let priority: core::RoutingPriority = cx.enumeration("priority", priority)?;
        let metadata_match =
            metadata_match.map(|wire| Metadata::parse(Some(wire), "metadata_match", cx));
        let mut target = Target::parse(cluster_specifier, cx)?;
        if let (Target::Weighted(weighted), Some(below)) = (&mut target, &metadata_match) {
            weighted.merge_over(below);
        }
        Ok(Self {
            target,
            not_found: not_found(cluster_not_found_response_code, cx)?,
            metadata_match,
            path: PathRewrite::parse(prefix_rewrite, regex_rewrite, matches, cx)?,
            host: HostRewrite::parse(host_rewrite_specifier, cx)?,
            append_forwarded_host: append_x_forwarded_host,
            timeout: (!timeout.is_zero() && max_stream_duration.is_none()).then_some(timeout),
            idle_timeout: idle_timeout.map(|timeout| (!timeout.is_zero()).then_some(timeout)),
            stream_limit: StreamLimit::parse(
                max_stream_duration,
                max_grpc_timeout,
                grpc_timeout_offset,
                cx,
            )?,
            retry,
            hedge: match hedge_policy {
                Some(policy) => cx.field("hedge_policy", |cx| hedges(policy, cx))?,
                None => inherited.hedge,
            },
            internal_redirect: InternalRedirect::parse_any(
                internal_redirect_policy,
                internal_redirect_action,
                max_internal_redirects,
                cx,
            )?
            .map(Arc::new),
            mirrors,
            rate_limits: RateLimits::parse(rate_limits, cx)?,
            include_vhost_rate_limits: include_vh_rate_limits.is_some_and(|value| value.value),
            high_priority: priority == core::RoutingPriority::High,
            hash: cx.each("hash_policy", hash_policy, HashPolicy::parse)?,
            upgrades: cx.each("upgrade_configs", upgrade_configs, upgrade)?,
        })
    }
}

/// Whether tries that take too long go on beside the next one.
pub(super) fn hedges(wire: pb::HedgePolicy, cx: &mut Cx) -> Result<bool, Invalid> {
    let pb::HedgePolicy {
        initial_requests,
        additional_request_chance,
        hedge_on_per_try_timeout,
    } = wire;
    // Envoy reads neither of the first two.
    if initial_requests.is_some_and(|count| count.value == 0) {
        return Err(cx.invalid("initial_requests", "must be at least 1"));
    }
    ignorable!(cx; initial_requests, additional_request_chance);
    Ok(hedge_on_per_try_timeout)
}

fn not_found(wire: i32, cx: &Cx) -> Result<StatusCode, Invalid> {
    use pb::route_action::ClusterNotFoundResponseCode as Wire;
    Ok(
        match cx.enumeration("cluster_not_found_response_code", wire)? {
            Wire::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Wire::NotFound => StatusCode::NOT_FOUND,
            Wire::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
    )
}

/// Name, and on or off.
fn upgrade(wire: pb::route_action::UpgradeConfig, cx: &mut Cx) -> Result<(String, bool), Invalid> {
    let pb::route_action::UpgradeConfig {
        upgrade_type,
        enabled,
        connect_config,
    } = wire;
    refuse!(cx; connect_config);
    Ok((
        upgrade_type.to_ascii_lowercase(),
        enabled.is_none_or(|value| value.value),
    ))
}

impl Target {
    fn parse(
        wire: Option<pb::route_action::ClusterSpecifier>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::route_action::ClusterSpecifier;
        match cx.required("cluster_specifier", wire)? {
            ClusterSpecifier::Cluster(name) if name.is_empty() => {
                Err(cx.invalid("cluster", "is empty"))
            }
            ClusterSpecifier::Cluster(name) => Ok(Self::Cluster(name.into())),
            ClusterSpecifier::ClusterHeader(name) => {
                header_name("cluster_header", &name, cx).map(Self::Header)
            }
            ClusterSpecifier::WeightedClusters(list) => cx
                .field("weighted_clusters", |cx| Weighted::parse(list, cx))
                .map(Self::Weighted),
            ClusterSpecifier::ClusterSpecifierPlugin(_)
            | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
                Err(cx.invalid("cluster_specifier_plugin", "not supported by this proxy"))
            }
        }
    }
}

impl Weighted {
    /// Adds the route's metadata to that of its clusters, which has the last word.
    fn merge_over(&mut self, below: &Metadata) {
        let own = self.clusters.iter_mut();
        own.filter_map(|cluster| cluster.metadata_match.as_mut())
            .for_each(|own| own.merge_over(below));
    }

    fn parse(wire: pb::WeightedCluster, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::weighted_cluster::RandomValueSpecifier;
        let pb::WeightedCluster {
            clusters,
            total_weight: _,
            runtime_key_prefix,
            random_value_specifier,
        } = wire;
        let random_header = match random_value_specifier {
            None => None,
            Some(RandomValueSpecifier::HeaderName(name)) => {
                Some(header_name("header_name", &name, cx)?)
            }
            Some(RandomValueSpecifier::UseHashPolicy(value)) => {
                cx.unset("use_hash_policy", &value.value)?;
                None
            }
        };
        let mut clusters: Vec<WeightedCluster> = cx.each("clusters", clusters, |wire, cx| {
            let key = format!("{runtime_key_prefix}.{}", wire.name);
            let mut cluster = WeightedCluster::parse(wire, cx)?;
            if !runtime_key_prefix.is_empty() {
                cluster.weight = cx.runtime_integer(&key, cluster.weight);
            }
            Ok(cluster)
        })?;
        for cluster in &mut clusters {
            // So that no sum of them overflows.
            cluster.weight = cluster.weight.min(u32::MAX.into());
        }
        let total = clusters.iter().map(|cluster| cluster.weight).sum();
        if total == 0 {
            return Err(cx.invalid("clusters", "weights must sum to at least 1"));
        }
        Ok(Self {
            clusters,
            total,
            random_header,
        })
    }
}

impl WeightedCluster {
    fn parse(wire: pb::weighted_cluster::ClusterWeight, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let pb::weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = wire;
        let host = match host_rewrite_specifier {
            None => None,
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                Some(header_value("host_rewrite_literal", &host, cx)?)
            }
        };
        Ok(Self {
            cluster: cluster_or_header(name, &cluster_header, cx)?,
            weight: weight.map_or(0, |weight| weight.value.into()),
            metadata_match: metadata_match
                .map(|wire| Metadata::parse(Some(wire), "metadata_match", cx)),
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
            per_filter: PerFilter::parse(typed_per_filter_config, cx)?,
            host,
        })
    }
}

impl PathRewrite {
    fn parse(
        prefix: String,
        regex: Option<crate::pb::matcher::RegexMatchAndSubstitute>,
        matches: &RouteMatch,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        match (prefix.is_empty(), regex) {
            (true, None) => Ok(Self::Keep),
            (true, Some(regex)) => cx
                .field("regex_rewrite", |cx| RegexReplace::parse(regex, cx))
                .map(Self::Regex),
            (false, None) => Ok(Self::Prefix {
                matched: matched_length(matches),
                by: prefix,
            }),
            (false, Some(_)) => Err(cx.invalid(
                "regex_rewrite",
                "cannot be used together with prefix_rewrite",
            )),
        }
    }
}

/// How much of the path a match covers; `None` is all of it.
pub(super) fn matched_length(matches: &RouteMatch) -> Option<usize> {
    match &matches.path {
        PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => Some(prefix.len()),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect | PathMatch::Template(_) => {
            None
        }
    }
}

impl HostRewrite {
    fn parse(
        wire: Option<pb::route_action::HostRewriteSpecifier>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::route_action::HostRewriteSpecifier as Wire;
        match wire {
            None => Ok(Self::Keep),
            Some(Wire::HostRewriteLiteral(host) | Wire::HostRewrite(host)) => {
                header_value("host_rewrite_literal", &host, cx).map(Self::Literal)
            }
            Some(Wire::AutoHostRewrite(google::BoolValue { value })) => {
                Ok(if value { Self::Auto } else { Self::Keep })
            }
            Some(Wire::HostRewriteHeader(name)) => {
                header_name("host_rewrite_header", &name, cx).map(Self::Header)
            }
            Some(Wire::HostRewritePathRegex(regex)) => cx
                .field("host_rewrite_path_regex", |cx| {
                    RegexReplace::parse(regex, cx)
                })
                .map(Self::PathRegex),
        }
    }
}

impl StreamLimit {
    fn parse(
        wire: Option<pb::route_action::MaxStreamDuration>,
        old_grpc: Option<google::Duration>,
        old_offset: Option<google::Duration>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        let max = cx.duration("max_grpc_timeout", old_grpc)?;
        let offset = cx.duration("grpc_timeout_offset", old_offset)?;
        let Some(wire) = wire else {
            return Ok(GrpcDeadline::of(max, offset).map(Self::Grpc));
        };
        cx.field("max_stream_duration", |cx| {
            let pb::route_action::MaxStreamDuration {
                max_stream_duration,
                grpc_timeout_header_max,
                grpc_timeout_header_offset,
            } = wire;
            let max = cx.duration("max_stream_duration", max_stream_duration)?;
            let asked = cx.duration("grpc_timeout_header_max", grpc_timeout_header_max)?;
            let offset = cx.duration("grpc_timeout_header_offset", grpc_timeout_header_offset)?;
            Ok(Some(Self::Whole {
                max: max.map(|max| (!max.is_zero()).then_some(max)),
                grpc: GrpcDeadline::of(asked, offset),
            }))
        })
    }
}

impl GrpcDeadline {
    fn of(max: Option<Duration>, offset: Option<Duration>) -> Option<Self> {
        Some(Self {
            max: max?,
            offset: offset.unwrap_or_default(),
        })
    }
}

impl Mirror {
    pub(super) fn parse(
        wire: pb::route_action::RequestMirrorPolicy,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let pb::route_action::RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            trace_sampled,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = wire;
        // Copies have no span of their own.
        ignorable!(cx; trace_sampled);
        let fraction = match runtime_fraction {
            None => Fraction::ALWAYS,
            Some(share) => cx.field("runtime_fraction", |cx| Fraction::parse_runtime(share, cx))?,
        };
        let host = match host_rewrite_literal.as_str() {
            "" => None,
            host => Some(header_value("host_rewrite_literal", host, cx)?),
        };
        Ok(Self {
            cluster: cluster_or_header(cluster, &cluster_header, cx)?,
            fraction,
            mutations: cx.each(
                "request_headers_mutations",
                request_headers_mutations,
                HeaderEdit::parse,
            )?,
            shadow_suffix: !disable_shadow_host_suffix_append && host.is_none(),
            host,
        })
    }
}
