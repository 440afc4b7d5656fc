//! OpenAPI v3 and v2 documents for `kubectl explain` and client-side checks.
use serde_json::Value;

use crate::kind::ResourceKind;

/// The body of `/openapi/v3/api/v1` or `/openapi/v3/apis/{group}/{version}` for the kinds of that group-version.
pub fn v3(kinds: &[&ResourceKind]) -> Value {
    let _ = kinds;
    unimplemented!()
}

/// The body of `/openapi/v2` (JSON) for all kinds.
pub fn v2(kinds: &[&ResourceKind]) -> Value {
    let _ = kinds;
    unimplemented!()
}

/// The body of `/openapi/v3`: paths to documents, with content hashes. `documents` are (`api/v1`, hash) pairs.
pub fn v3_index(documents: &[(String, String)]) -> Value {
    let _ = documents;
    unimplemented!()
}
