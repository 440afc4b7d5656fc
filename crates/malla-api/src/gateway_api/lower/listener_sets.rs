//! ListenerSets: listeners that others than a Gateway's owner add to it, as far as it lets them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::GatewayKind;
use super::super::types::{GatewaySpec, ListenerSetSpec};
use super::attach::selects;
use super::listeners::Listener;
use super::status::{Conditions, Status, parts};
use super::{Object, Objects, Surroundings};

/// A ListenerSet whose parent is a Gateway of ours.
#[derive(Debug)]
pub(super) struct Added<'a> {
    pub(super) set: &'a Object<ListenerSetSpec>,
    pub(super) gateway: &'a Object<GatewaySpec>,
    /// Whether the Gateway takes its listeners.
    pub(super) allowed: bool,
}

/// The sets of these Gateways, in the order in which their listeners follow each other: oldest first.
pub(super) fn of<'a>(
    objects: &'a Objects,
    gateways: &[&'a Arc<Object<GatewaySpec>>],
    around: &Surroundings<'_>,
) -> Vec<Added<'a>> {
    let mut added: Vec<Added<'a>> = objects
        .listener_sets
        .values()
        .filter_map(|set| {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace.as_deref().unwrap_or(set.namespace());
            let name = (namespace, parent.name.as_str());
            let gateway = gateways
                .iter()
                .find(|gateway| (gateway.namespace(), gateway.name()) == name)?;
            let from = gateway.spec.allowed_listeners.as_ref();
            let from = from.and_then(|allowed| allowed.namespaces.as_ref());
            Some(Added {
                set,
                gateway,
                allowed: selects(from, "None", gateway.namespace(), set.namespace(), around),
            })
        })
        .collect();
    added.sort_by_key(|added| added.set.age());
    added
}

impl Added<'_> {
    /// Whether any of its listeners is in force.
    pub(super) fn is_accepted(&self, listeners: &[&Listener<'_>]) -> bool {
        self.allowed && listeners.iter().any(|listener| listener.is_open())
    }

    /// `listeners` are its own.
    pub(super) fn status(&self, listeners: &[&Listener<'_>], now: &str) -> Status {
        let mut conditions = Conditions::new(&self.set.status, self.set.generation(), now);
        let broken: Vec<&str> = listeners
            .iter()
            .filter(|listener| !listener.is_open())
            .map(|listener| listener.written.name.as_str())
            .collect();
        let some = self.is_accepted(listeners);
        if !self.allowed {
            let message = "spec.allowedListeners of the Gateway does not let it add listeners";
            conditions.set("Accepted", false, "NotAllowed", message);
            conditions.set("Programmed", false, "NotAllowed", message);
        } else if broken.is_empty() {
            conditions.set("Accepted", true, "Accepted", "its listeners are in force");
            conditions.set(
                "Programmed",
                true,
                "Programmed",
                "the gateway's pods serve it",
            );
        } else {
            let message = format!("listeners that are not in force: {}", broken.join(", "));
            conditions.set("Accepted", some, "ListenersNotValid", &message);
            conditions.set("Programmed", some, "ListenersNotValid", &message);
        }
        let parts: Vec<Value> = parts(listeners, &self.set.status, now);
        let status = json!({"conditions": conditions.finish(), "listeners": parts});
        let name = (self.set.namespace(), self.set.name());
        Status::new(GatewayKind::ListenerSet, name, &self.set.status, status)
    }
}
