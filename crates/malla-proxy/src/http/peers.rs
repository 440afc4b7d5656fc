//! Who calls and who answers, as headers tell it: taken off messages that come in, put on those that go out.
//!
//! Invariant: where the filter is configured, neither header of a request reaches the application, and none of an
//! answer its client, unless this proxy has written it.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::peer_metadata::{PeerMetadata, Telling};

use super::exchange::Exchange;
use crate::peers::Own;
use crate::upstream::Upstreams;

const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
const ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");

/// The filter, with what it writes: a worker's own copies.
#[derive(Debug)]
pub(super) struct PeerHeaders {
    config: Arc<PeerMetadata>,
    id: Option<HeaderValue>,
    metadata: Option<HeaderValue>,
}

/// What a request has told, which is answered alike.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    id: bool,
    metadata: bool,
}

impl PeerHeaders {
    pub(super) fn new(config: &Arc<PeerMetadata>, own: &Own) -> Self {
        Self {
            id: own.id(),
            metadata: own.header(&config.labels),
            config: Arc::clone(config),
        }
    }
}

/// Takes the headers off a request that has come.
pub(super) fn receive<U: Upstreams>(x: &mut Exchange<U>) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(filter) = &manager.peers else { return };
    let id = x.head.headers.remove(&ID);
    let metadata = x.head.headers.remove(&METADATA);
    x.told = Told {
        id: id.is_some(),
        metadata: metadata.is_some(),
    };
    if filter.config.from_requests
        && let Some(metadata) = metadata
    {
        let peers = &x.cx.worker.metrics.peers;
        let peer = peers.of_header(metadata.as_bytes());
        x.record().downstream_peer = peer;
    }
}

/// Tells who is called.
pub(super) fn tell<U: Upstreams>(x: &mut Exchange<U>, cluster: &Cluster) {
    let manager = std::rc::Rc::clone(&x.cx.manager);
    let Some(filter) = &manager.peers else { return };
    let Some(telling) = filter.config.in_requests else {
        return;
    };
    if keeps_quiet(cluster, telling) {
        return;
    }
    put(&mut x.head.headers, &ID, filter.id.as_ref());
    put(&mut x.head.headers, &METADATA, filter.metadata.as_ref());
}

/// Takes the headers off an answer.
pub(super) fn learn<U: Upstreams>(x: &mut Exchange<U>, headers: &mut HeaderMap) {
    let Some(filter) = &x.cx.manager.peers else {
        return;
    };
    headers.remove(&ID);
    let metadata = headers.remove(&METADATA);
    let cluster = x.observer.record().cluster.as_deref();
    let outside = cluster.is_none_or(|cluster| cluster.mesh.external);
    // Who is outside of the mesh has no workload in it.
    if filter.config.from_responses
        && !outside
        && let Some(metadata) = metadata
    {
        let peer = x.cx.worker.metrics.peers.of_header(metadata.as_bytes());
        x.record().upstream_peer = peer;
    }
}

/// Tells who called, if it has told.
pub(super) fn tell_back<U: Upstreams>(x: &Exchange<U>, headers: &mut HeaderMap) {
    let Some(filter) = &x.cx.manager.peers else {
        return;
    };
    if !filter.config.in_responses || !(x.told.id || x.told.metadata) {
        return;
    }
    if let Some(cluster) = &x.observer.record().cluster
        && keeps_quiet(cluster, Telling::Anybody)
    {
        return;
    }
    put(headers, &ID, filter.id.as_ref().filter(|_| x.told.id));
    put(
        headers,
        &METADATA,
        filter.metadata.as_ref().filter(|_| x.told.metadata),
    );
}

fn keeps_quiet(cluster: &Cluster, telling: Telling) -> bool {
    cluster.mesh.secretive || (telling == Telling::InMesh && cluster.mesh.external)
}

fn put(headers: &mut HeaderMap, name: &HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name.clone(), value.clone());
    }
}
