//! The one seam where every call is allowed or refused.
//!
//! The guard asks it for each request, handlers ask it again for each object they would change. In
//! the demo, which listens on loopback and has no login, [`AllowAll`] answers; a cluster's answer is
//! a SubjectAccessReview, hence the future.

use futures_util::future::BoxFuture;
use http::HeaderMap;

use crate::error::{ApiError, Code};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
}

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// As Kubernetes names it: get, list, create, update, delete.
    pub verb: &'static str,
    /// A kind (`VirtualService`), or the part of the API (`proxies`).
    pub resource: String,
    /// Empty where it is not about one.
    pub namespace: String,
    /// Empty where it is not about one.
    pub name: String,
}

/// Decides who somebody is and what they may do.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// Who sent a request with these headers.
    ///
    /// # Errors
    /// When they prove nothing.
    fn identify<'a>(&'a self, headers: &'a HeaderMap) -> BoxFuture<'a, Result<User, ApiError>>;

    /// Whether the user may.
    fn may<'a>(&'a self, user: &'a User, action: &'a Action) -> BoxFuture<'a, bool>;
}

/// Everybody who reaches the listener may do everything under one name.
#[derive(Debug, Clone)]
pub struct AllowAll {
    pub user: String,
}

impl Authorizer for AllowAll {
    fn identify<'a>(&'a self, _: &'a HeaderMap) -> BoxFuture<'a, Result<User, ApiError>> {
        Box::pin(async {
            Ok(User {
                name: self.user.clone(),
            })
        })
    }

    fn may<'a>(&'a self, _: &'a User, _: &'a Action) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
}

/// Asks, and turns a no into an answer.
///
/// # Errors
/// When the user may not.
pub async fn require(
    authorizer: &dyn Authorizer,
    user: &User,
    action: &Action,
) -> Result<(), ApiError> {
    if authorizer.may(user, action).await {
        return Ok(());
    }
    let object = match (action.namespace.as_str(), action.name.as_str()) {
        ("", "") => action.resource.clone(),
        ("", name) => format!("{} {name}", action.resource),
        (namespace, name) => format!("{} {namespace}/{name}", action.resource),
    };
    Err(ApiError::new(
        Code::Forbidden,
        format!("{} may not {} {object}", user.name, action.verb),
    )
    .fix("ask whoever runs the mesh for that right"))
}
