//! Gateways: a Deployment of proxies and a LoadBalancer Service in front of them. One is the ingress
//! gateway of an installation, the others belong to Gateways of the Gateway API.

use malla_api::gateway_api::lower::Managed;
use malla_api::gateway_api::{CLASS_LABEL, GROUP, NAME_LABEL};
use serde_json::{Value, json};

use super::Installation;
use super::rbac::rule;

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
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": format!("{NAME}-sds"), "namespace": namespace},
            // What its servers' credentialName may name: the control plane asks whether it may.
            "rules": [rule(&[""], &["secrets"], &["get", "watch", "list"])],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": format!("{NAME}-sds"), "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": format!("{NAME}-sds")},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
        }),
        deployment(
            installation,
            &Pods {
                name: NAME,
                namespace,
                labels: &labels,
                annotations: &json!({}),
            },
        ),
    ]
}

/// What a Gateway of the Gateway API runs on: an account, pods, and a Service in front of them.
#[must_use]
pub fn managed_gateway(installation: &Installation, managed: &Managed) -> Vec<Value> {
    let name = managed.name();
    let namespace = managed.namespace.as_str();
    let mut labels = json!(managed.labels);
    labels[NAME_LABEL] = json!(managed.gateway);
    labels[CLASS_LABEL] = json!(managed.class);
    let metadata = json!({
        "name": name, "namespace": namespace, "labels": labels, "annotations": managed.annotations,
        "ownerReferences": [{
            "apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "name": managed.gateway, "uid": managed.uid,
        }],
    });
    let port = |name: &str, number: u16| json!({"name": name, "port": number, "targetPort": number, "protocol": "TCP"});
    let mut ports = vec![port("status-port", 15021)];
    ports.extend(
        managed
            .ports
            .iter()
            .map(|(number, name)| port(name, *number)),
    );
    let annotations = json!(managed.annotations);
    let pods = Pods {
        name: &name,
        namespace,
        labels: &labels,
        annotations: &annotations,
    };
    let mut deployment = deployment(installation, &pods);
    deployment["metadata"] = metadata.clone();
    deployment["spec"]["selector"] = json!({"matchLabels": {NAME_LABEL: managed.gateway}});
    if let Some(spec) = deployment["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"type": "LoadBalancer", "selector": {NAME_LABEL: managed.gateway}, "ports": ports},
    });
    if let Some(address) = &managed.address {
        service["spec"]["loadBalancerIP"] = json!(address);
    }
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        service,
        deployment,
    ]
}

/// Pods that are gateways.
struct Pods<'a> {
    name: &'a str,
    namespace: &'a str,
    labels: &'a Value,
    annotations: &'a Value,
}

fn deployment(installation: &Installation, pods: &Pods<'_>) -> Value {
    let Pods {
        name,
        namespace,
        labels,
        annotations,
    } = pods;
    let mut pod_labels = (*labels).clone();
    let mut pod_annotations = super::scraped_at(15020, "/stats/prometheus");
    for (key, value) in annotations.as_object().into_iter().flatten() {
        pod_annotations[key] = value.clone();
    }
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    pod_labels["service.istio.io/canonical-name"] = json!(name);
    pod_labels["service.istio.io/canonical-revision"] = json!("latest");
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let root = &installation.namespace;
    let mut args = vec![
        "proxy",
        "gateway",
        "--domain",
        "$(POD_NAMESPACE).svc.cluster.local",
    ];
    args.extend(installation.proxy_args.iter().map(String::as_str));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": pod_annotations},
                "spec": {
                    "serviceAccountName": name,
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
                            plain("CA_ADDR", &format!("istiod.{root}.svc:15012")),
                            field("POD_NAME", "metadata.name"),
                            field("POD_NAMESPACE", "metadata.namespace"),
                            field("INSTANCE_IP", "status.podIP"),
                            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
                            field("HOST_IP", "status.hostIP"),
                            field("ISTIO_META_NODE_NAME", "spec.nodeName"),
                            plain("ISTIO_META_CLUSTER_ID", &installation.cluster_id),
                            plain("ISTIO_META_WORKLOAD_NAME", name),
                            plain("ISTIO_META_OWNER", &format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{name}")),
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
