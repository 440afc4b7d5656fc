//! The body a client sends: streamed, or read ahead by a filter that wants to see it before the request goes on.
//!
//! Invariants: bytes are counted when they come from the client, however often they are looked at; what is read ahead is
//! bounded by whoever asks for it, and is what the adaptors before have made of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::adaptor::{Adapted, Adaptor, Broken, Next};
use super::body::Flow;
use crate::telemetry::istio::grpc::Messages;
use crate::upstream::StreamError;

/// A client's body.
#[derive(Debug)]
pub(crate) struct ClientBody {
    rest: Option<Incoming>,
    /// Its length was said, so it is said to the upstream too.
    sized: bool,
    flow: Rc<Flow>,
    ahead: Option<Box<Ahead>>,
    adapted: Option<Box<Adapted>>,
    /// Where gRPC messages are counted.
    counter: Option<Rc<Cell<Messages>>>,
}

/// What was read before it was wanted.
#[derive(Debug, Default)]
struct Ahead {
    frames: VecDeque<Bytes>,
    bytes: u64,
    trailers: Option<HeaderMap>,
}

/// How far a body was read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadAhead {
    /// To its end.
    Whole,
    /// There is more than the limit.
    More,
}

impl ClientBody {
    pub(crate) fn new(body: Incoming, flow: Rc<Flow>) -> Self {
        Self {
            sized: body.size_hint().exact().is_some(),
            rest: Some(body),
            flow,
            ahead: None,
            adapted: None,
            counter: None,
        }
    }

    /// Counts the gRPC messages in it, as they are after the adaptors so far.
    pub(crate) fn count_messages(&mut self, counter: Rc<Cell<Messages>>) {
        let mut messages = counter.get();
        for frame in self.ahead.iter().flat_map(|ahead| &ahead.frames) {
            messages.see(frame);
        }
        counter.set(messages);
        self.counter = Some(counter);
    }

    fn counted(&self, data: &[u8]) {
        if let Some(counter) = &self.counter {
            let mut messages = counter.get();
            messages.see(data);
            counter.set(messages);
        }
    }

    /// Nothing, and no length is said of it.
    pub(crate) fn nothing(flow: Rc<Flow>) -> Self {
        Self {
            rest: None,
            sized: false,
            flow,
            ahead: None,
            adapted: None,
            counter: None,
        }
    }

    /// Reads until the end, or until more than `limit` bytes are there.
    pub(crate) async fn read_ahead(&mut self, limit: u64) -> Result<ReadAhead, StreamError> {
        loop {
            if self.bytes_ahead() > limit {
                return Ok(ReadAhead::More);
            }
            if self.rest.is_none() {
                return Ok(ReadAhead::Whole);
            }
            self.read_one().await?;
        }
    }

    /// Reads until the end, or until `limit` bytes or more are there: for filters that are content with a part.
    pub(crate) async fn read_part(&mut self, limit: u64) -> Result<ReadAhead, StreamError> {
        while self.rest.is_some() && self.bytes_ahead() < limit {
            self.read_one().await?;
        }
        // The end may be here already.
        if let Some(read) = self.read_one().now_or_never() {
            read?;
        }
        Ok(match self.rest.is_none() && self.bytes_ahead() <= limit {
            true => ReadAhead::Whole,
            false => ReadAhead::More,
        })
    }

    /// Reads what has come already, up to about `limit` bytes, so that an answer need not end the connection.
    pub(crate) fn read_arrived(&mut self, limit: u64) {
        while self.rest.is_some() && self.bytes_ahead() <= limit {
            match self.read_one().now_or_never() {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    async fn read_one(&mut self) -> Result<(), StreamError> {
        let next = self.take_one().await?;
        let ahead = self.ahead.get_or_insert_default();
        match next {
            Some(Ok(data)) => {
                ahead.bytes += data.len() as u64;
                ahead.frames.push_back(data);
            }
            Some(Err(trailers)) => ahead.trailers = Some(trailers),
            None => {}
        }
        Ok(())
    }

    /// The next piece, or the trailers.
    async fn take_one(&mut self) -> Result<Option<Result<Bytes, HeaderMap>>, StreamError> {
        let next = poll_fn(|cx| self.poll_adapted(cx)).await.transpose()?;
        let out = match next.map(Frame::into_data) {
            None => None,
            Some(Ok(data)) => {
                if self.has_come() {
                    self.rest = None;
                }
                return Ok(Some(Ok(data)));
            }
            Some(Err(frame)) => frame.into_trailers().ok().map(Err),
        };
        self.rest = None;
        Ok(out)
    }

    /// Its length is not said upstream.
    pub(crate) fn forget_length(&mut self) {
        self.sized = false;
    }

    /// Bytes read ahead.
    pub(crate) fn bytes_ahead(&self) -> u64 {
        self.ahead.as_ref().map_or(0, |ahead| ahead.bytes)
    }

    /// What was read ahead, as one piece of at most `limit` bytes.
    pub(crate) fn ahead(&self, limit: usize) -> Bytes {
        let Some(ahead) = &self.ahead else {
            return Bytes::new();
        };
        if let (1, Some(only)) = (ahead.frames.len(), ahead.frames.front()) {
            return only.slice(..only.len().min(limit));
        }
        let mut out = BytesMut::new();
        for frame in &ahead.frames {
            let room = limit.saturating_sub(out.len()).min(frame.len());
            out.extend_from_slice(&frame[..room]);
        }
        out.freeze()
    }

    /// Changes the body on its way upstream; an adaptor added later sees what the earlier ones make.
    ///
    /// # Errors
    /// When it cannot take what was read ahead.
    pub(crate) fn adapt(&mut self, mut adaptor: Box<dyn Adaptor>) -> Result<(), Broken> {
        if let Some(ahead) = &mut self.ahead {
            for frame in &mut ahead.frames {
                *frame = adaptor.data(std::mem::take(frame))?;
            }
            if self.rest.is_none() {
                ahead.frames.push_back(adaptor.end(&mut ahead.trailers)?);
            }
            ahead.frames.retain(|frame| !frame.is_empty());
            ahead.bytes = ahead.frames.iter().map(|frame| frame.len() as u64).sum();
        }
        if self.rest.is_some() {
            self.adapted.get_or_insert_default().push(adaptor);
        }
        Ok(())
    }

    /// What the client sends.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *rest).poll_frame(cx));
        if rest.is_end_stream() {
            self.flow.finish();
        }
        Poll::Ready(count(&self.flow, frame).transpose())
    }

    /// What the adaptors make of it.
    fn poll_adapted(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let polled = self.poll_unseen(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.counted(data);
        }
        polled
    }

    fn poll_unseen(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        loop {
            let ended = match &self.adapted {
                None => return self.poll_rest(cx),
                Some(adapted) => adapted.has_ended(),
            };
            let frame = match ended {
                true => None,
                false => ready!(self.poll_rest(cx)).transpose()?,
            };
            let next = match &mut self.adapted {
                Some(adapted) if ended => Ok(adapted.rest()),
                Some(adapted) => adapted.pass(frame),
                None => Ok(Next::End),
            };
            match next {
                Ok(Next::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Next::End) => return Poll::Ready(None),
                Ok(Next::More) => {}
                Err(broken) => return Poll::Ready(Some(Err(self.flow.broken(broken)))),
            }
        }
    }

    /// Nothing more will come than what is ahead.
    fn has_come(&self) -> bool {
        match (&self.adapted, &self.rest) {
            (_, None) => true,
            (Some(adapted), _) => adapted.is_done(),
            (None, Some(rest)) => rest.is_end_stream(),
        }
    }
}

/// Notes what has come from the client.
fn count(
    flow: &Flow,
    frame: Option<Result<Frame<Bytes>, hyper::Error>>,
) -> Result<Option<Frame<Bytes>>, StreamError> {
    match frame {
        Some(Ok(frame)) => {
            match frame.data_ref() {
                Some(data) => flow.received(data),
                None => flow.finish(),
            }
            Ok(Some(frame))
        }
        Some(Err(error)) => Err(flow.failed(&error)),
        None => {
            flow.finish();
            Ok(None)
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        if let Some(ahead) = &mut this.ahead {
            if let Some(data) = ahead.frames.pop_front() {
                ahead.bytes = ahead.bytes.saturating_sub(data.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(trailers) = ahead.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        this.poll_adapted(cx)
    }

    fn is_end_stream(&self) -> bool {
        let ahead = self.ahead.as_ref();
        ahead.is_none_or(|ahead| ahead.frames.is_empty() && ahead.trailers.is_none())
            && self.has_come()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.rest {
            _ if !self.sized => None,
            Some(_) if self.adapted.is_some() => None,
            Some(rest) => rest.size_hint().exact(),
            None => Some(0),
        };
        rest.map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(rest.saturating_add(self.bytes_ahead()))
        })
    }
}
