//! Makes one bootstrap for each proxy out of a base, a family's fragments, and ports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::case::{Family, Fragment};

/// What a base's file holds.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base {
    /// A listener; its name, address and statistics' prefix are filled in.
    listener: Value,
    /// What every cluster begins with.
    cluster: Value,
    /// Clusters there are without being asked for.
    clusters: BTreeMap<String, Map<String, Value>>,
}

/// Reads YAML.
pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The bootstrap of a family, with `$up:NAME`, `$port:NAME` and the like still in it.
pub(crate) fn bootstrap(family: &Family, base: &Base) -> Value {
    let main = BTreeMap::from([("main".to_owned(), Fragment::default())]);
    let wanted = if family.listeners.is_empty() {
        &main
    } else {
        &family.listeners
    };
    let listeners: Vec<Value> = wanted
        .iter()
        .map(|(name, own)| listener(name, &base.listener, &[&family.all, own]))
        .collect();
    let names: BTreeSet<&String> = base.clusters.keys().chain(family.clusters.keys()).collect();
    let clusters: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let parts = [base.clusters.get(name), family.clusters.get(name)];
            cluster(name, &base.cluster, parts.into_iter().flatten())
        })
        .collect();
    let mut whole = json!({
        "admin": { "address": address("$port:admin") },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    if let Some(more) = &family.bootstrap {
        merge(&mut whole, more);
    }
    whole
}

fn address(port: &str) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn listener(name: &str, base: &Value, fragments: &[&Fragment]) -> Value {
    let mut out = base.clone();
    out["name"] = name.into();
    out["address"] = address(&format!("$port:{name}"));
    for fragment in fragments {
        if let Some(more) = &fragment.listener {
            merge(&mut out, more);
        }
        let chains = out["filter_chains"].as_array_mut();
        for chain in chains.into_iter().flatten() {
            if let Some(more) = &fragment.chain {
                merge(chain, more);
            }
            let filters = chain["filters"].as_array_mut();
            let filters = filters.expect("a chain of a base has filters");
            if let Some(last) = filters.last_mut() {
                change_last(&mut last["typed_config"], name, fragment);
            }
            let at = filters.len().saturating_sub(1);
            filters.splice(at..at, fragment.network_filters.iter().cloned());
        }
    }
    out
}

fn change_last(last: &mut Value, name: &str, fragment: &Fragment) {
    last["stat_prefix"] = name.into();
    let hosts = last.pointer_mut("/route_config/virtual_hosts");
    if let Some(hosts) = hosts.and_then(Value::as_array_mut)
        && let Some(host) = hosts.first_mut()
    {
        if let Some(more) = &fragment.vhost {
            merge(host, more);
        }
        if let Some(routes) = host["routes"].as_array_mut() {
            let at = routes.len().saturating_sub(1);
            routes.splice(at..at, fragment.routes.iter().cloned());
        }
    }
    let filters = last.get_mut("http_filters");
    if let Some(filters) = filters.and_then(Value::as_array_mut) {
        let at = filters.len().saturating_sub(1);
        filters.splice(at..at, fragment.filters.iter().cloned());
    }
    if let Some(more) = &fragment.hcm {
        merge(last, more);
    }
}

/// `endpoints: [a, b]` names upstreams; without it and without a `load_assignment` the cluster's name is the upstream's.
fn cluster<'a>(
    name: &str,
    base: &Value,
    parts: impl Iterator<Item = &'a Map<String, Value>>,
) -> Value {
    let mut out = base.clone();
    out["name"] = name.into();
    let mut endpoints = vec![Value::from(name)];
    for part in parts {
        let mut part = part.clone();
        if let Some(Value::Array(named)) = part.remove("endpoints") {
            endpoints = named;
        }
        merge(&mut out, &Value::Object(part));
    }
    let fixed = !matches!(out["type"].as_str(), Some("EDS" | "ORIGINAL_DST"));
    if fixed && out.get("load_assignment").is_none() && out.get("cluster_type").is_none() {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|up| {
                let up = format!("$up:{}", up.as_str().expect("an endpoint is a name"));
                json!({ "endpoint": { "address": address(&up) } })
            })
            .collect();
        let assigned = json!([{ "lb_endpoints": endpoints }]);
        out["load_assignment"] = json!({ "cluster_name": name, "endpoints": assigned });
    }
    out
}

/// Objects are merged, anything else is replaced; `null` takes a field away.
fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, more) => *into = more.clone(),
    }
}

/// Every `$kind:NAME` of a text.
pub(crate) fn named(text: &str, kind: &str) -> BTreeSet<String> {
    let pattern = regex::Regex::new(&format!(r"\${kind}:([a-z0-9-]+)")).unwrap();
    pattern
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect()
}

/// Puts numbers where `$kind:NAME` stands, without quotes where it is a whole string.
pub(crate) fn fill(text: &str, kind: &str, values: &BTreeMap<String, u16>) -> String {
    let mut names: Vec<_> = values.iter().collect();
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names
        .into_iter()
        .fold(text.to_owned(), |text, (name, port)| {
            let place = format!("${kind}:{name}");
            text.replace(&format!("\"{place}\""), &port.to_string())
                .replace(&place, &port.to_string())
        })
}
