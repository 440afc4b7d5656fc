//! A listener ready to serve: its compiled chain match, TLS acceptors and drains.
//!
//! Invariants: immutable; shared by all workers. A chain that a new version of its listener leaves unchanged is carried
//! over with its drain, so its connections never learn of the update.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use foldhash::fast::RandomState;
use malla_proxy_config::address::Address;
use malla_proxy_config::filter_chain::{FilterChain, Terminal};
use malla_proxy_config::listener::{Listener, ListenerFilter, ListenerFilterKind};
use malla_runtime::drain::{Drain, DrainWatch};
use tokio::sync::mpsc::UnboundedSender;

use super::balance::Balance;
use super::chain::{Conflict, Facts, Matcher};
use super::manager::Command;
use crate::telemetry::access_log::Needs;
use crate::tls::TlsSetup;
use crate::tls::accept::Acceptor;

/// One listener as workers serve it.
#[derive(Debug)]
pub struct Active {
    pub config: Arc<Listener>,
    matcher: Matcher,
    /// The configured chains, then the default chain if there is one.
    chains: Vec<Arc<ActiveChain>>,
    has_default: bool,
    /// The listener filters to run, `original_dst` first where `use_original_dst` implies it.
    pub filters: Vec<ListenerFilter>,
    /// Prefix of its statistics: the configured one, else `address_port` with `:` spelled `_` in IPv6.
    pub stat_name: Arc<str>,
    /// Connections now, over all workers and versions of the listener.
    pub open: Arc<AtomicU64>,
    /// How connections are spread over workers, where the kernel does not; of all versions.
    pub balance: Option<Arc<Balance>>,
}

/// One filter chain with what its connections share.
#[derive(Debug)]
pub struct ActiveChain {
    pub config: Arc<FilterChain>,
    pub acceptor: Option<Acceptor>,
    /// A log asks what the kernel has measured of its connections.
    pub measured: bool,
    pub drain: DrainWatch,
    /// Taken out when the chain goes.
    pub(super) owner: std::sync::Mutex<Option<Drain>>,
}

impl Active {
    /// Compiles `config`; chains that `previous` has in the same form are taken over.
    pub fn build(
        config: Arc<Listener>,
        setup: &TlsSetup,
        parent: &DrainWatch,
        previous: Option<&Active>,
        workers: &[UnboundedSender<Command>],
    ) -> Result<Self, Conflict> {
        let matcher = Matcher::build(config.chains.iter().map(|chain| &chain.matches))?;
        let chains = config
            .chains
            .iter()
            .chain(&config.default_chain)
            .map(|chain| {
                let known = previous.and_then(|previous| previous.same(chain));
                known
                    .unwrap_or_else(|| Arc::new(ActiveChain::new(Arc::clone(chain), setup, parent)))
            })
            .collect();
        let mut filters = config.filters.clone();
        let restores = |filter: &ListenerFilter| filter.kind == ListenerFilterKind::OriginalDst;
        if config.use_original_dst && !filters.iter().any(restores) {
            filters.insert(
                0,
                ListenerFilter {
                    kind: ListenerFilterKind::OriginalDst,
                    disabled: None,
                },
            );
        }
        let stat_name = config
            .stat_prefix
            .clone()
            .unwrap_or_else(|| stat_name(&config));
        let balance = config.exact_balance.then(|| {
            let known = previous.and_then(|previous| previous.balance.clone());
            known.unwrap_or_else(|| Arc::new(Balance::new(workers)))
        });
        Ok(Self {
            balance,
            has_default: config.default_chain.is_some(),
            config,
            matcher,
            chains,
            filters,
            stat_name,
            open: previous
                .map(|previous| Arc::clone(&previous.open))
                .unwrap_or_default(),
        })
    }

    /// The chain for a connection, the default one if none matches.
    pub fn chain_for(&self, facts: &Facts<'_>) -> Option<&Arc<ActiveChain>> {
        match self.matcher.find(facts) {
            Some(index) => self.chains.get(index),
            None => self.chains.last().filter(|_| self.has_default),
        }
    }

    pub fn chains(&self) -> &[Arc<ActiveChain>] {
        &self.chains
    }

    fn same(&self, chain: &Arc<FilterChain>) -> Option<Arc<ActiveChain>> {
        let is_same = |known: &&Arc<ActiveChain>| {
            Arc::ptr_eq(&known.config, chain) || known.config.fingerprint == chain.fingerprint
        };
        self.chains.iter().find(is_same).cloned()
    }
}

impl ActiveChain {
    fn new(config: Arc<FilterChain>, setup: &TlsSetup, parent: &DrainWatch) -> Self {
        let acceptor = config
            .tls
            .as_ref()
            .map(|tls| Acceptor::new(Arc::clone(tls), setup.clone()));
        let drain = Drain::within(parent);
        let logs = match &config.terminal {
            Terminal::Http(manager) => manager.access_logs.as_slice(),
            Terminal::Tcp(proxy) => proxy.access_logs.as_slice(),
            Terminal::Close => &[],
        };
        Self {
            measured: Needs::of(logs.iter().map(|log| &**log)).round_trip,
            config,
            acceptor,
            drain: drain.watch(),
            owner: std::sync::Mutex::new(Some(drain)),
        }
    }
}

fn stat_name(config: &Listener) -> Arc<str> {
    match config.addresses.first() {
        Some(Address::Socket(address)) => address.to_string().replace(':', "_").into(),
        Some(other) => other.to_string().into(),
        None => Arc::clone(&config.name),
    }
}

/// Listeners by address, for connections handed over to the listener of their original destination.
#[derive(Debug, Default)]
pub struct Table {
    by_address: HashMap<SocketAddr, Arc<Active>, RandomState>,
}

impl Table {
    pub fn new<'a>(listeners: impl Iterator<Item = &'a Arc<Active>>) -> Self {
        let mut by_address = HashMap::default();
        for listener in listeners {
            for address in listener.config.addresses.iter().filter_map(Address::socket) {
                by_address.insert(address, Arc::clone(listener));
            }
        }
        Self { by_address }
    }

    /// The listener for a connection meant for `address`: the one of that very address, else of the port on any address.
    pub fn find(&self, address: SocketAddr) -> Option<&Arc<Active>> {
        if let Some(found) = self.by_address.get(&address) {
            return Some(found);
        }
        let any = malla_runtime::socket::unspecified_like(address.ip());
        let any = self.by_address.get(&SocketAddr::new(any, address.port()));
        // A dual-stack listener on `::` takes IPv4 too.
        any.or_else(|| {
            self.by_address.get(&SocketAddr::new(
                std::net::Ipv6Addr::UNSPECIFIED.into(),
                address.port(),
            ))
        })
    }
}
