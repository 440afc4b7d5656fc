//! The client's side of the protocol, across reconnects, as a state machine: no IO, and told the
//! time.
//!
//! Feed it what happens on the link with [`ClientStream::handle`]; do what
//! [`ClientStream::poll_output`] says until it gives `None`; come back at
//! [`ClientStream::deadline`].
//!
//! Invariant: one response is with the handler at a time, and is answered before the next is taken.

mod receive;

use std::collections::VecDeque;
use std::time::Duration;

use malla_runtime::backoff::{Backoff, BackoffConfig};
use malla_xds_proto::RpcStatus;
use malla_xds_proto::core::Node;
use tokio::time::Instant;

use super::handler::{Interest, Rejection, Update, Verdict};
use super::status::Status;
use super::subscription::{Answer, Subscription};
use crate::message::{ClientMessage, ServerMessage, Variant};
use crate::resource::{Name, TypeUrl, Version};

/// `google.rpc.Code.INVALID_ARGUMENT`, what a NACK says.
const INVALID_ARGUMENT: i32 = 3;

/// Bytes of a NACK's message; a response may hold thousands of bad resources.
const MAX_ERROR: usize = 4096;

/// Who the client is and how it behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub node: Node,
    pub variant: Variant,
    pub reconnect: BackoffConfig,
}

impl ClientConfig {
    /// Delta, and Envoy's reconnect times.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            node,
            variant: Variant::Delta,
            reconnect: BackoffConfig::default(),
        }
    }
}

/// What comes in.
#[derive(Debug)]
pub enum Input {
    /// The link asked for by [`Output::Open`] is there.
    Opened,
    /// It could not be opened, or has ended.
    Closed {
        reason: String,
    },
    Response(ServerMessage),
    /// The handler's answer to [`Output::Apply`].
    Verdict(Verdict),
    /// The owner wants something else of a type.
    Interest(TypeUrl, Interest),
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Open a link, then say [`Input::Opened`] or [`Input::Closed`].
    Open,
    Send(ClientMessage),
    /// Give the update to the handler, then say [`Input::Verdict`].
    Apply(Update),
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server has answered on a new stream.
    Connected,
    /// The stream could not be opened, or has ended; everything held stays in use.
    Disconnected { reason: String, retry_in: Duration },
    /// A response was applied and answered.
    Applied {
        type_url: TypeUrl,
        accepted: usize,
        removed: usize,
        rejected: Vec<Rejection>,
    },
    /// The server sent something that nobody asked for.
    Unexpected { type_url: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// To be opened at this time.
    Waiting(Instant),
    Opening,
    Open {
        /// The node goes into the first request only.
        introduced: bool,
        answered: bool,
    },
}

/// A response that is with the handler.
#[derive(Debug)]
struct Pending {
    type_url: TypeUrl,
    nonce: String,
    version: String,
    resources: Vec<(Name, Version)>,
    removed: Vec<Name>,
    /// What the protocol itself found wrong.
    rejected: Vec<Rejection>,
}

/// The consuming end.
#[derive(Debug)]
pub struct ClientStream {
    config: ClientConfig,
    link: Link,
    backoff: Backoff,
    /// In the order of `order::rank`.
    subscriptions: Vec<Subscription>,
    inbox: VecDeque<ServerMessage>,
    pending: Option<Pending>,
    outputs: VecDeque<Output>,
    connections: u64,
    last_error: Option<String>,
}

impl ClientStream {
    /// A client that connects at `now`. The same seed gives the same reconnect times.
    #[must_use]
    pub fn new(config: ClientConfig, now: Instant, seed: u64) -> Self {
        Self {
            backoff: Backoff::seeded(config.reconnect, seed),
            config,
            link: Link::Waiting(now),
            subscriptions: Vec::new(),
            inbox: VecDeque::new(),
            pending: None,
            outputs: VecDeque::new(),
            connections: 0,
            last_error: None,
        }
    }

    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Opened => {
                self.link = Link::Open {
                    introduced: false,
                    answered: false,
                };
                self.inbox.clear();
                for subscription in &mut self.subscriptions {
                    subscription.stream_opened();
                }
            }
            Input::Closed { reason } => self.closed(now, reason),
            Input::Response(message) => {
                if let Link::Open { answered, .. } = &mut self.link
                    && !std::mem::replace(answered, true)
                {
                    self.backoff.reset();
                    self.connections += 1;
                    self.last_error = None;
                    self.outputs.push_back(Output::Event(Event::Connected));
                }
                self.inbox.push_back(message);
            }
            Input::Verdict(verdict) => self.verdict(now, verdict),
            Input::Interest(type_url, interest) => {
                self.subscription(&type_url).set_interest(interest);
            }
        }
    }

    /// The next thing to do; `None` when there is nothing until the next input or deadline.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        if let Link::Waiting(due) = self.link
            && due <= now
        {
            self.link = Link::Opening;
            self.outputs.push_back(Output::Open);
        }
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.pending.is_some() {
            return None;
        }
        // Answers before the next response is taken: the server's flow control lives on them.
        if let Some(request) = self.next_request() {
            return Some(Output::Send(request));
        }
        while let Some(message) = self.inbox.pop_front() {
            if let Some(update) = self.receive(message) {
                return Some(Output::Apply(update));
            }
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
        }
        None
    }

    /// When to poll again without any input.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Waiting(due) => Some(due),
            Link::Opening | Link::Open { .. } => None,
        }
    }

    /// What readiness and debug endpoints show.
    #[must_use]
    pub fn status(&self) -> Status {
        let types = self.subscriptions.iter().map(|subscription| {
            let mut status = subscription.status.clone();
            status.resources = subscription.held.len();
            status.version.clone_from(&subscription.version);
            (subscription.type_url.clone(), status)
        });
        Status {
            connected: matches!(self.link, Link::Open { answered: true, .. }),
            connections: self.connections,
            last_error: self.last_error.clone(),
            types: types.collect(),
        }
    }

    fn closed(&mut self, now: Instant, reason: String) {
        let retry_in = self.backoff.next_delay();
        self.link = Link::Waiting(now + retry_in);
        // What was received and not applied yet will be sent again.
        self.inbox.clear();
        self.last_error = Some(reason.clone());
        let event = Event::Disconnected { reason, retry_in };
        self.outputs.push_back(Output::Event(event));
    }

    fn next_request(&mut self) -> Option<ClientMessage> {
        let Link::Open { introduced, .. } = &mut self.link else {
            return None;
        };
        let variant = self.config.variant;
        // What follows from a response goes before its answer: once a server has all answers, it
        // also has all questions, and knows that its client is up to date.
        let (answering, asking): (Vec<_>, Vec<_>) = self
            .subscriptions
            .iter_mut()
            .partition(|known| known.answer.is_some());
        let mut request = asking
            .into_iter()
            .chain(answering)
            .find_map(|subscription| subscription.request(variant))?;
        if !std::mem::replace(introduced, true) {
            let node = Some(self.config.node.clone());
            match &mut request {
                ClientMessage::Delta(request) => request.node = node,
                ClientMessage::Sotw(request) => request.node = node,
            }
        }
        Some(request)
    }

    fn verdict(&mut self, now: Instant, verdict: Verdict) {
        let Some(pending) = self.pending.take() else {
            return; // Nothing was asked.
        };
        for (type_url, interest) in verdict.subscriptions {
            self.subscription(&type_url).set_interest(interest);
        }
        let mut rejected = pending.rejected;
        rejected.extend(verdict.rejected);
        let error = (!rejected.is_empty()).then(|| nack(&rejected));
        let subscription = self.subscription(&pending.type_url);
        let mut accepted = 0;
        for (name, version) in pending.resources {
            if rejected.iter().any(|rejection| rejection.name == name) {
                continue;
            }
            accepted += 1;
            subscription.status.rejected.remove(&name);
            if subscription.interest.covers(&name) {
                subscription.held.insert(name, version);
            }
        }
        for name in &pending.removed {
            subscription.held.remove(name);
            subscription.status.rejected.remove(name);
        }
        let reasons = rejected
            .iter()
            .map(|one| (one.name.clone(), one.reason.clone()));
        subscription.status.rejected.extend(reasons);
        subscription.status.updates += 1;
        subscription.status.last_update = Some(now);
        if error.is_some() {
            subscription.status.rejected_updates += 1;
        } else {
            subscription.version = pending.version;
        }
        // The stream may have been replaced while the handler was at work; its nonces with it.
        if subscription.is_announced() {
            subscription.answer = Some(Answer {
                nonce: pending.nonce,
                error,
            });
        }
        self.outputs.push_back(Output::Event(Event::Applied {
            type_url: pending.type_url,
            accepted,
            removed: pending.removed.len(),
            rejected,
        }));
    }

    /// The type's subscription, made when it is new.
    fn subscription(&mut self, type_url: &TypeUrl) -> &mut Subscription {
        let found = self
            .subscriptions
            .iter()
            .position(|known| known.type_url == *type_url);
        let index = found.unwrap_or_else(|| {
            let fresh = Subscription::new(type_url.clone());
            let index = self
                .subscriptions
                .partition_point(|known| known.order() < fresh.order());
            self.subscriptions.insert(index, fresh);
            index
        });
        &mut self.subscriptions[index] // Found, or inserted, right above.
    }
}

/// What the server is told: which resources, and why.
fn nack(rejected: &[Rejection]) -> RpcStatus {
    let mut message = String::new();
    for Rejection { name, reason } in rejected {
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(name);
        message.push_str(": ");
        message.push_str(reason);
        if message.len() > MAX_ERROR {
            break;
        }
    }
    if message.len() > MAX_ERROR {
        message = message.chars().take(MAX_ERROR).collect();
        message.push('…');
    }
    RpcStatus {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
