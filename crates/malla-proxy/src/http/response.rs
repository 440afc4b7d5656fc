//! What goes back: the body on its way to the client, and the end of the request's record.
//!
//! Invariant: the body keeps no time, for a client that does not read keeps it from being polled. Whoever polls the
//! exchange keeps its [`Flow`]'s deadline, says so there, and lets go of the body.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use malla_proxy_config::request::text;
use tokio::time::Instant;

use super::body::Flow;
use super::error::{reset_flag, reset_reason};
use super::exchange::Observer;
use crate::telemetry::flags::Flag;
use crate::telemetry::record::Captured;
use crate::upstream::{ClusterHandle, ResetKind, StreamError, Upstreams};

/// The body type of a worker's upstream responses.
pub(super) type BodyOf<U> = <<U as Upstreams>::Handle as ClusterHandle>::Body;

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
        flow.answering.set(true);
        Self {
            inner: Inner::Upstream(body),
            observer: Some(observer),
            flow,
            left,
            trailers,
        }
    }

    fn sent(&mut self, data: &[u8]) {
        let bytes = data.len();
        self.flow.touch();
        if let Some(observer) = &mut self.observer {
            let record = observer.record_mut();
            record.bytes_sent += bytes as u64;
            if let Some(call) = &record.call {
                let mut messages = call.answered.get();
                messages.see(data);
                call.answered.set(messages);
            }
            record.first_byte_sent.get_or_insert_with(Instant::now);
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
        let record = observer.record_mut();
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
        let polled = match &mut this.inner {
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Inner::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.sent(data);
                } else {
                    this.note_trailers(&frame);
                    if !this.trailers {
                        this.finish();
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
        match &self.inner {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
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
