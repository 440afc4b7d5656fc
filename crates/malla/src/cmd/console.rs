//! `malla console`: the web console's server and, with a folder to keep it in, the collector.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use malla_console::{AllowAll, Console, Metrics, Options, Prometheus};
use malla_runtime::drain::Drain;
use malla_runtime::signal::ShutdownSignals;
use malla_runtime::task::AbortOnDrop;
use malla_telemetry::{Collector, CollectorConfig, TelemetryConfig};
use tokio::net::TcpListener;
use tracing::info_span;

use crate::cmd::in_cluster;

/// How long requests under way may take when it is told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// Below the folder of `--data`.
const HISTORY: &str = "changes.jsonl";
const TELEMETRY: &str = "telemetry";

/// Run the web console: pages to see and change the mesh, their API, and the collector of metrics, traces and access logs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla console                                    the cluster of KUBECONFIG, at http://127.0.0.1:20001
  malla console --prometheus 127.0.0.1:9090        figures from a Prometheus that scrapes the mesh
  malla console --data /var/lib/malla --collect 0.0.0.0:4317 --otlp-http 0.0.0.0:4318 --zipkin 0.0.0.0:9411
                                                   in a pod: collects what the mesh measures, too

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
    /// Keep the history of changes in this folder, and collect telemetry there: pods that ask for it
    /// by Prometheus' annotations are scraped. Without one, the history ends with the process and
    /// nothing is collected.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Receive traces (OTLP) and access logs (Envoy's ALS) by gRPC at this address.
    #[arg(long, value_name = "ADDRESS", requires = "data")]
    collect: Option<SocketAddr>,
    /// Receive traces by OTLP over HTTP at this address.
    #[arg(long, value_name = "ADDRESS", requires = "data")]
    otlp_http: Option<SocketAddr>,
    /// Receive traces in Zipkin's v2 JSON at this address.
    #[arg(long, value_name = "ADDRESS", requires = "data")]
    zipkin: Option<SocketAddr>,
    /// Seconds between two scrapes of a pod.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, requires = "data",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    scrape_interval: u64,
    /// A Prometheus (host:port) that scrapes the mesh, in place of a collector.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "data")]
    prometheus: Option<String>,
    /// Offer the demo's lessons, which bring workloads of their own.
    #[arg(long)]
    lessons: bool,
    /// Such as `info`, or `warn,malla_console=debug`.
    #[arg(long, default_value = "info")]
    log_level: String,
}

pub(crate) fn run(args: ConsoleArgs) -> Result<ExitCode> {
    in_cluster::run(&args.log_level.clone(), serve(args))
}

async fn serve(args: ConsoleArgs) -> Result<()> {
    let client = in_cluster::client().await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {} (is it in use?)", args.listen))?;
    let collector = collector(&args);
    let console = Console::start(client, options(args, collector.clone()))?;
    let mut signals = ShutdownSignals::listen()?;
    let drain = Drain::new();
    let stop = drain.watch();
    let collecting = collector.map(|collector| {
        let collecting = async move { collector.run(stop.draining()).await };
        AbortOnDrop::spawn(info_span!("collector"), collecting)
    });
    tokio::select! {
        biased; // A stop asked for comes first.
        _ = signals.recv() => {}
        () = console.serve(listener, drain.watch()) => bail!("the console stopped listening"),
    }
    drain.stop(GRACE).await;
    if let Some(collecting) = collecting {
        // What was received is written.
        drop(tokio::time::timeout(GRACE, collecting).await);
    }
    Ok(())
}

fn collector(args: &ConsoleArgs) -> Option<Arc<Collector>> {
    let folder = args.data.as_ref()?.join(TELEMETRY);
    let mut telemetry = TelemetryConfig::new(folder);
    telemetry.scrape.interval = Duration::from_secs(args.scrape_interval);
    Some(Collector::new(CollectorConfig {
        telemetry,
        grpc: args.collect,
        otlp_http: args.otlp_http,
        zipkin: args.zipkin,
    }))
}

fn options(args: ConsoleArgs, collector: Option<Arc<Collector>>) -> Options {
    let metrics = args
        .prometheus
        .map(|address| Arc::new(Prometheus { address }) as Arc<dyn Metrics>);
    Options {
        hosts: args.hosts,
        root_namespace: args.namespace,
        cluster: args.cluster,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        history: args.data.map(|folder| folder.join(HISTORY)),
        authorizer: Arc::new(AllowAll {
            user: "demo".to_owned(),
        }),
        metrics,
        lessons: args.lessons,
        collector,
    }
}
