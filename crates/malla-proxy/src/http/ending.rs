//! When connections and answers end that nobody ends: idle, old, drained, or with a client that does not go on.
//!
//! Invariant: what is waited for here is a moment, never the peer. A connection that was asked to end and does not is cut
//! off; so is one whose head or whose answer does not move.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use malla_proxy_config::overload::Timer as Reduced;
use tokio::time::{Instant, Sleep};

use super::body::Flow;
use super::connection::Context;
use super::guard::{HEAD_IDLE, HEAD_LATE, Refusal};
use crate::upstream::Upstreams;

/// A draining HTTP/1 connection on which nothing comes for this long is closed. A busy one learns
/// of the drain from its next answer before.
const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// A client that still reads what is left for it is given so many graces.
const MOST_GRACES: u32 = 12;

/// Why a connection is asked to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Idle,
    Old,
    /// Draining, and nothing came for a while.
    Drained,
    /// The answer was over before its request.
    Early,
}

/// Waits until the connection was idle for too long, is too old, or cannot go on.
pub(super) async fn asked<U: Upstreams>(cx: &Context<U>) -> End {
    let unread = poll_fn(|_| {
        // Set by the exchange, which is polled with this.
        if cx.unread.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    tokio::select! {
        biased; // The nearer cause.
        () = unread => End::Early,
        end = idle_or_old(cx) => end,
    }
}

async fn idle_or_old<U: Upstreams>(cx: &Context<U>) -> End {
    let common = &cx.manager.config.common;
    let pressure = &cx.worker.process.pressure;
    loop {
        let (idle_limit, idle_end) = if cx.draining.get() {
            let quiet = cx.manager.config.timeouts.drain.min(DRAIN_QUIET);
            (Some(quiet), End::Drained)
        } else {
            let limit = common.idle_timeout;
            let reduced = limit.map(|limit| pressure.reduced(Reduced::ConnectionIdle, limit));
            (reduced, End::Idle)
        };
        let old = cx
            .longest()
            .filter(|_| !cx.draining.get())
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
            Some((at, _)) => tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = pressure.reduced_otherwise() => {}
            },
        }
    }
}

/// Waits until a connection that was asked to end at `asked`, if it was, has had no request for `grace`, and is not being
/// read from any more. Its requests have limits of their own.
pub(super) async fn cut_off<U: Upstreams>(
    cx: &Context<U>,
    asked: Option<Instant>,
    grace: Duration,
) {
    let Some(asked) = asked else {
        return std::future::pending().await;
    };
    let (mut since, mut first) = (asked, asked);
    loop {
        let now = Instant::now();
        let written = cx.pulse.take_written();
        if cx.active.get() > 0 {
            (since, first) = (now, now);
        } else if written && now < first + grace * MOST_GRACES {
            since = now;
        } else {
            since = since.max(cx.idle_since.get());
        }
        if now >= since + grace {
            return;
        }
        tokio::time::sleep_until(since + grace).await;
    }
}

/// Waits until an HTTP/1 head has begun and not ended within the stream's idle time, or the manager's limit for heads;
/// says what the client is told.
pub(super) async fn head_overdue<U: Upstreams>(cx: &Context<U>) -> Refusal {
    if cx.pulse.refusal().is_some() {
        return std::future::pending().await;
    }
    let timeouts = &cx.manager.config.timeouts;
    let stats = &cx.manager.stats;
    let pressure = &cx.worker.process.pressure;
    let idle = timeouts.stream_idle;
    let idle = idle.map(|limit| pressure.reduced(Reduced::StreamIdle, limit));
    let idle = idle.map(|limit| (limit, &stats.downstream_rq_idle_timeout, HEAD_IDLE));
    let whole = timeouts.request_headers;
    let whole = whole.map(|limit| (limit, &stats.downstream_rq_header_timeout, HEAD_LATE));
    let least = [whole, idle].into_iter().flatten();
    let Some((limit, counter, refusal)) = least.min_by_key(|(limit, _, _)| *limit) else {
        return std::future::pending().await;
    };
    let mut timer = Timer::default();
    poll_fn(|task| {
        if cx.active.get() > 0 || !cx.pulse.has_heard() {
            cx.head_since.set(None);
            return Poll::Pending;
        }
        let since = cx.head_since.get().unwrap_or_else(Instant::now);
        cx.head_since.set(Some(since));
        timer.poll(since + limit, task)
    })
    .await;
    counter.inc();
    refusal
}

/// A timer that is only set again when it fires: most deadlines move on, and are seldom met.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, at: Instant, task: &mut Task<'_>) -> Poll<()> {
        let timer = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        loop {
            if timer.is_elapsed() || timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(task));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
        }
    }
}

/// Keeps the deadline of the answer under way on an HTTP/1 connection or an HTTP/2 stream.
#[derive(Debug, Default)]
pub(super) struct AnswerWatch {
    flow: Option<Rc<Flow>>,
    timer: Timer,
}

impl AnswerWatch {
    /// Ready when the answer is overdue, which its flow is told then. `begun` holds the last exchange that was begun. To
    /// be polled after whatever polls the exchange.
    pub(super) fn poll(&mut self, begun: &Cell<Option<Rc<Flow>>>, task: &mut Task<'_>) -> Poll<()> {
        if let Some(flow) = begun.take() {
            self.flow = Some(flow);
        }
        let Some((flow, (at, overdue))) = self
            .flow
            .as_ref()
            .and_then(|flow| Some((flow, flow.deadline()?)))
        else {
            return Poll::Pending;
        };
        ready!(self.timer.poll(at, task));
        flow.overdue.set(Some(overdue));
        Poll::Ready(())
    }
}

/// Polls an HTTP/2 stream to its end, or until its answer is overdue: a client that gives no window keeps the codec from
/// asking for more.
pub(super) fn bounded<U: Upstreams>(
    cx: Rc<Context<U>>,
    stream: impl Future<Output = ()>,
) -> impl Future<Output = ()> {
    // What a function that waits is given, it holds twice.
    let mut stream = Box::pin(stream);
    let mut watch = AnswerWatch::default();
    poll_fn(move |task| {
        if stream.as_mut().poll(task).is_ready() {
            return Poll::Ready(());
        }
        ready!(watch.poll(&cx.begun, task));
        // A codec that does ask for more learns the reason; any other resets the stream when it is dropped.
        let _ = stream.as_mut().poll(task);
        Poll::Ready(())
    })
}
