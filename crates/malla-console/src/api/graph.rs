//! The service graph of the collector, with what the configuration says of its nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use malla_telemetry::api::graph_query;
use malla_telemetry::graph::Graph;

use super::telemetry::absence;
use crate::badges;
use crate::error::ApiError;
use crate::server::App;

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Graph>, ApiError> {
    let Some(collector) = &app.collector else {
        return Err(absence("/api/malla/v1/graph"));
    };
    let telemetry = collector
        .telemetry()
        .map_err(|closed| ApiError::unavailable(closed.to_string()).fix(closed.fix()))?;
    let query = graph_query(&pairs, telemetry.clock().now());
    let query = query.map_err(|bad| ApiError::invalid(bad.message).at(bad.field))?;
    let graph = telemetry.graph(query).await;
    let mut graph = graph.map_err(|error| ApiError::unavailable(error.to_string()))?;
    badges::put_on(&mut graph, &app.mirror, &app.root_namespace);
    Ok(Json(graph))
}
