//! Jaeger's query API, as its UI and the console use it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Telemetry;
use crate::api::error::JaegerError;
use crate::api::params::Params;
use crate::records::RecordsError;
use crate::spans::TraceQuery;
use crate::spans::model::{SpanRecord, Tag, TagValue, hex, id};
use crate::spans::store::{MOST_SPANS, SpanStore, Trace, kind_name};

type Result = std::result::Result<Response, JaegerError>;
type Shared = State<Arc<Telemetry>>;

const USUAL_LIMIT: usize = 20;
const MOST_TRACES: usize = 1500;
/// Microseconds in an hour, the time searched when none is given.
const HOUR: u64 = 3_600_000_000;

/// `/jaeger/api/…`
pub(super) fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/jaeger/api/services", get(services))
        .route(
            "/jaeger/api/services/{service}/operations",
            get(operation_names),
        )
        .route("/jaeger/api/operations", get(operations))
        .route("/jaeger/api/traces", get(search))
        .route("/jaeger/api/traces/{id}", get(trace))
        .route("/jaeger/api/dependencies", get(dependencies))
        .with_state(telemetry)
}

async fn read<T: Send + 'static>(
    telemetry: &Telemetry,
    work: impl FnOnce(&SpanStore) -> std::result::Result<T, RecordsError> + Send + 'static,
) -> std::result::Result<T, JaegerError> {
    let store = telemetry.span_store().clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(found) => Ok(found?),
        Err(error) => Err(JaegerError(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}

fn answer(data: impl Serialize, total: usize) -> Response {
    Json(json!({ "data": data, "total": total, "limit": 0, "offset": 0, "errors": null }))
        .into_response()
}

async fn services(State(telemetry): Shared) -> Result {
    let services = read(&telemetry, SpanStore::services).await?;
    let count = services.len();
    Ok(answer(services, count))
}

async fn operation_names(State(telemetry): Shared, Path(service): Path<String>) -> Result {
    let found = read(&telemetry, move |store| store.operations(&service)).await?;
    let mut names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    names.dedup();
    let count = names.len();
    Ok(answer(names, count))
}

async fn operations(State(telemetry): Shared, params: Params) -> Result {
    let service = params
        .get("service")
        .ok_or_else(|| JaegerError::bad("service: it is missing"))?;
    let service = service.to_owned();
    let wanted = params.get("spanKind").map(str::to_owned);
    let found = read(&telemetry, move |store| store.operations(&service)).await?;
    let found = found.into_iter().filter(|(_, kind)| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted == kind_name(*kind))
    });
    let found: Vec<Value> = found
        .map(|(name, kind)| json!({ "name": name, "spanKind": kind_name(kind) }))
        .collect();
    let count = found.len();
    Ok(answer(found, count))
}

async fn trace(State(telemetry): Shared, Path(text): Path<String>) -> Result {
    let Some(id) = id(&text, 16) else {
        return Err(JaegerError::bad(format!(
            "{text:?} is not a trace id (32 hexadecimal digits)"
        )));
    };
    let found = read(&telemetry, move |store| store.trace(&id)).await?;
    match found {
        Some(trace) => Ok(answer([trace_json(&trace)], 1)),
        None => Err(JaegerError(
            StatusCode::NOT_FOUND,
            "trace not found".to_owned(),
        )),
    }
}

async fn search(State(telemetry): Shared, params: Params) -> Result {
    let ids: Vec<&str> = params.all("traceID").collect();
    let traces = match ids.is_empty() {
        false => {
            let parsed = ids.iter().map(|text| id(text, 16).ok_or(*text));
            let ids = parsed
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|text| {
                    JaegerError::bad(format!(
                        "{text:?} is not a trace id (32 hexadecimal digits)"
                    ))
                })?;
            read(&telemetry, move |store| {
                let traces = ids.iter().take(MOST_TRACES).map(|id| store.trace(id));
                Ok(traces
                    .collect::<std::result::Result<Vec<_>, _>>()?
                    .into_iter()
                    .flatten()
                    .collect())
            })
            .await?
        }
        true => {
            let now = telemetry.clock().now().unsigned_abs().saturating_mul(1000);
            let query = trace_query(&params, now).map_err(JaegerError::bad)?;
            read(&telemetry, move |store| store.search(&query)).await?
        }
    };
    let data: Vec<Value> = traces.iter().map(trace_json).collect();
    let count = data.len();
    Ok(answer(data, count))
}

fn trace_query(params: &Params, now: u64) -> std::result::Result<TraceQuery, String> {
    let service = params
        .get("service")
        .ok_or("service: it is missing (or give traceID)")?;
    let micros = |name: &str| {
        let parse = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{name}: microseconds are expected"))
        };
        params.get(name).map(parse).transpose()
    };
    let duration = |name: &str| {
        let parse = |text: &str| {
            go_duration(text)
                .ok_or_else(|| format!("{name}: a duration such as 1.5s or 100ms is expected"))
        };
        params.get(name).map(parse).transpose()
    };
    let mut tags = BTreeMap::new();
    for text in params.all("tags") {
        let parsed: BTreeMap<String, String> = serde_json::from_str(text)
            .map_err(|error| format!("tags: a JSON object of strings is expected: {error}"))?;
        tags.extend(parsed);
    }
    for text in params.all("tag") {
        let (key, value) = text.split_once(':').ok_or("tag: key:value is expected")?;
        tags.insert(key.to_owned(), value.to_owned());
    }
    let end = micros("end")?.unwrap_or(now);
    Ok(TraceQuery {
        service: service.to_owned(),
        operation: params
            .get("operation")
            .filter(|name| *name != "all")
            .map(str::to_owned),
        tags,
        start: micros("start")?.unwrap_or_else(|| end.saturating_sub(HOUR)),
        end,
        min_duration: duration("minDuration")?,
        max_duration: duration("maxDuration")?,
        limit: params
            .limit("limit")?
            .unwrap_or(USUAL_LIMIT)
            .min(MOST_TRACES),
    })
}

/// Go's durations, in microseconds.
fn go_duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 0.001),
        ("us", 1.0),
        ("µs", 1.0),
        ("ms", 1e3),
        ("s", 1e6),
        ("m", 6e7),
        ("h", 3.6e9),
    ];
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at_checked(digits)?;
        let letters = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += value.parse::<f64>().ok()? * size;
        rest = after;
    }
    (!text.is_empty() && total.is_finite()).then_some(total as u64)
}

async fn dependencies(State(telemetry): Shared, params: Params) -> Result {
    let number = |name: &str| {
        let parse = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| JaegerError::bad(format!("{name}: milliseconds are expected")))
        };
        params.get(name).map(parse).transpose()
    };
    let end = number("endTs")?.unwrap_or_else(|| telemetry.clock().now().unsigned_abs());
    let lookback = number("lookback")?.unwrap_or(24 * 3_600_000);
    let start = end.saturating_sub(lookback).saturating_mul(1000);
    let end = end.saturating_mul(1000);
    let found = read(&telemetry, move |store| store.dependencies(start, end)).await?;
    let count = found.len();
    Ok(answer(found, count))
}

/// One trace in Jaeger's JSON: processes are listed once and referred to.
fn trace_json(trace: &Trace) -> Value {
    let id = hex(&trace.id);
    let mut processes: Vec<(&str, &[Tag])> = Vec::new();
    let spans = trace.spans.iter().map(|span| {
        let process = (span.service.as_str(), span.process.as_slice());
        let place = processes.iter().position(|known| *known == process);
        let place = place.unwrap_or_else(|| {
            processes.push(process);
            processes.len() - 1
        });
        span_json(span, &id, &format!("p{}", place + 1))
    });
    let spans: Vec<Value> = spans.collect();
    let processes = processes.iter().enumerate().map(|(at, (service, tags))| {
        let tags: Vec<Value> = tags.iter().map(tag_json).collect();
        (
            format!("p{}", at + 1),
            json!({ "serviceName": service, "tags": tags }),
        )
    });
    let processes: serde_json::Map<String, Value> = processes.collect();
    let warnings = trace
        .cut
        .then(|| vec![format!("only the first {MOST_SPANS} spans are shown")]);
    json!({ "traceID": id, "spans": spans, "processes": processes, "warnings": warnings })
}

fn span_json(span: &SpanRecord, trace: &str, process: &str) -> Value {
    let mut references = Vec::new();
    if span.parent_id.iter().any(|byte| *byte != 0) {
        references.push(
            json!({ "refType": "CHILD_OF", "traceID": trace, "spanID": hex(&span.parent_id) }),
        );
    }
    references.extend(span.links.iter().map(|link| {
        json!({ "refType": "FOLLOWS_FROM", "traceID": hex(&link.trace_id), "spanID": hex(&link.span_id) })
    }));
    let mut tags: Vec<Value> = span.tags.iter().map(tag_json).collect();
    let kind = kind_name(span.kind);
    if !kind.is_empty() {
        tags.push(json!({ "key": "span.kind", "type": "string", "value": kind }));
    }
    let logs = span.events.iter().map(|event| {
        let fields: Vec<Value> = event.fields.iter().map(tag_json).collect();
        json!({ "timestamp": event.time, "fields": fields })
    });
    let logs: Vec<Value> = logs.collect();
    json!({
        "traceID": trace,
        "spanID": hex(&span.span_id),
        "flags": 1,
        "operationName": span.operation,
        "references": references,
        "startTime": span.start,
        "duration": span.duration,
        "tags": tags,
        "logs": logs,
        "processID": process,
        "warnings": null,
    })
}

fn tag_json(tag: &Tag) -> Value {
    let (kind, value) = match &tag.value {
        Some(TagValue::Bool(value)) => ("bool", json!(value)),
        Some(TagValue::Int(value)) => ("int64", json!(value)),
        Some(TagValue::Double(value)) => ("float64", json!(value)),
        Some(TagValue::Text(text)) => ("string", json!(text)),
        None => ("string", json!("")),
    };
    json!({ "key": tag.key, "type": kind, "value": value })
}

#[cfg(test)]
mod tests {
    use super::go_duration;

    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("1.5s", Some(1_500_000)),
            ("100ms", Some(100_000)),
            ("1h2m", Some(3_720_000_000)),
            ("10us", Some(10)),
            ("", None),
            ("5", None),
            ("x", None),
        ] {
            assert_eq!(go_duration(text), want, "{text}");
        }
    }
}
