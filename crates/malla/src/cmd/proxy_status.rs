//! `malla proxy-status`: which proxies are connected, and whether they have taken what they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::proxy_config::dump::{self, Dump};
use super::reach::{self, ADMIN, Cluster, MONITORING, PodName, Reach};
use crate::output::Output;
use crate::table::Table;

/// Show which proxies are connected and in sync, or in what one differs from what it was offered.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla proxy-status                    every connected proxy
  malla proxy-status -n base -v 1       one column for each type of resource
  malla proxy-status cart-1.base        what this proxy has and was not offered, or the other way round
  malla proxy-status -o json

Exit codes: 0 fine, 1 a proxy refuses something or differs, 2 bad use.")]
pub(crate) struct ProxyStatusArgs {
    /// POD[.NAMESPACE], pod/… or deployment/…
    proxy: Option<String>,
    /// Only proxies of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// 1 shows a column for each type of resource.
    #[arg(short, long, default_value_t = 0)]
    verbosity: u8,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

/// Types in the order they are always shown in; others follow by their names.
const FIRST: [(&str, &str); 4] = [
    ("CDS", "envoy.config.cluster.v3.Cluster"),
    ("LDS", "envoy.config.listener.v3.Listener"),
    ("EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("RDS", "envoy.config.route.v3.RouteConfiguration"),
];
const OTHER: [(&str, &str); 4] = [
    ("ECDS", "envoy.config.core.v3.TypedExtensionConfig"),
    ("SDS", "envoy.extensions.transport_sockets.tls.v3.Secret"),
    ("NDS", "istio.networking.nds.v1.NameTable"),
    ("PCDS", "istio.mesh.v1alpha1.ProxyConfig"),
];

pub(crate) fn run(args: &ProxyStatusArgs, out: &mut Output) -> Result<ExitCode> {
    reach::run(async {
        let cluster = args.reach.cluster().await?;
        let planes = cluster.control_planes(&args.reach.istio_namespace).await?;
        match &args.proxy {
            Some(proxy) => {
                let pod = cluster.pod(proxy, args.namespace.as_deref()).await?;
                compare(&cluster, &planes, &pod, out).await
            }
            None => all(&cluster, &planes, args, out).await,
        }
    })
}

async fn all(
    cluster: &Cluster,
    planes: &[PodName],
    args: &ProxyStatusArgs,
    out: &mut Output,
) -> Result<ExitCode> {
    let path = match &args.namespace {
        Some(namespace) => format!("/debug/syncz?namespace={namespace}"),
        None => "/debug/syncz".to_owned(),
    };
    let mut proxies = Vec::new();
    for plane in planes {
        let page = cluster.json(plane, MONITORING, &path).await?;
        let entries = page.as_array().cloned().unwrap_or_default();
        proxies.extend(entries.into_iter().map(|mut entry| {
            entry["istiod"] = json!(plane.name);
            entry
        }));
    }
    proxies.sort_by(|a, b| a["proxy"].as_str().cmp(&b["proxy"].as_str()));
    let refuses = proxies.iter().any(|proxy| {
        states(proxy)
            .values()
            .any(|state| state.starts_with("ERROR"))
    });
    out.text(&match args.output {
        Format::Json => format!("{:#}\n", Value::Array(proxies)),
        Format::Yaml => serde_saphyr::to_string(&proxies)?,
        Format::Table if args.verbosity > 0 => verbose(&proxies, Timestamp::now()).to_string(),
        Format::Table => summary(&proxies).to_string(),
    });
    Ok(ExitCode::from(u8::from(refuses)))
}

/// `SYNCED`, `STALE`, `NOT_SENT` or `ERROR` by short name of the type.
fn states(proxy: &Value) -> BTreeMap<String, &str> {
    let types = proxy["resources"].as_object().into_iter().flatten();
    types
        .map(|(url, facts)| (short(url), facts["state"].as_str().unwrap_or_default()))
        .collect()
}

fn short(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap_or(url);
    let known = FIRST.iter().chain(&OTHER).find(|(_, full)| *full == name);
    known.map_or(name, |(short, _)| short).to_owned()
}

/// Every type that any of the proxies subscribes to.
fn types(proxies: &[Value]) -> Vec<String> {
    let subscribed: BTreeSet<String> = proxies.iter().flat_map(|p| states(p).into_keys()).collect();
    let first = FIRST.iter().map(|(short, _)| (*short).to_owned());
    let mut types: Vec<String> = first.filter(|short| subscribed.contains(short)).collect();
    let others: Vec<String> = subscribed
        .into_iter()
        .filter(|t| !types.contains(t))
        .collect();
    types.extend(others);
    types
}

fn text<'a>(proxy: &'a Value, field: &str) -> &'a str {
    proxy[field].as_str().unwrap_or_default()
}

fn summary(proxies: &[Value]) -> Table {
    let mut table = Table::new(["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"]);
    let types = types(proxies);
    for proxy in proxies {
        let states = states(proxy);
        let own: Vec<&str> = types
            .iter()
            .map(String::as_str)
            .filter(|t| states.contains_key(*t))
            .collect();
        let subscribed = match own.len() {
            0 => "0".to_owned(),
            count => format!("{count} ({})", own.join(",")),
        };
        table.row([
            text(proxy, "proxy"),
            text(proxy, "cluster_id"),
            text(proxy, "istiod"),
            text(proxy, "istio_version"),
            &subscribed,
        ]);
    }
    table
}

fn verbose(proxies: &[Value], now: Timestamp) -> Table {
    let known = FIRST.iter().map(|(short, _)| (*short).to_owned());
    let mut columns: Vec<String> = known.chain(["ECDS".to_owned()]).collect();
    columns.extend(
        types(proxies)
            .into_iter()
            .filter(|t| !FIRST.iter().any(|(short, _)| short == t) && t != "ECDS"),
    );
    let heading = ["NAME", "CLUSTER"].map(str::to_owned).into_iter();
    let heading = heading.chain(columns.clone());
    let mut table = Table::new(heading.chain(["ISTIOD", "VERSION"].map(str::to_owned)));
    for proxy in proxies {
        let mut row = vec![
            text(proxy, "proxy").to_owned(),
            text(proxy, "cluster_id").to_owned(),
        ];
        for column in &columns {
            let types = proxy["resources"].as_object().into_iter().flatten();
            let facts = types
                .filter(|(url, _)| short(url) == *column)
                .map(|(_, facts)| facts)
                .next();
            row.push(facts.map_or_else(|| "IGNORED".to_owned(), |facts| state(facts, now)));
        }
        row.extend([
            text(proxy, "istiod").to_owned(),
            text(proxy, "istio_version").to_owned(),
        ]);
        table.row(row);
    }
    table
}

/// With its age, as `SYNCED (5m)`.
fn state(facts: &Value, now: Timestamp) -> String {
    let state = facts["state"]
        .as_str()
        .unwrap_or_default()
        .replace('_', " ");
    let sent = facts["sentTime"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    match sent {
        Some(sent) if state != "NOT SENT" => {
            let age = now.as_second().saturating_sub(sent.as_second());
            format!("{state} ({})", age_text(age))
        }
        _ => state,
    }
}

/// Seconds as Kubernetes' tables show ages, roughly.
fn age_text(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What one proxy has, against what it was offered.
async fn compare(
    cluster: &Cluster,
    planes: &[PodName],
    pod: &PodName,
    out: &mut Output,
) -> Result<ExitCode> {
    let active = Dump::new(cluster.json(pod, ADMIN, "/config_dump").await?);
    let path = format!("/debug/config_dump?proxyID={pod}");
    let mut offered = None;
    let mut refusal = None;
    for plane in planes {
        match cluster.json(plane, MONITORING, &path).await {
            Ok(page) => offered = Some(Dump::new(page)),
            // It may be connected to another replica.
            Err(error) => refusal = Some(error),
        }
    }
    let offered = match (offered, refusal) {
        (Some(offered), _) => offered,
        (None, Some(error)) => return Err(error.context(format!("{pod} is not connected"))),
        (None, None) => return Err(anyhow::anyhow!("no control plane")).context("compare"),
    };
    let mut differs = false;
    for (what, section) in [
        ("Clusters", dump::CLUSTERS),
        ("Listeners", dump::LISTENERS),
        ("Routes", dump::ROUTES),
    ] {
        let differences = differences(&offered.dynamic(section), &active.dynamic(section));
        differs |= !differences.is_empty();
        match differences.is_empty() {
            true => out.text(&format!("{what} Match\n")),
            false => out.text(&format!("{what} Don't Match\n{differences}")),
        }
    }
    Ok(ExitCode::from(u8::from(differs)))
}

fn differences(offered: &BTreeMap<String, &Value>, active: &BTreeMap<String, &Value>) -> String {
    let names: BTreeSet<&String> = offered.keys().chain(active.keys()).collect();
    let lines = names
        .into_iter()
        .filter_map(|name| match (offered.get(name), active.get(name)) {
            (Some(a), Some(b)) if same(a, b) => None,
            (Some(_), Some(_)) => Some(format!(
                "  {name}: the proxy has another version than it was offered\n"
            )),
            (Some(_), None) => Some(format!(
                "  {name}: offered, and the proxy does not have it\n"
            )),
            _ => Some(format!(
                "  {name}: the proxy has it and it is not offered\n"
            )),
        });
    lines.collect()
}

/// Equal but for how numbers are written: Envoy's 100 is our 100.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let equal = |(key, value): (&String, &Value)| {
                b.get(key).is_some_and(|other| same(value, other))
            };
            a.len() == b.len() && a.iter().all(equal)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Vec<Value> {
        let at = |state: &str| json!({"state": state, "sentTime": "2026-01-01T00:00:00Z"});
        let url = |name: &str| format!("type.googleapis.com/{name}");
        vec![
            json!({"proxy": "cart-1.base", "cluster_id": "Kubernetes", "istiod": "istiod-1", "istio_version": "0.1.0", "resources": {
                url(FIRST[0].1): at("SYNCED"), url(FIRST[1].1): at("ERROR"), url(OTHER[0].1): at("NOT_SENT"),
            }}),
            json!({"proxy": "user-1.base", "cluster_id": "Kubernetes", "istiod": "istiod-1", "istio_version": "0.1.0", "resources": {}}),
        ]
    }

    #[test]
    fn proxies_are_shown_as_istioctl_shows_them() {
        assert_eq!(
            summary(&proxies()).to_string(),
            "NAME            CLUSTER        ISTIOD       VERSION     SUBSCRIBED TYPES\n\
             cart-1.base     Kubernetes     istiod-1     0.1.0       3 (CDS,LDS,ECDS)\n\
             user-1.base     Kubernetes     istiod-1     0.1.0       0\n"
        );
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        assert_eq!(
            verbose(&proxies(), now).to_string(),
            "NAME            CLUSTER        CDS             LDS            EDS         RDS         ECDS         ISTIOD       VERSION\n\
             cart-1.base     Kubernetes     SYNCED (5m)     ERROR (5m)     IGNORED     IGNORED     NOT SENT     istiod-1     0.1.0\n\
             user-1.base     Kubernetes     IGNORED         IGNORED        IGNORED     IGNORED     IGNORED      istiod-1     0.1.0\n"
        );
    }

    #[test]
    fn a_difference_names_its_resource() {
        let (a, b) = (json!({"x": 1}), json!({"x": 2}));
        assert!(same(&a, &json!({"x": 1.0})) && !same(&a, &json!({"x": 1, "y": 1})));
        let offered = [("same", &a), ("changed", &a), ("missing", &a)];
        let active = [("same", &a), ("changed", &b), ("left", &a)];
        let map = |list: &[(&str, &'static Value)]| {
            list.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
        };
        let leak = |list: [(&'static str, &Value); 3]| {
            list.map(|(n, v)| (n, &*Box::leak(Box::new(v.clone()))))
        };
        let text = differences(&map(&leak(offered)), &map(&leak(active)));
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().split(':').next())
            .collect();
        assert_eq!(names, ["changed", "left", "missing"]);
    }
}
