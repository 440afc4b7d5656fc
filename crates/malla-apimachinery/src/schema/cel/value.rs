//! From JSON to CEL values, guided by the schema: formats become timestamps, durations and bytes, field names are escaped.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Program, Value as CelValue};
use serde_json::Value;

use crate::schema::format::Format;
use crate::schema::node::{JsonType, Node};

/// Words of CEL's grammar that cannot be field names as they are.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Programs that parse formatted strings, so that their syntax is CEL's own.
#[derive(Debug)]
pub(super) struct Formats {
    timestamp: Option<Program>,
    duration: Option<Program>,
}

impl Formats {
    pub(super) fn new() -> Self {
        Self {
            timestamp: Program::compile("timestamp(text)").ok(),
            duration: Program::compile("duration(text)").ok(),
        }
    }

    fn parse(&self, format: Format, text: &str) -> Option<CelValue> {
        let program = match format {
            Format::Byte => {
                return STANDARD
                    .decode(text)
                    .ok()
                    .map(|bytes| CelValue::Bytes(Arc::new(bytes)));
            }
            Format::DateTime => self.timestamp.as_ref()?,
            Format::Duration => self.duration.as_ref()?,
            _ => return None,
        };
        let mut context = Context::default();
        context.add_variable_from_value("text", text.to_owned());
        program.execute(&context).ok()
    }
}

/// Converts a value of this shape.
pub(super) fn to_cel(node: &Node, value: &Value, formats: &Formats) -> CelValue {
    match value {
        Value::Object(map) => {
            let mut fields: HashMap<Key, CelValue> = HashMap::with_capacity(map.len());
            for (name, child) in map {
                let key = if node.is_map() && !node.properties.contains_key(name) {
                    name.clone()
                } else {
                    escape(name)
                };
                let child = match node.field(name) {
                    Some(schema) => to_cel(schema, child, formats),
                    None => to_cel(&Node::default(), child, formats),
                };
                fields.insert(Key::String(Arc::new(key)), child);
            }
            CelValue::Map(Map {
                map: Arc::new(fields),
            })
        }
        Value::Array(items) => {
            let anything = Node::default();
            let schema = node.items.as_deref().unwrap_or(&anything);
            CelValue::List(Arc::new(
                items
                    .iter()
                    .map(|item| to_cel(schema, item, formats))
                    .collect(),
            ))
        }
        Value::String(text) => {
            let parsed = node
                .checks
                .format
                .and_then(|format| formats.parse(format, text));
            parsed.unwrap_or_else(|| CelValue::String(Arc::new(text.clone())))
        }
        Value::Number(number) if node.kind != Some(JsonType::Number) => {
            match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => CelValue::Int(whole),
                (None, Some(whole)) => CelValue::UInt(whole),
                (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
            }
        }
        Value::Number(number) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Null => CelValue::Null,
    }
}

/// Kubernetes' escaping of field names that are no CEL identifiers.
fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
