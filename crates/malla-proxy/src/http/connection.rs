//! One HTTP connection: which codec, its limits, its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, SystemTime};

use http::Version;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_proxy_config::http_manager::{Codec, HttpManager};
use malla_runtime::drain::DrainWatch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::exchange::Observer;
use super::serve::serve;
use super::state::{HttpWorker, Manager};
use crate::connection::Connection;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Record;
use crate::upstream::Upstreams;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Envoy's `max_concurrent_streams` in `safe_defaults`-like use; RFC 9113 §6.5.2 advises no fewer than 100.
const DEFAULT_STREAMS: u32 = 1024;
/// Windows where none are configured: enough for a fast sender, little enough for many clients.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// RST_STREAM floods (CVE-2023-44487): streams that were reset before they were served.
const PENDING_RESETS: usize = 20;
/// A draining HTTP/1 connection on which nothing comes for this long is closed. A busy one learns
/// of the drain from its next answer before.
const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// Bytes of responses waiting in one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;

/// What the requests of one connection share.
pub(super) struct Context<U: Upstreams> {
    pub(super) worker: Rc<HttpWorker<U>>,
    pub(super) manager: Rc<Manager>,
    pub(super) connection: Rc<Connection>,
    active: Cell<u32>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    draining: Cell<bool>,
    closing: Cell<bool>,
    /// Told when the connection has had as many requests as it may.
    spent: Notify,
}

impl<U: Upstreams> Context<U> {
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

    /// One request is over.
    pub(super) fn stream_ended(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
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
    let (version, io) = match choose(&manager.config, &connection, io).await {
        Ok(chosen) => chosen,
        Err(error) => return tracing::debug!(%error, "a connection ended before its first request"),
    };
    let cx = Rc::new(Context {
        worker,
        manager,
        connection,
        active: Cell::new(0),
        served: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        draining: Cell::new(false),
        closing: Cell::new(false),
        spent: Notify::new(),
    });
    let stats = Arc::clone(&cx.manager.stats);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    if version == Version::HTTP_2 {
        stats.downstream_cx_http2_total.inc();
        stats.downstream_cx_http2_active.inc();
        serve_http2(Rc::clone(&cx), io, drain).await;
        stats.downstream_cx_http2_active.dec();
    } else {
        stats.downstream_cx_http1_total.inc();
        stats.downstream_cx_http1_active.inc();
        serve_http1(Rc::clone(&cx), io, drain).await;
        stats.downstream_cx_http1_active.dec();
    }
    cx.closing.set(true);
    stats.downstream_cx_active.dec();
    if cx.active.get() > 0 {
        stats.downstream_cx_destroy_remote_active_rq.inc();
    }
}

async fn serve_http1<U, I>(cx: Rc<Context<U>>, io: Prefixed<I>, drain: DrainWatch)
where
    U: Upstreams,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = &cx.manager.config;
    let mut builder = http1::Builder::new();
    let head_limit = config.max_request_headers_kb as usize * 1024;
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.request_headers)
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
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased; // Draining is told before the next request is read; progress before idleness.
            () = drain.draining(), if !cx.draining.get() => {
                // The next answer says so. Closing at once would cut off a request on its way here.
                cx.draining.set(true);
                cx.idle_since.set(Instant::now());
            }
            ended = serving.as_mut() => break ended,
            end = idle_or_old(&cx), if !told => {
                told = true;
                cx.draining.set(true);
                note_end(&cx, end);
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    cx.closing.set(true);
    if let Err(error) = ended {
        note_codec_error(&cx, &error, Version::HTTP_11);
    }
}

async fn serve_http2<U, I>(cx: Rc<Context<U>>, io: Prefixed<I>, drain: DrainWatch)
where
    U: Upstreams,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = &cx.manager.config;
    let options = &config.http2;
    let mut builder = http2::Builder::new(LocalTasks(cx.worker.tasks.clone()));
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
    let ended = loop {
        tokio::select! {
            biased; // Draining is told before the next request is read; progress before idleness.
            () = drain.draining(), if !cx.draining.get() => {
                cx.draining.set(true);
                serving.as_mut().graceful_shutdown();
            }
            // HTTP/1 says it in the last answer.
            () = cx.spent.notified(), if !cx.draining.get() => {
                cx.draining.set(true);
                serving.as_mut().graceful_shutdown();
            }
            ended = serving.as_mut() => break ended,
            end = idle_or_old(&cx), if !cx.draining.get() => {
                cx.draining.set(true);
                note_end(&cx, end);
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    cx.closing.set(true);
    if let Err(error) = ended {
        note_codec_error(&cx, &error, Version::HTTP_2);
    }
}

/// Why a connection is asked to end.
#[derive(Debug, Clone, Copy)]
enum End {
    Idle,
    Old,
    /// Draining, and nothing came for a while.
    Drained,
}

/// Waits until the connection was idle for too long, or is too old.
async fn idle_or_old<U: Upstreams>(cx: &Context<U>) -> End {
    let common = &cx.manager.config.common;
    let (idle_limit, idle_end) = if cx.draining.get() {
        (Some(DRAIN_QUIET), End::Drained)
    } else {
        (common.idle_timeout, End::Idle)
    };
    loop {
        let old = common
            .max_connection_duration
            .map(|limit| (cx.connection.accepted + limit, End::Old));
        // A busy connection is looked at again one idle time from now: it cannot be idle for that long before.
        let idle = idle_limit.map(|limit| {
            let since = if cx.active.get() > 0 {
                Instant::now()
            } else {
                cx.idle_since.get()
            };
            (since + limit, idle_end)
        });
        match [old, idle].into_iter().flatten().min_by_key(|(at, _)| *at) {
            None => return std::future::pending().await,
            Some((at, end)) if Instant::now() >= at => return end,
            Some((at, _)) => tokio::time::sleep_until(at).await,
        }
    }
}

fn note_end<U: Upstreams>(cx: &Context<U>, end: End) {
    match end {
        End::Idle => cx.manager.stats.downstream_cx_idle_timeout.inc(),
        End::Old => cx.manager.stats.downstream_cx_max_duration_reached.inc(),
        End::Drained => cx.manager.stats.downstream_cx_drain_close.inc(),
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
#[derive(Clone)]
struct LocalTasks(DrainWatch);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, stream: F) {
        self.0.spawn_local(Span::none(), stream);
    }
}

/// Which protocol the connection speaks: configured, settled by ALPN, or told from its first bytes.
async fn choose<I: AsyncRead + Unpin>(
    config: &HttpManager,
    connection: &Connection,
    io: I,
) -> io::Result<(Version, Prefixed<I>)> {
    let alpn = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let version = match (config.codec, alpn) {
        (Codec::Http1, _) => Version::HTTP_11,
        (Codec::Http2, _) => Version::HTTP_2,
        (Codec::Auto, Some("h2" | "istio-h2")) => Version::HTTP_2,
        (Codec::Auto, Some("http/1.1" | "http/1.0" | "istio-http/1.1" | "istio-http/1.0")) => {
            Version::HTTP_11
        }
        (Codec::Auto, _) => return sniff(io).await,
    };
    Ok((
        version,
        Prefixed {
            read: Vec::new(),
            at: 0,
            io,
        },
    ))
}

/// Reads until the bytes are the HTTP/2 preface or cannot become it.
async fn sniff<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Version, Prefixed<I>)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    loop {
        let seen = read.len().min(PREFACE.len());
        if read.get(..seen) != PREFACE.get(..seen) {
            return Ok((Version::HTTP_11, Prefixed { read, at: 0, io }));
        }
        if seen == PREFACE.len() {
            return Ok((Version::HTTP_2, Prefixed { read, at: 0, io }));
        }
        if io.read_buf(&mut read).await? == 0 {
            // Nothing, or too little: HTTP/1 says what that is worth.
            return Ok((Version::HTTP_11, Prefixed { read, at: 0, io }));
        }
    }
}

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub(super) struct Prefixed<I> {
    read: Vec<u8>,
    at: usize,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.read.get(this.at..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, out);
        }
        let take = left.len().min(out.remaining());
        out.put_slice(left.get(..take).unwrap_or_default());
        this.at += take;
        if this.at == this.read.len() {
            this.read = Vec::new();
            this.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
