//! From a Service and its pods to the objects that describe the connection.
//!
//! Pure. Invariant: the same input gives the same names and the same order, so nothing is written
//! that did not change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::{MANAGED_LABEL, MANAGER, SERVICE_LABEL};
use crate::object::controlled_by;
use crate::pods;

/// Most endpoints in one slice (kube-controller-manager's default).
const SLICE_SIZE: usize = 100;
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// One pod behind a Service.
#[derive(Debug)]
struct Backend {
    address: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    hostname: Option<String>,
    pod: Value,
}

/// Pods behind a Service, by the ports they serve it on.
#[derive(Debug)]
pub(super) struct Backends {
    by_ports: BTreeMap<String, (Vec<Value>, Vec<Backend>)>,
    headless: bool,
    node: String,
    zone: Option<String>,
}

impl Backends {
    pub(super) fn new(
        spec: &ServiceSpec,
        service: &str,
        pods: &[Pod],
        node: &str,
        zone: Option<&str>,
    ) -> Self {
        let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
        let mut by_ports: BTreeMap<String, (Vec<Value>, Vec<Backend>)> = BTreeMap::new();
        for pod in pods {
            let Some(address) = pods::address(pod).filter(|_| !pods::is_finished(pod)) else {
                continue;
            };
            let ports = resolve_ports(spec, pod);
            let wanted = spec.ports.as_ref().map_or(0, Vec::len);
            if ports.is_empty() && wanted > 0 {
                continue; // No port of the Service exists in this pod.
            }
            let (ready, terminating) = (
                pods::is_ready(pod),
                pod.metadata.deletion_timestamp.is_some(),
            );
            let backend = Backend {
                address: address.to_owned(),
                ready: publish_all || (ready && !terminating),
                serving: publish_all || ready,
                terminating,
                hostname: hostname(pod, service),
                pod: json!({
                    "kind": "Pod",
                    "name": pod.metadata.name,
                    "namespace": pod.metadata.namespace,
                    "uid": pod.metadata.uid,
                }),
            };
            let group = Value::Array(ports.clone()).to_string();
            by_ports
                .entry(group)
                .or_insert((ports, Vec::new()))
                .1
                .push(backend);
        }
        for (_, backends) in by_ports.values_mut() {
            backends.sort_by(|one, other| one.address.cmp(&other.address));
        }
        Self {
            by_ports,
            headless: spec.cluster_ip.as_deref() == Some("None"),
            node: node.to_owned(),
            zone: zone.map(str::to_owned),
        }
    }

    /// EndpointSlices by name. A Service without pods has one empty slice.
    pub(super) fn slices(&self, service: &Service) -> BTreeMap<String, Value> {
        let mut slices = BTreeMap::new();
        let mut add = |ports: &[Value], backends: &[Backend], part: usize| {
            let name = format!(
                "{}-{}",
                service.metadata.name.as_deref().unwrap_or_default(),
                suffix(ports, part)
            );
            let endpoints: Vec<Value> = backends.iter().map(|one| self.endpoint(one)).collect();
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name,
                    "namespace": service.metadata.namespace,
                    "labels": self.labels(service),
                    "ownerReferences": [controlled_by("v1", "Service", &service.metadata)],
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": endpoints,
            });
            slices.insert(name, slice);
        };
        for (ports, backends) in self.by_ports.values() {
            for (part, chunk) in backends.chunks(SLICE_SIZE).enumerate() {
                add(ports, chunk, part);
            }
        }
        if self.by_ports.is_empty() {
            add(&[], &[], 0);
        }
        slices
    }

    fn labels(&self, service: &Service) -> Map<String, Value> {
        let own = service.metadata.labels.iter().flatten();
        let mut labels: Map<String, Value> = own
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        labels.insert(SERVICE_LABEL.to_owned(), json!(name));
        labels.insert(MANAGED_LABEL.to_owned(), json!(MANAGER));
        if self.headless {
            labels.insert(HEADLESS_LABEL.to_owned(), json!(""));
        }
        labels
    }

    fn endpoint(&self, backend: &Backend) -> Value {
        let mut endpoint = json!({
            "addresses": [backend.address],
            "conditions": {
                "ready": backend.ready,
                "serving": backend.serving,
                "terminating": backend.terminating,
            },
            "nodeName": self.node,
            "targetRef": backend.pod,
        });
        if let Some(zone) = &self.zone {
            endpoint["zone"] = json!(zone);
        }
        if let Some(hostname) = &backend.hostname {
            endpoint["hostname"] = json!(hostname);
        }
        endpoint
    }

    /// The older Endpoints object; pods that are ending are not in it.
    pub(super) fn endpoints(&self, service: &Service) -> Value {
        let address = |backend: &Backend| {
            let mut address = json!({
                "ip": backend.address, "nodeName": self.node, "targetRef": backend.pod,
            });
            if let Some(hostname) = &backend.hostname {
                address["hostname"] = json!(hostname);
            }
            address
        };
        let mut subsets = Vec::new();
        for (ports, backends) in self.by_ports.values() {
            let part = |ready: bool| -> Vec<Value> {
                let chosen = backends.iter().filter(|one| one.ready == ready);
                chosen
                    .filter(|one| one.ready || !one.terminating)
                    .map(address)
                    .collect()
            };
            let mut subset = json!({"ports": ports});
            for (field, addresses) in [
                ("addresses", part(true)),
                ("notReadyAddresses", part(false)),
            ] {
                if !addresses.is_empty() {
                    subset[field] = json!(addresses);
                }
            }
            if subset.as_object().is_some_and(|fields| fields.len() > 1) {
                subsets.push(subset);
            }
        }
        let own = service.metadata.labels.iter().flatten();
        let mut labels: Map<String, Value> = own
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        labels.insert(
            "endpoints.kubernetes.io/managed-by".to_owned(),
            json!("endpoint-controller"),
        );
        if self.headless {
            labels.insert(HEADLESS_LABEL.to_owned(), json!(""));
        }
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": service.metadata.name,
                "namespace": service.metadata.namespace,
                "labels": labels,
            },
            "subsets": subsets,
        })
    }
}

/// The name a pod has under its headless Service.
fn hostname(pod: &Pod, service: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.as_deref() == Some(service);
    spec.hostname.clone().filter(|_| named)
}

/// The Service's ports as numbers of this pod; ports it does not have are left out.
fn resolve_ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Value> {
    let ports = spec.ports.iter().flatten();
    let resolved = ports.filter_map(|port| {
        let number = target_port(port, pod)?;
        let mut resolved = json!({
            "port": number,
            "protocol": port.protocol.as_deref().unwrap_or("TCP"),
        });
        resolved["name"] = json!(port.name.as_deref().unwrap_or_default());
        if let Some(application) = &port.app_protocol {
            resolved["appProtocol"] = json!(application);
        }
        Some(resolved)
    });
    resolved.collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            // Native sidecars serve ports too.
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
            let mut containers = spec.containers.iter().chain(sidecars);
            containers.find_map(|container| named_port(container, name, protocol))
        }
    }
}

fn named_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    ports
        .find(|port| {
            port.name.as_deref() == Some(name)
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// Five characters that depend on the ports and the part only.
fn suffix(ports: &[Value], part: usize) -> String {
    let text = format!("{}#{part}", Value::Array(ports.to_vec()));
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let letters = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5_u32)
        .map(|place| {
            let digit = hash.rotate_right(place * 12) % letters.len() as u64;
            let index = usize::try_from(digit).unwrap_or(0);
            char::from(letters.get(index).copied().unwrap_or(b'x'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::{Value, json};

    use super::Backends;

    fn pod(name: &str, address: &str, ready: bool, ports: Value) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "base", "uid": name},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": address,
                       "conditions": [{"type": "Ready", "status": ready}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn service(spec: Value) -> Service {
        let service = json!({"metadata": {"name": "web", "namespace": "base"}, "spec": spec});
        serde_json::from_value(service).unwrap()
    }

    /// Each slice as `ports | endpoints`, `!` for those not ready.
    fn check(spec: Value, pods: &[Pod], wanted: &[&str]) {
        let service = service(spec);
        let backends = Backends::new(service.spec.as_ref().unwrap(), "web", pods, "local", None);
        let show = |slice: &Value| {
            let ports: Vec<String> = slice["ports"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["port"].to_string())
                .collect();
            let endpoints: Vec<String> = slice["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| {
                    let mark = if one["conditions"]["ready"] == true {
                        ""
                    } else {
                        "!"
                    };
                    format!("{mark}{}", one["addresses"][0].as_str().unwrap())
                })
                .collect();
            format!("{} | {}", ports.join(","), endpoints.join(" "))
        };
        let mut shown: Vec<String> = backends.slices(&service).values().map(show).collect();
        shown.sort();
        assert_eq!(shown, wanted);
    }

    #[test]
    fn named_ports_split_slices_by_what_pods_call_them() {
        let one = pod(
            "a",
            "10.0.0.1",
            true,
            json!([{"name": "http", "containerPort": 80}]),
        );
        let other = pod(
            "b",
            "10.0.0.2",
            false,
            json!([{"name": "http", "containerPort": 8080}]),
        );
        let none = pod("c", "10.0.0.3", true, json!([]));
        check(
            json!({"ports": [{"port": 80, "targetPort": "http"}]}),
            &[one, other, none],
            &["80 | 10.0.0.1", "8080 | !10.0.0.2"],
        );
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice() {
        check(json!({"ports": [{"port": 80}]}), &[], &[" | "]);
    }

    #[test]
    fn unready_addresses_are_published_on_demand() {
        let pods = [pod("a", "10.0.0.1", false, json!([]))];
        check(
            json!({"clusterIP": "None", "publishNotReadyAddresses": true}),
            &pods,
            &[" | 10.0.0.1"],
        );
    }
}
