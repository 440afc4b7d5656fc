//! What each format command comes to for a record.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use malla_proxy_config::address::Address;
use malla_proxy_config::format::{Field, MetadataSource, Operator, PathOrigin, Plain};
use malla_proxy_config::metadata::{Metadata, Value as Tree};
use malla_proxy_config::request::split_path;
use tokio::time::Instant;

use super::grpc_from_http;
use crate::connection::{PeerCertificate, TlsInfo};
use crate::telemetry::record::{Captured, Record};
use crate::tls::Env;
use crate::upstream::UpstreamTlsInfo;

/// A command's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Not known: `-`, or `null`.
    None,
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
}

impl Value<'_> {
    /// Appends the value as text.
    pub fn write(&self, missing: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend_from_slice(missing),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Number(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes())
            }
            Self::Socket(address) => write_display(address, out),
            Self::Ip(address) => write_display(address, out),
            Self::Owned(text) => out.extend_from_slice(text.as_bytes()),
            Self::Time(time) => write_time(*time, out),
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

/// `2026-11-21T03:04:05.678Z`, by hand: this is in every log line.
fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let mut digits = |mut number: u64, width: usize, end: u8| {
        let mut text = [b'0'; 8];
        for slot in text.iter_mut().take(width).rev() {
            *slot = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
        out.extend(text.into_iter().take(width));
        out.push(end);
    };
    digits(year, 4, b'-');
    digits(month, 2, b'-');
    digits(day, 2, b'T');
    digits(second / 3600, 2, b':');
    digits(second / 60 % 60, 2, b':');
    digits(second % 60, 2, b'.');
    digits(since.subsec_millis().into(), 3, b'Z');
}

/// Days since 1970 to a date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// What is the same for every request of the process.
#[derive(Clone)]
pub struct Environment {
    /// `%HOSTNAME%`.
    pub hostname: Arc<str>,
    /// `%ENVIRONMENT(X)%`.
    pub env: Env,
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
            Operator::StartTime(None) => Value::Time(self.record.start_wall),
            Operator::StartTime(Some(format)) => strftime(self.record.start_wall, format),
            Operator::Plain(plain) => self.plain(*plain),
            Operator::Metadata {
                source,
                namespace,
                path,
            } => self.metadata(*source, namespace, path),
            Operator::Environment(name) => {
                (self.environment.env)(name).map_or(Value::None, Value::Owned)
            }
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

    fn query_param(&self, name: &str) -> Value<'a> {
        let query = self
            .record
            .path
            .as_ref()
            .and_then(|path| path.query())
            .unwrap_or("");
        let found = query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        });
        found.map_or(Value::None, Value::Text)
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
            Plain::RequestDuration => self.since_start(record.progress.request_end.get()),
            Plain::RequestTxDuration => self.since_start(record.attempt.request_sent),
            Plain::ResponseDuration => self.since_start(record.attempt.first_byte),
            Plain::ResponseTxDuration => match (record.attempt.first_byte, record.end) {
                (Some(first), Some(end)) => {
                    Value::Number(millis(end.saturating_duration_since(first)))
                }
                _ => Value::None,
            },
            Plain::UpstreamConnectionPoolReadyDuration => {
                self.since_start(record.attempt.connected)
            }
            Plain::DownstreamHandshakeDuration | Plain::RoundtripDuration => Value::None,
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
            Plain::ResponseCodeDetails => text(record.details.as_deref()),
            Plain::ConnectionTerminationDetails => text(record.termination.as_deref()),
            Plain::ResponseFlags => self.flags(super::super::flags::Flag::short),
            Plain::ResponseFlagsLong => self.flags(super::super::flags::Flag::long),
            Plain::RouteName => text(record.route_name()),
            Plain::AccessLogType => Value::Text("DownstreamEnd"),
            Plain::QueryParams => text(record.path.as_ref().and_then(|path| path.query())),
            Plain::Hostname => Value::Text(&self.environment.hostname),
            Plain::GrpcStatus => self
                .grpc_status()
                .map_or(Value::None, |code| Value::Text(grpc_name(code))),
            Plain::GrpcStatusNumber => self
                .grpc_status()
                .map_or(Value::None, |code| Value::Number(code.into())),
            Plain::FilterChainName => {
                text(Some(&*connection.chain.name).filter(|name| !name.is_empty()))
            }
            Plain::ConnectionId => Value::Number(connection.id),
            Plain::RequestedServerName => text(connection.server_name.as_deref()),
            Plain::StreamId => {
                self.request_field(&Field::Header(HeaderName::from_static("x-request-id")))
            }
            Plain::TraceId => match &record.spans {
                Some(spans) => spans.trace_id().map_or(Value::None, Value::Owned),
                None => Value::None,
            },
            Plain::VirtualClusterName
            | Plain::CustomFlags
            | Plain::UniqueId
            | Plain::RequestHeadersBytes
            | Plain::ResponseHeadersBytes => Value::None,
            plain => self.address(plain).unwrap_or_else(|| self.tls(plain)),
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

    /// Of gRPC requests only: what came, or what the HTTP status stands for.
    fn grpc_status(&self) -> Option<u32> {
        let record = self.record;
        let status = || record.grpc_status.or(record.status.map(grpc_from_http));
        record.grpc.then(status).flatten()
    }

    /// Addresses and upstream names; `None` if the command is something else.
    fn address(&self, plain: Plain) -> Option<Value<'a>> {
        let record = self.record;
        let (connection, attempt) = (&*record.connection, &record.attempt);
        let socket = |address: Option<SocketAddr>| address.map_or(Value::None, Value::Socket);
        let ip = |address: Option<SocketAddr>| {
            address.map_or(Value::None, |address| Value::Ip(address.ip()))
        };
        let port = |address: Option<SocketAddr>| {
            address.map_or(Value::None, |it| Value::Number(it.port().into()))
        };
        Some(match plain {
            Plain::DownstreamRemoteAddress => Value::Socket(record.remote),
            Plain::DownstreamRemoteAddressWithoutPort => Value::Ip(record.remote.ip()),
            Plain::DownstreamRemotePort => Value::Number(record.remote.port().into()),
            Plain::DownstreamDirectRemoteAddress => Value::Socket(connection.direct_remote),
            Plain::DownstreamDirectRemoteAddressWithoutPort => {
                Value::Ip(connection.direct_remote.ip())
            }
            Plain::DownstreamDirectRemotePort => {
                Value::Number(connection.direct_remote.port().into())
            }
            Plain::DownstreamLocalAddress => Value::Socket(connection.local),
            Plain::DownstreamLocalAddressWithoutPort => Value::Ip(connection.local.ip()),
            Plain::DownstreamLocalPort => Value::Number(connection.local.port().into()),
            Plain::DownstreamDirectLocalAddress => Value::Socket(connection.direct_local),
            Plain::DownstreamDirectLocalAddressWithoutPort => {
                Value::Ip(connection.direct_local.ip())
            }
            Plain::DownstreamDirectLocalPort => {
                Value::Number(connection.direct_local.port().into())
            }
            Plain::UpstreamLocalAddress => socket(attempt.local),
            Plain::UpstreamLocalAddressWithoutPort => ip(attempt.local),
            Plain::UpstreamLocalPort => port(attempt.local),
            Plain::UpstreamRemoteAddress => socket(attempt.remote),
            Plain::UpstreamRemoteAddressWithoutPort => ip(attempt.remote),
            Plain::UpstreamRemotePort => port(attempt.remote),
            Plain::UpstreamHost => match (&attempt.endpoint, attempt.remote) {
                (Some(endpoint), remote) => match (&endpoint.address, remote) {
                    (Address::Socket(address), _) => Value::Socket(*address),
                    (_, Some(remote)) => Value::Socket(remote),
                    (address, None) => Value::Owned(address.to_string()),
                },
                (None, remote) => socket(remote),
            },
            Plain::UpstreamHostName | Plain::UpstreamHostNameWithoutPort => self.host_name(plain),
            Plain::UpstreamCluster => match &record.cluster {
                Some(cluster) => Value::Text(&cluster.stat_name),
                None => text(record.cluster_name.as_deref()),
            },
            Plain::UpstreamClusterRaw => match &record.cluster {
                Some(cluster) => Value::Text(&cluster.name),
                None => text(record.cluster_name.as_deref()),
            },
            Plain::UpstreamTransportFailureReason => match attempt.transport_failure.as_deref() {
                // One word, as everything in a log line.
                Some(reason) => Value::Owned(reason.replace(' ', "_")),
                None => Value::None,
            },
            Plain::UpstreamRequestAttemptCount => Value::Number(record.attempts.into()),
            Plain::UpstreamConnectionId => attempt.connection_id.map_or(Value::None, Value::Number),
            _ => return None,
        })
    }

    fn host_name(&self, plain: Plain) -> Value<'a> {
        let Some(endpoint) = &self.record.attempt.endpoint else {
            return Value::None;
        };
        if endpoint.hostname.is_empty() {
            return match plain {
                Plain::UpstreamHostNameWithoutPort => endpoint
                    .address
                    .socket()
                    .map_or(Value::None, |address| Value::Ip(address.ip())),
                _ => Value::Owned(endpoint.address.to_string()),
            };
        }
        let name = &endpoint.hostname;
        match plain {
            Plain::UpstreamHostNameWithoutPort => Value::Text(
                name.rsplit_once(':')
                    .map_or(name.as_str(), |(host, _)| host),
            ),
            _ => Value::Text(name),
        }
    }

    fn tls(&self, plain: Plain) -> Value<'a> {
        let down = self.record.connection.tls.as_ref();
        let peer = down.and_then(|tls| tls.peer.as_deref());
        let up = self.record.attempt.tls.as_deref();
        let of = |get: fn(&TlsInfo) -> &str| text(down.map(get).filter(|text| !text.is_empty()));
        let by =
            |get: fn(&PeerCertificate) -> &str| text(peer.map(get).filter(|text| !text.is_empty()));
        let upstream =
            |get: fn(&UpstreamTlsInfo) -> &str| text(up.map(get).filter(|text| !text.is_empty()));
        match plain {
            Plain::DownstreamTlsVersion => of(|tls| tls.version),
            Plain::DownstreamTlsCipher => of(|tls| tls.cipher),
            Plain::DownstreamLocalSubject => of(|tls| &tls.local_subject),
            Plain::DownstreamLocalUriSan => list(down.map(|tls| tls.local_uri_sans.as_slice())),
            Plain::DownstreamLocalDnsSan => list(down.map(|tls| tls.local_dns_sans.as_slice())),
            Plain::DownstreamPeerUriSan => list(peer.map(|peer| peer.uri_sans.as_slice())),
            Plain::DownstreamPeerDnsSan => list(peer.map(|peer| peer.dns_sans.as_slice())),
            Plain::DownstreamPeerSubject => by(|peer| &peer.subject),
            Plain::DownstreamPeerIssuer => by(|peer| &peer.issuer),
            Plain::DownstreamPeerSerial => by(|peer| &peer.serial),
            Plain::DownstreamPeerFingerprint256 => by(|peer| &peer.sha256),
            Plain::DownstreamPeerCert => by(|peer| &peer.pem),
            Plain::UpstreamTlsVersion => upstream(|tls| tls.version),
            Plain::UpstreamTlsCipher => upstream(|tls| tls.cipher),
            Plain::UpstreamPeerUriSan => list(up.map(|tls| tls.peer_uri_sans.as_slice())),
            _ => Value::None,
        }
    }

    fn metadata(&self, source: MetadataSource, namespace: &str, path: &[String]) -> Value<'a> {
        let record = self.record;
        let metadata: Option<&Metadata> = match source {
            // No filter of this proxy writes dynamic metadata that formats read.
            MetadataSource::Dynamic => None,
            MetadataSource::Cluster => record.cluster.as_ref().map(|cluster| &cluster.metadata),
            MetadataSource::Route => record
                .selected
                .as_ref()
                .map(|selected| &selected.route().metadata),
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
            Some(other) => Value::Owned(other.into_json().to_string()),
        }
    }
}

fn text(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::None, Value::Text)
}

fn list<'a>(names: Option<&'a [Arc<str>]>) -> Value<'a> {
    match names.unwrap_or_default() {
        [] => Value::None,
        [one] => Value::Text(one),
        many => Value::Owned(many.join(",")),
    }
}

fn captured<'a>(from: &'a Captured, name: &HeaderName) -> Value<'a> {
    from.get(name).map_or(Value::None, Value::Bytes)
}

fn live<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Value<'a> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let Some(first) = values.next() else {
        return Value::None;
    };
    let mut out = Cow::Borrowed(first);
    for more in values {
        let all = out.to_mut();
        all.push(b',');
        all.extend_from_slice(more);
    }
    Value::Bytes(out)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn strftime<'a>(time: SystemTime, format: &str) -> Value<'a> {
    let Ok(timestamp) = jiff::Timestamp::try_from(time) else {
        return Value::None;
    };
    jiff::fmt::strtime::format(format, timestamp).map_or(Value::None, Value::Owned)
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

/// gRPC status names as Envoy prints them.
fn grpc_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(code as usize).copied().unwrap_or("InvalidCode")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::write_time;

    proptest! {
        #[test]
        fn moments_print_as_jiff_prints_them(millis in 0_u64..7_000_000_000_000) {
            let mut out = Vec::new();
            write_time(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
            let want = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
            prop_assert_eq!(String::from_utf8(out).unwrap(), want.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string());
        }
    }
}
