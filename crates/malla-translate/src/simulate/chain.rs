//! Envoy's choice of a filter chain: criterion by criterion, the most specific match of each, and no
//! way back. (Envoy documentation, `FilterChainMatch`.)

use malla_xds_proto::listener::listener_filter_chain_match_predicate::Rule;
use malla_xds_proto::listener::{
    FilterChain, FilterChainMatch, Listener, ListenerFilterChainMatchPredicate,
};

use super::{Call, text};

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";

/// What the listener filters found out.
struct Seen<'a> {
    call: &'a Call,
    transport: &'static str,
    server_name: &'a str,
    protocols: Vec<&'a str>,
}

/// `None` where the connection is closed.
pub(crate) fn find<'a>(listener: &'a Listener, call: &Call) -> Option<&'a FilterChain> {
    let seen = inspect(listener, call);
    let mut left: Vec<&FilterChain> = listener.filter_chains.iter().collect();
    narrow(&mut left, |of| port(of, &seen));
    narrow(&mut left, |of| destination(of, &seen));
    narrow(&mut left, |of| server_name(of, &seen));
    narrow(&mut left, |of| transport(of, &seen));
    narrow(&mut left, |of| protocol(of, &seen));
    left.first()
        .copied()
        .or(listener.default_filter_chain.as_ref())
}

fn inspect<'a>(listener: &Listener, call: &'a Call) -> Seen<'a> {
    let looks = |name: &str| {
        listener.listener_filters.iter().any(|filter| {
            filter.name == name
                && !filter
                    .filter_disabled
                    .as_ref()
                    .is_some_and(|when| holds(when, call.to.port()))
        })
    };
    let hello = call.tls.as_ref().filter(|_| looks(TLS_INSPECTOR));
    let protocols = match (hello, &call.request) {
        (Some(hello), _) => hello.alpn.iter().map(|protocol| &**protocol).collect(),
        (None, Some(request)) if call.tls.is_none() && looks(HTTP_INSPECTOR) => {
            vec![if request.http2 { "h2c" } else { "http/1.1" }]
        }
        _ => Vec::new(),
    };
    Seen {
        call,
        transport: if hello.is_some() { "tls" } else { "raw_buffer" },
        server_name: hello.map_or("", |hello| &hello.sni),
        protocols,
    }
}

fn holds(predicate: &ListenerFilterChainMatchPredicate, port: u16) -> bool {
    match &predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            (range.start..range.end).contains(&i32::from(port))
        }
        Some(Rule::OrMatch(set)) => set.rules.iter().any(|rule| holds(rule, port)),
        Some(Rule::AndMatch(set)) => set.rules.iter().all(|rule| holds(rule, port)),
        Some(Rule::NotMatch(rule)) => !holds(rule, port),
        Some(Rule::AnyMatch(_)) => true,
        None => false,
    }
}

/// Keeps the chains with the best score; `None` is no match.
fn narrow(chains: &mut Vec<&FilterChain>, score: impl Fn(&FilterChainMatch) -> Option<usize>) {
    let nothing = FilterChainMatch::default();
    let of = |chain: &FilterChain| score(chain.filter_chain_match.as_ref().unwrap_or(&nothing));
    let best = chains.iter().filter_map(|chain| of(chain)).max();
    chains.retain(|chain| best.is_some() && of(chain) == best);
}

fn port(of: &FilterChainMatch, seen: &Seen<'_>) -> Option<usize> {
    match of.destination_port {
        None => Some(0),
        Some(port) => (port.value == u32::from(seen.call.to.port())).then_some(1),
    }
}

fn destination(of: &FilterChainMatch, seen: &Seen<'_>) -> Option<usize> {
    if of.prefix_ranges.is_empty() {
        return Some(0);
    }
    let address = seen.call.to.ip();
    let fitting = of
        .prefix_ranges
        .iter()
        .filter(|range| text::within(range, address));
    fitting
        .map(|range| range.prefix_len.map_or(0, |length| length.value as usize) + 1)
        .max()
}

/// Exact names, then longer wildcards, then any.
fn server_name(of: &FilterChainMatch, seen: &Seen<'_>) -> Option<usize> {
    if of.server_names.is_empty() {
        return Some(0);
    }
    let name = seen.server_name;
    let fitting = of
        .server_names
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => name.ends_with(suffix).then_some(suffix.len()),
            None => (pattern == name).then_some(usize::MAX),
        });
    fitting.filter(|_| !name.is_empty()).max()
}

fn transport(of: &FilterChainMatch, seen: &Seen<'_>) -> Option<usize> {
    match &*of.transport_protocol {
        "" => Some(0),
        wanted => (wanted == seen.transport).then_some(1),
    }
}

fn protocol(of: &FilterChainMatch, seen: &Seen<'_>) -> Option<usize> {
    if of.application_protocols.is_empty() {
        return Some(0);
    }
    // The client's first protocol that some chain names decides.
    let place = |wanted: &String| {
        seen.protocols
            .iter()
            .position(|protocol| protocol == wanted)
    };
    of.application_protocols
        .iter()
        .filter_map(place)
        .min()
        .map(|place| usize::MAX - place)
}
