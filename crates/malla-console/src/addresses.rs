//! Which pod has which address, and which services lead to it: for metrics that are derived from
//! access logs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use malla_telemetry::derive::{ServicePort, Workload};
use serde_json::Value;

use crate::api::services::workload;
use crate::mirror::{Object, selects};

/// All pods that have an address of their own.
pub(crate) fn by_address(
    pods: &[Arc<Object>],
    services: &[Arc<Object>],
    cluster: &str,
) -> HashMap<IpAddr, Arc<Workload>> {
    let index = Index::new(services);
    let known = pods.iter().filter_map(|pod| {
        let lives = !["Succeeded", "Failed"].contains(&pod.text("/status/phase"));
        let own_network = pod.value.pointer("/spec/hostNetwork") != Some(&Value::Bool(true));
        let address = pod.text("/status/podIP").parse().ok();
        let address = address.filter(|_| lives && own_network)?;
        Some((address, Arc::new(described(pod, &index, cluster))))
    });
    known.collect()
}

fn described(pod: &Object, index: &Index<'_>, cluster: &str) -> Workload {
    let name = workload(pod);
    let label = |names: &[&str]| {
        let mut found = names.iter().filter_map(|name| pod.label(name));
        found.next().unwrap_or_default().to_owned()
    };
    let or = |text: String, missing: &str| {
        if text.is_empty() {
            missing.to_owned()
        } else {
            text
        }
    };
    Workload {
        namespace: pod.namespace().to_owned(),
        app: label(&["app"]),
        version: label(&["version"]),
        canonical_service: or(
            label(&[
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ]),
            &name,
        ),
        canonical_revision: or(
            label(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ]),
            "latest",
        ),
        cluster: cluster.to_owned(),
        services: index.leading_to(pod),
        name,
    }
}

/// Services by namespace and one label of their selectors, so that a pod looks at few of them.
struct Index<'a>(HashMap<(&'a str, &'a str, &'a str), Vec<&'a Object>>);

impl<'a> Index<'a> {
    fn new(services: &'a [Arc<Object>]) -> Self {
        let mut index: HashMap<_, Vec<&Object>> = HashMap::new();
        for service in services {
            let selector = service.value.pointer("/spec/selector");
            let first = selector
                .and_then(Value::as_object)
                .and_then(|all| all.iter().next());
            if let Some((name, Value::String(value))) = first {
                let key = (service.namespace(), name.as_str(), value.as_str());
                index.entry(key).or_default().push(service);
            }
        }
        Self(index)
    }

    fn leading_to(&self, pod: &Object) -> Vec<ServicePort> {
        let labels = pod
            .value
            .pointer("/metadata/labels")
            .and_then(Value::as_object);
        let candidates = labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| self.0.get(&(pod.namespace(), name, value.as_str()?)))
            .flatten();
        let behind = candidates.filter(|service| {
            let selector = service.value.pointer("/spec/selector");
            selector.is_some_and(|selector| selects(selector, &pod.value))
        });
        behind.flat_map(|service| ports(service, pod)).collect()
    }
}

fn ports(service: &Object, pod: &Object) -> Vec<ServicePort> {
    let (name, namespace) = (service.name(), service.namespace());
    let ports = service
        .value
        .pointer("/spec/ports")
        .and_then(Value::as_array);
    let targets = ports.into_iter().flatten().filter_map(|port| {
        let target = port.get("targetPort").unwrap_or(&Value::Null);
        let target = match target {
            Value::String(name) => named_port(pod, name)?,
            Value::Number(number) if number.as_u64() != Some(0) => number.as_u64()?,
            _ => port["port"].as_u64()?,
        };
        u16::try_from(target).ok()
    });
    let leads = targets.map(|target| ServicePort {
        target,
        host: format!("{name}.{namespace}.svc.cluster.local"),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    });
    leads.collect()
}

fn named_port(pod: &Object, name: &str) -> Option<u64> {
    let containers = pod.value.pointer("/spec/containers")?.as_array()?;
    let mut ports = containers
        .iter()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten();
    ports.find(|port| port["name"] == name)?["containerPort"].as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Arc<Object> {
        Arc::new(Object {
            value,
            writer: None,
        })
    }

    fn pod(phase: &str, host_network: bool) -> Arc<Object> {
        object(json!({
            "metadata": {"name": "cart-1", "namespace": "base", "labels": {"app": "cart", "tier": "web", "version": "v1"}},
            "spec": {"hostNetwork": host_network, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 7000}]}]},
            "status": {"phase": phase, "podIP": "10.0.0.1"},
        }))
    }

    fn service(namespace: &str, selector: Value, port: Value) -> Arc<Object> {
        object(json!({
            "metadata": {"name": "s", "namespace": namespace},
            "spec": {"selector": selector, "ports": [port]},
        }))
    }

    #[track_caller]
    fn check(service: Arc<Object>, targets: &[u16]) {
        let all = by_address(&[pod("Running", false)], &[service], "c1");
        let found = &all[&"10.0.0.1".parse().unwrap()];
        let ports: Vec<u16> = found
            .services
            .iter()
            .map(|service| service.target)
            .collect();
        assert_eq!(ports, targets);
    }

    #[test]
    fn services_lead_to_the_pods_they_select() {
        let port = || json!({"port": 80, "targetPort": 7000});
        check(service("base", json!({"app": "cart"}), port()), &[7000]);
        check(
            service("base", json!({"app": "cart", "tier": "web"}), port()),
            &[7000],
        );
        check(
            service("base", json!({"app": "cart", "tier": "db"}), port()),
            &[],
        );
        check(service("other", json!({"app": "cart"}), port()), &[]);
        check(service("base", json!({}), port()), &[]);
        check(service("base", Value::Null, port()), &[]);
    }

    #[test]
    fn ports_are_numbers_names_or_the_services_own() {
        let to = |port: Value| service("base", json!({"app": "cart"}), port);
        check(to(json!({"port": 80, "targetPort": "web"})), &[7000]);
        check(to(json!({"port": 80, "targetPort": "none"})), &[]);
        check(to(json!({"port": 80})), &[80]);
    }

    #[test]
    fn only_pods_with_an_address_of_their_own_are_known() {
        let known = |pod| by_address(&[pod], &[], "c1").len();
        assert_eq!(known(pod("Running", false)), 1);
        assert_eq!(known(pod("Succeeded", false)), 0);
        assert_eq!(known(pod("Running", true)), 0);
        let all = by_address(&[pod("Running", false)], &[], "c1");
        let found = &all[&"10.0.0.1".parse().unwrap()];
        assert_eq!(
            (
                found.name.as_str(),
                found.canonical_revision.as_str(),
                found.cluster.as_str()
            ),
            ("cart-1", "v1", "c1")
        );
    }
}
