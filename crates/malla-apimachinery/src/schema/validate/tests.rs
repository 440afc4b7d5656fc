//! Value validation, in kube-apiserver's words.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::schema::Schema;

fn schema(spec: Value) -> Schema {
    Schema::from_crd(
        &json!({"type": "object", "properties": {"spec": spec}}),
        "schema",
    )
    .unwrap()
}

#[track_caller]
fn check(spec: Value, value: Value, want: &[&str]) {
    let found: Vec<String> = schema(spec)
        .validate(&json!({"spec": value}), None)
        .iter()
        .map(FieldError::to_string)
        .collect();
    assert_eq!(found, want);
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn types_are_checked() {
    let replicas = || object(json!({"replicas": {"type": "integer"}}));
    check(replicas(), json!({"replicas": 3}), &[]);
    check(replicas(), json!({"replicas": 3.0}), &[]);
    check(
        replicas(),
        json!({"replicas": "three"}),
        &[
            r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
        ],
    );
    check(
        replicas(),
        json!({"replicas": null}),
        &[
            r#"spec.replicas: Invalid value: "null": spec.replicas in body must be of type integer: "null""#,
        ],
    );
    check(
        replicas(),
        json!([]),
        &[r#"spec: Invalid value: "array": spec in body must be of type object: "array""#],
    );
    check(
        object(json!({"n": {"type": "string", "nullable": true}})),
        json!({"n": null}),
        &[],
    );
    let port = || object(json!({"port": {"x-kubernetes-int-or-string": true}}));
    check(port(), json!({"port": "http"}), &[]);
    check(
        port(),
        json!({"port": true}),
        &[
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ],
    );
}

#[test]
fn required_fields_are_named() {
    let mut spec = object(json!({"hosts": {"type": "array", "items": {"type": "string"}}}));
    spec["required"] = json!(["hosts"]);
    check(spec, json!({}), &["spec.hosts: Required value"]);
}

#[test]
fn ranges_lengths_and_patterns_are_checked() {
    let of = |schema: Value| object(json!({"f": schema}));
    check(
        of(json!({"type": "integer", "minimum": 1, "maximum": 5})),
        json!({"f": 0}),
        &["spec.f: Invalid value: 0: spec.f in body should be greater than or equal to 1"],
    );
    check(
        of(json!({"type": "number", "maximum": 5, "exclusiveMaximum": true})),
        json!({"f": 5}),
        &["spec.f: Invalid value: 5: spec.f in body should be less than 5"],
    );
    check(
        of(json!({"type": "integer", "multipleOf": 5})),
        json!({"f": 7}),
        &["spec.f: Invalid value: 7: spec.f in body should be a multiple of 5"],
    );
    check(
        of(json!({"type": "integer", "format": "int32"})),
        json!({"f": 3_000_000_000_i64}),
        &[
            r#"spec.f: Invalid value: 3000000000: spec.f in body must be of type int32: "3000000000""#,
        ],
    );
    check(
        of(json!({"type": "string", "minLength": 1})),
        json!({"f": ""}),
        &[r#"spec.f: Invalid value: "": spec.f in body should be at least 1 chars long"#],
    );
    check(
        of(json!({"type": "string", "maxLength": 2})),
        json!({"f": "abc"}),
        &["spec.f: Too long: may not be more than 2 bytes"],
    );
    check(
        of(json!({"type": "string", "pattern": "^[a-z]+$"})),
        json!({"f": "A"}),
        &[r#"spec.f: Invalid value: "A": spec.f in body should match '^[a-z]+$'"#],
    );
    check(
        of(json!({"type": "string", "format": "ipv4"})),
        json!({"f": "x"}),
        &[r#"spec.f: Invalid value: "x": spec.f in body must be of type ipv4: "x""#],
    );
    check(
        of(json!({"type": "string", "enum": ["A", "B"]})),
        json!({"f": "C"}),
        &[r#"spec.f: Unsupported value: "C": supported values: "A", "B""#],
    );
    check(
        of(json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}})),
        json!({"f": [1, 2]}),
        &["spec.f: Too many: 2: must have at most 1 items"],
    );
    check(
        of(json!({"type": "array", "minItems": 1, "items": {"type": "integer"}})),
        json!({"f": []}),
        &["spec.f: Invalid value: []: spec.f in body should have at least 1 items"],
    );
    check(
        of(
            json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}}),
        ),
        json!({"f": {"a": "", "b": ""}}),
        &[
            r#"spec.f: Invalid value: {"a":"","b":""}: spec.f in body should have at most 1 properties"#,
        ],
    );
}

#[test]
fn nested_paths_are_exact() {
    let spec = object(
        json!({"servers": {"type": "array", "items": object(json!({"labels": {"type": "object", "additionalProperties": {"type": "string"}}}))}}),
    );
    check(
        spec,
        json!({"servers": [{}, {"labels": {"a.b/c": 1}}]}),
        &[
            r#"spec.servers[1].labels.a.b/c: Invalid value: "integer": spec.servers[1].labels.a.b/c in body must be of type string: "integer""#,
        ],
    );
}

#[test]
fn set_and_map_lists_refuse_duplicates() {
    let set = object(
        json!({"s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}),
    );
    check(
        set,
        json!({"s": ["a", "b", "a"]}),
        &[r#"spec.s[2]: Duplicate value: "a""#],
    );
    let map = object(
        json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
        "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}}}),
    );
    check(
        map,
        json!({"l": [{"port": 1, "protocol": "TCP"}, {"port": 1}]}),
        &[r#"spec.l[1]: Duplicate value: {"port":1,"protocol":"TCP"}"#],
    );
}

/// How Istio's CRDs say "at most one of".
#[test]
fn one_of_with_not_any_of_means_at_most_one() {
    let mut spec = object(
        json!({"simple": {"type": "string"}, "consistentHash": {"type": "object", "properties": {}}}),
    );
    spec["oneOf"] = json!([
        {"not": {"anyOf": [{"required": ["simple"]}, {"required": ["consistentHash"]}]}},
        {"required": ["simple"]},
        {"required": ["consistentHash"]},
    ]);
    check(spec.clone(), json!({}), &[]);
    check(spec.clone(), json!({"simple": "RANDOM"}), &[]);
    check(
        spec,
        json!({"simple": "RANDOM", "consistentHash": {}}),
        &[
            r#"spec: Invalid value: {"simple":"RANDOM","consistentHash":{}}: "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
        ],
    );
}

#[test]
fn junctors_are_checked() {
    let mut spec = object(json!({"a": {"type": "integer"}, "b": {"type": "string"}}));
    spec["anyOf"] = json!([{"required": ["a"]}, {"required": ["b"]}]);
    check(
        spec,
        json!({}),
        &[r#"spec: Invalid value: {}: "spec" must validate at least one schema (anyOf)"#],
    );
    let mut spec = object(json!({"a": {"type": "integer"}}));
    spec["not"] = json!({"required": ["a"]});
    check(
        spec,
        json!({"a": 1}),
        &[r#"spec: Invalid value: {"a":1}: "spec" must not validate the schema (not)"#],
    );
    let mut spec = object(json!({"a": {"type": "integer"}}));
    spec["allOf"] = json!([{"properties": {"a": {"minimum": 3}}}]);
    check(
        spec,
        json!({"a": 1}),
        &["spec.a: Invalid value: 1: spec.a in body should be greater than or equal to 3"],
    );
}

#[test]
fn what_was_invalid_and_is_unchanged_may_stay() {
    let schema = schema(object(
        json!({"a": {"type": "integer", "minimum": 3}, "b": {"type": "integer", "minimum": 3}}),
    ));
    let old = json!({"spec": {"a": 1}});
    assert_eq!(
        schema.validate(&json!({"spec": {"a": 1, "b": 4}}), Some(&old)),
        vec![]
    );
    let errors = schema.validate(&json!({"spec": {"a": 2, "b": 4}}), Some(&old));
    assert_eq!(errors.len(), 1, "a changed, and is still too small");
}

#[test]
fn schemas_that_are_not_structural_are_refused_by_path() {
    let check = |schema: Value, want: &[&str]| {
        let errors = Schema::from_crd(&schema, "openAPIV3Schema").unwrap_err();
        let found: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(found, want);
    };
    check(
        json!({"type": "string"}),
        &[r#"openAPIV3Schema.type: Invalid value: "string": must be object at the root"#],
    );
    check(
        json!({"type": "object", "properties": {"spec": {"properties": {}}}}),
        &[
            "openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ],
    );
    check(
        json!({"type": "object", "properties": {"l": {"type": "array"}}}),
        &["openAPIV3Schema.properties[l].items: Required value: must be specified"],
    );
    check(
        json!({"type": "object", "properties": {"x": {"$ref": "#/definitions/y"}}}),
        &[
            "openAPIV3Schema.properties[x].$ref: Forbidden: $ref is not supported",
            "openAPIV3Schema.properties[x].type: Required value: must not be empty for specified object fields",
        ],
    );
    check(
        json!({"type": "object", "properties": {"x": {"type": "string", "pattern": "("}}}),
        &[
            "openAPIV3Schema.properties[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: regex parse error:\n    (\n    ^\nerror: unclosed group",
        ],
    );
    check(
        json!({"type": "object", "anyOf": [{"properties": {"y": {"type": "string"}}}]}),
        &[
            "openAPIV3Schema.anyOf[0].properties[y]: Required value: because it is used in openAPIV3Schema.anyOf[0].properties[y], it must be declared in properties",
        ],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
        &[
            r#"openAPIV3Schema.properties[a].default: Invalid value: "x": must be a valid default: Invalid value: "string":  in body must be of type integer: "string""#,
        ],
    );
    check(
        json!({"type": "object", "properties": {"a": {"type": "string", "maxLen": 3}}}),
        &["openAPIV3Schema.properties[a].maxLen: Invalid value: 3: unknown schema keyword"],
    );
    check(
        json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
        &[
            "openAPIV3Schema.properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ],
    );
}

#[test]
fn metadata_may_be_restricted() {
    let schema = Schema::from_crd(
        &json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "enum": ["default"]}}}}}),
        "schema",
    )
    .unwrap();
    let errors = schema.validate(
        &json!({"metadata": {"name": "other", "labels": {"a": "b"}}}),
        None,
    );
    assert_eq!(
        errors[0].to_string(),
        r#"metadata.name: Unsupported value: "other": supported values: "default""#
    );
    assert_eq!(
        schema.validate(&json!({"metadata": {"name": "default"}}), None),
        vec![]
    );
}
