//! The incremental variant: reading subscriptions, and finding out what to send.

use std::collections::BTreeSet;

use malla_xds_proto::Any;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire};

use super::held::Held;
use super::subscription::{Sent, Subscription, WILDCARD};
use crate::resource::{Name, NodeResources, Resource};

/// Takes over what a request says about subscriptions. `first` is the first request of the type on
/// this stream.
pub(super) fn subscribe(
    subscription: &mut Subscription,
    request: DeltaDiscoveryRequest,
    first: bool,
    resources: &dyn NodeResources,
) {
    let subscribe = request.resource_names_subscribe;
    let unsubscribe = request.resource_names_unsubscribe;
    if first {
        let known = request.initial_resource_versions.into_iter();
        subscription.held = known
            .map(|(name, version)| (name.into(), Held::Version(version.into())))
            .collect();
        if subscribe.is_empty() {
            // The old way to subscribe to everything, still Envoy's when it wants nothing else.
            subscription.subscribe_wildcard();
        }
    }
    if !(subscribe.is_empty() && unsubscribe.is_empty()) || first {
        subscription.due = true;
    }
    for name in subscribe {
        subscription.explicit = true;
        if name == WILDCARD {
            subscription.subscribe_wildcard();
            continue;
        }
        let shared = resources.shared_name(&subscription.type_url, &name);
        let name = shared.unwrap_or_else(|| name.into());
        subscription.names.insert(name.clone());
        let has_current = first
            && resources
                .get(&subscription.type_url, &name)
                .is_some_and(|resource| subscription.holds(&name, &resource));
        if !has_current {
            // Also when it was subscribed already: the client has forgotten it, says the protocol.
            subscription.asked.insert(name);
        }
    }
    for name in unsubscribe {
        unsubscribe_one(subscription, &name);
    }
    if first && !subscription.wildcard {
        // Versions of names that are not subscribed to are of no use to either side.
        let names = &subscription.names;
        subscription.held.retain(|name| names.contains(name));
    }
}

fn unsubscribe_one(subscription: &mut Subscription, name: &str) {
    if name == WILDCARD {
        subscription.unsubscribe_wildcard();
        return;
    }
    let known = subscription.names.take(name);
    if subscription.wildcard {
        // The client must learn whether the wildcard still covers it.
        if let Some(name) = known {
            subscription.asked.insert(name);
        }
    } else {
        subscription.asked.remove(name);
        subscription.held.remove(name);
    }
}

/// What has to be sent.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) updates: Vec<(Name, Resource)>,
    pub(super) removals: Vec<Name>,
    /// There are removals that have to wait.
    pub(super) deferred: bool,
}

impl Plan {
    pub(super) fn sent(&self) -> Sent {
        let names: Vec<Name> = self.updates.iter().map(|(name, _)| name.clone()).collect();
        let about = names.iter().chain(&self.removals).cloned().collect();
        Sent {
            names,
            about,
            removed: self.removals.len(),
        }
    }
}

/// Compares what the client holds with what it should. Removals that nobody asked about are left
/// out unless `remove`.
pub(super) fn plan(
    subscription: &Subscription,
    resources: &dyn NodeResources,
    remove: bool,
) -> Plan {
    let mut plan = Plan::default();
    let gone = match subscription.suspects(resources) {
        Some(suspects) => compare_some(subscription, resources, suspects, &mut plan),
        None => compare_all(subscription, resources, &mut plan),
    };
    for name in gone {
        // An answer to a question breaks nothing, and neither does news about what was never there.
        let harmless = subscription.asked.contains(&name)
            || !matches!(subscription.held.get(&name), Some(Held::Version(_)));
        if remove || harmless {
            plan.removals.push(name);
        } else {
            plan.deferred = true;
        }
    }
    plan
}

/// Plans updates of these names; those that are gone.
fn compare_some(
    subscription: &Subscription,
    resources: &dyn NodeResources,
    names: BTreeSet<Name>,
    plan: &mut Plan,
) -> Vec<Name> {
    let mut gone = Vec::new();
    for name in names {
        let asked = subscription.asked.contains(&name);
        let wanted = subscription.wants(resources, &name);
        let resource = wanted.then(|| resources.get(&subscription.type_url, &name));
        match resource.flatten() {
            Some(resource) if asked || !subscription.holds(&name, &resource) => {
                plan.updates.push((name, resource));
            }
            Some(_) => {}
            None => {
                let held = subscription.held.get(&name);
                let unknown = if wanted {
                    held != Some(&Held::Nothing)
                } else {
                    held.is_some()
                };
                if asked || unknown {
                    gone.push(name);
                }
            }
        }
    }
    gone
}

/// Plans updates of everything; what is gone.
fn compare_all(
    subscription: &Subscription,
    resources: &dyn NodeResources,
    plan: &mut Plan,
) -> Vec<Name> {
    let mut gone: Vec<Name> = Vec::new();
    subscription.each_wanted(resources, |name, resource| {
        let asked = subscription.asked.contains(name);
        match resource {
            Some(resource) if asked || !subscription.holds(name, resource) => {
                plan.updates.push((name.clone(), resource.clone()));
            }
            None if asked || subscription.held.get(name) != Some(&Held::Nothing) => {
                gone.push(name.clone());
            }
            _ => {}
        }
    });
    // What is held, or was asked about, and is not (or no longer) the client's to have.
    let known = subscription.held.names();
    let asked = subscription.asked.iter();
    let asked = asked.filter(|name| !subscription.held.has(name));
    let unwanted = known
        .chain(asked)
        .filter(|name| !subscription.wants(resources, name));
    gone.extend(unwanted.cloned());
    gone
}

/// Writes the plan as a message and into the books.
pub(super) fn respond(
    subscription: &mut Subscription,
    plan: Plan,
    nonce: &str,
) -> DeltaDiscoveryResponse {
    for (name, resource) in &plan.updates {
        let held = Held::Version(resource.version.clone());
        subscription.held.insert(name.clone(), held);
    }
    for name in &plan.removals {
        if subscription.names.contains(name) {
            subscription.held.insert(name.clone(), Held::Nothing);
        } else {
            subscription.held.remove(name);
        }
    }
    DeltaDiscoveryResponse {
        system_version_info: subscription.held.version().to_string(),
        type_url: subscription.type_url.as_str().to_owned(),
        nonce: nonce.to_owned(),
        resources: plan
            .updates
            .into_iter()
            .map(|(name, resource)| wire(&subscription.type_url, &name, &resource))
            .collect(),
        removed_resources: plan.removals.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn wire(type_url: &str, name: &str, resource: &Resource) -> Wire {
    Wire {
        name: name.to_owned(),
        version: resource.version.to_string(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value: resource.body.to_vec(),
        }),
        ..Wire::default()
    }
}
