//! What goes back: the body on its way to the client, and the end of the request's record.
//!
//! Invariant: the body keeps no time, for a client that does not read keeps it from being polled. Whoever polls the
//! exchange keeps its [`Flow`]'s deadline, says so there, and lets go of the body.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use malla_proxy_config::request::text;
use tokio::time::Instant;

use super::adaptor::{Adapted, Next};
use super::body::Flow;
use super::error::{reset_flag, reset_reason};
use super::exchange::Observer;
use crate::telemetry::export::entry;
use crate::telemetry::flags::Flag;
use crate::telemetry::odometer::framing;
use crate::telemetry::record::Captured;
use crate::upstream::{ClusterHandle, ResetKind, StreamError, Upstreams};

type Polled = Poll<Option<Result<Frame<Bytes>, StreamError>>>;

/// The body type of a worker's upstream responses.
pub(crate) type BodyOf<U> = <<U as Upstreams>::Handle as ClusterHandle>::Body;

/// A response body as the codec sends it; ends the request's record.
pub(super) struct ResponseBody<U: Upstreams> {
    inner: Inner<BodyOf<U>>,
    /// `None` once the record is written.
    observer: Option<Observer<U>>,
    flow: Rc<Flow>,
    /// Bytes still to come, where the length is known.
    left: Option<u64>,
    /// HTTP/1 clients get trailers only where configured.
    trailers: bool,
    /// A log asks for the frames around it.
    framed: bool,
    /// Filters that change it.
    adapted: Option<Box<Adapted>>,
    /// Why the answer breaks off, once what was given before has had its turn to leave.
    broken: Option<StreamError>,
}

enum Inner<B> {
    Full(Bytes),
    Upstream(B),
}

impl<U: Upstreams> ResponseBody<U> {
    /// A body made here.
    pub(super) fn full(bytes: Bytes, observer: Observer<U>, flow: Rc<Flow>) -> Self {
        let left = Some(bytes.len() as u64);
        flow.answering.set(true);
        Self {
            inner: Inner::Full(bytes),
            observer: Some(observer),
            flow,
            left,
            trailers: false,
            framed: false,
            adapted: None,
            broken: None,
        }
    }

    /// No body, and nobody's record: the tunnel that follows writes it.
    pub(super) fn tunnelled(flow: Rc<Flow>) -> Self {
        Self {
            inner: Inner::Full(Bytes::new()),
            observer: None,
            flow,
            left: Some(0),
            trailers: false,
            framed: false,
            adapted: None,
            broken: None,
        }
    }

    /// An upstream's body; `no_body` says that none may follow whatever its headers say.
    pub(super) fn upstream(
        body: BodyOf<U>,
        observer: Observer<U>,
        flow: Rc<Flow>,
        no_body: bool,
        trailers: bool,
    ) -> Self {
        let left = if no_body {
            Some(0)
        } else {
            body.size_hint().exact()
        };
        // The head is progress, too.
        flow.touch();
        flow.answering.set(true);
        Self {
            inner: Inner::Upstream(body),
            observer: Some(observer),
            flow,
            left,
            trailers,
            framed: false,
            adapted: None,
            broken: None,
        }
    }

    /// With filters that change it on its way.
    pub(super) fn adapted(mut self, adapted: Option<Box<Adapted>>) -> Self {
        if let Some(adapted) = adapted.filter(|adapted| !adapted.is_empty())
            && self.left != Some(0)
        {
            self.adapted = Some(adapted);
            self.left = None;
        }
        self
    }

    /// Counts how it is framed, where a log asks; `announced` says that its head does not leave that to the codec.
    pub(super) fn metered(mut self, announced: bool) -> Self {
        let unknown = self.left.is_none();
        let Some(observer) = self.observer.as_mut().filter(|it| it.needs().wire) else {
            return self;
        };
        let record = observer.record_mut();
        self.framed = match record.protocol {
            Some(Version::HTTP_2) => true,
            Some(Version::HTTP_11) => unknown,
            _ => false,
        };
        if self.framed && unknown {
            record.wire.downstream.chunked(!announced, record.protocol);
        }
        self
    }

    fn sent(&mut self, data: &[u8]) {
        let bytes = data.len();
        self.flow.touch();
        if let Some(observer) = &mut self.observer {
            let record = observer.record_mut();
            record.bytes_sent += bytes as u64;
            record.pieces_sent += 1;
            if self.framed {
                let http2 = record.protocol == Some(Version::HTTP_2);
                record.wire.downstream.sent += framing(bytes as u64, http2);
            }
            if let Some(call) = &record.call {
                let mut messages = call.answered.get();
                messages.see(data);
                call.answered.set(messages);
            }
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes as u64);
        }
    }

    fn finish(&mut self) {
        self.flow.answering.set(false);
        if let Some(observer) = self.observer.take() {
            observer.finish();
        }
    }

    fn fail(&mut self, flag: Flag, details: String) {
        self.flow.answering.set(false);
        if let Some(mut observer) = self.observer.take() {
            let stats = observer.stats();
            stats.downstream_rq_tx_reset.inc();
            if flag == Flag::StreamIdleTimeout {
                stats.downstream_rq_idle_timeout.inc();
            }
            let record = observer.record_mut();
            record.flags.set(flag);
            record.details = Some(details.into());
            observer.finish();
        }
    }

    /// True if the connection has found the answer overdue; then its record is written.
    fn fail_if_overdue(&mut self) -> bool {
        let Some((flag, details)) = self.flow.overdue.take() else {
            return false;
        };
        self.fail(flag, details.to_owned());
        true
    }

    fn poll_inner(&mut self, cx: &mut Task<'_>) -> Polled {
        let polled = match &mut self.inner {
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Inner::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        if !polled.is_pending() {
            self.note_moments(&polled);
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.data_ref() {
                None => self.note_trailers(frame),
                Some(data) => {
                    let observer = self.observer.as_mut();
                    let call = observer.and_then(|it| it.record_mut().grpc_call.as_mut());
                    if let Some(call) = call.filter(|call| call.answers) {
                        call.answered.see(data);
                    }
                }
            }
        }
        polled
    }

    fn poll_adapted(&mut self, cx: &mut Task<'_>) -> Polled {
        loop {
            let ended = match &self.adapted {
                None => return self.poll_inner(cx),
                Some(adapted) => adapted.has_ended(),
            };
            let frame = match ended {
                true => None,
                false => ready!(self.poll_inner(cx)).transpose()?,
            };
            let next = match &mut self.adapted {
                Some(adapted) if ended => adapted.rest(),
                Some(adapted) => match adapted.pass(frame) {
                    Ok(next) => next,
                    Err(_) => {
                        return Poll::Ready(Some(Err(StreamError {
                            kind: ResetKind::Local,
                            before_request: false,
                        })));
                    }
                },
                None => Next::End,
            };
            match next {
                Next::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Next::End => return Poll::Ready(None),
                Next::More => {}
            }
        }
    }

    /// Notes when the upstream's body began and ended, where a log asks.
    fn note_moments(&mut self, polled: &Polled) {
        let (Some(observer), Inner::Upstream(body)) = (&mut self.observer, &self.inner) else {
            return;
        };
        if !observer.needs().moments {
            return;
        }
        let over = match polled {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || body.is_end_stream(),
            _ => true,
        };
        let now = Instant::now();
        let record = observer.record_mut();
        if matches!(polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) {
            record.body_begun.get_or_insert(now);
        }
        if over {
            record.answer_ended.get_or_insert(now);
        }
    }

    fn note_trailers(&mut self, frame: &Frame<Bytes>) {
        let (Some(trailers), Some(observer)) = (frame.trailers_ref(), &mut self.observer) else {
            return;
        };
        let needs = observer.needs();
        let captured = if needs.everything {
            Captured::All(Box::new(trailers.clone()))
        } else {
            Captured::of(trailers, &needs.trailers)
        };
        let bytes = match needs.sizes {
            true => entry::header_bytes(trailers),
            false => 0,
        };
        let record = observer.record_mut();
        record.response_trailers_bytes = bytes;
        record.trailers = captured;
        if let Some(status) = trailers
            .get("grpc-status")
            .and_then(|status| text(status).parse().ok())
        {
            record.grpc_status = Some(status);
        }
    }
}

impl<U: Upstreams> Body for ResponseBody<U> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        if this.fail_if_overdue() {
            return Poll::Ready(Some(Err(StreamError {
                kind: ResetKind::Local,
                before_request: false,
            })));
        }
        let broken = this.broken.take();
        let waited = broken.is_some();
        let polled = match broken {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => this.poll_adapted(cx),
        };
        match polled {
            // HTTP/2's codec forgets what it has not sent when a stream is reset.
            Poll::Ready(Some(Err(error))) if !waited => {
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.sent(data);
                } else {
                    // Nothing follows, and the codec does not ask again.
                    this.finish();
                    if !this.trailers {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let reason = reset_reason(&error).replace(' ', "_");
                this.fail(
                    reset_flag(&error),
                    format!("upstream_reset_after_response_started{{{reason}}}"),
                );
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if let Some(adapted) = &self.adapted {
            return adapted.is_done();
        }
        match &self.inner {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.adapted.is_some() {
            return SizeHint::default();
        }
        match &self.inner {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Upstream(body) => body.size_hint(),
        }
    }
}

impl<U: Upstreams> Drop for ResponseBody<U> {
    fn drop(&mut self) {
        // Not polled any more where the client does not read.
        if self.fail_if_overdue() {
            return;
        }
        self.flow.answering.set(false);
        // The codec drops a body without asking for its end when it knows that there is nothing more.
        if self.left == Some(0) || self.is_end_stream() {
            self.finish();
        }
    }
}

/// True if a client of this version can take trailers.
pub(super) fn takes_trailers(version: Version, enabled_on_http1: bool) -> bool {
    version == Version::HTTP_2 || enabled_on_http1
}
