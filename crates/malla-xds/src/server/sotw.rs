//! The state-of-the-world variant: reading subscriptions, and finding out what to send.

use std::collections::BTreeSet;

use malla_xds_proto::Any;
use malla_xds_proto::discovery::{DiscoveryRequest, DiscoveryResponse};

use super::held::Held;
use super::subscription::{Sent, Subscription, WILDCARD};
use crate::order;
use crate::resource::{Name, NodeResources, Resource, Version, aggregate_version};

/// Takes over what a request says about subscriptions. `first` is the first request of the type on
/// this stream.
pub(super) fn subscribe(
    subscription: &mut Subscription,
    request: DiscoveryRequest,
    first: bool,
    resources: &dyn NodeResources,
) {
    let legacy_wildcard = request.resource_names.is_empty() && !subscription.explicit;
    let mut names: BTreeSet<Name> = request.resource_names.into_iter().map(Name::from).collect();
    let wildcard = names.remove(WILDCARD) || legacy_wildcard;
    subscription.explicit |= !legacy_wildcard;
    let changed = first || wildcard != subscription.wildcard || names != subscription.names;
    if !changed {
        return;
    }
    subscription.due = true;
    let added: Vec<Name> = names.difference(&subscription.names).cloned().collect();
    subscription.asked.extend(added);
    subscription.asked.retain(|name| names.contains(name));
    subscription.names = names;
    if wildcard {
        subscription.subscribe_wildcard();
    } else {
        subscription.unsubscribe_wildcard();
    }
    if first && wildcard && !request.version_info.is_empty() {
        recognise(subscription, &request.version_info, resources);
    }
}

/// After a reconnect: a client that holds the whole current state need not be sent it again.
fn recognise(subscription: &mut Subscription, version: &str, resources: &dyn NodeResources) {
    let wanted: Vec<(Name, Resource)> = existing(subscription, resources);
    if *aggregate(&wanted) != *version {
        return;
    }
    subscription.unanswered = false;
    subscription.asked.clear();
    subscription.held = wanted
        .into_iter()
        .map(|(name, resource)| (name, Held::Version(resource.version)))
        .collect();
}

fn existing(subscription: &Subscription, resources: &dyn NodeResources) -> Vec<(Name, Resource)> {
    let mut existing = Vec::new();
    subscription.each_wanted(resources, |name, resource| {
        existing.extend(resource.map(|resource| (name.clone(), resource.clone())));
    });
    existing.sort_by(|(one, _), (other, _)| one.cmp(other));
    existing
}

fn aggregate(resources: &[(Name, Resource)]) -> Version {
    aggregate_version(
        resources
            .iter()
            .map(|(name, resource)| (&**name, &*resource.version)),
    )
}

/// What has to be sent.
#[derive(Debug)]
pub(super) struct Plan {
    resources: Vec<(Name, Resource)>,
    /// Those that the client did not hold.
    news: Vec<Name>,
    version: Version,
}

impl Plan {
    /// A complete response also says that everything else is gone.
    pub(super) fn sent(&self, subscription: &Subscription) -> Sent {
        let mut about: Vec<Name> = self
            .resources
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let mut removed = 0;
        if is_complete(subscription) {
            let kept: BTreeSet<&Name> = self.resources.iter().map(|(name, _)| name).collect();
            let held = subscription.held.names();
            let gone: Vec<Name> = held.filter(|name| !kept.contains(name)).cloned().collect();
            removed = gone.len();
            about.extend(gone);
        }
        Sent {
            names: self.news.clone(),
            about,
            removed,
        }
    }
}

fn is_complete(subscription: &Subscription) -> bool {
    subscription.wildcard || order::full_state(&subscription.type_url)
}

/// Compares what the client holds with what it should; `None` when nothing has to be sent.
pub(super) fn plan(subscription: &mut Subscription, resources: &dyn NodeResources) -> Option<Plan> {
    let wanted = existing(subscription, resources);
    let version = aggregate(&wanted);
    let is_news = |(name, resource): &&(Name, Resource)| {
        subscription.asked.contains(name) || !subscription.holds(name, resource)
    };
    let news: Vec<Name> = wanted
        .iter()
        .filter(is_news)
        .map(|(name, _)| name.clone())
        .collect();
    let kept: BTreeSet<&Name> = wanted.iter().map(|(name, _)| name).collect();
    let shrunk = subscription.held.names().any(|name| !kept.contains(name));
    if is_complete(subscription) {
        let needed = subscription.unanswered || shrunk || !news.is_empty();
        return needed.then_some(Plan {
            resources: wanted,
            news,
            version,
        });
    }
    // There is no way to say that a resource of the other types is gone; the client will drop it
    // together with what refers to it.
    let gone: Vec<Name> = subscription
        .held
        .names()
        .filter(|name| !kept.contains(name))
        .cloned()
        .collect();
    for name in gone {
        subscription.held.remove(&name);
    }
    if news.is_empty() {
        return None;
    }
    let sent: BTreeSet<&Name> = news.iter().collect();
    let resources = wanted
        .iter()
        .filter(|(name, _)| sent.contains(name))
        .cloned()
        .collect();
    Some(Plan {
        resources,
        news,
        version,
    })
}

/// Writes the plan as a message and into the books.
pub(super) fn respond(
    subscription: &mut Subscription,
    plan: Plan,
    nonce: &str,
) -> DiscoveryResponse {
    if is_complete(subscription) {
        subscription.held.clear();
    }
    for (name, resource) in &plan.resources {
        let held = Held::Version(resource.version.clone());
        subscription.held.insert(name.clone(), held);
    }
    DiscoveryResponse {
        version_info: plan.version.to_string(),
        type_url: subscription.type_url.as_str().to_owned(),
        nonce: nonce.to_owned(),
        resources: plan
            .resources
            .iter()
            .map(|(_, resource)| Any {
                type_url: subscription.type_url.as_str().to_owned(),
                value: resource.body.to_vec(),
            })
            .collect(),
        ..DiscoveryResponse::default()
    }
}
