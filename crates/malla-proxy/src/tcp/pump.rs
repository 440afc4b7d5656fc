//! Copies both ways between two streams until both have ended, with half-close.
//!
//! One buffer per worker serves all its connections: bytes pass through it within one poll, and only what the other side
//! would not take yet is kept per connection. Between two plain sockets a busy direction changes over to splice(2).
//!
//! Invariants: an end of one direction is passed on and the other goes on; nothing is read while something is still to be
//! written; [`Totals`] is right at every moment, also when the future is dropped.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::splice::Pipe;
use crate::transport::{Io, Socket};

/// Size of a worker's buffer, bytes: four TLS records.
const BUFFER: usize = 64 * 1024;
/// A direction that filled the buffer so often in a row is worth a pipe.
const BUSY_READS: u32 = 4;
/// Reads of at least this much count as busy, bytes.
const BUSY_BYTES: usize = 16 * 1024;

/// A worker's copy buffer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Buffer(Rc<RefCell<Box<[u8]>>>);

impl Default for Buffer {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; BUFFER].into_boxed_slice())))
    }
}

/// Bytes passed on so far.
#[derive(Debug, Default)]
pub struct Totals {
    pub from_downstream: Cell<u64>,
    pub from_upstream: Cell<u64>,
}

/// One end of a copy.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if there is nothing between it and the bytes.
    fn tcp(&self) -> Option<&TcpStream>;
}

impl Side for Io {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(Socket::Tcp(socket)) => Some(socket),
            Self::Plain(Socket::Unix(_)) | Self::Tls(_) | Self::Counted(..) => None,
        }
    }
}

/// When to give up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// After so long without a byte either way.
    pub idle: Option<Duration>,
    /// At this moment in any case.
    pub deadline: Option<Instant>,
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said so.
    Closed,
    Idle,
    Deadline,
    /// The client's side failed.
    Downstream(io::Error),
    /// The endpoint's side failed.
    Upstream(io::Error),
}

/// Copies until both directions have ended, one failed, or a limit passed.
pub async fn pump(
    down: &mut impl Side,
    up: &mut impl Side,
    buffer: &Buffer,
    limits: Limits,
    totals: &Totals,
) -> End {
    let last = Cell::new(Instant::now());
    let mut out = Direction::new(true, &totals.from_downstream, &last);
    let mut back = Direction::new(false, &totals.from_upstream, &last);
    let copy = poll_fn(|cx| {
        let out_done = out.poll(down, up, buffer, cx);
        if let Poll::Ready(Err(end)) = out_done {
            return Poll::Ready(end);
        }
        let back_done = back.poll(up, down, buffer, cx);
        if let Poll::Ready(Err(end)) = back_done {
            return Poll::Ready(end);
        }
        if out_done.is_ready() && back_done.is_ready() {
            Poll::Ready(End::Closed)
        } else {
            Poll::Pending
        }
    });
    tokio::select! {
        biased; // What has been copied counts before what is overdue.
        end = copy => end,
        end = overdue(limits, &last) => end,
    }
}

/// Completes when a limit has passed.
async fn overdue(limits: Limits, last: &Cell<Instant>) -> End {
    loop {
        let idle = limits.idle.map(|idle| last.get() + idle);
        let next = match (idle, limits.deadline) {
            (None, None) => return std::future::pending().await,
            (Some(idle), Some(deadline)) => idle.min(deadline),
            (Some(one), None) | (None, Some(one)) => one,
        };
        // Activity only moves `last`; the timer is set anew when it fires, not for every byte.
        sleep_until(next).await;
        let now = Instant::now();
        if limits.deadline.is_some_and(|deadline| now >= deadline) {
            return End::Deadline;
        }
        if limits
            .idle
            .is_some_and(|idle| now.saturating_duration_since(last.get()) >= idle)
        {
            return End::Idle;
        }
    }
}

/// One way of a connection.
struct Direction<'a> {
    from_client: bool,
    total: &'a Cell<u64>,
    last: &'a Cell<Instant>,
    /// Read and not yet written, from `written` on.
    rest: Vec<u8>,
    written: usize,
    unflushed: bool,
    busy: u32,
    pipe: Option<Pipe>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    Ending,
    Done,
}

impl<'a> Direction<'a> {
    fn new(from_client: bool, total: &'a Cell<u64>, last: &'a Cell<Instant>) -> Self {
        Self {
            from_client,
            total,
            last,
            rest: Vec::new(),
            written: 0,
            unflushed: false,
            busy: 0,
            pipe: None,
            state: State::Copying,
        }
    }

    fn poll(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        buffer: &Buffer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(self.write_rest(to, cx))?;
                    // A peer that has closed already cannot be told that we end; that is no failure.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Done;
                }
                State::Copying => {
                    if self.pipe.is_some()
                        && let (Some(from), Some(to)) = (from.tcp(), to.tcp())
                    {
                        ready!(self.splice(from, to, cx))?;
                        continue;
                    }
                    ready!(self.write_rest(to, cx))?;
                    ready!(self.copy(from, to, buffer, cx))?;
                    self.consider_splicing(from, to);
                }
            }
        }
    }

    /// Writes what an earlier poll left over.
    fn write_rest(&mut self, to: &mut impl Side, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while self.written < self.rest.len() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.written..]));
            match count {
                Ok(0) => {
                    return Poll::Ready(Err(self.write_failed(io::ErrorKind::WriteZero.into())));
                }
                Ok(count) => {
                    self.written += count;
                    self.note(count);
                    self.unflushed = true;
                }
                Err(error) => return Poll::Ready(Err(self.write_failed(error))),
            }
        }
        if !self.rest.is_empty() {
            // Given back, not kept: most connections never need it again.
            self.rest = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as `to` takes.
    fn copy(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        buffer: &Buffer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        let mut shared = buffer.0.borrow_mut();
        let mut read = ReadBuf::new(&mut shared);
        match Pin::new(&mut *from).poll_read(cx, &mut read) {
            Poll::Pending => {
                if self.unflushed {
                    match ready!(Pin::new(&mut *to).poll_flush(cx)) {
                        Ok(()) => self.unflushed = false,
                        Err(error) => return Poll::Ready(Err(self.write_failed(error))),
                    }
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.read_failed(error))),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = read.filled();
        if bytes.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.busy = if bytes.len() >= BUSY_BYTES {
            self.busy + 1
        } else {
            0
        };
        let mut done = 0;
        while done < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[done..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.write_failed(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(count)) => {
                    done += count;
                    self.note(count);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.write_failed(error))),
                Poll::Pending => {
                    self.rest = bytes[done..].to_vec();
                    self.written = 0;
                    return Poll::Ready(Ok(())); // The next turn waits for the writer.
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn consider_splicing(&mut self, from: &impl Side, to: &impl Side) {
        if self.busy < BUSY_READS || !self.rest.is_empty() {
            return;
        }
        self.busy = 0;
        if from.tcp().is_some() && to.tcp().is_some() {
            // Out of file descriptors: copying goes on.
            self.pipe = Pipe::new().ok();
        }
    }

    fn splice(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        let Some(pipe) = self.pipe.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        if pipe.held() > 0 {
            if let Err(error) = ready!(to.poll_write_ready(cx)) {
                return Poll::Ready(Err(self.write_failed(error)));
            }
            return match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(count) => {
                    self.note(count);
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(self.write_failed(error))),
            };
        }
        if let Err(error) = ready!(from.poll_read_ready(cx)) {
            return Poll::Ready(Err(self.read_failed(error)));
        }
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => self.state = State::Ending,
            Ok(_) => self.last.set(Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(self.read_failed(error))),
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, count: usize) {
        self.total.set(self.total.get() + count as u64);
        self.last.set(Instant::now());
    }

    fn read_failed(&self, error: io::Error) -> End {
        if self.from_client {
            End::Downstream(error)
        } else {
            End::Upstream(error)
        }
    }

    fn write_failed(&self, error: io::Error) -> End {
        if self.from_client {
            End::Upstream(error)
        } else {
            End::Downstream(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, timeout};

    use super::{Buffer, End, Limits, Totals, pump};
    use crate::transport::{Io, Socket};

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), Io::Plain(Socket::Tcp(server.unwrap().0)))
    }

    #[tokio::test]
    async fn large_bodies_pass_both_ways_and_half_closes_are_kept() {
        let (mut client, mut down) = pair().await;
        let (mut server, mut up) = pair().await;
        let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i % 251) as u8).collect();
        let want = sent.clone();
        let talk = async move {
            let serve = async move {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                // The client has ended; the answer must still pass.
                server.write_all(&got).await.unwrap();
                server.shutdown().await.unwrap();
                got
            };
            let ask = async move {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.unwrap();
                got
            };
            tokio::join!(serve, ask)
        };
        let totals = Totals::default();
        let buffer = Buffer::default();
        let copy = pump(&mut down, &mut up, &buffer, Limits::default(), &totals);
        let ((there, back), end) =
            timeout(Duration::from_secs(30), async { tokio::join!(talk, copy) })
                .await
                .unwrap();
        assert!(matches!(end, End::Closed), "{end:?}");
        assert!(
            there == want && back == want,
            "bytes were changed on the way"
        );
        assert_eq!(
            (totals.from_downstream.get(), totals.from_upstream.get()),
            (8_000_000, 8_000_000)
        );
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let (mut client, mut down) = pair().await;
        let (_server, mut up) = pair().await;
        let idle = Duration::from_millis(200);
        let started = Instant::now();
        let speak = async {
            tokio::time::sleep(idle / 2).await;
            client.write_all(b"still here").await.unwrap();
        };
        let limits = Limits {
            idle: Some(idle),
            deadline: None,
        };
        let (totals, buffer) = (Totals::default(), Buffer::default());
        let (end, ()) = tokio::join!(pump(&mut down, &mut up, &buffer, limits, &totals), speak);
        assert!(matches!(end, End::Idle), "{end:?}");
        assert!(
            started.elapsed() >= idle + idle / 2,
            "the byte in between started the time anew"
        );
    }

    #[tokio::test]
    async fn a_deadline_ends_a_busy_connection() {
        let (mut client, mut down) = pair().await;
        let (_server, mut up) = pair().await;
        let limits = Limits {
            idle: None,
            deadline: Some(Instant::now() + Duration::from_millis(100)),
        };
        let (totals, buffer) = (Totals::default(), Buffer::default());
        let speak = async {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let end = tokio::select! {
            end = pump(&mut down, &mut up, &buffer, limits, &totals) => end,
            () = speak => panic!("the client was cut off first"),
        };
        assert!(matches!(end, End::Deadline), "{end:?}");
    }

    #[tokio::test]
    async fn a_pump_is_small() {
        let (_client, mut down) = pair().await;
        let (_server, mut up) = pair().await;
        let (totals, buffer) = (Totals::default(), Buffer::default());
        let future = pump(&mut down, &mut up, &buffer, Limits::default(), &totals);
        assert!(
            size_of_val(&future) < 1024,
            "{} bytes",
            size_of_val(&future)
        );
    }
}
