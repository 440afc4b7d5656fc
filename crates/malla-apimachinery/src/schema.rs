//! Structural schemas: compiled once, then used to prune, default, validate, merge and apply objects.
//!
//! Built-in and custom kinds share one compiled form. List and map semantics (`x-kubernetes-list-type`, `map-type`,
//! `patch-merge-key`) live on the nodes, so that server-side apply and strategic merge patch need nothing else.
//!
//! Invariant: a compiled schema is finite: recursive definitions are cut at a node that preserves what it does not know.

pub(crate) mod cel;
pub(crate) mod compile;
mod default;
pub(crate) mod format;
mod hint;
pub(crate) mod node;
mod prune;
mod stack;
mod validate;
mod values;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::FieldError;
use node::Node;
use validate::Validation;

/// A compiled schema; cheap to clone.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(crate) root: Arc<Node>,
    pub(crate) source: Source,
}

/// The document a schema was compiled from, for OpenAPI.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One of the built-in definitions, by name.
    Builtin {
        definitions: Arc<Map<String, Value>>,
        name: String,
    },
    /// The schema of a CRD version.
    Custom(Arc<Value>),
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of one CRD version. Errors are relative to `path`, e.g.
    /// `spec.versions[0].schema.openAPIV3Schema`.
    pub fn from_crd(schema: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let root = stack::deep(|| compile::custom(schema, path))?;
        Ok(Self {
            root: Arc::new(root),
            source: Source::Custom(Arc::new(schema.clone())),
        })
    }

    /// Drops unknown fields and returns their paths, e.g. `spec.containers[0].imag`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(&self.root, object)
    }

    /// The field probably meant by an unknown one that [`Self::prune`] returned; of a CRD's schema only.
    pub fn meant(&self, unknown: &str) -> Option<String> {
        hint::meant(&self.root, unknown)
    }

    /// Fills in the defaults of the schema. Idempotent.
    pub fn default(&self, object: &mut Value) {
        default::apply(&self.root, object);
    }

    /// Checks values and, given `old`, transition rules.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        Validation::custom().run(&self.root, object, old)
    }

    /// Checks only the JSON types, as Go's decoder does for built-in kinds: the first mismatch, in Go's words.
    pub(crate) fn check_types(&self, object: &Value) -> Option<String> {
        validate::decode_error(&self.root, object)
    }

    /// Checks the values of a built-in kind: what is required outside `status`.
    pub(crate) fn validate_builtin(&self, object: &Value) -> Vec<FieldError> {
        Validation::builtin().run(&self.root, object, None)
    }

    /// Removes `null` fields, as Go's decoder does for built-in kinds.
    pub(crate) fn drop_nulls(&self, object: &mut Value) {
        prune::drop_nulls(&self.root, object);
    }

    /// Removes `null` fields of metadata, which Go types decode in custom objects too.
    pub(crate) fn drop_null_metadata(&self, object: &mut Value) {
        if let (Some(node), Some(metadata)) = (
            self.root.properties.get("metadata"),
            object.get_mut("metadata"),
        ) {
            prune::drop_nulls(node, metadata);
        }
    }
}
