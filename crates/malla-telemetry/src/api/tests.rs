//! Calls over real sockets: what is sent in is what comes out.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use malla_runtime::task::AbortOnDrop;
use malla_xds_proto::core::Node;
use malla_xds_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
    ResponseFlags,
};
use malla_xds_proto::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use malla_xds_proto::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use malla_xds_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use malla_xds_proto::pb::google::protobuf::{Timestamp, UInt32Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tracing::Span;

use super::*;
use crate::TelemetryConfig;
use crate::logs::{LogFilter, TailEvent};
use crate::metrics::{Labels, Row, Sample};

struct World {
    telemetry: Arc<Telemetry>,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let telemetry = Telemetry::open(TelemetryConfig::new(folder.path())).unwrap();
    World {
        telemetry: Arc::new(telemetry),
        _folder: folder,
    }
}

impl World {
    async fn call(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.telemetry.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {text}")),
        )
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn serve(&self) -> (String, String, AbortOnDrop<()>) {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (grpc, http) = (bind().await.unwrap(), bind().await.unwrap());
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let (grpc_url, http_url) = (url(&grpc), url(&http));
        let telemetry = self.telemetry.clone();
        let task = AbortOnDrop::spawn(Span::none(), async move {
            telemetry
                .serve(
                    crate::Receivers {
                        grpc: Some(grpc),
                        otlp_http: Some(http),
                        ..Default::default()
                    },
                    std::future::pending(),
                )
                .await
                .unwrap();
        });
        (grpc_url, http_url, task)
    }
}

#[tokio::test]
async fn prometheus_clients_are_understood() {
    let world = world();
    let now = world.telemetry.clock().now() / 1000 * 1000;
    let labels = Labels::new([("__name__", "up"), ("job", "a\"<b>")]);
    let row = Row {
        labels,
        series: None,
        sample: Sample { t: now, v: 1.5 },
    };
    world.telemetry.engine().store().append(now, &mut [row]);
    let (status, body) = world.get("/api/v1/query?query=up").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["status"], "success");
    assert_eq!(body["data"]["resultType"], "vector");
    assert_eq!(
        body["data"]["result"][0]["metric"],
        json!({"__name__": "up", "job": "a\"<b>"})
    );
    assert_eq!(body["data"]["result"][0]["value"][1], "1.5");

    let seconds = now / 1000;
    let form = format!(
        "query=sum%28up%29&start={}&end={seconds}&step=5s",
        seconds - 10
    );
    let request = Request::post("/api/v1/query_range")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .unwrap();
    let (_, body) = world.call(request).await;
    assert_eq!(
        body["data"],
        json!({"resultType": "matrix", "result": [
            {"metric": {}, "values": [[seconds, "1.5"]]}
        ]})
    );

    for (path, want) in [
        ("/api/v1/labels", json!(["__name__", "job"])),
        ("/api/v1/label/job/values?match[]=up", json!(["a\"<b>"])),
        ("/api/v1/label/__name__/values", json!(["up"])),
        (
            "/api/v1/series?match[]=%7Bjob%3D~%22a.%2B%22%7D",
            json!([{"__name__": "up", "job": "a\"<b>"}]),
        ),
        ("/api/v1/metadata?metric=up", json!({})),
    ] {
        assert_eq!(world.get(path).await.1["data"], want, "{path}");
    }
    assert_eq!(
        world.get("/api/v1/status/buildinfo").await.1["data"]["version"],
        "3.0.0"
    );

    for (path, status, kind, part) in [
        ("/api/v1/query?query=up%7B", 400, "bad_data", "parse error"),
        ("/api/v1/query", 400, "bad_data", "query"),
        (
            "/api/v1/query?query=up&time=x",
            400,
            "bad_data",
            "timestamp",
        ),
        (
            "/api/v1/query_range?query=up&start=0&end=1&step=0",
            400,
            "bad_data",
            "step",
        ),
        (
            "/api/v1/query?query=label_replace(up,%22%22,%22%22,%22%22,%22%22)",
            422,
            "execution",
            "label",
        ),
        ("/api/v1/series", 400, "bad_data", "match[]"),
        ("/api/v1/nothing", 404, "not_found", "no such call"),
    ] {
        let (got, body) = world.get(path).await;
        assert_eq!(
            (got.as_u16(), body["errorType"].as_str()),
            (status, Some(kind)),
            "{path}"
        );
        assert!(
            body["error"].as_str().unwrap().contains(part),
            "{path}: {body}"
        );
    }
}

const TRACE: &str = "5b8efff798038103d269b633813fc60c";

fn otlp_json() -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "web.base"}}]},
        "scopeSpans": [{"scope": {"name": "lib"}, "spans": [
            {"traceId": TRACE, "spanId": "eee19b7ec3c1b174", "name": "GET /", "kind": 2,
             "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712660250000000",
             "attributes": [{"key": "http.status_code", "value": {"intValue": "500"}}],
             "events": [{"timeUnixNano": "1544712660100000000", "name": "retry"}],
             "status": {"code": 2, "message": "no"}},
            {"traceId": "00", "spanId": "", "name": "bad"}
        ]}]
    }]})
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_sent_by_http_and_grpc_are_found_by_jaeger() {
    let world = world();
    let (grpc, http, _task) = world.serve().await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Full<bytes::Bytes>>();
    let request = Request::post(format!("{http}/v1/traces"))
        .header("content-type", "application/json")
        .body(otlp_json().to_string().into())
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["partialSuccess"]["rejectedSpans"], "1");

    let mut message: ExportTraceServiceRequest = serde_json::from_value(otlp_json()).unwrap();
    let span = &mut message.resource_spans[0].scope_spans[0].spans[0];
    span.parent_span_id = std::mem::replace(&mut span.span_id, vec![7; 8]);
    let mut client = TraceServiceClient::connect(grpc).await.unwrap();
    client.export(message).await.unwrap();

    let (_, body) = world.get(&format!("/jaeger/api/traces/{TRACE}")).await;
    let spans = body["data"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 2);
    assert_eq!(
        body["data"][0]["processes"]["p1"]["serviceName"],
        "web.base"
    );
    let child = spans
        .iter()
        .find(|s| s["spanID"] == "0707070707070707")
        .unwrap();
    assert_eq!(child["references"][0]["spanID"], "eee19b7ec3c1b174");
    assert_eq!(
        (child["startTime"].as_u64(), child["duration"].as_u64()),
        (Some(1_544_712_660_000_000), Some(250_000))
    );
    assert_eq!(child["logs"][0]["fields"][0]["value"], "retry");
    let tag = |key: &str| {
        child["tags"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["key"] == key)
            .unwrap()
    };
    assert_eq!(tag("error")["value"], true);
    assert_eq!(tag("span.kind")["value"], "server");

    assert_eq!(
        world.get("/jaeger/api/services").await.1["data"],
        json!(["web.base"])
    );
    assert_eq!(
        world
            .get("/jaeger/api/services/web.base/operations")
            .await
            .1["data"],
        json!(["GET /"])
    );
    let search = "/jaeger/api/traces?service=web.base&start=1544712660000000&end=1544712670000000\
                  &minDuration=200ms&tags=%7B%22http.status_code%22%3A%22500%22%7D";
    assert_eq!(
        world.get(search).await.1["data"].as_array().unwrap().len(),
        1
    );
    let (status, body) = world.get("/jaeger/api/traces/ffff").await;
    assert_eq!(
        (status.as_u16(), &body["errors"][0]["msg"]),
        (404, &json!("trace not found"))
    );
    assert_eq!(
        world.get("/jaeger/api/traces").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        world.get("/jaeger/api/dependencies").await.1["data"],
        json!([])
    );
    let own = world.telemetry.exposition();
    assert!(
        own.contains("malla_telemetry_spans_invalid_total 2"),
        "{own}"
    );
}

fn access_log() -> StreamAccessLogsMessage {
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            start_time: Some(Timestamp {
                seconds: jiff::Timestamp::now().as_second(),
                nanos: 5_000_000,
            }),
            upstream_cluster: "outbound|80||db.base.svc.cluster.local".to_owned(),
            response_flags: Some(ResponseFlags {
                upstream_overflow: true,
                ..ResponseFlags::default()
            }),
            ..AccessLogCommon::default()
        }),
        protocol_version: 2,
        request: Some(HttpRequestProperties {
            request_method: 1,
            path: "/<script>alert(1)</script>".to_owned(),
            request_headers: [("x-b3-traceid".to_owned(), TRACE.to_owned())].into(),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 503 }),
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
            log_entry: vec![entry],
        })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_logs_are_searched_and_followed() {
    let world = world();
    let (grpc, _, _task) = world.serve().await;
    let mut tail = world.telemetry.logs_tail(LogFilter {
        flag: Some("UO".to_owned()),
        ..LogFilter::default()
    });
    let mut client = AccessLogServiceClient::connect(grpc).await.unwrap();
    let stream = tokio_stream::once(access_log());
    client.stream_access_logs(stream).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(20), tail.next())
        .await
        .unwrap();
    assert!(matches!(event, Some(TailEvent::Line(line)) if line.code == 503));

    let path = format!("/api/malla/v1/logs?workload=web&code=5xx&text=script&traceId={TRACE}");
    let (_, body) = world.get(&path).await;
    let line = &body["lines"][0];
    assert_eq!(line["pod"], "web-6d4cf56db6-abcde");
    assert_eq!(
        (&line["source"], &line["destination"]),
        (&json!("web.base"), &json!("db.base"))
    );
    assert_eq!(
        (&line["method"], &line["protocol"]),
        (&json!("GET"), &json!("HTTP/1.1"))
    );
    assert_eq!(
        (&line["flags"], &line["reporter"]),
        (&json!(["UO"]), &json!("source"))
    );
    assert_eq!(body["cursor"], Value::Null);
    let (status, body) = world.get("/api/malla/v1/logs?code=abc").await;
    assert_eq!(
        (status.as_u16(), &body["error"]["field"]),
        (400, &json!("code"))
    );
}

#[tokio::test]
async fn the_graph_is_served() {
    let world = world();
    let (status, body) = world
        .get("/api/malla/v1/graph?window=60&view=workload")
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&body["nodes"], &body["window"]),
        (&json!([]), &json!(60.0))
    );
    let (status, body) = world.get("/api/malla/v1/graph?view=planet").await;
    assert_eq!(
        (status.as_u16(), &body["error"]["field"]),
        (400, &json!("view"))
    );
}
