//! `/clusters`: thresholds and hosts of every cluster, as text or JSON (`envoy.admin.v3.Clusters`).
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use malla_proxy_config::address::Address;
use malla_proxy_config::cluster::{Cluster, Discovery, Thresholds};
use malla_proxy_config::endpoints::{DEFAULT_OVERPROVISIONING, EndpointSet, Health, Locality};
use malla_proxy_config::snapshot::ClusterEntry;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::upstream::health::Flag;
use crate::upstream::host::{Host, HostState};

/// What is shown of a cluster.
struct Shown {
    config: Arc<Cluster>,
    hosts: Vec<Arc<Host>>,
    added_via_api: bool,
    /// As configured or as EDS has it.
    endpoints: Option<Arc<EndpointSet>>,
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
                endpoints: entry.endpoints.load_full(),
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
        if let Discovery::Eds { service, .. } = &cluster.config.discovery {
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
        ("canary", host.canary.to_string()),
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
    let state = &host.state;
    let eds = host.endpoint.health;
    // In Envoy's order.
    let flags = [
        ("/failed_active_hc", state.flags.has(Flag::Failed)),
        ("/failed_outlier_check", state.monitor.is_ejected()),
        ("/failed_eds_health", eds == Health::Unhealthy),
        ("/degraded_active_hc", state.flags.has(Flag::Degraded)),
        ("/degraded_eds_health", eds == Health::Degraded),
        ("/pending_dynamic_removal", state.flags.has(Flag::Leaving)),
        ("/pending_active_hc", state.flags.has(Flag::Pending)),
        (
            "/excluded_via_immediate_hc_fail",
            state.flags.has(Flag::Excluded),
        ),
        ("/active_hc_timeout", state.flags.has(Flag::TimedOut)),
        ("/eds_status_draining", eds == Health::Draining),
    ];
    let set: String = flags
        .iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| *name)
        .collect();
    if set.is_empty() {
        "healthy".to_owned()
    } else {
        set
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
    if let Discovery::Eds { service, .. } = &cluster.config.discovery {
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
    health.insert(
        "eds_health_status".into(),
        eds_health(endpoint.health).into(),
    );
    let flags = &host.state.flags;
    for (name, set) in [
        ("failed_active_health_check", flags.has(Flag::Failed)),
        ("failed_outlier_check", host.state.monitor.is_ejected()),
        ("failed_active_degraded_check", flags.has(Flag::Degraded)),
        ("pending_dynamic_removal", flags.has(Flag::Leaving)),
        ("pending_active_hc", flags.has(Flag::Pending)),
        ("excluded_via_immediate_hc_fail", flags.has(Flag::Excluded)),
        ("active_hc_timeout", flags.has(Flag::TimedOut)),
    ] {
        if set {
            health.insert(name.into(), true.into());
        }
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
    out.insert("locality".into(), locality_json(&host.locality));
    Value::Object(out)
}

/// `EndpointsConfigDump.static_endpoint_configs`: the endpoints of clusters that no EDS feeds.
pub(super) fn static_endpoints(admin: &Admin, fits: &dyn Fn(&str) -> bool) -> Vec<Value> {
    let shown = shown(admin).into_iter();
    shown
        .filter(|cluster| !matches!(cluster.config.discovery, Discovery::Eds { .. }))
        .filter(|cluster| fits(&cluster.config.name))
        .map(|cluster| {
            let mut groups: BTreeMap<(u32, &Locality), Vec<Value>> = BTreeMap::new();
            for host in &cluster.hosts {
                let key = (host.priority, &*host.locality);
                groups.entry(key).or_default().push(lb_endpoint(host));
            }
            let set = cluster.endpoints.as_deref();
            let factor = set.map_or(DEFAULT_OVERPROVISIONING, |set| set.overprovisioning_factor);
            let groups = groups.into_iter();
            let endpoints: Vec<Value> = groups
                .map(|(place, hosts)| locality_endpoints(place, hosts, set))
                .collect();
            json!({ "endpoint_config": {
                "@type": malla_xds_proto::type_url::ENDPOINTS,
                "cluster_name": &*cluster.config.name,
                "endpoints": endpoints,
                "policy": { "overprovisioning_factor": factor },
            } })
        })
        .collect()
}

/// `LocalityLbEndpoints`; without a weight of its own a locality has 0.
fn locality_endpoints(
    (priority, locality): (u32, &Locality),
    endpoints: Vec<Value>,
    set: Option<&EndpointSet>,
) -> Value {
    let mut configured = set.into_iter().flat_map(|set| &set.localities);
    let own = configured.find(|one| one.priority == priority && one.locality == *locality);
    let mut out = json!({
        "locality": locality_json(locality),
        "lb_endpoints": endpoints,
        "load_balancing_weight": own.and_then(|one| one.weight).unwrap_or(0),
    });
    if let Some(fields) = out.as_object_mut().filter(|_| priority > 0) {
        fields.insert("priority".into(), priority.into());
    }
    out
}

/// `LbEndpoint`.
fn lb_endpoint(host: &Arc<Host>) -> Value {
    let endpoint = &host.endpoint;
    let mut inner =
        json!({ "address": address_json(&endpoint.address), "health_check_config": {} });
    if let Some(fields) = inner
        .as_object_mut()
        .filter(|_| !endpoint.hostname.is_empty())
    {
        fields.insert("hostname".into(), endpoint.hostname.as_str().into());
    }
    json!({
        "endpoint": inner,
        "health_status": eds_health(endpoint.health),
        "load_balancing_weight": endpoint.weight,
    })
}

fn eds_health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    }
}

fn locality_json(locality: &Locality) -> Value {
    let mut out = Map::new();
    for (name, value) in [
        ("region", &locality.region),
        ("zone", &locality.zone),
        ("sub_zone", &locality.sub_zone),
    ] {
        if !value.is_empty() {
            out.insert(name.into(), value.as_str().into());
        }
    }
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
        Address::Pipe { path, .. } => json!({ "pipe": { "path": path.display().to_string() } }),
    }
}
