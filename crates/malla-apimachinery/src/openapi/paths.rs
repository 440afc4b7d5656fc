//! `paths`: the operations of each kind, with kube-apiserver's extensions.

use serde_json::{Map, Value, json};

use super::schemas::reference;
use crate::kind::ResourceKind;

/// The paths of a kind: collection, object, subresources.
pub(super) fn of(kind: &ResourceKind, definition: &str) -> Vec<(String, Value)> {
    let base = match kind.group.as_str() {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let collection = match kind.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("{base}/{}", kind.plural),
    };
    let operations = Operations { kind, definition };
    if kind.review {
        let item = json!({"post": operations.write("post", "post", "create", ""), "parameters": operations.path_parameters(false)});
        return vec![(collection, item)];
    }
    let mut paths = vec![
        (collection.clone(), operations.collection()),
        (format!("{collection}/{{name}}"), operations.object("")),
    ];
    if kind.namespaced {
        let list = operations.read("list", "ForAllNamespaces", &format!("{definition}List"));
        paths.push((format!("{base}/{}", kind.plural), json!({"get": list, "parameters": [query("pretty", "string", "If 'true', then the output is pretty printed.")]})));
    }
    if kind.status {
        paths.push((
            format!("{collection}/{{name}}/status"),
            operations.object("status"),
        ));
    }
    if kind.scale.is_some() {
        let scale = Operations {
            kind,
            definition: SCALE,
        };
        paths.push((
            format!("{collection}/{{name}}/scale"),
            scale.object("scale"),
        ));
    }
    paths
}

struct Operations<'a> {
    kind: &'a ResourceKind,
    definition: &'a str,
}

/// The definition that `scale` subresources answer with.
pub(super) const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

impl Operations<'_> {
    fn collection(&self) -> Value {
        json!({
            "get": self.read("list", "", &format!("{}List", self.definition)),
            "post": self.write("post", "post", "create", ""),
            "delete": self.delete("deletecollection", "delete the collection of"),
            "parameters": self.path_parameters(false),
        })
    }

    fn object(&self, subresource: &str) -> Value {
        let suffix = &*capitalised(subresource);
        let mut item = json!({
            "get": self.read("get", suffix, self.definition),
            "put": self.write("put", "put", "replace", suffix),
            "patch": self.patch(suffix),
            "parameters": self.path_parameters(true),
        });
        if subresource.is_empty() {
            item["delete"] = self.delete("delete", "delete");
        }
        item
    }

    fn path_parameters(&self, named: bool) -> Value {
        let path = |name: &str, description: String| json!({"name": name, "in": "path", "description": description, "required": true, "schema": {"type": "string", "uniqueItems": true}});
        let mut parameters = Vec::new();
        if named {
            parameters.push(path("name", format!("name of the {}", self.kind.kind)));
        }
        if self.kind.namespaced {
            parameters.push(path(
                "namespace",
                "object name and auth scope, such as for teams and projects".to_owned(),
            ));
        }
        parameters.push(query(
            "pretty",
            "string",
            "If 'true', then the output is pretty printed.",
        ));
        parameters.into()
    }

    fn operation(
        &self,
        action: &str,
        verb: &str,
        suffix: &str,
        parameters: Vec<Value>,
        answer: Value,
    ) -> Value {
        let kind = self.kind;
        let group: String = kind.group.split('.').map(capitalised).collect();
        let group = if group.is_empty() {
            "Core".to_owned()
        } else {
            group
        };
        let scope = if kind.namespaced { "Namespaced" } else { "" };
        json!({
            "tags": [format!("{}_{}", group.to_lowercase(), kind.version)],
            "description": format!("{verb} the specified {}", kind.kind),
            "operationId": format!("{verb}{group}{}{scope}{}{suffix}", capitalised(&kind.version), kind.kind).replace(' ', ""),
            "parameters": parameters,
            "responses": {
                "200": {"description": "OK", "content": {"application/json": {"schema": answer}}},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.group_version_kind(),
        })
    }

    fn group_version_kind(&self) -> Value {
        if self.definition == SCALE {
            return json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        }
        let kind = self.kind;
        json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
    }

    fn read(&self, action: &str, suffix: &str, answer: &str) -> Value {
        let parameters = match action {
            "list" => LIST_PARAMETERS
                .iter()
                .map(|(name, kind, description)| query(name, kind, description))
                .collect(),
            _ => Vec::new(),
        };
        let verb = if action == "get" { "read" } else { action };
        self.operation(action, verb, suffix, parameters, reference(answer))
    }

    fn write(&self, action: &str, _method: &str, verb: &str, suffix: &str) -> Value {
        let mut operation = self.operation(
            action,
            verb,
            suffix,
            write_parameters(),
            reference(self.definition),
        );
        operation["requestBody"] =
            json!({"required": true, "content": {"*/*": {"schema": reference(self.definition)}}});
        operation
    }

    fn patch(&self, suffix: &str) -> Value {
        let mut parameters = write_parameters();
        parameters.push(query("force", "boolean", "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people. Force flag must be unset for non-apply patch requests."));
        let mut operation = self.operation(
            "patch",
            "patch",
            suffix,
            parameters,
            reference(self.definition),
        );
        let body = json!({"schema": {"type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body."}});
        let mut content = Map::new();
        for format in [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ] {
            content.insert(format.to_owned(), body.clone());
        }
        if !self.kind.custom {
            content.insert("application/strategic-merge-patch+json".to_owned(), body);
        }
        operation["requestBody"] = json!({"required": true, "content": content});
        operation
    }

    fn delete(&self, action: &str, verb: &str) -> Value {
        let mut parameters = vec![query("dryRun", "string", DRY_RUN)];
        parameters.push(query("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted. Value must be non-negative integer. The value zero indicates delete immediately."));
        parameters.push(query("propagationPolicy", "string", "Whether and how garbage collection will be performed: 'Orphan', 'Background' or 'Foreground'."));
        let status = json!({"type": "object", "description": "Status is a return value for calls that don't return other objects."});
        self.operation(action, verb, "", parameters, status)
    }
}

const DRY_RUN: &str = "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed";

/// Query parameters of lists and watches.
const LIST_PARAMETERS: &[(&str, &str, &str)] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "allowWatchBookmarks requests watch events with type \"BOOKMARK\".",
    ),
    (
        "continue",
        "string",
        "The continue option should be set when retrieving more results from the server.",
    ),
    (
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    (
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    (
        "limit",
        "integer",
        "limit is a maximum number of responses to return for a list call.",
    ),
    (
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "resourceVersionMatch determines how resourceVersion is applied to list calls.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "`sendInitialEvents=true` may be set together with `watch=true`.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "Timeout for the list/watch call.",
    ),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];

fn write_parameters() -> Vec<Value> {
    let field_validation = "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: - Ignore: This will ignore any unknown fields that are silently dropped from the object. - Warn: This will send a warning via the standard warning response header for each unknown field that is dropped from the object. - Strict: This will fail the request with a BadRequest error if any unknown fields would be dropped from the object.";
    vec![
        query("dryRun", "string", DRY_RUN),
        query(
            "fieldManager",
            "string",
            "fieldManager is a name associated with the actor or entity that is making these changes.",
        ),
        query("fieldValidation", "string", field_validation),
    ]
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// A path item in OpenAPI v2: parameters carry their type themselves, bodies are parameters, answers have schemas.
pub(super) fn to_v2(item: Value) -> Value {
    let Value::Object(map) = item else {
        return item;
    };
    let converted = map.into_iter().map(|(method, value)| match value {
        Value::Array(parameters) => (
            method,
            Value::Array(parameters.into_iter().map(parameter_to_v2).collect()),
        ),
        operation => (method, operation_to_v2(operation)),
    });
    Value::Object(converted.collect())
}

fn parameter_to_v2(mut parameter: Value) -> Value {
    if let Some(map) = parameter.as_object_mut()
        && let Some(Value::Object(schema)) = map.shift_remove("schema")
    {
        map.extend(schema);
    }
    parameter
}

fn operation_to_v2(mut operation: Value) -> Value {
    let Some(map) = operation.as_object_mut() else {
        return operation;
    };
    let body = map.shift_remove("requestBody");
    if let Some(Value::Array(parameters)) = map.get_mut("parameters") {
        let old = std::mem::take(parameters);
        *parameters = old.into_iter().map(parameter_to_v2).collect();
        let content = body
            .as_ref()
            .and_then(|body| body.get("content"))
            .and_then(Value::as_object);
        if let Some(schema) = content
            .and_then(|content| content.values().next())
            .and_then(|media| media.get("schema"))
        {
            parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": super::schemas::to_v2(schema.clone())}));
        }
        if let Some(content) = content {
            let consumes: Vec<&String> = content.keys().collect();
            map.insert("consumes".into(), json!(consumes));
        }
    }
    map.insert("produces".into(), json!(["application/json"]));
    for response in map
        .get_mut("responses")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|responses| responses.values_mut())
    {
        let schema = response
            .pointer("/content/application~1json/schema")
            .cloned();
        if let Some(response) = response.as_object_mut() {
            response.shift_remove("content");
            if let Some(schema) = schema {
                response.insert("schema".into(), super::schemas::to_v2(schema));
            }
        }
    }
    operation
}
