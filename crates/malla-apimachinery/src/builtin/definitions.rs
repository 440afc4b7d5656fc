//! The definitions of the built-in types as an OpenAPI document has them, generated from `k8s-openapi` and annotated with
//! merge semantics and defaults.

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::JsonSchema;
use k8s_openapi::schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::{defaults, lists};
use crate::schema::compile::Definitions;
use crate::schema::node::Node;

/// Name of the definition of object metadata.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Collects definitions while kinds are registered.
#[derive(Debug)]
pub(crate) struct Generator {
    generator: SchemaGenerator,
}

impl Generator {
    pub(crate) fn new() -> Self {
        Self {
            generator: SchemaSettings::openapi3().into_generator(),
        }
    }

    /// Adds a type and all it refers to.
    pub(crate) fn add<T: JsonSchema>(&mut self) {
        self.generator.subschema_for::<T>();
    }

    /// All definitions, annotated.
    pub(crate) fn finish(mut self) -> Map<String, Value> {
        let mut definitions = self.generator.take_definitions(true);
        for (name, definition) in &mut definitions {
            let Some(definition) = definition.as_object_mut() else {
                continue;
            };
            let short = name.rsplit('.').next().unwrap_or(name);
            definition.remove("title");
            lists::annotate(short, definition);
            defaults::annotate(short, definition);
            // Kubernetes' own documents do not require metadata, nor a list of it.
            if definition
                .get("properties")
                .is_some_and(|properties| properties.get("apiVersion").is_some())
            {
                let required = definition.get_mut("required").and_then(Value::as_array_mut);
                if let Some(required) = required {
                    required.retain(|field| field != "metadata");
                    if required.is_empty() {
                        definition.remove("required");
                    }
                }
            }
            if short == "EndpointSlice" {
                // Go writes an empty slice as null.
                definition.insert("required".into(), json!(["addressType"]));
            }
            if short == "IntOrString" {
                definition.insert("format".into(), "int-or-string".into());
                definition.insert(
                    "oneOf".into(),
                    json!([{"type": "integer"}, {"type": "string"}]),
                );
            }
            if short == "Quantity" {
                definition.insert(
                    "oneOf".into(),
                    json!([{"type": "string"}, {"type": "number"}]),
                );
            }
        }
        definitions
    }
}

/// The definitions that custom kinds refer to: object metadata, and the scale of those that have one.
pub(crate) fn shared_definitions() -> Map<String, Value> {
    let mut generator = Generator::new();
    generator.add::<ObjectMeta>();
    generator.add::<Scale>();
    generator.finish()
}

/// The node of object metadata.
pub(crate) fn object_meta() -> Node {
    let definitions = shared_definitions();
    let node = Definitions::new(&definitions).get(OBJECT_META);
    std::sync::Arc::try_unwrap(node)
        .unwrap_or_else(|shared| crate::schema::compile::copy_shape(&shared))
}
