//! What the commands share that run beside an API server, as a rule in a pod: their log, threads and client.

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use malla_runtime::log::{self, Format};

/// Threads of such a process: it waits more than it works.
const THREADS: usize = 2;

/// Runs a server to its end.
pub(crate) fn run(log_level: &str, server: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    let _log = log::init(Format::Text, log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(server)?;
    Ok(ExitCode::SUCCESS)
}

/// A client of the pod's own API server, or the kubeconfig's.
pub(crate) async fn client() -> Result<kube::Client> {
    let config = kube::Config::infer()
        .await
        .context("find the API server (expected in-cluster credentials or a kubeconfig)")?;
    kube::Client::try_from(config).context("connect to the API server")
}
