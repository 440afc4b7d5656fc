//! Responses of a gRPC stream, framed here.
//!
//! tonic's encoder keeps, for as long as a stream lasts, the room that its largest message took. The first push to a
//! proxy of a large mesh is a megabyte and all that follow are small, so thousands of streams would hold gigabytes for
//! nothing. The handler leaves its responses in the answer's extensions ([`Outgoing`]), and [`Framed`] makes the body of
//! them: each message has its own room, which goes with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{Stream as _, ready};
use http::HeaderMap;
use http_body::Frame;
use prost::Message as _;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::grpc::MAX_RESPONSE;
use crate::message::ServerMessage;
use crate::server::Responses;

/// The frame of a gRPC message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A stream's responses, on their way from the handler to the body. They are taken once.
#[derive(Clone)]
pub(super) struct Outgoing(Arc<Mutex<Option<Responses>>>);

impl Outgoing {
    pub(super) fn new(responses: Responses) -> Self {
        Self(Arc::new(Mutex::new(Some(responses))))
    }

    fn take(&self) -> Option<Responses> {
        let mut responses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        responses.take()
    }
}

/// A gRPC service whose answers have the body that their [`Outgoing`] gives, where they have one.
#[derive(Debug, Clone)]
pub struct Framed<T>(pub(super) T);

impl<T: NamedService> NamedService for Framed<T> {
    const NAME: &'static str = T::NAME;
}

impl<T> Service<http::Request<Body>> for Framed<T>
where
    T: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    T::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let outgoing = answer.extensions_mut().remove::<Outgoing>();
            if let Some(responses) = outgoing.and_then(|outgoing| outgoing.take()) {
                *answer.body_mut() = Body::new(Frames(Some(responses)));
            }
            Ok(answer)
        })
    }
}

/// Messages, and the status at their end; nothing after that.
struct Frames(Option<Responses>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(responses) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let message = ready!(Pin::new(responses).poll_next(cx));
        let framed = match message {
            Some(Ok(message)) => framed(&message),
            Some(Err(status)) => Err(status),
            None => Err(Status::ok("")),
        };
        let status = match framed {
            Ok(message) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Err(status) => status,
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        let written = status.add_header(&mut trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn framed(message: &ServerMessage) -> Result<Bytes, Status> {
    let size = match message {
        ServerMessage::Delta(response) => response.encoded_len(),
        ServerMessage::Sotw(response) => response.encoded_len(),
    };
    let length = u32::try_from(size).ok().filter(|_| size <= MAX_RESPONSE);
    let length = length.ok_or_else(|| {
        let text = format!("a response of {size} bytes is too large (at most {MAX_RESPONSE})");
        Status::new(Code::OutOfRange, text)
    })?;
    let mut frame = BytesMut::with_capacity(HEAD + size);
    frame.put_u8(0);
    frame.put_u32(length);
    let encoded = match message {
        ServerMessage::Delta(response) => response.encode(&mut frame),
        ServerMessage::Sotw(response) => response.encode(&mut frame),
    };
    // There is room for all of it.
    encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}
