//! Who asks, and the token for what they change.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use crate::auth::User;
use crate::error::{ApiError, Code};
use crate::guard::COOKIE;
use crate::server::App;

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let internal = |error: &dyn std::error::Error| ApiError::new(Code::Internal, error.to_string());
    let session = app
        .guard
        .session(&headers)
        .map_err(|error| internal(&error))?;
    let body = json!({
        "user": user.name,
        "csrfToken": session.token,
        "version": app.version,
        "cluster": app.cluster_name,
        "namespaceRoot": app.root_namespace,
    });
    let mut answer = Json(body).into_response();
    if session.new {
        let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", session.id);
        let cookie = HeaderValue::from_str(&cookie).map_err(|error| internal(&error))?;
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}
