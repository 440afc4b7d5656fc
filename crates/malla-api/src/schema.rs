//! From our types to Kubernetes' structural schemas.
//!
//! The types derive `JsonSchema`; the helpers here attach what Rust's types cannot say (exclusive
//! fields, CEL rules, limits), and [`structural`] rewrites schemars' output into the subset of
//! OpenAPI v3 that a CustomResourceDefinition may hold. Doc comments become descriptions, so
//! `kubectl explain` shows what is written beside the types. The output is deterministic.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// At most one of these fields (names with spaces between) may be set: a protobuf `oneof`.
///
/// A second call on the same schema adds a second, independent choice.
pub fn at_most_one(fields: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let names = fields.split(' ');
        let each: Vec<Value> = names.map(|f| json!({ "required": [f] })).collect();
        let mut branches = vec![json!({ "not": { "anyOf": each.clone() } })];
        branches.extend(each);
        let object = schema.ensure_object();
        match (object.remove("oneOf"), object.get_mut("allOf")) {
            (None, None) => {
                object.insert("oneOf".into(), branches.into());
            }
            (None, Some(Value::Array(all))) => all.push(json!({ "oneOf": branches })),
            (first, _) => {
                let all = json!([{ "oneOf": first }, { "oneOf": branches }]);
                object.insert("allOf".into(), all);
            }
        }
    }
}

/// These fields (names with spaces between) must be present.
pub fn required(fields: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let names: Vec<&str> = fields.split(' ').collect();
        schema.insert("required".into(), json!(names));
    }
}

/// A validation rule in CEL over `self`, with the message of its refusal.
pub fn rule(cel: &'static str, message: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let rules = schema
            .ensure_object()
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(json!({ "rule": cel, "message": message }));
        }
    }
}

/// Sets one schema keyword, for instance `maxItems`.
pub fn limit(keyword: &'static str, value: u64) -> impl Fn(&mut Schema) {
    move |schema| {
        schema.insert(keyword.into(), value.into());
    }
}

/// The text must match this regular expression.
pub fn pattern(regex: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        schema.insert("pattern".into(), regex.into());
    }
}

/// Sets one keyword of the schema of a list's items.
pub fn each(keyword: &'static str, value: u64) -> impl Fn(&mut Schema) {
    move |schema| {
        if let Some(Value::Object(items)) = schema.get_mut("items") {
            items.insert(keyword.into(), value.into());
        }
    }
}

/// A rule for every item of a list or value of a map.
pub fn each_rule(cel: &'static str, message: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        for keyword in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get_mut(keyword)
                && let Ok(inner_schema) = <&mut Schema>::try_from(inner)
            {
                rule(cel, message)(inner_schema);
            }
        }
    }
}

/// Explicit `null` is allowed and means absent (a protobuf wrapper type).
pub fn nullable(schema: &mut Schema) {
    schema.insert("nullable".into(), true.into());
}

/// Whatever stands below is kept as it is.
pub fn free_form(schema: &mut Schema) {
    let object = schema.ensure_object();
    object.insert("type".into(), "object".into());
    object.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    object.remove("additionalProperties");
}

/// A list keyed by `key`: server-side apply merges it item by item, and duplicates are refused.
pub fn list_map(key: &'static str) -> impl Fn(&mut Schema) {
    move |schema| {
        let object = schema.ensure_object();
        object.insert("x-kubernetes-list-type".into(), "map".into());
        object.insert("x-kubernetes-list-map-keys".into(), json!([key]));
    }
}

/// The structural schema of `T`.
#[must_use]
pub fn structural<T: JsonSchema>() -> Value {
    let mut generator = SchemaSettings::draft07()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .for_deserialize()
        .into_generator();
    let mut schema = generator.root_schema_for::<T>().to_value();
    normalize(&mut schema);
    schema
}

/// Rewrites one schema and all below it.
fn normalize(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    for keyword in ["$schema", "title", "default", "definitions"] {
        object.remove(keyword);
    }
    unwrap_references(object);
    unwrap_option(object);
    merge_constants(object);
    name_bounds(object);
    unwrap_description(object);
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(keyword) {
            normalize(inner);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(normalize);
    }
}

/// `allOf: [X]` beside a description is schemars' way of describing an inlined schema.
fn unwrap_references(object: &mut Map<String, Value>) {
    let single = matches!(object.get("allOf"), Some(Value::Array(all)) if all.len() == 1);
    if single
        && let Some(Value::Array(mut all)) = object.remove("allOf")
        && let Some(Value::Object(inner)) = all.pop()
    {
        absorb(object, inner);
    }
}

/// An optional field is simply one that is not required: `null` is no value of it.
fn unwrap_option(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get("type") {
        let concrete = types.iter().find(|t| *t != "null").cloned();
        if let Some(concrete) = concrete {
            object.insert("type".into(), concrete);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let is_null = |schema: &Value| schema.get("type").is_some_and(|t| t == "null");
    let option = matches!(object.get("anyOf"), Some(Value::Array(any)) if any.iter().any(is_null));
    if option && let Some(Value::Array(any)) = object.remove("anyOf") {
        for inner in any.into_iter().filter(|schema| !is_null(schema)) {
            if let Value::Object(inner) = inner {
                absorb(object, inner);
            }
        }
        unwrap_option(object);
    }
}

/// An enum with documented variants comes as `oneOf` constants; Kubernetes wants one `enum`.
fn merge_constants(object: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = object.get("oneOf") else {
        return;
    };
    let mut values = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum")) {
            (Some(value), _) => values.push(value.clone()),
            (None, Some(Value::Array(several))) => values.extend(several.iter().cloned()),
            (None, _) => return,
        }
    }
    object.remove("oneOf");
    object.insert("type".into(), "string".into());
    object.insert("enum".into(), values.into());
}

/// Kubernetes knows no unsigned formats: say them as bounds.
fn name_bounds(object: &mut Map<String, Value>) {
    let maximum = match object.get("format").and_then(Value::as_str) {
        Some("uint8") => Some(u64::from(u8::MAX)),
        Some("uint16") => Some(u64::from(u16::MAX)),
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => None,
        _ => return,
    };
    object.remove("format");
    object.entry("minimum").or_insert(json!(0));
    if let Some(maximum) = maximum {
        object.entry("maximum").or_insert(json!(maximum));
    }
}

/// Descriptions are paragraphs: line breaks inside of one are spaces.
fn unwrap_description(object: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = object.get_mut("description") {
        let paragraphs = text.split("\n\n").map(|p| p.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
}

/// What `outer` says itself wins over what it wraps.
fn absorb(outer: &mut Map<String, Value>, inner: Map<String, Value>) {
    for (keyword, value) in inner {
        outer.entry(keyword).or_insert(value);
    }
}
