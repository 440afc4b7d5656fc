//! The in-process client: the same admission, validation and storage path as HTTP, without HTTP.
//!
//! Invariant: objects are shared with the server's cache (`Arc<Value>`): clone before changing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Resource;
use crate::server::Server;

/// A handle for one component of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    server: Server,
    manager: Arc<str>,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    pub label_selector: String,
    pub field_selector: String,
}

/// A list and the version it is of: where a watch goes on.
#[derive(Debug, Clone)]
pub struct Listed {
    pub items: Vec<Arc<Value>>,
    pub resource_version: u64,
}

/// One step of a watch.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Added(Arc<Value>),
    Modified(Arc<Value>),
    Deleted(Arc<Value>),
    /// Nothing up to this version is missing.
    Bookmark(u64),
}

/// A patch and its kind.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge: built-in kinds only.
    Strategic(Value),
    /// Server-side apply; `force` takes fields others own.
    Apply { object: Value, force: bool },
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteParams {
    /// Pods: seconds to end in; 0 removes at once (what the node says when all is stopped).
    pub grace_period_seconds: Option<u64>,
    /// Delete only this incarnation.
    pub uid: Option<String>,
    /// Delete only this version.
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
}

/// `propagationPolicy`: what becomes of the dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// A service-account token to make (`TokenRequest`).
#[derive(Debug, Clone, Default)]
pub struct TokenParams {
    /// Empty: the API server's own audience.
    pub audiences: Vec<String>,
    /// At least 600 s; default 3600 s.
    pub expiration_seconds: Option<u64>,
    /// Bind to a Pod or Secret by name and uid: the token dies with it.
    pub bound_object: Option<BoundObject>,
}

/// `boundObjectRef` of a `TokenRequest`.
#[derive(Debug, Clone)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// A signed token.
#[derive(Debug, Clone)]
pub struct Token {
    pub token: String,
    pub expires: jiff::Timestamp,
}

/// Changes as they are committed. Ends after an error; `410 Expired` means: list again.
pub struct Watch {
    inner: Pin<Box<dyn Stream<Item = Result<WatchEvent, ApiError>> + Send>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl Client {
    pub(crate) fn new(server: Server, manager: &str) -> Self {
        Self {
            server,
            manager: manager.into(),
        }
    }

    /// Reads one object. `namespace` is `None` for cluster-scoped kinds.
    pub fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        let _ = (&self.server, resource, namespace, name);
        Err(not_yet())
    }

    /// Reads all objects of a namespace, or of all (`None`), in order of namespace and name.
    pub fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<Listed, ApiError> {
        let _ = (resource, namespace, params);
        Err(not_yet())
    }

    /// Watches from just after `resource_version` (of a list).
    pub fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        params: &ListParams,
        resource_version: u64,
    ) -> Result<Watch, ApiError> {
        let _ = (resource, namespace, params, resource_version);
        Err(not_yet())
    }

    /// Creates; `metadata.generateName` works.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let _ = (resource, namespace, object);
        Err(not_yet())
    }

    /// Replaces; with `metadata.resourceVersion` set, only that version (409 otherwise).
    pub async fn update(&self, resource: &Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        let _ = (resource, object);
        Err(not_yet())
    }

    /// Replaces `status` only.
    pub async fn update_status(
        &self,
        resource: &Resource,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let _ = (resource, object);
        Err(not_yet())
    }

    /// Patches.
    pub async fn patch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: Patch,
    ) -> Result<Arc<Value>, ApiError> {
        let _ = (resource, namespace, name, patch, &self.manager);
        Err(not_yet())
    }

    /// Patches the `status` subresource.
    pub async fn patch_status(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: Patch,
    ) -> Result<Arc<Value>, ApiError> {
        let _ = (resource, namespace, name, patch);
        Err(not_yet())
    }

    /// Deletes: removes, or marks with `deletionTimestamp` when finalizers or a grace period hold the object.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError> {
        let _ = (resource, namespace, name, params);
        Err(not_yet())
    }

    /// Empties `spec.finalizers` of a terminating namespace (`namespaces/finalize`), which removes it.
    pub async fn finalize_namespace(&self, name: &str) -> Result<(), ApiError> {
        let _ = name;
        Err(not_yet())
    }

    /// Binds a pod to a node (`pods/binding`).
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), ApiError> {
        let _ = (namespace, pod, node);
        Err(not_yet())
    }

    /// Makes a service-account token.
    pub async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        params: &TokenParams,
    ) -> Result<Token, ApiError> {
        let _ = (namespace, service_account, params);
        Err(not_yet())
    }

    /// Resources that can be listed and deleted, custom ones included, one served version each with whether it is
    /// namespaced: for the namespace and garbage-collector controllers.
    pub fn deletable_resources(&self) -> Vec<(Resource, bool)> {
        Vec::new()
    }

    /// The resource that serves a kind, e.g. of an owner reference, and whether it is namespaced.
    pub fn resource_of(&self, api_version: &str, kind: &str) -> Option<(Resource, bool)> {
        let _ = (api_version, kind);
        None
    }
}

fn not_yet() -> ApiError {
    ApiError::internal("not served yet")
}
