//! TLS in both directions, over certificates that change while connections run.
//!
//! [`material`] turns a checked TLS context and the snapshot's secrets into keys and trust; [`verify`] is the check a
//! peer's certificate passes; [`accept`] and [`connect`] make rustls configurations of them and shake hands; [`peer`]
//! reads what a finished handshake says about the peer.
//!
//! Invariant: a configuration is built once per change of its secrets and shared by all workers; a handshake loads it
//! without a lock.
pub mod accept;
pub mod connect;
pub mod details;
pub mod material;
pub mod peer;
mod preference;
mod secret;
mod tickets;
mod verify;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use malla_proxy_config::Snapshot;
use malla_proxy_config::config_source::Reference;
use malla_proxy_config::tls::CommonTls;
use rustls::crypto::CryptoProvider;

use self::material::{Secrets, TlsSetupError};

/// Looks up an environment variable for a `DataSource` that names one.
pub type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What every TLS configuration of a proxy is built with.
#[derive(Clone)]
pub struct TlsSetup {
    provider: Arc<CryptoProvider>,
    env: Env,
}

impl TlsSetup {
    pub fn new(provider: &CryptoProvider, env: Env) -> Self {
        Self {
            provider: Arc::new(preference::by_cost(provider.clone())),
            env,
        }
    }
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSetup").finish_non_exhaustive()
    }
}

/// A TLS configuration that follows the secrets it was built from.
#[derive(Debug)]
pub struct Cached<C> {
    current: ArcSwapOption<Built<C>>,
    building: Mutex<()>,
}

/// A configuration and the secrets it stands on.
#[derive(Debug)]
struct Built<C> {
    secrets: Secrets,
    config: C,
}

impl<C> Default for Cached<C> {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            building: Mutex::new(()),
        }
    }
}

impl<C: Clone> Cached<C> {
    /// The configuration for the secrets of `snapshot`, built with `build` if they changed.
    ///
    /// # Errors
    /// When a secret is missing or unusable. The last configuration does not serve on: its certificates were withdrawn.
    pub fn get(
        &self,
        common: &CommonTls,
        tickets: Option<&Reference>,
        snapshot: &Snapshot,
        build: impl FnOnce(&Secrets) -> Result<C, TlsSetupError>,
    ) -> Result<C, TlsSetupError> {
        let secrets = Secrets::load(common, tickets, snapshot)?;
        let fresh = |built: &Built<C>| (built.secrets == secrets).then(|| built.config.clone());
        if let Some(config) = self.current.load().as_deref().and_then(fresh) {
            return Ok(config);
        }
        // One builder at a time: a rotation must not make every worker parse the same certificates.
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = self.current.load().as_deref().and_then(fresh) {
            return Ok(config);
        }
        let config = build(&secrets)?;
        self.current.store(Some(Arc::new(Built {
            secrets,
            config: config.clone(),
        })));
        Ok(config)
    }
}
