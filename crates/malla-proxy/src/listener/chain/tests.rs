//! The compiled matcher against a level-by-level scan.
use std::net::SocketAddr;

use ipnet::IpNet;
use malla_proxy_config::filter_chain::{ChainMatch, ServerName, SourceType};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{option, prop_assert_eq, proptest};

use super::{Conflict, Facts, Key, LEVELS, Matcher, is_local, keys};

#[derive(Clone, Debug)]
struct Owned {
    destination: SocketAddr,
    source: SocketAddr,
    direct: SocketAddr,
    name: String,
    transport: String,
    protocols: Vec<String>,
}

impl Owned {
    fn facts(&self) -> Facts<'_> {
        Facts {
            destination: self.destination,
            source: self.source,
            direct_source: self.direct,
            server_name: &self.name,
            transport: &self.transport,
            application_protocols: &self.protocols,
        }
    }
}

/// Level by level: the best key that any chain still in the running has and the connection satisfies; keep its chains.
fn scan(chains: &[ChainMatch], facts: &Facts<'_>) -> Option<usize> {
    let mut left: Vec<(usize, [Vec<Key>; LEVELS])> = chains.iter().map(keys).enumerate().collect();
    for level in 0..LEVELS {
        let best = left
            .iter()
            .flat_map(|(_, keys)| &keys[level])
            .filter_map(|key| Some((rank(key, level, facts)?, key.clone())))
            .max_by_key(|(rank, _)| *rank)?
            .1;
        left.retain(|(_, keys)| keys[level].contains(&best));
    }
    left.first().map(|(index, _)| *index)
}

/// How specific a key that fits is; `None` if it does not fit.
fn rank(key: &Key, level: usize, facts: &Facts<'_>) -> Option<usize> {
    let address = match level {
        1 => facts.destination,
        5 => facts.direct_source,
        _ => facts.source,
    };
    match key {
        Key::Port(None) => Some(0),
        Key::Port(Some(port)) => {
            let have = if level == 0 {
                facts.destination.port()
            } else {
                facts.source.port()
            };
            (have == *port).then_some(1)
        }
        Key::Net(net) => net
            .contains(&address.ip())
            .then(|| 1 + net.prefix_len() as usize),
        Key::Text(text) if text.is_empty() => Some(0),
        Key::Text(text) if level == 2 => {
            if facts.server_name == text {
                return Some(usize::MAX);
            }
            (text.starts_with('.') && facts.server_name.ends_with(text.as_str()))
                .then_some(text.len())
        }
        Key::Text(text) if level == 3 => (facts.transport == text).then_some(1),
        Key::Text(text) => {
            let at = facts
                .application_protocols
                .iter()
                .position(|have| have == text)?;
            Some(100 - at)
        }
        Key::Source(0) => Some(0),
        Key::Source(kind) => (is_local(facts) == (*kind == super::LOCAL)).then_some(1),
    }
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> {
    let pool = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "127.0.0.0/8",
        "fd00::/8",
        "0.0.0.0/0",
    ];
    vec(
        select(pool.map(|net| net.parse::<IpNet>().unwrap()).to_vec()),
        0..3,
    )
}

fn names() -> impl Strategy<Value = Vec<ServerName>> {
    let name = prop_oneof![
        select(vec!["a.example.com", "b.a.example.com", "example.com"])
            .prop_map(|n| ServerName::Exact(n.into())),
        select(vec![".example.com", ".a.example.com", ".com"])
            .prop_map(|n| ServerName::Suffix(n.into())),
    ];
    vec(name, 0..3)
}

fn chain() -> impl Strategy<Value = ChainMatch> {
    let protocols = vec(
        select(vec![
            "h2".to_owned(),
            "http/1.1".to_owned(),
            "istio".to_owned(),
        ]),
        0..3,
    );
    let source_type = prop_oneof![
        Just(SourceType::Any),
        Just(SourceType::SameIpOrLoopback),
        Just(SourceType::External)
    ];
    let transport = option::of(select(vec!["tls".to_owned(), "raw_buffer".to_owned()]));
    let ports = (
        option::of(select(vec![80u16, 443])),
        vec(select(vec![1000u16, 2000]), 0..2),
    );
    (
        ports,
        nets(),
        names(),
        transport,
        protocols,
        nets(),
        source_type,
        nets(),
    )
        .prop_map(
            |(
                ports,
                prefix_ranges,
                server_names,
                transport_protocol,
                application_protocols,
                direct,
                source_type,
                source,
            )| {
                ChainMatch {
                    destination_port: ports.0,
                    source_ports: ports.1,
                    prefix_ranges,
                    server_names,
                    transport_protocol,
                    application_protocols,
                    direct_source_prefix_ranges: direct,
                    source_type,
                    source_prefix_ranges: source,
                }
            },
        )
}

fn connection() -> impl Strategy<Value = Owned> {
    let address = |ports: Vec<u16>| {
        (
            select(vec![
                "10.1.2.3",
                "10.1.9.9",
                "10.9.9.9",
                "127.0.0.1",
                "192.0.2.1",
                "fd00::1",
                "2001:db8::1",
            ]),
            select(ports),
        )
            .prop_map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port))
    };
    let name = select(vec![
        "",
        "example.com",
        "a.example.com",
        "x.a.example.com",
        "b.a.example.com",
        "y.org",
        "com",
    ]);
    let protocols = vec(
        select(vec![
            "h2".to_owned(),
            "http/1.1".to_owned(),
            "foo".to_owned(),
        ]),
        0..3,
    );
    (
        address(vec![80, 443, 8080]),
        address(vec![1000, 2000, 3000]),
        address(vec![1000]),
        name,
        any::<bool>(),
        protocols,
    )
        .prop_map(
            |(destination, source, direct, name, tls, protocols)| Owned {
                destination,
                source,
                direct,
                name: name.to_owned(),
                transport: if tls { "tls" } else { "raw_buffer" }.to_owned(),
                protocols,
            },
        )
}

proptest! {
    #[test]
    fn compiled_matches_agree_with_a_scan(chains in vec(chain(), 0..8), connections in vec(connection(), 20)) {
        // Conflicting chains are left out, as a control plane would have to.
        let mut kept: Vec<ChainMatch> = Vec::new();
        for chain in chains {
            kept.push(chain);
            if Matcher::build(kept.iter()).is_err() {
                kept.pop();
            }
        }
        let matcher = Matcher::build(kept.iter()).unwrap();
        for connection in connections {
            let facts = connection.facts();
            prop_assert_eq!(matcher.find(&facts), scan(&kept, &facts), "{:?}", connection);
        }
    }
}

#[track_caller]
fn check(chains: &[ChainMatch], change: impl FnOnce(&mut Owned), want: Option<usize>) {
    let mut connection = Owned {
        destination: "10.0.0.1:443".parse().unwrap(),
        source: "192.0.2.7:5555".parse().unwrap(),
        direct: "192.0.2.7:5555".parse().unwrap(),
        name: String::new(),
        transport: "raw_buffer".to_owned(),
        protocols: Vec::new(),
    };
    change(&mut connection);
    let matcher = Matcher::build(chains.iter()).unwrap();
    assert_eq!(matcher.find(&connection.facts()), want);
}

/// The chains of a permissive sidecar: mutual TLS is told by the mesh's ALPN, everything else passes as it is.
#[test]
fn a_permissive_inbound_port_tells_mesh_traffic_from_the_rest() {
    let mesh = ChainMatch {
        transport_protocol: Some("tls".into()),
        application_protocols: vec!["istio-http/1.1".into(), "istio-h2".into(), "istio".into()],
        ..ChainMatch::default()
    };
    let plain = ChainMatch {
        transport_protocol: Some("raw_buffer".into()),
        ..ChainMatch::default()
    };
    let foreign = ChainMatch {
        transport_protocol: Some("tls".into()),
        ..ChainMatch::default()
    };
    let chains = [mesh, plain, foreign];
    check(&chains, |_| {}, Some(1));
    check(&chains, |c| c.transport = "tls".into(), Some(2));
    check(
        &chains,
        |c| (c.transport, c.protocols) = ("tls".into(), vec!["istio".into()]),
        Some(0),
    );
    check(
        &chains,
        |c| (c.transport, c.protocols) = ("tls".into(), vec!["h2".into()]),
        Some(2),
    );
}

#[test]
fn there_is_no_way_back_up() {
    let port = ChainMatch {
        destination_port: Some(443),
        server_names: vec![ServerName::Exact("a.example.com".into())],
        ..ChainMatch::default()
    };
    let chains = [port, ChainMatch::default()];
    check(&chains, |c| c.name = "a.example.com".into(), Some(0));
    check(&chains, |c| c.name = "b.example.com".into(), None);
    check(&chains, |c| c.destination.set_port(80), Some(1));
}

#[test]
fn equal_chains_are_a_conflict() {
    let chains = [ChainMatch::default(), ChainMatch::default()];
    let conflict = Matcher::build(chains.iter()).unwrap_err();
    assert_eq!(
        conflict,
        Conflict {
            first: 0,
            second: 1
        }
    );
}
