//! The life of a connection on a worker, up to the point where a protocol takes over.
//!
//! Phases: accept, listener filters (original destination, PROXY header, TLS and HTTP sniffing), hand-over to another
//! listener, filter chain, TLS handshake, network filters, terminal.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use malla_proxy_config::filter_chain::Terminal;
use malla_proxy_config::listener::ListenerFilterKind;
use malla_runtime::socket::{canonical, original_destination, set_keepalive};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::active::{Active, ActiveChain};
use super::chain::Facts;
use super::sniff::{PeekError, inspect_http, inspect_proxy_protocol, inspect_tls, peek_until};
use crate::connection::{Connection, TlsInfo};
use crate::telemetry::stats::ListenerStats;
use crate::transport::{Io, Socket};
use crate::upstream::connect::keepalive;
use crate::worker::Worker;

/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a handshake may go on once its chain drains.
const DRAIN_HANDSHAKE: Duration = Duration::from_secs(1);

/// What is being learned about a connection before its chain is chosen.
#[derive(Debug, Clone)]
struct Arrival {
    local: SocketAddr,
    direct_local: SocketAddr,
    restored: bool,
    remote: SocketAddr,
    direct_remote: SocketAddr,
    is_tls: bool,
    server_name: String,
    protocols: Vec<String>,
    accepted: Instant,
    accepted_at: SystemTime,
}

/// Why a connection got no further.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the listener filters took too long")]
    Timeout,
    #[error(transparent)]
    Peek(#[from] PeekError),
    #[error("no PROXY protocol header (is the peer a load balancer that sends one?)")]
    NoProxyHeader,
    #[error("cannot use the socket")]
    Io(#[from] std::io::Error),
}

/// Accepts until told to stop; each connection becomes a task of the worker.
pub async fn accept_loop(
    worker: Worker,
    socket: TcpListener,
    current: Rc<std::cell::RefCell<Arc<Active>>>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased; // No waiting for more once told to stop.
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => begin(&worker, &current, stream, peer),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                let listener = current.borrow().config.name.clone();
                tracing::warn!(%listener, %error, "accepting failed (is the limit of open files too low?)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The kernel has completed these handshakes already; closing the socket would reset them.
    while let Some(Ok((stream, peer))) = socket.accept().now_or_never() {
        begin(&worker, &current, stream, peer);
    }
}

fn begin(
    worker: &Worker,
    current: &std::cell::RefCell<Arc<Active>>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let listener = Arc::clone(&current.borrow());
    let Some(slot) = worker.admit_connection() else {
        worker
            .stats()
            .listener(&listener.stat_name)
            .downstream_cx_overflow
            .inc();
        return;
    };
    let work = worker.clone();
    worker.tasks().spawn_local(Span::none(), async move {
        let _slot = slot;
        serve(work, listener, stream, peer).await;
    });
}

/// The peer went away between connecting and being accepted.
fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

async fn serve(worker: Worker, listener: Arc<Active>, stream: TcpStream, peer: SocketAddr) {
    let stats = worker.stats().listener(&listener.stat_name);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let _gauge = ActiveGauge(Arc::clone(&stats));
    match arrive(&worker, listener, stream, peer, &stats).await {
        Ok((listener, stream, arrival)) => {
            Box::pin(enter_chain(worker, listener, stream, arrival, &stats)).await;
        }
        Err(refusal) => {
            if matches!(refusal, Refusal::Timeout) {
                stats.downstream_pre_cx_timeout.inc();
            }
            tracing::debug!(%peer, %refusal, "connection refused before its chain was known");
        }
    }
}

struct ActiveGauge(Arc<ListenerStats>);

impl Drop for ActiveGauge {
    fn drop(&mut self) {
        self.0.downstream_cx_active.dec();
        self.0.downstream_cx_destroy.inc();
    }
}

/// Runs the listener filters, also those of the listener that the connection is handed over to.
async fn arrive(
    worker: &Worker,
    listener: Arc<Active>,
    mut stream: TcpStream,
    peer: SocketAddr,
    stats: &ListenerStats,
) -> Result<(Arc<Active>, TcpStream, Arrival), Refusal> {
    // HTTP and TLS send in small pieces whose delay would be felt.
    stream.set_nodelay(true)?;
    let local = canonical(stream.local_addr()?);
    let mut arrival = Arrival {
        local,
        direct_local: local,
        restored: false,
        remote: canonical(peer),
        direct_remote: canonical(peer),
        is_tls: false,
        server_name: String::new(),
        protocols: Vec::new(),
        accepted: Instant::now(),
        accepted_at: SystemTime::now(),
    };
    if let Some(config) = listener.config.keepalive {
        set_keepalive(&stream, keepalive(config))
            .map_err(|error| std::io::Error::other(error.to_string()))?;
    }
    look(&listener, &mut stream, &mut arrival, stats).await?;
    if !(listener.config.use_original_dst && arrival.restored) {
        return Ok((listener, stream, arrival));
    }
    let table = worker.listeners();
    let Some(other) = table
        .find(arrival.local)
        .filter(|other| !Arc::ptr_eq(other, &listener))
        .cloned()
    else {
        return Ok((listener, stream, arrival));
    };
    let other_stats = worker.stats().listener(&other.stat_name);
    look(&other, &mut stream, &mut arrival, &other_stats).await?;
    Ok((other, stream, arrival))
}

/// The listener filters of one listener, in order, within its timeout.
async fn look(
    listener: &Active,
    stream: &mut TcpStream,
    arrival: &mut Arrival,
    stats: &ListenerStats,
) -> Result<(), Refusal> {
    let config = &listener.config;
    let work = async {
        for filter in &listener.filters {
            if filter
                .disabled
                .as_ref()
                .is_some_and(|ports| ports.matches(arrival.local.port()))
            {
                continue;
            }
            run_filter(filter.kind, stream, arrival).await?;
        }
        Ok(())
    };
    match config.filters_timeout {
        None => work.await,
        Some(limit) => match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) if config.continue_on_timeout => {
                stats.downstream_pre_cx_timeout.inc();
                Ok(())
            }
            Err(_) => Err(Refusal::Timeout),
        },
    }
}

async fn run_filter(
    kind: ListenerFilterKind,
    stream: &mut TcpStream,
    arrival: &mut Arrival,
) -> Result<(), Refusal> {
    match kind {
        ListenerFilterKind::OriginalDst => {
            if let Some(original) = original_destination(stream)? {
                arrival.local = original;
                arrival.restored = true;
            }
        }
        ListenerFilterKind::TlsInspector => {
            if let Some(hello) = peek_until(stream, inspect_tls).await? {
                arrival.is_tls = true;
                arrival.server_name = hello.server_name;
                arrival.protocols = hello.alpn;
            }
        }
        // TLS hides HTTP: nothing to see there.
        ListenerFilterKind::HttpInspector if arrival.is_tls => {}
        ListenerFilterKind::HttpInspector => {
            if let Some(http) = peek_until(stream, inspect_http).await? {
                arrival.protocols = vec![http.name().to_owned()];
            }
        }
        ListenerFilterKind::ProxyProtocol { optional } => {
            match peek_until(stream, inspect_proxy_protocol).await? {
                Some(header) => {
                    let mut read = vec![0; header.length];
                    stream.read_exact(&mut read).await?;
                    if let Some((source, destination)) = header.addresses {
                        arrival.remote = canonical(source);
                        let destination = canonical(destination);
                        arrival.restored |= destination != arrival.local;
                        arrival.local = destination;
                    }
                }
                None if optional => {}
                None => return Err(Refusal::NoProxyHeader),
            }
        }
    }
    Ok(())
}

async fn enter_chain(
    worker: Worker,
    listener: Arc<Active>,
    stream: TcpStream,
    arrival: Arrival,
    stats: &ListenerStats,
) {
    let facts = Facts {
        destination: arrival.local,
        source: arrival.remote,
        direct_source: arrival.direct_remote,
        server_name: &arrival.server_name,
        transport: if arrival.is_tls { "tls" } else { "raw_buffer" },
        application_protocols: &arrival.protocols,
    };
    let Some(chain) = listener.chain_for(&facts).cloned() else {
        stats.no_filter_chain_match.inc();
        tracing::debug!(listener = %listener.config.name, ?facts, "no filter chain matches");
        worker
            .handlers()
            .unmatched(&worker, &listener.config, arrival.local, arrival.remote);
        return;
    };
    // From here on the chain's drain governs: it waits for us, and may cut us off.
    let _hold = chain.drain.hold();
    tokio::select! {
        biased; // A connection whose time is up must not be served one byte more.
        () = chain.drain.killed() => {}
        () = through_chain(worker, &listener, &chain, stream, arrival, stats) => {}
    }
}

async fn through_chain(
    worker: Worker,
    listener: &Active,
    chain: &Arc<ActiveChain>,
    stream: TcpStream,
    arrival: Arrival,
    stats: &ListenerStats,
) {
    let Some((io, tls)) = secure(&worker, chain, stream, &arrival, stats).await else {
        return;
    };
    let from_tls = tls.as_ref().map(|(_, name)| name.clone());
    let server_name = from_tls
        .flatten()
        .or_else(|| (!arrival.server_name.is_empty()).then(|| arrival.server_name.into()));
    let connection = Rc::new(Connection {
        id: worker.next_connection_id(),
        listener: Arc::clone(&listener.config),
        chain: Arc::clone(&chain.config),
        local: arrival.local,
        direct_local: arrival.direct_local,
        local_restored: arrival.restored,
        remote: arrival.remote,
        direct_remote: arrival.direct_remote,
        server_name,
        tls: tls.map(|(info, _)| info),
        accepted: arrival.accepted,
        accepted_at: arrival.accepted_at,
    });
    if !worker.handlers().authorise(&connection).await {
        return;
    }
    match &chain.config.terminal {
        Terminal::Http(manager) => {
            worker
                .handlers()
                .http(
                    &worker,
                    io,
                    connection,
                    Arc::clone(manager),
                    chain.drain.clone(),
                )
                .await;
        }
        Terminal::Tcp(proxy) => {
            crate::tcp::serve::serve(&worker, io, &connection, proxy).await;
        }
        Terminal::Close => {}
    }
}

/// The limit that a handshake met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Handshake,
    Idle,
    Connection,
    Drain,
}

/// Waits until a connection has been at its handshake for too long: by the chain's limit for that, or by those of what
/// the chain ends in, for which a connection that shakes hands is an idle one.
async fn handshake_overdue(chain: &ActiveChain, accepted: Instant) -> Overdue {
    let (idle, longest) = match &chain.config.terminal {
        Terminal::Http(manager) => {
            let common = &manager.common;
            (common.idle_timeout, common.max_connection_duration)
        }
        Terminal::Tcp(proxy) => (proxy.idle_timeout, proxy.max_connection_duration),
        Terminal::Close => (None, None),
    };
    let own = chain.config.transport_connect_timeout;
    let limits = [
        own.map(|limit| (Instant::now() + limit, Overdue::Handshake)),
        idle.map(|limit| (accepted + limit, Overdue::Idle)),
        longest.map(|limit| (accepted + limit, Overdue::Connection)),
    ];
    let first = limits.into_iter().flatten().min_by_key(|(at, _)| *at);
    let limit = async {
        match first {
            Some((at, limit)) => {
                sleep_until(at).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    let drained = async {
        chain.drain.draining().await;
        tokio::time::sleep(DRAIN_HANDSHAKE).await;
        Overdue::Drain
    };
    tokio::select! {
        limit = limit => limit,
        drained = drained => drained,
    }
}

/// The TLS handshake, where the chain has one. `None` if it failed, which is counted and logged here.
async fn secure(
    worker: &Worker,
    chain: &ActiveChain,
    stream: TcpStream,
    arrival: &Arrival,
    stats: &ListenerStats,
) -> Option<(Io, Option<(TlsInfo, Option<Arc<str>>)>)> {
    let Some(acceptor) = &chain.acceptor else {
        return Some((Io::Plain(Socket::Tcp(stream)), None));
    };
    let snapshot = worker.live().load_full();
    let handshake = acceptor.accept(Socket::Tcp(stream), &snapshot);
    let peer = arrival.direct_remote;
    let result = tokio::select! {
        biased; // A handshake that is done counts, however late.
        result = handshake => result,
        limit = handshake_overdue(chain, arrival.accepted) => {
            if limit == Overdue::Handshake {
                stats.downstream_cx_transport_socket_connect_timeout.inc();
            }
            tracing::debug!(%peer, ?limit, "TLS handshake took too long");
            return None;
        }
    };
    match result {
        Ok((stream, info)) => {
            stats.ssl_handshake.inc();
            let name = match &*stream {
                tokio_rustls::TlsStream::Server(stream) => stream
                    .get_ref()
                    .1
                    .server_name()
                    .map(str::to_ascii_lowercase),
                tokio_rustls::TlsStream::Client(_) => None,
            };
            Some((Io::Tls(stream), Some((info, name.map(Arc::from)))))
        }
        Err(error) => {
            stats.ssl_connection_error.inc();
            if error.is_missing_certificate() {
                stats.ssl_fail_verify_no_cert.inc();
            } else if error.is_bad_certificate() {
                stats.ssl_fail_verify_error.inc();
            }
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(%peer, %error, source, "TLS handshake with a client failed");
            None
        }
    }
}
