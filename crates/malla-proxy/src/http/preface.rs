//! The first bytes of a connection: which protocol they begin, and the stream that gives them again.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context as Task, Poll, ready};

use futures_util::task::AtomicWaker;
use http::Version;
use malla_proxy_config::http_manager::{Codec, HttpManager};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::guard::Refusal;
use crate::connection::Connection;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of the first read: most requests' heads.
const FIRST_READ: usize = 1024;

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
        (Codec::Http2, _) | (Codec::Auto, Some("h2" | "istio-h2")) => {
            // Read here, so that a connection that is refused for it has nothing unread, which would reset it.
            return match sniff(io, pulse).await? {
                (Version::HTTP_2, io) => Ok((Version::HTTP_2, io)),
                _ => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the connection does not begin with HTTP/2's preface",
                )),
            };
        }
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
    let mut read = Vec::with_capacity(FIRST_READ);
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
pub(crate) struct Pulse {
    heard: AtomicBool,
    written: AtomicBool,
    /// What bytes behind a request for a tunnel are, as a number of [`Prospect`]; 0 while nobody knows.
    prospect: AtomicU8,
    /// Exchanges that are over.
    finished: AtomicU32,
    /// The client left in the middle of a head.
    broken_off: AtomicBool,
    /// The client left in the middle of a body: it hears nothing more.
    deaf: AtomicBool,
    waiting: AtomicWaker,
    /// Why no further request is read.
    refusal: OnceLock<Refusal>,
    /// Where requests begin, where a log asks for their bytes.
    begins: Option<Mutex<Begins>>,
}

/// Where requests begin among the bytes of a connection.
#[derive(Debug, Default)]
struct Begins {
    passed: u64,
    waiting: VecDeque<u64>,
}

/// What follows a request for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prospect {
    Tunnel = 1,
    Request = 2,
}

impl Pulse {
    /// One that also tells where requests begin.
    pub(super) fn metered() -> Self {
        Self {
            begins: Some(Mutex::default()),
            ..Self::default()
        }
    }

    fn begins(&self) -> Option<MutexGuard<'_, Begins>> {
        let begins = self.begins.as_ref()?;
        // Every critical section leaves it whole.
        Some(begins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A head begins with the byte that passes next.
    pub(super) fn head_begins(&self) {
        if let Some(mut begins) = self.begins() {
            let passed = begins.passed;
            begins.waiting.push_back(passed);
        }
    }

    /// Bytes are given to the codec.
    pub(super) fn pass(&self, bytes: usize) {
        if let Some(mut begins) = self.begins() {
            begins.passed += bytes as u64;
        }
    }

    /// Where the request that the codec gives next began.
    pub(super) fn next_begin(&self) -> Option<u64> {
        self.begins()?.waiting.pop_front()
    }

    /// How many bytes have come of the request that began there.
    pub(super) fn bytes_since(&self, begin: u64) -> u64 {
        let Some(begins) = self.begins() else {
            return 0;
        };
        let end = begins.waiting.front().copied().unwrap_or(begins.passed);
        end.saturating_sub(begin)
    }

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

    /// A tunnel was asked for: what follows has no meaning before [`Pulse::decide`].
    pub(super) fn await_answer(&self) {
        self.prospect.store(0, Relaxed);
    }

    /// Says what follows; only the first word counts.
    pub(super) fn decide(&self, prospect: Prospect) {
        let _ = self
            .prospect
            .compare_exchange(0, prospect as u8, Relaxed, Relaxed);
        self.waiting.wake();
    }

    /// What follows, if that is known; else `task` is woken when it is.
    pub(super) fn prospect(&self, task: Option<&Task<'_>>) -> Option<Prospect> {
        if let Some(task) = task {
            self.waiting.register(task.waker());
        }
        match self.prospect.load(Relaxed) {
            0 => None,
            1 => Some(Prospect::Tunnel),
            _ => Some(Prospect::Request),
        }
    }

    /// An exchange is over.
    pub(super) fn finish_one(&self) {
        self.finished.fetch_add(1, Relaxed);
        self.waiting.wake();
    }

    /// True once `begun` exchanges are over; else `task` is woken by the next.
    pub(super) fn has_finished(&self, begun: u32, task: &Task<'_>) -> bool {
        self.waiting.register(task.waker());
        self.finished.load(Relaxed) >= begun
    }

    /// The client left in the middle of a head.
    pub(super) fn break_off(&self) {
        self.broken_off.store(true, Relaxed);
    }

    pub(super) fn has_broken_off(&self) -> bool {
        self.broken_off.load(Relaxed)
    }

    /// Nothing more is said to this client.
    pub(super) fn hush(&self) {
        self.deaf.store(true, Relaxed);
    }

    /// An error once there is nobody to say anything to.
    pub(super) fn check_listener(&self) -> io::Result<()> {
        if self.deaf.load(Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// No further request is read; the first reason counts.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let _ = self.refusal.set(refusal);
    }

    /// Why, if so.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get().copied()
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
