//! `malla console`: the web console's server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use malla_console::{AllowAll, Console, Metrics, Options, Prometheus};
use malla_runtime::drain::Drain;
use malla_runtime::log::{self, Format};
use malla_runtime::signal::ShutdownSignals;
use tokio::net::TcpListener;

/// How long requests under way may take when it is told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Run the web console: pages to see and change the mesh, and their API.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla console                                    the cluster of KUBECONFIG, at http://127.0.0.1:20001
  malla console --listen 127.0.0.1:8081 --history ~/malla-changes.jsonl
  malla console --prometheus 127.0.0.1:9090        figures from a Prometheus that scrapes the mesh

Whoever reaches the address may change the mesh: there is no login. Keep it on loopback.")]
pub(crate) struct ConsoleArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:20001")]
    listen: SocketAddr,
    /// The control plane's namespace.
    #[arg(long, default_value = "istio-system")]
    namespace: String,
    /// Name of the cluster, for display.
    #[arg(long, default_value = "Kubernetes")]
    cluster: String,
    /// A name, beside addresses and localhost, it is reached by; may be given many times.
    #[arg(long = "host")]
    hosts: Vec<String>,
    /// Keep the history of changes in this file; without one it ends with the process.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// A Prometheus (host:port) that scrapes the mesh.
    #[arg(long, value_name = "HOST:PORT")]
    prometheus: Option<String>,
    /// Offer the demo's lessons, which bring workloads of their own.
    #[arg(long)]
    lessons: bool,
    /// Such as `info`, or `warn,malla_console=debug`.
    #[arg(long, default_value = "info")]
    log_level: String,
}

pub(crate) fn run(args: ConsoleArgs) -> Result<ExitCode> {
    let _log = log::init(Format::Text, &args.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: ConsoleArgs) -> Result<()> {
    let config = kube::Config::infer()
        .await
        .context("find the API server (expected in-cluster credentials or a kubeconfig)")?;
    let client = kube::Client::try_from(config).context("connect to the API server")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {} (is it in use?)", args.listen))?;
    let metrics = args
        .prometheus
        .map(|address| Arc::new(Prometheus { address }) as Arc<dyn Metrics>);
    let options = Options {
        hosts: args.hosts,
        root_namespace: args.namespace,
        cluster: args.cluster,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        history: args.history,
        authorizer: Arc::new(AllowAll {
            user: "demo".to_owned(),
        }),
        metrics,
        lessons: args.lessons,
        beside: axum::Router::new(),
    };
    let console = Console::start(client, options)?;
    let mut signals = ShutdownSignals::listen()?;
    let drain = Drain::new();
    tokio::select! {
        biased; // A stop asked for comes first.
        _ = signals.recv() => {}
        () = console.serve(listener, drain.watch()) => bail!("the console stopped listening"),
    }
    drain.stop(GRACE).await;
    Ok(())
}
