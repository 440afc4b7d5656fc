//! Bytes through an HTTP proxy: asks for a tunnel (CONNECT or POST) and makes a stream of it (`tunneling_config`).
//!
//! With CONNECT over HTTP/1 the connection is the tunnel's own, and behind the proxy's answer it is a plain one again. Else
//! the tunnel is a request's body and its answer's, on a connection of the pool.
use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use malla_proxy_config::cluster::UpstreamProtocol;
use malla_proxy_config::tcp_proxy::Tunnel;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::Side;
use crate::connection::Connection;
use crate::http::body::RequestBody;
use crate::http::rewrite::edit;
use crate::telemetry::access_log;
use crate::telemetry::record::Record;
use crate::transport::Io;
use crate::upstream::body::UpstreamBody;
use crate::upstream::connect::Purpose;
use crate::upstream::worker::{Handle, TcpUpstream};
use crate::upstream::{Attempt, Choice, ClusterHandle, SendError};
use crate::worker::Worker;

/// Longest head of an answer, bytes (Envoy's default).
const MOST_HEAD: usize = 60 * 1024;
/// Most fields of it.
const MOST_FIELDS: usize = 100;
/// Pieces of a POST under way at once; each is at most a worker's copy buffer.
const PIECES: usize = 4;

/// The way to an endpoint.
#[derive(Debug)]
pub(super) enum Way {
    /// A connection, and bytes that came behind the head of a tunnel's answer.
    Direct(Box<TcpUpstream>, Vec<u8>),
    /// A stream of a shared connection.
    Stream(Box<dyn Stream>),
}

/// A stream of a shared connection; its drop ends it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Debug {}

impl Stream for Posted {}
impl Stream for Connected {}

impl Side for Box<dyn Stream> {
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

/// A request for a tunnel.
#[derive(Debug)]
pub(super) struct Ask {
    /// The path of a POST; else it is a CONNECT.
    post: Option<Uri>,
    /// `Host` first.
    headers: HeaderMap,
}

impl Ask {
    /// The request of a connection, and the id made for it, if one is wanted.
    pub(super) fn new(
        tunnel: &Tunnel,
        worker: &Worker,
        connection: &Connection,
    ) -> (Self, Option<String>) {
        let accepted = (connection.accepted, connection.accepted_at);
        let record = Record::begin(Rc::new(connection.clone()), None, accepted.0, accepted.1);
        let source = access_log::source(&record, worker.handlers().environment());
        let mut headers = HeaderMap::new();
        let host = access_log::header_value(&tunnel.host, &source);
        headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("")));
        let id = tunnel.request_id.as_ref().and_then(|name| {
            let id = uuid::Uuid::new_v4().hyphenated().to_string();
            headers.insert(name, HeaderValue::from_str(&id).ok()?);
            Some(id)
        });
        let added = tunnel.headers.iter().filter(|add| add.name != HOST);
        edit(&mut headers, added, |_, format| {
            access_log::header_value(format, &source)
        });
        let post = tunnel.post.clone().map(Uri::from);
        (Self { post, headers }, id)
    }

    /// Asks an endpoint of the cluster.
    pub(super) async fn open(
        self,
        handle: &Handle,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<Way, SendError> {
        let protocol = handle.config().http.protocol;
        let http1 = matches!(
            protocol,
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream
        );
        if !http1 || self.post.is_some() {
            return self.by_stream(http1, handle, choice, attempt).await;
        }
        let mut upstream = handle.connect_tcp(Purpose::Http1, choice, attempt).await?;
        handle.stats().upstream_cx_http1_total.inc();
        handle.stats().upstream_rq_total.inc();
        match self.by_hand(&mut upstream.connected.io).await {
            Ok((status, early)) if is_success(status) => Ok(Way::Direct(Box::new(upstream), early)),
            Ok((status, _)) => Err(denied(status, attempt)),
            Err(error) => Err(refused(&error.to_string())),
        }
    }

    /// Asks on a connection of the tunnel's own. Returns the status, and what came behind the head of the answer.
    async fn by_hand(&self, io: &mut Io) -> io::Result<(u16, Vec<u8>)> {
        io.write_all(&self.head()).await?;
        io.flush().await?;
        let mut read = Vec::new();
        loop {
            if io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while let Some((status, length)) = parse(&read)? {
                let rest = read.split_off(length);
                match status {
                    // More is to come; a switch of protocols is no agreement.
                    100 | 102..200 => read = rest,
                    _ => return Ok((status, rest)),
                }
            }
            if read.len() > MOST_HEAD {
                return Err(io::Error::other("the head of the answer is too long"));
            }
        }
    }

    /// The head of a CONNECT over HTTP/1.
    fn head(&self) -> Vec<u8> {
        let host = self
            .headers
            .get(HOST)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let mut out = [b"CONNECT ", host, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.headers {
            out.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        out.extend(b"\r\n");
        out
    }

    /// Asks on a connection of the pool.
    async fn by_stream(
        self,
        http1: bool,
        handle: &Handle,
        choice: &Choice<'_>,
        attempt: &mut Attempt,
    ) -> Result<Way, SendError> {
        let (bytes, pipe) = mpsc::channel(PIECES);
        let posts = self.post.is_some();
        let body = if posts {
            RequestBody::piped(pipe)
        } else {
            RequestBody::empty()
        };
        let mut request = Request::new(body);
        *request.version_mut() = if http1 {
            Version::HTTP_11
        } else {
            Version::HTTP_2
        };
        *request.method_mut() = if posts { Method::POST } else { Method::CONNECT };
        *request.uri_mut() = self.post.unwrap_or_default();
        *request.headers_mut() = self.headers;
        let choice = Choice {
            https: handle.config().transport.tls.is_some(),
            ..*choice
        };
        let sent = handle.send(request, &choice, attempt).await;
        let mut response = sent.map_err(|error| match error {
            SendError::Reset(reset) => refused(&reset.to_string()),
            other => other,
        })?;
        let status = response.status().as_u16();
        if !(status == 200 || http1 && is_success(status)) {
            return Err(denied(status, attempt));
        }
        if posts {
            return Ok(Way::Stream(Box::new(Posted {
                body: response.into_body(),
                read: Bytes::new(),
                feed: PollSender::new(bytes),
            })));
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let upgraded = upgraded.map_err(|error| refused(&error.to_string()))?;
        Ok(Way::Stream(Box::new(Connected {
            io: TokioIo::new(upgraded),
            _held: response.into_body(),
        })))
    }
}

/// A tunnel that did not come about counts as a connection that did not (Envoy's `onPoolFailure`).
pub(super) fn refused(reason: &str) -> SendError {
    tracing::debug!(%reason, "no tunnel");
    SendError::Connect {
        reason: String::new(),
        timeout: false,
    }
}

/// The proxy has answered, but not with a tunnel.
fn denied(status: u16, attempt: &mut Attempt) -> SendError {
    attempt.transport_failure = Some(format!("tunnel_response:{status}").into());
    refused("denied")
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Status and length of an answer's head, once it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let has = |name: &str| {
                let mut fields = response.headers.iter();
                fields.any(|field| field.name.eq_ignore_ascii_case(name))
            };
            if has("content-length") && has("transfer-encoding") {
                return Err(io::Error::other("two lengths")); // RFC 9112 §6.3
            }
            Ok(response.code.map(|code| (code, length)))
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// The bytes behind a CONNECT.
#[derive(Debug)]
struct Connected {
    io: TokioIo<Upgraded>,
    /// Keeps the stream counted.
    _held: UpstreamBody,
}

impl AsyncRead for Connected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The bytes of a POST and of its answer.
#[derive(Debug)]
struct Posted {
    body: UpstreamBody,
    /// Came and was not read yet.
    read: Bytes,
    feed: PollSender<Bytes>,
}

impl AsyncRead for Posted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Some(Ok(frame)) => this.read = frame.into_data().unwrap_or_default(),
            }
        }
        let count = this.read.len().min(buffer.remaining());
        buffer.put_slice(&this.read.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Posted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let feed = &mut self.get_mut().feed;
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(feed.poll_reserve(cx)).map_err(closed)?;
        feed.send_item(Bytes::copy_from_slice(bytes))
            .map_err(closed)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().feed.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, HeaderMap, parse};

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        for (bytes, want) in [
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r\nrest", Some((200, 19))),
            ("HTTP/1.1 407 No\r\na: b\r\n\r\n", Some((407, 25))),
        ] {
            assert_eq!(parse(bytes.as_bytes()).unwrap(), want, "{bytes:?}");
        }
        assert!(parse(b"SSH-2.0-server\r\n").is_err());
    }

    #[test]
    fn a_head_says_what_is_asked_for() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "a.example:443".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        let ask = Ask {
            post: None,
            headers,
        };
        let want = "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\nx-a: 1\r\n\r\n";
        assert_eq!(String::from_utf8(ask.head()).unwrap(), want);
    }
}
