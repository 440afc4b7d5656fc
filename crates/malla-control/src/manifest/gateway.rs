//! The ingress gateway: a Deployment of proxies and a LoadBalancer Service in front of them.

use serde_json::{Value, json};

use super::Installation;

/// On a gateway's Service: the control plane opens and closes its ports as Gateways name them.
pub const MANAGED_PORTS: &str = "malla.dev/manage-ports";

const NAME: &str = "istio-ingressgateway";

/// An ingress gateway that selectors such as `istio: ingressgateway` find.
#[must_use]
pub fn ingress_gateway(installation: &Installation) -> Vec<Value> {
    let namespace = &installation.namespace;
    let labels = json!({"app": NAME, "istio": "ingressgateway"});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": namespace}}),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": NAME, "namespace": namespace, "labels": labels,
                "annotations": {MANAGED_PORTS: "true"},
            },
            "spec": {
                "type": "LoadBalancer",
                "selector": labels,
                "ports": [{"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP"}],
            },
        }),
        deployment(installation, &labels),
    ]
}

fn deployment(installation: &Installation, labels: &Value) -> Value {
    let mut pod_labels = labels.clone();
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    pod_labels["service.istio.io/canonical-name"] = json!(NAME);
    pod_labels["service.istio.io/canonical-revision"] = json!("latest");
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let namespace = &installation.namespace;
    let mut args = vec![
        "proxy",
        "gateway",
        "--domain",
        "$(POD_NAMESPACE).svc.cluster.local",
    ];
    args.extend(installation.proxy_args.iter().map(String::as_str));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": super::scraped_at(15020, "/stats/prometheus")},
                "spec": {
                    "serviceAccountName": NAME,
                    // Gateways listen on the ports users write, 80 among them, without being root.
                    "securityContext": {
                        "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true,
                        "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
                    },
                    "containers": [{
                        "name": "istio-proxy",
                        "image": installation.image,
                        "args": args,
                        "env": [
                            plain("CA_ADDR", &format!("istiod.{namespace}.svc:15012")),
                            field("POD_NAME", "metadata.name"),
                            field("POD_NAMESPACE", "metadata.namespace"),
                            field("INSTANCE_IP", "status.podIP"),
                            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
                            field("HOST_IP", "status.hostIP"),
                            field("ISTIO_META_NODE_NAME", "spec.nodeName"),
                            plain("ISTIO_META_CLUSTER_ID", &installation.cluster_id),
                            plain("ISTIO_META_WORKLOAD_NAME", NAME),
                            plain("ISTIO_META_OWNER", &format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{NAME}")),
                            plain("ISTIO_META_UNPRIVILEGED_POD", "false"),
                        ],
                        "ports": [
                            {"containerPort": 15021, "protocol": "TCP"},
                            {"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"},
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz/ready", "port": 15021},
                            "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 30,
                        },
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [
                            {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
                            {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
                            {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
                            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
                            {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"},
                        ],
                    }],
                    "volumes": crate::inject::template::volumes(),
                },
            },
        },
    })
}
