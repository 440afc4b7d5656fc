//! What is asked over HTTP: Prometheus' API, Jaeger's, and the console's graph and logs.
//!
//! Nothing here checks who asks: whoever serves the router puts its own check in front of it.

mod console;
pub(crate) mod error;
mod jaeger;
pub mod json;
mod params;
mod prometheus;

use std::sync::Arc;

use axum::Router;
use axum::routing::any;

use crate::Telemetry;
pub use console::{BadParameter, graph_query};

/// All of it, at the paths of the console's origin.
pub fn router(telemetry: Arc<Telemetry>) -> Router {
    query_router(telemetry.clone()).merge(console::router(telemetry))
}

/// Prometheus' API at `/api/v1/` and Jaeger's at `/jaeger/api/`, for servers that have calls of
/// their own for the graph and the logs.
pub fn query_router(telemetry: Arc<Telemetry>) -> Router {
    prometheus::router(telemetry.clone())
        .merge(jaeger::router(telemetry))
        .route("/api/v1/{*rest}", any(prometheus::not_found))
}

#[cfg(test)]
mod tests;
