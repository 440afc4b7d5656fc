//! Server-side printing: `meta.k8s.io/v1` Tables, with the columns that `kubectl get` shows.
//!
//! Invariant: every row has exactly one cell per column.

mod age;
mod builtin;
mod cells;
mod jsonpath;
mod pod;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use age::human_duration;

use crate::builtin::rules::{list, text};
use crate::error::FieldError;
use builtin::Printer;
use jsonpath::JsonPath;

/// The columns of a kind.
#[derive(Debug, Clone)]
pub struct Columns(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Builtin(Printer),
    Custom(Arc<Vec<CustomColumn>>),
}

/// `additionalPrinterColumns` of one column.
#[derive(Debug)]
struct CustomColumn {
    definition: Value,
    path: JsonPath,
    kind: String,
}

/// `includeObject` of a table request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Rows carry `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// Rows carry the whole object.
    Object,
    /// Rows carry nothing.
    None,
}

impl IncludeObject {
    /// Parses the query parameter; `None` for an unknown word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            "None" => Some(Self::None),
            _ => None,
        }
    }
}

impl Columns {
    /// The columns of a built-in kind; name and age for those without columns of their own.
    pub(crate) fn builtin(group: &str, kind: &str) -> Self {
        Self(Kind::Builtin(Printer::of(group, kind)))
    }

    /// `additionalPrinterColumns` of a CRD version; errors are relative to `path`.
    pub fn from_crd(columns: Option<&Value>, path: &str) -> Result<Self, Vec<FieldError>> {
        let given = columns
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let age = [
            json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": CREATED}),
        ];
        let given = if given.is_empty() { &age[..] } else { given };
        let (mut columns, mut errors) = (Vec::new(), Vec::new());
        for (index, column) in given.iter().enumerate() {
            match CustomColumn::read(column, &format!("{path}[{index}]")) {
                Ok(column) => columns.push(column),
                Err(problems) => errors.extend(problems),
            }
        }
        if errors.is_empty() {
            Ok(Self(Kind::Custom(Arc::new(columns))))
        } else {
            Err(errors)
        }
    }

    /// A Table of these objects. `metadata` is the list's (resourceVersion, continue), `now` is for ages. Set `with_definitions` to
    /// false for the second and later rows of a watch.
    pub fn table(
        &self,
        objects: &[&Value],
        metadata: Value,
        include: IncludeObject,
        now: Timestamp,
        with_definitions: bool,
    ) -> Value {
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let mut row = json!({"cells": self.cells(object, now)});
                match include {
                    IncludeObject::Metadata => row["object"] = partial(object),
                    IncludeObject::Object => row["object"] = (*object).clone(),
                    IncludeObject::None => {}
                }
                row
            })
            .collect();
        let definitions = if with_definitions {
            self.definitions()
        } else {
            Vec::new()
        };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": definitions, "rows": rows,
        })
    }

    fn definitions(&self) -> Vec<Value> {
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": "Name must be unique within a namespace.", "priority": 0});
        match &self.0 {
            Kind::Builtin(printer) => printer.definitions(),
            Kind::Custom(columns) => std::iter::once(name)
                .chain(columns.iter().map(|column| column.definition.clone()))
                .collect(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.0 {
            Kind::Builtin(printer) => printer.cells(object, now),
            Kind::Custom(columns) => {
                let name = Value::from(text(object, &["metadata", "name"]));
                std::iter::once(name)
                    .chain(columns.iter().map(|column| column.cell(object, now)))
                    .collect()
            }
        }
    }
}

const CREATED: &str =
    "CreationTimestamp is a timestamp representing the server time when this object was created.";

impl CustomColumn {
    fn read(column: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let kind = text(column, &["type"]);
        if text(column, &["name"]).is_empty() {
            errors.push(FieldError::required(&format!("{path}.name"), ""));
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        match kind {
            "" => errors.push(FieldError::required(&format!("{path}.type"), "")),
            known if kinds.contains(&known) => {}
            other => errors.push(FieldError::not_supported(
                &format!("{path}.type"),
                other,
                &kinds,
            )),
        }
        let json_path = text(column, &["jsonPath"]);
        let parsed = JsonPath::parse(json_path);
        let definition = json!({
            "name": text(column, &["name"]), "type": kind, "format": text(column, &["format"]),
            "description": text(column, &["description"]),
            "priority": column.get("priority").and_then(Value::as_i64).unwrap_or(0),
        });
        match parsed {
            Ok(path) if errors.is_empty() => Ok(Self {
                definition,
                path,
                kind: kind.to_owned(),
            }),
            Ok(_) => Err(errors),
            Err(problem) => {
                errors.push(FieldError::invalid(
                    &format!("{path}.jsonPath"),
                    json_path,
                    problem,
                ));
                Err(errors)
            }
        }
    }

    /// As `apiextensions-apiserver`'s table convertor: dates become ages, strings print what they find.
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else {
            return Value::Null;
        };
        match self.kind.as_str() {
            "integer" => first
                .as_i64()
                .or_else(|| first.as_f64().map(|number| number as i64))
                .map_or(Value::Null, Value::from),
            "number" => first.as_f64().map_or(Value::Null, Value::from),
            "boolean" => first.as_bool().map_or(Value::Null, Value::from),
            "date" => first
                .as_str()
                .map_or(Value::Null, |time| age::since(time, now).into()),
            _ => {
                let texts: Vec<String> = found
                    .iter()
                    .map(|value| {
                        value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned)
                    })
                    .collect();
                texts.join(" ").into()
            }
        }
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({}))})
}

/// The condition of this type, if the object has it.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
