//! What resources name of other types: endpoints, routes, secrets.
use std::collections::BTreeSet;
use std::sync::Arc;

use malla_proxy_config::cluster::{Cluster, Discovery};
use malla_proxy_config::filter_chain::Terminal;
use malla_proxy_config::http_manager::RouteSource;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::tls::{CertificateSource, CommonTls};

/// The load assignment a cluster follows.
pub(super) fn endpoints_of(cluster: &Cluster) -> Option<&Arc<str>> {
    match &cluster.discovery {
        Discovery::Eds { service } => Some(service),
        _ => None,
    }
}

/// The route configurations a listener's HTTP managers follow.
pub(super) fn routes_of(listener: &Listener) -> impl Iterator<Item = &Arc<str>> {
    listener
        .chains
        .iter()
        .chain(&listener.default_chain)
        .filter_map(|chain| match &chain.terminal {
            Terminal::Http(manager) => match &manager.routes {
                RouteSource::Rds(name) => Some(name),
                RouteSource::Inline(_) => None,
            },
            Terminal::Tcp(_) | Terminal::Close => None,
        })
}

/// Adds the secrets a cluster's transports use.
pub(super) fn secrets_of_cluster(cluster: &Cluster, into: &mut BTreeSet<Arc<str>>) {
    let matched = cluster
        .transport_matches
        .iter()
        .map(|entry| &entry.transport);
    for tls in matched
        .chain([&cluster.transport])
        .filter_map(|transport| transport.tls.as_ref())
    {
        secrets_of(&tls.common, into);
    }
}

/// Adds the secrets a listener's chains use.
pub(super) fn secrets_of_listener(listener: &Listener, into: &mut BTreeSet<Arc<str>>) {
    for tls in listener
        .chains
        .iter()
        .chain(&listener.default_chain)
        .filter_map(|chain| chain.tls.as_ref())
    {
        secrets_of(&tls.common, into);
    }
}

fn secrets_of(common: &CommonTls, into: &mut BTreeSet<Arc<str>>) {
    for certificate in &common.certificates {
        if let CertificateSource::Sds(name) = certificate {
            into.insert(Arc::clone(name));
        }
    }
    into.extend(common.validation.sds.clone());
}
