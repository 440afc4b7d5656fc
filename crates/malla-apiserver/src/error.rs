//! `metav1.Status` failures with Kubernetes' reasons, messages and codes.
//!
//! Invariant: whatever goes wrong leaves the server as one of these; the texts are kube-apiserver's own where
//! it has one, because users and clients search and match them.

use std::fmt;

use malla_apimachinery::error::{FieldError, invalid_status};
use serde_json::{Map, Value, json};

/// `metav1.StatusReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestEntityTooLarge,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    InsufficientStorage,
    Timeout,
    NotImplemented,
}

impl Reason {
    /// The word in `reason`; empty for what Kubernetes has no word for.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::InsufficientStorage => "InsufficientStorage",
            Self::Timeout => "Timeout",
            Self::NotImplemented => "NotImplemented",
        }
    }

    /// The HTTP status code that goes with it.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::NotImplemented => 501,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }

    fn parse(word: &str, code: u16) -> Self {
        const ALL: [Reason; 19] = [
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Expired,
            Reason::Invalid,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::UnsupportedMediaType,
            Reason::RequestEntityTooLarge,
            Reason::TooManyRequests,
            Reason::InternalError,
            Reason::ServiceUnavailable,
            Reason::InsufficientStorage,
            Reason::Timeout,
            Reason::NotImplemented,
        ];
        let named = ALL.into_iter().find(|reason| reason.word() == word);
        named.unwrap_or_else(|| {
            let coded = ALL.into_iter().find(|reason| reason.code() == code);
            coded.unwrap_or(Self::InternalError)
        })
    }
}

/// A failed request: what a client gets as a `metav1.Status`.
#[derive(Clone, PartialEq)]
pub struct ApiError(Box<Failure>);

#[derive(Clone, PartialEq)]
struct Failure {
    reason: Reason,
    code: u16,
    message: String,
    details: Option<Value>,
}

/// The resource an error is about, as messages name it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub group: &'a str,
    /// Plural name, e.g. `deployments`.
    pub resource: &'a str,
    pub name: &'a str,
}

impl About<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            return self.resource.to_owned();
        }
        format!("{}.{}", self.resource, self.group)
    }

    fn details(&self) -> Value {
        let mut details = Map::new();
        for (field, value) in [
            ("name", self.name),
            ("group", self.group),
            ("kind", self.resource),
        ] {
            if !value.is_empty() {
                details.insert(field.to_owned(), value.into());
            }
        }
        Value::Object(details)
    }
}

impl ApiError {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            reason,
            code: reason.code(),
            message: message.into(),
            details: None,
        }))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(
            Reason::InternalError,
            format!("Internal error occurred: {message}"),
        )
    }

    /// 404 for an object.
    pub fn not_found(about: About<'_>) -> Self {
        let message = format!("{} {:?} not found", about.qualified(), about.name);
        Self::new(Reason::NotFound, message).with_details(about.details())
    }

    /// 404 for a path nothing is served at.
    pub fn no_such_path() -> Self {
        Self::new(
            Reason::NotFound,
            "the server could not find the requested resource",
        )
        .with_details(json!({}))
    }

    /// 409 for a create.
    pub fn already_exists(about: About<'_>) -> Self {
        let message = format!("{} {:?} already exists", about.qualified(), about.name);
        Self::new(Reason::AlreadyExists, message).with_details(about.details())
    }

    /// 409 for an update.
    pub fn conflict(about: About<'_>, why: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {why}",
            about.qualified(),
            about.name
        );
        Self::new(Reason::Conflict, message).with_details(about.details())
    }

    /// 403 for a write an admission step refuses.
    pub fn forbidden(about: About<'_>, why: impl fmt::Display) -> Self {
        let message = format!("{} {:?} is forbidden: {why}", about.qualified(), about.name);
        Self::new(Reason::Forbidden, message).with_details(about.details())
    }

    /// 410: the resourceVersion asked for is no longer remembered.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 405.
    pub fn method_not_allowed(group_resource: &str, action: &str) -> Self {
        let subject = match group_resource {
            "" => "this path".to_owned(),
            resource => format!("resources of kind {resource:?}"),
        };
        let message = format!("{action} is not supported on {subject}");
        Self::new(Reason::MethodNotAllowed, message).with_details(json!({}))
    }

    /// 422: `kind` is the object's kind, e.g. `Deployment`.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        Self::from_status(&invalid_status(group, kind, name, errors))
    }

    /// Reads a `metav1.Status`, e.g. a webhook's answer.
    pub fn from_status(status: &Value) -> Self {
        let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or("");
        let code = status.get("code").and_then(Value::as_u64).unwrap_or(0);
        let code = u16::try_from(code).unwrap_or(0);
        let reason = Reason::parse(text("reason"), code);
        let valid = (400..600).contains(&code);
        Self(Box::new(Failure {
            reason,
            code: if valid { code } else { reason.code() },
            message: text("message").to_owned(),
            details: status.get("details").cloned(),
        }))
    }

    /// Adds or replaces `details`.
    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether this is `404 NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.0.reason == Reason::NotFound
    }

    /// Whether this is `409 Conflict`: read again and retry.
    pub fn is_conflict(&self) -> bool {
        self.0.reason == Reason::Conflict
    }

    /// Whether this is `409 AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.0.reason == Reason::AlreadyExists
    }

    /// The `metav1.Status` clients get.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.0.message,
            "reason": self.0.reason.word(),
        });
        if let Some(details) = &self.0.details {
            status["details"] = details.clone();
        }
        status["code"] = self.0.code.into();
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.0.code,
            self.0.reason.word(),
            self.0.message
        )
    }
}

impl std::error::Error for ApiError {}
