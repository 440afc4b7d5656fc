//! Redirects of an endpoint that the proxy follows itself (`internal_redirect_policy`).
//!
//! Invariant: the request is only changed once every condition holds; else the redirect goes to the client as it came.
//! Conditions and their order are those of Envoy's router (`convertRequestHeadersForInternalRedirect`).

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, LOCATION, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use malla_proxy_config::request::{RequestView, text};
use malla_proxy_config::route::internal_redirect::InternalRedirect;

use super::exchange::Exchange;
use super::selected::Selected;
use super::serve::find_cluster;
use crate::telemetry::stats::{ClusterStats, Count, HttpStats};
use crate::upstream::Upstreams;

/// Where a redirect leads.
struct Target {
    authority: HeaderValue,
    path: PathAndQuery,
    method: Method,
    route: Selected,
}

/// True if the answer is a redirect that is followed: then the request is the next one already.
pub(super) fn follows<U: Upstreams, B>(
    x: &mut Exchange<U>,
    response: &Response<B>,
    cluster: &ClusterStats,
) -> bool {
    let policy = x.selected.as_deref().and_then(Selected::forward);
    let Some(policy) = policy.and_then(|forward| forward.internal_redirect.clone()) else {
        return false;
    };
    if !policy.codes.contains(&response.status()) {
        return false;
    }
    let target = match target(x, &policy, response) {
        Ok(target) => target,
        Err(refusal) => {
            if let Some(counter) = refusal.counter {
                counter(&x.cx.manager.stats).inc();
            }
            if let Some(route) = refusal.route {
                // As in Envoy, where the request has been routed anew by then.
                if route.is_none() {
                    x.record().cluster = None;
                }
                x.selected = route.map(Rc::new);
                x.observer.record_mut().selected = x.selected.clone();
            }
            cluster.upstream_internal_redirect_failed_total.inc();
            return false;
        }
    };
    cluster.upstream_internal_redirect_succeeded_total.inc();
    go(x, &policy, target, response);
    true
}

/// What stands against following.
struct Refusal {
    counter: Option<fn(&HttpStats) -> &Count>,
    /// Where the request was routed meanwhile, if it was.
    route: Option<Option<Selected>>,
}

impl Refusal {
    fn counted(counter: fn(&HttpStats) -> &Count) -> Self {
        Self {
            counter: Some(counter),
            route: None,
        }
    }
}

/// Where the answer leads.
fn target<U: Upstreams, B>(
    x: &Exchange<U>,
    policy: &InternalRedirect,
    response: &Response<B>,
) -> Result<Target, Refusal> {
    // The rest of a body, or one too long to keep, cannot be sent again.
    let whole = x.flow.progress.request_end.get().is_some();
    let again = x
        .replay
        .as_ref()
        .is_none_or(|body| body.is_repeatable() && body.is_whole());
    let Some(location) = response.headers().get(LOCATION).filter(|_| whole && again) else {
        return Err(Refusal {
            counter: None,
            route: None,
        });
    };
    let bad = || Refusal::counted(|stats| &stats.passthrough_internal_redirect_bad_location);
    let location: Uri = text(location).parse().map_err(|_| bad())?;
    let (Some(scheme), Some(authority)) = (location.scheme_str(), location.authority()) else {
        return Err(bad());
    };
    let scheme_before = x.observer.record().scheme;
    let secure = (scheme_before == "https", scheme == "https");
    let known = matches!(scheme, "http" | "https");
    if (secure.0 != secure.1 || !known) && !policy.cross_scheme {
        return Err(Refusal::counted(|stats| {
            &stats.passthrough_internal_redirect_unsafe_scheme
        }));
    }
    if !known {
        return Err(bad());
    }
    if x.redirects.len() >= policy.max as usize {
        return Err(Refusal::counted(|stats| {
            &stats.passthrough_internal_redirect_too_many_redirects
        }));
    }
    let path = location
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
    let mut headers = x.head.headers.clone();
    headers.insert(HOST, authority.clone());
    let see_other = response.status() == StatusCode::SEE_OTHER;
    let method = match x.head.method.clone() {
        method if !see_other || matches!(method, Method::GET | Method::HEAD) => method,
        _ => Method::GET,
    };
    let view = RequestView {
        method: &method,
        path: path.as_str(),
        headers: &headers,
        ..x.view()
    };
    let routes = x.cx.manager.routes(&x.snapshot);
    let found = routes.and_then(|routes| Selected::find(routes, &view, x.random));
    let Some(found) = found else {
        return Err(Refusal {
            route: Some(None),
            ..Refusal::counted(|stats| &stats.passthrough_internal_redirect_no_route)
        });
    };
    let route = Arc::clone(&found.route().name);
    if !accepts(x, policy, &route, secure) {
        return Err(Refusal {
            route: Some(Some(found)),
            ..Refusal::counted(|stats| &stats.passthrough_internal_redirect_predicate)
        });
    }
    Ok(Target {
        authority,
        path,
        method,
        route: found,
    })
}

/// The predicates.
fn accepts<U: Upstreams>(
    x: &Exchange<U>,
    policy: &InternalRedirect,
    route: &Arc<str>,
    (from_secure, to_secure): (bool, bool),
) -> bool {
    let here = x.selected.as_deref().map(|selected| &selected.route().name);
    let known = x
        .redirects
        .iter()
        .any(|(from, to)| Some(from) == here && to == route);
    let listed = policy
        .routes
        .as_ref()
        .is_none_or(|names| names.iter().any(|name| **name == **route));
    let repeats = policy.new_routes_only && known;
    let unsafe_scheme = policy.safe_cross_scheme && to_secure && !from_secure;
    listed && !repeats && !unsafe_scheme
}

/// Makes the request the next one.
fn go<U: Upstreams, B>(
    x: &mut Exchange<U>,
    policy: &InternalRedirect,
    target: Target,
    answer: &Response<B>,
) {
    let view = x.view();
    let here = format!("{}://{}{}", view.scheme, view.authority(), view.path);
    let headers = &mut x.head.headers;
    for name in &policy.copied {
        headers.remove(name);
        for value in answer.headers().get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(HOST, target.authority);
    x.original_url = HeaderValue::from_str(&here).ok();
    if target.method != x.head.method {
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        x.replay = None;
        x.body = None;
        x.head.method = target.method;
    }
    x.head.uri = Uri::from(target.path);
    let from = x
        .selected
        .as_deref()
        .map(|selected| Arc::clone(&selected.route().name));
    let to = Arc::clone(&target.route.route().name);
    x.redirects.push((from.unwrap_or_default(), to));
    // The record of this part of the way has its end, too.
    x.selected = Some(Rc::new(target.route));
    x.observer.record_mut().selected = x.selected.clone();
    find_cluster(x);
    x.notes.clear();
    x.adapted = None;
    x.flow.try_idle.set(None);
    x.begin_again(answer.status());
}
