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
}

impl Outgoing {
    /// The body, and the cell that tells when it was sent.
    pub fn new(body: RequestBody) -> (Self, Rc<Cell<Option<Instant>>>) {
        let sent = Rc::new(Cell::new(None));
        (
            Self {
                body,
                sent: Rc::clone(&sent),
            },
            sent,
        )
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
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            this.sent.set(Some(Instant::now()));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What one request occupies; freed by its drop.
#[derive(Debug)]
pub(super) struct Slots {
    _active: ActiveGuard,
    _permit: Permit,
    _stats: ActiveRequest,
}

impl Slots {
    pub(super) fn new(active: ActiveGuard, permit: Permit, stats: &Arc<ClusterStats>) -> Self {
        Self {
            _active: active,
            _permit: permit,
            _stats: ActiveRequest::new(stats),
        }
    }
}

/// `upstream_rq_active` of one request.
#[derive(Debug)]
struct ActiveRequest(Arc<ClusterStats>);

impl ActiveRequest {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.upstream_rq_active.inc();
        Self(Arc::clone(stats))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.upstream_rq_active.dec();
    }
}

/// A response body from a pooled connection.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    /// `None` once the body has ended.
    held: Option<(Lease, Slots)>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, slots: Slots) -> Self {
        let mut body = Self {
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
            drop(slots);
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
                if this.incoming.is_end_stream() {
                    this.finish();
                }
                Some(Ok(frame))
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
    } else {
        ResetKind::ProtocolError
    }
}
