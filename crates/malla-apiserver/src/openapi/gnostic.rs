//! The OpenAPI v2 document as protobuf (gnostic `OpenAPIv2.proto`).
//!
//! kubectl reads v2 in this form alone, when it asks about a kind no v3 document has: a custom kind whose definition is not
//! there yet, a misspelt version. Parts that no client reads (examples, contacts) do not occur in our document.

use serde_json::{Map, Value};

/// Extension keys start with this.
const EXTENSION: &str = "x-";

/// Encodes a document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(1, &document["swagger"]);
    out.message(2, |out| {
        out.text(1, &document["info"]["title"]);
        out.text(2, &document["info"]["version"]);
    });
    out.message(8, |out| {
        for (path, item) in fields(&document["paths"]) {
            out.named(2, path, |out| path_item(out, item));
        }
    });
    out.message(9, |out| {
        for (name, schema) in fields(&document["definitions"]) {
            out.named(1, name, |out| write_schema(out, schema));
        }
    });
    out.0
}

fn path_item(out: &mut Writer, item: &Value) {
    let verbs = [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ];
    for (number, verb) in verbs {
        if item[verb].is_object() {
            out.message(number, |out| operation(out, &item[verb]));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Writer, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    parameters(out, 8, &operation["parameters"]);
    out.message(9, |out| {
        for (code, response) in fields(&operation["responses"]) {
            out.named(1, code, |out| {
                out.message(1, |out| {
                    out.text(1, &response["description"]);
                    if response["schema"].is_object() {
                        out.message(2, |out| {
                            out.message(1, |out| write_schema(out, &response["schema"]))
                        });
                    }
                });
            });
        }
    });
    out.extensions(13, operation);
}

fn parameters(out: &mut Writer, number: u64, parameters: &Value) {
    for parameter in parameters.as_array().into_iter().flatten() {
        out.message(number, |out| {
            out.message(1, |out| write_parameter(out, parameter))
        });
    }
}

/// A `Parameter`: the body, or one of the sub-schemas of a `NonBodyParameter`.
fn write_parameter(out: &mut Writer, parameter: &Value) {
    match parameter["in"].as_str() {
        Some("body") => out.message(1, |out| {
            out.text(1, &parameter["description"]);
            out.text(2, &parameter["name"]);
            out.text(3, &parameter["in"]);
            out.flag(4, &parameter["required"]);
            out.message(5, |out| write_schema(out, &parameter["schema"]));
        }),
        Some("path") => out.message(2, |out| {
            out.message(4, |out| {
                head(out, parameter);
                out.text(5, &parameter["type"]);
                out.flag(18, &parameter["uniqueItems"]);
            });
        }),
        _ => out.message(2, |out| {
            out.message(3, |out| {
                head(out, parameter);
                out.text(6, &parameter["type"]);
                out.flag(20, &parameter["uniqueItems"]);
            });
        }),
    }
}

/// What path and query parameters have in common.
fn head(out: &mut Writer, parameter: &Value) {
    out.flag(1, &parameter["required"]);
    out.text(2, &parameter["in"]);
    out.text(3, &parameter["description"]);
    out.text(4, &parameter["name"]);
}

fn write_schema(out: &mut Writer, schema: &Value) {
    out.text(1, &schema["$ref"]);
    out.text(2, &schema["format"]);
    out.text(3, &schema["title"]);
    out.text(4, &schema["description"]);
    out.any(5, &schema["default"]);
    for (number, bound) in [(7, "maximum"), (9, "minimum")] {
        if let Some(bound) = schema[bound].as_f64() {
            out.double(number, bound);
        }
    }
    for (number, bound) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        if let Some(bound) = schema[bound].as_u64() {
            out.number(number, bound);
        }
    }
    out.text(13, &schema["pattern"]);
    out.texts(19, &schema["required"]);
    for value in schema["enum"].as_array().into_iter().flatten() {
        out.any(20, value);
    }
    match &schema["additionalProperties"] {
        Value::Bool(allowed) => out.message(21, |out| out.number(2, u64::from(*allowed))),
        inner @ Value::Object(_) => {
            out.message(21, |out| out.message(1, |out| write_schema(out, inner)));
        }
        _ => {}
    }
    if schema["type"].is_string() {
        out.message(22, |out| out.text(1, &schema["type"]));
    }
    if schema["items"].is_object() {
        out.message(23, |out| {
            out.message(1, |out| write_schema(out, &schema["items"]))
        });
    }
    if schema["properties"].is_object() {
        out.message(25, |out| {
            for (name, property) in fields(&schema["properties"]) {
                out.named(1, name, |out| write_schema(out, property));
            }
        });
    }
    out.extensions(31, schema);
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

/// Writes protobuf fields.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while let Some(rest) = Some(value >> 7).filter(|rest| *rest > 0) {
            self.0.push(value as u8 | 0x80);
            value = rest;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64, value: u64) {
        self.varint(number << 3);
        self.varint(value);
    }

    fn double(&mut self, number: u64, value: f64) {
        self.varint(number << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn flag(&mut self, number: u64, value: &Value) {
        if value == true {
            self.number(number, 1);
        }
    }

    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.text(number, value);
        }
    }

    fn message(&mut self, number: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A `Named...` message: name in 1, value in 2.
    fn named(&mut self, number: u64, name: &str, write: impl FnOnce(&mut Self)) {
        self.message(number, |out| {
            out.bytes(1, name.as_bytes());
            out.message(2, write);
        });
    }

    /// An `Any`: the value as YAML, which JSON is.
    fn any(&mut self, number: u64, value: &Value) {
        if !value.is_null() {
            self.message(number, |out| out.bytes(2, value.to_string().as_bytes()));
        }
    }

    fn extensions(&mut self, number: u64, object: &Value) {
        let extensions = fields(object).filter(|(name, _)| name.starts_with(EXTENSION));
        for (name, value) in extensions {
            self.named(number, name, |out| {
                out.bytes(2, value.to_string().as_bytes())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::document;

    #[test]
    fn a_document_encodes_field_by_field() {
        let small = json!({
            "swagger": "2.0", "info": {"title": "K"},
            "definitions": {"A": {"type": "object", "x-e": 1}},
        });
        let type_item = [&[0xb2, 1, 8, 10, 6][..], b"object"].concat();
        let extension = [&[0xfa, 1, 10, 10, 3][..], b"x-e", &[18, 3, 18, 1], b"1"].concat();
        let schema = [type_item, extension].concat();
        let named = [&[10, 1][..], b"A", &[18, schema.len() as u8], &schema].concat();
        let definitions = [&[10, named.len() as u8][..], &named].concat();
        let want = [
            &[10, 3][..],
            b"2.0",
            &[18, 3, 10, 1],
            b"K",
            &[66, 0, 74, definitions.len() as u8],
            &definitions,
        ]
        .concat();
        assert_eq!(document(&small), want);
    }
}
