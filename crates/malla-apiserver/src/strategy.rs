//! What the server itself does to objects of certain kinds, beyond their schema: initial state, built-in admission,
//! allocation, and the consequences of a stored write.

pub(crate) mod crd;
pub(crate) mod namespace;
pub(crate) mod pod;
pub(crate) mod service;

use malla_apimachinery::error::FieldError;
use serde_json::Value;

use crate::admission::{self, MUTATING, VALIDATING};
use crate::core::Core;
use crate::error::ApiError;
use crate::registry::CRDS;
use crate::rest::Target;

/// Which special treatment a resource gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    Plain,
    Namespace,
    Pod,
    Service,
    Crd,
    Webhooks,
}

impl Strategy {
    /// The strategy of a group resource.
    pub(crate) fn of(group_resource: &str) -> Self {
        match group_resource {
            "namespaces" => Self::Namespace,
            "pods" => Self::Pod,
            "services" => Self::Service,
            CRDS => Self::Crd,
            MUTATING | VALIDATING => Self::Webhooks,
            _ => Self::Plain,
        }
    }

    /// Sets what a new object starts with, whatever the client wrote.
    pub(crate) fn begin_create(self, object: &mut Value) {
        match self {
            Self::Namespace => namespace::begin_create(object),
            Self::Pod => pod::begin_create(object),
            _ => {}
        }
    }

    /// Carries over what this endpoint does not change.
    pub(crate) fn begin_update(self, old: &Value, new: &mut Value, subresource: Option<&str>) {
        match self {
            Self::Namespace => namespace::begin_update(old, new, subresource),
            Self::Service if subresource.is_none() => service::begin_update(old, new),
            _ => {}
        }
    }

    /// Built-in mutating admission of new objects.
    pub(crate) async fn admit_create(
        self,
        core: &Core,
        target: &Target,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        match self {
            Self::Pod => pod::admit(core, target, object).await,
            _ => Ok(()),
        }
    }

    /// What is wrong with an object beyond its schema.
    pub(crate) fn validate(self, object: &Value) -> Vec<FieldError> {
        match self {
            Self::Webhooks => admission::check(object),
            _ => Vec::new(),
        }
    }

    /// Allocates addresses and ports. What is returned holds them until the write is durable.
    pub(crate) fn allocate(
        self,
        core: &Core,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<Option<service::Held>, ApiError> {
        match self {
            Self::Service => service::allocate(core, old, object).map(Some),
            _ => Ok(None),
        }
    }

    /// The last touch before storing.
    pub(crate) fn before_store(self, core: &Core, object: &mut Value) {
        if self == Self::Crd {
            crd::before_store(core, object);
        }
    }

    /// After a durable write.
    pub(crate) fn stored(self, core: &Core) {
        if self == Self::Crd {
            core.refresh_registry();
        }
    }

    /// Seconds between the mark and the removal.
    pub(crate) fn grace_period(self, object: &Value, requested: Option<u64>) -> u64 {
        match self {
            Self::Pod => pod::grace_period(object, requested),
            _ => 0,
        }
    }

    /// What being marked for deletion shows in the object.
    pub(crate) fn mark_deleted(self, core: &Core, object: &mut Value) {
        match self {
            Self::Namespace => namespace::mark_deleted(object),
            Self::Crd => crd::mark_deleted(core, object),
            _ => {}
        }
    }
}
