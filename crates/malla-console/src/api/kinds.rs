//! The kinds of configuration, with the schemas of their CRDs.

use axum::Json;
use malla_api::Kind;
use malla_api::crd::crd;
use serde_json::{Value, json};

pub(crate) async fn list() -> Json<Value> {
    Json(Kind::ALL.into_iter().map(described).collect())
}

fn described(kind: Kind) -> Value {
    let crd = crd(kind);
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema");
    json!({
        "kind": kind.name(), "plural": kind.plural(), "group": kind.group(), "version": kind.storage_version(),
        "namespaced": true, "schema": schema.cloned().unwrap_or_else(|| json!({})),
    })
}
