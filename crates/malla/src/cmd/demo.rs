//! `malla demo`: the whole mesh on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::demo::launch::{Options, launch};
use crate::output::Output;

/// Run the whole mesh on this machine: cluster, control plane, gateway and a shop to try it on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla demo
  malla demo --data ~/malla        keep the cluster's objects between runs
  malla demo --no-shop --ready-file /tmp/ready.json
  malla demo --proxy envoy --envoy-path /usr/local/bin/envoy

Ctrl-C removes every process, namespace, rule and file it made.")]
pub(crate) struct DemoArgs {
    /// How many clusters to start.
    #[arg(long, default_value_t = 1)]
    clusters: u8,
    /// Do not deploy the shop.
    #[arg(long)]
    no_shop: bool,
    /// Do not keep the shop busy: by default four requests a second come in by the gateway.
    #[arg(long)]
    no_visitors: bool,
    /// Keep the cluster's state in this folder.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The data plane: Malla's own proxy, or stock Envoy.
    #[arg(long, value_enum, default_value = "malla")]
    proxy: DataPlane,
    /// The Envoy program, with `--proxy envoy`.
    #[arg(long, value_name = "PATH")]
    envoy_path: Option<PathBuf>,
    /// Write this JSON file when everything is ready.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DataPlane {
    Malla,
    Envoy,
}

pub(crate) fn run(args: DemoArgs, out: &mut Output) -> Result<ExitCode> {
    if args.clusters != 1 {
        bail!(
            "--clusters {}: this version runs one cluster (two are planned)",
            args.clusters
        );
    }
    let envoy = match (args.proxy, args.envoy_path) {
        (DataPlane::Malla, None) => None,
        (DataPlane::Malla, Some(_)) => bail!("--envoy-path needs --proxy envoy"),
        (DataPlane::Envoy, None) => {
            bail!("--proxy envoy needs --envoy-path PATH (the envoy program)")
        }
        (DataPlane::Envoy, Some(path)) => {
            let path = path
                .canonicalize()
                .with_context(|| format!("--envoy-path {}", path.display()))?;
            Some(path)
        }
    };
    let options = Options {
        data: args.data,
        ready_file: args.ready_file,
        mesh: true,
        shop: !args.no_shop,
        visitors: !args.no_visitors,
        envoy,
    };
    launch(options, out)
}
