//! A worker: one thread, one single-threaded runtime, its own sockets, pools and counters.
//!
//! Invariant: what a [`Worker`] holds is either its own (plain cells) or immutable and shared; nothing on the path of a
//! request takes a lock.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use malla_proxy_config::http_manager::HttpManager;
use malla_proxy_config::listener::Listener;
use malla_runtime::drain::{Drain, DrainWatch};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::connection::{Connection, End};
use crate::listener::accept::{accept_loop, take};
use crate::listener::active::{Active, Table};
use crate::listener::listening::Listener as Socket;
use crate::listener::manager::Command;
use crate::live::Live;
use crate::overload::Pressure;
use crate::peers::Own;
use crate::policy::network::Verdict;
use crate::tcp;
use crate::tcp::serve::TcpRecord;
use crate::telemetry::access_log::Environment;
use crate::telemetry::istio::{MeshMetrics, SeriesRegistry};
use crate::telemetry::odometer::Odometer;
use crate::telemetry::stats::WorkerStats;
use crate::transport::Io;
use crate::upstream::cluster::Clusters;
use crate::upstream::worker::WorkerClusters;

/// A future on the worker's thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the workers share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub live: Live,
    pub clusters: Clusters,
    pub stats: crate::telemetry::stats::Registry,
    pub table: Arc<ArcSwap<Table>>,
    pub connections: Arc<Connections>,
    /// Series of Istio's standard metrics.
    pub series: Arc<SeriesRegistry>,
    /// The workload this proxy is beside.
    pub own: Arc<Own>,
    /// The workers' runtimes, for telling how busy they are.
    pub runtimes: Arc<Mutex<BTreeMap<usize, Handle>>>,
    /// `/healthcheck/fail` was called.
    pub failing: Arc<AtomicBool>,
    /// What is done without while a resource is short.
    pub pressure: Arc<Pressure>,
}

impl Shared {
    /// The workers' runtimes by their index.
    pub fn runtimes(&self) -> BTreeMap<usize, Handle> {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.clone()
    }
}

/// Downstream connections over all workers.
#[derive(Debug)]
pub struct Connections {
    active: AtomicU64,
    /// No more than so many at once.
    maximum: AtomicU64,
}

impl Connections {
    pub fn limited(maximum: Option<u64>) -> Self {
        Self {
            active: AtomicU64::new(0),
            maximum: AtomicU64::new(maximum.unwrap_or(u64::MAX)),
        }
    }

    /// Lowers the limit to this.
    pub fn limit(&self, maximum: u64) {
        self.maximum.fetch_min(maximum, Ordering::Relaxed);
    }

    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }
}

/// One connection counted; given back by its drop.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<Connections>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What takes over where a filter chain says so.
pub trait Handlers: 'static {
    /// Serves HTTP until the connection ends or drains.
    fn http<'a>(
        &'a self,
        worker: &'a Worker,
        io: Io,
        connection: Rc<Connection>,
        manager: Arc<HttpManager>,
        drain: DrainWatch,
    ) -> LocalFuture<'a, ()>;

    /// Runs the chain's network filters.
    fn admit<'a>(
        &'a self,
        worker: &'a Worker,
        connection: &'a Connection,
    ) -> LocalFuture<'a, Verdict>;

    /// Writes the record of a finished TCP connection.
    fn log_tcp(&self, worker: &Worker, record: &TcpRecord<'_>);

    /// What formats know beside the record.
    fn environment(&self) -> &Environment;

    /// Writes the record of a connection that no chain took.
    fn unmatched(&self, worker: &Worker, listener: &Listener, local: End, remote: End);

    /// Writes the listener's record of a connection that has ended, or whose handshake has failed.
    fn ended(
        &self,
        worker: &Worker,
        connection: &Rc<Connection>,
        bytes: &Odometer,
        failure: Option<&str>,
    );
}

/// One worker, as its tasks see it; cheap to clone.
#[derive(Clone)]
pub struct Worker {
    inner: Rc<Inner>,
}

struct Inner {
    index: usize,
    shared: Shared,
    clusters: WorkerClusters,
    stats: WorkerStats,
    tasks: DrainWatch,
    buffer: tcp::Buffer,
    next_connection: Cell<u64>,
    metrics: Rc<MeshMetrics>,
    handlers: Box<dyn Handlers>,
    /// Connections to endpoints: idle ones must not keep a drain waiting, so they end with the worker instead.
    _upstream: Drain,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("index", &self.inner.index)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub fn new(
        index: usize,
        shared: Shared,
        tasks: DrainWatch,
        handlers: Box<dyn Handlers>,
    ) -> Self {
        let stats = shared.stats.worker(index);
        let upstream = Drain::new();
        let clusters = WorkerClusters::new(
            shared.clusters.clone(),
            shared.live.clone(),
            stats.clone(),
            upstream.watch(),
            index,
        );
        let inner = Inner {
            index,
            clusters,
            stats,
            tasks,
            buffer: tcp::Buffer::default(),
            next_connection: Cell::new((index as u64) << 48),
            metrics: MeshMetrics::new(Arc::clone(&shared.own), Arc::clone(&shared.series)),
            handlers,
            shared,
            _upstream: upstream,
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// Which of the workers this is, from 0.
    pub fn index(&self) -> usize {
        self.inner.index
    }

    pub fn live(&self) -> &Live {
        &self.inner.shared.live
    }

    pub fn clusters(&self) -> &WorkerClusters {
        &self.inner.clusters
    }

    pub fn stats(&self) -> &WorkerStats {
        &self.inner.stats
    }

    pub fn tasks(&self) -> &DrainWatch {
        &self.inner.tasks
    }

    pub fn buffer(&self) -> &tcp::Buffer {
        &self.inner.buffer
    }

    pub fn metrics(&self) -> &Rc<MeshMetrics> {
        &self.inner.metrics
    }

    pub fn handlers(&self) -> &dyn Handlers {
        &*self.inner.handlers
    }

    /// The listeners, for hand-over by original destination.
    pub fn listeners(&self) -> arc_swap::Guard<Arc<Table>> {
        self.inner.shared.table.load()
    }

    /// Counts one more connection, or refuses it.
    pub fn admit_connection(&self) -> Option<ConnectionSlot> {
        let connections = &self.inner.shared.connections;
        let before = connections.active.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot(Arc::clone(connections));
        let maximum = connections.maximum.load(Ordering::Relaxed);
        (before < maximum).then_some(slot)
    }

    /// What is done without while a resource is short.
    pub fn pressure(&self) -> &Arc<Pressure> {
        &self.inner.shared.pressure
    }

    /// Unique in this process.
    pub fn next_connection_id(&self) -> u64 {
        let id = self.inner.next_connection.get();
        self.inner.next_connection.set(id + 1);
        id
    }

    /// Obeys the listener manager until it is gone or the worker is killed.
    async fn obey(self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut sockets: HashMap<End, Accepting> = HashMap::new();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Serve {
                    address,
                    listener,
                    socket: None,
                } => {
                    if let Some(accepting) = sockets.get(&address) {
                        *accepting.listener.borrow_mut() = listener;
                    }
                }
                Command::Serve {
                    address,
                    listener,
                    socket: Some(socket),
                } => {
                    let socket = match Socket::new(socket, &address) {
                        Ok(socket) => socket,
                        Err(error) => {
                            tracing::error!(%address, %error, "a worker cannot use its listening socket");
                            continue;
                        }
                    };
                    let accepting = Accepting {
                        listener: Rc::new(RefCell::new(listener)),
                        stop: CancellationToken::new(),
                    };
                    let current = Rc::clone(&accepting.listener);
                    let accept = accept_loop(self.clone(), socket, current, accepting.stop.clone());
                    self.tasks().spawn_local(Span::none(), accept);
                    sockets.insert(address, accepting);
                }
                Command::Take(accepted) => take(&self, *accepted),
                Command::Stop { address } => {
                    if let Some(accepting) = sockets.remove(&address) {
                        accepting.stop.cancel();
                    }
                }
            }
        }
    }
}

/// One address the worker accepts on.
struct Accepting {
    /// Serves what is accepted from now on.
    listener: Rc<RefCell<Arc<Active>>>,
    stop: CancellationToken,
}

/// Makes a worker's handlers on its thread.
pub type MakeHandlers = Arc<dyn Fn(&Shared, &WorkerStats) -> Box<dyn Handlers> + Send + Sync>;

/// The stack of a worker thread, bytes: its futures live on the heap.
const STACK: usize = 512 * 1024;

/// Starts worker `index` on a thread of its own; it ends when `drain` has been stopped.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    index: usize,
    shared: Shared,
    drain: DrainWatch,
    make: MakeHandlers,
) -> std::io::Result<(mpsc::UnboundedSender<Command>, std::thread::JoinHandle<()>)> {
    let (commands, receive) = mpsc::unbounded_channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker cannot start"),
        };
        let runtimes = Arc::clone(&shared.runtimes);
        let mut runtimes = runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.insert(index, runtime.handle().clone());
        drop(runtimes);
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            let handlers = make(&shared, &shared.stats.worker(index));
            let worker = Worker::new(index, shared, drain.clone(), handlers);
            let sweep = worker.clusters().clone().sweep();
            let metrics = Rc::clone(worker.metrics());
            tokio::select! {
                biased; // The end of the worker first: nothing may start after it.
                () = drain.killed() => {}
                () = worker.obey(receive) => {}
                () = sweep => {}
                never = metrics.watch_calls() => match never {},
            }
        });
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .stack_size(STACK)
        .spawn(run)?;
    Ok((commands, thread))
}
