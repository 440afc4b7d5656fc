//! The Kubernetes objects an installation consists of, except the CRDs (`malla_api`'s).
//!
//! Names, labels, ports and paths are istiod's, so that tools which look for those find Malla.
//! Everything is plain data: who applies it, and to which cluster, is the caller's business.

mod console;
mod gateway;
mod rbac;
mod webhooks;

use serde_json::{Value, json};

pub use console::{
    COLLECT_PORT, CONSOLE, CONSOLE_PORT, ConsoleOptions, OTLP_HTTP_PORT, TELEMETRY, ZIPKIN_PORT,
    console,
};
pub use gateway::{MANAGED_PORTS, ingress_gateway, managed_gateway};
pub use webhooks::{MUTATING_WEBHOOK, VALIDATING_WEBHOOK};

/// The namespace of the control plane unless told otherwise.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The Service that proxies, webhooks and tools know the control plane by.
pub const SERVICE: &str = "istiod";

/// What differs between installations.
#[derive(Debug, Clone)]
pub struct Installation {
    pub namespace: String,
    /// Image of control plane, gateway and sidecar.
    pub image: String,
    pub cluster_id: String,
    /// `mesh` key of the ConfigMap `istio` (MeshConfig in YAML).
    pub mesh_config: String,
    /// Further arguments of `malla control`.
    pub control_args: Vec<String>,
    /// Further arguments of every proxy.
    pub proxy_args: Vec<String>,
}

/// The control plane, in the order it is applied.
#[must_use]
pub fn control_plane(installation: &Installation) -> Vec<Value> {
    let namespace = &installation.namespace;
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
    })];
    objects.extend(rbac::objects(namespace));
    objects.push(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": namespace, "labels": labels()},
        "data": {"mesh": installation.mesh_config, "meshNetworks": "networks: {}\n"},
    }));
    objects.push(service(namespace));
    objects.extend(webhooks::configurations(namespace));
    objects.push(deployment(installation));
    objects
}

/// Annotations that have Prometheus scrape a pod.
fn scraped_at(port: u16, path: &str) -> Value {
    json!({"prometheus.io/scrape": "true", "prometheus.io/port": port.to_string(), "prometheus.io/path": path})
}

fn labels() -> Value {
    json!({"app": "istiod", "istio": "pilot", "istio.io/rev": "default"})
}

fn service(namespace: &str) -> Value {
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": namespace, "labels": labels()},
        "spec": {
            "selector": {"app": "istiod", "istio": "pilot"},
            "ports": [
                port("grpc-xds", 15010, 15010),
                port("https-dns", 15012, 15012),
                port("https-webhook", 443, 15017),
                port("http-monitoring", 15014, 15014),
            ],
        },
    })
}

fn deployment(installation: &Installation) -> Value {
    let mut args = vec![
        "control".to_owned(),
        "--cluster-id".to_owned(),
        installation.cluster_id.clone(),
    ];
    args.extend(["--image".to_owned(), installation.image.clone()]);
    for arg in &installation.proxy_args {
        args.extend(["--proxy-arg".to_owned(), arg.clone()]);
    }
    args.extend(installation.control_args.iter().cloned());
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let port =
        |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "TCP"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": SERVICE, "namespace": installation.namespace, "labels": labels()},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "istiod", "istio": "pilot"}},
            "template": {
                "metadata": {
                    "labels": {"app": "istiod", "istio": "pilot", "istio.io/rev": "default", "sidecar.istio.io/inject": "false"},
                    "annotations": scraped_at(15014, "/metrics"),
                },
                "spec": {
                    "serviceAccountName": "istiod",
                    "containers": [{
                        "name": "discovery",
                        "image": installation.image,
                        "args": args,
                        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
                        "ports": [
                            port("http-debug", 8080), port("grpc-xds", 15010), port("tls-xds", 15012),
                            port("https-webhooks", 15017), port("http-monitoring", 15014),
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/ready", "port": 8080},
                            "periodSeconds": 3, "timeoutSeconds": 5,
                        },
                        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_a_kind_and_a_name_and_no_two_are_the_same() {
        let installation = Installation {
            namespace: ROOT_NAMESPACE.into(),
            image: "malla/malla".into(),
            cluster_id: "Kubernetes".into(),
            mesh_config: String::new(),
            control_args: vec![],
            proxy_args: vec!["--envoy-path".into(), "/opt/envoy".into()],
        };
        let mut objects = control_plane(&installation);
        objects.extend(ingress_gateway(&installation));
        let options = ConsoleOptions {
            published: true,
            lessons: true,
            scrape_interval: 5,
            folder: None,
        };
        objects.extend(console(&installation, &options));
        let mut keys: Vec<_> = objects
            .iter()
            .map(|o| {
                format!(
                    "{} {} {}",
                    o["kind"].as_str().unwrap(),
                    o["metadata"]["namespace"],
                    o["metadata"]["name"].as_str().unwrap()
                )
            })
            .collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
        let deployment = objects.iter().find(|o| o["kind"] == "Deployment").unwrap();
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        assert!(
            args.contains(r#""--proxy-arg","--envoy-path","--proxy-arg","/opt/envoy""#),
            "{args}"
        );
    }
}
