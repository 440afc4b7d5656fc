//! From rates with labels to nodes and edges.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::model::{Edge, Graph, Node, NodeKind, Protocol};
use crate::graph::{GraphQuery, View};
use crate::metrics::Labels;
use crate::promql::{Answer, bucket_quantile};

/// What a metric is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Requests,
    Buckets,
    Bytes,
    TcpBytes,
    TcpOpened,
}

pub(super) const METRICS: &[(&str, Use)] = &[
    ("istio_requests_total", Use::Requests),
    ("istio_request_duration_milliseconds_bucket", Use::Buckets),
    ("istio_request_bytes_sum", Use::Bytes),
    ("istio_response_bytes_sum", Use::Bytes),
    ("istio_tcp_sent_bytes_total", Use::TcpBytes),
    ("istio_tcp_received_bytes_total", Use::TcpBytes),
    ("istio_tcp_connections_opened_total", Use::TcpOpened),
];

const LABELS: &str = "reporter,request_protocol,response_code,grpc_response_status,le,\
connection_security_policy,source_workload,source_workload_namespace,source_canonical_service,\
source_app,source_canonical_revision,source_version,destination_workload,\
destination_workload_namespace,destination_canonical_service,destination_app,\
destination_canonical_revision,destination_version,destination_service,destination_service_name,\
destination_service_namespace";

pub(super) fn query(metric: &str, window: i64) -> String {
    format!("sum by ({LABELS}) (rate({metric}[{window}ms])) > 0")
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NodeKey {
    kind: NodeKind,
    namespace: String,
    name: String,
    version: String,
}

impl NodeKey {
    fn id(&self) -> String {
        let parts = [self.kind.word(), &self.namespace, &self.name, &self.version];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("/")
    }

    fn unknown() -> Self {
        Self {
            kind: NodeKind::Unknown,
            namespace: String::new(),
            name: "unknown".to_owned(),
            version: String::new(),
        }
    }
}

/// What one side says of an edge, per second.
#[derive(Debug, Clone, Default)]
struct Tally {
    requests: f64,
    errors: f64,
    mutual_tls: f64,
    bytes: f64,
    codes: BTreeMap<String, f64>,
    /// Upper bound's bits → rate, cumulative.
    buckets: BTreeMap<u64, f64>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes += other.bytes;
        for (bound, rate) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += rate;
        }
    }

    fn error_share(&self) -> f64 {
        share(self.errors, self.requests)
    }

    fn quantile(&self, q: f64) -> Option<f64> {
        let buckets = self
            .buckets
            .iter()
            .map(|(bound, rate)| (f64::from_bits(*bound), *rate));
        Some(bucket_quantile(q, &mut buckets.collect())).filter(|v| v.is_finite())
    }

    fn is_silent(&self) -> bool {
        self.requests == 0.0 && self.bytes == 0.0
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        (part / whole).clamp(0.0, 1.0)
    } else {
        0.0
    }
}

/// Both sides of one edge.
#[derive(Debug, Default)]
struct Sides {
    source: Tally,
    destination: Tally,
}

impl Sides {
    fn best(&self) -> &Tally {
        match self.source.is_silent() {
            true => &self.destination,
            false => &self.source,
        }
    }

    /// The callee knows; where it does not report, the caller may.
    fn mtls(&self, protocol: Protocol) -> f64 {
        let side = match self.destination.is_silent() {
            true => &self.source,
            false => &self.destination,
        };
        match protocol {
            Protocol::Tcp => share(side.mutual_tls, side.bytes.max(side.requests)),
            _ => share(side.mutual_tls, side.requests),
        }
    }
}

#[derive(Debug)]
pub(super) struct Collected<'a> {
    query: &'a GraphQuery,
    rates: Vec<(Use, Labels, f64)>,
    /// Which service a workload answers for, where it is one only.
    services: BTreeMap<(String, String), (String, String)>,
    edges: BTreeMap<(NodeKey, NodeKey, Protocol), Sides>,
    in_mesh: BTreeSet<NodeKey>,
}

impl<'a> Collected<'a> {
    pub(super) fn new(query: &'a GraphQuery) -> Self {
        Self {
            query,
            rates: Vec::new(),
            services: BTreeMap::new(),
            edges: BTreeMap::new(),
            in_mesh: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, use_of: Use, answer: Answer) {
        let Answer::Vector(vector) = answer else {
            return;
        };
        let rates = vector
            .into_iter()
            .map(|(labels, sample)| (use_of, labels, sample.v));
        self.rates.extend(rates);
    }

    /// A caller is known by its workload and app, which need not be what its service is called.
    fn learn_services(&mut self) {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (_, labels, _) in &self.rates {
            let label = |name| known(labels.get(name)).map(str::to_owned);
            if let (Some(namespace), Some(workload), Some(service_namespace), Some(service)) = (
                label("destination_workload_namespace"),
                label("destination_workload"),
                label("destination_service_namespace"),
                label("destination_service_name"),
            ) && service_namespace == namespace
            {
                let services = found.entry((namespace, workload)).or_default();
                services.insert((service_namespace, service));
            }
        }
        let single = found
            .into_iter()
            .filter(|(_, services)| services.len() == 1);
        let single = single.filter_map(|(workload, mut s)| Some((workload, s.pop_first()?)));
        self.services = single.collect();
    }

    fn add_one(&mut self, use_of: Use, labels: &Labels, rate: f64) {
        let tcp = matches!(use_of, Use::TcpBytes | Use::TcpOpened);
        let protocol = match labels.get("request_protocol") {
            _ if tcp => Protocol::Tcp,
            "grpc" => Protocol::Grpc,
            _ => Protocol::Http,
        };
        let (source, target) = (self.source(labels), self.target(labels));
        let from_destination = labels.get("reporter") == "destination";
        self.in_mesh.insert(if from_destination {
            target.clone()
        } else {
            source.clone()
        });
        let sides = self.edges.entry((source, target, protocol)).or_default();
        let tally = match from_destination {
            true => &mut sides.destination,
            false => &mut sides.source,
        };
        let mutual = labels.get("connection_security_policy") == "mutual_tls";
        match use_of {
            Use::Requests => {
                let code = labels.get("response_code");
                tally.requests += rate;
                tally.mutual_tls += if mutual { rate } else { 0.0 };
                tally.errors += if is_error(code, labels, protocol) {
                    rate
                } else {
                    0.0
                };
                *tally.codes.entry(code.to_owned()).or_default() += rate;
            }
            Use::Buckets => {
                if let Ok(bound) = labels.get("le").parse::<f64>() {
                    *tally.buckets.entry(bound.to_bits()).or_default() += rate;
                }
            }
            Use::Bytes => tally.bytes += rate,
            Use::TcpBytes => {
                tally.bytes += rate;
                tally.mutual_tls += if mutual { rate } else { 0.0 };
            }
            Use::TcpOpened => tally.requests += rate,
        }
    }

    fn source(&self, labels: &Labels) -> NodeKey {
        let label = |name| known(labels.get(name));
        let namespace = label("source_workload_namespace");
        let workload = label("source_workload");
        let service = label("source_canonical_service").or_else(|| label("source_app"));
        let version = label("source_version").or_else(|| label("source_canonical_revision"));
        let Some(node) = self.node(namespace, workload, service, version) else {
            return NodeKey::unknown();
        };
        let key = namespace
            .zip(workload)
            .map(|(n, w)| (n.to_owned(), w.to_owned()));
        match key.and_then(|key| self.services.get(&key)) {
            Some((namespace, name)) if node.kind == NodeKind::Service => NodeKey {
                namespace: namespace.clone(),
                name: name.clone(),
                ..node
            },
            _ => node,
        }
    }

    fn target(&self, labels: &Labels) -> NodeKey {
        let label = |name| known(labels.get(name));
        let host = label("destination_service").unwrap_or_default();
        let service = label("destination_service_name");
        let service_namespace = label("destination_service_namespace");
        if let Some(name) = service
            && is_external(name, host)
        {
            return NodeKey {
                kind: NodeKind::External,
                namespace: String::new(),
                name: name.to_owned(),
                version: String::new(),
            };
        }
        let own = label("destination_canonical_service").or_else(|| label("destination_app"));
        let namespace = label("destination_workload_namespace");
        let workload = label("destination_workload");
        let version =
            label("destination_version").or_else(|| label("destination_canonical_revision"));
        let named = |namespace: Option<&str>, name: Option<&str>| {
            Some(NodeKey {
                kind: NodeKind::Service,
                namespace: namespace?.to_owned(),
                name: name?.to_owned(),
                version: String::new(),
            })
        };
        // Without an instance (no healthy host, say) the service is all there is.
        let found = match self.query.view {
            View::Service => named(service_namespace, service)
                .or_else(|| self.node(namespace, workload, own, version)),
            _ => self
                .node(namespace, workload, own, version)
                .or_else(|| named(service_namespace, service)),
        };
        found.unwrap_or_else(NodeKey::unknown)
    }

    fn node(
        &self,
        namespace: Option<&str>,
        workload: Option<&str>,
        service: Option<&str>,
        version: Option<&str>,
    ) -> Option<NodeKey> {
        let namespace = namespace?;
        let is_gateway = |name: &str| {
            let key = (namespace.to_owned(), name.to_owned());
            self.query.gateways.contains(&key)
        };
        let (kind, name, version) = match (workload, service) {
            (Some(workload), _) if is_gateway(workload) => (NodeKind::Gateway, workload, None),
            (_, Some(service)) if is_gateway(service) => {
                (NodeKind::Gateway, workload.unwrap_or(service), None)
            }
            _ => match self.query.view {
                View::Service => (NodeKind::Service, service.or(workload)?, None),
                View::Workload => (NodeKind::Workload, workload?, None),
                View::Version => {
                    let version = version.unwrap_or("latest");
                    (NodeKind::Version, service.or(workload)?, Some(version))
                }
            },
        };
        Some(NodeKey {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            version: version.unwrap_or_default().to_owned(),
        })
    }

    pub(super) fn finish(mut self) -> Graph {
        self.learn_services();
        for (use_of, labels, rate) in std::mem::take(&mut self.rates) {
            self.add_one(use_of, &labels, rate);
        }
        let wanted = |node: &NodeKey| self.query.namespaces.contains(&node.namespace);
        let mut graph = Graph {
            at: self.query.end as f64 / 1000.0,
            window: self.query.window as f64 / 1000.0,
            ..Graph::default()
        };
        let mut incoming: BTreeMap<NodeKey, Tally> = BTreeMap::new();
        let mut outgoing: BTreeMap<NodeKey, Tally> = BTreeMap::new();
        for ((source, target, protocol), sides) in &self.edges {
            let all = self.query.namespaces.is_empty();
            if sides.best().is_silent() || !(all || wanted(source) || wanted(target)) {
                continue;
            }
            incoming
                .entry(target.clone())
                .or_default()
                .add(sides.best());
            outgoing
                .entry(source.clone())
                .or_default()
                .add(sides.best());
            graph.edges.push(edge(source, target, *protocol, sides));
        }
        let keys: BTreeSet<&NodeKey> = incoming.keys().chain(outgoing.keys()).collect();
        for key in keys {
            let tally = incoming.get(key).or_else(|| outgoing.get(key));
            if let Some(tally) = tally {
                graph
                    .nodes
                    .push(node(key, tally, self.in_mesh.contains(key)));
            }
        }
        graph
    }
}

fn edge(source: &NodeKey, target: &NodeKey, protocol: Protocol, sides: &Sides) -> Edge {
    let best = sides.best();
    let (source, target) = (source.id(), target.id());
    Edge {
        id: format!("{source}>{target}>{}", protocol.word()),
        source,
        target,
        protocol,
        rps: best.requests,
        error_share: best.error_share(),
        p50: best.quantile(0.5),
        p90: best.quantile(0.9),
        p99: best.quantile(0.99),
        bytes_per_second: best.bytes,
        mtls: sides.mtls(protocol),
        codes: best.codes.clone(),
    }
}

fn node(key: &NodeKey, tally: &Tally, in_mesh: bool) -> Node {
    Node {
        id: key.id(),
        kind: key.kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        version: (!key.version.is_empty()).then(|| key.version.clone()),
        rps: tally.requests,
        error_share: tally.error_share(),
        p50: tally.quantile(0.5),
        p90: tally.quantile(0.9),
        p99: tally.quantile(0.99),
        in_mesh: in_mesh && key.kind != NodeKind::Unknown,
        badges: Vec::new(),
    }
}

fn known(value: &str) -> Option<&str> {
    (!value.is_empty() && value != "unknown").then_some(value)
}

/// Istio's names for "anywhere else", and hosts that no cluster has.
fn is_external(name: &str, host: &str) -> bool {
    let outside = host.contains('.') && !host.contains(".svc.") && !host.ends_with(".svc");
    let passed = [
        "PassthroughCluster",
        "BlackHoleCluster",
        "InboundPassthroughCluster",
    ];
    passed.contains(&name) || (outside && name.contains('.'))
}

fn is_error(code: &str, labels: &Labels, protocol: Protocol) -> bool {
    let status = labels.get("grpc_response_status");
    // OK and what callers do wrong are no errors of the server.
    let failed = ["2", "4", "8", "12", "13", "14", "15"].contains(&status);
    let never_came = code == "0" || code.is_empty();
    never_came || code.starts_with('5') || (protocol == Protocol::Grpc && failed)
}
