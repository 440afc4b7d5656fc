//! Where the configuration comes from: a bootstrap alone, or a control plane over ADS beside one.
use std::sync::Arc;

use bytes::Bytes;
use malla_identity::source::CertSource;
use malla_proxy_config::bootstrap::Bootstrap;
use malla_runtime::task::AbortOnDrop;
use malla_xds::client::{AdsClient, ClientConfig, Status};
use malla_xds::transport::Transport;
use malla_xds_proto::bootstrap as pb;
use prost::Message as _;
use tracing::Span;

use super::StartError;
use crate::apply::{Applier, ApplyError};
use crate::peers::Own;
use crate::telemetry::trace::tags::NodeNames;
use crate::tls::TlsSetup;
use crate::upstream::cluster::Clusters;

/// Where the configuration comes from.
pub enum ConfigSource {
    /// A bootstrap, and nothing else ever.
    Static(Box<pb::Bootstrap>),
    /// A control plane.
    Ads(Box<Ads>),
}

/// A control plane and what it needs beside it.
pub struct Ads {
    /// Static listeners and clusters, and the admin address.
    pub bootstrap: pb::Bootstrap,
    pub client: ClientConfig,
    pub transport: Arc<dyn Transport>,
    /// The workload's own identity: the secrets `default` and `ROOTCA`.
    pub identity: Option<CertSource>,
}

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Static(_) => "Static",
            Self::Ads(_) => "Ads",
        })
    }
}

impl std::fmt::Debug for Ads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ads")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What keeps the configuration coming; dropping it ends that, and what is configured stays.
#[derive(Debug)]
pub(super) struct Running {
    ads: Option<AdsClient>,
    _identity: Option<AbortOnDrop<()>>,
}

impl Running {
    pub(super) fn status(&self) -> Option<Arc<Status>> {
        self.ads
            .as_ref()
            .map(|ads| Arc::clone(&ads.status().borrow()))
    }
}

impl ConfigSource {
    pub(super) fn has_identity(&self) -> bool {
        matches!(self, Self::Ads(ads) if ads.identity.is_some())
    }

    /// Who the proxy says it is: by its file, or to its control plane.
    pub(super) fn node(&self) -> NodeNames {
        let node = match self {
            Self::Static(bootstrap) => bootstrap.node.clone().unwrap_or_default(),
            Self::Ads(ads) => ads.client.node.clone(),
        };
        NodeNames {
            encoded: node.encode_to_vec().into(),
            zone: node.locality.unwrap_or_default().zone.into(),
            id: node.id.into(),
            cluster: node.cluster.into(),
        }
    }

    pub(super) fn bootstrap(&self) -> &pb::Bootstrap {
        match self {
            Self::Static(bootstrap) => bootstrap,
            Self::Ads(ads) => &ads.bootstrap,
        }
    }

    /// The workload that the bootstrap's node, or that of the stream to the control plane, tells of.
    pub(super) fn own(&self) -> Own {
        let node = match self {
            Self::Static(bootstrap) => bootstrap.node.clone(),
            Self::Ads(ads) => ads
                .bootstrap
                .node
                .clone()
                .or_else(|| Some(ads.client.node.clone())),
        };
        Own::from_node(&node.unwrap_or_default())
    }

    /// Applies the static part and starts the rest.
    pub(super) fn start(self, mut applier: Applier) -> Result<(Bootstrap, Running), StartError> {
        match self {
            Self::Static(bootstrap) => {
                let checked = applier.bootstrap(*bootstrap)?;
                applier.complete();
                Ok((
                    checked,
                    Running {
                        ads: None,
                        _identity: None,
                    },
                ))
            }
            Self::Ads(ads) => {
                let Ads {
                    bootstrap,
                    client,
                    transport,
                    identity,
                } = *ads;
                let checked = applier.bootstrap(bootstrap)?;
                let follow = identity.map(|source| {
                    let live = applier.live().clone();
                    publish(&live, &source);
                    AbortOnDrop::spawn(Span::current(), follow(live, source))
                });
                let ads = AdsClient::start(client, transport, Box::new(applier));
                Ok((
                    checked,
                    Running {
                        ads: Some(ads),
                        _identity: follow,
                    },
                ))
            }
        }
    }
}

/// Keeps the workload's own secrets as the identity source has them.
async fn follow(live: crate::live::Live, source: CertSource) {
    let mut changes = source.changes();
    publish(&live, &source);
    while changes.changed().await.is_ok() {
        publish(&live, &source);
    }
}

fn publish(live: &crate::live::Live, source: &CertSource) {
    let bundle = source.bundle();
    let Some(credential) = source.credential().filter(|_| !bundle.is_empty()) else {
        return;
    };
    let bytes = |text: String| Bytes::from(text.into_bytes());
    let (chain, key) = (bytes(credential.chain_pem()), bytes(credential.key_pem()));
    crate::apply::own_identity(live, chain, key, bytes(bundle.roots_pem()));
}

/// Reads certificates and matches of a bootstrap, as starting it would.
pub(super) fn check(bootstrap: &Bootstrap, setup: TlsSetup) -> Result<(), ApplyError> {
    let clusters = Clusters::new(tokio::runtime::Handle::current(), setup.clone());
    let mut draft = malla_proxy_config::Snapshot::default().draft();
    bootstrap.clone().apply(&mut draft);
    let snapshot = draft.finish();
    for cluster in &bootstrap.clusters {
        clusters
            .check_tls(cluster, &snapshot)
            .map_err(|error| ApplyError::Cluster {
                name: Arc::clone(&cluster.name),
                reason: error.to_string(),
            })?;
    }
    for listener in &bootstrap.listeners {
        crate::listener::manager::check(listener, &setup, &snapshot).map_err(|source| {
            ApplyError::Listener {
                name: Arc::clone(&listener.name),
                source,
            }
        })?;
    }
    Ok(())
}
