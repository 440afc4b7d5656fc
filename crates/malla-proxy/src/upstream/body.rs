//! The bodies that cross the upstream connection, and what they hold while they do.
//!
//! Invariant: a response body that ends gives its connection back; one that is dropped before gives up the stream (HTTP/2)
//! or the connection (HTTP/1). Either way every slot counted for the request is free afterwards.
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::breaker::Permit;
use super::host::ActiveGuard;
use super::pool::Lease;
use super::{ResetKind, StreamError};
use crate::http::body::RequestBody;
use crate::telemetry::stats::ClusterStats;

/// A request body that remembers when its last byte was handed to the connection.
#[derive(Debug)]
pub struct Outgoing {
    body: RequestBody,
    sent: Rc<Cell<Option<Instant>>>,
    /// The endpoint takes none.
    drops_trailers: bool,
    /// Nobody but the client says how long it is.
    hides_length: bool,
}

impl Outgoing {
    /// The body, and the cell that tells when it was sent.
    pub fn new(body: RequestBody) -> (Self, Rc<Cell<Option<Instant>>>) {
        let sent = Rc::new(Cell::new(None));
        (
            Self {
                body,
                sent: Rc::clone(&sent),
                drops_trailers: false,
                hides_length: false,
            },
            sent,
        )
    }

    /// Keeps trailers from an endpoint that is not configured to take them.
    pub(super) fn drop_trailers(&mut self) {
        self.drops_trailers = true;
    }

    /// Keeps the codec from announcing a length that the client has not.
    pub(super) fn hide_length(&mut self) {
        self.hides_length = true;
    }

    /// The body as it came, if the connection never took it.
    pub fn into_inner(self) -> RequestBody {
        self.body
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(last))) = &frame
            && last.is_trailers()
            && this.drops_trailers
        {
            frame = Poll::Ready(None);
        }
        let over = match &frame {
            Poll::Ready(None) => true,
            // The codec does not ask for an end that it knows.
            Poll::Ready(Some(_)) => this.body.is_end_stream() || is_spent(&this.body),
            Poll::Pending => false,
        };
        if over {
            this.sent.set(Some(Instant::now()));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.hides_length {
            return SizeHint::default();
        }
        self.body.size_hint()
    }
}

/// Nothing is left of a body whose length was announced.
fn is_spent(body: &RequestBody) -> bool {
    body.size_hint().exact() == Some(0)
}

/// What one request occupies; freed by its drop.
#[derive(Debug)]
pub(super) struct Slots {
    _active: ActiveGuard,
    _permit: Permit,
    request: ActiveRequest,
}

impl Slots {
    pub(super) fn new(active: ActiveGuard, permit: Permit, stats: &Arc<ClusterStats>) -> Self {
        Self {
            _active: active,
            _permit: permit,
            request: ActiveRequest::new(stats),
        }
    }

    /// The answer has come to its end.
    fn answered(self) {
        let ActiveRequest { stats, since } = &self.request;
        stats.upstream_rq_time.record(since.elapsed());
    }
}

/// `upstream_rq_active` and `upstream_rq_time` of one request.
#[derive(Debug)]
struct ActiveRequest {
    stats: Arc<ClusterStats>,
    since: Instant,
}

impl ActiveRequest {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.upstream_rq_active.inc();
        Self {
            stats: Arc::clone(stats),
            since: Instant::now(),
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.stats.upstream_rq_active.dec();
    }
}

/// A response body from a pooled connection.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    /// `None` once the body has ended.
    held: Option<(Lease, Slots)>,
    /// Trailers are passed on.
    trailers: bool,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, slots: Slots) -> Self {
        let mut body = Self {
            trailers: lease.takes_trailers(),
            incoming,
            held: Some((lease, slots)),
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some((lease, slots)) = self.held.take() {
            slots.answered();
            lease.give_back();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                // Known ends save the poll that would only say so, and free the connection one turn earlier.
                if frame.is_trailers() || this.incoming.is_end_stream() {
                    this.finish();
                }
                (frame.is_data() || this.trailers).then_some(Ok(frame))
            }
            Some(Err(error)) => {
                this.held = None;
                let mut broken = stream_error(&error);
                if ends_early(&error) {
                    // The framing promised more: that the connection was closed politely does not mend it.
                    broken.kind = ResetKind::ProtocolError;
                }
                Some(Err(broken))
            }
            None => {
                this.finish();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// True if the connection ended in order, but within a body.
fn ends_early(error: &hyper::Error) -> bool {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// What a hyper error means for the stream it ended.
pub(super) fn stream_error(error: &hyper::Error) -> StreamError {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = source {
        if let Some(ours) = inner.downcast_ref::<StreamError>() {
            return ours.clone();
        }
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return StreamError {
                kind: h2_reset(h2),
                before_request: refused(h2),
            };
        }
        source = inner.source();
    }
    let kind = if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        ResetKind::ProtocolError
    } else {
        ResetKind::ConnectionTermination
    };
    StreamError {
        kind,
        before_request: error.is_canceled(),
    }
}

/// REFUSED_STREAM, or a GOAWAY that this stream was too late for: the server did nothing with it (RFC 9113 §8.7).
fn refused(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

fn h2_reset(error: &h2::Error) -> ResetKind {
    if refused(error) {
        ResetKind::RemoteRefused
    } else if error.is_go_away() || error.is_io() {
        ResetKind::ConnectionTermination
    } else if error.is_remote() {
        ResetKind::Remote
    } else if error.reason() == Some(h2::Reason::CANCEL) {
        ResetKind::Local
    } else if error.is_reset() && !error.is_library() {
        // The codec resets a stream by itself where the request's body fails.
        ResetKind::Downstream
    } else {
        ResetKind::ProtocolError
    }
}
