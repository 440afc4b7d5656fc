//! Objects that every cluster has: its node, and the Services of the API server and of DNS.

use std::net::{IpAddr, Ipv4Addr};

use malla_apiserver::{ApiError, Client, Patch, Resource, kinds};
use serde_json::{Value, json};

use super::{ClusterConfig, NODE_API_PORT, NODE_DNS_PORT};
use crate::events::seconds;
use crate::node::machine_capacity;
use crate::object::{self, Key, text};

/// Writes the objects that are missing or differ.
pub(super) struct System<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a ClusterConfig,
    pub(super) node_address: Ipv4Addr,
    pub(super) dns: IpAddr,
}

impl System<'_> {
    pub(super) async fn ensure(&self) -> Result<(), ApiError> {
        self.node().await?;
        let api =
            json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": NODE_API_PORT}]);
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let address = self
            .config
            .services
            .hosts()
            .next()
            .unwrap_or(self.config.services.addr());
        self.service("default", "kubernetes", labels, address.into(), api)
            .await?;
        let dns = json!([
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": NODE_DNS_PORT},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": NODE_DNS_PORT},
        ]);
        let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
        self.service("kube-system", "kube-dns", labels, self.dns, dns)
            .await
    }

    /// A Service without a selector, whose one endpoint is the node.
    async fn service(
        &self,
        namespace: &str,
        name: &str,
        labels: Value,
        address: IpAddr,
        ports: Value,
    ) -> Result<(), ApiError> {
        let metadata =
            |labels: Value| json!({"name": name, "namespace": namespace, "labels": labels});
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(labels),
            "spec": {"clusterIP": address, "ports": ports},
        });
        self.ensure_one(&kinds::SERVICES, service, &[]).await?;
        let served: Vec<Value> = ports
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| {
                json!({"name": port["name"], "port": port["targetPort"], "protocol": port["protocol"]})
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": metadata(json!({"kubernetes.io/service-name": name})),
            "addressType": "IPv4",
            "ports": served,
            "endpoints": [{"addresses": [self.node_address], "conditions": {"ready": true}}],
        });
        self.ensure_one(&kinds::ENDPOINT_SLICES, slice, &["ports", "endpoints"])
            .await?;
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": metadata(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
            "subsets": [{"addresses": [{"ip": self.node_address}], "ports": served}],
        });
        self.ensure_one(&kinds::ENDPOINTS, endpoints, &["subsets"])
            .await
    }

    async fn node(&self) -> Result<(), ApiError> {
        let node = &self.config.node;
        let mut labels = json!({
            "kubernetes.io/hostname": node.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch(),
        });
        let places = [("region", &node.region), ("zone", &node.zone)];
        for (kind, value) in places {
            if let Some(value) = value {
                labels[format!("topology.kubernetes.io/{kind}")] = json!(value);
            }
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name, "labels": labels},
            "spec": {"podCIDR": self.config.pods, "podCIDRs": [self.config.pods]},
        });
        self.ensure_one(&kinds::NODES, object, &["metadata"])
            .await?;
        let status = Patch::Merge(json!({"status": self.node_status()}));
        let name = node.name.as_str();
        self.client
            .patch_status(&kinds::NODES, None, name, status)
            .await?;
        Ok(())
    }

    fn node_status(&self) -> Value {
        let (cpu, memory) = machine_capacity();
        let resources = json!({"cpu": cpu, "memory": memory, "pods": "250"});
        let now = seconds(jiff::Timestamp::now());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = concat!("v1.32.0+malla-", env!("CARGO_PKG_VERSION"));
        json!({
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": self.node_address},
                {"type": "Hostname", "address": self.config.node.name},
            ],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "malla-local runs pods as processes of this machine",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": "",
                "kernelVersion": kernel.trim(),
                "osImage": os_name(),
                "containerRuntimeVersion": concat!("malla://", env!("CARGO_PKG_VERSION")),
                "kubeletVersion": version, "kubeProxyVersion": version,
                "operatingSystem": "linux", "architecture": arch(),
            },
        })
    }

    /// Creates an object, or merges `fields` of it into the stored one.
    async fn ensure_one(
        &self,
        resource: &Resource,
        wanted: Value,
        fields: &[&str],
    ) -> Result<(), ApiError> {
        let key = Key::of(&wanted);
        if object::find_raw(self.client, resource, &key)?.is_none() {
            let created = self.client.create(resource, key.scope(), wanted).await;
            return match created {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => Ok(()),
            };
        }
        let all = wanted.as_object().into_iter().flatten();
        let chosen = all.filter(|(field, _)| fields.contains(&field.as_str()));
        let patch: Value = chosen
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        let name = text(&wanted, "/metadata/name");
        let patch = Patch::Merge(patch);
        self.client
            .patch(resource, key.scope(), name, patch)
            .await?;
        Ok(())
    }
}

/// The machine's architecture as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || "Linux".to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}
