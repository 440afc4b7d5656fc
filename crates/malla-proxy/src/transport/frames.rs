//! HTTP/2 frames as they pass: what a peer may make us do without asking for anything is counted, and bounded.
//!
//! The codec answers pings and settings, forgets priorities and reads empty frames as long as they come. Envoy ends a
//! connection on which there are too many of them (CVE-2019-9511 to 9518), and so does a [`Metered`] stream, by the same
//! rules. It only reads the nine bytes before each payload.
//!
//! Invariants: bytes pass unchanged; of a connection that went beyond a limit nothing more is read or written.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use malla_proxy_config::cluster::FloodLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gather::Gathered;
use crate::telemetry::stats::{Count, Http2Stats};

/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;
/// What a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: u64 = 24;
/// Room for so many frames is kept when none wait.
const KEPT: usize = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
const FLAG_ONE: u8 = 1;
const PADDED: u8 = 8;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// The head of a frame; `padding` is what of the payload says nothing.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    padding: u32,
}

/// Finds the frames of one direction.
#[derive(Debug)]
struct Cutter {
    head: [u8; HEAD],
    have: usize,
    /// Bytes to pass over until the next head.
    skip: u64,
    /// A padded frame whose padding's length comes next.
    padded: Option<Frame>,
}

impl Cutter {
    fn new(preface: bool) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip: if preface { PREFACE } else { 0 },
            padded: None,
        }
    }

    /// Calls `see` with each frame whose head `bytes` complete, and how many of `bytes` come up to its payload.
    fn feed(&mut self, bytes: &[u8], mut see: impl FnMut(Frame, usize)) {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if let Some(mut frame) = self.padded.take() {
                frame.padding = u32::from(*first) + 1;
                see(frame, bytes.len() - rest.len());
            }
            if self.skip > 0 {
                let over =
                    usize::try_from(self.skip).map_or(rest.len(), |skip| skip.min(rest.len()));
                self.skip -= over as u64;
                rest = rest.get(over..).unwrap_or_default();
                continue;
            }
            let take = (HEAD - self.have).min(rest.len());
            let (part, after) = rest.split_at(take);
            if let Some(slot) = self.head.get_mut(self.have..self.have + take) {
                slot.copy_from_slice(part);
            }
            self.have += take;
            rest = after;
            if self.have == HEAD {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let padding = 0;
                let frame = Frame {
                    length,
                    kind,
                    flags,
                    padding,
                };
                self.skip = u64::from(length);
                if flags & PADDED != 0 && matches!(kind, DATA | HEADERS) && length > 0 {
                    self.padded = Some(frame);
                } else {
                    see(frame, bytes.len() - rest.len());
                }
            }
        }
    }
}

/// The kind and the end of each frame that is found in these bytes, where they come in two pieces.
#[cfg(fuzzing)]
pub fn found(bytes: &[u8], cut: usize) -> Vec<(u8, u64)> {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let mut cutter = Cutter::new(false);
    let mut out = Vec::new();
    for (piece, before) in [(first, 0), (second, first.len())] {
        cutter.feed(piece, |frame, at| {
            out.push((frame.kind, (before + at) as u64 + u64::from(frame.length)));
        });
    }
    out
}

/// What has passed of what is bounded.
#[derive(Debug, Default)]
struct Tally {
    limits: FloodLimits,
    streams: u64,
    empty: u32,
    priorities: u64,
    updates: u64,
    data_sent: u64,
    /// Frames on their way out that have not left: where each ends, and whether it answers a frame that asks for nothing.
    waiting: VecDeque<(u64, bool)>,
    answers_waiting: usize,
}

/// The counter of the limit that was passed.
type Flooded = fn(&Http2Stats) -> &Count;

impl Tally {
    /// Envoy's `ProtocolConstraints::trackInboundFrames`.
    fn receive(&mut self, frame: Frame, side: Side) -> Result<(), Flooded> {
        let limits = &self.limits;
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind == HEADERS && side == Side::Server {
                    self.streams += 1;
                }
                let ends = frame.kind != CONTINUATION && frame.flags & FLAG_ONE != 0;
                if ends || frame.length > frame.padding {
                    self.empty = 0;
                    return Ok(());
                }
                self.empty += 1;
                if self.empty > limits.empty_frames {
                    return Err(|stats| &stats.inbound_empty_frames_flood);
                }
            }
            PRIORITY => {
                self.priorities += 1;
                if self.priorities > u64::from(limits.priorities_per_stream) * (1 + self.streams) {
                    return Err(|stats| &stats.inbound_priority_frames_flood);
                }
            }
            WINDOW_UPDATE => {
                self.updates += 1;
                let by_data =
                    u64::from(limits.window_updates_per_data).saturating_mul(self.data_sent);
                if self.updates > self.streams.saturating_add(by_data).saturating_mul(2) + 5 {
                    return Err(|stats| &stats.inbound_window_update_frames_flood);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes a frame that ends at `end` of what was written, of which all before `gone` has left.
    fn send(&mut self, frame: Frame, side: Side, end: u64, gone: u64) -> Result<(), Flooded> {
        while let Some((end, answer)) = self.waiting.front()
            && *end <= gone
        {
            self.answers_waiting -= usize::from(*answer);
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting.shrink_to(KEPT);
        }
        match frame.kind {
            DATA => self.data_sent += 1,
            HEADERS if side == Side::Client => self.streams += 1,
            _ => {}
        }
        let is_answer = match frame.kind {
            PING | SETTINGS => frame.flags & FLAG_ONE != 0,
            kind => kind == RST_STREAM,
        };
        self.waiting.push_back((end, is_answer));
        self.answers_waiting += usize::from(is_answer);
        if self.answers_waiting > self.limits.control_frames as usize {
            return Err(|stats| &stats.outbound_control_flood);
        }
        if self.waiting.len() > self.limits.frames as usize {
            return Err(|stats| &stats.outbound_flood);
        }
        Ok(())
    }
}

/// A stream of HTTP/2 whose frames are counted.
#[derive(Debug)]
pub(crate) struct Metered<I> {
    io: Gathered<I>,
    side: Side,
    read: Cutter,
    written: Cutter,
    tally: Tally,
    /// Bytes written so far.
    sent: u64,
    stats: Arc<Http2Stats>,
    flooded: bool,
}

impl<I> Metered<I> {
    pub(crate) fn new(
        io: Gathered<I>,
        side: Side,
        limits: FloodLimits,
        stats: Arc<Http2Stats>,
    ) -> Self {
        let tally = Tally {
            limits,
            ..Tally::default()
        };
        Self {
            io,
            side,
            read: Cutter::new(side == Side::Server),
            written: Cutter::new(side == Side::Client),
            tally,
            sent: 0,
            stats,
            flooded: false,
        }
    }

    fn checked(&mut self, result: Result<(), Flooded>) -> io::Result<()> {
        if let Err(counter) = result {
            self.flooded = true;
            counter(&self.stats).inc();
        }
        if self.flooded {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more HTTP/2 frames that ask for nothing than are allowed",
            ));
        }
        Ok(())
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.checked(Ok(()))?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let mut result = Ok(());
        let new = buffer.filled().get(before..).unwrap_or_default();
        this.read.feed(new, |frame, _| {
            if frame.kind == RST_STREAM {
                this.stats.rx_reset.inc();
            }
            if result.is_ok() {
                result = this.tally.receive(frame, this.side);
            }
        });
        Poll::Ready(this.checked(result))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.checked(Ok(()))?;
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        let gone = (this.sent + count as u64).saturating_sub(this.io.waiting() as u64);
        let mut result = Ok(());
        let new = bytes.get(..count).unwrap_or_default();
        this.written.feed(new, |frame, at| {
            match frame.kind {
                RST_STREAM => this.stats.tx_reset.inc(),
                GOAWAY => this.stats.goaway_sent.inc(),
                _ => {}
            }
            if result.is_ok() {
                let end = this.sent + at as u64 + u64::from(frame.length);
                result = this.tally.send(frame, this.side, end, gone);
            }
        });
        this.sent += count as u64;
        this.checked(result)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let mut out = length.to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_are_cut(
            frames in prop::collection::vec((0..10_u8, any::<u8>(), 0..40_usize), 0..12),
            cuts in prop::collection::vec(1..30_usize, 0..60),
        ) {
            let mut bytes = vec![b'p'; 24];
            let mut ends = Vec::new();
            for (kind, flags, length) in &frames {
                bytes.extend(frame(*kind, *flags, &vec![3; *length]));
                ends.push(bytes.len());
            }
            let mut cutter = Cutter::new(true);
            let (mut found, mut rest, mut passed) = (Vec::new(), &bytes[..], 0);
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let cut = cuts.next().unwrap_or(7).min(rest.len());
                cutter.feed(&rest[..cut], |frame, at| {
                    found.push((frame, passed + at + frame.length as usize));
                });
                passed += cut;
                rest = &rest[cut..];
            }
            let kinds: Vec<_> = found.iter().map(|(frame, end)| (frame.kind, frame.flags, *end)).collect();
            let wanted: Vec<_> = frames
                .iter()
                .zip(ends)
                .map(|((kind, flags, _), end)| (*kind, *flags, end))
                .collect();
            prop_assert_eq!(kinds, wanted);
        }
    }

    /// The name of the limit that so many frames of a kind pass, if any.
    fn flood(kind: u8, flags: u8, payload: &[u8], count: usize) -> Option<String> {
        let stats = Http2Stats::default();
        let mut tally = Tally::default();
        let mut cutter = Cutter::new(false);
        let mut result = Ok(());
        for _ in 0..count {
            cutter.feed(&frame(kind, flags, payload), |frame, _| {
                result = result.and_then(|()| tally.receive(frame, Side::Server));
            });
        }
        let counter = result.err()?;
        counter(&stats).inc();
        let mut name = None;
        crate::telemetry::stats::Counters::walk(&stats, &mut |counter, value| {
            if value > 0 {
                name = Some(counter.to_owned());
            }
        });
        name
    }

    #[test]
    fn what_comes_too_often_is_named() {
        const EMPTY: Option<&str> = Some("inbound_empty_frames_flood");
        for (kind, flags, payload, count, wanted) in [
            (DATA, 0, &b""[..], 1, None),
            (DATA, 0, b"", 2, EMPTY),
            (DATA, FLAG_ONE, b"", 2, None),
            (DATA, 0, b"x", 50, None),
            (DATA, PADDED, b"\x02\0\0", 2, EMPTY),
            (DATA, PADDED, b"\x02x\0\0", 50, None),
            (CONTINUATION, 4, b"", 2, EMPTY),
            (PRIORITY, 0, b"12345", 100, None),
            (
                PRIORITY,
                0,
                b"12345",
                101,
                Some("inbound_priority_frames_flood"),
            ),
            (WINDOW_UPDATE, 0, b"1234", 5, None),
            (
                WINDOW_UPDATE,
                0,
                b"1234",
                6,
                Some("inbound_window_update_frames_flood"),
            ),
            (SETTINGS, 0, b"", 5000, None),
        ] {
            let named = flood(kind, flags, payload, count);
            assert_eq!(
                named.as_deref(),
                wanted,
                "{count} frames {kind} {payload:?}"
            );
        }
    }

    #[test]
    fn what_waits_is_bounded_and_what_has_left_does_not_count() {
        let mut tally = Tally::default();
        let pong = Frame {
            length: 8,
            kind: PING,
            flags: FLAG_ONE,
            padding: 0,
        };
        for n in 0..5000 {
            assert!(tally.send(pong, Side::Server, n * 17 + 17, n * 17).is_ok());
        }
        let mut sent = 0;
        while tally.send(pong, Side::Server, 1 << 40, 85_000).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 1000);
    }
}
