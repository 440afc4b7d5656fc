//! One shape for everything that goes wrong: `{"error": {code, message, field?, fix?}}` with the
//! HTTP status that fits.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// What kind of failure it is; the code is stable, clients rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NotFound,
    Invalid,
    Conflict,
    Forbidden,
    /// The anti-forgery token is missing or of another session.
    Csrf,
    /// Something this answer needs is not there at the moment.
    Unavailable,
    Internal,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Csrf => "csrf",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Forbidden | Self::Csrf => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// What to do.
    pub fix: Option<String>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            fix: None,
        }
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn body(&self) -> Value {
        let mut error = json!({"code": self.code.name(), "message": self.message});
        if let Some(field) = &self.field {
            error["field"] = json!(field);
        }
        if let Some(fix) = &self.fix {
            error["fix"] = json!(fix);
        }
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code.status(), Json(self.body())).into_response()
    }
}

/// What Kubernetes says, in the console's words.
impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::unavailable(format!("the API server does not answer: {error}"))
                .fix("look whether the cluster runs; the console tries again with your next call");
        };
        let code = match status.code {
            404 => Code::NotFound,
            409 => Code::Conflict,
            401 | 403 => Code::Forbidden,
            400 | 422 => Code::Invalid,
            _ => Code::Unavailable,
        };
        let made = Self::new(code, status.message.clone());
        match code {
            Code::Conflict => {
                made.fix("load the object again and repeat the change on its newest form")
            }
            Code::Forbidden => made
                .fix("give the console's service account that right (ClusterRole malla-console)"),
            _ => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_and_where_and_what_to_do() {
        let error = ApiError::invalid("expected a host")
            .at("spec.hosts")
            .fix("write one");
        assert_eq!(error.code.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            error.body(),
            json!({"error": {"code": "invalid", "message": "expected a host", "field": "spec.hosts", "fix": "write one"}})
        );
        assert_eq!(
            ApiError::not_found("gone").body(),
            json!({"error": {"code": "not_found", "message": "gone"}})
        );
    }
}
