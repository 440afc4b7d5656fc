//! What the collector reads: queries, expositions, log lines, spans, its own files.

use malla_telemetry::fuzzing;
use malla_telemetry::logs::{Origin, text};
use malla_telemetry::promql;
use malla_telemetry::scrape::text::{Line, help, labels, lines};

/// A query; where it is refused, the place is in it.
pub fn promql(data: &[u8]) {
    let query = String::from_utf8_lossy(data);
    let parsed = promql::parse(&query);
    assert_eq!(parsed.is_ok(), promql::parse(&query).is_ok());
    if let Ok(matchers) = promql::parse_selector(&query) {
        assert!(
            parsed.is_ok(),
            "a selector of {} is no query",
            matchers.len()
        );
    }
}

/// Prometheus' text format.
pub fn exposition(data: &[u8]) {
    let exposition = String::from_utf8_lossy(data);
    for line in lines(&exposition).flatten() {
        match line {
            Line::Sample { series, .. } => drop(labels(series)),
            Line::Help { text, .. } => drop(help(text)),
            Line::Type { .. } => {}
        }
    }
}

/// Istio's access log, text and JSON.
pub fn log_line(data: &[u8]) {
    let origin = Origin {
        pod: "order-1".to_owned(),
        namespace: "base".to_owned(),
        workload: "order".to_owned(),
        gateway: data.len() % 2 == 1,
    };
    for line in String::from_utf8_lossy(data).lines() {
        drop(text::parse(line, &origin));
    }
}

/// Zipkin's JSON, OTLP's protobuf and JSON.
pub fn spans(data: &[u8]) {
    fuzzing::spans(data);
}

/// A segment of the metrics' log, and a chunk: what is read of damaged files ends early.
pub fn metric_files(data: &[u8]) {
    assert!(fuzzing::journal(data) <= data.len() as u64);
    if let Some((count, data)) = data.split_first() {
        assert!(fuzzing::chunk((*count).into(), data) <= usize::from(*count));
    }
}
