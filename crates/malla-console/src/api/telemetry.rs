//! What is answered for telemetry where this process collects none.

use axum::routing::{any, get};
use axum::{Json, Router};
use http::Uri;
use malla_telemetry::collector::Status;

use crate::error::ApiError;

/// The collector's paths, without a collector.
pub(crate) fn absent() -> Router {
    Router::new()
        .route("/api/v1/{*rest}", any(unavailable))
        .route("/jaeger/api/{*rest}", any(unavailable))
        .route("/api/malla/v1/logs", any(unavailable))
        .route("/api/malla/v1/logs/stream", any(unavailable))
        .route(
            "/api/malla/v1/telemetry/status",
            get(|| async { Json(Status::off()) }),
        )
}

async fn unavailable(uri: Uri) -> ApiError {
    absence(uri.path())
}

/// What `path` answers without a collector.
pub(crate) fn absence(path: &str) -> ApiError {
    ApiError::unavailable(format!(
        "nothing answers {path}: this console collects no telemetry"
    ))
    .fix("start it with --data DIR, and with --collect ADDRESS to receive traces and access logs")
}
