//! `malla proxy-config`: what a proxy works with, from its own admin interface or a file of its dump.

mod clusters;
pub(crate) mod dump;
mod endpoints;
mod listeners;
mod routes;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::dump::Dump;
use super::reach::{self, ADMIN, Reach};
use crate::output::Output;
use crate::table::Table;

/// Show a proxy's clusters, endpoints, listeners, routes, secrets, extensions or bootstrap.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla proxy-config cluster cart-1.base --fqdn user.base.svc.cluster.local
  malla proxy-config listener deployment/cart -n base --port 15006
  malla proxy-config route cart-1.base --name 7000 -o json
  malla proxy-config endpoint cart-1.base --cluster 'outbound|7000||user.base.svc.cluster.local'
  malla proxy-config all --file config_dump.json")]
pub(crate) struct ProxyConfigArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    reach: Reach,
    /// Of the pod, where its name has none.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// A dump (`/config_dump?include_eds`) in place of a running proxy.
    #[arg(short, long, global = true)]
    file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value = "short", global = true)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Short,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Where requests can be sent.
    #[command(alias = "clusters", alias = "c")]
    Cluster {
        proxy: Option<String>,
        #[command(flatten)]
        filter: clusters::Filter,
    },
    /// Endpoints as the proxy sees their health.
    #[command(alias = "endpoints", alias = "ep")]
    Endpoint {
        proxy: Option<String>,
        #[command(flatten)]
        filter: endpoints::Filter,
    },
    /// Endpoints as the control plane sent them.
    Eds {
        proxy: Option<String>,
        #[command(flatten)]
        filter: endpoints::Filter,
    },
    /// Where connections come in.
    #[command(alias = "listeners", alias = "l")]
    Listener {
        proxy: Option<String>,
        #[command(flatten)]
        filter: listeners::Filter,
    },
    /// Where requests go.
    #[command(alias = "routes", alias = "r")]
    Route {
        proxy: Option<String>,
        /// Of the route configuration.
        #[arg(long)]
        name: Option<String>,
    },
    /// Certificates in use.
    #[command(alias = "secrets", alias = "s")]
    Secret { proxy: Option<String> },
    /// Filters whose configuration comes on its own.
    Ecds { proxy: Option<String> },
    /// What the proxy was started with, as JSON or YAML.
    #[command(alias = "b")]
    Bootstrap { proxy: Option<String> },
    /// All of these.
    All { proxy: Option<String> },
}

pub(crate) fn run(args: &ProxyConfigArgs, out: &mut Output) -> Result<ExitCode> {
    let text = reach::run(print(args))?;
    out.text(&text);
    Ok(ExitCode::SUCCESS)
}

async fn print(args: &ProxyConfigArgs) -> Result<String> {
    let read = |proxy, path| read(args, proxy, path);
    let dump = |proxy| async move { read(proxy, "/config_dump?include_eds").await.map(Dump::new) };
    match &args.what {
        What::Cluster { proxy, filter } => {
            let dump = dump(proxy.as_deref()).await?;
            shown(args, clusters::select(&dump, filter), clusters::table)
        }
        What::Endpoint { proxy, filter } => {
            let page = match &args.file {
                Some(_) => read(proxy.as_deref(), "").await?,
                None => read(proxy.as_deref(), "/clusters?format=json").await?,
            };
            shown(args, endpoints::select(&page, filter), endpoints::table)
        }
        What::Eds { proxy, filter } => {
            let dump = dump(proxy.as_deref()).await?;
            shown(
                args,
                endpoints::select_sent(&dump, filter),
                endpoints::table_sent,
            )
        }
        What::Listener { proxy, filter } => {
            let dump = dump(proxy.as_deref()).await?;
            let table = |list: &[Value]| listeners::table(list, filter.short);
            shown(args, listeners::select(&dump, filter), table)
        }
        What::Route { proxy, name } => {
            let dump = dump(proxy.as_deref()).await?;
            shown(args, routes::select(&dump, name.as_deref()), routes::table)
        }
        What::Secret { proxy } => {
            let dump = dump(proxy.as_deref()).await?;
            shown(args, dump.secrets(), secrets::table)
        }
        What::Ecds { proxy } => {
            let dump = dump(proxy.as_deref()).await?;
            shown(args, dump.all(dump::EXTENSIONS), extensions)
        }
        What::Bootstrap { proxy } => {
            let dump = dump(proxy.as_deref()).await?;
            let bootstrap = dump.bootstrap().context("the dump has no bootstrap")?;
            as_data(args.output, bootstrap)
        }
        What::All { proxy } => all(args, dump(proxy.as_deref()).await?),
    }
}

async fn read(args: &ProxyConfigArgs, proxy: Option<&str>, path: &str) -> Result<Value> {
    match (&args.file, proxy) {
        (Some(_), Some(_)) => bail!("a proxy and --file exclude each other"),
        (Some(file), None) => {
            let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
        }
        (None, Some(proxy)) => {
            let cluster = args.reach.cluster().await?;
            let pod = cluster.pod(proxy, args.namespace.as_deref()).await?;
            cluster.json(&pod, ADMIN, path).await
        }
        (None, None) => bail!("which proxy? (POD[.NAMESPACE], deployment/NAME, or --file)"),
    }
}

fn shown(
    args: &ProxyConfigArgs,
    resources: Vec<Value>,
    table: impl Fn(&[Value]) -> Table,
) -> Result<String> {
    match args.output {
        Format::Short => Ok(table(&resources).to_string()),
        format => as_data(format, &Value::Array(resources)),
    }
}

fn as_data(format: Format, data: &Value) -> Result<String> {
    match format {
        Format::Yaml => Ok(serde_saphyr::to_string(data)?),
        Format::Short | Format::Json => Ok(format!("{data:#}\n")),
    }
}

fn all(args: &ProxyConfigArgs, dump: Dump) -> Result<String> {
    if args.output != Format::Short {
        return as_data(args.output, dump.whole());
    }
    let tables = [
        clusters::table(&clusters::select(&dump, &clusters::Filter::default())),
        listeners::table(
            &listeners::select(&dump, &listeners::Filter::default()),
            false,
        ),
        routes::table(&routes::select(&dump, None)),
        secrets::table(&dump.secrets()),
        endpoints::table_sent(&endpoints::select_sent(
            &dump,
            &endpoints::Filter::default(),
        )),
        extensions(&dump.all(dump::EXTENSIONS)),
    ];
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    Ok(tables.join("\n"))
}

fn extensions(list: &[Value]) -> Table {
    let mut rows: Vec<(String, String)> = list
        .iter()
        .map(|extension| {
            let url = text(&extension["typed_config"]["@type"]);
            let kind = url.strip_prefix("type.googleapis.com/").unwrap_or(url);
            (kind.to_owned(), text(&extension["name"]).to_owned())
        })
        .collect();
    rows.sort();
    let mut table = Table::new(["ECDS NAME", "TYPE"]);
    for (kind, name) in rows {
        table.row([name, kind]);
    }
    table
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The object that made a cluster or a route (`filter_metadata.istio.config`), as `name.namespace`.
fn made_by(metadata: &Value) -> String {
    let path = text(&metadata["filter_metadata"]["istio"]["config"]);
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        _ if path.is_empty() => String::new(),
        [
            "",
            "apis",
            "networking.istio.io",
            _,
            "namespaces",
            namespace,
            _,
            name,
        ] => {
            format!("{name}.{namespace}")
        }
        _ => "<unknown>".to_owned(),
    }
}

/// `address:port`, or a path.
fn address(address: &Value) -> (String, Option<u64>) {
    let socket = &address["socket_address"];
    let port = &socket["port_value"];
    match address["pipe"]["path"].as_str() {
        Some(path) => (format!("unix://{path}"), None),
        None => (text(&socket["address"]).to_owned(), port.as_u64()),
    }
}

/// What is left out of JSON stands for its default.
fn or_default(value: &Value, default: &str) -> Value {
    match value.as_str() {
        Some(_) => value.clone(),
        None => json!(default),
    }
}
