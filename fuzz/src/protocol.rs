//! The xDS protocol, both ends: any peer, then a well-behaved one, and the stream comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use malla_xds::client::stream::{ClientConfig, ClientStream, Input as In, Output as Out};
use malla_xds::client::{Interest, Rejection, Verdict};
use malla_xds::server::stream::{Input as ServerInput, Output, ServerStream};
use malla_xds::{ClientMessage, ResourceSet, ServerMessage, Variant};
use malla_xds_proto::core::Node;
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as Wrapped,
};
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use malla_xds_proto::{Any, RpcStatus};
use tokio::time::Instant;

use crate::input::Input;

const TYPES: [&str; 6] = [
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTE,
    "type.googleapis.com/x.Y",
    "",
];
const NAMES: [&str; 6] = ["a", "b", "c", "*", "", "xdstp://x/y"];

fn variant(input: &mut Input<'_>) -> Variant {
    if input.flag() {
        Variant::Sotw
    } else {
        Variant::Delta
    }
}

fn names(input: &mut Input<'_>) -> Vec<String> {
    (0..input.below(4))
        .map(|_| (*input.pick(&NAMES)).to_owned())
        .collect()
}

/// A message with its name in field 1.
fn body(name: &str, value: u8) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("names are short");
    [&[0x0a, length], name.as_bytes(), &[0x12, 1, value]].concat()
}

fn content(input: &mut Input<'_>) -> Arc<ResourceSet> {
    let mut set = ResourceSet::new(&input.byte().to_string());
    for type_url in &TYPES[..4] {
        set.set(*type_url, malla_xds::ResourceMap::new());
        for name in &NAMES[..3] {
            let value = input.byte();
            if value % 4 != 0 {
                set.put(*type_url, name, body(name, value));
            }
        }
    }
    Arc::new(set)
}

/// Requests of any client, in any order, while the content changes.
pub fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now = Instant::now();
    let variant = variant(&mut input);
    let mut server = ServerStream::new(variant, content(&mut input), now);
    let mut peer = Peer {
        variant,
        sent: Vec::new(),
        nonces: BTreeSet::new(),
        waiting: BTreeMap::new(),
    };
    peer.drain(&mut server, now);
    while !input.is_empty() {
        now += Duration::from_millis(u64::from(input.byte()));
        let step = match input.below(4) {
            0 => ServerInput::Resources(content(&mut input)),
            _ => ServerInput::Request(peer.request(&mut input)),
        };
        if let ServerInput::Request(request) = &step {
            peer.answered(request);
        }
        if server.handle(now, step).is_err() {
            return; // The stream ends.
        }
        peer.drain(&mut server, now);
    }
    // From here on everything is acknowledged, so it must come to rest.
    for _ in 0..200 {
        let Some((type_url, nonce)) = peer.waiting.pop_first() else {
            let facts = server.facts();
            assert!(
                facts.settled || facts.types.is_empty(),
                "nothing is in flight, and yet it is not settled: {facts:?}"
            );
            return;
        };
        let request = peer.message(type_url, nonce, None, Vec::new(), Vec::new());
        server
            .handle(now, ServerInput::Request(request))
            .expect("an acknowledgement is no violation");
        peer.drain(&mut server, now);
    }
    panic!("the server keeps pushing to a client that accepts everything");
}

struct Peer {
    variant: Variant,
    /// Type and nonce of every push.
    sent: Vec<(String, String)>,
    nonces: BTreeSet<String>,
    /// Nonces not answered yet, by type.
    waiting: BTreeMap<String, String>,
}

impl Peer {
    fn drain(&mut self, server: &mut ServerStream, now: Instant) {
        for turn in 0.. {
            assert!(turn < 1000, "there is no end to what it says");
            let Some(output) = server.poll_output(now) else {
                break;
            };
            let Output::Send(message) = output else {
                continue;
            };
            let (type_url, nonce) = (message.type_url().to_owned(), message.nonce().to_owned());
            assert!(self.nonces.insert(nonce.clone()), "nonce {nonce} twice");
            assert!(
                self.waiting
                    .insert(type_url.clone(), nonce.clone())
                    .is_none(),
                "two pushes of {type_url} at a time"
            );
            self.sent.push((type_url, nonce));
        }
        let _ = server.facts();
    }

    fn answered(&mut self, request: &ClientMessage) {
        let (type_url, nonce) = match request {
            ClientMessage::Delta(request) => (&request.type_url, &request.response_nonce),
            ClientMessage::Sotw(request) => (&request.type_url, &request.response_nonce),
        };
        if self.waiting.get(type_url) == Some(nonce) {
            self.waiting.remove(type_url);
        }
    }

    fn request(&self, input: &mut Input<'_>) -> ClientMessage {
        let (type_url, nonce) = match (input.below(4), self.sent.len()) {
            (0 | 1, count @ 1..) => self.sent[count - 1 - input.below(count.min(4))].clone(),
            (2, _) => ((*input.pick(&TYPES)).to_owned(), "nonsense".to_owned()),
            _ => ((*input.pick(&TYPES)).to_owned(), String::new()),
        };
        let error = (input.byte() % 4 == 0).then(|| RpcStatus {
            code: 3,
            message: names(input).join(" "),
            details: Vec::new(),
        });
        self.message(type_url, nonce, error, names(input), names(input))
    }

    fn message(
        &self,
        type_url: String,
        nonce: String,
        error: Option<RpcStatus>,
        add: Vec<String>,
        remove: Vec<String>,
    ) -> ClientMessage {
        match self.variant {
            Variant::Delta => ClientMessage::Delta(Box::new(DeltaDiscoveryRequest {
                type_url,
                response_nonce: nonce,
                error_detail: error,
                initial_resource_versions: remove
                    .iter()
                    .map(|name| (name.clone(), "1".to_owned()))
                    .collect(),
                resource_names_subscribe: add,
                resource_names_unsubscribe: remove,
                ..DeltaDiscoveryRequest::default()
            })),
            Variant::Sotw => ClientMessage::Sotw(Box::new(DiscoveryRequest {
                type_url,
                response_nonce: nonce,
                error_detail: error,
                resource_names: add,
                ..DiscoveryRequest::default()
            })),
        }
    }
}

/// Responses of any server: each that is of concern is answered once, with its nonce, and nothing unwanted reaches the handler.
pub fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now = Instant::now();
    let variant = variant(&mut input);
    let config = ClientConfig {
        variant,
        ..ClientConfig::new(Node::default())
    };
    let mut client = ClientStream::new(config, now, 7);
    for type_url in [CLUSTER, LISTENER] {
        client.handle(now, In::Interest(type_url.into(), Interest::all()));
    }
    client.handle(
        now,
        In::Interest(ENDPOINTS.into(), Interest::names(["a", "b"])),
    );
    let mut owner = Owner {
        introduced: false,
        open: false,
        answers: Vec::new(),
    };
    owner.pump(&mut client, now, &mut input);
    while !input.is_empty() {
        now += Duration::from_secs(u64::from(input.byte()));
        let step = match input.below(8) {
            0 if owner.open => {
                owner.open = false;
                owner.introduced = false;
                In::Closed {
                    reason: "fuzz".to_owned(),
                }
            }
            1 => In::Interest(
                (*input.pick(&TYPES[..5])).into(),
                Interest {
                    wildcard: input.flag(),
                    names: names(&mut input)
                        .iter()
                        .map(|name| name.as_str().into())
                        .collect(),
                },
            ),
            _ if owner.open => In::Response(response(&mut input)),
            _ => In::Interest(ROUTE.into(), Interest::all()),
        };
        let nonce = match &step {
            In::Response(message) => {
                Some((message.type_url().to_owned(), message.nonce().to_owned()))
            }
            _ => None,
        };
        owner.answers.clear();
        client.handle(now, step);
        let unexpected = owner.pump(&mut client, now, &mut input);
        if let Some((type_url, nonce)) = nonce.filter(|(_, nonce)| !unexpected && !nonce.is_empty())
        {
            let count = owner
                .answers
                .iter()
                .filter(|answer| **answer == (type_url.clone(), nonce.clone()))
                .count();
            assert!(
                count >= 1,
                "{type_url} {nonce} was not answered: {:?}",
                owner.answers
            );
        }
        let _ = client.status();
    }
}

fn response(input: &mut Input<'_>) -> ServerMessage {
    let type_url = (*input.pick(&TYPES)).to_owned();
    let nonce = input.byte().to_string();
    let any = |input: &mut Input<'_>, name: &str| Any {
        type_url: if input.byte() % 8 == 0 {
            "type.googleapis.com/x.Z".to_owned()
        } else {
            type_url.clone()
        },
        value: if input.byte() % 8 == 0 {
            input.bytes(16).to_vec()
        } else {
            body(name, input.byte())
        },
    };
    let resources = names(input);
    if input.flag() {
        let resources = resources.iter().map(|name| any(input, name)).collect();
        let version_info = input.byte().to_string();
        return ServerMessage::Sotw(DiscoveryResponse {
            type_url: type_url.clone(),
            nonce,
            version_info,
            resources,
            ..DiscoveryResponse::default()
        });
    }
    let resources = resources.iter().map(|name| Wrapped {
        name: name.clone(),
        version: input.byte().to_string(),
        resource: (input.byte() % 8 != 0).then(|| any(input, name)),
        ..Wrapped::default()
    });
    let resources = resources.collect();
    let removed_resources = names(input);
    ServerMessage::Delta(DeltaDiscoveryResponse {
        type_url: type_url.clone(),
        nonce,
        resources,
        removed_resources,
        ..DeltaDiscoveryResponse::default()
    })
}

struct Owner {
    introduced: bool,
    open: bool,
    /// Type and nonce of what was answered since the last step.
    answers: Vec<(String, String)>,
}

impl Owner {
    /// Does what the client says; true if it called something unexpected.
    fn pump(&mut self, client: &mut ClientStream, now: Instant, input: &mut Input<'_>) -> bool {
        let mut unexpected = false;
        for turn in 0.. {
            assert!(turn < 1000, "there is no end to what it says");
            match client.poll_output(now) {
                None => break,
                Some(Out::Open) => {
                    self.open = input.byte() % 8 != 7;
                    self.introduced = false;
                    let answer = if self.open {
                        In::Opened
                    } else {
                        In::Closed {
                            reason: "refused".to_owned(),
                        }
                    };
                    client.handle(now, answer);
                }
                Some(Out::Send(message)) => {
                    assert!(self.open, "it speaks into a closed stream");
                    assert_eq!(
                        message.node().is_some(),
                        !self.introduced,
                        "the node goes into the first request only"
                    );
                    self.introduced = true;
                    let nonce = match &message {
                        ClientMessage::Delta(request) => request.response_nonce.clone(),
                        ClientMessage::Sotw(request) => request.response_nonce.clone(),
                    };
                    self.answers.push((message.type_url().to_owned(), nonce));
                }
                Some(Out::Apply(update)) => {
                    let given: BTreeSet<_> = update
                        .resources
                        .iter()
                        .map(|resource| &resource.name)
                        .collect();
                    assert_eq!(
                        given.len(),
                        update.resources.len(),
                        "a name twice in one update"
                    );
                    let reject = update.resources.iter().filter(|_| input.byte() % 4 == 0);
                    let rejected = reject
                        .map(|bad| Rejection {
                            name: bad.name.clone(),
                            reason: "é\u{0}".repeat(300),
                        })
                        .collect();
                    client.handle(
                        now,
                        In::Verdict(Verdict {
                            rejected,
                            subscriptions: Vec::new(),
                        }),
                    );
                }
                Some(Out::Event(event)) => {
                    unexpected |=
                        matches!(event, malla_xds::client::stream::Event::Unexpected { .. });
                }
            }
        }
        unexpected
    }
}
