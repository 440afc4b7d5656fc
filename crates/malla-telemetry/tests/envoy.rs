//! Stock Envoy's access logs become Istio's metrics, and its Zipkin spans are taken.
#![allow(clippy::unwrap_used, reason = "a test panics and tells why")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use malla_telemetry::derive::Workload;
use malla_telemetry::promql::Answer;
use malla_telemetry::{Collector, CollectorConfig, TelemetryConfig};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const REQUESTS: usize = 20;

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// An upstream that answers everything, for as long as the test runs.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            drop(stream.read(&mut head));
            drop(
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                ),
            );
        }
    });
    address
}

fn cluster(name: &str, to: SocketAddr, http2: bool) -> serde_json::Value {
    let address =
        json!({"socket_address": {"address": to.ip().to_string(), "port_value": to.port()}});
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    cluster
}

/// A sidecar's way out, as Istio's control plane would name things.
fn bootstrap(
    listen: SocketAddr,
    order: SocketAddr,
    grpc: SocketAddr,
    zipkin: SocketAddr,
) -> String {
    const ORDER: &str = "outbound|7000||order.base.svc.cluster.local";
    let log = json!({"name": "als", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": {
            "log_name": "http", "transport_api_version": "V3", "buffer_flush_interval": "0.1s",
            "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}},
        },
    }});
    let tracing = json!({"provider": {"name": "envoy.tracers.zipkin", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collector_cluster": "zipkin", "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": true, "shared_span_context": false,
    }}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out", "access_log": [log], "tracing": tracing,
        "route_config": {"virtual_hosts": [{"name": "order", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": ORDER}},
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    });
    let address = json!({"socket_address": {"address": listen.ip().to_string(), "port_value": listen.port()}});
    let bootstrap = json!({
        "node": {
            "id": "sidecar~10.0.0.1~cart-5-x.base~base.svc.cluster.local", "cluster": "cart.base",
            "metadata": {"WORKLOAD_NAME": "cart", "CLUSTER_ID": "Kubernetes", "LABELS": {"app": "cart", "version": "v1"}},
        },
        "static_resources": {
            "listeners": [{"name": "out", "address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
            "clusters": [cluster(ORDER, order, false), cluster("collector", grpc, true), cluster("zipkin", zipkin, false)],
        },
        "stats_flush_interval": "1s",
    });
    bootstrap.to_string()
}

fn visit(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(to) else {
        return false;
    };
    let request = "GET /order HTTP/1.1\r\nhost: order\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// Waits until a query has the value, and hands back its labels.
async fn becomes(
    collector: &Collector,
    query: &str,
    wanted: f64,
) -> malla_telemetry::metrics::Labels {
    let started = Instant::now();
    loop {
        let mut found = None;
        if let Ok(telemetry) = collector.telemetry()
            && let Answer::Vector(vector) = telemetry.instant(query).await.unwrap()
        {
            found = vector.into_iter().next();
        }
        match found {
            Some((labels, sample)) if sample.v == wanted => return labels,
            other => assert!(
                started.elapsed() < SOON,
                "{query}: {other:?} instead of {wanted}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_logs_of_stock_envoy_become_istios_metrics() {
    let envoy = std::env::var("MALLA_ENVOY")
        .expect("MALLA_ENVOY names the envoy program (scripts/setup.sh)");
    let directory = tempfile::tempdir().unwrap();
    let (listen, grpc, zipkin) = (free(), free(), free());
    let mut telemetry = TelemetryConfig::new(directory.path().join("data"));
    telemetry.scrape.interval = Duration::from_millis(200);
    let order = Workload {
        name: "order-v1".to_owned(),
        namespace: "base".to_owned(),
        canonical_service: "order".to_owned(),
        ..Workload::default()
    };
    telemetry
        .workloads
        .replace([(Ipv4Addr::LOCALHOST.into(), Arc::new(order))].into());
    let collector = Collector::new(CollectorConfig {
        telemetry,
        grpc: Some(grpc),
        otlp_http: None,
        zipkin: Some(zipkin),
    });
    let _collecting = tokio::spawn(collector.clone().run(std::future::pending()));
    becomes(&collector, "malla_telemetry_log_streams", 0.0).await;

    let config = directory.path().join("envoy.json");
    std::fs::write(&config, bootstrap(listen, upstream(), grpc, zipkin)).unwrap();
    let process = Command::new(envoy)
        .args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "error",
            "-c",
        ])
        .arg(&config)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _envoy = Envoy(process);
    let started = Instant::now();
    while !visit(listen) {
        assert!(started.elapsed() < SOON, "Envoy does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 1..REQUESTS {
        assert!(visit(listen));
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let wanted = REQUESTS as f64;
    let labels = becomes(&collector, "istio_requests_total", wanted).await;
    for (name, value) in [
        ("reporter", "source"),
        ("source_workload", "cart"),
        ("source_version", "v1"),
        ("destination_workload", "order-v1"),
        ("destination_service_name", "order"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("pod", "cart-5-x"),
    ] {
        assert_eq!(labels.get(name), value, "{name} of {labels:?}");
    }
    becomes(
        &collector,
        "istio_request_duration_milliseconds_bucket{le=\"+Inf\"}",
        wanted,
    )
    .await;
    let bytes = "sum(istio_request_bytes_sum) > bool 20 * 40";
    becomes(&collector, bytes, 1.0).await;
    // Envoy sends its spans by the tracer of old, too.
    becomes(
        &collector,
        "malla_telemetry_records_written_total{kind=\"span\"} >= bool 5",
        1.0,
    )
    .await;
}
