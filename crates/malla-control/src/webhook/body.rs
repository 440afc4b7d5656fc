//! Bodies of reviews, within bounds: of each its size and time, of all together their bytes.
//!
//! Invariant: bytes are counted as they arrive, so that a body that is only announced costs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The API server's own limit for an object, with room for the envelope and the old object.
const LARGEST: usize = 8 << 20;
/// Bytes of all reviews under way.
const ALL: usize = 64 << 20;
/// How long a body may take. API servers give the whole review ten seconds by default.
const TIME: Duration = Duration::from_secs(10);

/// Reads bodies; clones count together.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    largest: usize,
    time: Duration,
}

/// A body, and its share of the room.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Status and text of the answer to a body that is not read.
pub(super) type Refusal = (StatusCode, &'static str);

impl Default for Bodies {
    fn default() -> Self {
        Self::new(ALL, LARGEST, TIME)
    }
}

impl Bodies {
    fn new(all: usize, largest: usize, time: Duration) -> Self {
        Self {
            room: Arc::new(Semaphore::new(all)),
            largest,
            time,
        }
    }

    /// The whole of `body`.
    pub(super) async fn collect<B>(&self, body: B) -> Result<Collected, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let late = (
            StatusCode::REQUEST_TIMEOUT,
            "the review did not arrive in time",
        );
        tokio::time::timeout(self.time, self.read(body))
            .await
            .unwrap_or(Err(late))
    }

    async fn read<B>(&self, mut body: B) -> Result<Collected, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut bytes = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let broken = (StatusCode::BAD_REQUEST, "the review broke off");
            let Ok(data) = frame.map_err(|_| broken)?.into_data() else {
                continue;
            };
            if data.len() > self.largest.saturating_sub(bytes.len()) {
                return Err((
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the review is larger than 8 MiB",
                ));
            }
            let more = self.share(data.len())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Collected {
            bytes: bytes.freeze(),
            _room: room,
        })
    }

    /// Waiting for room would let half-read reviews block each other: they are asked to come again.
    fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many reviews are under way",
        );
        let bytes = u32::try_from(bytes).map_err(|_| full)?;
        let room = Arc::clone(&self.room);
        room.try_acquire_many_owned(bytes).map_err(|_| full)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn bodies() -> Bodies {
        Bodies::new(10, 8, Duration::from_millis(20))
    }

    async fn check(bodies: &Bodies, size: usize) -> Result<Collected, StatusCode> {
        let body = Full::new(Bytes::from(vec![b' '; size]));
        bodies.collect(body).await.map_err(|(status, _)| status)
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up_and_its_room_with_it() {
        let bodies = bodies();
        let begun = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("1234567")))]);
        let endless = StreamBody::new(begun.chain(stream::pending()));
        let (status, _) = bodies.collect(endless).await.unwrap_err();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(bodies.room.available_permits(), 10);
    }

    #[tokio::test]
    async fn each_has_a_limit_and_all_together_have_one() {
        let bodies = bodies();
        let too_large = check(&bodies, 9).await.unwrap_err();
        assert_eq!(too_large, StatusCode::PAYLOAD_TOO_LARGE);
        let first = check(&bodies, 8).await.unwrap();
        let no_room = check(&bodies, 3).await.unwrap_err();
        assert_eq!(no_room, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert_eq!(check(&bodies, 3).await.unwrap().bytes.len(), 3);
    }
}
