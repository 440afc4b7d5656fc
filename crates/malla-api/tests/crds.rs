//! The CRDs are what we mean to serve, and what an API server takes.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

use expect_test::expect_file;
use malla_api::crds;
use serde_json::Value;

/// Calls `visit` with every schema of a CRD and its path.
fn visit(schema: &Value, path: &str, visit_one: &mut impl FnMut(&str, &Value)) {
    visit_one(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        visit(inner, &format!("{path}.{name}"), visit_one);
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            visit(&schema[keyword], &format!("{path}[]"), visit_one);
        }
    }
}

fn schemas(mut each: impl FnMut(&str, &Value)) {
    for crd in crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        visit(&versions[0]["schema"]["openAPIV3Schema"], kind, &mut each);
    }
}

/// One line for each field: what an API server enforces, without the prose.
#[test]
fn the_fields_are_as_blessed() {
    let mut lines = String::new();
    schemas(|path, schema| {
        let mut facts = schema.as_object().unwrap().clone();
        for prose in ["description", "properties", "items", "additionalProperties"] {
            facts.remove(prose);
        }
        facts.sort_keys();
        lines += &format!("{path} {}\n", Value::Object(facts));
    });
    expect_file!["golden/fields.txt"].assert_eq(&lines);
}

#[test]
fn one_crd_is_as_blessed_in_full() {
    let text =
        serde_json::to_string_pretty(&malla_api::crd::crd(malla_api::Kind::PeerAuthentication))
            .unwrap();
    expect_file!["golden/peerauthentication.json"].assert_eq(&(text + "\n"));
}

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
#[test]
fn every_schema_is_structural() {
    schemas(|path, schema| {
        let int_or_string = schema["x-kubernetes-int-or-string"] == true;
        assert!(
            schema["type"].is_string() || int_or_string,
            "{path} has no type: {schema}"
        );
        assert!(
            !(schema["properties"].is_object() && schema["additionalProperties"].is_object()),
            "{path}"
        );
        for keyword in [
            "$ref",
            "definitions",
            "const",
            "default",
            "title",
            "nullable_",
        ] {
            assert!(schema.get(keyword).is_none(), "{path} has {keyword}");
        }
        if let Some(format) = schema.get("format") {
            let known = ["int32", "double", "byte", "date-time", "duration"];
            assert!(known.contains(&format.as_str().unwrap()), "{path} {format}");
        }
        if path.contains(".spec") {
            assert!(
                schema["description"].is_string() || path.ends_with(']'),
                "{path} has no description"
            );
        }
    });
}

#[test]
fn every_rule_compiles() {
    let mut rules = 0;
    schemas(|path, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = rule["rule"].as_str().unwrap();
            let compiled = kube_cel::cel::Program::compile(text);
            assert!(compiled.is_ok(), "{path}: {text}: {:?}", compiled.err());
            rules += 1;
        }
    });
    assert!(rules > 100, "{rules}");
}
