//! Writes log lines and header values from compiled formats, byte for byte as Envoy does.
//!
//! [`Value`] is what one command comes to: text, a number, or nothing (`-` in text, `null` in JSON).

mod expression;
mod json;
mod value;

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use malla_proxy_config::access_log::{AccessLog, GrpcLog, LogFilter, Target};
use malla_proxy_config::format::{Format, Layout, LayoutBody, Segment};
use malla_proxy_config::tracing::Tracing;

use super::export::entry;
use super::export::queue::Queue;
use super::log_writer::WorkerLogs;
use super::record::Record;
use crate::balance::Rng64;

pub(crate) use json::quote;
pub(crate) use value::protocol;
pub use value::{Environment, Source, Value};

/// True if the log's filter takes the record.
pub fn takes(log: &AccessLog, source: &Source<'_>, rng: &mut Rng64) -> bool {
    let filter = log.filter.as_ref();
    filter.is_none_or(|filter| passes(filter, source, rng))
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
        LogFilter::All => true,
        LogFilter::Traceable => record.traced,
        LogFilter::Expression(expression) => expression::holds(expression, source),
        LogFilter::Types { types, exclude } => {
            // `AccessLogType`: the end of a TCP connection, or of a request.
            let kind = if record.protocol.is_none() { 3 } else { 6 };
            types.contains(&kind) != *exclude
        }
        LogFilter::Status(op, want) => op.holds(
            record.status.map_or(0, |status| status.as_u16().into()),
            *want,
        ),
        LogFilter::Duration(op, want) => op.holds(source.duration().unwrap_or(0), *want),
        LogFilter::Sample(fraction) => fraction.hit(rng.next()),
        LogFilter::And(all) => all.iter().all(|filter| passes(filter, source, rng)),
        LogFilter::Or(any) => any.iter().any(|filter| passes(filter, source, rng)),
        LogFilter::Header(matcher) => match &matcher.field {
            malla_proxy_config::format::Field::Header(name) => {
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
}

impl Needs {
    /// What these logs read.
    pub fn of<'a>(logs: impl IntoIterator<Item = &'a AccessLog>) -> Self {
        let mut out = Self::default();
        for log in logs {
            match &log.target {
                Target::Lines { layout, .. } => match &layout.body {
                    LayoutBody::Text(format) => out.add(format),
                    LayoutBody::Json(format) => json::visit(format, &mut |format| out.add(format)),
                },
                Target::Grpc(log) => out.add_entry(log),
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
        let add = |list: &mut Vec<http::HeaderName>, names: &[http::HeaderName]| {
            for name in names {
                if !list.contains(name) {
                    list.push(name.clone());
                }
            }
        };
        add(&mut self.request, &entry::REQUEST_HEADERS);
        add(&mut self.request, &log.request_headers);
        add(&mut self.response, &log.response_headers);
        add(&mut self.trailers, &log.trailers);
        log.tags.iter().for_each(|tag| self.add(&tag.value));
    }

    /// Adds what the tags of spans read at the end of a request.
    pub fn add_tracing(&mut self, tracing: &Tracing) {
        let late = tracing.tags.iter().filter(|tag| !tag.early);
        late.for_each(|tag| self.add(&tag.value));
    }

    /// Adds what a format reads.
    pub fn add(&mut self, format: &Format) {
        use malla_proxy_config::format::{Field, Operator};
        for segment in &format.0 {
            let Segment::Command { operator, .. } = segment else {
                continue;
            };
            let (list, fields) = match operator {
                Operator::Request(main, other) | Operator::RequestWithoutQuery(main, other) => {
                    (&mut self.request, [Some(main), other.as_ref()])
                }
                Operator::Response(main, other) => {
                    (&mut self.response, [Some(main), other.as_ref()])
                }
                Operator::Trailer(main, other) => {
                    (&mut self.trailers, [Some(main), other.as_ref()])
                }
                _ => continue,
            };
            for field in fields.into_iter().flatten() {
                let name = match field {
                    Field::Header(name) => name.clone(),
                    Field::Authority => http::header::HOST,
                    Field::Method | Field::Path | Field::Scheme | Field::Status => continue,
                };
                if !list.contains(&name) {
                    list.push(name);
                }
            }
        }
    }

    fn add_filter(&mut self, filter: &LogFilter) {
        match filter {
            LogFilter::And(all) | LogFilter::Or(all) => {
                all.iter().for_each(|filter| self.add_filter(filter))
            }
            LogFilter::Expression(expression) => {
                self.sizes = true;
                self.everything |= expression.reads_headers();
                for name in [
                    http::header::HOST,
                    http::header::REFERER,
                    http::header::USER_AGENT,
                ] {
                    if !self.request.contains(&name) {
                        self.request.push(name);
                    }
                }
                let id = http::HeaderName::from_static("x-request-id");
                if !self.request.contains(&id) {
                    self.request.push(id);
                }
            }
            LogFilter::Header(matcher) => {
                if let malla_proxy_config::format::Field::Header(name) = &matcher.field
                    && !self.request.contains(name)
                {
                    self.request.push(name.clone());
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
