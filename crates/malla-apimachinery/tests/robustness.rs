//! Nothing a client sends makes the machinery panic, and its laws hold for objects nobody would write.
//!
//! Valid objects are damaged: a random place is replaced by random JSON. Then everything that the API server does with an
//! object is done with it.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::LazyLock;

use jiff::Timestamp;
use malla_apimachinery::apply::{self, Manager};
use malla_apimachinery::kind::{FieldValidation, ResourceKind};
use malla_apimachinery::meta::{self, Creation};
use malla_apimachinery::patch;
use malla_apimachinery::selector::{FieldSelector, LabelSelector};
use malla_apimachinery::table::IncludeObject;
use malla_apimachinery::{builtin, crd};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

static KINDS: LazyLock<Vec<ResourceKind>> = LazyLock::new(|| {
    let mut kinds = builtin::kinds();
    kinds.extend(crd::kinds(&widget_definition()).expect("the definition is valid"));
    kinds
});

fn kind_of(object: &Value) -> &'static ResourceKind {
    let found = KINDS
        .iter()
        .find(|kind| kind.kind == object["kind"] && kind.api_version() == object["apiVersion"]);
    found.expect("every sample has a kind")
}

fn widget_definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "All", "type": "string", "jsonPath": ".spec.parts[*].id"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": ["size"],
                    "oneOf": [{"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}}, {"required": ["a"]}, {"required": ["b"]}],
                    "x-kubernetes-validations": [{"rule": "!has(self.size) || self.size < 10", "messageExpression": "string(self.size)"}, {"rule": "self == oldSelf || true"}],
                    "properties": {"size": {"type": "integer", "minimum": 1}, "a": {"type": "string"}, "b": {"type": "string", "format": "duration", "default": "1s"},
                        "port": {"x-kubernetes-int-or-string": true},
                        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object", "required": ["id"],
                            "properties": {"id": {"type": "string"}, "deep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}}}}]}})
}

fn samples() -> Vec<Value> {
    let pod = json!({
        "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80, "name": "http"}], "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "readinessProbe": {"httpGet": {"port": "http"}}, "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}}],
        "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "x"}}]}}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}], "readinessGates": [{"conditionType": "x"}]});
    let meta = json!({"name": "x", "namespace": "n", "labels": {"a": "b"}, "finalizers": ["a/b"], "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u", "controller": true}]});
    let of = |api_version: &str, kind: &str, rest: Value| {
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": meta});
        object
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        object
    };
    let workload = json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": pod}, "strategy": {"rollingUpdate": {"maxSurge": 1}}}, "status": {"readyReplicas": 1}});
    vec![
        of(
            "v1",
            "Pod",
            json!({"spec": pod, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [{"name": "init", "started": true, "state": {"waiting": {"reason": "x"}}}],
            "containerStatuses": [{"name": "web", "restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}, "state": {"running": {}}}]}}),
        ),
        of("apps/v1", "Deployment", workload),
        of(
            "v1",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "http", "nodePort": 30000}], "selector": {"a": "b"}, "sessionAffinity": "ClientIP"},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
        ),
        of(
            "v1",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
        ),
        of(
            "v1",
            "ConfigMap",
            json!({"data": {"a": "b"}, "binaryData": {"c": "aGk="}, "immutable": true}),
        ),
        of(
            "v1",
            "Secret",
            json!({"stringData": {"a": "b"}, "type": "Opaque"}),
        ),
        of(
            "v1",
            "Namespace",
            json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ),
        of(
            "v1",
            "Node",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
        of(
            "v1",
            "Event",
            json!({"involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-01T00:00:00Z", "count": 3, "source": {"component": "c"}}),
        ),
        of(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}),
        ),
        of(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "s", "namespace": "n"}}, "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
        ),
        of(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
        ),
        of(
            "rbac.authorization.k8s.io/v1",
            "Role",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        of(
            "example.com/v1",
            "Widget",
            json!({"spec": {"size": 3, "a": "x", "port": 80, "parts": [{"id": "1", "deep": {"x": [1]}}]}}),
        ),
        widget_definition(),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(String::new()),
        Just("x".to_owned()),
        Just("$patch".to_owned()),
        Just("Always".to_owned()),
        Just("-1".to_owned()),
        Just("é\u{0}🦀".to_owned()),
        "[ -~]{0,12}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let key = prop_oneof![
            text.clone(),
            Just("name".to_owned()),
            Just("spec".to_owned()),
            Just("type".to_owned())
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Replaces the value at a pseudo-random place.
fn damage(object: &mut Value, mut way: u64, replacement: &Value) {
    let mut at = object;
    loop {
        let children = match &*at {
            Value::Object(map) => map.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        let choice = usize::try_from(way % (children as u64 + 1)).unwrap();
        way = way / (children as u64 + 1) + 1;
        if choice == children {
            *at = replacement.clone();
            return;
        }
        at = match at {
            Value::Object(map) => map.values_mut().nth(choice).unwrap(),
            Value::Array(items) => &mut items[choice],
            _ => return,
        };
    }
}

/// Everything the server does with a write and a read.
fn exercise(kind: &ResourceKind, sample: &Value, mut object: Value) -> Result<(), TestCaseError> {
    if kind.decode(&mut object, FieldValidation::Warn).is_err() {
        return Ok(());
    }
    let decoded = object.clone();
    prop_assert_eq!(
        kind.decode(&mut object, FieldValidation::Strict),
        Ok(vec![]),
        "decoding twice finds nothing new"
    );
    prop_assert_eq!(&object, &decoded);
    let creation = Creation {
        namespace: "n",
        uid: "u",
        now: Timestamp::UNIX_EPOCH,
        suffix: "abcde",
    };
    if meta::prepare_create(&mut object, &creation, kind.status).is_err() {
        return Ok(());
    }
    kind.default_object(&mut object);
    let once = object.clone();
    kind.default_object(&mut object);
    prop_assert_eq!(&object, &once, "defaulting twice changes nothing");
    kind.validate_create(&object);
    kind.validate_update(&object, sample);
    kind.validate_update(sample, &object);
    let manager = Manager {
        name: "m",
        api_version: "v1",
        subresource: None,
        now: Timestamp::UNIX_EPOCH,
        ignored: kind.ignored_fields(None),
    };
    let mut updated = object.clone();
    apply::update(&kind.schema, Some(sample), &mut updated, &manager);
    let applied = apply::apply(&kind.schema, Some(&updated), sample, &manager, true);
    if let Ok(applied) = &applied {
        let again = apply::apply(&kind.schema, Some(applied), sample, &manager, false);
        prop_assert_eq!(
            again.as_ref(),
            Ok(applied),
            "applying twice changes nothing"
        );
    }
    let mut next = object.clone();
    meta::prepare_update(&mut next, sample, None, kind.status);
    meta::prepare_update(&mut next, &object, Some("status"), kind.status);
    let _ = patch::strategic_merge_patch(&kind.schema, sample, &object);
    let _ = patch::merge_patch(sample, &object);
    kind.columns.table(
        &[&object, &decoded],
        json!({}),
        IncludeObject::Metadata,
        Timestamp::UNIX_EPOCH,
        true,
    );
    Ok(())
}

proptest! {
    #[test]
    fn damaged_objects_are_handled(which in any::<prop::sample::Index>(), way in any::<u64>(), replacement in anything()) {
        let samples = samples();
        let sample = which.get(&samples);
        let mut object = sample.clone();
        damage(&mut object, way, &replacement);
        exercise(kind_of(sample), sample, object)?;
    }

    #[test]
    fn damaged_definitions_are_handled(way in any::<u64>(), replacement in anything()) {
        let mut definition = widget_definition();
        damage(&mut definition, way, &replacement);
        if let Ok(kinds) = crd::kinds(&definition) {
            for kind in &kinds {
                let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"size": 1}});
                let _ = kind.decode(&mut object, FieldValidation::Ignore);
                kind.default_object(&mut object);
                kind.validate_create(&object);
            }
            malla_apimachinery::openapi::v3(&kinds.iter().collect::<Vec<_>>());
        }
        crd::establish(&mut definition, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn damaged_patches_are_handled(which in any::<prop::sample::Index>(), way in any::<u64>(), replacement in anything(), operations in anything()) {
        let samples = samples();
        let sample = which.get(&samples);
        let mut changes = sample.clone();
        damage(&mut changes, way, &replacement);
        let kind = kind_of(sample);
        let _ = patch::strategic_merge_patch(&kind.schema, sample, &changes);
        let _ = patch::json_patch(sample, &operations);
        let mut live = sample.clone();
        live["metadata"]["managedFields"] = operations;
        let manager = Manager { name: "m", api_version: "v1", subresource: None, now: Timestamp::UNIX_EPOCH, ignored: &[] };
        let _ = apply::apply(&kind.schema, Some(&live), sample, &manager, true);
        apply::update(&kind.schema, Some(sample), &mut live, &manager);
    }

    #[test]
    fn selectors_print_what_they_parse(text in "[a-c!=, ()in<>]{0,20}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let printed = selector.to_string();
            prop_assert_eq!(LabelSelector::parse(&printed), Ok(selector), "{} prints as {}", text, printed);
        }
        let _ = FieldSelector::parse(&text);
    }
}
