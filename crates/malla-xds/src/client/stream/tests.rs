//! The client's side of conversations.

use std::time::Duration;

use bytes::Bytes;
use malla_xds_proto::Any;
use malla_xds_proto::core::Node;
use malla_xds_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER};
use tokio::time::Instant;

use super::{ClientConfig, ClientStream, Event, Input, Output};
use crate::client::handler::{Interest, Rejection, Update, Verdict};
use crate::message::{ClientMessage, ServerMessage, Variant};
use crate::resource::Name;

struct Talk {
    now: Instant,
    client: ClientStream,
    events: Vec<Event>,
    updates: Vec<Update>,
    opens: usize,
}

impl Talk {
    /// A connected client that wants all clusters and listeners.
    fn connected(variant: Variant) -> (Self, Vec<ClientMessage>) {
        let now = Instant::now();
        let node = Node {
            id: "me".into(),
            ..Node::default()
        };
        let config = ClientConfig {
            variant,
            ..ClientConfig::new(node)
        };
        let mut client = ClientStream::new(config, now, 1);
        for type_url in [LISTENER, CLUSTER] {
            client.handle(now, Input::Interest(type_url.into(), Interest::all()));
        }
        let mut talk = Self {
            now,
            client,
            events: Vec::new(),
            updates: Vec::new(),
            opens: 0,
        };
        assert!(talk.poll().is_empty());
        assert_eq!(talk.opens, 1);
        let requests = talk.give(Input::Opened);
        (talk, requests)
    }

    fn give(&mut self, input: Input) -> Vec<ClientMessage> {
        self.client.handle(self.now, input);
        self.poll()
    }

    fn poll(&mut self) -> Vec<ClientMessage> {
        let mut requests = Vec::new();
        while let Some(output) = self.client.poll_output(self.now) {
            match output {
                Output::Open => self.opens += 1,
                Output::Send(request) => requests.push(request),
                Output::Apply(update) => self.updates.push(update),
                Output::Event(event) => self.events.push(event),
            }
        }
        requests
    }

    /// Gives a response, and the verdict on it; returns the update and what is sent.
    fn answer(&mut self, message: ServerMessage, verdict: Verdict) -> (Update, Vec<ClientMessage>) {
        assert!(
            self.give(Input::Response(message)).is_empty(),
            "not before the verdict"
        );
        let update = self.updates.pop().unwrap();
        (update, self.give(Input::Verdict(verdict)))
    }
}

fn wire(name: &str, version: &str) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any {
            type_url: CLUSTER.into(),
            value: b"body".to_vec(),
        }),
        ..Resource::default()
    }
}

fn clusters(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> ServerMessage {
    ServerMessage::Delta(DeltaDiscoveryResponse {
        type_url: CLUSTER.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    })
}

fn delta(message: &ClientMessage) -> &DeltaDiscoveryRequest {
    match message {
        ClientMessage::Delta(request) => request,
        ClientMessage::Sotw(_) => panic!("a SotW request on a delta stream"),
    }
}

fn sotw(message: &ClientMessage) -> &DiscoveryRequest {
    match message {
        ClientMessage::Sotw(request) => request,
        ClientMessage::Delta(_) => panic!("a delta request on a SotW stream"),
    }
}

fn subscribing(type_url: &str, names: &[&str]) -> Verdict {
    Verdict {
        rejected: Vec::new(),
        subscriptions: vec![(type_url.into(), Interest::names(names.iter().copied()))],
    }
}

#[test]
fn the_first_requests_are_in_order_and_introduce_the_node_once() {
    let (_, requests) = Talk::connected(Variant::Delta);
    let types: Vec<&str> = requests.iter().map(ClientMessage::type_url).collect();
    assert_eq!(types, [CLUSTER, LISTENER]);
    assert_eq!(requests[0].node().unwrap().id, "me");
    assert!(requests[1].node().is_none());
    assert!(delta(&requests[0]).resource_names_subscribe.is_empty());
}

#[test]
fn an_update_is_acknowledged_and_leads_to_further_subscriptions() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    let response = clusters("n1", vec![wire("a", "1"), wire("b", "1")], &[]);
    let (update, requests) = talk.answer(response, subscribing(ENDPOINTS, &["a", "b"]));
    assert_eq!(update.resources.len(), 2);
    assert_eq!(update.resources[0].body, Bytes::from_static(b"body"));
    let [subscribe, ack] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(delta(ack).response_nonce, "n1");
    assert!(delta(ack).error_detail.is_none());
    assert_eq!(subscribe.type_url(), ENDPOINTS);
    assert_eq!(delta(subscribe).resource_names_subscribe, ["a", "b"]);

    let response = clusters("n2", vec![wire("c", "1")], &["a"]);
    let (update, requests) = talk.answer(response, subscribing(ENDPOINTS, &["b", "c"]));
    assert_eq!(update.removed, [Name::from("a")]);
    let change = delta(&requests[0]);
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    let status = talk.client.status();
    assert!(status.connected && status.has_received(CLUSTER));
    assert_eq!(status.types[CLUSTER].resources, 2);
}

#[test]
fn a_rejection_names_the_resource_and_the_rest_is_kept() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    let verdict = Verdict {
        rejected: vec![Rejection {
            name: "b".into(),
            reason: "lb_policy: 99 is unknown".into(),
        }],
        subscriptions: Vec::new(),
    };
    let response = clusters("n1", vec![wire("a", "1"), wire("b", "1")], &[]);
    let (_, requests) = talk.answer(response, verdict);
    let nack = delta(&requests[0]);
    assert_eq!(nack.response_nonce, "n1");
    let error = nack.error_detail.as_ref().unwrap();
    assert_eq!(error.code, 3);
    assert_eq!(error.message, "b: lb_policy: 99 is unknown");

    // After a reconnect only what was accepted is claimed.
    talk.give(Input::Closed {
        reason: "test".into(),
    });
    talk.now += Duration::from_secs(60);
    talk.poll();
    let requests = talk.give(Input::Opened);
    let versions = &delta(&requests[0]).initial_resource_versions;
    assert_eq!(versions.len(), 1);
    assert_eq!(versions["a"], "1");
}

#[test]
fn the_protocol_itself_rejects_nonsense() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    let mut other = wire("other", "1");
    other.resource.as_mut().unwrap().type_url = LISTENER.into();
    let mut empty = wire("empty", "1");
    empty.resource = None;
    let resources = vec![
        wire("twice", "1"),
        wire("twice", "2"),
        other,
        empty,
        wire("fine", "1"),
    ];
    let (update, requests) = talk.answer(clusters("n1", resources, &[]), Verdict::default());
    let names: Vec<&str> = update
        .resources
        .iter()
        .map(|resource| &*resource.name)
        .collect();
    assert_eq!(names, ["fine"]);
    let message = &delta(&requests[0]).error_detail.as_ref().unwrap().message;
    for part in [
        "twice: it is in the response twice",
        "other: it is of type",
        "empty: it has no content",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_nobody_asked_for_is_reported_and_left_alone() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    let stray = ServerMessage::Delta(DeltaDiscoveryResponse {
        type_url: ENDPOINTS.into(),
        nonce: "n1".into(),
        ..DeltaDiscoveryResponse::default()
    });
    assert!(talk.give(Input::Response(stray)).is_empty());
    let expected = Event::Unexpected {
        type_url: ENDPOINTS.into(),
    };
    assert!(talk.events.contains(&expected));
}

#[test]
fn reconnects_back_off_until_the_server_answers() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    let mut waits = Vec::new();
    for _ in 0..4 {
        talk.give(Input::Closed {
            reason: "gone".into(),
        });
        let due = talk.client.deadline().unwrap();
        waits.push(due - talk.now);
        talk.now = due;
        let opens = talk.opens;
        talk.poll();
        assert_eq!(talk.opens, opens + 1);
        talk.give(Input::Opened);
    }
    assert!(waits[0] < Duration::from_millis(700), "{waits:?}");
    assert!(waits[3] > Duration::from_secs(2), "{waits:?}");
    talk.answer(clusters("n1", Vec::new(), &[]), Verdict::default());
    talk.give(Input::Closed {
        reason: "gone".into(),
    });
    assert!(talk.client.deadline().unwrap() - talk.now < Duration::from_millis(700));
    assert_eq!(talk.client.status().last_error.as_deref(), Some("gone"));
}

#[test]
fn a_verdict_after_the_connection_broke_is_kept_but_not_sent() {
    let (mut talk, _) = Talk::connected(Variant::Delta);
    talk.give(Input::Response(clusters("n1", vec![wire("a", "1")], &[])));
    talk.give(Input::Closed {
        reason: "gone".into(),
    });
    talk.now += Duration::from_secs(60);
    talk.poll();
    talk.give(Input::Opened);
    let requests = talk.give(Input::Verdict(Verdict::default()));
    let first = delta(&requests[0]);
    assert_eq!(first.response_nonce, "");
    assert_eq!(first.initial_resource_versions["a"], "1");
}

fn named(name: &str, value: &str) -> Any {
    let mut body = vec![0x0a, u8::try_from(name.len()).unwrap()];
    body.extend(name.as_bytes());
    body.extend(value.as_bytes());
    Any {
        type_url: CLUSTER.into(),
        value: body,
    }
}

fn state(version: &str, nonce: &str, resources: Vec<Any>) -> ServerMessage {
    ServerMessage::Sotw(DiscoveryResponse {
        type_url: CLUSTER.into(),
        version_info: version.into(),
        nonce: nonce.into(),
        resources,
        ..DiscoveryResponse::default()
    })
}

#[test]
fn sotw_becomes_differences() {
    let (mut talk, requests) = Talk::connected(Variant::Sotw);
    assert_eq!(sotw(&requests[0]).version_info, "");
    let all = vec![named("a", "1"), named("b", "1")];
    let (update, requests) = talk.answer(state("v1", "n1", all), Verdict::default());
    assert_eq!(update.resources.len(), 2);
    assert_eq!(sotw(&requests[0]).version_info, "v1");
    assert_eq!(sotw(&requests[0]).response_nonce, "n1");

    let all = vec![named("a", "1"), named("c", "1")];
    let (update, _) = talk.answer(state("v2", "n2", all), Verdict::default());
    let names: Vec<&str> = update
        .resources
        .iter()
        .map(|resource| &*resource.name)
        .collect();
    assert_eq!((names, update.removed), (vec!["c"], vec!["b".into()]));

    // A rejected response keeps the version that was accepted, with the new nonce.
    let verdict = Verdict {
        rejected: vec![Rejection {
            name: "a".into(),
            reason: "no".into(),
        }],
        subscriptions: Vec::new(),
    };
    let all = vec![named("a", "2"), named("c", "1")];
    let (_, requests) = talk.answer(state("v3", "n3", all), verdict);
    let nack = sotw(&requests[0]);
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v2", "n3"));
    assert_eq!(nack.error_detail.as_ref().unwrap().message, "a: no");
}
