//! Connections to control planes: through a cluster of the bootstrap, as Envoy's `envoy_grpc`.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use malla_proxy_config::grpc_service::GrpcService;
use malla_xds::transport::dialed::{ByteStream, Dialer};
use tokio::time::timeout;

use crate::live::Live;
use crate::tls::TlsSetup;
use crate::tls::connect::Connector;
use crate::upstream::cluster::Clusters;
use crate::upstream::connect::open;

/// Dials one endpoint of a cluster after the other.
pub(super) struct ClusterDialer {
    pub(super) live: Live,
    pub(super) clusters: Clusters,
    pub(super) setup: TlsSetup,
    pub(super) service: GrpcService,
    pub(super) next: AtomicUsize,
}

impl ClusterDialer {
    async fn connection(&self) -> Result<Box<dyn ByteStream>, String> {
        let name = &self.service.cluster;
        let snapshot = self.live.load_full();
        let entry = snapshot
            .cluster(name)
            .ok_or_else(|| format!("cluster `{name}` is not there"))?;
        let cluster = self.clusters.get(entry);
        let work = async {
            cluster.resolved().await;
            let hosts = Arc::clone(&cluster.hosts()).hosts.clone();
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let host = turn
                .checked_rem(hosts.len())
                .and_then(|index| hosts.get(index));
            let host = host.ok_or_else(|| format!("cluster `{name}` has no endpoints"))?;
            let config = &entry.config;
            let socket = open(config, &host.endpoint.address, None)
                .await
                .map_err(|failure| format!("{}: {}", host.endpoint.address, failure.reason))?;
            let matched = host.transport.and_then(|index| {
                let matches = config.transport_matches.get(usize::from(index));
                matches.map(|matched| &matched.transport)
            });
            let Some(tls) = &matched.unwrap_or(&config.transport).tls else {
                return Ok(Box::new(socket) as Box<dyn ByteStream>);
            };
            let connector = Connector::new(Arc::clone(tls), self.setup.clone(), &["h2"]);
            let sni = connector.server_name(&host.endpoint.hostname, None);
            let stream = connector
                .connect_own(socket, sni, &snapshot)
                .await
                .map_err(|error| format!("{}: {}", host.endpoint.address, error.reason()))?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        };
        let limit = entry.config.connect_timeout;
        match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(format!("cluster `{name}`: no connection within {limit:?}")),
        }
    }
}

impl Dialer for ClusterDialer {
    fn dial(&self) -> BoxFuture<'_, Result<Box<dyn ByteStream>, String>> {
        Box::pin(self.connection())
    }

    fn authority(&self) -> &str {
        // The parser has proved it to be one.
        self.service.authority.to_str().unwrap_or("localhost")
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.service.metadata {
            headers.append(name, value.clone());
        }
        headers
    }
}
