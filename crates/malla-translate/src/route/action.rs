//! What happens to a matched request: forwarded, redirected or answered.

use std::collections::BTreeSet;

use malla_model::Host;
use malla_model::route::{
    Destination, HttpAction, HttpRoute, Mirror, PerMillion, Redirect, RedirectPath, RedirectPort,
    WeightedDestination,
};
use malla_model::traffic::{Balance, HashKey};
use malla_xds_proto::core::DataSource;
use malla_xds_proto::core::data_source::Specifier;
use malla_xds_proto::matcher::RegexMatchAndSubstitute;
use malla_xds_proto::pb::google::protobuf::Duration;
use malla_xds_proto::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use malla_xds_proto::route::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HashPolicy, HostRewriteSpecifier,
    RequestMirrorPolicy,
};
use malla_xds_proto::route::weighted_cluster::ClusterWeight;
use malla_xds_proto::route::weighted_cluster::cluster_weight;
use malla_xds_proto::route::{DirectResponseAction, RedirectAction, RouteAction, WeightedCluster};
use malla_xds_proto::wkt;

use super::{NO_TIMEOUT, filters, headers, matching, retry};
use crate::names::{BLACK_HOLE, outbound_cluster};
use crate::view::View;

/// The action of a route on a listener of `port`. `None` for a delegation, which stands for the
/// routes of another VirtualService.
pub(crate) fn action(view: &View<'_>, route: &HttpRoute, port: u16) -> Option<Action> {
    Some(match &route.action {
        HttpAction::Delegate { .. } => return None,
        HttpAction::Redirect(to) => Action::Redirect(redirect(to, port)),
        HttpAction::Direct { status, body } => Action::DirectResponse(direct(*status, body)),
        HttpAction::Forward(to) => Action::Route(forward(view, route, to, port)),
    })
}

/// A plain action to one cluster: no time limit, the default retries.
pub(crate) fn to_cluster(view: &View<'_>, cluster: String, hash: Vec<HashPolicy>) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        retry_policy: retry::outbound(&view.mesh.settings, None, !hash.is_empty()),
        hash_policy: hash,
        ..timed(NO_TIMEOUT)
    }
}

/// An action with a time limit. gRPC clients may ask for less than that, not for more.
#[expect(
    deprecated,
    reason = "with its successor, max_stream_duration, Envoy ignores `timeout`"
)]
fn timed(timeout: Duration) -> RouteAction {
    RouteAction {
        timeout: Some(timeout),
        max_grpc_timeout: Some(timeout),
        ..RouteAction::default()
    }
}

/// The cluster of a destination as seen on a listener of `port`.
pub(crate) fn cluster_of(view: &View<'_>, to: &Destination, port: u16) -> String {
    let (host, port) = target(view, to, port);
    outbound_cluster(port, to.subset.as_deref().unwrap_or_default(), &host)
}

fn target(view: &View<'_>, to: &Destination, port: u16) -> (Host, u16) {
    let service = view.service(&to.host);
    let host = service
        .and_then(|s| s.alias_of.clone())
        .unwrap_or_else(|| to.host.clone());
    let only = || {
        view.service(&host)
            .and_then(|s| s.only_port())
            .map(|p| p.port)
    };
    let port = to.port.or_else(only).unwrap_or(port);
    (host, port)
}

/// The clusters of a TCP or TLS route and their weights; zero weights are dropped unless alone.
pub(crate) fn tcp_destinations(
    view: &View<'_>,
    to: &[WeightedDestination],
    port: u16,
) -> Vec<(String, u32)> {
    live(to)
        .map(|to| (cluster_of(view, &to.destination, port), to.weight.max(1)))
        .collect()
}

/// One destination takes all whatever its weight; of several, those of weight zero are dropped.
fn live(to: &[WeightedDestination]) -> impl Iterator<Item = &WeightedDestination> {
    let alone = to.len() == 1;
    to.iter().filter(move |to| alone || to.weight > 0)
}

fn forward(
    view: &View<'_>,
    route: &HttpRoute,
    to: &[WeightedDestination],
    port: u16,
) -> RouteAction {
    let live: Vec<&WeightedDestination> = live(to).collect();
    let hash = hash_policies(view, &live, port);
    let timeout = route.timeout.map_or(NO_TIMEOUT, wkt::duration);
    let specifier = match live[..] {
        [] => ClusterSpecifier::Cluster(BLACK_HOLE.into()),
        [only] => ClusterSpecifier::Cluster(cluster_of(view, &only.destination, port)),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: live.iter().map(|to| weighted(view, to, port)).collect(),
            ..WeightedCluster::default()
        }),
    };
    let mut action = RouteAction {
        cluster_specifier: Some(specifier),
        retry_policy: retry::outbound(
            &view.mesh.settings,
            route.retries.as_ref(),
            !hash.is_empty(),
        ),
        hash_policy: hash,
        request_mirror_policies: route
            .mirrors
            .iter()
            .filter_map(|m| mirror(view, m, port))
            .collect(),
        ..timed(timeout)
    };
    if let Some(status) = route.missing_backend {
        action.cluster_not_found_response_code = match status {
            404 => ClusterNotFoundResponseCode::NotFound,
            500 => ClusterNotFoundResponseCode::InternalServerError,
            _ => ClusterNotFoundResponseCode::ServiceUnavailable,
        }
        .into();
    }
    let mut authority = headers::edits(&route.headers).authority;
    if let [only] = live[..] {
        authority = headers::edits(&only.headers).authority.or(authority);
    }
    if let Some(rewrite) = &route.rewrite {
        if let Some(uri) = &rewrite.uri {
            rewrite_path(&mut action, route, uri);
        }
        action.regex_rewrite = rewrite
            .regex
            .as_ref()
            .map(|(pattern, to)| RegexMatchAndSubstitute {
                pattern: Some(matching::regex(pattern.as_str())),
                substitution: to.to_string(),
            })
            .or(action.regex_rewrite.take());
        // A rewrite beats a Host header that is set.
        authority = rewrite
            .authority
            .as_ref()
            .map(ToString::to_string)
            .or(authority);
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    action
}

/// Envoy's prefix rewrite swaps what was matched: the prefix, or the whole path of an exact or regex
/// match. A segment prefix rewritten to `/` would leave `//rest`, so that takes a regex.
fn rewrite_path(action: &mut RouteAction, route: &HttpRoute, uri: &str) {
    use malla_model::matching::StringMatch;
    let segments = route.matches.iter().find_map(|m| match &m.uri {
        Some(StringMatch::PathSegments(prefix)) if !matches!(&**prefix, "" | "/") => Some(prefix),
        _ => None,
    });
    match segments {
        Some(prefix) if uri == "/" => {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(matching::regex(&format!(
                    "^{}(/?)(.*)",
                    regex::escape(prefix)
                ))),
                substitution: r"/\2".into(),
            });
        }
        _ => action.prefix_rewrite = uri.to_owned(),
    }
}

fn weighted(view: &View<'_>, to: &WeightedDestination, port: u16) -> ClusterWeight {
    let edits = headers::edits(&to.headers);
    ClusterWeight {
        name: cluster_of(view, &to.destination, port),
        weight: Some(wkt::uint32(to.weight)),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        host_rewrite_specifier: edits
            .authority
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

fn mirror(view: &View<'_>, mirror: &Mirror, port: u16) -> Option<RequestMirrorPolicy> {
    (mirror.share > PerMillion::NONE).then(|| RequestMirrorPolicy {
        cluster: cluster_of(view, &mirror.destination, port),
        runtime_fraction: Some(filters::runtime_share(mirror.share)),
        trace_sampled: Some(wkt::boolean(false)),
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    })
}

fn redirect(to: &Redirect, port: u16) -> RedirectAction {
    RedirectAction {
        response_code: match to.code {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        }
        .into(),
        host_redirect: to.authority.as_deref().unwrap_or_default().to_owned(),
        port_redirect: match to.port {
            Some(RedirectPort::Number(number)) => number.into(),
            Some(RedirectPort::RequestPort) => port.into(),
            Some(RedirectPort::ProtocolDefault) | None => 0,
        },
        scheme_rewrite_specifier: to
            .scheme
            .as_ref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        path_rewrite_specifier: to.path.as_ref().map(|path| match path {
            RedirectPath::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            RedirectPath::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix.to_string()),
        }),
        ..RedirectAction::default()
    }
}

fn direct(status: u16, body: &[u8]) -> DirectResponseAction {
    let specifier = match std::str::from_utf8(body) {
        Ok(text) => Specifier::InlineString(text.to_owned()),
        Err(_) => Specifier::InlineBytes(body.to_vec()),
    };
    DirectResponseAction {
        status: status.into(),
        body: (!body.is_empty()).then(|| DataSource {
            specifier: Some(specifier),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    }
}

/// Consistent hashing has two halves: the ring is the cluster's, what is hashed is the route's.
fn hash_policies(view: &View<'_>, to: &[&WeightedDestination], port: u16) -> Vec<HashPolicy> {
    let mut seen = BTreeSet::new();
    to.iter()
        .filter_map(|to| {
            let (host, port) = target(view, &to.destination, port);
            hash_policy(view, &host, port, to.destination.subset.as_deref())
        })
        .filter(|policy| seen.insert(format!("{policy:?}")))
        .collect()
}

/// What requests to one destination are hashed by, where its rule asks for hashing.
pub(crate) fn hash_policy(
    view: &View<'_>,
    host: &Host,
    port: u16,
    subset: Option<&str>,
) -> Option<HashPolicy> {
    let rule = view.rule_of(host)?;
    let subset = subset.and_then(|name| rule.subset(name));
    match rule.policy(port, subset).load_balancer?.algorithm {
        Balance::Hash { key, .. } => Some(HashPolicy {
            policy_specifier: Some(hashed_by(&key)),
            ..HashPolicy::default()
        }),
        _ => None,
    }
}

fn hashed_by(key: &HashKey) -> PolicySpecifier {
    match key {
        HashKey::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.to_string(),
            ..Header::default()
        }),
        HashKey::Cookie { name, path, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            path: path.to_string(),
            ttl: ttl.map(wkt::duration),
            ..Cookie::default()
        }),
        HashKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter {
            name: name.to_string(),
        }),
    }
}
