//! The proxy as a whole: bind, run, drain.
//!
//! [`Proxy::bind`] starts the workers and applies the first configuration, so that errors surface before anything is
//! served; [`BoundProxy::run`] serves until told to stop, then drains: stop accepting, let finish, cut off.
mod file;
mod source;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use malla_proxy_config::bootstrap::Bootstrap;
use malla_runtime::drain::{Drain, Stopped};
use malla_runtime::log::LogHandle;
use malla_runtime::ready::{Gate, Readiness};
use malla_runtime::signal::ShutdownSignals;
use malla_runtime::socket::SocketError;
use malla_runtime::task::AbortOnDrop;
use malla_xds_proto::bootstrap as pb;
use prost::Message as _;
use rustls::crypto::CryptoProvider;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminServer};
use crate::apply::{Applier, ApplyError, Gates};
use crate::connection::End;
use crate::inventory::Inventory;
use crate::listener::active::Table;
use crate::listener::manager::Manager;
use crate::live::Live;
use crate::overload;
use crate::telemetry::stats::Registry;
use crate::tls::{Env, TlsSetup};
use crate::upstream::cluster::Clusters;
use crate::worker::{self, Connections, MakeHandlers, Shared};

pub use self::file::BootstrapFile;
pub use self::source::{Ads, ConfigSource};

/// How a proxy behaves, beside what its configuration says.
#[derive(Clone)]
pub struct Options {
    /// Worker threads.
    pub concurrency: usize,
    /// How long connections of a removed or changed filter chain may go on (Envoy's `--drain-time-s`).
    pub drain_time: Duration,
    /// How long requests may go on after the proxy was told to stop.
    pub grace: Duration,
    /// How often log lines are written (Envoy's `--file-flush-interval-msec`); also whenever 64 KiB wait.
    pub log_flush: Duration,
    /// Overrides where the admin endpoint listens.
    pub admin: Option<SocketAddr>,
    /// No more downstream connections than this at once.
    pub max_connections: Option<u64>,
    pub provider: Arc<CryptoProvider>,
    /// For data sources that name environment variables.
    pub env: Env,
    /// Lets the admin endpoint change log levels.
    pub log: Option<LogHandle>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// One worker per processor, Envoy's drain time, Istio's termination drain.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            drain_time: Duration::from_secs(600),
            grace: Duration::from_secs(5),
            log_flush: Duration::from_secs(1),
            admin: None,
            max_connections: None,
            provider,
            env: Arc::new(|_| None),
            log: None,
        }
    }
}

/// Why a proxy does not start or run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("at least one of --config-path or --config-yaml is needed")]
    NoConfig,
    #[error("{path}: {reason}")]
    Parse { path: String, reason: String },
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("admin endpoint")]
    Admin(#[source] SocketError),
    #[error("admin.address: {0} is not an IP address and port")]
    AdminAddress(String),
    #[error("cannot start a worker thread")]
    Worker(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Makes proxies.
#[derive(Debug)]
pub struct Proxy;

/// A proxy whose sockets are bound and whose first configuration is in place.
#[derive(Debug)]
pub struct BoundProxy {
    drain: Drain,
    manager: Arc<Mutex<Manager>>,
    admin: Option<AdminServer>,
    readiness: Readiness,
    workers: Vec<std::thread::JoinHandle<()>>,
    live_gate: Gate,
    quit: CancellationToken,
    grace: Duration,
    source: source::Running,
    live: Live,
    _overload: Option<AbortOnDrop<()>>,
}

impl Proxy {
    /// Starts workers, applies `source`'s static part, binds. Call it inside the runtime that is to run the control side.
    ///
    /// # Errors
    /// When a resource, a port or a thread cannot be had; nothing is left running then.
    pub async fn bind(source: ConfigSource, options: Options) -> Result<BoundProxy, StartError> {
        let drain = Drain::new();
        let setup = TlsSetup::new(&options.provider, Arc::clone(&options.env));
        let live = Live::default();
        let shared = Shared {
            clusters: Clusters::new(Handle::current(), setup.clone(), live.clone())
                .at(source.home()),
            live,
            stats: Registry::default(),
            table: Arc::new(ArcSwap::from_pointee(Table::default())),
            connections: Arc::new(Connections::limited(options.max_connections)),
            series: Arc::default(),
            own: Arc::new(source.own()),
            runtimes: Arc::default(),
            failing: Arc::default(),
            pressure: Arc::default(),
        };
        let readiness = Readiness::new();
        let gates = Gates {
            clusters: readiness.gate("clusters"),
            listeners: readiness.gate("listeners"),
        };
        let live_gate = readiness.gate("workers");
        let make: MakeHandlers =
            crate::handlers::standard(&options.env, source.node(), options.log_flush)
                .map_err(StartError::Worker)?;
        let mut workers = Vec::new();
        let mut commands = Vec::new();
        for index in 0..options.concurrency.max(1) {
            let (sender, thread) =
                worker::start(index, shared.clone(), drain.watch(), Arc::clone(&make))
                    .map_err(StartError::Worker)?;
            commands.push(sender);
            workers.push(thread);
        }
        let manager = Arc::new(Mutex::new(Manager::new(
            commands,
            setup.clone(),
            drain.watch(),
            options.drain_time,
            Arc::clone(&shared.table),
        )));
        let inventory = Inventory::default();
        let applier = Applier::new(
            shared.live.clone(),
            Arc::clone(&manager),
            shared.clusters.clone(),
            inventory.clone(),
            setup.clone(),
            gates,
            source.has_identity(),
        );
        let quit = CancellationToken::new();
        let bootstrap = source.bootstrap().encode_to_vec().into();
        let introduction = source.bootstrap().node.clone().unwrap_or_default();
        let (checked, source) = source.start(applier, shared.clusters.clone(), setup)?;
        let overload = limit(&checked, &shared);
        let admin = match admin_address(&options, &checked)? {
            None => None,
            Some(address) => {
                let state = Admin {
                    shared: shared.clone(),
                    manager: Arc::clone(&manager),
                    inventory,
                    readiness: readiness.clone(),
                    bootstrap,
                    introduction,
                    node: checked.node,
                    stats_matcher: checked.stats,
                    concurrency: options.concurrency.max(1),
                    quit: quit.clone(),
                    drain: drain.watch(),
                    log: options.log,
                    started: std::time::SystemTime::now(),
                    sources: source.handle(),
                    baseline: Default::default(),
                    failed: Arc::clone(&shared.failing),
                };
                Some(AdminServer::bind(address, state).map_err(StartError::Admin)?)
            }
        };
        live_gate.open();
        // A file was read by descriptors of all of Envoy's messages, which nothing needs any more.
        malla_xds_proto::json::release();
        malla_runtime::memory::forget_code();
        Ok(BoundProxy {
            drain,
            manager,
            admin,
            readiness,
            workers,
            live_gate,
            quit,
            grace: options.grace,
            source,
            live: shared.live,
            _overload: overload,
        })
    }
}

/// Keeps the process to what the bootstrap lets it have, for as long as the result is kept.
fn limit(bootstrap: &Bootstrap, shared: &Shared) -> Option<AbortOnDrop<()>> {
    if let Some(maximum) = bootstrap.max_connections {
        shared.connections.limit(maximum);
    }
    let config = bootstrap.overload.clone()?;
    let pressure = Arc::clone(&shared.pressure);
    Some(overload::manage(config, pressure, shared.stats.clone()))
}

fn admin_address(
    options: &Options,
    bootstrap: &Bootstrap,
) -> Result<Option<SocketAddr>, StartError> {
    if options.admin.is_some() {
        return Ok(options.admin);
    }
    match &bootstrap.admin {
        None => Ok(None),
        Some(address) => match address.socket() {
            Some(address) => Ok(Some(address)),
            None => Err(StartError::AdminAddress(address.to_string())),
        },
    }
}

/// Looks at a proxy while it runs; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProxyHandle {
    manager: Weak<Mutex<Manager>>,
    readiness: Readiness,
}

impl ProxyHandle {
    /// Where a listener accepts: the first of its addresses, with the actual port. `None` once the proxy has ended.
    pub fn addr(&self, listener: &str) -> Option<SocketAddr> {
        let manager = self.manager.upgrade()?;
        let manager = manager.lock().unwrap_or_else(PoisonError::into_inner);
        manager.bound(listener).first().and_then(End::socket)
    }

    /// Whether the first configuration is in place.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }
}

impl BoundProxy {
    /// Where a listener accepts: the first of its addresses, with the actual port.
    pub fn addr(&self, listener: &str) -> Option<SocketAddr> {
        self.handle().addr(listener)
    }

    /// What can be seen of the proxy after [`Self::run`] has taken it.
    pub fn handle(&self) -> ProxyHandle {
        ProxyHandle {
            manager: Arc::downgrade(&self.manager),
            readiness: self.readiness.clone(),
        }
    }

    /// Where the admin endpoint answers.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::address)
    }

    /// Whether the first configuration is in place.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The configuration being served.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The state of the stream to the control plane, if there is one.
    pub fn xds_status(&self) -> Option<Arc<malla_xds::client::Status>> {
        self.source.status()
    }

    /// Serves until `shutdown` completes or the admin endpoint says so, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Stopped {
        tokio::select! {
            biased; // Either ends it; the caller's word comes first.
            () = shutdown => {}
            () = self.quit.cancelled() => {}
        }
        self.live_gate.close();
        // The control plane could only add what is about to end.
        drop(self.source);
        self.manager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop_accepting();
        let stopped = self.drain.stop(self.grace).await;
        // Workers end once the drain has: their command channels close with the manager.
        drop(self.admin);
        drop(self.manager);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in self.workers {
                if worker.join().is_err() {
                    tracing::error!("a worker panicked");
                }
            }
        });
        let _ = joined.await;
        stopped
    }
}

/// Checks a bootstrap without serving it (`--mode validate`). Returns the warnings.
///
/// # Errors
/// The first thing in it that this proxy cannot run.
pub fn validate(bootstrap: pb::Bootstrap, options: &Options) -> Result<Vec<String>, StartError> {
    let checked = Bootstrap::from_proto(bootstrap).map_err(ApplyError::Invalid)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let setup = TlsSetup::new(&options.provider, Arc::clone(&options.env));
    runtime.block_on(async {
        source::check(&checked.value, setup)?;
        Ok(checked.warnings.iter().map(ToString::to_string).collect())
    })
}

/// Runs the proxy until SIGTERM or SIGINT, on a runtime of its own for the control side.
///
/// # Errors
/// As for [`Proxy::bind`].
pub fn run(source: ConfigSource, options: Options) -> Result<Stopped, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut signals = ShutdownSignals::listen().map_err(StartError::Runtime)?;
        let bound = Proxy::bind(source, options).await?;
        let shutdown = async {
            let cause = signals.recv().await;
            tracing::info!(%cause, "draining");
        };
        Ok(bound.run(shutdown).await)
    })
}
