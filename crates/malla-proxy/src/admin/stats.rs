//! `/stats` and `/stats/prometheus`: the workers' counters, with Envoy's names.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use http::StatusCode;
use malla_proxy_config::cluster::Discovery;
use malla_proxy_config::endpoints::Health;
use malla_proxy_config::snapshot::ClusterEntry;
use regex::Regex;
use serde_json::{Value, json};

use super::{Admin, Answer, Query, ok, text};
use crate::balance::Availability;
use crate::telemetry::histogram::{BUCKETS, QUANTILES, Summary, percent, short};
use crate::telemetry::label::Escaped;
use crate::upstream::breaker::{Breakers, Kind};
use crate::upstream::health::Flag;
use crate::upstream::outlier;

/// Every counter and gauge by full name.
fn all(admin: &Admin) -> BTreeMap<String, u64> {
    let mut totals = admin.shared.stats.totals();
    let uptime = admin.started.elapsed().unwrap_or_default().as_secs();
    totals.insert("server.live".into(), u64::from(admin.state() == "LIVE"));
    totals.insert("server.uptime".into(), uptime);
    totals.insert("server.concurrency".into(), admin.concurrency as u64);
    totals.insert(
        "server.total_connections".into(),
        admin.shared.connections.active(),
    );
    let manager = admin
        .manager
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let changes = manager.changes();
    for (key, value) in [
        ("total_listeners_active", manager.listeners().count() as u64),
        ("listener_added", changes.added),
        ("listener_modified", changes.modified),
        ("listener_removed", changes.removed),
    ] {
        totals.insert(format!("listener_manager.{key}"), value);
    }
    drop(manager);
    let snapshot = admin.shared.live.load_full();
    totals.insert(
        "cluster_manager.active_clusters".into(),
        snapshot.clusters().count() as u64,
    );
    for entry in snapshot.clusters() {
        if let Some(shared) = admin.shared.clusters.peek(&entry.config.name) {
            shared_gauges(&entry.config.stat_name, &shared, &mut totals);
        } else {
            unused_gauges(entry, &mut totals);
        }
    }
    totals.extend(admin.sources.counts());
    let baseline = admin
        .baseline
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, before) in &*baseline {
        if let Some(value) = totals.get_mut(name) {
            *value = value.saturating_sub(*before);
        }
    }
    totals
}

/// `/reset_counters`: counters are shown from what they are now; gauges stay.
pub(super) fn reset(admin: &Admin) {
    let shown = all(admin);
    let mut baseline = admin
        .baseline
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, value) in shown {
        if !is_gauge(&name) {
            *baseline.entry(name).or_default() += value;
        }
    }
}

/// The gauges of a cluster that no worker has used.
fn unused_gauges(entry: &ClusterEntry, totals: &mut BTreeMap<String, u64>) {
    let name = &entry.config.stat_name;
    let mut set = |key: &str, value: u64| {
        totals.insert(format!("cluster.{name}.{key}"), value);
    };
    if let Some(endpoints) = &*entry.endpoints.load() {
        let all = endpoints.iter().map(|(_, endpoint)| endpoint.health);
        let (total, healthy) = all.fold((0, 0), |(total, healthy), health| {
            (total + 1, healthy + u64::from(health == Health::Healthy))
        });
        set("membership_total", total);
        set("membership_healthy", healthy);
        set("membership_change", 1);
    }
    for (priority, limits) in ["default", "high"].iter().zip(&entry.config.thresholds) {
        if !limits.track_remaining {
            continue;
        }
        for (key, most) in [
            ("cx", limits.max_connections),
            ("rq", limits.max_requests),
            ("pending", limits.max_pending_requests),
            ("retries", limits.max_retries),
        ] {
            let key = format!("circuit_breakers.{priority}.remaining_{key}");
            set(&key, most.into());
        }
    }
}

/// What is counted once for all workers.
fn shared_gauges(
    name: &str,
    shared: &crate::upstream::cluster::SharedCluster,
    totals: &mut BTreeMap<String, u64>,
) {
    let mut set = |key: &str, value: u64| {
        totals.insert(format!("cluster.{name}.{key}"), value);
    };
    let hosts = shared.hosts();
    if !matches!(shared.config.discovery, Discovery::OriginalDst(_)) {
        let healthy = hosts
            .hosts
            .iter()
            .filter(|host| host.availability() == Availability::Healthy)
            .count();
        set("membership_total", hosts.hosts.len() as u64);
        set("membership_healthy", healthy as u64);
    }
    set("membership_change", shared.membership_changes());
    for (key, value) in shared.lookups.all() {
        set(key, value);
    }
    for (priority, breakers) in ["default", "high"].iter().zip(&shared.breakers) {
        for (key, kind) in [
            ("cx", Kind::Connection),
            ("rq", Kind::Request),
            ("rq_pending", Kind::Pending),
            ("rq_retry", Kind::Retry),
        ] {
            set(
                &format!("circuit_breakers.{priority}.{key}_open"),
                u64::from(is_open(breakers, kind)),
            );
        }
        if breakers.tracks_remaining() {
            for (key, kind) in [
                ("cx", Kind::Connection),
                ("rq", Kind::Request),
                ("pending", Kind::Pending),
                ("retries", Kind::Retry),
            ] {
                let key = format!("circuit_breakers.{priority}.remaining_{key}");
                set(&key, breakers.remaining(kind));
            }
        }
    }
    if let Some(health) = &shared.health {
        for (key, value) in health.stats.all() {
            set(&format!("health_check.{key}"), value);
        }
        let count = |flag: Flag, on: bool| {
            let hosts = hosts.hosts.iter();
            hosts
                .filter(|host| host.state.flags.has(flag) == on)
                .count() as u64
        };
        set("health_check.healthy", count(Flag::Failed, false));
        set("health_check.degraded", count(Flag::Degraded, true));
        set("membership_degraded", count(Flag::Degraded, true));
    }
    if let Some(outlier) = &shared.outlier {
        outlier_gauges(&outlier.stats, &mut set);
    }
}

/// What outlier detection has seen and done.
fn outlier_gauges(stats: &outlier::Stats, set: &mut impl FnMut(&str, u64)) {
    set(
        "outlier_detection.ejections_active",
        stats.ejections_active.load(Ordering::Relaxed),
    );
    set(
        "outlier_detection.ejections_enforced_total",
        stats.ejections_enforced_total.load(Ordering::Relaxed),
    );
    set(
        "outlier_detection.ejections_overflow",
        stats.ejections_overflow.load(Ordering::Relaxed),
    );
    for (key, counter) in [
        ("ejections_total", &stats.ejections_total),
        (
            "ejections_consecutive_5xx",
            &stats.ejections_consecutive_5xx,
        ),
        ("ejections_success_rate", &stats.ejections_success_rate),
    ] {
        let key = format!("outlier_detection.{key}");
        set(&key, counter.load(Ordering::Relaxed));
    }
    for cause in outlier::Cause::ALL {
        let at = cause as usize;
        for (what, counters) in [("detected", &stats.detected), ("enforced", &stats.enforced)] {
            let key = format!("outlier_detection.ejections_{what}_{}", cause.name());
            set(&key, counters[at].load(Ordering::Relaxed));
        }
    }
}

fn is_open(breakers: &Breakers, kind: Kind) -> bool {
    // A limit of 0 does not show before something was admitted over it.
    breakers.remaining(kind) == 0 && breakers.resource(kind).used() > 0
}

fn filter(query: &Query) -> Result<Option<Regex>, Answer> {
    let invalid = |error| {
        text(
            StatusCode::BAD_REQUEST,
            format!("Invalid re2 regex: {error}"),
        )
    };
    query
        .get("filter")
        .map(Regex::new)
        .transpose()
        .map_err(invalid)
}

/// What a query is about: counters and gauges, distributions, texts.
struct Selected {
    numbers: BTreeMap<String, u64>,
    histograms: BTreeMap<String, Summary>,
    texts: BTreeMap<String, String>,
}

fn selected(admin: &Admin, query: &Query) -> Result<Selected, Answer> {
    let filter = filter(query)?;
    let (used_only, invert) = (query.has("usedonly"), query.has("invert_filter"));
    let kind = query.get("type").unwrap_or("All");
    if !["All", "Counters", "Gauges", "Histograms", "TextReadouts"].contains(&kind) {
        return Err(text(
            StatusCode::BAD_REQUEST,
            "invalid &type= param".to_owned(),
        ));
    }
    let buckets = query.get("histogram_buckets").unwrap_or("");
    if !["", "cumulative", "disjoint", "detailed", "summary", "none"].contains(&buckets) {
        let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n";
        return Err(text(StatusCode::BAD_REQUEST, usage.to_owned()));
    }
    let fits = |name: &str| {
        admin.stats_matcher.has(name)
            && filter
                .as_ref()
                .is_none_or(|filter| filter.is_match(name) != invert)
    };
    let of = |wanted: &str| kind == "All" || kind == wanted;
    let mut numbers = all(admin);
    numbers.retain(|name, value| {
        let is_kind = of(if is_gauge(name) { "Gauges" } else { "Counters" });
        is_kind && (!used_only || *value != 0) && fits(name)
    });
    let mut histograms = match of("Histograms") {
        true => admin.shared.stats.histograms(),
        false => BTreeMap::new(),
    };
    histograms.retain(|name, summary| (!used_only || summary.count() > 0) && fits(name));
    let mut texts = match of("TextReadouts") {
        true => admin.sources.texts(),
        false => BTreeMap::new(),
    };
    texts.retain(|name, _| fits(name));
    Ok(Selected {
        numbers,
        histograms,
        texts,
    })
}

pub(super) fn answer(admin: &Admin, query: &Query) -> Answer {
    match query.get("format").unwrap_or("text") {
        "prometheus" => return prometheus(admin, query),
        "text" | "json" | "" => {}
        _ => {
            let usage = "usage: /stats?format=(json|prometheus|text)\n\n";
            return text(StatusCode::BAD_REQUEST, usage.to_owned());
        }
    }
    let selected = match selected(admin, query) {
        Ok(selected) => selected,
        Err(answer) => return answer,
    };
    if query.get("format") == Some("json") {
        return super::json(&as_json(&selected));
    }
    let mut out = String::new();
    for (name, value) in &selected.texts {
        let _ = writeln!(out, "{name}: \"{value}\"");
    }
    for (name, value) in &selected.numbers {
        let _ = writeln!(out, "{name}: {value}");
    }
    for (name, summary) in &selected.histograms {
        let _ = writeln!(out, "{name}: {}", summary.text());
    }
    ok(out)
}

/// Texts, then numbers, then all distributions in one object.
fn as_json(selected: &Selected) -> Value {
    let texts = selected.texts.iter();
    let texts = texts.map(|(name, value)| json!({ "name": name, "value": value }));
    let numbers = selected.numbers.iter();
    let numbers = numbers.map(|(name, value)| json!({ "name": name, "value": value }));
    let mut stats: Vec<Value> = texts.chain(numbers).collect();
    if !selected.histograms.is_empty() {
        let computed: Vec<Value> = selected
            .histograms
            .iter()
            .map(|(name, summary)| {
                let quantiles = summary.quantiles();
                let values = (0..QUANTILES.len()).map(|at| {
                    let value = quantiles.and_then(|values| values.get(at).copied());
                    json!({ "interval": null, "cumulative": value.map(short) })
                });
                json!({ "name": name, "values": values.collect::<Vec<_>>() })
            })
            .collect();
        stats.push(json!({ "histograms": {
            "supported_quantiles": QUANTILES.map(percent),
            "computed_quantiles": computed,
        } }));
    }
    json!({ "stats": stats })
}

pub(super) fn prometheus(admin: &Admin, query: &Query) -> Answer {
    let selected = match selected(admin, query) {
        Ok(selected) => selected,
        Err(answer) => return answer,
    };
    let mut families: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (name, value) in selected.numbers {
        let (family, labels) = tagged(&name);
        families.entry(family).or_default().push((labels, value));
    }
    let mut out = String::new();
    for (family, series) in families {
        let kind = if is_gauge(&family) {
            "gauge"
        } else {
            "counter"
        };
        let _ = writeln!(out, "# TYPE {family} {kind}");
        for (labels, value) in series {
            let _ = writeln!(out, "{family}{{{labels}}} {value}");
        }
    }
    distributions(&selected.histograms, &mut out);
    if let Err(answer) = mesh(admin, query, &mut out) {
        return answer;
    }
    Answer {
        status: StatusCode::OK,
        content_type: malla_runtime::metrics::CONTENT_TYPE,
        body: out,
    }
}

/// Distributions as Prometheus' histograms, with Envoy's buckets. Those without a value are left out.
fn distributions(histograms: &BTreeMap<String, Summary>, out: &mut String) {
    let mut families: BTreeMap<String, Vec<(String, &Summary)>> = BTreeMap::new();
    for (name, summary) in histograms.iter().filter(|(_, summary)| summary.count() > 0) {
        let (family, labels) = tagged(name);
        families.entry(family).or_default().push((labels, summary));
    }
    for (family, series) in families {
        let _ = writeln!(out, "# TYPE {family} histogram");
        for (labels, summary) in series {
            let comma = if labels.is_empty() { "" } else { "," };
            for (bound, count) in BUCKETS.iter().zip(summary.buckets()) {
                let _ = writeln!(
                    out,
                    "{family}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                );
            }
            let (count, sum) = (summary.count(), summary.sum());
            let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{family}_sum{{{labels}}} {sum}");
            let _ = writeln!(out, "{family}_count{{{labels}}} {count}");
        }
    }
}

/// Istio's standard metrics. Those there are have been used; a filter is about their names.
fn mesh(admin: &Admin, query: &Query, out: &mut String) -> Result<(), Answer> {
    let filter = filter(query)?;
    for family in admin.shared.series.families(&admin.shared.own) {
        if filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(&family.name))
        {
            family.write(out);
        }
    }
    Ok(())
}

/// Prefixes whose next part is a name, and the label Envoy's tag extraction makes of it.
const TAGS: [(&str, &str); 4] = [
    ("cluster.", "envoy_cluster_name"),
    ("http.", "envoy_http_conn_manager_prefix"),
    ("tcp.", "envoy_tcp_prefix"),
    ("listener.", "envoy_listener_address"),
];

/// `cluster.web.upstream_rq_total` as `envoy_cluster_upstream_rq_total` and its label.
fn tagged(name: &str) -> (String, String) {
    for (prefix, label) in TAGS {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        // Names may hold dots, counters of ours start at a known word.
        let Some(at) = counter_start(rest) else {
            continue;
        };
        let (tag, counter) = (&rest[..at], &rest[at + 1..]);
        if let Some((before, class)) = counter
            .rsplit_once("upstream_rq_")
            .filter(|(_, code)| is_code(code))
        {
            let kind = if class.ends_with("xx") {
                "envoy_response_code_class"
            } else {
                "envoy_response_code"
            };
            let (end, value) = if class.ends_with("xx") {
                ("_xx", class.trim_end_matches("xx"))
            } else {
                ("", class)
            };
            return (
                format!("envoy_cluster_{}upstream_rq{end}", sanitise(before)),
                format!("{kind}=\"{value}\",{label}=\"{}\"", Escaped(tag)),
            );
        }
        return (
            format!("envoy_{}{}", prefix.replace('.', "_"), sanitise(counter)),
            format!("{label}=\"{}\"", Escaped(tag)),
        );
    }
    (format!("envoy_{}", sanitise(name)), String::new())
}

/// First words of this proxy's counters, behind a cluster's, manager's or listener's name.
const FIRST_WORDS: [&str; 27] = [
    "internal.",
    "external.",
    "canary.",
    "retry.upstream_",
    "zone.",
    "health_check.",
    "upstream_",
    "downstream_",
    "membership_",
    "circuit_breakers.",
    "outlier_detection.",
    "lb_",
    "ssl.",
    "grpc.",
    "update_",
    "assignment_",
    "bind_errors",
    "rbac.",
    "fault.",
    "cors.",
    "no_",
    "rq_",
    "idle_timeout",
    "max_downstream_",
    "upstream_flush",
    "tracing.",
    "access_log",
];

fn counter_start(rest: &str) -> Option<usize> {
    let dots = rest
        .char_indices()
        .filter(|(_, c)| *c == '.')
        .map(|(at, _)| at);
    dots.into_iter().find(|&at| {
        FIRST_WORDS
            .iter()
            .any(|word| rest[at + 1..].starts_with(word))
    })
}

fn is_code(text: &str) -> bool {
    text.len() == 3
        && text.starts_with(|c: char| c.is_ascii_digit())
        && (text.ends_with("xx") || text.bytes().all(|b| b.is_ascii_digit()))
}

fn is_gauge(family: &str) -> bool {
    const GAUGES: [&str; 22] = [
        "pressure",
        ".active",
        "scale_percent",
        "connected_state",
        "active_connections",
        "membership_degraded",
        "_remaining_cx",
        "_remaining_rq",
        "_remaining_pending",
        "_remaining_retries",
        "health_check_healthy",
        "health_check_degraded",
        "_active",
        "_open",
        "membership_total",
        "membership_healthy",
        "_live",
        "_uptime",
        "_concurrency",
        "total_connections",
        "ejections_active",
        "active_clusters",
    ];
    GAUGES.iter().any(|end| family.ends_with(end)) || family.ends_with("listeners_active")
}

fn sanitise(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::tagged;

    #[test]
    fn names_become_families_and_labels_as_in_envoy() {
        for (name, family, labels) in [
            (
                "cluster.web.upstream_rq_total",
                "envoy_cluster_upstream_rq_total",
                r#"envoy_cluster_name="web""#,
            ),
            (
                "cluster.outbound|80||a.b.svc.cluster.local.upstream_cx_total",
                "envoy_cluster_upstream_cx_total",
                r#"envoy_cluster_name="outbound|80||a.b.svc.cluster.local""#,
            ),
            (
                "cluster.web.upstream_rq_503",
                "envoy_cluster_upstream_rq",
                r#"envoy_response_code="503",envoy_cluster_name="web""#,
            ),
            (
                "cluster.web.upstream_rq_5xx",
                "envoy_cluster_upstream_rq_xx",
                r#"envoy_response_code_class="5",envoy_cluster_name="web""#,
            ),
            (
                "cluster.web.external.upstream_rq_404",
                "envoy_cluster_external_upstream_rq",
                r#"envoy_response_code="404",envoy_cluster_name="web""#,
            ),
            (
                "cluster.outbound|80||a.b;.grpc.total",
                "envoy_cluster_grpc_total",
                r#"envoy_cluster_name="outbound|80||a.b;""#,
            ),
            ("server.live", "envoy_server_live", ""),
            (
                "listener.0.0.0.0_80.downstream_cx_total",
                "envoy_listener_downstream_cx_total",
                r#"envoy_listener_address="0.0.0.0_80""#,
            ),
        ] {
            assert_eq!(
                tagged(name),
                (family.to_owned(), labels.to_owned()),
                "{name}"
            );
        }
    }
}
