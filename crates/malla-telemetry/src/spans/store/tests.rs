//! Spans written, then found by every way there is.

use std::time::Duration;

use super::*;
use crate::records::RetentionConfig;
use crate::spans::model::TagValue;

fn store(folder: &std::path::Path) -> SpanStore {
    let limits = RetentionConfig {
        retention: Duration::from_secs(8_000),
        max_bytes: 1 << 30,
        queue_bytes: 1 << 20,
    };
    SpanStore::new(Arc::new(
        Records::open(folder, limits.clone(), limits).unwrap(),
    ))
}

fn span(trace: u8, id: u8, parent: u8, service: &str, start: u64) -> SpanRecord {
    SpanRecord {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        parent_id: if parent == 0 {
            Vec::new()
        } else {
            vec![parent; 8]
        },
        service: service.to_owned(),
        operation: format!("GET /{service}"),
        kind: 2,
        start,
        duration: u64::from(id) * 1000,
        tags: vec![Tag {
            key: "http.status_code".to_owned(),
            value: Some(TagValue::Int(200 + i64::from(trace))),
        }],
        ..SpanRecord::default()
    }
}

fn query(service: &str) -> TraceQuery {
    TraceQuery {
        service: service.to_owned(),
        end: u64::MAX - 1,
        limit: 20,
        ..TraceQuery::default()
    }
}

fn found(store: &SpanStore, query: &TraceQuery) -> Vec<u8> {
    store
        .search(query)
        .unwrap()
        .iter()
        .map(|trace| trace.id[0])
        .collect()
}

#[test]
fn traces_are_found_by_every_condition() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    // The second trace spans two buckets.
    let first = [
        span(1, 1, 0, "web", 100),
        span(1, 2, 1, "db", 110),
        span(2, 3, 0, "web", 200),
    ];
    store.write(0, &first).unwrap();
    store
        .write(
            2_000_000,
            &[span(2, 4, 3, "db", 210), span(3, 5, 0, "web", 300)],
        )
        .unwrap();

    assert_eq!(found(&store, &query("web")), [3, 2, 1]);
    assert_eq!(found(&store, &query("db")), [2, 1]);
    assert!(found(&store, &query("we")).is_empty());
    let limited = TraceQuery {
        limit: 2,
        ..query("web")
    };
    assert_eq!(found(&store, &limited), [3, 2]);
    let timed = TraceQuery {
        start: 150,
        end: 250,
        ..query("web")
    };
    assert_eq!(found(&store, &timed), [2]);
    let slow = TraceQuery {
        min_duration: Some(2_500),
        max_duration: Some(4_000),
        ..query("web")
    };
    assert_eq!(found(&store, &slow), [2]);
    let tagged = TraceQuery {
        tags: [("http.status_code".to_owned(), "203".to_owned())].into(),
        ..query("web")
    };
    assert_eq!(found(&store, &tagged), [3]);
    let operation = TraceQuery {
        operation: Some("GET /db".to_owned()),
        ..query("db")
    };
    assert_eq!(found(&store, &operation), [2, 1]);

    let trace = store.trace(&[2; 16]).unwrap().unwrap();
    assert_eq!(
        trace.spans.iter().map(|s| s.span_id[0]).collect::<Vec<_>>(),
        [3, 4]
    );
    assert!(store.trace(&[9; 16]).unwrap().is_none());
    assert_eq!(
        store.services().unwrap().into_iter().collect::<Vec<_>>(),
        ["db", "web"]
    );
    let operations = store.operations("web").unwrap();
    assert_eq!(
        operations.into_iter().collect::<Vec<_>>(),
        [("GET /web".to_owned(), 2)]
    );
    let dependencies = store.dependencies(0, 1_000).unwrap();
    assert_eq!(dependencies.len(), 1);
    assert_eq!(
        (&*dependencies[0].parent, &*dependencies[0].child),
        ("web", "db")
    );
}

#[test]
fn a_span_sent_twice_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.write(0, &[span(1, 1, 0, "web", 100)]).unwrap();
    store
        .write(2_000_000, &[span(1, 1, 0, "web", 100)])
        .unwrap();
    assert_eq!(store.trace(&[1; 16]).unwrap().unwrap().spans.len(), 1);
    assert_eq!(found(&store, &query("web")), [1]);
}
