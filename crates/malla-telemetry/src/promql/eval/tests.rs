//! Answers to queries over small data, by hand. (`tests/prometheus.rs` compares with Prometheus.)

use std::sync::Arc;

use crate::api::json::number;
use crate::metrics::{Labels, MetricStore, MetricsConfig, Row, STALE, Sample};
use crate::promql::{Answer, Cancel, Dialect, Engine, QueryConfig};
use crate::scrape::text;

/// Every line is a series and its values at 0 s, 60 s, 120 s …; `_` is none, `s` is stale.
const DATA: &str = r#"
requests{job="a",code="200"} 0 60 120 180 240 300 360 420 480 540 600
requests{job="a",code="500"} 0 6 12 18 24 30 0 6 12 18 24
requests{job="b",code="200"} _ _ 100 100 100 100 s _ _ _ 7
memory{job="a"} 10 20 10 30 10 40 10 50 10 60 NaN
memory{job="b"} 1 2 3 4 5 6 7 8 9 10 11
limit{job="a",owner="x"} 100 100 100 100 100 100 100 100 100 100 100
limit{job="b",owner="y"} 5 5 5 5 5 5 5 5 5 5 5
dur_bucket{job="a",le="1"} 0 1 2 3 4 5 6 7 8 9 10
dur_bucket{job="a",le="5"} 0 2 4 6 8 10 12 14 16 18 20
dur_bucket{job="a",le="+Inf"} 0 2 4 6 8 10 12 14 16 18 20
"#;

struct World {
    engine: Engine,
    _folder: tempfile::TempDir,
}

fn world(dialect: Dialect) -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = MetricStore::open(folder.path(), MetricsConfig::default()).unwrap();
    for line in DATA.lines().filter(|line| !line.is_empty()) {
        let (series, values) = line.split_once("} ").unwrap();
        let labels = Labels::new(text::labels(&format!("{series}}}")).unwrap());
        for (at, value) in values.split(' ').enumerate().filter(|(_, v)| *v != "_") {
            let v = match value {
                "s" => f64::from_bits(STALE),
                v => v.parse().unwrap(),
            };
            let t = at as i64 * 60_000;
            let row = Row {
                labels: labels.clone(),
                series: None,
                sample: Sample { t, v },
            };
            assert_eq!(store.append(600_000, &mut [row]).accepted, 1, "{line}");
        }
    }
    let config = QueryConfig {
        dialect,
        ..QueryConfig::default()
    };
    World {
        engine: Engine::new(Arc::new(store), config),
        _folder: folder,
    }
}

fn instant(world: &World, query: &str, t: i64) -> String {
    match world.engine.instant(query, t * 1000, &Cancel::default()) {
        Ok(Answer::Scalar(sample)) => number(sample.v),
        Ok(Answer::Text(_, text)) => text,
        Ok(Answer::Vector(vector)) => {
            let lines: Vec<String> = vector
                .iter()
                .map(|(l, s)| format!("{l} {}", number(s.v)))
                .collect();
            lines.join("\n")
        }
        Ok(Answer::Matrix(series)) => {
            let shown = series.iter().map(|s| {
                let samples: Vec<String> = s
                    .samples
                    .iter()
                    .map(|s| format!("{}@{}", number(s.v), s.t / 1000))
                    .collect();
                format!("{} {}", s.labels, samples.join(" "))
            });
            shown.collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn check(t: i64, query: &str, want: &str) {
    let world = world(Dialect::V3);
    assert_eq!(instant(&world, query, t), want, "{query} at {t}");
}

#[test]
fn instants_look_back_five_minutes_and_see_staleness() {
    check(
        300,
        r#"requests{job="b"}"#,
        r#"requests{code="200", job="b"} 100"#,
    );
    check(390, r#"requests{job="b"}"#, "");
    check(
        899,
        r#"requests{job="b"}"#,
        r#"requests{code="200", job="b"} 7"#,
    );
    check(900, r#"requests{job="b"}"#, "");
    check(600, r#"memory{job="b"} offset 5m"#, r#"memory{job="b"} 6"#);
    check(
        600,
        r#"memory{job="b"} @ 0 + memory{job="b"} @ end()"#,
        r#"{job="b"} 12"#,
    );
    check(
        600,
        r#"timestamp(memory{job="b"} offset 30s)"#,
        r#"{job="b"} 540"#,
    );
}

#[test]
fn ranges_are_open_on_the_left() {
    check(
        300,
        r#"memory{job="b"}[2m]"#,
        r#"memory{job="b"} 5@240 6@300"#,
    );
    let v2 = world(Dialect::V2);
    let all = r#"memory{job="b"} 4@180 5@240 6@300"#;
    assert_eq!(instant(&v2, r#"memory{job="b"}[2m]"#, 300), all);
    check(
        300,
        r#"requests{job="b"}[10m]"#,
        "requests{code=\"200\", job=\"b\"} 100@120 100@180 100@240 100@300",
    );
}

#[test]
fn rates_extrapolate_and_see_resets() {
    check(
        300,
        r#"rate(requests{job="a",code="200"}[2m])"#,
        r#"{code="200", job="a"} 1"#,
    );
    check(
        300,
        r#"increase(requests{job="a",code="200"}[4m])"#,
        r#"{code="200", job="a"} 240"#,
    );
    // 24, 30, then 0, 6: a reset loses nothing but what was never scraped.
    check(
        420,
        r#"increase(requests{code="500"}[4m])"#,
        r#"{code="500", job="a"} 16"#,
    );
    check(
        420,
        r#"resets(requests{code="500"}[10m])"#,
        r#"{code="500", job="a"} 1"#,
    );
    check(
        420,
        r#"irate(requests{code="200",job="a"}[5m])"#,
        r#"{code="200", job="a"} 1"#,
    );
    check(
        420,
        r#"idelta(memory[5m])"#,
        "{job=\"a\"} 40\n{job=\"b\"} 1",
    );
    check(420, r#"delta(memory{job="b"}[3m])"#, r#"{job="b"} 3"#);
    check(420, r#"deriv(memory{job="b"}[5m]) * 60"#, r#"{job="b"} 1"#);
    check(420, r#"rate(memory{job="b"}[1m])"#, "");
    check(
        420,
        r#"changes(memory[5m])"#,
        "{job=\"a\"} 4\n{job=\"b\"} 4",
    );
}

#[test]
fn functions_over_time() {
    check(
        540,
        r#"avg_over_time(memory{job="b"}[5m])"#,
        r#"{job="b"} 8"#,
    );
    check(
        540,
        r#"max_over_time(memory[3m])"#,
        "{job=\"a\"} 60\n{job=\"b\"} 10",
    );
    check(
        600,
        r#"min_over_time(memory{job="a"}[3m])"#,
        r#"{job="a"} 10"#,
    );
    check(
        540,
        r#"sum_over_time(memory{job="b"}[2m])"#,
        r#"{job="b"} 19"#,
    );
    check(
        540,
        r#"count_over_time(memory{job="b"}[5m])"#,
        r#"{job="b"} 5"#,
    );
    check(
        540,
        r#"last_over_time(memory{job="b"}[5m])"#,
        r#"memory{job="b"} 10"#,
    );
    check(
        540,
        r#"quantile_over_time(0.5, memory{job="b"}[3m])"#,
        r#"{job="b"} 9"#,
    );
    check(
        540,
        r#"stddev_over_time(memory{job="b"}[2m])"#,
        r#"{job="b"} 0.5"#,
    );
    check(
        540,
        r#"absent_over_time(none{a="b",c=~"d"}[5m])"#,
        r#"{a="b"} 1"#,
    );
    check(
        540,
        r#"max_over_time(rate(requests{job="a",code="200"}[2m])[5m:1m])"#,
        r#"{code="200", job="a"} 1"#,
    );
    check(
        240,
        r#"sum_over_time(memory{job="b"}[2m:30s])"#,
        r#"{job="b"} 16"#,
    );
    check(
        540,
        r#"predict_linear(memory{job="b"}[5m], 60)"#,
        r#"{job="b"} 11"#,
    );
}

#[test]
fn aggregations() {
    check(300, "sum(requests)", "{} 430");
    check(
        300,
        "sum by (job) (requests)",
        "{job=\"a\"} 330\n{job=\"b\"} 100",
    );
    check(
        300,
        "sum without (code) (requests)",
        "{job=\"a\"} 330\n{job=\"b\"} 100",
    );
    check(300, "avg(memory)", "{} 23");
    check(
        300,
        "count by (code) (requests)",
        "{code=\"200\"} 2\n{code=\"500\"} 1",
    );
    check(
        300,
        "topk(2, requests)",
        "requests{code=\"200\", job=\"a\"} 300\nrequests{code=\"200\", job=\"b\"} 100",
    );
    check(
        300,
        "bottomk by (job) (1, requests)",
        "requests{code=\"500\", job=\"a\"} 30\nrequests{code=\"200\", job=\"b\"} 100",
    );
    check(300, "quantile(0.5, requests)", "{} 100");
    check(300, "stddev(memory)", "{} 17");
    check(300, "group(memory)", "{} 1");
    check(
        300,
        "count_values(\"v\", limit)",
        "{v=\"100\"} 1\n{v=\"5\"} 1",
    );
    check(600, "min(memory)", "{} 11");
    check(300, "sum(none)", "");
}

#[test]
fn operators_match_vectors() {
    check(
        300,
        "memory / on(job) limit",
        "{job=\"a\"} 0.4\n{job=\"b\"} 1.2",
    );
    check(300, "memory > on(job) limit", r#"{job="b"} 6"#);
    check(300, "memory > limit", "");
    check(
        300,
        "memory > ignoring(owner) limit",
        r#"memory{job="b"} 6"#,
    );
    check(
        300,
        "memory > bool ignoring(owner) limit",
        "{job=\"a\"} 0\n{job=\"b\"} 1",
    );
    check(
        300,
        "requests / on(job) group_left(owner) limit",
        "{code=\"200\", job=\"a\", owner=\"x\"} 3\n{code=\"200\", job=\"b\", owner=\"y\"} 20\n{code=\"500\", job=\"a\", owner=\"x\"} 0.3",
    );
    check(
        300,
        "limit * on(job) group_right requests{job=\"b\"}",
        r#"{code="200", job="b"} 500"#,
    );
    check(
        300,
        "limit / on(job) requests",
        "error: found duplicate series for the match group {job=\"a\"} on the right hand-side of the operation: [requests{code=\"200\", job=\"a\"}, requests{code=\"500\", job=\"a\"}];many-to-many matching not allowed: matching labels must be unique on one side",
    );
    check(
        300,
        "requests / on(job) limit",
        "error: multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
    );
    check(300, "memory > 10", r#"memory{job="a"} 40"#);
    check(300, "10 < memory", r#"memory{job="a"} 40"#);
    check(300, "-memory + 1", "{job=\"a\"} -39\n{job=\"b\"} -5");
    check(300, "7 % 4 ^ 2 - 1 == bool 6", "1");
}

#[test]
fn set_operators() {
    check(
        300,
        "requests and on(job) (memory > 10)",
        "requests{code=\"200\", job=\"a\"} 300\nrequests{code=\"500\", job=\"a\"} 30",
    );
    check(
        300,
        "requests unless on(job) memory{job=\"a\"}",
        r#"requests{code="200", job="b"} 100"#,
    );
    check(
        300,
        "memory{job=\"a\"} or memory",
        "memory{job=\"a\"} 40\nmemory{job=\"b\"} 6",
    );
    check(
        300,
        "memory or vector(1)",
        "{} 1\nmemory{job=\"a\"} 40\nmemory{job=\"b\"} 6",
    );
}

#[test]
fn functions_of_values_and_labels() {
    check(300, "clamp(memory, 7, 30)", "{job=\"a\"} 30\n{job=\"b\"} 7");
    check(300, "clamp(memory, 3, 1)", "");
    check(
        300,
        "round(memory / 7, 0.5)",
        "{job=\"a\"} 5.5\n{job=\"b\"} 1",
    );
    check(300, "sqrt(limit{job=\"a\"}) + ln(exp(vector(1)))", "");
    check(300, "scalar(memory{job=\"b\"}) + scalar(memory)", "NaN");
    check(300, "vector(time())", "{} 300");
    check(
        300,
        "sort_desc(memory)",
        "memory{job=\"a\"} 40\nmemory{job=\"b\"} 6",
    );
    check(
        300,
        "sort(memory)",
        "memory{job=\"b\"} 6\nmemory{job=\"a\"} 40",
    );
    check(300, "absent(memory{job=\"z\"})", r#"{job="z"} 1"#);
    check(300, "absent(memory)", "");
    check(
        300,
        r#"label_replace(memory, "who", "$1-x", "job", "(a|z)")"#,
        "memory{job=\"a\", who=\"a-x\"} 40\nmemory{job=\"b\"} 6",
    );
    check(
        300,
        r#"label_replace(memory, "job", "", "job", ".*")"#,
        "error: vector cannot contain metrics with the same labelset",
    );
    check(
        300,
        r#"label_join(limit{job="a"}, "all", "/", "job", "owner")"#,
        r#"limit{all="a/x", job="a", owner="x"} 100"#,
    );
    check(
        300,
        "round(histogram_quantile(0.75, rate(dur_bucket[2m])), 0.001)",
        r#"{job="a"} 3"#,
    );
    check(
        300,
        "day_of_week() + 10 * hour(vector(1700000000)) + days_in_month()",
        "{} 255",
    );
    check(
        300,
        "year(vector(1700000000)) * 100 + month(vector(1700000000))",
        "{} 202311",
    );
    check(300, "\"text\"", "text");
}

#[test]
fn a_range_query_steps_through_time() {
    let world = world(Dialect::V3);
    let found = world
        .engine
        .range("sum(requests)", (0, 600_000), 300_000, &Cancel::default());
    let found = found.unwrap();
    let values: Vec<(i64, f64)> = found[0].samples.iter().map(|s| (s.t / 1000, s.v)).collect();
    assert_eq!(values, [(0, 0.0), (300, 430.0), (600, 631.0)]);
    let topk = world
        .engine
        .range("topk(1, memory)", (0, 540_000), 60_000, &Cancel::default());
    assert_eq!(topk.unwrap().len(), 1);
}

#[test]
fn limits_are_enforced() {
    let mut world = world(Dialect::V3);
    let cancel = Cancel::default();
    cancel.cancel();
    let error = world.engine.instant("memory", 0, &cancel).unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    let error = world
        .engine
        .range("memory", (0, 12_000), 1, &Cancel::default())
        .unwrap_err();
    assert!(error.to_string().contains("11000 points"), "{error}");
    let config = QueryConfig {
        max_samples: 10,
        ..QueryConfig::default()
    };
    world.engine = Engine::new(world.engine.store().clone(), config);
    let answer = instant(&world, "sum_over_time(memory[10m])", 600);
    assert!(answer.contains("more than 10 samples"), "{answer}");
    let answer = instant(&world, "max_over_time(vector(1)[10y:1ms])", 600);
    assert!(answer.contains("too many samples"), "{answer}");
}
