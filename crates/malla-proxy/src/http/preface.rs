//! The first bytes of a connection: which protocol they begin, and the stream that gives them again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as Task, Poll, ready};

use http::Version;
use malla_proxy_config::http_manager::{Codec, HttpManager};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::connection::Connection;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Which protocol the connection speaks: configured, settled by ALPN, or told from its first bytes.
pub(super) async fn choose<I: AsyncRead + Unpin>(
    config: &HttpManager,
    connection: &Connection,
    io: I,
    pulse: Arc<Pulse>,
) -> io::Result<(Version, Prefixed<I>)> {
    let alpn = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let version = match (config.codec, alpn) {
        (Codec::Http1, _) => Version::HTTP_11,
        (Codec::Http2, _) => Version::HTTP_2,
        (Codec::Auto, Some("h2" | "istio-h2")) => Version::HTTP_2,
        (Codec::Auto, Some("http/1.1" | "http/1.0" | "istio-http/1.1" | "istio-http/1.0")) => {
            Version::HTTP_11
        }
        (Codec::Auto, _) => return sniff(io, pulse).await,
    };
    Ok((version, Prefixed::new(Vec::new(), io, pulse)))
}

/// Reads until the bytes are the HTTP/2 preface or cannot become it.
async fn sniff<I: AsyncRead + Unpin>(
    mut io: I,
    pulse: Arc<Pulse>,
) -> io::Result<(Version, Prefixed<I>)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    loop {
        let seen = read.len().min(PREFACE.len());
        if read.get(..seen) != PREFACE.get(..seen) {
            return Ok((Version::HTTP_11, Prefixed::new(read, io, pulse)));
        }
        if seen == PREFACE.len() {
            return Ok((Version::HTTP_2, Prefixed::new(read, io, pulse)));
        }
        if io.read_buf(&mut read).await? == 0 {
            // Nothing, or too little: HTTP/1 says what that is worth.
            return Ok((Version::HTTP_11, Prefixed::new(read, io, pulse)));
        }
    }
}

/// Whether bytes move, told from the stream to those who keep the connection's time.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    heard: AtomicBool,
    written: AtomicBool,
}

impl Pulse {
    /// True if bytes have come since the last [`Pulse::forget`].
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// What has come is accounted for.
    pub(super) fn forget(&self) {
        self.heard.store(false, Relaxed);
    }

    /// True if bytes have gone since it was asked last.
    pub(super) fn take_written(&self) -> bool {
        self.written.swap(false, Relaxed)
    }

    fn note(flag: &AtomicBool, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            flag.store(true, Relaxed);
        }
        polled
    }
}

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub(super) struct Prefixed<I> {
    read: Vec<u8>,
    at: usize,
    io: I,
    pulse: Arc<Pulse>,
}

impl<I> Prefixed<I> {
    fn new(read: Vec<u8>, io: I, pulse: Arc<Pulse>) -> Self {
        Self {
            read,
            at: 0,
            io,
            pulse,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.read.get(this.at..).unwrap_or_default();
        if left.is_empty() {
            let before = out.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
            let come = out.filled().len() - before;
            return Pulse::note(&this.pulse.heard, Poll::Ready(Ok(come))).map_ok(|_| ());
        }
        this.pulse.heard.store(true, Relaxed);
        let take = left.len().min(out.remaining());
        out.put_slice(left.get(..take).unwrap_or_default());
        this.at += take;
        if this.at == this.read.len() {
            this.read = Vec::new();
            this.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        Pulse::note(&this.pulse.written, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        Pulse::note(&this.pulse.written, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
