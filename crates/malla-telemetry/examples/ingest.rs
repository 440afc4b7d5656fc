//! How much telemetry one core takes in: spans by OTLP, log lines by ALS, 1,000 proxies' metrics;
//! and how long a query over a day takes. The clients run in the same process, on the same core.
//!
//! `taskset -c 0 cargo run --release -p malla-telemetry --example ingest`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_runtime::task::AbortOnDrop;
use malla_telemetry::metrics::{Labels, MetricStore, MetricsConfig, Row, Sample};
use malla_telemetry::promql::{Cancel, Engine, QueryConfig};
use malla_telemetry::scrape::Metadata;
use malla_telemetry::scrape::target::{Fetch, Target, TargetState};
use malla_telemetry::{Telemetry, TelemetryConfig};
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
};
use malla_xds_proto::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use malla_xds_proto::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use malla_xds_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use malla_xds_proto::pb::google::protobuf::{Timestamp, UInt32Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::net::TcpListener;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!("{:<44} {:>14} {:>14}", "", "measured", "aim");
    runtime.block_on(receivers());
    proxies();
    day();
}

fn line(what: &str, measured: String, aim: &str) {
    println!("{what:<44} {measured:>14} {aim:>14}");
}

async fn receivers() {
    let folder = tempfile::tempdir().unwrap();
    let telemetry = Arc::new(Telemetry::open(TelemetryConfig::new(folder.path())).unwrap());
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", grpc.local_addr().unwrap());
    let served = telemetry.clone();
    let _server = AbortOnDrop::spawn(tracing::Span::none(), async move {
        served
            .serve(
                malla_telemetry::Receivers {
                    grpc: Some(grpc),
                    otlp_http: Some(http),
                    ..Default::default()
                },
                std::future::pending(),
            )
            .await
            .unwrap();
    });
    spans(&url).await;
    logs(&url, &telemetry).await;
}

async fn spans(url: &str) {
    const MESSAGES: u64 = 200;
    const EACH: u64 = 500;
    let mut client = TraceServiceClient::connect(url.to_owned()).await.unwrap();
    let messages: Vec<_> = (0..MESSAGES)
        .map(|at| span_message(at * EACH, EACH))
        .collect();
    let begun = Instant::now();
    for message in messages {
        client.export(message).await.unwrap();
    }
    let rate = (MESSAGES * EACH) as f64 / begun.elapsed().as_secs_f64();
    line(
        "spans by OTLP/gRPC, acknowledged",
        format!("{rate:.0}/s"),
        "5000/s",
    );
}

fn span_message(first: u64, count: u64) -> ExportTraceServiceRequest {
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    };
    let now = 1_700_000_000_000_000_000_u64;
    let spans = (first..first + count).map(|at| {
        let mut trace_id = vec![9; 8];
        trace_id.extend_from_slice(&(at / 6).to_be_bytes());
        Span {
            trace_id,
            span_id: (at + 1).to_be_bytes().to_vec(),
            name: "reviews.base.svc.cluster.local:9080/*".to_owned(),
            kind: 2,
            start_time_unix_nano: now + at * 1000,
            end_time_unix_nano: now + at * 1000 + 5_000_000,
            attributes: (0..12)
                .map(|tag| text(&format!("http.tag.{tag}"), "some usual value"))
                .collect(),
            ..Span::default()
        }
    });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "reviews.base")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: spans.collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

async fn logs(url: &str, telemetry: &Telemetry) {
    const MESSAGES: u64 = 1000;
    const EACH: u64 = 200;
    let messages: Vec<_> = (0..MESSAGES).map(|_| log_message(EACH)).collect();
    let mut client = AccessLogServiceClient::connect(url.to_owned())
        .await
        .unwrap();
    let begun = Instant::now();
    client
        .stream_access_logs(tokio_stream::iter(messages))
        .await
        .unwrap();
    let counted = |name: &str| {
        let text = telemetry.exposition();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned();
        line.parse::<u64>().unwrap()
    };
    let dropped = "malla_telemetry_records_dropped_total{kind=\"log\"}";
    while counted("malla_telemetry_records_written_total{kind=\"log\"}") + counted(dropped)
        < MESSAGES * EACH
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let taken = MESSAGES * EACH - counted(dropped);
    let rate = taken as f64 / begun.elapsed().as_secs_f64();
    line(
        "log lines by ALS, written",
        format!("{rate:.0}/s"),
        "10000/s",
    );
    line(
        "  of a burst of 200,000, dropped",
        counted(dropped).to_string(),
        "-",
    );
}

fn log_message(count: u64) -> StreamAccessLogsMessage {
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            start_time: Some(Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            upstream_cluster: "outbound|80||db.base.svc.cluster.local".to_owned(),
            route_name: "default".to_owned(),
            ..AccessLogCommon::default()
        }),
        protocol_version: 2,
        request: Some(HttpRequestProperties {
            request_method: 1,
            path: "/api/v1/products/1234?currency=EUR".to_owned(),
            authority: "products.base.svc.cluster.local:9080".to_owned(),
            user_agent: "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0".to_owned(),
            request_id: "7d6a3b52-3c1f-4d5e-9a0b-112233445566".to_owned(),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_code_details: "via_upstream".to_owned(),
            ..HttpResponseProperties::default()
        }),
    };
    StreamAccessLogsMessage {
        identifier: Some(Identifier {
            node: Some(Node {
                id: "sidecar~10.0.0.1~web-6d4cf56db6-abcde.base~base.svc.cluster.local".to_owned(),
                ..Node::default()
            }),
            log_name: "als".to_owned(),
        }),
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries {
            log_entry: vec![entry; count as usize],
        })),
    }
}

/// One proxy's exposition: 10 calls, each with a histogram of 20 buckets and some counters.
fn exposition(round: u64) -> String {
    let mut text = String::new();
    for peer in 0..10 {
        let labels = format!(
            "reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"base\",source_canonical_service=\"web\",\
             source_canonical_revision=\"v1\",source_principal=\"spiffe://cluster.local/ns/base/sa/web\",source_version=\"v1\",\
             source_app=\"web\",source_cluster=\"Kubernetes\",destination_workload=\"peer-{peer}\",destination_workload_namespace=\"base\",\
             destination_service=\"peer-{peer}.base.svc.cluster.local\",destination_service_name=\"peer-{peer}\",destination_service_namespace=\"base\",\
             destination_canonical_service=\"peer-{peer}\",destination_version=\"v1\",request_protocol=\"http\",response_code=\"200\",\
             grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"unknown\""
        );
        for counter in 0..8 {
            writeln!(
                text,
                "istio_counter_{counter}_total{{{labels}}} {}",
                round * 37 + peer
            )
            .unwrap();
        }
        for bucket in 0..20 {
            let value = round * 20 + bucket;
            writeln!(
                text,
                "istio_request_duration_milliseconds_bucket{{{labels},le=\"{bucket}\"}} {value}"
            )
            .unwrap();
        }
    }
    text
}

fn proxies() {
    const PROXIES: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let store = MetricStore::open(folder.path(), MetricsConfig::default()).unwrap();
    let metadata = Metadata::default();
    let target = |at: usize| {
        let url = format!("http://10.0.{}.{}:15020/", at / 250, at % 250);
        Target::pod(&url, "istio", "base", &format!("web-{at}"))
    };
    let mut states: Vec<TargetState> = (0..PROXIES)
        .map(|at| TargetState::new(&target(at), 100_000))
        .collect();
    let mut samples = 0;
    let mut seconds = Vec::new();
    for round in 0..4 {
        let body = exposition(round);
        let at = 1_700_000_000_000 + round as i64 * 15_000;
        let begun = Instant::now();
        samples = 0;
        for state in &mut states {
            let fetch = Fetch {
                at,
                seconds: 0.01,
                body: Ok(&body),
            };
            let mut scraped = state.take(fetch, &metadata);
            samples += store.append(at, &mut scraped.rows).accepted;
            state.remember(&scraped);
        }
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let first = seconds.remove(0);
    let usual = seconds.iter().sum::<f64>() / seconds.len() as f64;
    line(
        &format!("1,000 proxies, {samples} samples, first round"),
        format!("{first:.2} s"),
        "15 s",
    );
    line("  each further round", format!("{usual:.2} s"), "15 s");
    line(
        "  of one core at every 15 s",
        format!("{:.1} %", usual / 15.0 * 100.0),
        "100 %",
    );
    let stats = store.stats();
    line(
        "  memory for chunks",
        format!("{} MB", stats.head_bytes >> 20),
        "-",
    );
}

fn day() {
    const SERIES: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let store = MetricStore::open(folder.path(), MetricsConfig::default()).unwrap();
    let start = 1_700_000_000_000_i64;
    let mut rows: Vec<Row> = (0..SERIES)
        .map(|at| Row {
            labels: Labels::new([
                ("__name__", "istio_requests_total".to_owned()),
                ("destination_workload", format!("w{}", at % 20)),
                ("pod", format!("p{at}")),
            ]),
            series: None,
            sample: Sample { t: 0, v: 0.0 },
        })
        .collect();
    for step in 0..5760_i64 {
        let t = start + step * 15_000;
        for (at, row) in rows.iter_mut().enumerate() {
            row.sample = Sample {
                t,
                v: (step * (at as i64 + 3)) as f64,
            };
        }
        store.append(t, &mut rows);
        if step % 480 == 479 {
            store.flush().unwrap();
        }
    }
    let engine = Engine::new(Arc::new(store), QueryConfig::default());
    let query = "sum by (destination_workload) (rate(istio_requests_total[1m]))";
    let bounds = (start, start + 24 * 3_600_000);
    for step in [300_000, 60_000] {
        let mut best = f64::MAX;
        for _ in 0..3 {
            let begun = Instant::now();
            let found = engine
                .range(query, bounds, step, &Cancel::default())
                .unwrap();
            assert_eq!(found.len(), 20);
            best = best.min(begun.elapsed().as_secs_f64() * 1000.0);
        }
        let what = format!("24 h of {SERIES} series, every {} s", step / 1000);
        line(&what, format!("{best:.0} ms"), "300 ms");
    }
}
