//! The same samples and the same queries, in Debian's Prometheus and in the built-in store.
//!
//! `prometheus` and `promtool` must be on the path (Debian: `apt-get install prometheus`); without
//! them the tests fail. Debian ships Prometheus 2, so the engine runs with `Dialect::V2`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_telemetry::metrics::{Labels, MetricStore, MetricsConfig, NAME, Row, Sample};
use malla_telemetry::promql::{Answer, Cancel, Dialect, Engine, QueryConfig};
use serde_json::Value;

/// Two hours ago in 2026, on a boundary of Prometheus' blocks.
const START: i64 = 1_788_220_800_000;
const STEPS: i64 = 480;

/// Repeatable noise.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Series and their samples: counters with resets, gauges with odd values, gaps, a histogram.
fn data() -> Vec<(Labels, Vec<Sample>)> {
    let mut noise = Noise(7);
    let mut all = Vec::new();
    let mut add = |name: &str, labels: &[(&str, &str)], values: Vec<Option<f64>>| {
        let labels = labels.iter().copied().chain([(NAME, name)]);
        let mut noise = Noise(values.len() as u64 + all.len() as u64);
        let samples = values.into_iter().enumerate().filter_map(|(at, v)| {
            let t = START + at as i64 * 15_000 + noise.below(400) as i64;
            Some(Sample { t, v: v? })
        });
        all.push((Labels::new(labels), samples.collect()));
    };
    for (job, code, rate) in [
        ("web", "200", 40),
        ("web", "500", 3),
        ("db", "200", 9),
        ("db", "404", 1),
    ] {
        let mut total = 0.0;
        let values = (0..STEPS).map(|step| {
            total += noise.below(rate * 2) as f64;
            if noise.below(97) == 0 {
                total = 0.0;
            }
            (!(100..140).contains(&step) || job == "web").then_some(total)
        });
        add(
            "requests_total",
            &[("job", job), ("code", code), ("env", "x")],
            values.collect(),
        );
    }
    for (job, pod) in [("web", "a"), ("web", "b"), ("db", "c")] {
        let values = (0..STEPS).map(|step| {
            let v = noise.below(1000) as f64 / 8.0 - 40.0;
            Some(match step % 101 {
                50 => f64::NAN,
                77 => f64::INFINITY,
                _ => v,
            })
        });
        add("wild", &[("job", job), ("pod", pod)], values.collect());
        let values = (0..STEPS).map(|step| {
            let v = 100.0 + (step as f64 / 20.0).sin() * 30.0 + noise.below(5) as f64;
            (noise.below(6) > 0).then_some(v)
        });
        add(
            "memory_bytes",
            &[("job", job), ("pod", pod)],
            values.collect(),
        );
    }
    for job in ["web", "db"] {
        let mut counts = [0.0; 5];
        let mut rows = vec![Vec::new(); 5];
        for _ in 0..STEPS {
            let seen = noise.below(30);
            for (at, bound) in [2, 8, 15, 25, 100].into_iter().enumerate() {
                counts[at] += if seen < bound { 3.0 } else { 0.0 };
                rows[at].push(Some(counts[at]));
            }
        }
        for (le, values) in ["2", "8", "15.0", "25", "+Inf"].into_iter().zip(rows) {
            add("duration_bucket", &[("job", job), ("le", le)], values);
        }
        add(
            "limits",
            &[("job", job), ("owner", &format!("team-{job}"))],
            vec![Some(110.0); STEPS as usize],
        );
    }
    all
}

fn open_metrics(data: &[(Labels, Vec<Sample>)]) -> String {
    let mut text = String::new();
    for (labels, samples) in data {
        let name = labels.name();
        let inner = labels.without_name().to_string().replace(", ", ",");
        for sample in samples {
            let seconds = sample.t as f64 / 1000.0;
            writeln!(text, "{name}{inner} {} {seconds:.3}", go_number(sample.v)).unwrap();
        }
    }
    text + "# EOF\n"
}

fn go_number(v: f64) -> String {
    match v {
        v if v.is_nan() => "NaN".to_owned(),
        v if v.is_infinite() => "+Inf".to_owned(),
        v => format!("{v}"),
    }
}

struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Prometheus {
    fn start(data: &[(Labels, Vec<Sample>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("data.txt"), open_metrics(data)).unwrap();
        fs::write(path("config.yml"), "global: {}\n").unwrap();
        let filled = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([path("data.txt"), path("tsdb")])
            .output()
            .expect("promtool (Debian: apt-get install prometheus)");
        assert!(
            filled.status.success(),
            "{}",
            String::from_utf8_lossy(&filled.stderr)
        );
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path("config.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--storage.tsdb.retention.time=100y")
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus (Debian: apt-get install prometheus)");
        let server = Self {
            process,
            address,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server
            .get("/-/ready")
            .is_none_or(|(status, _)| status != 200)
        {
            assert!(Instant::now() < deadline, "prometheus does not get ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.to_owned()))
    }

    fn ask(&self, path: &str) -> Result<Found, String> {
        let (_, body) = self.get(path).expect("prometheus answers");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        if answer["status"] != "success" {
            return Err(answer["error"].as_str().unwrap_or_default().to_owned());
        }
        let result = &answer["data"]["result"];
        if answer["data"]["resultType"] == "scalar" {
            return Ok([("{}".to_owned(), vec![point(result)])].into());
        }
        let series = result.as_array().into_iter().flatten().map(|series| {
            let labels = series["metric"].as_object().unwrap();
            let labels = labels
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str().unwrap()));
            let points = match series["values"].as_array() {
                Some(values) => values.iter().map(point).collect(),
                None => vec![point(&series["value"])],
            };
            (Labels::new(labels).to_string(), points)
        });
        Ok(series.collect())
    }
}

type Found = BTreeMap<String, Vec<(i64, f64)>>;

fn point(value: &Value) -> (i64, f64) {
    let t = (value[0].as_f64().unwrap() * 1000.0).round() as i64;
    (t, value[1].as_str().unwrap().parse().unwrap())
}

fn engine(folder: &Path, data: &[(Labels, Vec<Sample>)]) -> Engine {
    let store = MetricStore::open(folder, MetricsConfig::default()).unwrap();
    let mut rows: Vec<Row> = data
        .iter()
        .flat_map(|(labels, samples)| {
            samples.iter().map(|sample| Row {
                labels: labels.clone(),
                series: None,
                sample: *sample,
            })
        })
        .collect();
    rows.sort_by_key(|row| row.sample.t);
    for (at, rows) in rows.chunks_mut(100).enumerate() {
        let now = rows.last().unwrap().sample.t;
        let done = store.append(now, rows);
        assert_eq!(done.accepted as usize, rows.len());
        // Several blocks and a head.
        if at % 20 == 19 {
            store.flush().unwrap();
        }
    }
    let config = QueryConfig {
        dialect: Dialect::V2,
        ..QueryConfig::default()
    };
    Engine::new(Arc::new(store), config)
}

fn ours(answer: Answer) -> Found {
    match answer {
        Answer::Scalar(s) => [("{}".to_owned(), vec![(s.t, s.v)])].into(),
        Answer::Vector(vector) => vector
            .into_iter()
            .map(|(l, s)| (l.to_string(), vec![(s.t, s.v)]))
            .collect(),
        Answer::Matrix(series) => matrix(series),
        Answer::Text(..) => Found::new(),
    }
}

fn matrix(series: Vec<malla_telemetry::metrics::SeriesData>) -> Found {
    let pairs =
        |s: &malla_telemetry::metrics::SeriesData| s.samples.iter().map(|s| (s.t, s.v)).collect();
    series
        .iter()
        .map(|s| (s.labels.to_string(), pairs(s)))
        .collect()
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

fn difference(theirs: &Result<Found, String>, ours: &Result<Found, String>) -> Option<String> {
    match (theirs, ours) {
        (Err(_), Err(_)) => None,
        (Ok(theirs), Ok(ours)) => {
            let names: Vec<&String> = theirs.keys().collect();
            if names != ours.keys().collect::<Vec<_>>() {
                return Some(format!("series {names:?}, not {:?}", ours.keys()));
            }
            for (name, theirs) in theirs {
                let ours = &ours[name];
                let agree = theirs.len() == ours.len()
                    && theirs
                        .iter()
                        .zip(ours)
                        .all(|(a, b)| a.0 == b.0 && same(a.1, b.1));
                if !agree {
                    let odd = theirs
                        .iter()
                        .zip(ours)
                        .find(|(a, b)| a.0 != b.0 || !same(a.1, b.1));
                    return Some(format!(
                        "{name}: {} and {} points, {odd:?}",
                        theirs.len(),
                        ours.len()
                    ));
                }
            }
            None
        }
        (theirs, ours) => Some(format!(
            "{:?}, not {:?}",
            theirs.as_ref().map(BTreeMap::len),
            ours.as_ref().map(BTreeMap::len)
        )),
    }
}

struct Both {
    prometheus: Prometheus,
    engine: Engine,
    _folder: tempfile::TempDir,
}

impl Both {
    fn new() -> Self {
        let data = data();
        let folder = tempfile::tempdir().unwrap();
        Self {
            prometheus: Prometheus::start(&data),
            engine: engine(folder.path(), &data),
            _folder: folder,
        }
    }

    fn compare(&self, query: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |place: &str, theirs, ours| {
            if let Some(difference) = difference(&theirs, &ours) {
                found.push(format!("{query}\n  {place}: {difference}"));
            }
        };
        let encoded = encode(query);
        for at in [
            START + 600_000,
            START + 1_234_567,
            START + 2_700_000,
            START + 7_200_000,
        ] {
            let path = format!("/api/v1/query?query={encoded}&time={}", at as f64 / 1000.0);
            let ours = self.engine.instant(query, at, &Cancel::default());
            let ours = ours.map(self::ours).map_err(|e| e.to_string());
            note(&format!("at {at}"), self.prometheus.ask(&path), ours);
        }
        let (start, end, step) = (START + 500_000, START + 7_100_000, 137_000);
        let path = format!(
            "/api/v1/query_range?query={encoded}&start={}&end={}&step=137",
            start / 1000,
            end / 1000
        );
        let ours = self
            .engine
            .range(query, (start, end), step, &Cancel::default());
        let ours = ours.map(matrix).map_err(|e| e.to_string());
        note("range", self.prometheus.ask(&path), ours);
        found
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

const QUERIES: &[&str] = &[
    "requests_total",
    r#"requests_total{job="db"}"#,
    r#"{job=~"w.*",code!="500",pod=""}"#,
    "memory_bytes offset 7m",
    "memory_bytes @ 1788222000",
    "memory_bytes @ end() - memory_bytes @ start()",
    "memory_bytes[90s]",
    "memory_bytes[2m:20s] offset 1m",
    "rate(requests_total[1m])",
    "rate(requests_total[5m]) * 60",
    "increase(requests_total[10m])",
    "irate(requests_total[2m])",
    "sum by (job) (rate(requests_total[2m]))",
    "sum without (code, env) (rate(requests_total[2m]))",
    "sum(rate(requests_total{code=~\"5..\"}[5m])) / sum(rate(requests_total[5m]))",
    "histogram_quantile(0.9, sum by (job, le) (rate(duration_bucket[5m])))",
    "histogram_quantile(0.5, duration_bucket)",
    "histogram_quantile(scalar(limits{job=\"web\"}) / 200, duration_bucket)",
    "topk(2, memory_bytes)",
    "bottomk by (job) (1, memory_bytes)",
    "quantile(0.3, memory_bytes)",
    "quantile by (job) (0.95, wild)",
    "count_values(\"v\", limits)",
    "stddev(memory_bytes) + stdvar(memory_bytes)",
    "max(wild) - min(wild)",
    "group by (job) (wild)",
    "count(wild > 0) by (job)",
    "memory_bytes / on(job) group_left(owner) limits",
    "limits * on(job) group_right memory_bytes",
    "limits * on(job) memory_bytes",
    "memory_bytes > on(job) group_left limits",
    "memory_bytes > bool 100",
    "requests_total / ignoring(code) group_left sum without(code) (requests_total)",
    "requests_total{code=\"500\"} / ignoring(code) requests_total{code=\"200\"}",
    "memory_bytes and on(job) (limits > 100)",
    "memory_bytes unless on(pod) wild{pod=\"a\"}",
    "limits or memory_bytes",
    "wild or on(job) limits",
    "absent(requests_total{job=\"none\"})",
    "absent(sum(none))",
    "absent_over_time(requests_total{job=\"db\",code=\"404\"}[5m])",
    "deriv(memory_bytes[10m])",
    "predict_linear(memory_bytes[10m], 3600)",
    "delta(memory_bytes[5m])",
    "idelta(memory_bytes[5m])",
    "changes(memory_bytes[10m])",
    "resets(requests_total[1h])",
    "avg_over_time(memory_bytes[5m])",
    "quantile_over_time(0.7, memory_bytes[5m])",
    "stddev_over_time(memory_bytes[5m])",
    "stdvar_over_time(memory_bytes[5m])",
    "min_over_time(wild[10m])",
    "max_over_time(wild[10m])",
    "last_over_time(wild[1m])",
    "present_over_time(memory_bytes[30s])",
    "count_over_time(memory_bytes[10m] offset 3m)",
    "max_over_time(rate(requests_total[1m])[10m:1m])",
    "avg_over_time(sum(memory_bytes)[10m:])",
    "rate(sum_over_time(memory_bytes[1m])[10m:30s] offset 2m)",
    "sum_over_time(memory_bytes[5m:7s])",
    "label_replace(memory_bytes, \"where\", \"$1-$2\", \"pod\", \"(.)(.*)\")",
    "label_replace(memory_bytes, \"pod\", \"\", \"pod\", \".*\")",
    "label_join(limits, \"both\", \"-\", \"job\", \"owner\", \"none\")",
    "clamp(wild, -10, 10)",
    "clamp_min(wild, 0) + clamp_max(wild, 3)",
    "round(memory_bytes, 0.25)",
    "round(wild)",
    "abs(wild) + ceil(wild) - floor(wild)",
    "exp(wild / 100) + ln(abs(wild)) + log2(memory_bytes) + log10(memory_bytes) + sqrt(memory_bytes)",
    "sgn(wild)",
    "sin(wild) + cos(wild) + atan(wild)",
    "wild % 7",
    "wild ^ 2",
    "2 ^ -wild",
    "-wild",
    // Prometheus 2.42 forgets to drop the name here (fixed since).
    "abs(wild atan2 memory_bytes)",
    "time()",
    "vector(time())",
    "scalar(memory_bytes) + 1",
    "scalar(limits{job=\"db\"}) * memory_bytes",
    "timestamp(memory_bytes)",
    "timestamp(memory_bytes offset 1m)",
    "timestamp(sum(memory_bytes))",
    "hour() + minute() + day_of_week() + day_of_month() + day_of_year() + month() + year()",
    "days_in_month(vector(1700000000))",
    "minute(timestamp(memory_bytes))",
    "1 + 2 * 3 ^ 2 % 5",
    "1 > bool 2",
    "pi() * deg(wild) + rad(wild)",
    "sum(memory_bytes) by (job) > 150 or sum(limits) by (job)",
    "memory_bytes == memory_bytes",
    "wild != wild",
    "10 < memory_bytes < 120",
    "sort_desc(memory_bytes)",
    "avg(wild)",
    "holt_winters(memory_bytes[5m], 0.5)[",
    "sum(1)",
    "rate(memory_bytes)",
    "memory_bytes + on(job) requests_total",
];

#[test]
fn answers_equal_prometheus() {
    let both = Both::new();
    let mut found: Vec<String> = QUERIES.iter().flat_map(|q| both.compare(q)).collect();
    let mut noise = Noise(2026);
    for _ in 0..600 {
        found.extend(both.compare(&vector(&mut noise, 3)));
    }
    assert!(
        found.is_empty(),
        "{} differ:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Some vector-valued query.
fn vector(noise: &mut Noise, depth: u64) -> String {
    let inner = |noise: &mut Noise| vector(noise, depth.saturating_sub(1));
    let range = |noise: &mut Noise| noise.one(&["45s", "1m", "137s", "5m", "20m"]).to_owned();
    let selector = |noise: &mut Noise| {
        let name = noise.one(&[
            "requests_total",
            "memory_bytes",
            "wild",
            "limits",
            "duration_bucket",
        ]);
        let filter = noise.one(&["", r#"{job="web"}"#, r#"{job!~"w.+"}"#, r#"{pod=~"a|c|"}"#]);
        format!("{name}{filter}")
    };
    if depth == 0 {
        let late = noise.one(&["", "", " offset 90s", " offset -2m", " @ 1788223000"]);
        return selector(noise) + late;
    }
    let over = [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "deriv",
        "resets",
        "changes",
        "avg_over_time",
        "sum_over_time",
        "min_over_time",
        "max_over_time",
        "count_over_time",
        "last_over_time",
        "stddev_over_time",
    ];
    match noise.below(9) {
        0 | 1 => format!(
            "{}({}[{}])",
            noise.one(&over),
            selector(noise),
            range(noise)
        ),
        2 => format!(
            "{}(({})[{}:{}])",
            noise.one(&over),
            inner(noise),
            range(noise),
            noise.one(&["", "10s", "41s"])
        ),
        3 => {
            let op = noise.one(&["sum", "avg", "min", "max", "count", "group"]);
            let by = noise.one(&["by (job)", "by (job, le)", "without (code, pod, env)", ""]);
            format!("{op} {by} ({})", inner(noise)).replace("  ", " ")
        }
        4 => {
            let op = noise.one(&[
                "+", "-", "*", "/", ">", "<=", "==", "> bool", "and", "or", "unless",
            ]);
            let on = noise.one(&["", " on(job)", " ignoring(le, pod, code, owner, env)"]);
            format!("({}) {op}{on} ({})", inner(noise), inner(noise))
        }
        5 => format!(
            "({}) {} on(job) group_left ({})",
            inner(noise),
            noise.one(&["+", "/", ">"]),
            "limits"
        ),
        6 => format!(
            "({}) {} {}",
            inner(noise),
            noise.one(&["*", "-", "<", ">= bool", "%"]),
            noise.below(200)
        ),
        7 => format!(
            "{}({})",
            noise.one(&["abs", "ceil", "sqrt", "absent", "timestamp", "round"]),
            inner(noise)
        ),
        _ => format!(
            "quantile by (job) (0.{}, {})",
            noise.below(99),
            inner(noise)
        ),
    }
}
