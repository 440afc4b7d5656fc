//! Errors as Prometheus, Jaeger and the console expect them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::promql::QueryError;
use crate::records::RecordsError;

/// What a Prometheus client gets instead of an answer.
#[derive(Debug)]
pub(super) struct PrometheusError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl PrometheusError {
    pub(super) fn bad_data(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_data",
            message: message.into(),
        }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "unavailable",
            message: message.into(),
        }
    }

    pub(super) fn timeout() -> Self {
        Self::from(QueryError::Timeout)
    }
}

impl From<QueryError> for PrometheusError {
    fn from(error: QueryError) -> Self {
        let (status, kind) = match &error {
            QueryError::Parse(_) | QueryError::BadRange(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            QueryError::Execution(_) | QueryError::Store(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
            QueryError::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
        };
        Self {
            status,
            kind,
            message: error.to_string(),
        }
    }
}

impl IntoResponse for PrometheusError {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.message });
        (self.status, Json(body)).into_response()
    }
}

/// What Jaeger's clients get.
#[derive(Debug)]
pub(super) struct JaegerError(pub(super) StatusCode, pub(super) String);

impl JaegerError {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<RecordsError> for JaegerError {
    fn from(error: RecordsError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for JaegerError {
    fn into_response(self) -> Response {
        let body = json!({
            "data": null, "total": 0, "limit": 0, "offset": 0,
            "errors": [{ "code": self.0.as_u16(), "msg": self.1 }],
        });
        (self.0, Json(body)).into_response()
    }
}

/// What the console gets: `{error: {code, message, field?, fix?}}`.
#[derive(Debug)]
pub(super) struct ConsoleError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
}

impl ConsoleError {
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "invalid",
            message: message.into(),
            field: Some(field.to_owned()),
        }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "unavailable",
            message: message.into(),
            field: None,
        }
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        (self.status, Json(json!({ "error": error }))).into_response()
    }
}
