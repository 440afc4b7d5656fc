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
    /// From JSON; what is nested too deeply is cut off.
    pub fn from_json(json: serde_json::Value) -> Self {
        from_json(json, MAX_DEPTH)
    }

    /// The same as JSON.
    pub fn into_json(self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(item) => item.into(),
            Self::Number(item) if item.fract() == 0.0 && item.abs() < 9.2e18 => {
                serde_json::Value::from(item as i64)
            }
            Self::Number(item) if item.fract() == 0.0 && (0.0..1.8e19).contains(&item) => {
                serde_json::Value::from(item as u64)
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

fn from_json(json: serde_json::Value, depth: usize) -> Value {
    use serde_json::Value as Json;
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    match json {
        Json::Null => Value::Null,
        Json::Bool(item) => Value::Bool(item),
        Json::Number(item) => item.as_f64().map_or(Value::Null, Value::Number),
        Json::String(item) => Value::String(item),
        Json::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| from_json(item, depth))
                .collect(),
        ),
        Json::Object(items) => Value::Object(
            items
                .into_iter()
                .map(|(key, item)| (key, from_json(item, depth)))
                .collect(),
        ),
    }
}

/// A protobuf struct from outside, as a tree.
pub fn from_struct(wire: google::Struct) -> Object {
    parse_struct(wire)
}

/// A tree as a protobuf struct.
pub fn to_struct(object: &Object) -> google::Struct {
    google::Struct {
        fields: object
            .iter()
            .map(|(key, item)| (key.clone(), to_value(item)))
            .collect(),
    }
}

fn to_value(value: &Value) -> google::Value {
    use google::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(item) => Kind::BoolValue(*item),
        Value::Number(item) => Kind::NumberValue(*item),
        Value::String(item) => Kind::StringValue(item.clone()),
        Value::List(items) => Kind::ListValue(google::ListValue {
            values: items.iter().map(to_value).collect(),
        }),
        Value::Object(items) => Kind::StructValue(to_struct(items)),
    };
    google::Value { kind: Some(kind) }
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

    /// Whether all of `other` is in here, value for value.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(namespace, tree)| {
            let own = self.0.get(namespace);
            tree.iter()
                .all(|(key, want)| own.and_then(|own| own.get(key)) == Some(want))
        })
    }

    /// Adds what `below` has and this has not, key by key.
    pub(crate) fn merge_over(&mut self, below: &Self) {
        for (namespace, tree) in &below.0 {
            let own = self.0.entry(namespace.clone()).or_default();
            for (key, value) in tree {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
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
