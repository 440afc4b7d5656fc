//! Sends spans: OTLP by gRPC or HTTP, Zipkin by HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use malla_proxy_config::tracing::{Collector, OpenTelemetry, Tracer, Zipkin};
use malla_runtime::drain::DrainWatch;
use tokio::time::{sleep, timeout};

use super::call::{CallError, Caller, Head, grpc_prefix};
use super::queue::{Batch, Counts, Limits, Queue};
use crate::http::body::RequestBody;
use crate::telemetry::trace::otlp_request;
use crate::upstream::Upstreams;

const OTLP_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Limit of a call that has none of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up.
const TRIES: u32 = 3;
/// Before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(1);
/// A span rarely takes more; bounds the queue beside the number of spans.
const SPAN_BYTES: usize = 4096;

/// When spans of a tracer go.
pub fn limits(tracer: &Tracer) -> Limits {
    let records = match tracer {
        Tracer::OpenTelemetry(config) => config.cache.max(1),
        Tracer::Zipkin(_) => 1024,
    };
    Limits {
        batch: 64 * 1024,
        wait: Duration::from_secs(1),
        bytes: records.saturating_mul(SPAN_BYTES),
        records: records as u64,
    }
}

/// Sends what comes into the queue, for as long as it is polled. `tasks` waits for it while there is something.
pub async fn run<U: Upstreams>(
    caller: Rc<Caller<U>>,
    tracer: Arc<Tracer>,
    resource: Vec<(String, String)>,
    queue: Rc<Queue>,
    tasks: DrainWatch,
) {
    loop {
        queue.filled().await;
        let _busy = tasks.hold();
        queue.batch(tasks.draining()).await;
        while let Some(batch) = queue.take() {
            deliver(&caller, &tracer, &resource, &queue.counts, batch, &tasks).await;
        }
    }
}

/// Tries a batch until it is taken, refused, or has been tried often enough.
async fn deliver<U: Upstreams>(
    caller: &Caller<U>,
    tracer: &Tracer,
    resource: &[(String, String)],
    counts: &Counts,
    batch: Batch,
    tasks: &DrainWatch,
) {
    for attempt in 1..=TRIES {
        let sent = match tracer {
            Tracer::OpenTelemetry(config) => {
                otlp(caller, config, resource, batch.bytes.clone()).await
            }
            Tracer::Zipkin(config) => zipkin(caller, config, &batch.bytes).await,
        };
        let Err(error) = sent else {
            return counts.sent(batch.records);
        };
        note_failure(counts, &error);
        tracing::debug!(%error, attempt, spans = batch.records, "spans were not taken");
        if attempt == TRIES || !may_retry(&error) || tasks.is_draining() {
            break;
        }
        tokio::select! {
            biased;
            () = tasks.draining() => {}
            () = sleep(PAUSE * attempt) => {}
        }
    }
    counts.dropped(batch.records);
}

fn note_failure(counts: &Counts, error: &CallError) {
    let Counts::Zipkin(stats) = counts else {
        return;
    };
    match error {
        CallError::NoCluster(_) => stats.reports_skipped_no_cluster.inc(),
        CallError::Status(_) | CallError::Grpc(_) => stats.reports_dropped.inc(),
        _ => stats.reports_failed.inc(),
    }
}

/// What the collector has understood and refused stays refused (OTLP specification, "Failures").
fn may_retry(error: &CallError) -> bool {
    match error {
        CallError::Status(status) => matches!(
            *status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        CallError::Grpc(code) => matches!(code, 1 | 4 | 8 | 10 | 11 | 14 | 15),
        _ => true,
    }
}

async fn otlp<U: Upstreams>(
    caller: &Caller<U>,
    config: &OpenTelemetry,
    resource: &[(String, String)],
    spans: Bytes,
) -> Result<(), CallError> {
    let [head, spans] = otlp_request(config, resource, spans);
    match &config.collector {
        Collector::Grpc(service) => {
            let prefix = grpc_prefix(head.len() + spans.len());
            let body = RequestBody::fixed(vec![prefix, head, spans]);
            let limit = service.timeout.filter(|limit| !limit.is_zero());
            let call = caller.grpc(service, OTLP_METHOD, body);
            in_time(limit.unwrap_or(PATIENCE), call).await
        }
        Collector::Http(service) => {
            let to = Head {
                cluster: &service.cluster,
                authority: &service.authority,
                path: service.path.clone(),
                headers: &service.headers,
                content_type: "application/x-protobuf",
            };
            let body = RequestBody::fixed(vec![head, spans]);
            in_time(service.timeout, post(caller, &to, body)).await
        }
    }
}

async fn in_time(
    limit: Duration,
    call: impl Future<Output = Result<(), CallError>>,
) -> Result<(), CallError> {
    match timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(CallError::Timeout),
    }
}

async fn post<U: Upstreams>(
    caller: &Caller<U>,
    head: &Head<'_>,
    body: RequestBody,
) -> Result<(), CallError> {
    let response = caller.send(head, body).await?;
    let status = response.status();
    // Read, so that the connection can be used again.
    let mut body = response.into_body();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        frame?;
    }
    match status.is_success() {
        true => Ok(()),
        false => Err(CallError::Status(status)),
    }
}

/// `spans` are elements with a comma behind each.
async fn zipkin<U: Upstreams>(
    caller: &Caller<U>,
    config: &Zipkin,
    spans: &Bytes,
) -> Result<(), CallError> {
    let to = Head {
        cluster: &config.cluster,
        authority: &config.host,
        path: config.path.clone(),
        headers: &[],
        content_type: "application/json",
    };
    let list = spans.slice(..spans.len().saturating_sub(1));
    let body = vec![Bytes::from_static(b"["), list, Bytes::from_static(b"]")];
    in_time(PATIENCE, post(caller, &to, RequestBody::fixed(body))).await
}
