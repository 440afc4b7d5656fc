//! Good Kubernetes objects, to be damaged.

use std::sync::LazyLock;

use malla_apimachinery::kind::ResourceKind;
use malla_apimachinery::{builtin, crd};
use serde_json::{Value, json};

pub(crate) static KINDS: LazyLock<Vec<ResourceKind>> = LazyLock::new(|| {
    let mut kinds = builtin::kinds();
    kinds.extend(crd::kinds(&definition()).expect("the definition is valid"));
    kinds
});

pub(crate) static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(objects);

pub(crate) fn kind_of(object: &Value) -> &'static ResourceKind {
    let found = KINDS
        .iter()
        .find(|kind| kind.kind == object["kind"] && kind.api_version() == object["apiVersion"]);
    found.expect("every sample has a kind")
}

/// A CustomResourceDefinition with a bit of everything.
pub(crate) fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "All", "type": "string", "jsonPath": ".spec.parts[*].id"},
                    {"name": "One", "type": "string", "jsonPath": ".spec.parts[?(@.id==\"1\")].deep", "priority": 1}, {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.a"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}, "spec": {"type": "object", "required": ["size"],
                    "oneOf": [{"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}}, {"required": ["a"]}, {"required": ["b"]}],
                    "x-kubernetes-validations": [{"rule": "!has(self.size) || self.size < 10", "messageExpression": "string(self.size)"}, {"rule": "self == oldSelf || true", "optionalOldSelf": true}],
                    "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 100, "multipleOf": 1}, "a": {"type": "string", "maxLength": 64, "pattern": "^[a-z]*$"}, "b": {"type": "string", "format": "duration", "default": "1s"},
                        "port": {"x-kubernetes-int-or-string": true}, "free": {"type": "object", "additionalProperties": {"type": "string"}},
                        "parts": {"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object", "required": ["id"],
                            "properties": {"id": {"type": "string", "enum": ["1", "2", "x"]}, "deep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
                        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}}}}}]}})
}

pub(crate) fn pod() -> Value {
    json!({"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80, "name": "http"}], "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "readinessProbe": {"httpGet": {"port": "http", "path": "/"}}, "livenessProbe": {"exec": {"command": ["true"]}},
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}}],
        "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "x"}}]}}, {"name": "w", "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}], "readinessGates": [{"conditionType": "x"}], "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "k", "labelSelector": {"matchLabels": {"a": "b"}}}}]}}})
}

fn objects() -> Vec<Value> {
    let meta = json!({"name": "x", "namespace": "n", "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["a/b"], "generateName": "x-",
        "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u", "controller": true}]});
    let of = |api_version: &str, kind: &str, mut rest: Value| {
        rest["apiVersion"] = api_version.into();
        rest["kind"] = kind.into();
        rest["metadata"] = meta.clone();
        rest
    };
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod()});
    vec![
        of(
            "v1",
            "Pod",
            json!({"spec": pod(), "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [{"name": "init", "started": true, "state": {"waiting": {"reason": "x"}}}],
            "containerStatuses": [{"name": "web", "restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}, "state": {"running": {}}}]}}),
        ),
        of(
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
            "template": template, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}}, "status": {"readyReplicas": 1}}),
        ),
        of(
            "v1",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "http", "nodePort": 30000, "name": "a", "appProtocol": "http"}], "selector": {"a": "b"}, "sessionAffinity": "ClientIP"},
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
            json!({"stringData": {"a": "b"}, "data": {"c": "aGk="}, "type": "Opaque"}),
        ),
        of(
            "v1",
            "Namespace",
            json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ),
        of(
            "v1",
            "Node",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "4", "memory": "8Gi"}}}),
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
            json!({"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "matchConditions": [{"name": "m", "expression": "object.metadata.name != 'x'"}],
            "namespaceSelector": {"matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["v"]}]}, "timeoutSeconds": 5,
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
            json!({"spec": {"size": 3, "a": "x", "port": 80, "set": ["p", "q"], "free": {"k": "v"}, "parts": [{"id": "1", "deep": {"x": [1]}}]}}),
        ),
        definition(),
    ]
}
