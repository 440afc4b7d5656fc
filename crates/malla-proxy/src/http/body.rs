//! The body of a request on its way to an endpoint.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::upstream::{ResetKind, StreamError};

/// A request body as `upstream` sends it.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Empty,
    Incoming(Incoming),
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self {
            source: Source::Empty,
        }
    }

    /// The client's body, streamed.
    pub fn incoming(body: Incoming) -> Self {
        Self {
            source: Source::Incoming(body),
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
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(|_| StreamError {
                kind: ResetKind::Downstream,
                before_request: false,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Incoming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Incoming(body) => body.size_hint(),
        }
    }
}
