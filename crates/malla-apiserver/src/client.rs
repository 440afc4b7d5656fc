//! The in-process client: the same admission, validation and storage path as HTTP, without HTTP.
//!
//! Invariant: objects are shared with the server's cache (`Arc<Value>`): clone before changing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use malla_apimachinery::kind::{FieldValidation, ResourceKind};
use serde_json::Value;

use crate::auth::{User, request};
use crate::core::Core;
use crate::error::ApiError;
use crate::kinds::{NAMESPACES, PODS, Resource};
use crate::rest::intent::Intent;
use crate::rest::read::{self, ListOptions};
use crate::rest::watch::{self, WatchOptions};
use crate::rest::{Cx, Target, create, delete, update};

/// A handle for one component of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
    manager: Arc<str>,
    user: Arc<User>,
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
    pub(crate) fn new(core: Arc<Core>, manager: &str) -> Self {
        Self {
            core,
            manager: manager.into(),
            user: User::component(manager),
        }
    }

    /// Reads one object. `namespace` is `None` for cluster-scoped kinds.
    pub fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        read::get(&self.core, &self.target(resource, namespace, name)?)
    }

    /// Reads all objects of a namespace, or of all (`None`), in order of namespace and name.
    pub fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<Listed, ApiError> {
        let target = self.target(resource, namespace, "")?;
        let page = read::list(&self.core, &target, &options(&target, params)?)?;
        Ok(Listed {
            items: page.items,
            resource_version: page.version,
        })
    }

    /// Watches from just after `resource_version` (of a list).
    pub fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        params: &ListParams,
        resource_version: u64,
    ) -> Result<Watch, ApiError> {
        let target = self.target(resource, namespace, "")?;
        let options = WatchOptions {
            list: options(&target, params)?,
            from: Some(resource_version),
            bookmarks: true,
            ..WatchOptions::default()
        };
        let events = watch::watch(&self.core, target, options)?;
        Ok(Watch {
            inner: Box::pin(events.map(|event| event.map(WatchEvent::from))),
        })
    }

    /// Creates; `metadata.generateName` works.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let target = self.target(resource, namespace, "")?;
        let mut cx = self.cx();
        let written = Box::pin(create::create(&self.core, &target, object, &mut cx)).await?;
        Ok(written.object)
    }

    /// Replaces; with `metadata.resourceVersion` set, only that version (409 otherwise).
    pub async fn update(&self, resource: &Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        self.replace(resource, None, object).await
    }

    /// Replaces `status` only.
    pub async fn update_status(
        &self,
        resource: &Resource,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.replace(resource, Some("status"), object).await
    }

    /// Patches.
    pub async fn patch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: Patch,
    ) -> Result<Arc<Value>, ApiError> {
        let target = self.target(resource, namespace, name)?;
        self.write(&target, None, patch.into()).await
    }

    /// Patches the `status` subresource.
    pub async fn patch_status(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: Patch,
    ) -> Result<Arc<Value>, ApiError> {
        let target = self.target(resource, namespace, name)?;
        self.write(&target, Some("status"), patch.into()).await
    }

    /// Deletes: removes, or marks with `deletionTimestamp` when finalizers or a grace period hold the object.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError> {
        let target = self.target(resource, namespace, name)?;
        let mut cx = self.cx();
        Box::pin(delete::delete(&self.core, &target, params, &mut cx)).await?;
        Ok(())
    }

    /// Empties `spec.finalizers` of a terminating namespace (`namespaces/finalize`), which removes it.
    pub async fn finalize_namespace(&self, name: &str) -> Result<(), ApiError> {
        let target = self.target(&NAMESPACES, None, name)?;
        let mut cx = self.cx();
        let none = Value::Array(Vec::new());
        Box::pin(update::finalize(&self.core, &target, none, &mut cx)).await?;
        Ok(())
    }

    /// Binds a pod to a node (`pods/binding`).
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), ApiError> {
        let target = self.target(&PODS, Some(namespace), pod)?;
        let mut cx = self.cx();
        Box::pin(update::bind(&self.core, &target, node, &mut cx)).await?;
        Ok(())
    }

    /// Makes a service-account token.
    pub async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        params: &TokenParams,
    ) -> Result<Token, ApiError> {
        request::make(&self.core, namespace, service_account, params)
    }

    /// Resources that can be listed and deleted, custom ones included, one served version each with whether it is
    /// namespaced: for the namespace and garbage-collector controllers.
    pub fn deletable_resources(&self) -> Vec<(Resource, bool)> {
        let registry = self.core.registry();
        let families = registry.families();
        let stored = families.filter(|family| !family.storage.review);
        stored
            .map(|family| {
                let kind = family.preferred();
                (resource_of(kind), kind.namespaced)
            })
            .collect()
    }

    /// The resource that serves a kind, e.g. of an owner reference, and whether it is namespaced.
    pub fn resource_of(&self, api_version: &str, kind: &str) -> Option<(Resource, bool)> {
        let served = self.core.registry().find_kind(api_version, kind)?;
        Some((resource_of(&served.kind), served.kind.namespaced))
    }

    /// Told whenever the set of served resources (CRDs) changes.
    pub fn resources_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.registry_changes()
    }

    async fn replace(
        &self,
        resource: &Resource,
        subresource: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty());
        let target = self.target(resource, namespace, text("name"))?;
        let intent = Intent::Replace(object);
        self.write(&target, subresource, intent).await
    }

    async fn write(
        &self,
        target: &Target,
        subresource: Option<&str>,
        intent: Intent,
    ) -> Result<Arc<Value>, ApiError> {
        let mut cx = self.cx();
        let write = update::update(&self.core, target, subresource, &intent, &mut cx);
        Ok(Box::pin(write).await?.object)
    }

    fn target(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Target, ApiError> {
        let registry = self.core.registry();
        let found = registry.find(&resource.group, &resource.version, &resource.plural);
        let served = found.ok_or_else(ApiError::no_such_path)?;
        Ok(Target::new(served, namespace.unwrap_or(""), name))
    }

    fn cx(&self) -> Cx {
        Cx {
            user: self.user.clone(),
            manager: self.manager.to_string(),
            dry_run: false,
            validation: FieldValidation::Strict,
            warnings: Vec::new(),
        }
    }
}

impl From<Patch> for Intent {
    fn from(patch: Patch) -> Self {
        match patch {
            Patch::Json(ops) => Self::Json(ops),
            Patch::Merge(changes) => Self::Merge(changes),
            Patch::Strategic(changes) => Self::Strategic(changes),
            Patch::Apply { object, force } => Self::Apply {
                config: object,
                force,
            },
        }
    }
}

impl From<watch::Event> for WatchEvent {
    fn from(event: watch::Event) -> Self {
        match event {
            watch::Event::Added(object) => Self::Added(object),
            watch::Event::Modified(object) => Self::Modified(object),
            watch::Event::Deleted(object) => Self::Deleted(object),
            watch::Event::Bookmark { version, .. } => Self::Bookmark(version),
        }
    }
}

fn options(target: &Target, params: &ListParams) -> Result<ListOptions, ApiError> {
    ListOptions::new(target, &params.label_selector, &params.field_selector)
}

fn resource_of(kind: &ResourceKind) -> Resource {
    Resource::new(&kind.group, &kind.version, &kind.plural)
}
