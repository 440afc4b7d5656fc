//! A span as it is stored, and how OTLP's become one.
//!
//! Invariant: a stored span is bounded: so many tags, events and links, each so long. What was cut
//! is counted.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Otlp;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;

/// Bytes of a service's, operation's or tag's name.
const LONGEST_NAME: usize = 512;
/// Bytes of a tag's value.
const LONGEST_VALUE: usize = 8192;
/// Tags of a span, a process or an event.
const MOST_TAGS: usize = 128;
/// Events and links of a span.
const MOST_EVENTS: usize = 128;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SpanRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) parent_id: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) service: String,
    #[prost(string, tag = "5")]
    pub(crate) operation: String,
    /// OTLP's numbers: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    /// Unix microseconds.
    #[prost(uint64, tag = "7")]
    pub(crate) start: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) duration: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) tags: Vec<Tag>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) process: Vec<Tag>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<Event>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) links: Vec<Link>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tag {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(oneof = "TagValue", tags = "2, 3, 4, 5")]
    pub(crate) value: Option<TagValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum TagValue {
    #[prost(string, tag = "2")]
    Text(String),
    #[prost(bool, tag = "3")]
    Bool(bool),
    #[prost(int64, tag = "4")]
    Int(i64),
    #[prost(double, tag = "5")]
    Double(f64),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Event {
    /// Unix microseconds.
    #[prost(uint64, tag = "1")]
    pub(crate) time: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) fields: Vec<Tag>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Link {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
}

impl Tag {
    fn text(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(TagValue::Text(value.to_owned())),
        }
    }

    /// The value as a search for tags compares it.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Some(TagValue::Text(text)) => text.clone(),
            Some(TagValue::Bool(value)) => value.to_string(),
            Some(TagValue::Int(value)) => value.to_string(),
            Some(TagValue::Double(value)) => value.to_string(),
            None => String::new(),
        }
    }
}

/// The spans of one message.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    pub(crate) spans: Vec<SpanRecord>,
    /// Spans without usable ids.
    pub(crate) invalid: u64,
    /// Fields that were cut or left out.
    pub(crate) cut: u64,
}

/// Takes OTLP's spans.
pub(crate) fn convert(all: Vec<ResourceSpans>) -> Converted {
    let mut out = Converted::default();
    for resource in all {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let process = tags(attributes, &mut out.cut);
        let named = process.iter().find(|tag| tag.key == "service.name");
        let service = named.map(Tag::shown).filter(|name| !name.is_empty());
        let mut service = service.unwrap_or_else(|| "unknown_service".to_owned());
        cut(&mut service, LONGEST_NAME, &mut out.cut);
        // NUL separates the parts of a key.
        let service = service.replace('\0', "\u{fffd}");
        let process: Vec<Tag> = process
            .into_iter()
            .filter(|tag| tag.key != "service.name")
            .collect();
        for scope in resource.scope_spans {
            let library = scope.scope.unwrap_or_default();
            for span in scope.spans {
                match record(span, &service, &process, &mut out.cut) {
                    Some(mut record) => {
                        if !library.name.is_empty() {
                            record
                                .tags
                                .push(Tag::text("otel.scope.name", &library.name));
                        }
                        out.spans.push(record);
                    }
                    None => out.invalid += 1,
                }
            }
        }
    }
    out
}

fn record(span: Span, service: &str, process: &[Tag], cuts: &mut u64) -> Option<SpanRecord> {
    let known = |id: &[u8]| id.iter().any(|byte| *byte != 0);
    if span.trace_id.len() != 16 || span.span_id.len() != 8 {
        return None;
    }
    if !known(&span.trace_id) || !known(&span.span_id) {
        return None;
    }
    let mut operation = span.name.replace('\0', "\u{fffd}");
    cut(&mut operation, LONGEST_NAME, cuts);
    let mut all = tags(span.attributes, cuts);
    let status = span.status.unwrap_or_default();
    match status.code {
        1 => all.push(Tag::text("otel.status_code", "OK")),
        2 => {
            all.push(Tag::text("otel.status_code", "ERROR"));
            all.push(Tag {
                key: "error".to_owned(),
                value: Some(TagValue::Bool(true)),
            });
        }
        _ => {}
    }
    if !status.message.is_empty() {
        let mut message = status.message;
        cut(&mut message, LONGEST_VALUE, cuts);
        all.push(Tag::text("otel.status_description", &message));
    }
    if !span.trace_state.is_empty() {
        all.push(Tag::text("w3c.tracestate", &span.trace_state));
    }
    *cuts += (span.events.len().saturating_sub(MOST_EVENTS)
        + span.links.len().saturating_sub(MOST_EVENTS)) as u64;
    let events = span.events.into_iter().take(MOST_EVENTS).map(|event| {
        let mut fields = vec![Tag::text("event", &event.name)];
        fields.extend(tags(event.attributes, cuts));
        Event {
            time: event.time_unix_nano / 1000,
            fields,
        }
    });
    let events = events.collect();
    let links = span.links.into_iter().take(MOST_EVENTS).map(|link| Link {
        trace_id: link.trace_id,
        span_id: link.span_id,
    });
    let duration = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano);
    Some(SpanRecord {
        trace_id: span.trace_id,
        span_id: span.span_id,
        parent_id: span.parent_span_id,
        service: service.to_owned(),
        operation,
        kind: span.kind,
        start: span.start_time_unix_nano / 1000,
        duration: duration / 1000,
        tags: all,
        process: process.to_vec(),
        events,
        links: links.collect(),
    })
}

fn tags(attributes: Vec<KeyValue>, cuts: &mut u64) -> Vec<Tag> {
    *cuts += attributes.len().saturating_sub(MOST_TAGS) as u64;
    let tags = attributes.into_iter().take(MOST_TAGS).map(|attribute| {
        let mut key = attribute.key;
        cut(&mut key, LONGEST_NAME, cuts);
        let value = attribute
            .value
            .and_then(|any| any.value)
            .map(|v| value(v, cuts));
        Tag { key, value }
    });
    tags.collect()
}

fn value(value: Otlp, cuts: &mut u64) -> TagValue {
    let mut text = match value {
        Otlp::BoolValue(value) => return TagValue::Bool(value),
        Otlp::IntValue(value) => return TagValue::Int(value),
        Otlp::DoubleValue(value) => return TagValue::Double(value),
        Otlp::StringValue(text) => text,
        other => serde_json::to_string(&json(other, 0)).unwrap_or_default(),
    };
    cut(&mut text, LONGEST_VALUE, cuts);
    TagValue::Text(text)
}

/// Lists and maps are kept as JSON, as Jaeger shows them.
fn json(value: Otlp, depth: usize) -> serde_json::Value {
    let inner = |any: AnyValue| {
        any.value
            .map_or(serde_json::Value::Null, |v| json(v, depth + 1))
    };
    match value {
        _ if depth > 16 => "…".into(),
        Otlp::StringValue(text) => text.into(),
        Otlp::BoolValue(value) => value.into(),
        Otlp::IntValue(value) => value.into(),
        Otlp::DoubleValue(value) => value.into(),
        Otlp::BytesValue(bytes) => hex(&bytes).into(),
        Otlp::ArrayValue(list) => list.values.into_iter().map(inner).collect(),
        Otlp::KvlistValue(map) => {
            let pairs = map.values.into_iter();
            let pairs =
                pairs.map(|pair| (pair.key, pair.value.map_or(serde_json::Value::Null, inner)));
            serde_json::Value::Object(pairs.collect())
        }
        // Refers to a table that only profiles have.
        #[allow(
            unreachable_patterns,
            reason = "the message grows from release to release"
        )]
        _ => serde_json::Value::Null,
    }
}

fn cut(text: &mut String, limit: usize, cuts: &mut u64) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        *cuts += 1;
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads an id of `length` bytes; shorter ones (64-bit trace ids) are filled up with zeros.
pub(crate) fn id(text: &str, length: usize) -> Option<Vec<u8>> {
    let digits = text.len();
    if digits == 0 || digits > length * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let full = format!("{text:0>width$}", width = length * 2);
    let byte = |at: usize| u8::from_str_radix(full.get(at * 2..at * 2 + 2)?, 16).ok();
    (0..length).map(byte).collect()
}
