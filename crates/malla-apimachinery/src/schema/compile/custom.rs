//! Compiling and checking the schema of one CRD version.

mod junctor;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{read_checks, read_extensions};
use crate::builtin::definitions::object_meta;
use crate::error::FieldError;
use crate::schema::cel;
use crate::schema::node::{Additional, JsonType, ListType, Node};
use crate::schema::{default, prune, validate::Validation};
use junctor::junctors;

/// Deepest schema: objects come from JSON parsers that stop at 128.
const MAX_DEPTH: usize = 120;

/// All keywords of `apiextensions.k8s.io/v1` JSONSchemaProps that a structural schema may use.
const KEYWORDS: &[&str] = &[
    "additionalProperties",
    "allOf",
    "anyOf",
    "default",
    "description",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "id",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "nullable",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "uniqueItems",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// Keywords JSONSchemaProps has but kube-apiserver refuses.
const UNSUPPORTED: &[&str] = &[
    "$ref",
    "$schema",
    "additionalItems",
    "definitions",
    "dependencies",
    "patternProperties",
];

/// Compiles the root schema of a CRD version.
pub(crate) fn custom(schema: &Value, path: &str) -> Result<Node, Vec<FieldError>> {
    let mut compiler = Compiler { errors: Vec::new() };
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        let found = schema.get("type").cloned().unwrap_or_else(|| "".into());
        return Err(vec![FieldError::invalid(
            &format!("{path}.type"),
            found,
            "must be object at the root",
        )]);
    }
    let mut root = compiler.structural(
        schema,
        path,
        Place {
            correlatable: true,
            depth: 0,
            what: "object root",
        },
    );
    add_type_meta(&mut root);
    if compiler.errors.is_empty() {
        compiler.check_defaults(&root, path);
    }
    if compiler.errors.is_empty() {
        Ok(root)
    } else {
        Err(compiler.errors)
    }
}

/// Gives an object its `apiVersion`, `kind` and `metadata`, keeping what the schema says about the values in it.
fn add_type_meta(node: &mut Node) {
    for field in ["apiVersion", "kind"] {
        let text = || {
            Arc::new(Node {
                kind: Some(JsonType::String),
                ..Node::default()
            })
        };
        node.properties.entry(field.to_owned()).or_insert_with(text);
    }
    let stated = node.properties.remove("metadata");
    let mut metadata = object_meta();
    if let Some(stated) = stated.and_then(|stated| Arc::try_unwrap(stated).ok()) {
        metadata.rules = stated.rules;
        metadata.has_rules = stated.has_rules;
        // What the CRD demands of metadata (e.g. a name pattern) are value checks on the same fields.
        metadata.checks.all_of.push(Node {
            properties: stated.properties,
            checks: stated.checks,
            preserve_unknown: true,
            ..Node::default()
        });
    }
    node.properties
        .insert("metadata".to_owned(), Arc::new(metadata));
}

#[derive(Clone, Copy)]
struct Place {
    correlatable: bool,
    depth: usize,
    what: &'static str,
}

struct Compiler {
    errors: Vec<FieldError>,
}

impl Compiler {
    fn structural(&mut self, schema: &Value, path: &str, place: Place) -> Node {
        let mut node = Node::default();
        let Some(map) = schema.as_object() else {
            self.errors.push(FieldError::invalid(
                path,
                schema.clone(),
                "must be a schema object",
            ));
            return node;
        };
        if place.depth > MAX_DEPTH {
            self.errors.push(FieldError::invalid(
                path,
                "...",
                "schema is nested too deeply",
            ));
            return node;
        }
        self.check_keywords(map, path);
        read_extensions(schema, &mut node);
        self.read_type(map, path, place.what, &mut node);
        read_checks(schema, path, &mut node.checks, &mut self.errors);
        self.read_children(map, path, place, &mut node);
        self.check_list(map, path, &node);
        for (field, junctor) in junctors(map, path) {
            self.junctor(junctor, &field, &node, place.depth + 1);
        }
        self.read_junctors(map, path, &mut node);
        if let Some(rules) = map.get("x-kubernetes-validations") {
            let path = format!("{path}.x-kubernetes-validations");
            node.rules = cel::compile(rules, &path, place.correlatable, &mut self.errors);
        }
        if node.embedded {
            add_type_meta(&mut node);
        }
        node.has_rules = !node.rules.is_empty()
            || node.properties.values().any(|child| child.has_rules)
            || node.items.as_ref().is_some_and(|items| items.has_rules)
            || matches!(&node.additional, Additional::Schema(values) if values.has_rules);
        node
    }

    fn check_keywords(&mut self, map: &Map<String, Value>, path: &str) {
        for (keyword, value) in map {
            let at = format!("{path}.{keyword}");
            if UNSUPPORTED.contains(&keyword.as_str()) {
                self.errors.push(FieldError::forbidden(
                    &at,
                    format!("{keyword} is not supported"),
                ));
            } else if !KEYWORDS.contains(&keyword.as_str()) {
                self.errors.push(FieldError::invalid(
                    &at,
                    value.clone(),
                    "unknown schema keyword",
                ));
            }
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) {
            let detail =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.errors.push(FieldError::forbidden(
                &format!("{path}.uniqueItems"),
                detail,
            ));
        }
    }

    fn read_type(&mut self, map: &Map<String, Value>, path: &str, what: &str, node: &mut Node) {
        let word = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let at = format!("{path}.type");
        node.kind = JsonType::parse(word);
        if node.kind.is_none() && !word.is_empty() {
            let supported = ["array", "boolean", "integer", "number", "object", "string"];
            self.errors
                .push(FieldError::not_supported(&at, word, &supported));
        } else if node.int_or_string && node.kind.is_some() {
            self.errors.push(FieldError::invalid(
                &at,
                word,
                "must be empty if x-kubernetes-int-or-string is true",
            ));
        } else if word.is_empty() && !node.int_or_string && !node.preserve_unknown {
            self.errors.push(FieldError::required(
                &at,
                format!("must not be empty for specified {what}"),
            ));
        }
    }

    fn read_children(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
        place: Place,
        node: &mut Node,
    ) {
        let depth = place.depth + 1;
        let properties = map.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let place = Place {
                correlatable: place.correlatable && !node.atomic_map,
                depth,
                what: "object fields",
            };
            let child = self.structural(property, &format!("{path}.properties[{name}]"), place);
            node.properties.insert(name.clone(), Arc::new(child));
        }
        match map.get("additionalProperties") {
            None => {}
            Some(_) if properties.is_some_and(|properties| !properties.is_empty()) => {
                let detail = "additionalProperties and properties are mutual exclusive";
                self.errors.push(FieldError::forbidden(
                    &format!("{path}.additionalProperties"),
                    detail,
                ));
            }
            Some(Value::Bool(true)) => node.additional = Additional::Any,
            Some(Value::Bool(false)) => {
                let detail = "additionalProperties cannot be set to false";
                self.errors.push(FieldError::forbidden(
                    &format!("{path}.additionalProperties"),
                    detail,
                ));
            }
            Some(values) => {
                let place = Place {
                    correlatable: place.correlatable && !node.atomic_map,
                    depth,
                    what: "object fields",
                };
                let child = self.structural(values, &format!("{path}.additionalProperties"), place);
                node.additional = Additional::Schema(Arc::new(child));
            }
        }
        match map.get("items") {
            Some(items) => {
                let correlatable = place.correlatable && matches!(node.list, ListType::Map(_));
                let child = self.structural(
                    items,
                    &format!("{path}.items"),
                    Place {
                        correlatable,
                        depth,
                        what: "array items",
                    },
                );
                node.items = Some(Arc::new(child));
            }
            None if node.kind == Some(JsonType::Array) => {
                self.errors.push(FieldError::required(
                    &format!("{path}.items"),
                    "must be specified",
                ));
            }
            None => {}
        }
    }

    fn check_list(&mut self, map: &Map<String, Value>, path: &str, node: &Node) {
        let word = |name: &str| map.get(name).and_then(Value::as_str);
        if let Some(list) = word("x-kubernetes-list-type")
            && !matches!(list, "atomic" | "set" | "map")
        {
            let at = format!("{path}.x-kubernetes-list-type");
            self.errors.push(FieldError::not_supported(
                &at,
                list,
                &["atomic", "map", "set"],
            ));
        }
        if let Some(kind) = word("x-kubernetes-map-type")
            && !matches!(kind, "atomic" | "granular")
        {
            let at = format!("{path}.x-kubernetes-map-type");
            self.errors.push(FieldError::not_supported(
                &at,
                kind,
                &["atomic", "granular"],
            ));
        }
        let ListType::Map(keys) = &node.list else {
            return;
        };
        let at = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.errors.push(FieldError::required(
                &at,
                "must not be empty if x-kubernetes-list-type is map",
            ));
        }
        let items = node.items.as_deref();
        for (index, key) in keys.iter().enumerate() {
            let at = format!("{at}[{index}]");
            match items.and_then(|items| items.properties.get(key)) {
                None => self.errors.push(FieldError::invalid(
                    &at,
                    key.as_str(),
                    "entries must all be names of item properties",
                )),
                Some(property)
                    if matches!(property.kind, Some(JsonType::Object | JsonType::Array)) =>
                {
                    self.errors.push(FieldError::invalid(
                        &at,
                        key.as_str(),
                        "entries must all be scalar types",
                    ));
                }
                Some(property) => {
                    let required = items.is_some_and(|items| items.checks.required.contains(key));
                    if !required && property.default.is_none() {
                        let at = format!("{path}.items.properties[{key}].default");
                        let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                        self.errors.push(FieldError::required(&at, detail));
                    }
                }
            }
        }
    }

    /// Every default must be a valid, fully specified value of its own schema.
    fn check_defaults(&mut self, node: &Node, path: &str) {
        if let Some(default) = &node.default {
            let at = format!("{path}.default");
            let mut pruned = default.clone();
            for unknown in prune::prune(node, &mut pruned) {
                let detail = format!("must not have unknown fields, found {unknown:?}");
                self.errors
                    .push(FieldError::invalid(&at, default.clone(), detail));
            }
            default::apply(node, &mut pruned);
            for problem in Validation::junctor().run(node, &pruned, None) {
                self.errors.push(FieldError::invalid(
                    &at,
                    default.clone(),
                    format!("must be a valid default: {problem}"),
                ));
            }
        }
        for (name, child) in &node.properties {
            self.check_defaults(child, &format!("{path}.properties[{name}]"));
        }
        if let Some(items) = &node.items {
            self.check_defaults(items, &format!("{path}.items"));
        }
        if let Additional::Schema(values) = &node.additional {
            self.check_defaults(values, &format!("{path}.additionalProperties"));
        }
    }
}
