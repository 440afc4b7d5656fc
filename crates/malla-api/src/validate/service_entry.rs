//! ServiceEntry and WorkloadEntry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use malla_model::Protocol;

use super::{Subject, names};
use crate::istio::ServiceEntrySpec;
use crate::istio::service_entry::Resolution;
use crate::istio::workload_entry::WorkloadEntrySpec;
use crate::lower::meta::ip_block;
use crate::report::Report;

pub(super) fn check(spec: &ServiceEntrySpec, subject: &Subject<'_>, report: &mut Report) {
    let resolution = spec.resolution.unwrap_or_default();
    for (at, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{at}]");
        if host == "*" {
            report
                .error(&path, "a service needs a name")
                .value("\"*\"")
                .fix("name the host, or *.example.com");
        } else {
            names::host_or_ip(host, &path, report);
        }
    }
    for (at, address) in spec.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{at}]");
        if ip_block(address).is_none() {
            report
                .error(&path, "is neither an IP address nor a CIDR block")
                .value(format!("{address:?}"))
                .done();
        } else if address.contains('/')
            && !matches!(resolution, Resolution::None | Resolution::Static)
        {
            report
                .error(&path, "CIDR blocks need resolution NONE or STATIC")
                .value(format!("{address:?}"))
                .done();
        }
    }
    if let Some(selector) = &spec.workload_selector {
        if !spec.endpoints.is_empty() {
            report
                .error("spec", "only one of workloadSelector, endpoints may be set")
                .done();
        }
        if selector.labels.is_empty() {
            report
                .warn(
                    "spec.workloadSelector",
                    "has no labels, so it selects nothing",
                )
                .done();
        }
        if resolution != Resolution::Static {
            report
                .warn(
                    "spec.workloadSelector",
                    "only has an effect with resolution STATIC",
                )
                .done();
        }
    }
    ports(spec, report);
    endpoints(spec, resolution, report);
    names::export_to(&spec.export_to, subject.namespace, true, report);
}

fn ports(spec: &ServiceEntrySpec, report: &mut Report) {
    let mut seen_names = BTreeSet::new();
    let mut seen_numbers = BTreeSet::new();
    for (at, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        names::port(port.number, &format!("{path}.number"), report);
        if let Some(target) = port.target_port.filter(|target| *target != 0) {
            names::port(target, &format!("{path}.targetPort"), report);
        }
        if !names::is_dns_label(&port.name) {
            report
                .error(format!("{path}.name"), "is not a port's name")
                .value(format!("{:?}", port.name))
                .done();
        }
        if !seen_names.insert(port.name.as_str()) {
            report
                .error(format!("{path}.name"), "stands twice")
                .value(format!("{:?}", port.name))
                .done();
        }
        if !seen_numbers.insert(port.number) {
            report
                .error(format!("{path}.number"), "stands twice")
                .value(port.number)
                .done();
        }
        if protocol(port.protocol.as_deref()).is_none() {
            report
                .error(format!("{path}.protocol"), "is not a protocol")
                .value(format!(
                    "{:?}",
                    port.protocol.as_deref().unwrap_or_default()
                ))
                .fix("use HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS");
        }
    }
    let opaque = spec.ports.iter().any(|port| {
        let protocol = protocol(port.protocol.as_deref());
        protocol.is_some_and(|p| !p.is_http() && !p.is_tls())
    });
    let resolves = spec.resolution.unwrap_or_default() != Resolution::None;
    if resolves && spec.hosts.len() > 1 && opaque {
        report
            .error(
                "spec.hosts",
                "several hosts cannot be told apart on a port that is neither HTTP nor TLS",
            )
            .fix("write one ServiceEntry for each host");
    }
}

/// `Sniffed` where none is declared.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.filter(|text| !text.is_empty()) {
        None => Some(Protocol::Sniffed),
        Some(text) => Protocol::parse(text),
    }
}

fn endpoints(spec: &ServiceEntrySpec, resolution: Resolution, report: &mut Report) {
    let by_name = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if resolution == Resolution::None && !spec.endpoints.is_empty() {
        report
            .error(
                "spec.endpoints",
                "has no effect with resolution NONE, which calls the address the client called",
            )
            .fix("set resolution: STATIC or DNS");
    }
    if resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        report
            .error(
                "spec.endpoints",
                "resolution DNS_ROUND_ROBIN takes one endpoint",
            )
            .fix("use resolution: DNS");
    }
    if by_name && spec.endpoints.is_empty() {
        for (at, host) in spec
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.contains('*'))
        {
            report
                .error(
                    format!("spec.hosts[{at}]"),
                    "a wildcard cannot be resolved by DNS",
                )
                .value(format!("{host:?}"))
                .fix("name the host, or add endpoints, or use resolution: NONE");
        }
    }
    let port_names: BTreeSet<&str> = spec.ports.iter().map(|port| port.name.as_str()).collect();
    for (at, entry) in spec.endpoints.iter().enumerate() {
        check_entry(
            entry,
            &format!("spec.endpoints[{at}]"),
            Some(&port_names),
            by_name,
            report,
        );
    }
}

/// One endpoint; `ports` are the names its service has.
pub(super) fn check_entry(
    entry: &WorkloadEntrySpec,
    path: &str,
    ports: Option<&BTreeSet<&str>>,
    by_name: bool,
    report: &mut Report,
) {
    let address = entry.address.as_deref().unwrap_or_default();
    let address_path = format!("{path}.address");
    if address.is_empty() {
        if entry.network.as_deref().unwrap_or_default().is_empty() {
            report.error(&address_path, "is required").done();
        }
    } else if let Some(socket) = address.strip_prefix("unix://") {
        let absolute =
            socket.starts_with('@') || (socket.starts_with('/') && !socket.ends_with('/'));
        if !absolute {
            report
                .error(&address_path, "is not the path of a socket")
                .value(format!("{address:?}"))
                .done();
        }
        if !entry.ports.is_empty() {
            report
                .error(format!("{path}.ports"), "a socket has no ports")
                .done();
        }
    } else if address.parse::<IpAddr>().is_err() && !(by_name && names::is_fqdn(address)) {
        let finding = report
            .error(&address_path, "is not an IP address")
            .value(format!("{address:?}"));
        match by_name {
            true => finding.fix("write an IP address or a host name"),
            false => finding.fix("write an IP address, or set resolution: DNS"),
        }
    }
    for (name, number) in &entry.ports {
        let path = format!("{path}.ports.{name}");
        names::port(*number, &path, report);
        if ports.is_some_and(|known| !known.contains(name.as_str())) {
            report
                .error(&path, "the service has no port of this name")
                .done();
        }
    }
    names::labels(&entry.labels, &format!("{path}.labels"), report);
}
