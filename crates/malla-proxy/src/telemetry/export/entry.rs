//! Log entries as Envoy's access log service has them (`envoy/data/accesslog/v3/accesslog.proto`).
//!
//! Field numbers are that file's. Wire bytes and header bytes per connection are not counted by this proxy and left out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Method, Version, header};
use malla_proxy_config::access_log::GrpcLog;
use malla_proxy_config::address::Address;
use tokio::time::Instant;

use crate::connection::{Connection, End, TlsInfo};
use crate::telemetry::access_log::{Source, write_text};
use crate::telemetry::flags::Flag;
use crate::telemetry::record::{Captured, Record};
use crate::telemetry::wire;

/// `AccessLogType`.
const DOWNSTREAM_END: u64 = 6;
const TCP_CONNECTION_END: u64 = 3;
const REFERER: HeaderName = header::REFERER;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Request headers every HTTP entry tells.
pub const REQUEST_HEADERS: [HeaderName; 5] = [
    header::HOST,
    header::USER_AGENT,
    REFERER,
    FORWARDED_FOR,
    REQUEST_ID,
];

/// A number that is not the default.
fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        wire::uint(out, field, value);
    }
}

/// A text that is not empty.
fn text(out: &mut Vec<u8>, field: u32, value: &str) {
    if !value.is_empty() {
        wire::text(out, field, value.as_bytes());
    }
}

/// One `HTTPAccessLogEntries.log_entry`.
pub fn http(out: &mut Vec<u8>, log: &GrpcLog, source: &Source<'_>) {
    let record = source.record;
    wire::message(out, 1, |out| {
        wire::message(out, 1, |out| common(out, log, source, DOWNSTREAM_END));
        let version = match record.protocol {
            Some(Version::HTTP_09 | Version::HTTP_10) => 1,
            Some(Version::HTTP_11) => 2,
            Some(Version::HTTP_2) => 3,
            Some(_) => 4,
            None => 0,
        };
        number(out, 2, version);
        wire::message(out, 3, |out| request(out, log, record));
        wire::message(out, 4, |out| response(out, log, record));
    });
}

/// One `TCPAccessLogEntries.log_entry`.
pub fn tcp(out: &mut Vec<u8>, log: &GrpcLog, source: &Source<'_>) {
    let record = source.record;
    wire::message(out, 1, |out| {
        wire::message(out, 1, |out| common(out, log, source, TCP_CONNECTION_END));
        wire::message(out, 2, |out| {
            number(out, 1, record.progress.received.get());
            number(out, 2, record.bytes_sent);
        });
    });
}

fn common(out: &mut Vec<u8>, log: &GrpcLog, source: &Source<'_>, kind: u64) {
    let record = source.record;
    let (connection, attempt) = (&*record.connection, &record.attempt);
    end(out, 2, &record.remote);
    end(out, 3, &connection.local);
    if connection.tls.is_some() || connection.server_name.is_some() {
        wire::message(out, 4, |out| tls(out, connection));
    }
    let since = record.start_wall.duration_since(UNIX_EPOCH);
    duration(out, 5, since.unwrap_or_default());
    let mut after = |field: u32, moment: Option<Instant>| {
        if let Some(moment) = moment {
            duration(out, field, moment.saturating_duration_since(record.start));
        }
    };
    after(6, record.progress.request_end.get());
    after(7, attempt.connected);
    after(8, attempt.request_sent);
    after(9, attempt.first_byte);
    after(10, attempt.first_byte.and(record.end));
    after(11, record.first_byte_sent.or(record.end));
    after(12, record.end);
    match (&attempt.endpoint, attempt.remote) {
        (_, Some(remote)) => socket(out, 13, remote),
        (Some(endpoint), None) => address(out, 13, &endpoint.address),
        (None, None) => {}
    }
    if let Some(local) = attempt.local {
        socket(out, 14, local);
    }
    let cluster = record.cluster.as_ref().map(|cluster| &*cluster.name);
    if attempt.endpoint.is_some() {
        text(
            out,
            15,
            cluster.or(record.cluster_name.as_deref()).unwrap_or(""),
        );
    }
    if !record.flags.is_empty() {
        wire::message(out, 16, |out| {
            for flag in record.flags.iter() {
                if flag == Flag::UnauthorizedExternalService {
                    // Its details: the reason `EXTERNAL_SERVICE`.
                    wire::message(out, 13, |out| wire::uint(out, 1, 1));
                } else if let Some(field) = flag_field(flag) {
                    wire::uint(out, field, 1);
                }
            }
        });
    }
    text(out, 18, attempt.transport_failure.as_deref().unwrap_or(""));
    text(out, 19, record.route_name().unwrap_or(""));
    end(out, 20, &connection.direct_remote);
    tags(out, log, source);
    if let Some(end) = record.end {
        duration(out, 23, end.saturating_duration_since(record.start));
    }
    number(out, 24, record.attempts.into());
    text(out, 25, record.termination.as_deref().unwrap_or(""));
    if let Some(id) = record.request_headers.get(&REQUEST_ID) {
        wire::text(out, 26, &id);
    }
    wire::uint(out, 33, kind);
}

/// `AccessLogCommon.custom_tags`.
fn tags(out: &mut Vec<u8>, log: &GrpcLog, source: &Source<'_>) {
    let mut value = Vec::new();
    for tag in &log.tags {
        value.clear();
        write_text(&tag.value, source, b"", &mut value);
        match &tag.default {
            _ if !value.is_empty() => wire::entry(out, 22, &tag.name, &value),
            Some(default) => wire::entry(out, 22, &tag.name, default.as_bytes()),
            None => {}
        }
    }
}

/// A `Timestamp` or a `Duration`: they look alike.
fn duration(out: &mut Vec<u8>, field: u32, value: Duration) {
    wire::message(out, field, |out| {
        number(out, 1, value.as_secs());
        number(out, 2, value.subsec_nanos().into());
    });
}

/// An `Address` with a `SocketAddress`.
fn socket(out: &mut Vec<u8>, field: u32, value: SocketAddr) {
    use std::io::Write as _;
    wire::message(out, field, |out| {
        wire::message(out, 1, |out| {
            let mut text = [0; 48];
            let mut rest = &mut text[..];
            // The longest IPv6 address is shorter.
            let _ = write!(rest, "{}", value.ip());
            let length = 48 - rest.len();
            wire::bytes(out, 2, text.get(..length).unwrap_or_default());
            number(out, 3, value.port().into());
        });
    });
}

fn address(out: &mut Vec<u8>, field: u32, value: &Address) {
    match value.socket() {
        Some(value) => socket(out, field, value),
        None => pipe(out, field, &value.to_string()),
    }
}

fn end(out: &mut Vec<u8>, field: u32, value: &End) {
    match value {
        End::Ip(value) => socket(out, field, *value),
        End::Unix(name) => pipe(out, field, name),
    }
}

/// An `Address` with a `Pipe`.
fn pipe(out: &mut Vec<u8>, field: u32, name: &str) {
    wire::message(out, field, |out| {
        wire::message(out, 2, |out| text(out, 1, name));
    });
}

fn tls(out: &mut Vec<u8>, connection: &Connection) {
    if let Some(tls) = &connection.tls {
        number(out, 1, if tls.version == "TLSv1.3" { 4 } else { 3 });
        if let Some(id) = cipher_id(tls.cipher) {
            wire::message(out, 2, |out| number(out, 1, id));
        }
    }
    text(out, 3, connection.server_name.as_deref().unwrap_or(""));
    if let Some(tls) = &connection.tls {
        certificates(out, tls);
    }
}

fn certificates(out: &mut Vec<u8>, tls: &TlsInfo) {
    let names = |out: &mut Vec<u8>, uris: &[Arc<str>], dns: &[Arc<str>]| {
        for uri in uris {
            wire::message(out, 1, |out| text(out, 1, uri));
        }
        for name in dns {
            wire::message(out, 1, |out| text(out, 2, name));
        }
    };
    wire::message(out, 4, |out| {
        names(out, &tls.local_uri_sans, &tls.local_dns_sans);
        text(out, 2, &tls.local_subject);
    });
    wire::message(out, 5, |out| {
        if let Some(peer) = &tls.peer {
            names(out, &peer.uri_sans, &peer.dns_sans);
            text(out, 2, &peer.subject);
            text(out, 3, &peer.issuer);
        }
    });
}

/// Numbers of the suites this proxy has (IANA "TLS Cipher Suites"), by their OpenSSL names.
fn cipher_id(name: &str) -> Option<u64> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}

/// The field of `ResponseFlags`; flags without one are newer than the message.
fn flag_field(flag: Flag) -> Option<u32> {
    Some(match flag {
        Flag::FailedLocalHealthCheck => 1,
        Flag::NoHealthyUpstream => 2,
        Flag::UpstreamRequestTimeout => 3,
        Flag::LocalReset => 4,
        Flag::UpstreamRemoteReset => 5,
        Flag::UpstreamConnectionFailure => 6,
        Flag::UpstreamConnectionTermination => 7,
        Flag::UpstreamOverflow => 8,
        Flag::NoRouteFound => 9,
        Flag::DelayInjected => 10,
        Flag::FaultInjected => 11,
        Flag::RateLimited => 12,
        Flag::RateLimitServiceError => 14,
        Flag::DownstreamConnectionTermination => 15,
        Flag::UpstreamRetryLimitExceeded => 16,
        Flag::StreamIdleTimeout => 17,
        Flag::DownstreamProtocolError => 19,
        Flag::UpstreamMaxStreamDurationReached => 20,
        Flag::NoFilterConfigFound => 22,
        Flag::DurationTimeout => 23,
        Flag::UpstreamProtocolError => 24,
        Flag::NoClusterFound => 25,
        Flag::DownstreamRemoteReset => 28,
        Flag::DropOverload
        | Flag::UnconditionalDropOverload
        | Flag::UnauthorizedExternalService => return None,
    })
}

fn request(out: &mut Vec<u8>, log: &GrpcLog, record: &Record) {
    number(out, 1, record.method.as_ref().map_or(0, method_number));
    text(out, 2, record.scheme);
    let path = record.path.as_ref().map_or("", |path| path.as_str());
    let mut header = |field: u32, name: &HeaderName| {
        if let Some(value) = record.request_headers.get(name) {
            wire::text(out, field, &value);
        }
    };
    header(3, &header::HOST);
    header(6, &header::USER_AGENT);
    header(7, &REFERER);
    header(8, &FORWARDED_FOR);
    header(9, &REQUEST_ID);
    text(out, 5, path);
    let original = record.original_path.as_ref();
    text(out, 10, original.map_or("", |path| path.as_str()));
    number(out, 11, record.request_headers_bytes);
    number(out, 12, record.progress.received.get());
    headers(out, 13, &log.request_headers, &record.request_headers);
}

fn response(out: &mut Vec<u8>, log: &GrpcLog, record: &Record) {
    if let Some(status) = record.status {
        wire::message(out, 1, |out| wire::uint(out, 1, status.as_u16().into()));
    }
    number(out, 2, record.response_headers_bytes);
    number(out, 3, record.bytes_sent);
    headers(out, 4, &log.response_headers, &record.response_headers);
    headers(out, 5, &log.trailers, &record.trailers);
    text(out, 6, record.details.as_deref().unwrap_or(""));
}

fn headers(out: &mut Vec<u8>, field: u32, names: &[HeaderName], from: &Captured) {
    for name in names {
        if let Some(value) = from.get(name) {
            wire::entry(out, field, name.as_str(), &value);
        }
    }
}

/// `envoy.config.core.v3.RequestMethod`.
fn method_number(method: &Method) -> u64 {
    const METHODS: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    let at = METHODS.iter().position(|known| known == method);
    at.map_or(0, |at| at as u64 + 1)
}

/// Bytes of a request's head, as Envoy counts them: with its pseudo-headers, `:authority` in the place of `host`.
pub fn request_bytes(headers: &HeaderMap, record: &Record) -> u64 {
    const NAMES: usize = ":method:scheme:path:authority".len() - "host".len();
    let method = record.method.as_ref().map_or("", Method::as_str);
    let path = record.path.as_ref().map_or("", |path| path.as_str());
    let pseudo = NAMES + method.len() + record.scheme.len() + path.len();
    header_bytes(headers) + pseudo as u64
}

/// Bytes of a response's head, likewise, with the `date` that the codec adds.
pub fn response_bytes(headers: &HeaderMap) -> u64 {
    const STATUS: u64 = ":status200".len() as u64;
    const DATE: u64 = "dateSun, 06 Nov 1994 08:49:37 GMT".len() as u64;
    let date = if headers.contains_key(header::DATE) {
        0
    } else {
        DATE
    };
    header_bytes(headers) + STATUS + date
}

/// Names and values, without what is between them.
pub(crate) fn header_bytes(headers: &HeaderMap) -> u64 {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.as_str().len() + value.len()) as u64)
        .sum()
}
