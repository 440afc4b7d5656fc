//! The attributes of a record, for CEL expressions: Envoy's names, absent where a value is not known.

use malla_proxy_config::expression::Expression;
use malla_proxy_config::format::{Field, Plain};
use malla_proxy_config::request::split_path;
use serde_json::{Map, Value as Json, json};

use super::value::{Source, Value};
use crate::connection::TlsInfo;
use crate::policy::attributes;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Captured;

/// True if the expression holds for the record.
pub(super) fn holds(expression: &Expression, source: &Source<'_>) -> bool {
    let values = attributes(expression, source);
    expression.holds(&borrowed(&values))
}

/// What the expression comes to for the record; `typed` keeps numbers what they are.
pub(super) fn value<'a>(expression: &Expression, source: &Source<'_>, typed: bool) -> Value<'a> {
    let values = attributes(expression, source);
    let values = borrowed(&values);
    let Some(text) = expression.text(&values) else {
        return Value::None;
    };
    match typed.then(|| expression.json(&values)).flatten() {
        Some(value) => Value::Cel(text, value),
        None => Value::Owned(text),
    }
}

fn attributes(expression: &Expression, source: &Source<'_>) -> Vec<(&'static str, Json)> {
    let roots = expression.roots().iter();
    roots.map(|root| (*root, of(root, source))).collect()
}

fn borrowed<'a>(values: &'a [(&'static str, Json)]) -> Vec<(&'a str, &'a Json)> {
    values.iter().map(|(root, value)| (*root, value)).collect()
}

fn of(root: &str, source: &Source<'_>) -> Json {
    let mut out = Attributes {
        source,
        fields: Map::new(),
    };
    match root {
        "request" => out.request(),
        "response" => out.response(),
        "connection" => out.connection(),
        "source" => out.plain(
            "address",
            Plain::DownstreamRemoteAddress,
            "port",
            Plain::DownstreamRemotePort,
        ),
        "destination" => out.plain(
            "address",
            Plain::DownstreamLocalAddress,
            "port",
            Plain::DownstreamLocalPort,
        ),
        "upstream" => out.upstream(),
        "metadata" => out.fields = attributes::metadata(source.record.state.as_deref()),
        "filter_state" => out.fields = attributes::filter_state(source.record.state.as_deref()),
        _ => out.xds(),
    }
    Json::Object(out.fields)
}

struct Attributes<'a> {
    source: &'a Source<'a>,
    fields: Map<String, Json>,
}

impl Attributes<'_> {
    fn set(&mut self, name: &str, value: Value<'_>) {
        let value = match value {
            Value::None | Value::Nothing => return,
            Value::Number(number) => Json::from(number),
            value => match value.as_text() {
                Some(text) => Json::from(text),
                None => return,
            },
        };
        self.fields.insert(name.to_owned(), value);
    }

    fn one(&mut self, name: &str, plain: Plain) {
        self.set(name, self.source.plain(plain));
    }

    fn plain(&mut self, first: &str, is: Plain, second: &str, and: Plain) {
        self.one(first, is);
        self.one(second, and);
    }

    fn field(&mut self, name: &str, field: &str) {
        if let Ok(field) = Field::parse(field) {
            self.set(name, self.source.request_field(&field));
        }
    }

    fn request(&mut self) {
        let record = self.source.record;
        self.field("path", ":path");
        if let Some(path) = &record.path {
            let bare = split_path(path.as_str()).0;
            self.fields.insert("url_path".into(), bare.into());
            let query = path.query().unwrap_or_default();
            self.fields.insert("query".into(), query.into());
        }
        self.field("host", ":authority");
        self.field("scheme", ":scheme");
        self.field("method", ":method");
        self.field("referer", "referer");
        self.field("useragent", "user-agent");
        self.field("id", "x-request-id");
        self.one("protocol", Plain::Protocol);
        self.one("size", Plain::BytesReceived);
        self.fields.insert(
            "total_size".into(),
            (record.progress.received.get() + record.request_headers_bytes).into(),
        );
        let mut headers = all(&record.request_headers);
        for name in ["path", "authority", "method", "scheme"] {
            let key = format!(":{name}");
            if let Ok(field) = Field::parse(&key)
                && let Some(text) = self.source.request_field(&field).as_text()
            {
                headers.insert(key, text.into());
            }
        }
        self.fields.insert("headers".into(), headers.into());
    }

    fn response(&mut self) {
        let record = self.source.record;
        if record.status.is_some() {
            self.one("code", Plain::ResponseCode);
        }
        self.one("code_details", Plain::ResponseCodeDetails);
        let flags: u64 = record.flags.iter().map(bit).sum();
        self.fields.insert("flags".into(), flags.into());
        self.one("grpc_status", Plain::GrpcStatusNumber);
        self.one("size", Plain::BytesSent);
        self.fields.insert(
            "total_size".into(),
            (record.bytes_sent + record.response_headers_bytes).into(),
        );
        let (headers, trailers) = (all(&record.response_headers), all(&record.trailers));
        self.fields.insert("headers".into(), headers.into());
        self.fields.insert("trailers".into(), trailers.into());
    }

    fn connection(&mut self) {
        let connection = &*self.source.record.connection;
        let proven = |tls: &TlsInfo| tls.peer.is_some();
        let mtls = connection.tls.as_ref().is_some_and(proven);
        self.fields.insert("mtls".into(), mtls.into());
        self.one("id", Plain::ConnectionId);
        self.one("requested_server_name", Plain::RequestedServerName);
        self.one("tls_version", Plain::DownstreamTlsVersion);
        self.one("subject_local_certificate", Plain::DownstreamLocalSubject);
        self.one("subject_peer_certificate", Plain::DownstreamPeerSubject);
        self.one("dns_san_local_certificate", Plain::DownstreamLocalDnsSan);
        self.one("dns_san_peer_certificate", Plain::DownstreamPeerDnsSan);
        self.one("uri_san_local_certificate", Plain::DownstreamLocalUriSan);
        self.one("uri_san_peer_certificate", Plain::DownstreamPeerUriSan);
        self.one(
            "sha256_peer_certificate_digest",
            Plain::DownstreamPeerFingerprint256,
        );
        self.one("termination_details", Plain::ConnectionTerminationDetails);
    }

    fn upstream(&mut self) {
        self.plain(
            "address",
            Plain::UpstreamHost,
            "port",
            Plain::UpstreamRemotePort,
        );
        self.one("local_address", Plain::UpstreamLocalAddress);
        self.one("tls_version", Plain::UpstreamTlsVersion);
        self.one("uri_san_peer_certificate", Plain::UpstreamPeerUriSan);
        self.one(
            "transport_failure_reason",
            Plain::UpstreamTransportFailureReason,
        );
        self.one("request_attempt_count", Plain::UpstreamRequestAttemptCount);
    }

    fn xds(&mut self) {
        self.one("cluster_name", Plain::UpstreamClusterRaw);
        self.one("route_name", Plain::RouteName);
        self.one("filter_chain_name", Plain::FilterChainName);
        let direction = self.source.record.connection.listener.direction as u64;
        self.fields
            .insert("listener_direction".into(), json!(direction));
    }
}

/// All captured fields; several of one name are joined.
fn all(captured: &Captured) -> Map<String, Json> {
    let mut out = Map::new();
    let mut add = |name: &http::HeaderName| {
        if let Some(value) = captured.get(name) {
            let text = String::from_utf8_lossy(&value).into_owned();
            out.insert(name.as_str().to_owned(), text.into());
        }
    };
    match captured {
        Captured::None => {}
        Captured::Some(fields) => fields.iter().for_each(|(name, _)| add(name)),
        Captured::All(headers) => headers.keys().for_each(add),
    }
    out
}

/// The bit of a flag in `response.flags` (Envoy's `StreamInfo::CoreResponseFlag`).
fn bit(flag: Flag) -> u64 {
    let place = match flag {
        Flag::FailedLocalHealthCheck => 0,
        Flag::NoHealthyUpstream => 1,
        Flag::UpstreamRequestTimeout => 2,
        Flag::LocalReset => 3,
        Flag::UpstreamRemoteReset => 4,
        Flag::UpstreamConnectionFailure => 5,
        Flag::UpstreamConnectionTermination => 6,
        Flag::UpstreamOverflow => 7,
        Flag::NoRouteFound => 8,
        Flag::DelayInjected => 9,
        Flag::FaultInjected => 10,
        Flag::UnauthorizedExternalService => 12,
        Flag::RateLimited => 11,
        Flag::RateLimitServiceError => 13,
        Flag::DownstreamConnectionTermination => 14,
        Flag::UpstreamRetryLimitExceeded => 15,
        Flag::StreamIdleTimeout => 16,
        Flag::DownstreamProtocolError => 18,
        Flag::UpstreamMaxStreamDurationReached => 19,
        Flag::NoFilterConfigFound => 21,
        Flag::DurationTimeout => 22,
        Flag::UpstreamProtocolError => 23,
        Flag::NoClusterFound => 24,
        Flag::DropOverload => 27,
        Flag::DownstreamRemoteReset => 28,
        Flag::UnconditionalDropOverload => 29,
    };
    1 << place
}
