//! Conversations, as scripts: each line is what comes in and what must go out.
//!
//! Coming in: `set TYPE NAME=VALUE..` and `del TYPE NAME..` change the server's content;
//! `sub TYPE NAME.. [have NAME=VALUE..]`, `unsub TYPE NAME..`, `ack TYPE NONCE`, `nack TYPE NONCE TEXT`
//! are a delta client's requests; `ask TYPE NONCE NAME..` is a SotW client's, `-` being no nonce.
//! Going out: `TYPE#NONCE +sent -removed`, in order.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use malla_xds_proto::RpcStatus;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use malla_xds_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use tokio::time::Instant;

use super::{Event, Input, Output, ServerStream, Violation};
use crate::message::{ClientMessage, ServerMessage, Variant};
use crate::resource::{ResourceMap, ResourceSet, content_version, embedded_name};

const TYPES: [(&str, &str); 4] = [
    ("CDS", CLUSTER),
    ("EDS", ENDPOINTS),
    ("LDS", LISTENER),
    ("RDS", ROUTE),
];

fn type_url(short: &str) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == short).unwrap().1
}

fn short(type_url: &str) -> &'static str {
    TYPES
        .iter()
        .find(|(_, known)| *known == type_url)
        .unwrap()
        .0
}

/// The name in field 1, the value after it.
fn body(name: &str, value: &str) -> Vec<u8> {
    let mut body = vec![0x0a, u8::try_from(name.len()).unwrap()];
    body.extend(name.as_bytes());
    body.extend(value.as_bytes());
    body
}

fn pairs<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap())
        .collect()
}

struct Talk {
    now: Instant,
    stream: ServerStream,
    content: ResourceSet,
    events: Vec<Event>,
}

impl Talk {
    fn new(variant: Variant) -> Self {
        let now = Instant::now();
        let mut content = ResourceSet::new("v0");
        for (_, type_url) in TYPES {
            content.set(type_url, ResourceMap::new());
        }
        Self {
            now,
            stream: ServerStream::new(variant, Arc::new(content.clone()), now),
            content,
            events: Vec::new(),
        }
    }

    fn line(&mut self, line: &str) -> String {
        self.now += Duration::from_millis(10);
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, type_url, rest) = (words[0], type_url(words[1]), &words[2..]);
        let input = match command {
            "set" => {
                for (name, value) in pairs(rest) {
                    self.content.put(type_url, name, body(name, value));
                }
                Input::Resources(Arc::new(self.content.clone()))
            }
            "del" => {
                rest.iter()
                    .for_each(|name| self.content.remove(type_url, name));
                Input::Resources(Arc::new(self.content.clone()))
            }
            "ask" => Input::Request(ask(type_url, rest)),
            _ => Input::Request(delta(command, type_url, rest)),
        };
        self.stream.handle(self.now, input).unwrap();
        self.outputs()
    }

    fn outputs(&mut self) -> String {
        let mut text = String::new();
        while let Some(output) = self.stream.poll_output(self.now) {
            match output {
                Output::Event(event) => self.events.push(event),
                Output::Send(message) => {
                    if !text.is_empty() {
                        text.push_str("; ");
                    }
                    text.push_str(&render(&message));
                }
            }
        }
        text
    }
}

fn delta(command: &str, type_url: &str, rest: &[&str]) -> ClientMessage {
    let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let mut request = DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    match command {
        "sub" => {
            let have = rest.iter().position(|word| *word == "have");
            let (names, held) = rest.split_at(have.unwrap_or(rest.len()));
            request.resource_names_subscribe = strings(names);
            let versions: HashMap<String, String> = pairs(held.get(1..).unwrap_or_default())
                .into_iter()
                .map(|(name, value)| {
                    let version = content_version(&body(name, value));
                    (name.to_owned(), version.to_string())
                })
                .collect();
            request.initial_resource_versions = versions;
        }
        "unsub" => request.resource_names_unsubscribe = strings(rest),
        "ack" => request.response_nonce = rest[0].to_owned(),
        "nack" => {
            request.response_nonce = rest[0].to_owned();
            request.error_detail = Some(RpcStatus {
                code: 3,
                message: rest[1..].join(" "),
                details: Vec::new(),
            });
        }
        other => panic!("no command {other}"),
    }
    ClientMessage::Delta(Box::new(request))
}

/// `ask TYPE NONCE NAME.. [at VERSION]`.
fn ask(type_url: &str, rest: &[&str]) -> ClientMessage {
    let at = rest
        .iter()
        .position(|word| *word == "at")
        .unwrap_or(rest.len());
    ClientMessage::Sotw(Box::new(DiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: rest[0].trim_matches('-').to_owned(),
        resource_names: rest[1..at].iter().map(ToString::to_string).collect(),
        version_info: rest.get(at + 1).copied().unwrap_or_default().to_owned(),
        ..DiscoveryRequest::default()
    }))
}

fn render(message: &ServerMessage) -> String {
    let mut text = format!("{}#{}", short(message.type_url()), message.nonce());
    match message {
        ServerMessage::Delta(response) => {
            for resource in &response.resources {
                write!(text, " +{}", resource.name).unwrap();
            }
            for name in &response.removed_resources {
                write!(text, " -{name}").unwrap();
            }
        }
        ServerMessage::Sotw(response) => {
            for resource in &response.resources {
                write!(text, " +{}", embedded_name(&resource.value).unwrap()).unwrap();
            }
        }
    }
    text
}

#[track_caller]
fn check(variant: Variant, script: &[(&str, &str)]) -> Talk {
    let mut talk = Talk::new(variant);
    for (index, (line, expected)) in script.iter().enumerate() {
        let got = talk.line(line);
        assert_eq!(got, *expected, "line {}: {line}", index + 1);
    }
    talk
}

#[test]
fn delta_sends_differences_only() {
    check(
        Variant::Delta,
        &[
            ("set CDS a=1 b=1", ""),
            ("sub CDS", "CDS#1 +a +b"),
            ("ack CDS 1", ""),
            ("set CDS a=2", "CDS#2 +a"),
            ("ack CDS 2", ""),
            ("set CDS a=2", ""),
            ("del CDS b", "CDS#3 -b"),
            ("ack CDS 3", ""),
        ],
    );
}

#[test]
fn an_empty_wildcard_is_answered_once() {
    check(
        Variant::Delta,
        &[("sub CDS", "CDS#1"), ("ack CDS 1", ""), ("sub CDS", "")],
    );
    check(Variant::Sotw, &[("ask CDS -", "CDS#1"), ("ask CDS 1", "")]);
}

#[test]
fn pushes_wait_for_the_answer_and_merge() {
    check(
        Variant::Delta,
        &[
            ("sub CDS", "CDS#1"),
            ("set CDS a=1", ""),
            ("set CDS a=2 b=1", ""),
            ("del CDS b", ""),
            ("ack CDS 1", "CDS#2 +a"),
        ],
    );
    check(
        Variant::Sotw,
        &[
            ("ask CDS -", "CDS#1"),
            ("set CDS a=1", ""),
            ("set CDS b=1", ""),
            ("ask CDS 1", "CDS#2 +a +b"),
        ],
    );
}

#[test]
fn delta_names_are_answered_even_when_there_is_nothing() {
    check(
        Variant::Delta,
        &[
            ("sub EDS x", "EDS#1 -x"),
            ("ack EDS 1", ""),
            ("set EDS x=1 y=1", "EDS#2 +x"),
            ("ack EDS 2", ""),
            ("sub EDS x", "EDS#3 +x"),
            ("ack EDS 3", ""),
            ("unsub EDS x", ""),
            ("set EDS x=2", ""),
        ],
    );
}

#[test]
fn delta_wildcard_by_its_old_and_its_new_name() {
    check(
        Variant::Delta,
        &[
            ("set CDS a=1 b=1", ""),
            // The old way goes on when names are added to it.
            ("sub CDS", "CDS#1 +a +b"),
            ("ack CDS 1", ""),
            ("sub CDS b", "CDS#2 +b"),
            ("ack CDS 2", ""),
            ("unsub CDS *", ""),
            ("set CDS a=2", ""),
            ("set CDS b=2", "CDS#3 +b"),
            ("ack CDS 3", ""),
            ("sub CDS *", "CDS#4 +a"),
            ("ack CDS 4", ""),
            // Told whether the wildcard still covers it.
            ("unsub CDS b", "CDS#5 +b"),
        ],
    );
}

#[test]
fn delta_reconnect_with_what_is_held() {
    check(
        Variant::Delta,
        &[
            ("set CDS a=1 b=2 c=1", ""),
            // The answer has what is new; what is gone comes after the client has shown all of its
            // subscriptions.
            ("sub CDS have a=1 b=1 gone=1", "CDS#1 +b +c"),
            ("ack CDS 1", "CDS#2 -gone"),
            ("set EDS a=1 b=1", ""),
            ("sub EDS a b have a=1 b=0 z=1", "EDS#3 +b"),
        ],
    );
}

#[test]
fn old_nonces_answer_nothing() {
    let talk = check(
        Variant::Delta,
        &[
            ("sub CDS", "CDS#1"),
            ("ack CDS 77", ""),
            ("set CDS a=1", ""),
            ("ack CDS 1", "CDS#2 +a"),
            ("ack CDS 1", ""),
            ("nack CDS 1 late", ""),
            ("set CDS a=2", ""),
            ("ack CDS 2", "CDS#3 +a"),
        ],
    );
    assert_eq!(talk.stream.facts().types[CLUSTER].rejects, 0);
    check(
        Variant::Sotw,
        &[
            // A nonce of an earlier stream.
            ("ask RDS 9 x", ""),
            ("set RDS x=1", "RDS#1 +x"),
            ("ask RDS 1 x", ""),
            ("set RDS x=2", "RDS#2 +x"),
            // Crossed with the push: ignored as a whole, the client will say it again.
            ("ask RDS 1 x y", ""),
            ("set RDS y=1", ""),
            ("ask RDS 2 x y", "RDS#3 +y"),
        ],
    );
}

#[test]
fn what_was_rejected_is_not_sent_again_until_it_changes() {
    let mut talk = check(
        Variant::Delta,
        &[
            ("set CDS good=1 bad=1", ""),
            ("sub CDS", "CDS#1 +bad +good"),
            ("nack CDS 1 bad: no such thing", ""),
            ("set CDS other=1", "CDS#2 +other"),
            ("ack CDS 2", ""),
        ],
    );
    let rejected = |talk: &Talk| talk.stream.facts().types[CLUSTER].rejected.clone();
    assert_eq!(
        rejected(&talk)["bad"],
        "bad: no such thing",
        "also after a later push"
    );
    assert_eq!(talk.line("set CDS bad=2"), "CDS#3 +bad");
    talk.line("ack CDS 3");
    assert!(rejected(&talk).is_empty());
    let nacks: Vec<&Event> = talk
        .events
        .iter()
        .filter(|event| matches!(event, Event::Nacked { .. }))
        .collect();
    let [Event::Nacked { names, message, .. }] = nacks[..] else {
        panic!("{nacks:?}");
    };
    assert_eq!(*names, ["bad".into()]);
    assert_eq!(message, "bad: no such thing");
    assert!(talk.stream.facts().types[CLUSTER].rejected.is_empty());
}

#[test]
fn what_is_referred_to_comes_first_and_goes_last() {
    check(
        Variant::Delta,
        &[
            ("sub CDS", "CDS#1"),
            ("sub LDS", "LDS#2"),
            ("sub RDS r", "RDS#3 -r"),
            ("ack LDS 2", ""),
            ("ack RDS 3", ""),
            // Clusters are not answered yet, so the route to a new one waits.
            ("set CDS new=1", ""),
            ("set RDS r=1", ""),
            ("ack CDS 1", "CDS#4 +new; RDS#5 +r"),
            ("ack CDS 4", ""),
            ("ack RDS 5", ""),
            // The route changes, then the cluster goes: never the other way round.
            ("set RDS r=2", "RDS#6 +r"),
            ("del CDS new", ""),
            ("ack RDS 6", "CDS#7 -new"),
        ],
    );
}

#[test]
fn endpoints_never_wait_for_clusters_and_are_repeated_after_them() {
    check(
        Variant::Delta,
        &[
            ("set CDS a=1", ""),
            ("set EDS a=1", ""),
            ("sub CDS", "CDS#1 +a"),
            // Envoy answers for clusters only when their endpoints have come.
            ("sub EDS a", "EDS#2 +a"),
            ("ack EDS 2", ""),
            ("ack CDS 1", ""),
            ("set CDS a=2", "CDS#3 +a; EDS#4 +a"),
        ],
    );
}

#[test]
fn sotw_clusters_are_always_complete_and_endpoints_are_not() {
    check(
        Variant::Sotw,
        &[
            ("set CDS a=1 b=1", ""),
            ("set EDS a=1 b=1 c=1", ""),
            ("ask CDS -", "CDS#1 +a +b"),
            ("ask CDS 1", ""),
            ("ask EDS - a b", "EDS#2 +a +b"),
            ("ask EDS 2 a b", ""),
            ("set EDS a=2", "EDS#3 +a"),
            ("ask EDS 3 a b", ""),
            ("ask EDS 3 a b c", "EDS#4 +c"),
            ("ask EDS 4 c", ""),
            ("set EDS a=3", ""),
            ("del CDS b", "CDS#5 +a"),
            ("ask CDS 5", ""),
        ],
    );
}

#[test]
fn sotw_empty_means_none_once_names_were_given() {
    check(
        Variant::Sotw,
        &[
            ("set CDS a=1 b=1", ""),
            ("ask CDS - a", "CDS#1 +a"),
            ("ask CDS 1", ""),
            ("set CDS a=2", ""),
            ("ask CDS 1 *", "CDS#2 +a +b"),
        ],
    );
}

#[test]
fn sotw_reconnect_with_the_current_state_is_quiet() {
    let mut talk = check(
        Variant::Sotw,
        &[("set CDS a=1 b=1", ""), ("set LDS l=1", "")],
    );
    let versions = ["a", "b"].map(|name| content_version(&body(name, "1")));
    let held = ["a", "b"]
        .into_iter()
        .zip(versions.iter().map(|version| &**version));
    let version = crate::resource::aggregate_version(held);
    assert_eq!(talk.line(&format!("ask CDS 5 at {version}")), "");
    assert_eq!(talk.line("ask LDS 6 at old"), "LDS#1 +l");
    assert_eq!(talk.line("set CDS a=2"), "CDS#2 +a +b");
}

#[test]
fn a_stream_tells_when_all_is_active() {
    let mut talk = Talk::new(Variant::Delta);
    talk.line("sub CDS");
    talk.line("sub LDS");
    talk.line("ack CDS 1");
    let settled = |talk: &Talk| {
        let settled = talk
            .events
            .iter()
            .filter(|event| matches!(event, Event::Settled { .. }));
        settled.cloned().collect::<Vec<Event>>()
    };
    assert_eq!(settled(&talk), []);
    talk.line("ack LDS 2");
    assert_eq!(settled(&talk).len(), 1);
    talk.content.set_version("v1");
    talk.line("set CDS a=1");
    assert_eq!(settled(&talk).len(), 1);
    talk.line("ack CDS 3");
    let expected = Event::Settled {
        version: "v1".into(),
        after: Duration::from_millis(10),
    };
    assert_eq!(settled(&talk).last(), Some(&expected));
    // A change that does not concern this client is active at once.
    talk.content.set_version("v2");
    talk.line("set RDS r=1");
    assert_eq!(settled(&talk).len(), 3);
    let facts = talk.stream.facts();
    assert!(facts.settled);
    assert_eq!(facts.types[CLUSTER].version_acked.as_deref(), Some("v1"));
    assert_eq!(facts.types[CLUSTER].nonce_acked.as_deref(), Some("3"));
    assert!(!facts.types[CLUSTER].in_flight());
}

#[test]
fn clients_out_of_bounds_are_refused() {
    let request = |type_url: &str| DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut talk = Talk::new(Variant::Delta);
    let mut send = |request: ClientMessage| talk.stream.handle(talk.now, Input::Request(request));
    let boxed = |request| ClientMessage::Delta(Box::new(request));
    assert_eq!(send(boxed(request(""))), Err(Violation::NoType));
    let sotw = ClientMessage::Sotw(Box::default());
    assert_eq!(send(sotw), Err(Violation::OtherVariant));
    let mut located = request(CLUSTER);
    located.resource_locators_subscribe.push(Default::default());
    assert_eq!(send(boxed(located)), Err(Violation::Locators));
    for index in 0..super::MAX_TYPES - 1 {
        send(boxed(request(&format!("type-{index}")))).unwrap();
    }
    assert_eq!(
        send(boxed(request("one-more"))),
        Err(Violation::TooManyTypes)
    );
}
