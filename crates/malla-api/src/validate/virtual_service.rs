//! VirtualService.

use malla_model::Host;
use malla_model::route::MESH_GATEWAY;

use super::{Subject, http_route, names, reachability};
use crate::istio::virtual_service::{
    Destination, L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualServiceSpec,
};
use crate::lower::meta::ip_block;
use crate::report::Report;

pub(super) fn check(spec: &VirtualServiceSpec, subject: &Subject<'_>, report: &mut Report) {
    let is_delegate = spec.hosts.is_empty();
    if is_delegate {
        delegate(spec, report);
    }
    names::gateway_names(&spec.gateways, "spec.gateways", report);
    let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH_GATEWAY);
    hosts(spec, in_mesh && !is_delegate, report);
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        report
            .error("spec", "has no routes")
            .fix("add http, tls or tcp with at least one route");
    }
    for (at, route) in spec.http.iter().enumerate() {
        http_route::check(
            route,
            &format!("spec.http[{at}]"),
            is_delegate,
            in_mesh,
            report,
        );
    }
    for (at, route) in spec.tls.iter().enumerate() {
        let path = format!("spec.tls[{at}]");
        if route.matches.is_empty() {
            report
                .error(format!("{path}.match"), "is required")
                .fix("add a match with sniHosts");
        }
        for (at, item) in route.matches.iter().enumerate() {
            tls_match(item, &format!("{path}.match[{at}]"), spec, report);
        }
        l4_destinations(&route.route, &path, report);
    }
    for (at, route) in spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{at}]");
        for (at, item) in route.matches.iter().enumerate() {
            tcp_match(item, &format!("{path}.match[{at}]"), report);
        }
        l4_destinations(&route.route, &path, report);
    }
    names::export_to(&spec.export_to, subject.namespace, false, report);
    for finding in reachability::find(spec, in_mesh) {
        report
            .warn(&finding.path, finding.text())
            .code(finding.code())
            .done();
    }
}

fn delegate(spec: &VirtualServiceSpec, report: &mut Report) {
    let why = "a VirtualService without hosts is a delegate, which has none of its own";
    for (set, field) in [
        (!spec.gateways.is_empty(), "spec.gateways"),
        (!spec.tls.is_empty(), "spec.tls"),
        (!spec.tcp.is_empty(), "spec.tcp"),
    ] {
        if set {
            report.error(field, why).fix("add spec.hosts, or remove it");
        }
    }
}

fn hosts(spec: &VirtualServiceSpec, in_mesh: bool, report: &mut Report) {
    let mut all_good = true;
    for (at, text) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{at}]");
        if !names::host_or_ip(text, &path, report) {
            all_good = false;
        } else if in_mesh && text == "*" {
            all_good = false;
            report
                .error(&path, "every host at once is only for gateways, and this VirtualService applies to sidecars")
                .value("\"*\"")
                .fix("name the services, or name a Gateway in spec.gateways (without mesh)");
        }
    }
    if !all_good {
        return;
    }
    let hosts: Vec<Host> = spec.hosts.iter().map(|host| Host::new(host)).collect();
    for (at, later) in hosts.iter().enumerate() {
        if let Some(earlier) = hosts
            .iter()
            .take(at)
            .find(|earlier| earlier.overlaps(later))
        {
            report
                .error(
                    format!("spec.hosts[{at}]"),
                    format!("is already covered by {:?} above", earlier.as_str()),
                )
                .value(format!("{:?}", later.as_str()))
                .fix("keep only one of them");
        }
    }
}

fn tls_match(
    item: &TlsMatchAttributes,
    path: &str,
    spec: &VirtualServiceSpec,
    report: &mut Report,
) {
    if item.sni_hosts.is_empty() {
        report
            .error(format!("{path}.sniHosts"), "needs at least one name")
            .done();
    }
    for (at, text) in item.sni_hosts.iter().enumerate() {
        let path = format!("{path}.sniHosts[{at}]");
        if text.starts_with("outbound_") || !names::host_or_ip(text, &path, report) {
            continue;
        }
        let sni = Host::new(text);
        if !spec.hosts.iter().any(|host| Host::new(host).covers(&sni)) {
            report
                .error(
                    &path,
                    format!("is not within any of the hosts: {}", spec.hosts.join(", ")),
                )
                .value(format!("{text:?}"))
                .fix("add it to spec.hosts");
        }
    }
    l4_match(&item.destination_subnets, item.port, path, report);
    names::labels(&item.source_labels, &format!("{path}.sourceLabels"), report);
    names::gateway_names(&item.gateways, &format!("{path}.gateways"), report);
}

fn tcp_match(item: &L4MatchAttributes, path: &str, report: &mut Report) {
    l4_match(&item.destination_subnets, item.port, path, report);
    names::labels(&item.source_labels, &format!("{path}.sourceLabels"), report);
    names::gateway_names(&item.gateways, &format!("{path}.gateways"), report);
}

fn l4_match(subnets: &[String], port: Option<u32>, path: &str, report: &mut Report) {
    for (at, text) in subnets.iter().enumerate() {
        if ip_block(text).is_none() {
            report
                .error(
                    format!("{path}.destinationSubnets[{at}]"),
                    "is neither an IP address nor a CIDR block",
                )
                .value(format!("{text:?}"))
                .fix("write it as 10.1.2.3 or 10.0.0.0/8");
        }
    }
    if let Some(number) = port.filter(|number| *number != 0) {
        names::port(number, &format!("{path}.port"), report);
    }
}

fn l4_destinations(list: &[RouteDestination], path: &str, report: &mut Report) {
    if list.is_empty() {
        report
            .error(format!("{path}.route"), "is required")
            .fix("name at least one destination");
    }
    for (at, item) in list.iter().enumerate() {
        destination(
            &item.destination,
            &format!("{path}.route[{at}].destination"),
            report,
        );
    }
    weights(
        list.iter().map(|item| item.weight),
        &format!("{path}.route"),
        report,
    );
}

/// Weights of one route.
pub(super) fn weights(list: impl Iterator<Item = Option<i32>>, path: &str, report: &mut Report) {
    let list: Vec<Option<i32>> = list.collect();
    for (at, weight) in list.iter().enumerate() {
        if let Some(weight) = weight.filter(|weight| *weight < 0) {
            report
                .error(format!("{path}[{at}].weight"), "is negative")
                .value(weight)
                .done();
        }
    }
    let total: i64 = list.iter().flatten().map(|weight| i64::from(*weight)).sum();
    if list.len() > 1 && total == 0 {
        report
            .error(
                path,
                "the weights sum up to 0, so no request would go anywhere",
            )
            .fix("give the destinations weights, such as 50 and 50");
    }
}

pub(super) fn destination(destination: &Destination, path: &str, report: &mut Report) {
    let host_path = format!("{path}.host");
    if destination.host == "*" {
        report
            .error(&host_path, "names no service")
            .value("\"*\"")
            .done();
    } else if !destination.host.is_empty() {
        names::host_or_ip(&destination.host, &host_path, report);
    }
    if let Some(subset) = destination
        .subset
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        subset_name(subset, &format!("{path}.subset"), report);
    }
    if let Some(port) = &destination.port {
        names::port(
            port.number.unwrap_or(0),
            &format!("{path}.port.number"),
            report,
        );
    }
}

pub(super) fn subset_name(name: &str, path: &str, report: &mut Report) {
    if !names::is_dns_label(name) {
        report
            .error(path, "is not a subset's name")
            .value(format!("{name:?}"))
            .fix("use letters, digits and -, at most 63");
    }
}
