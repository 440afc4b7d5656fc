//! `malla proxy`: the data plane, driven by a control plane (`sidecar`, `gateway`) or by an Envoy YAML (`-c`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use malla_agent::settings::Paths;
use malla_agent::{EnvoyOptions, Role, Settings};
use malla_proxy::app::{BootstrapFile, ConfigSource, Options, validate};
use malla_runtime::log::{self, Format};
use malla_runtime::signal::ShutdownSignals;

use crate::output::Output;

mod managed;

/// Run the data plane.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  malla proxy -c envoy.yaml                       what `envoy -c envoy.yaml` runs
  malla proxy -c envoy.yaml --mode validate       check the file and exit
  malla proxy sidecar                             in a pod, for a control plane
  malla proxy sidecar --envoy-path /usr/bin/envoy the same with stock Envoy"
)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    role: Option<RoleCommand>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// An Envoy bootstrap in YAML or JSON.
    #[arg(
        short = 'c',
        long = "config-path",
        value_name = "FILE",
        required_unless_present = "config_yaml"
    )]
    config: Option<PathBuf>,
    /// Envoy bootstrap as text, merged over the file.
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    /// Who this proxy is, for `node.id`.
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// What it belongs to, for `node.cluster`.
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    /// Where it runs, for `node.locality.zone`.
    #[arg(long, value_name = "ZONE")]
    service_zone: Option<String>,
    #[arg(long, value_enum, default_value = "serve")]
    mode: Mode,
    /// Worker threads; one per processor unless given.
    #[arg(long)]
    concurrency: Option<usize>,
    /// Such as `warning`, or `info,malla_proxy=debug`.
    #[arg(short, long, default_value = "info")]
    log_level: String,
    /// How long connections of changed or removed filter chains may go on, in seconds.
    #[arg(long, default_value_t = 600)]
    drain_time_s: u64,
    /// How often access logs are written, in milliseconds; also whenever 64 KiB wait.
    #[arg(long, default_value_t = 1000)]
    file_flush_interval_msec: u64,
    /// How long requests under way may take when it is told to stop, in seconds.
    #[arg(long, default_value_t = 5)]
    grace_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Serve,
    Validate,
}

#[derive(Debug, Subcommand)]
enum RoleCommand {
    /// Beside a workload.
    Sidecar(PodArgs),
    /// At the edge of the mesh.
    #[command(alias = "router")]
    Gateway(PodArgs),
    /// Wait until this pod's proxy is ready; for postStart hooks.
    Wait {
        /// Give up after this many seconds.
        #[arg(long, default_value_t = 60)]
        timeout_s: u64,
    },
}

#[derive(Debug, Args)]
struct PodArgs {
    /// DNS domain of the pod's namespace.
    #[arg(long)]
    domain: Option<String>,
    /// Run this Envoy instead of Malla's own proxy.
    #[arg(long, value_name = "PATH")]
    envoy_path: Option<PathBuf>,
    /// Worker threads.
    #[arg(long)]
    concurrency: Option<usize>,
    #[arg(long, alias = "proxyLogLevel", default_value = "warning")]
    log_level: String,
    /// Levels of Envoy's loggers and of Istio's agent, which Istio's injector names: neither is here.
    #[arg(long = "proxyComponentLogLevel", hide = true)]
    _component_log_level: Option<String>,
    #[arg(long = "log_output_level", hide = true)]
    _log_output_level: Option<String>,
    /// How long to go on when told to stop, such as `5000ms`.
    #[arg(long, default_value = "5000ms", value_parser = milliseconds)]
    drain_duration: Duration,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text
        .strip_suffix("ms")
        .and_then(|number| number.parse().ok());
    number
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no duration such as 5000ms"))
}

pub(crate) fn run(args: ProxyArgs, out: &mut Output) -> Result<ExitCode> {
    match args.role {
        None => from_file(args.file, out),
        Some(RoleCommand::Sidecar(pod)) => in_pod(Role::Sidecar, pod),
        Some(RoleCommand::Gateway(pod)) => in_pod(Role::Gateway, pod),
        Some(RoleCommand::Wait { timeout_s }) => wait(Duration::from_secs(timeout_s)),
    }
}

fn from_file(args: FileArgs, out: &mut Output) -> Result<ExitCode> {
    let file = BootstrapFile {
        path: args.config,
        yaml: args.config_yaml,
        node: args.service_node,
        cluster: args.service_cluster,
        zone: args.service_zone,
    };
    let mut options = Options::new(malla_identity::default_provider());
    options.env = Arc::new(|name| std::env::var(name).ok());
    options.grace = Duration::from_secs(args.grace_s);
    options.drain_time = Duration::from_secs(args.drain_time_s);
    options.log_flush = Duration::from_millis(args.file_flush_interval_msec.max(1));
    if let Some(concurrency) = args.concurrency {
        options.concurrency = concurrency;
    }
    if args.mode == Mode::Validate {
        let checked = file
            .read()
            .and_then(|bootstrap| validate(bootstrap, &options));
        let warnings = checked
            .with_context(|| format!("error initializing configuration '{}'", file.name()))?;
        warnings
            .iter()
            .for_each(|warning| out.note(&format!("warning: {warning}")));
        out.text(&format!("configuration '{}' OK\n", file.name()));
        return Ok(ExitCode::SUCCESS);
    }
    options.log = Some(log::init(Format::Text, &level(&args.log_level))?);
    let bootstrap = file.read()?;
    malla_proxy::app::run(ConfigSource::Static(Box::new(bootstrap)), options)?;
    Ok(ExitCode::SUCCESS)
}

/// Envoy's and Istio's names of levels, where they differ from ours.
fn level(text: &str) -> String {
    match text {
        "warning" => "warn".to_owned(),
        "critical" | "off" => "error".to_owned(),
        other => other.to_owned(),
    }
}

fn in_pod(role: Role, args: PodArgs) -> Result<ExitCode> {
    let log = log::init(Format::Text, &level(&args.log_level))?;
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let settings = Settings::read(role, args.domain.as_deref(), &environment, Paths::default())?;
    let Some(envoy) = args.envoy_path else {
        // Istio's default where nothing limits the processor.
        let concurrency = args.concurrency.unwrap_or(2);
        return managed::run(
            settings,
            managed::Tuning {
                concurrency,
                grace: args.drain_duration,
            },
            log,
        );
    };
    let mut options = EnvoyOptions::new(envoy);
    options.program.concurrency = args
        .concurrency
        .and_then(|workers| u32::try_from(workers).ok());
    options.program.log_level = args.log_level;
    options.drain = args.drain_duration;
    options.exit_on_zero_connections = environment
        .get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
        .is_some_and(|v| v == "true");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let exit = runtime.block_on(async {
        let mut signals = ShutdownSignals::listen()?;
        let told = async move {
            signals.recv().await;
        };
        anyhow::Ok(
            malla_agent::run_envoy(settings, options, malla_identity::default_provider(), told)
                .await?,
        )
    })?;
    Ok(ExitCode::from(u8::try_from(exit.code()).unwrap_or(1)))
}

fn wait(timeout: Duration) -> Result<ExitCode> {
    let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, malla_agent::Ports::default().agent));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(malla_agent::wait_until_ready(agent, timeout)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(reason) => bail!("the proxy was not ready within {timeout:?}: {reason}"),
    }
}
