//! What resources name of other types: endpoints, routes, filters, secrets; and where each of them comes from.
use malla_proxy_config::cluster::{Cluster, Discovery};
use malla_proxy_config::config_source::Reference;
use malla_proxy_config::filter_chain::Terminal;
use malla_proxy_config::http_filter::{Discovered, HttpFilterKind};
use malla_proxy_config::http_manager::RouteSource;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::tls::{CertificateSource, CommonTls};
use malla_xds_proto::type_url;

/// A needed resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub type_url: &'static str,
    pub reference: Reference,
}

impl Need {
    fn new(type_url: &'static str, reference: &Reference) -> Self {
        Self {
            type_url,
            reference: reference.clone(),
        }
    }
}

/// What a cluster cannot do without: its endpoints, and the secrets of its transports.
pub(super) fn of_cluster(cluster: &Cluster) -> Vec<Need> {
    let mut needs = Vec::new();
    if let Discovery::Eds { service, source } = &cluster.discovery {
        let reference = Reference {
            name: service.clone(),
            source: source.clone(),
        };
        needs.push(Need::new(type_url::ENDPOINTS, &reference));
    }
    let matched = cluster
        .transport_matches
        .iter()
        .map(|entry| &entry.transport);
    for tls in matched
        .chain([&cluster.transport])
        .filter_map(|transport| transport.tls.as_ref())
    {
        secrets_of(&tls.common, &mut needs);
    }
    needs
}

/// What a listener cannot do without: routes and filters of its HTTP managers, secrets of its chains.
pub(super) fn of_listener(listener: &Listener) -> Vec<Need> {
    let filters = extensions_of(listener);
    let filters = filters.map(|seat| Need::new(type_url::EXTENSION_CONFIG, &seat.reference));
    let mut needs: Vec<Need> = filters.collect();
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        if let Terminal::Http(manager) = &chain.terminal
            && let RouteSource::Rds(reference) = &manager.routes
        {
            needs.push(Need::new(type_url::ROUTE, reference));
        }
        if let Some(tls) = &chain.tls {
            secrets_of(&tls.common, &mut needs);
            let tickets = tls.tickets.sds();
            needs.extend(tickets.map(|reference| Need::new(type_url::SECRET, reference)));
        }
    }
    needs
}

/// The seats of filters that come on their own.
pub(super) fn extensions_of(listener: &Listener) -> impl Iterator<Item = &Discovered> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    let filters = chains.filter_map(|chain| match &chain.terminal {
        Terminal::Http(manager) => Some(&manager.filters),
        Terminal::Tcp(_) | Terminal::Close => None,
    });
    filters.flatten().filter_map(|filter| match &filter.kind {
        HttpFilterKind::Discovered(seat) => Some(&**seat),
        _ => None,
    })
}

fn secrets_of(common: &CommonTls, into: &mut Vec<Need>) {
    let certificates = common.certificates.iter().filter_map(|one| match one {
        CertificateSource::Sds(reference) => Some(reference),
        CertificateSource::Static(_) => None,
    });
    let references = certificates.chain(&common.validation.sds);
    into.extend(references.map(|reference| Need::new(type_url::SECRET, reference)));
}
