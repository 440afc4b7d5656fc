//! A zone to be asked by a fuzzer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use super::server::{encode, parse, with_edns};
use super::zone::Answer;
use super::{Host, Names, Record, Zone, forward};
use crate::net::rules::Transport;

/// What became of a datagram.
#[derive(Debug)]
pub enum Outcome {
    Ignored,
    /// To be asked of another resolver.
    Forwarded,
    Answered(Vec<u8>),
}

/// Answers a datagram with at most `size` bytes.
pub fn dns(datagram: &[u8], size: u16) -> Outcome {
    let Some(query) = parse(datagram) else {
        return Outcome::Ignored;
    };
    let reply = match query {
        Err(refusal) => refusal,
        Ok(query) => match ZONE.answer(&query) {
            Answer::Reply(reply) | Answer::Alias { reply, .. } => with_edns(reply, &query),
            Answer::Forward => {
                query.to_vec().expect("what was read can be written");
                return Outcome::Forwarded;
            }
        },
    };
    Outcome::Answered(encode(&reply, size).expect("our own answer can be written"))
}

pub fn resolvers(text: &str) -> Vec<SocketAddr> {
    forward::resolvers(text)
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let address = |last| Ipv4Addr::new(10, 1, 0, last);
    let service = |name: &str| Names {
        namespace: "default".to_owned(),
        service: name.to_owned(),
        address: Some(Ipv4Addr::new(10, 96, 0, 11)),
        external: None,
        hosts: BTreeMap::new(),
        records: vec![Record {
            port_name: "http".to_owned(),
            transport: Transport::Tcp,
            port: 80,
            host: None,
        }],
    };
    let host = |last| {
        let at = Host {
            address: address(last),
            named: last % 2 == 0,
        };
        (format!("db-{last}"), at)
    };
    let headless = Names {
        address: None,
        hosts: (0..200).map(host).collect(),
        ..service("db")
    };
    let alias = |name: &str, to: &str| Names {
        external: Some(to.to_owned()),
        ..service(name)
    };
    let services = [
        service("web"),
        headless,
        alias("out", "example.com"),
        alias("in", "web.default.svc.cluster.local"),
    ];
    let namespaces = BTreeSet::from(["default".to_owned()]);
    Zone::new("cluster.local", namespaces, services.into_iter())
});
