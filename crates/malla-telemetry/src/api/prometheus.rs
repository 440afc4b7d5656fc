//! Prometheus' HTTP API, as far as Grafana and the console use it.
//!
//! <https://prometheus.io/docs/prometheus/latest/querying/api/>

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Telemetry;
use crate::api::error::PrometheusError;
use crate::api::json::{number, rfc3339, seconds};
use crate::api::params::Params;
use crate::metrics::{Labels, Matcher, Sample};
use crate::promql::{Answer, Cancel, Engine, QueryError, parse_selector};

type Result<T = Response> = std::result::Result<T, PrometheusError>;
type Shared = State<Arc<Telemetry>>;

/// The version of Prometheus whose API this is; Grafana asks to know what it may use.
const LEVEL: &str = "3.0.0";

/// `/api/v1/…`
pub(super) fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/targets", get(targets))
        .route("/api/v1/status/buildinfo", get(build_info))
        .with_state(telemetry)
}

fn bad(message: String) -> PrometheusError {
    PrometheusError::bad_data(message)
}

fn text<'a>(params: &'a Params, name: &str) -> Result<&'a str> {
    let missing = || bad(format!("invalid parameter {name:?}: it is missing"));
    params
        .0
        .iter()
        .find(|(n, v)| n == name && !v.is_empty())
        .map(|(_, v)| v.as_str())
        .ok_or_else(missing)
}

fn timeout(telemetry: &Telemetry, params: &Params) -> Result<Duration> {
    let most = telemetry.engine().config().timeout;
    let asked = params.duration("timeout").map_err(bad)?;
    let asked = asked.map(|ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(asked.map_or(most, |asked| asked.min(most)))
}

async fn query(State(telemetry): Shared, params: Params) -> Result {
    let query = text(&params, "query")?.to_owned();
    let at = params
        .time("time")
        .map_err(bad)?
        .unwrap_or_else(|| telemetry.clock().now());
    let limit = params.limit("limit").map_err(bad)?;
    let patience = timeout(&telemetry, &params)?;
    let answer = evaluate(&telemetry, patience, move |engine, cancel| {
        engine.instant(&query, at, cancel)
    })
    .await?;
    Ok(success(&answer_json(&answer, limit)))
}

async fn query_range(State(telemetry): Shared, params: Params) -> Result {
    let query = text(&params, "query")?.to_owned();
    let time = |name: &str| {
        let time = params.time(name).map_err(bad)?;
        time.ok_or_else(|| bad(format!("invalid parameter {name:?}: it is missing")))
    };
    let bounds = (time("start")?, time("end")?);
    let step = params.duration("step").map_err(bad)?;
    let step = step.ok_or_else(|| bad("invalid parameter \"step\": it is missing".to_owned()))?;
    let limit = params.limit("limit").map_err(bad)?;
    let patience = timeout(&telemetry, &params)?;
    let series = evaluate(&telemetry, patience, move |engine, cancel| {
        engine.range(&query, bounds, step, cancel)
    })
    .await?;
    Ok(success(&answer_json(&Answer::Matrix(series), limit)))
}

/// Written by hand: an answer may have a million numbers.
fn answer_json(answer: &Answer, limit: Option<usize>) -> String {
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (kind, result) = match answer {
        Answer::Scalar(sample) => ("scalar", point(sample)),
        Answer::Text(t, text) => ("string", format!("[{},{}]", seconds(*t), json!(text))),
        Answer::Vector(vector) => {
            let items = vector.iter().take(limit).map(|(labels, sample)| {
                format!(
                    "{{\"metric\":{},\"value\":{}}}",
                    metric(labels),
                    point(sample)
                )
            });
            (
                "vector",
                format!("[{}]", items.collect::<Vec<_>>().join(",")),
            )
        }
        Answer::Matrix(series) => {
            let items = series.iter().take(limit).map(|series| {
                let mut item = format!("{{\"metric\":{},\"values\":[", metric(&series.labels));
                for (at, sample) in series.samples.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    let (t, v) = (seconds(sample.t), number(sample.v));
                    write!(item, "{comma}[{t},\"{v}\"]").ok();
                }
                item + "]}"
            });
            (
                "matrix",
                format!("[{}]", items.collect::<Vec<_>>().join(",")),
            )
        }
    };
    format!("{{\"resultType\":\"{kind}\",\"result\":{result}}}")
}

fn metric(labels: &Labels) -> String {
    serde_json::to_string(labels).unwrap_or_default()
}

fn point(sample: &Sample) -> String {
    format!("[{},\"{}\"]", seconds(sample.t), number(sample.v))
}

fn success(data: &str) -> Response {
    let body = format!("{{\"status\":\"success\",\"data\":{data}}}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn success_of(data: impl Serialize) -> Response {
    Json(json!({ "status": "success", "data": data })).into_response()
}

/// `match[]`, `start` and `end` of the calls that list.
struct Listing {
    sets: Vec<Vec<Matcher>>,
    start: i64,
    end: i64,
    limit: usize,
}

fn listing(params: &Params) -> Result<Listing> {
    let sets = params.all("match[]").map(|text| {
        parse_selector(text).map_err(|error| bad(format!("invalid parameter \"match[]\": {error}")))
    });
    let limit = params
        .limit("limit")
        .map_err(bad)?
        .filter(|limit| *limit > 0);
    Ok(Listing {
        sets: sets.collect::<Result<_>>()?,
        start: params.time("start").map_err(bad)?.unwrap_or(i64::MIN),
        end: params.time("end").map_err(bad)?.unwrap_or(i64::MAX),
        limit: limit.unwrap_or(usize::MAX),
    })
}

async fn labels(State(telemetry): Shared, params: Params) -> Result {
    let listing = listing(&params)?;
    let found = names_or_values(telemetry, listing, None).await?;
    Ok(success_of(found))
}

async fn label_values(
    State(telemetry): Shared,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let listing = listing(&params)?;
    let found = names_or_values(telemetry, listing, Some(name)).await?;
    Ok(success_of(found))
}

async fn names_or_values(
    telemetry: Arc<Telemetry>,
    listing: Listing,
    values_of: Option<String>,
) -> Result<Vec<String>> {
    let patience = telemetry.engine().config().timeout;
    evaluate(&telemetry, patience, move |engine, _| {
        let store = engine.store();
        let (min, max) = (listing.start, listing.end);
        let found: BTreeSet<String> = match listing.sets.is_empty() {
            true => {
                let found = store.labels(values_of.as_deref(), min, max);
                found.iter().map(|text| text.to_string()).collect()
            }
            false => {
                let series = store.series(&listing.sets, min, max);
                let pick = |labels: &Labels| match &values_of {
                    Some(name) => vec![labels.get(name).to_owned()],
                    None => labels.iter().map(|(name, _)| name.to_string()).collect(),
                };
                series
                    .iter()
                    .flat_map(pick)
                    .filter(|text| !text.is_empty())
                    .collect()
            }
        };
        Ok(found.into_iter().take(listing.limit).collect())
    })
    .await
}

async fn series(State(telemetry): Shared, params: Params) -> Result {
    let listing = listing(&params)?;
    if listing.sets.is_empty() {
        return Err(bad("no match[] parameter provided".to_owned()));
    }
    let patience = telemetry.engine().config().timeout;
    let found = evaluate(&telemetry, patience, move |engine, _| {
        let mut found = engine
            .store()
            .series(&listing.sets, listing.start, listing.end);
        found.truncate(listing.limit);
        Ok(found)
    })
    .await?;
    Ok(success_of(found))
}

async fn metadata(State(telemetry): Shared, params: Params) -> Result {
    let limit = params.limit("limit").map_err(bad)?.unwrap_or(usize::MAX);
    let known = telemetry
        .scraper()
        .metadata()
        .get(params.get("metric"), limit);
    Ok(success_of(known))
}

async fn targets(State(telemetry): Shared) -> Result {
    let active = telemetry.scraper().targets().into_iter().map(|health| {
        let state = match (&health.error, health.last) {
            (_, None) => "unknown",
            (Some(_), _) => "down",
            (None, _) => "up",
        };
        let pool = health.target.labels.get("job").cloned().unwrap_or_default();
        json!({
            "discoveredLabels": {},
            "labels": health.target.labels,
            "scrapePool": pool,
            "scrapeUrl": health.target.url,
            "globalUrl": health.target.url,
            "lastError": health.error.unwrap_or_default(),
            "lastScrape": rfc3339(health.last.unwrap_or(0)),
            "lastScrapeDuration": health.seconds,
            "health": state,
        })
    });
    let active: Vec<Value> = active.collect();
    Ok(success_of(
        json!({ "activeTargets": active, "droppedTargets": [] }),
    ))
}

async fn build_info() -> Response {
    success_of(json!({
        "version": LEVEL,
        "revision": format!("malla {}", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

/// Runs a query off the async threads: at most so many at once, and none longer than `patience`.
/// Dropping the future stops it too.
async fn evaluate<T: Send + 'static>(
    telemetry: &Telemetry,
    patience: Duration,
    work: impl FnOnce(&Engine, &Cancel) -> std::result::Result<T, QueryError> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(patience, telemetry.query(work)).await {
        Ok(Ok(found)) => Ok(found?),
        Ok(Err(closed)) => Err(PrometheusError::unavailable(closed)),
        Err(_) => Err(PrometheusError::timeout()),
    }
}

/// For paths below `/api/v1/` that do not exist.
pub(super) async fn not_found() -> Response {
    let body = json!({ "status": "error", "errorType": "not_found", "error": "no such call" });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
