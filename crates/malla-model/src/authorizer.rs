//! Services that decide about requests (MeshConfig's providers `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`).

use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::Target;

/// How long an authorizer may take where its provider says nothing (Istio's default).
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// A service that is asked, and what becomes of requests meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    pub target: Target,
    pub protocol: Protocol,
    pub timeout: Duration,
    /// Where it gives no answer, requests go on.
    pub fail_open: bool,
    /// The answer where it gives none and requests do not go on; `None` is 403.
    pub status_on_error: Option<u16>,
    /// Requests that it changed are routed anew.
    pub clear_route_cache: bool,
    pub body: Option<Body>,
}

/// How it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    Http(Http),
}

/// What of a request's body it is shown (`includeRequestBodyInCheck`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Bytes.
    pub max: u32,
    /// A longer one is shown in part; else it is refused with 413.
    pub partial: bool,
    /// As bytes rather than as text.
    pub bytes: bool,
}

/// Questions as plain requests. Names of headers are Istio's policy strings: exact, `x*` or `*x`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Before the request's own path.
    pub path_prefix: Arc<str>,
    /// Headers of the request that it is shown, beside host, method, path and authorization.
    pub shown: Vec<Arc<str>>,
    /// Headers that are added for it.
    pub added: Vec<(Arc<str>, Arc<str>)>,
    /// Headers of a yes that go on with the request.
    pub to_upstream: Vec<Arc<str>>,
    /// Headers of a no that the client gets; none are all.
    pub to_client_on_deny: Vec<Arc<str>>,
    /// Headers of a yes that the client gets.
    pub to_client_on_allow: Vec<Arc<str>>,
}
