//! What filters note about one request for those after them: dynamic metadata and filter state.
//!
//! Made at the first note: a request that nobody notes anything about has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::metadata::{Metadata, Object, Value};

/// Notes about one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamState {
    /// Dynamic metadata by namespace.
    pub metadata: Metadata,
    /// Filter state by key, as text.
    pub objects: BTreeMap<Arc<str>, Arc<str>>,
}

impl StreamState {
    /// Adds a tree to a namespace, as Envoy's `setDynamicMetadata` does: a key that is there is replaced.
    pub fn merge(&mut self, namespace: &str, tree: Object) {
        let held = self.metadata.0.entry(namespace.to_owned()).or_default();
        held.extend(tree);
    }

    /// Sets one text in a namespace.
    pub fn set(&mut self, namespace: &str, key: &str, value: impl Into<String>) {
        let held = self.metadata.0.entry(namespace.to_owned()).or_default();
        held.insert(key.to_owned(), Value::String(value.into()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::StreamState;
    use crate::metadata::{Object, Value};

    fn object(json: serde_json::Value) -> Object {
        match Value::from_json(json) {
            Value::Object(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_that_is_there_is_replaced() {
        let mut state = StreamState::default();
        state.merge("a", object(json!({"x": {"one": 1}, "l": [1], "t": "old"})));
        state.merge("a", object(json!({"x": {"two": 2}})));
        let merged = Value::Object(state.metadata.get("a").unwrap().clone()).into_json();
        assert_eq!(merged, json!({"x": {"two": 2}, "l": [1], "t": "old"}));
    }
}
