//! Peeks at a socket until an inspector has made up its mind.
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;

use super::{MAX_PEEK, Verdict};
use crate::transport::Socket;

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    #[error("the peer closed the connection before its protocol could be told")]
    Closed,
    #[error("cannot read from the connection")]
    Io(#[source] io::Error),
}

/// What most first flights fit into, bytes.
const FIRST: usize = 2048;

/// Shows `inspect` an ever longer prefix of what the peer sent, leaving the bytes in the socket. `None` is "something
/// else". Waits for as long as the inspector wants more: callers set a timeout. Cancel-safe.
pub async fn peek_until<T>(
    stream: &Socket,
    mut inspect: impl FnMut(&[u8]) -> Verdict<T>,
) -> Result<Option<T>, PeekError> {
    let mut buffer = vec![0u8; FIRST];
    let mut seen = 0;
    loop {
        let ready = stream
            .ready(Interest::READABLE)
            .await
            .map_err(PeekError::Io)?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let count = peek(stream, &mut buffer)?;
            if count == seen && count != 0 {
                // Nothing new: wait for the next edge instead of spinning on the same bytes. With the peer's FIN behind
                // them no edge will come, and a prefix that ends here will never be complete.
                return if ready.is_read_closed() {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                };
            }
            Ok(count)
        });
        let count = match peeked {
            Ok(0) => return Err(PeekError::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(PeekError::Io(error)),
        };
        seen = count;
        match inspect(&buffer[..count]) {
            Verdict::Is(found) => return Ok(Some(found)),
            Verdict::IsNot => return Ok(None),
            Verdict::More if count >= MAX_PEEK => return Ok(None),
            Verdict::More if count == buffer.len() => {
                buffer.resize((count * 4).min(MAX_PEEK), 0);
                seen = 0;
            }
            Verdict::More => {}
        }
    }
}

fn peek(stream: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    recv(
        stream.as_raw_fd(),
        buffer,
        MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
    )
    .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::super::{HttpKind, inspect_http};
    use super::{PeekError, peek_until};
    use crate::transport::Socket;

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), Socket::Tcp(server.unwrap().0))
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_seen_and_left() {
        let (mut client, mut server) = pair().await;
        client.set_nodelay(true).unwrap();
        let line = b"GET / HTTP/1.1\r\n";
        let send = async {
            for byte in line {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (seen, ()) = tokio::join!(peek_until(&server, inspect_http), send);
        assert_eq!(seen.unwrap(), Some(HttpKind::Http11));
        let mut read = [0; 16];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, line);
    }

    #[tokio::test]
    async fn a_peer_that_stops_half_way_is_noticed() {
        for sent in [&b""[..], b"GET / HT"] {
            let (mut client, server) = pair().await;
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            let seen = timeout(Duration::from_secs(5), peek_until(&server, inspect_http))
                .await
                .unwrap();
            assert!(
                matches!(seen, Err(PeekError::Closed)),
                "{seen:?} after {sent:?}"
            );
        }
    }
}
