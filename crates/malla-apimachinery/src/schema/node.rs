//! The compiled schema node and how to descend from it.
//!
//! Invariant: `kind` is `None` exactly where any JSON value is allowed (also `int_or_string`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::cel::CelRule;
use super::values::Checks;

/// The JSON types of a structural schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl JsonType {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// Whether this value has this type. Integers may be written as `3.0`.
    pub(crate) fn admits(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => {
                value.is_i64()
                    || value.is_u64()
                    || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

/// The name of a JSON value's type in error messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `x-kubernetes-list-type`: what identifies an entry of a list for server-side apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Entries are scalars and identify themselves.
    Set,
    /// Entries are objects identified by these fields.
    Map(Vec<String>),
}

/// `x-kubernetes-patch-strategy` and `-merge-key`: how strategic merge patch treats a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PatchMerge {
    /// Scalars are united.
    Scalars,
    /// Entries with the same key are merged.
    ByKey(String),
}

/// What a map may hold beside its declared properties.
#[derive(Debug, Clone, Default)]
pub(crate) enum Additional {
    /// Nothing: unknown fields are pruned.
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of this shape.
    Schema(Arc<Node>),
}

/// One compiled schema node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// The Go type of a built-in definition, e.g. `DeploymentSpec`.
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<JsonType>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    /// A resource quantity: a string that may be written as a number.
    pub(crate) quantity: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Arc<Node>>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Arc<Node>>,
    pub(crate) list: ListType,
    pub(crate) atomic_map: bool,
    pub(crate) patch: Option<PatchMerge>,
    pub(crate) default: Option<Value>,
    pub(crate) checks: Checks,
    pub(crate) rules: Vec<CelRule>,
    /// Whether `rules` exist here or below: walks skip the rest.
    pub(crate) has_rules: bool,
}

impl Node {
    /// The node of a field, if the schema describes it.
    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Node>> {
        match (self.properties.get(name), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Schema(node)) => Some(node),
            (None, _) => None,
        }
    }

    /// Whether a field the schema does not describe may stay.
    pub(crate) fn keeps_unknown(&self) -> bool {
        self.preserve_unknown
            || matches!(self.additional, Additional::Any)
            || self.kind.is_none() && self.properties.is_empty()
    }

    /// Whether keys of objects here are the user's, not fields of a type.
    pub(crate) fn is_map(&self) -> bool {
        matches!(self.additional, Additional::Any | Additional::Schema(_))
    }
}

/// Appends a field to a path: `spec` + `replicas`.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}
