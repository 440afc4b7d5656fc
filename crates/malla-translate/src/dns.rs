//! Names the DNS proxy of a sidecar answers for (Istio's NDS).

use std::collections::BTreeSet;

use malla_model::Service;
use malla_model::workload::Address;
use malla_xds_proto::nds::{NameInfo, NameTable};

use crate::view::View;

/// The node's services by name: virtual addresses, or the pods' where there are none.
pub(crate) fn name_table(view: &View<'_>) -> NameTable {
    let mut names = NameTable::default();
    for service in view.services() {
        let ips = addresses(service);
        let aliases = view
            .aliases(&service.hostname)
            .iter()
            .map(|alias| &***alias);
        for named in std::iter::once(&***service).chain(aliases) {
            if !ips.is_empty() {
                let info = info(view, named, ips.clone());
                names.table.insert(named.hostname.to_string(), info);
            }
        }
    }
    names
}

fn addresses(service: &Service) -> Vec<String> {
    let virtual_ips: Vec<String> = service.virtual_ips().map(|ip| ip.to_string()).collect();
    if !virtual_ips.is_empty() || !service.headless {
        return virtual_ips;
    }
    let pods: BTreeSet<std::net::IpAddr> = service
        .endpoints
        .iter()
        .filter_map(|endpoint| match endpoint.address {
            Address::Ip(ip) => Some(ip),
            _ => None,
        })
        .collect();
    pods.iter().map(ToString::to_string).collect()
}

/// Kubernetes' names have short forms, which the DNS proxy completes; others have not.
fn info(view: &View<'_>, service: &Service, ips: Vec<String>) -> NameInfo {
    let suffix = format!(".{}.svc.{}", service.namespace(), view.mesh.settings.domain);
    match service.hostname.as_str().strip_suffix(&suffix) {
        Some(name) => NameInfo {
            ips,
            registry: "Kubernetes".into(),
            shortname: name.to_owned(),
            namespace: service.namespace().to_owned(),
            ..NameInfo::default()
        },
        None => NameInfo {
            ips,
            registry: "External".into(),
            ..NameInfo::default()
        },
    }
}
