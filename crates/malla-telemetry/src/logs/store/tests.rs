//! Lines written, then found by every filter and page by page.

use std::time::Duration;

use super::*;
use crate::records::RetentionConfig;

fn store(folder: &std::path::Path) -> LogStore {
    let limits = RetentionConfig {
        retention: Duration::from_secs(80_000),
        max_bytes: 1 << 30,
        queue_bytes: 1 << 20,
    };
    let records = Records::open(folder, limits.clone(), limits).unwrap();
    LogStore::new(Arc::new(records), 1)
}

const START: i64 = 1_700_000_000_000;

fn line(at: i64, workload: &str, code: u32) -> LogLine {
    LogLine {
        time: START + at,
        pod: format!("{workload}-1"),
        namespace: "base".to_owned(),
        workload: workload.to_owned(),
        path: format!("/{workload}/<b>{at}"),
        code,
        flags: if code >= 500 {
            vec!["UF".to_owned()]
        } else {
            Vec::new()
        },
        trace_id: format!("{at:032}"),
        protocol: "HTTP/1.1".to_owned(),
        user_agent: "Curl".to_owned(),
        ..LogLine::default()
    }
}

fn filled(folder: &std::path::Path) -> LogStore {
    let store = store(folder);
    let codes = [200, 503, 404];
    let mut lines: Vec<LogLine> = (0..30)
        .map(|at| {
            line(
                at * 10,
                if at % 2 == 0 { "web" } else { "db" },
                codes[at as usize % 3],
            )
        })
        .collect();
    // Late lines go into a later bucket, but keep their place in time.
    let late = lines.split_off(20);
    let (early, mixed) = lines.split_at(10);
    store.write(START, early).unwrap();
    store.write(START + 11_000_000, &late).unwrap();
    store.write(START + 11_000_001, mixed).unwrap();
    store
}

fn times(page: &LogPage) -> Vec<i64> {
    page.lines.iter().map(|line| line.time - START).collect()
}

#[track_caller]
fn check(pairs: &[(&str, &str)], want: &[i64]) {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let query = LogQuery::from_pairs(pairs).unwrap();
    let page = store.search(&query).unwrap();
    assert_eq!(times(&page), want, "{pairs:?}");
}

#[test]
fn filters_narrow() {
    check(&[("limit", "3")], &[290, 280, 270]);
    check(&[("workload", "web"), ("limit", "3")], &[280, 260, 240]);
    check(&[("code", "5xx"), ("limit", "2")], &[280, 250]);
    check(
        &[("code", "404"), ("workload", "db"), ("limit", "2")],
        &[290, 230],
    );
    check(&[("flag", "UF"), ("limit", "1")], &[280]);
    check(
        &[("flag", "any"), ("namespace", "base"), ("limit", "1")],
        &[280],
    );
    check(&[("text", "web curl 18"), ("limit", "9")], &[180]);
    check(
        &[("from", "1700000000.1"), ("to", "1700000000.12")],
        &[120, 110, 100],
    );
    check(&[("traceId", &format!("{:032}", 70))], &[70]);
    check(&[("pod", "db-1"), ("to", "1700000000.03")], &[30, 10]);
    check(&[("workload", "none")], &[]);
}

#[test]
fn pages_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let mut query = LogQuery::from_pairs(&[("limit", "7")]).unwrap();
    let mut all = Vec::new();
    loop {
        let page = store.search(&query).unwrap();
        all.extend(times(&page));
        let Some(cursor) = page.cursor else {
            break;
        };
        query = LogQuery::from_pairs(&[("limit", "7"), ("cursor", &cursor)]).unwrap();
    }
    let want: Vec<i64> = (0..30).rev().map(|at| at * 10).collect();
    assert_eq!(all, want);
}

#[test]
fn a_lying_clock_is_filed_under_arrival() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let wild = LogLine {
        time: 5,
        ..line(0, "web", 200)
    };
    store.write(START, &[wild, line(1, "web", 200)]).unwrap();
    let query = LogQuery::from_pairs(&[("from", "1700000000")]).unwrap();
    assert_eq!(store.search(&query).unwrap().lines.len(), 2);
}
