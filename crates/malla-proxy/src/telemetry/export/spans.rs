//! Sends spans: OTLP by gRPC or HTTP, Zipkin by HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use malla_proxy_config::tracing::{Tracer, Zipkin};
use malla_runtime::drain::DrainWatch;

use super::delivery::{deliver, otlp, post};
use super::queue::{Counts, Limits, Queue};
use crate::call::{CallError, Caller, Head};
use crate::telemetry::trace::otlp_request;
use crate::upstream::Upstreams;

const OTLP_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
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
    deliver(&queue, &tasks, "spans", async |spans: Bytes| {
        let sent = match &*tracer {
            Tracer::OpenTelemetry(config) => {
                let parts = otlp_request(config, &resource, spans);
                otlp(&caller, &config.collector, OTLP_METHOD, parts).await
            }
            Tracer::Zipkin(config) => zipkin(&caller, config, &spans).await,
        };
        if let Err(error) = &sent {
            note_failure(&queue.counts, error);
        }
        sent
    })
    .await;
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

/// `spans` are elements with a comma behind each.
async fn zipkin<U: Upstreams>(
    caller: &Caller<U>,
    config: &Zipkin,
    spans: &Bytes,
) -> Result<(), CallError> {
    let service = &config.service;
    let to = Head {
        cluster: &service.cluster,
        authority: &service.authority,
        path: service.path.clone(),
        headers: &service.headers,
        content_type: "application/json",
    };
    let list = spans.slice(..spans.len().saturating_sub(1));
    let body = vec![Bytes::from_static(b"["), list, Bytes::from_static(b"]")];
    post(caller, &to, service.timeout, body).await
}
