//! Bodies that a filter changes on their way: each frame goes through the adaptors of a message, in order.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// Changes a body as it passes. What it holds back it must bound itself.
pub(crate) trait Adaptor {
    /// What a piece becomes; empty where it is held back.
    ///
    /// # Errors
    /// When it cannot be what it is said to be.
    fn data(&mut self, data: Bytes) -> Result<Bytes, Broken>;

    /// What follows the last piece; trailers may be changed, taken away or made here.
    ///
    /// # Errors
    /// When something is missing.
    fn end(&mut self, trailers: &mut Option<HeaderMap>) -> Result<Bytes, Broken> {
        let _ = trailers;
        Ok(Bytes::new())
    }
}

/// Why a body cannot be adapted: what a client gets for it (400) and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) body: &'static str,
    pub(crate) details: &'static str,
}

/// The adaptors of one message.
#[derive(Default)]
pub(crate) struct Adapted {
    chain: Vec<Box<dyn Adaptor>>,
    ended: bool,
    trailers: Option<HeaderMap>,
}

/// What becomes of a frame.
pub(crate) enum Next {
    /// Send this.
    Frame(Frame<Bytes>),
    /// Nothing yet: ask the source for more.
    More,
    /// It is over.
    End,
}

impl std::fmt::Debug for Adapted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Adapted({})", self.chain.len())
    }
}

impl Adapted {
    /// Adds one behind the others.
    pub(crate) fn push(&mut self, adaptor: Box<dyn Adaptor>) {
        self.chain.push(adaptor);
    }

    /// True if frames pass as they are.
    pub(crate) fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// The source has ended: only what was held back is to come.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// True once everything has been given.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.trailers.is_none()
    }

    /// What is left after the end of the source.
    pub(crate) fn rest(&mut self) -> Next {
        match self.trailers.take() {
            Some(trailers) => Next::Frame(Frame::trailers(trailers)),
            None => Next::End,
        }
    }

    /// Passes one frame of the source, or its end.
    ///
    /// # Errors
    /// When an adaptor cannot take it.
    pub(crate) fn pass(&mut self, frame: Option<Frame<Bytes>>) -> Result<Next, Broken> {
        let frame = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let data = self
                    .chain
                    .iter_mut()
                    .try_fold(data, |data, adaptor| adaptor.data(data))?;
                return Ok(match data.is_empty() {
                    true => Next::More,
                    false => Next::Frame(Frame::data(data)),
                });
            }
            Some(Err(frame)) => Some(frame),
            None => None,
        };
        self.ended = true;
        let mut trailers = frame.and_then(|frame| frame.into_trailers().ok());
        let mut tail = Vec::new();
        for adaptor in &mut self.chain {
            // What the one before it has held back is data to this one.
            if !tail.is_empty() {
                tail = adaptor.data(Bytes::from(tail))?.to_vec();
            }
            tail.extend_from_slice(&adaptor.end(&mut trailers)?);
        }
        self.trailers = trailers;
        Ok(match tail.is_empty() {
            true => self.rest(),
            false => Next::Frame(Frame::data(tail.into())),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body::Frame;

    use super::{Adapted, Adaptor, Broken, Next};

    /// Gives pieces of two bytes, and the trailers as data.
    #[derive(Default)]
    struct Pairs(Vec<u8>);

    impl Adaptor for Pairs {
        fn data(&mut self, data: Bytes) -> Result<Bytes, Broken> {
            self.0.extend_from_slice(&data);
            let whole = self.0.len() / 2 * 2;
            Ok(self.0.drain(..whole).collect::<Vec<u8>>().into())
        }

        fn end(&mut self, trailers: &mut Option<HeaderMap>) -> Result<Bytes, Broken> {
            let names = trailers.take().unwrap_or_default();
            for name in names.keys() {
                self.0.extend_from_slice(name.as_str().as_bytes());
            }
            Ok(std::mem::take(&mut self.0).into())
        }
    }

    #[test]
    fn what_is_held_back_comes_at_the_end() {
        let mut adapted = Adapted::default();
        adapted.push(Box::<Pairs>::default());
        adapted.push(Box::<Pairs>::default());
        let mut got = Vec::new();
        let mut trailers = HeaderMap::new();
        trailers.insert("x", "1".parse().unwrap());
        for frame in [
            Frame::data(Bytes::from_static(b"a")),
            Frame::data(Bytes::from_static(b"bc")),
            Frame::trailers(trailers),
        ] {
            match adapted.pass(Some(frame)).unwrap() {
                Next::Frame(frame) => got.push(frame.into_data().unwrap()),
                Next::More => {}
                Next::End => panic!("too early"),
            }
        }
        assert_eq!(got, ["ab", "cx"]);
        assert!(adapted.is_done());
        assert!(matches!(adapted.rest(), Next::End));
    }
}
