//! `malla control`: the control plane, in a pod of the cluster it serves.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use malla_control::app::{ControlConfig, Ports};
use malla_runtime::drain::Drain;
use malla_runtime::signal::ShutdownSignals;

use crate::cmd::in_cluster;

/// How long requests under way may take when it is told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Run the control plane; its ports are istiod's.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla control --namespace istio-system --image malla/malla
  malla control --log-level debug")]
pub(crate) struct ControlArgs {
    /// The namespace it runs in, which is the mesh's root namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    namespace: String,
    /// Its own pod's name; tells replicas apart.
    #[arg(long, env = "POD_NAME", default_value = "istiod")]
    pod: String,
    #[arg(long, default_value = "Kubernetes")]
    cluster_id: String,
    /// Image of the proxies it injects.
    #[arg(long, default_value = "malla/malla")]
    image: String,
    /// A further argument of every proxy it injects; may be given many times.
    #[arg(long = "proxy-arg", allow_hyphen_values = true)]
    proxy_args: Vec<String>,
    /// Revision labels (`istio.io/rev`) it answers to; others are injected with a warning.
    #[arg(long = "revision", default_values = ["default"])]
    revisions: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind: IpAddr,
    /// Such as `info`, or `warn,malla_control=debug`.
    #[arg(long, default_value = "info")]
    log_level: String,
}

pub(crate) fn run(args: ControlArgs) -> Result<ExitCode> {
    in_cluster::run(&args.log_level.clone(), serve(args))
}

async fn serve(args: ControlArgs) -> Result<()> {
    let provider = malla_identity::default_provider();
    let client = in_cluster::client().await?;
    let config = ControlConfig {
        namespace: args.namespace,
        pod: args.pod,
        cluster_id: args.cluster_id,
        image: args.image,
        proxy_args: args.proxy_args,
        revisions: args.revisions,
        bind: args.bind,
        ports: Ports::default(),
    };
    let mut signals = ShutdownSignals::listen()?;
    let drain = Drain::new();
    let control = malla_control::app::run(config, client, provider, drain.watch());
    tokio::pin!(control);
    tokio::select! {
        biased; // A stop asked for is not an error of the control plane.
        _ = signals.recv() => {}
        ended = &mut control => return ended.context("the control plane"),
    }
    drain.start();
    drop(tokio::time::timeout(GRACE, control).await);
    drain.stop(GRACE).await;
    Ok(())
}
