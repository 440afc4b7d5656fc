//! A client's connection: plain, or under TLS with a certificate of the test's.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::case::Tls;

/// A blocking connection with a limit for each read.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Connects; certificates are those in `folder`.
    pub(crate) fn connect(
        address: SocketAddr,
        tls: Option<&Tls>,
        folder: &Path,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        socket.set_nodelay(true)?;
        // A proxy that reads no more must not hold the test up.
        socket.set_write_timeout(Some(Duration::from_secs(2)))?;
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        let mut config = crate::certificates::client(folder, tls.client.as_deref());
        config.enable_sni = tls.sni.is_some();
        config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into()).collect();
        let name = tls.sni.clone().unwrap_or_else(|| "server.test".into());
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// Connects to a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_write_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self::Unix(socket))
    }

    pub(crate) fn set_timeout(&self, limit: Duration) {
        // A socket that is gone says so when it is read.
        let _ = match self {
            Self::Plain(socket) => socket.set_read_timeout(Some(limit)),
            Self::Unix(socket) => socket.set_read_timeout(Some(limit)),
            Self::Tls(stream) => stream.get_ref().set_read_timeout(Some(limit)),
        };
    }

    /// Says that nothing more comes.
    pub(crate) fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.get_ref().shutdown(Shutdown::Write),
        };
    }

    /// Ends with a reset.
    pub(crate) fn reset(self) {
        let socket = match &self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
            // These know no resets.
            Self::Unix(_) => return,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    pub(crate) fn is_timeout(error: &io::Error) -> bool {
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Unix(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
