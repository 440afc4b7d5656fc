//! Active health checks: what is asked of every endpoint, how often, and how many answers decide.

use std::ops::Range;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::matcher::StringMatcher;
use crate::metadata::{Object, parse_struct};
use crate::pb::core::health_check as pb;
use crate::pb::{core, google, types};

/// Envoy's `no_traffic_interval`.
const DEFAULT_NO_TRAFFIC: Duration = Duration::from_secs(60);
/// Envoy's `response_buffer_size` in bytes.
const DEFAULT_RESPONSE_BUFFER: u64 = 1024;
/// A body is never kept beyond this to look something up in it.
const MAX_RESPONSE_BUFFER: u64 = 1 << 20;

/// `envoy.config.core.v3.HealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Limit of one check, connecting included.
    pub timeout: Duration,
    /// Waits between checks.
    pub intervals: Intervals,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_threshold: u32,
    /// Keep the connection between checks.
    pub reuse_connection: bool,
    /// Log each failure, not only the changes.
    pub log_failures: bool,
    /// Log each success.
    pub log_successes: bool,
    /// ALPN protocols offered instead of the cluster's.
    pub alpn: Vec<String>,
    /// Chooses the transport among the cluster's `transport_socket_matches` in place of the endpoint's metadata.
    pub transport_criteria: Option<Object>,
    /// What is asked.
    pub probe: Probe,
}

/// Waits between the checks of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    /// While it is healthy and stays so.
    pub healthy: Duration,
    /// While it is unhealthy and stays so.
    pub unhealthy: Duration,
    /// After a failure that is not yet enough to make it unhealthy.
    pub unhealthy_edge: Duration,
    /// After a success that is not yet enough to make it healthy.
    pub healthy_edge: Duration,
    /// While the cluster never had a connection.
    pub no_traffic: Duration,
    /// The same, of a healthy endpoint.
    pub no_traffic_healthy: Duration,
    /// The first check comes at a random moment within this.
    pub initial_jitter: Duration,
    /// Up to so much is added to each wait.
    pub jitter: Duration,
    /// Up to so many percent are added to each wait.
    pub jitter_percent: u32,
}

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A request.
    Http(Box<HttpProbe>),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
    /// A connection, and maybe bytes.
    Tcp(TcpProbe),
}

/// `HttpHealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// Host header; the cluster's name where there is none.
    pub host: Option<HeaderValue>,
    /// Method; GET unless told.
    pub method: Method,
    /// Path with query.
    pub path: http::uri::PathAndQuery,
    /// Headers added to the request; `true` adds another beside one that is there.
    pub add: Vec<(HeaderName, HeaderValue, bool)>,
    /// Headers left out.
    pub remove: Vec<HeaderName>,
    /// Statuses of a healthy endpoint.
    pub expected: Vec<Range<u16>>,
    /// Statuses that count one failure; any other unexpected one makes it unhealthy at once.
    pub retriable: Vec<Range<u16>>,
    /// Speak HTTP/2.
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` must say.
    pub service_name: Option<StringMatcher>,
    /// Pieces that must be in the body, in order.
    pub receive: Vec<Vec<u8>>,
    /// Bytes of the body they are looked for in.
    pub buffer: usize,
}

/// `GrpcHealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcProbe {
    /// The service asked for; empty is the server as a whole.
    pub service: String,
    /// `:authority`; the cluster's name where there is none.
    pub authority: Option<HeaderValue>,
    /// Further metadata.
    pub metadata: Vec<(HeaderName, HeaderValue, bool)>,
}

/// `TcpHealthCheck`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpProbe {
    /// Written once connected.
    pub send: Vec<u8>,
    /// Pieces that must come, in order; none is enough with the connection.
    pub receive: Vec<Vec<u8>>,
}

impl Intervals {
    /// The wait after a check. `pending`: it was not yet enough to change anything.
    pub fn after(&self, healthy: bool, pending: bool, traffic: bool) -> Duration {
        match (traffic, healthy, pending) {
            (true, true, false) => self.healthy,
            (true, true, true) => self.healthy_edge,
            (true, false, false) => self.unhealthy,
            (true, false, true) => self.unhealthy_edge,
            (false, true, false) => self.no_traffic_healthy,
            (false, ..) => self.no_traffic,
        }
    }

    /// `wait` with its jitter; `draws` are in `[0, 1)`.
    pub fn jittered(&self, wait: Duration, draws: [f64; 2]) -> Duration {
        let share = f64::from(self.jitter_percent) / 100.0;
        wait + wait.mul_f64(share * draws[0]) + self.jitter.mul_f64(draws[1])
    }
}

impl HealthCheck {
    pub(super) fn parse_all(
        wire: Vec<core::HealthCheck>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        if wire.len() > 1 {
            return Err(cx.invalid("health_checks", "takes one health check, as in Envoy"));
        }
        let parsed: Vec<Self> = cx.each("health_checks", wire, Self::parse)?;
        Ok(parsed.into_iter().next())
    }

    fn parse(wire: core::HealthCheck, cx: &mut Cx) -> Result<Self, Invalid> {
        let core::HealthCheck {
            timeout,
            interval,
            initial_jitter,
            interval_jitter,
            interval_jitter_percent,
            unhealthy_threshold,
            healthy_threshold,
            alt_port,
            reuse_connection,
            no_traffic_interval,
            no_traffic_healthy_interval,
            unhealthy_interval,
            unhealthy_edge_interval,
            healthy_edge_interval,
            event_log_path,
            event_logger,
            event_service,
            always_log_health_check_failures,
            always_log_health_check_success,
            tls_options,
            transport_socket_match_criteria,
            health_checker,
        } = wire;
        refuse!(cx; event_service);
        // Changes are in the proxy's own log; `alt_port` does nothing in Envoy either.
        ignorable!(cx; event_log_path, event_logger, alt_port);
        let interval = positive("interval", interval, cx)?;
        let duration = |field, wire| cx.duration(field, wire);
        let unhealthy = duration("unhealthy_interval", unhealthy_interval)?.unwrap_or(interval);
        let no_traffic =
            duration("no_traffic_interval", no_traffic_interval)?.unwrap_or(DEFAULT_NO_TRAFFIC);
        let intervals = Intervals {
            healthy: interval,
            unhealthy,
            unhealthy_edge: duration("unhealthy_edge_interval", unhealthy_edge_interval)?
                .unwrap_or(unhealthy),
            healthy_edge: duration("healthy_edge_interval", healthy_edge_interval)?
                .unwrap_or(interval),
            no_traffic,
            no_traffic_healthy: duration(
                "no_traffic_healthy_interval",
                no_traffic_healthy_interval,
            )?
            .unwrap_or(no_traffic),
            initial_jitter: duration("initial_jitter", initial_jitter)?.unwrap_or_default(),
            jitter: duration("interval_jitter", interval_jitter)?.unwrap_or_default(),
            jitter_percent: interval_jitter_percent.min(100),
        };
        let threshold =
            |field, wire: Option<google::UInt32Value>| Ok(cx.required(field, wire)?.value.max(1));
        Ok(Self {
            timeout: positive("timeout", timeout, cx)?,
            intervals,
            unhealthy_threshold: threshold("unhealthy_threshold", unhealthy_threshold)?,
            healthy_threshold: threshold("healthy_threshold", healthy_threshold)?,
            reuse_connection: reuse_connection.is_none_or(|value| value.value),
            log_failures: always_log_health_check_failures,
            log_successes: always_log_health_check_success,
            alpn: tls_options
                .map(|options| options.alpn_protocols)
                .unwrap_or_default(),
            transport_criteria: transport_socket_match_criteria.map(parse_struct),
            probe: Probe::parse(cx.required("health_checker", health_checker)?, cx)?,
        })
    }
}

fn positive(field: &str, wire: Option<google::Duration>, cx: &Cx) -> Result<Duration, Invalid> {
    let value = cx.required(field, cx.duration(field, wire)?)?;
    if value.is_zero() {
        return Err(cx.invalid(field, "must be more than 0"));
    }
    Ok(value)
}

impl Probe {
    fn parse(wire: pb::HealthChecker, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::HealthChecker as Wire;
        match wire {
            Wire::HttpHealthCheck(wire) => cx
                .field("http_health_check", |cx| HttpProbe::parse(wire, cx))
                .map(|probe| Self::Http(Box::new(probe))),
            Wire::GrpcHealthCheck(wire) => cx
                .field("grpc_health_check", |cx| GrpcProbe::parse(wire, cx))
                .map(Self::Grpc),
            Wire::TcpHealthCheck(wire) => cx
                .field("tcp_health_check", |cx| TcpProbe::parse(wire, cx))
                .map(Self::Tcp),
            Wire::CustomHealthCheck(custom) => Err(cx.invalid(
                "custom_health_check",
                format!("`{}` is not supported by this proxy", custom.name),
            )),
        }
    }
}

impl HttpProbe {
    fn parse(wire: pb::HttpHealthCheck, cx: &mut Cx) -> Result<Self, Invalid> {
        use types::CodecClientType;
        let pb::HttpHealthCheck {
            host,
            path,
            send,
            receive,
            response_buffer_size,
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            service_name_matcher,
            method,
        } = wire;
        // Envoy reads it and never sends it.
        refuse!(cx; send);
        if path.is_empty() {
            return Err(cx.invalid("path", "is required"));
        }
        let http2 = match cx.enumeration("codec_client_type", codec_client_type)? {
            CodecClientType::Http1 => false,
            CodecClientType::Http2 => true,
            CodecClientType::Http3 => {
                return Err(cx.invalid("codec_client_type", "HTTP3 is not supported by this proxy"));
            }
        };
        let mut expected: Vec<Range<u16>> =
            cx.each("expected_statuses", expected_statuses, statuses)?;
        if expected.is_empty() {
            expected.push(200..201);
        }
        let service_name = match service_name_matcher {
            None => None,
            Some(wire) => {
                Some(cx.field("service_name_matcher", |cx| StringMatcher::parse(wire, cx))?)
            }
        };
        let buffer = response_buffer_size.map_or(DEFAULT_RESPONSE_BUFFER, |size| size.value);
        Ok(Self {
            host: authority("host", &host, cx)?,
            method: probe_method(method, cx)?,
            path: path
                .parse()
                .map_err(|_| cx.invalid("path", "is not a path"))?,
            add: headers("request_headers_to_add", request_headers_to_add, cx)?,
            remove: cx.each(
                "request_headers_to_remove",
                request_headers_to_remove,
                |name, cx| {
                    name.parse()
                        .map_err(|_| cx.invalid("", format!("`{name}` is not a header name")))
                },
            )?,
            expected,
            retriable: cx.each("retriable_statuses", retriable_statuses, statuses)?,
            http2,
            service_name,
            receive: cx.each("receive", receive, payload)?,
            // 0 is no limit in Envoy; here there always is one.
            buffer: match buffer {
                0 => MAX_RESPONSE_BUFFER,
                size => size.min(MAX_RESPONSE_BUFFER),
            } as usize,
        })
    }
}

fn probe_method(wire: i32, cx: &Cx) -> Result<Method, Invalid> {
    use core::RequestMethod as Wire;
    Ok(match cx.enumeration("method", wire)? {
        Wire::MethodUnspecified | Wire::Get => Method::GET,
        Wire::Head => Method::HEAD,
        Wire::Post => Method::POST,
        Wire::Put => Method::PUT,
        Wire::Delete => Method::DELETE,
        Wire::Options => Method::OPTIONS,
        Wire::Trace => Method::TRACE,
        Wire::Patch => Method::PATCH,
        Wire::Connect => {
            return Err(cx.invalid("method", "CONNECT cannot be used for health checks"));
        }
    })
}

impl GrpcProbe {
    fn parse(wire: pb::GrpcHealthCheck, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::GrpcHealthCheck {
            service_name,
            authority: host,
            initial_metadata,
        } = wire;
        Ok(Self {
            service: service_name,
            authority: authority("authority", &host, cx)?,
            metadata: headers("initial_metadata", initial_metadata, cx)?,
        })
    }
}

impl TcpProbe {
    fn parse(wire: pb::TcpHealthCheck, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::TcpHealthCheck {
            send,
            receive,
            proxy_protocol_config,
        } = wire;
        refuse!(cx; proxy_protocol_config);
        Ok(Self {
            send: match send {
                None => Vec::new(),
                Some(wire) => cx.field("send", |cx| payload(wire, cx))?,
            },
            receive: cx.each("receive", receive, payload)?,
        })
    }
}

fn authority(field: &str, text: &str, cx: &Cx) -> Result<Option<HeaderValue>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|_| cx.invalid(field, "is not a host"))
}

/// A range of statuses, its end excluded.
fn statuses(wire: types::Int64Range, cx: &mut Cx) -> Result<Range<u16>, Invalid> {
    let within = |value: i64| {
        u16::try_from(value)
            .ok()
            .filter(|value| (100..=600).contains(value))
    };
    match (within(wire.start), within(wire.end)) {
        (Some(start), Some(end)) if start < end => Ok(start..end),
        _ => Err(cx.invalid(
            "",
            format!(
                "[{}, {}) is not a range of statuses within [100, 600)",
                wire.start, wire.end
            ),
        )),
    }
}

/// Hexadecimal text, or bytes.
fn payload(wire: pb::Payload, cx: &mut Cx) -> Result<Vec<u8>, Invalid> {
    match cx.required("payload", wire.payload)? {
        pb::payload::Payload::Binary(bytes) => Ok(bytes),
        pb::payload::Payload::Text(text) => {
            let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
            let (pairs, rest) = text.as_bytes().as_chunks::<2>();
            let bytes: Option<Vec<u8>> = pairs
                .iter()
                .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
                .collect();
            bytes
                .filter(|bytes| rest.is_empty() && !bytes.is_empty())
                .ok_or_else(|| cx.invalid("text", "is not hexadecimal"))
        }
    }
}

fn headers(
    field: &str,
    wire: Vec<core::HeaderValueOption>,
    cx: &mut Cx,
) -> Result<Vec<(HeaderName, HeaderValue, bool)>, Invalid> {
    use core::header_value_option::HeaderAppendAction;
    cx.each(field, wire, |wire, cx| {
        let action: HeaderAppendAction = cx.enumeration("append_action", wire.append_action)?;
        let header = cx.required("header", wire.header)?;
        if header.value.contains('%') {
            return Err(cx.invalid("header.value", "formats are not supported in health checks"));
        }
        let name = header
            .key
            .parse()
            .map_err(|_| cx.invalid("header.key", "is not a header name"))?;
        let value = HeaderValue::from_str(&header.value)
            .map_err(|_| cx.invalid("header.value", "has characters that no header may have"))?;
        Ok((
            name,
            value,
            action == HeaderAppendAction::AppendIfExistsOrAdd,
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use malla_xds_proto::json::from_yaml;

    use super::Probe;
    use crate::cluster::Cluster;

    fn cluster(checks: &str) -> Result<Cluster, String> {
        let yaml = format!("{{ name: c, connect_timeout: 1s, health_checks: [{checks}] }}");
        let wire = from_yaml(&yaml).map_err(|error| error.to_string())?;
        Cluster::from_proto(wire)
            .map(|checked| checked.value)
            .map_err(|error| error.to_string())
    }

    const HEAD: &str = "timeout: 1s, interval: 2s, unhealthy_threshold: 2, healthy_threshold: 3";

    #[test]
    fn intervals_default_to_each_other_as_in_envoy() {
        let checks =
            format!("{{ {HEAD}, unhealthy_interval: 5s, http_health_check: {{ path: /h }} }}");
        let check = cluster(&checks).unwrap().health_check.unwrap();
        for (healthy, pending, traffic, seconds) in [
            (true, false, true, 2),
            (true, true, true, 2),
            (false, false, true, 5),
            (false, true, true, 5),
            (true, false, false, 60),
            (false, false, false, 60),
        ] {
            let wait = check.intervals.after(healthy, pending, traffic);
            assert_eq!(
                wait,
                Duration::from_secs(seconds),
                "{healthy} {pending} {traffic}"
            );
        }
        let Probe::Http(probe) = check.probe else {
            panic!("HTTP")
        };
        assert_eq!(probe.expected.as_slice(), std::slice::from_ref(&(200..201)));
    }

    #[test]
    fn what_cannot_be_checked_is_named() {
        for (checks, path) in [
            (
                "{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1 }",
                "health_checks[0].health_checker",
            ),
            (
                "{ interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {} }",
                "health_checks[0].timeout",
            ),
            (
                "{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: { send: { text: xy } } }",
                "health_checks[0].tcp_health_check.send.text",
            ),
            (
                "{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /, expected_statuses: [{ start: 300, end: 200 }] } }",
                "health_checks[0].http_health_check.expected_statuses[0]",
            ),
            (
                "{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, custom_health_check: { name: redis } }",
                "health_checks[0].custom_health_check",
            ),
        ] {
            let error = cluster(checks).unwrap_err();
            assert!(error.starts_with(path), "{error}");
        }
    }
}
