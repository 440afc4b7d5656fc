//! Delegation: a root VirtualService leaves some of its requests to another's routes.
//!
//! The delegate's matches have to lie within the root's; a route where none does is dropped. What
//! the delegate's route does not set it takes from the root's. One level only, as in Istio.

use std::sync::Arc;

use malla_model::VirtualService;
use malla_model::matching::{HttpMatch, MatchScope, StringMatch};
use malla_model::route::{HeaderOps, HttpAction, HttpRoute};

use crate::view::View;

/// The routes of `vs`, delegations replaced by what they delegate to.
pub(crate) fn resolve(view: &View<'_>, vs: &VirtualService) -> Vec<HttpRoute> {
    let mut routes = Vec::with_capacity(vs.http.len());
    for route in &vs.http {
        match &route.action {
            HttpAction::Delegate { namespace, name } => {
                if let Some(child) = find(view, namespace, name, vs.meta.namespace()) {
                    routes.extend(child.http.iter().filter_map(|own| merge(route, own)));
                }
            }
            _ => routes.push(route.clone()),
        }
    }
    routes
}

/// The delegate of that name, if the root's namespace may see it.
pub(crate) fn find<'a>(
    view: &View<'a>,
    namespace: &str,
    name: &str,
    root_namespace: &str,
) -> Option<&'a Arc<VirtualService>> {
    view.mesh.virtual_services.iter().find(|vs| {
        vs.hosts.is_empty()
            && vs.meta.namespace() == namespace
            && vs.meta.name() == name
            && vs.visibility.allows(root_namespace)
    })
}

fn merge(root: &HttpRoute, own: &HttpRoute) -> Option<HttpRoute> {
    if matches!(own.action, HttpAction::Delegate { .. }) {
        return None;
    }
    let matches = match (&root.matches[..], &own.matches[..]) {
        (_, []) => root.matches.clone(),
        ([], _) => own.matches.clone(),
        (roots, owns) => {
            let merged: Vec<HttpMatch> = owns
                .iter()
                .flat_map(|own| roots.iter().filter_map(|root| narrow(root, own)))
                .collect();
            if merged.is_empty() {
                return None;
            }
            merged
        }
    };
    let or = |own: &HeaderOps, root: &HeaderOps| {
        if *own == HeaderOps::default() {
            root.clone()
        } else {
            own.clone()
        }
    };
    Some(HttpRoute {
        name: joined(&root.name, &own.name),
        matches,
        action: own.action.clone(),
        rewrite: own.rewrite.clone().or_else(|| root.rewrite.clone()),
        timeout: own.timeout.or(root.timeout),
        retries: own.retries.clone().or_else(|| root.retries.clone()),
        fault: own.fault.clone().or_else(|| root.fault.clone()),
        mirrors: if own.mirrors.is_empty() {
            root.mirrors.clone()
        } else {
            own.mirrors.clone()
        },
        cors: own.cors.clone().or_else(|| root.cors.clone()),
        headers: or(&own.headers, &root.headers),
        missing_backend: own.missing_backend.or(root.missing_backend),
    })
}

fn joined(root: &Arc<str>, own: &Arc<str>) -> Arc<str> {
    match (root.is_empty(), own.is_empty()) {
        (_, true) => root.clone(),
        (true, false) => own.clone(),
        (false, false) => format!("{root}-{own}").into(),
    }
}

/// `own` within `root`; `None` where it asks for something the root would not have let through.
fn narrow(root: &HttpMatch, own: &HttpMatch) -> Option<HttpMatch> {
    if own.uri.is_some() && root.uri.is_some() && own.ignore_uri_case != root.ignore_uri_case {
        return None;
    }
    Some(HttpMatch {
        name: joined(&root.name, &own.name),
        uri: within(root.uri.as_ref(), own.uri.as_ref())?,
        ignore_uri_case: own.ignore_uri_case || root.ignore_uri_case,
        scheme: within(root.scheme.as_ref(), own.scheme.as_ref())?,
        method: within(root.method.as_ref(), own.method.as_ref())?,
        authority: within(root.authority.as_ref(), own.authority.as_ref())?,
        headers: each_within(&root.headers, &own.headers)?,
        without_headers: each_within(&root.without_headers, &own.without_headers)?,
        query_params: each_within(&root.query_params, &own.query_params)?,
        claims: root.claims.iter().chain(&own.claims).cloned().collect(),
        stat_prefix: if own.stat_prefix.is_empty() {
            root.stat_prefix.clone()
        } else {
            own.stat_prefix.clone()
        },
        scope: narrow_scope(&root.scope, &own.scope)?,
    })
}

type Matchers = std::collections::BTreeMap<Arc<str>, StringMatch>;

fn each_within(root: &Matchers, own: &Matchers) -> Option<Matchers> {
    let mut merged = root.clone();
    for (name, value) in own {
        let value = within(root.get(name), Some(value))?;
        merged.extend(value.map(|value| (name.clone(), value)));
    }
    Some(merged)
}

/// The narrower of the two; `None` where `own` is not within `root`.
fn within(root: Option<&StringMatch>, own: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    let (Some(root), Some(own)) = (root, own) else {
        return Some(own.or(root).cloned());
    };
    let inside = match (root, own) {
        (StringMatch::Present, _) => true,
        (StringMatch::Exact(root), StringMatch::Exact(own)) => root == own,
        (StringMatch::Prefix(root), StringMatch::Exact(own) | StringMatch::Prefix(own)) => {
            own.starts_with(&**root)
        }
        // Whether a language of one regular expression lies within another's is not asked.
        _ => false,
    };
    inside.then(|| Some(own.clone()))
}

fn narrow_scope(root: &MatchScope, own: &MatchScope) -> Option<MatchScope> {
    let mut labels = root.source_labels.clone();
    for (key, value) in &own.source_labels {
        if root
            .source_labels
            .get(key)
            .is_some_and(|theirs| theirs != value)
        {
            return None;
        }
        labels.insert(key.clone(), value.clone());
    }
    let gateways = match (root.gateways.is_empty(), own.gateways.is_empty()) {
        (_, true) => root.gateways.clone(),
        (true, false) => own.gateways.clone(),
        (false, false) if own.gateways.iter().all(|g| root.gateways.contains(g)) => {
            own.gateways.clone()
        }
        (false, false) => return None,
    };
    Some(MatchScope {
        port: same(root.port, own.port)?,
        source_labels: labels,
        source_namespace: same(root.source_namespace.clone(), own.source_namespace.clone())?,
        gateways,
    })
}

fn same<T: PartialEq>(root: Option<T>, own: Option<T>) -> Option<Option<T>> {
    match (root, own) {
        (Some(root), Some(own)) if root != own => None,
        (root, own) => Some(own.or(root)),
    }
}
