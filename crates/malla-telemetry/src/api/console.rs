//! What the console asks for: the graph and the access logs, under `/api/malla/v1/`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::{self, Stream};

use crate::Telemetry;
use crate::api::error::ConsoleError;
use crate::api::params::Params;
use crate::graph::{Graph, GraphQuery, View};
use crate::logs::{BadQuery, LogPage, LogQuery, LogTail, TailEvent};

type Result<T> = std::result::Result<T, ConsoleError>;
type Shared = State<Arc<Telemetry>>;

/// Seconds a graph's window may have.
const LONGEST_WINDOW: i64 = 86_400;

/// `/api/malla/v1/graph`, `/logs`, `/logs/stream`
pub(super) fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/api/malla/v1/graph", get(graph))
        .route("/api/malla/v1/logs", get(logs))
        .route("/api/malla/v1/logs/stream", get(stream_logs))
        .with_state(telemetry)
}

async fn graph(State(telemetry): Shared, params: Params) -> Result<Json<Graph>> {
    let query = graph_query(&params.0, telemetry.clock().now());
    let query = query.map_err(|bad| ConsoleError::invalid(bad.field, bad.message))?;
    match telemetry.graph(query).await {
        Ok(graph) => Ok(Json(graph)),
        Err(error) => Err(ConsoleError::unavailable(error.to_string())),
    }
}

/// A parameter of the graph that isn't understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BadParameter {
    pub field: &'static str,
    pub message: String,
}

/// Reads the parameters of a graph: `window` (seconds), `end` (Unix seconds; `now`, Unix
/// milliseconds, if absent), `view`, `namespaces`.
///
/// # Errors
/// Names the parameter that isn't understood.
pub fn graph_query(
    pairs: &[(String, String)],
    now: i64,
) -> std::result::Result<GraphQuery, BadParameter> {
    let bad = |field| move |message: String| BadParameter { field, message };
    let params = Params(pairs.to_vec());
    let window = params.duration("window").map_err(bad("window"))?;
    let window = window.unwrap_or(60_000);
    if !(1000..=LONGEST_WINDOW * 1000).contains(&window) {
        let text = format!("from 1 to {LONGEST_WINDOW} seconds are expected");
        return Err(bad("window")(text));
    }
    let end = params.time("end").map_err(bad("end"))?;
    let view = params.get("view").map(str::parse::<View>).transpose();
    let namespaces = params.get("namespaces").unwrap_or_default().split(',');
    Ok(GraphQuery {
        window,
        end: end.unwrap_or(now),
        view: view.map_err(bad("view"))?.unwrap_or_default(),
        namespaces: namespaces
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect(),
        ..GraphQuery::default()
    })
}

fn log_query(params: &Params) -> Result<LogQuery> {
    let bad = |error: BadQuery| ConsoleError::invalid(&error.field, error.to_string());
    LogQuery::from_pairs(&params.0).map_err(bad)
}

async fn logs(State(telemetry): Shared, params: Params) -> Result<Json<LogPage>> {
    let query = log_query(&params)?;
    match telemetry.logs(query).await {
        Ok(page) => Ok(Json(page)),
        Err(error) => Err(ConsoleError::unavailable(error.to_string())),
    }
}

async fn stream_logs(
    State(telemetry): Shared,
    params: Params,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let query = log_query(&params)?;
    let tail = telemetry.logs_tail(query.filter);
    let events = stream::unfold(tail, |mut tail: LogTail| async move {
        let event = match tail.next().await? {
            TailEvent::Line(line) => {
                let data = serde_json::to_string(&*line).unwrap_or_default();
                Event::default().event("line").data(data)
            }
            TailEvent::Missed(count) => Event::default().event("missed").data(count.to_string()),
        };
        Some((Ok(event), tail))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
