//! Metadata through creation and update.

use jiff::Timestamp;
use serde_json::json;

use super::{
    Creation, PreconditionError, check_preconditions, prepare_create, prepare_update, same_content,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn creation<'a>(namespace: &'a str) -> Creation<'a> {
    Creation {
        namespace,
        uid: "u1",
        now: NOW,
        suffix: "x2z9q",
    }
}

#[test]
fn creation_fills_metadata() {
    let mut pod = json!({"metadata": {"generateName": "web-", "generation": 9}, "spec": {}, "status": {"phase": "Running"}});
    prepare_create(&mut pod, &creation("shop"), true).unwrap();
    assert_eq!(
        pod,
        json!({"metadata": {"generateName": "web-", "namespace": "shop", "name": "web-x2z9q", "uid": "u1",
            "creationTimestamp": "1970-01-01T00:00:00Z", "generation": 1}, "spec": {}})
    );
}

#[test]
fn creation_refuses_contradictions() {
    let check = |mut object: serde_json::Value, path: &str| {
        assert_eq!(
            prepare_create(&mut object, &creation("b"), true)
                .unwrap_err()
                .path,
            path
        );
    };
    check(
        json!({"metadata": {"namespace": "a", "name": "x"}}),
        "metadata.namespace",
    );
    check(
        json!({"metadata": {"name": "x", "resourceVersion": "7"}}),
        "metadata.resourceVersion",
    );
    check(json!({"metadata": []}), "metadata");
    check(json!([]), "metadata");
}

#[test]
fn updates_keep_identity_and_count_generations() {
    let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 2, "creationTimestamp": "t"},
        "spec": {"x": 1}, "status": {"ok": true}});
    let mut new = json!({"metadata": {"name": "a", "uid": "forged", "labels": {"a": "b"}}, "spec": {"x": 2}, "status": {}});
    prepare_update(&mut new, &old, None, true);
    assert_eq!(
        new,
        json!({"metadata": {"name": "a", "uid": "u", "labels": {"a": "b"}, "generation": 3, "creationTimestamp": "t"},
            "spec": {"x": 2}, "status": {"ok": true}})
    );
    let mut same = old.clone();
    same["metadata"]["labels"] = json!({"l": "1"});
    prepare_update(&mut same, &old, None, true);
    assert_eq!(same["metadata"]["generation"], 2);
}

#[test]
fn the_status_endpoint_writes_status_only() {
    let old = json!({"metadata": {"name": "a"}, "spec": {"x": 1}});
    let mut new = json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"x": 2}, "status": {"ok": true}});
    prepare_update(&mut new, &old, Some("status"), true);
    assert_eq!(
        new,
        json!({"metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"ok": true}})
    );
}

#[test]
fn preconditions_compare_only_what_is_given() {
    let live = json!({"metadata": {"uid": "u", "resourceVersion": "5"}});
    assert_eq!(check_preconditions(&json!({}), &live), Ok(()));
    let stale = json!({"metadata": {"resourceVersion": "4"}});
    assert_eq!(
        check_preconditions(&stale, &live),
        Err(PreconditionError::ResourceVersion)
    );
    let other = json!({"metadata": {"uid": "v"}});
    assert!(matches!(
        check_preconditions(&other, &live),
        Err(PreconditionError::Uid { .. })
    ));
}

#[test]
fn times_of_managers_are_no_content() {
    let a = json!({"metadata": {"resourceVersion": "1", "managedFields": [{"manager": "m", "time": "1"}]}});
    let b = json!({"metadata": {"resourceVersion": "2", "managedFields": [{"manager": "m", "time": "2"}]}});
    assert!(same_content(&a, &b));
    assert!(!same_content(&a, &json!({"metadata": {}})));
}
