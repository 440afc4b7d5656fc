//! Whatever is wrong with the store, questions are answered and say so.

use axum::body::Body;
use http_body_util::BodyExt as _;
use malla_runtime::task::AbortOnDrop;
use serde_json::Value;

use super::*;

fn config(folder: &std::path::Path) -> CollectorConfig {
    CollectorConfig {
        telemetry: TelemetryConfig::new(folder),
        grpc: None,
        otlp_http: None,
        zipkin: None,
    }
}

async fn get_json(collector: &Arc<Collector>, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = collector.router().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn becomes(collector: &Arc<Collector>, state: &str) -> Value {
    let waiting = async {
        loop {
            let (_, status) = get_json(collector, STATUS).await;
            if status["state"] == state {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, waiting)
        .await
        .unwrap_or_else(|_| panic!("never {state}: {:?}", collector.status()))
}

#[tokio::test]
async fn what_cannot_be_opened_says_so_and_is_opened_later() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("data");
    // A file where the folder should be: as useless as a disk that is full.
    std::fs::write(&folder, "").unwrap();
    let collector = Collector::new(config(&folder));
    let (status, answer) = get_json(&collector, "/api/v1/query?query=up").await;
    assert_eq!((status, &answer["errorType"]), (503, &"unavailable".into()));
    let run = collector.clone().run(std::future::pending());
    let _running = AbortOnDrop::spawn(tracing::Span::none(), run);

    let status = becomes(&collector, "failed").await;
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("cannot be opened"),
        "{status}"
    );
    assert!(
        status["fix"].as_str().unwrap().contains("--data"),
        "{status}"
    );
    for path in [
        "/api/v1/query?query=up",
        "/api/malla/v1/logs",
        "/jaeger/api/services",
    ] {
        let (status, answer) = get_json(&collector, path).await;
        assert_eq!(status, 503, "{path}: {answer}");
        assert!(
            answer.to_string().contains("cannot be opened"),
            "{path}: {answer}"
        );
    }
    assert!(collector.telemetry().is_err());

    std::fs::remove_file(&folder).unwrap();
    becomes(&collector, "open").await;
    for (path, expected) in [
        ("/api/v1/query?query=up", 200),
        ("/api/v1/label/job/values", 200),
        ("/jaeger/api/services/a/operations", 200),
        ("/jaeger/api/traces/0af7651916cd43dd8448eb211c80319c", 404),
    ] {
        let (status, answer) = get_json(&collector, path).await;
        assert_eq!(status, expected, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(directory.path());
    config.zipkin = Some(taken.local_addr().unwrap());
    let collector = Collector::new(config);
    let run = collector.clone().run(std::future::pending());
    let _running = AbortOnDrop::spawn(tracing::Span::none(), run);
    let status = becomes(&collector, "failed").await;
    assert!(
        status["reason"].as_str().unwrap().contains("is it in use?"),
        "{status}"
    );
}
