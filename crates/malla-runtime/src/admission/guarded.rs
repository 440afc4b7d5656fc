//! A connection that ends when its place is gone: reads and writes fail then, and its owner lets go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::{Keeper, Place, State};

type Ending = Pin<Box<dyn Future<Output = io::ErrorKind> + Send + Sync>>;

/// A connection and its place.
pub struct Guarded<S> {
    io: S,
    ending: Ending,
    ended: Option<io::ErrorKind>,
    place: Place,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded")
            .field("io", &self.io)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<S> Guarded<S> {
    pub(super) fn new(io: S, place: Place, idle: Option<Duration>) -> Self {
        Self {
            io,
            ending: Box::pin(ending(place.state.clone(), idle)),
            ended: None,
            place,
        }
    }

    /// By which the connection is kept.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        self.place.keeper.clone()
    }

    /// The connection itself.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none()
            && let Poll::Ready(why) = self.ending.as_mut().poll(cx)
        {
            self.ended = Some(why);
        }
        match self.ended {
            Some(io::ErrorKind::TimedOut) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing was asked on the connection for too long",
            )),
            Some(why) => Err(io::Error::new(why, "the connection made room for another")),
            None => Ok(()),
        }
    }
}

/// Completes when the connection has to end, with the reason.
async fn ending(mut state: watch::Receiver<State>, idle: Option<Duration>) -> io::ErrorKind {
    loop {
        let now = *state.borrow_and_update();
        let changed = match (now, idle) {
            (State::Evicted, _) => return io::ErrorKind::ConnectionAborted,
            (State::Idle, Some(idle)) => match tokio::time::timeout(idle, state.changed()).await {
                Ok(changed) => changed,
                Err(_) => return io::ErrorKind::TimedOut,
            },
            (State::Idle, None) | (State::Kept, _) => state.changed().await,
        };
        if changed.is_err() {
            return io::ErrorKind::ConnectionAborted;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A farewell that cannot be sent is given up with the connection.
        if self.poll_alive(cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
