//! One HTTP request: who asks, what for, and the answer.

mod accept;
mod body;
#[cfg(fuzzing)]
pub mod fuzzing;
mod json;
mod options;
mod path;
mod pod;
mod protobuf;
mod query;
mod resource;
mod respond;
mod socket;
mod spdy;
mod subresource;
mod watch;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{User, impersonate};
use crate::core::Core;
use crate::discovery;
use crate::error::{ApiError, Reason};
use accept::Accept;
pub(crate) use path::percent_decode;
use path::{Path, ResourcePath};
use query::Query;
use respond::Body;

/// A request's surroundings.
pub(crate) struct Exchange {
    core: Arc<Core>,
    user: Arc<User>,
    stopping: CancellationToken,
    /// Where upgraded connections are served; the listeners wait for it.
    sessions: TaskTracker,
    method: Method,
    query: Query,
    accept: Accept,
    headers: http::HeaderMap,
}

/// Answers one request; never fails, failures are answers.
pub(crate) async fn handle(
    core: Arc<Core>,
    certified: Option<Arc<User>>,
    stopping: CancellationToken,
    sessions: TaskTracker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answer = AssertUnwindSafe(answer(core, certified, stopping, sessions, request));
    let answer = answer.catch_unwind().await.unwrap_or_else(|_| {
        // The panic's own text is in the log already. Other requests of this connection go on.
        Err(ApiError::internal(
            "a bug in the server; its log has the place",
        ))
    });
    Ok(answer.unwrap_or_else(|error| respond::error(&error)))
}

async fn answer(
    core: Arc<Core>,
    certified: Option<Arc<User>>,
    stopping: CancellationToken,
    sessions: TaskTracker,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let user = authenticate(&core, certified, request.headers_mut())?;
    let user = impersonate::effective(user, request.headers_mut())?;
    let path = Path::parse(request.uri().path())?;
    authorize(&user, &path, request.method())?;
    let exchange = Exchange {
        core,
        user,
        stopping,
        sessions,
        method: request.method().clone(),
        query: Query::parse(request.uri().query().unwrap_or("")),
        accept: Accept::parse(request.headers()),
        headers: request.headers().clone(),
    };
    match path {
        Path::Resource(path) => resource::serve(exchange, path, request).await,
        other => meta(&exchange, &other),
    }
}

/// The paths that are not resources.
fn meta(exchange: &Exchange, path: &Path) -> Result<Response<Body>, ApiError> {
    if exchange.method != Method::GET && exchange.method != Method::HEAD {
        return Err(ApiError::method_not_allowed("", exchange.method.as_str()));
    }
    let core = &exchange.core;
    let registry = core.registry();
    match path {
        Path::Health => Ok(respond::text(StatusCode::OK, "ok")),
        Path::Version => Ok(respond::json(StatusCode::OK, &discovery::version())),
        Path::Root => Ok(respond::json(StatusCode::OK, &discovery::paths(&registry))),
        Path::Api if exchange.accept.aggregated() => {
            Ok(respond::aggregated(&discovery::aggregated(&registry, true)))
        }
        Path::Apis if exchange.accept.aggregated() => Ok(respond::aggregated(
            &discovery::aggregated(&registry, false),
        )),
        Path::Api => Ok(respond::json(StatusCode::OK, &discovery::core_versions())),
        Path::Apis => Ok(respond::json(StatusCode::OK, &discovery::groups(&registry))),
        Path::Group(group) => {
            let found = discovery::group(&registry, group);
            let found = found.ok_or_else(ApiError::no_such_path)?;
            Ok(respond::json(StatusCode::OK, &found))
        }
        Path::GroupVersion(group, version) => {
            let found = discovery::resources(&registry, group, version);
            let found = found.ok_or_else(ApiError::no_such_path)?;
            Ok(respond::json(StatusCode::OK, &found))
        }
        Path::OpenApiIndex => Ok(respond::json_bytes(registry.documents().index())),
        Path::OpenApi(path) => {
            let found = registry.documents().v3(path);
            let (body, hash) = found.ok_or_else(ApiError::no_such_path)?;
            Ok(respond::hashed(exchange, body, hash))
        }
        Path::OpenApiV2 if exchange.accept.openapi_protobuf() => Ok(respond::openapi_protobuf(
            registry.documents().v2_protobuf(),
        )),
        Path::OpenApiV2 if exchange.accept.json() => {
            Ok(respond::json_bytes(registry.documents().v2()))
        }
        Path::OpenApiV2 => Err(accept::not_acceptable()),
        Path::OpenIdConfiguration => Ok(respond::json(
            StatusCode::OK,
            &json!({
                "issuer": core.tokens.issuer(),
                "jwks_uri": format!("{}/openid/v1/jwks", core.tokens.issuer()),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        )),
        Path::Jwks => Ok(respond::jwks(&core.tokens.jwks())),
        Path::Resource(_) | Path::Unknown => Err(ApiError::no_such_path()),
    }
}

/// A bearer token wins over a certificate, as in kube-apiserver the first authenticator that knows the user.
fn authenticate(
    core: &Core,
    certified: Option<Arc<User>>,
    headers: &mut http::HeaderMap,
) -> Result<Arc<User>, ApiError> {
    if let Some(user) = certified {
        return Ok(user);
    }
    let unauthorized = || ApiError::new(Reason::Unauthorized, "Unauthorized");
    let Some(credentials) = headers.remove(header::AUTHORIZATION) else {
        return Ok(Arc::new(User::anonymous()));
    };
    let credentials = credentials.to_str().map_err(|_| unauthorized())?;
    let (scheme, token) = credentials.split_once(' ').ok_or_else(unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized());
    }
    let audiences = [core.tokens.issuer().to_owned()];
    let verified = {
        let world = core.store.read();
        core.tokens
            .verify(token.trim(), &audiences, &world, core.now())
    };
    match verified {
        Ok(verified) => Ok(Arc::new(verified.user)),
        Err(error) => {
            tracing::debug!(%error, "bearer token refused");
            Err(unauthorized())
        }
    }
}

fn authorize(user: &User, path: &Path, method: &Method) -> Result<(), ApiError> {
    if !user.is_anonymous() || matches!(path, Path::Health | Path::Version) {
        return Ok(());
    }
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "use",
    };
    let message = match path {
        Path::Resource(ResourcePath {
            group,
            resource,
            namespace,
            name,
            ..
        }) => {
            let qualified = match group.as_str() {
                "" => resource.clone(),
                group => format!("{resource}.{group}"),
            };
            let named = match name.as_str() {
                "" => String::new(),
                name => format!(" {name:?}"),
            };
            let verb = if name.is_empty() && verb == "get" {
                "list"
            } else {
                verb
            };
            let place = match namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "{qualified}{named} is forbidden: User \"system:anonymous\" cannot {verb} resource {resource:?} in API group {group:?} {place}"
            )
        }
        other => format!(
            "forbidden: User \"system:anonymous\" cannot {verb} path \"{}\"",
            other.text()
        ),
    };
    Err(ApiError::new(Reason::Forbidden, message).with_details(json!({})))
}
