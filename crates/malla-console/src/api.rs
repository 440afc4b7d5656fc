//! The handlers of `/api/malla/v1`, one file per part of `ui/openapi.yaml`.

pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod events;
pub(crate) mod gateways;
pub(crate) mod graph;
pub(crate) mod kinds;
pub(crate) mod lessons;
pub(crate) mod objects;
pub(crate) mod overview;
pub(crate) mod proxies;
pub(crate) mod security;
pub(crate) mod services;
pub(crate) mod session;
pub(crate) mod telemetry;

use axum::Json;
use axum::extract::FromRequest;
use axum::extract::rejection::JsonRejection;
use http::Uri;

use crate::error::{ApiError, Code};

/// A JSON body; what is wrong with it is said as every other error.
#[derive(Debug, FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
pub(crate) struct Body<T>(pub(crate) T);

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

/// A path of the API that nothing answers.
pub(crate) async fn missing(uri: Uri) -> ApiError {
    let error = ApiError::not_found(format!("nothing answers {}", uri.path()));
    error.fix("see ui/openapi.yaml for what there is")
}

pub(crate) async fn wrong_method(uri: Uri) -> ApiError {
    ApiError::new(
        Code::Invalid,
        format!("{} does not take that method", uri.path()),
    )
}

/// The kind of that name.
pub(crate) fn kind(name: &str) -> Result<malla_api::Kind, ApiError> {
    malla_api::Kind::parse(name).ok_or_else(|| {
        ApiError::not_found(format!("there is no kind {name:?}"))
            .at("kind")
            .fix("GET /api/malla/v1/kinds lists them")
    })
}
