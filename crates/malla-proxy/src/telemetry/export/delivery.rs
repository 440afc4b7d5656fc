//! Brings batches to a collector that answers each of them: tried again where that may help, then dropped, and counted.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use malla_proxy_config::tracing::Collector;
use malla_runtime::drain::DrainWatch;
use tokio::time::{sleep, timeout};

use super::queue::{Batch, Queue};
use crate::call::{CallError, Caller, Head, grpc_prefix};
use crate::http::body::RequestBody;
use crate::upstream::Upstreams;

/// Limit of a call that has none of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up.
const TRIES: u32 = 3;
/// Before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends what comes into the queue, for as long as it is polled. `tasks` waits for it while there is something; `what` is in
/// it, for readers of our log.
pub(super) async fn deliver(
    queue: &Queue,
    tasks: &DrainWatch,
    what: &str,
    mut send: impl AsyncFnMut(Bytes) -> Result<(), CallError>,
) {
    loop {
        queue.filled().await;
        let _busy = tasks.hold();
        queue.batch(tasks.draining()).await;
        while let Some(batch) = queue.take() {
            deliver_one(queue, tasks, what, batch, &mut send).await;
        }
    }
}

/// Tries a batch until it is taken, refused, or has been tried often enough.
async fn deliver_one(
    queue: &Queue,
    tasks: &DrainWatch,
    what: &str,
    batch: Batch,
    send: &mut impl AsyncFnMut(Bytes) -> Result<(), CallError>,
) {
    for attempt in 1..=TRIES {
        let Err(error) = send(batch.bytes.clone()).await else {
            return queue.counts.sent(batch.records);
        };
        tracing::debug!(%error, attempt, what, records = batch.records, "a batch was not taken");
        if attempt == TRIES || !may_retry(&error) || tasks.is_draining() {
            break;
        }
        tokio::select! {
            biased;
            () = tasks.draining() => {}
            () = sleep(PAUSE * attempt) => {}
        }
    }
    queue.counts.dropped(batch.records);
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

/// One OTLP request, of two parts: by a call of `method`, or by a POST.
pub(super) async fn otlp<U: Upstreams>(
    caller: &Caller<U>,
    collector: &Collector,
    method: &'static str,
    [head, records]: [Bytes; 2],
) -> Result<(), CallError> {
    match collector {
        Collector::Grpc(service) => {
            let prefix = grpc_prefix(head.len() + records.len());
            let body = RequestBody::fixed(vec![prefix, head, records]);
            let limit = service.timeout.filter(|limit| !limit.is_zero());
            let call = caller.grpc(service, method, body);
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
            post(caller, &to, service.timeout, vec![head, records]).await
        }
    }
}

/// A POST whose answer must be a success.
pub(super) async fn post<U: Upstreams>(
    caller: &Caller<U>,
    head: &Head<'_>,
    limit: Duration,
    body: Vec<Bytes>,
) -> Result<(), CallError> {
    let call = async {
        let response = caller.send(head, RequestBody::fixed(body)).await?;
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
    };
    in_time(limit, call).await
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
