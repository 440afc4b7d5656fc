//! Writes log lines and header values from compiled formats, byte for byte as Envoy does.
//!
//! [`Value`] is what one command comes to: text, a number, or nothing (`-` in text, `null` in JSON).

mod expression;
mod files;
mod json;
mod value;

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use malla_proxy_config::access_log::{AccessLog, GrpcLog, LogFilter, Target};
use malla_proxy_config::expression::Expression;
use malla_proxy_config::format::{
    Field, Format, Layout, LayoutBody, Milestone, Operator, Plain, Segment,
};
use malla_proxy_config::headers::HeaderText;
use malla_proxy_config::http_filter::StateNote;
use malla_proxy_config::http_manager::local_reply::LocalReply;
use malla_proxy_config::tracing::Tracing;

use super::export::queue::Queue;
use super::export::{entry, otlp_logs};
use super::log_writer::WorkerLogs;
use super::record::Record;
use crate::balance::Rng64;

pub use files::Files;
pub(crate) use json::quote;
pub(crate) use value::protocol;
use value::{CLIENT_CERT, ORIGINAL_HOST};
pub use value::{Environment, Source, Value};

/// True if the log's filter takes the record.
pub fn takes(log: &AccessLog, source: &Source<'_>, rng: &mut Rng64) -> bool {
    let filter = log.filter.as_ref();
    filter.is_none_or(|filter| passes(filter, source, rng))
}

/// True if a filter takes the record; `random` decides shares.
pub fn fits(filter: &LogFilter, source: &Source<'_>, random: u64) -> bool {
    passes(filter, source, &mut Rng64::seeded(random))
}

/// Appends the line of a record.
pub fn write_line(layout: &Layout, source: &Source<'_>, out: &mut Vec<u8>) {
    match &layout.body {
        LayoutBody::Text(format) => {
            let missing: &[u8] = if layout.omit_empty { b"" } else { b"-" };
            write_text(format, source, missing, out);
        }
        LayoutBody::Json(format) => {
            json::write(format, source, layout.omit_empty, out);
            out.push(b'\n');
        }
    }
}

/// What a note of filter state says; `None` where it is not made.
pub fn note_text(note: &StateNote, source: &Source<'_>) -> Option<Arc<str>> {
    let mut out = Vec::new();
    write_line(&note.text, source, &mut out);
    let text = String::from_utf8_lossy(&out);
    (!note.skip_if_empty || !text.is_empty()).then(|| Arc::from(&*text))
}

/// Writes a record to all logs that take it: lines to files, entries to the queues that stand at the same places.
pub fn write_all(
    logs: &[Arc<AccessLog>],
    queues: &[Option<Rc<Queue>>],
    source: &Source<'_>,
    rng: &mut Rng64,
    lines: &WorkerLogs,
) {
    for (index, log) in logs.iter().enumerate() {
        if !takes(log, source, rng) {
            continue;
        }
        match &log.target {
            Target::Lines { sink, layout } => {
                lines.append(sink, |out| write_line(layout, source, out));
            }
            Target::Grpc(log) => {
                let Some(Some(queue)) = queues.get(index) else {
                    continue;
                };
                queue.add(|out| match log.stream.tcp {
                    true => entry::tcp(out, log, source),
                    false => entry::http(out, log, source),
                });
            }
            Target::Otlp(log) => {
                let Some(Some(queue)) = queues.get(index) else {
                    continue;
                };
                queue.add(|out| otlp_logs::record(out, log, source));
            }
        }
    }
}

/// Appends a text format; what is missing becomes `missing`.
pub fn write_text(format: &Format, source: &Source<'_>, missing: &[u8], out: &mut Vec<u8>) {
    for segment in &format.0 {
        match segment {
            Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Segment::Command {
                operator,
                max_length,
            } => {
                let start = out.len();
                source.value(operator).write(missing, out);
                if let Some(max) = max_length {
                    out.truncate(out.len().min(start.saturating_add(*max)));
                }
            }
        }
    }
}

/// A header value from a format; `None` if it would not be a valid one.
pub fn header_value(format: &Format, source: &Source<'_>) -> Option<http::HeaderValue> {
    let mut out = Vec::with_capacity(32);
    write_text(format, source, b"", &mut out);
    http::HeaderValue::from_maybe_shared(bytes::Bytes::from(out)).ok()
}

fn passes(filter: &LogFilter, source: &Source<'_>, rng: &mut Rng64) -> bool {
    let record = source.record;
    match filter {
        LogFilter::NotHealthCheck => !record.health_check,
        LogFilter::Traceable => record.traced,
        LogFilter::Expression(expression) => expression::holds(expression, source),
        LogFilter::Types { types, exclude } => types.contains(&record.log_type().0) != *exclude,
        LogFilter::Status(op, want) => op.holds(
            record.status.map_or(0, |status| status.as_u16().into()),
            *want,
        ),
        LogFilter::Duration(op, want) => op.holds(source.duration().unwrap_or(0), *want),
        LogFilter::Sample(fraction) => fraction.hit(rng.next()),
        LogFilter::And(all) => all.iter().all(|filter| passes(filter, source, rng)),
        LogFilter::Or(any) => any.iter().any(|filter| passes(filter, source, rng)),
        LogFilter::Header(matcher) => match &matcher.field {
            Field::Header(name) => {
                let mut headers = HeaderMap::new();
                if let Some(value) = record.request_headers.get(name)
                    && let Ok(value) = http::HeaderValue::from_bytes(&value)
                {
                    headers.insert(name, value);
                }
                matcher.matches_headers(&headers, http::StatusCode::OK)
            }
            field => matcher.matches_text(source.request_field(field).as_text().as_deref()),
        },
        LogFilter::Flags(want) if want.is_empty() => !record.flags.is_empty(),
        LogFilter::Flags(want) => record
            .flags
            .iter()
            .any(|flag| want.iter().any(|word| word == flag.short())),
        LogFilter::Grpc { statuses, exclude } => {
            let status = record
                .grpc_status
                .or_else(|| record.status.map(grpc_from_http))
                .unwrap_or(2);
            statuses
                .iter()
                .any(|want| u32::try_from(*want) == Ok(status))
                != *exclude
        }
    }
}

/// Envoy's `Grpc::Utility::httpToGrpcStatus`.
pub fn grpc_from_http(status: http::StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Request, response and trailer fields that a log reads after the messages have moved on.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Of the request.
    pub request: Vec<http::HeaderName>,
    /// Of the response.
    pub response: Vec<http::HeaderName>,
    /// Of the trailers.
    pub trailers: Vec<http::HeaderName>,
    /// How long the headers are.
    pub sizes: bool,
    /// All fields of all three.
    pub everything: bool,
    /// Endpoints that were tried before the last one.
    pub attempts: bool,
    /// When the answer's body began and ended.
    pub moments: bool,
    /// Bytes on the wire.
    pub wire: bool,
    /// How long finding the route took.
    pub route_time: bool,
    /// What the kernel has measured of the client's connection.
    pub round_trip: bool,
}

fn add(list: &mut Vec<HeaderName>, name: HeaderName) {
    if !list.contains(&name) {
        list.push(name);
    }
}

impl Needs {
    /// What these logs read.
    pub fn of<'a>(logs: impl IntoIterator<Item = &'a AccessLog>) -> Self {
        let mut out = Self::default();
        for log in logs {
            match &log.target {
                Target::Lines { layout, .. } => out.add_layout(layout),
                Target::Grpc(log) => out.add_entry(log),
                Target::Otlp(log) => log.visit(&mut |format| out.add(format)),
            }
            if let Some(filter) = &log.filter {
                out.add_filter(filter);
            }
        }
        out
    }

    /// Adds what entries of a log service tell.
    fn add_entry(&mut self, log: &GrpcLog) {
        self.sizes = true;
        let more = |list: &mut Vec<HeaderName>, names: &[HeaderName]| {
            names.iter().for_each(|name| add(list, name.clone()));
        };
        more(&mut self.request, &entry::REQUEST_HEADERS);
        more(&mut self.request, &log.request_headers);
        more(&mut self.response, &log.response_headers);
        more(&mut self.trailers, &log.trailers);
        log.tags.iter().for_each(|tag| self.add(&tag.value));
    }

    /// Adds what the tags of spans read at the end of a request.
    pub fn add_tracing(&mut self, tracing: &Tracing) {
        let late = tracing.tags.iter().filter(|tag| !tag.early);
        late.for_each(|tag| self.add(&tag.value));
    }

    /// Adds what answers of the proxy's own read of their requests.
    pub fn add_local_reply(&mut self, config: &LocalReply) {
        for mapper in &config.mappers {
            self.add_filter(&mapper.filter);
            mapper
                .layout
                .iter()
                .for_each(|layout| self.add_layout(layout));
            for add in &mapper.headers {
                if let HeaderText::Format(format) = &add.value {
                    self.add(format);
                }
            }
        }
        config
            .layout
            .iter()
            .for_each(|layout| self.add_layout(layout));
    }

    fn add_layout(&mut self, layout: &Layout) {
        match &layout.body {
            LayoutBody::Text(format) => self.add(format),
            LayoutBody::Json(format) => json::visit(format, &mut |format| self.add(format)),
        }
    }

    /// Adds what a format reads.
    pub fn add(&mut self, format: &Format) {
        for segment in &format.0 {
            if let Segment::Command { operator, .. } = segment {
                operator.visit(&mut |operator| self.add_operator(operator));
            }
        }
    }

    fn add_operator(&mut self, operator: &Operator) {
        let (list, fields) = match operator {
            Operator::Request(main, other) | Operator::RequestWithoutQuery(main, other) => {
                (&mut self.request, [Some(main), other.as_ref()])
            }
            Operator::Response(main, other) => (&mut self.response, [Some(main), other.as_ref()]),
            Operator::Trailer(main, other) => (&mut self.trailers, [Some(main), other.as_ref()]),
            Operator::Expression { expression, .. } => return self.add_expression(expression),
            Operator::ForwardedCert(_) => return add(&mut self.request, CLIENT_CERT),
            Operator::ServerName { .. } => {
                add(&mut self.request, http::header::HOST);
                return add(&mut self.request, ORIGINAL_HOST);
            }
            Operator::CommonDuration { start, end, .. } => {
                let ends = [Milestone::UpstreamBodyBegin, Milestone::UpstreamReceiveEnd];
                self.moments |= ends.contains(start) || ends.contains(end);
                return;
            }
            Operator::Plain(plain) => return self.add_plain(*plain),
            _ => return,
        };
        for field in fields.into_iter().flatten() {
            match field {
                Field::Header(name) => add(list, name.clone()),
                Field::Authority => add(list, http::header::HOST),
                Field::Method | Field::Path | Field::Scheme | Field::Status => {}
            }
        }
    }

    fn add_plain(&mut self, plain: Plain) {
        match plain {
            Plain::StreamId => add(&mut self.request, HeaderName::from_static("x-request-id")),
            Plain::RequestHeadersBytes
            | Plain::ResponseHeadersBytes
            | Plain::ResponseTrailersBytes => self.sizes = true,
            Plain::RouteResolutionTime => self.route_time = true,
            Plain::DownstreamCxRtt => self.round_trip = true,
            Plain::UpstreamHostsAttempted
            | Plain::UpstreamHostsAttemptedWithoutPort
            | Plain::UpstreamHostNamesAttempted
            | Plain::UpstreamHostNamesAttemptedWithoutPort
            | Plain::UpstreamConnectionIdsAttempted => self.attempts = true,
            Plain::UpstreamWireBytesSent
            | Plain::UpstreamWireBytesReceived
            | Plain::UpstreamHeaderBytesSent
            | Plain::UpstreamHeaderBytesReceived
            | Plain::UpstreamDecompressedHeaderBytesSent
            | Plain::UpstreamDecompressedHeaderBytesReceived
            | Plain::DownstreamWireBytesSent
            | Plain::DownstreamWireBytesReceived
            | Plain::DownstreamHeaderBytesSent
            | Plain::DownstreamHeaderBytesReceived
            | Plain::DownstreamDecompressedHeaderBytesSent
            | Plain::DownstreamDecompressedHeaderBytesReceived => self.wire = true,
            _ => {}
        }
    }

    fn add_expression(&mut self, expression: &Expression) {
        self.sizes = true;
        self.everything |= expression.reads_headers();
        for name in [
            http::header::HOST,
            http::header::REFERER,
            http::header::USER_AGENT,
            HeaderName::from_static("x-request-id"),
        ] {
            add(&mut self.request, name);
        }
    }

    fn add_filter(&mut self, filter: &LogFilter) {
        match filter {
            LogFilter::And(all) | LogFilter::Or(all) => {
                all.iter().for_each(|filter| self.add_filter(filter))
            }
            LogFilter::Expression(expression) => self.add_expression(expression),
            LogFilter::Header(matcher) => {
                if let Field::Header(name) = &matcher.field {
                    add(&mut self.request, name.clone());
                }
            }
            _ => {}
        }
    }
}

/// The record of a request as a format source without environment; for tests and header values.
pub fn source<'a>(record: &'a Record, environment: &'a Environment) -> Source<'a> {
    Source {
        record,
        environment,
        request: None,
        response: None,
    }
}
