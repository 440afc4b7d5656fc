//! OpenAPI v3 and v2 documents for `kubectl explain` and for clients that ask whether the server validates fields.
//!
//! Names, extensions and the layout of paths are kube-apiserver's: `kubectl explain` finds a kind by its path, and `kubectl
//! apply` sends `fieldValidation` only where the `patch` operation of the kind declares it.

mod paths;
mod schemas;

use serde_json::{Map, Value, json};

use crate::kind::ResourceKind;
use schemas::Components;

/// The version the documents carry; the one of the Kubernetes API this follows.
const API_VERSION: &str = "v1.36.0";

/// The body of `/openapi/v3/api/v1` or `/openapi/v3/apis/{group}/{version}` for the kinds of that group-version.
pub fn v3(kinds: &[&ResourceKind]) -> Value {
    let (paths, components) = document(kinds);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": API_VERSION},
        "paths": paths,
        "components": {"schemas": components},
    })
}

/// The body of `/openapi/v2` (JSON) for all kinds.
pub fn v2(kinds: &[&ResourceKind]) -> Value {
    let (paths, components) = document(kinds);
    let paths: Map<String, Value> = paths
        .into_iter()
        .map(|(path, item)| (path, paths::to_v2(item)))
        .collect();
    let definitions: Map<String, Value> = components
        .into_iter()
        .map(|(name, schema)| (name, schemas::to_v2(schema)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": API_VERSION},
        "paths": paths,
        "definitions": definitions,
    })
}

/// The body of `/openapi/v3`: paths to documents, with content hashes. `documents` are (`api/v1`, hash) pairs.
pub fn v3_index(documents: &[(String, String)]) -> Value {
    let entry = |(path, hash): &(String, String)| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path.clone(), json!({"serverRelativeURL": url}))
    };
    json!({"paths": documents.iter().map(entry).collect::<Map<String, Value>>()})
}

fn document(kinds: &[&ResourceKind]) -> (Map<String, Value>, Map<String, Value>) {
    let mut components = Components::default();
    let mut paths = Map::new();
    for kind in kinds {
        let name = components.add_kind(kind);
        paths.extend(paths::of(kind, &name));
    }
    (paths, components.finish())
}

#[cfg(test)]
#[path = "openapi/tests.rs"]
mod tests;
