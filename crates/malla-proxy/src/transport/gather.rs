//! Writes of one turn of a task, sent together.
//!
//! An HTTP/2 codec writes frame by frame and flushes in between: with many streams on one connection that is a system call,
//! and under TLS a record, for each. A [`Gathered`] stream keeps what is written until a task of its own has its turn, which
//! is after all that is ready to run now.
//!
//! A stream that was shut down in order may linger: a peer that still says something, such as that it has room, would be told
//! that nobody listens, and might not read on to the end of what it was sent (RFC 9112 §9.6 has the same of HTTP/1).
//!
//! Invariants: bytes leave in the order they were written; no more than [`LIMIT`] of them wait; only that task writes to the
//! stream below, until it is shut down.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait: as many as TLS writes at once.
const LIMIT: usize = 64 * 1024;
/// Room that is kept for what comes next.
const KEPT: usize = 16 * 1024;

/// A stream whose writes wait. Dropping it drops what waits, and the stream.
#[derive(Debug)]
pub(crate) struct Gathered<I>(Rc<RefCell<Inner<I>>>);

#[derive(Debug)]
struct Inner<I> {
    io: I,
    waiting: BytesMut,
    /// Written since the stream below was flushed.
    unflushed: bool,
    failed: Option<io::ErrorKind>,
    /// The codec is gone.
    closed: bool,
    /// It has shut the stream down before.
    shut: bool,
    /// Those to wake: the task that sends, and the codec, for what it waits for.
    sender: Option<Waker>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The stream for the codec, and what sends its bytes: to be run as a task of its own. It reads on for up to `linger` after
/// the stream was shut down, until the peer has ended it too.
pub(crate) fn gather<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    linger: Duration,
) -> (Gathered<I>, impl Future<Output = ()>) {
    let inner = Rc::new(RefCell::new(Inner {
        io,
        waiting: BytesMut::new(),
        unflushed: false,
        failed: None,
        closed: false,
        shut: false,
        sender: None,
        reader: None,
        writer: None,
    }));
    let sending = Rc::clone(&inner);
    let send = async move {
        poll_fn(|cx| sending.borrow_mut().poll_send(cx)).await;
        let ended = sending.borrow().shut && sending.borrow().failed.is_none();
        if ended && !linger.is_zero() {
            let rest = poll_fn(|cx| sending.borrow_mut().poll_discard(cx));
            let _ = tokio::time::timeout(linger, rest).await;
        }
    };
    (Gathered(inner), send)
}

impl<I: AsyncRead + Unpin> Inner<I> {
    /// Reads what nobody wants any more, to the end.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> Inner<I> {
    /// Sends what waits, again and again; over when the codec is gone or nothing can be sent any more.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closed {
            return Poll::Ready(());
        }
        remember(&mut self.sender, cx);
        let sent = self.poll_flush(cx);
        if let Poll::Ready(Err(error)) = &sent {
            self.failed = Some(error.kind());
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if sent.is_ready() || self.waiting.len() < LIMIT {
            self.writer.take().into_iter().for_each(Waker::wake);
        }
        match self.failed {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(count);
            self.unflushed = true;
        }
        if self.waiting.capacity() > KEPT {
            self.waiting = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn checked(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<I> Gathered<I> {
    /// Bytes that were written and have not left.
    pub(crate) fn waiting(&self) -> usize {
        self.0.borrow().waiting.len()
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        inner.checked()?;
        let read = Pin::new(&mut inner.io).poll_read(cx, buffer);
        if read.is_pending() {
            remember(&mut inner.reader, cx);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathered<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        inner.checked()?;
        let take = bytes.len().min(LIMIT.saturating_sub(inner.waiting.len()));
        if take == 0 && !bytes.is_empty() {
            remember(&mut inner.writer, cx);
            return Poll::Pending;
        }
        if inner.waiting.is_empty()
            && let Some(sender) = &inner.sender
        {
            sender.wake_by_ref();
        }
        inner
            .waiting
            .extend_from_slice(bytes.get(..take).unwrap_or_default());
        Poll::Ready(Ok(take))
    }

    /// Nothing: flushing is the sending task's.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().checked())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        inner.checked()?;
        if !inner.waiting.is_empty() || inner.unflushed {
            remember(&mut inner.writer, cx);
            return Poll::Pending;
        }
        ready!(Pin::new(&mut inner.io).poll_shutdown(cx))?;
        inner.shut = true;
        Poll::Ready(Ok(()))
    }
}

impl<I> Drop for Gathered<I> {
    fn drop(&mut self) {
        let mut inner = self.0.borrow_mut();
        inner.closed = true;
        inner.sender.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test]
    async fn writes_go_together_and_in_order() {
        let check = async {
            let (near, mut far) = duplex(1 << 20);
            let (mut stream, send) = gather(near, Duration::ZERO);
            spawn_local(send);
            yield_now().await;
            stream.write_all(b"one ").await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(b"two").await.unwrap();
            let mut read = [0; 64];
            let count = far.read(&mut read).await.unwrap();
            assert_eq!(&read[..count], b"one two");
            stream.write_all(b"last").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            far.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
        };
        LocalSet::new().run_until(check).await;
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_up() {
        let check = async {
            let (near, mut far) = duplex(16);
            let (mut stream, send) = gather(near, Duration::ZERO);
            spawn_local(send);
            let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
            let expected = sent.clone();
            let writing =
                spawn_local(async move { stream.write_all(&sent).await.map(|()| stream) });
            for _ in 0..1000 {
                yield_now().await;
            }
            assert!(!writing.is_finished(), "what waits has a bound");
            let mut read = vec![0; expected.len()];
            far.read_exact(&mut read).await.unwrap();
            assert!(read == expected);
            writing.await.unwrap().unwrap();
        };
        LocalSet::new().run_until(check).await;
    }

    #[tokio::test]
    async fn failures_reach_the_codec_and_its_end_the_stream() {
        let check = async {
            let (near, far) = duplex(16);
            let (mut stream, send) = gather(near, Duration::ZERO);
            let sending = spawn_local(send);
            yield_now().await;
            drop(far);
            stream.write_all(b"lost").await.unwrap();
            sending.await.unwrap();
            assert!(stream.write_all(b"more").await.is_err());

            let (near, mut far) = duplex(16);
            let (stream, send) = gather(near, Duration::ZERO);
            let sending = spawn_local(send);
            yield_now().await;
            drop(stream);
            sending.await.unwrap();
            assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        };
        LocalSet::new().run_until(check).await;
    }

    #[tokio::test]
    async fn a_stream_that_was_shut_down_listens_until_the_peer_ends_it() {
        let check = async {
            let (near, mut far) = duplex(16);
            let (mut stream, send) = gather(near, Duration::from_secs(60));
            let sending = spawn_local(send);
            stream.shutdown().await.unwrap();
            drop(stream);
            assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
            far.write_all(&[1; 100]).await.unwrap();
            assert!(!sending.is_finished());
            drop(far);
            sending.await.unwrap();
        };
        LocalSet::new().run_until(check).await;
    }
}
