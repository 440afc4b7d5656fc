//! Streams log entries to an access log service (`envoy.service.accesslog.v3.AccessLogService`).
//!
//! One stream for each worker and configuration, opened with the first entry. The server never answers before its end;
//! a stream that ends is opened again with the next entries.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use malla_proxy_config::access_log::GrpcLogStream;
use malla_runtime::drain::DrainWatch;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::queue::{Limits, Queue};
use crate::call::{CallError, Caller, grpc_prefix};
use crate::http::body::{Backlog, RequestBody};
use crate::telemetry::wire;
use crate::upstream::Upstreams;

const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
/// Bytes kept for a server that does not read, and once more in the stream's own buffer.
const MOST: usize = 1 << 20;
/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for entries to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// When entries go.
pub fn limits(stream: &GrpcLogStream) -> Limits {
    Limits {
        batch: stream.buffer.min(MOST / 2),
        wait: stream.flush_interval,
        bytes: MOST,
        records: u64::MAX,
    }
}

/// An open stream.
struct Stream<'a> {
    frames: UnboundedSender<Bytes>,
    backlog: Backlog,
    call: Pin<Box<dyn Future<Output = Result<(), CallError>> + 'a>>,
}

/// Sends what comes into the queue, for as long as it is polled. `tasks` waits for it while there is something.
pub async fn run<U: Upstreams>(
    caller: Rc<Caller<U>>,
    config: Arc<GrpcLogStream>,
    node: Arc<[u8]>,
    queue: Rc<Queue>,
    tasks: DrainWatch,
) {
    let mut stream: Option<Stream<'_>> = None;
    loop {
        if let Err(error) = beside(&mut stream, queue.filled()).await {
            tracing::debug!(%error, log = config.log_name, "a stream of log entries ended");
            stream = None;
            sleep(PAUSE).await;
            continue;
        }
        let _busy = tasks.hold();
        if beside(&mut stream, queue.batch(tasks.draining()))
            .await
            .is_err()
        {
            stream = None;
        }
        let first = stream.is_none();
        let open = stream.get_or_insert_with(|| open(&caller, &config));
        let fed = feed(open, &queue, first.then_some(&*node), &config, &tasks).await;
        if let Err(error) = fed {
            tracing::debug!(%error, log = config.log_name, "log entries cannot be sent");
            stream = None;
            if tasks.is_draining() {
                let lost = queue.take().map_or(0, |batch| batch.records);
                queue.counts.dropped(lost);
            } else {
                sleep(PAUSE).await;
            }
        }
    }
}

fn open<'a, U: Upstreams>(caller: &'a Rc<Caller<U>>, config: &'a GrpcLogStream) -> Stream<'a> {
    let (frames, receive) = unbounded_channel();
    let backlog = Backlog::default();
    let body = RequestBody::fed(receive, backlog.clone());
    Stream {
        frames,
        backlog,
        call: Box::pin(caller.grpc(&config.service, METHOD, body)),
    }
}

/// Lets the stream go on while something is waited for; its end is an error.
async fn beside(
    stream: &mut Option<Stream<'_>>,
    wanted: impl Future<Output = ()>,
) -> Result<(), CallError> {
    let ended = poll_fn(|task| match stream {
        Some(stream) => stream.call.as_mut().poll(task),
        None => Poll::Pending,
    });
    tokio::select! {
        biased; // What waits to leave goes first.
        ended = ended => Err(ended.err().unwrap_or(CallError::Grpc(0))),
        () = wanted => Ok(()),
    }
}

/// Puts what waits into the stream, once it has room; at the end of the process, waits until it has left.
async fn feed(
    stream: &mut Stream<'_>,
    queue: &Queue,
    node: Option<&[u8]>,
    config: &GrpcLogStream,
    tasks: &DrainWatch,
) -> Result<(), CallError> {
    let has_room = Cell::new(false);
    let backlog = stream.backlog.clone();
    let call = &mut stream.call;
    let room = async {
        backlog.below(MOST).await;
        has_room.set(true);
    };
    tokio::select! {
        biased;
        ended = &mut *call => return Err(ended.err().unwrap_or(CallError::Grpc(0))),
        () = room => {}
    }
    let Some(batch) = queue.take() else {
        return Ok(());
    };
    let head = message_head(node, config, batch.bytes.len());
    for frame in [
        grpc_prefix(head.len() + batch.bytes.len()),
        head,
        batch.bytes,
    ] {
        backlog.add(frame.len());
        // A stream that has ended tells so when it is polled next.
        let _ = stream.frames.send(frame);
    }
    queue.counts.sent(batch.records);
    if tasks.is_draining() {
        tokio::select! {
            biased;
            _ = &mut *call => {}
            () = backlog.below(1) => {}
            () = sleep(FAREWELL) => {}
        }
    }
    Ok(())
}

/// A `StreamAccessLogsMessage` up to its `log_entry` fields, which are the batch.
fn message_head(node: Option<&[u8]>, config: &GrpcLogStream, entries: usize) -> Bytes {
    let mut out = Vec::with_capacity(64);
    if let Some(node) = node {
        wire::message(&mut out, 1, |out| {
            wire::bytes(out, 1, node);
            wire::bytes(out, 2, config.log_name.as_bytes());
        });
    }
    let logs = if config.tcp { 3 } else { 2 };
    wire::begin_message(&mut out, logs, entries);
    Bytes::from(out)
}
