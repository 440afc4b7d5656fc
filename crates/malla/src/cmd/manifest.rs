//! `malla manifest`: what an installation consists of, to be applied by `kubectl` or kept in a repository.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use malla_control::manifest::{Installation, ROOT_NAMESPACE, control_plane, ingress_gateway};

use crate::output::Output;

/// Print the Kubernetes objects of an installation, in the order in which they are applied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla manifest | kubectl apply --server-side -f -
  malla manifest --image registry.example.com/malla:1.0 --gateway > malla.yaml
  malla manifest --crds | kubectl diff -f -")]
pub(crate) struct ManifestArgs {
    /// The namespace of the control plane, which is the mesh's root namespace.
    #[arg(long, default_value = ROOT_NAMESPACE)]
    namespace: String,
    /// Image of control plane, gateway and sidecars.
    #[arg(long, default_value = "malla/malla")]
    image: String,
    #[arg(long, default_value = "Kubernetes")]
    cluster_id: String,
    /// A file with the mesh's settings (MeshConfig in YAML).
    #[arg(long)]
    mesh_config: Option<PathBuf>,
    /// An ingress gateway too.
    #[arg(long)]
    gateway: bool,
    /// Istio's kinds (CRDs) and nothing else.
    #[arg(long, conflicts_with = "gateway")]
    crds: bool,
}

pub(crate) fn run(args: ManifestArgs, out: &mut Output) -> Result<ExitCode> {
    let mesh_config = match &args.mesh_config {
        Some(path) => {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("read {}", path.display()))?;
            malla_api::lower::mesh_config::lower(&text, &malla_model::MeshSettings::default())
                .with_context(|| format!("read {}", path.display()))?;
            text
        }
        None => String::new(),
    };
    let installation = Installation {
        namespace: args.namespace,
        image: args.image,
        cluster_id: args.cluster_id,
        mesh_config,
        control_args: Vec::new(),
        proxy_args: Vec::new(),
    };
    let mut objects = malla_api::crd::crds();
    if !args.crds {
        objects.extend(control_plane(&installation));
    }
    if args.gateway {
        objects.extend(ingress_gateway(&installation));
    }
    for object in objects {
        let yaml = serde_saphyr::to_string(&object).context("write YAML")?;
        out.text(&format!("---\n{yaml}"));
    }
    Ok(ExitCode::SUCCESS)
}
