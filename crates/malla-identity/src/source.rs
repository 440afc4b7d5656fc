//! The current credential and trust bundle of a process.
//!
//! One writer (the rotation task, or an SDS subscription) replaces them; TLS configurations built
//! over a [`CertSource`] load them once per handshake. Nothing restarts when they change.
//!
//! Invariant: the trust epoch grows whenever a peer that was trusted might no longer be, so that
//! resumable sessions of the epoch before are forgotten (`tls::sessions`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::bundle::TrustBundle;
use crate::credential::Credential;

/// Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct CertSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    credential: ArcSwapOption<Credential>,
    bundle: ArcSwap<TrustBundle>,
    epoch: AtomicU64,
    changes: watch::Sender<u64>,
}

impl Default for CertSource {
    fn default() -> Self {
        Self::new()
    }
}

impl CertSource {
    /// No credential, and trust in nobody.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                credential: ArcSwapOption::empty(),
                bundle: ArcSwap::from_pointee(TrustBundle::empty()),
                epoch: AtomicU64::new(0),
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// A source that has both from the start.
    #[must_use]
    pub fn fixed(credential: Option<Arc<Credential>>, bundle: TrustBundle) -> Self {
        let source = Self::new();
        source.inner.bundle.store(Arc::new(bundle));
        source.inner.credential.store(credential);
        source
    }

    #[must_use]
    pub fn credential(&self) -> Option<Arc<Credential>> {
        self.inner.credential.load_full()
    }

    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.inner.bundle.load_full()
    }

    pub fn set_credential(&self, credential: Arc<Credential>) {
        self.inner.credential.store(Some(credential));
        self.announce();
    }

    /// Forgets the credential: handshakes fail until there is a new one.
    pub fn clear_credential(&self) {
        self.inner.credential.store(None);
        self.announce();
    }

    pub fn set_bundle(&self, bundle: TrustBundle) {
        let before = self.inner.bundle.swap(Arc::new(bundle));
        if before.differs(&self.inner.bundle.load()) {
            self.inner.epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.announce();
    }

    /// Grows when peers must prove themselves anew.
    #[must_use]
    pub fn trust_epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::Acquire)
    }

    /// Ticks on every change of either; the value itself means nothing.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Waits until there is a credential and someone to trust; cancel-safe.
    pub async fn ready(&self) {
        let mut changes = self.changes();
        while self.inner.credential.load().is_none() || self.inner.bundle.load().is_empty() {
            if changes.changed().await.is_err() {
                // The sender lives in `self`; this cannot happen while we are borrowed.
                return;
            }
        }
    }

    fn announce(&self) {
        self.inner
            .changes
            .send_modify(|tick| *tick = tick.wrapping_add(1));
    }
}
