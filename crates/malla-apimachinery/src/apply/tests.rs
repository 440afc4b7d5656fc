//! Apply and update as users meet them, and the laws of ownership.

use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::{Value, json};

use super::managers::Managers;
use super::typed::{Shape, child, shape};
use super::{ApplyError, BEFORE_FIRST_APPLY, Manager, apply, set, update};
use crate::builtin;
use crate::kind::ResourceKind;
use crate::schema::Schema;
use crate::schema::node::Node;

/// Built once for all cases of all tests.
static KINDS: LazyLock<Vec<ResourceKind>> = LazyLock::new(builtin::kinds);

fn schema_of(kind: &str) -> Schema {
    let found = KINDS.iter().find(|candidate| candidate.kind == kind);
    found.unwrap().schema.clone()
}

fn manager(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "apps/v1",
        subresource: None,
        now: Timestamp::UNIX_EPOCH,
        ignored: &["status"],
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn creation_by_apply_owns_what_is_applied() {
    let schema = schema_of("Deployment");
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}});
    let object = apply(&schema, None, &config, &manager("me"), false).unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": "1970-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {r#"k:{"name":"c"}"#: {
                ".": {}, "f:image": {}, "f:name": {},
                "f:ports": {r#"k:{"containerPort":80,"protocol":"TCP"}"#: {".": {}, "f:containerPort": {}}},
            }}}}},
        }}])
    );
}

#[test]
fn creation_by_update_owns_parents_too() {
    let schema = schema_of("ConfigMap");
    let mut object =
        json!({"metadata": {"name": "x", "annotations": {"k": "v"}}, "data": {"a": "1"}});
    update(&schema, None, &mut object, &manager("kubectl"));
    assert_eq!(
        fields(&object, "kubectl"),
        json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:annotations": {".": {}, "f:k": {}}}})
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_owns_it() {
    let schema = schema_of("ConfigMap");
    let config = |data: Value| json!({"metadata": {"name": "x"}, "data": data});
    let first = apply(
        &schema,
        None,
        &config(json!({"a": "1", "b": "2", "c": "3"})),
        &manager("one"),
        false,
    )
    .unwrap();
    let shared = apply(
        &schema,
        Some(&first),
        &config(json!({"b": "2"})),
        &manager("two"),
        false,
    )
    .unwrap();
    let second = apply(
        &schema,
        Some(&shared),
        &config(json!({"a": "1"})),
        &manager("one"),
        false,
    )
    .unwrap();
    assert_eq!(
        second["data"],
        json!({"a": "1", "b": "2"}),
        "b is kept by two, c went"
    );
    let third = apply(
        &schema,
        Some(&second),
        &config(json!({})),
        &manager("two"),
        false,
    )
    .unwrap();
    assert_eq!(third["data"], json!({"a": "1"}));
    assert_eq!(fields(&third, "two"), json!({"f:data": {}}));
}

#[test]
fn a_removed_container_goes_whole_and_others_stay() {
    let schema = schema_of("Deployment");
    let config =
        |containers: Value| deployment(json!({"template": {"spec": {"containers": containers}}}));
    let both = config(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let mut live = apply(&schema, None, &both, &manager("me"), false).unwrap();
    // Defaults nobody owns, and a sidecar somebody else adds.
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let sidecar = config(json!([{"name": "proxy", "image": "p"}]));
    let live = apply(&schema, Some(&live), &sidecar, &manager("mesh"), false).unwrap();
    let one = config(json!([{"name": "a", "image": "2"}]));
    let result = apply(&schema, Some(&live), &one, &manager("me"), false).unwrap();
    let containers = result["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    let found: Vec<(&Value, &Value)> = containers
        .iter()
        .map(|one| (&one["name"], &one["image"]))
        .collect();
    assert_eq!(
        found,
        [(&json!("a"), &json!("2")), (&json!("proxy"), &json!("p"))]
    );
}

#[test]
fn conflicts_name_the_field_and_its_owner() {
    let schema = schema_of("Deployment");
    let mut live = deployment(json!({"replicas": 3, "paused": true}));
    update(
        &schema,
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
    );
    let error = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 5})),
        &manager("me"),
        false,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas"#
    );
    let status = error.status();
    assert_eq!(status["code"], 409);
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": r#"conflict with "kubectl-client-side-apply" using apps/v1"#, "field": ".spec.replicas"}])
    );
    let two = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 5, "paused": false})),
        &manager("me"),
        false,
    )
    .unwrap_err();
    assert_eq!(
        two.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn the_same_value_is_no_conflict_and_is_shared() {
    let schema = schema_of("Deployment");
    let live = apply(
        &schema,
        None,
        &deployment(json!({"replicas": 3})),
        &manager("one"),
        false,
    )
    .unwrap();
    let live = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 3})),
        &manager("two"),
        false,
    )
    .unwrap();
    assert_eq!(fields(&live, "one"), fields(&live, "two"));
    let error = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 4})),
        &manager("two"),
        false,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "one": .spec.replicas"#
    );
}

#[test]
fn force_takes_the_field() {
    let schema = schema_of("Deployment");
    let live = apply(
        &schema,
        None,
        &deployment(json!({"replicas": 3})),
        &manager("one"),
        false,
    )
    .unwrap();
    let live = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 4})),
        &manager("two"),
        true,
    )
    .unwrap();
    assert_eq!(live["spec"]["replicas"], 4);
    assert_eq!(fields(&live, "one"), Value::Null);
}

#[test]
fn updates_take_what_they_change_and_forget_what_they_remove() {
    let schema = schema_of("Deployment");
    let live = apply(
        &schema,
        None,
        &deployment(json!({"replicas": 3, "paused": true})),
        &manager("one"),
        false,
    )
    .unwrap();
    let mut scaled = live.clone();
    scaled["spec"] = json!({"replicas": 7});
    update(&schema, Some(&live), &mut scaled, &manager("hpa"));
    assert_eq!(
        fields(&scaled, "hpa"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    assert_eq!(fields(&scaled, "one"), Value::Null);
}

#[test]
fn the_main_endpoint_does_not_own_status() {
    let schema = schema_of("Deployment");
    let mut object = deployment(json!({"replicas": 1}));
    object["status"] = json!({"replicas": 1});
    update(&schema, None, &mut object, &manager("me"));
    assert_eq!(
        fields(&object, "me"),
        json!({"f:spec": {".": {}, "f:replicas": {}}})
    );
}

#[test]
fn moving_from_client_side_to_server_side_apply_works() {
    let schema = schema_of("Deployment");
    let config = deployment(json!({"replicas": 3}));
    let mut live = config.clone();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{config}\n")});
    update(
        &schema,
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
    );
    let next = deployment(json!({"replicas": 4}));
    let moved = apply(&schema, Some(&live), &next, &manager("kubectl"), false).unwrap();
    assert_eq!(moved["spec"]["replicas"], 4);
    assert_eq!(
        moved["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        format!("{next}\n")
    );
    assert!(
        apply(&schema, Some(&live), &next, &manager("other"), false).is_err(),
        "only kubectl may take over"
    );
}

#[test]
fn an_object_nobody_recorded_conflicts_with_before_first_apply() {
    let schema = schema_of("Deployment");
    let live = deployment(json!({"replicas": 3}));
    let error = apply(
        &schema,
        Some(&live),
        &deployment(json!({"replicas": 4})),
        &manager("me"),
        false,
    )
    .unwrap_err();
    assert!(
        matches!(&error, ApplyError::Conflict(found) if found[0].manager == r#""before-first-apply" using apps/v1"#)
    );
}

#[test]
fn before_first_apply_does_not_own_what_the_endpoint_does_not_write() {
    let schema = schema_of("Deployment");
    let mut live = deployment(json!({"replicas": 3}));
    live["status"] = json!({"replicas": 1});
    let config = deployment(json!({"paused": true}));
    let object = apply(&schema, Some(&live), &config, &manager("me"), false).unwrap();
    assert_eq!(
        fields(&object, BEFORE_FIRST_APPLY),
        json!({"f:spec": {"f:replicas": {}}})
    );
    // An object of which nobody wrote more than its status has no owners, however often nothing is applied to it.
    live.as_object_mut().unwrap().remove("spec");
    let nothing = json!({"metadata": {"name": "web"}});
    let once = apply(&schema, Some(&live), &nothing, &manager("me"), false).unwrap();
    let twice = apply(&schema, Some(&once), &nothing, &manager("me"), false).unwrap();
    assert_eq!(once, twice);
    assert_eq!(once["metadata"].get("managedFields"), None);
}

#[test]
fn defaults_inside_atomic_values_are_no_conflict() {
    let schema = schema_of("Deployment");
    let config = deployment(
        json!({"template": {"spec": {"containers": [{"name": "c", "env": [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}}}),
    );
    let mut live = config.clone();
    schema.default(&mut live);
    update(
        &schema,
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
    );
    let applied = apply(&schema, Some(&live), &config, &manager("me"), false).unwrap();
    assert_eq!(applied["spec"], live["spec"]);
}

#[test]
fn malformed_lists_are_refused() {
    let schema = schema_of("Deployment");
    let check = |containers: Value, want: &str| {
        let config = deployment(json!({"template": {"spec": {"containers": containers}}}));
        assert_eq!(
            apply(&schema, None, &config, &manager("me"), false)
                .unwrap_err()
                .to_string(),
            want
        );
    };
    check(
        json!([{"image": "x"}]),
        r#"failed to create typed patch object: .spec.template.spec.containers: element 0: associative list with keys has an element that omits key field "name" (and doesn't have default value)"#,
    );
    check(
        json!([{"name": "x"}, {"name": "x"}]),
        r#"failed to create typed patch object: .spec.template.spec.containers: duplicate entries for key [name="x"]"#,
    );
}

#[test]
fn clients_may_reset_or_edit_managed_fields() {
    let schema = schema_of("ConfigMap");
    let live = apply(
        &schema,
        None,
        &json!({"metadata": {"name": "x"}, "data": {"a": "1"}}),
        &manager("one"),
        false,
    )
    .unwrap();
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    update(&schema, Some(&live), &mut reset, &manager("admin"));
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let mut dropped = live.clone();
    dropped["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    update(&schema, Some(&live), &mut dropped, &manager("admin"));
    assert_eq!(dropped, live, "leaving managedFields out keeps them");
}

#[test]
fn custom_kinds_say_how_they_merge() {
    let schema = Schema::from_crd(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}}),
        "schema",
    )
    .unwrap();
    let object = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let one = object(
        json!({"atomic": {"a": "1"}, "list": [{"id": "x", "v": 1}], "set": ["p"], "plain": ["p"], "free": {"deep": {"a": 1}}}),
    );
    let live = apply(&schema, None, &one, &manager("one"), false).unwrap();
    assert_eq!(
        fields(&live, "one"),
        json!({"f:spec": {
            "f:atomic": {}, "f:free": {"f:deep": {".": {}, "f:a": {}}}, "f:list": {r#"k:{"id":"x"}"#: {".": {}, "f:id": {}, "f:v": {}}},
            "f:plain": {}, "f:set": {r#"v:"p""#: {}},
        }})
    );
    let two = object(
        json!({"atomic": {"b": "2"}, "list": [{"id": "y"}], "set": ["q"], "plain": ["q"], "free": {"deep": {"b": 2}}}),
    );
    let live = apply(&schema, Some(&live), &two, &manager("two"), true).unwrap();
    assert_eq!(
        live["spec"],
        json!({"atomic": {"b": "2"}, "list": [{"id": "x", "v": 1}, {"id": "y"}], "set": ["p", "q"], "plain": ["q"], "free": {"deep": {"a": 1, "b": 2}}})
    );
}

#[test]
fn the_order_of_the_configuration_wins() {
    let schema = schema_of("Deployment");
    let check = |live: &[&str], config: &[&str], want: &[&str]| {
        let of = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            deployment(json!({"template": {"spec": {"containers": containers}}}))
        };
        let result = apply(&schema, Some(&of(live)), &of(config), &manager("me"), true).unwrap();
        let found: Vec<&str> = result["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(found, want, "{live:?} + {config:?}");
    };
    check(&["a", "b"], &["b", "a"], &["b", "a"]);
    check(
        &["x", "a", "y", "b", "z"],
        &["a", "b"],
        &["x", "a", "y", "b", "z"],
    );
    check(&["a", "x"], &["n", "a"], &["n", "a", "x"]);
    check(&[], &["n"], &["n"]);
    check(&["x"], &[], &["x"]);
}

fn config() -> impl Strategy<Value = Value> {
    let map = prop::collection::btree_map(
        prop_oneof![Just("a"), Just("b"), Just("c")],
        any::<u8>().prop_map(|n| json!((n % 3).to_string())),
        0..3,
    );
    let env =
        prop::collection::btree_map(prop_oneof![Just("A"), Just("B"), Just("C")], 0..3_u8, 0..3);
    (map, env, prop::option::of(0..3_u8)).prop_map(|(labels, env, replicas)| {
        let env: Vec<Value> = env.into_iter().map(|(name, value)| json!({"name": name, "value": value.to_string()})).collect();
        let mut object = deployment(json!({"template": {"spec": {"containers": [{"name": "c", "image": "i", "env": env}]}}}));
        object["metadata"]["labels"] = json!(labels);
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = replicas.into();
        }
        object
    })
}

/// Every owned path exists in the object.
fn owned_fields_exist(schema: &Schema, object: &Value) -> Result<(), String> {
    let managers = Managers::parse(object.pointer("/metadata/managedFields"))
        .ok_or("malformed managedFields")?;
    for (identity, owned) in &managers.0 {
        for path in owned.fields.paths() {
            if !exists(Some(&schema.root), object, &path) {
                return Err(format!(
                    "{} owns {} of {object}",
                    identity.display(),
                    set::display(&path)
                ));
            }
        }
    }
    Ok(())
}

fn exists(node: Option<&Node>, value: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    let below = match shape(node, value) {
        Shape::Leaf => None,
        Shape::Fields(map) => first.strip_prefix("f:").and_then(|field| map.get(field)),
        Shape::Entries(entries) => entries
            .into_iter()
            .find(|(element, _)| element == first)
            .map(|(_, value)| value),
    };
    below.is_some_and(|value| exists(child(node, first), value, rest))
}

proptest! {
    #[test]
    fn ownership_laws_hold(steps in prop::collection::vec((config(), 0..3_u8, any::<bool>()), 1..8)) {
        let schema = schema_of("Deployment");
        let mut live: Option<Value> = None;
        for (config, who, by_apply) in steps {
            let name = format!("m{who}");
            let next = if by_apply {
                let applied = apply(&schema, live.as_ref(), &config, &manager(&name), true).unwrap();
                let again = apply(&schema, Some(&applied), &config, &manager(&name), false);
                prop_assert_eq!(again.as_ref(), Ok(&applied), "applying twice changes nothing");
                prop_assert_eq!(&applied["spec"]["replicas"].is_null() , &(applied["spec"].get("replicas").is_none()));
                for (key, value) in config["metadata"]["labels"].as_object().unwrap() {
                    prop_assert_eq!(&applied["metadata"]["labels"][key], value, "what is applied is there");
                }
                applied
            } else {
                let mut new = config.clone();
                update(&schema, live.as_ref(), &mut new, &manager(&name));
                prop_assert_eq!(&new["spec"], &config["spec"], "an update changes nothing but managedFields");
                new
            };
            let law = owned_fields_exist(&schema, &next);
            prop_assert!(law.is_ok(), "{law:?}");
            live = Some(next);
        }
    }
}
