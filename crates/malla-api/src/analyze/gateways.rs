//! Gateways: the pods, ports, secrets and rivals they have.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use malla_model::id::{Labels, selects};

use super::Findings;
use super::message::Code;
use super::world::{Item, Known};
use crate::istio::GatewaySpec;
use crate::istio::gateway::{Server, ServerTlsMode};
use crate::lower::gateway::server_host;

pub(super) fn check(known: &Known, out: &mut Findings) {
    for (at, gateway) in known.gateways.iter().enumerate() {
        workloads(gateway, known, out);
        credentials(gateway, known, out);
        for earlier in known.gateways.iter().take(at) {
            conflict(gateway, earlier, out);
            conflict(earlier, gateway, out);
        }
    }
}

fn shown(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// The pods it selects, and the ports their Service opens.
fn workloads(gateway: &Item<GatewaySpec>, known: &Known, out: &mut Findings) {
    if known.pods.is_empty() || gateway.spec.selector.is_empty() {
        return;
    }
    let pods: Vec<_> = known
        .pods
        .iter()
        .filter(|pod| selects(&gateway.spec.selector, pod.labels()))
        .collect();
    if pods.is_empty() {
        out.not_found(
            &gateway.subject,
            "spec.selector",
            "selector",
            &shown(&gateway.spec.selector),
        );
        return;
    }
    let services: Vec<_> = known
        .services
        .iter()
        .filter(|service| {
            let selector = service
                .spec
                .selector
                .as_ref()
                .filter(|selector| !selector.is_empty());
            selector.is_some_and(|selector| {
                pods.iter().any(|pod| {
                    pod.namespace() == service.namespace() && selects(selector, pod.labels())
                })
            })
        })
        .collect();
    if services.is_empty() {
        return;
    }
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let Some(number) = server.port.as_ref().map(|port| port.number) else {
            continue;
        };
        let opened = services
            .iter()
            .flat_map(|service| service.spec.ports.iter().flatten())
            .any(|port| {
                let target = match &port.target_port {
                    Some(IntOrString::Int(target)) => *target,
                    _ => port.port,
                };
                i64::from(number) == i64::from(port.port) || i64::from(number) == i64::from(target)
            });
        if !opened {
            let text = format!(
                "The gateway is listening on a target port (port {number}) that is not defined in the Service associated with its workload instances (Pod selector {}). If you need to access the gateway port through the gateway Service, it will not be available.",
                shown(&gateway.spec.selector),
            );
            out.at(
                Code::GatewayPortNotDefinedOnService,
                &gateway.subject,
                format!("spec.servers[{at}].port.number"),
                text,
            );
        }
    }
}

/// Secrets stand in the namespace of the gateway's pods, not of the Gateway.
fn credentials(gateway: &Item<GatewaySpec>, known: &Known, out: &mut Findings) {
    if known.secrets.is_empty() {
        return;
    }
    let namespaces: Vec<&str> = known
        .pods
        .iter()
        .filter(|pod| selects(&gateway.spec.selector, pod.labels()))
        .map(Item::namespace)
        .collect();
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let terminates = matches!(
            tls.mode,
            Some(ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual)
        );
        let names = tls.credential_name.iter().chain(&tls.credential_names);
        for name in names.filter(|name| terminates && !name.is_empty()) {
            let in_place =
                |namespace: &str| namespaces.is_empty() || namespaces.contains(&namespace);
            let secret = known
                .secrets
                .iter()
                .find(|s| s.name() == name && in_place(s.namespace()));
            let holds = |key: &str| {
                secret.is_some_and(|secret| {
                    let data = secret.spec.data.as_ref();
                    data.is_some_and(|data| data.get(key).is_some_and(|bytes| !bytes.0.is_empty()))
                })
            };
            let pair = (holds("tls.crt") && holds("tls.key")) || (holds("cert") && holds("key"));
            let field = format!("spec.servers[{at}].tls.credentialName");
            match secret {
                None => out.not_found(&gateway.subject, field, "credentialName", name),
                Some(_) if !pair => {
                    let text = format!(
                        "The credential referenced by the Gateway {} in namespace {} is invalid, which can cause the traffic not to work as expected.",
                        gateway.name(),
                        gateway.namespace(),
                    );
                    out.at(
                        Code::InvalidGatewayCredential,
                        &gateway.subject,
                        field,
                        text,
                    );
                }
                Some(_) => {}
            }
        }
    }
}

fn conflict(gateway: &Item<GatewaySpec>, other: &Item<GatewaySpec>, out: &mut Findings) {
    if gateway.spec.selector != other.spec.selector {
        return;
    }
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        for rival in &other.spec.servers {
            let hosts = shared_hosts(server, gateway.namespace(), rival, other.namespace());
            let port = |server: &Server| server.port.as_ref().map(|port| port.number);
            if port(server) != port(rival) || hosts.is_empty() {
                continue;
            }
            let text = format!(
                "Conflict with gateways {}/{} (workload selector {}, port {}, hosts [{}]).",
                other.namespace(),
                other.name(),
                shown(&gateway.spec.selector),
                port(server).unwrap_or_default(),
                hosts.join(" "),
            );
            out.at(
                Code::ConflictingGateways,
                &gateway.subject,
                format!("spec.servers[{at}]"),
                text,
            );
        }
    }
}

/// Hosts that both servers name, for some namespace in common.
fn shared_hosts(
    server: &Server,
    namespace: &str,
    rival: &Server,
    rival_namespace: &str,
) -> Vec<String> {
    let rivals: Vec<_> = rival
        .hosts
        .iter()
        .map(|host| server_host(host, rival_namespace))
        .collect();
    server
        .hosts
        .iter()
        .filter(|text| {
            let own = server_host(text, namespace);
            rivals.iter().any(|rival| {
                let together = own.namespace.is_none()
                    || rival.namespace.is_none()
                    || own.namespace == rival.namespace;
                together && own.host == rival.host
            })
        })
        .cloned()
        .collect()
}
