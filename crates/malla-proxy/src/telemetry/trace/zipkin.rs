//! Spans as Zipkin's JSON, version 2 (<https://zipkin.io/zipkin-api/#/default/post_spans>).

use super::context::write_hex;
use super::span::{Facts, Kind};
use crate::telemetry::access_log::quote;

/// A member of `tags` and a comma.
pub(super) fn tag(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    quote(name.as_bytes(), out);
    out.push(b':');
    quote(value, out);
    out.push(b',');
}

/// One element of the list, and a comma.
pub(super) fn span(out: &mut Vec<u8>, span: &Facts<'_>, service: &str) {
    out.extend_from_slice(b"{\"traceId\":");
    id(out, span.ids.trace, if span.wide { 32 } else { 16 });
    out.extend_from_slice(b",\"id\":");
    id(out, span.ids.span.into(), 16);
    if let Some(parent) = span.ids.parent {
        out.extend_from_slice(b",\"parentId\":");
        id(out, parent.into(), 16);
    }
    out.extend_from_slice(b",\"name\":");
    quote(span.name.as_bytes(), out);
    out.extend_from_slice(match span.kind {
        Kind::Server => b",\"kind\":\"SERVER\"",
        Kind::Client => b",\"kind\":\"CLIENT\"",
    });
    out.extend_from_slice(b",\"timestamp\":");
    number(out, span.start.as_micros());
    out.extend_from_slice(b",\"duration\":");
    number(out, span.duration.as_micros().max(1)); // Zipkin takes zero for missing.
    if span.shared {
        out.extend_from_slice(b",\"shared\":true");
    }
    out.extend_from_slice(b",\"localEndpoint\":{\"serviceName\":");
    quote(service.as_bytes(), out);
    out.extend_from_slice(b"},\"tags\":{");
    out.extend_from_slice(span.tags.strip_suffix(b",").unwrap_or(span.tags));
    out.extend_from_slice(b"}},");
}

fn id(out: &mut Vec<u8>, id: u128, digits: usize) {
    let mut text = [0; 32];
    write_hex(&mut text, id);
    out.push(b'"');
    out.extend_from_slice(text.get(32 - digits..).unwrap_or_default());
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, number: u128) {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
