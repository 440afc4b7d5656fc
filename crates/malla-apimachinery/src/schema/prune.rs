//! Dropping fields the schema does not know.

use serde_json::Value;

use super::node::{Additional, JsonType, Node, join};

/// Drops unknown fields in place and returns their paths in document order.
pub(super) fn prune(node: &Node, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    walk(node, object, "", &mut unknown);
    unknown
}

fn walk(node: &Node, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keeps = node.keeps_unknown();
            map.retain(|field, child| {
                match node.field(field) {
                    Some(schema) => walk(schema, child, &join(path, field), unknown),
                    None if keeps => {}
                    None => {
                        unknown.push(join(path, field));
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            // `additionalProperties` never describes list entries; a list without `items` is pruned by nothing.
            let Some(schema) = &node.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                walk(schema, item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Removes `null` fields of built-in kinds: Go decodes them as absent, and those of maps of texts as empty ones (its own
/// clients send so what is not there of a Secret's data).
pub(super) fn drop_nulls(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|field, child| {
                let Some(schema) = node.field(field) else {
                    return true;
                };
                drop_nulls(schema, child);
                let is_entry = matches!(&node.additional, Additional::Schema(_))
                    && !node.properties.contains_key(field);
                if is_entry && child.is_null() && schema.kind == Some(JsonType::String) {
                    *child = Value::String(String::new());
                }
                is_entry || !child.is_null()
            });
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                items.iter_mut().for_each(|item| drop_nulls(schema, item));
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
    fn check(schema: Value, object: Value, want: Value, unknown: &[&str]) {
        let schema = Schema::from_crd(
            &json!({"type": "object", "properties": {"spec": schema}}),
            "schema",
        )
        .unwrap();
        let mut object = json!({"spec": object});
        assert_eq!(schema.prune(&mut object), unknown);
        assert_eq!(object, json!({"spec": want}));
    }

    #[test]
    fn unknown_fields_go_known_ones_stay() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {"type": "string"}}}},
        }});
        check(
            schema,
            json!({"a": "x", "z": 1, "list": [{"b": 1, "y": 2}], "map": {"k": {"c": "", "d": ""}}}),
            json!({"a": "x", "list": [{"b": 1}], "map": {"k": {"c": ""}}}),
            &["spec.z", "spec.list[0].y", "spec.map.k.d"],
        );
    }

    #[test]
    fn preserved_objects_keep_everything_but_prune_below_known_fields() {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "strict": {"type": "object", "properties": {"a": {"type": "string"}}}}});
        check(
            schema,
            json!({"any": {"thing": 1}, "strict": {"b": 1}}),
            json!({"any": {"thing": 1}, "strict": {}}),
            &["spec.strict.b"],
        );
    }

    #[test]
    fn metadata_is_pruned_as_object_meta() {
        let schema =
            Schema::from_crd(&json!({"type": "object", "properties": {}}), "schema").unwrap();
        let mut object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a", "lables": {}}, "extra": 1});
        assert_eq!(schema.prune(&mut object), ["metadata.lables", "extra"]);
    }
}
