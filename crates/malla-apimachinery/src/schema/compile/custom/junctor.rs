//! `allOf`, `anyOf`, `oneOf` and `not`: they validate values and never change the shape.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Compiler, MAX_DEPTH};
use crate::error::FieldError;
use crate::schema::compile::read_checks;
use crate::schema::node::{JsonType, Node};

/// Keywords that change the shape and so may not stand inside `allOf`, `anyOf`, `oneOf` and `not`.
const SHAPE_ONLY: &[&str] = &[
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

impl Compiler {
    /// Checks that a junctor branch only validates values the structural part declares.
    pub(super) fn junctor(&mut self, schema: &Value, path: &str, shape: &Node, depth: usize) {
        let Some(map) = schema.as_object() else {
            self.errors.push(FieldError::invalid(
                path,
                schema.clone(),
                "must be a schema object",
            ));
            return;
        };
        if depth > MAX_DEPTH {
            self.errors.push(FieldError::invalid(
                path,
                "...",
                "schema is nested too deeply",
            ));
            return;
        }
        self.check_keywords(map, path);
        for keyword in SHAPE_ONLY {
            let plain_type = *keyword == "type" && shape.int_or_string;
            if map.contains_key(*keyword) && !plain_type {
                self.errors.push(FieldError::forbidden(
                    &format!("{path}.{keyword}"),
                    "must be empty to be structural",
                ));
            }
        }
        for (name, property) in map
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let at = format!("{path}.properties[{name}]");
            match shape.field(name) {
                Some(child) => {
                    let child = Arc::clone(child);
                    self.junctor(property, &at, &child, depth + 1);
                }
                None if shape.keeps_unknown() || name == "metadata" => {}
                None => self.errors.push(FieldError::required(
                    &at,
                    format!("because it is used in {at}, it must be declared in properties"),
                )),
            }
        }
        if let Some(items) = map.get("items") {
            match shape.items.clone() {
                Some(child) => self.junctor(items, &format!("{path}.items"), &child, depth + 1),
                None => self.errors.push(FieldError::required(
                    &format!("{path}.items"),
                    "must be declared in the structural part",
                )),
            }
        }
        for (at, branch) in junctors(map, path) {
            self.junctor(branch, &at, shape, depth + 1);
        }
    }

    pub(super) fn read_junctors(&mut self, map: &Map<String, Value>, path: &str, node: &mut Node) {
        let mut branches = |keyword: &str| -> Vec<Node> {
            let list = map
                .get(keyword)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .enumerate();
            list.map(|(index, branch)| {
                self.branch(branch, &format!("{path}.{keyword}[{index}]"), 0)
            })
            .collect()
        };
        node.checks.all_of = branches("allOf");
        node.checks.any_of = branches("anyOf");
        node.checks.one_of = branches("oneOf");
        node.checks.not = map
            .get("not")
            .map(|branch| Box::new(self.branch(branch, &format!("{path}.not"), 0)));
    }

    /// Compiles a junctor branch: checks only, no shape.
    fn branch(&mut self, schema: &Value, path: &str, depth: usize) -> Node {
        let mut node = Node {
            preserve_unknown: true,
            ..Node::default()
        };
        let Some(map) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else {
            return node;
        };
        node.kind = map
            .get("type")
            .and_then(Value::as_str)
            .and_then(JsonType::parse);
        read_checks(schema, path, &mut node.checks, &mut self.errors);
        for (name, property) in map
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let child = self.branch(property, &format!("{path}.properties[{name}]"), depth + 1);
            node.properties.insert(name.clone(), Arc::new(child));
        }
        node.items = map
            .get("items")
            .map(|items| Arc::new(self.branch(items, &format!("{path}.items"), depth + 1)));
        self.read_junctors(map, path, &mut node);
        node
    }
}

/// The branches of all junctors of a schema, each with its path.
pub(super) fn junctors<'a>(map: &'a Map<String, Value>, path: &str) -> Vec<(String, &'a Value)> {
    let mut found = Vec::new();
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for (index, branch) in map
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            found.push((format!("{path}.{keyword}[{index}]"), branch));
        }
    }
    found.extend(map.get("not").map(|branch| (format!("{path}.not"), branch)));
    found
}
