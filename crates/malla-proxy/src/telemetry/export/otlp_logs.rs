//! Sends log records to an OpenTelemetry collector (`opentelemetry/proto/logs/v1/logs.proto`), by gRPC or HTTP.
//!
//! A record is encoded when its request ends, from the log's formats; field numbers are that file's.

use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use malla_proxy_config::access_log::{OtlpExport, OtlpLog, OtlpValue};
use malla_runtime::drain::DrainWatch;
use prost::Message as _;

use super::delivery::{deliver, otlp};
use super::queue::{Limits, Queue};
use crate::call::Caller;
use crate::telemetry::access_log::{Source, write_text};
use crate::telemetry::trace::tags::NodeNames;
use crate::telemetry::wire;
use crate::upstream::Upstreams;

const METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Bytes kept for a collector that does not take them.
const MOST: usize = 1 << 20;

/// When records go.
pub fn limits(config: &OtlpExport) -> Limits {
    Limits {
        batch: config.buffer.min(MOST / 2),
        wait: config.flush_interval,
        bytes: MOST,
        records: u64::MAX,
    }
}

/// Appends one `ScopeLogs.log_records`.
pub fn record(out: &mut Vec<u8>, log: &OtlpLog, source: &Source<'_>) {
    let record = source.record;
    wire::message(out, 2, |out| {
        let since = record
            .start_wall
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        wire::fixed64(out, 1, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        if let Some(body) = &log.body {
            wire::message(out, 5, |out| value(out, body, source));
        }
        for (key, attribute) in &log.attributes {
            pair(out, 6, key, |out| value(out, attribute, source));
        }
        tags(out, log, source);
        if let Some((trace, span)) = record.spans.as_deref().and_then(|spans| spans.ids()) {
            wire::bytes(out, 9, &trace.to_be_bytes());
            wire::bytes(out, 10, &span.to_be_bytes());
        }
    });
}

/// A `KeyValue`.
fn pair(out: &mut Vec<u8>, field: u32, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
    wire::message(out, field, |out| {
        wire::bytes(out, 1, key.as_bytes());
        wire::message(out, 2, write);
    });
}

/// The fields of an `AnyValue`.
fn value(out: &mut Vec<u8>, from: &OtlpValue, source: &Source<'_>) {
    match from {
        OtlpValue::Text(format) => {
            let mut text = Vec::with_capacity(64);
            write_text(format, source, b"-", &mut text);
            wire::text(out, 1, &text);
        }
        OtlpValue::List(items) => wire::message(out, 5, |out| {
            for item in items {
                wire::message(out, 1, |out| value(out, item, source));
            }
        }),
        OtlpValue::Object(pairs) => wire::message(out, 6, |out| {
            for (key, inner) in pairs {
                pair(out, 1, key, |out| value(out, inner, source));
            }
        }),
    }
}

fn tags(out: &mut Vec<u8>, log: &OtlpLog, source: &Source<'_>) {
    let mut text = Vec::new();
    for tag in &log.tags {
        text.clear();
        write_text(&tag.value, source, b"", &mut text);
        match &tag.default {
            Some(default) if text.is_empty() => text.extend_from_slice(default.as_bytes()),
            None if text.is_empty() => continue,
            _ => {}
        }
        pair(out, 6, &tag.name, |out| wire::text(out, 1, &text));
    }
}

/// Who sends: the fields of a `Resource`.
pub fn resource(config: &OtlpExport, node: &NodeNames) -> Vec<u8> {
    let mut out = Vec::new();
    if config.builtin_labels {
        for (name, label) in [
            ("log_name", config.log_name.as_str()),
            ("zone_name", &node.zone),
            ("cluster_name", &node.cluster),
            ("node_name", &node.id),
        ] {
            pair(&mut out, 1, name, |out| {
                wire::text(out, 1, label.as_bytes());
            });
        }
    }
    for attribute in &config.resource {
        let encoded = attribute.encode_to_vec();
        wire::bytes(&mut out, 1, &encoded);
    }
    out
}

/// Sends what comes into the queue, for as long as it is polled. `tasks` waits for it while there is something.
pub async fn run<U: Upstreams>(
    caller: Rc<Caller<U>>,
    config: Arc<OtlpExport>,
    resource: Vec<u8>,
    queue: Rc<Queue>,
    tasks: DrainWatch,
) {
    deliver(&queue, &tasks, &config.log_name, async |records: Bytes| {
        let head = request_head(&resource, records.len());
        otlp(&caller, &config.collector, METHOD, [head, records]).await
    })
    .await;
}

/// An `ExportLogsServiceRequest` up to its records, which are `length` bytes.
fn request_head(resource: &[u8], length: usize) -> Bytes {
    let mut inner = Vec::with_capacity(resource.len() + 16);
    wire::bytes(&mut inner, 1, resource);
    wire::begin_message(&mut inner, 2, length);
    let mut head = Vec::with_capacity(inner.len() + 8);
    wire::begin_message(&mut head, 1, inner.len() + length);
    head.extend_from_slice(&inner);
    Bytes::from(head)
}
