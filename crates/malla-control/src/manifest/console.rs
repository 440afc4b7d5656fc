//! The web console with its collector: a Deployment, the Services they are reached by, and the least
//! they must be allowed.

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
/// Name of the Service that proxies send traces and access logs to.
pub const TELEMETRY: &str = "malla-telemetry";
/// Traces (OTLP) and access logs (Envoy's ALS), by gRPC.
pub const COLLECT_PORT: u16 = 4317;
/// Traces by OTLP over HTTP.
pub const OTLP_HTTP_PORT: u16 = 4318;
/// Traces in Zipkin's v2 JSON.
pub const ZIPKIN_PORT: u16 = 9411;
/// Where the pod keeps the history of changes and what was collected.
const STATE: &str = "/var/lib/malla";

/// How the console is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// Reached from outside the cluster. Its callers need no password, so only where that outside is
    /// this machine's loopback.
    pub published: bool,
    /// Offers the demo's lessons, which bring workloads of their own.
    pub lessons: bool,
    /// Seconds between two scrapes of a pod.
    pub scrape_interval: u32,
    /// A folder of the node to keep everything in; without one it goes with the pod.
    pub folder: Option<String>,
}

/// The console, in the order it is applied.
#[must_use]
pub fn console(installation: &Installation, options: &ConsoleOptions) -> Vec<Value> {
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
                "ports": [port("http", CONSOLE_PORT)],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": TELEMETRY, "namespace": namespace, "labels": labels},
            "spec": {
                "selector": labels,
                "ports": [port("grpc-otlp", COLLECT_PORT), port("http-otlp", OTLP_HTTP_PORT), port("http-zipkin", ZIPKIN_PORT)],
            },
        }),
        deployment(installation, options, &labels),
    ]
}

fn port(name: &str, number: u16) -> Value {
    json!({"name": name, "port": number, "targetPort": number, "protocol": "TCP"})
}

fn role(namespace: &str, options: &ConsoleOptions) -> Value {
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

fn deployment(installation: &Installation, options: &ConsoleOptions, labels: &Value) -> Value {
    let mut args = vec![
        "console".to_owned(),
        format!("--listen=0.0.0.0:{CONSOLE_PORT}"),
        format!("--namespace={}", installation.namespace),
        format!("--cluster={}", installation.cluster_id),
        format!("--data={STATE}"),
        format!("--collect=0.0.0.0:{COLLECT_PORT}"),
        format!("--otlp-http=0.0.0.0:{OTLP_HTTP_PORT}"),
        format!("--zipkin=0.0.0.0:{ZIPKIN_PORT}"),
        format!("--scrape-interval={}", options.scrape_interval),
    ];
    if options.lessons {
        args.push("--lessons".to_owned());
    }
    let state = match &options.folder {
        Some(folder) => json!({"name": "state", "hostPath": {"path": folder, "type": "Directory"}}),
        None => json!({"name": "state", "emptyDir": {}}),
    };
    let container_port =
        |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "TCP"});
    let mut pod_labels = labels.clone();
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": CONSOLE, "namespace": installation.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            // Two at a time would fight for one folder.
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
                        "ports": [
                            container_port("http", CONSOLE_PORT), container_port("grpc-otlp", COLLECT_PORT),
                            container_port("http-otlp", OTLP_HTTP_PORT), container_port("http-zipkin", ZIPKIN_PORT),
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz", "port": CONSOLE_PORT},
                            "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 30,
                        },
                        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "state", "mountPath": STATE}],
                    }],
                    "volumes": [state],
                    "securityContext": {"fsGroup": 1337},
                },
            },
        },
    })
}
