//! The life of a connection on a worker, up to the point where a protocol takes over.
//!
//! Phases: accept, listener filters (original destination, PROXY header, TLS and HTTP sniffing), hand-over to another
//! listener, filter chain, TLS handshake, network filters, terminal.
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use malla_proxy_config::filter_chain::Terminal;
use malla_proxy_config::listener::ListenerFilterKind;
use malla_proxy_config::overload::{ActionKind, Timer};
use malla_runtime::socket::{canonical, original_destination, set_keepalive};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::active::{Active, ActiveChain};
use super::balance::Share;
use super::chain::Facts;
use super::listening::{Detached, Listener};
use super::log::ConnectionLog;
use super::manager::Command;
use super::sniff::{
    PeekError, Verdict as Sniffed, inspect_http, inspect_proxy_protocol, inspect_tls, peek_until,
};
use crate::connection::{Connection, End, Origin, TlsInfo};
use crate::overload::Pressure;
use crate::policy::network::Verdict;
use crate::telemetry::odometer::Odometer;
use crate::telemetry::stats::ListenerStats;
use crate::transport::{Io, Socket};
use crate::upstream::connect::keepalive;
use crate::worker::{ConnectionSlot, Worker};

/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a handshake may go on once its chain drains.
const DRAIN_HANDSHAKE: Duration = Duration::from_secs(1);

/// What a Unix socket has in place of an address.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::BROADCAST), 0);

/// What is being learned about a connection before its chain is chosen.
#[derive(Debug, Clone)]
struct Arrival {
    local: End,
    direct_local: End,
    restored: bool,
    origin: Option<Arc<Origin>>,
    remote: End,
    direct_remote: End,
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
    socket: Listener,
    current: Rc<std::cell::RefCell<Arc<Active>>>,
    stop: CancellationToken,
) {
    let mut deafness = worker.pressure().deafness();
    loop {
        let accepted = tokio::select! {
            biased; // No waiting for more once told to stop.
            () = stop.cancelled() => break,
            () = turned(&mut deafness, true) => None,
            accepted = socket.accept() => Some(accepted),
        };
        let Some(accepted) = accepted else {
            tokio::select! {
                () = stop.cancelled() => break,
                () = turned(&mut deafness, false) => continue,
            }
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

/// Waits until accepting is to stop, or to go on.
async fn turned(deafness: &mut watch::Receiver<bool>, wanted: bool) {
    if deafness.wait_for(|deaf| *deaf == wanted).await.is_err() {
        // Nobody is left to say so.
        std::future::pending().await
    }
}

fn begin(worker: &Worker, current: &std::cell::RefCell<Arc<Active>>, stream: Socket, peer: End) {
    let listener = Arc::clone(&current.borrow());
    let limit = listener.config.max_connections;
    if worker
        .pressure()
        .acts(ActionKind::RejectIncomingConnections)
    {
        let stats = worker.stats().listener(&listener.stat_name);
        stats.downstream_cx_overload_reject.inc();
        return;
    }
    let over = limit.is_some_and(|limit| listener.open.load(Ordering::Relaxed) >= limit);
    let slot = if over {
        None
    } else {
        worker.admit_connection()
    };
    let Some(slot) = slot else {
        worker
            .stats()
            .listener(&listener.stat_name)
            .downstream_cx_overflow
            .inc();
        return;
    };
    listener.open.fetch_add(1, Ordering::Relaxed);
    let open = OpenConnection(Arc::clone(&listener.open));
    let share = listener.balance.as_ref().map(|balance| balance.pick());
    let counted = Counted {
        _slot: slot,
        _open: open,
        share,
    };
    let elsewhere = counted
        .share
        .as_ref()
        .filter(|share| share.worker() != worker.index())
        .and_then(Share::tell);
    match elsewhere {
        None => start(worker, listener, stream, peer, counted),
        Some(other) => match Detached::of(stream) {
            Ok(stream) => {
                let command = Command::Take(Box::new(Accepted {
                    listener,
                    stream,
                    peer,
                    counted,
                }));
                // A worker that has gone takes nobody; dropping closes it.
                let _ = other.send(command);
            }
            Err(error) => tracing::warn!(%error, "a connection cannot change its worker"),
        },
    }
}

/// Serves a connection that another worker has accepted.
pub fn take(worker: &Worker, accepted: Accepted) {
    let Accepted {
        listener,
        stream,
        peer,
        counted,
    } = accepted;
    match stream.attach() {
        Ok(stream) => start(worker, listener, stream, peer, counted),
        Err(error) => tracing::warn!(%error, "a connection cannot change its worker"),
    }
}

fn start(worker: &Worker, listener: Arc<Active>, stream: Socket, peer: End, counted: Counted) {
    let work = worker.clone();
    worker.tasks().spawn_local(Span::none(), async move {
        let _counted = counted;
        serve(work, listener, stream, peer).await;
    });
}

/// A connection on its way to the worker that is to serve it.
#[derive(Debug)]
pub struct Accepted {
    listener: Arc<Active>,
    stream: Detached,
    peer: End,
    counted: Counted,
}

/// Where an open connection is counted; given back by its drop.
#[derive(Debug)]
struct Counted {
    _slot: ConnectionSlot,
    _open: OpenConnection,
    share: Option<Share>,
}

/// One connection of a listener; given back by its drop.
#[derive(Debug)]
struct OpenConnection(Arc<AtomicU64>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The peer went away between connecting and being accepted.
fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

async fn serve(worker: Worker, listener: Arc<Active>, stream: Socket, peer: End) {
    let stats = worker.stats().listener(&listener.stat_name);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let _gauge = ActiveGauge(Arc::clone(&stats), Instant::now());
    match arrive(&worker, listener, stream, peer.clone(), &stats).await {
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

struct ActiveGauge(Arc<ListenerStats>, Instant);

impl Drop for ActiveGauge {
    fn drop(&mut self) {
        self.0.downstream_cx_active.dec();
        self.0.downstream_cx_destroy.inc();
        self.0.downstream_cx_length_ms.record(self.1.elapsed());
    }
}

/// Runs the listener filters, also those of the listener that the connection is handed over to.
async fn arrive(
    worker: &Worker,
    listener: Arc<Active>,
    mut stream: Socket,
    peer: End,
    stats: &ListenerStats,
) -> Result<(Arc<Active>, Socket, Arrival), Refusal> {
    let local = match &stream {
        Socket::Tcp(stream) => {
            // HTTP and TLS send in small pieces whose delay would be felt.
            stream.set_nodelay(true)?;
            if let Some(config) = listener.config.keepalive {
                set_keepalive(stream, keepalive(config))
                    .map_err(|error| std::io::Error::other(error.to_string()))?;
            }
            End::Ip(canonical(stream.local_addr()?))
        }
        // Its own name, too.
        Socket::Unix(_) => peer.clone(),
    };
    let mut arrival = Arrival {
        local: local.clone(),
        direct_local: local,
        restored: false,
        origin: None,
        remote: peer.clone(),
        direct_remote: peer,
        is_tls: false,
        server_name: String::new(),
        protocols: Vec::new(),
        accepted: Instant::now(),
        accepted_at: SystemTime::now(),
    };
    look(&listener, &mut stream, &mut arrival, stats).await?;
    if !(listener.config.use_original_dst && arrival.restored) {
        return Ok((listener, stream, arrival));
    }
    let table = worker.listeners();
    let Some(other) = arrival
        .local
        .socket()
        .and_then(|local| table.find(local))
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
    stream: &mut Socket,
    arrival: &mut Arrival,
    stats: &ListenerStats,
) -> Result<(), Refusal> {
    let config = &listener.config;
    let work = async {
        for filter in &listener.filters {
            if filter
                .disabled
                .as_ref()
                .is_some_and(|ports| ports.matches(arrival.local.port().unwrap_or(0)))
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
    stream: &mut Socket,
    arrival: &mut Arrival,
) -> Result<(), Refusal> {
    match kind {
        ListenerFilterKind::OriginalDst => {
            if let Socket::Tcp(stream) = stream
                && let Some(original) = original_destination(stream)?
            {
                arrival.local = End::Ip(original);
                arrival.restored = true;
            }
        }
        ListenerFilterKind::OriginalSrc { bind_port, mark } => {
            arrival.origin = arrival.remote.socket().map(|mut source| {
                if !bind_port {
                    source.set_port(0);
                }
                let mark = (mark != 0).then_some(mark);
                Arc::new(Origin { source, mark })
            });
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
        ListenerFilterKind::ProxyProtocol { optional, versions } => {
            let inspect = |prefix: &[u8]| match prefix.first() {
                // A version that is not allowed is not looked for.
                Some(b'P') if !versions[0] => Sniffed::IsNot,
                Some(b'\r') if !versions[1] => Sniffed::IsNot,
                _ => inspect_proxy_protocol(prefix),
            };
            match peek_until(stream, inspect).await? {
                Some(header) => {
                    let mut read = vec![0; header.length];
                    stream.read_exact(&mut read).await?;
                    if let Some((source, destination)) = header.addresses {
                        arrival.remote = End::Ip(canonical(source));
                        let destination = End::Ip(canonical(destination));
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
    stream: Socket,
    arrival: Arrival,
    stats: &ListenerStats,
) {
    // Chains match Unix sockets by the same rules as an address that nobody has.
    let address = |end: &End| end.socket().unwrap_or(NOWHERE);
    let facts = Facts {
        destination: address(&arrival.local),
        source: address(&arrival.remote),
        direct_source: address(&arrival.direct_remote),
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

/// What is known of a connection before its handshake.
fn connection_of(
    worker: &Worker,
    listener: &Active,
    chain: &ActiveChain,
    arrival: Arrival,
) -> Connection {
    let server_name = (!arrival.server_name.is_empty()).then(|| arrival.server_name.into());
    Connection {
        id: worker.next_connection_id(),
        listener: Arc::clone(&listener.config),
        chain: Arc::clone(&chain.config),
        local: arrival.local,
        direct_local: arrival.direct_local,
        local_restored: arrival.restored,
        remote: arrival.remote,
        direct_remote: arrival.direct_remote,
        server_name,
        tls: None,
        accepted: arrival.accepted,
        accepted_at: arrival.accepted_at,
        origin: arrival.origin,
        socket: None,
        state: None,
    }
}

async fn through_chain(
    worker: Worker,
    listener: &Active,
    chain: &Arc<ActiveChain>,
    stream: Socket,
    arrival: Arrival,
    stats: &ListenerStats,
) {
    let measured = match &stream {
        Socket::Tcp(tcp) if chain.measured => tcp.as_fd().try_clone_to_owned().ok(),
        _ => None,
    };
    let mut failure = None;
    let secured = secure(&worker, chain, stream, &arrival, stats, &mut failure).await;
    let Some((io, tls)) = secured else {
        if let Some(failure) = failure.filter(|_| !listener.config.access_logs.is_empty()) {
            let connection = Rc::new(connection_of(&worker, listener, chain, arrival));
            let nothing = Odometer::default();
            worker
                .handlers()
                .ended(&worker, &connection, &nothing, Some(&failure));
        }
        return;
    };
    let mut connection = connection_of(&worker, listener, chain, arrival);
    connection.socket = measured.map(Arc::new);
    if let Some((info, name)) = tls {
        connection.server_name = name.or(connection.server_name);
        connection.tls = Some(info);
    }
    let connection = Rc::new(connection);
    let (io, _log) = ConnectionLog::begin(&worker, listener, &connection, io);
    let admission = match worker.handlers().admit(&worker, &connection).await {
        Verdict::Allowed(admission) => admission,
        Verdict::Denied(denial) => {
            tracing::debug!(peer = %connection.remote, reason = denial.reason, "a connection was denied");
            if let Some(delay) = denial.delay {
                // Until then, or until the client goes: it is counted no longer than it is there.
                let _ = timeout(delay, until_gone(io)).await;
            }
            return;
        }
    };
    let connection = match &admission.notes {
        None => connection,
        Some(notes) => Rc::new(Connection {
            state: Some(Arc::clone(notes)),
            ..Connection::clone(&connection)
        }),
    };
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
            crate::tcp::serve::serve(&worker, io, &connection, proxy, &admission).await;
        }
        Terminal::Close => {}
    }
}

/// What a client that waits to be closed may send before nobody reads it any more, bytes.
const MOST_IGNORED: usize = 64 * 1024;

/// Waits until the client closes, and ignores what it says.
async fn until_gone(mut io: Io) {
    let mut buffer = [0; 1024];
    let mut ignored = 0;
    while ignored < MOST_IGNORED {
        match io.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => ignored += bytes,
        }
    }
    std::future::pending().await
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
async fn handshake_overdue(chain: &ActiveChain, accepted: Instant, pressure: &Pressure) -> Overdue {
    let (idle, longest) = match &chain.config.terminal {
        Terminal::Http(manager) => {
            let common = &manager.common;
            (common.idle_timeout, common.max_connection_duration)
        }
        Terminal::Tcp(proxy) => (proxy.idle_timeout, proxy.max_connection_duration),
        Terminal::Close => (None, None),
    };
    let own = chain.config.transport_connect_timeout;
    let own = own.map(|limit| pressure.reduced(Timer::Handshake, limit));
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
    stream: Socket,
    arrival: &Arrival,
    stats: &ListenerStats,
    failure: &mut Option<String>,
) -> Option<(Io, Option<(TlsInfo, Option<Arc<str>>)>)> {
    let Some(acceptor) = &chain.acceptor else {
        return Some((Io::Plain(stream), None));
    };
    let snapshot = worker.live().load_full();
    let handshake = acceptor.accept(stream, &snapshot);
    let peer = &arrival.direct_remote;
    let result = tokio::select! {
        biased; // A handshake that is done counts, however late.
        result = handshake => result,
        limit = handshake_overdue(chain, arrival.accepted, worker.pressure()) => {
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
            let words = source
                .unwrap_or_else(|| error.to_string())
                .replace(' ', "_");
            *failure = Some(format!("TLS_error:|{words}:TLS_error_end"));
            None
        }
    }
}
