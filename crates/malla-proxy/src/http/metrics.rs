//! Counts a request that is over in Istio's standard metrics: from its record to the facts that tell series apart.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, Uri};
use malla_proxy_config::istio_stats::StatsConfig;
use malla_proxy_config::listener::Direction;

use super::connection::Context;
use super::state::HttpWorker;
use crate::connection::Connection;
use crate::telemetry::access_log::{self, grpc_from_http};
use crate::telemetry::istio::{
    Counted, Facts, LiveCall, Protocol, Reporter, RequestNumbers, Service, evaluate,
};
use crate::telemetry::record::Record;
use crate::upstream::Upstreams;

/// Istio's names of routes to addresses nobody knows; they stand where a service would.
const SPECIAL_ROUTES: [(&str, &str); 2] = [
    ("block_all", "BlackHoleCluster"),
    ("allow_any", "PassthroughCluster"),
];
/// Clusters that are no service's.
const SPECIAL_CLUSTERS: [&str; 3] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
];

/// Adds the request of `record`, which has ended.
pub(super) fn count<U: Upstreams>(cx: &Context<U>, config: &StatsConfig, record: &mut Record) {
    if record.grpc && record.call.take().is_none() {
        // Never answered, so nobody has counted what was asked.
        drop(begin_call(cx, config, record));
    }
    let duration = record
        .end
        .map(|end| end.saturating_duration_since(record.start));
    let numbers = RequestNumbers {
        duration: duration.unwrap_or_default(),
        request_bytes: record.request_head + record.progress.received.get(),
        response_bytes: record.response_head + record.bytes_sent,
    };
    let metrics = &cx.worker.metrics;
    with_facts(cx, config, record, Counted::Requests, |facts| {
        metrics.request(facts, numbers);
    });
}

/// Counts the messages of a gRPC call from its answer on: only then it is known who answers.
pub(super) fn begin_call<U: Upstreams>(
    cx: &Context<U>,
    config: &StatsConfig,
    record: &Record,
) -> Rc<LiveCall> {
    let metrics = &cx.worker.metrics;
    with_facts(cx, config, record, Counted::Messages, |facts| {
        metrics.call(facts, &record.progress)
    })
}

/// Does something with what tells the request's series from others.
fn with_facts<U: Upstreams, T>(
    cx: &Context<U>,
    config: &StatsConfig,
    record: &Record,
    counted: Counted,
    act: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let reporter = reporter(&cx.connection);
    let worker = &cx.worker;
    let told = match reporter {
        Reporter::Source => &record.upstream_peer,
        Reporter::Destination => &record.downstream_peer,
    };
    let found = match (told, reporter) {
        (None, Reporter::Source) => peer_of_endpoint(worker, record),
        _ => None,
    };
    let peer = told.as_ref().or(found.as_ref());
    let (peer_principal, own_principal) = principals(reporter, &cx.connection, record);
    let mut values = Vec::new();
    if config.fingerprint != 0 {
        let source = access_log::source(record, &worker.process.environment);
        let peers = match reporter {
            Reporter::Source => [record.downstream_peer.as_ref(), peer],
            Reporter::Destination => [peer, record.upstream_peer.as_ref()],
        };
        evaluate(config, &source, &worker.metrics.own, peers, &mut values);
    }
    let who = Facts {
        config,
        counted,
        reporter,
        protocol: if record.grpc {
            Protocol::Grpc
        } else {
            Protocol::Http
        },
        peer,
        peer_principal,
        own_principal,
        service: service(config, record),
        code: 0,
        grpc_status: None,
        flags: 0,
        mutual_tls: None,
        values: &values,
        overflow: false,
    };
    if counted == Counted::Messages {
        return act(&who);
    }
    act(&Facts {
        code: record.status.map_or(0, |status| status.as_u16()),
        grpc_status: record.grpc.then(|| grpc_status(record)),
        flags: record.flags.bits(),
        mutual_tls: (reporter == Reporter::Destination)
            .then_some(!peer_principal.is_empty() && !own_principal.is_empty()),
        ..who
    })
}

/// By the listener's direction, as Istio's filter infers it.
pub(crate) fn reporter(connection: &Connection) -> Reporter {
    match connection.listener.direction {
        Direction::Inbound => Reporter::Destination,
        Direction::Outbound | Direction::Unspecified => Reporter::Source,
    }
}

fn peer_of_endpoint<U: Upstreams>(
    worker: &HttpWorker<U>,
    record: &Record,
) -> Option<Rc<crate::peers::KnownPeer>> {
    let endpoint = record.attempt.endpoint.as_ref()?;
    worker.metrics.peers.of_endpoint(endpoint.workload()?)
}

/// Of the peer and our own, from the certificates of the connection the two share.
fn principals<'a>(
    reporter: Reporter,
    connection: &'a Connection,
    record: &'a Record,
) -> (&'a str, &'a str) {
    match reporter {
        Reporter::Destination => downstream_principals(connection),
        Reporter::Source => upstream_principals(&record.attempt),
    }
}

/// Of the client and our own; empty where there is none, or none that was checked.
pub(crate) fn downstream_principals(connection: &Connection) -> (&str, &str) {
    let Some(tls) = &connection.tls else {
        return ("", "");
    };
    let peer = connection.peer_uri().filter(|_| tls.peer_validated);
    let own = tls.local_uri_sans.first().map(|san| &**san);
    (peer.unwrap_or_default(), own.unwrap_or_default())
}

/// Of the server and our own.
pub(crate) fn upstream_principals(attempt: &crate::upstream::Attempt) -> (&str, &str) {
    let Some(tls) = &attempt.tls else {
        return ("", "");
    };
    let peer = tls.peer_uri_sans.first().map(|san| &**san);
    (
        peer.unwrap_or_default(),
        tls.local_uri_san.as_deref().unwrap_or_default(),
    )
}

fn service<'a>(config: &StatsConfig, record: &'a Record) -> Service<'a> {
    let host = record.host.as_ref().filter(|_| config.host_fallback);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut service = Service {
        host,
        name: host,
        namespace: "",
    };
    let route = record.route_name().unwrap_or_default();
    if let Some((_, name)) = SPECIAL_ROUTES.iter().find(|(special, _)| *special == route) {
        service.name = name;
        return service;
    }
    match &record.cluster {
        Some(cluster) => service_of(cluster, service),
        None => service,
    }
}

/// What a cluster says of the service behind it, or else what was known before.
pub(crate) fn service_of<'a>(
    cluster: &'a malla_proxy_config::cluster::Cluster,
    mut service: Service<'a>,
) -> Service<'a> {
    if SPECIAL_CLUSTERS.contains(&&*cluster.name) {
        service.name = &cluster.name;
    } else if let Some(behind) = &cluster.mesh.service {
        service = Service {
            host: &behind.host,
            name: &behind.name,
            namespace: &behind.namespace,
        };
    }
    service
}

/// The status of the answer, or what its HTTP status comes to. Numbers that gRPC has no name for are `UNKNOWN`: an
/// application must not make series at will.
fn grpc_status(record: &Record) -> u32 {
    const UNKNOWN: u32 = 2;
    const LAST: u32 = 16;
    record
        .grpc_status
        .or_else(|| record.status.map(grpc_from_http))
        .filter(|status| *status <= LAST)
        .unwrap_or(UNKNOWN)
}

/// Bytes of a request's head, as HTTP/1 writes it: what HTTP/2's compression makes of it is the codec's affair.
pub(super) fn request_head(method: &Method, uri: &Uri, headers: &HeaderMap) -> u64 {
    let target = uri
        .path_and_query()
        .map_or(1, |target| target.as_str().len());
    // Spaces, version and line ends, and the empty line.
    (method.as_str().len() + target + 14) as u64 + fields(headers)
}

/// Bytes of an answer's head, likewise.
pub(super) fn response_head(status: StatusCode, headers: &HeaderMap) -> u64 {
    let reason = status.canonical_reason().map_or(0, str::len);
    (reason + 17) as u64 + fields(headers)
}

fn fields(headers: &HeaderMap) -> u64 {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    sizes.sum::<usize>() as u64
}

/// What a manager keeps of requests for the configuration's expressions.
pub(super) fn needs(config: &Arc<StatsConfig>, needs: &mut access_log::Needs) {
    let operators = crate::telemetry::istio::logged(config).cloned();
    let segments = operators.map(|operator| malla_proxy_config::format::Segment::Command {
        operator,
        max_length: None,
    });
    needs.add(&malla_proxy_config::format::Format(segments.collect()));
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};

    use super::{request_head, response_head};

    #[test]
    fn heads_are_as_long_as_http_1_writes_them() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "shop".parse().unwrap());
        let wire = "GET /a?b HTTP/1.1\r\nhost: shop\r\n\r\n";
        let uri = "/a?b".parse().unwrap();
        assert_eq!(
            request_head(&Method::GET, &uri, &headers),
            wire.len() as u64
        );
        let wire = "HTTP/1.1 200 OK\r\nhost: shop\r\n\r\n";
        assert_eq!(response_head(StatusCode::OK, &headers), wire.len() as u64);
    }
}
