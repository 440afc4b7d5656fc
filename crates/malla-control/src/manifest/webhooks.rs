//! The webhook configurations. Their `caBundle` is written by the control plane once it has a
//! certificate authority; until then the API server cannot reach them.

use serde_json::{Value, json};

use super::SERVICE;

pub const MUTATING_WEBHOOK: &str = "istio-sidecar-injector";
pub const VALIDATING_WEBHOOK: &str = "istio-validator-istio-system";

pub(super) fn configurations(namespace: &str) -> Vec<Value> {
    vec![injector(namespace), validator(namespace)]
}

/// Pods are offered when their namespace, or they themselves, ask for it. The control plane decides
/// again with the same rules: the selectors only keep it from being asked about everything.
fn injector(namespace: &str) -> Value {
    let expression = |key: &str, operator: &str, values: &[&str]| {
        let mut e = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            e["values"] = json!(values);
        }
        e
    };
    let off = "istio-injection";
    let not_refused = expression("sidecar.istio.io/inject", "NotIn", &["false"]);
    let entry = |name: &str, of_namespace: Vec<Value>, of_object: Vec<Value>| {
        json!({
            "name": format!("{name}.sidecar-injector.istio.io"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": SERVICE, "namespace": namespace, "path": "/inject", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "*"}],
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "reinvocationPolicy": "Never",
            "sideEffects": "None",
            "timeoutSeconds": 10,
            "namespaceSelector": {"matchExpressions": of_namespace},
            "objectSelector": {"matchExpressions": of_object},
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": MUTATING_WEBHOOK, "labels": {"app": "sidecar-injector", "istio.io/rev": "default"}},
        "webhooks": [
            entry("namespace", vec![expression(off, "In", &["enabled"])], vec![not_refused.clone()]),
            entry("rev.namespace", vec![expression(off, "DoesNotExist", &[]), expression("istio.io/rev", "Exists", &[])], vec![not_refused.clone()]),
            entry("object", vec![expression(off, "DoesNotExist", &[]), expression("istio.io/rev", "DoesNotExist", &[])],
                vec![expression("sidecar.istio.io/inject", "In", &["true"])]),
            entry("rev.object", vec![expression(off, "DoesNotExist", &[]), expression("istio.io/rev", "DoesNotExist", &[])],
                vec![not_refused, expression("sidecar.istio.io/inject", "NotIn", &["true"]), expression("istio.io/rev", "Exists", &[])]),
        ],
    })
}

fn validator(namespace: &str) -> Value {
    let client = json!({"service": {"name": SERVICE, "namespace": namespace, "path": "/validate", "port": 443}});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": VALIDATING_WEBHOOK, "labels": {"app": "istiod", "istio": "istiod", "istio.io/rev": "default"}},
        "webhooks": [
            {
                "name": "rev.validation.istio.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": client,
                "rules": [{
                    "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"],
                    "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "*",
                }],
                // Switched to Fail by the control plane when it can answer.
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": 10,
            },
            {
                // Only warns, about revision labels that name no control plane.
                "name": "namespace.validation.istio.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": client,
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["namespaces"], "scope": "Cluster"}],
                "objectSelector": {"matchExpressions": [{"key": "istio.io/rev", "operator": "Exists"}]},
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "timeoutSeconds": 5,
            },
        ],
    })
}
