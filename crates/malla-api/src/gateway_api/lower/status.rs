//! What the Gateway API's statuses say: conditions, addresses, features.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::types::{GatewaySpec, ParentRef};
use super::super::{CONTROLLER, GatewayKind};
use super::attach::Parent;
use super::listeners::{Listener, Why};
use super::routes::Route;
use super::{Address, Object, Pods, Surroundings};

/// What works, by the names that the Gateway API's conformance suite has for it.
const FEATURES: [&str; 30] = [
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "Mesh",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeTerminate",
];

/// What an object's status is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub kind: GatewayKind,
    pub namespace: String,
    pub name: String,
    pub status: Value,
    /// Whether the one that stands says anything else.
    pub changed: bool,
}

impl Status {
    /// Of the object of that name, whose status stands at `before`.
    pub(super) fn new(
        kind: GatewayKind,
        (namespace, name): (&str, &str),
        before: &Value,
        status: Value,
    ) -> Self {
        let mut fields = status.as_object().into_iter().flatten();
        let changed = fields.any(|(key, value)| before.get(key) != Some(value));
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status,
            changed,
        }
    }
}

pub(super) fn features() -> Value {
    FEATURES.iter().map(|name| json!({"name": name})).collect()
}

/// The conditions of one object or part of it, over those that stand: what did not change keeps
/// its time.
#[derive(Debug)]
pub(super) struct Conditions<'a> {
    before: &'a [Value],
    generation: i64,
    now: &'a str,
    conditions: BTreeMap<&'static str, Value>,
}

impl<'a> Conditions<'a> {
    /// `before` is what holds the conditions that stand.
    pub(super) fn new(before: &'a Value, generation: i64, now: &'a str) -> Self {
        let before = before.get("conditions").and_then(Value::as_array);
        Self {
            before: before.map_or(&[], Vec::as_slice),
            generation,
            now,
            conditions: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, name: &'static str, holds: bool, reason: &str, message: &str) {
        let value = if holds { "True" } else { "False" };
        let same = self.before.iter().find(|old| {
            old.get("type").is_some_and(|kind| kind == name)
                && old.get("status").is_some_and(|status| status == value)
        });
        let since = same.and_then(|old| old.get("lastTransitionTime")?.as_str());
        let condition = json!({
            "type": name, "status": value, "reason": reason, "message": message,
            "observedGeneration": self.generation, "lastTransitionTime": since.unwrap_or(self.now),
        });
        self.conditions.insert(name, condition);
    }

    pub(super) fn finish(self) -> Value {
        self.conditions.into_values().collect()
    }
}

/// What is said of listeners, over what stands in `before`.
pub(super) fn parts(listeners: &[&Listener<'_>], before: &Value, now: &str) -> Vec<Value> {
    let known = before.get("listeners").and_then(Value::as_array);
    let known = |name: &str| {
        let mut known = known.into_iter().flatten();
        known.find(|one| one.get("name").is_some_and(|n| n == name))
    };
    listeners
        .iter()
        .map(|listener| {
            let before = known(&listener.written.name);
            listener.status(before.unwrap_or(&Value::Null), now)
        })
        .collect()
}

/// The status of a Gateway: `listeners` are its own, `sets` how many ListenerSets add to it.
pub(super) fn gateway(
    gateway: &Object<GatewaySpec>,
    listeners: &[&Listener<'_>],
    sets: usize,
    pods: &Pods,
    around: &Surroundings<'_>,
) -> Status {
    let addresses = addresses(gateway, pods, around);
    let mut conditions = Conditions::new(&gateway.status, gateway.generation(), around.now);
    let broken: Vec<&str> = listeners
        .iter()
        .filter(|listener| !listener.is_open())
        .map(|listener| listener.written.name.as_str())
        .collect();
    let unsupported = gateway
        .spec
        .infrastructure
        .as_ref()
        .and_then(|i| i.parameters_ref.as_ref());
    match (pods, unsupported) {
        (_, Some(_)) => conditions.set(
            "Accepted",
            false,
            "InvalidParameters",
            "spec.infrastructure.parametersRef: Malla does not read settings of gateways yet",
        ),
        (Pods::Nobody(why), _) => conditions.set("Accepted", false, "UnsupportedAddress", why),
        (Pods::Of { .. }, None) if broken.is_empty() => {
            conditions.set("Accepted", true, "Accepted", "the Gateway is in force")
        }
        (Pods::Of { .. }, None) => {
            let all = broken.len() == listeners.len();
            let message = format!("listeners that are not in force: {}", broken.join(", "));
            conditions.set("Accepted", !all, "ListenersNotValid", &message);
        }
    }
    let given = |ip: &str| addresses.iter().any(|one| one["value"] == ip);
    let lacking = gateway.spec.wanted_ips().find(|ip| !given(ip));
    match (pods, addresses.is_empty()) {
        (Pods::Nobody(why), _) => conditions.set("Programmed", false, "AddressNotUsable", why),
        (Pods::Of { service, .. }, true) => {
            let message = format!("Service {service} has no address yet");
            conditions.set("Programmed", false, "AddressNotAssigned", &message);
        }
        (Pods::Of { service, .. }, false) if lacking.is_some() => {
            let ip = lacking.unwrap_or_default();
            let message = format!("Service {service} has not got the address {ip}");
            conditions.set("Programmed", false, "AddressNotUsable", &message);
        }
        (Pods::Of { service, .. }, false) if broken.len() < listeners.len() => {
            conditions.set(
                "Programmed",
                true,
                "Programmed",
                &format!("served by Service {service}"),
            );
        }
        (Pods::Of { .. }, false) => {
            conditions.set("Programmed", false, "Invalid", "no listener is in force")
        }
    }
    let parts = parts(listeners, &gateway.status, around.now);
    let mut status =
        json!({"conditions": conditions.finish(), "addresses": addresses, "listeners": parts});
    // Older definitions of the kind do not have it.
    if gateway.spec.allowed_listeners.is_some() {
        status["attachedListenerSets"] = json!(sets);
    }
    let name = (gateway.namespace(), gateway.name());
    Status::new(GatewayKind::Gateway, name, &gateway.status, status)
}

fn addresses(gateway: &Object<GatewaySpec>, pods: &Pods, around: &Surroundings<'_>) -> Vec<Value> {
    let Pods::Of { service, .. } = pods else {
        return Vec::new();
    };
    let key = (gateway.namespace().to_owned(), service.clone());
    let known = around.addresses.get(&key).into_iter().flatten();
    known
        .map(|address| match address {
            Address::Ip(ip) => json!({"type": "IPAddress", "value": ip.to_string()}),
            Address::Hostname(name) => json!({"type": "Hostname", "value": name}),
        })
        .collect()
}

/// The status of a route: an entry for each parent of ours. `None` where it has nothing to do with us.
pub(super) fn route(route: &Route<'_>, parents: &[Parent], now: &str) -> Option<Status> {
    let condition = |name, why: &Option<Why>, reason, message: &str| match why {
        None => (name, true, reason, message.to_owned()),
        Some((reason, message)) => (name, false, *reason, message.clone()),
    };
    let entries = parents.iter().map(|parent| Entry {
        reference: parent_ref(&parent.reference),
        conditions: vec![
            condition(
                "Accepted",
                &parent.refused,
                "Accepted",
                "attached to its parent",
            ),
            condition(
                "ResolvedRefs",
                &parent.unresolved,
                "ResolvedRefs",
                "everything it refers to is there",
            ),
        ],
    });
    let list = ("parents", "parentRef");
    let status = by_reference(list, entries.collect(), route.status, route.generation, now)?;
    let name = (route.namespace, route.name);
    Some(Status::new(route.kind, name, route.status, status))
}

/// What is said of an object towards one that it refers to.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) reference: Value,
    /// Type, whether it holds, reason and message.
    pub(super) conditions: Vec<(&'static str, bool, &'static str, String)>,
}

/// A status that is a list of entries, each under the reference it is about, beside those of other
/// controllers. `None` where it neither has nor had one of ours.
pub(super) fn by_reference(
    (list, key): (&str, &str),
    entries: Vec<Entry>,
    before: &Value,
    generation: i64,
    now: &str,
) -> Option<Value> {
    let standing = before.get(list).and_then(Value::as_array);
    let standing = standing.map_or(&[][..], Vec::as_slice);
    let ours = |entry: &&Value| {
        entry
            .get("controllerName")
            .is_some_and(|name| name == CONTROLLER)
    };
    if entries.is_empty() && !standing.iter().any(|entry| ours(&entry)) {
        return None;
    }
    let others = standing.iter().filter(|entry| !ours(entry)).cloned();
    let own = entries.into_iter().map(|entry| {
        let same = |known: &&Value| ours(known) && known.get(key) == Some(&entry.reference);
        let known = standing.iter().find(same).unwrap_or(&Value::Null);
        let mut conditions = Conditions::new(known, generation, now);
        for (name, holds, reason, message) in &entry.conditions {
            conditions.set(name, *holds, reason, message);
        }
        json!({key: entry.reference, "controllerName": CONTROLLER, "conditions": conditions.finish()})
    });
    let all: Vec<Value> = others.chain(own).collect();
    Some(json!({list: all}))
}

/// As it was written, with what is always there.
pub(super) fn parent_ref(written: &ParentRef) -> Value {
    let mut value = json!({
        "group": written.group.as_deref().unwrap_or(super::super::GROUP),
        "kind": written.kind.as_deref().unwrap_or("Gateway"),
        "name": written.name,
    });
    if let Some(namespace) = &written.namespace {
        value["namespace"] = json!(namespace);
    }
    if let Some(section) = &written.section_name {
        value["sectionName"] = json!(section);
    }
    if let Some(port) = written.port {
        value["port"] = json!(port);
    }
    value
}
