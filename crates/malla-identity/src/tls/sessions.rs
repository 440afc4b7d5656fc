//! Resumable sessions that do not outlive the trust they were made under.
//!
//! A resumed session skips the certificate check, so a peer whose root was removed could go on for
//! as long as its session is remembered. Both stores therefore belong to one trust epoch of the
//! source and start empty in the next.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls_pki_types::ServerName;

use crate::source::CertSource;

/// Sessions kept per configuration; rustls's own default.
const CAPACITY: usize = 256;

/// A store of the current epoch.
#[derive(Debug)]
struct PerEpoch<S> {
    source: CertSource,
    store: ArcSwap<(u64, Arc<S>)>,
    fresh: fn() -> Arc<S>,
}

impl<S> PerEpoch<S> {
    fn new(source: CertSource, fresh: fn() -> Arc<S>) -> Self {
        let epoch = source.trust_epoch();
        Self {
            source,
            store: ArcSwap::from_pointee((epoch, fresh())),
            fresh,
        }
    }

    fn current(&self) -> Arc<S> {
        let epoch = self.source.trust_epoch();
        let current = self.store.load();
        if current.0 == epoch {
            return current.1.clone();
        }
        // Two threads may both get here; the loser's empty store is dropped with nothing in it.
        let fresh = (self.fresh)();
        self.store.store(Arc::new((epoch, fresh.clone())));
        fresh
    }
}

#[derive(Debug)]
pub(super) struct ServerSessions(PerEpoch<ServerSessionMemoryCache>);

impl ServerSessions {
    pub(super) fn new(source: CertSource) -> Self {
        Self(PerEpoch::new(source, || {
            ServerSessionMemoryCache::new(CAPACITY)
        }))
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.current().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.current().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.current().take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub(super) struct ClientSessions(PerEpoch<ClientSessionMemoryCache>);

impl ClientSessions {
    pub(super) fn new(source: CertSource) -> Self {
        let fresh = || Arc::new(ClientSessionMemoryCache::new(CAPACITY));
        Self(PerEpoch::new(source, fresh))
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.current().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.current().kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.current().set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.current().tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.current().remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.0.current().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.0.current().take_tls13_ticket(server_name)
    }
}
