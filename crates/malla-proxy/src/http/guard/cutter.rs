//! Cuts a connection's bytes into messages, so that every head is looked at before the codec sees it.
//!
//! Chunks are read as strictly as the codec reads them: where one of the two were more lenient, a request could hide.

use std::task::Context as Task;

use super::head::{BodyLength, Refusal, Rules, TOO_LARGE, check};
use crate::http::preface::{Prospect, Pulse};

/// Digits of a chunk's size.
const SIZE_DIGITS: u8 = 16;
/// Bytes of a chunk's extensions.
const EXTENSION: u16 = 4 * 1024;

/// The reader of one connection's framing.
#[derive(Debug)]
pub(in crate::http) struct Cutter {
    rules: Rules,
    at: At,
    heads: u32,
    /// The message asks for a tunnel.
    upgrade: bool,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A head, of which so many bytes were searched for its end.
    Head {
        searched: usize,
    },
    Body(u64),
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind the digits; so many bytes of extensions.
    Extension {
        size: u64,
        bytes: u16,
    },
    SizeEnd {
        size: u64,
    },
    Chunk {
        left: u64,
    },
    /// Behind a chunk's data.
    ChunkCr,
    ChunkLf,
    /// A trailer's line, so many bytes into it and into all of them.
    Trailer {
        line: usize,
        bytes: usize,
    },
    TrailerLf {
        line: usize,
        bytes: usize,
    },
    /// Behind a request for a tunnel.
    Undecided,
    Tunnel,
    Refused,
}

/// How far a look at the bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Cleared {
    /// The codec may have these.
    pub(in crate::http) bytes: usize,
    pub(in crate::http) refused: Option<Refused>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Refused {
    Head(Refusal),
    Body,
}

impl Cutter {
    pub(in crate::http) fn new(rules: Rules) -> Self {
        Self {
            rules,
            at: At::Head { searched: 0 },
            heads: 0,
            upgrade: false,
        }
    }

    /// Looks at bytes that follow those that were cleared.
    pub(in crate::http) fn clear(&mut self, bytes: &[u8], pulse: &Pulse) -> Cleared {
        let mut done = 0;
        let mut refused = None;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.step(rest, pulse) {
                Ok(0) => break,
                Ok(more) => {
                    pulse.pass(more);
                    done += more;
                }
                Err(why) => {
                    self.at = At::Refused;
                    refused = Some(why);
                    break;
                }
            }
        }
        Cleared {
            bytes: done,
            refused,
        }
    }

    /// How many heads were cleared.
    pub(in crate::http) fn heads(&self) -> u32 {
        self.heads
    }

    /// True if what follows has no meaning until the request before it is answered; the task is woken then.
    pub(in crate::http) fn awaits_answer(&self, pulse: &Pulse, cx: &Task<'_>) -> bool {
        self.at == At::Undecided && pulse.prospect(Some(cx)).is_none()
    }

    /// How many of `rest`'s bytes are cleared; none if there are too few to tell.
    fn step(&mut self, rest: &[u8], pulse: &Pulse) -> Result<usize, Refused> {
        match self.at {
            At::Head { searched } => self.head(rest, searched, pulse),
            At::Body(left) => Ok(self.skip(rest, left, At::Body)),
            At::Chunk { left } => Ok(self.skip(rest, left, |left| At::Chunk { left })),
            At::Tunnel => Ok(rest.len()),
            At::Refused => Ok(0),
            At::Undecided => {
                self.at = match pulse.prospect(None) {
                    None => return Ok(0),
                    Some(Prospect::Tunnel) => At::Tunnel,
                    Some(Prospect::Request) => At::Head { searched: 0 },
                };
                self.step(rest, pulse)
            }
            At::Extension { size, bytes } => self.extension(rest, size, bytes),
            At::Size { .. }
            | At::SizeEnd { .. }
            | At::ChunkCr
            | At::ChunkLf
            | At::Trailer { .. }
            | At::TrailerLf { .. } => {
                let byte = rest.first().copied().unwrap_or_default();
                self.at = self.after(byte).ok_or(Refused::Body)?;
                Ok(1)
            }
        }
    }

    fn head(&mut self, rest: &[u8], searched: usize, pulse: &Pulse) -> Result<usize, Refused> {
        let Some(end) = head_end(rest, searched) else {
            if rest.len() > self.rules.head_bytes {
                return Err(Refused::Head(TOO_LARGE));
            }
            if let Some(refusal) = hopeless(rest) {
                return Err(Refused::Head(refusal));
            }
            // The end may begin in the last bytes.
            self.at = At::Head {
                searched: rest.len().saturating_sub(3),
            };
            return Ok(0);
        };
        if end > self.rules.head_bytes {
            return Err(Refused::Head(TOO_LARGE));
        }
        let head = rest.get(..end).unwrap_or_default();
        let framing = check(head, &self.rules).map_err(Refused::Head)?;
        self.heads = self.heads.wrapping_add(1);
        pulse.head_begins();
        self.upgrade = framing.upgrade;
        if self.upgrade {
            pulse.await_answer();
        }
        self.at = match framing.body {
            BodyLength::Bytes(0) => self.behind(),
            BodyLength::Bytes(left) => At::Body(left),
            BodyLength::Chunks => At::Size { digits: 0, size: 0 },
        };
        Ok(end)
    }

    fn skip(&mut self, rest: &[u8], left: u64, state: impl Fn(u64) -> At) -> usize {
        let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - take as u64;
        self.at = match (left, self.at) {
            (0, At::Chunk { .. }) => At::ChunkCr,
            (0, _) => self.behind(),
            (left, _) => state(left),
        };
        take
    }

    /// What is good is cleared before what is not is refused, as if it had come on its own.
    fn extension(&mut self, rest: &[u8], size: u64, bytes: u16) -> Result<usize, Refused> {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let room = usize::from(EXTENSION.saturating_sub(bytes));
        let length = end.unwrap_or(rest.len()).min(room);
        if length > 0 {
            let more = u16::try_from(length).unwrap_or(EXTENSION);
            let bytes = bytes.saturating_add(more);
            self.at = At::Extension { size, bytes };
            return Ok(length);
        }
        match rest.first() {
            Some(b'\r') => {
                self.at = At::SizeEnd { size };
                Ok(1)
            }
            _ => Err(Refused::Body),
        }
    }

    /// The state behind one byte of the framing; `None` if it may not be there.
    fn after(&self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Size { digits: 1.., size }, b'\r') => At::SizeEnd { size },
            (At::Size { digits: 1.., size }, b';' | b' ' | b'\t') => {
                At::Extension { size, bytes: 0 }
            }
            (At::Size { digits, size }, _) if digits < SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                At::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                }
            }
            (At::SizeEnd { size: 0 }, b'\n') => At::Trailer { line: 0, bytes: 0 },
            (At::SizeEnd { size }, b'\n') => At::Chunk { left: size },
            (At::ChunkCr, b'\r') => At::ChunkLf,
            (At::ChunkLf, b'\n') => At::Size { digits: 0, size: 0 },
            (At::Trailer { line, bytes }, b'\r') => At::TrailerLf { line, bytes },
            (At::Trailer { line, bytes }, byte) if byte != b'\n' && byte != 0 => {
                let bytes = bytes + 1;
                if bytes > self.rules.head_bytes {
                    return None;
                }
                At::Trailer {
                    line: line + 1,
                    bytes,
                }
            }
            (At::TrailerLf { line: 0, .. }, b'\n') => self.behind(),
            (At::TrailerLf { bytes, .. }, b'\n') => At::Trailer { line: 0, bytes },
            _ => return None,
        })
    }

    /// What follows a whole message.
    fn behind(&self) -> At {
        if self.upgrade {
            At::Undecided
        } else {
            At::Head { searched: 0 }
        }
    }
}

/// Behind the empty line that ends a head, whose own start may be empty lines.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut from = searched.max(start);
    loop {
        let line_end = from + memchr::memchr(b'\n', bytes.get(from..)?)?;
        match bytes.get(line_end + 1..)? {
            [b'\n', ..] => return Some(line_end + 2),
            [b'\r', b'\n', ..] => return Some(line_end + 3),
            _ => from = line_end + 1,
        }
    }
}

/// Bytes that no more bytes can make a head of: another protocol's.
fn hopeless(bytes: &[u8]) -> Option<Refusal> {
    let start = bytes.iter().find(|byte| !matches!(byte, b'\r' | b'\n'))?;
    (!start.is_ascii_alphabetic()).then_some(Refusal::bad("http1.codec_error"))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::{Cutter, Refused, Rules};
    use crate::http::preface::{Prospect, Pulse};

    fn cutter() -> Cutter {
        Cutter::new(Rules {
            head_bytes: 1024,
            fields: 10,
            custom_methods: false,
            chunked_length: false,
            http_10: false,
            underscores: true,
        })
    }

    const MESSAGES: [&str; 4] = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-a: b\r\n\r\n",
        "\r\nGET / HTTP/1.1\nhost: a\n\n",
    ];

    proptest! {
        /// However the bytes arrive, the same ones are cleared, and a head that is refused is not.
        #[test]
        fn arrival_does_not_matter(which in prop::collection::vec(0..4_usize, 1..5), cuts in prop::collection::vec(1..40_usize, 1..20)) {
            let good: String = which.iter().map(|at| MESSAGES[*at]).collect();
            let whole = good.clone() + "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
            let pulse = Pulse::default();
            let (mut cutter, mut held, mut cleared, mut refused) = (cutter(), Vec::new(), 0, None);
            let mut rest = whole.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || refused.is_some() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                held.extend_from_slice(now);
                let found = cutter.clear(&held, &pulse);
                held.drain(..found.bytes);
                cleared += found.bytes;
                refused = found.refused;
            }
            prop_assert_eq!(cleared, good.len());
            prop_assert!(matches!(refused, Some(Refused::Head(_))));
        }
    }

    #[test]
    fn what_is_refused_does_not_take_along_what_came_before() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let long = format!("5;{}", "x".repeat(5000));
        for (chunks, good) in [("5;x=y\nhello", 5), (long.as_str(), 2 + 4096)] {
            let whole = format!("{head}{chunks}");
            let cleared = cutter().clear(whole.as_bytes(), &Pulse::default());
            assert_eq!(cleared.bytes, head.len() + good);
            assert_eq!(cleared.refused, Some(Refused::Body));
        }
    }

    #[test]
    fn what_follows_an_upgrade_waits_for_its_answer() {
        let pulse = Pulse::default();
        let mut cutter = cutter();
        let head = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(cutter.clear(head.as_bytes(), &pulse).bytes, head.len());
        assert_eq!(cutter.clear(b"\x81\x00", &pulse).bytes, 0);
        pulse.decide(Prospect::Tunnel);
        assert_eq!(cutter.clear(b"\x81\x00", &pulse).bytes, 2);
    }

    #[test]
    fn heads_have_limits() {
        for (text, status) in [
            (
                format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(2000)),
                431,
            ),
            (format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(2000)), 431),
            (
                format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(11)),
                431,
            ),
            ("\x16\x03\x01".into(), 400),
        ] {
            let cleared = cutter().clear(text.as_bytes(), &Pulse::default());
            assert_eq!(cleared.bytes, 0);
            let Some(Refused::Head(refusal)) = cleared.refused else {
                panic!("{text} is not refused");
            };
            assert_eq!(refusal.status, StatusCode::from_u16(status).unwrap());
        }
    }
}
