//! `malla analyze`: what is wrong with a configuration, in a cluster or in files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use malla_api::analyze::Level;
use malla_api::{Kind, Message, World, analyze};
use malla_model::MeshSettings;
use serde_json::{Value, json};

use crate::cmd::reach;
use crate::output::Output;

/// Look for mistakes in a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla analyze                        what is in the cluster
  malla analyze *.yaml                 files, before they are applied
  malla analyze --use-kube=false a.yaml
  malla analyze -n base -o json

Exit codes: 0 fine, 1 found problems, 2 bad use.")]
pub(crate) struct AnalyzeArgs {
    /// Files to add to what is in the cluster.
    files: Vec<PathBuf>,
    /// Look at the cluster; off when only the files count.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    use_kube: bool,
    /// Only report about this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The cluster to look at, unless `KUBECONFIG` names it.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value = "log")]
    output: Format,
    /// The least level that makes the exit code 1.
    #[arg(long, value_enum, default_value = "error")]
    failure_threshold: Threshold,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Log,
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Threshold {
    Error,
    Warning,
    Info,
}

pub(crate) fn run(args: AnalyzeArgs, out: &mut Output) -> Result<ExitCode> {
    let mut world = World {
        objects: Vec::new(),
        settings: MeshSettings::default(),
        revisions: vec!["default".to_owned()],
    };
    if args.use_kube {
        reach::run(read_cluster(&mut world, args.kubeconfig.as_deref()))?;
    }
    for path in &args.files {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        world
            .add_yaml(&path.display().to_string(), &text)
            .with_context(|| format!("{}", path.display()))?;
    }
    let mut messages = analyze(&world);
    if let Some(namespace) = &args.namespace {
        messages.retain(|message| {
            message.subject.namespace == *namespace || message.subject.name == *namespace
        });
    }
    out.text(&print(&messages, args.output));
    let least = match args.failure_threshold {
        Threshold::Error => Level::Error,
        Threshold::Warning => Level::Warning,
        Threshold::Info => Level::Info,
    };
    // The worst level is the smallest.
    let found = messages.iter().any(|message| message.level() <= least);
    Ok(if found {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn print(messages: &[Message], format: Format) -> String {
    let data = || {
        let list = messages.iter().map(|m| {
            json!({
                "code": m.code.as_str(), "level": m.level().to_string(), "message": m.text,
                "origin": format!("{} {}/{}", m.subject.kind, m.subject.namespace, m.subject.name),
                "reference": m.subject.source.as_ref().map(|s| format!("{}:{}", s.file, s.line)),
            })
        });
        Value::Array(list.collect())
    };
    match format {
        Format::Json => format!("{:#}\n", data()),
        Format::Yaml => serde_saphyr::to_string(&data()).unwrap_or_default(),
        Format::Log if messages.is_empty() => "No problems found.\n".to_owned(),
        Format::Log => messages
            .iter()
            .map(|message| format!("{message}\n"))
            .collect(),
    }
}

/// Everything the checks look at.
async fn read_cluster(world: &mut World, kubeconfig: Option<&Path>) -> Result<()> {
    let advice = "use --use-kube=false to look at files only";
    let config = reach::find(kubeconfig, None, advice).await?;
    let client = kube::Client::try_from(config)?;
    let core =
        ["Namespace", "Service", "Pod", "Secret"].map(|kind| GroupVersionKind::gvk("", "v1", kind));
    let deployments = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let builtin = core
        .into_iter()
        .chain([deployments])
        .map(|gvk| ApiResource::from_gvk(&gvk));
    let istio = Kind::ALL.into_iter().map(|kind| {
        let gvk = GroupVersionKind::gvk(kind.group(), kind.storage_version(), kind.name());
        ApiResource::from_gvk_with_plural(&gvk, kind.plural())
    });
    for resource in builtin.chain(istio) {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let list = match api.list(&ListParams::default()).await {
            Ok(list) => list,
            // A cluster without that kind has none of it.
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error).with_context(|| format!("list {}", resource.plural)),
        };
        for mut object in list.items {
            object.metadata.managed_fields = None;
            if resource.kind == "Secret" {
                object.data["data"] = keys_only(&object.data["data"]);
            }
            let mut value = serde_json::to_value(object)?;
            value["apiVersion"] = json!(resource.api_version);
            value["kind"] = json!(resource.kind);
            world.add(value);
        }
    }
    Ok(())
}

/// Which keys a Secret has matters, what is in them does not.
fn keys_only(data: &Value) -> Value {
    let keys = data
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| (key.clone(), json!("")));
    Value::Object(keys.collect())
}
