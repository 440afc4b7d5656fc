//! Filling in defaults.
//!
//! As in Kubernetes: a default fills an absent field of a present object, then defaults below it apply; a `null` where null is
//! not allowed counts as absent if there is a default.

use serde_json::Value;

use super::node::Node;

/// Applies the defaults of `node` to `value` in place.
pub(super) fn apply(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, schema) in &node.properties {
                let Some(default) = &schema.default else {
                    continue;
                };
                let absent = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !schema.nullable,
                    Some(_) => false,
                };
                if absent {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(schema) = node.field(name) {
                    apply(schema, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                items.iter_mut().for_each(|item| apply(schema, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::schema::Schema;

    #[track_caller]
    fn check(properties: Value, object: Value, want: Value) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
        let schema = Schema::from_crd(&schema, "schema").unwrap();
        let mut object = json!({"spec": object});
        schema.default(&mut object);
        assert_eq!(object, json!({"spec": want}));
        schema.default(&mut object);
        assert_eq!(
            object,
            json!({"spec": want}),
            "defaulting twice changes nothing"
        );
    }

    #[test]
    fn defaults_fill_what_is_absent() {
        let properties = json!({
            "n": {"type": "integer", "default": 3},
            "nullable": {"type": "string", "default": "x", "nullable": true},
            "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "boolean", "default": true}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        });
        check(
            properties.clone(),
            json!({}),
            json!({"n": 3, "nullable": "x", "nested": {"deep": true}}),
        );
        check(
            properties,
            json!({"n": null, "nullable": null, "nested": {"deep": false}, "list": [{}, {"p": "UDP"}]}),
            json!({"n": 3, "nullable": null, "nested": {"deep": false}, "list": [{"p": "TCP"}, {"p": "UDP"}]}),
        );
    }

    #[test]
    fn nothing_fills_below_an_absent_object() {
        let properties = json!({"o": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}});
        check(properties, json!({}), json!({}));
    }
}
