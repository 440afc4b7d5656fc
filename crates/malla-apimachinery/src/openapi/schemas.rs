//! `components.schemas`: the definitions that kinds reach, and their translation to OpenAPI v2.

use serde_json::{Map, Value, json};

use super::paths::SCALE;
use crate::builtin::definitions::{OBJECT_META, shared_definitions};
use crate::kind::ResourceKind;
use crate::schema::Source;

const V3_PREFIX: &str = "#/components/schemas/";
const V2_PREFIX: &str = "#/definitions/";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Collects definitions, each once.
#[derive(Debug, Default)]
pub(super) struct Components {
    schemas: Map<String, Value>,
    shared: Option<Map<String, Value>>,
}

impl Components {
    /// Adds a kind, its list and all they refer to; returns the name of the kind's definition.
    pub(super) fn add_kind(&mut self, kind: &ResourceKind) -> String {
        let name = match &kind.schema.source {
            Source::Builtin { definitions, name } => {
                self.add_reachable(definitions, name);
                name.clone()
            }
            Source::Custom(schema) => {
                let name = custom_name(kind);
                self.add_shared(OBJECT_META);
                self.schemas
                    .insert(name.clone(), custom_definition(kind, schema));
                name
            }
        };
        if kind.scale.is_some() {
            self.add_shared(SCALE);
        }
        if !kind.review {
            self.schemas
                .insert(format!("{name}List"), list_definition(kind, &name));
            self.schemas.entry(LIST_META).or_insert_with(list_meta);
        }
        name
    }

    fn add_shared(&mut self, name: &str) {
        let shared = self.shared.take().unwrap_or_else(shared_definitions);
        self.add_reachable(&shared, name);
        self.shared = Some(shared);
    }

    fn add_reachable(&mut self, definitions: &Map<String, Value>, name: &str) {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if self.schemas.contains_key(&name) {
                continue;
            }
            if let Some(definition) = definitions.get(&name) {
                collect_references(definition, &mut open);
                self.schemas.insert(name, definition.clone());
            }
        }
    }

    /// All definitions, by name.
    pub(super) fn finish(self) -> Map<String, Value> {
        let mut schemas: Vec<(String, Value)> = self.schemas.into_iter().collect();
        schemas.sort_by(|a, b| a.0.cmp(&b.0));
        schemas.into_iter().collect()
    }
}

/// A reference to a definition.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{V3_PREFIX}{name}")})
}

fn collect_references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(target) = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|target| target.strip_prefix(V3_PREFIX))
            {
                found.push(target.to_owned());
            }
            map.values()
                .for_each(|child| collect_references(child, found));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// `io.istio.networking.v1.VirtualService` for `networking.istio.io/v1`.
fn custom_name(kind: &ResourceKind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
}

fn group_version_kind(kind: &ResourceKind, name: &str) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": name}])
}

fn custom_definition(kind: &ResourceKind, schema: &Value) -> Value {
    let mut definition = schema.clone();
    let Some(map) = definition.as_object_mut() else {
        return definition;
    };
    let stated = match map.remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    let mut properties = Map::new();
    properties.insert(
        "apiVersion".into(),
        json!({"type": "string", "description": API_VERSION}),
    );
    properties.insert(
        "kind".into(),
        json!({"type": "string", "description": KIND}),
    );
    let metadata = json!({
        "allOf": [reference(OBJECT_META)],
        "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    });
    properties.insert("metadata".into(), metadata);
    properties.extend(
        stated
            .into_iter()
            .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")),
    );
    map.insert("properties".into(), Value::Object(properties));
    map.insert(
        "x-kubernetes-group-version-kind".into(),
        group_version_kind(kind, &kind.kind),
    );
    definition
}

fn list_definition(kind: &ResourceKind, name: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {"type": "array", "description": format!("List of {}.", kind.plural), "items": reference(name)},
            "kind": {"type": "string", "description": KIND},
            "metadata": {
                "allOf": [reference(LIST_META)],
                "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
            },
        },
        "x-kubernetes-group-version-kind": group_version_kind(kind, &kind.list_kind),
    })
}

fn list_meta() -> Value {
    json!({
        "description": "ListMeta describes metadata that synthetic resources must have, including lists and various status objects. A resource may have only one of {ObjectMeta, ListMeta}.",
        "type": "object",
        "properties": {
            "continue": {"type": "string", "description": "continue may be set if the user set a limit on the number of items returned, and indicates that the server has more data available."},
            "remainingItemCount": {"type": "integer", "format": "int64", "description": "remainingItemCount is the number of subsequent items in the list which are not included in this list response."},
            "resourceVersion": {"type": "string", "description": "String that identifies the server's internal version of this object that can be used by clients to determine when objects have changed."},
            "selfLink": {"type": "string", "description": "Deprecated: selfLink is a legacy read-only field that is no longer populated by the system."},
        },
    })
}

/// A definition as OpenAPI v2 can say it: no junctors, no `nullable`, references unwrapped.
pub(super) fn to_v2(schema: Value) -> Value {
    match schema {
        Value::Object(mut map) => {
            if let Some(Value::Array(all)) = map.get("allOf")
                && let [one] = all.as_slice()
                && let Some(target) = one.get("$ref").cloned()
            {
                map.insert("$ref".into(), target);
            }
            if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                map.entry("type").or_insert_with(|| "string".into());
                map.entry("format")
                    .or_insert_with(|| "int-or-string".into());
            }
            for unsupported in ["allOf", "anyOf", "oneOf", "not", "nullable"] {
                map.shift_remove(unsupported);
            }
            let convert = |(key, value): (String, Value)| {
                let value = match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        target.replacen(V3_PREFIX, V2_PREFIX, 1).into()
                    }
                    // Below `properties` the keys are names, not keywords.
                    ("properties", Value::Object(properties)) => Value::Object(
                        properties
                            .into_iter()
                            .map(|(name, schema)| (name, to_v2(schema)))
                            .collect(),
                    ),
                    ("default" | "enum" | "example", value) => value,
                    (_, value) => to_v2(value),
                };
                (key, value)
            };
            Value::Object(map.into_iter().map(convert).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(to_v2).collect()),
        other => other,
    }
}
