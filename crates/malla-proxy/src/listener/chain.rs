//! Chooses the filter chain of a connection, with Envoy's precedence.
//!
//! Levels, in this order: destination port, destination address, server name, transport protocol, application protocols,
//! direct source address, source type, source address, source port. At each level the most specific entry that fits is
//! taken and the others are forgotten: there is no way back up (`FilterChainMatch` in Envoy's listener reference).
//!
//! Invariant: built once when a listener is applied; a look-up allocates nothing.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;
use ipnet::IpNet;
use malla_proxy_config::filter_chain::{ChainMatch, ServerName, SourceType};

/// What is known of a connection when a chain is chosen.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Original destination.
    pub destination: SocketAddr,
    /// The peer, after the PROXY protocol.
    pub source: SocketAddr,
    /// The peer of the TCP connection itself.
    pub direct_source: SocketAddr,
    /// SNI, lower case; empty if none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport: &'a str,
    /// ALPN offered in the ClientHello, or what the HTTP inspector saw.
    pub application_protocols: &'a [String],
}

/// Two chains that would take the same connections.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "filter_chains[{second}].filter_chain_match: takes the same connections as filter_chains[{first}]; make one of them more specific"
)]
pub struct Conflict {
    pub first: usize,
    pub second: usize,
}

/// The compiled matches of one listener. A look-up answers with the index of the chain.
#[derive(Debug, Default)]
pub struct Matcher {
    root: Node,
}

type Map<K> = HashMap<K, Node, RandomState>;

/// One level of the decision; which one is given by its place.
#[derive(Debug, Default)]
enum Node {
    #[default]
    Empty,
    /// `None` takes any port.
    Port(Map<Option<u16>>),
    Address(Ranges),
    /// `Exact("")` takes any name.
    Name(Map<String>),
    /// The empty string takes anything.
    Text(Map<String>),
    Source([Option<Box<Node>>; 3]),
    Chain(usize),
}

/// Prefixes of one level; the longest that contains an address is taken.
#[derive(Debug, Default)]
struct Ranges {
    map: Map<IpNet>,
    /// Lengths in use, longest first, for IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

const LEVELS: usize = 9;

/// The key of one chain at one level. A chain with several alternatives has several keys per level.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Port(Option<u16>),
    Net(IpNet),
    Text(String),
    Source(usize),
}

impl Matcher {
    pub fn build<'a>(chains: impl Iterator<Item = &'a ChainMatch>) -> Result<Self, Conflict> {
        let mut root = Node::Empty;
        for (index, matches) in chains.enumerate() {
            let levels = keys(matches);
            insert(&mut root, &levels, index)?;
        }
        Ok(Self { root })
    }

    /// The chain for a connection, or `None` for the default chain.
    pub fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        let mut node = &self.root;
        for level in 0..LEVELS {
            node = step(node, level, facts)?;
        }
        match node {
            Node::Chain(index) => Some(*index),
            _ => None,
        }
    }
}

/// The keys of a chain, level by level.
fn keys(matches: &ChainMatch) -> [Vec<Key>; LEVELS] {
    let nets = |nets: &[IpNet]| -> Vec<Key> {
        if nets.is_empty() {
            return vec![Key::Net(EVERYWHERE_V4), Key::Net(EVERYWHERE_V6)];
        }
        nets.iter().map(|net| Key::Net(net.trunc())).collect()
    };
    let names = matches.server_names.iter().map(|name| match name {
        ServerName::Exact(name) | ServerName::Suffix(name) => Key::Text(name.clone()),
    });
    let text = |text: &String| Key::Text(text.clone());
    let source = match matches.source_type {
        SourceType::Any => 0,
        SourceType::SameIpOrLoopback => LOCAL,
        SourceType::External => EXTERNAL,
    };
    [
        vec![Key::Port(matches.destination_port)],
        nets(&matches.prefix_ranges),
        or_any(names.collect(), Key::Text(String::new())),
        or_any(
            matches.transport_protocol.iter().map(text).collect(),
            Key::Text(String::new()),
        ),
        or_any(
            matches.application_protocols.iter().map(text).collect(),
            Key::Text(String::new()),
        ),
        nets(&matches.direct_source_prefix_ranges),
        vec![Key::Source(source)],
        nets(&matches.source_prefix_ranges),
        or_any(
            matches
                .source_ports
                .iter()
                .map(|&port| Key::Port(Some(port)))
                .collect(),
            Key::Port(None),
        ),
    ]
}

const LOCAL: usize = 1;
const EXTERNAL: usize = 2;
const EVERYWHERE_V4: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(
    std::net::Ipv4Addr::UNSPECIFIED,
    0,
));
const EVERYWHERE_V6: IpNet = IpNet::V6(ipnet::Ipv6Net::new_assert(
    std::net::Ipv6Addr::UNSPECIFIED,
    0,
));

fn or_any(keys: Vec<Key>, any: Key) -> Vec<Key> {
    if keys.is_empty() { vec![any] } else { keys }
}

fn insert(node: &mut Node, levels: &[Vec<Key>], index: usize) -> Result<(), Conflict> {
    let Some((keys, rest)) = levels.split_first() else {
        return match node {
            // The same alternative written twice in one chain is no conflict.
            Node::Chain(first) if *first != index => Err(Conflict {
                first: *first,
                second: index,
            }),
            _ => {
                *node = Node::Chain(index);
                Ok(())
            }
        };
    };
    keys.iter()
        .try_for_each(|key| insert(child(node, key), rest, index))
}

/// The child of `node` for `key`, made if need be.
fn child<'n>(node: &'n mut Node, key: &Key) -> &'n mut Node {
    if matches!(node, Node::Empty) {
        *node = match key {
            Key::Port(_) => Node::Port(Map::default()),
            Key::Net(_) => Node::Address(Ranges::default()),
            Key::Text(text) if text.starts_with('.') => Node::Name(Map::default()),
            Key::Text(_) => Node::Text(Map::default()),
            Key::Source(_) => Node::Source([None, None, None]),
        };
    }
    match (node, key) {
        (Node::Port(map), Key::Port(port)) => map.entry(*port).or_default(),
        (Node::Address(ranges), Key::Net(net)) => ranges.entry(*net),
        (Node::Name(map) | Node::Text(map), Key::Text(text)) => {
            map.entry(text.clone()).or_default()
        }
        (Node::Source(kinds), Key::Source(kind)) => kinds[*kind].get_or_insert_default(),
        (node, _) => node, // A level has one kind of key: `keys` gives each level its own.
    }
}

fn step<'n>(node: &'n Node, level: usize, facts: &Facts<'_>) -> Option<&'n Node> {
    match (node, level) {
        (Node::Port(map), 0) => map
            .get(&Some(facts.destination.port()))
            .or_else(|| map.get(&None)),
        (Node::Port(map), _) => map
            .get(&Some(facts.source.port()))
            .or_else(|| map.get(&None)),
        (Node::Address(ranges), 1) => ranges.longest(facts.destination.ip()),
        (Node::Address(ranges), 5) => ranges.longest(facts.direct_source.ip()),
        (Node::Address(ranges), _) => ranges.longest(facts.source.ip()),
        (Node::Name(map) | Node::Text(map), 2) => by_name(map, facts.server_name),
        (Node::Name(map) | Node::Text(map), 3) => map.get(facts.transport).or_else(|| map.get("")),
        (Node::Name(map) | Node::Text(map), _) => {
            let offered = facts.application_protocols.iter();
            offered
                .filter_map(|protocol| map.get(protocol))
                .next()
                .or_else(|| map.get(""))
        }
        (Node::Source(kinds), _) => {
            let kind = if is_local(facts) { LOCAL } else { EXTERNAL };
            kinds[kind].as_deref().or(kinds[0].as_deref())
        }
        (Node::Empty | Node::Chain(_), _) => None,
    }
}

/// Exact name, then `.example.com`, `.com`, then chains without names.
fn by_name<'n>(map: &'n Map<String>, name: &str) -> Option<&'n Node> {
    if let Some(found) = map.get(name) {
        return Some(found);
    }
    let mut rest = name;
    while let Some(dot) = rest.get(1..).and_then(|tail| tail.find('.')) {
        rest = &rest[dot + 1..];
        if rest.len() > 1
            && let Some(found) = map.get(rest)
        {
            return Some(found);
        }
    }
    map.get("")
}

/// Envoy's `isSameIpOrLoopback`: the peer is on this host.
fn is_local(facts: &Facts<'_>) -> bool {
    let source = facts.direct_source.ip().to_canonical();
    source.is_loopback() || source == facts.destination.ip().to_canonical()
}

impl Ranges {
    fn entry(&mut self, net: IpNet) -> &mut Node {
        let lengths = &mut self.lengths[family(net.addr())];
        if !lengths.contains(&net.prefix_len()) {
            lengths.push(net.prefix_len());
            lengths.sort_unstable_by(|a, b| b.cmp(a));
        }
        self.map.entry(net).or_default()
    }

    fn longest(&self, address: IpAddr) -> Option<&Node> {
        let address = address.to_canonical();
        self.lengths[family(address)].iter().find_map(|&length| {
            let net = IpNet::new(address, length).ok()?.trunc();
            self.map.get(&net)
        })
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

#[cfg(test)]
mod tests;
