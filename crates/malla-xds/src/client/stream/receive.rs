//! From a response to an update: the two variants become one, and what the protocol itself forbids
//! is rejected here.

use std::collections::BTreeSet;

use bytes::Bytes;
use malla_xds_proto::Any;
use malla_xds_proto::any::unpack;
use malla_xds_proto::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapped};

use super::{ClientStream, Event, Output, Pending};
use crate::client::handler::{Interest, Received, Rejection, Update};
use crate::message::ServerMessage;
use crate::order;
use crate::resource::{Name, TypeUrl, content_version, embedded_name};

/// SotW servers may wrap resources to give them names (xDS protocol, "Resource" wrapper).
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What a response holds, sorted out.
#[derive(Default)]
struct Sorted {
    resources: Vec<Received>,
    rejected: Vec<Rejection>,
    seen: BTreeSet<Name>,
}

impl ClientStream {
    /// `None` when the response is of no concern to the handler.
    pub(super) fn receive(&mut self, message: ServerMessage) -> Option<Update> {
        let type_url = TypeUrl::from(message.type_url());
        let nonce = message.nonce().to_owned();
        let subscription = self
            .subscriptions
            .iter_mut()
            .find(|known| known.type_url == type_url && known.is_announced());
        let Some(subscription) = subscription else {
            let type_url = type_url.to_string();
            self.outputs
                .push_back(Output::Event(Event::Unexpected { type_url }));
            return None;
        };
        subscription.received(&nonce);
        let interest = subscription.interest.clone();
        let (sorted, removed, version) = match message {
            ServerMessage::Delta(response) => {
                let version = response.system_version_info.clone();
                let removed = delta_removed(&response, &interest);
                (sort_delta(response, &type_url, &interest), removed, version)
            }
            ServerMessage::Sotw(response) => {
                let version = response.version_info.clone();
                let mut sorted = sort_sotw(response, &type_url, &interest);
                // Only types whose responses are complete can say by absence that one is gone.
                let mut removed = Vec::new();
                if order::full_state(&type_url) || interest.wildcard {
                    let seen = &sorted.seen;
                    let gone = subscription
                        .held
                        .keys()
                        .filter(|name| !seen.contains(*name));
                    removed.extend(gone.cloned());
                    subscription
                        .status
                        .rejected
                        .retain(|name, _| seen.contains(name));
                }
                let held = &subscription.held;
                sorted
                    .resources
                    .retain(|resource| held.get(&resource.name) != Some(&resource.version));
                (sorted, removed, version)
            }
        };
        let versions = sorted.resources.iter();
        self.pending = Some(Pending {
            type_url: type_url.clone(),
            nonce,
            version: version.clone(),
            resources: versions
                .map(|resource| (resource.name.clone(), resource.version.clone()))
                .collect(),
            removed: removed.clone(),
            rejected: sorted.rejected,
        });
        Some(Update {
            type_url,
            resources: sorted.resources,
            removed,
            version,
        })
    }
}

impl Sorted {
    /// Takes one resource in, when it is wanted and well-formed.
    fn take(
        &mut self,
        name: &str,
        version: Option<&str>,
        any: Any,
        expected: &str,
        wanted: &Interest,
    ) {
        if !wanted.covers(name) {
            return; // Unsubscribed while it was on its way.
        }
        let name = Name::from(name);
        if !self.seen.insert(name.clone()) {
            self.resources.retain(|resource| resource.name != name);
            self.reject(name, "it is in the response twice".to_owned());
            return;
        }
        if any.type_url != expected {
            let reason = format!("it is of type {} (expected {expected})", any.type_url);
            self.reject(name, reason);
            return;
        }
        let body = Bytes::from(any.value);
        let version = version.map_or_else(|| content_version(&body), Into::into);
        self.resources.push(Received {
            name,
            version,
            body,
        });
    }

    fn reject(&mut self, name: Name, reason: String) {
        self.rejected.push(Rejection { name, reason });
    }
}

fn sort_delta(response: DeltaDiscoveryResponse, type_url: &str, wanted: &Interest) -> Sorted {
    let mut sorted = Sorted::default();
    for resource in response.resources {
        match resource.resource {
            Some(any) => {
                let version = Some(&*resource.version);
                sorted.take(&resource.name, version, any, type_url, wanted);
            }
            // A heartbeat: the resource is as it was.
            None if resource.ttl.is_some() => {}
            None => sorted.reject(resource.name.into(), "it has no content".to_owned()),
        }
    }
    sorted
}

fn delta_removed(response: &DeltaDiscoveryResponse, wanted: &Interest) -> Vec<Name> {
    let removed = response.removed_resources.iter();
    removed
        .filter(|name| wanted.covers(name))
        .map(|name| Name::from(&**name))
        .collect()
}

fn sort_sotw(response: DiscoveryResponse, type_url: &str, wanted: &Interest) -> Sorted {
    let mut sorted = Sorted::default();
    for (index, any) in response.resources.into_iter().enumerate() {
        let nameless = || Name::from(format!("resource {}", index + 1));
        if any.type_url == WRAPPER {
            match unpack::<Wrapped>(&any) {
                Ok(Wrapped {
                    name,
                    resource: Some(inner),
                    ..
                }) => sorted.take(&name, None, inner, type_url, wanted),
                Ok(_) => sorted.reject(nameless(), "it has no content".to_owned()),
                Err(error) => sorted.reject(nameless(), error.to_string()),
            }
            continue;
        }
        match embedded_name(&any.value).map(ToOwned::to_owned) {
            Some(name) => sorted.take(&name, None, any, type_url, wanted),
            None => sorted.reject(nameless(), "it has no name".to_owned()),
        }
    }
    sorted
}
