//! What a route attaches to, and in which order rules of several routes are tried.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use malla_model::route::HttpRoute;
use malla_model::{Host, Meta};

use super::super::types::{ParentRef, RouteNamespaces};
use super::super::{GROUP, GatewayKind};
use super::Surroundings;
use super::calls::Calls;
use super::listeners::{Listener, Owner, Why};
use super::routes::Route;
use super::rules::{Rule, Specificity};

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
    pub(super) specificity: Reverse<Specificity>,
    pub(super) age: (i64, String),
    pub(super) at: (usize, usize),
}

impl Ordered {
    pub(super) fn new(route: &Route<'_>, rule: &Rule) -> Self {
        Self {
            order: Order {
                specificity: Reverse(rule.specificity),
                age: route.age.clone(),
                at: rule.at,
            },
            route: Arc::clone(&rule.route),
            meta: Arc::clone(&route.origin),
        }
    }
}

/// Rules in the order in which they are tried, and whose the first of them is.
pub(super) fn in_order(rules: &[Ordered]) -> Option<(Meta, Vec<HttpRoute>)> {
    let mut rules: Vec<&Ordered> = rules.iter().collect();
    rules.sort_by(|a, b| a.order.cmp(&b.order));
    let first = Meta::clone(&rules.first()?.meta);
    let routes = rules.iter().map(|rule| (*rule.route).clone()).collect();
    Some((first, routes))
}

/// Why a route is not attached to listeners; what came closest to attaching it is the largest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    NoListener,
    Protocol,
    NotAllowed,
    NoHostname,
    /// Another route has the names.
    Taken(String),
}

impl Refusal {
    fn why(self, kind: GatewayKind) -> Why {
        match self {
            Self::NoListener => (
                "NoMatchingParent",
                "the parent has no such listener".to_owned(),
            ),
            Self::Protocol => {
                // The specification of TLSRoute wants a reason of its own.
                let reason = match kind {
                    GatewayKind::TlsRoute => "UnsupportedValue",
                    _ => "NotAllowedByListeners",
                };
                let message = format!("no listener's protocol can carry {}s", kind.name());
                (reason, message)
            }
            Self::NotAllowed => (
                "NotAllowedByListeners",
                format!("no listener lets {}s of this namespace attach", kind.name()),
            ),
            Self::NoHostname => (
                "NoMatchingListenerHostname",
                "no listener serves any of the route's hostnames".to_owned(),
            ),
            Self::Taken(by) => ("Conflicted", by),
        }
    }
}

/// Attaches a route wherever it may; what became of each of its parents that is ours.
pub(super) fn attach(
    route: &Route<'_>,
    owners: &BTreeSet<Owner<'_>>,
    listeners: &mut [Listener<'_>],
    calls: &mut Calls,
    around: &Surroundings<'_>,
) -> Vec<Parent> {
    let mut parents = Vec::new();
    for reference in route.parents {
        let group = reference.group.as_deref().unwrap_or(GROUP);
        let kind = reference.kind.as_deref().unwrap_or("Gateway");
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace);
        let owner = GatewayKind::parse(kind).map(|kind| Owner {
            kind,
            namespace,
            name: &reference.name,
        });
        let attached = match (group, kind) {
            (GROUP, _) => match owner.filter(|owner| owners.contains(owner)) {
                Some(owner) => to_listeners(route, reference, owner, listeners, around)
                    .map_err(|refusal| refusal.why(route.kind)),
                None => continue, // Somebody else's, or nobody's.
            },
            ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => {
                calls.attach(route, reference, kind, around)
            }
            _ => continue,
        };
        parents.push(Parent {
            reference: reference.clone(),
            refused: attached.err().or_else(|| route.rules.refused.clone()),
            unresolved: route.rules.unresolved.clone(),
        });
    }
    parents
}

fn to_listeners(
    route: &Route<'_>,
    reference: &ParentRef,
    owner: Owner<'_>,
    listeners: &mut [Listener<'_>],
    around: &Surroundings<'_>,
) -> Result<(), Refusal> {
    let section = reference.section_name.as_ref();
    let mut closest = Err(Refusal::NoListener);
    for listener in listeners {
        let is_parent = listener.owner == owner
            && section.is_none_or(|name| *name == listener.written.name)
            && reference
                .port
                .is_none_or(|port| port == listener.written.port);
        if !is_parent {
            continue;
        }
        closest = match (closest, to_listener(route, listener, around)) {
            (Ok(()), _) | (_, Ok(())) => Ok(()),
            (Err(before), Err(now)) => Err(before.max(now)),
        };
    }
    closest
}

fn to_listener(
    route: &Route<'_>,
    listener: &mut Listener<'_>,
    around: &Surroundings<'_>,
) -> Result<(), Refusal> {
    if !listener.carries().contains(&route.kind) {
        return Err(Refusal::Protocol);
    }
    if !listener.kinds.contains(&route.kind) || !lets_in(listener, route.namespace, around) {
        return Err(Refusal::NotAllowed);
    }
    let hosts = common_hosts(&listener.hostname, route.hostnames);
    if hosts.is_empty() {
        return Err(Refusal::NoHostname);
    }
    listener.take(route, hosts).map_err(Refusal::Taken)
}

/// Whether a listener lets routes of `namespace` attach.
fn lets_in(listener: &Listener<'_>, namespace: &str, around: &Surroundings<'_>) -> bool {
    let allowed = listener.written.allowed_routes.as_ref();
    let from = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    selects(from, "Same", listener.owner.namespace, namespace, around)
}

/// Whether an owner in the namespace `own` lets in what is of `namespace`; `otherwise` is what holds
/// where nothing is said.
pub(super) fn selects(
    from: Option<&RouteNamespaces>,
    otherwise: &str,
    own: &str,
    namespace: &str,
    around: &Surroundings<'_>,
) -> bool {
    let written = from.and_then(|from| from.from.as_deref());
    match written.unwrap_or(otherwise) {
        "All" => true,
        "Same" => namespace == own,
        "Selector" => {
            let selector = from.and_then(|from| from.selector.as_ref());
            let labels = around.namespaces.get(namespace);
            selector
                .zip(labels)
                .is_some_and(|(selector, labels)| selector.selects(labels))
        }
        _ => false,
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
