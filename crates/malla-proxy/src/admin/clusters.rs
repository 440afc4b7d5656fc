//! `/clusters`: thresholds and hosts of every cluster, as text or JSON (`envoy.admin.v3.Clusters`).
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, Discovery, Thresholds};
use malla_proxy_config::endpoints::Health;
use malla_proxy_config::snapshot::ClusterEntry;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::upstream::host::{Host, HostState};

/// What is shown of a cluster.
struct Shown {
    config: Arc<Cluster>,
    hosts: Vec<Arc<Host>>,
    added_via_api: bool,
}

fn shown(admin: &Admin) -> Vec<Shown> {
    let snapshot = admin.shared.live.load_full();
    let inventory = admin.inventory.of(malla_xds_proto::type_url::CLUSTER);
    let mut out: Vec<Shown> = snapshot
        .clusters()
        .map(|entry: &ClusterEntry| {
            // Shown, not kept: an unused cluster must not cost memory because somebody looked.
            let known = admin.shared.clusters.peek(&entry.config.name);
            let hosts = match known {
                Some(shared) => shared.hosts().hosts.clone(),
                None => crate::upstream::cluster::preview(entry),
            };
            let is_static = inventory
                .get(&entry.config.name)
                .is_some_and(|entry| entry.is_static);
            Shown {
                config: Arc::clone(&entry.config),
                hosts,
                added_via_api: !is_static,
            }
        })
        .collect();
    out.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    out
}

pub(super) fn as_text(admin: &Admin) -> String {
    let mut out = String::new();
    for cluster in shown(admin) {
        let name = &cluster.config.name;
        let _ = writeln!(
            out,
            "{name}::observability_name::{}",
            cluster.config.stat_name
        );
        for (priority, limits) in [
            ("default", &cluster.config.thresholds[0]),
            ("high", &cluster.config.thresholds[1]),
        ] {
            for (key, value) in thresholds(limits) {
                let _ = writeln!(out, "{name}::{priority}_priority::{key}::{value}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", cluster.added_via_api);
        if let Discovery::Eds { service } = &cluster.config.discovery {
            let _ = writeln!(out, "{name}::eds_service_name::{service}");
        }
        for host in &cluster.hosts {
            host_text(&mut out, name, host);
        }
    }
    out
}

fn thresholds(limits: &Thresholds) -> [(&'static str, u32); 4] {
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending_requests),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

fn counters(state: &HostState) -> [(&'static str, bool, u64); 8] {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    [
        ("cx_active", true, load(&state.cx_active)),
        ("cx_connect_fail", false, load(&state.cx_connect_fail)),
        ("cx_total", false, load(&state.cx_total)),
        ("rq_active", true, load(&state.active)),
        ("rq_error", false, load(&state.rq_error)),
        ("rq_success", false, load(&state.rq_success)),
        ("rq_timeout", false, load(&state.rq_timeout)),
        ("rq_total", false, load(&state.rq_total)),
    ]
}

fn host_text(out: &mut String, cluster: &str, host: &Host) {
    let endpoint = &host.endpoint;
    let head = format!("{cluster}::{}", endpoint.address);
    for (name, _, value) in counters(&host.state) {
        let _ = writeln!(out, "{head}::{name}::{value}");
    }
    let locality = &host.locality;
    let rows: [(&str, String); 10] = [
        ("hostname", endpoint.hostname.clone()),
        ("health_flags", health_flags(host)),
        ("weight", endpoint.weight.to_string()),
        ("region", locality.region.clone()),
        ("zone", locality.zone.clone()),
        ("sub_zone", locality.sub_zone.clone()),
        ("canary", "false".to_owned()),
        ("priority", host.priority.to_string()),
        (
            "success_rate",
            host.state.monitor.success_rate().to_string(),
        ),
        (
            "local_origin_success_rate",
            host.state.monitor.local_origin_success_rate().to_string(),
        ),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{head}::{name}::{value}");
    }
}

fn health_flags(host: &Host) -> String {
    let mut flags = String::new();
    if host.state.monitor.is_ejected() {
        flags.push_str("/failed_outlier_check");
    }
    match host.endpoint.health {
        Health::Healthy => {}
        Health::Degraded => flags.push_str("/degraded_eds_health"),
        Health::Unhealthy => flags.push_str("/failed_eds_health"),
        Health::Draining => flags.push_str("/eds_status_draining"),
    }
    if flags.is_empty() {
        "healthy".to_owned()
    } else {
        flags
    }
}

pub(super) fn as_json(admin: &Admin) -> Value {
    let statuses: Vec<Value> = shown(admin).iter().map(cluster_json).collect();
    json!({ "cluster_statuses": statuses })
}

fn cluster_json(cluster: &Shown) -> Value {
    let limits = |priority: &str, limits: &Thresholds| {
        let mut out = Map::from_iter([("priority".to_owned(), Value::from(priority))]);
        out.extend(thresholds(limits).map(|(name, value)| (name.to_owned(), Value::from(value))));
        Value::Object(out)
    };
    let mut out = Map::new();
    out.insert("name".into(), (*cluster.config.name).into());
    if cluster.added_via_api {
        out.insert("added_via_api".into(), true.into());
    }
    out.insert(
        "host_statuses".into(),
        cluster.hosts.iter().map(|host| host_json(host)).collect(),
    );
    out.insert(
        "circuit_breakers".into(),
        json!({ "thresholds": [
            limits("DEFAULT", &cluster.config.thresholds[0]),
            limits("HIGH", &cluster.config.thresholds[1]),
        ] }),
    );
    out.insert(
        "observability_name".into(),
        (*cluster.config.stat_name).into(),
    );
    if let Discovery::Eds { service } = &cluster.config.discovery {
        out.insert("eds_service_name".into(), (**service).into());
    }
    Value::Object(out)
}

fn host_json(host: &Host) -> Value {
    let endpoint = &host.endpoint;
    let stats: Vec<Value> = counters(&host.state)
        .into_iter()
        .map(|(name, is_gauge, value)| {
            // Zero values and the default type are left out, as protobuf's JSON does.
            let mut stat = Map::from_iter([("name".to_owned(), Value::from(name))]);
            if value != 0 {
                stat.insert("value".into(), value.to_string().into());
            }
            if is_gauge {
                stat.insert("type".into(), "GAUGE".into());
            }
            Value::Object(stat)
        })
        .collect();
    let mut health = Map::new();
    let status = match endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    };
    health.insert("eds_health_status".into(), status.into());
    if host.state.monitor.is_ejected() {
        health.insert("failed_outlier_check".into(), true.into());
    }
    let mut out = Map::new();
    out.insert("address".into(), address_json(&endpoint.address));
    out.insert("stats".into(), stats.into());
    out.insert("health_status".into(), Value::Object(health));
    for (name, rate) in [
        ("success_rate", host.state.monitor.success_rate()),
        (
            "local_origin_success_rate",
            host.state.monitor.local_origin_success_rate(),
        ),
    ] {
        if rate >= 0 {
            out.insert(name.into(), json!({ "value": rate }));
        }
    }
    out.insert("weight".into(), endpoint.weight.into());
    if !endpoint.hostname.is_empty() {
        out.insert("hostname".into(), endpoint.hostname.as_str().into());
    }
    if host.priority > 0 {
        out.insert("priority".into(), host.priority.into());
    }
    let mut locality = Map::new();
    for (name, value) in [
        ("region", &host.locality.region),
        ("zone", &host.locality.zone),
        ("sub_zone", &host.locality.sub_zone),
    ] {
        if !value.is_empty() {
            locality.insert(name.into(), value.as_str().into());
        }
    }
    out.insert("locality".into(), Value::Object(locality));
    Value::Object(out)
}

/// An address as Envoy's JSON has it.
pub(super) fn address_json(address: &Address) -> Value {
    match address {
        Address::Socket(address) => {
            json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
        }
        Address::Name { host, port } => {
            json!({ "socket_address": { "address": &**host, "port_value": port } })
        }
        Address::Pipe(path) => json!({ "pipe": { "path": path.display().to_string() } }),
    }
}
