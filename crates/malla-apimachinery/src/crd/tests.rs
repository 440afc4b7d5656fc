//! CRDs of several versions, and what is wrong with bad ones.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{convert, establish, kinds};
use crate::builtin;
use crate::error::FieldError;
use crate::kind::FieldValidation;

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}, "color": {"type": "string", "default": "red"}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}}})
}

fn crd() -> Value {
    let mut old = version("v1alpha1", false);
    old["deprecated"] = json!(true);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["w"], "categories": ["all"]},
            "versions": [version("v1", true), old]}})
}

#[test]
fn each_version_is_a_kind() {
    let kinds = kinds(&crd()).unwrap();
    let [new, old] = kinds.as_slice() else {
        panic!("two versions")
    };
    assert_eq!(
        (new.api_version().as_str(), new.group_resource().as_str()),
        ("example.com/v1", "widgets.example.com")
    );
    assert_eq!(
        (new.singular.as_str(), new.list_kind.as_str()),
        ("widget", "WidgetList")
    );
    assert!(new.storage && new.status && new.namespaced && new.custom && !old.storage);
    assert_eq!(
        new.scale.as_ref().map(|scale| scale.spec_replicas.as_str()),
        Some(".spec.size")
    );
    assert_eq!(
        old.deprecation.as_deref(),
        Some("example.com/v1alpha1 Widget is deprecated")
    );
    let mut object = json!({"apiVersion": "example.com/v1", "spec": {}});
    convert(&mut object, old);
    assert_eq!(object["apiVersion"], "example.com/v1alpha1");
}

#[test]
fn custom_objects_live_by_their_schema() {
    let kind = kinds(&crd()).unwrap().remove(0);
    let mut object = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"sise": 3}});
    let error = kind
        .decode(&mut object.clone(), FieldValidation::Strict)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "spec.sise""#
    );
    assert_eq!(
        kind.decode(&mut object, FieldValidation::Warn).unwrap(),
        [r#"unknown field "spec.sise""#]
    );
    kind.default_object(&mut object);
    assert_eq!(object["spec"], json!({"color": "red"}));
    let found: Vec<String> = kind
        .validate_create(&object)
        .iter()
        .map(FieldError::to_string)
        .collect();
    assert_eq!(found, ["spec.size: Required value"]);
}

#[test]
fn establishing_fills_the_status_once() {
    let mut crd = crd();
    establish(&mut crd, Timestamp::UNIX_EPOCH);
    let first = crd.clone();
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["plural"], "widgets");
    let types: Vec<&Value> = crd["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["type"])
        .collect();
    assert_eq!(types, ["NamesAccepted", "Established"]);
    establish(&mut crd, Timestamp::MAX);
    assert_eq!(crd, first, "conditions that hold keep their time");
}

#[track_caller]
fn check(change: fn(&mut Value), want: &[&str]) {
    let mut crd = crd();
    change(&mut crd);
    let kind = builtin::kinds()
        .into_iter()
        .find(|kind| kind.kind == "CustomResourceDefinition")
        .unwrap();
    assert_eq!(kind.decode(&mut crd, FieldValidation::Strict), Ok(vec![]));
    kind.default_object(&mut crd);
    let found: Vec<String> = kind
        .validate_create(&crd)
        .iter()
        .map(FieldError::to_string)
        .collect();
    assert_eq!(found, want);
}

#[test]
fn bad_definitions_are_refused() {
    check(|_| {}, &[]);
    check(
        |crd| crd["metadata"]["name"] = json!("widget.example.com"),
        &[
            r#"metadata.name: Invalid value: "widget.example.com": must be spec.names.plural+"."+spec.group"#,
        ],
    );
    check(
        |crd| crd["spec"]["scope"] = json!("Global"),
        &[r#"spec.scope: Unsupported value: "Global": supported values: "Cluster", "Namespaced""#],
    );
    check(
        |crd| {
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
                json!([{"rule": "self.nope("}])
        },
        &[&bad_rule()],
    );
    check(
        |crd| {
            crd["spec"]["versions"][1]["additionalPrinterColumns"] =
                json!([{"name": "A", "type": "text", "jsonPath": "spec"}])
        },
        &[
            r#"spec.versions[1].additionalPrinterColumns[0].type: Unsupported value: "text": supported values: "boolean", "date", "integer", "number", "string""#,
            r#"spec.versions[1].additionalPrinterColumns[0].jsonPath: Invalid value: "spec": unrecognized character in path: "spec""#,
        ],
    );
    check(
        |crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        &[r#"spec.conversion.strategy: Unsupported value: "Webhook": supported values: "None""#],
    );
}

/// The text of the CEL parser is its own; what we promise is the path and the rule.
fn bad_rule() -> String {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [{"rule": "self.nope("}]}}});
    let errors =
        crate::schema::Schema::from_crd(&schema, "spec.versions[0].schema.openAPIV3Schema")
            .unwrap_err();
    let text = errors[0].to_string();
    assert!(text.starts_with(r#"spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: "self.nope(": compilation failed"#));
    text
}

#[test]
fn stored_versions_must_stay() {
    let kind = builtin::kinds()
        .into_iter()
        .find(|kind| kind.kind == "CustomResourceDefinition")
        .unwrap();
    let mut old = crd();
    establish(&mut old, Timestamp::UNIX_EPOCH);
    let mut new = old.clone();
    new["spec"]["versions"] = json!([version("v2", true)]);
    let found: Vec<String> = kind
        .validate_update(&new, &old)
        .iter()
        .map(|error| error.path.clone())
        .collect();
    assert_eq!(found, ["status.storedVersions[0]"]);
}
