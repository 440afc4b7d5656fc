//! Patches against known results, slow oracles and attacks.

use std::sync::LazyLock;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::{PatchError, json_patch, merge_patch, strategic_merge_patch};
use crate::builtin;
use crate::kind::ResourceKind;
use crate::schema::Schema;

/// Built once for all cases of all tests.
static KINDS: LazyLock<Vec<ResourceKind>> = LazyLock::new(builtin::kinds);

fn schema_of(kind: &str) -> Schema {
    let found = KINDS.iter().find(|candidate| candidate.kind == kind);
    found.unwrap().schema.clone()
}

#[test]
fn json_patches_apply_or_explain() {
    let object = json!({"spec": {"replicas": 1, "list": ["a"]}});
    let patch = json!([
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/spec/list/-", "value": "b"},
        {"op": "copy", "from": "/spec/list", "path": "/spec/other"},
        {"op": "remove", "path": "/spec/list/0"},
    ]);
    assert_eq!(
        json_patch(&object, &patch).unwrap(),
        json!({"spec": {"replicas": 2, "list": ["b"], "other": ["a", "b"]}})
    );
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]);
    assert!(matches!(
        json_patch(&object, &failing),
        Err(PatchError::Unapplicable(_))
    ));
    let malformed = json!([{"op": "fly", "path": "/"}]);
    assert!(matches!(
        json_patch(&object, &malformed),
        Err(PatchError::Malformed(_))
    ));
    assert!(matches!(
        json_patch(&object, &json!({})),
        Err(PatchError::Malformed(_))
    ));
}

#[test]
fn patches_cannot_blow_an_object_up() {
    let object = json!({"a": "x".repeat(1000)});
    let doubling: Vec<Value> = (0..40)
        .map(|n| json!({"op": "copy", "from": "", "path": format!("/k{n}")}))
        .collect();
    assert!(matches!(
        json_patch(&object, &doubling.into()),
        Err(PatchError::TooLarge(_))
    ));
    let many: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "add", "path": "/a", "value": 1}))
        .collect();
    let error = json_patch(&object, &many.into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    let deeper = |times: usize| {
        let nested = (0..100).fold(json!({}), |inner, _| json!({"d": inner}));
        let path = |n: usize| "/d".repeat(n * 100);
        Value::from(
            (0..times)
                .map(|n| json!({"op": "add", "path": format!("{}/d", path(n)), "value": nested}))
                .collect::<Vec<_>>(),
        )
    };
    assert!(matches!(
        json_patch(&json!({}), &deeper(5)),
        Err(PatchError::TooLarge(_))
    ));
}

/// RFC 7386, section 2, word for word.
fn merge_oracle(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.shift_remove(name);
        } else {
            let old = target.get(name).cloned().unwrap_or(Value::Null);
            target.insert(name.clone(), merge_oracle(old, value));
        }
    }
    Value::Object(target)
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4_i32).prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("a".to_owned()),
                    Just("b".to_owned()),
                    Just("c".to_owned())
                ],
                inner,
                0..3
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn merge_patch_agrees_with_the_rfc(object in json(), patch in json()) {
        match merge_patch(&object, &patch) {
            Ok(merged) => prop_assert_eq!(merged, merge_oracle(object, &patch)),
            Err(_) => prop_assert_eq!(patch.is_object(), false),
        }
    }

    #[test]
    fn without_lists_a_strategic_patch_is_a_merge_patch(object in maps(), patch in maps()) {
        let schema = Schema::from_crd(&json!({"type": "object"}), "schema").unwrap();
        let strategic = strategic_merge_patch(&schema, &object, &patch).unwrap();
        prop_assert_eq!(strategic, merge_oracle(object, &patch));
    }
}

fn maps() -> impl Strategy<Value = Value> {
    let names = || {
        prop_oneof![
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("c".to_owned())
        ]
    };
    let leaf = prop_oneof![Just(Value::Null), (0..4_i32).prop_map(Value::from)];
    let inner = leaf.prop_recursive(3, 24, 3, move |inner| {
        prop::collection::btree_map(names(), inner, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map(
        prop_oneof![Just("a".to_owned()), Just("b".to_owned())],
        inner,
        0..3,
    )
    .prop_map(|map| Value::Object(map.into_iter().collect()))
}

#[track_caller]
fn check(kind: &str, original: Value, patch: Value, want: Value) {
    assert_eq!(
        strategic_merge_patch(&schema_of(kind), &original, &patch).unwrap(),
        want
    );
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn lists_merge_by_their_key() {
    check(
        "Pod",
        pod(
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}),
        ),
        pod(json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]})),
        pod(
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}),
        ),
    );
    // Lists without a key are replaced.
    check(
        "Pod",
        pod(
            json!({"containers": [{"name": "a", "args": ["x", "y"]}], "tolerations": [{"key": "a"}]}),
        ),
        pod(json!({"containers": [{"name": "a", "args": ["z"]}], "tolerations": [{"key": "b"}]})),
        pod(json!({"containers": [{"name": "a", "args": ["z"]}], "tolerations": [{"key": "b"}]})),
    );
    // Ports merge by number alone, whatever the protocol.
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}),
        json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81}]}}),
        json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "http"}, {"port": 81}]}}),
    );
    check(
        "ConfigMap",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["b", "c"]}}),
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
    );
}

#[test]
fn directives_delete_and_replace() {
    check(
        "Pod",
        pod(
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}]}),
        ),
        pod(
            json!({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}, {"name": "b", "$patch": "delete"}]}),
        ),
        pod(json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]})),
    );
    check(
        "Pod",
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod(json!({"containers": [{"name": "c"}, {"$patch": "replace"}]})),
        pod(json!({"containers": [{"name": "c"}]})),
    );
    check(
        "Pod",
        pod(json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}})),
        pod(json!({"securityContext": {"$patch": "replace", "runAsUser": 3}})),
        pod(json!({"securityContext": {"runAsUser": 3}})),
    );
    check(
        "ConfigMap",
        json!({"metadata": {"finalizers": ["a", "b"]}, "data": {"x": "1", "y": "2"}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}, "data": {"$patch": "delete"}}),
        json!({"metadata": {"finalizers": ["b"]}, "data": {}}),
    );
}

#[test]
fn retained_keys_drop_the_others() {
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "Pod",
        pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
        pod(
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
        ),
        pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
    );
}

#[test]
fn element_orders_are_kept() {
    check(
        "Pod",
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "server"}]})),
        pod(
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n", "image": "x"}]}),
        ),
        pod(
            json!({"containers": [{"name": "b"}, {"name": "n", "image": "x"}, {"name": "a"}, {"name": "server"}]}),
        ),
    );
    check(
        "Pod",
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})),
        pod(json!({"containers": [{"name": "b"}, {"name": "a"}]})),
    );
    check(
        "ConfigMap",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "a", "b"], "finalizers": ["c"]}}),
        json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
    );
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let schema = schema_of("Pod");
    let check = |patch: Value, want: &str| {
        let error = strategic_merge_patch(&schema, &pod(json!({})), &patch).unwrap_err();
        assert_eq!(error.to_string(), want);
    };
    check(
        pod(json!({"containers": [{"image": "x"}]})),
        r#"map: {"image":"x"} does not contain declared merge key: name"#,
    );
    check(
        pod(json!({"$patch": "explode"})),
        "unrecognized type: explode",
    );
    check(
        pod(json!({"containers": ["x"]})),
        r#"expected an object with merge key "name", found "x""#,
    );
    check(pod(json!({"$fly/x": []})), r#"unknown directive "$fly/x""#);
}

#[test]
fn no_directive_and_no_null_survives() {
    check(
        "Deployment",
        json!({}),
        json!({"metadata": {"labels": {"a": "b", "c": null}}, "spec": {"$retainKeys": ["template"], "template": {"spec": {
            "$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": null, "$patch": "merge"}], "tolerations": [{"key": "a", "value": null}]}}}}),
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {"containers": [{"name": "a"}], "tolerations": [{"key": "a"}]}}}}),
    );
}
