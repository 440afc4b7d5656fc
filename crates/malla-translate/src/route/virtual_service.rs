//! The HTTP routes of one VirtualService on one listener.

use std::collections::HashMap;
use std::sync::Arc;

use malla_model::VirtualService;
use malla_model::id::selects;
use malla_model::matching::{HttpMatch, MatchScope};
use malla_model::route::{HttpAction, HttpRoute};
use malla_xds_proto::core::Metadata;
use malla_xds_proto::route::route::Action;
use malla_xds_proto::route::route_action::ClusterSpecifier;
use malla_xds_proto::route::route_match::PathSpecifier;
use malla_xds_proto::route::{Decorator, Route, RouteMatch};
use malla_xds_proto::{any, wkt};

use super::{action, delegate, filters, headers, matching};
use crate::cluster::config_path;
use crate::names::parse_outbound;
use crate::view::View;

/// The routes in force for the node on a listener of `port` that belongs to the gateway `gateway`
/// (`mesh` on a sidecar). Routes after one that takes every request are left out.
pub(crate) fn routes(view: &View<'_>, vs: &VirtualService, gateway: &str, port: u16) -> Vec<Route> {
    let mut routes = Vec::new();
    for http in delegate::resolve(view, vs) {
        let anything = HttpMatch::default();
        let alternatives = if http.matches.is_empty() {
            std::slice::from_ref(&anything)
        } else {
            &http.matches
        };
        for alternative in alternatives {
            if !in_scope(view, &alternative.scope, gateway, port) {
                continue;
            }
            let Some(route) = route(view, vs, &http, alternative, port) else {
                continue;
            };
            let last = route.r#match.as_ref().is_some_and(matching::is_catch_all);
            routes.push(route);
            if last {
                return routes;
            }
        }
    }
    routes
}

/// Whether a match is about this node and listener. Gateways named in a match replace the rest of
/// its scope, as in Istio.
pub(crate) fn in_scope(view: &View<'_>, scope: &MatchScope, gateway: &str, port: u16) -> bool {
    if scope.port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if !scope.gateways.is_empty() {
        return scope.gateways.iter().any(|name| **name == *gateway);
    }
    let namespace = scope.source_namespace.as_deref();
    selects(&scope.source_labels, &view.node.labels)
        && namespace.is_none_or(|namespace| namespace == &*view.node.namespace)
}

fn route(
    view: &View<'_>,
    vs: &VirtualService,
    http: &HttpRoute,
    alternative: &HttpMatch,
    port: u16,
) -> Option<Route> {
    // Rewriting a prefix depends on which alternative matched.
    let narrowed = HttpRoute {
        matches: vec![alternative.clone()],
        ..http.clone()
    };
    let action = action::action(view, &narrowed, port)?;
    let r#match = matching::route_match(alternative);
    let mut edits = headers::edits(&http.headers);
    if let HttpAction::Forward(to) = &http.action
        && let [only] = &to[..]
    {
        let own = headers::edits(&only.headers);
        edits.request_add.extend(own.request_add);
        edits.request_remove.extend(own.request_remove);
        edits.response_add.extend(own.response_add);
        edits.response_remove.extend(own.response_remove);
    }
    let mut typed_per_filter_config = HashMap::new();
    if let Some(fault) = &http.fault {
        typed_per_filter_config.insert(filters::FAULT.into(), any::pack(&filters::fault(fault)));
    }
    if let Some(cors) = &http.cors {
        typed_per_filter_config.insert(filters::CORS.into(), any::pack(&filters::cors(cors)));
    }
    Some(Route {
        name: name(&http.name, &alternative.name),
        decorator: Some(Decorator {
            operation: operation(vs, &r#match, &action, port),
            ..Decorator::default()
        }),
        r#match: Some(r#match),
        metadata: Some(metadata(vs)),
        typed_per_filter_config,
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        stat_prefix: alternative.stat_prefix.to_string(),
        action: Some(action),
        ..Route::default()
    })
}

fn name(route: &Arc<str>, alternative: &Arc<str>) -> String {
    if alternative.is_empty() {
        route.to_string()
    } else {
        format!("{route}.{alternative}")
    }
}

/// Names the VirtualService, for `istioctl` and `malla explain`.
fn metadata(vs: &VirtualService) -> Metadata {
    let config = wkt::string(&config_path(&vs.meta.object));
    Metadata {
        filter_metadata: HashMap::from([(
            "istio".to_owned(),
            wkt::structure([("config", config)]),
        )]),
        ..Metadata::default()
    }
}

/// The span's name: `host:port` of the only destination, else the VirtualService's, then the path.
fn operation(vs: &VirtualService, of: &RouteMatch, action: &Action, port: u16) -> String {
    let path = match &of.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => format!("{prefix}/*"),
        _ => "/*".to_owned(),
    };
    let cluster = match action {
        Action::Route(action) => match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => parse_outbound(cluster),
            _ => None,
        },
        _ => None,
    };
    match cluster {
        Some((port, _, host)) => format!("{host}:{port}{path}"),
        None => format!("{}:{port}{path}", vs.meta.name()),
    }
}
