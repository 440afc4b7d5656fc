//! Which listeners a route attaches to, and in which order rules of several routes are tried.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use malla_model::route::HttpRoute;
use malla_model::{Host, Meta};

use super::super::GROUP;
use super::super::types::{HttpRouteSpec, ParentRef};
use super::http::Rules;
use super::listeners::{Listener, Why};
use super::{Object, Surroundings};
use crate::lower::meta::meta;

/// What became of one reference to a parent of ours.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) reference: ParentRef,
    /// Why the route is not attached there.
    pub(super) refused: Option<Why>,
    /// What it refers to and is not there.
    pub(super) unresolved: Option<Why>,
}

/// One match of one rule, and its place among all of a host.
#[derive(Debug, Clone)]
pub(super) struct Ordered {
    pub(super) order: Order,
    pub(super) route: Arc<HttpRoute>,
    pub(super) meta: Arc<Meta>,
}

/// The Gateway API's order: the most specific match first, then the oldest route, then as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Exact paths, then prefixes, then expressions; longer ones first; then by method, headers and
    /// parameters.
    pub(super) specificity: Reverse<(u8, usize, bool, usize, usize)>,
    pub(super) age: (i64, String),
    pub(super) at: (usize, usize),
}

/// Attaches a route wherever it may; what became of each of its parents that is ours.
pub(super) fn attach(
    route: &Object<HttpRouteSpec>,
    gateways: &BTreeSet<(&str, &str)>,
    listeners: &mut [Listener<'_>],
    rules: &Rules,
    around: &Surroundings<'_>,
) -> Vec<Parent> {
    let mut parents = Vec::new();
    let origin = Arc::new(meta("HTTPRoute", &route.metadata));
    for reference in &route.spec.parent_refs {
        let group = reference.group.as_deref().unwrap_or(GROUP);
        let kind = reference.kind.as_deref().unwrap_or("Gateway");
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace());
        if group != GROUP || kind != "Gateway" || !gateways.contains(&(namespace, &*reference.name))
        {
            continue; // Somebody else's, or nobody's.
        }
        let refused = to_listeners(
            route, reference, namespace, listeners, rules, &origin, around,
        )
        .err();
        parents.push(Parent {
            reference: reference.clone(),
            refused: refused.or_else(|| rules.refused.clone()),
            unresolved: rules.unresolved.clone(),
        });
    }
    parents
}

fn to_listeners(
    route: &Object<HttpRouteSpec>,
    reference: &ParentRef,
    namespace: &str,
    listeners: &mut [Listener<'_>],
    rules: &Rules,
    origin: &Arc<Meta>,
    around: &Surroundings<'_>,
) -> Result<(), Why> {
    let hostnames: Vec<Host> = listeners.iter().map(|l| l.hostname.clone()).collect();
    let place = |l: &Listener<'_>| {
        (
            format!("{}/{}", l.gateway.namespace(), l.gateway.name()),
            l.written.port,
        )
    };
    let places: Vec<(String, u16)> = listeners.iter().map(place).collect();
    let (mut named, mut allowed, mut attached) = (false, false, false);
    for (at, listener) in listeners.iter_mut().enumerate() {
        let gateway = listener.gateway;
        let is_parent = (gateway.namespace(), gateway.name()) == (namespace, &*reference.name)
            && reference
                .section_name
                .as_ref()
                .is_none_or(|name| *name == listener.written.name)
            && reference
                .port
                .is_none_or(|port| port == listener.written.port);
        if !is_parent {
            continue;
        }
        named = true;
        if !listener.kinds.contains(&"HTTPRoute") || !lets_in(listener, route.namespace(), around) {
            continue;
        }
        allowed = true;
        let hosts = common_hosts(&listener.hostname, &route.spec.hostnames);
        if hosts.is_empty() {
            continue;
        }
        attached = true;
        listener
            .attached
            .insert(format!("{}/{}", route.namespace(), route.name()));
        // Names that a listener of the same port serves more closely are that listener's alone.
        let rivals: Vec<&Host> = hostnames
            .iter()
            .enumerate()
            .filter(|(other, host)| {
                *other != at
                    && places.get(*other) == places.get(at)
                    && listener.hostname.covers(host)
                    && **host != listener.hostname
            })
            .map(|(_, host)| host)
            .collect();
        for host in hosts
            .into_iter()
            .filter(|host| !rivals.iter().any(|rival| rival.covers(host)))
        {
            add(&mut listener.rules, host, route, rules, origin);
        }
    }
    match (named, allowed, attached) {
        (false, ..) => Err((
            "NoMatchingParent",
            "the Gateway has no such listener".to_owned(),
        )),
        (_, false, _) => Err((
            "NotAllowedByListeners",
            "no listener lets HTTPRoutes of this namespace attach".to_owned(),
        )),
        (_, _, false) => Err((
            "NoMatchingListenerHostname",
            "no listener serves any of the route's hostnames".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn add(
    by_host: &mut BTreeMap<Host, Vec<Ordered>>,
    host: Host,
    route: &Object<HttpRouteSpec>,
    rules: &Rules,
    origin: &Arc<Meta>,
) {
    let list = by_host.entry(host).or_default();
    for rule in &rules.routes {
        let ordered = Ordered {
            order: Order {
                specificity: Reverse(rule.specificity),
                age: route.age(),
                at: rule.at,
            },
            route: Arc::clone(&rule.route),
            meta: Arc::clone(origin),
        };
        // Two parents may lead to one listener.
        if !list.iter().any(|known| known.order == ordered.order) {
            list.push(ordered);
        }
    }
}

/// Whether a listener lets routes of `namespace` attach.
fn lets_in(listener: &Listener<'_>, namespace: &str, around: &Surroundings<'_>) -> bool {
    let allowed = listener.written.allowed_routes.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_deref()) {
        Some("All") => true,
        Some("Selector") => {
            let selector = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
            let labels = around.namespaces.get(namespace);
            selector
                .zip(labels)
                .is_some_and(|(selector, labels)| selector.selects(labels))
        }
        Some("None") => false,
        _ => namespace == listener.gateway.namespace(),
    }
}

/// Names that both the listener serves and the route has.
fn common_hosts(listener: &Host, route: &[String]) -> Vec<Host> {
    if route.is_empty() {
        return vec![listener.clone()];
    }
    let mut hosts: Vec<Host> = route
        .iter()
        .map(|name| Host::new(name))
        .filter_map(
            |host| match (listener.covers(&host), host.covers(listener)) {
                (true, _) => Some(host),
                (false, true) => Some(listener.clone()),
                _ => None,
            },
        )
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
