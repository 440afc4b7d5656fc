//! Who the control plane is in the cluster, and the least it must be allowed.

use serde_json::{Value, json};

pub(super) fn objects(namespace: &str) -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "istiod", "namespace": namespace}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": format!("istiod-{namespace}")},
            "rules": [
                rule(&["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"], &["*"], &["get", "list", "watch"]),
                rule(&["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"], &["*/status"], &["update", "patch"]),
                rule(&[""], &["pods", "services", "namespaces", "nodes", "endpoints", "configmaps"], &["get", "list", "watch"]),
                // Root certificates are published to every namespace.
                rule(&[""], &["configmaps"], &["create", "update", "patch"]),
                // Gateways' ports open on their own where a Service asks for it.
                rule(&[""], &["services"], &["update", "patch"]),
                // Certificates of gateways.
                rule(&[""], &["secrets"], &["get", "list", "watch"]),
                rule(&["discovery.k8s.io"], &["endpointslices"], &["get", "list", "watch"]),
                rule(&["admissionregistration.k8s.io"], &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"], &["get", "list", "watch", "update", "patch"]),
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
                rule(&["gateway.networking.k8s.io"], &["*"], &["get", "list", "watch"]),
                rule(&["gateway.networking.k8s.io"], &["*/status"], &["update", "patch"]),
                rule(&["gateway.networking.k8s.io"], &["gatewayclasses"], &["create", "update", "patch"]),
                // What Gateways run on.
                rule(&["apps"], &["deployments"], &["get", "create", "update", "patch"]),
                rule(&[""], &["services", "serviceaccounts"], &["get", "create", "update", "patch"]),
                rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], &["get", "list", "watch"]),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("istiod-{namespace}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("istiod-{namespace}")},
            "subjects": [{"kind": "ServiceAccount", "name": "istiod", "namespace": namespace}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "istiod", "namespace": namespace},
            "rules": [
                // The certificate authority's own key.
                rule(&[""], &["secrets"], &["create", "get", "update", "patch"]),
                rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "update", "patch"]),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "istiod", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "istiod"},
            "subjects": [{"kind": "ServiceAccount", "name": "istiod", "namespace": namespace}],
        }),
    ]
}

pub(super) fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}
