//! The web console: a Deployment, the Service it is reached by, and the least it must be allowed.

use serde_json::{Value, json};

use super::Installation;
use super::rbac::rule;

/// Name of the console's objects.
pub const CONSOLE: &str = "malla-console";
/// Where it listens, in the pod and on the Service.
pub const CONSOLE_PORT: u16 = 20001;

const ISTIO: [&str; 4] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
];
/// Where the pod keeps the history of changes.
const STATE: &str = "/var/lib/malla";

/// How the console is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// Reached from outside the cluster. Its callers need no password, so only where that outside is
    /// this machine's loopback.
    pub published: bool,
    /// Offers the demo's lessons, which bring workloads of their own.
    pub lessons: bool,
}

/// The console, in the order it is applied.
#[must_use]
pub fn console(installation: &Installation, options: ConsoleOptions) -> Vec<Value> {
    let namespace = &installation.namespace;
    let labels = json!({"app": CONSOLE});
    let service_type = if options.published {
        "LoadBalancer"
    } else {
        "ClusterIP"
    };
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": CONSOLE, "namespace": namespace}}),
        role(namespace, options),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{CONSOLE}-{namespace}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{CONSOLE}-{namespace}")},
            "subjects": [{"kind": "ServiceAccount", "name": CONSOLE, "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": CONSOLE, "namespace": namespace, "labels": labels},
            "spec": {
                "type": service_type,
                "selector": labels,
                "ports": [{"name": "http", "port": CONSOLE_PORT, "targetPort": CONSOLE_PORT, "protocol": "TCP"}],
            },
        }),
        deployment(installation, options, &labels),
    ]
}

fn role(namespace: &str, options: ConsoleOptions) -> Value {
    let mut rules = vec![
        rule(
            &ISTIO,
            &["*"],
            &[
                "get", "list", "watch", "create", "update", "patch", "delete",
            ],
        ),
        rule(
            &[""],
            &["pods", "services", "namespaces", "nodes"],
            &["get", "list", "watch"],
        ),
        rule(&["apps"], &["deployments"], &["get", "list", "watch"]),
        // A proxy's admin interface listens on its pod's loopback only.
        rule(&[""], &["pods/portforward"], &["create", "get"]),
    ];
    if options.lessons {
        let write = ["create", "update", "patch", "delete"];
        rules.push(rule(&[""], &["services", "namespaces"], &write));
        rules.push(rule(&["apps"], &["deployments"], &write));
        // What the lessons' clients say.
        rules.push(rule(&[""], &["pods/log"], &["get"]));
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": format!("{CONSOLE}-{namespace}")},
        "rules": rules,
    })
}

fn deployment(installation: &Installation, options: ConsoleOptions, labels: &Value) -> Value {
    let mut args = vec![
        "console".to_owned(),
        format!("--listen=0.0.0.0:{CONSOLE_PORT}"),
        format!("--namespace={}", installation.namespace),
        format!("--cluster={}", installation.cluster_id),
        format!("--history={STATE}/changes.jsonl"),
    ];
    if options.lessons {
        args.push("--lessons".to_owned());
    }
    let mut pod_labels = labels.clone();
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": CONSOLE, "namespace": installation.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            // Two at a time would write one history each.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": {
                    "serviceAccountName": CONSOLE,
                    "containers": [{
                        "name": "console",
                        "image": installation.image,
                        "args": args,
                        "ports": [{"name": "http", "containerPort": CONSOLE_PORT, "protocol": "TCP"}],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz", "port": CONSOLE_PORT},
                            "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 30,
                        },
                        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "state", "mountPath": STATE}],
                    }],
                    "volumes": [{"name": "state", "emptyDir": {}}],
                    "securityContext": {"fsGroup": 1337},
                },
            },
        },
    })
}
