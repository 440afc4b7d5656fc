//! One client's stream, as a state machine: no IO, and told the time.
//!
//! Feed it requests and new resources with [`ServerStream::handle`]; take what is to be sent, and
//! what happened, with [`ServerStream::poll_output`] until it gives `None`.
//!
//! The life of a push: content changes or the client asks, so the type is *due*; in its turn
//! (`order`), and only when nothing of the type is in flight, the difference to what the client
//! holds is sent; the client answers with the nonce, accepting or rejecting; what became due
//! meanwhile is sent next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use malla_xds_proto::RpcStatus;
use tokio::time::Instant;

use super::facts::StreamFacts;
use super::subscription::{InFlight, Sent, Subscription};
use super::{delta, sotw};
use crate::message::{ClientMessage, ServerMessage, Variant};
use crate::order;
use crate::resource::{Name, NodeResources, TypeUrl, Version};

/// Types one stream may subscribe to. Envoy knows about a dozen.
const MAX_TYPES: usize = 64;

/// Names one stream may subscribe to in one type.
const MAX_NAMES: usize = 200_000;

/// Bytes of a client's error message that are kept.
const MAX_ERROR: usize = 4096;

/// What comes in.
pub enum Input {
    Request(ClientMessage),
    /// The node's resources have changed.
    Resources(Arc<dyn NodeResources>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(request) => f.debug_tuple("Request").field(request).finish(),
            Self::Resources(new) => f.debug_tuple("Resources").field(&new.version()).finish(),
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub enum Output {
    Send(ServerMessage),
    Event(Event),
}

/// What happened on a stream. Versions are [`NodeResources::version`] of the time of the push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client subscribed to a type for the first time.
    Subscribed { type_url: TypeUrl },
    /// A push was sent.
    Pushed {
        type_url: TypeUrl,
        version: Version,
        resources: usize,
        removed: usize,
    },
    /// The client accepted a push.
    Acked {
        type_url: TypeUrl,
        version: Version,
        /// The resources it held or removed; whatever was wrong with them is past.
        names: Vec<Name>,
        after: Duration,
    },
    /// The client rejected a push, or part of it.
    Nacked {
        type_url: TypeUrl,
        version: Version,
        /// The resources its message names; when it names none, all of the push.
        names: Vec<Name>,
        message: String,
    },
    /// Everything of this version that concerns the client has been sent and answered.
    Settled { version: Version, after: Duration },
}

/// What a client must not do; ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error(
        "the request names no type_url (expected one in every request of an aggregated stream)"
    )]
    NoType,
    #[error("the request is of the other protocol variant than the stream")]
    OtherVariant,
    #[error("more than {MAX_TYPES} resource types on one stream")]
    TooManyTypes,
    #[error("more than {MAX_NAMES} names of type {0}")]
    TooManyNames(TypeUrl),
    #[error("resource locators (xdstp) are not supported (expected resource_names)")]
    Locators,
}

/// The serving end of one stream.
pub struct ServerStream {
    variant: Variant,
    resources: Arc<dyn NodeResources>,
    /// In the order of `order::rank`.
    subscriptions: Vec<Subscription>,
    nonces: u64,
    events: VecDeque<Event>,
    /// Since when the current resources have been waiting to be active; `None` when they are.
    unsettled: Option<Instant>,
}

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerStream")
            .field("variant", &self.variant)
            .field("version", &self.resources.version())
            .finish_non_exhaustive()
    }
}

impl ServerStream {
    #[must_use]
    pub fn new(variant: Variant, resources: Arc<dyn NodeResources>, now: Instant) -> Self {
        Self {
            variant,
            resources,
            subscriptions: Vec::new(),
            nonces: 0,
            events: VecDeque::new(),
            unsettled: Some(now),
        }
    }

    /// # Errors
    /// When the client does what it must not; the stream should end.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<(), Violation> {
        match input {
            Input::Request(request) => self.request(now, request),
            Input::Resources(resources) => {
                self.resources = resources;
                self.unsettled = Some(now);
                for subscription in &mut self.subscriptions {
                    subscription.content_changed(&*self.resources);
                }
                Ok(())
            }
        }
    }

    /// The next thing to send or to report; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        if let Some(message) = self.next_push(now) {
            return Some(Output::Send(message));
        }
        self.settle(now).map(Output::Event)
    }

    /// What is being served.
    #[must_use]
    pub fn resources(&self) -> &dyn NodeResources {
        &*self.resources
    }

    /// What debug endpoints show.
    #[must_use]
    pub fn facts(&self) -> StreamFacts {
        let types = self.subscriptions.iter().map(|subscription| {
            let mut facts = subscription.facts.clone();
            facts.wildcard = subscription.wildcard;
            facts.names = subscription.names.len();
            facts.held = subscription.held.len();
            facts.rejected.retain(|name, _| subscription.held.has(name));
            (subscription.type_url.clone(), facts)
        });
        StreamFacts {
            version: self.resources.version().to_owned(),
            settled: self.unsettled.is_none(),
            types: types.collect(),
        }
    }

    fn request(&mut self, now: Instant, request: ClientMessage) -> Result<(), Violation> {
        if request.variant() != self.variant {
            return Err(Violation::OtherVariant);
        }
        let (index, first) = self.subscription(request.type_url())?;
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return Ok(()); // `subscription` has just found it.
        };
        let resources = &*self.resources;
        match request {
            ClientMessage::Delta(request) => {
                if !(request.resource_locators_subscribe.is_empty()
                    && request.resource_locators_unsubscribe.is_empty())
                {
                    return Err(Violation::Locators);
                }
                let error = request.error_detail.as_ref();
                let answer = answer(subscription, &request.response_nonce, error, now);
                self.events.extend(answer);
                // Subscriptions count whatever the nonce: they are differences.
                delta::subscribe(subscription, *request, first, resources);
            }
            ClientMessage::Sotw(request) => {
                if !request.resource_locators.is_empty() {
                    return Err(Violation::Locators);
                }
                let nonce = &request.response_nonce;
                let stale = !nonce.is_empty()
                    && subscription
                        .last_nonce
                        .as_ref()
                        .is_some_and(|last| last != nonce);
                if stale {
                    // It crossed with a push; its answer to that push will say it all again.
                    return Ok(());
                }
                let error = request.error_detail.as_ref();
                let answer = answer(subscription, nonce, error, now);
                self.events.extend(answer);
                sotw::subscribe(subscription, *request, first, resources);
            }
        }
        if subscription.names.len() > MAX_NAMES {
            return Err(Violation::TooManyNames(subscription.type_url.clone()));
        }
        if subscription.due {
            self.unsettled.get_or_insert(now);
        }
        Ok(())
    }

    /// The index of the type's subscription, made when it is new.
    fn subscription(&mut self, type_url: &str) -> Result<(usize, bool), Violation> {
        if type_url.is_empty() {
            return Err(Violation::NoType);
        }
        let found = self
            .subscriptions
            .iter()
            .position(|known| *known.type_url == *type_url);
        if let Some(index) = found {
            return Ok((index, false));
        }
        if self.subscriptions.len() >= MAX_TYPES {
            return Err(Violation::TooManyTypes);
        }
        let fresh = Subscription::new(type_url.into());
        self.events.push_back(Event::Subscribed {
            type_url: fresh.type_url.clone(),
        });
        let index = self
            .subscriptions
            .partition_point(|known| known.order() < fresh.order());
        self.subscriptions.insert(index, fresh);
        Ok((index, true))
    }

    fn next_push(&mut self, now: Instant) -> Option<ServerMessage> {
        loop {
            let mut settled_one = false;
            let mut additions_waiting = false;
            for index in 0..self.subscriptions.len() {
                let remove = self.may_remove(index);
                let subscription = self.subscriptions.get_mut(index)?;
                if !subscription.due {
                    continue;
                }
                if subscription.in_flight.is_some() {
                    additions_waiting |= order::is_referred_to(&subscription.type_url)
                        && subscription.has_additions(&*self.resources);
                    continue;
                }
                if additions_waiting && order::refers(&subscription.type_url) {
                    continue;
                }
                if let Some(message) = self.push(index, remove, now) {
                    return Some(message);
                }
                settled_one |= self
                    .subscriptions
                    .get(index)
                    .is_some_and(|known| !known.due);
            }
            // A type that turned out to have nothing to send may have been what another waited for.
            if !settled_one {
                return None;
            }
        }
    }

    /// Removals wait until everything that may refer to the type has been updated. On a new stream
    /// they wait for the first answer too: by then the client has said what else it subscribes to.
    fn may_remove(&self, index: usize) -> bool {
        let Some(subscription) = self.subscriptions.get(index) else {
            return false;
        };
        if !order::removed_last(&subscription.type_url) {
            return true;
        }
        let unacquainted = subscription.wildcard && subscription.facts.answered_at.is_none();
        let mut referring = self
            .subscriptions
            .iter()
            .filter(|other| order::refers(&other.type_url));
        !unacquainted && referring.all(|other| !other.due && other.in_flight.is_none())
    }

    fn push(&mut self, index: usize, remove: bool, now: Instant) -> Option<ServerMessage> {
        let resources = self.resources.clone();
        let subscription = self.subscriptions.get_mut(index)?;
        let nonce = (self.nonces + 1).to_string();
        let (message, sent, deferred) = match self.variant {
            Variant::Delta => {
                let plan = delta::plan(subscription, &*resources, remove);
                let (sent, deferred) = (plan.sent(), plan.deferred);
                if sent.about.is_empty() && !subscription.unanswered {
                    subscription.compared_with(&*resources, deferred);
                    return None;
                }
                let response = delta::respond(subscription, plan, &nonce);
                (ServerMessage::Delta(response), sent, deferred)
            }
            Variant::Sotw => {
                let Some(plan) = sotw::plan(subscription, &*resources) else {
                    subscription.asked.clear();
                    subscription.compared_with(&*resources, false);
                    return None;
                };
                let sent = plan.sent(subscription);
                let response = sotw::respond(subscription, plan, &nonce);
                (ServerMessage::Sotw(response), sent, false)
            }
        };
        self.nonces += 1;
        subscription.asked.clear();
        subscription.unanswered = false;
        subscription.compared_with(&*resources, deferred);
        self.sent(index, nonce, sent, now);
        Some(message)
    }

    fn sent(&mut self, index: usize, nonce: String, sent: Sent, now: Instant) {
        let Sent {
            names,
            about,
            removed,
        } = sent;
        let version = Version::from(self.resources.version());
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return;
        };
        let type_url = subscription.type_url.clone();
        subscription.last_nonce = Some(nonce.clone());
        subscription.facts.nonce_sent = Some(nonce.clone());
        subscription.facts.version_sent = Some(version.clone());
        subscription.facts.sent_at = Some(now);
        subscription.facts.pushes += 1;
        self.events.push_back(Event::Pushed {
            type_url: type_url.clone(),
            version: version.clone(),
            resources: names.len(),
            removed,
        });
        let warmed: Vec<(TypeUrl, Name)> = names
            .iter()
            .flat_map(|name| self.resources.warms(&type_url, name))
            .collect();
        subscription.in_flight = Some(InFlight {
            nonce,
            at: now,
            version,
            names,
            about,
        });
        for (type_url, name) in warmed {
            let child = self
                .subscriptions
                .iter_mut()
                .find(|known| known.type_url == type_url);
            if let Some(child) = child
                && child.names.contains(&name)
            {
                child.asked.insert(name);
                child.due = true;
            }
        }
    }

    fn settle(&mut self, now: Instant) -> Option<Event> {
        let busy = self
            .subscriptions
            .iter()
            .any(|subscription| subscription.due || subscription.in_flight.is_some());
        if busy || self.subscriptions.is_empty() {
            return None;
        }
        let since = self.unsettled.take()?;
        Some(Event::Settled {
            version: self.resources.version().into(),
            after: now.saturating_duration_since(since),
        })
    }
}

/// Reads the answer to a push out of a request. A nonce of an earlier push, or of an earlier stream,
/// answers nothing.
fn answer(
    subscription: &mut Subscription,
    nonce: &str,
    error: Option<&RpcStatus>,
    now: Instant,
) -> Option<Event> {
    let push = subscription.in_flight.take_if(|push| push.nonce == nonce)?;
    let type_url = subscription.type_url.clone();
    subscription.facts.answered_at = Some(now);
    let Some(error) = error else {
        subscription.facts.nonce_acked = Some(push.nonce);
        subscription.facts.version_acked = Some(push.version.clone());
        for name in &push.about {
            subscription.facts.rejected.remove(name);
        }
        return Some(Event::Acked {
            type_url,
            version: push.version,
            names: push.about,
            after: now.saturating_duration_since(push.at),
        });
    };
    let message: String = error.message.chars().take(MAX_ERROR).collect();
    let named = push.names.iter().filter(|name| message.contains(&***name));
    let mut names: Vec<Name> = named.cloned().collect();
    if names.is_empty() {
        names = push.names;
    }
    subscription.facts.rejects += 1;
    let rejected = names.iter().map(|name| (name.clone(), message.clone()));
    subscription.facts.rejected.extend(rejected);
    Some(Event::Nacked {
        type_url,
        version: push.version,
        names,
        message,
    })
}

#[cfg(test)]
mod tests;
