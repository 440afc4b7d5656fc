//! Opens and closes the ports of gateway Services as Gateways name them.
//!
//! Only Services that ask for it (annotation `malla.dev/manage-ports: "true"`) are touched, and on
//! those only ports this controller opened; which those are stands in a second annotation.

use std::collections::BTreeMap;

use malla_model::Gateway;
use malla_model::id::{Labels, selects};
use serde_json::{Value, json};

use crate::manifest::MANAGED_PORTS;

/// Where the ports we opened are remembered, as `80,443`.
const OPENED: &str = "malla.dev/opened-ports";

/// One port of a Service, as much as matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub name: String,
}

/// A gateway Service as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayService {
    pub annotations: Labels,
    /// Labels of the pods behind it.
    pub selector: Labels,
    pub ports: Vec<Value>,
}

/// The merge patch that makes the Service's ports those of the Gateways, or `None` when they are.
#[must_use]
pub fn patch<'a>(
    service: &GatewayService,
    gateways: impl IntoIterator<Item = &'a Gateway>,
) -> Option<Value> {
    if service.annotations.get(MANAGED_PORTS).map(String::as_str) != Some("true") {
        return None;
    }
    let opened: Vec<u16> = service
        .annotations
        .get(OPENED)
        .map(|text| {
            text.split(',')
                .filter_map(|n| n.trim().parse().ok())
                .collect()
        })
        .unwrap_or_default();
    let number = |port: &Value| {
        port["port"]
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or_default()
    };
    let own: Vec<&Value> = service
        .ports
        .iter()
        .filter(|port| !opened.contains(&number(port)))
        .collect();
    let taken: Vec<u16> = own.iter().map(|port| number(port)).collect();
    let mut wanted = wanted(service, gateways);
    wanted.retain(|number, _| !taken.contains(number));

    let mut ports: Vec<Value> = own.into_iter().cloned().collect();
    for (number, name) in &wanted {
        let kept = service
            .ports
            .iter()
            .find(|port| opened.contains(number) && port["port"] == *number);
        ports.push(kept.cloned().unwrap_or_else(
            || json!({"name": name, "port": number, "targetPort": number, "protocol": "TCP"}),
        ));
    }
    let list = wanted
        .keys()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let remembered = service
        .annotations
        .get(OPENED)
        .map(String::as_str)
        .unwrap_or_default();
    if ports == service.ports && list == remembered {
        return None;
    }
    Some(json!({"metadata": {"annotations": {OPENED: list}}, "spec": {"ports": ports}}))
}

/// Ports the selected Gateways listen on, with a name each.
fn wanted<'a>(
    service: &GatewayService,
    gateways: impl IntoIterator<Item = &'a Gateway>,
) -> BTreeMap<u16, String> {
    let mut wanted = BTreeMap::new();
    for gateway in gateways
        .into_iter()
        .filter(|g| !g.selector.is_empty() && selects(&g.selector, &service.selector))
    {
        for server in &gateway.servers {
            let protocol = format!("{:?}", server.protocol).to_ascii_lowercase();
            wanted
                .entry(server.port)
                .or_insert_with(|| format!("{protocol}-{}", server.port));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use malla_model::gateway::Server;
    use malla_model::{Meta, ObjectRef, Protocol};

    use super::*;

    fn gateway(port: u16) -> Gateway {
        Gateway {
            meta: Meta {
                object: ObjectRef::new("Gateway", "base", "gw"),
                created: 0,
                generation: 1,
                labels: Labels::new(),
                annotations: Labels::new(),
            },
            selector: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
            pods_in: None,
            servers: vec![Server {
                name: "".into(),
                port,
                port_name: "http".into(),
                protocol: Protocol::Http,
                bind: None,
                hosts: vec![],
                tls: None,
            }],
        }
    }

    fn service(managed: bool) -> GatewayService {
        GatewayService {
            annotations: if managed {
                [(MANAGED_PORTS.to_owned(), "true".to_owned())].into()
            } else {
                Labels::new()
            },
            selector: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
            ports: vec![json!({"name": "status-port", "port": 15021})],
        }
    }

    fn after(service: &GatewayService, patch: &Value) -> GatewayService {
        let mut next = service.clone();
        let opened = patch["metadata"]["annotations"][OPENED].as_str().unwrap();
        next.annotations
            .insert(OPENED.to_owned(), opened.to_owned());
        next.ports = patch["spec"]["ports"].as_array().unwrap().clone();
        next
    }

    #[test]
    fn a_gateways_port_opens_stays_and_closes() {
        let closed = service(true);
        let open = after(&closed, &patch(&closed, [&gateway(80)]).unwrap());
        assert_eq!(open.ports.len(), 2);
        assert_eq!(open.ports[1]["port"], 80);
        assert_eq!(patch(&open, [&gateway(80)]), None);
        let again = after(&open, &patch(&open, []).unwrap());
        assert_eq!(again.ports, closed.ports);
    }

    #[test]
    fn others_ports_are_left_alone() {
        assert_eq!(patch(&service(false), [&gateway(80)]), None);
        assert_eq!(patch(&service(true), [&gateway(15021)]), None);
    }

    #[test]
    fn a_node_port_once_given_is_kept() {
        let mut open = service(true);
        open.annotations.insert(OPENED.to_owned(), "80".to_owned());
        open.ports
            .push(json!({"name": "http-80", "port": 80, "nodePort": 30080}));
        let wider = patch(&open, [&gateway(80), &gateway(443)]).unwrap();
        assert_eq!(wider["spec"]["ports"][1]["nodePort"], 30080);
    }
}
