//! Listeners: TLS, HTTP/1.1 and HTTP/2, and how serving stops.
//!
//! Invariant: every connection is a task of one `JoinSet`; dropping it (or the end of the grace period) ends them all.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{User, user_of};
use crate::core::Core;
use crate::http;

/// From the TCP handshake to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From the first byte of a request head to its last.
const HEAD: Duration = Duration::from_secs(30);
/// Largest request head, bytes.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;
/// Requests of one HTTP/2 connection at a time: kube-apiserver's default.
const STREAMS: u32 = 250;
/// Requests may take this long to end once serving stops.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until `stop`.
pub(crate) async fn serve(
    core: Arc<Core>,
    listeners: Vec<TcpListener>,
    tls: Arc<rustls::ServerConfig>,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let sessions = TaskTracker::new();
    let serving = Serving {
        connections: Arc::new(Semaphore::new(core.config.limits.connections)),
        core,
        acceptor: TlsAcceptor::from(tls),
        stopping: stopping.clone(),
        sessions: sessions.clone(),
    };
    // Dropping this future ends the sessions too.
    let _guard = stopping.clone().drop_guard();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        accepting.spawn(serving.clone().accept(listener));
    }
    drop(serving);
    stop.await;
    stopping.cancel();
    sessions.close();
    let ended = async {
        while accepting.join_next().await.is_some() {}
        sessions.wait().await;
    };
    if timeout(GRACE, ended).await.is_err() {
        tracing::debug!("connections cut at the end of the grace period");
    }
    Ok(())
}

#[derive(Clone)]
struct Serving {
    core: Arc<Core>,
    acceptor: TlsAcceptor,
    connections: Arc<Semaphore>,
    stopping: CancellationToken,
    sessions: TaskTracker,
}

impl Serving {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let mut open = JoinSet::new();
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                biased; // Stopping wins over new connections.
                () = self.stopping.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = self.clone();
                    open.spawn(async move {
                        serving.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for some to close.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while open.try_join_next().is_some() {}
        }
        while open.join_next().await.is_some() {}
    }

    async fn connection(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(Ok(stream)) = timeout(HANDSHAKE, self.acceptor.accept(stream)).await else {
            return;
        };
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates();
        let user: Option<Arc<User>> = certificates
            .and_then(|chain| chain.first())
            .and_then(user_of)
            .map(Arc::new);
        let core = self.core.clone();
        let stopping = self.stopping.clone();
        let sessions = self.sessions.clone();
        let service = service_fn(move |request| {
            http::handle(
                core.clone(),
                user.clone(),
                stopping.clone(),
                sessions.clone(),
                request,
            )
        });
        let builder = builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    builder
}
