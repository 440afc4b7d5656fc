//! From schema documents to nodes: CRD schemas, checked to be structural, and the definitions of built-in kinds.
//!
//! The structural rules are those of `k8s.io/apiextensions-apiserver/pkg/apiserver/schema`: every place an object can reach has a
//! type, and value validations never change the shape.

mod custom;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::format::{Format, compile_pattern};
use super::node::{Additional, JsonType, ListType, Node, PatchMerge};
use super::values::Checks;
use crate::error::FieldError;

pub(crate) use custom::custom;

/// Definitions that hold arbitrary JSON, or themselves.
const OPAQUE: &[&str] = &[
    "JSONSchemaProps",
    "JSON",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "RawExtension",
    "FieldsV1",
    "Patch",
];

/// Compiles definitions that refer to each other by `$ref`, each once.
#[derive(Debug)]
pub(crate) struct Definitions<'a> {
    schemas: &'a Map<String, Value>,
    compiled: HashMap<String, Arc<Node>>,
    open: HashSet<String>,
}

impl<'a> Definitions<'a> {
    /// `schemas` maps names such as `io.k8s.api.core.v1.Pod` to their schemas.
    pub(crate) fn new(schemas: &'a Map<String, Value>) -> Self {
        Self {
            schemas,
            compiled: HashMap::new(),
            open: HashSet::new(),
        }
    }

    /// The node of a definition. Unknown and recursive ones preserve whatever they are given.
    pub(crate) fn get(&mut self, name: &str) -> Arc<Node> {
        if let Some(node) = self.compiled.get(name) {
            return Arc::clone(node);
        }
        let short = name.rsplit('.').next().unwrap_or(name);
        let node = match self.schemas.get(name) {
            Some(schema) if !OPAQUE.contains(&short) && self.open.insert(name.to_owned()) => {
                let mut node = self.node(schema);
                node.quantity = short == "Quantity";
                // Structs without a shape of their own (`type: string` and the like) keep the plain Go name of the type.
                node.name = (node.kind == Some(JsonType::Object)).then(|| short.to_owned());
                node
            }
            _ => Node {
                preserve_unknown: true,
                ..Node::default()
            },
        };
        let node = Arc::new(node);
        self.compiled.insert(name.to_owned(), Arc::clone(&node));
        node
    }

    fn node(&mut self, schema: &Value) -> Node {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let target = self.get(reference.rsplit('/').next().unwrap_or(reference));
            let mut node = copy_shape(&target);
            read_extensions(schema, &mut node);
            return node;
        }
        if let Some(inner) = schema
            .get("allOf")
            .and_then(Value::as_array)
            .filter(|all| all.len() == 1)
            .and_then(|all| all.first())
        {
            let mut node = self.node(inner);
            read_extensions(schema, &mut node);
            return node;
        }
        let mut node = Node {
            kind: schema
                .get("type")
                .and_then(Value::as_str)
                .and_then(JsonType::parse),
            ..Node::default()
        };
        read_extensions(schema, &mut node);
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let child = self.child(property);
            node.properties.insert(name.clone(), child);
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => node.additional = Additional::Any,
            Some(values) if values.is_object() => {
                node.additional = Additional::Schema(self.child(values))
            }
            _ => {}
        }
        node.items = schema.get("items").map(|items| self.child(items));
        let mut ignored = Vec::new();
        read_checks(schema, "", &mut node.checks, &mut ignored);
        let shapeless = node.properties.is_empty() && matches!(node.additional, Additional::None);
        node.preserve_unknown |= node.kind == Some(JsonType::Object) && shapeless;
        node
    }

    /// Shares the compiled node where the reference adds nothing to it.
    fn child(&mut self, schema: &Value) -> Arc<Node> {
        let adds = |key: &String| {
            key.starts_with("x-kubernetes-") || key == "default" || key == "nullable"
        };
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) if !schema.as_object().is_some_and(|map| map.keys().any(adds)) => {
                self.get(reference.rsplit('/').next().unwrap_or(reference))
            }
            _ => Arc::new(self.node(schema)),
        }
    }
}

/// A node with the same shape, to which a reference may add its own extensions. Built-in nodes have no rules or junctors.
pub(crate) fn copy_shape(node: &Node) -> Node {
    Node {
        name: node.name.clone(),
        kind: node.kind,
        nullable: node.nullable,
        int_or_string: node.int_or_string,
        quantity: node.quantity,
        preserve_unknown: node.preserve_unknown,
        embedded: node.embedded,
        properties: node.properties.clone(),
        additional: node.additional.clone(),
        items: node.items.clone(),
        list: node.list.clone(),
        atomic_map: node.atomic_map,
        patch: node.patch.clone(),
        default: node.default.clone(),
        checks: Checks {
            required: node.checks.required.clone(),
            format: node.checks.format,
            ..Checks::default()
        },
        ..Node::default()
    }
}

/// Reads what both dialects share: `nullable`, `default` and the `x-kubernetes-*` extensions.
fn read_extensions(schema: &Value, node: &mut Node) {
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let word = |name: &str| schema.get(name).and_then(Value::as_str);
    node.nullable |= flag("nullable");
    node.int_or_string |= flag("x-kubernetes-int-or-string");
    node.preserve_unknown |= flag("x-kubernetes-preserve-unknown-fields");
    node.embedded |= flag("x-kubernetes-embedded-resource");
    node.atomic_map |= word("x-kubernetes-map-type") == Some("atomic");
    if let Some(default) = schema.get("default") {
        node.default = Some(default.clone());
    }
    match word("x-kubernetes-list-type") {
        Some("set") => node.list = ListType::Set,
        Some("map") => {
            let keys = schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            node.list = ListType::Map(keys.filter_map(Value::as_str).map(str::to_owned).collect());
        }
        _ => {}
    }
    if word("x-kubernetes-patch-strategy")
        .is_some_and(|strategy| strategy.split(',').any(|part| part == "merge"))
    {
        node.patch = Some(match word("x-kubernetes-patch-merge-key") {
            Some(key) => PatchMerge::ByKey(key.to_owned()),
            None => PatchMerge::Scalars,
        });
    }
}

/// Reads the value validations; malformed ones are errors at `path`.
fn read_checks(schema: &Value, path: &str, checks: &mut Checks, errors: &mut Vec<FieldError>) {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let mut count = |name: &str| {
        let value = schema.get(name)?;
        if value.as_u64().is_none() {
            errors.push(FieldError::invalid(
                &format!("{path}.{name}"),
                value.clone(),
                "must be a non-negative integer",
            ));
        }
        value.as_u64()
    };
    checks.min_length = count("minLength");
    checks.max_length = count("maxLength");
    checks.min_items = count("minItems");
    checks.max_items = count("maxItems");
    checks.min_properties = count("minProperties");
    checks.max_properties = count("maxProperties");
    checks.choices = schema
        .get("enum")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    checks.minimum = number("minimum").map(|bound| (bound, flag("exclusiveMinimum")));
    checks.maximum = number("maximum").map(|bound| (bound, flag("exclusiveMaximum")));
    checks.multiple_of = number("multipleOf").filter(|factor| *factor > 0.0);
    checks.unique_items = flag("uniqueItems");
    checks.format = schema
        .get("format")
        .and_then(Value::as_str)
        .and_then(Format::parse);
    let required = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    checks.required = required
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        match compile_pattern(pattern) {
            Ok(compiled) => checks.pattern = Some((pattern.to_owned(), compiled)),
            Err(problem) => errors.push(FieldError::invalid(
                &format!("{path}.pattern"),
                pattern,
                format!("must be a valid regular expression, but isn't: {problem}"),
            )),
        }
    }
}
