//! How the API server reaches admission webhooks: Services from inside the node's namespace,
//! other hosts from the host's.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use malla_apiserver::kinds;
use malla_apiserver::outside::{BoxedStream, Dial, DialTarget, HostDial};

use super::namespace::Namespace;

/// Dials Services by their cluster IP.
#[derive(Debug)]
pub struct ClusterDial {
    node: Namespace,
    client: malla_apiserver::Client,
}

impl ClusterDial {
    pub fn new(node: Namespace, client: malla_apiserver::Client) -> Self {
        Self { node, client }
    }

    fn cluster_ip(&self, namespace: &str, name: &str) -> io::Result<IpAddr> {
        let found = self.client.get(&kinds::SERVICES, Some(namespace), name);
        let service = found.map_err(|error| {
            let text = format!("service {namespace}/{name}: {error}");
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        service
            .pointer("/spec/clusterIP")
            .and_then(|value| value.as_str())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                let text = format!("service {namespace}/{name} has no cluster IP");
                io::Error::new(io::ErrorKind::AddrNotAvailable, text)
            })
    }
}

impl Dial for ClusterDial {
    fn dial(&self, target: DialTarget) -> BoxFuture<'_, io::Result<BoxedStream>> {
        Box::pin(async move {
            match &target {
                DialTarget::Service {
                    namespace,
                    name,
                    port,
                } => {
                    let to = SocketAddr::new(self.cluster_ip(namespace, name)?, *port);
                    let stream = self.node.connect(to).await?;
                    Ok(Box::new(stream) as BoxedStream)
                }
                DialTarget::Host { .. } => HostDial.dial(target).await,
            }
        })
    }
}
