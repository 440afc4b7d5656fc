//! Between the socket and the HTTP/1 codec: looks at every request's head and framing before the codec does.
//!
//! Invariants: the codec only sees whole heads that `head::check` has let through, so both agree on where every message
//! ends; behind one that is refused it sees the end of the connection. The refusal is written once the codec has written
//! everything that is due before it and shuts its side down.

mod cutter;
mod head;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::cutter::{Cleared, Cutter, Refused};
pub(super) use self::head::{HEAD_IDLE, HEAD_LATE, Refusal, Rules, is_authority_byte};
use super::preface::Pulse;

/// What is read at once where a head does not come whole.
const STEP: usize = 8 * 1024;

/// A stream whose requests are looked at.
#[derive(Debug)]
pub(super) struct Guard<I> {
    io: I,
    cutter: Cutter,
    /// Read, but not given to the codec yet: of it, `given` bytes were, and up to `cleared` may be.
    held: Vec<u8>,
    given: usize,
    cleared: usize,
    ended: bool,
    /// The framing of a body is broken: told once what is good of it was given.
    broken: bool,
    pulse: Arc<Pulse>,
    /// Header lines that all refusals have.
    said: Arc<str>,
    farewell: Option<(Vec<u8>, usize)>,
}

impl<I> Guard<I> {
    /// `said`: header lines of the manager's own answers, each with its end.
    pub(super) fn new(io: I, rules: Rules, said: Arc<str>, pulse: Arc<Pulse>) -> Self {
        Self {
            io,
            cutter: Cutter::new(rules),
            held: Vec::new(),
            given: 0,
            cleared: 0,
            ended: false,
            broken: false,
            pulse,
            said,
            farewell: None,
        }
    }

    /// Gives the codec what is cleared; true if that was something.
    fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let ready = self.held.get(self.given..self.cleared).unwrap_or_default();
        let take = ready.len().min(out.remaining());
        out.put_slice(ready.get(..take).unwrap_or_default());
        self.given += take;
        if self.given == self.held.len() {
            self.held = Vec::new();
            (self.given, self.cleared) = (0, 0);
        }
        take > 0
    }

    /// Clears more of what is held.
    fn clear(&mut self) {
        let waiting = self.held.get(self.cleared..).unwrap_or_default();
        let cleared = self.cutter.clear(waiting, &self.pulse);
        self.cleared += cleared.bytes;
        self.note(cleared);
    }

    fn note(&mut self, cleared: Cleared) {
        match cleared.refused {
            None => {}
            Some(Refused::Head(refusal)) => self.pulse.refuse(refusal),
            Some(Refused::Body) => self.broken = true,
        }
    }

    /// The connection's end, seen by the codec.
    fn end(&self) {
        if self.given < self.held.len() && !self.broken {
            self.pulse.break_off();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.give(out) {
                return Poll::Ready(Ok(()));
            }
            if this.broken {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the chunks of a request's body are malformed",
                )));
            }
            if this.pulse.refusal().is_some() || this.ended {
                // The end of the connection would end the exchanges under way.
                let over = this.pulse.has_finished(this.cutter.heads(), cx);
                return if over {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            if this.held.is_empty() {
                let before = out.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
                let new = out.filled().get(before..).unwrap_or_default();
                if new.is_empty() {
                    return Poll::Ready(Ok(())); // The end.
                }
                let cleared = this.cutter.clear(new, &this.pulse);
                this.held = new.get(cleared.bytes..).unwrap_or_default().to_vec();
                let bytes = cleared.bytes;
                out.set_filled(before + bytes);
                this.note(cleared);
                if bytes > 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if this.cutter.awaits_answer(&this.pulse, cx) {
                // A tunnel was asked for; what follows belongs to it, or is the next request.
                return Poll::Pending;
            }
            this.clear();
            if this.cleared > this.given || this.broken || this.pulse.refusal().is_some() {
                continue;
            }
            let polled = ready!(this.poll_hold(cx));
            if this.ended || polled.is_err() {
                this.end();
            }
            polled?;
        }
    }
}

impl<I: AsyncRead + Unpin> Guard<I> {
    /// Reads more of a head that is not whole yet.
    fn poll_hold(&mut self, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; STEP];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        // A head that breaks off is nobody's.
        self.ended = buffer.filled().is_empty();
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pulse.check_listener()?;
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pulse.check_listener()?;
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refusal) = this.pulse.refusal() {
            let (bytes, sent) = this
                .farewell
                .get_or_insert_with(|| (refusal.answer(&this.said), 0));
            while let Some(left) = bytes.get(*sent..).filter(|left| !left.is_empty()) {
                match ready!(Pin::new(&mut this.io).poll_write(cx, left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => *sent += written,
                }
            }
            ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// How many of these bytes the codec would see, and whether anything in them is refused, where they come in pieces of
/// these sizes and no tunnel is agreed to.
#[cfg(fuzzing)]
pub(super) fn cleared(bytes: &[u8], pieces: &[u8]) -> (usize, bool) {
    let mut cutter = Cutter::new(Rules {
        head_bytes: 1024,
        fields: 20,
        custom_methods: false,
        chunked_length: false,
        http_10: true,
        underscores: true,
    });
    let pulse = Pulse::default();
    let (mut come, mut cleared) = (0, 0);
    let mut pieces = pieces.iter().map(|size| usize::from(*size).max(1));
    while come < bytes.len() {
        come = bytes
            .len()
            .min(come + pieces.next().unwrap_or(usize::MAX / 2));
        loop {
            let more = cutter.clear(bytes.get(cleared..come).unwrap_or_default(), &pulse);
            cleared += more.bytes;
            if more.refused.is_some() {
                return (cleared, true);
            }
            let waits = pulse.prospect(None).is_none();
            pulse.decide(super::preface::Prospect::Request);
            if more.bytes == 0 && !waits {
                break;
            }
        }
    }
    (cleared, false)
}

impl Refusal {
    /// What the client reads.
    pub(super) fn body(&self) -> &'static str {
        let name = self.status.canonical_reason();
        self.text.or(name).unwrap_or_default()
    }

    fn answer(&self, said: &str) -> Vec<u8> {
        let body = self.body();
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
        format!(
            "HTTP/1.1 {}\r\ncontent-length: {}\r\ncontent-type: text/plain\r\ndate: {date}\r\n{said}connection: close\r\n\r\n{body}",
            self.status,
            body.len(),
        )
        .into_bytes()
    }
}
