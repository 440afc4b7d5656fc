//! Walking an object beside its schema and collecting what is wrong.
//!
//! Order as in Kubernetes: types and values first; list keys and CEL rules only where those hold.

use serde_json::Value;

use super::node::{JsonType, ListType, Node, join, type_name};
use super::values::in_body;
use super::{cel, format};
use crate::error::FieldError;

/// Deepest nesting that is checked; JSON parsers stop at 128, so only hand-made values come near.
const MAX_DEPTH: usize = 200;

/// What a walk checks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validation {
    rules: bool,
    skip_status: bool,
    depth: usize,
}

impl Validation {
    /// Everything, as for custom resources.
    pub(super) fn custom() -> Self {
        Self {
            rules: true,
            skip_status: false,
            depth: 0,
        }
    }

    /// For built-in kinds: controllers may write any status.
    pub(super) fn builtin() -> Self {
        Self {
            rules: false,
            skip_status: true,
            depth: 0,
        }
    }

    /// Inside `allOf`, `anyOf`, `oneOf`, `not`.
    pub(super) fn junctor() -> Self {
        Self {
            rules: false,
            skip_status: false,
            depth: 0,
        }
    }

    /// Checks a whole object.
    pub(super) fn run(self, root: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check(root, object, old, "", &mut errors);
        if self.rules && root.has_rules {
            if errors.is_empty() {
                cel::run(root, object, old, &mut errors);
            } else {
                let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
                errors.push(FieldError::invalid("<nil>", Value::Null, detail));
            }
        }
        errors
    }

    /// Checks one value and all below it. What is as it was is not judged again (ratcheting).
    pub(super) fn check(
        mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        errors: &mut Vec<FieldError>,
    ) {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            errors.push(FieldError::invalid(path, "...", "nested too deeply"));
            return;
        }
        if value.is_null() && node.nullable || old == Some(value) {
            return;
        }
        if let Some(wanted) = type_mismatch(node, value) {
            let found = type_name(value);
            let detail = in_body(path, &format!("must be of type {wanted}: {found:?}"));
            errors.push(FieldError::wrong_type(path, found, detail));
            return;
        }
        node.checks.run(value, path, errors);
        match value {
            Value::Object(map) => {
                for (field, child) in map {
                    if self.skip_status && self.depth == 1 && field == "status" {
                        continue;
                    }
                    if let Some(schema) = node.field(field) {
                        let old = old.and_then(|old| old.get(field));
                        self.check(schema, child, old, &join(path, field), errors);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &node.items {
                    for (index, item) in items.iter().enumerate() {
                        let old = old.and_then(|old| correlate(&node.list, item, old));
                        self.check(schema, item, old, &format!("{path}[{index}]"), errors);
                    }
                }
                // Built-in lists may repeat keys (two env entries of one name); only some kinds' own rules forbid it.
                if self.rules {
                    check_list_keys(node, items, path, errors);
                }
            }
            _ => {}
        }
    }
}

/// The entry of the old list that this entry replaces, where entries have identities.
pub(super) fn correlate<'a>(list: &ListType, item: &Value, old: &'a Value) -> Option<&'a Value> {
    let ListType::Map(keys) = list else {
        return None;
    };
    old.as_array()?
        .iter()
        .find(|candidate| keys.iter().all(|key| candidate.get(key) == item.get(key)))
}

/// The wanted type, if the value has another.
fn type_mismatch(node: &Node, value: &Value) -> Option<&'static str> {
    if node.int_or_string || node.quantity {
        let fits = value.is_string()
            || if node.quantity {
                value.is_number()
            } else {
                JsonType::Integer.admits(value)
            };
        return (!fits).then_some("integer,string");
    }
    let kind = node.kind?;
    (!kind.admits(value)).then(|| kind.name())
}

/// Entries of set and map lists must be distinct, and map entries must carry their keys.
fn check_list_keys(node: &Node, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match &node.list {
            ListType::Atomic => return,
            ListType::Set => {
                if !seen.insert(item.to_string()) {
                    errors.push(FieldError::duplicate(&path, item.clone()));
                }
            }
            ListType::Map(keys) => {
                let identity: serde_json::Map<String, Value> = keys
                    .iter()
                    .filter_map(|key| {
                        let default = || {
                            node.items
                                .as_ref()
                                .and_then(|items| items.properties.get(key))
                                .and_then(|node| node.default.clone())
                        };
                        item.get(key)
                            .cloned()
                            .or_else(default)
                            .map(|value| (key.clone(), value))
                    })
                    .collect();
                let identity = Value::Object(identity);
                if !seen.insert(identity.to_string()) {
                    errors.push(FieldError::duplicate(&path, identity));
                }
            }
        }
    }
}

/// The first value Go's decoder would refuse, in its words:
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
pub(super) fn decode_error(root: &Node, object: &Value) -> Option<String> {
    let owner = root.name.as_deref().unwrap_or_default();
    decode_walk(root, object, owner, "", 0)
}

fn decode_walk(
    node: &Node,
    value: &Value,
    owner: &str,
    path: &str,
    depth: usize,
) -> Option<String> {
    if value.is_null() || depth > MAX_DEPTH {
        return None;
    }
    if type_mismatch(node, value).is_some() || integer_overflows(node, value) {
        let found = match value {
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if node.kind == Some(JsonType::Integer) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            other => type_name(other).to_owned(),
        };
        return Some(format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {}",
            go_type(node)
        ));
    }
    if node.checks.format == Some(format::Format::Byte)
        && let Some(text) = value.as_str()
        && !format::Format::Byte.admits_text(text)
    {
        return Some(format!(
            "illegal base64 data at input byte {}",
            first_non_base64(text)
        ));
    }
    if node.checks.format == Some(format::Format::DateTime)
        && let Some(text) = value.as_str()
        && !format::Format::DateTime.admits_text(text)
    {
        return Some(format!(
            "parsing time {:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"",
            text
        ));
    }
    match value {
        Value::Object(map) => {
            let owner = node.name.as_deref().unwrap_or(owner);
            map.iter().find_map(|(field, child)| {
                decode_walk(
                    node.field(field)?,
                    child,
                    owner,
                    &join(path, field),
                    depth + 1,
                )
            })
        }
        Value::Array(items) => {
            let schema = node.items.as_ref()?;
            items
                .iter()
                .find_map(|item| decode_walk(schema, item, owner, path, depth + 1))
        }
        _ => None,
    }
}

fn integer_overflows(node: &Node, value: &Value) -> bool {
    node.kind == Some(JsonType::Integer)
        && node
            .checks
            .format
            .is_some_and(|format| !format.admits_number(value))
}

fn first_non_base64(text: &str) -> usize {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    text.bytes()
        .position(|byte| !valid(byte))
        .unwrap_or(text.len() / 4 * 4)
}

fn go_type(node: &Node) -> String {
    if let Some(name) = &node.name {
        return format!("v1.{name}");
    }
    match node.kind {
        Some(JsonType::Object) => match node.field("*") {
            Some(value) => format!("map[string]{}", go_type(value)),
            None => "map[string]interface {}".to_owned(),
        },
        Some(JsonType::Array) => format!(
            "[]{}",
            node.items
                .as_deref()
                .map_or_else(|| "interface {}".to_owned(), go_type)
        ),
        Some(JsonType::String) => "string".to_owned(),
        Some(JsonType::Integer) if node.checks.format == Some(format::Format::Int64) => {
            "int64".to_owned()
        }
        Some(JsonType::Integer) => "int32".to_owned(),
        Some(JsonType::Number) => "float64".to_owned(),
        Some(JsonType::Boolean) => "bool".to_owned(),
        None => "interface {}".to_owned(),
    }
}

#[cfg(test)]
#[path = "validate/tests.rs"]
mod tests;
