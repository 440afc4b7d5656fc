//! Envoy metadata: named JSON-like trees on clusters, endpoints, routes and listeners.

use std::collections::BTreeMap;

use crate::checked::Cx;
use crate::pb::{core, google};

/// `envoy.config.core.v3.Metadata.filter_metadata`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Object>);

/// A JSON-like object.
pub type Object = BTreeMap<String, Value>;

/// One node of a metadata tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// JSON null.
    Null,
    /// JSON true or false.
    Bool(bool),
    /// JSON number.
    Number(f64),
    /// JSON string.
    String(String),
    /// JSON array.
    List(Vec<Value>),
    /// JSON object.
    Object(Object),
}

/// Metadata deeper than this is cut off; nothing the mesh writes comes near.
const MAX_DEPTH: usize = 32;

impl Value {
    /// The same as JSON.
    pub fn into_json(self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(item) => item.into(),
            Self::Number(item) if item.fract() == 0.0 && item.abs() < 9e15 => {
                serde_json::Value::from(item as i64)
            }
            Self::Number(item) => item.into(),
            Self::String(item) => item.into(),
            Self::List(items) => items
                .into_iter()
                .map(Self::into_json)
                .collect::<Vec<_>>()
                .into(),
            Self::Object(items) => items
                .into_iter()
                .map(|(key, item)| (key, item.into_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

impl Metadata {
    pub(crate) fn parse(wire: Option<core::Metadata>, field: &str, cx: &mut Cx) -> Self {
        let Some(core::Metadata {
            filter_metadata,
            typed_filter_metadata,
        }) = wire
        else {
            return Self::default();
        };
        cx.field(field, |cx| {
            cx.ignorable("typed_filter_metadata", &typed_filter_metadata)
        });
        Self(
            filter_metadata
                .into_iter()
                .map(|(name, tree)| (name, object(tree, MAX_DEPTH)))
                .collect(),
        )
    }

    /// The tree of one namespace such as `istio` or `envoy.transport_socket_match`.
    pub fn get(&self, namespace: &str) -> Option<&Object> {
        self.0.get(namespace)
    }

    /// The value at a path of keys below a namespace.
    pub fn at(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let start = self.get(namespace)?.get(first)?;
        rest.iter().try_fold(start, |value, key| match value {
            Value::Object(object) => object.get(key),
            _ => None,
        })
    }
}

pub(crate) fn parse_struct(wire: google::Struct) -> Object {
    object(wire, MAX_DEPTH)
}

fn object(wire: google::Struct, depth: usize) -> Object {
    wire.fields
        .into_iter()
        .map(|(key, item)| (key, value(item, depth)))
        .collect()
}

fn value(wire: google::Value, depth: usize) -> Value {
    use google::value::Kind;
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    match wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(item)) => Value::Bool(item),
        Some(Kind::NumberValue(item)) => Value::Number(item),
        Some(Kind::StringValue(item)) => Value::String(item),
        Some(Kind::ListValue(list)) => Value::List(
            list.values
                .into_iter()
                .map(|item| value(item, depth))
                .collect(),
        ),
        Some(Kind::StructValue(tree)) => Value::Object(object(tree, depth)),
    }
}
