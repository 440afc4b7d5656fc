//! The verbs on resources, the same for HTTP and for the in-process client.
//!
//! A write's life: produce the object (body or patch) -> decode and default -> mutate (built-in steps, webhooks) ->
//! validate -> webhooks again -> store -> tell whoever depends on it. Nothing is stored before all of it passed.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod intent;
pub(crate) mod read;
pub(crate) mod scale;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use malla_apimachinery::crd;
use malla_apimachinery::kind::{DecodeError, FieldValidation, ResourceKind};
use malla_apimachinery::meta::ObjectKey;
use rand::RngExt;
use serde_json::Value;

use crate::auth::User;
use crate::error::{About, ApiError};
use crate::registry::{Family, Served};
use crate::store::WriteError;

/// Who asks, and how.
#[derive(Debug, Clone)]
pub(crate) struct Cx {
    pub(crate) user: Arc<User>,
    /// `fieldManager`, or the program's name from the user agent.
    pub(crate) manager: String,
    /// Everything but storing.
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// What a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) family: Arc<Family>,
    pub(crate) kind: Arc<ResourceKind>,
    /// Empty for cluster-scoped objects, and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
}

/// The result of a write.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) object: Arc<Value>,
    pub(crate) created: bool,
}

impl Target {
    pub(crate) fn new(served: Served, namespace: &str, name: &str) -> Self {
        Self {
            family: served.family,
            kind: served.kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// For error texts.
    pub(crate) fn about(&self) -> About<'_> {
        self.about_name(&self.name)
    }

    pub(crate) fn about_name<'a>(&'a self, name: &'a str) -> About<'a> {
        About {
            group: &self.kind.group,
            resource: &self.kind.plural,
            name,
        }
    }

    pub(crate) fn resource(&self) -> &Arc<str> {
        &self.family.group_resource
    }

    /// A stored object as this version shows it.
    pub(crate) fn shown(&self, stored: &Arc<Value>) -> Arc<Value> {
        if stored["apiVersion"] == self.kind.api_version() {
            return stored.clone();
        }
        let mut object = Value::clone(stored);
        self.convert(&mut object, &self.kind);
        Arc::new(object)
    }

    /// An object of this version as it is stored.
    pub(crate) fn to_storage(&self, mut object: Value) -> Value {
        self.convert(&mut object, &self.family.storage);
        object
    }

    fn convert(&self, object: &mut Value, to: &ResourceKind) {
        if &*self.family.group_resource == events::CORE {
            return events::convert(object, to);
        }
        crd::convert(object, to);
    }
}

/// A write's failure in Kubernetes' words.
pub(crate) fn write_error(target: &Target, name: &str, error: WriteError) -> ApiError {
    use crate::error::Reason;
    let about = target.about_name(name);
    match error {
        WriteError::Exists => ApiError::already_exists(about),
        WriteError::Missing => ApiError::not_found(about),
        WriteError::Changed => ApiError::conflict(about, MODIFIED),
        full @ WriteError::Full { .. } => {
            ApiError::new(Reason::InsufficientStorage, full.to_string())
        }
        broken @ WriteError::Broken { .. } => ApiError::internal(broken),
        WriteError::Closed => {
            ApiError::new(Reason::ServiceUnavailable, "the server is shutting down")
        }
    }
}

/// kube-apiserver's text for a lost race.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Decodes an object of the target's kind in place; unknown fields become warnings or a refusal.
pub(crate) fn decode(kind: &ResourceKind, object: &mut Value, cx: &mut Cx) -> Result<(), ApiError> {
    match kind.decode(object, cx.validation) {
        Ok(warnings) => {
            cx.warnings.extend(warnings);
            Ok(())
        }
        Err(
            error @ (DecodeError::Mismatch(_)
            | DecodeError::Strict { .. }
            | DecodeError::Type { .. }),
        ) => Err(ApiError::bad_request(error.to_string())),
    }
}

/// Makes what an admission step returned whole again: unknown fields dropped, defaults filled in.
pub(crate) fn renormalise(kind: &ResourceKind, object: &mut Value) -> Result<(), ApiError> {
    kind.decode(object, FieldValidation::Ignore)
        .map_err(|error| {
            ApiError::internal(format!("an admission webhook broke the object: {error}"))
        })?;
    kind.default_object(object);
    Ok(())
}

/// The suffix `generateName` adds: five characters that spell no words (k8s.io/apiserver names.SimpleNameGenerator).
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let pick = |_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]);
    (0..5).map(pick).collect()
}
