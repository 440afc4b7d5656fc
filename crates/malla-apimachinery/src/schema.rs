//! Structural schemas: prune, default, validate.
use serde_json::Value;

use crate::error::FieldError;

/// A compiled schema; cheap to clone.
#[derive(Debug, Clone)]
pub struct Schema {}

impl Schema {
    /// Compiles the `openAPIV3Schema` of one CRD version. Errors are relative to `path`, e.g.
    /// `spec.versions[0].schema.openAPIV3Schema`.
    pub fn from_crd(schema: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let _ = (schema, path);
        unimplemented!()
    }
    /// Drops unknown fields and returns their paths.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let _ = object;
        unimplemented!()
    }
    /// Fills in defaults. Idempotent.
    pub fn default(&self, object: &mut Value) {
        let _ = object;
        unimplemented!()
    }
    /// Checks values and, given `old`, transition rules.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let _ = (object, old);
        unimplemented!()
    }
}
