//! The mesh at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use malla_telemetry::collector::{Status, Stored};
use serde_json::{Value, json};

use super::proxies::is_synced;
use crate::findings::finding;
use crate::metrics::{FAILED, Flow, Metrics, SeenBy, flows};
use crate::server::App;

/// What the series shows: ten minutes.
const WINDOW: u32 = 600;
/// What single figures are about: the last minute, so that they are right soon after the start.
const NOW: u32 = 60;
const STEP: f64 = 15.0;
const MOST: usize = 10;
const MOST_FINDINGS: usize = 50;

pub(crate) async fn get(State(app): State<Arc<App>>) -> Json<Value> {
    let metrics = app.metrics.as_deref();
    let (signals, worst, changes, proxies, messages) = tokio::join!(
        signals(metrics),
        worst(metrics),
        app.history.list(MOST, |_| true),
        super::proxies::all(&app),
        app.analyzer.messages(&app.mirror),
    );
    let synced = proxies.iter().filter(|proxy| is_synced(proxy)).count();
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for proxy in proxies.iter().filter(|proxy| !proxy.version.is_empty()) {
        *versions.entry(&proxy.version).or_default() += 1;
    }
    let mut identities = app.identities.all();
    identities.sort_by(|a, b| a.expires.cmp(&b.expires));
    let certificates = identities.iter().take(MOST).map(|identity| {
        json!({"pod": identity.pod, "namespace": identity.namespace, "expires": identity.expires})
    });
    let mut shown = json!({
        "signals": signals,
        "worst": worst,
        "changes": changes,
        "proxies": {"total": proxies.len(), "synced": synced, "stale": proxies.len() - synced, "versions": versions},
        "certificates": certificates.collect::<Vec<_>>(),
        "findings": messages.iter().take(MOST_FINDINGS).map(|message| finding(message, true)).collect::<Vec<_>>(),
    });
    if let Some(collector) = &app.collector {
        shown["collector"] = collecting(&collector.status(), app.history.unsaved());
    }
    Json(shown)
}

/// How the collector is, in short, and whether changes are saved; `/telemetry/status` says more.
fn collecting(status: &Status, unsaved: Option<String>) -> Value {
    let (metrics, spans, logs) = (&status.metrics, &status.spans, &status.logs);
    let lost = |kind: &Stored| kind.dropped + kind.failed;
    let mut shown = json!({
        "bytes": metrics.bytes + spans.bytes + logs.bytes,
        "dropped": {"samples": lost(metrics), "spans": lost(spans), "lines": lost(logs)},
    });
    let note = match (&status.reason, &status.fix) {
        (Some(reason), Some(fix)) => Some(format!("{reason} ({fix})")),
        _ if metrics.unsafe_in_memory > 0 => Some(
            "the disk does not take metrics: they are kept in memory only (is it full?)".to_owned(),
        ),
        _ => None,
    };
    let history = unsaved.map(|reason| format!("changes are not saved: {reason}"));
    let notes: Vec<String> = note.into_iter().chain(history).collect();
    if !notes.is_empty() {
        shown["note"] = json!(notes.join("; "));
    }
    shown
}

async fn signals(metrics: Option<&dyn Metrics>) -> Value {
    let all = flows(metrics, SeenBy::Either, "", &[], NOW).await;
    let flow: Flow = all.into_values().next().unwrap_or_default();
    json!({
        "rps": flow.rps, "errorShare": flow.error_share, "p50": flow.p50, "p90": flow.p90, "p99": flow.p99,
        "series": series(metrics).await,
    })
}

/// Rate, share of errors and p99 over the window, side by side.
async fn series(metrics: Option<&dyn Metrics>) -> Vec<Value> {
    let Some(metrics) = metrics else {
        return Vec::new();
    };
    let end = jiff::Timestamp::now().as_second();
    #[expect(clippy::cast_precision_loss, reason = "seconds of this era are exact")]
    let end = end as f64;
    let start = end - f64::from(WINDOW);
    let rate = |metric: &str, matchers: &str| SeenBy::Either.rate(metric, matchers, 60);
    let buckets = rate("istio_request_duration_milliseconds_bucket", "");
    let queries = [
        format!("sum({})", rate("istio_requests_total", "")),
        format!("sum({})", rate("istio_requests_total", FAILED)),
        format!("histogram_quantile(0.99, sum by (le) ({buckets}))"),
    ];
    let asked = queries
        .iter()
        .map(|query| metrics.range(query, start, end, STEP));
    let answers = futures_util::future::join_all(asked).await;
    // Keyed by the step, as every answer has the same.
    let mut points: BTreeMap<i64, [Option<f64>; 3]> = BTreeMap::new();
    for (at, answer) in answers.into_iter().enumerate() {
        let series = answer.unwrap_or_default();
        for (t, value) in series.into_iter().flat_map(|series| series.points) {
            #[expect(clippy::cast_possible_truncation, reason = "unix seconds")]
            let slots = points.entry(t as i64).or_default();
            if let Some(slot) = slots.get_mut(at) {
                *slot = Some(value).filter(|value| value.is_finite());
            }
        }
    }
    let shown = points.into_iter().map(|(t, [rps, errors, p99])| {
        let share = rps
            .filter(|rps| *rps > 0.0)
            .map(|rps| (errors.unwrap_or(0.0) / rps).clamp(0.0, 1.0));
        json!({"t": t, "rps": rps, "errorShare": share, "p99": p99})
    });
    shown.collect()
}

/// The services with the most errors, then the slowest.
async fn worst(metrics: Option<&dyn Metrics>) -> Vec<Value> {
    let by = ["destination_service_namespace", "destination_service_name"];
    let measured = flows(metrics, SeenBy::Either, "", &by, NOW).await;
    let mut services: Vec<(Vec<String>, Flow)> = measured
        .into_iter()
        .filter(|(_, flow)| flow.rps > 0.0)
        .collect();
    services.sort_by(|(_, a), (_, b)| {
        let slow = |flow: &Flow| flow.p99.unwrap_or(0.0);
        b.error_share
            .total_cmp(&a.error_share)
            .then(slow(b).total_cmp(&slow(a)))
    });
    let shown = services.into_iter().take(MOST).map(|(names, flow)| {
        let part = |at: usize| names.get(at).cloned().unwrap_or_default();
        json!({"namespace": part(0), "name": part(1), "rps": flow.rps, "errorShare": flow.error_share, "p99": flow.p99})
    });
    shown.collect()
}
