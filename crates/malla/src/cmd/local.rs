//! `malla local`: the embedded cluster alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use malla_local::{IMAGES_CONFIG_MAP as CONFIG_MAP, Image};
use serde_json::json;

use crate::demo::home::{self, running};
use crate::demo::launch::{Options, launch};
use crate::output::Output;

/// Run a Kubernetes-style cluster on this machine, without the mesh.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla local up
  malla local image add example/echo -- socat TCP-LISTEN:8080,fork EXEC:cat
  kubectl --kubeconfig \"$(malla local kubeconfig)\" get pods -A
  malla local down")]
pub(crate) struct LocalArgs {
    #[command(subcommand)]
    command: LocalCommand,
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    /// Start a cluster; Ctrl-C or `malla local down` ends it.
    Up {
        /// Keep the cluster's state in this folder.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Write this JSON file when it is ready.
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// End the running cluster.
    Down {
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// What image names run as.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print where the running cluster's kubeconfig is.
    Kubeconfig {
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make an image name run a command of this machine.
    Add {
        /// Such as `example/echo`, `example/echo:v1` or `example/*`.
        name: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

pub(crate) fn run(args: LocalArgs, out: &mut Output) -> Result<ExitCode> {
    match args.command {
        LocalCommand::Up { data, ready_file } => launch(
            Options {
                data,
                ready_file,
                mesh: false,
                shop: false,
                visitors: false,
                envoy: None,
            },
            out,
        ),
        LocalCommand::Down { data } => {
            let (_, pid) = running(data)?;
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
                .context("stop the cluster")?;
            out.done("the cluster is stopping");
            Ok(ExitCode::SUCCESS)
        }
        LocalCommand::Kubeconfig { data } => {
            let (folder, _) = running(data)?;
            out.text(&format!("{}\n", home::kubeconfig(&folder).display()));
            Ok(ExitCode::SUCCESS)
        }
        LocalCommand::Image(ImageCommand::Add {
            name,
            command,
            data,
        }) => {
            let (folder, _) = running(data)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(add_image(folder, &name, &command))?;
            out.done(&format!("{name} runs {}", command.join(" ")));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn add_image(folder: PathBuf, name: &str, command: &[String]) -> Result<()> {
    let file = kube::config::Kubeconfig::read_from(home::kubeconfig(&folder))?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    let client = kube::Client::try_from(config)?;
    let kind = kube::api::ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let maps: Api<DynamicObject> = Api::namespaced_with(client, CONFIG_MAP.0, &kind);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (key, value) = Image::new(name, &command).entry()?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP.1}, "data": {key: value}});
    // Each image is its own field: adding one takes away no other.
    let manager = format!("malla-image-{name}")
        .chars()
        .take(120)
        .collect::<String>();
    maps.patch(
        CONFIG_MAP.1,
        &PatchParams::apply(&manager).force(),
        &Patch::Apply(&map),
    )
    .await
    .context("write the image table")?;
    Ok(())
}
