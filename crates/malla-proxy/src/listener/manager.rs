//! Applies listener changes while connections run: binds, replaces, drains, removes.
//!
//! The manager lives with the configuration's writer. Binding comes first and may fail, which refuses the listener and
//! leaves the old one serving; then every worker is told, and what was replaced drains.
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use malla_proxy_config::Snapshot;
use malla_proxy_config::address::Address;
use malla_proxy_config::listener::{Direction, Listener};
use malla_runtime::drain::DrainWatch;
use malla_runtime::socket::{ListenOptions, SocketError, listen};
use tokio::sync::mpsc;
use tracing::Span;

use super::accept::Accepted;
use super::active::{Active, ActiveChain, Table};
use super::chain::Conflict;
use super::listening::{Listening, unix_end};
use crate::connection::End;
use crate::tls::TlsSetup;
use crate::tls::accept::Acceptor;
use crate::tls::material::TlsSetupError;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Serve connections of this address with this listener; `socket` comes with the first such command.
    Serve {
        address: End,
        listener: Arc<Active>,
        socket: Option<Listening>,
    },
    /// Accept no more on this address.
    Stop { address: End },
    /// Serve a connection that another worker has accepted.
    Take(Box<Accepted>),
}

/// Why a listener cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(
        "address: {address} is used by listener `{other}` already; give one of them another port"
    )]
    Taken { address: Address, other: Arc<str> },
    #[error("address: cannot listen on the Unix socket {path} (is its folder there and writable?)")]
    Unix {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("address: `{0}` is a name; listen on an IP address or a Unix socket")]
    Name(Address),
    #[error("filter_chains[{chain}].transport_socket: {source}")]
    Tls { chain: usize, source: TlsSetupError },
    #[error("{0}")]
    Source(String),
    #[error("socket_options")]
    Option(#[source] io::Error),
    #[error("cannot share a listening socket among workers")]
    Share(#[source] io::Error),
}

/// A listener's sockets, bound and not yet served: one of each address for each worker.
#[derive(Debug, Default)]
pub struct Reservation {
    sockets: Vec<Bound>,
}

/// An address as configured and as bound, and a socket for each worker.
type Bound = (Address, End, Vec<Listening>);

impl Reservation {
    fn has(&self, address: &Address) -> bool {
        let mut sockets = self.sockets.iter();
        sockets.any(|(configured, _, _)| configured == address)
    }

    /// Takes over what a version of `listener` holds that will never be served; sockets it does not want are closed.
    #[must_use]
    pub fn and(mut self, held: Option<Self>, listener: &Listener) -> Self {
        let held = held.into_iter().flat_map(|held| held.sockets);
        let wanted =
            |address: &Address| listener.bind_to_port && listener.addresses.contains(address);
        self.sockets
            .extend(held.filter(|(configured, _, _)| wanted(configured)));
        self
    }
}

/// All listeners of the proxy.
#[derive(Debug)]
pub struct Manager {
    workers: Vec<mpsc::UnboundedSender<Command>>,
    setup: TlsSetup,
    drain: DrainWatch,
    /// How long connections of a removed chain may go on.
    drain_time: Duration,
    table: Arc<ArcSwap<Table>>,
    listeners: BTreeMap<Arc<str>, Entry>,
    changes: Changes,
}

/// How often listeners have come, changed and gone.
#[derive(Debug, Default, Clone, Copy)]
pub struct Changes {
    pub added: u64,
    pub modified: u64,
    pub removed: u64,
}

#[derive(Debug)]
struct Entry {
    active: Arc<Active>,
    /// As configured and as bound (they differ for port 0).
    bound: Vec<(Address, End)>,
}

impl Manager {
    pub fn new(
        workers: Vec<mpsc::UnboundedSender<Command>>,
        setup: TlsSetup,
        drain: DrainWatch,
        drain_time: Duration,
        table: Arc<ArcSwap<Table>>,
    ) -> Self {
        Self {
            workers,
            setup,
            drain,
            drain_time,
            table,
            listeners: BTreeMap::new(),
            changes: Changes::default(),
        }
    }

    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// Binds what a new or changed listener needs, and checks that its chains can be told apart. `held` is what a former
    /// version holds that is still waiting to be served: it is not bound again (see [`Reservation::and`]).
    ///
    /// # Errors
    /// With a reason for the author of the listener; nothing has changed then.
    pub fn reserve(
        &self,
        listener: &Listener,
        snapshot: &Snapshot,
        held: Option<&Reservation>,
    ) -> Result<Reservation, ListenError> {
        check(listener, &self.setup, snapshot)?;
        let mut reservation = Reservation::default();
        for address in &listener.addresses {
            if !listener.bind_to_port {
                continue;
            }
            let known = self.listeners.get(&listener.name);
            if known.is_some_and(|entry| {
                entry
                    .bound
                    .iter()
                    .any(|(configured, _)| configured == address)
            }) {
                continue; // The sockets are there; they go on with the new listener.
            }
            if held.is_some_and(|held| held.has(address)) {
                continue; // A version that has never been served has them.
            }
            if let Some(other) = self.owner_of(address, &listener.name) {
                let address = address.clone();
                return Err(ListenError::Taken { address, other });
            }
            reservation.sockets.push(self.bind(address, listener)?);
        }
        Ok(reservation)
    }

    /// Serves a listener for which sockets were reserved; a former version of it drains.
    ///
    /// # Errors
    /// As for [`Self::reserve`], which finds them first.
    pub fn serve(
        &mut self,
        listener: Arc<Listener>,
        reservation: Reservation,
    ) -> Result<(), ListenError> {
        let previous = self.listeners.remove(&listener.name);
        let old = previous.as_ref().map(|entry| Arc::clone(&entry.active));
        let active = match Active::build(
            Arc::clone(&listener),
            &self.setup,
            &self.drain,
            old.as_deref(),
            &self.workers,
        ) {
            Ok(active) => Arc::new(active),
            Err(conflict) => {
                self.listeners
                    .extend(previous.map(|entry| (Arc::clone(&listener.name), entry)));
                return Err(conflict.into());
            }
        };
        let mut bound = Vec::new();
        for (configured, actual) in previous.map(|entry| entry.bound).unwrap_or_default() {
            if listener.bind_to_port && listener.addresses.contains(&configured) {
                self.tell_all(|| Command::Serve {
                    address: actual.clone(),
                    listener: Arc::clone(&active),
                    socket: None,
                });
                bound.push((configured, actual));
            } else {
                self.tell_all(|| Command::Stop {
                    address: actual.clone(),
                });
            }
        }
        for (configured, actual, sockets) in reservation.sockets {
            for (worker, socket) in self.workers.iter().zip(sockets) {
                let listener = Arc::clone(&active);
                let _ = worker.send(Command::Serve {
                    address: actual.clone(),
                    listener,
                    socket: Some(socket),
                });
            }
            bound.push((configured, actual));
        }
        tracing::info!(listener = %listener.name, addresses = ?bound.iter().map(|(_, actual)| actual).collect::<Vec<_>>(), "listening");
        self.listeners.insert(
            Arc::clone(&listener.name),
            Entry {
                active: Arc::clone(&active),
                bound,
            },
        );
        self.publish();
        match old {
            Some(_) => self.changes.modified += 1,
            None => self.changes.added += 1,
        }
        if let Some(old) = old {
            let kept = |chain: &Arc<ActiveChain>| {
                active
                    .chains()
                    .iter()
                    .any(|other| Arc::ptr_eq(other, chain))
            };
            self.retire(old.chains().iter().filter(|chain| !kept(chain)));
        }
        Ok(())
    }

    /// Stops accepting for a listener and drains its connections. True if it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(entry) = self.listeners.remove(name) else {
            return false;
        };
        for (_, actual) in &entry.bound {
            self.tell_all(|| Command::Stop {
                address: actual.clone(),
            });
        }
        self.publish();
        self.changes.removed += 1;
        self.retire(entry.active.chains().iter());
        tracing::info!(listener = name, "listener removed");
        true
    }

    /// Stops accepting everywhere; connections go on.
    pub fn stop_accepting(&mut self) {
        for entry in self.listeners.values() {
            for (_, actual) in &entry.bound {
                self.tell_all(|| Command::Stop {
                    address: actual.clone(),
                });
            }
        }
    }

    /// Asks every connection to end. With `graceful` accepting goes on meanwhile; else it stops at once.
    pub fn drain_all(&mut self, inbound_only: bool, graceful: bool) {
        let chosen: Vec<Arc<str>> = self
            .listeners
            .iter()
            .filter(|(_, entry)| {
                !inbound_only || entry.active.config.direction == Direction::Inbound
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in chosen {
            let Some(entry) = self.listeners.get(&name) else {
                continue;
            };
            if !graceful {
                for (_, actual) in &entry.bound {
                    self.tell_all(|| Command::Stop {
                        address: actual.clone(),
                    });
                }
            }
            for chain in entry.active.chains() {
                if let Some(owner) = &*chain.owner.lock().unwrap_or_else(PoisonError::into_inner) {
                    owner.start();
                }
            }
        }
    }

    /// Where a listener accepts; the actual ports.
    pub fn bound(&self, name: &str) -> Vec<End> {
        let entry = self.listeners.get(name);
        entry
            .map(|entry| {
                entry
                    .bound
                    .iter()
                    .map(|(_, actual)| actual.clone())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Every listener with the addresses it accepts on.
    pub fn listeners(&self) -> impl Iterator<Item = (&Arc<Active>, Vec<End>)> {
        self.listeners.values().map(|entry| {
            let bound = entry
                .bound
                .iter()
                .map(|(_, actual)| actual.clone())
                .collect();
            (&entry.active, bound)
        })
    }

    fn owner_of(&self, address: &Address, except: &str) -> Option<Arc<str>> {
        if address.socket().is_some_and(|address| address.port() == 0) {
            return None;
        }
        let owns = |entry: &&Entry| {
            entry
                .bound
                .iter()
                .any(|(configured, _)| configured == address)
        };
        let others = self.listeners.iter().filter(|(name, _)| &***name != except);
        others
            .map(|(_, entry)| entry)
            .find(owns)
            .map(|entry| Arc::clone(&entry.active.config.name))
    }

    /// One socket per worker, or one that all of them share.
    fn bind(&self, address: &Address, listener: &Listener) -> Result<Bound, ListenError> {
        let (actual, sockets) = match address {
            Address::Socket(socket) => {
                let (actual, sockets) = self.bind_ip(*socket, listener)?;
                (End::Ip(actual), sockets)
            }
            Address::Pipe { path, mode } => {
                (unix_end(address), self.bind_unix(path, *mode, listener)?)
            }
            Address::Name { .. } => return Err(ListenError::Name(address.clone())),
        };
        Ok((address.clone(), actual, sockets))
    }

    fn bind_unix(
        &self,
        path: &Path,
        mode: u32,
        listener: &Listener,
    ) -> Result<Vec<Listening>, ListenError> {
        let socket = Listening::unix(path, mode).map_err(|source| {
            let path = path.display().to_string();
            ListenError::Unix { path, source }
        })?;
        super::options::set(&socket, listener).map_err(ListenError::Option)?;
        self.shared(socket)
    }

    /// The first socket finds out the port and whether anybody else has it.
    fn bind_ip(
        &self,
        address: SocketAddr,
        listener: &Listener,
    ) -> Result<(SocketAddr, Vec<Listening>), ListenError> {
        let options = ListenOptions {
            reuse_port: false,
            transparent: listener.transparent,
            freebind: listener.freebind,
            dual_stack: listener.ipv4_compat && address.is_ipv6(),
        };
        // Without SO_REUSEPORT: another process that shares its port must not silently take half of our traffic.
        let probe = listen(address, options)?;
        if !listener.reuse_port {
            let actual = probe.local_addr().map_err(ListenError::Share)?;
            let socket = probe.into_std().map_err(ListenError::Share)?;
            let socket = Listening::Tcp(socket);
            super::options::set(&socket, listener).map_err(ListenError::Option)?;
            return Ok((actual, self.shared(socket)?));
        }
        drop(probe);
        let shared = ListenOptions {
            reuse_port: true,
            ..options
        };
        let mut actual = address;
        let mut sockets = Vec::with_capacity(self.workers.len());
        for _ in 0..self.workers.len().max(1) {
            let socket = listen(actual, shared)?;
            actual = socket.local_addr().map_err(ListenError::Share)?;
            let socket = Listening::Tcp(socket.into_std().map_err(ListenError::Share)?);
            super::options::set(&socket, listener).map_err(ListenError::Option)?;
            sockets.push(socket);
        }
        Ok((actual, sockets))
    }

    /// The same socket for each worker.
    fn shared(&self, socket: Listening) -> Result<Vec<Listening>, ListenError> {
        let more = 1..self.workers.len().max(1);
        let mut sockets = more
            .map(|_| socket.share())
            .collect::<io::Result<Vec<_>>>()
            .map_err(ListenError::Share)?;
        sockets.push(socket);
        Ok(sockets)
    }

    fn publish(&self) {
        let table = Table::new(self.listeners.values().map(|entry| &entry.active));
        self.table.store(Arc::new(table));
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that has gone needs no telling.
            let _ = worker.send(command());
        }
    }

    fn retire<'a>(&self, chains: impl Iterator<Item = &'a Arc<ActiveChain>>) {
        for chain in chains {
            let owner = chain
                .owner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(owner) = owner {
                let grace = self.drain_time;
                self.drain.spawn(Span::none(), async move {
                    owner.stop(grace).await;
                });
            }
        }
    }
}

/// What can be told of a listener without binding it: its chains can be told apart, and certificates written in it are
/// usable (those of secrets may come later).
///
/// # Errors
/// With a reason for the author of the listener.
pub fn check(
    listener: &Listener,
    setup: &TlsSetup,
    snapshot: &Snapshot,
) -> Result<(), ListenError> {
    super::chain::Matcher::build(listener.chains.iter().map(|chain| &chain.matches))?;
    for (chain, config) in listener
        .chains
        .iter()
        .chain(&listener.default_chain)
        .enumerate()
    {
        let Some(tls) = &config.tls else { continue };
        match Acceptor::new(Arc::clone(tls), setup.clone()).prepare(snapshot) {
            Ok(()) | Err(TlsSetupError::Missing(_)) => {}
            Err(source) => return Err(ListenError::Tls { chain, source }),
        }
    }
    Ok(())
}
