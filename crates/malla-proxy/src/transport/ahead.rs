//! Reads for TLS, which asks for 4 KiB at a time: one system call for several of them once a peer sends much.
//!
//! Invariant: bytes come out in the order they came in; a buffer exists only while there are bytes in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes read at once from a peer that sends much: four TLS records.
const CHUNK: usize = 64 * 1024;

/// A stream that reads ahead once it had more to give than was asked for.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    read: Vec<u8>,
    at: usize,
    /// The last read filled what it was given.
    busy: bool,
}

impl<S> Ahead<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
            at: 0,
            busy: false,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut chunk))?;
        (self.read, self.at) = (chunk, 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            if !this.busy || out.remaining() >= CHUNK {
                let wanted = out.remaining();
                ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
                this.busy = wanted > 0 && out.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            let wanted = out.remaining();
            ready!(this.poll_chunk(cx))?;
            this.busy = this.read.len() >= wanted;
        }
        let left = this.read.get(this.at..).unwrap_or_default();
        let take = left.len().min(out.remaining());
        out.put_slice(left.get(..take).unwrap_or_default());
        this.at += take;
        if this.at >= this.read.len() {
            (this.read, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, proptest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Sizes in which a stream is read, and the bytes that are in it.
    fn reads() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..200_000);
        (bytes, proptest::collection::vec(1..90_000_usize, 1..60))
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_came_in((bytes, sizes) in reads()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let (near, mut far) = duplex(70_000);
                let mut stream = Ahead::new(near);
                let sent = bytes.clone();
                let send = async move { far.write_all(&sent).await.unwrap() };
                let receive = async {
                    let mut all = Vec::new();
                    for size in sizes.iter().cycle() {
                        let mut buffer = vec![0; *size];
                        let count = stream.read(&mut buffer).await.unwrap();
                        if count == 0 {
                            break;
                        }
                        all.extend_from_slice(&buffer[..count]);
                    }
                    all
                };
                tokio::join!(send, receive).1
            });
            assert_eq!(read, bytes);
        }
    }
}
