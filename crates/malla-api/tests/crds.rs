//! The CRDs are what we mean to serve, and what an API server takes.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

mod support;

use expect_test::expect_file;
use malla_api::{Kind, crds};
use serde_json::{Value, json};
use support::yaml;

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

/// What the embedded API server says of an object: its schema, its choices and its CEL rules.
fn served(kind: Kind, spec: &str) -> Vec<String> {
    support::served(&malla_api::crd::crd(kind), spec)
}

#[test]
fn the_api_server_enforces_the_rules() {
    for (kind, good, bad, part) in [
        (
            Kind::VirtualService,
            "{hosts: [a], http: [{timeout: 7000ms, route: [{destination: {host: a}}]}]}",
            "{hosts: [a], http: [{timeout: 1us, route: [{destination: {host: a}}]}]}",
            "at least 1ms",
        ),
        (
            Kind::VirtualService,
            "{hosts: [a], http: [{match: [{uri: {exact: /a}}]}]}",
            "{hosts: [a], http: [{match: [{uri: {exact: /a, prefix: /b}}]}]}",
            "spec.http[0].match[0].uri",
        ),
        (
            Kind::VirtualService,
            "{hosts: [a]}",
            "{hosts: [a], fault: {}}",
            "unknown field \"spec.fault\" (did you mean \"spec.http[].fault\"?)",
        ),
        (
            Kind::DestinationRule,
            "{host: a, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 0s}}}}",
            "{trafficPolicy: {}}",
            "spec.host",
        ),
        (
            Kind::PeerAuthentication,
            "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}}}",
            "{portLevelMtls: {80: {mode: STRICT}}}",
            "portLevelMtls requires selector",
        ),
        (
            Kind::ServiceEntry,
            "{hosts: [a.com], resolution: STATIC, endpoints: [{address: 1.2.3.4}]}",
            "{hosts: [a.com], endpoints: [{address: 1.2.3.4}]}",
            "NONE mode cannot set endpoints",
        ),
        (
            Kind::AuthorizationPolicy,
            "{selector: {matchLabels: {app: a}}}",
            "{selector: {matchLabels: {app: a*}}}",
            "wildcard not allowed in label value match",
        ),
        (
            Kind::RequestAuthentication,
            "{jwtRules: [{issuer: a, jwksUri: 'https://a.com/keys'}]}",
            "{jwtRules: [{issuer: a, jwksUri: 'ftp://a.com/keys'}]}",
            "url must have scheme http:// or https://",
        ),
        (
            Kind::Telemetry,
            "{tracing: [{randomSamplingPercentage: 1.5}]}",
            "{tracing: [{randomSamplingPercentage: 101}]}",
            "randomSamplingPercentage",
        ),
        (
            Kind::WasmPlugin,
            "{url: 'oci://a/b', pluginConfig: {any: {thing: 1}}}",
            "{url: 'gopher://a/b'}",
            "url must have schema one of",
        ),
    ] {
        assert_eq!(served(kind, good), [""; 0], "{kind} {good}");
        let refusal = served(kind, bad).join("; ");
        assert!(refusal.contains(part), "{kind} {bad}: {refusal:?}");
    }
}

/// The schema that is served and the one that is validated against are the same, so what the API
/// server takes for malformed, validation does too.
#[test]
fn validation_is_no_laxer_than_the_api_server() {
    for (kind, bad) in [
        (
            Kind::VirtualService,
            "{hosts: [a], http: [{timeout: 1us, route: [{destination: {host: a}}]}]}",
        ),
        (Kind::DestinationRule, "{trafficPolicy: {}}"),
        (
            Kind::ServiceEntry,
            "{hosts: [a.com], endpoints: [{address: 1.2.3.4}]}",
        ),
        (
            Kind::Telemetry,
            "{tracing: [{randomSamplingPercentage: 101}]}",
        ),
    ] {
        let object = json!({"metadata": {"name": "web"}, "spec": yaml(bad)});
        assert!(
            !malla_api::validate(kind, &object).is_valid(),
            "{kind} {bad}"
        );
    }
}
