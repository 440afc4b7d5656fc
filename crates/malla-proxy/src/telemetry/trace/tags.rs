//! What spans say about their request: Envoy's tags (`HttpTracerUtility`), then the configured ones.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use malla_proxy_config::format::Plain;
use malla_proxy_config::tracing::{CustomTag, RouteTracing, Tracing};

use super::decide::CLIENT_TRACE_ID;
use super::span::Span;
use crate::telemetry::access_log::{Source, protocol, write_text};
use crate::telemetry::record::Record;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Who the proxy is, as spans and logs say it.
#[derive(Debug, Clone, Default)]
pub struct NodeNames {
    /// `node.id`.
    pub id: Arc<str>,
    /// `node.cluster`.
    pub cluster: Arc<str>,
    /// `node.locality.zone`.
    pub zone: Arc<str>,
    /// The whole node as protobuf, for log streams.
    pub encoded: Arc<[u8]>,
}

/// The custom tags in force: a route's come before the manager's of the same name.
fn custom<'a>(
    tracing: &'a Tracing,
    route: Option<&'a RouteTracing>,
) -> impl Iterator<Item = &'a CustomTag> {
    let first = route.map_or(&[][..], |route| route.tags.as_slice());
    let rest = tracing
        .tags
        .iter()
        .filter(move |tag| !first.iter().any(|other| other.name == tag.name));
    first.iter().chain(rest)
}

/// Writes tags, leaving out those a custom tag takes the place of.
struct Tagger<'a> {
    span: &'a mut Span,
    tracing: &'a Tracing,
    route: Option<&'a RouteTracing>,
}

impl Tagger<'_> {
    fn tag(&mut self, name: &str, value: &[u8]) {
        let taken = |tags: &[CustomTag]| tags.iter().any(|tag| &*tag.name == name);
        if !taken(&self.tracing.tags) && !self.route.is_some_and(|route| taken(&route.tags)) {
            self.span.tag(name, value);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.tag(name, itoa::Buffer::new().format(value).as_bytes());
    }

    fn custom(&mut self, early: bool, source: &Source<'_>) {
        let mut value = Vec::new();
        for tag in custom(self.tracing, self.route) {
            if tag.early == early {
                value.clear();
                write_text(&tag.value, source, b"", &mut value);
                match &tag.default {
                    _ if !value.is_empty() => self.span.tag(&tag.name, &value),
                    Some(default) => self.span.tag(&tag.name, default.as_bytes()),
                    None => {}
                }
            }
        }
    }
}

/// What is known when the request goes on its way.
pub fn of_request(
    span: &mut Span,
    headers: &HeaderMap,
    source: &Source<'_>,
    node: &NodeNames,
    tracing: &Tracing,
) {
    let record = source.record;
    let mut to = Tagger {
        span,
        tracing,
        route: route_tracing(record),
    };
    let get = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    to.tag("node_id", node.id.as_bytes());
    to.tag("zone", node.zone.as_bytes());
    if let Some(id) = get(&REQUEST_ID) {
        to.tag("guid:x-request-id", id);
    }
    to.tag("http.url", &url(record, headers, tracing.max_path));
    let method = record.method.as_ref().map_or("", http::Method::as_str);
    to.tag("http.method", method.as_bytes());
    to.tag("downstream_cluster", get(&SERVICE_CLUSTER).unwrap_or(b"-"));
    to.tag("user_agent", get(&header::USER_AGENT).unwrap_or(b"-"));
    to.tag("http.protocol", spoken(record.protocol).as_bytes());
    let peer = &record.connection.direct_remote;
    let peer = peer
        .ip()
        .map_or_else(|| peer.to_string(), |ip| ip.to_string());
    to.tag("peer.address", peer.as_bytes());
    if let Some(id) = get(&CLIENT_TRACE_ID) {
        to.tag("guid:x-client-trace-id", id);
    }
    if record.grpc {
        let path = record.path.as_ref().map_or("", |path| path.as_str());
        to.tag("grpc.path", path.as_bytes());
        to.tag("grpc.authority", get(&header::HOST).unwrap_or_default());
        to.tag(
            "grpc.content_type",
            get(&header::CONTENT_TYPE).unwrap_or_default(),
        );
        if let Some(timeout) = get(&GRPC_TIMEOUT) {
            to.tag("grpc.timeout", timeout);
        }
    }
    to.custom(true, source);
}

fn spoken(version: Option<http::Version>) -> &'static str {
    version.map_or("-", protocol)
}

fn route_tracing(record: &Record) -> Option<&RouteTracing> {
    record.selected.as_ref()?.route().tracing.as_deref()
}

/// Scheme, host and the path as it came, cut.
fn url(record: &Record, headers: &HeaderMap, max_path: usize) -> Vec<u8> {
    let path = record.original_path.as_ref().or(record.path.as_ref());
    let path = path.map_or("", |path| path.as_str()).as_bytes();
    let scheme = headers.get(&FORWARDED_PROTO).map(HeaderValue::as_bytes);
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    [
        scheme.unwrap_or_default(),
        b"://",
        host.unwrap_or_default(),
        path.get(..max_path).unwrap_or(path),
    ]
    .concat()
}

/// What is known at the end of the request.
pub fn of_answer(span: &mut Span, source: &Source<'_>, tracing: &Tracing) {
    let record = source.record;
    let mut to = Tagger {
        span,
        tracing,
        route: route_tracing(record),
    };
    to.number("request_size", record.progress.received.get());
    to.number("response_size", record.bytes_sent);
    to.common(source, record.status);
    to.grpc_answer(record);
}

/// What is known at the end of a try: `status` is that of its answer, if there was one.
pub fn of_try(span: &mut Span, source: &Source<'_>, tracing: &Tracing, status: Option<StatusCode>) {
    let record = source.record;
    let mut to = Tagger {
        span,
        tracing,
        route: route_tracing(record),
    };
    to.tag("http.protocol", spoken(record.attempt.protocol).as_bytes());
    if let Some(endpoint) = &record.attempt.endpoint {
        let address = endpoint.address.to_string();
        to.tag("upstream_address", address.as_bytes());
        to.tag("peer.address", address.as_bytes());
    }
    if record.attempts > 1 {
        to.number("retry_count", u64::from(record.attempts - 1));
    }
    to.common(source, status);
    to.grpc_answer(record);
    to.custom(true, source);
}

impl Tagger<'_> {
    fn common(&mut self, source: &Source<'_>, status: Option<StatusCode>) {
        self.tag("component", b"proxy");
        if let Some(cluster) = &source.record.cluster {
            self.tag("upstream_cluster", cluster.name.as_bytes());
            self.tag("upstream_cluster.name", cluster.stat_name.as_bytes());
        }
        let code = status.map_or(0, |status| status.as_u16());
        self.number("http.status_code", code.into());
        self.span.note_status(code);
        let mut flags = Vec::new();
        source.plain(Plain::ResponseFlags).write(b"-", &mut flags);
        self.tag("response_flags", &flags);
        if status.is_none_or(|status| status.is_server_error()) {
            self.tag("error", b"true");
        }
        self.custom(false, source);
    }

    fn grpc_answer(&mut self, record: &Record) {
        if let Some(status) = record.grpc_status {
            self.number("grpc.status_code", status.into());
        }
    }
}
