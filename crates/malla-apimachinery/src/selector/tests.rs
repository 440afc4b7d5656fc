//! Selectors match as in Kubernetes.

use serde_json::{Value, json};

use super::{FieldSelector, LabelSelector};

#[track_caller]
fn check(selector: &str, labels: Value, want: bool) {
    let parsed = LabelSelector::parse(selector).unwrap();
    assert_eq!(
        parsed.matches(Some(&labels)),
        want,
        "{selector} on {labels}"
    );
    assert_eq!(
        LabelSelector::parse(&parsed.to_string()).unwrap(),
        parsed,
        "{selector} prints as {parsed}"
    );
}

#[test]
fn label_selectors_match_as_in_kubernetes() {
    check("", json!({}), true);
    check("a=b", json!({"a": "b"}), true);
    check("a==b,c=d", json!({"a": "b"}), false);
    check("a!=b", json!({}), true);
    check("a!=b", json!({"a": "b"}), false);
    check("a in (x, y)", json!({"a": "y"}), true);
    check("a in (x,)", json!({"a": ""}), true);
    check("a notin (x,y),b", json!({"b": ""}), true);
    check("!a", json!({"a": ""}), false);
    check("a", json!({"a": ""}), true);
    check("a>3", json!({"a": "4"}), true);
    check("a<3", json!({"a": "x"}), false);
    check(
        "example.com/role = web",
        json!({"example.com/role": "web"}),
        true,
    );
    check("a=", json!({"a": ""}), true);
    check("in in (in)", json!({"in": "in"}), true);
}

#[test]
fn malformed_label_selectors_are_refused() {
    for text in [
        "a in (x",
        "a in x)",
        "a=b c",
        "a b",
        "a,,b",
        "a/b/c=d",
        "a~b",
        "a in ((x))",
        "!",
        "=x",
        "a in (x) y",
        "a!b",
    ] {
        assert!(LabelSelector::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_object_form_means_the_same() {
    let selector = json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["db"]},
            {"key": "v", "operator": "Exists"},
        ],
    });
    let selector = LabelSelector::from_object(&selector).unwrap();
    assert_eq!(selector.to_string(), "app=web,tier!=db,v");
    assert!(selector.matches(Some(&json!({"app": "web", "v": "1"}))));
    assert!(!selector.matches(None));
    assert!(
        LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]}))
            .is_err()
    );
}

#[test]
fn field_selectors_compare_text() {
    let pod = json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": true}, "status": {"phase": "Running"}});
    let check = |text: &str, want: bool| {
        assert_eq!(
            FieldSelector::parse(text).unwrap().matches(&pod),
            want,
            "{text}"
        )
    };
    check("metadata.name=a", true);
    check("metadata.name==b", false);
    check("status.phase!=Failed,spec.nodeName=", true);
    check("spec.hostNetwork=true", true);
    check("spec.unschedulable=false", true);
    assert!(FieldSelector::parse("status.phase").is_err());
    assert_eq!(
        FieldSelector::parse(r"type=a\,b").unwrap().required("type"),
        Some("a,b")
    );
    let error = FieldSelector::parse("x.y=1")
        .unwrap()
        .check(&[])
        .unwrap_err();
    assert_eq!(error.to_string(), "field label not supported: x.y");
}
