//! Malla's own proxy in a pod: certificates, configuration and status in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use malla_agent::{Companion, Settings};
use malla_proxy::app::{Ads, ConfigSource, Options, Proxy};
use malla_runtime::log::LogHandle;
use malla_runtime::signal::ShutdownSignals;
use malla_xds::client::ClientConfig;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the command line says beside the environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    pub(super) concurrency: usize,
    pub(super) grace: Duration,
}

pub(super) fn run(settings: Settings, tuning: Tuning, log: LogHandle) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(settings, tuning, log))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: Settings, tuning: Tuning, log: LogHandle) -> Result<()> {
    let mut signals = ShutdownSignals::listen()?;
    let provider = malla_identity::default_provider();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.ports.admin));
    // Its ports are bound before anything runs: one that is taken is an error at once.
    let mut companion = Companion::bind(settings, Arc::clone(&provider))?;

    let mut options = Options::new(provider);
    options.concurrency = tuning.concurrency;
    options.grace = tuning.grace;
    options.admin = Some(admin);
    options.env = Arc::new(|name| std::env::var(name).ok());
    options.log = Some(log);
    let ads = Ads {
        bootstrap: companion.bootstrap(VERSION),
        client: ClientConfig::new(companion.node(VERSION)),
        transport: companion.transport(),
        identity: Some(companion.source()),
    };
    let bound = Proxy::bind(ConfigSource::Ads(Box::new(ads)), options).await?;
    companion.serve(bound.readiness().clone());
    let told = async {
        tokio::select! {
            _ = signals.recv() => {}
            () = companion.quit() => {}
        }
    };
    bound.run(told).await;
    Ok(())
}
