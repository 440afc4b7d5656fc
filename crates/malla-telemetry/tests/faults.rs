//! What is left when the collector is killed, or its disk is full: everything it acknowledged.
//!
//! The collector runs in a process of its own, which is this very program with one ignored test.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test panics and tells why"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use malla_telemetry::{Collector, CollectorConfig, TelemetryConfig};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const FOLDER: &str = "MALLA_TEST_FOLDER";
const PORTS: &str = "MALLA_TEST_PORTS";

/// The other process: collects into a folder until it is killed.
#[test]
#[ignore = "the other half of the tests below"]
fn collect() {
    let folder = std::env::var(FOLDER).expect("run by another test");
    let ports = std::env::var(PORTS).unwrap();
    let (spans, queries) = ports.split_once(',').unwrap();
    let at = |port: &str| SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
    let mut telemetry = TelemetryConfig::new(folder);
    telemetry.scrape.interval = Duration::from_millis(200);
    let collector = Collector::new(CollectorConfig {
        telemetry,
        grpc: None,
        otlp_http: Some(at(spans)),
        zipkin: None,
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(at(queries)).await.unwrap();
        let queries = axum::serve(listener, collector.router()).into_future();
        tokio::select! {
            () = collector.clone().run(std::future::pending()) => {}
            served = queries => served.unwrap(),
        }
    });
}

struct Collecting {
    process: Child,
    spans: u16,
    queries: u16,
}

impl Collecting {
    /// Starts it and waits until it is open. `before` is a command line that starts ours.
    fn start(folder: &Path, before: &[&str]) -> Self {
        let free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let (spans, queries) = (free(), free());
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let words = [own, "--exact", "collect", "--ignored", "--nocapture"];
        let words: Vec<&str> = before.iter().copied().chain(words).collect();
        let process = Command::new(words[0])
            .args(&words[1..])
            .env(FOLDER, folder)
            .env(PORTS, format!("{spans},{queries}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let collecting = Self {
            process,
            spans,
            queries,
        };
        eventually("it opens", || collecting.status()["state"] == "open");
        collecting
    }

    fn status(&self) -> Value {
        self.ask("/api/malla/v1/telemetry/status")
    }

    fn ask(&self, path: &str) -> Value {
        match http(self.queries, "GET", path, "") {
            Some((200, body)) => serde_json::from_str(&body).unwrap(),
            _ => Value::Null,
        }
    }

    /// Sends a span with so many bytes of text; whether it was acknowledged.
    fn send(&self, trace: u64, bytes: usize) -> bool {
        let text = "x".repeat(bytes);
        let span = json!({
            "traceId": format!("{trace:032x}"), "spanId": "00000000000000aa", "name": "op",
            "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000001000",
            "attributes": [{"key": "text", "value": {"stringValue": text}}],
        });
        let resource =
            json!({"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]});
        let message =
            json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]});
        let answer = http(self.spans, "POST", "/v1/traces", &message.to_string());
        answer.is_some_and(|(status, _)| status == 200)
    }

    fn has(&self, trace: u64) -> bool {
        let found = self.ask(&format!("/jaeger/api/traces/{trace:032x}"));
        found["data"][0]["spans"]
            .as_array()
            .is_some_and(|spans| spans.len() == 1)
    }

    /// The value of a query's only sample.
    fn value(&self, query: &str) -> f64 {
        let answer = self.ask(&format!("/api/v1/query?query={query}"));
        let value = answer["data"]["result"][0]["value"][1].as_str();
        value.and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One exchange; `None` when there is no whole answer.
fn http(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let samples = "count_over_time(malla_telemetry_series[1h])";
    let mut acknowledged = Vec::new();
    let mut stored = 0.0;
    for round in 0..3_u64 {
        let collecting = Collecting::start(directory.path(), &[]);
        assert!(collecting.value(samples) >= stored, "samples were lost");
        eventually("it stores its own numbers", || {
            stored = collecting.value(samples);
            stored > f64::from(u32::try_from(round).unwrap()) * 3.0
        });
        // It is killed while a sender is at it.
        let (spans, queries) = (collecting.spans, collecting.queries);
        let sender = std::thread::spawn(move || {
            let idle = Command::new("true").spawn().unwrap();
            let to = Collecting {
                process: idle,
                spans,
                queries,
            };
            let traces = (1 + round * 100_000)..(1 + (round + 1) * 100_000);
            let sent = traces.take_while(|trace| to.send(*trace, 1000));
            sent.collect::<Vec<u64>>()
        });
        std::thread::sleep(Duration::from_millis(400 + 130 * round));
        collecting.kill();
        acknowledged.extend(sender.join().unwrap());
    }
    assert!(acknowledged.len() > 30, "{}", acknowledged.len());
    let collecting = Collecting::start(directory.path(), &[]);
    assert!(collecting.value(samples) >= stored, "samples were lost");
    let lost: Vec<&u64> = acknowledged
        .iter()
        .filter(|trace| !collecting.has(**trace))
        .collect();
    assert!(lost.is_empty(), "of {}: {lost:?}", acknowledged.len());
}

/// Fills what is left of the disk; the file frees it.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = vec![0; 1 << 20];
    while file.write_all(&block).is_ok() {}
    for size in [65_536, 4096, 512] {
        while file.write_all(&block[..size]).is_ok() {}
    }
    path
}

#[test]
fn a_full_disk_is_told_and_recovered_from() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    // A disk of its own: seen by the other process only, and here through /proc.
    let shell = format!(
        "mount -t tmpfs -o size=96m tmpfs {} && exec \"$@\"",
        folder.display()
    );
    let before = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &shell,
        "sh",
    ];
    let collecting = Collecting::start(folder, &before);
    let disk = PathBuf::from(format!("/proc/{}/root", collecting.process.id()));
    let disk = disk.join(folder.strip_prefix("/").unwrap());
    let mut acknowledged: Vec<u64> = (1..20).filter(|at| collecting.send(*at, 1000)).collect();
    assert_eq!(acknowledged.len(), 19);

    let filler = fill(&disk);
    let mut next = 100;
    eventually("spans are refused", || {
        next += 1;
        let taken = collecting.send(next, 100_000);
        if taken {
            acknowledged.push(next);
        }
        !taken
    });
    eventually("lost spans are counted", || {
        collecting.status()["spans"]["failed"].as_u64() > Some(0)
    });
    // Metrics go on in memory, and that is told.
    eventually("it is told that metrics are not safe", || {
        collecting.status()["metrics"]["unsafeInMemory"].as_u64() > Some(0)
    });
    let now = collecting.value("timestamp(malla_telemetry_series)");
    eventually("metrics go on", || {
        collecting.value("timestamp(malla_telemetry_series)") > now
    });

    std::fs::remove_file(filler).unwrap();
    eventually("spans are taken again", || {
        next += 1;
        let taken = collecting.send(next, 1000);
        if taken {
            acknowledged.push(next);
        }
        taken
    });
    let lost: Vec<&u64> = acknowledged
        .iter()
        .filter(|trace| !collecting.has(**trace))
        .collect();
    assert!(lost.is_empty(), "of {}: {lost:?}", acknowledged.len());
}
