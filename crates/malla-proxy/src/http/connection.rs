//! One HTTP connection: which codec, its limits, its end.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::Version;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use malla_proxy_config::cluster::Underscores;
use malla_proxy_config::http_manager::{HttpManager, ServerHeaderMode};
use malla_proxy_config::overload::Timer as Reduced;
use malla_runtime::drain::DrainWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::body::Flow;
use super::ending::{self, AnswerWatch, End, cut_off};
use super::exchange::Observer;
use super::guard::{Guard, Refusal, Rules};
use super::preface::{Prefixed, Prospect, Pulse, choose};
use super::serve::serve;
use super::state::{HttpWorker, Manager};
use crate::connection::Connection;
use crate::policy::limiter::Limiter;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Record;
use crate::transport::frames::{Metered, Side};
use crate::transport::gather::gather;
use crate::upstream::{CODEC_HEADERS, Upstreams};

/// Envoy's `max_concurrent_streams` in `safe_defaults`-like use; RFC 9113 §6.5.2 advises no fewer than 100.
const DEFAULT_STREAMS: u32 = 1024;
/// Windows where none are configured: enough for a fast sender, little enough for many clients.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// RST_STREAM floods (CVE-2023-44487): streams that were reset before they were served.
const PENDING_RESETS: usize = 250;
/// …and those that were reset while they were: so many streams must have come, half of them such ones (Envoy's
/// `overload.premature_reset_total_stream_count`).
const RESETS_COUNT_FROM: u64 = 500;
/// Bytes of responses waiting in one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;

/// What the requests of one connection share.
pub(crate) struct Context<U: Upstreams> {
    pub(crate) worker: Rc<HttpWorker<U>>,
    pub(crate) manager: Rc<Manager>,
    pub(crate) connection: Rc<Connection>,
    /// The drain of the connection's chain: it ends this connection too.
    pub(crate) drain: DrainWatch,
    /// The exchange begun last, for whoever polls it.
    pub(crate) begun: Cell<Option<Rc<Flow>>>,
    pub(super) pulse: Arc<Pulse>,
    /// When an HTTP/1 head began that is not there yet.
    pub(crate) head_since: Cell<Option<Instant>>,
    pub(crate) active: Cell<u32>,
    served: Cell<u32>,
    pub(crate) idle_since: Cell<Instant>,
    pub(crate) draining: Cell<bool>,
    /// An HTTP/1 answer was over before its request: the rest is not told from a next one.
    pub(crate) unread: Cell<bool>,
    closing: Cell<bool>,
    /// Which part of all jitter is this connection's.
    luck: f64,
    /// Token buckets of this very connection.
    pub(crate) limiter: OnceCell<Limiter>,
    /// Told when the connection has had as many requests as it may.
    spent: Notify,
    /// Streams that have ended, and those of them that the client gave up at once.
    ended: Cell<u64>,
    given_up: Cell<u64>,
    /// Told when those are too many.
    flooded: Notify,
}

impl<U: Upstreams> Context<U> {
    fn new(
        worker: Rc<HttpWorker<U>>,
        manager: Rc<Manager>,
        connection: Rc<Connection>,
        drain: DrainWatch,
    ) -> Rc<Self> {
        let pulse = match manager.needs.wire {
            true => Pulse::metered(),
            false => Pulse::default(),
        };
        let pulse = Arc::new(pulse);
        Rc::new(Self {
            worker,
            manager,
            connection,
            drain,
            begun: Cell::default(),
            pulse,
            head_since: Cell::default(),
            active: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            draining: Cell::new(false),
            unread: Cell::new(false),
            closing: Cell::new(false),
            luck: rand::random(),
            limiter: OnceCell::new(),
            spent: Notify::new(),
            ended: Cell::new(0),
            given_up: Cell::new(0),
            flooded: Notify::new(),
        })
    }

    /// True once the client's side of the connection is gone.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// True if this answer is the connection's last.
    pub(crate) fn is_last_request(&self) -> bool {
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
    pub(crate) fn stream_ended(&self, unread: bool) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
        self.pulse.forget();
        self.pulse.decide(Prospect::Request);
        self.pulse.finish_one();
        if unread {
            self.unread.set(true);
        }
    }

    /// Counts an HTTP/2 stream that has ended; `given_up` if its client did not wait for any answer.
    pub(crate) fn note_reset(&self, given_up: bool) {
        self.ended.set(self.ended.get() + 1);
        if !given_up {
            return;
        }
        self.given_up.set(self.given_up.get() + 1);
        let of = self.ended.get().max(RESETS_COUNT_FROM);
        if self.given_up.get() == of / 2 + 1 {
            let stats = &self.manager.stats;
            stats.downstream_rq_too_many_premature_resets.inc();
            self.flooded.notify_one();
        }
    }

    /// The next answer says so. Closing at once would cut off a request on its way here.
    fn drain_quietly(&self) {
        self.draining.set(true);
        self.idle_since.set(Instant::now());
    }

    /// Ends the connection after what is under way, for it costs what is short.
    pub(crate) fn end_soon(&self) {
        if !self.draining.get() {
            let stats = &self.manager.stats;
            stats.downstream_cx_overload_disable_keepalive.inc();
            self.drain_quietly();
            self.spent.notify_one();
        }
    }

    /// How long the connection may last.
    pub(super) fn longest(&self) -> Option<Duration> {
        let common = &self.manager.config.common;
        let limit = common.max_connection_duration?;
        let limit = limit.mul_f64(1.0 + common.connection_jitter * self.luck);
        let pressure = &self.worker.process.pressure;
        Some(pressure.reduced(Reduced::ConnectionAge, limit))
    }

    /// How long the connection may go on once it is to end.
    fn drain_time(&self) -> Duration {
        let timeouts = &self.manager.config.timeouts;
        timeouts
            .drain
            .mul_f64(1.0 + timeouts.drain_jitter * self.luck)
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
    let length = cx.connection.accepted.elapsed();
    stats.downstream_cx_length_ms.record(length);
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
        // The guard lets nothing longer through.
        .max_buf_size(head_limit + 8 * 1024)
        .preserve_header_case(config.http1.preserve_case)
        .title_case_headers(config.http1.proper_case);
    if config.common.max_headers as usize != CODEC_HEADERS {
        builder.max_headers(config.common.max_headers as usize);
    }
    let service_cx = Rc::clone(&cx);
    let service = service_fn(move |request| {
        let cx = Rc::clone(&service_cx);
        cx.stream_started();
        async move { Ok::<_, Infallible>(serve(cx, request).await) }
    });
    let io = guarded(&cx, io, head_limit);
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
            refusal = ending::head_overdue(&cx) => cx.pulse.refuse(refusal),
            end = ending::asked(&cx), if asked.is_none() => {
                if matches!(end, End::Idle | End::Old) && !cx.draining.get() {
                    // A request may be on its way.
                    cx.note_end(end);
                    cx.drain_quietly();
                    continue;
                }
                asked = Some(Instant::now());
                cx.draining.set(true);
                cx.note_end(end);
                serving.as_mut().graceful_shutdown();
            }
            () = cut_off(&cx, asked, config.timeouts.delayed_close) => break Ok(()),
        }
    };
    cx.closing.set(true);
    if let Some(refusal) = cx.pulse.refusal() {
        note_refusal(&cx, Version::HTTP_11, refusal);
    } else if cx.pulse.has_broken_off() {
        note_broken_off(&cx);
    } else if let Err(error) = ended {
        note_codec_error(&cx, &error, Version::HTTP_11);
    }
}

/// The connection as the HTTP/1 codec may see it.
fn guarded<U: Upstreams, I>(cx: &Context<U>, io: I, head_bytes: usize) -> Guard<I> {
    let config = &cx.manager.config;
    let rules = Rules {
        head_bytes,
        fields: config.common.max_headers as usize,
        custom_methods: config.http1.custom_methods,
        chunked_length: config.http1.chunked_length,
        http_10: config.http1.accept_http_10,
        underscores: config.common.underscores != Underscores::Reject,
    };
    let server = match config.server.mode {
        ServerHeaderMode::PassThrough => None,
        ServerHeaderMode::Overwrite | ServerHeaderMode::AppendIfAbsent => Some(&config.server.name),
    };
    let said = [("server", server), ("via", config.via.as_ref())]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}: {}\r\n", value?.to_str().ok()?)))
        .collect::<String>();
    Guard::new(io, rules, said.into(), Arc::clone(&cx.pulse))
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
    if let Some(keepalive) = options.keepalive {
        builder
            .keep_alive_interval(keepalive.interval(rand::random()))
            .keep_alive_timeout(keepalive.timeout);
    }
    if options.allow_connect || config.upgrades.iter().any(|(_, on)| *on) {
        builder.enable_connect_protocol();
    }
    let service_cx = Rc::clone(&cx);
    let service = service_fn(move |request| {
        let cx = Rc::clone(&service_cx);
        cx.stream_started();
        // The codec moves what it is given several times.
        Box::pin(async move { Ok::<_, Infallible>(serve(cx, request).await) })
    });
    let (io, sending) = gather(io, config.timeouts.delayed_close);
    cx.worker.tasks.spawn_local(Span::none(), sending);
    let io = Metered::new(
        io,
        Side::Server,
        options.floods,
        Arc::clone(&cx.worker.http2_stats),
    );
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut asked = None;
    let ended = loop {
        tokio::select! {
            biased; // Draining is told before the next request is read; progress before idleness.
            () = cx.drain.draining(), if asked.is_none() => {}
            // HTTP/1 says it in the last answer.
            () = cx.spent.notified(), if asked.is_none() => {}
            ended = serving.as_mut() => break ended,
            () = cx.flooded.notified() => break Ok(()),
            end = ending::asked(&cx), if asked.is_none() => cx.note_end(end),
            () = cut_off(&cx, asked, cx.drain_time()) => break Ok(()),
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
    if error.is_timeout() && version == Version::HTTP_2 {
        // A PING that nobody answered.
        cx.worker.http2_stats.keepalive_timeout.inc();
    }
    if error.is_parse() {
        note_refusal(cx, version, Refusal::bad("http1.codec_error"));
    }
}

/// The record of a request that the client began and never said.
fn note_broken_off<U: Upstreams>(cx: &Rc<Context<U>>) {
    let mut record = unread(cx, Version::HTTP_11);
    record.flags.set(Flag::DownstreamConnectionTermination);
    record.details = Some("downstream_remote_disconnect".into());
    Observer::new(record, Rc::clone(cx)).finish();
}

/// The record of a request that was refused by its head alone.
fn note_refusal<U: Upstreams>(cx: &Rc<Context<U>>, version: Version, refusal: Refusal) {
    let mut record = unread(cx, version);
    if let Some(flag) = refusal.flag {
        record.flags.set(flag);
        if flag == Flag::DownstreamProtocolError {
            cx.manager.stats.downstream_cx_protocol_error.inc();
        }
    }
    record.status = Some(refusal.status);
    record.details = Some(refusal.details.into());
    record.bytes_sent = refusal.body().len() as u64;
    Observer::new(record, Rc::clone(cx)).finish();
}

/// Begins the record of a request nobody could read.
fn unread<U: Upstreams>(cx: &Rc<Context<U>>, version: Version) -> Record {
    let stats = &cx.manager.stats;
    stats.downstream_rq_total.inc();
    stats.downstream_rq_active.inc();
    match version {
        Version::HTTP_2 => stats.downstream_rq_http2_total.inc(),
        _ => stats.downstream_rq_http1_total.inc(),
    }
    cx.stream_started();
    Record::begin(
        Rc::clone(&cx.connection),
        Some(version),
        Instant::now(),
        SystemTime::now(),
    )
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
