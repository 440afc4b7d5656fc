//! Frames of SPDY/3.1, as far as Kubernetes' clients forward ports with them (draft-mbelshe-httpbis-spdy-00 §2).
//!
//! Pure: bytes to frames and frames to bytes. What a client sends is bounded here; its header blocks share one
//! compression context, so a broken one ends the session.

mod headers;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use headers::HeaderReader;

/// Longest payload of a data frame. Clients send 32 KiB at a time.
const MAX_DATA: usize = 1024 * 1024;
/// Longest payload of a control frame.
const MAX_CONTROL: usize = 16 * 1024;
const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;
const VERSION: u32 = 3;

const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const GOAWAY: u32 = 7;

const FIN: u8 = 1;

/// Why a stream is refused (`RST_STREAM`, §2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Protocol = 1,
    TooMany = 3,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream and its headers, names in lower case.
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        /// Nothing follows on this stream.
        last: bool,
    },
    /// The stream is abandoned.
    Reset { stream: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// The client opens no more streams.
    GoAway,
    /// Settings and the like: of no consequence here.
    Other,
}

impl Frame {
    /// Of a header of [`Frame::Open`].
    pub(super) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut named = headers.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str())
    }
}

/// Bytes that are no SPDY/3.1, or too many of them. The session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a control frame is of another SPDY version than 3")]
    Version,
    #[error(
        "a frame is longer than its limit ({MAX_CONTROL} bytes for control, {MAX_DATA} for data)"
    )]
    TooLong,
    #[error("a control frame is shorter than its fields")]
    TooShort,
    #[error("a header block cannot be read")]
    Headers,
}

/// Reads one direction of one session.
#[derive(Debug)]
pub(super) struct FrameReader {
    headers: HeaderReader,
}

impl FrameReader {
    pub(super) fn new() -> Self {
        Self {
            headers: HeaderReader::new(),
        }
    }

    /// Takes the first frame off the buffer; `None` when it is not whole yet.
    ///
    /// # Errors
    /// When the bytes are no frame; the session should end.
    pub(super) fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(mut head) = buffer.get(..HEAD) else {
            return Ok(None);
        };
        let (first, second) = (head.get_u32(), head.get_u32());
        let flags = second.to_be_bytes()[0];
        let length = usize::try_from(second & 0x00ff_ffff).map_err(|_| SpdyError::TooLong)?;
        let limit = match first & CONTROL {
            0 => MAX_DATA,
            _ => MAX_CONTROL,
        };
        if length > limit {
            return Err(SpdyError::TooLong);
        }
        if buffer.len() < HEAD + length {
            buffer.reserve(HEAD + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEAD);
        let payload = buffer.split_to(length).freeze();
        if first & CONTROL == 0 {
            return Ok(Some(Frame::Data {
                stream: first,
                bytes: payload,
                last: flags & FIN != 0,
            }));
        }
        if (first & !CONTROL) >> 16 != VERSION {
            return Err(SpdyError::Version);
        }
        self.control(first & 0xffff, payload).map(Some)
    }

    fn control(&mut self, kind: u32, mut payload: Bytes) -> Result<Frame, SpdyError> {
        let id = |payload: &mut Bytes| {
            let id = payload.try_get_u32().map_err(|_| SpdyError::TooShort)?;
            Ok(id & !CONTROL)
        };
        match kind {
            SYN_STREAM => {
                let stream = id(&mut payload)?;
                // The associated stream, and the priority, which nothing here has.
                let _associated = id(&mut payload)?;
                payload.try_get_u16().map_err(|_| SpdyError::TooShort)?;
                let headers = self.headers.read(&payload)?;
                Ok(Frame::Open { stream, headers })
            }
            RST_STREAM => id(&mut payload).map(|stream| Frame::Reset { stream }),
            PING => {
                let id = payload.try_get_u32().map_err(|_| SpdyError::TooShort)?;
                Ok(Frame::Ping { id })
            }
            GOAWAY => Ok(Frame::GoAway),
            // Header blocks share their context: those of a kind that is of no use count, too.
            SYN_REPLY | 8 => {
                id(&mut payload)?;
                self.headers.read(&payload)?;
                Ok(Frame::Other)
            }
            _ => Ok(Frame::Other),
        }
    }
}

/// Writes one direction of one session.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    /// Whether the header blocks' zlib stream has begun.
    begun: bool,
}

impl FrameWriter {
    /// Accepts a stream, with no headers to tell.
    pub(super) fn reply(&mut self, stream: u32) -> Bytes {
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        if !self.begun {
            self.begun = true;
            payload.put_slice(&[0x78, 0x01]); // RFC 1950 §2.2: deflate, no dictionary.
        }
        // One stored block with the number of headers, none; then the empty one that makes readers look at it.
        payload.put_slice(&[0, 4, 0, !4, !0, 0, 0, 0, 0]);
        payload.put_slice(&[0, 0, 0, !0, !0]);
        control(SYN_REPLY, &payload)
    }
}

/// A piece of a stream; empty and last to end it.
pub(super) fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(stream & !CONTROL);
    put_length(&mut frame, if last { FIN } else { 0 }, bytes.len());
    frame.put_slice(bytes);
    frame.freeze()
}

/// Refuses a stream.
pub(super) fn refuse(stream: u32, why: Refusal) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    payload.put_u32(why as u32);
    control(RST_STREAM, &payload)
}

/// The answer to [`Frame::Ping`].
pub(super) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

fn control(kind: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + payload.len());
    frame.put_u32(CONTROL | VERSION << 16 | kind);
    put_length(&mut frame, 0, payload.len());
    frame.put_slice(payload);
    frame.freeze()
}

/// Flags and length. Every caller's payload is bounded far below the three bytes.
fn put_length(frame: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    frame.put_u32(u32::from(flags) << 24 | length);
}

/// Reads whatever comes, as a session would.
#[cfg(fuzzing)]
pub(super) fn read_all(bytes: &[u8]) {
    let (mut reader, mut buffer) = (FrameReader::new(), BytesMut::from(bytes));
    while let Ok(Some(_)) = reader.read(&mut buffer) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let (mut reader, mut buffer) = (FrameReader::new(), BytesMut::new());
        let mut frames = Vec::new();
        // Byte by byte: a frame may come in any pieces.
        for byte in bytes {
            buffer.put_u8(*byte);
            frames.extend(reader.read(&mut buffer)?);
        }
        assert!(buffer.is_empty(), "{buffer:?}");
        Ok(frames)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = FrameWriter::default();
        let mut bytes = BytesMut::new();
        for piece in [
            data(3, b"abc", false),
            data(5, b"", true),
            refuse(7, Refusal::TooMany),
            pong(9),
            writer.reply(3),
            writer.reply(5),
        ] {
            bytes.extend_from_slice(&piece);
        }
        let data = |stream, bytes: &'static [u8], last| Frame::Data {
            stream,
            bytes: Bytes::from_static(bytes),
            last,
        };
        assert_eq!(
            frames(&bytes).unwrap(),
            [
                data(3, b"abc", false),
                data(5, b"", true),
                Frame::Reset { stream: 7 },
                Frame::Ping { id: 9 },
                Frame::Other,
                Frame::Other
            ]
        );
    }

    #[test]
    fn bytes_that_are_no_frames_end_the_session() {
        let long_data = [0, 0, 0, 1, 0, 0xff, 0xff, 0xff];
        assert_eq!(frames(&long_data), Err(SpdyError::TooLong));
        let long_control = [0x80, 3, 0, 1, 0, 0, 0xff, 0xff];
        assert_eq!(frames(&long_control), Err(SpdyError::TooLong));
        assert_eq!(
            frames(&[0x80, 2, 0, 6, 0, 0, 0, 0]),
            Err(SpdyError::Version)
        );
        assert_eq!(
            frames(&[0x80, 3, 0, 6, 0, 0, 0, 0]),
            Err(SpdyError::TooShort)
        );
        let no_zlib = [
            0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4,
        ];
        assert_eq!(frames(&no_zlib), Err(SpdyError::Headers));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let (mut reader, mut buffer) = (FrameReader::new(), BytesMut::from(&*bytes));
            while let Ok(Some(_)) = reader.read(&mut buffer) {}
        }
    }
}
