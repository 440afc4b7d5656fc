//! Errors as Prometheus, Jaeger and the console expect them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::promql::QueryError;
use crate::records::RecordsError;

/// What a Prometheus client gets instead of an answer.
#[derive(Debug)]
pub(crate) struct PrometheusError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl PrometheusError {
    pub(crate) fn bad_data(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_data",
            message: message.into(),
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "unavailable",
            message: message.into(),
        }
    }

    pub(crate) fn timeout() -> Self {
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
pub(crate) struct JaegerError(pub(crate) StatusCode, pub(crate) String);

impl JaegerError {
    pub(crate) fn bad(message: impl Into<String>) -> Self {
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
pub(crate) struct ConsoleError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
    fix: Option<&'static str>,
}

impl ConsoleError {
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "invalid",
            message: message.into(),
            field: Some(field.to_owned()),
            fix: None,
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "unavailable",
            message: message.into(),
            field: None,
            fix: None,
        }
    }

    pub(crate) fn fix(mut self, fix: &'static str) -> Self {
        self.fix = Some(fix);
        self
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        if let Some(fix) = self.fix {
            error["fix"] = fix.into();
        }
        (self.status, Json(json!({ "error": error }))).into_response()
    }
}
