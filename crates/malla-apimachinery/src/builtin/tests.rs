//! Built-in kinds as users meet them.

use serde_json::{Value, json};

use super::kinds;
use crate::error::FieldError;
use crate::kind::{FieldValidation, ResourceKind};

fn kind(name: &str) -> ResourceKind {
    kinds().into_iter().find(|kind| kind.kind == name).unwrap()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}],
                    "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": 1}}}],
                    "volumes": [{"name": "c", "configMap": {"name": "x"}}]},
            },
        },
    })
}

#[test]
fn a_deployment_gets_the_defaults_users_see() {
    let kind = kind("Deployment");
    let mut object = deployment();
    assert_eq!(
        kind.decode(&mut object, FieldValidation::Strict),
        Ok(vec![])
    );
    kind.default_object(&mut object);
    let once = object.clone();
    kind.default_object(&mut object);
    assert_eq!(object, once, "defaulting twice changes nothing");
    let check =
        |pointer: &str, want: Value| assert_eq!(object.pointer(pointer), Some(&want), "{pointer}");
    check("/spec/replicas", json!(1));
    check(
        "/spec/strategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    );
    check("/spec/revisionHistoryLimit", json!(10));
    check("/spec/progressDeadlineSeconds", json!(600));
    let pod = "/spec/template/spec";
    check(&format!("{pod}/restartPolicy"), json!("Always"));
    check(&format!("{pod}/securityContext"), json!({}));
    check(&format!("{pod}/terminationGracePeriodSeconds"), json!(30));
    check(
        &format!("{pod}/volumes/0/configMap/defaultMode"),
        json!(420),
    );
    let container = format!("{pod}/containers/0");
    check(
        &format!("{container}/imagePullPolicy"),
        json!("IfNotPresent"),
    );
    check(&format!("{container}/ports/0/protocol"), json!("TCP"));
    check(
        &format!("{container}/readinessProbe/failureThreshold"),
        json!(3),
    );
    check(
        &format!("{container}/readinessProbe/httpGet/scheme"),
        json!("HTTP"),
    );
    check(
        &format!("{container}/resources"),
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
    );
    check(
        &format!("{container}/terminationMessagePolicy"),
        json!("File"),
    );
    assert_eq!(kind.validate_create(&object), vec![]);
}

#[test]
fn a_service_gets_the_defaults_users_see() {
    let mut service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
    kind("Service").default_object(&mut service);
    assert_eq!(
        service["spec"],
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
    );
}

#[test]
fn decoding_speaks_as_kube_apiserver() {
    let kind = kind("Deployment");
    let check = |change: fn(&mut Value), want: &str| {
        let mut object = deployment();
        change(&mut object);
        let error = kind
            .decode(&mut object, FieldValidation::Strict)
            .unwrap_err();
        assert_eq!(error.to_string(), want);
    };
    check(
        |object| object["labels"] = json!({}),
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "labels""#,
    );
    check(
        |object| object["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x"),
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.template.spec.containers[0].imag""#,
    );
    check(
        |object| object["spec"]["replicas"] = json!("two"),
        r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#,
    );
    check(
        |object| object["apiVersion"] = json!("v1"),
        "the API version in the data (v1) does not match the expected API version (apps/v1)",
    );
    check(
        |object| *object = json!([]),
        "the request body must be a JSON object: a Deployment",
    );
}

#[test]
fn warnings_name_unknown_fields_and_ignore_is_silent() {
    let kind = kind("ConfigMap");
    let mut object = json!({"metadata": {"name": "x"}, "date": {}});
    let warnings = kind.decode(&mut object, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, [r#"unknown field "date""#]);
    assert_eq!(
        object,
        json!({"metadata": {"name": "x"}, "apiVersion": "v1", "kind": "ConfigMap"})
    );
    let mut object = json!({"date": {}, "data": null});
    assert_eq!(
        kind.decode(&mut object, FieldValidation::Ignore),
        Ok(vec![])
    );
    assert_eq!(object, json!({"apiVersion": "v1", "kind": "ConfigMap"}));
}

#[track_caller]
fn check_invalid(kind_name: &str, mut object: Value, want: &[&str]) {
    let kind = kind(kind_name);
    kind.default_object(&mut object);
    let found: Vec<String> = kind
        .validate_create(&object)
        .iter()
        .map(FieldError::to_string)
        .collect();
    assert_eq!(found, want);
}

#[test]
fn deployments_are_validated() {
    let check = |change: fn(&mut Value), want: &[&str]| {
        let mut object = deployment();
        change(&mut object);
        check_invalid("Deployment", object, want);
    };
    check(
        |object| object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"}),
        &[
            r#"spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`"#,
        ],
    );
    check(
        |object| object["spec"]["selector"] = json!(null),
        &["spec.selector: Required value"],
    );
    check(
        |object| {
            object["spec"]["template"]["spec"]["containers"] =
                json!([{"name": "a"}, {"name": "a", "image": "x"}, {"image": "y"}])
        },
        &[
            "spec.template.spec.containers[0].image: Required value",
            r#"spec.template.spec.containers[1].name: Duplicate value: "a""#,
            "spec.template.spec.containers[2].name: Required value",
        ],
    );
    check(
        |object| object["spec"]["template"]["spec"]["containers"] = json!([]),
        &["spec.template.spec.containers: Required value"],
    );
    check(
        |object| object["spec"]["replicas"] = json!(-1),
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    check(
        |object| {
            object["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] =
                json!(70000)
        },
        &[
            "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        |object| {
            object["spec"]["template"]["spec"]["containers"][0]["resources"] =
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1x"}})
        },
        &[
            r#"spec.template.spec.containers[0].resources.limits: Invalid value: "1x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#,
        ],
    );
    check(
        |object| {
            object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "nope", "mountPath": "/x"}])
        },
        &[r#"spec.template.spec.containers[0].volumeMounts[0].name: Not found: "nope""#],
    );
    check(
        |object| object["metadata"]["name"] = json!("Web"),
        &[
            r#"metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ],
    );
}

#[test]
fn immutable_fields_stay() {
    let check = |kind_name: &str, old: Value, new: Value, want: &[&str]| {
        let kind = kind(kind_name);
        let found: Vec<String> = kind
            .validate_update(&new, &old)
            .iter()
            .map(FieldError::to_string)
            .collect();
        assert_eq!(found, want);
    };
    let old = deployment();
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["tier"] = json!("x");
    new["spec"]["template"]["metadata"]["labels"]["tier"] = json!("x");
    check(
        "Deployment",
        old,
        new,
        &[
            r#"spec.selector: Invalid value: {"matchLabels":{"app":"web","tier":"x"}}: field is immutable"#,
        ],
    );
    let service = |address: &str| json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 1}]}});
    check(
        "Service",
        service("10.0.0.1"),
        service("10.0.0.2"),
        &[r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#],
    );
    let map = |value: &str| json!({"metadata": {"name": "a", "namespace": "b"}, "immutable": true, "data": {"k": value}});
    check(
        "ConfigMap",
        map("1"),
        map("2"),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
}

#[test]
fn secrets_encode_their_string_data() {
    let mut secret =
        json!({"metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "hi"}});
    kind("Secret").default_object(&mut secret);
    assert_eq!(
        secret,
        json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"a": "aGk="}, "type": "Opaque"})
    );
    let mut bad = json!({"data": {"a": "not base64!"}});
    let error = kind("Secret")
        .decode(&mut bad, FieldValidation::Strict)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 3"#
    );
}

#[test]
fn services_are_validated() {
    let service = |spec: Value| json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
    check_invalid(
        "Service",
        service(json!({})),
        &["spec.ports: Required value"],
    );
    check_invalid("Service", service(json!({"clusterIP": "None"})), &[]);
    check_invalid(
        "Service",
        service(json!({"ports": [{"port": 80}, {"port": 81}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
        ],
    );
    check_invalid(
        "Service",
        service(json!({"type": "Loadbalancer", "ports": [{"port": 0}]})),
        &[
            r#"spec.type: Unsupported value: "Loadbalancer": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
}

#[test]
fn webhooks_are_validated() {
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b", "clientConfig": {}, "admissionReviewVersions": ["v1"], "sideEffects": "None"}]});
    check_invalid(
        "MutatingWebhookConfiguration",
        configuration,
        &[
            r#"webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots"#,
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ],
    );
}
