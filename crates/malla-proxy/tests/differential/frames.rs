//! HTTP/2 frames (RFC 9113 §4), read and written as they are: a test may send what no codec would.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::hpack::{self, Decoder, Field};
use crate::socket::Socket;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// The most a frame may carry unless the peer allows more.
const MOST: usize = 16_384;

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: Vec<u8>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap();
        let mut out = length.to_be_bytes()[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// HEADERS of fields `name: value`.
    pub(crate) fn headers(stream: u32, flags: u8, fields: &[String]) -> Vec<u8> {
        let block = block(fields);
        let mut out = Vec::new();
        let mut parts = block.chunks(MOST).peekable();
        let mut kind = HEADERS;
        let mut flags = flags & !END_HEADERS;
        loop {
            let part = parts.next().unwrap_or_default().to_vec();
            let last = parts.peek().is_none();
            let end = if last { END_HEADERS } else { 0 };
            out.extend(Self::new(kind, flags | end, stream, part).write());
            if last {
                return out;
            }
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    /// DATA, cut to what a frame may carry.
    pub(crate) fn data(stream: u32, end: bool, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut parts = bytes.chunks(MOST).peekable();
        loop {
            let part = parts.next().unwrap_or_default().to_vec();
            let last = parts.peek().is_none();
            let flags = if last && end { END_STREAM } else { 0 };
            out.extend(Self::new(DATA, flags, stream, part).write());
            if last {
                return out;
            }
        }
    }

    /// The first four bytes of the payload, or the four after them.
    pub(crate) fn word(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4);
        bytes.map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
    }

    fn content(&self) -> &[u8] {
        let padding = if self.flags & PADDED != 0 {
            usize::from(self.payload[0])
        } else {
            0
        };
        let mut start = usize::from(self.flags & PADDED != 0);
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            start += 5;
        }
        &self.payload[start..self.payload.len() - padding]
    }
}

/// Packs `name: value` lines; a pseudo field's name begins with its own colon.
pub(crate) fn block(fields: &[String]) -> Vec<u8> {
    let pair = |field: &String| {
        let at = field[1..].find(':').map_or(field.len(), |at| at + 1);
        let value = field.get(at + 1..).unwrap_or_default();
        let value = value.strip_prefix(' ').unwrap_or(value);
        (crate::case::bytes(&field[..at]), crate::case::bytes(value))
    };
    hpack::write(&fields.iter().map(pair).collect::<Vec<_>>())
}

/// What has come on one stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// One block for each HEADERS: informational ones, the head, trailers.
    pub(crate) heads: Vec<Vec<Field>>,
    pub(crate) body: Vec<u8>,
    /// `end`, or the reset's code.
    pub(crate) ended: Option<String>,
}

/// The reading half of a connection: answers what must be answered, keeps what came.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    decoder: Decoder,
    partial: Option<(u32, u8, Vec<u8>)>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) goaway: Option<(u32, u32)>,
    pub(crate) pings: u32,
    pub(crate) closed: bool,
    /// Leave windows as they are.
    pub(crate) stingy: bool,
    /// Nothing is read.
    pub(crate) deaf: bool,
}

impl Inbox {
    /// Starts behind bytes that were read already.
    pub(crate) fn behind(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Reads until `done`, the end, or so much time has passed.
    pub(crate) fn read(
        &mut self,
        socket: &mut Socket,
        patience: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let deadline = Instant::now() + patience;
        if self.deaf {
            return std::thread::sleep(patience);
        }
        loop {
            while let Some(frame) = self.take() {
                self.handle(socket, frame);
            }
            if self.closed || done(self) || Instant::now() > deadline {
                return;
            }
            socket.set_timeout(Duration::from_millis(10));
            let mut buffer = [0; 16_384];
            match socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
                Err(error) if Socket::is_timeout(&error) => {}
                Err(_) => self.closed = true,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.bytes.get(..9)?.try_into().unwrap();
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let payload = self.bytes.get(9..9 + length)?.to_vec();
        self.bytes.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame::new(head[3], head[4], stream, payload))
    }

    fn handle(&mut self, socket: &mut Socket, frame: Frame) {
        let answer = match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => Frame::new(SETTINGS, ACK, 0, vec![]).write(),
            PING if frame.flags & ACK == 0 => {
                self.pings += 1;
                Frame::new(PING, ACK, 0, frame.payload).write()
            }
            GOAWAY => {
                self.goaway = Some((frame.word(0), frame.word(4)));
                vec![]
            }
            RST_STREAM => {
                let code = reason(frame.word(0));
                let stream = self.streams.entry(frame.stream).or_default();
                stream.ended.get_or_insert(format!("reset {code}"));
                vec![]
            }
            DATA => {
                let stream = self.streams.entry(frame.stream).or_default();
                stream.body.extend_from_slice(frame.content());
                if frame.flags & END_STREAM != 0 {
                    stream.ended.get_or_insert("end".into());
                }
                self.windows(&frame)
            }
            HEADERS | CONTINUATION => {
                self.head(&frame);
                vec![]
            }
            _ => vec![],
        };
        // A peer that has gone is noticed by reading.
        let _ = socket.write_all(&answer);
    }

    fn windows(&self, frame: &Frame) -> Vec<u8> {
        let length = u32::try_from(frame.payload.len()).unwrap();
        if self.stingy || length == 0 {
            return vec![];
        }
        let update = |stream| Frame::new(WINDOW_UPDATE, 0, stream, length.to_be_bytes().to_vec());
        let mut out = update(0).write();
        if frame.flags & END_STREAM == 0 {
            out.extend(update(frame.stream).write());
        }
        out
    }

    fn head(&mut self, frame: &Frame) {
        let (stream, flags, mut block) =
            self.partial
                .take()
                .unwrap_or((frame.stream, frame.flags, vec![]));
        block.extend_from_slice(frame.content());
        if frame.flags & END_HEADERS == 0 {
            self.partial = Some((stream, flags, block));
            return;
        }
        let fields = self.decoder.read(&block);
        let stream = self.streams.entry(stream).or_default();
        stream.heads.push(fields);
        if flags & END_STREAM != 0 {
            stream.ended.get_or_insert("end".into());
        }
    }
}

/// An error code by its name (RFC 9113 §7).
pub(crate) fn reason(code: u32) -> String {
    format!("{:?}", h2::Reason::from(code))
}
