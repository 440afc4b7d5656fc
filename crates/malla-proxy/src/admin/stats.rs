//! `/stats` and `/stats/prometheus`: the workers' counters, with Envoy's names.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use http::StatusCode;
use malla_proxy_config::cluster::Discovery;
use regex::Regex;
use serde_json::json;

use super::{Admin, Answer, Query, ok, text};
use crate::balance::Availability;
use crate::telemetry::label::Escaped;
use crate::upstream::breaker::{Breakers, Kind};

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
    totals.insert(
        "listener_manager.total_listeners_active".into(),
        manager.listeners().count() as u64,
    );
    drop(manager);
    let snapshot = admin.shared.live.load_full();
    totals.insert(
        "cluster_manager.active_clusters".into(),
        snapshot.clusters().count() as u64,
    );
    for entry in snapshot.clusters() {
        if let Some(shared) = admin.shared.clusters.peek(&entry.config.name) {
            shared_gauges(&entry.config.stat_name, &shared, &mut totals);
        }
    }
    totals
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
    }
    if let Some(outlier) = &shared.outlier {
        set(
            "outlier_detection.ejections_active",
            outlier.stats.ejections_active.load(Ordering::Relaxed),
        );
        set(
            "outlier_detection.ejections_enforced_total",
            outlier
                .stats
                .ejections_enforced_total
                .load(Ordering::Relaxed),
        );
        set(
            "outlier_detection.ejections_overflow",
            outlier.stats.ejections_overflow.load(Ordering::Relaxed),
        );
        for cause in crate::upstream::outlier::Cause::ALL {
            let at = cause as usize;
            for (what, counters) in [
                ("detected", &outlier.stats.detected),
                ("enforced", &outlier.stats.enforced),
            ] {
                let key = format!("outlier_detection.ejections_{what}_{}", cause.name());
                set(&key, counters[at].load(Ordering::Relaxed));
            }
        }
    }
}

fn is_open(breakers: &Breakers, kind: Kind) -> bool {
    let resource = breakers.resource(kind);
    resource.used() >= resource.maximum()
}

fn filter(query: &Query) -> Result<Option<Regex>, Answer> {
    let invalid = |error| text(StatusCode::BAD_REQUEST, format!("filter: {error}\n"));
    query
        .get("filter")
        .map(Regex::new)
        .transpose()
        .map_err(invalid)
}

fn selected(admin: &Admin, query: &Query) -> Result<BTreeMap<String, u64>, Answer> {
    let filter = filter(query)?;
    let used_only = query.has("usedonly");
    let mut totals = all(admin);
    totals.retain(|name, value| {
        (!used_only || *value != 0) && filter.as_ref().is_none_or(|filter| filter.is_match(name))
    });
    Ok(totals)
}

pub(super) fn answer(admin: &Admin, query: &Query) -> Answer {
    if query.get("format") == Some("prometheus") {
        return prometheus(admin, query);
    }
    let totals = match selected(admin, query) {
        Ok(totals) => totals,
        Err(answer) => return answer,
    };
    if query.get("format") == Some("json") {
        let stats: Vec<_> = totals
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        return super::json(&json!({ "stats": stats }));
    }
    let mut out = String::new();
    for (name, value) in totals {
        let _ = writeln!(out, "{name}: {value}");
    }
    ok(out)
}

pub(super) fn prometheus(admin: &Admin, query: &Query) -> Answer {
    let totals = match selected(admin, query) {
        Ok(totals) => totals,
        Err(answer) => return answer,
    };
    let mut families: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (name, value) in totals {
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
    if let Err(answer) = mesh(admin, query, &mut out) {
        return answer;
    }
    Answer {
        status: StatusCode::OK,
        content_type: malla_runtime::metrics::CONTENT_TYPE,
        body: out,
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
        if let Some(class) = counter
            .strip_prefix("upstream_rq_")
            .filter(|code| is_code(code))
        {
            let kind = if class.ends_with("xx") {
                "envoy_response_code_class"
            } else {
                "envoy_response_code"
            };
            let (family, value) = if class.ends_with("xx") {
                ("envoy_cluster_upstream_rq_xx", class.trim_end_matches("xx"))
            } else {
                ("envoy_cluster_upstream_rq", class)
            };
            return (
                family.to_owned(),
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
const FIRST_WORDS: [&str; 21] = [
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
    const GAUGES: [&str; 10] = [
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
