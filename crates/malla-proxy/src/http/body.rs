//! The body of a request on its way to an endpoint: streamed, counted, and kept while it may have to be sent again.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::Instant;

use super::adaptor::Broken;
use super::client_body::ClientBody;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Progress;
use crate::upstream::{ResetKind, StreamError};

/// A request body as `upstream` sends it.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Empty,
    /// Nobody needs it again.
    Streamed(ClientBody),
    /// Frames from `next` on, first the kept ones.
    Shared {
        inflow: Rc<Inflow>,
        next: usize,
        sent: u64,
    },
    /// Kept frames only: a mirror's copy.
    Copied {
        frames: std::vec::IntoIter<Bytes>,
        left: u64,
        /// The original said its length, so the copy does.
        sized: bool,
    },
    /// Frames of our own, as they are made; ends with its sender.
    Fed {
        frames: UnboundedReceiver<Bytes>,
        backlog: Backlog,
    },
    /// The bytes of a tunnel; ends with its sender.
    Piped(Receiver<Bytes>),
}

/// Bytes handed to a fed body that have not left yet.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Rc<(Cell<usize>, Notify)>);

impl Backlog {
    /// Counts bytes in.
    pub fn add(&self, bytes: usize) {
        self.0.0.set(self.0.0.get().saturating_add(bytes));
    }

    fn left(&self, bytes: usize) {
        self.0.0.set(self.0.0.get().saturating_sub(bytes));
        self.0.1.notify_one();
    }

    /// Waits until fewer than `limit` bytes are left.
    pub async fn below(&self, limit: usize) {
        while self.0.0.get() >= limit {
            self.0.1.notified().await;
        }
    }
}

/// A limit of an answer on its way that has passed: flag and details of the record.
pub type Overdue = (Flag, &'static str);

/// What a body has come to, and what limits it.
#[derive(Debug, Default)]
pub struct Flow {
    /// The record's view.
    pub progress: Rc<Progress>,
    /// Last byte either way, for idle timeouts.
    pub last: Cell<Option<Instant>>,
    /// Longest time without a byte.
    pub idle: Cell<Option<Duration>>,
    /// The same, of the try whose answer it is.
    pub try_idle: Cell<Option<Duration>>,
    /// Latest end of the stream.
    pub until: Cell<Option<Instant>>,
    /// The route's timeout as a moment, once there is an answer.
    pub response: Cell<Option<Instant>>,
    /// The latest end by the cluster's settings, likewise.
    pub upstream: Cell<Option<Instant>>,
    /// An answer is on its way to the client: these limits are the connection's to keep.
    pub answering: Cell<bool>,
    /// Why that answer is to end before its time.
    pub overdue: Cell<Option<Overdue>>,
    /// The request's body broke its own framing.
    pub malformed: Cell<bool>,
    /// It is not what a filter was told it is.
    pub(crate) broken: Cell<Option<Broken>>,
}

impl Flow {
    /// A flow that reports to `progress`.
    pub fn new(progress: Rc<Progress>) -> Rc<Self> {
        Rc::new(Self {
            progress,
            ..Self::default()
        })
    }

    /// Notes bytes in either direction.
    pub fn touch(&self) {
        self.last.set(Some(Instant::now()));
    }

    pub(crate) fn received(&self, data: &[u8]) {
        let progress = &self.progress;
        progress
            .received
            .set(progress.received.get() + data.len() as u64);
        progress.pieces.set(progress.pieces.get() + 1);
        if progress.count_messages.get() {
            let mut messages = progress.messages.get();
            messages.see(data);
            progress.messages.set(messages);
        }
        self.touch();
    }

    /// Notes why the body ended before its time.
    pub(crate) fn failed(&self, error: &hyper::Error) -> StreamError {
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let kind = io.map(std::io::Error::kind);
        let broken = matches!(kind, Some(ErrorKind::InvalidInput | ErrorKind::InvalidData));
        self.malformed.set(broken || error.is_parse());
        StreamError {
            kind: ResetKind::Downstream,
            before_request: false,
        }
    }

    /// Notes that a filter cannot take the body.
    pub(crate) fn broken(&self, broken: Broken) -> StreamError {
        self.broken.set(Some(broken));
        StreamError {
            kind: ResetKind::Downstream,
            before_request: false,
        }
    }

    /// Notes the end of the request.
    pub fn finish(&self) {
        self.progress.finish();
    }

    /// The moment at which the answer on its way is given up if nothing moves until then, and why.
    pub fn deadline(&self) -> Option<(Instant, Overdue)> {
        if !self.answering.get() {
            return None;
        }
        let response = self.response.get();
        let response = response.map(|at| (at, (Flag::UpstreamRequestTimeout, "response_timeout")));
        let until = self.until.get();
        let until = until.map(|at| (at, (Flag::DurationTimeout, "max_duration_timeout")));
        let upstream = self.upstream.get().map(|at| {
            let flag = Flag::UpstreamMaxStreamDurationReached;
            (at, (flag, "upstream_max_stream_duration_reached"))
        });
        let idle = self.idle.get().zip(self.last.get());
        let idle = idle.map(|(idle, last)| {
            (
                last + idle,
                (Flag::StreamIdleTimeout, "stream_idle_timeout"),
            )
        });
        let try_idle = self.try_idle.get().zip(self.last.get());
        let try_idle = try_idle.map(|(idle, last)| {
            let flag = Flag::UpstreamRequestTimeout;
            (last + idle, (flag, "upstream_per_try_idle_timeout"))
        });
        [response, until, upstream, idle, try_idle]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }
}

/// The client's body, with the frames kept for further tries.
#[derive(Debug)]
pub struct Inflow {
    body: RefCell<ClientBody>,
    kept: RefCell<Kept>,
    total: Option<u64>,
    flow: Rc<Flow>,
}

#[derive(Debug)]
struct Kept {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: u64,
    limit: u64,
    /// More came than may be kept: no further try can be made.
    overflowed: bool,
    ended: bool,
}

impl Inflow {
    /// Keeps up to `limit` bytes of `body`.
    pub(crate) fn new(body: ClientBody, limit: u64, flow: Rc<Flow>) -> Rc<Self> {
        let total = body.size_hint().exact();
        let overflowed = total.is_some_and(|total| total > limit);
        let kept = Kept {
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            limit,
            overflowed,
            ended: false,
        };
        Rc::new(Self {
            body: RefCell::new(body),
            kept: RefCell::new(kept),
            total,
            flow,
        })
    }

    /// Whether all of the body has come.
    pub fn is_whole(&self) -> bool {
        self.kept.borrow().ended
    }

    /// True while a further try could be given the whole body.
    pub fn is_repeatable(&self) -> bool {
        !self.kept.borrow().overflowed
    }

    /// The body from its beginning, for one try.
    pub fn body(self: &Rc<Self>) -> RequestBody {
        RequestBody {
            source: Source::Shared {
                inflow: Rc::clone(self),
                next: 0,
                sent: 0,
            },
        }
    }

    /// A copy of the whole body, once it has come; `None` if it was too long to keep.
    pub fn copy(&self) -> Option<RequestBody> {
        let kept = self.kept.borrow();
        if kept.overflowed || !kept.ended {
            return None;
        }
        Some(RequestBody {
            source: Source::Copied {
                frames: kept.frames.clone().into_iter(),
                left: kept.bytes,
                sized: self.total.is_some(),
            },
        })
    }

    fn poll_at(
        &self,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut kept = self.kept.borrow_mut();
        if let Some(frame) = kept.frames.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
        }
        if kept.ended {
            let trailers = if *next == kept.frames.len() {
                kept.trailers.clone()
            } else {
                None
            };
            *next += 1;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx));
        Poll::Ready(match frame {
            None => {
                kept.ended = true;
                *next += 1;
                None
            }
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    kept.keep(&data, next);
                    Some(Ok(Frame::data(data)))
                }
                Err(frame) => {
                    kept.ended = true;
                    *next += 2;
                    kept.trailers = frame.trailers_ref().cloned();
                    Some(Ok(frame))
                }
            },
        })
    }
}

impl Kept {
    fn keep(&mut self, data: &Bytes, next: &mut usize) {
        self.bytes += data.len() as u64;
        if self.overflowed {
            return;
        }
        if self.bytes > self.limit {
            self.overflowed = true;
            self.frames = Vec::new();
            *next = 0;
        } else {
            self.frames.push(data.clone());
            *next += 1;
        }
    }
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self {
            source: Source::Empty,
        }
    }

    /// These frames.
    pub fn fixed(frames: Vec<Bytes>) -> Self {
        let left = frames.iter().map(|frame| frame.len() as u64).sum();
        Self {
            source: Source::Copied {
                frames: frames.into_iter(),
                left,
                sized: true,
            },
        }
    }

    /// Frames as they come.
    pub fn fed(frames: UnboundedReceiver<Bytes>, backlog: Backlog) -> Self {
        Self {
            source: Source::Fed { frames, backlog },
        }
    }

    /// The bytes of a tunnel as they come.
    pub fn piped(bytes: Receiver<Bytes>) -> Self {
        Self {
            source: Source::Piped(bytes),
        }
    }

    /// The client's body, for the only try.
    pub(crate) fn streamed(body: ClientBody) -> Self {
        Self {
            source: Source::Streamed(body),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut self.get_mut().source {
            Source::Empty => Poll::Ready(None),
            Source::Streamed(body) => Pin::new(body).poll_frame(cx),
            Source::Shared { inflow, next, sent } => {
                let frame = std::task::ready!(inflow.poll_at(next, cx));
                if let Some(Ok(frame)) = &frame {
                    *sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                if inflow.total == Some(*sent) && frame.is_some() {
                    inflow.kept.borrow_mut().ended = true;
                    inflow.flow.finish();
                }
                Poll::Ready(frame)
            }
            Source::Copied { frames, left, .. } => Poll::Ready(frames.next().map(|frame| {
                *left -= frame.len() as u64;
                Ok(Frame::data(frame))
            })),
            Source::Piped(bytes) => bytes
                .poll_recv(cx)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Source::Fed { frames, backlog } => {
                let frame = std::task::ready!(frames.poll_recv(cx));
                Poll::Ready(frame.map(|frame| {
                    backlog.left(frame.len());
                    Ok(Frame::data(frame))
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Streamed(body) => body.is_end_stream(),
            Source::Shared { inflow, sent, .. } => inflow.total == Some(*sent),
            Source::Copied { left, .. } => *left == 0,
            Source::Fed { .. } | Source::Piped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Streamed(body) => body.size_hint(),
            Source::Shared { inflow, sent, .. } => {
                inflow.total.map_or_else(SizeHint::default, |total| {
                    SizeHint::with_exact(total.saturating_sub(*sent))
                })
            }
            Source::Copied {
                left, sized: true, ..
            } => SizeHint::with_exact(*left),
            Source::Copied { sized: false, .. } | Source::Fed { .. } | Source::Piped(_) => {
                SizeHint::default()
            }
        }
    }
}
