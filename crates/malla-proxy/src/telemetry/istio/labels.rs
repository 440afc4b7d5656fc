//! What a series is about: facts of a request or connection, and the labels they become.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::format::Operator;
use malla_proxy_config::istio_stats::{Expression, Metric, Part, PeerField, Side, StatsConfig};

use crate::peers::{KnownPeer, Own, Peer};
use crate::telemetry::access_log::Source;
use crate::telemetry::flags::Flags;
use crate::telemetry::label::Escaped;

const UNKNOWN: &str = "unknown";
/// The revision of a workload that says none.
const LATEST: &str = "latest";
/// Values that users' expressions come to are cut off here.
const LONGEST_VALUE: usize = 256;
/// Between the values of several expressions; no header can hold it.
const END: u8 = 0;

/// Whose view it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// Of who calls.
    Source,
    /// Of who is called.
    Destination,
}

/// `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
}

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    Requests,
    /// Messages of gRPC calls, before it is known how those end.
    Messages,
    Connections,
}

/// Everything that tells series apart, borrowed from the request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub config: &'a StatsConfig,
    pub counted: Counted,
    pub reporter: Reporter,
    pub protocol: Protocol,
    /// Who is at the other end, if it told.
    pub peer: Option<&'a Rc<KnownPeer>>,
    /// What its certificate says; empty without one.
    pub peer_principal: &'a str,
    /// What ours says; empty without one.
    pub own_principal: &'a str,
    pub service: Service<'a>,
    /// 0 if there was none.
    pub code: u16,
    pub grpc_status: Option<u32>,
    /// As [`Flags::bits`].
    pub flags: u32,
    /// `None` where this side cannot tell.
    pub mutual_tls: Option<bool>,
    /// What the configuration's expressions came to, each ended by a zero.
    pub values: &'a [u8],
    /// It stands for all that found no room.
    pub overflow: bool,
}

/// Who was called; empty is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Service<'a> {
    pub host: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
}

impl<'a> Facts<'a> {
    /// The same, as one of those for which there is no room.
    pub(super) fn overflowing(&self) -> Facts<'a> {
        Facts {
            peer: None,
            peer_principal: "",
            own_principal: "",
            service: Service::default(),
            code: 0,
            grpc_status: None,
            flags: 0,
            mutual_tls: None,
            values: &[],
            overflow: true,
            ..*self
        }
    }
}

impl Hash for Facts<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.map(|peer| peer.hash).hash(state);
        state.write_u64(self.config.fingerprint);
        state.write(self.peer_principal.as_bytes());
        state.write(self.own_principal.as_bytes());
        state.write(self.service.host.as_bytes());
        state.write(self.service.name.as_bytes());
        state.write(self.service.namespace.as_bytes());
        state.write(self.values);
        state.write_u32(self.flags);
        let grpc = self.grpc_status.map_or(u64::from(u32::MAX) + 1, u64::from);
        state.write_u64(grpc << 16 | u64::from(self.code));
        (self.counted, self.reporter, self.protocol).hash(state);
        (self.mutual_tls, self.overflow).hash(state);
    }
}

/// The facts, kept.
#[derive(Debug)]
pub(super) struct Labels {
    fingerprint: u64,
    counted: Counted,
    reporter: Reporter,
    protocol: Protocol,
    peer: Option<Rc<KnownPeer>>,
    peer_principal: Box<str>,
    own_principal: Box<str>,
    service: [Box<str>; 3],
    code: u16,
    grpc_status: Option<u32>,
    flags: u32,
    mutual_tls: Option<bool>,
    values: Box<[u8]>,
    overflow: bool,
}

impl Labels {
    pub(super) fn of(facts: &Facts<'_>) -> Self {
        Self {
            fingerprint: facts.config.fingerprint,
            counted: facts.counted,
            reporter: facts.reporter,
            protocol: facts.protocol,
            peer: facts.peer.cloned(),
            peer_principal: facts.peer_principal.into(),
            own_principal: facts.own_principal.into(),
            service: [
                facts.service.host,
                facts.service.name,
                facts.service.namespace,
            ]
            .map(Into::into),
            code: facts.code,
            grpc_status: facts.grpc_status,
            flags: facts.flags,
            mutual_tls: facts.mutual_tls,
            values: facts.values.into(),
            overflow: facts.overflow,
        }
    }

    pub(super) fn is(&self, facts: &Facts<'_>) -> bool {
        let same_peer = match (&self.peer, facts.peer) {
            (None, None) => true,
            (Some(own), Some(other)) => Rc::ptr_eq(own, other) || **own == **other,
            _ => false,
        };
        let [host, name, namespace] = &self.service;
        same_peer
            && self.fingerprint == facts.config.fingerprint
            && self.counted == facts.counted
            && self.reporter == facts.reporter
            && self.protocol == facts.protocol
            && self.code == facts.code
            && self.grpc_status == facts.grpc_status
            && self.flags == facts.flags
            && self.mutual_tls == facts.mutual_tls
            && self.overflow == facts.overflow
            && *self.peer_principal == *facts.peer_principal
            && *self.own_principal == *facts.own_principal
            && **host == *facts.service.host
            && **name == *facts.service.name
            && **namespace == *facts.service.namespace
            && *self.values == *facts.values
    }
}

/// One label and its value.
type Label<'a> = (&'a str, String);

/// The labels of `metric` as scrapes see them; `None` if the metric is not kept.
pub(super) fn text(own: &Own, facts: &Facts<'_>, metric: Metric) -> Option<Arc<str>> {
    let mut labels = if facts.overflow {
        vec![
            ("reporter", reporter(facts).to_owned()),
            ("request_protocol", protocol(facts).to_owned()),
            ("overflow", "true".to_owned()),
        ]
    } else {
        let mut labels = who(own, facts);
        if facts.counted != Counted::Messages {
            labels.extend(how(facts));
        }
        labels
    };
    if let Some(rules) = facts.config.rules(metric) {
        if rules.dropped {
            return None;
        }
        labels.retain(|(label, _)| !rules.removed.iter().any(|removed| **removed == **label));
        for (label, expression) in rules.labels.iter().filter(|_| !facts.overflow) {
            let value = value_of(facts, expression);
            match labels.iter_mut().find(|(known, _)| **known == **label) {
                Some((_, known)) => *known = value,
                None => labels.push((label, value)),
            }
        }
    }
    let mut out = String::with_capacity(1024);
    for (label, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{label}=\"{}\"", Escaped(&value));
    }
    Some(out.into())
}

fn reporter(facts: &Facts<'_>) -> &'static str {
    match facts.reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    }
}

fn protocol(facts: &Facts<'_>) -> &'static str {
    match facts.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    }
}

/// Istio's labels in its order: who calls and who is called.
fn who<'a>(own: &Own, facts: &Facts<'_>) -> Vec<Label<'a>> {
    let nobody = Peer::default();
    let peer = facts.peer.map_or(&nobody, |known| &known.peer);
    // A certificate proves its namespace, so it counts before what was told.
    let peer_namespace = namespace_of(facts.peer_principal).unwrap_or(&peer.namespace);
    let own_side = Workload {
        peer: &own.peer,
        namespace: &own.peer.namespace,
        principal: facts.own_principal,
    };
    let other_side = Workload {
        peer,
        namespace: peer_namespace,
        principal: facts.peer_principal,
    };
    let (source, destination, called) = match facts.reporter {
        Reporter::Source => (own_side, other_side, facts.service),
        Reporter::Destination => (other_side, own_side, facts.service.or(&own.peer)),
    };
    let known = |value: &str| if value.is_empty() { UNKNOWN } else { value }.to_owned();
    let revision = |value: &str| if value.is_empty() { LATEST } else { value }.to_owned();
    let namespace = if called.namespace.is_empty() {
        destination.namespace
    } else {
        called.namespace
    };
    vec![
        ("reporter", reporter(facts).to_owned()),
        ("source_workload", known(&source.peer.workload)),
        ("source_canonical_service", known(&source.peer.service)),
        ("source_canonical_revision", revision(&source.peer.revision)),
        ("source_workload_namespace", known(source.namespace)),
        ("source_principal", known(source.principal)),
        ("source_app", known(&source.peer.app)),
        ("source_version", known(&source.peer.version)),
        ("source_cluster", known(&source.peer.cluster)),
        ("destination_workload", known(&destination.peer.workload)),
        (
            "destination_workload_namespace",
            known(destination.namespace),
        ),
        ("destination_principal", known(destination.principal)),
        ("destination_app", known(&destination.peer.app)),
        ("destination_version", known(&destination.peer.version)),
        ("destination_service", known(called.host)),
        (
            "destination_canonical_service",
            known(&destination.peer.service),
        ),
        (
            "destination_canonical_revision",
            revision(&destination.peer.revision),
        ),
        ("destination_service_name", known(called.name)),
        ("destination_service_namespace", known(namespace)),
        ("destination_cluster", known(&destination.peer.cluster)),
    ]
}

/// The rest of them: how it went.
fn how<'a>(facts: &Facts<'_>) -> Vec<Label<'a>> {
    let mut labels = vec![("request_protocol", protocol(facts).to_owned())];
    if facts.counted == Counted::Requests {
        labels.push(("response_code", facts.code.to_string()));
        let status = facts
            .grpc_status
            .filter(|_| facts.protocol == Protocol::Grpc);
        let status = status.map_or_else(String::new, |status| status.to_string());
        labels.push(("grpc_response_status", status));
    }
    let policy = match facts.mutual_tls {
        None => UNKNOWN,
        Some(true) => "mutual_tls",
        Some(false) => "none",
    };
    labels.push(("response_flags", Flags::text(facts.flags)));
    labels.push(("connection_security_policy", policy.to_owned()));
    labels
}

struct Workload<'a> {
    peer: &'a Peer,
    namespace: &'a str,
    principal: &'a str,
}

impl<'a> Service<'a> {
    /// What is not known is the workload itself: its server says so.
    fn or(self, own: &'a Peer) -> Self {
        let or = |value: &'a str| {
            if value.is_empty() {
                &*own.service
            } else {
                value
            }
        };
        Self {
            host: or(self.host),
            name: or(self.name),
            namespace: self.namespace,
        }
    }
}

/// The namespace in `spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`.
fn namespace_of(principal: &str) -> Option<&str> {
    let (_, rest) = principal.split_once("/ns/")?;
    let namespace = rest.split('/').next().unwrap_or_default();
    (!namespace.is_empty()).then_some(namespace)
}

/// The value of one of the configuration's expressions among [`Facts::values`].
fn value_of(facts: &Facts<'_>, expression: &Arc<Expression>) -> String {
    let place = distinct(facts.config).position(|known| Arc::ptr_eq(known, expression));
    let value = place.and_then(|place| facts.values.split(|byte| *byte == END).nth(place));
    let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    if value.is_empty() {
        UNKNOWN.to_owned()
    } else {
        value
    }
}

/// Each expression once: one may stand in several metrics.
fn distinct(config: &StatsConfig) -> impl Iterator<Item = &Arc<Expression>> {
    let before = |at: usize, expression: &Arc<Expression>| {
        config
            .expressions()
            .take(at)
            .any(|earlier| Arc::ptr_eq(earlier, expression))
    };
    let all = config.expressions().enumerate();
    all.filter(move |(at, expression)| !before(*at, expression))
        .map(|(_, expression)| expression)
}

/// What access logs would have to keep for the configuration's expressions.
pub fn logged(config: &StatsConfig) -> impl Iterator<Item = &Operator> {
    let parts = config.expressions().flat_map(|expression| &expression.0);
    parts.filter_map(|part| match part {
        Part::Logged(operator) => Some(operator),
        _ => None,
    })
}

/// Evaluates the configuration's expressions into `out`, as [`Facts::values`] has them.
pub fn evaluate(
    config: &StatsConfig,
    source: &Source<'_>,
    own: &Own,
    peers: [Option<&Rc<KnownPeer>>; 2],
    out: &mut Vec<u8>,
) {
    for expression in distinct(config) {
        let start = out.len();
        for part in &expression.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Logged(operator) => source.value(operator).write(UNKNOWN.as_bytes(), out),
                Part::Node(path) => {
                    let value = own.metadata(path).unwrap_or(UNKNOWN);
                    out.extend_from_slice(value.as_bytes());
                }
                Part::Peer(side, field) => {
                    let peer = match side {
                        Side::Downstream => peers[0],
                        Side::Upstream => peers[1],
                    };
                    let value = peer.map_or(UNKNOWN, |known| of_peer(&known.peer, *field));
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        out.truncate(out.len().min(start + LONGEST_VALUE));
        for byte in out.iter_mut().skip(start).filter(|byte| **byte == END) {
            *byte = b' ';
        }
        out.push(END);
    }
}

fn of_peer(peer: &Peer, field: PeerField) -> &str {
    match field {
        PeerField::Name => &peer.name,
        PeerField::Namespace => &peer.namespace,
        PeerField::Workload => &peer.workload,
        PeerField::App => &peer.app,
        PeerField::Version => &peer.version,
        PeerField::Service => &peer.service,
        PeerField::Revision => &peer.revision,
        PeerField::Cluster => &peer.cluster,
    }
}
