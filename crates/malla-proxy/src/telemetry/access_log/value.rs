//! What each format command comes to for a record.

mod address;
mod grpc;
mod query;
mod time;
mod tls;

pub(super) use self::query::CLIENT_CERT;
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, Version, header};
use jiff::tz::TimeZone;
use malla_proxy_config::format::{
    Field, HostOrigin, MetadataSource, Milestone, Operator, PathOrigin, Plain, StateForm,
};
use malla_proxy_config::metadata::{Metadata, Value as Tree};
use malla_proxy_config::request::split_path;
use malla_runtime::socket::measure::round_trip;
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::files::Files;
use super::{expression, json};
use crate::telemetry::record::{Captured, Moment, Record};
use crate::tls::Env;

pub(super) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// A command's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Not known: `-`, or `null`.
    None,
    /// Known not to be: nothing, or `null`.
    Nothing,
    /// Text.
    Text(&'a str),
    /// Bytes of a header.
    Bytes(Cow<'a, [u8]>),
    /// A number, also in JSON.
    Number(u64),
    /// An address with its port.
    Socket(SocketAddr),
    /// An address without port.
    Ip(IpAddr),
    /// Text made for this.
    Owned(String),
    /// A moment, as ISO 8601 with milliseconds.
    Time(SystemTime),
    /// A text that is quoted where the line is not JSON itself.
    Quoted(&'a str),
    /// JSON, also in JSON.
    Json(serde_json::Value),
    /// What CEL has come to: printed, and as JSON.
    Cel(String, serde_json::Value),
}

impl Value<'_> {
    /// Appends the value as text.
    pub fn write(&self, missing: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend_from_slice(missing),
            Self::Nothing => {}
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Number(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes())
            }
            Self::Socket(address) => write_display(address, out),
            Self::Ip(address) => write_display(address, out),
            Self::Owned(text) => out.extend_from_slice(text.as_bytes()),
            Self::Time(time) => time::write_time(*time, out),
            Self::Json(serde_json::Value::String(text)) => out.extend_from_slice(text.as_bytes()),
            Self::Quoted(text) => json::quote(text.as_bytes(), out),
            Self::Cel(text, _) => out.extend_from_slice(text.as_bytes()),
            Self::Json(value) => json::write_value(value, out),
        }
    }

    /// The value as text, if there is one.
    pub fn as_text(&self) -> Option<String> {
        if *self == Self::None {
            return None;
        }
        let mut out = Vec::new();
        self.write(b"", &mut out);
        Some(String::from_utf8_lossy(&out).into_owned())
    }
}

fn write_display(value: &impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing into a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// What is the same for every request of the process.
#[derive(Clone)]
pub struct Environment {
    /// `%HOSTNAME%`.
    pub hostname: Arc<str>,
    /// `%ENVIRONMENT(X)%`.
    pub env: Env,
    /// Where `%START_TIME_LOCAL%` is.
    pub zone: TimeZone,
    /// `%FILE_CONTENT(X)%`.
    pub files: Files,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// Where values come from: the record, and the live messages where they have not moved on yet.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The record.
    pub record: &'a Record,
    /// The process.
    pub environment: &'a Environment,
    /// Request headers while they are here; else the captured ones count.
    pub request: Option<&'a HeaderMap>,
    /// Response headers and status while they are here; else the captured ones count.
    pub response: Option<(&'a HeaderMap, StatusCode)>,
}

impl<'a> Source<'a> {
    /// What the command comes to.
    pub fn value(&self, operator: &'a Operator) -> Value<'a> {
        match operator {
            Operator::Request(main, other) => {
                self.either(main, other.as_ref(), |field| self.request_field(field))
            }
            Operator::RequestWithoutQuery(main, other) => {
                let value = self.either(main, other.as_ref(), |field| self.request_field(field));
                value.as_text().map_or(Value::None, |text| {
                    Value::Owned(split_path(&text).0.to_owned())
                })
            }
            Operator::Response(main, other) => {
                self.either(main, other.as_ref(), |field| self.response_field(field))
            }
            Operator::Trailer(main, other) => {
                self.either(main, other.as_ref(), |field| match field {
                    Field::Header(name) => captured(&self.record.trailers, name),
                    _ => Value::None,
                })
            }
            Operator::QueryParam(name) => self.query_param(name),
            Operator::Path { query, original } => self.path(*query, *original),
            Operator::DecodedQuery => self.decoded_query(),
            Operator::Time { of, format } => self.moment(*of, format),
            Operator::CommonDuration { start, end, unit } => {
                let (start, end) = (self.milestone(*start), self.milestone(*end));
                match (start, end) {
                    (Some(start), Some(end)) if start <= end => {
                        let passed = end.saturating_duration_since(start).as_nanos();
                        let units = passed / u128::from((*unit).max(1));
                        Value::Number(u64::try_from(units).unwrap_or(u64::MAX))
                    }
                    _ => Value::None,
                }
            }
            Operator::Plain(plain) => self.plain(*plain),
            Operator::Network(plain, bits) => self.network(*plain, *bits),
            Operator::ServerName { host_first, host } => self.server_name(*host_first, *host),
            Operator::Details => text(self.record.details.as_deref()),
            Operator::GrpcStatusSnake => self.grpc_snake(),
            Operator::Metadata {
                source,
                namespace,
                path,
            } => self.metadata(*source, namespace, path),
            Operator::FilterState { key, form } => self.filter_state(key, *form),
            Operator::Environment { name, unset } => match (self.environment.env)(name) {
                Some(text) => Value::Owned(text),
                None => unset.map_or(Value::None, Value::Text),
            },
            Operator::FileContent(path) => {
                let content = self.environment.files.content(path);
                content.map_or(Value::None, |text| Value::Owned(text.as_ref().to_owned()))
            }
            Operator::ForwardedCert(key) => self.forwarded_cert(key),
            Operator::Expression { expression, typed } => {
                expression::value(expression, self, *typed)
            }
            Operator::Coalesce(operators) => self.coalesce(operators),
        }
    }

    fn either(
        &self,
        main: &'a Field,
        other: Option<&'a Field>,
        get: impl Fn(&'a Field) -> Value<'a>,
    ) -> Value<'a> {
        match (get(main), other) {
            (Value::None, Some(other)) => get(other),
            (value, _) => value,
        }
    }

    /// A field of the request.
    pub fn request_field(&self, field: &Field) -> Value<'a> {
        let record = self.record;
        let header = |name: &HeaderName| match self.request {
            Some(headers) => live(headers, name),
            None => captured(&record.request_headers, name),
        };
        match field {
            Field::Method => record
                .method
                .as_ref()
                .map_or(Value::None, |method| Value::Text(method.as_str())),
            Field::Path => record
                .path
                .as_ref()
                .map_or(Value::None, |path| Value::Text(path.as_str())),
            Field::Scheme => Value::Text(record.scheme),
            Field::Authority => header(&header::HOST),
            Field::Status => Value::None,
            // Not a header here until it goes upstream, but users know it by this name.
            Field::Header(name) if name == "x-envoy-original-path" => match &record.original_path {
                Some(path) => Value::Text(path.as_str()),
                None => header(name),
            },
            Field::Header(name) => header(name),
        }
    }

    fn response_field(&self, field: &Field) -> Value<'a> {
        match (field, self.response) {
            (Field::Header(name), Some((headers, _))) => live(headers, name),
            (Field::Header(name), None) => captured(&self.record.response_headers, name),
            (Field::Status, Some((_, status))) => Value::Number(status.as_u16().into()),
            (Field::Status, None) => self
                .record
                .status
                .map_or(Value::None, |status| Value::Number(status.as_u16().into())),
            (Field::Method | Field::Path | Field::Scheme | Field::Authority, _) => Value::None,
        }
    }

    fn path(&self, query: bool, origin: PathOrigin) -> Value<'a> {
        let (current, original) = (
            self.record.path.as_ref(),
            self.record.original_path.as_ref(),
        );
        let path = match origin {
            PathOrigin::Current => current,
            PathOrigin::Original => original,
            PathOrigin::OriginalOrCurrent => original.or(current),
        };
        match path {
            None => Value::None,
            Some(path) if query => Value::Text(path.as_str()),
            Some(path) => Value::Text(path.path()),
        }
    }

    /// Milliseconds from start to end, once it ended.
    pub fn duration(&self) -> Option<u64> {
        self.record
            .end
            .map(|end| millis(end.saturating_duration_since(self.record.start)))
    }

    fn milestone(&self, milestone: Milestone) -> Option<Instant> {
        let record = self.record;
        let attempt = &record.attempt;
        let handshake = || record.connection.tls.as_ref()?.handshake;
        match milestone {
            Milestone::DownstreamReceiveBegin => return Some(record.start),
            Milestone::UpstreamConnectBegin => return attempt.opened.map(|opened| opened.begun),
            Milestone::UpstreamConnectEnd => return attempt.opened.map(|opened| opened.connected),
            Milestone::UpstreamHandshakeEnd => return attempt.opened?.secured,
            Milestone::DownstreamHandshakeBegin => return handshake().map(|(begun, _)| begun),
            Milestone::DownstreamHandshakeEnd => return handshake().map(|(_, end)| end),
            _ => {}
        }
        record.protocol?; // The rest is a request's.
        match milestone {
            Milestone::DownstreamReceiveEnd => record.progress.request_end.get(),
            Milestone::UpstreamSendBegin => attempt.connected,
            Milestone::UpstreamSendEnd => attempt.request_sent,
            Milestone::UpstreamReceiveBegin => attempt.first_byte,
            Milestone::UpstreamBodyBegin => record.body_begun,
            Milestone::UpstreamReceiveEnd => record.answer_ended,
            Milestone::DownstreamSendBegin => record.first_byte_sent,
            Milestone::DownstreamSendEnd => record.end,
            _ => None,
        }
    }

    /// Of a request; connections have no such moments.
    fn of_request(&self, moment: Option<Instant>) -> Value<'a> {
        self.since_start(moment.filter(|_| self.record.protocol.is_some()))
    }

    fn since_start(&self, moment: Option<Instant>) -> Value<'a> {
        moment.map_or(Value::None, |moment| {
            Value::Number(millis(moment.saturating_duration_since(self.record.start)))
        })
    }

    /// What a command without an argument comes to.
    pub fn plain(&self, plain: Plain) -> Value<'a> {
        let record = self.record;
        let connection = &*record.connection;
        match plain {
            Plain::Duration => self.duration().map_or(Value::None, Value::Number),
            Plain::RequestDuration => self.of_request(record.progress.request_end.get()),
            Plain::RequestTxDuration => self.of_request(record.attempt.request_sent),
            Plain::ResponseDuration => self.of_request(record.attempt.first_byte),
            Plain::ResponseTxDuration => match (record.attempt.first_byte, record.end) {
                (Some(first), Some(end)) if record.protocol.is_some() => {
                    Value::Number(millis(end.saturating_duration_since(first)))
                }
                _ => Value::None,
            },
            Plain::UpstreamConnectionPoolReadyDuration => {
                self.since_start(record.attempt.connected)
            }
            Plain::DownstreamHandshakeDuration => {
                let handshake = connection.tls.as_ref().and_then(|tls| tls.handshake);
                self.since_start(handshake.map(|(_, end)| end))
            }
            // Of QUIC.
            Plain::RoundtripDuration => Value::None,
            Plain::BytesRetransmitted | Plain::PacketsRetransmitted => Value::Number(0),
            Plain::BytesReceived => Value::Number(record.progress.received.get()),
            Plain::BytesSent => Value::Number(record.bytes_sent),
            Plain::Protocol => record
                .protocol
                .map_or(Value::None, |it| Value::Text(protocol(it))),
            Plain::UpstreamProtocol => record
                .attempt
                .protocol
                .map_or(Value::None, |it| Value::Text(protocol(it))),
            Plain::ResponseCode => {
                Value::Number(record.status.map_or(0, |status| status.as_u16().into()))
            }
            Plain::ResponseCodeDetails => match record.details.as_deref() {
                Some(details) if details.contains(char::is_whitespace) => {
                    Value::Owned(details.replace(char::is_whitespace, "_"))
                }
                details => text(details),
            },
            Plain::ConnectionTerminationDetails => text(record.termination.as_deref()),
            Plain::ResponseFlags => self.flags(super::super::flags::Flag::short),
            Plain::ResponseFlagsLong => self.flags(super::super::flags::Flag::long),
            Plain::LocalReplyBody => match &record.local_reply {
                Some(body) => Value::Bytes(Cow::Borrowed(body)),
                None => Value::Text(""),
            },
            Plain::RouteName => text(record.route_name()),
            Plain::AccessLogType => Value::Text(record.log_type().1),
            Plain::QueryParams => text(record.path.as_ref().and_then(|path| path.query())),
            Plain::Hostname => Value::Text(&self.environment.hostname),
            Plain::GrpcStatus => self.grpc_name(),
            Plain::GrpcStatusNumber => self
                .grpc_status()
                .map_or(Value::None, |code| Value::Number(code.into())),
            Plain::FilterChainName => {
                text(Some(&*connection.chain.name).filter(|name| !name.is_empty()))
            }
            Plain::ConnectionId => Value::Number(connection.id),
            Plain::RequestedServerName => text(connection.server_name.as_deref()),
            Plain::StreamId if record.moment == Moment::Connection => Value::None,
            Plain::StreamId if record.protocol.is_none() => Value::Owned(self.connection_uuid()),
            Plain::StreamId => {
                self.request_field(&Field::Header(HeaderName::from_static("x-request-id")))
            }
            Plain::UniqueId => Value::Owned(Uuid::new_v4().to_string()),
            Plain::TraceId => match &record.spans {
                Some(spans) => spans.trace_id().map_or(Value::None, Value::Owned),
                None => Value::None,
            },
            Plain::SpanId => match record.spans.as_ref().and_then(|spans| spans.ids()) {
                Some((_, span)) => Value::Owned(format!("{span:016x}")),
                None => Value::None,
            },
            Plain::ListenerName => Value::Text(&connection.listener.name),
            // No filter sets any.
            Plain::CustomFlags => Value::Text(""),
            Plain::VirtualClusterName => text(record.virtual_cluster.as_deref()),
            Plain::RequestHeadersBytes => Value::Number(record.request_headers_bytes),
            Plain::ResponseHeadersBytes => Value::Number(record.response_headers_bytes),
            Plain::ResponseTrailersBytes => Value::Number(record.response_trailers_bytes),
            Plain::RouteResolutionCount => Value::Number(record.route_searches.into()),
            Plain::RouteResolutionTime => record.route_time.map_or(Value::None, |time| {
                Value::Number(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
            }),
            plain => self
                .address(plain)
                .or_else(|| self.counted(plain))
                .or_else(|| self.ends(plain))
                .unwrap_or_else(|| self.tls(plain)),
        }
    }

    fn flags(&self, word: impl Fn(super::super::flags::Flag) -> &'static str) -> Value<'a> {
        let mut flags = self.record.flags.iter();
        let Some(first) = flags.next() else {
            // Said even in JSON, where other missing values are null.
            return Value::Text("-");
        };
        match flags.next() {
            None => Value::Text(word(first)),
            Some(second) => {
                let words: Vec<_> = [first, second].into_iter().chain(flags).map(word).collect();
                Value::Owned(words.join(","))
            }
        }
    }

    /// What became of the connections; `None` if the command is something else.
    fn ends(&self, plain: Plain) -> Option<Value<'a>> {
        let record = self.record;
        Some(match plain {
            Plain::DownstreamCxRtt => match record.connection.socket.as_ref().map(round_trip) {
                Some(Ok(time)) => Value::Number(millis(time)),
                _ => Value::None,
            },
            Plain::DownstreamDetectedCloseType => Value::Text(record.closed.downstream.name()),
            Plain::UpstreamDetectedCloseType
                if record.attempt.endpoint.is_none()
                    && (record.protocol.is_some() || record.moment == Moment::Connection) =>
            {
                Value::None
            }
            Plain::UpstreamDetectedCloseType => Value::Text(record.closed.upstream.name()),
            Plain::DownstreamLocalCloseReason => text(record.closed.downstream_reason),
            Plain::UpstreamLocalCloseReason => text(record.closed.upstream_reason),
            Plain::DownstreamTransportFailureReason => text(
                record
                    .handshake_failure
                    .as_deref()
                    .filter(|text| !text.is_empty()),
            ),
            _ => return None,
        })
    }

    /// Bytes on the wire; `None` if the command is something else.
    fn counted(&self, plain: Plain) -> Option<Value<'a>> {
        let wire = &self.record.wire;
        Some(Value::Number(match plain {
            Plain::DownstreamWireBytesReceived => wire.downstream.received,
            Plain::DownstreamWireBytesSent => wire.downstream.sent,
            Plain::DownstreamHeaderBytesReceived => wire.downstream.heads_received,
            Plain::DownstreamHeaderBytesSent => wire.downstream.heads_sent,
            Plain::DownstreamDecompressedHeaderBytesReceived => wire.downstream.plain_received,
            Plain::DownstreamDecompressedHeaderBytesSent => wire.downstream.plain_sent,
            Plain::UpstreamWireBytesReceived => wire.upstream.received,
            Plain::UpstreamWireBytesSent => wire.upstream.sent,
            Plain::UpstreamHeaderBytesReceived => wire.upstream.heads_received,
            Plain::UpstreamHeaderBytesSent => wire.upstream.heads_sent,
            Plain::UpstreamDecompressedHeaderBytesReceived => wire.upstream.plain_received,
            Plain::UpstreamDecompressedHeaderBytesSent => wire.upstream.plain_sent,
            _ => return None,
        }))
    }

    /// A number for a TCP connection, the same in each of its lines.
    fn connection_uuid(&self) -> String {
        let connection = &*self.record.connection;
        let since = connection
            .accepted_at
            .duration_since(SystemTime::UNIX_EPOCH);
        let what = format!(
            "{} {} {} {}",
            self.environment.hostname,
            since.unwrap_or_default().as_nanos(),
            connection.id,
            connection.direct_remote,
        );
        let random = xxh3_128(what.as_bytes()).to_be_bytes();
        uuid::Builder::from_random_bytes(random)
            .into_uuid()
            .to_string()
    }

    /// SNI or the host, whichever is asked for first and is there.
    fn server_name(&self, host_first: bool, host: HostOrigin) -> Value<'a> {
        let sni = || self.plain(Plain::RequestedServerName);
        if self.record.protocol.is_none() {
            return sni();
        }
        let original = || self.request_field(&Field::Header(ORIGINAL_HOST));
        let current = || self.request_field(&Field::Authority);
        let host = || match host {
            HostOrigin::Current => current(),
            HostOrigin::Original => original(),
            HostOrigin::OriginalOrCurrent => or(original(), current),
        };
        if host_first { host() } else { or(sni(), host) }
    }

    /// The first of them that says something.
    fn coalesce(&self, operators: &'a [(Operator, Option<usize>)]) -> Value<'a> {
        for (operator, length) in operators {
            let value = self.value(operator);
            let Some(mut text) = value.as_text() else {
                continue;
            };
            if let Some(length) = length {
                cut(&mut text, *length);
            }
            return Value::Owned(text);
        }
        Value::None
    }

    /// `PLAIN` as it is, else as JSON.
    fn filter_state(&self, key: &str, form: StateForm) -> Value<'a> {
        let state = self.record.state.as_deref();
        match (state.and_then(|state| state.objects.get(key)), form) {
            (None, _) | (_, StateForm::Field | StateForm::Upstream) => Value::None,
            (Some(text), StateForm::Plain) => Value::Text(text),
            (Some(text), StateForm::Typed) => Value::Quoted(text),
        }
    }

    fn metadata(&self, source: MetadataSource, namespace: &str, path: &[String]) -> Value<'a> {
        let record = self.record;
        let metadata: Option<&Metadata> = match source {
            MetadataSource::Dynamic => record.state.as_ref().map(|state| &state.metadata),
            MetadataSource::Cluster => record.cluster.as_ref().map(|cluster| &cluster.metadata),
            MetadataSource::Route => record
                .selected
                .as_ref()
                .map(|selected| &selected.route().metadata),
            MetadataSource::VirtualHost => record
                .selected
                .as_ref()
                .map(|selected| &selected.vhost().metadata),
            MetadataSource::FilterChain => Some(&record.connection.chain.metadata),
            MetadataSource::UpstreamHost => record
                .attempt
                .endpoint
                .as_ref()
                .map(|endpoint| &endpoint.metadata),
            MetadataSource::Listener => Some(&record.connection.listener.metadata),
        };
        let Some(metadata) = metadata else {
            return Value::None;
        };
        let value = if path.is_empty() {
            metadata
                .get(namespace)
                .map(|object| Tree::Object(object.clone()))
        } else {
            metadata.at(namespace, path).cloned()
        };
        match value {
            None => Value::None,
            Some(Tree::String(text)) => Value::Owned(text),
            Some(Tree::Null) => Value::None,
            Some(other) => Value::Json(other.into_json()),
        }
    }
}

fn text(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::None, Value::Text)
}

/// The value, or another one where it says nothing.
fn or<'a>(value: Value<'a>, other: impl FnOnce() -> Value<'a>) -> Value<'a> {
    match value {
        Value::None => other(),
        value => value,
    }
}

/// Cuts a text to so many bytes, or fewer where a character would be broken.
fn cut(text: &mut String, length: usize) {
    text.truncate(text.floor_char_boundary(length));
}

/// Of several fields of one name the first, as in Envoy.
fn captured<'a>(from: &'a Captured, name: &HeaderName) -> Value<'a> {
    from.first(name)
        .map_or(Value::None, |value| Value::Bytes(Cow::Borrowed(value)))
}

fn live<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Value<'a> {
    headers.get(name).map_or(Value::None, |value| {
        Value::Bytes(Cow::Borrowed(value.as_bytes()))
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `HTTP/1.1` and so on.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
