//! One HTTP connection: which codec, its limits, its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use http::Version;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_proxy_config::http_manager::HttpManager;
use malla_runtime::drain::DrainWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::body::Flow;
use super::ending::{self, AnswerWatch, CLOSE_GRACE, End, GOAWAY_GRACE, cut_off};
use super::exchange::Observer;
use super::preface::{Prefixed, Pulse, choose};
use super::serve::serve;
use super::state::{HttpWorker, Manager};
use crate::connection::Connection;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Record;
use crate::upstream::Upstreams;

/// Envoy's `max_concurrent_streams` in `safe_defaults`-like use; RFC 9113 §6.5.2 advises no fewer than 100.
const DEFAULT_STREAMS: u32 = 1024;
/// Windows where none are configured: enough for a fast sender, little enough for many clients.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// RST_STREAM floods (CVE-2023-44487): streams that were reset before they were served.
const PENDING_RESETS: usize = 20;
/// Bytes of responses waiting in one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;

/// What the requests of one connection share.
pub(super) struct Context<U: Upstreams> {
    pub(super) worker: Rc<HttpWorker<U>>,
    pub(super) manager: Rc<Manager>,
    pub(super) connection: Rc<Connection>,
    /// The drain of the connection's chain: it ends this connection too.
    pub(super) drain: DrainWatch,
    /// The exchange begun last, for whoever polls it.
    pub(super) begun: Cell<Option<Rc<Flow>>>,
    pub(super) pulse: Arc<Pulse>,
    /// When an HTTP/1 head began that is not there yet.
    pub(super) head_since: Cell<Option<Instant>>,
    pub(super) active: Cell<u32>,
    served: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    pub(super) draining: Cell<bool>,
    /// An HTTP/1 answer was over before its request: the rest is not told from a next one.
    pub(super) unread: Cell<bool>,
    closing: Cell<bool>,
    /// Told when the connection has had as many requests as it may.
    spent: Notify,
}

impl<U: Upstreams> Context<U> {
    fn new(
        worker: Rc<HttpWorker<U>>,
        manager: Rc<Manager>,
        connection: Rc<Connection>,
        drain: DrainWatch,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            manager,
            connection,
            drain,
            begun: Cell::default(),
            pulse: Arc::default(),
            head_since: Cell::default(),
            active: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            draining: Cell::new(false),
            unread: Cell::new(false),
            closing: Cell::new(false),
            spent: Notify::new(),
        })
    }

    /// True once the client's side of the connection is gone.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// True if this answer is the connection's last.
    pub(super) fn is_last_request(&self) -> bool {
        let max = self.manager.config.common.max_requests_per_connection;
        self.draining.get() || max.is_some_and(|max| self.served.get() >= max)
    }

    fn stream_started(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        if self.manager.config.common.max_requests_per_connection == Some(self.served.get()) {
            self.spent.notify_one();
        }
    }

    /// One request is over; `unread` if the client may still send some of it where a next one would begin.
    pub(super) fn stream_ended(&self, unread: bool) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
        self.pulse.forget();
        if unread {
            self.unread.set(true);
        }
    }

    /// The next answer says so. Closing at once would cut off a request on its way here.
    fn drain_quietly(&self) {
        self.draining.set(true);
        self.idle_since.set(Instant::now());
    }

    fn note_end(&self, end: End) {
        match end {
            End::Idle => self.manager.stats.downstream_cx_idle_timeout.inc(),
            End::Old => self.manager.stats.downstream_cx_max_duration_reached.inc(),
            End::Drained => self.manager.stats.downstream_cx_drain_close.inc(),
            End::Early => {}
        }
    }
}

/// Serves a connection until it ends or drains.
pub async fn serve_connection<U, I>(
    worker: Rc<HttpWorker<U>>,
    connection: Rc<Connection>,
    manager: Arc<HttpManager>,
    io: I,
    drain: DrainWatch,
) where
    U: Upstreams,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let manager = worker.manager(&manager);
    let cx = Context::new(worker, manager, connection, drain);
    let stats = Arc::clone(&cx.manager.stats);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    match chosen(&cx, io).await {
        None => {}
        Some((Version::HTTP_2, io)) => {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
            serve_http2(Rc::clone(&cx), io).await;
            stats.downstream_cx_http2_active.dec();
        }
        Some((_, io)) => {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
            serve_http1(Rc::clone(&cx), io).await;
            stats.downstream_cx_http1_active.dec();
        }
    }
    cx.closing.set(true);
    stats.downstream_cx_active.dec();
    if cx.active.get() > 0 {
        stats.downstream_cx_destroy_remote_active_rq.inc();
    }
}

/// The protocol, unless the connection ends before that is known.
async fn chosen<U, I>(cx: &Context<U>, io: I) -> Option<(Version, Prefixed<I>)>
where
    U: Upstreams,
    I: AsyncRead + Unpin,
{
    let pulse = Arc::clone(&cx.pulse);
    let mut choosing = pin!(choose(&cx.manager.config, &cx.connection, io, pulse));
    loop {
        tokio::select! {
            biased; // What has come counts before the time it took.
            chosen = choosing.as_mut() => match chosen {
                Ok(chosen) => return Some(chosen),
                Err(error) => {
                    tracing::debug!(%error, "a connection ended before its first request");
                    return None;
                }
            },
            () = cx.drain.draining(), if !cx.draining.get() => cx.drain_quietly(),
            end = ending::asked(cx) => {
                cx.note_end(end);
                return None;
            }
        }
    }
}

async fn serve_http1<U, I>(cx: Rc<Context<U>>, io: Prefixed<I>)
where
    U: Upstreams,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = &cx.manager.config;
    let mut builder = http1::Builder::new();
    let head_limit = config.max_request_headers_kb as usize * 1024;
    builder
        .timer(TokioTimer::new())
        // The codec's would count from the end of the request before.
        .header_read_timeout(None)
        .max_buf_size(head_limit.max(8 * 1024))
        .max_headers(config.common.max_headers as usize)
        .preserve_header_case(config.http1.preserve_case)
        .title_case_headers(config.http1.proper_case);
    let service_cx = Rc::clone(&cx);
    let service = service_fn(move |request| {
        let cx = Rc::clone(&service_cx);
        cx.stream_started();
        async move { Ok::<_, Infallible>(serve(cx, request).await) }
    });
    let serving = builder
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let mut watch = AnswerWatch::default();
    let mut asked = None;
    let ended = loop {
        tokio::select! {
            biased; // Draining is told before the next request is read; progress before idleness.
            () = cx.drain.draining(), if !cx.draining.get() => cx.drain_quietly(),
            ended = serving.as_mut() => break ended,
            // A codec that asks for more of the answer learns why there is none.
            () = poll_fn(|task| watch.poll(&cx.begun, task)) => {
                break serving.as_mut().now_or_never().unwrap_or(Ok(()));
            }
            () = ending::head_overdue(&cx) => break Ok(()),
            end = ending::asked(&cx), if asked.is_none() => {
                asked = Some(Instant::now());
                cx.draining.set(true);
                cx.note_end(end);
                serving.as_mut().graceful_shutdown();
            }
            () = cut_off(&cx, asked, CLOSE_GRACE) => break Ok(()),
        }
    };
    cx.closing.set(true);
    if let Err(error) = ended {
        note_codec_error(&cx, &error, Version::HTTP_11);
    }
}

async fn serve_http2<U, I>(cx: Rc<Context<U>>, io: Prefixed<I>)
where
    U: Upstreams,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = &cx.manager.config;
    let options = &config.http2;
    let mut builder = http2::Builder::new(LocalTasks(Rc::clone(&cx)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams.unwrap_or(DEFAULT_STREAMS))
        .initial_stream_window_size(options.initial_stream_window_size.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(
            options
                .initial_connection_window_size
                .unwrap_or(CONNECTION_WINDOW),
        )
        .header_table_size(options.hpack_table_size)
        .max_header_list_size(config.max_request_headers_kb.saturating_mul(1024))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_send_buf_size(SEND_BUFFER);
    if let Some((interval, timeout)) = options.keepalive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
    }
    if options.allow_connect || config.upgrades.iter().any(|(_, on)| *on) {
        builder.enable_connect_protocol();
    }
    let service_cx = Rc::clone(&cx);
    let service = service_fn(move |request| {
        let cx = Rc::clone(&service_cx);
        cx.stream_started();
        async move { Ok::<_, Infallible>(serve(cx, request).await) }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut asked = None;
    let ended = loop {
        tokio::select! {
            biased; // Draining is told before the next request is read; progress before idleness.
            () = cx.drain.draining(), if asked.is_none() => {}
            // HTTP/1 says it in the last answer.
            () = cx.spent.notified(), if asked.is_none() => {}
            ended = serving.as_mut() => break ended,
            end = ending::asked(&cx), if asked.is_none() => cx.note_end(end),
            () = cut_off(&cx, asked, GOAWAY_GRACE) => break Ok(()),
        }
        asked = Some(Instant::now());
        cx.draining.set(true);
        serving.as_mut().graceful_shutdown();
    };
    cx.closing.set(true);
    if let Err(error) = ended {
        note_codec_error(&cx, &error, Version::HTTP_2);
    }
}

/// A head that could not be read was answered by the codec: it still gets its record.
fn note_codec_error<U: Upstreams>(cx: &Rc<Context<U>>, error: &hyper::Error, version: Version) {
    tracing::debug!(%error, peer = %cx.connection.remote, "a downstream connection ended with an error");
    if !error.is_parse() {
        return;
    }
    cx.manager.stats.downstream_cx_protocol_error.inc();
    cx.manager.stats.downstream_rq_total.inc();
    cx.manager.stats.downstream_rq_active.inc();
    cx.stream_started();
    let mut record = Record::begin(
        Rc::clone(&cx.connection),
        Some(version),
        Instant::now(),
        SystemTime::now(),
    );
    record.flags.set(Flag::DownstreamProtocolError);
    let too_large = error.is_parse_too_large();
    let status = if too_large { 431 } else { 400 };
    record.status = http::StatusCode::from_u16(status).ok();
    record.details = Some(
        if too_large {
            "request_headers_too_large"
        } else {
            "http1.codec_error"
        }
        .into(),
    );
    Observer::new(record, Rc::clone(cx)).finish();
}

/// Spawns the streams of an HTTP/2 connection on the worker, under its drain.
struct LocalTasks<U: Upstreams>(Rc<Context<U>>);

impl<U: Upstreams> Clone for LocalTasks<U> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<U: Upstreams, F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalTasks<U> {
    fn execute(&self, stream: F) {
        let bounded = ending::bounded(Rc::clone(&self.0), stream);
        self.0.worker.tasks.spawn_local(Span::none(), bounded);
    }
}
