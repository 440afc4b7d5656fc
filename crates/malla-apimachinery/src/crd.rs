//! CustomResourceDefinitions: from the object to the kinds it serves.
use jiff::Timestamp;
use serde_json::Value;

use crate::error::FieldError;
use crate::kind::ResourceKind;

/// The kinds a CRD declares, one per version (served or not), after checking all of it: names, versions, schemas, CEL rules,
/// columns. Errors are for a 422.
pub fn kinds(crd: &Value) -> Result<Vec<ResourceKind>, Vec<FieldError>> {
    let _ = crd;
    unimplemented!()
}

/// Fills `status` of an accepted CRD: conditions NamesAccepted and Established, acceptedNames, storedVersions.
pub fn establish(crd: &mut Value, now: Timestamp) {
    let _ = (crd, now);
    unimplemented!()
}

/// Converts a custom object between versions of its kind (strategy `None`: only `apiVersion` changes).
pub fn convert(object: &mut Value, to: &ResourceKind) {
    object["apiVersion"] = to.api_version().into();
}
