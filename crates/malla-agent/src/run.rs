//! Stock Envoy with everything it needs beside it.
//!
//! Bind, then run: when [`EnvoyAgent::start`] returns, the sockets are there and Envoy runs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use malla_runtime::drain::Drain;
use malla_runtime::metrics::Registry;
use malla_runtime::ready::Readiness;
use malla_runtime::socket::{ListenOptions, SocketError, listen};
use malla_runtime::task::AbortOnDrop;
use rustls::crypto::CryptoProvider;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tracing::Span;

use crate::bootstrap::bootstrap;
use crate::envoy::admin::Admin;
use crate::envoy::{Envoy, Program};
use crate::identity::Identity;
use crate::istiod::Istiod;
use crate::settings::Settings;
use crate::status::{self, Status};
use crate::{relay, sds, unix};

/// Polling for connections to end, while draining.
const DRAIN_POLL: Duration = Duration::from_millis(250);

/// How the agent treats Envoy.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    pub program: Program,
    /// Merged over our bootstrap, as Istio's `sidecar.istio.io/bootstrapOverride` is.
    pub bootstrap_override: Option<serde_json::Value>,
    /// Between asking clients to go elsewhere and ending (Istio's `terminationDrainDuration`).
    pub drain: Duration,
    /// Drain until no connection is left, however long it takes beyond `drain`
    /// (`EXIT_ON_ZERO_ACTIVE_CONNECTIONS`); the platform's grace period bounds it.
    pub exit_on_zero_connections: bool,
}

impl EnvoyOptions {
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program: Program {
                path: program,
                concurrency: None,
                log_level: "warning".to_owned(),
            },
            bootstrap_override: None,
            drain: Duration::from_secs(5),
            exit_on_zero_connections: false,
        }
    }
}

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on {path:?} (is it longer than the 107 bytes a Unix socket's path may have, or the folder missing?)"
    )]
    Unix {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the agent's port")]
    Port(#[from] SocketError),
    #[error("cannot run {program:?} (expected stock Envoy; set its path)")]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system does not tell how Envoy ended")]
    Wait(#[source] io::Error),
}

/// How it ended.
#[derive(Debug)]
pub enum Exit {
    /// We were asked to end, and Envoy did.
    Asked,
    /// Envoy ended by itself, which it never should; the platform will start us again.
    Envoy(ExitStatus),
}

impl Exit {
    /// What the agent's own process should end with.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Asked => 0,
            Self::Envoy(status) => status.code().filter(|code| *code != 0).unwrap_or(1),
        }
    }
}

/// Starts everything and runs until `shutdown` completes, `/quitquitquit` is called, or Envoy ends.
///
/// # Errors
/// When something cannot be started.
pub async fn run_envoy(
    settings: Settings,
    options: EnvoyOptions,
    provider: Arc<CryptoProvider>,
    shutdown: impl Future<Output = ()>,
) -> Result<Exit, AgentError> {
    EnvoyAgent::start(settings, options, provider)?
        .run(shutdown)
        .await
}

/// A running Envoy and what is beside it. Dropping it ends all.
#[derive(Debug)]
pub struct EnvoyAgent {
    envoy: Envoy,
    admin: Admin,
    options: EnvoyOptions,
    identity: Identity,
    status: Arc<Status>,
    drain: Drain,
    _tasks: Vec<AbortOnDrop<()>>,
}

impl EnvoyAgent {
    /// # Errors
    /// When something cannot be started. Must be called on a tokio runtime.
    pub fn start(
        settings: Settings,
        options: EnvoyOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, AgentError> {
        let run = &settings.paths.run;
        let (xds, secrets) = (run.join("XDS"), run.join("SDS"));
        std::fs::create_dir_all(run).map_err(|source| AgentError::Write {
            path: run.clone(),
            source,
        })?;
        let xds_listener = bind(&xds)?;
        let sds_listener = bind(&secrets)?;
        let port = std::net::SocketAddr::from(([0, 0, 0, 0], settings.ports.agent));
        let port = listen(port, ListenOptions::default())?;
        let file = run.join("envoy.json");
        let mut config = bootstrap(&settings, &xds, &secrets);
        if let Some(change) = &options.bootstrap_override {
            merge(&mut config, change);
        }
        write(&file, &config)?;

        let identity = Identity::start(&settings, provider.clone());
        let drain = Drain::new();
        let admin = Admin::new(settings.ports.admin);
        let readiness = Readiness::new();
        let status = Status::new(
            &settings,
            Arc::new(admin),
            readiness.clone(),
            Registry::new(),
            provider.clone(),
        );
        let istiod = Istiod::new(&settings, identity.source.clone(), provider);
        let tasks = vec![
            certificate_gate(&identity, &readiness),
            serve_secrets(sds_listener, &identity, &drain),
            AbortOnDrop::spawn(
                tracing::info_span!("relay"),
                relay::serve(xds_listener, istiod, identity.source.clone()),
            ),
            AbortOnDrop::spawn(Span::current(), status::serve(port, status.clone())),
        ];
        let started = options.program.start(&file);
        let envoy = started.map_err(|source| AgentError::Spawn {
            program: options.program.path.clone(),
            source,
        })?;
        Ok(Self {
            envoy,
            admin,
            options,
            identity,
            status,
            drain,
            _tasks: tasks,
        })
    }

    /// Envoy's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.envoy.pid()
    }

    /// The workload's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Runs until `shutdown` completes, `/quitquitquit` is called, or Envoy ends.
    ///
    /// # Errors
    /// When the system does not tell how Envoy ended.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Exit, AgentError> {
        tokio::select! {
            biased; // An Envoy that is gone cannot be drained.
            ended = self.envoy.wait() => {
                let ended = ended.map_err(AgentError::Wait)?;
                tracing::error!(status = %ended, "Envoy ended by itself");
                return Ok(Exit::Envoy(ended));
            }
            () = shutdown => {}
            () = self.status.quit() => {}
        }
        self.drain_envoy().await;
        let ended = self.envoy.stop().await.map_err(AgentError::Wait)?;
        tracing::info!(status = %ended, "Envoy ended");
        self.drain.start();
        Ok(Exit::Asked)
    }

    async fn drain_envoy(&mut self) {
        tracing::info!(duration = ?self.options.drain, "draining");
        if let Err(reason) = self.admin.drain().await {
            tracing::warn!(reason, "Envoy does not drain");
            return;
        }
        let admin = self.admin;
        let until_idle = self.options.exit_on_zero_connections;
        let patience = async {
            tokio::time::sleep(self.options.drain).await;
            while until_idle && admin.active_connections().await.is_ok_and(|open| open > 0) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        tokio::select! {
            biased; // It may end before its time, and then there is nothing to wait for.
            _ = self.envoy.wait() => {}
            () = patience => {}
        }
    }
}

/// Not ready before there is a certificate: mutual TLS would fail.
pub(crate) fn certificate_gate(identity: &Identity, readiness: &Readiness) -> AbortOnDrop<()> {
    let (source, gate) = (identity.source.clone(), readiness.gate("certificate"));
    AbortOnDrop::spawn(Span::current(), async move {
        source.ready().await;
        gate.open();
    })
}

fn serve_secrets(listener: UnixListener, identity: &Identity, drain: &Drain) -> AbortOnDrop<()> {
    let service = sds::SdsService::start(identity.source.clone(), drain.watch());
    AbortOnDrop::spawn(tracing::info_span!("sds"), async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let served = server
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the secrets' socket is closed");
        }
    })
}

fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    unix::listen(path).map_err(|source| AgentError::Unix {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, config: &serde_json::Value) -> Result<(), AgentError> {
    let text = format!("{config:#}\n");
    std::fs::write(path, text).map_err(|source| AgentError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Objects merge, lists grow, everything else is replaced: protobuf's own merge, in JSON.
fn merge(base: &mut serde_json::Value, change: &serde_json::Value) {
    use serde_json::Value::{Array, Object};
    match (base, change) {
        (Object(base), Object(change)) => {
            for (key, value) in change {
                match base.get_mut(key) {
                    Some(known) => merge(known, value),
                    None => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Array(base), Array(more)) => base.extend(more.iter().cloned()),
        (base, change) => *base = change.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_override_adds_and_replaces() {
        let mut base = json!({"node": {"id": "a"}, "layers": [1], "admin": {"port": 1}});
        merge(
            &mut base,
            &json!({"layers": [2], "admin": {"port": 9}, "new": true}),
        );
        let expected =
            json!({"node": {"id": "a"}, "layers": [1, 2], "admin": {"port": 9}, "new": true});
        assert_eq!(base, expected);
    }
}
