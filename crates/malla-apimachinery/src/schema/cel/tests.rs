//! CEL rules, as users write them in CRDs.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::schema::Schema;

fn schema(spec: Value) -> Result<Schema, Vec<FieldError>> {
    Schema::from_crd(
        &json!({"type": "object", "properties": {"spec": spec}}),
        "schema",
    )
}

fn with_rules(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

#[track_caller]
fn check(spec: Value, new: Value, old: Option<Value>, want: &[&str]) {
    let schema = schema(spec).unwrap();
    let old = old.map(|old| json!({"spec": old}));
    let found: Vec<String> = schema
        .validate(&json!({"spec": new}), old.as_ref())
        .iter()
        .map(FieldError::to_string)
        .collect();
    assert_eq!(found, want);
}

#[test]
fn rules_hold_or_say_why() {
    let properties = json!({"min": {"type": "integer"}, "max": {"type": "integer"}});
    let plain = with_rules(
        properties.clone(),
        json!([{"rule": "self.min <= self.max"}]),
    );
    check(plain.clone(), json!({"min": 1, "max": 2}), None, &[]);
    check(
        plain.clone(),
        json!({"min": 3, "max": 2}),
        None,
        &[r#"spec: Invalid value: "object": failed rule: self.min <= self.max"#],
    );
    check(
        plain,
        json!({"min": 3}),
        None,
        &[
            r#"spec: Invalid value: "object": No such key: max evaluating rule: self.min <= self.max"#,
        ],
    );
    let message = with_rules(
        properties.clone(),
        json!([{"rule": "self.min <= self.max", "message": "min must not exceed max"}]),
    );
    check(
        message,
        json!({"min": 3, "max": 2}),
        None,
        &[r#"spec: Invalid value: "object": min must not exceed max"#],
    );
    let computed = with_rules(
        properties,
        json!([{"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' exceeds max'", "fieldPath": ".min", "reason": "FieldValueForbidden"}]),
    );
    check(
        computed,
        json!({"min": 3, "max": 2}),
        None,
        &["spec.min: Forbidden: min 3 exceeds max"],
    );
}

#[test]
fn rules_stand_at_any_depth() {
    let spec = json!({"type": "object", "properties": {
        "hosts": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}},
        "map": {"type": "object", "additionalProperties": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}},
    }});
    check(
        spec,
        json!({"hosts": ["a", "b"], "map": {"x": 1, "y": 0}}),
        None,
        &[
            r#"spec.hosts[1]: Invalid value: "string": failed rule: self.startsWith('a')"#,
            r#"spec.map.y: Invalid value: "integer": failed rule: self > 0"#,
        ],
    );
}

/// The kinds of rules that Istio's and the Gateway API's CRDs carry.
#[test]
fn rules_of_the_mesh_kinds_run() {
    let check_rule = |properties: Value, rule: &str, good: Value, bad: Value| {
        let spec = || with_rules(properties.clone(), json!([{"rule": rule, "message": "no"}]));
        check(spec(), good, None, &[]);
        check(spec(), bad, None, &[r#"spec: Invalid value: "object": no"#]);
    };
    let text = json!({"type": "string"});
    check_rule(
        json!({"selector": {"type": "object", "properties": {}}, "targetRef": {"type": "object", "properties": {}}}),
        "(has(self.selector)?1:0)+(has(self.targetRef)?1:0)<=1",
        json!({"selector": {}}),
        json!({"selector": {}, "targetRef": {}}),
    );
    check_rule(
        json!({"t": text}),
        "duration(self.t) >= duration('1ms')",
        json!({"t": "5s"}),
        json!({"t": "1us"}),
    );
    check_rule(
        json!({"u": text}),
        "isURL(self.u) && url(self.u).getScheme() in ['http', 'https']",
        json!({"u": "https://a"}),
        json!({"u": "ftp://a"}),
    );
    check_rule(
        json!({"l": {"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {"name": text}}}}),
        "self.l.all(x, self.l.exists_one(y, x.name == y.name))",
        json!({"l": [{"name": "a"}, {"name": "b"}]}),
        json!({"l": [{"name": "a"}, {"name": "a"}]}),
    );
    check_rule(
        json!({"h": text}),
        "self.h.matches('^[a-z.]+$') && self.h.size() < 10",
        json!({"h": "a.b"}),
        json!({"h": "A"}),
    );
    check_rule(
        json!({"w": {"type": "number"}}),
        "self.w >= 0.0 && self.w <= 100.0",
        json!({"w": 7}),
        json!({"w": 101}),
    );
    check_rule(
        json!({"namespace": text, "x-y": text}),
        "self.__namespace__ == 'a' && self.x__dash__y == 'b'",
        json!({"namespace": "a", "x-y": "b"}),
        json!({"namespace": "b", "x-y": "b"}),
    );
    check_rule(
        json!({"t": {"type": "string", "format": "date-time"}}),
        "self.t > timestamp('2020-01-01T00:00:00Z')",
        json!({"t": "2021-01-01T00:00:00Z"}),
        json!({"t": "2019-01-01T00:00:00Z"}),
    );
    check_rule(
        json!({"p": {"x-kubernetes-int-or-string": true}}),
        "type(self.p) == int ? self.p > 0 : self.p != ''",
        json!({"p": 1}),
        json!({"p": ""}),
    );
}

#[test]
fn transition_rules_need_the_old_value() {
    let spec = with_rules(
        json!({"n": {"type": "integer"}}),
        json!([{"rule": "self.n >= oldSelf.n", "message": "cannot shrink"}]),
    );
    check(spec.clone(), json!({"n": 1}), None, &[]);
    check(spec.clone(), json!({"n": 2}), Some(json!({"n": 1})), &[]);
    check(
        spec,
        json!({"n": 1}),
        Some(json!({"n": 2})),
        &[r#"spec: Invalid value: "object": cannot shrink"#],
    );
    let optional = with_rules(
        json!({"n": {"type": "integer"}}),
        json!([{"rule": "oldSelf.hasValue() || self.n == 0", "optionalOldSelf": true, "message": "must start at 0"}]),
    );
    check(
        optional.clone(),
        json!({"n": 1}),
        None,
        &[r#"spec: Invalid value: "object": must start at 0"#],
    );
    check(optional, json!({"n": 1}), Some(json!({"n": 0})), &[]);
}

#[test]
fn old_entries_are_found_by_their_keys() {
    let spec = json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
        "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "v": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v", "message": "v is immutable"}]}}}});
    check(
        spec,
        json!({"l": [{"id": "b", "v": 2}, {"id": "a", "v": 9}, {"id": "new", "v": 0}]}),
        Some(json!({"l": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]})),
        &[r#"spec.l[1]: Invalid value: "object": v is immutable"#],
    );
}

#[test]
fn unchanged_values_are_not_judged_again() {
    let spec = with_rules(
        json!({"n": {"type": "integer"}}),
        json!([{"rule": "self.n > 5"}]),
    );
    check(spec, json!({"n": 1}), Some(json!({"n": 1})), &[]);
}

#[test]
fn rules_wait_for_valid_values() {
    let spec = with_rules(
        json!({"n": {"type": "integer"}}),
        json!([{"rule": "self.n > 5"}]),
    );
    check(
        spec,
        json!({"n": "x"}),
        None,
        &[
            r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#,
            r#"<nil>: Invalid value: "null": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"#,
        ],
    );
}

#[track_caller]
fn refused(rules: Value, want: &str) {
    let spec = with_rules(
        json!({"n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}}}),
        rules,
    );
    let errors = schema(spec).unwrap_err();
    let text = errors[0].to_string();
    assert!(text.contains(want), "{text} should contain {want}");
}

#[test]
fn rules_that_do_not_compile_are_refused_by_name() {
    refused(
        json!([{"rule": "self.n >"}]),
        "schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: \"self.n >\": compilation failed",
    );
    refused(
        json!([{"rule": "other.n > 1"}]),
        "undeclared reference to 'other'",
    );
    refused(
        json!([{"rule": "frobnicate(self.n)"}]),
        "undeclared reference to 'frobnicate'",
    );
    refused(json!([{"rule": "Foo{a: 1} == self"}]), "cannot be built");
    refused(json!([{"rule": ""}]), "rule is not specified");
    refused(
        json!([{"rule": "true", "reason": "Because"}]),
        "supported values",
    );
    refused(
        json!([{"rule": "true", "messageExpression": "'a' +"}]),
        "messageExpression: Invalid value",
    );
    refused(json!([{"rule": "true", "message": "a\nb"}]), "line breaks");
}

#[test]
fn old_self_needs_a_place_where_old_values_can_be_found() {
    let spec = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let errors = schema(spec).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .contains("oldSelf cannot be used on the uncorrelatable portion"),
        "{}",
        errors[0]
    );
}

#[test]
fn hostile_expressions_are_errors_not_crashes() {
    let deep = |open: &str, close: &str, count: usize| {
        format!("{}1{} == 1", open.repeat(count), close.repeat(count))
    };
    for rule in [
        deep("(", ")", 500),
        deep("[", "]", 500),
        deep("{1:", "}", 500),
        format!("{}true", "!".repeat(7000)),
        format!("{}1 == 1", "-".repeat(7000)),
        "1 + ".repeat(1500) + "1 == 1",
        "true || ".repeat(900) + "true",
        "self.a".to_owned() + &".a".repeat(3000),
        "true ? true : ".repeat(490) + "true",
        "a".repeat(100_000),
        "\u{0}\u{1}".to_owned(),
        "'".to_owned(),
    ] {
        let spec = with_rules(json!({"n": {"type": "integer"}}), json!([{"rule": rule}]));
        // Either refused when compiled or decided when run; what matters is to come back.
        if let Ok(schema) = schema(spec) {
            schema.validate(&json!({"spec": {"n": 1}}), None);
        }
    }
}

#[test]
fn expensive_rules_fail_instead_of_running() {
    let spec = with_rules(
        json!({"l": {"type": "array", "items": {"type": "string"}}}),
        json!([{"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c != 'x')))"}]),
    );
    let many: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    check(
        spec,
        json!({"l": many}),
        None,
        &[
            r#"spec: Invalid value: "object": validation failed due to running out of cost budget, no further validation rules will be run"#,
        ],
    );
}

#[test]
fn every_declared_function_exists() {
    let context = super::context();
    for name in super::program::FUNCTIONS
        .iter()
        .filter(|name| !super::program::MACROS.contains(name))
    {
        let program = super::program::Checked::compile(&format!("{name}()")).unwrap();
        if let Err(problem) = program.execute(&context) {
            assert!(!problem.contains("Undeclared"), "{name}: {problem}");
        }
    }
}

#[test]
fn chains_of_conditions_parse() {
    for length in [1, 5, 20, 60] {
        let rule = "false ? false : ".repeat(length) + "self.n == 1";
        let spec = with_rules(json!({"n": {"type": "integer"}}), json!([{"rule": rule}]));
        check(spec, json!({"n": 1}), None, &[]);
    }
}
